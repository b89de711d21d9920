"""Softmax, what the losses need of it, and its gradient in one pass over the logits, on a CPU.

PyTorch takes some eight passes over tensors of N·K·H·W for cross-entropy and its gradient, and more for Dice. Here a
block of 128 pixels is read once into the first-level cache, whatever the memory format, and only H·W-sized maps leave
it; backward reads the logits again and writes their gradient. :mod:`segwright.kernels.softmax` wraps this for autograd.

Importing this module imports numba.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from segwright.kernels.jit import kernel

BLOCK = 128  # pixels: 21 classes of fp32 are 11 KB, a third of a first-level cache
F32 = np.float32
# exp(x) = 2^n · e^r with |r| ≤ ln 2 / 2, e^r by a polynomial of degree 7 (Cephes expf); its error is under 2 ulp
LOG2E, LN2_HIGH, LN2_LOW = F32(1.44269504), F32(0.693359375), F32(-2.12194440e-4)
E5, E4, E3 = F32(1.9875691500e-4), F32(1.3981999507e-3), F32(8.3334519073e-3)
E2, E1, E0 = F32(4.1665795894e-2), F32(1.6666665459e-1), F32(5.0000001201e-1)
LOWEST, HALF, ONE, ZERO = F32(-87.0), F32(0.5), F32(1.0), F32(0.0)
BIAS, SHIFT = np.int32(127), np.int32(23)


@kernel
def _exp(x: Any, bits: Any, powers: Any) -> None:
    """x ← exp(x) in place for x ≤ 0; ``powers`` is ``bits`` seen as floats. Written so that it vectorizes."""
    for j in range(x.size):
        v = max(x[j], LOWEST)
        n = np.floor(v * LOG2E + HALF)
        r = v - n * LN2_HIGH - n * LN2_LOW
        p = (((((E5 * r + E4) * r + E3) * r + E2) * r + E1) * r + E0) * r * r + r + ONE
        bits[j] = (np.int32(n) + BIAS) << SHIFT
        x[j] = p
    for j in range(x.size):
        x[j] = x[j] * powers[j]


@kernel
def _load(x: Any, steps: Any, image: Any, start: Any, count: Any, rows: Any) -> None:
    """Pixels start … start + count of one image into K rows. ``x`` is flat memory, ``steps`` how far the next image,
    class and pixel are in it: one compiled kernel then serves every memory format."""
    first = image * steps[0] + start * steps[2]
    if steps[2] == 1:  # contiguous: a class is a plane
        for k in range(rows.shape[0]):
            rows[k, :count] = x[first + k * steps[1] : first + k * steps[1] + count]
    else:  # channels-last: a pixel's classes lie together
        for j in range(count):
            pixel = x[first + j * steps[2] : first + j * steps[2] + rows.shape[0]]
            for k in range(pixel.size):
                rows[k, j] = pixel[k]


@kernel
def _store(rows: Any, steps: Any, image: Any, start: Any, count: Any, x: Any) -> None:
    """The way back of :func:`_load`."""
    first = image * steps[0] + start * steps[2]
    if steps[2] == 1:
        for k in range(rows.shape[0]):
            x[first + k * steps[1] : first + k * steps[1] + count] = rows[k, :count]
    else:
        for j in range(count):
            pixel = x[first + j * steps[2] : first + j * steps[2] + rows.shape[0]]
            for k in range(pixel.size):
                pixel[k] = rows[k, j]


@kernel
def forward(
    x: Any, steps: Any, target: Any, image: Any, first: Any, last: Any, ignore: Any, weights: Any,
    logsum: Any, surprise: Any, spread: Any, overlap: Any,
) -> None:  # fmt: skip
    """Pixels first … last of one image: ``x`` fp32, see :func:`_load`; ``target`` (N, P).

    Fills ``logsum`` and ``surprise`` (N, P), ``spread`` (N, P; of size 0: not wanted) with −Σ w_k log p_k / K, and adds
    to ``overlap`` (3, K) fp64 (of size 0: not wanted): Σ p_k where the truth is k, Σ p_k, how many are k.
    """
    classes = weights.size
    rows = np.zeros((classes, BLOCK), F32)
    most, total, mixed = np.empty(BLOCK, F32), np.empty(BLOCK, F32), np.empty(BLOCK, F32)
    factor = np.empty(BLOCK, F32)
    bits = np.empty(BLOCK, np.int32)
    powers = bits.view(F32)
    weight_sum = F32(weights.sum())
    for start in range(first, last, BLOCK):
        count = min(BLOCK, last - start)
        _load(x, steps, image, start, count, rows)
        most[:] = rows[0]
        for k in range(1, classes):
            row = rows[k]
            for j in range(BLOCK):
                most[j] = max(most[j], row[j])
        if spread.size:
            mixed[:] = ZERO
            for k in range(classes):
                row = rows[k]
                for j in range(BLOCK):
                    mixed[j] += weights[k] * (row[j] - most[j])
        for j in range(count):  # the true class's logit, before it is overwritten
            t = target[image, start + j]
            surprise[image, start + j] = ZERO if t == ignore else most[j] - rows[t, j]
        total[:] = ZERO
        for k in range(classes):
            row = rows[k]
            for j in range(BLOCK):
                row[j] = row[j] - most[j]
            _exp(row, bits, powers)
            for j in range(BLOCK):
                total[j] += row[j]
        for j in range(count):
            t, log_total = target[image, start + j], F32(math.log(total[j]))
            logsum[image, start + j] = most[j] + log_total
            factor[j] = ZERO if t == ignore else ONE / total[j]
            if t != ignore:
                surprise[image, start + j] += log_total
                if spread.size:
                    spread[image, start + j] = (weight_sum * log_total - mixed[j]) / F32(classes)
                if overlap.size:
                    overlap[0, t] += rows[t, j] * factor[j]
                    overlap[2, t] += 1
        if overlap.size:
            for k in range(classes):
                row, found = rows[k], ZERO
                for j in range(count):
                    found += row[j] * factor[j]
                overlap[1, k] += found


@kernel
def backward(
    x: Any, steps: Any, target: Any, image: Any, first: Any, last: Any, ignore: Any, weights: Any,
    logsum: Any, slope: Any, spread_slope: Any, overlap_slope: Any, gradient: Any,
) -> None:  # fmt: skip
    """The gradient of pixels first … last into ``gradient`` (laid out as ``x``), from the slopes of forward's outputs.

    With p the softmax, a pixel's gradient is p_j·(g + s·W/K − d + b_j) − s·w_j/K + [j = t]·(p_t·a_t − g), where g, s
    are the slopes of surprise and spread, a and b those of the first two rows of overlap, W = Σ w and
    d = Σ p_k·b_k + p_t·a_t.
    """
    classes = weights.size
    rows = np.zeros((classes, BLOCK), F32)
    g, s, common, log_sum = np.zeros(BLOCK, F32), np.zeros(BLOCK, F32), np.zeros(BLOCK, F32), np.zeros(BLOCK, F32)
    counted = np.zeros(BLOCK, F32)
    bits = np.empty(BLOCK, np.int32)
    powers = bits.view(F32)
    mean_weight = F32(weights.sum()) / F32(classes)
    for start in range(first, last, BLOCK):
        count = min(BLOCK, last - start)
        _load(x, steps, image, start, count, rows)
        for j in range(count):
            valid = target[image, start + j] != ignore
            counted[j] = ONE if valid else ZERO
            g[j] = slope[image, start + j] if valid else ZERO
            s[j] = spread_slope[image, start + j] if valid and spread_slope.size else ZERO
            log_sum[j] = logsum[image, start + j]
            common[j] = g[j] + s[j] * mean_weight
        for k in range(classes):
            row = rows[k]
            for j in range(BLOCK):
                row[j] = row[j] - log_sum[j]
            _exp(row, bits, powers)
            if overlap_slope.size:
                for j in range(BLOCK):
                    common[j] -= row[j] * overlap_slope[1, k] * counted[j]
        if overlap_slope.size:
            for j in range(count):
                t = target[image, start + j]
                if t != ignore:
                    through = rows[t, j] * overlap_slope[0, t]
                    common[j] -= through
                    g[j] -= through
        for k in range(classes):
            row = rows[k]
            share = overlap_slope[1, k] if overlap_slope.size else ZERO
            lost = weights[k] / F32(classes)
            for j in range(BLOCK):
                row[j] = row[j] * (common[j] + share * counted[j]) - s[j] * lost
        for j in range(count):
            t = target[image, start + j]
            if t != ignore:
                rows[t, j] -= g[j]
        _store(rows, steps, image, start, count, gradient)
