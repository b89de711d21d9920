"""The clock of a run: seconds used so far and, if minutes end the run, the fraction of them that is used."""

from __future__ import annotations

import time

from segwright.training.planning.budget import TimeBudget, measured_reserve


class RunClock:
    """Counts the seconds of training and validation over all sittings of a run."""

    def __init__(self, budget: TimeBudget | None) -> None:
        self.budget = budget
        self.training_seconds = None if budget is None else budget.training_seconds()
        self.reserve = 0.0 if budget is None else budget.reserve
        self.earlier_seconds = 0.0  # of sittings before this one
        self._zero = time.monotonic()

    def start(self, earlier_seconds: float) -> None:
        """Begin a sitting that continues after ``earlier_seconds``."""
        self.earlier_seconds = earlier_seconds
        self._zero = time.monotonic() - earlier_seconds

    def deduct_preparation(self) -> None:
        """Take what has passed since the budget was made, such as measuring memory, off the time for training."""
        if self.budget is not None:
            self.training_seconds = self.budget.training_seconds()

    def seconds(self) -> float:
        """Seconds of training and validation so far."""
        return time.monotonic() - self._zero

    def progress(self) -> float | None:
        """The fraction 0…1 of the training time that is used; None without a time budget."""
        return None if self.training_seconds is None else min(self.seconds() / self.training_seconds, 1.0)

    def reserve_for_scoring(self, seconds: float) -> float:
        """The seconds to keep back if scoring takes about ``seconds``, of a run with a time budget."""
        return measured_reserve((self.training_seconds or 0.0) + self.reserve, seconds)

    def set_reserve(self, reserve: float) -> None:
        """Divide the total anew between training and what follows it."""
        if self.training_seconds is not None:
            self.training_seconds, self.reserve = self.training_seconds + self.reserve - reserve, reserve
