"""The loops of batch norm and instance norm with a clamping activation (ReLU, ReLU6), and of their gradient, on a CPU.

In channels-last memory the values of a channel lie C apart. Several pixels are taken as one row, so that a row is long
enough for the vector units whatever the number of channels; the sums of a row's columns are folded into channels
afterwards. Arrays are (rows, width) or (width,), width a multiple of the channels. ``grad`` is the gradient of the
output; it counts where the activation lets it through. Maps may be bf16 (:mod:`segwright.kernels.bf16`); sums and
factors are then float32.

Importing this module imports numba; :mod:`segwright.kernels.batch_norm` does so at the first batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from segwright.kernels.bf16 import narrow, wide
from segwright.kernels.jit import jit

ZERO = np.float32(0)
BLOCK = 64  # rows summed in the values' own precision before they join the sums in double


@jit
def moments(x: Any, start: Any, stop: Any, shift: Any, sums: Any) -> None:
    """``sums`` (2, width; double): the sums over the rows of x - shift and of its square."""
    width = x.shape[1]
    sums[:] = 0
    total, square = np.empty(width, shift.dtype), np.empty(width, shift.dtype)
    for first in range(start, stop, BLOCK):
        total[:] = 0
        square[:] = 0
        for row in range(first, min(first + BLOCK, stop)):
            for c in range(width):
                value = wide(x[row, c]) - shift[c]
                total[c] += value
                square[c] += value * value
        for c in range(width):
            sums[0, c] += total[c]
            sums[1, c] += square[c]


@jit
def _means(sums: Any, groups: Any, n_instance: Any, channels: Any, pixels: Any) -> Any:
    """Sums of the parts, (parts, 2, width) → (2, groups, C): means over each group's pixels; beyond the first
    ``n_instance`` channels over those of all groups."""
    means = np.zeros((2, groups, channels))
    split_range = sums.shape[0] // groups
    for part in range(sums.shape[0]):
        for which in range(2):
            for c in range(sums.shape[2]):
                means[which, part // split_range, c % channels] += sums[part, which, c] / pixels
    for which in range(2):
        for c in range(n_instance, channels):
            together = 0.0
            for group in range(groups):
                together += means[which, group, c]
            for group in range(groups):
                means[which, group, c] = together / groups
    return means


@jit
def forward_stats(
    sums: Any, n_instance: Any, pixels: Any, shift: Any, weight: Any, bias: Any, eps: Any,
    scale: Any, offset: Any, mean: Any, inverse: Any, statistics: Any,
) -> None:  # fmt: skip
    """From the parts' moments: what :func:`apply` multiplies by and adds, and the means, each (groups, width); 1 / the
    deviation, (groups, C) in double; mean and biased variance (2, C) of the last group."""
    groups, channels = inverse.shape
    means = _means(sums, groups, n_instance, channels, pixels)
    for group in range(groups):
        for c in range(channels):
            variance = max(means[1, group, c] - means[0, group, c] * means[0, group, c], 0.0)
            if means[0, group, c] != means[0, group, c]:
                variance = means[0, group, c]  # not a number, and stays so
            center = means[0, group, c] + shift[c]
            inverse[group, c] = 1 / np.sqrt(variance + eps)
            by = weight[c] * inverse[group, c]
            statistics[0, c], statistics[1, c] = center, variance
            for place in range(c, scale.shape[1], channels):
                scale[group, place], offset[group, place] = by, bias[c] - center * by
                mean[group, place] = center


@jit
def backward_stats(
    sums: Any, n_instance: Any, pixels: Any, weight: Any, mean: Any, inverse: Any,
    along: Any, across: Any, constant: Any, gradients: Any,
) -> None:  # fmt: skip
    """From the parts' gradient moments: the factors of :func:`gradient`, each (groups, width), and the gradients
    (2, C) of weight and bias.

    With x̂ the normalized values and g the output's gradient, that of x is
    weight · inverse · (g - mean(g) - x̂ · mean(g · x̂)).
    """
    groups, channels = inverse.shape
    alone = _means(sums, groups, channels, channels, pixels)
    means = _means(sums, groups, n_instance, channels, pixels)
    for c in range(channels):
        of_weight, of_bias = 0.0, 0.0
        for group in range(groups):
            of_weight += alone[1, group, c] * inverse[group, c] * pixels
            of_bias += alone[0, group, c] * pixels
            by = weight[c] * inverse[group, c]
            turn = -by * inverse[group, c] * inverse[group, c] * means[1, group, c]
            for place in range(c, along.shape[1], channels):
                along[group, place], across[group, place] = by, turn
                constant[group, place] = -by * means[0, group, c] - turn * mean[group, place]
        gradients[0, c], gradients[1, c] = of_weight, of_bias


@jit
def apply(x: Any, start: Any, stop: Any, scale: Any, offset: Any, low: Any, high: Any, out: Any) -> None:
    """out = x · scale + offset, not below ``low`` and not above ``high``."""
    width = x.shape[1]
    for row in range(start, stop):
        for c in range(width):
            value = wide(x[row, c]) * scale[c] + offset[c]
            value = low if value < low else value
            out[row, c] = narrow(high if value > high else value, out)


@jit
def grad_moments(
    x: Any, grad: Any, start: Any, stop: Any, scale: Any, offset: Any, low: Any, high: Any, mean: Any, sums: Any
) -> None:
    """``sums`` (2, width; double): the sums over the rows of the gradient and of gradient · (x - mean)."""
    width = x.shape[1]
    sums[:] = 0
    total, along = np.empty(width, mean.dtype), np.empty(width, mean.dtype)
    for first in range(start, stop, BLOCK):
        total[:] = 0
        along[:] = 0
        for row in range(first, min(first + BLOCK, stop)):
            for c in range(width):
                here = wide(x[row, c])
                value = here * scale[c] + offset[c]
                above = wide(grad[row, c])
                through = above if (value > low) & (value < high) else ZERO
                total[c] += through
                along[c] += through * (here - mean[c])
        for c in range(width):
            sums[0, c] += total[c]
            sums[1, c] += along[c]


@jit
def gradient(
    x: Any, grad: Any, start: Any, stop: Any, scale: Any, offset: Any, low: Any, high: Any,
    along: Any, across: Any, constant: Any, out: Any,
) -> None:  # fmt: skip
    """out = gradient · along + x · across + constant."""
    width = x.shape[1]
    for row in range(start, stop):
        for c in range(width):
            here = wide(x[row, c])
            value = here * scale[c] + offset[c]
            above = wide(grad[row, c])
            through = above if (value > low) & (value < high) else ZERO
            out[row, c] = narrow(through * along[c] + here * across[c] + constant[c], out)
