"""SegNet and SegNet-Basic: decoders that put values back where the encoder's max pools found them.

Badrinarayanan, Kendall and Cipolla, SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image Segmentation
(PAMI 2017), built to the released ``segnet_train.prototxt`` and ``segnet_basic_train.prototxt``. Convolutions have a
bias although BN follows; BN shifts start at 0.001, weights as in He et al.; pools round up, so at 360×480 the levels
are odd (45×60 → 23×30) and unpooling takes the recorded size. SegNet-Basic's decoder has no ReLU.

Difference: the release feeds raw BGR (``input_scale="raw"``, which SegNet-Basic keeps, its LRN lives on that scale);
SegNet's default here is torchvision's convention, because BN makes the scale irrelevant and the centring helps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segwright.models.base import SegmentationModel, SegOutput
from segwright.models.encoders.vgg import (
    TORCHVISION_VGG16,
    VGG16_CONVOLUTIONS,
    VGG16_WIDTHS,
    InputScale,
    InputScaledModel,
    adapt_input_channels,
    copy_convolution,
    required,
)

BN_SHIFT = 0.001  # released bn_param shift_filler: a hair above the ReLU's corner


def pool_with_places(x: Tensor) -> tuple[Tensor, Tensor]:
    """2×2/2 max pool, rounding up: values and the flat place of each maximum in its (H, W) plane."""
    values, places = F.max_pool2d(x, 2, 2, ceil_mode=True, return_indices=True)
    return values, places


def unpool(x: Tensor, places: Tensor, size: Sequence[int]) -> Tensor:
    """Values back to their places in a plane of ``size`` (height, width), zeros elsewhere.

    A scatter, not ``max_unpool2d``: it needs no guess of an odd size, is deterministic (places never repeat, windows do
    not overlap) and can be exported.
    """
    batch, channels = x.shape[:2]
    plane = x.new_zeros(batch, channels, size[0] * size[1])
    filled = plane.scatter(2, places.flatten(2), x.flatten(2))
    return filled.reshape(batch, channels, size[0], size[1])


class ConvBN(nn.Module):
    """Convolution that keeps the size, batch normalization, and ReLU unless ``relu`` is False."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int = 3, bias: bool = True, relu: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias)
        self.bn = nn.BatchNorm2d(outputs)
        self.relu = relu
        msra(self.conv)
        nn.init.constant_(self.bn.bias, BN_SHIFT)

    def forward(self, x: Tensor) -> Tensor:
        normalized: Tensor = self.bn(self.conv(x))
        return torch.relu(normalized) if self.relu else normalized


