"""PSPNet: a dilated encoder, and averages of its last feature over grids of several sizes.

Zhao et al. 2017 (arXiv 1612.01105), to the released code (hszhao/semseg): every block of the dilated stages has the
stage's own dilation (2 and 4), pooled features are brought back with align_corners=True, and an auxiliary head learns
from the stage before the last (weight 0.4 in the loss). The paper's deep stem (64-64-128) is that of timm's
``resnet50s``; the plain one is that of ``resnet50``.

Grid: the release asserts sides of 8k + 1, on which stride-8 scores with aligned corners lie on pixels 0, 8, 16….
Images are padded to such sides by edge values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from segwright.models.base import SegmentationModel, SegOutput, resize
from segwright.models.blocks import ConvNormReLU, FCNHead, PyramidPooling, initialize_decoder, initialize_head
from segwright.models.encoders.base import Encoder, require_strides
from segwright.models.foreign_names import MMSEG_HEADS


class PSPNet(SegmentationModel):
    """Encoder, pyramid pooling, one convolution, 1×1 head.

    ``bins``: the grids; ``bin_channels``: of each pooled branch; ``channels`` and ``fuse_kernel``: of the convolution
    after the concatenation. ``aux``: the auxiliary head on stage 16, in training only. ``norm_of_one=False`` gives
    the 1×1 grid a bias instead of a batch norm, so that it trains with one image per batch. ``grid_aligned``: pad to
    multiples of the stride plus one (None: if ``align_corners``, as released; segmentation_models_pytorch does not).
    ``size_divisor=1``: no padding.
    """

    smp_keys: ClassVar[Mapping[str, str]] = {
        r"decoder\.psp\.blocks\.(\d)\.pool\.1\.0\.": r"pyramid.branches.\1.conv.",
        r"decoder\.psp\.blocks\.(\d)\.pool\.1\.1\.": r"pyramid.branches.\1.norm.",
        r"decoder\.conv\.": "fuse.",
        r"segmentation_head\.0\.": "head.",
    }

    mmseg_keys: ClassVar[Mapping[str, str]] = {
        r"decode_head\.psp_modules\.(\d)\.1\.conv\.": r"pyramid.branches.\1.conv.",
        r"decode_head\.psp_modules\.(\d)\.1\.bn\.": r"pyramid.branches.\1.norm.",
        r"decode_head\.bottleneck\.conv\.": "fuse.0.",
        r"decode_head\.bottleneck\.bn\.": "fuse.1.",
        **MMSEG_HEADS,
    }

    def __init__(
        self,
        *,
        encoder: Encoder,
        classes: int,
        bins: Sequence[int] = (1, 2, 3, 6),
        bin_channels: int = 512,
        channels: int = 512,
        fuse_kernel: int = 3,
        head_kernel: int = 1,
        norm_of_one: bool = True,
        align_corners: bool = True,
        grid_aligned: bool | None = None,
        size_divisor: int | None = None,
        dropout: float = 0.1,
        aux: bool = True,
    ) -> None:
        super().__init__(
            classes=classes,
            in_channels=encoder.in_channels,
            stride=encoder.output_stride,
            size_divisor=size_divisor,
            mean=encoder.mean,
            std=encoder.std,
        )
        self.grid_aligned = align_corners if grid_aligned is None else grid_aligned
        self.last = max(encoder.channels)
        self.align_corners = align_corners
        self.encoder = encoder
        self.pyramid = PyramidPooling(
            encoder.channels[self.last], bin_channels, bins=bins, align_corners=align_corners, norm_of_one=norm_of_one
        )
        self.fuse = ConvNormReLU(self.pyramid.out_channels, channels, fuse_kernel)
        self.dropout = nn.Dropout2d(dropout)
        self.head = nn.Conv2d(channels, classes, head_kernel, padding=head_kernel // 2)
        self.aux_head: FCNHead | None = None
        if aux:
            require_strides(encoder, (self.last // 2,), "PSPNet's auxiliary head")
            self.aux_head = FCNHead(encoder.channels[self.last // 2], classes, drop_channels=True)
            initialize_decoder(self.aux_head)
        for part in (self.pyramid, self.fuse):
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
        logits = self.head(self.dropout(self.fuse(self.pyramid(features[self.last]))))
        aux = {}
        if self.aux_head is not None and self.training:
            aux["aux"] = resize(self.aux_head(features[self.last // 2]), size, align_corners=self.align_corners)
        return SegOutput(resize(logits, size, align_corners=self.align_corners), aux)

    def arrange_smp(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """segmentation_models_pytorch puts the pooled branches before the feature, we (as the release) after it."""
        weight = state["fuse.0.weight"]
        pooled = sum(branch.conv.out_channels for branch in self.pyramid.branches)  # type: ignore[union-attr,misc]
        return {**state, "fuse.0.weight": torch.cat([weight[:, pooled:], weight[:, :pooled]], dim=1)}
