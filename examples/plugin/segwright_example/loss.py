"""Poly-1 cross-entropy (Leng et al. 2022): cross-entropy + epsilon · (1 − p of the true class)."""

from typing import Any

import torch
from torch import Tensor

from segwright.losses.base import SegmentationLoss, SoftmaxStatistics, weighted_mean


class Poly1(SegmentationLoss):
    """``epsilon`` is the weight of the first term of the polynomial; 0 is cross-entropy."""

    decomposes = True  # a mean over pixels: a batch may be taken in parts

    def __init__(self, *, epsilon: float = 1.0, **common: Any) -> None:
        super().__init__(**common)
        self.epsilon = epsilon

    def compute(self, pixels: SoftmaxStatistics) -> Tensor:
        wrong = 1 - torch.exp(-pixels.nll)  # 0 where ignored, as nll is
        return weighted_mean(pixels.nll + self.epsilon * wrong, pixels.weights)

    def amount(self, target: Tensor) -> Tensor:
        return self.weighted_pixels(target)
