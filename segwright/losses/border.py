"""Cross-entropy weighted towards the borders between regions: U-Net's weight map.

Ronneberger et al. 2015, equation 2. Unlike the paper's, the map is made from the mask of the batch itself, after
augmentation, since masks here carry classes and no instances: an object is a connected region of one class.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from segwright.core.errors import UsageError
from segwright.losses.base import SegmentationLoss, SoftmaxStatistics, weighted_mean

FAR = 1e6  # pixels: further than any image is wide
REACH = 6.0  # in sigmas: beyond, the border's term is under w0·e^-18


class BorderCrossEntropy(SegmentationLoss):
    """Cross-entropy with weight w_class + w0·exp(−(d1 + d2)² / (2·sigma²)), d1 and d2 the distances in pixels to the
    nearest and the second nearest object.

    ``background`` names the class that is no object (membranes between cells: the paper's case). By default that is
    class 0 where there are two classes; with more, every region of every class is an object, so that d1 is 0 and the
    weight rises towards any border. The map is made on the CPU.
    """

    decomposes = True

    def __init__(self, *, w0: float = 10.0, sigma: float = 5.0, background: int | None = None, **common: Any) -> None:
        super().__init__(**common)
        if w0 < 0 or sigma <= 0:
            raise UsageError("border weights need w0 ≥ 0 and sigma > 0", found=f"w0={w0}, sigma={sigma}")
        if background is not None and not 0 <= background < self.classes:
            raise UsageError("no such background class", expected=f"0 to {self.classes - 1}", found=str(background))
        self.w0, self.sigma = w0, sigma
        self.background = 0 if background is None and self.classes == 2 else background

    def compute(self, pixels: SoftmaxStatistics) -> Tensor:
        extra = self.border_weights(pixels.raw_target).to(pixels.logits)
        return weighted_mean(pixels.nll, torch.where(pixels.valid, pixels.weights + extra, 0))

    def amount(self, target: Tensor) -> Tensor:
        extra = self.border_weights(target).to(target.device, torch.float64)
        return torch.where(target != self.ignore_index, self._pixel_weights(target) + extra, 0).sum()

    def border_weights(self, target: Tensor) -> Tensor:
        """(N, H, W) masks → (N, H, W) fp32: what the map adds to the class weights."""
        masks = target.detach().cpu().numpy()
        maps = [
            border_map(mask, w0=self.w0, sigma=self.sigma, background=self.background, ignore=self.ignore_index)
            for mask in masks
        ]
        return torch.from_numpy(np.stack(maps)) if maps else torch.zeros(target.shape)


def border_map(
    mask: npt.NDArray[Any], *, w0: float, sigma: float, background: int | None, ignore: int
) -> npt.NDArray[np.float32]:
    """w0·exp(−(d1 + d2)² / (2·sigma²)) of one H×W mask; 0 beyond six sigmas, and with fewer than two objects.

    Distances are exact Euclidean. Each object is measured within its own box and the reach around it only, so that the
    cost follows the image's content and not objects × pixels.
    """
    height, width = mask.shape
    first = np.full((height, width), FAR, np.float32)
    second = np.full((height, width), FAR, np.float32)
    reach = int(np.ceil(REACH * sigma)) + 1
    for value in np.unique(mask):
        if value in (ignore, background):
            continue
        count, labels, boxes, _ = cv2.connectedComponentsWithStats((mask == value).astype(np.uint8), connectivity=8)
        for index in range(1, count):
            x, y, w, h = boxes[index, :4]
            window = np.s_[max(y - reach, 0) : y + h + reach, max(x - reach, 0) : x + w + reach]
            outside = (labels[window] != index).astype(np.uint8)
            if outside.all() or not outside.any():
                distance = np.zeros(outside.shape, np.float32)
            else:
                distance = np.asarray(cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32)
            near, next_near = first[window], second[window]
            np.minimum(next_near, np.maximum(near, distance), out=next_near)
            np.minimum(near, distance, out=near)
    gap = first + second
    weight = w0 * np.exp(-(gap.astype(np.float64) ** 2) / (2 * sigma**2))
    return np.where(gap <= REACH * sigma, weight, 0).astype(np.float32)
