"""The Lovász-softmax loss: the convex surrogate of one minus the Jaccard index. Berman, Triki and Blaschko 2018."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segwright.losses.base import SegmentationLoss, SoftmaxStatistics


class Lovasz(SegmentationLoss):
    """Lovász-softmax (the paper's equation 11), averaged by class weight over the classes that the ground truth holds.

    ``per_image`` computes it for each image and averages (the paper's choice for image-wise scores); the default
    pools the batch, as the dataset's mean IoU does.
    """

    def __init__(self, *, per_image: bool = False, **common: Any) -> None:
        super().__init__(**common)
        self.per_image = self.decomposes = bool(per_image)

    def compute(self, pixels: SoftmaxStatistics) -> Tensor:
        p = pixels.probabilities.permute(0, 2, 3, 1)  # (N, H, W, K)
        if not self.per_image:
            return self._of(p[pixels.valid], pixels.target[pixels.valid], pixels) + 0 * p.sum()
        images = [
            self._of(p[i][pixels.valid[i]], pixels.target[i][pixels.valid[i]], pixels)
            for i in range(len(p))
            if bool(pixels.valid[i].any())
        ]
        return torch.stack(images).mean() + 0 * p.sum() if images else 0 * p.sum()

    def amount(self, target: Tensor) -> Tensor:
        labeled = (target != self.ignore_index).flatten(1)
        return (labeled.any(dim=1) if self.per_image else labeled).sum().double()

    def _of(self, p: Tensor, target: Tensor, pixels: SoftmaxStatistics) -> Tensor:
        """``p`` (M, K), ``target`` (M,) without ignored pixels."""
        present = torch.bincount(target, minlength=pixels.classes).nonzero().flatten().tolist()
        total, weight_sum = p.new_zeros(()), 0.0
        for index in present:
            weight = 1.0 if pixels.class_weights is None else float(pixels.class_weights[index])
            truth = target == index
            errors = torch.where(truth, 1 - p[:, index], p[:, index])
            # The sort's order is a constant of the loss; the values themselves carry the gradient (section 3.1).
            order = errors.detach().argsort(descending=True)
            total = total + weight * torch.dot(errors[order], jaccard_steps(truth[order]).to(p.dtype))
            weight_sum += weight
        return total / weight_sum if weight_sum else total


def jaccard_steps(truth: Tensor) -> Tensor:
    """The Lovász extension's gradient: by how much the Jaccard loss grows as each pixel, in sorted order, becomes an
    error. ``truth`` (M,) bool in order of falling error → (M,) fp64 (the paper's algorithm 1)."""
    hits = truth.long().cumsum(0)  # integers: an fp32 running sum loses counts from 16.8 million pixels on
    misses = torch.arange(1, len(truth) + 1, device=truth.device) - hits
    everything = hits[-1]
    loss = 1 - (everything - hits).double() / (everything + misses).double()
    return torch.diff(loss, prepend=loss.new_zeros(1))
