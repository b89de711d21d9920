"""Batch norm and instance norm in training, with the ReLU behind them, in few passes over memory.

Beside its convolutions a training step on a CPU is bound by memory: torch's batch norm and ReLU read or write a map
eleven times, forward and backward. The kernels of :mod:`segwright.kernels.batch_norm_kernels` take eight passes, longer
vectors, and sums in double. They apply to training in fp32 or bf16 on a CPU in channels-last memory; everything else is
computed by the plain twin, :func:`norm_act_plain`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from segwright.kernels.dispatch import raw, supports
from segwright.kernels.forms import KernelForm, plain_class
from segwright.kernels.threads import parallel_map, split_range

Array = np.ndarray[Any, np.dtype[Any]]
MIN_VALUES = 1 << 19  # of a map: below, torch is as fast
WITHOUT_ACT, WITH_INSTANCE = 2, 1 / 8  # factors of it without an activation, and for instance and batch norm together
MIN_VALUES_THREADED = 1 << 19
MAX_ROW, MIN_ROW = 512, 48  # values in a row of whole pixels, for the kernels
ClampRange = tuple[float, float]  # what the activation clamps to
NONE, RELU, RELU6 = (-math.inf, math.inf), (0.0, math.inf), (0.0, 6.0)
CLAMP_RANGES: dict[type[nn.Module], ClampRange] = {nn.ReLU: RELU, nn.ReLU6: RELU6}


class BatchNormForm(KernelForm):
    """For torch's BatchNorm2d."""

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(self, nn.BatchNorm2d)
        out = norm_act_train(self, x)
        result: Tensor = super().forward(x) if out is None else out
        return result


class InstanceBatchNormForm(KernelForm):
    """For a module whose ``instance`` normalizes the first channels and whose ``batch`` the others."""

    instance: nn.InstanceNorm2d
    batch: nn.BatchNorm2d

    def forward(self, x: Tensor) -> Tensor:
        out = _norm_act(self, x, NONE)
        result: Tensor = super().forward(x) if out is None else out
        return result


class SequentialForm(KernelForm):
    """For an ``nn.Sequential`` with norms that a ReLU or ReLU6 follows: each such pair is computed as one."""

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(self, nn.Sequential)
        if torch.compiler.is_compiling() or not self.training:
            result: Tensor = super().forward(x)
            return result
        return run_layers(list(self), x)


def run_layers(layers: Sequence[nn.Module], x: Tensor) -> Tensor:
    """The layers one after the other; a norm and the activation behind it as one where the kernels apply.

    A pair with hooks is left alone, since hooks see what goes in and out of each.
    """
    index = 0
    while index < len(layers):
        layer, index = layers[index], index + 1
        if index < len(layers) and _is_norm_act(layer, layers[index]) and not _hooked(layer, layers[index]):
            out = _norm_act(layer, x, CLAMP_RANGES[type(layers[index])])
            if out is not None:
                x, index = out, index + 1
                continue
        x = layer(x)
    return x


def has_norm_act(layers: nn.Sequential) -> bool:
    """Whether a norm is followed by an activation that it can be computed with."""
    listed = list(layers)
    return any(_is_norm_act(*pair) for pair in pairwise(listed))


def norm_act(norm: nn.Module, x: Tensor, clamp_range: ClampRange = NONE) -> Tensor:
    """``norm`` of (N, C, H, W), clamped to ``clamp_range`` (``NONE``, ``RELU``, ``RELU6``): by the kernels where they
    apply, else as :func:`norm_act_plain`. Values and running statistics are the same up to rounding."""
    out = _norm_act(norm, x, clamp_range)
    return norm_act_plain(norm, x, clamp_range) if out is None else out


def norm_act_plain(norm: nn.Module, x: Tensor, clamp_range: ClampRange = NONE) -> Tensor:
    """The twin of :func:`norm_act`: the norm, then the activation in place."""
    x = norm(x)
    if clamp_range == NONE:
        return x
    return F.relu(x, inplace=True) if clamp_range == RELU else F.hardtanh(x, *clamp_range, inplace=True)


