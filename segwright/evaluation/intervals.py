"""The 95 % interval of every figure of an evaluation, from one resampling pass.

All figures are functions of sums over images: of class counts, of border pixels, of calibration gaps. So the bootstrap
is one matrix product, draws × units by units × terms, whatever the number of figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from segwright.metrics.bootstrap import percentile_interval, resampled_sums, summed_by_group
from segwright.metrics.boundary import TRIMAP_WIDTHS
from segwright.metrics.calibration import CalibrationSums
from segwright.metrics.confusion import Float64Array, Int64Array

Interval = tuple[float, float]
HEADLINES = ("miou", "pixel_accuracy", "mean_accuracy", "fwiou", "mean_dice", "mean_precision")
PER_CLASS = ("iou", "dice", "precision", "recall")
# A sum of absolute values grows with the noise of resampling: its interval is moved by the mean excess of the draws.
UPWARD = ("ece", "classwise_ece", "class_ece")


@dataclass(frozen=True)
class ImageSums:
    """What figures need of each scored image besides its class counts; None where a figure is not computed."""

    boundary: Int64Array | None = None  # (N, 2, K): intersection, union of the bands
    bf: Float64Array | None = None  # (N, 2, K): BF score, whether the class occurs
    trimap: Int64Array | None = None  # (N, W, 3, K): hits, truth, prediction within each width
    calibration: Sequence[CalibrationSums] | None = None  # (N)

    def terms(self, counts: Int64Array) -> dict[str, npt.NDArray[Any]]:
        """All terms (N, ...) whose sums give the figures; ``counts`` (N, 3, K)."""
        found: dict[str, npt.NDArray[Any]] = {"counts": counts}
        if self.boundary is not None:
            found["boundary"] = self.boundary
        if self.bf is not None:
            score, present = self.bf[:, 0], self.bf[:, 1]
            any_class = present.any(axis=1)
            mean = score.sum(axis=1) / np.maximum(present.sum(axis=1), 1)
            found["bf"] = self.bf
            found["bf_image"] = np.stack([mean * any_class, any_class], axis=1)
        if self.trimap is not None:
            found["trimap"] = self.trimap
        if self.calibration is not None:
            c = self.calibration
            found["calibration"] = np.stack([np.append(one.gaps, one.pixels) for one in c])
            if all(one.bins is not None for one in c):
                found["bins"] = np.stack([one.bins for one in c if one.bins is not None])
            if all(one.class_gaps is not None for one in c):
                found["class_gaps"] = np.stack([one.class_gaps for one in c if one.class_gaps is not None])
                found["proper"] = np.array([[one.brier, one.nll, one.probability_pixels] for one in c])
        return found


@dataclass(frozen=True)
class Figures:
    """Figures of sums (D, ...): ``headline`` (D,) by name, ``per_class`` (D, K) by name, ``per_bin`` of confidence
    (D, B) by name; NaN where undefined."""

    headline: Mapping[str, Float64Array]
    per_class: Mapping[str, Float64Array]
    per_bin: Mapping[str, Float64Array] = field(default_factory=dict)


def figures_of(sums: Mapping[str, Float64Array], widths: Sequence[int] = TRIMAP_WIDTHS) -> Figures:
    """The figures of summed terms (see :meth:`ImageSums.terms`), each with a leading axis of draws."""
    counts = sums["counts"]
    hit, truth, predicted = counts[:, 0], counts[:, 1], counts[:, 2]
    total = truth.sum(axis=-1)
    iou = _ratio(hit, truth + predicted - hit)
    per_class = {
        "iou": iou,
        "dice": _ratio(2 * hit, truth + predicted),
        "precision": _ratio(hit, predicted),
        "recall": _ratio(hit, truth),
    }
    headline = {
        "miou": _mean(iou),
        "pixel_accuracy": _ratio(hit.sum(axis=-1), total),
        "mean_accuracy": _mean(per_class["recall"]),
        "fwiou": _ratio((truth * np.nan_to_num(iou)).sum(axis=-1), total),
        "mean_dice": _mean(per_class["dice"]),
        "mean_precision": _mean(per_class["precision"]),
    }
    if "boundary" in sums:
        per_class["boundary_iou"] = _ratio(sums["boundary"][:, 0], sums["boundary"][:, 1])
        headline["boundary_iou"] = _mean(per_class["boundary_iou"])
    if "bf" in sums:
        per_class["bf_score"] = _ratio(sums["bf"][:, 0], sums["bf"][:, 1])
        headline["bf_score"] = _ratio(sums["bf_image"][:, 0], sums["bf_image"][:, 1])
    if "trimap" in sums:
        for index, width in enumerate(widths):
            within = sums["trimap"][:, index]
            near = _ratio(within[:, 0], within[:, 1] + within[:, 2] - within[:, 0])
            headline[trimap_name(width)] = _mean(near)
    if "calibration" in sums:
        c = sums["calibration"]
        headline["ece"] = _ratio(np.abs(c[:, :-1]).sum(axis=-1), c[:, -1])
    if "proper" in sums:
        brier, nll, pixels = np.moveaxis(sums["proper"], -1, 0)
        per_class["class_ece"] = _ratio(np.abs(sums["class_gaps"]).sum(axis=-1), pixels[:, None])
        headline["classwise_ece"] = _mean(per_class["class_ece"])
        headline["brier"], headline["nll"] = _ratio(brier, pixels), _ratio(nll, pixels)
    per_bin: dict[str, Float64Array] = {}
    if "bins" in sums:
        pixels, hits, confidence = np.moveaxis(sums["bins"], 1, 0)
        per_bin = {"confidence": _ratio(confidence, pixels), "accuracy": _ratio(hits, pixels)}
    return Figures(headline, per_class, per_bin)


def trimap_name(width: int) -> str:
    """The name of the mIoU within ``width`` pixels of a true border."""
    return f"trimap_miou_{width}"


@dataclass(frozen=True)
class Intervals:
    """95 % intervals: ``headline`` by figure, ``per_class`` (K, 2) and ``per_bin`` (B, 2) by figure; NaN for fewer
    than two units, and of a class or a bin that one unit alone holds."""

    headline: Mapping[str, Interval] = field(default_factory=dict)
    per_class: Mapping[str, Float64Array] = field(default_factory=dict)
    per_bin: Mapping[str, Float64Array] = field(default_factory=dict)

    def to_json(self) -> dict[str, list[float]]:
        return {name: list(interval) for name, interval in self.headline.items()}


def find_intervals(
    counts: Int64Array,
    sums: ImageSums,
    groups: Sequence[object],
    *,
    seed: int = 0,
    widths: Sequence[int] = TRIMAP_WIDTHS,
) -> Intervals:
    """The interval of every figure, over ``groups`` (one per image).

    Percentiles of 2000 draws; calibration errors, which resampling pushes up, are moved by the mean excess. A figure of
    a class or a bin that is in one unit alone has none: all draws that hold it are equal.
    """
    terms = sums.terms(counts)
    at = figures_of({name: value.sum(axis=0, keepdims=True) for name, value in terms.items()}, widths)
    alone = figures_of(summed_by_group(terms, groups), widths)
    blocks = [figures_of(drawn, widths) for drawn in resampled_sums(terms, groups=groups, seed=seed)]

    def several(values: Float64Array) -> npt.NDArray[np.bool_]:
        return np.asarray(np.isfinite(values).sum(axis=0) > 1)

    headline: dict[str, Interval] = {}
    for name, value in at.headline.items():
        draws = np.concatenate([block.headline[name] for block in blocks]) if blocks else np.empty(0)
        headline[name] = _interval(draws, float(value[0]), name in UPWARD)
    per_class, per_bin = (
        {
            name: _column_intervals(name, np.where(several(of_units[name]), value, np.nan), [b[name] for b in drawn])
            for name, value in figures.items()
        }
        for figures, of_units, drawn in (
            (at.per_class, alone.per_class, [block.per_class for block in blocks]),
            (at.per_bin, alone.per_bin, [block.per_bin for block in blocks]),
        )
    )
    return Intervals(headline, per_class, per_bin)


def _column_intervals(name: str, at: Float64Array, blocks: Sequence[Float64Array]) -> Float64Array:
    """(C, 2): the interval of each column; ``at`` (1, C) the figure, ``blocks`` of draws (D, C)."""
    draws = np.concatenate(blocks) if blocks else np.empty((0, at.shape[1]))
    return np.array([_interval(draws[:, k], float(at[0, k]), name in UPWARD) for k in range(at.shape[1])])


def _interval(draws: Float64Array, at: float, upward: bool) -> Interval:
    if np.isnan(at):
        return (float("nan"), float("nan"))
    low, high = percentile_interval(draws)
    if upward and draws.size:
        excess = max(0.0, float(np.nanmean(draws)) - at)
        low, high = max(0.0, low - excess), max(0.0, high - excess)
    return (low, high)


def _ratio(over: Float64Array, under: Float64Array) -> Float64Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(under > 0, over / under, np.nan)


def _mean(values: Float64Array) -> Float64Array:
    """The mean over the last axis of what is not NaN; NaN where all is."""
    present = ~np.isnan(values)
    return _ratio(np.where(present, values, 0.0).sum(axis=-1), present.sum(axis=-1).astype(np.float64))
