"""LeanNet: a segmentation network made for training from scratch on a few CPU cores. Ours.

What a CPU does well decides its shape: dense 3×3 convolutions run at near the peak of the vector units at any width,
while depthwise convolutions, upsampling and batch norms on large maps wait for memory. So pixels are folded into
channels before the first convolution (no layer runs at full resolution), every stage is plain residual blocks (He et
al. 2016, with the average-pooled shortcut of He et al. 2019, "Bag of Tricks"), a pyramid of pooled context (Zhao et al.
2017) sits at stride 32, and a decoder of sums (Lin et al. 2017, feature pyramids) comes back to stride 2, where the
logits are computed. Down to stride 8 half of the channels are normalized by the image itself (Pan et al. 2018,
IBN-Net): what is learnt on one street then holds better on another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segwright.core.errors import UsageError
from segwright.models.base import SegmentationModel, SegOutput, resize
from segwright.models.blocks import InstanceBatchNorm, average_grid

NORM_MOMENTUM = 0.05  # small batches: statistics over some twenty steps

# Channels at strides 2, 4, 8, 16, 32 and of the decoder at 2, 4, 8, 16
VARIANTS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "small": ((16, 32, 64, 128, 192), (16, 32, 64, 96)),
    "medium": ((32, 64, 128, 256, 256), (32, 64, 96, 128)),
    "large": ((48, 96, 192, 320, 384), (48, 96, 128, 192)),
}


class Convolution(nn.Sequential):
    """Convolution, batch norm (with ``instance`` on half of the channels only) and, unless ``act`` is False, ReLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 3,
        stride: int = 1,
        *,
        act: bool = True,
        instance: bool = False,
    ) -> None:
        norm = InstanceBatchNorm if instance else nn.BatchNorm2d
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False),
            norm(out_channels, momentum=NORM_MOMENTUM),
            *([nn.ReLU(inplace=True)] if act else []),
        )


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut; starts as the shortcut alone (last batch-norm scale 0)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, *, instance: bool = False) -> None:
        super().__init__()
        self.conv1 = Convolution(in_channels, out_channels, 3, stride, instance=instance)
        self.conv2 = Convolution(out_channels, out_channels, act=False)
        for norm in self.conv2:
            if isinstance(norm, nn.BatchNorm2d):
                nn.init.zeros_(norm.weight)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            pool = nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False) if stride == 2 else nn.Identity()
            self.shortcut = nn.Sequential(pool, *Convolution(in_channels, out_channels, 1, act=False))

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) → (N, out, ⌈H / stride⌉, ⌈W / stride⌉)."""
        return F.relu(self.conv2(self.conv1(x)) + self.shortcut(x), inplace=True)


class Context(nn.Module):
    """Averages over grids of 1, 2 and 4 cells per side, resized and concatenated: context of the whole image."""

    def __init__(self, channels: int, inner: int = 96, bins: Sequence[int] = (1, 2, 4)) -> None:
        super().__init__()
        self.bins = tuple(bins)
        # No batch norm: one cell of a small batch has no statistics worth the name.
        self.convs = nn.ModuleList(nn.Conv2d(channels, inner, 1) for _ in bins)
        self.join = Convolution(channels + inner * len(self.bins), channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → the same."""
        size = (x.shape[-2], x.shape[-1])
        pooled = [
            resize(F.relu(conv(average_grid(x, bins))), size) for bins, conv in zip(self.bins, self.convs, strict=True)
        ]
        out: Tensor = self.join(torch.cat([x, *pooled], dim=1))
        return out


class FuseBlock(nn.Module):
    """The coarser feature upsampled, the finer one added, one 3×3 convolution."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(in_channels, out_channels, 1, bias=False)  # before upsampling: a quarter of the work
        self.lateral = Convolution(skip_channels, out_channels, 1, act=False)
        self.conv = Convolution(out_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(N, in, h, w), (N, skip, H, W) → (N, out, H, W)."""
        x = resize(self.reduce(x), (skip.shape[-2], skip.shape[-1]))
        out: Tensor = self.conv(F.relu(x + self.lateral(skip)))
        return out


