"""How sure a pooled score is: bootstrap over images. Efron and Tibshirani 1993, chapters 13 and 16.

Images are drawn with replacement, their matrices pooled, the score computed again: pixels of one image are anything
but independent, so they are drawn together. Images of one sequence are not independent either; where sequences are
known, hand their numbers in as ``groups`` and whole sequences are drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segwright.core.errors import UsageError
from segwright.metrics.confusion import Float64Array, Int64Array, iou_per_class, labeled_iou, nanmean

DRAWS = 2000
LEAST_DRAWN = 5  # fewer all agree by chance in one case of sixteen or more: no 95 % interval can be claimed
BLOCK_CELLS = 4_000_000  # draws × images at a time: 32 MB, however large the dataset
IoUs = Callable[[npt.NDArray[Any]], Float64Array]  # class counts (…, 3, K) → (…, K)


@dataclass(frozen=True)
class PairedDifference:
    """The mIoU of ``b`` minus that of ``a`` on the same images."""

    difference: float
    low: float
    high: float  # the 95 % interval of the difference
    share_above: float  # in how many of the draws b was better; ½ means no difference, near 0 or 1 a clear one
    drawn: int | None = None  # how many images or groups there were to draw from
    miou_a: float = float("nan")  # the two mean IoUs, over the classes that were compared
    miou_b: float = float("nan")

    @property
    def few(self) -> bool:
        """Whether there were too few to draw from for a verdict."""
        return self.drawn is not None and self.drawn < LEAST_DRAWN

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero, and there is enough to draw from to trust that."""
        return not self.few and (self.low > 0 or self.high < 0)


def miou_interval(
    counts: npt.ArrayLike,
    *,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
    groups: Sequence[object] | None = None,
) -> tuple[float, float]:
    """The percentile interval of the pooled mIoU from the images' class counts (N, 3, K); NaN under two images.

    The same figures each time for the same ``seed``.
    """
    stacked = _grouped(_checked(counts), groups)
    if len(stacked) < 2:
        return (float("nan"), float("nan"))
    values = np.concatenate([_resampled_miou(stacked, drawn) for drawn in _draw(len(stacked), draws, seed)])
    return _percentiles(values, level)


def resampled_sums(
    terms: Mapping[str, npt.NDArray[Any]],
    *,
    draws: int = DRAWS,
    seed: int = 0,
    groups: Sequence[object] | None = None,
) -> Iterator[dict[str, Float64Array]]:
    """For blocks of draws: the sum of each array (N, ...) over the drawn images, (block, ...).

    One matrix product for all arrays. The draws are those of :func:`miou_interval` for as many images or groups.
    Nothing for fewer than two.
    """
    names = list(terms)
    count = len(terms[names[0]])
    if any(len(terms[name]) != count for name in names) or (groups is not None and len(groups) != count):
        raise UsageError("terms and groups have one row per image", expected=str(count))
    if not count:
        return
    flat = np.concatenate([np.asarray(terms[name], np.float64).reshape(count, -1) for name in names], axis=1)
    if groups is not None:
        flat = _sum_rows(flat, groups)
    if len(flat) < 2:
        return
    ends = np.cumsum([int(np.prod(terms[name].shape[1:])) for name in names])
    for drawn in _draw(len(flat), draws, seed):
        parts = np.split(drawn @ flat, ends[:-1], axis=1)
        yield {name: part.reshape(len(drawn), *terms[name].shape[1:]) for name, part in zip(names, parts, strict=True)}


def summed_by_group(terms: Mapping[str, npt.NDArray[Any]], groups: Sequence[object]) -> dict[str, Float64Array]:
    """Each array (N, ...) summed over the rows of each group, (G, ...), in the order in which groups come first."""
    return {name: _sum_rows(np.asarray(value, np.float64), groups) for name, value in terms.items()}


def _sum_rows(values: Float64Array, groups: Sequence[object]) -> Float64Array:
    rows = {name: index for index, name in enumerate(dict.fromkeys(groups))}
    summed = np.zeros((len(rows), *values.shape[1:]))
    np.add.at(summed, [rows[name] for name in groups], values)
    return summed


