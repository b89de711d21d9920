"""The mIoU of one part of the data against the rest, over the same units of the bootstrap; Holm's correction.

A slice and its rest hold different classes, and a class that only one of them has would make the difference one of the
classes. Compared are therefore the classes whose truth occurs in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import erfc, sqrt

import numpy as np
import numpy.typing as npt

from segwright.core.errors import UsageError
from segwright.metrics.bootstrap import LEAST_DRAWN
from segwright.metrics.confusion import Float64Array, Int64Array

DRAWS = 2000
MOST_UNITS = 2000  # more independent units are joined at random, which leaves the variance of sums as it is
BLOCK = 200  # draws at a time


@dataclass(frozen=True)
class Contrast:
    """Two parts of the data, a (the slice) and b (the rest)."""

    miou: float  # of a, over the classes in its truth or predictions
    low: float  # its 95 % interval; NaN if one unit holds all of it, and that of the difference if one holds a side
    high: float
    rest: float  # mIoU of b over the common classes
    difference: float  # a − b over the common classes
    difference_low: float
    difference_high: float
    p: float  # two-sided, of no difference: normal, with the standard error of the draws; NaN if not defined
    units: int  # units that hold truth of a
    rest_units: int  # of b
    classes: int  # common classes

    @property
    def few(self) -> bool:
        """Whether there are too few units for a verdict."""
        return min(self.units, self.rest_units) < LEAST_DRAWN or np.isnan(self.p)


def contrast(
    a: npt.ArrayLike, b: npt.ArrayLike, *, groups: Sequence[object], draws: int = DRAWS, seed: int = 0
) -> Contrast:
    """Class counts (N, 3, K) of the slice and of the rest, row i the same image; ``groups`` (N,) its unit."""
    first, second = np.asarray(a, np.int64), np.asarray(b, np.int64)
    if first.shape != second.shape or first.ndim != 3 or len(groups) != len(first):
        raise UsageError(
            "slice and rest are class counts N×3×K of the same images",
            found=f"{first.shape}, {second.shape}, {len(groups)} groups",
        )
    both = _by_unit(np.concatenate([first, second], axis=1), groups, seed)  # (U, 6, K)
    units, rest_units = (int(both[:, row].any(axis=1).sum()) for row in (1, 4))
    pooled = both.sum(axis=0)
    common = (pooled[1] > 0) & (pooled[4] > 0)
    every = np.ones(common.shape, bool)
    nan = float("nan")
    one = float(_miou(pooled[None, :3], every)[0])
    rest = float(_miou(pooled[None, 3:], common)[0])
    difference = float(_miou(pooled[None, :3], common)[0]) - rest
    if len(both) < 2:
        return Contrast(one, nan, nan, rest, difference, nan, nan, nan, units, rest_units, int(common.sum()))
    alone, apart = _draws(both, every, common, draws, seed)
    low, high = _percentiles(alone) if units > 1 else (nan, nan)
    d_low, d_high = _percentiles(apart) if min(units, rest_units) > 1 else (nan, nan)
    kept = apart[np.isfinite(apart)]
    spread = float(kept.std()) if kept.size > 1 else 0.0
    p = nan if np.isnan(difference) or not kept.size else float(difference == 0) if spread == 0 else erfc(
        abs(difference) / (spread * sqrt(2))
    )  # fmt: skip
    return Contrast(one, low, high, rest, difference, d_low, d_high, p, units, rest_units, int(common.sum()))


def holm(values: Sequence[float]) -> list[float]:
    """Holm 1979: p-values adjusted for their number, in the given order; NaN stays and does not count."""
    defined = sorted((p, i) for i, p in enumerate(values) if not np.isnan(p))
    adjusted, highest = [float("nan")] * len(values), 0.0
    for place, (p, i) in enumerate(defined):
        highest = max(highest, min(1.0, p * (len(defined) - place)))
        adjusted[i] = highest
    return adjusted


def _by_unit(counts: Int64Array, groups: Sequence[object], seed: int) -> Int64Array:
    names = {name: index for index, name in enumerate(dict.fromkeys(groups))}
    place = np.array([names[name] for name in groups])
    if len(names) > MOST_UNITS:
        place = np.random.default_rng(seed).permutation(len(names))[place] % MOST_UNITS
    summed = np.zeros((int(place.max()) + 1, *counts.shape[1:]), np.int64)
    np.add.at(summed, place, counts)
    return summed[summed[:, (1, 4)].any(axis=(1, 2))]


def _draws(
    both: Int64Array, every: npt.NDArray[np.bool_], common: npt.NDArray[np.bool_], draws: int, seed: int
) -> tuple[Float64Array, Float64Array]:
    """(draws,) mIoU of the slice, and its difference to the rest."""
    rng, count = np.random.default_rng(seed), len(both)
    flat, alone, apart = both.reshape(count, -1).astype(np.float64), [], []
    for start in range(0, draws, BLOCK):
        rows = min(BLOCK, draws - start)
        picks = rng.integers(0, count, (rows, count)) + np.arange(rows)[:, None] * count
        weights = np.bincount(picks.ravel(), minlength=rows * count).reshape(rows, count)
        drawn = (weights.astype(np.float64) @ flat).reshape(rows, 6, -1)
        alone.append(_miou(drawn[:, :3], every))
        apart.append(_miou(drawn[:, :3], common) - _miou(drawn[:, 3:], common))
    return np.concatenate(alone), np.concatenate(apart)


def _miou(counts: npt.NDArray[np.int64] | Float64Array, classes: npt.NDArray[np.bool_]) -> Float64Array:
    """(draws,) mIoU of counts (draws, 3, K) over ``classes``; NaN without one."""
    kept = np.asarray(counts[..., classes], np.float64)
    union = kept[:, 1] + kept[:, 2] - kept[:, 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = np.where(union > 0, kept[:, 0] / union, np.nan)
        return np.asarray(np.nansum(iou, axis=1) / (~np.isnan(iou)).sum(axis=1))


def _percentiles(values: Float64Array) -> tuple[float, float]:
    kept = values[np.isfinite(values)]
    if not kept.size:
        return float("nan"), float("nan")
    low, high = np.quantile(kept, [0.025, 0.975])
    return float(low), float(high)
