"""Does a confidence of 0.8 mean right eight times in ten? Expected calibration error, reliability bins, Brier score.

Streaming: counts per bin only, whatever the number of pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segwright.core.errors import LabelError, UsageError
from segwright.core.types import IGNORE_INDEX


@dataclass(frozen=True)
class Reliability:
    """Per bin of equal width over 0…1: how many pixels, their mean confidence, the share of them that is right."""

    edges: npt.NDArray[np.float64]  # (B + 1,)
    pixels: npt.NDArray[np.int64]  # (B,)
    confidence: npt.NDArray[np.float64]  # (B,), NaN in an empty bin
    accuracy: npt.NDArray[np.float64]  # (B,), NaN in an empty bin


class Calibration:
    """Confidences against hits. Guo et al. 2017 (expected calibration error), Brier 1950."""

    def __init__(self, *, bins: int = 15) -> None:
        if bins < 1:
            raise UsageError("calibration needs at least one bin", found=str(bins))
        self.bins = bins
        self.pixels = np.zeros(bins, np.int64)
        self.hits = np.zeros(bins, np.int64)
        self.confidence_sum = np.zeros(bins, np.float64)
        self.brier_sum, self.brier_pixels = 0.0, 0

    def update(
        self,
        confidence: npt.NDArray[np.float32],
        labels: npt.NDArray[np.uint8],
        target: npt.NDArray[np.uint8],
        probabilities: npt.NDArray[np.float32] | None = None,
    ) -> None:
        """One image: (H, W) each, confidence of the label in 0…1, 255 in the target ignored.

        With ``probabilities`` (K, H, W) the Brier score counts too.
        """
        if not (confidence.shape == labels.shape == target.shape):
            raise LabelError(
                "confidence, labels and ground truth differ in size",
                expected=str(target.shape),
                found=f"{confidence.shape}, {labels.shape}",
            )
        valid = target != IGNORE_INDEX
        sure = confidence[valid].astype(np.float64)
        if sure.size and (float(sure.min()) < 0 or float(sure.max()) > 1 + 1e-5 or np.isnan(sure).any()):
            raise LabelError("confidences lie in 0…1", found=f"{sure.min():.4g} to {sure.max():.4g}")
        hit = labels[valid] == target[valid]
        # bins are (a, b] as in the paper; 0 itself goes to the first
        index = np.clip(np.ceil(sure * self.bins).astype(np.int64) - 1, 0, self.bins - 1)
        self.pixels += np.bincount(index, minlength=self.bins)
        self.hits += np.bincount(index[hit], minlength=self.bins)
        self.confidence_sum += np.bincount(index, weights=sure, minlength=self.bins)
        if probabilities is not None:
            self._add_brier(probabilities, target, valid)

    def _add_brier(self, probabilities: npt.NDArray[Any], target: npt.NDArray[Any], valid: npt.NDArray[Any]) -> None:
        if probabilities.shape[1:] != target.shape:
            raise LabelError("probabilities are K×H×W", expected=f"K×{target.shape}", found=str(probabilities.shape))
        p = probabilities.reshape(len(probabilities), -1)[:, valid.ravel()].astype(np.float64)
        true_p = p[target[valid].astype(np.int64), np.arange(p.shape[1])]
        # Σ_k (p_k − [k = t])² = Σ p_k² − 2 p_t + 1
        self.brier_sum += float((p * p).sum() - 2 * true_p.sum() + true_p.size)
        self.brier_pixels += true_p.size

    def merge(self, other: Calibration) -> None:
        """Add another's counts (other images, another rank)."""
        if other.bins != self.bins:
            raise UsageError("calibrations differ in bins", expected=str(self.bins), found=str(other.bins))
        self.pixels += other.pixels
        self.hits += other.hits
        self.confidence_sum += other.confidence_sum
        self.brier_sum += other.brier_sum
        self.brier_pixels += other.brier_pixels

    def reliability(self) -> Reliability:
        with np.errstate(invalid="ignore", divide="ignore"):
            confidence = np.where(self.pixels > 0, self.confidence_sum / self.pixels, np.nan)
            accuracy = np.where(self.pixels > 0, self.hits / self.pixels, np.nan)
        return Reliability(np.linspace(0, 1, self.bins + 1), self.pixels.copy(), confidence, accuracy)

    def ece(self) -> float:
        """Σ over bins of the share of pixels × |accuracy − mean confidence|; NaN without a pixel."""
        total = int(self.pixels.sum())
        return float(np.abs(self.hits - self.confidence_sum).sum() / total) if total else float("nan")

    def brier(self) -> float:
        """The mean over pixels of Σ_k (p_k − [k is true])², in 0…2; NaN without probabilities."""
        return self.brier_sum / self.brier_pixels if self.brier_pixels else float("nan")
