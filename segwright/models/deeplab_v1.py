"""DeepLab v1, the LargeFOV form: VGG16 kept at stride 8 by dilation, with one wide dilated fc6.

Chen et al., Semantic Image Segmentation with Deep Convolutional Nets and Fully Connected CRFs (ICLR 2015), built to the
released LargeFOV network: pools 1–3 are 3×3/2 with padding 1, pools 4 and 5 3×3/**1**, conv5 has dilation 2, a 3×3/1
average pool follows pool5, fc6 is 3×3×1024 with dilation 12, fc7 1×1×1024, fc8 starts at N(0, 0.01).

The system of the paper is this network **and** the dense CRF (``segwright.postprocess.crf``).

Grid: a 3×3/2 pool with padding 1 samples pixels 0, 2, 4…, so on sides of 8k + 1 the stride-8 scores lie exactly on
pixels 0, 8, 16…; images are padded to such sides and scores upsampled with their corners aligned, as the authors'
321-pixel crops and their Interp layer do. The paper's loss is taken at stride 8 against labels shrunk by 8:
:meth:`DeepLabV1.scores` gives those logits; the contract's full-size logits are their bilinear interpolation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from segwright.models.base import SegmentationModel, SegOutput, resize
from segwright.models.encoders.vgg import (
    VGG16_WIDTHS,
    InputScale,
    InputScaledModel,
    VGGTrunk,
    he_initialize,
    load_vgg16_classifier,
    load_vgg16_trunk,
)


class OddSizeModel(InputScaledModel):
    """A network whose scores lie on pixels 0, s, 2s…: sides are padded to multiples of ``size_divisor`` plus one."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.grid_aligned = True


def dilated_vgg16(*, in_channels: int = 3, widths: Sequence[int] = VGG16_WIDTHS) -> VGGTrunk:
    """The trunk of DeepLab v1 and v2: three pools of stride 2, two of stride 1, conv5 with dilation 2; stride 8.

    Pools round up, as Caffe's do.
    """
    pools = [nn.MaxPool2d(3, stride, padding=1, ceil_mode=True) for stride in (2, 2, 2, 1, 1)]
    return VGGTrunk(pools=pools, in_channels=in_channels, widths=widths, last_dilation=2)


class LargeFOVHead(nn.Module):
    """fc6 (3×3, dilated) and fc7 (1×1), each with ReLU and dropout: (N, C, h, w) → (N, ``fc_channels``, h, w)."""

    def __init__(self, in_channels: int, *, fc_channels: int = 1024, dilation: int = 12, dropout: float = 0.5) -> None:
        super().__init__()
        self.fc6 = nn.Conv2d(in_channels, fc_channels, 3, padding=dilation, dilation=dilation)
        self.fc7 = nn.Conv2d(fc_channels, fc_channels, 1)
        self.drop6 = nn.Dropout(dropout)
        self.drop7 = nn.Dropout(dropout)
        he_initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop6(torch.relu(self.fc6(x)))
        return self.drop7(torch.relu(self.fc7(x)))  # type: ignore[no-any-return]


def gaussian_classifier(channels: int, classes: int, kernel: int = 1, dilation: int = 1) -> nn.Conv2d:
    """The last layer of every DeepLab of the Caffe time: weights N(0, 0.01), bias 0, the size kept."""
    layer = nn.Conv2d(channels, classes, kernel, padding=dilation * (kernel // 2), dilation=dilation)
    nn.init.normal_(layer.weight, std=0.01)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


class DeepLabV1(OddSizeModel):
    """DeepLab-LargeFOV. Parameters at N=21: 20,505,429; at N=11: 20,495,179.

    The weights that are not pretrained start as in He et al. (2015), so that it also learns from scratch; the authors
    always started from VGG16 (:meth:`load_pretrained`).
    """

    pretrained_trunk = "vgg16"

    def __init__(
        self,
        *,
        classes: int,
        in_channels: int = 3,
        input_scale: InputScale = "imagenet",
        dropout: float = 0.5,
        widths: Sequence[int] = VGG16_WIDTHS,
        fc_channels: int = 1024,
        dilation: int = 12,
    ) -> None:
        super().__init__(classes=classes, in_channels=in_channels, input_scale=input_scale, stride=8)
        self.trunk = dilated_vgg16(in_channels=in_channels, widths=widths)
        self.pool5a = nn.AvgPool2d(3, 1, padding=1)
        self.head = LargeFOVHead(widths[4], fc_channels=fc_channels, dilation=dilation, dropout=dropout)
        self.fc8 = gaussian_classifier(fc_channels, classes)

    def scores(self, x: Tensor) -> Tensor:
        """Normalized (N, C, 8a + 1, 8b + 1) → logits (N, K, a + 1, b + 1), where the paper takes its loss."""
        return self.fc8(self.features(x))  # type: ignore[no-any-return]

    def features(self, x: Tensor) -> Tensor:
        """fc7, (N, ``fc_channels``, a + 1, b + 1)."""
        return self.head(self.pool5a(self.trunk(x)[4]))  # type: ignore[no-any-return]

    def encoder_modules(self) -> Sequence[nn.Module]:
        return (self.trunk,)

    def classifier_layers(self) -> Mapping[str, Sequence[nn.Module]]:
        return {"logits": (self.fc8,)}

    def forward_padded(self, x: Tensor) -> SegOutput:
        return SegOutput(resize(self.scores(x), (x.shape[-2], x.shape[-1]), align_corners=True), {})

    def load_pretrained(self, state: Mapping[str, Tensor], *, trained_on: InputScale = "imagenet") -> list[str]:
        """VGG16's convolutions, and its fully connected layers thinned to fc6 and fc7."""
        self.require_input_scale(trained_on)
        loaded = load_vgg16_trunk(self.trunk, state, bgr=self.bgr)
        return loaded + load_vgg16_classifier(self.head.fc6, self.head.fc7, state)


MODELS: dict[str, Callable[..., SegmentationModel]] = {"deeplabv1": DeepLabV1}
