"""UPerNet: a pyramid pooling on the last stage, a feature pyramid down to stride 4, and all levels fused.

Xiao et al. 2018, Unified Perceptual Parsing (arXiv 1807.10221), the part for semantic segmentation; with convolution,
batch norm and ReLU everywhere, 512 channels and an auxiliary head, as in the code people measure against
(mmsegmentation). The authors' code also has 512 (256 in its ``upernet_lite``) and no auxiliary head; it enlarges a
pooled map before its 1×1 convolution, mmsegmentation and we after it. ``feature_norms`` puts a layer norm on every
encoder feature, which segmentation_models_pytorch does for its transformers and the paper does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from segwright.models.base import SegmentationModel, SegOutput, resize
from segwright.models.blocks import (
    ChannelNorm,
    ConvNormReLU,
    FCNHead,
    PyramidPooling,
    initialize_decoder,
    initialize_head,
)
from segwright.models.encoders.base import Encoder, require_strides
from segwright.models.foreign_names import MMSEG_HEADS


class UPerNet(SegmentationModel):
    """Encoder, pyramid, 1×1 head at stride 4. ``aux``: an FCN head on stage 16, in training only."""

    smp_keys: ClassVar[Mapping[str, str]] = {
        r"decoder\.psp\.blocks\.(\d)\.1\.0\.": r"pyramid.branches.\1.conv.",
        r"decoder\.psp\.blocks\.(\d)\.1\.1\.": r"pyramid.branches.\1.norm.",
        r"decoder\.psp\.out_conv\.": "pyramid_fuse.",
        r"decoder\.feature_norms\.": "norms.",
        r"decoder\.fpn_lateral_blocks\.(\d)\.conv_norm_relu\.": r"laterals.\1.",
        r"decoder\.fpn_conv_blocks\.": "levels.",
        r"decoder\.fusion_block\.": "fuse.",
        r"segmentation_head\.0\.": "head.",
    }

    # mmsegmentation counts laterals and levels from the finest stage, we from the coarsest
    mmseg_keys: ClassVar[Mapping[str, str]] = {
        r"decode_head\.psp_modules\.(\d)\.1\.conv\.": r"pyramid.branches.\1.conv.",
        r"decode_head\.psp_modules\.(\d)\.1\.bn\.": r"pyramid.branches.\1.norm.",
        r"decode_head\.bottleneck\.conv\.": "pyramid_fuse.0.",
        r"decode_head\.bottleneck\.bn\.": "pyramid_fuse.1.",
        **{
            rf"decode_head\.{theirs}\.{i}\.{layer}\.": f"{ours}.{2 - i}.{index}."
            for theirs, ours in (("lateral_convs", "laterals"), ("fpn_convs", "levels"))
            for index, layer in enumerate(("conv", "bn"))
            for i in range(3)
        },
        r"decode_head\.fpn_bottleneck\.conv\.": "fuse.0.",
        r"decode_head\.fpn_bottleneck\.bn\.": "fuse.1.",
        **MMSEG_HEADS,
    }

    def __init__(
        self,
        *,
        encoder: Encoder,
        classes: int,
        channels: int = 512,
        feature_norms: bool = False,
        norm_of_one: bool = True,
        dropout: float = 0.1,
        aux: bool = True,
        align_corners: bool = False,
        size_divisor: int | None = None,
    ) -> None:
        super().__init__(
            classes=classes,
            in_channels=encoder.in_channels,
            stride=encoder.output_stride,
            size_divisor=max(encoder.channels) if size_divisor is None else size_divisor,
            mean=encoder.mean,
            std=encoder.std,
        )
        self.strides = tuple(stride for stride in sorted(encoder.channels) if stride >= 4)
        require_strides(encoder, (4, 8), "UPerNet")
        self.logits_stride = encoder.reductions[4]
        *finer, last = (encoder.channels[stride] for stride in self.strides)
        self.align_corners = align_corners
        self.encoder = encoder
        self.norms = nn.ModuleList(
            ChannelNorm(encoder.channels[stride]) if feature_norms else nn.Identity() for stride in self.strides
        )
        self.pyramid = PyramidPooling(last, channels, norm_of_one=norm_of_one)
        self.pyramid_fuse = ConvNormReLU(self.pyramid.out_channels, channels)
        # From the coarsest lateral to the finest, as the feature pyramid is built.
        self.laterals = nn.ModuleList(ConvNormReLU(width, channels, 1) for width in reversed(finer))
        self.levels = nn.ModuleList(ConvNormReLU(channels, channels) for _ in finer)
        self.fuse = ConvNormReLU(len(self.strides) * channels, channels)
        self.dropout = nn.Dropout2d(dropout)
        self.head = nn.Conv2d(channels, classes, 1)
        self.aux_head: FCNHead | None = None
        if aux:
            require_strides(encoder, (16,), "UPerNet's auxiliary head")
            self.aux_head = FCNHead(encoder.channels[16], classes, channels=256)
            initialize_decoder(self.aux_head)
        for part in (self.pyramid, self.pyramid_fuse, self.laterals, self.levels, self.fuse):
            initialize_decoder(part)
        initialize_head(self.head)

    def encoder_modules(self) -> Sequence[nn.Module]:
        return (self.encoder,)

    def classifier_layers(self) -> Mapping[str, Sequence[nn.Module]]:
        found: dict[str, Sequence[nn.Module]] = {"logits": (self.head,)}
        if self.aux_head is not None:
            found["aux"] = (self.aux_head[-1],)
        return found

    def forward_padded(self, x: Tensor) -> SegOutput:
        size = (x.shape[-2], x.shape[-1])
        features = self.encoder(x)
        normed = [norm(features[stride]) for stride, norm in zip(self.strides, self.norms, strict=True)]
        state = self.pyramid_fuse(self.pyramid(normed[-1]))
        pyramid = [state]
        for lateral, level, feature in zip(self.laterals, self.levels, reversed(normed[:-1]), strict=True):
            state = lateral(feature) + resize(state, (feature.shape[-2], feature.shape[-1]))
            pyramid.insert(0, level(state))  # the next sum takes the state, not its convolution
        finest = (pyramid[0].shape[-2], pyramid[0].shape[-1])
        fused = self.fuse(torch.cat([resize(level, finest) for level in pyramid], dim=1))
        aux = {}
        if self.aux_head is not None and self.training:
            aux["aux"] = resize(self.aux_head(features[16]), size)
        return SegOutput(resize(self.head(self.dropout(fused)), size, align_corners=self.align_corners), aux)