class LeanNet(SegmentationModel):
    """See the module's header.

    ``variant``: small, medium or large; ``widths`` and ``decoder_channels`` override its channels, ``depths`` the
    residual blocks at strides 2, 4, 8, 16 and 32. ``instance_norm``: on half of the channels of the stem and of every
    block's first convolution, down to stride 8. ``dropout`` of whole channels before the head. In training there is
    an auxiliary head at stride 8 ("aux"); with ``native_logits`` set, training logits stay at their own strides.
    """

    def __init__(
        self,
        *,
        classes: int,
        in_channels: int = 3,
        variant: str = "small",
        widths: Sequence[int] | None = None,
        decoder_channels: Sequence[int] | None = None,
        depths: Sequence[int] = (0, 1, 2, 2, 2),
        instance_norm: bool = True,
        dropout: float = 0.1,
        aux: bool = True,
    ) -> None:
        super().__init__(classes=classes, in_channels=in_channels, stride=32)
        self.logits_stride = 2
        if variant not in VARIANTS:
            raise UsageError("unknown variant of leannet", expected=", ".join(VARIANTS), found=variant)
        w = tuple(widths) if widths is not None else VARIANTS[variant][0]
        d = tuple(decoder_channels) if decoder_channels is not None else VARIANTS[variant][1]
        self.stem = Convolution(4 * in_channels, w[0], instance=instance_norm)
        self.stage1 = nn.Sequential(*[ResidualBlock(w[0], w[0], instance=instance_norm) for _ in range(depths[0])])
        self.stage2 = nn.Sequential(
            Convolution(w[0], w[1], 3, 2, instance=instance_norm),
            *[ResidualBlock(w[1], w[1], instance=instance_norm) for _ in range(depths[1])],
        )
        self.stage3, self.stage4, self.stage5 = (
            nn.Sequential(
                ResidualBlock(w[k - 1], w[k], 2, instance=instance),
                *[ResidualBlock(w[k], w[k], instance=instance) for _ in range(depths[k] - 1)],
            )
            for k, instance in ((2, instance_norm), (3, False), (4, False))
        )
        self.context = Context(w[4])
        self.fuse4 = FuseBlock(w[4], w[3], d[3])
        self.fuse3 = FuseBlock(d[3], w[2], d[2])
        self.fuse2 = FuseBlock(d[2], w[1], d[1])
        self.fuse1 = FuseBlock(d[1], w[0], d[0])
        self.dropout = nn.Dropout2d(dropout)
        self.head = nn.Conv2d(d[0], classes, 1)
        self.aux_head = nn.Conv2d(d[2], classes, 1) if aux else None
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.head.weight, 0, 0.01)

    def classifier_layers(self) -> Mapping[str, Sequence[nn.Module]]:
        found: dict[str, Sequence[nn.Module]] = {"logits": (self.head,)}
        if self.aux_head is not None:
            found["aux"] = (self.aux_head,)
        return found

    def feature_modules(self) -> Sequence[nn.Module]:
        return (self.stage5,)

    def scale_free_layers(self) -> Sequence[nn.Module]:
        # Each is added to a lateral branch with a batch norm's scale of its own, and a batch norm follows the sum.
        return (self.fuse4.reduce, self.fuse3.reduce, self.fuse2.reduce, self.fuse1.reduce)

    def forward_padded(self, x: Tensor) -> SegOutput:
        size = (x.shape[-2], x.shape[-1])
        x = F.pixel_unshuffle(x, 2)
        if not torch.compiler.is_exporting():
            x = x.contiguous(memory_format=torch.channels_last)  # pixel_unshuffle returns the other layout
        x1 = self.stage1(self.stem(x))
        x2 = self.stage2(x1)
        x3 = self.stage3(x2)
        x4 = self.stage4(x3)
        x5 = self.context(self.stage5(x4))
        coarse = self.fuse3(self.fuse4(x5, x4), x3)
        logits = self.head(self.dropout(self.fuse1(self.fuse2(coarse, x2), x1)))
        aux = {"aux": self.aux_head(coarse)} if self.training and self.aux_head is not None else {}
        if self.training and self.native_logits:
            return SegOutput(logits, aux)
        return SegOutput(resize(logits, size), {name: resize(value, size) for name, value in aux.items()})
