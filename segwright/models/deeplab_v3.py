"""DeepLab v3 and v3+: the same feature seen through several dilations and as a whole, side by side.

Chen et al. 2017 (arXiv 1706.05587) and 2018 (arXiv 1802.02611). The atrous spatial pyramid (ASPP) has a 1×1
convolution, three 3×3 with dilations 6, 12, 18 at output stride 16 (twice that at 8) and the image's average.
Multi-grid (1, 2, 4 on the last stage's blocks, section 3.1) is an option of the encoder. Torchvision's network
differs: it adds a 3×3 convolution before the classifier, keeps dilations 12, 24, 36 whatever the stride, has no
multi-grid, and drops half of the projected values instead of the release's tenth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from segwright.core.errors import ModelError
from segwright.models.base import SegmentationModel, SegOutput, resize
from segwright.models.blocks import (
    ConvNormReLU,
    FCNHead,
    PooledConv,
    SeparableConvNormReLU,
    initialize_decoder,
    initialize_head,
)
from segwright.models.encoders.base import Encoder, require_strides
from segwright.models.foreign_names import MMSEG_ASPP, MMSEG_HEADS, pooled_view_last, separable_names

RATES = {8: (12, 24, 36), 16: (6, 12, 18), 32: (3, 6, 9)}  # of the ASPP, by output stride (v3, section 3.3)
RELEASED_DROPOUT, TORCHVISION_DROPOUT = 0.1, 0.5  # after the ASPP: keep_prob 0.9 of tensorflow/models' deeplab
LOW_CHANNELS = 48  # what v3+ reduces the stride-4 feature to (v3+, section 4.1)


class ASPP(nn.Module):
    """(N, in, h, w) → (N, out, h, w): five views, concatenated and projected. ``image_pooling``: the fifth.
    ``project_kernel``: 1 in the paper, 3 in mmsegmentation."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        rates: Sequence[int],
        *,
        separable: bool = False,
        depthwise_norm: bool = True,
        image_pooling: bool = True,
        project_kernel: int = 1,
        dropout: float = RELEASED_DROPOUT,
    ) -> None:
        super().__init__()
        views: list[nn.Module] = [ConvNormReLU(in_channels, out_channels, 1)]
        for rate in rates:
            if separable:
                views.append(
                    SeparableConvNormReLU(in_channels, out_channels, dilation=rate, depthwise_norm=depthwise_norm)
                )
            else:
                views.append(ConvNormReLU(in_channels, out_channels, dilation=rate))
        if image_pooling:
            views.append(PooledConv(in_channels, out_channels, 1))
        self.views = nn.ModuleList(views)
        self.project = ConvNormReLU(len(views) * out_channels, out_channels, project_kernel)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        seen = []
        for view in self.views:
            feature = view(x)
            # The image's average is one pixel; interpolating it is repeating it.
            pooled = isinstance(view, PooledConv)
            seen.append(feature.expand(-1, -1, x.shape[-2], x.shape[-1]) if pooled else feature)
        out: Tensor = self.dropout(self.project(torch.cat(seen, dim=1)))
        return out


