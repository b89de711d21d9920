"""The CPU kernels of :mod:`segwright.kernels.softmax_kernels` as one autograd function, spread over torch's threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from segwright.kernels.dispatch import open_to_kernels
from segwright.kernels.threads import over_threads, pieces

Floats = np.ndarray[Any, np.dtype[np.float32]]
SMALL = 1 << 15  # logits: below, a thread costs more than it saves


def usable(logits: Tensor) -> bool:
    """Whether the kernels take these logits: fp32 on a CPU, not while torch.compile or functorch traces."""
    return logits.numel() > 0 and open_to_kernels(logits)


class SoftmaxStatistics(torch.autograd.Function):
    """(logits (N, K, H, W) fp32, target (N, H, W), class weights (K,)) → surprise, spread, overlap.

    surprise (N, H, W): −log p of the true class. spread (N, H, W): −Σ w_k log p_k / K, of size 0 where not wanted.
    overlap (3, K): Σ p_k where the truth is k, Σ p_k, the number of pixels, of size 0 where not wanted. Ignored pixels
    are 0 and count nowhere. Targets must have been checked. First derivatives only.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, target: Tensor, weights: Tensor, ignore: int, spread: bool, overlap: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        from segwright.kernels import softmax_kernels

        n, classes, height, width = logits.shape
        x, steps = _flat(logits.detach())
        truth, ignore = _narrow(target.detach().reshape(n, -1), classes, ignore)
        w = weights.detach().float().numpy()
        logsum, surprise = np.empty(truth.shape, np.float32), np.empty(truth.shape, np.float32)
        mixed = np.zeros(truth.shape if spread else (0, 0), np.float32)
        parts = _parts(n, height * width, classes)
        sums = [np.zeros((3, classes) if overlap else (0, 0), np.float64) for _ in parts]

        def work(index: int) -> None:
            image, first, last = parts[index]
            softmax_kernels.forward(
                x, steps, truth, image, first, last, ignore, w, logsum, surprise, mixed, sums[index]
            )

        over_threads(work, [(index,) for index in range(len(parts))], torch.get_num_threads())
        ctx.kept = (x, steps, truth, w, ignore, logsum)
        ctx.layout = (n, classes, height, width)
        ctx.set_materialize_grads(False)
        found = np.sum(sums, axis=0).astype(np.float32)
        spread_map = torch.from_numpy(mixed.reshape(n, height, width) if spread else mixed)
        return torch.from_numpy(surprise).view(n, height, width), spread_map, torch.from_numpy(found)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, slope: Tensor | None, spread_slope: Tensor | None, overlap_slope: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        from segwright.kernels import softmax_kernels

        x, steps, truth, w, ignore, logsum = ctx.kept
        n, classes, height, width = ctx.layout
        nothing = np.zeros((0, 0), np.float32)
        g = np.zeros_like(logsum) if slope is None else _dense(slope).reshape(truth.shape)
        s = nothing if spread_slope is None or not spread_slope.numel() else _dense(spread_slope).reshape(truth.shape)
        o = nothing if overlap_slope is None or not overlap_slope.numel() else _dense(overlap_slope)
        planar = steps[2] == 1 and classes > 1
        shape = (n, classes, height, width)
        gradient = torch.empty(shape, memory_format=torch.contiguous_format if planar else torch.channels_last)
        out, _ = _flat(gradient)
        parts = _parts(n, height * width, classes)

        def work(index: int) -> None:
            image, first, last = parts[index]
            softmax_kernels.backward(x, steps, truth, image, first, last, ignore, w, logsum, g, s, o, out)

        over_threads(work, [(index,) for index in range(len(parts))], torch.get_num_threads())
        return gradient, None, None, None, None, None


def _flat(logits: Tensor) -> tuple[Floats, tuple[int, int, int]]:
    """The logits' memory as one row, and how far the next image, class and pixel are in it. What is neither
    contiguous nor channels-last is copied first."""
    _, classes, height, width = logits.shape
    if logits.is_contiguous(memory_format=torch.channels_last):
        flat = logits.permute(0, 2, 3, 1).reshape(-1).numpy()
        return flat, (classes * height * width, 1, classes)
    return logits.contiguous().reshape(-1).numpy(), (classes * height * width, height * width, 1)


def _narrow(target: Tensor, classes: int, ignore: int) -> tuple[np.ndarray[Any, Any], int]:
    """Targets as uint8 with 255 for ignored, or as int32 with −1 where they do not fit: two kernels to compile, not one
    for every integer type."""
    if classes > 255:
        return torch.where(target == ignore, -1, target.int()).contiguous().numpy(), -1
    if ignore != 255:
        target = torch.where(target == ignore, 255, target)
    return target.to(torch.uint8).contiguous().numpy(), 255


def _dense(slope: Tensor) -> Floats:
    """The slope of a sum arrives as one number expanded to the whole map; the kernel reads plain memory."""
    return np.asarray(slope.detach().float().contiguous().numpy())


def _parts(images: int, pixels: int, classes: int) -> list[tuple[int, int, int]]:
    """(image, first pixel, last pixel) for each piece of work; about as many pieces as threads, or more."""
    threads = torch.get_num_threads() if images * pixels * classes > SMALL else 1
    cuts = pieces(pixels, max(1, -(-threads // max(images, 1))))
    return [(n, first, last) for n in range(images) for first, last in cuts]
