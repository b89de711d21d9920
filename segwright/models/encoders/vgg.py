"""VGG16 as a trunk: the thirteen convolutions that FCN, DeepLab v1/v2 and ParseNet were built on.

Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition (2015), configuration D.
Layer names are those of the Caffe release (``conv1_1`` … ``conv5_3``, ``fc6``, ``fc7``), because the papers built on it
use them. There is no batch normalization. What the descendants change (pools, paddings, dilation) are arguments.

The pixels a VGG takes are part of its weights, so they are an argument as well (:data:`INPUT_SCALES`):

- ``imagenet``: RGB in 0…1, minus mean, over standard deviation. For torchvision's weights, and from scratch.
- ``caffe``: **BGR** in 0…255 minus (104.00699, 116.66877, 122.67892), what the Caffe releases and their published
  learning rates assume.
- ``raw``: BGR in 0…255 with nothing subtracted, what SegNet's release feeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from segwright.core.errors import ModelError, WeightsError
from segwright.models.base import IMAGENET_MEAN, IMAGENET_STD, SegmentationModel

InputScale = Literal["imagenet", "caffe", "raw"]
Initialization = Literal["paper", "he"]

VGG16_CONVOLUTIONS = (2, 2, 3, 3, 3)  # convolutions a level
VGG16_WIDTHS = (64, 128, 256, 512, 512)  # channels a level
# torchvision numbers the layers of `features` through, ReLUs and pools counted
TORCHVISION_VGG16 = {
    0: "conv1_1", 2: "conv1_2", 5: "conv2_1", 7: "conv2_2", 10: "conv3_1", 12: "conv3_2", 14: "conv3_3",
    17: "conv4_1", 19: "conv4_2", 21: "conv4_3", 24: "conv5_1", 26: "conv5_2", 28: "conv5_3",
}  # fmt: skip
TORCHVISION_CLASSIFIER = {0: "fc6", 3: "fc7"}

_BYTE = (1 / 255,) * 3
# Per-channel mean and standard deviation of RGB in 0…1, and whether the channels are then turned to BGR.
INPUT_SCALES: dict[InputScale, tuple[tuple[float, ...], tuple[float, ...], bool]] = {
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD, False),
    "caffe": ((122.67892 / 255, 116.66877 / 255, 104.00699 / 255), _BYTE, True),
    "raw": ((0.0, 0.0, 0.0), _BYTE, True),
}


class InputScaledModel(SegmentationModel):
    """A network whose pixel convention is an argument; ``input_scale`` is one of :data:`INPUT_SCALES`.

    ``pretrained_trunk`` is the name of the torchvision model whose ImageNet state dict :meth:`load_pretrained` takes.
    """

    pretrained_trunk: str | None = None

    def __init__(
        self,
        *,
        classes: int,
        in_channels: int = 3,
        input_scale: InputScale = "imagenet",
        stride: int = 32,
        size_divisor: int | None = None,
        minimum_size: int = 1,
    ) -> None:
        if input_scale not in INPUT_SCALES:
            raise ModelError("unknown pixel convention", expected=", ".join(INPUT_SCALES), found=str(input_scale))
        mean, std, bgr = INPUT_SCALES[input_scale]
        super().__init__(
            classes=classes,
            in_channels=in_channels,
            stride=stride,
            size_divisor=size_divisor,
            minimum_size=minimum_size,
            mean=mean,
            std=std,
        )
        self.input_scale = input_scale
        self.bgr = bgr and in_channels == 3

    def normalize(self, images: Tensor) -> Tensor:
        """As the base class, then B, G, R where the convention requires it."""
        x = super().normalize(images)
        return x.flip(1) if self.bgr else x

    def load_pretrained(self, state: Mapping[str, Tensor], *, trained_on: InputScale = "imagenet") -> list[str]:
        """Take a classifier's weights (``pretrained_trunk`` in torchvision's names) and return what was loaded.

        ``trained_on`` is the pixel convention of those weights, their channels in R, G, B order as torchvision keeps
        them. :raises WeightsError: the network's own convention differs, a layer is missing, or a shape does not fit.
        """
        raise WeightsError(
            "this network has no pretrained trunk to load", where=type(self).__name__, fix="train it from scratch"
        )

    def require_input_scale(self, trained_on: InputScale) -> None:
        """Raise WeightsError if weights were trained on another scale of the input: a mismatch trains, badly."""
        if trained_on != self.input_scale:
            raise WeightsError(
                "these weights expect other pixels than the network feeds",
                expected=f"input_scale={trained_on!r}",
                found=f"input_scale={self.input_scale!r}",
                where=type(self).__name__,
                fix=f"create the model with input_scale={trained_on!r}",
            )


class VGGTrunk(nn.Module):
    """The convolutions and pools; returns the five pooled features.

    ``pools`` are five modules, one a level. ``first_padding`` is conv1_1's (FCN: 100), ``last_dilation`` that of conv5
    (DeepLab: 2). Tiny ``widths`` are for tests.
    """

    def __init__(
        self,
        *,
        pools: Sequence[nn.Module],
        in_channels: int = 3,
        widths: Sequence[int] = VGG16_WIDTHS,
        first_padding: int = 1,
        last_dilation: int = 1,
    ) -> None:
        super().__init__()
        if len(pools) != 5 or len(widths) != 5:
            raise ModelError("VGG16 has five levels", found=f"{len(pools)} pools, {len(widths)} widths")
        self.widths = tuple(widths)
        channels = in_channels
        for level, (count, width) in enumerate(zip(VGG16_CONVOLUTIONS, widths, strict=True), 1):
            dilation = last_dilation if level == 5 else 1
            for index in range(1, count + 1):
                padding = first_padding if level == index == 1 else dilation
                conv = nn.Conv2d(channels, width, 3, padding=padding, dilation=dilation)
                self.add_module(f"conv{level}_{index}", conv)
                channels = width
            self.add_module(f"pool{level}", pools[level - 1])
        he_initialize(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, C, H, W) → pool1 … pool5."""
        features = []
        for level, count in enumerate(VGG16_CONVOLUTIONS, 1):
            for index in range(1, count + 1):
                x = torch.relu(self.get_submodule(f"conv{level}_{index}")(x))
            x = self.get_submodule(f"pool{level}")(x)
            features.append(x)
        return features


