"""Losses on the overlap of predicted and true regions: Dice, Jaccard, Tversky and focal Tversky.

Each is a ratio of soft counts per class, pooled over the batch (an image in which a class fills three pixels would
otherwise weigh as much as one that it fills), and averaged over the classes that occur in the batch's ground truth,
by class weight.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from segwright.core.errors import UsageError
from segwright.losses.base import SegmentationLoss, SoftmaxStatistics, mean_over_present


class Tversky(SegmentationLoss):
    """1 − TP / (TP + alpha·FP + beta·FN) in soft counts. Salehi et al. 2017, equation 3.

    ``alpha`` prices false positives, ``beta`` false negatives; both ½ is Dice, both 1 is Jaccard. ``smooth`` is added
    above and below.
    """

    exponent = 1.0

    def __init__(self, *, alpha: float = 0.3, beta: float = 0.7, smooth: float = 0.0, **common: Any) -> None:
        super().__init__(**common)
        if alpha < 0 or beta < 0 or alpha + beta == 0 or smooth < 0:
            raise UsageError(
                "Tversky's alpha, beta and smooth are not negative, and alpha and beta not both 0",
                found=f"alpha={alpha}, beta={beta}, smooth={smooth}",
            )
        self.alpha, self.beta, self.smooth = alpha, beta, smooth

    def compute(self, pixels: SoftmaxStatistics) -> Tensor:
        counts = pixels.overlap
        hit = counts.intersection
        false_positive, false_negative = counts.predicted - hit, counts.truth - hit
        under = hit + self.alpha * false_positive + self.beta * false_negative + self.smooth
        # A class without a pixel and without probability is 0/0; it is left out of the mean, and must not be NaN there.
        missed = 1 - (hit + self.smooth) / under.clamp_min(1e-7)
        if self.exponent != 1:
            missed = missed.clamp_min(1e-7) ** self.exponent  # the power's slope is infinite at 0
        return mean_over_present(missed, counts, pixels.class_weights)


class Dice(Tversky):
    """1 − 2·TP / (2·TP + FP + FN) in soft counts. Milletari et al. 2016 (without the squares below the line)."""

    def __init__(self, *, smooth: float = 0.0, **common: Any) -> None:
        super().__init__(alpha=0.5, beta=0.5, smooth=smooth, **common)


class Jaccard(Tversky):
    """1 − TP / (TP + FP + FN) in soft counts. Rahman and Wang 2016."""

    def __init__(self, *, smooth: float = 0.0, **common: Any) -> None:
        super().__init__(alpha=1.0, beta=1.0, smooth=smooth, **common)


class FocalTversky(Tversky):
    """Tversky's loss to the power 1/``gamma``. Abraham and Khan 2019, equation 4: gamma 4/3 there, alpha 0.3 for false
    positives and beta 0.7 for false negatives."""

    def __init__(
        self, *, alpha: float = 0.3, beta: float = 0.7, gamma: float = 4 / 3, smooth: float = 0.0, **common: Any
    ) -> None:
        super().__init__(alpha=alpha, beta=beta, smooth=smooth, **common)
        if gamma <= 0:
            raise UsageError("focal Tversky's gamma is positive", found=str(gamma))
        self.exponent = 1 / gamma
