"""FCN-32s, FCN-16s and FCN-8s: the fully convolutional networks of Long, Shelhamer and Darrell.

Fully Convolutional Networks for Semantic Segmentation (CVPR 2015; PAMI 2017), built to the released
``voc-fcn{32,16,8}s/net.py``: conv1_1 pads by 100 so that the smallest image still fills fc6's 7×7 window, pools round
up, the score layers start at zero, the transposed convolutions are bilinear and frozen, and the crop offsets
(19; 5 and 27; 5, 9 and 31) put every path back over the pixel it saw.

Differences, all by arguments: torchvision's pixel convention is the default (``input_scale="caffe"`` is the release's);
``deconvolution="depthwise"`` leaves out the zeros of the N×N kernels (same numbers, N times fewer weights);
``init="he"`` starts the scores at N(0, 0.01) instead of zero, which is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segwright.core.errors import ModelError, WeightsError
from segwright.models.base import SegmentationModel, SegOutput
from segwright.models.encoders.vgg import (
    VGG16_WIDTHS,
    Initialization,
    InputScale,
    InputScaledModel,
    VGGTrunk,
    he_initialize,
    load_vgg16_classifier,
    load_vgg16_trunk,
)

AT_ONCE_SCALES = (0.01, 0.0001)  # of pool4 and pool3: with these, 8s trains in one stage (released voc-fcn8s-atonce)
# output stride → crop offsets in the order in which they are applied
CROPS = {32: (19,), 16: (5, 27), 8: (5, 9, 31)}


def bilinear_kernel(size: int) -> Tensor:
    """(size, size): the tent that makes a transposed convolution of stride ``(size + 1) // 2`` interpolate linearly."""
    factor = (size + 1) // 2
    center = factor - 1.0 if size % 2 == 1 else factor - 0.5
    tent = 1 - (torch.arange(size, dtype=torch.float32) - center).abs() / factor
    return tent[:, None] * tent[None, :]


class BilinearDeconvolution(nn.Module):
    """Bilinear upsampling as a frozen, bias-free transposed convolution, without padding.

    ``full`` keeps the release's N×N kernels as parameters (zero off the diagonal, not trained); ``depthwise`` keeps one
    kernel as a buffer. Both give (N, K, (h - 1)·stride + size, …).
    """

    def __init__(self, classes: int, size: int, *, form: Literal["full", "depthwise"]) -> None:
        super().__init__()
        self.stride = (size + 1) // 2
        kernel = bilinear_kernel(size)
        if form == "full":
            weight = torch.zeros(classes, classes, size, size)
            diagonal = torch.arange(classes)
            weight[diagonal, diagonal] = kernel
            self.weight = nn.Parameter(weight, requires_grad=False)
            self.groups = 1
        else:
            self.register_buffer("weight", kernel.repeat(classes, 1, 1, 1), persistent=False)
            self.groups = classes

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, self.weight, stride=self.stride, groups=self.groups)


