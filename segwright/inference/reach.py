"""How far a network looks: the distance over which a pixel of the image can change a label.

Measured with NaN, which no layer takes away: where a stripe of the image is NaN, the output is NaN exactly where the
stripe can reach, whatever the weights are.
"""

from __future__ import annotations

import torch

from segwright import kernels
from segwright.models.base import SegmentationModel

STRIPE = 32  # columns: every position within a network's stride
HEIGHT = 32
WIDTHS = (1024, 4096)  # of the images that are tried


@torch.no_grad()
def receptive_radius(model: SegmentationModel) -> int | None:
    """The radius of the receptive field in pixels; None if it covers the whole image (global pooling, attention,
    normalization over the image) or more than 2000 pixels to each side.

    Bilinear resizing reads pixels with a weight of zero, so the radius can be a few pixels too large.
    """
    like = next(model.parameters())
    for width in WIDTHS:
        image = torch.full((1, model.in_channels, HEIGHT, width), 0.5, device=like.device, dtype=torch.float32)
        left = width // 2 // STRIPE * STRIPE
        image[..., left : left + STRIPE] = float("nan")
        with kernels.disabled():  # a compiled clamp may take a NaN for its bound
            logits = model(image).logits
        reached: list[int] = torch.isnan(logits).any(dim=2).any(dim=1)[0].nonzero()[:, 0].tolist()
        if not reached or reached[0] > left or reached[-1] < left + STRIPE - 1:
            return None  # something took the NaN away: nothing is known
        if reached[0] > 0 and reached[-1] < width - 1:
            return max(left - reached[0], reached[-1] - (left + STRIPE - 1))
    return None
