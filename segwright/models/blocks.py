"""The small parts that several networks share. Nothing here knows of an encoder or of a whole network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segwright.models.segmenter import resize


class ConvNormReLU(nn.Sequential):
    """Convolution without bias, batch normalisation, ReLU: (N, in, H, W) → (N, out, H / stride, W / stride)."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int = 3, *, stride: int = 1, dilation: int = 1
    ) -> None:
        super().__init__(
            nn.Conv2d(
                in_channels,
                out_channels,
                kernel,
                stride=stride,
                padding=dilation * (kernel // 2),
                dilation=dilation,
                bias=False,
            ),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )


class FCNHead(nn.Sequential):
    """3×3 to a quarter of the channels, dropout, 1×1: the FCN head of torchvision, the auxiliary head of PSPNet."""

    def __init__(self, in_channels: int, classes: int, *, channels: int | None = None, dropout: float = 0.1) -> None:
        inner = in_channels // 4 if channels is None else channels
        super().__init__(
            nn.Conv2d(in_channels, inner, 3, padding=1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Conv2d(inner, classes, 1),
        )


def initialize_decoder(module: nn.Module) -> None:
    """He's initialisation for convolutions, ones and zeros for norms: for what comes after an encoder."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_uniform_(part.weight, mode="fan_in", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.BatchNorm2d):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)


def initialize_head(module: nn.Module) -> None:
    """Xavier's initialisation for the classifying convolutions, so that the first logits are small."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def resize_all(features: Sequence[Tensor], size: tuple[int, int], *, align_corners: bool = False) -> Tensor:
    """Every feature bilinear to (height, width), then concatenated over channels in the order given."""
    return torch.cat([resize(feature, size, align_corners=align_corners) for feature in features], dim=1)