class FCN(InputScaledModel):
    """The three strides of one network.

    ``skip_scales`` multiply pool4 and pool3 before their score layers: :data:`AT_ONCE_SCALES` with
    ``input_scale="caffe"`` trains 8s in one stage; otherwise train 32s, then 16s, then 8s, each begun with
    :meth:`start_from`.
    Parameters at N=21, ``stride=8``: 134,489,759 (``full``) or 134,362,751 (``depthwise``).
    """

    pretrained_trunk = "vgg16"

    def __init__(
        self,
        *,
        classes: int,
        in_channels: int = 3,
        stride: Literal[8, 16, 32] = 8,
        input_scale: InputScale = "imagenet",
        init: Initialization = "paper",
        deconvolution: Literal["full", "depthwise"] = "full",
        skip_scales: tuple[float, float] = (1.0, 1.0),
        dropout: float = 0.5,
        widths: Sequence[int] = VGG16_WIDTHS,
        fc_channels: int = 4096,
    ) -> None:
        if stride not in CROPS:
            raise ModelError("an FCN has stride 32, 16 or 8", found=str(stride))
        super().__init__(
            classes=classes, in_channels=in_channels, input_scale=input_scale, stride=stride, size_divisor=1
        )
        self.crops = CROPS[stride]
        self.skip_scales = skip_scales
        pools = [nn.MaxPool2d(2, 2, ceil_mode=True) for _ in range(5)]
        self.trunk = VGGTrunk(pools=pools, in_channels=in_channels, widths=widths, first_padding=100)
        self.fc6 = nn.Conv2d(widths[4], fc_channels, 7)
        self.fc7 = nn.Conv2d(fc_channels, fc_channels, 1)
        he_initialize(self.fc6)
        he_initialize(self.fc7)
        self.drop6 = nn.Dropout(dropout)
        self.drop7 = nn.Dropout(dropout)
        self.score_fr = _score(fc_channels, classes, init)
        if stride <= 16:
            self.score_pool4 = _score(widths[3], classes, init)
            self.upscore2 = BilinearDeconvolution(classes, 4, form=deconvolution)
        if stride == 8:
            self.score_pool3 = _score(widths[2], classes, init)
            self.upscore_pool4 = BilinearDeconvolution(classes, 4, form=deconvolution)
        self.upscore = BilinearDeconvolution(classes, 2 * stride, form=deconvolution)

    def encoder_modules(self) -> Sequence[nn.Module]:
        return (self.trunk,)

    def classifier_layers(self) -> Mapping[str, Sequence[nn.Module]]:
        skips = [getattr(self, name) for name in ("score_pool4", "score_pool3") if hasattr(self, name)]
        return {"logits": (self.score_fr, *skips)}

    def forward_padded(self, x: Tensor) -> SegOutput:
        height, width = x.shape[-2:]
        features = self.trunk(x)
        x = self.drop6(torch.relu(self.fc6(features[4])))
        x = self.drop7(torch.relu(self.fc7(x)))
        score = self.score_fr(x)
        if self.stride <= 16:
            score = self.upscore2(score)
            skip = self.score_pool4(features[3] * self.skip_scales[0])
            score = score + crop_from(skip, self.crops[0], score.shape[-2:])
        if self.stride == 8:
            score = self.upscore_pool4(score)
            skip = self.score_pool3(features[2] * self.skip_scales[1])
            score = score + crop_from(skip, self.crops[1], score.shape[-2:])
        return SegOutput(crop_from(self.upscore(score), self.crops[-1], (height, width)), {})

    def load_pretrained(self, state: Mapping[str, Tensor], *, trained_on: InputScale = "imagenet") -> list[str]:
        """VGG16's convolutions and, where the weights have them, its fully connected layers as fc6 and fc7."""
        self.require_input_scale(trained_on)
        loaded = load_vgg16_trunk(self.trunk, state, bgr=self.bgr)
        return loaded + load_vgg16_classifier(self.fc6, self.fc7, state)

    def start_from(self, coarser: FCN) -> list[str]:
        """The published staging: take everything a trained coarser net has; the new score layer starts at zero.

        Returns the names of the parameters taken. :raises WeightsError: ``coarser`` is not the coarser form of the
        same network.
        """
        mine = self.state_dict()
        taken = {
            name: value
            for name, value in coarser.state_dict().items()
            if name in mine and not name.startswith("upscore")
        }
        wrong = [name for name, value in taken.items() if value.shape != mine[name].shape]
        if coarser.stride <= self.stride or wrong:
            raise WeightsError(
                "staged training starts from the coarser form of the same network",
                expected=f"a stride above {self.stride} and equal shapes",
                found=f"stride {coarser.stride}; differing: {', '.join(wrong) or 'none'}",
            )
        self.load_state_dict(taken, strict=False)
        for name in ("score_pool4", "score_pool3"):
            if hasattr(self, name) and f"{name}.weight" not in taken:
                nn.init.zeros_(getattr(self, name).weight)
                nn.init.zeros_(getattr(self, name).bias)
        return list(taken)


def crop_from(x: Tensor, offset: int, size: Sequence[int]) -> Tensor:
    """``size`` (height, width) of ``x`` from ``offset`` on, in both directions."""
    return x[..., offset : offset + size[0], offset : offset + size[1]]


def _score(channels: int, classes: int, init: Initialization) -> nn.Conv2d:
    layer = nn.Conv2d(channels, classes, 1)
    if init == "paper":
        nn.init.zeros_(layer.weight)
    else:
        nn.init.normal_(layer.weight, std=0.01)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


MODELS: dict[str, Callable[..., SegmentationModel]] = {
    "fcn32s": partial(FCN, stride=32),
    "fcn16s": partial(FCN, stride=16),
    "fcn8s": partial(FCN, stride=8),
}
