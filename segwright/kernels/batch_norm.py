"""Normalization by the batch and by the image, with the activation behind it, in few passes over memory.

What a training step on a CPU waits for, next to its convolutions, is memory: torch's batch norm and ReLU read or write
a map eleven times, forward and backward. The kernels of :mod:`segwright.kernels.batch_norm_kernels` take eight passes,
longer vectors, and sums in double. Anything but training in fp32 or bf16 on a CPU in channels-last memory goes torch's
way.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from segwright.kernels.dispatch import open_to_kernels
from segwright.kernels.threads import over_threads, pieces

Array = np.ndarray[Any, np.dtype[Any]]
SMALL = 1 << 19  # values: below, torch is as fast
SMALL_PLAIN, SMALL_BOTH = 2, 1 / 8  # times as many without an activation, and for instance and batch norm
WORTH_A_THREAD = 1 << 19
LONGEST, SHORTEST = 512, 48  # values in a row of whole pixels, for the kernels
NONE, RELU, RELU6 = (-math.inf, math.inf), (0.0, math.inf), (0.0, 6.0)  # limits: nothing below, nothing above


class BatchNorm(nn.BatchNorm2d):
    """torch's batch norm, by the short way where there is one."""

    def forward(self, x: Tensor) -> Tensor:
        out = short_norm(self, x)
        return super().forward(x) if out is None else out


class InstanceBatchNorm(nn.Module):
    """(N, C, H, W) → the same: instance norm on the first ⌊C / 2⌋ channels, batch norm on the rest, both with scales.

    Pan et al. 2018, "Two at Once: Enhancing Learning and Generalization Capacities via IBN-Net" (arXiv 1807.09441): in
    early layers the first half of the channels is normalized by each image's own statistics, so that what a network
    learns from one street carries over to images taken elsewhere; the other half keeps what tells contents apart.
    The two norms are modules of their own (``instance``, ``batch``), so that freezing and synchronizing find them.
    """

    def __init__(self, channels: int, *, momentum: float = 0.1) -> None:
        super().__init__()
        self.first = channels // 2
        self.instance = nn.InstanceNorm2d(self.first, affine=True)
        self.batch = nn.BatchNorm2d(channels - self.first, momentum=momentum)

    def forward(self, x: Tensor) -> Tensor:
        return norm_and_limit(self, x, NONE)


def norm_and_limit(norm: nn.Module, x: Tensor, limits: tuple[float, float]) -> Tensor:
    """``norm`` of (N, C, H, W), then nothing outside ``limits`` (``NONE``, ``RELU``, ``RELU6``).

    ``norm``: any module. Batch norm and :class:`InstanceBatchNorm` go the short way where there is one: the same
    values up to rounding, the same running statistics.
    """
    out: Tensor | None = None
    if isinstance(norm, InstanceBatchNorm):
        if type(norm.batch) in (nn.BatchNorm2d, BatchNorm):
            out = short_norm(norm.batch, x, limits, instance=norm.instance)
        if out is None:
            both = [norm.instance(x[:, : norm.first]), norm.batch(x[:, norm.first :])]
            out = _limit(torch.cat(both, dim=1), limits)
    elif isinstance(norm, nn.BatchNorm2d) and type(norm) in (nn.BatchNorm2d, BatchNorm):
        out = short_norm(norm, x, limits)
    return _limit(norm(x), limits) if out is None else out


def short_norm(
    norm: nn.BatchNorm2d, x: Tensor, limits: tuple[float, float] = NONE, *, instance: nn.InstanceNorm2d | None = None
) -> Tensor | None:
    """Batch norm (of the last channels only where ``instance`` takes the first) and limits by the kernels.

    None where torch has to do it: outside training, on another device, in another precision or memory format, while
    compiling, for small maps.
    """
    if not (
        open_to_kernels(x, torch.bfloat16)
        and norm.training
        and x.dim() == 4
        and x.numel() >= SMALL * (SMALL_BOTH if instance else SMALL_PLAIN if limits == NONE else 1)
        and x.shape[0] * x.shape[2] * x.shape[3] > 1
        and x.is_contiguous(memory_format=torch.channels_last)
        and norm.momentum is not None
        and norm.track_running_stats
        and norm.affine
        and norm.weight.dtype == torch.float32
        and type(x) in (Tensor, nn.Parameter)
    ):
        return None
    own = 0 if instance is None else instance.num_features
    if x.shape[1] != own + norm.num_features or not _pixels_in_a_row(_groups(x, own)[1], x.shape[1]):
        return None
    weight: Tensor = norm.weight
    bias: Tensor = norm.bias
    if instance is not None:
        weight, bias = torch.cat([instance.weight, weight]), torch.cat([instance.bias, bias])
    out, mean, variance = NormAndLimit.apply(x, weight, bias, own, norm.eps, limits)
    values = x.shape[0] * x.shape[2] * x.shape[3]
    with torch.no_grad():
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * (values / (values - 1)), norm.momentum)  # as batch norm counts it
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
    result: Tensor = out
    return result


