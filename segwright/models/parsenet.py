"""ParseNet: DeepLab-LargeFOV with a global feature of the whole image, both brought to one scale by a learned L2 norm.

Liu, Rabinovich and Berg, ParseNet: Looking Wider to See Better (2015), section 3. fc7 is averaged over the image;
both are L2-normalized over channels, multiplied by a learned factor per channel, the average is 'unpooled' (repeated
over the grid), concatenated and classified.

The factor's start value is an argument (``scale``); 10 is what we have from memory of the paper and could not verify.
Which trunk feature is pooled is taken from the parameter count (two norms of 1024 and 2048→N make 20,528,981).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from segwright.models.base import SegmentationModel
from segwright.models.deeplab_v1 import DeepLabV1, gaussian_classifier
from segwright.models.encoders.vgg import VGG16_WIDTHS, InputScale


class L2Norm(nn.Module):
    """y = scale · x ÷ √(Σ_c x_c² + 1e-10), the sum over channels at each place; ``scale`` (C,) is learned.

    Computed in fp32 whatever the input: the squares of 1024 channels leave fp16's range, and 1e-10 vanishes in it.
    """

    def __init__(self, channels: int, scale: float = 10.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), float(scale)))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        unit = wide * torch.rsqrt(wide.square().sum(1, keepdim=True) + 1e-10)
        return (unit * self.scale.float()[:, None, None]).to(x.dtype)


class ParseNet(DeepLabV1):
    """LargeFOV with global context. Parameters at N=21: 20,528,981."""

    def __init__(
        self,
        *,
        classes: int,
        in_channels: int = 3,
        input_scale: InputScale = "imagenet",
        dropout: float = 0.5,
        scale: float = 10.0,
        widths: Sequence[int] = VGG16_WIDTHS,
        fc_channels: int = 1024,
        dilation: int = 12,
    ) -> None:
        super().__init__(
            classes=classes,
            in_channels=in_channels,
            input_scale=input_scale,
            dropout=dropout,
            widths=widths,
            fc_channels=fc_channels,
            dilation=dilation,
        )
        self.fc7_norm = L2Norm(fc_channels, scale)
        self.pool6_norm = L2Norm(fc_channels, scale)
        self.fc8 = gaussian_classifier(2 * fc_channels, classes)

    def scores(self, x: Tensor) -> Tensor:
        """Normalized (N, C, 8a + 1, 8b + 1) → logits (N, K, a + 1, b + 1)."""
        local = self.features(x)
        whole = self.pool6_norm(local.mean((2, 3), keepdim=True)).expand_as(local)
        return self.fc8(torch.cat([self.fc7_norm(local), whole], 1))  # type: ignore[no-any-return]


MODELS: dict[str, Callable[..., SegmentationModel]] = {"parsenet": ParseNet}
