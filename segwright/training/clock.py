"""The clock of a run: how far it is, and when saving and validating are due."""

from __future__ import annotations

import time

from segwright.training.distributed.world import World
from segwright.training.planning.budget import (
    VALIDATION_FRACTION,
    TimeBudget,
    held_out_seconds,
    images_to_score,
    measured_reserve,
)
from segwright.training.state import Progress


class RunClock:
    """Counts the seconds of training and validation over all sittings of a run.

    ``budget``: if minutes end the run; else ``epochs`` of ``samples`` do.
    """

    def __init__(self, budget: TimeBudget | None, *, epochs: int | None, samples: int) -> None:
        self.budget, self.epochs, self.samples = budget, epochs or 1, samples
        self.training_seconds = None if budget is None else budget.training_seconds()
        self.reserve = 0.0 if budget is None else budget.kept_for_scoring()
        self.earlier_seconds = 0.0  # of sittings before this one
        self.validation_seconds = self.image_seconds = 0.0  # of the last validation, and of one image in it
        self._start = self._saved = self._validated = time.monotonic()

    def start(self, earlier_seconds: float) -> None:
        """Begin a sitting that continues after ``earlier_seconds``."""
        self.earlier_seconds = earlier_seconds
        self._saved = time.monotonic()
        self._start = self._saved - earlier_seconds

    def deduct_preparation(self) -> None:
        """Take what has passed since the budget was made, such as measuring memory, off the time for training."""
        if self.budget is not None:
            self.training_seconds = self.budget.training_seconds()
            self.reserve = self.budget.kept_for_scoring()

    def seconds(self) -> float:
        """Seconds of training and validation so far."""
        return time.monotonic() - self._start

    def progress(self, progress: Progress) -> float:
        """The fraction 0…1 of the run that is done: of the time if minutes end it, else of the samples."""
        if self.training_seconds is not None:
            return min(self.seconds() / self.training_seconds, 1.0)
        within = min(progress.position / self.samples, 1.0)
        return min((progress.epoch + within) / self.epochs, 1.0)

    def save_due(self, every: float) -> bool:
        """Whether the last checkpoint is ``every`` seconds old."""
        return time.monotonic() - self._saved >= every

    def saved(self) -> None:
        self._saved = time.monotonic()

    def validation_due(self) -> bool:
        """Whether validations so far take less than their part of the time."""
        return time.monotonic() - self._validated >= self.validation_seconds / VALIDATION_FRACTION

    def validated(self, started: float) -> float:
        """Count a validation that began at ``started`` (time.monotonic()); returns its seconds."""
        self._validated = time.monotonic()
        self.validation_seconds = self._validated - started
        return self.validation_seconds

    def update_reserve(self, train_images: int, val_images: int, world: World, adjusts: bool) -> None:
        """Keep back from the minutes what the scoring will take, as measured by the last validation, on all ranks.

        ``adjusts``: whether class scores are adjusted after the training.
        """
        if self.training_seconds is None:
            return
        self.image_seconds = self.validation_seconds * world.size / max(val_images, 1)
        scoring = self.image_seconds * images_to_score(train_images, val_images, adjusts)
        total = self.training_seconds + self.reserve
        scoring += held_out_seconds(total, val_images, self.image_seconds)
        self.reserve = world.broadcast([measured_reserve(total, scoring)])[0]
        self.training_seconds = total - self.reserve