class NormAndLimit(torch.autograd.Function):
    """(x channels-last, weight (C,), bias (C,), own, eps, limits) → out, mean and (biased) variance of the batch part.

    The first ``own`` channels are normalized by each image's statistics, the others by the batch's. First derivatives
    only.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, own: int, eps: float, limits: tuple[float, float]
    ) -> tuple[Tensor, Tensor, Tensor]:
        from segwright.kernels import batch_norm_kernels as kernels

        threads = torch.get_num_threads() if x.numel() >= WORTH_A_THREAD else 1
        cut = _Cut(x, own, threads)
        values, low, high = cut.rows(x), *(cut.dtype.type(limit) for limit in limits)
        # Sums of differences to some pixel lose less than sums of squares.
        first = x[0, :, 0, 0].detach().to(cut.wide).numpy()
        shift, sums = np.tile(first, cut.k), cut.sums()
        over_threads(lambda i, _, a, z: kernels.moments(values, a, z, shift, sums[i]), cut.parts, threads)
        scale, offset, mean = cut.factors(), cut.factors(), cut.factors()
        inverse = np.empty((cut.groups, x.shape[1]))
        statistics = torch.empty(2, x.shape[1], dtype=cut.wide)
        w, b = weight.detach().numpy(), bias.detach().numpy()
        kernels.normalizer(sums, own, cut.pixels, first, w, b, eps, scale, offset, mean, inverse, statistics.numpy())
        out = torch.empty_like(x)
        into = cut.rows(out)
        over_threads(
            lambda _, g, a, z: kernels.apply(values, a, z, scale[g], offset[g], low, high, into), cut.parts, threads
        )
        ctx.save_for_backward(x, weight)
        ctx.kept = (cut, threads, scale, offset, low, high, mean, inverse)
        batch_mean, batch_variance = statistics[0, own:], statistics[1, own:]
        ctx.mark_non_differentiable(batch_mean, batch_variance)
        return out, batch_mean, batch_variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        from segwright.kernels import batch_norm_kernels as kernels

        x, weight = ctx.saved_tensors
        cut, threads, scale, offset, low, high, mean, inverse = ctx.kept
        values, slopes = cut.rows(x), cut.rows(slope.contiguous(memory_format=torch.channels_last))
        sums = cut.sums()
        over_threads(
            lambda i, g, a, z: kernels.slope_moments(
                values, slopes, a, z, scale[g], offset[g], low, high, mean[g], sums[i]
            ),
            cut.parts,
            threads,
        )
        along, across, constant = cut.factors(), cut.factors(), cut.factors()
        gradients = torch.empty(2, x.shape[1], dtype=cut.wide)
        w = weight.detach().numpy()
        kernels.differentiator(sums, cut.own, cut.pixels, w, mean, inverse, along, across, constant, gradients.numpy())
        out = torch.empty_like(x)
        into = cut.rows(out)
        over_threads(
            lambda _, g, a, z: kernels.gradient(
                values, slopes, a, z, scale[g], offset[g], low, high, along[g], across[g], constant[g], into
            ),
            cut.parts,
            threads,
        )
        return out, gradients[0], gradients[1], None, None, None


class _Cut:
    """How a channels-last map is cut into rows for the kernels and into parts for threads.

    ``k`` pixels make a row of k · C values; a group is a set of ``pixels`` with statistics of its own: an image where
    channels have their ``own``, else the batch. ``parts``: (index, group, first row, row behind the last).
    """

    def __init__(self, x: Tensor, own: int, threads: int) -> None:
        self.own = own
        self.groups, self.pixels = _groups(x, own)
        self.k = _pixels_in_a_row(self.pixels, x.shape[1])
        self.width = self.k * x.shape[1]
        rows = self.pixels // self.k
        cuts = pieces(rows, max(1, min(-(-threads // self.groups), rows)))
        places = [(g, g * rows + first, g * rows + last) for g in range(self.groups) for first, last in cuts]
        self.parts = [(index, *place) for index, place in enumerate(places)]
        self.wide = torch.float64 if x.dtype == torch.float64 else torch.float32  # of sums and factors
        self.dtype = np.dtype(np.float64 if x.dtype == torch.float64 else np.float32)

    def rows(self, x: Tensor) -> Array:
        """The memory of a channels-last tensor, (rows, width)."""
        from segwright.kernels.bf16 import raw

        return raw(x).transpose(0, 2, 3, 1).reshape(-1, self.width)

    def sums(self) -> Array:
        return np.empty((len(self.parts), 2, self.width))

    def factors(self) -> Array:
        return np.empty((self.groups, self.width), self.dtype)


def _limit(x: Tensor, limits: tuple[float, float]) -> Tensor:
    """In place."""
    if limits == NONE:
        return x
    return F.relu(x, inplace=True) if limits == RELU else F.hardtanh(x, *limits, inplace=True)


def _groups(x: Tensor, own: int) -> tuple[int, int]:
    """How many sets of pixels have statistics of their own, and how many pixels each has."""
    n, _, height, width = x.shape
    return (n, height * width) if own else (1, n * height * width)


@lru_cache(maxsize=4096)
def _pixels_in_a_row(pixels: int, channels: int) -> int:
    """How many pixels make one row for the kernels: a divisor of ``pixels``; 0 where there is none that suits.

    Rows of whole vectors (64 values) come before longer ones.
    """
    most = max(1, LONGEST // channels)
    fitting = [k for k in range(1, most + 1) if pixels % k == 0]
    best = max(fitting, key=lambda k: (channels * k % 64 == 0, channels * k % 16 == 0, k), default=0)
    return best if best * channels >= SHORTEST else 0