class DeepLabV3(SegmentationModel):
    """Encoder, ASPP, (torchvision's 3×3,) 1×1 head.

    ``head``: ``paper`` (ASPP and 1×1) or ``torchvision`` (one 3×3 more). ``rates``: by the output stride unless given.
    ``aux``: an FCN head on stage ``aux_stride``, in training only. ``dropout`` after the ASPP: 0.1 for the paper's head
    (as released), 0.5 for torchvision's, unless given. ``size_divisor=1`` leaves odd sizes unpadded, as torchvision
    does.
    """

    torchvision_keys: ClassVar[Mapping[str, str]] = {
        r"classifier\.0\.convs\.4\.1\.": "aspp.views.4.conv.",
        r"classifier\.0\.convs\.4\.2\.": "aspp.views.4.norm.",
        r"classifier\.0\.convs\.": "aspp.views.",
        r"classifier\.0\.project\.": "aspp.project.",
        r"classifier\.1\.": "refine.0.",
        r"classifier\.2\.": "refine.1.",
        r"classifier\.4\.": "head.",
        r"aux_classifier\.": "aux_head.",
    }
    smp_keys: ClassVar[Mapping[str, str]] = {
        r"decoder\.aspp\.convs\.4\.1\.": "aspp.views.4.conv.",
        r"decoder\.aspp\.convs\.4\.2\.": "aspp.views.4.norm.",
        r"decoder\.aspp\.convs\.": "aspp.views.",
        r"decoder\.aspp\.project\.": "aspp.project.",
        r"decoder\.conv\.": "refine.0.",
        r"decoder\.bn\.": "refine.1.",
        r"segmentation_head\.0\.": "head.",
    }

    mmseg_keys: ClassVar[Mapping[str, str]] = {
        **MMSEG_ASPP,
        **MMSEG_HEADS,
    }

    def __init__(
        self,
        *,
        encoder: Encoder,
        classes: int,
        head: Literal["paper", "torchvision"] = "paper",
        rates: Sequence[int] | None = None,
        channels: int = 256,
        separable: bool = False,
        depthwise_norm: bool = True,
        image_pooling: bool = True,
        project_kernel: int = 1,
        dropout: float | None = None,
        aux: bool = False,
        aux_stride: int = 16,
        align_corners: bool = False,
        size_divisor: int | None = None,
    ) -> None:
        super().__init__(
            classes=classes,
            in_channels=encoder.in_channels,
            stride=encoder.output_stride,
            size_divisor=size_divisor,
            mean=encoder.mean,
            std=encoder.std,
        )
        if head not in ("paper", "torchvision"):
            raise ModelError("unknown DeepLab v3 head", expected="paper or torchvision", found=str(head))
        if dropout is None:
            dropout = TORCHVISION_DROPOUT if head == "torchvision" else RELEASED_DROPOUT
        self.last = max(encoder.channels)
        self.aux_stride = aux_stride
        self.align_corners = align_corners
        self.encoder = encoder
        self.aspp = ASPP(
            encoder.channels[self.last],
            channels,
            RATES[encoder.output_stride] if rates is None else rates,
            separable=separable,
            depthwise_norm=depthwise_norm,
            image_pooling=image_pooling,
            project_kernel=project_kernel,
            dropout=dropout,
        )
        self.refine = ConvNormReLU(channels, channels) if head == "torchvision" else nn.Identity()
        self.head = nn.Conv2d(channels, classes, 1)
        self.aux_head: FCNHead | None = None
        if aux:
            require_strides(encoder, (aux_stride,), "DeepLab v3's auxiliary head")
            self.aux_head = FCNHead(encoder.channels[aux_stride], classes)
            initialize_decoder(self.aux_head)
        initialize_decoder(self.aspp)
        initialize_decoder(self.refine)
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
        logits = self.head(self.refine(self.aspp(features[self.last])))
        aux = {}
        if self.aux_head is not None and self.training:
            aux["aux"] = resize(self.aux_head(features[self.aux_stride]), size, align_corners=self.align_corners)
        return SegOutput(resize(logits, size, align_corners=self.align_corners), aux)

    def arrange_mmseg(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """mmsegmentation puts the pooled view before the others, we behind them."""
        return pooled_view_last(state)


class DeepLabV3Plus(SegmentationModel):
    """DeepLab v3's ASPP, joined with the stride-4 feature and refined there.

    ``refine``: ``two`` (plain 3×3 convolutions, the paper's best, table 1), ``one``, or ``separable`` (two depthwise
    separable ones, and separable dilated ones in the ASPP: the released code). ``refine_before``: the first of the two
    comes before the upsampling instead of after the concatenation, which is segmentation_models_pytorch's order.
    """

    smp_keys: ClassVar[Mapping[str, str]] = {
        r"decoder\.aspp\.0\.convs\.4\.1\.": "aspp.views.4.conv.",
        r"decoder\.aspp\.0\.convs\.4\.2\.": "aspp.views.4.norm.",
        r"decoder\.aspp\.0\.convs\.": "aspp.views.",
        r"decoder\.aspp\.0\.project\.": "aspp.project.",
        r"decoder\.aspp\.1\.": "before.0.",
        r"decoder\.aspp\.2\.": "before.1.",
        r"decoder\.block1\.": "low.",
        r"decoder\.block2\.": "refine.0.",
        r"segmentation_head\.0\.": "head.",
    }

    mmseg_keys: ClassVar[Mapping[str, str]] = {
        **MMSEG_ASPP,
        r"decode_head\.c1_bottleneck\.conv\.": "low.0.",
        r"decode_head\.c1_bottleneck\.bn\.": "low.1.",
        **separable_names(r"decode_head\.sep_bottleneck\.(\d)\.", r"refine.\1."),
        **MMSEG_HEADS,
    }

    def __init__(
        self,
        *,
        encoder: Encoder,
        classes: int,
        refine: Literal["one", "two", "separable"] = "separable",
        rates: Sequence[int] | None = None,
        channels: int = 256,
        low_channels: int = LOW_CHANNELS,
        separable_aspp: bool | None = None,
        depthwise_norm: bool = True,
        refine_before: bool = False,
        project_kernel: int = 1,
        dropout: float = RELEASED_DROPOUT,
        align_corners: bool = False,
        size_divisor: int | None = None,
    ) -> None:
        super().__init__(
            classes=classes,
            in_channels=encoder.in_channels,
            stride=encoder.output_stride,
            size_divisor=size_divisor,
            mean=encoder.mean,
            std=encoder.std,
        )
        if refine not in ("one", "two", "separable"):
            raise ModelError("unknown DeepLab v3+ decoder", expected="one, two or separable", found=str(refine))
        require_strides(encoder, (4,), "DeepLab v3+")
        self.logits_stride = encoder.reductions[4]
        self.last = max(encoder.channels)
        self.align_corners = align_corners
        self.encoder = encoder
        self.aspp = ASPP(
            encoder.channels[self.last],
            channels,
            RATES[encoder.output_stride] if rates is None else rates,
            separable=refine == "separable" if separable_aspp is None else separable_aspp,
            depthwise_norm=depthwise_norm,
            project_kernel=project_kernel,
            dropout=dropout,
        )
        self.low = ConvNormReLU(encoder.channels[4], low_channels, 1)

        def convolution(inputs: int) -> nn.Module:
            if refine == "separable":
                return SeparableConvNormReLU(inputs, channels, depthwise_norm=depthwise_norm)
            return ConvNormReLU(inputs, channels)

        self.before = convolution(channels) if refine_before else nn.Identity()
        second = [] if refine_before or refine == "one" else [convolution(channels)]
        self.refine = nn.Sequential(convolution(channels + low_channels), *second)
        self.head = nn.Conv2d(channels, classes, 1)
        for part in (self.aspp, self.low, self.before, self.refine):
            initialize_decoder(part)
        initialize_head(self.head)

    def encoder_modules(self) -> Sequence[nn.Module]:
        return (self.encoder,)

    def classifier_layers(self) -> Mapping[str, Sequence[nn.Module]]:
        return {"logits": (self.head,)}

    def forward_padded(self, x: Tensor) -> SegOutput:
        size = (x.shape[-2], x.shape[-1])
        features = self.encoder(x)
        low = self.low(features[4])
        high = self.before(self.aspp(features[self.last]))
        high = resize(high, (low.shape[-2], low.shape[-1]), align_corners=self.align_corners)
        logits = self.head(self.refine(torch.cat([high, low], dim=1)))
        return SegOutput(resize(logits, size, align_corners=self.align_corners), {})

    def arrange_mmseg(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """mmsegmentation puts the pooled view before the others, we behind them."""
        return pooled_view_last(state)
