"""Paired differences of IoU per class between two models on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import erfc, sqrt

import numpy as np
import numpy.typing as npt

from segwright.metrics.bootstrap import LEAST_DRAWN, percentile_interval, resampled_sums
from segwright.metrics.confusion import labeled_iou
from segwright.metrics.contrasts import holm

CLEAR = 0.05  # Holm-adjusted p


@dataclass(frozen=True)
class ClassDifference:
    """IoU of the second model less that of the first, for one class; NaN for a class without ground truth."""

    difference: float
    low: float  # 95 % interval; NaN for a class in one unit, which draws nothing of it
    high: float
    p_holm: float  # of no difference, adjusted for the number of classes
    clear: bool  # the interval excludes zero and p is below CLEAR


def class_differences(
    a: npt.ArrayLike, b: npt.ArrayLike, *, groups: Sequence[object], seed: int = 0
) -> list[ClassDifference]:
    """One per class, from class counts (N, 3, K) of the same images; ``groups`` (N,) are drawn whole."""
    first, second = np.asarray(a, np.int64), np.asarray(b, np.int64)
    with np.errstate(invalid="ignore", divide="ignore"):
        difference = labeled_iou(second.sum(axis=0)) - labeled_iou(first.sum(axis=0))
    draws = [
        labeled_iou(sums["second"]) - labeled_iou(sums["first"])
        for sums in resampled_sums({"first": first, "second": second}, seed=seed, groups=groups)
    ]
    classes = first.shape[2]
    drawn = np.concatenate(draws) if draws else np.full((0, classes), np.nan)
    units = _units(first, groups)
    nan = float("nan")
    intervals = [percentile_interval(drawn[:, k]) if units[k] > 1 else (nan, nan) for k in range(classes)]
    ps = [_p(difference[k], drawn[:, k]) if units[k] >= LEAST_DRAWN else float("nan") for k in range(classes)]
    return [
        ClassDifference(float(d), low, high, p, bool((low > 0 or high < 0) and p < CLEAR))
        for d, (low, high), p in zip(difference, intervals, holm(ps), strict=True)
    ]


def _p(difference: float, drawn: npt.NDArray[np.float64]) -> float:
    kept = drawn[np.isfinite(drawn)]
    if np.isnan(difference) or kept.size < 2:
        return float("nan")
    spread = float(kept.std())
    return float(difference == 0) if spread == 0 else erfc(abs(difference) / (spread * sqrt(2)))


def _units(counts: npt.NDArray[np.int64], groups: Sequence[object]) -> npt.NDArray[np.int64]:
    """(K,): how many units hold truth of a class."""
    names = {name: index for index, name in enumerate(dict.fromkeys(groups))}
    there = np.zeros((len(names), counts.shape[2]), bool)
    np.logical_or.at(there, [names[name] for name in groups], counts[:, 1] > 0)
    return np.asarray(there.sum(axis=0), np.int64)