def he_initialize(module: nn.Module) -> None:
    """Normal weights of variance 2 ÷ fan-in (He et al. 2015), zero biases: what a network without BN needs to start."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_in", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def load_vgg16_trunk(trunk: nn.Module, state: Mapping[str, Tensor], *, bgr: bool) -> list[str]:
    """Copy the thirteen convolutions out of a torchvision VGG16 state dict; returns their names.

    ``bgr``: the trunk reads B, G, R, so conv1_1's input channels are turned. A trunk with other than three input
    channels gets conv1_1 adapted (:func:`adapt_input_channels`).
    """
    for index, name in TORCHVISION_VGG16.items():
        weight = required(state, f"features.{index}.weight")
        if name == "conv1_1":
            conv = trunk.get_submodule(name)
            assert isinstance(conv, nn.Conv2d)
            weight = adapt_input_channels(weight.flip(1) if bgr else weight, conv.in_channels)
        copy_convolution(trunk.get_submodule(name), weight, required(state, f"features.{index}.bias"), where=name)
    return list(TORCHVISION_VGG16.values())


def load_vgg16_classifier(fc6: nn.Module, fc7: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Fully connected layers become convolutions, thinned where the target is smaller; returns what was loaded.

    4096×25088 is read as 4096×512×7×7 ('convolutionalised', FCN section 3.1). DeepLab's smaller fc6 takes evenly spread
    taps and every fourth filter of it; which of them the authors took is not published, so this choice is ours.
    Feature-only weights (torchvision's IMAGENET1K_FEATURES) carry no usable classifier: nothing is loaded then.
    """
    loaded = []
    rows: Tensor | None = None
    for (index, name), layer in zip(TORCHVISION_CLASSIFIER.items(), (fc6, fc7), strict=True):
        if f"classifier.{index}.weight" not in state:
            break
        weight = state[f"classifier.{index}.weight"]
        if not bool(torch.isfinite(weight).all()):
            break
        assert isinstance(layer, nn.Conv2d)
        weight = weight.reshape(4096, 512, 7, 7) if name == "fc6" else weight.reshape(4096, 4096, 1, 1)
        if rows is not None:
            weight = weight[:, rows]
        rows = spread(weight.shape[0], layer.out_channels)
        taps = spread(weight.shape[-1], layer.kernel_size[0])
        weight = weight[rows][:, :, taps][..., taps]
        copy_convolution(layer, weight, required(state, f"classifier.{index}.bias")[rows], where=name)
        loaded.append(name)
    return loaded


def spread(count: int, kept: int) -> Tensor:
    """``kept`` of ``count`` indices: both ends for kernel taps (7 → 3: 0, 3, 6), every n-th where it divides."""
    if count % kept == 0:
        return torch.arange(0, count, count // kept)
    return torch.linspace(0, count - 1, kept).round().long()


def adapt_input_channels(weight: Tensor, channels: int) -> Tensor:
    """A first convolution (O, 3, k, k) for another number of channels: summed for one, else repeated in turn and scaled
    by 3 ÷ ``channels``.

    A gray image spread over the channels gives the response it gave where they are one or a multiple of three, and
    about that otherwise: the first colors then count once more than the others.
    """
    if channels == weight.shape[1]:
        return weight
    if channels == 1:
        return weight.sum(1, keepdim=True)
    repeats = -(-channels // weight.shape[1])
    return weight.repeat(1, repeats, 1, 1)[:, :channels] * (weight.shape[1] / channels)


def required(state: Mapping[str, Tensor], key: str) -> Tensor:
    """``state[key]``, or an error that names it."""
    if key not in state:
        raise WeightsError(
            "the weights lack a layer",
            expected=f"torchvision's name {key}",
            found=f"{len(state)} entries, such as {next(iter(state), 'none')}",
            fix="pass the state dict of torchvision's model of that name",
        )
    return state[key]


def copy_convolution(layer: nn.Module, weight: Tensor, bias: Tensor, *, where: str) -> None:
    """Weights into a convolution, shapes checked."""
    assert isinstance(layer, nn.Conv2d) and layer.bias is not None
    if layer.weight.shape != weight.shape:
        raise WeightsError(
            "a pretrained layer does not fit",
            expected=str(tuple(layer.weight.shape)),
            found=str(tuple(weight.shape)),
            where=where,
            fix="load pretrained weights into the full-width network",
        )
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