def msra(conv: nn.Conv2d) -> None:
    """Caffe's ``msra`` filler, zero bias."""
    nn.init.kaiming_normal_(conv.weight, mode="fan_in", nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


class UnpoolingNet(InputScaledModel):
    """What both have in common: encoder levels, pools that remember, decoder levels, a classifier.

    Takes any size as it is: pools round up and the sizes before them are kept.
    """

    def __init__(
        self,
        *,
        classes: int,
        in_channels: int,
        input_scale: InputScale,
        first: nn.Module,
        encoder: Sequence[nn.Module],
        decoder: Sequence[nn.Module],
        classifier: nn.Conv2d,
    ) -> None:
        super().__init__(
            classes=classes, in_channels=in_channels, input_scale=input_scale, stride=2 ** len(encoder), size_divisor=1
        )
        self.logits_stride = 1
        self.first = first
        self.encoder = nn.ModuleList(encoder)
        self.decoder = nn.ModuleList(decoder)  # deepest level first
        self.classifier = classifier
        msra(classifier)

    def feature_modules(self) -> Sequence[nn.Module]:
        return (self.encoder[-1],)

    def classifier_layers(self) -> Mapping[str, Sequence[nn.Module]]:
        return {"logits": (self.classifier,)}

    def forward_padded(self, x: Tensor) -> SegOutput:
        x = self.first(x)
        kept = []
        for level in self.encoder:
            x = level(x)
            size = x.shape[-2:]
            x, places = pool_with_places(x)
            kept.append((places, size))
        for level, (places, size) in zip(self.decoder, reversed(kept), strict=True):
            x = level(unpool(x, places, size))
        return SegOutput(self.classifier(x), {})


class SegNet(UnpoolingNet):
    """VGG16's thirteen convolutions and their mirror image. Parameters: N=11 29,449,355 (29,441,419 with
    ``bias=False``), N=21 29,455,125."""

    pretrained_trunk = "vgg16_bn"

    def __init__(
        self,
        *,
        classes: int,
        in_channels: int = 3,
        input_scale: InputScale = "imagenet",
        bias: bool = True,
        widths: Sequence[int] = VGG16_WIDTHS,
    ) -> None:
        encoder, decoder = [], []
        channels = in_channels
        for count, width in zip(VGG16_CONVOLUTIONS, widths, strict=True):
            level = [ConvBN(channels if i == 0 else width, width, bias=bias) for i in range(count)]
            encoder.append(nn.Sequential(*level))
            channels = width
        for index in reversed(range(len(widths))):
            # the last convolution of a level narrows to the level above; that of the first level is the classifier
            count, width = VGG16_CONVOLUTIONS[index], widths[index]
            level = [ConvBN(width, width, bias=bias) for _ in range(count - 1)]
            if index:
                level.append(ConvBN(width, widths[index - 1], bias=bias))
            decoder.append(nn.Sequential(*level))
        super().__init__(
            classes=classes,
            in_channels=in_channels,
            input_scale=input_scale,
            first=nn.Identity(),
            encoder=encoder,
            decoder=decoder,
            classifier=nn.Conv2d(widths[0], classes, 3, padding=1),
        )

    def encoder_modules(self) -> Sequence[nn.Module]:
        return (self.encoder,)

    def load_pretrained(self, state: Mapping[str, Tensor], *, trained_on: InputScale = "imagenet") -> list[str]:
        """The encoder from torchvision's ``vgg16_bn``, or from ``vgg16`` (no BN in it), as the authors began."""
        self.require_input_scale(trained_on)
        normalized = "features.1.running_mean" in state
        layers = [layer for level in self.encoder for layer in level.children()]
        # in vgg16_bn every convolution is followed by its BN, which moves the k-th convolution k places further on
        for order, (index, layer) in enumerate(zip(TORCHVISION_VGG16, layers, strict=True)):
            assert isinstance(layer, ConvBN)
            place = index + order if normalized else index
            weight = required(state, f"features.{place}.weight")
            if order == 0:
                weight = adapt_input_channels(weight.flip(1) if self.bgr else weight, self.in_channels)
            bias = required(state, f"features.{place}.bias")
            if layer.conv.bias is None:
                # BN takes the mean away again, so only its running mean has to include the missing bias
                layer.conv.bias = nn.Parameter(torch.zeros_like(bias))
                copy_convolution(layer.conv, weight, torch.zeros_like(bias), where=f"encoder {order}")
                layer.conv.bias = None
            else:
                copy_convolution(layer.conv, weight, bias, where=f"encoder {order}")
            if normalized:
                entries = {
                    name: required(state, f"features.{place + 1}.{name}")
                    for name in ("weight", "bias", "running_mean", "running_var")
                }
                if layer.conv.bias is None:
                    entries["running_mean"] = entries["running_mean"] - bias
                layer.bn.load_state_dict(entries, strict=False)
        return list(TORCHVISION_VGG16.values())


class SegNetBasic(UnpoolingNet):
    """Four levels of one 7×7×64 convolution each way, after a local response normalization over the raw pixels."""

    def __init__(
        self, *, classes: int, in_channels: int = 3, input_scale: InputScale = "raw", width: int = 64, levels: int = 4
    ) -> None:
        super().__init__(
            classes=classes,
            in_channels=in_channels,
            input_scale=input_scale,
            first=nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0),
            encoder=[ConvBN(width if level else in_channels, width, kernel=7) for level in range(levels)],
            decoder=[ConvBN(width, width, kernel=7, relu=False) for _ in range(levels)],
            classifier=nn.Conv2d(width, classes, 1),
        )


MODELS: dict[str, Callable[..., SegmentationModel]] = {"segnet": SegNet, "segnet_basic": SegNetBasic}
