"""Small parts that several networks share. None depends on an encoder or on a whole network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segwright.models.base import resize


class ConvNormReLU(nn.Sequential):
    """Convolution without bias, batch normalization, ReLU: (N, in, H, W) → (N, out, H / stride, W / stride)."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int = 3, *, stride: int = 1, dilation: int = 1
    ) -> None:
        super().__init__(
            nn.Conv2d(
                in_channels,
                out_channels,
                kernel,
                stride=stride,
                padding=dilation * (kernel // 2),
                dilation=dilation,
                bias=False,
            ),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )


class InstanceBatchNorm(nn.Module):
    """(N, C, H, W) → the same: instance norm on the first ⌊C / 2⌋ channels, batch norm on the rest, both with scales.

    Pan et al. 2018, "Two at Once: Enhancing Learning and Generalization Capacities via IBN-Net" (arXiv 1807.09441): in
    early layers the first half of the channels is normalized by each image's own statistics, so that what a network
    learns from one street carries over to images taken elsewhere; the other half keeps what separates contents.
    The two norms are modules of their own (``instance``, ``batch``), so that freezing and synchronizing find them.
    """

    cpu_kernel: ClassVar[str] = "instance_batch_norm"  # the form of segwright.kernels that may compute it

    def __init__(self, channels: int, *, momentum: float = 0.1) -> None:
        super().__init__()
        self.first = channels // 2
        self.instance = nn.InstanceNorm2d(self.first, affine=True)
        self.batch = nn.BatchNorm2d(channels - self.first, momentum=momentum)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.instance(x[:, : self.first]), self.batch(x[:, self.first :])], dim=1)


class FCNHead(nn.Sequential):
    """3×3 to a quarter of the channels, dropout, 1×1: the FCN head of torchvision, the auxiliary head of PSPNet.

    ``drop_channels``: dropout drops whole channels, as PSPNet's release does, instead of single values.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        channels: int | None = None,
        dropout: float = 0.1,
        drop_channels: bool = False,
    ) -> None:
        inner = in_channels // 4 if channels is None else channels
        super().__init__(
            nn.Conv2d(in_channels, inner, 3, padding=1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Dropout2d(dropout) if drop_channels else nn.Dropout(dropout),
            nn.Conv2d(inner, classes, 1),
        )


class SeparableConvNormReLU(nn.Sequential):
    """Depthwise 3×3, 1×1, batch norm, ReLU; ``depthwise_norm``: batch norm and ReLU between, as DeepLab v3+'s code."""

    def __init__(self, in_channels: int, out_channels: int, *, dilation: int = 1, depthwise_norm: bool = True) -> None:
        depthwise = nn.Conv2d(
            in_channels, in_channels, 3, padding=dilation, dilation=dilation, groups=in_channels, bias=False
        )
        between = (nn.BatchNorm2d(in_channels), nn.ReLU(inplace=True)) if depthwise_norm else ()
        super().__init__(
            nn.Sequential(depthwise, *between, nn.Conv2d(in_channels, out_channels, 1, bias=False)),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )


class PooledConv(nn.Module):
    """Averages over a grid of ``bins``×``bins`` cells, then 1×1 convolution, batch norm and ReLU.

    ``norm=False`` replaces the batch norm by a bias (a 1×1 grid of one image has no batch statistics).
    """

    def __init__(self, in_channels: int, out_channels: int, bins: int, *, norm: bool = True) -> None:
        super().__init__()
        self.bins = bins
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=not norm)
        self.norm = nn.BatchNorm2d(out_channels) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) → (N, out, bins, bins)."""
        return F.relu(self.norm(self.conv(average_grid(x, self.bins))))


class PyramidPooling(nn.Module):
    """PSPNet's pyramid: the feature beside its averages over grids of 1, 2, 3 and 6 (Zhao et al. 2017, section 3.2)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bins: Sequence[int] = (1, 2, 3, 6),
        align_corners: bool = False,
        norm_of_one: bool = True,
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.out_channels = in_channels + len(bins) * out_channels
        self.branches = nn.ModuleList(
            PooledConv(in_channels, out_channels, count, norm=norm_of_one or count != 1) for count in bins
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) → (N, in + len(bins)·out, H, W)."""
        size = (x.shape[-2], x.shape[-1])
        pooled = [resize(branch(x), size, align_corners=self.align_corners) for branch in self.branches]
        return torch.cat([x, *pooled], dim=1)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (N, C, H, W)."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__(channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def average_grid(x: Tensor, bins: int) -> Tensor:
    """Adaptive average pooling to ``bins``×``bins``, in a form that exports with free sizes.

    A traced graph cannot hold a pooling window that depends on the size, and on a GPU torch's gradient adds in no
    fixed order; there, two small matrices with the windows' weights do the same: window i covers floor(i·H/bins) to
    ceil((i+1)·H/bins).
    """
    if bins == 1:
        return x.mean((2, 3), keepdim=True)
    unordered = x.is_cuda and torch.are_deterministic_algorithms_enabled()
    if not torch.compiler.is_exporting() and not unordered:
        return F.adaptive_avg_pool2d(x, bins)
    rows, columns = _windows(x, x.shape[-2], bins), _windows(x, x.shape[-1], bins)
    return torch.matmul(torch.matmul(rows, x), columns.T)


def _windows(x: Tensor, size: int, bins: int) -> Tensor:
    """(bins, size): row i averages window i."""
    places = torch.arange(size, device=x.device)
    index = torch.arange(bins, device=x.device)
    start = torch.div(index * size, bins, rounding_mode="floor")
    end = torch.div((index + 1) * size + bins - 1, bins, rounding_mode="floor")
    inside = (places >= start[:, None]) & (places < end[:, None])
    return inside.to(x.dtype) / (end - start)[:, None].to(x.dtype)


def initialize_decoder(module: nn.Module) -> None:
    """He's initialization for convolutions, ones and zeros for norms: for what comes after an encoder."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_uniform_(part.weight, mode="fan_in", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.BatchNorm2d):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)


def initialize_head(module: nn.Module) -> None:
    """Xavier's initialization for the classifying convolutions, so that the first logits are small."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