def _norm_act(norm: nn.Module, x: Tensor, clamp_range: ClampRange) -> Tensor | None:
    """By the kernels; None where they do not apply, to ``norm`` or to ``x``."""
    if _is_instance_batch_norm(norm):
        batch: Any = norm.batch
        instance: Any = norm.instance
        return norm_act_train(batch, x, clamp_range, instance=instance) if _is_batch_norm(batch) else None
    if isinstance(norm, nn.BatchNorm2d) and _is_batch_norm(norm):
        return norm_act_train(norm, x, clamp_range)
    return None


def _is_batch_norm(module: nn.Module) -> bool:
    return plain_class(module) is nn.BatchNorm2d  # one that is derived from it may compute something else


def _is_instance_batch_norm(module: nn.Module) -> bool:
    return vars(plain_class(module)).get("cpu_kernel") == "instance_batch_norm"


def _is_norm_act(norm: nn.Module, act: nn.Module) -> bool:
    return type(act) in CLAMP_RANGES and (_is_batch_norm(norm) or _is_instance_batch_norm(norm))


def _hooked(*modules: nn.Module) -> bool:
    return any(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
        for module in modules
    )


def norm_act_train(
    norm: nn.BatchNorm2d, x: Tensor, clamp_range: ClampRange = NONE, *, instance: nn.InstanceNorm2d | None = None
) -> Tensor | None:
    """Batch norm (of the last channels only where ``instance`` takes the first) and activation by the kernels.

    None where they do not apply: outside training, on another device, in another precision or memory format, while
    compiling, for small maps.
    """
    if not (
        supports(x, torch.bfloat16)
        and norm.training
        and x.dim() == 4
        and x.numel() >= MIN_VALUES * (WITH_INSTANCE if instance else WITHOUT_ACT if clamp_range == NONE else 1)
        and x.shape[0] * x.shape[2] * x.shape[3] > 1
        and x.is_contiguous(memory_format=torch.channels_last)
        and norm.momentum is not None
        and norm.track_running_stats
        and norm.affine
        and norm.weight.dtype == torch.float32
        and type(x) in (Tensor, nn.Parameter)
    ):
        return None
    n_instance = 0 if instance is None else instance.num_features
    if x.shape[1] != n_instance + norm.num_features or not _pixels_in_a_row(_groups(x, n_instance)[1], x.shape[1]):
        return None
    weight: Tensor = norm.weight
    bias: Tensor = norm.bias
    if instance is not None:
        weight, bias = torch.cat([instance.weight, weight]), torch.cat([instance.bias, bias])
    out, mean, variance = NormAct.apply(x, weight, bias, n_instance, norm.eps, clamp_range)
    values = x.shape[0] * x.shape[2] * x.shape[3]
    with torch.no_grad():
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * (values / (values - 1)), norm.momentum)  # as batch norm counts it
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
    result: Tensor = out
    return result


