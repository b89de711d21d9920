"""Diagnoses of a running training: one line per anomaly, with what to try, each reported once."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from segwright.core.errors import NonFiniteLossError
from segwright.core.types import Batch
from segwright.training.validate import Validation

WINDOW = 200  # steps compared with the steps before them
SPIKE = 3.0
CLIMB, CLIMB_STEPS = 1.5, 30  # a loss that stays this much above its best mean of so many steps does not come back
STARVING, PACE_STEPS = 0.2, 50  # share of the time spent waiting for batches, over so many steps

# Of unlabeled images: share of pixels with a label that counts, over so many steps; shift of predicted classes.
# A CamVid model accepts 0.86 of its validation images (shift 0.18), 0.43 of photographs of VOC (0.42); of noise and of
# microscopy it is sure (0.97 and 0.91), but predicts other classes (0.90 and 0.88).
LOW_ACCEPTED, ACCEPTED_STEPS, FAR_CLASSES = 0.4, 50, 0.4

Item = TypeVar("Item")


class DataTimer:
    """Adds up the seconds that a run waits for its batches."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def over(self, batches: Iterable[Item]) -> Generator[Item, None, None]:
        """The same batches; closing it closes ``batches``."""
        iterator = iter(batches)
        try:
            while True:
                started = time.monotonic()
                try:
                    batch = next(iterator)
                except StopIteration:
                    return
                finally:
                    self.seconds += time.monotonic() - started
                yield batch
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the seconds of a block."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds += time.monotonic() - started

    def take(self) -> float:
        """The seconds since the last call."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds


class LossMonitor:
    """Finds anomalies in the losses and the validations of a run."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.losses: deque[float] = deque(maxlen=2 * WINDOW)
        self.reported: set[str] = set()
        self.never: dict[str, int] = {}
        self.waits: deque[tuple[float, float]] = deque(maxlen=PACE_STEPS)
        self.best = float("inf")  # the lowest mean loss of CLIMB_STEPS steps
        self.accepted: deque[float] = deque(maxlen=ACCEPTED_STEPS)
        self.late = False
        self.starving = ""

    def throughput(self, step: int, taken: float, waited: float, late: bool) -> None:
        """Count an update of ``taken`` seconds after ``waited`` seconds for its batches; before :meth:`step`.

        ``late``: the last phase has begun. Its loss has other terms and its images another size, so losses before and
        after are not comparable.
        """
        if late != self.late:
            self.late, self.best = late, float("inf")
            self.losses.clear()
        self.waits.append((taken, waited))
        if len(self.waits) == PACE_STEPS and step % PACE_STEPS == 0:
            share = self.loader_fraction()
            if share > STARVING:
                self.starving = (
                    f"odd: {share:.0%} of the last {PACE_STEPS} steps went by waiting for batches; "
                    "try more --set training.workers, --set training.cache=true, or smaller files "
                    "(images much larger than the crop are decoded whole)"
                )

    def loader_fraction(self) -> float:
        """Fraction of the time, 0…1, that the last steps (at most ``PACE_STEPS``) waited for their batches."""
        waiting = sum(waited for _, waited in self.waits)
        return waiting / max(sum(taken for taken, _ in self.waits) + waiting, 1e-9)

    def step(self, record: Mapping[str, Any]) -> list[str]:
        """The anomalies of a step's record, as lines of text."""
        loss = float(record["loss"])
        lines = []
        if len(self.losses) >= 20:
            usual = sorted(self.losses)[len(self.losses) // 2]
            if loss > SPIKE * max(usual, 0.1):
                lines += self._once(
                    "spike",
                    f"odd: the loss jumped to {loss:.2f} at step {record['step']} (usual {usual:.2f}); "
                    "if it does not come back, the learning rate is too high: try --lr at a third",
                )
        self.losses.append(loss)
        lines += self._climb(record)
        if self.starving:
            lines += self._once("starving", self.starving)
        if len(self.losses) == 2 * WINDOW:
            ordered = list(self.losses)
            before, after = sum(ordered[:WINDOW]) / WINDOW, sum(ordered[WINDOW:]) / WINDOW
            if record["step"] <= 2 * WINDOW and after > 0.98 * before:
                lines += self._once(
                    "flat",
                    f"odd: the loss does not fall ({before:.3f} → {after:.3f} over {2 * WINDOW} steps); "
                    "try another --lr, and look at the data with `segwright check DATA --html check.html`",
                )
        return lines

    def unlabeled(self, accepted: float, shift: float, fraction: float) -> list[str]:
        """Report unlabeled images unlike the labeled ones, from the middle of the run on (``fraction``, 0…1, is done).

        ``accepted``: share of their pixels whose pseudo-labels count; ``shift``: of their predicted classes, 0…1.
        """
        if accepted == accepted:
            self.accepted.append(accepted)
        if fraction < 0.5 or len(self.accepted) < ACCEPTED_STEPS:
            return []
        share = sum(self.accepted) / len(self.accepted)
        found = []
        if share < LOW_ACCEPTED:
            found.append(f"only {share:.0%} of their pixels have a label that counts")
        if shift > FAR_CLASSES:
            found.append(f"{shift:.0%} of their predicted classes would have to change to be those of labeled images")
        if not found:
            return []
        return self._once(
            "unlabeled",
            f"odd: the unlabeled images look unlike the labeled ones (camera, place, weather): {' and '.join(found)}; "
            "label some of them (`segwright select` finds which), or check the result with --set unlabeled.judge=true",
        )

    def _climb(self, record: Mapping[str, Any]) -> list[str]:
        """Report a loss that has risen and stays up: the sign of a learning rate that is too high; a spike passes."""
        if len(self.losses) < CLIMB_STEPS:
            return []
        recent = list(self.losses)[-CLIMB_STEPS:]
        mean = sum(recent) / CLIMB_STEPS
        self.best = min(self.best, mean)
        # The median as well: one huge loss lifts a mean of thirty, and has its own line.
        if min(mean, sorted(recent)[CLIMB_STEPS // 2]) <= CLIMB * max(self.best, 0.05):
            return []
        return self._once(
            "climb",
            f"odd: the loss rose from {self.best:.3f} to {mean:.3f} and stays there (step {record['step']}, "
            f"learning rate {float(record['lr']):.2g}): the learning rate is too high; try --lr at a third, "
            "or look with `segwright lr-range DATA`",
        )

    def validation(self, found: Validation) -> list[str]:
        """Classes that occur and were never predicted in three validations in a row, as lines of text."""
        for name, truth, predicted in zip(self.names, found.scores.pixels, found.predicted_pixels, strict=True):
            self.never[name] = self.never.get(name, 0) + 1 if truth and not predicted else 0
        missing = [name for name, count in self.never.items() if count == 3]
        if not missing:
            return []
        return self._once(
            f"never {missing}",
            f"odd: in the validation images and not predicted once in three validations: {', '.join(missing)}; "
            "more steps may be all it takes, else try --set training.class_weights=median "
            "and --set augment.class_aware=0.5",
        )

    def _once(self, key: str, line: str) -> list[str]:
        if key in self.reported:
            return []
        self.reported.add(key)
        return [line]


def explain_non_finite(
    error: NonFiniteLossError, step: int, lr: float, batches: Sequence[Batch], folder: Path
) -> NonFiniteLossError:
    """The error of a step whose loss or gradient is not finite, with learning rate, images and what to try."""
    names = ", ".join(name for batch in batches for name in batch.ids)
    return NonFiniteLossError(
        f"the loss became {error.found} at step {step}",
        expected="a finite number",
        found=f"learning rate {lr:.3g}, samples {names}",
        where=folder,
        fix="lower --lr (a tenth is a good try), use --precision fp32, or look at the samples named; "
        "the last checkpoint is whole: --resume continues from it",
    )
