"""How well an uncertainty finds errors: risk–coverage curve, AURC, AUROC, AUPR, from counts of pixels per bin.

Pixels are accepted from the surest to the least sure; the *risk* at a *coverage* is the share of errors among the
accepted ones (El-Yaniv and Wiener 2010). AURC is its mean over all coverages, the excess AURC subtracts that of an
uncertainty that ranks every error last (Geifman, Uziel and El-Yaniv 2019). AUROC and AUPR have the errors as positives.

Bins are the leading bits of the float32, so they are finer near 0, where most pixels are: each is 1/512 of its values
wide. Within a bin pixels are tied, and ties are exact: AURC is the mean over all orders of tied pixels, AUROC counts
them half, AUPR takes them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import digamma

from segwright.core.errors import LabelError, UsageError
from segwright.core.types import IGNORE_INDEX, Float32Array, UInt8Array

Int64Array = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]

SHIFT = 14  # bits of the float32 that are dropped
COARSE = 7  # further bits that are dropped for the resampling
ONE = np.array([1], np.float32).view(np.uint32)[0]
BINS = int(ONE >> SHIFT) + 1
COARSE_BINS = (BINS - 1 >> COARSE) + 1
DRAWS = 500
CURVE_POINTS = 101
FIGURES = ("aurc", "excess_aurc", "auroc", "aupr")


@dataclass(frozen=True)
class RiskCoverageResult:
    """The figures of one measure; all in 0…1, NaN if undefined (no error, or nothing but errors)."""

    figures: dict[str, float]  # by FIGURES
    intervals: dict[str, tuple[float, float]]  # 95 %, of the figures and of ``error_rate``
    error_rate: float  # the risk at full coverage
    coverage: Float64Array  # (CURVE_POINTS,)
    risk: Float64Array
    risk_ci95: Float64Array  # (2, CURVE_POINTS): low, high; each point by itself

    def to_json(self) -> dict[str, Any]:
        return {
            **self.figures,
            "intervals": {name: list(pair) for name, pair in self.intervals.items()},
            "error_rate": self.error_rate,
            "coverage": self.coverage.tolist(),
            "risk": self.risk.tolist(),
            "risk_low": self.risk_ci95[0].tolist(),
            "risk_high": self.risk_ci95[1].tolist(),
        }


class RiskCoverage:
    """Counts of right and wrong pixels per bin of uncertainty, of all images and coarsely of each image.

    Memory: 1 MB, and 4 KB per image.
    """

    def __init__(self) -> None:
        self.counts = np.zeros((2, BINS), np.int64)  # right, wrong
        self.per_image: list[npt.NDArray[np.int32]] = []  # (2, COARSE_BINS)

    def update(self, uncertainty: Float32Array, labels: UInt8Array, truth: UInt8Array) -> None:
        """One image: (H, W) each, uncertainty in 0…1, 255 in the truth ignored. LabelError if the sizes differ or the
        uncertainty is out of range."""
        if not (uncertainty.shape == labels.shape == truth.shape):
            raise LabelError(
                "uncertainty, labels and ground truth differ in size",
                expected=str(truth.shape),
                found=f"{uncertainty.shape}, {labels.shape}",
            )
        valid = truth != IGNORE_INDEX
        values = np.ascontiguousarray(uncertainty[valid], np.float32)
        if values.size and not (float(values.min()) >= 0 and float(values.max()) <= 1):
            raise LabelError("an uncertainty lies in 0…1", found=f"{values.min():.4g} to {values.max():.4g}")
        place = bins_of(values)
        wrong = labels[valid] != truth[valid]
        found = np.stack([np.bincount(place[~wrong], minlength=BINS), np.bincount(place[wrong], minlength=BINS)])
        self.counts += found
        coarse = np.add.reduceat(found, np.arange(0, BINS, 1 << COARSE), axis=1)
        self.per_image.append(coarse.astype(np.int32))

    def result(
        self, groups: Sequence[object] | None = None, *, draws: int = DRAWS, seed: int = 0
    ) -> RiskCoverageResult:
        """The figures with 95 % intervals from drawing images, or whole ``groups`` (one name per image)."""
        if groups is not None and len(groups) != len(self.per_image):
            raise UsageError("one group per image", expected=str(len(self.per_image)), found=str(len(groups)))
        exact = {name: float(values[0]) for name, values in figures_of(self.counts[None]).items()}
        coverage, risk = curve_of(self.counts)
        total = int(self.counts.sum())
        rate = float(self.counts[1].sum() / total) if total else float("nan")
        intervals, band = self._intervals({**exact, "error_rate": rate}, risk, groups, draws, seed)
        return RiskCoverageResult(exact, intervals, rate, coverage, risk, band)

    def _intervals(
        self, exact: dict[str, float], risk: Float64Array, groups: Sequence[object] | None, draws: int, seed: int
    ) -> tuple[dict[str, tuple[float, float]], Float64Array]:
        """The interval of each figure, and that of each point of the curve (2, CURVE_POINTS)."""
        nothing = (float("nan"), float("nan"))
        names = list(range(len(self.per_image))) if groups is None else list(groups)
        places = {name: number for number, name in enumerate(dict.fromkeys(names))}
        if len(places) < 2:
            return dict.fromkeys(exact, nothing), np.full((2, CURVE_POINTS), np.nan)
        units = np.zeros((len(places), 2 * COARSE_BINS))
        for name, one in zip(names, self.per_image, strict=True):
            units[places[name]] += one.ravel()
        rng = np.random.default_rng(seed)
        picks = rng.multinomial(len(places), np.full(len(places), 1 / len(places)), size=draws).astype(np.float64)
        counts = (picks @ units).reshape(draws, 2, COARSE_BINS)
        whole = units.sum(axis=0).reshape(1, 2, COARSE_BINS)
        drawn, center = figures_of(counts), figures_of(whole)
        drawn["error_rate"], center["error_rate"] = _error_rate(counts), _error_rate(whole)
        result = {}
        for name in exact:
            values = drawn[name][np.isfinite(drawn[name])] - center[name][0]  # of coarser bins: the exact one is moved
            if not values.size or not np.isfinite(exact[name]):
                result[name] = nothing
                continue
            low, high = np.quantile(values, [0.025, 0.975]) + exact[name]
            result[name] = (float(max(low, 0)), float(min(high, 1)))
        curves = np.stack([curve_of(one)[1] for one in counts]) - curve_of(whole[0])[1] + risk
        kept = curves[np.isfinite(curves).all(axis=1)]
        if not len(kept):
            return result, np.full((2, CURVE_POINTS), np.nan)
        return result, np.clip(np.quantile(kept, [0.025, 0.975], axis=0), 0, 1)


def _error_rate(counts: Float64Array) -> Float64Array:
    """(D,) of counts (D, 2, B)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(counts[:, 1].sum(axis=1) / counts.sum(axis=(1, 2)))