def drawn_counts(count: int, *, draws: int = DRAWS, seed: int = 0) -> Iterator[Float64Array]:
    """In blocks of draws, (block, count): how often each of ``count`` units is in each draw of
    :func:`resampled_sums`, for figures that are no function of sums. Nothing for fewer than two."""
    return _draw(count, draws, seed) if count > 1 else iter(())


def percentile_interval(values: Float64Array, level: float = 0.95) -> tuple[float, float]:
    """The percentile interval of draws (D,), without NaN; NaN if all are."""
    return _percentiles(values, level)


def paired_difference(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    groups: Sequence[object] | None = None,
    absent: bool = False,
) -> PairedDifference:
    """mIoU(b) − mIoU(a) with its 95 % interval; both class counts (N, 3, K), row i the same image.

    The same images are drawn for both, so that what is hard for both cancels: far sharper than two separate intervals.
    Means are over the classes with ground truth (:func:`segwright.metrics.confusion.labeled_iou`), of each draw its
    own; with ``absent`` also over those that are predicted alone, as the pooled mean IoU has it.
    """
    iou_of = iou_per_class if absent else labeled_iou
    first, second = _checked(a), _checked(b)
    if first.shape != second.shape:
        raise UsageError("paired counts differ in size", expected=str(first.shape), found=str(second.shape))
    miou_a, miou_b = _pooled(first, iou_of), _pooled(second, iou_of)
    difference = miou_b - miou_a
    first, second = _grouped(first, groups), _grouped(second, groups)
    if len(first) < 2:
        return PairedDifference(difference, float("nan"), float("nan"), float("nan"), len(first), miou_a, miou_b)
    values = np.concatenate(
        [
            _resampled_miou(second, drawn, iou_of) - _resampled_miou(first, drawn, iou_of)
            for drawn in _draw(len(first), draws, seed)
        ]
    )
    low, high = _percentiles(values, 0.95)
    kept = values[np.isfinite(values)]
    above = float((kept > 0).mean() + 0.5 * (kept == 0).mean()) if kept.size else float("nan")
    return PairedDifference(difference, low, high, above, len(first), miou_a, miou_b)


def _checked(counts: npt.ArrayLike) -> Int64Array:
    stacked = np.asarray(counts, np.int64)
    if stacked.ndim != 3 or stacked.shape[1] != 3:
        raise UsageError("the images' class counts are N×3×K", found=str(stacked.shape))
    return stacked


def _grouped(stacked: Int64Array, groups: Sequence[object] | None) -> Int64Array:
    """One count per group; images without a scored pixel are dropped, since drawing them adds nothing."""
    if groups is None:
        return stacked[stacked[:, 1].any(axis=1)]
    if len(groups) != len(stacked):
        raise UsageError("one group per image", expected=str(len(stacked)), found=str(len(groups)))
    names = {name: index for index, name in enumerate(dict.fromkeys(groups))}
    summed = np.zeros((len(names), *stacked.shape[1:]), np.int64)
    np.add.at(summed, [names[name] for name in groups], stacked)
    return summed[summed[:, 1].any(axis=1)]


def _draw(count: int, draws: int, seed: int) -> Iterator[Float64Array]:
    """In blocks of draws, (block, count): how often each image is in each draw."""
    rng = np.random.default_rng(seed)
    block = max(1, BLOCK_CELLS // count)
    for start in range(0, draws, block):
        rows = min(block, draws - start)
        picks = rng.integers(0, count, (rows, count)) + np.arange(rows)[:, None] * count
        yield np.bincount(picks.ravel(), minlength=rows * count).reshape(rows, count).astype(np.float64)


def _resampled_miou(stacked: Int64Array, counts: npt.NDArray[np.float64], iou_of: IoUs = iou_per_class) -> Float64Array:
    """(draws,): the pooled mIoU of each draw."""
    iou = iou_of((counts @ stacked.reshape(len(stacked), -1).astype(np.float64)).reshape(len(counts), 3, -1))
    present = ~np.isnan(iou)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.nansum(iou, axis=1) / present.sum(axis=1))


def _pooled(stacked: Int64Array, iou_of: IoUs) -> float:
    return nanmean(iou_of(stacked.sum(axis=0))) if len(stacked) else float("nan")


def _percentiles(values: Float64Array, level: float) -> tuple[float, float]:
    kept = values[np.isfinite(values)]
    if not kept.size:
        return (float("nan"), float("nan"))
    low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2])
    return (float(low), float(high))
