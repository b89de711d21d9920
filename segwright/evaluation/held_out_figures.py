"""How good an error model is on images that it was not fitted on: its figures, with their 95 % intervals.

Regions of one image are wrong together, so intervals draw the units of every other interval: whole sequences, blocks of
frames, or images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segwright.core.types import Float32Array
from segwright.inference.region_features import Float64Array, feature_names
from segwright.metrics.bootstrap import drawn_counts, percentile_interval, resampled_sums
from segwright.metrics.ranking import auroc, auroc_of_draws, r_squared

Int64Array = npt.NDArray[np.int64]

DRAWS = 1000
CELLS = 8_000_000  # draws × regions at a time: 64 MB


@dataclass(frozen=True)
class RegionTruth:
    """Regions of held-out images (R,), what is estimated of them, and what is true."""

    rows: Float32Array  # (R, F) features
    adjusted: Float64Array  # adjusted IoU; NaN where all pixels are ignored
    wrong: Float64Array  # the estimated probability that it is 0
    iou: Float64Array  # estimated
    units: Int64Array  # 0…U-1, of the bootstrap

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        return np.isfinite(self.adjusted)

    @property
    def inside(self) -> npt.NDArray[np.bool_]:
        """Those that have a truth, and pixels that are not at their border, as in the paper."""
        return self.known & (self.rows[:, feature_names(0).index("log_inside")] > 0)


def held_out_figures(
    regions: RegionTruth, miou: tuple[Float64Array, Int64Array], class_iou: tuple[Float64Array, Int64Array]
) -> dict[str, Any]:
    """AUROC of wrong regions and R² of the adjusted IoU, of regions with an inside and of all, their share that is
    wrong; the mean errors of ``miou`` and ``class_iou`` (errors and their units); ``intervals`` of each, 95 %."""
    figures: dict[str, Any] = {}
    intervals: dict[str, list[float]] = {}
    for ending, chosen in (("", regions.inside), ("_all_regions", regions.known)):
        wrong, iou, adjusted = regions.wrong[chosen], regions.iou[chosen], regions.adjusted[chosen]
        units, bad = regions.units[chosen], adjusted == 0
        figures[f"auroc{ending}"], figures[f"r_squared{ending}"] = auroc(wrong, bad), r_squared(adjusted, iou)
        intervals[f"auroc{ending}"] = _interval(
            np.concatenate([auroc_of_draws(wrong, bad, drawn) for drawn in _drawn(units)] or [np.empty(0)])
        )
        squares = np.stack([np.ones(len(iou)), adjusted, adjusted**2, (adjusted - iou) ** 2], axis=1)
        intervals[f"r_squared{ending}"] = _interval(_r_squared(_drawn_sums(squares, units)))
        if not ending:
            figures["share_wrong"] = float(bad.mean()) if bad.size else float("nan")
            intervals["share_wrong"] = _mean_interval(bad.astype(np.float64), units)
    for name, (errors, units) in (("miou_error", miou), ("class_iou_error", class_iou)):
        figures[name], intervals[name] = float(errors.mean()), _mean_interval(errors, units)
    return {**figures, "intervals": intervals}


def _drawn(units: Int64Array) -> Iterator[Float64Array]:
    """In blocks of draws, (block, R): how often each region is in each draw."""
    numbers = np.unique(units, return_inverse=True)[1]
    count = int(numbers.max()) + 1 if len(numbers) else 0
    block = max(1, CELLS // max(len(numbers), 1))
    for drawn in drawn_counts(count, draws=DRAWS):
        for start in range(0, len(drawn), block):
            yield drawn[start : start + block, numbers]


def _drawn_sums(values: Float64Array, units: Int64Array) -> Float64Array:
    """(D, T): the sums of ``values`` (R, T) over the drawn units."""
    order = np.argsort(units, kind="stable")  # the units are drawn in the order of their numbers, as in _drawn
    blocks = resampled_sums({"values": values[order]}, draws=DRAWS, groups=units[order].tolist())
    return np.concatenate([np.empty((0, values.shape[1])), *(block["values"] for block in blocks)])


def _r_squared(sums: Float64Array) -> Float64Array:
    """(D,) of the sums (D, 4) of 1, the truth, its square and the squared error."""
    count, truth, squares, errors = sums.T
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = squares - truth**2 / count
        return np.where(spread > 1e-12 * squares, 1 - errors / spread, np.nan)


def _mean_interval(values: Float64Array, units: Int64Array) -> list[float]:
    sums = _drawn_sums(np.stack([values, np.ones(len(values))], axis=1), units)
    return _interval(sums[:, 0] / sums[:, 1])


def _interval(draws: Float64Array) -> list[float]:
    return list(percentile_interval(draws))
