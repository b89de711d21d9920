"""FCN and LR-ASPP in torchvision's form: a convolution on a dilated encoder, and the lightest head for a MobileNet.

FCN here is not Long et al.'s network (``fcn.py``) but a 3×3 convolution and a classifier on a ResNet of output stride
8. LR-ASPP is section 6.4 of Howard et al. 2019, Searching for MobileNetV3 (arXiv 1905.02244), as torchvision has it:
global average pooling instead of the paper's 49×49 window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from segwright.models.base import SegmentationModel, SegOutput, resize
from segwright.models.blocks import ConvNormReLU, FCNHead, initialize_decoder, initialize_head
from segwright.models.encoders.base import Encoder, require_strides


class FCNResNet(SegmentationModel):
    """Encoder and FCN head; ``aux`` puts a second one on stage 16, in training only. Odd sizes are not padded."""

    torchvision_keys: ClassVar[Mapping[str, str]] = {r"aux_classifier\.": "aux_head.", r"classifier\.": "head."}

    def __init__(
        self, *, encoder: Encoder, classes: int, aux: bool = False, dropout: float = 0.1, size_divisor: int = 1
    ) -> None:
        super().__init__(
            classes=classes,
            in_channels=encoder.in_channels,
            stride=encoder.output_stride,
            size_divisor=size_divisor,
            mean=encoder.mean,
            std=encoder.std,
        )
        self.last = max(encoder.channels)
        self.encoder = encoder
        self.head = FCNHead(encoder.channels[self.last], classes, dropout=dropout)
        initialize_decoder(self.head)
        self.aux_head: FCNHead | None = None
        if aux:
            require_strides(encoder, (16,), "FCN's auxiliary head")
            self.aux_head = FCNHead(encoder.channels[16], classes, dropout=dropout)
            initialize_decoder(self.aux_head)

    def encoder_modules(self) -> Sequence[nn.Module]:
        return (self.encoder,)

    def classifier_layers(self) -> Mapping[str, Sequence[nn.Module]]:
        found: dict[str, Sequence[nn.Module]] = {"logits": (self.head[-1],)}
        if self.aux_head is not None:
            found["aux"] = (self.aux_head[-1],)
        return found

    def forward_padded(self, x: Tensor) -> SegOutput:
        size = (x.shape[-2], x.shape[-1])
        features = self.encoder(x)
        aux = {}
        if self.aux_head is not None and self.training:
            aux["aux"] = resize(self.aux_head(features[16]), size)
        return SegOutput(resize(self.head(features[self.last]), size), aux)


class LRASPP(SegmentationModel):
    """The last feature, gated by its own average, plus a linear classifier on the stride-8 feature."""

    torchvision_keys: ClassVar[Mapping[str, str]] = {
        r"classifier\.cbr\.": "high.",
        r"classifier\.scale\.1\.": "gate.",
        r"classifier\.low_classifier\.": "low_head.",
        r"classifier\.high_classifier\.": "head.",
    }

    def __init__(self, *, encoder: Encoder, classes: int, channels: int = 128, size_divisor: int = 1) -> None:
        super().__init__(
            classes=classes,
            in_channels=encoder.in_channels,
            stride=encoder.output_stride,
            size_divisor=size_divisor,
            mean=encoder.mean,
            std=encoder.std,
        )
        require_strides(encoder, (8,), "LR-ASPP")
        self.logits_stride = encoder.reductions[8]
        self.last = max(encoder.channels)
        self.encoder = encoder
        self.high = ConvNormReLU(encoder.channels[self.last], channels, 1)
        self.gate = nn.Conv2d(encoder.channels[self.last], channels, 1, bias=False)
        self.low_head = nn.Conv2d(encoder.channels[8], classes, 1)
        self.head = nn.Conv2d(channels, classes, 1)
        initialize_decoder(self.high)
        for part in (self.gate, self.low_head, self.head):
            initialize_head(part)

    def encoder_modules(self) -> Sequence[nn.Module]:
        return (self.encoder,)

    def classifier_layers(self) -> Mapping[str, Sequence[nn.Module]]:
        return {"logits": (self.low_head, self.head)}

    def forward_padded(self, x: Tensor) -> SegOutput:
        features = self.encoder(x)
        low, high = features[8], features[self.last]
        gated = self.high(high) * torch.sigmoid(self.gate(high.mean((2, 3), keepdim=True)))
        joined = self.low_head(low) + self.head(resize(gated, (low.shape[-2], low.shape[-1])))
        return SegOutput(resize(joined, (x.shape[-2], x.shape[-1])), {})
