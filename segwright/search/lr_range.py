"""The learning-rate range test (Smith 2015, section 3.3): the loss while the rate rises exponentially, step by step.

Every group's rate rises by one factor, so that what the plan gives the encoder, the head or Muon's kernels in relation
to ``lr`` stays. Nothing is written and nothing is kept: the network that took these steps is thrown away.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segwright import reports
from segwright.core.atomic_io import without_nan
from segwright.core.errors import NonFiniteLossError, OutOfMemoryError, TrainingError, UsageError
from segwright.core.progress import progress as progress_bar
from segwright.core.types import Batch
from segwright.reports import Number, Series
from segwright.training.config import Phase
from segwright.training.optim.optimizers import set_learning_rate
from segwright.training.planning.memory import is_out_of_memory
from segwright.training.trainer import Trainer

SMOOTHING = 0.9  # of the exponential mean over the losses, corrected for its start
DIVERGED = 3.0  # times the lowest smoothed loss: nothing is learnt from going on
SAFETY = 3.0  # below the rate with the lowest loss: there, it is about to rise
LEAST_STEPS = 10
UNSURE = 10  # steps at the start, at most a quarter, whose mean is of too few losses to have a slope


@dataclass(frozen=True)
class LrRange:
    """What the test saw: a point a step."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    steepest: float  # where the smoothed loss falls fastest
    lowest: float  # where it is lowest
    diverged: bool
    planned: float  # what a training would take

    @property
    def suggestion(self) -> float:
        """A peak rate: a third of where the loss is lowest, but not under where it falls fastest."""
        return max(self.steepest, self.lowest / SAFETY)

    def sentence(self) -> str:
        end = "the loss ran away at the end" if self.diverged else "the loss did not run away: try a higher --high"
        return (
            f"suggested --lr {self.suggestion:.1e} (the loss falls fastest at {self.steepest:.1e}, is lowest at "
            f"{self.lowest:.1e}; the plan takes {self.planned:.1e}); {end}"
        )

    def to_json(self) -> dict[str, Any]:
        tree = {
            "suggestion": self.suggestion,
            "steepest": self.steepest,
            "lowest": self.lowest,
            "planned": self.planned,
            "diverged": self.diverged,
            "points": [
                {"lr": rate, "loss": loss, "smoothed": smooth}
                for rate, loss, smooth in zip(self.rates, self.losses, self.smoothed, strict=True)
            ],
        }
        return dict(without_nan(tree))


def range_test(trainer: Trainer, *, low: float = 1e-5, high: float = 1.0, steps: int = 100) -> LrRange:
    """Take ``steps`` updates at rates from ``low`` to ``high``; ends early when the loss runs away.

    UsageError for a range or number of steps that makes no sense, TrainingError where the loss is not finite before a
    curve can be seen, OutOfMemoryError as in training.
    """
    if not 0 < low < high or steps < LEAST_STEPS:
        raise UsageError(
            "the range test takes rates from low to high",
            expected=f"0 < low < high, at least {LEAST_STEPS} steps",
            found=f"{low:g} to {high:g} in {steps} steps",
        )
    planned = float(trainer.config.lr)
    rates: list[float] = []
    losses: list[float] = []
    smoothed: list[float] = []
    mean, diverged = 0.0, False
    updates = _endless(trainer, trainer.phase(0.5))
    criterion = trainer.components.criterion
    trainer.model.train()
    with progress_bar("learning rates", steps) as advance:
        for step in range(steps):
            rate = low * (high / low) ** (step / (steps - 1))
            set_learning_rate(trainer.optimizer, rate / planned)
            try:
                loss = trainer.update(next(updates), 0.0, criterion, trainer.config.aux_weight).loss
            except NonFiniteLossError:
                diverged = True
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                raise OutOfMemoryError("the batch does not fit into memory", fix="a smaller --batch") from error
            advance(1)
            mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
            rates.append(rate)
            losses.append(loss)
            smoothed.append(mean / (1 - SMOOTHING ** (step + 1)))
            if step >= LEAST_STEPS and smoothed[-1] > DIVERGED * min(smoothed):
                diverged = True
                break
    updates.close()
    if len(rates) < LEAST_STEPS:
        raise TrainingError("the loss is not finite from the start", found=f"at a rate of {low:g}", fix="a lower --low")
    steepest, lowest = read_curve(rates, smoothed)
    return LrRange(tuple(rates), tuple(losses), tuple(smoothed), steepest, lowest, diverged, planned)


def read_curve(rates: list[float], smoothed: list[float]) -> tuple[float, float]:
    """(the rate where the loss falls fastest by the rate's logarithm, the rate where it is lowest)."""
    values = np.asarray(smoothed)
    bottom = int(values.argmin())
    if bottom < 2:
        return rates[0], rates[bottom]
    slope = np.gradient(values, np.log(rates))
    first = min(UNSURE, len(rates) // 4, bottom - 1)
    return rates[first + int(slope[first:bottom].argmin())], rates[bottom]


def _endless(trainer: Trainer, phase: Phase) -> Generator[list[Batch], None, None]:
    """Updates of one phase, epoch after epoch."""
    for epoch in itertools.count():
        yield from trainer.updates(phase, epoch)


def range_page(found: LrRange, *, command: str = "") -> str:
    """The curve as one HTML page."""
    x = [math.log10(rate) for rate in found.rates]
    top = found.smoothed[0] * 1.5
    # A loss that has diverged would flatten the part that matters.
    shown = [min(loss, top) for loss in found.losses]
    chart = reports.line_chart(
        [Series("smoothed", x, [min(loss, top) for loss in found.smoothed]), Series("loss", x, shown)],
        x_label="log10 of the learning rate",
        y_label="loss",
    )
    rates = (
        ("suggested", found.suggestion),
        ("falls fastest", found.steepest),
        ("lowest", found.lowest),
        ("planned", found.planned),
    )
    return reports.page(
        "lr_range.html.j2",
        title="Learning-rate range test",
        lead=found.sentence(),
        tiles=[Number(label, f"{rate:.1e}", f"log10: {math.log10(rate):.2f}") for label, rate in rates],
        chart=chart,
        advice=_advice(found),
        command=command,
    )


def _advice(found: LrRange) -> list[str]:
    """How the suggestion follows from the curve, one paragraph per entry."""
    lines = [
        "On the left the rate is too small to learn anything; where the curve falls it is useful; where it turns up it "
        "is too large.",
        f"The suggestion is a third of the rate at which the smoothed loss is lowest ({found.lowest:.1e}), but not "
        f"less than the rate at which it falls fastest ({found.steepest:.1e}).",
    ]
    if not found.diverged:
        lines.append("The loss had not diverged at the end: the suggestion may be too low. Try a higher --high.")
    return lines


def write_range_page(path: Path, found: LrRange, *, command: str = "") -> Path:
    """Write the page."""
    return reports.write_page(path, range_page(found, command=command))
