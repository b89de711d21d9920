"""Depthwise convolutions in training on a CPU: two of their gradients, where oneDNN is slow.

oneDNN has no fast path for the gradient of a depthwise kernel wider than 3×3 (in fp32 five to fifteen times the forward
pass, with bf16 on AMX thirty to eighty times), nor in bf16 for the input's gradient of a strided one (ten to a hundred
and fifty times). Together they are more than half of a step of an EfficientNet in bf16. Everything else, such as 3×3
without a stride, is left to oneDNN. ``benchmarks/depthwise.py`` times both; the twin is torch's own convolution.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from segwright.kernels.dispatch import raw, supports
from segwright.kernels.forms import KernelForm
from segwright.kernels.threads import parallel_map, split_range

MAX_TAPS_OF_TORCH = 9  # the gradient of a larger kernel is computed here
Pair = tuple[int, int]


class DepthwiseForm(KernelForm):
    """For torch's Conv2d, depthwise."""

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(self, nn.Conv2d) and not isinstance(self.padding, str)
        out = convolve(self, x, (self.padding[0], self.padding[1]))
        result: Tensor = super().forward(x) if out is None else out
        return result


def convolve(module: nn.Conv2d, x: Tensor, padding: Pair) -> Tensor | None:
    """The depthwise ``module`` of x (N, C, H, W) with ``padding`` zeros around it; None where torch is as fast or the
    kernels do not apply: outside training, on another device, with a small kernel in fp32."""
    precision = _precision(x)
    if precision is None or not (module.training and x.requires_grad and type(x) in (Tensor, nn.Parameter)):
        return None
    if precision is torch.float32 and _taps(module) <= MAX_TAPS_OF_TORCH:
        return None
    size, stride, dilation = module.kernel_size, module.stride, module.dilation
    out: Tensor = Depthwise.apply(x.to(precision), module.weight.to(precision), size, stride, padding, dilation)
    return out if module.bias is None else out + module.bias.to(precision)[:, None, None]


def fits(module: nn.Conv2d) -> bool:
    """Whether it is a depthwise convolution, one kernel per channel, with a stride or a kernel wider than 3×3."""
    return (
        module.groups == module.in_channels == module.out_channels > 1
        and (max(module.stride) > 1 or _taps(module) > MAX_TAPS_OF_TORCH)
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )


def _taps(module: nn.Conv2d) -> int:
    return module.kernel_size[0] * module.kernel_size[1]


def _precision(x: Tensor) -> torch.dtype | None:
    """What the convolution is computed in, bf16 under autocast; None where it is torch's alone to compute."""
    if not supports(x, torch.bfloat16):
        return None
    if not torch.is_autocast_enabled("cpu"):
        return torch.float32 if x.dtype == torch.float32 else None
    return torch.bfloat16 if torch.get_autocast_dtype("cpu") == torch.bfloat16 else None


class Depthwise(torch.autograd.Function):
    """(x, weight (C, 1, k, k), kernel size, stride, padding, dilation) → the convolution. First derivatives only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, size: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = (size, stride, padding, dilation)
        return torch.conv2d(x, weight, None, stride, padding, dilation, weight.shape[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad_output = grad_output.contiguous(memory_format=torch.channels_last)  # once for both gradients
        size, stride, padding, dilation = ctx.geometry
        here = x.dtype == torch.bfloat16 and max(stride) > 1
        wide = size[0] * size[1] > MAX_TAPS_OF_TORCH
        geometry = ([0], list(stride), list(padding), list(dilation), False, [0, 0], weight.shape[0])
        grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
            grad_output, x, weight, *geometry, [not here, not wide, False]
        )
        if here:
            grad_x = input_gradient(x, weight, grad_output, *ctx.geometry)
        if wide:
            grad_weight = weight_gradient(x, grad_output, *ctx.geometry).to(weight.dtype)
        return grad_x, grad_weight, None, None, None, None


def weight_gradient(x: Tensor, grad: Tensor, size: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Tensor:
    """x (N, C, H, W), the gradient of the output (N, C, h, w) → that of the kernels, (C, 1, k, k) in fp32.

    Each image is summed by itself: the number of threads changes no bit.
    """
    from segwright.kernels import depthwise_kernels as kernels

    images, channels = x.shape[:2]
    values, grads = _pixels(x), _pixels(grad)
    sums = np.empty((images, size[0] * size[1], channels), np.float32)
    threads = torch.get_num_threads()
    parts = split_range(images, min(images, threads))
    parallel_map(
        lambda a, z: kernels.weight_gradient(values, grads, a, z, size, stride, padding, dilation, sums),
        parts, threads,
    )  # fmt: skip
    return torch.from_numpy(sums.sum(axis=0)).T.reshape(channels, 1, *size)


def input_gradient(
    x: Tensor, weight: Tensor, grad: Tensor, size: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> Tensor:
    """x (N, C, H, W), only for its shape, kernels (C, 1, k, k), the output's gradient (N, C, h, w) → that of x."""
    from segwright.kernels import depthwise_kernels as kernels

    grads, taps = _pixels(grad), weight.detach().float().flatten(1).T.contiguous().numpy()
    out = torch.empty_like(x, memory_format=torch.channels_last)
    target = _pixels(out)
    threads = torch.get_num_threads()
    rows = x.shape[0] * x.shape[2]
    parallel_map(
        lambda a, z: kernels.input_gradient(grads, taps, a, z, size, stride, padding, dilation, target),
        split_range(rows, min(rows, threads)), threads,
    )  # fmt: skip
    return out


def _pixels(x: Tensor) -> np.ndarray[Any, np.dtype[Any]]:
    """(N, C, H, W) → its memory as (N, H, W, C)."""
    return raw(x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1))