class NormAct(torch.autograd.Function):
    """(x channels-last, weight (C,), bias (C,), n_instance, eps, clamp range) → out, the batch's mean and variance.

    The first ``n_instance`` channels are normalized by each image's statistics, the others by the batch's; the variance
    is the biased one. First derivatives only.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, n_instance: int, eps: float, clamp_range: ClampRange
    ) -> tuple[Tensor, Tensor, Tensor]:
        from segwright.kernels import batch_norm_kernels as kernels

        threads = torch.get_num_threads() if x.numel() >= MIN_VALUES_THREADED else 1
        layout = _RowLayout(x, n_instance, threads)
        values, low, high = layout.rows(x), *(layout.dtype.type(limit) for limit in clamp_range)
        # Sums of differences to some pixel lose less than sums of squares.
        first = x[0, :, 0, 0].detach().to(layout.wide).numpy()
        shift, sums = np.tile(first, layout.k), layout.sums()
        parallel_map(lambda i, _, a, z: kernels.moments(values, a, z, shift, sums[i]), layout.parts, threads)
        scale, offset, mean = layout.factors(), layout.factors(), layout.factors()
        inverse = np.empty((layout.groups, x.shape[1]))
        statistics = torch.empty(2, x.shape[1], dtype=layout.wide)
        affine = (weight.detach().numpy(), bias.detach().numpy(), eps)
        found = (scale, offset, mean, inverse, statistics.numpy())
        kernels.forward_stats(sums, n_instance, layout.pixels, first, *affine, *found)
        out = torch.empty_like(x)
        into = layout.rows(out)
        parallel_map(
            lambda _, g, a, z: kernels.apply(values, a, z, scale[g], offset[g], low, high, into), layout.parts, threads
        )
        ctx.save_for_backward(x, weight)
        ctx.kept = (layout, threads, scale, offset, low, high, mean, inverse)
        batch_mean, batch_variance = statistics[0, n_instance:], statistics[1, n_instance:]
        ctx.mark_non_differentiable(batch_mean, batch_variance)
        return out, batch_mean, batch_variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        from segwright.kernels import batch_norm_kernels as kernels

        x, weight = ctx.saved_tensors
        layout, threads, scale, offset, low, high, mean, inverse = ctx.kept
        values, grads = layout.rows(x), layout.rows(grad_output.contiguous(memory_format=torch.channels_last))
        sums = layout.sums()
        parallel_map(
            lambda i, g, a, z: kernels.grad_moments(
                values, grads, a, z, scale[g], offset[g], low, high, mean[g], sums[i]
            ),
            layout.parts,
            threads,
        )
        along, across, constant = layout.factors(), layout.factors(), layout.factors()
        gradients = torch.empty(2, x.shape[1], dtype=layout.wide)
        w = weight.detach().numpy()
        found = (along, across, constant, gradients.numpy())
        kernels.backward_stats(sums, layout.n_instance, layout.pixels, w, mean, inverse, *found)
        out = torch.empty_like(x)
        into = layout.rows(out)
        parallel_map(
            lambda _, g, a, z: kernels.gradient(
                values, grads, a, z, scale[g], offset[g], low, high, along[g], across[g], constant[g], into
            ),
            layout.parts,
            threads,
        )
        return out, gradients[0], gradients[1], None, None, None


class _RowLayout:
    """How a channels-last map is divided into rows for the kernels and into parts for threads.

    ``k`` pixels make a row of k · C values; a group is a set of ``pixels`` with statistics of its own: an image where
    channels have their ``n_instance``, else the batch. ``parts``: (index, group, first row, row behind the last).
    """

    def __init__(self, x: Tensor, n_instance: int, threads: int) -> None:
        self.n_instance = n_instance
        self.groups, self.pixels = _groups(x, n_instance)
        self.k = _pixels_in_a_row(self.pixels, x.shape[1])
        self.width = self.k * x.shape[1]
        rows = self.pixels // self.k
        cuts = split_range(rows, max(1, min(-(-threads // self.groups), rows)))
        places = [(g, g * rows + first, g * rows + last) for g in range(self.groups) for first, last in cuts]
        self.parts = [(index, *place) for index, place in enumerate(places)]
        self.wide = torch.float64 if x.dtype == torch.float64 else torch.float32  # of sums and factors
        self.dtype = np.dtype(np.float64 if x.dtype == torch.float64 else np.float32)

    def rows(self, x: Tensor) -> Array:
        """The memory of a channels-last tensor, (rows, width)."""
        return raw(x).transpose(0, 2, 3, 1).reshape(-1, self.width)

    def sums(self) -> Array:
        return np.empty((len(self.parts), 2, self.width))

    def factors(self) -> Array:
        return np.empty((self.groups, self.width), self.dtype)


def _groups(x: Tensor, n_instance: int) -> tuple[int, int]:
    """How many sets of pixels have statistics of their own, and how many pixels each has."""
    n, _, height, width = x.shape
    return (n, height * width) if n_instance else (1, n * height * width)


@lru_cache(maxsize=4096)
def _pixels_in_a_row(pixels: int, channels: int) -> int:
    """How many pixels make one row for the kernels: a divisor of ``pixels``; 0 where there is none that suits.

    Rows of whole vectors (64 values) come before longer ones.
    """
    most = max(1, MAX_ROW // channels)
    fitting = [k for k in range(1, most + 1) if pixels % k == 0]
    best = max(fitting, key=lambda k: (channels * k % 64 == 0, channels * k % 16 == 0, k), default=0)
    return best if best * channels >= MIN_ROW else 0
