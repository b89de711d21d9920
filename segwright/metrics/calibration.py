"""Does a confidence of 0.8 mean right eight times in ten? Expected calibration error, reliability bins, Brier
score, log loss.

Streaming: counts per bin only, whatever the number of pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from segwright.core.errors import LabelError, UsageError
from segwright.core.types import IGNORE_INDEX

SMALLEST = 1e-37  # probability in the log loss


@dataclass(frozen=True)
class Reliability:
    """Per bin of equal width over 0…1: how many pixels, their mean confidence, the share of them that is right."""

    edges: npt.NDArray[np.float64]  # (B + 1,)
    pixels: npt.NDArray[np.int64]  # (B,)
    confidence: npt.NDArray[np.float64]  # (B,), NaN in an empty bin
    accuracy: npt.NDArray[np.float64]  # (B,), NaN in an empty bin


@dataclass(frozen=True)
class CalibrationSums:
    """What the figures need of one image. Without probabilities, ``class_gaps`` is None and the last three are 0."""

    pixels: int
    gaps: npt.NDArray[np.float64]  # (B,): hits minus the sum of confidences, per bin of confidence
    class_gaps: npt.NDArray[np.float64] | None = None  # (K, B): the same of each class's probability
    brier: float = 0.0  # sums over pixels
    nll: float = 0.0
    probability_pixels: int = 0
    bins: npt.NDArray[np.float64] | None = None  # (3, B): pixels, hits, sum of confidences, per bin of confidence


class Calibration:
    """Confidences against hits. Guo et al. 2017 (expected calibration error), Kull et al. 2019 (classwise), Brier 1950.

    Every figure is a sum over pixels: :meth:`update` returns the sums of its image, for intervals.
    """

    def __init__(self, *, bins: int = 15) -> None:
        if bins < 1:
            raise UsageError("calibration needs at least one bin", found=str(bins))
        self.bins = bins
        self.pixels = np.zeros(bins, np.int64)
        self.hits = np.zeros(bins, np.int64)
        self.confidence_sum = np.zeros(bins, np.float64)
        self.class_gaps: npt.NDArray[np.float64] | None = None
        self.brier_sum, self.nll_sum, self.probability_pixels = 0.0, 0.0, 0

    def update(
        self,
        confidence: npt.NDArray[np.float32],
        labels: npt.NDArray[np.uint8],
        target: npt.NDArray[np.uint8],
        probabilities: npt.NDArray[np.float32] | None = None,
    ) -> CalibrationSums:
        """One image: (H, W) each, confidence of the label in 0…1, 255 in the target ignored.

        With ``probabilities`` (K, H, W) the Brier score, the log loss and the classwise error count too.
        """
        if not (confidence.shape == labels.shape == target.shape):
            raise LabelError(
                "confidence, labels and ground truth differ in size",
                expected=str(target.shape),
                found=f"{confidence.shape}, {labels.shape}",
            )
        valid = target != IGNORE_INDEX
        sure = confidence[valid]
        if sure.size and not (float(sure.min()) >= 0 and float(sure.max()) <= 1 + 1e-5):  # NaN is neither
            raise LabelError("confidences lie in 0…1", found=f"{sure.min():.4g} to {sure.max():.4g}")
        hit = (labels == target)[valid]
        index = self._bins(sure)
        pixels, hits = np.bincount(index, minlength=self.bins), np.bincount(index[hit], minlength=self.bins)
        confidence_sum = np.bincount(index, weights=sure, minlength=self.bins)
        self.pixels += pixels
        self.hits += hits
        self.confidence_sum += confidence_sum
        found = CalibrationSums(
            int(pixels.sum()),
            hits.astype(np.float64) - confidence_sum,
            bins=np.stack([pixels, hits, confidence_sum]).astype(np.float64),
        )
        return found if probabilities is None else self._with_probabilities(found, probabilities, target, valid)

    def _bins(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        """Bins are (a, b] as in the paper; 0 itself goes to the first."""
        scaled = values * np.float64(self.bins)
        index = np.ceil(scaled, out=scaled).astype(np.int64)
        index -= 1
        return np.clip(index, 0, self.bins - 1, out=index)

    def _with_probabilities(
        self,
        found: CalibrationSums,
        probabilities: npt.NDArray[np.float32],
        target: npt.NDArray[np.uint8],
        valid: npt.NDArray[np.bool_],
    ) -> CalibrationSums:
        if probabilities.shape[1:] != target.shape:
            raise LabelError("probabilities are K×H×W", expected=f"K×{target.shape}", found=str(probabilities.shape))
        truth = target[valid]
        classes = len(probabilities)
        squares, gaps = 0.0, np.zeros((classes, self.bins))
        of_truth = np.zeros(truth.shape, np.float32)
        for label in range(classes):  # one class at a time: no copy of all of them
            p = probabilities[label][valid]
            there = truth == label
            of_truth[there] = p[there]
            squares += float(np.dot(p, p.astype(np.float64)))
            index = self._bins(p)
            gaps[label] = np.bincount(index[there], minlength=self.bins)
            gaps[label] -= np.bincount(index, weights=p, minlength=self.bins)
        # Σ_k (p_k − [k = t])² = Σ p_k² − 2 p_t + 1
        brier = squares - 2 * float(of_truth.sum(dtype=np.float64)) + truth.size
        nll = -float(np.log(np.maximum(of_truth, SMALLEST), dtype=np.float64).sum())
        self.brier_sum += brier
        self.nll_sum += nll
        self.probability_pixels += truth.size
        self.class_gaps = gaps if self.class_gaps is None else self.class_gaps + gaps
        return replace(found, class_gaps=gaps, brier=brier, nll=nll, probability_pixels=truth.size)

    def merge(self, other: Calibration) -> None:
        """Add another's counts (other images, another rank)."""
        if other.bins != self.bins:
            raise UsageError("calibrations differ in bins", expected=str(self.bins), found=str(other.bins))
        self.pixels += other.pixels
        self.hits += other.hits
        self.confidence_sum += other.confidence_sum
        self.brier_sum += other.brier_sum
        self.nll_sum += other.nll_sum
        self.probability_pixels += other.probability_pixels
        if other.class_gaps is not None:
            self.class_gaps = other.class_gaps if self.class_gaps is None else self.class_gaps + other.class_gaps

    def reliability(self) -> Reliability:
        with np.errstate(invalid="ignore", divide="ignore"):
            confidence = np.where(self.pixels > 0, self.confidence_sum / self.pixels, np.nan)
            accuracy = np.where(self.pixels > 0, self.hits / self.pixels, np.nan)
        return Reliability(np.linspace(0, 1, self.bins + 1), self.pixels.copy(), confidence, accuracy)

    def ece(self) -> float:
        """Σ over bins of the share of pixels × |accuracy − mean confidence|; NaN without a pixel."""
        total = int(self.pixels.sum())
        return float(np.abs(self.hits - self.confidence_sum).sum() / total) if total else float("nan")

    def class_ece(self) -> npt.NDArray[np.float64] | None:
        """(K,): the calibration error of each class's probability (is it that class in 0.3 of the pixels that give it
        0.3?); None without probabilities."""
        if self.class_gaps is None:
            return None
        return np.asarray(np.abs(self.class_gaps).sum(axis=1) / self.probability_pixels)

    def classwise_ece(self) -> float:
        """The mean of :meth:`class_ece`; NaN without probabilities."""
        each = self.class_ece()
        return float("nan") if each is None else float(each.mean())

    def brier(self) -> float:
        """The mean over pixels of Σ_k (p_k − [k is true])², in 0…2; NaN without probabilities."""
        return self.brier_sum / self.probability_pixels if self.probability_pixels else float("nan")

    def nll(self) -> float:
        """The mean over pixels of −ln p of the true class, in nats; NaN without probabilities. At least 1e-37 is taken
        for p."""
        return self.nll_sum / self.probability_pixels if self.probability_pixels else float("nan")
