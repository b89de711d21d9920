"""Learning-rate schedules as functions of the progress, 0…1, of a run: by steps and by minutes alike.

A factor of 1 is the peak learning rate. Warm-up rises linearly from a hundredth.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from segwright.core.errors import UsageError

POLY_POWER = 0.9  # DeepLab v2 and PSPNet
STEPS = (0.6, 0.85)  # progress at which "step" divides by ten
WARMUP_START = 0.01


def cosine(progress: float) -> float:
    """Half a cosine from 1 to 0 (Loshchilov and Hutter 2017, without restarts)."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def poly(progress: float) -> float:
    """(1 - progress)^0.9."""
    return float((1 - progress) ** POLY_POWER)


def step(progress: float) -> float:
    """Divided by ten at 60 % and at 85 % of the run."""
    return float(0.1 ** sum(progress >= at for at in STEPS))


def constant(progress: float) -> float:
    """1 throughout; ``plateau`` multiplies it after validations."""
    return 1.0


def one_cycle(progress: float) -> float:
    """Up from 1/25 in the first 30 %, then down to 0, both by cosine (Smith 2018)."""
    if progress < 0.3:
        return 1 / 25 + (1 - 1 / 25) * (1 - cosine(progress / 0.3))
    return cosine((progress - 0.3) / 0.7)


SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": cosine,
    "poly": poly,
    "step": step,
    "plateau": constant,
    "one-cycle": one_cycle,
    "constant": constant,
}


def learning_rate_factor(schedule: str, progress: float, warmup: float = 0.0) -> float:
    """The factor on the peak learning rate at ``progress``, 0…1, of the run; warm-up first."""
    if schedule not in SCHEDULES:
        raise UsageError("unknown schedule", expected=", ".join(SCHEDULES), found=schedule)
    progress = min(max(progress, 0.0), 1.0)
    if schedule == "one-cycle":  # it rises by itself: a rise before it would be followed by a fall and a second rise
        warmup = 0.0
    if progress < warmup:
        return WARMUP_START + (1 - WARMUP_START) * progress / warmup
    rest = (progress - warmup) / (1 - warmup) if warmup < 1 else 1.0
    return SCHEDULES[schedule](rest)


class Plateau:
    """Divide the learning rate by ``factor`` when the validation mIoU has not risen for ``patience`` validations."""

    def __init__(self, patience: int = 5, factor: float = 0.3) -> None:
        self.patience, self.factor = patience, factor
        self.best = -math.inf
        self.waited = 0
        self.scale = 1.0

    def update(self, miou: float) -> float:
        """Count a validation; returns the factor on the learning rate from now on."""
        if miou > self.best:
            self.best, self.waited = miou, 0
        else:
            self.waited += 1
            if self.waited >= self.patience:
                self.scale, self.waited = self.scale * self.factor, 0
        return self.scale

    def state(self) -> dict[str, float]:
        return {"best": self.best, "waited": self.waited, "scale": self.scale}

    def load(self, state: dict[str, float]) -> None:
        self.best, self.waited, self.scale = float(state["best"]), int(state["waited"]), float(state["scale"])
