"""SegFormer: a transformer without positional codes, and a decoder of 1×1 layers.

Xie et al. 2021 (arXiv 2105.15203). The decoder takes any encoder; the paper's is the Mix Transformer of
``mix_transformer.py`` (``mit_b0`` … ``mit_b5``). NVIDIA's published MiT and SegFormer weights are for non-commercial
use only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from segwright.models.base import SegmentationModel, SegOutput, resize
from segwright.models.blocks import ConvNormReLU, initialize_decoder, initialize_head
from segwright.models.encoders.base import Encoder, require_strides


class SegFormer(SegmentationModel):
    """Encoder; every stage to ``channels`` by a linear layer, upsampled to stride 4, fused by 1×1; 1×1 head.

    ``channels`` is 256 for B0 and B1, 768 for B2 to B5 (paper, table 6); the catalog sets it by the encoder's name.
    """

    smp_keys: ClassVar[Mapping[str, str]] = {
        r"decoder\.mlp_stage\.(\d)\.linear\.": r"linears.\1.",
        r"decoder\.fuse_stage\.": "fuse.",
        r"segmentation_head\.0\.": "head.",
    }
    # transformers counts the linear layers from the finest stage, we from the coarsest
    transformers_keys: ClassVar[Mapping[str, str]] = {
        **{rf"decode_head\.linear_(?:c|projections)\.{i}\.proj\.": f"linears.{3 - i}." for i in range(4)},
        r"decode_head\.linear_fuse\.": "fuse.0.",
        r"decode_head\.batch_norm\.": "fuse.1.",
        r"decode_head\.classifier\.": "head.",
    }

    def __init__(
        self,
        *,
        encoder: Encoder,
        classes: int,
        channels: int = 256,
        dropout: float = 0.1,
        align_corners: bool = False,
    ) -> None:
        super().__init__(
            classes=classes,
            in_channels=encoder.in_channels,
            stride=encoder.output_stride,
            size_divisor=max(encoder.channels),
            mean=encoder.mean,
            std=encoder.std,
        )
        require_strides(encoder, (4,), "SegFormer")
        self.strides = tuple(sorted(encoder.channels, reverse=True))  # the coarsest first
        self.logits_stride = encoder.reductions[4]
        self.align_corners = align_corners
        self.encoder = encoder
        # Linear layers, written as 1×1 convolutions: the same numbers without turning the feature into tokens.
        self.linears = nn.ModuleList(nn.Conv2d(encoder.channels[stride], channels, 1) for stride in self.strides)
        self.fuse = ConvNormReLU(len(self.strides) * channels, channels, 1)
        self.dropout = nn.Dropout2d(dropout)
        self.head = nn.Conv2d(channels, classes, 1)
        for part in (self.linears, self.fuse):
            initialize_decoder(part)
        initialize_head(self.head)

    def encoder_modules(self) -> Sequence[nn.Module]:
        return (self.encoder,)

    def classifier_layers(self) -> Mapping[str, Sequence[nn.Module]]:
        return {"logits": (self.head,)}

    def forward_padded(self, x: Tensor) -> SegOutput:
        features = self.encoder(x)
        finest = (features[4].shape[-2], features[4].shape[-1])
        parts = [
            resize(linear(features[stride]), finest) for stride, linear in zip(self.strides, self.linears, strict=True)
        ]
        logits = self.head(self.dropout(self.fuse(torch.cat(parts, dim=1))))
        return SegOutput(resize(logits, (x.shape[-2], x.shape[-1]), align_corners=self.align_corners), {})
