"""A 3×3 convolution of an upsampled map beside a finer one, without making the upsampled map.

Twice nearest-neighbor upsampling, concatenation and a 3×3 convolution are the first half of a U-Net block. Each output
pixel depends on at most 2×2 pixels of the coarse map, so nine products of equal neighbors become four: the same sums,
up to their order, as a transposed convolution of stride 2 with a 4×4 kernel, for less than half the multiplications and
none of the copies. The kernel is made of torch operations, and differentiable.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segwright.kernels.batch_norm import run_layers
from segwright.kernels.dispatch import supports
from segwright.kernels.forms import KernelForm


class UpsampleConcatConvForm(KernelForm):
    """For a block with ``interpolation``, ``conv1`` (a Sequential that begins with a 3×3 convolution) and ``conv2``,
    whose forward is conv2(conv1(concatenation of x, upsampled, and skip))."""

    interpolation: str
    conv1: nn.Sequential
    conv2: nn.Module

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """(N, in, h, w), (N, skip, H, W) → (N, out, H, W)."""
        if not (self.interpolation == "nearest" and applies(x, skip)):
            result: Tensor = super().forward(x, skip)
            return result
        conv, *layers = self.conv1
        assert isinstance(conv, nn.Conv2d)
        result = self.conv2(run_layers(layers, upsample_concat_conv(x, skip, conv.weight)))
        return result


def applies(x: Tensor, skip: Tensor | None) -> bool:
    """Whether the kernel is the shorter way: on a CPU, where the resolution exactly doubles and there are many pixels.

    At the deepest block of a wide encoder the larger kernel costs more than it saves: few pixels, many channels.
    """
    if not supports(x, torch.bfloat16) or x.shape[0] * x.shape[-2] * x.shape[-1] < 4 * x.shape[1]:
        return False
    return skip is None or (skip.shape[-2] == 2 * x.shape[-2] and skip.shape[-1] == 2 * x.shape[-1])


def upsample_concat_conv(x: Tensor, skip: Tensor | None, weight: Tensor) -> Tensor:
    """(N, C, H, W), (N, S, 2H, 2W) or None, weight (out, C + S, 3, 3) → (N, out, 2H, 2W); padding 1, no bias."""
    channels = x.shape[1]
    out = conv_of_upsampled(x, weight[:, :channels])
    return out if skip is None else out.add_(F.conv2d(skip, weight[:, channels:], padding=1))


def upsample_concat_conv_plain(x: Tensor, skip: Tensor | None, weight: Tensor) -> Tensor:
    """The twin of :func:`upsample_concat_conv`."""
    x = F.interpolate(x, scale_factor=2, mode="nearest")
    return F.conv2d(x if skip is None else torch.cat([x, skip], dim=1), weight, padding=1)


def conv_of_upsampled(x: Tensor, weight: Tensor) -> Tensor:
    """3×3 convolution (padding 1) of ``x`` upsampled twice by nearest neighbor.

    ``x``: (N, C, H, W); ``weight``: (out, C, 3, 3); returns (N, out, 2H, 2W).
    """
    kernel = torch.stack(
        [weight[:, :, 2], weight[:, :, 2] + weight[:, :, 1], weight[:, :, 1] + weight[:, :, 0], weight[:, :, 0]], dim=2
    )
    kernel = torch.stack(
        [kernel[..., 2], kernel[..., 2] + kernel[..., 1], kernel[..., 1] + kernel[..., 0], kernel[..., 0]], dim=3
    )
    return F.conv_transpose2d(x, kernel.transpose(0, 1), stride=2, padding=1)
