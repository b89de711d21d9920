"""Losses on the probability of the true class, pixel by pixel: cross-entropy, focal, OHEM.

Class weights weigh pixels, and the mean is by weight: Σ w·loss / Σ w, as torch's own cross-entropy does it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segwright.core.errors import UsageError
from segwright.losses.base import SegmentationLoss, SoftmaxStatistics, weighted_mean


class CrossEntropy(SegmentationLoss):
    """−log p of the true class; ``smoothing`` in 0…1 moves that share of the target to all classes alike.

    Equals ``F.cross_entropy(logits, target, weight, ignore_index=…, label_smoothing=…)``, and is 0 where that is NaN
    (every pixel ignored). Label smoothing: Szegedy et al. 2016, section 7.
    """

    decomposes = True

    def __init__(self, *, smoothing: float = 0.0, **common: Any) -> None:
        super().__init__(**common)
        if not 0 <= smoothing < 1:
            raise UsageError("label smoothing is a share", expected="0 or more, below 1", found=str(smoothing))
        self.smoothing = smoothing

    def compute(self, pixels: SoftmaxStatistics) -> Tensor:
        loss = weighted_mean(pixels.nll, pixels.weights)
        if self.smoothing == 0:
            return loss
        total = pixels.weights.sum()
        uniform = pixels.uniform_nll.sum() / torch.where(total > 0, total, 1)
        return (1 - self.smoothing) * loss + self.smoothing * uniform

    def amount(self, target: Tensor) -> Tensor:
        return self.weighted_pixels(target)


class Focal(SegmentationLoss):
    """(1 − p)^gamma · −log p: well-classified pixels weigh less. Lin et al. 2017, equation 4; gamma 0 is cross-entropy.

    The class weights are the paper's alpha. The mean is over the pixels' class weights, not over the focal factors.
    """

    decomposes = True

    def __init__(self, *, gamma: float = 2.0, **common: Any) -> None:
        super().__init__(**common)
        if gamma < 0:
            raise UsageError("the focal exponent is not negative", found=str(gamma))
        self.gamma = gamma

    def compute(self, pixels: SoftmaxStatistics) -> Tensor:
        if self.gamma == 0:
            return weighted_mean(pixels.nll, pixels.weights)
        # expm1 keeps 1 − p exact where p is nearly 1; the floor keeps the power's slope finite at p = 1 for gamma < 1
        missing = (-torch.expm1(-pixels.nll)).clamp_min(1e-12)
        return weighted_mean(missing**self.gamma * pixels.nll, pixels.weights)

    def amount(self, target: Tensor) -> Tensor:
        return self.weighted_pixels(target)


class OHEM(SegmentationLoss):
    """Cross-entropy over the hard pixels only: those whose true class has a probability under ``threshold``, and at
    least the hardest ``share`` of the pixels that are not ignored. Shrivastava et al. 2016, as segmentation uses it.
    """

    def __init__(self, *, threshold: float = 0.7, share: float = 0.25, **common: Any) -> None:
        super().__init__(**common)
        if not 0 < threshold <= 1 or not 0 < share <= 1:
            raise UsageError("OHEM's threshold and share lie in 0…1", found=f"threshold={threshold}, share={share}")
        self.threshold, self.share = threshold, share

    def compute(self, pixels: SoftmaxStatistics) -> Tensor:
        nll, valid = pixels.nll, pixels.valid
        count = int(valid.sum())
        if count == 0:
            return weighted_mean(nll, pixels.weights)
        limit = -torch.log(torch.tensor(self.threshold, dtype=torch.float64)).item()
        hard = valid & (nll.detach() > limit)
        least = max(1, round(self.share * count))
        if int(hard.sum()) < least:
            among = nll.detach()[valid]
            # ties at the limit are kept together: which of two equal pixels counts must not depend on their order
            hard = valid & (nll.detach() >= among.kthvalue(count - least + 1).values)
        return weighted_mean(nll, pixels.weights * hard)