def bins_of(values: Float32Array) -> Int64Array:
    """The bin of each value in 0…1: in the order of the values."""
    return (np.maximum(values, np.float32(0)).view(np.uint32) >> SHIFT).astype(np.int64)


def figures_of(counts: npt.NDArray[Any]) -> dict[str, Float64Array]:
    """The figures (D,) of counts (D, 2, B) of right and wrong pixels per bin, bins from sure to unsure."""
    right, wrong = counts[:, 0].astype(np.float64), counts[:, 1].astype(np.float64)
    size = right + wrong
    before, errors_before = size.cumsum(axis=1) - size, wrong.cumsum(axis=1) - wrong
    n, errors = size.sum(axis=1), wrong.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        # Within a bin errors come evenly: Σ_{i=a+1}^{b} (E + (i − a) r) / i, with harmonic numbers by digamma.
        rate = np.where(size > 0, wrong / np.maximum(size, 1), 0)
        harmonic = digamma(before + size + 1) - digamma(before + 1)
        aurc = ((errors_before - before * rate) * harmonic + rate * size).sum(axis=1) / n
        best = (errors - (n - errors) * (digamma(n + 1) - digamma(n - errors + 1))) / n  # all errors last
        rights = right.sum(axis=1)
        above = rights[:, None] - right.cumsum(axis=1)  # right pixels that are less sure
        lower = rights[:, None] - above - right
        auroc = (wrong * (lower + 0.5 * right)).sum(axis=1) / (errors * rights)
        flipped_wrong, flipped_size = wrong[:, ::-1].cumsum(axis=1), size[:, ::-1].cumsum(axis=1)
        precision = np.where(flipped_size > 0, flipped_wrong / np.maximum(flipped_size, 1), 0)
        aupr = (wrong[:, ::-1] * precision).sum(axis=1) / errors
    undefined = (errors == 0) | (rights == 0)
    return {
        "aurc": np.where(n > 0, aurc, np.nan),
        "excess_aurc": np.where(n > 0, np.maximum(aurc - best, 0), np.nan),
        "auroc": np.where(undefined, np.nan, auroc),
        "aupr": np.where(errors == 0, np.nan, aupr),
    }


def curve_of(counts: npt.NDArray[Any]) -> tuple[Float64Array, Float64Array]:
    """(coverage, risk), (CURVE_POINTS,) each, of counts (2, B); the risk at coverage 0 is that of the surest bin."""
    coverage = np.linspace(0, 1, CURVE_POINTS)
    size, wrong = counts.sum(axis=0).astype(np.float64), counts[1].astype(np.float64)
    used = size > 0
    if not used.any():
        return coverage, np.full(CURVE_POINTS, np.nan)
    accepted = np.concatenate([[0], size[used].cumsum()])
    errors = np.concatenate([[0], wrong[used].cumsum()])
    at = coverage * accepted[-1]
    found = np.interp(at, accepted, errors)
    risk = np.where(at > 0, found / np.maximum(at, 1e-12), errors[1] / accepted[1])
    return coverage, risk
