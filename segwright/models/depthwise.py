"""Depthwise convolutions with a stride, in training in bf16 on a CPU: the gradient of their input is computed in fp32.

oneDNN has no short way to that one gradient in bf16: on a CPU with AMX it takes ten to sixty times as long as in fp32,
a quarter of a MobileNet's whole step. Values differ by the rounding of the slope alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from segwright.eager import open_to_kernels


class Conv2d(nn.Conv2d):
    """torch's convolution; only the way to its input's gradient is another."""

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and x.requires_grad and _in_bf16(x)):
            return super().forward(x)
        out: Tensor = Strided.apply(
            x.bfloat16(), self.weight.bfloat16(), self.stride, self.padding, self.dilation, self.groups
        )
        return out if self.bias is None else out + self.bias.bfloat16()[:, None, None]


def could_suit(module: nn.Conv2d) -> bool:
    """Whether it is a depthwise convolution with a stride."""
    return (
        module.groups == module.in_channels > 1
        and max(module.stride) > 1
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )


def _in_bf16(x: Tensor) -> bool:
    return (
        open_to_kernels(x, torch.bfloat16)
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
    )


class Strided(torch.autograd.Function):
    """(x, weight, both bf16, stride, padding, dilation, groups) → the convolution. First derivatives only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any, groups: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = (stride, padding, dilation, groups)
        return torch.conv2d(x, weight, None, stride, padding, dilation, groups)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.geometry
        geometry = ([0], stride, padding, dilation, False, [0, 0], groups)
        shape = torch.empty_like(x, dtype=torch.float32)  # asked for its shape alone
        of_x, _, _ = torch.ops.aten.convolution_backward(
            slope.float(), shape, weight.float(), *geometry, [True, False, False]
        )
        _, of_weight, _ = torch.ops.aten.convolution_backward(slope, x, weight, *geometry, [False, True, False])
        return of_x.bfloat16(), of_weight, None, None, None, None
