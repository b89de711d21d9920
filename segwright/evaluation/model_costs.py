"""What models cost beside their quality, and which of them are dominated: slower, larger and no better than another."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from segwright.core.atomic_io import without_nan
from segwright.imageio import UInt8Array

ROUNDS = 3  # each model in turn; the shortest time of an image counts
TIMED = 3  # images
SAME_SPEED = 0.03  # times that differ by less are taken as equal


@dataclass(frozen=True)
class ModelCost:
    """NaN where a figure is not known."""

    milliseconds: float  # per image, all of the prediction; the shortest of ROUNDS, mean over the images
    megabytes: float  # of the weights' file
    parameters: float
    device: str
    slowest: float = float("nan")  # milliseconds per image of the slowest round, mean over the images

    @property
    def spread(self) -> str:
        """The milliseconds over the rounds, such as 41–47; the round figure alone if they agree."""
        low, high = f"{self.milliseconds:.0f}", f"{self.slowest:.0f}"
        return low if high in (low, "nan") else f"{low}–{high}"

    def to_json(self) -> dict[str, Any]:
        tree = {**vars(self), "milliseconds_range": [self.milliseconds, self.slowest]}
        del tree["slowest"]
        return dict(without_nan(tree))


@dataclass(frozen=True)
class ModelTime:
    """Milliseconds per image; NaN without an image."""

    best: float  # the shortest of the rounds for each image, mean over the images
    slowest: float  # the mean over the images in the slowest round


def time_models(
    predictors: Mapping[str, Callable[[UInt8Array], object]],
    images: Sequence[UInt8Array],
    *,
    rounds: int = ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, ModelTime]:
    """Milliseconds per image of each model, interleaved (A B A B …), so that a load of the machine meets all of them.

    Each runs once on each image before. NaN without an image.
    """
    if not images:
        return dict.fromkeys(predictors, ModelTime(float("nan"), float("nan")))
    times = {name: np.zeros((rounds, len(images))) for name in predictors}
    for turn in range(rounds + 1):
        for place, image in enumerate(images):
            for name, predict in predictors.items():
                started = clock()
                predict(image)
                taken = 1000 * (clock() - started)
                if turn:
                    times[name][turn - 1, place] = taken
    return {
        name: ModelTime(float(taken.min(axis=0).mean()), float(taken.mean(axis=1).max()))
        for name, taken in times.items()
    }


def dominated(
    mious: Mapping[str, float],
    costs: Mapping[str, ModelCost],
    clear: Callable[[str, str], bool] = lambda one, other: True,
) -> dict[str, list[str]]:
    """Model → the models that are at least as good, as fast and as small, and better in one of the three.

    ``clear(one, other)``: whether their difference in quality is beyond chance; if it is not, it makes no model better.
    Nor does a difference in speed that is less than that between the rounds of one model.
    A figure that is not known (NaN) of one of the two is left out of their comparison.
    """
    found: dict[str, list[str]] = {name: [] for name in costs}
    for name, cost in costs.items():
        for other, rival in costs.items():
            if other == name:
                continue
            no_worse = [mious[other] >= mious[name]]
            better = [mious[other] > mious[name] and clear(name, other)]
            ratio = rival.milliseconds / cost.milliseconds
            if not np.isnan(ratio):
                no_worse.append(ratio <= 1 + SAME_SPEED)
                apart = not rival.slowest >= cost.milliseconds  # the rounds do not overlap, or are not known
                better.append(ratio < 1 - SAME_SPEED and apart)
            if not np.isnan(rival.megabytes - cost.megabytes):
                no_worse.append(rival.megabytes <= cost.megabytes)
                better.append(rival.megabytes < cost.megabytes)
            if all(no_worse) and any(better) and len(no_worse) > 1:
                found[name].append(other)
    return found
