"""The loops of a depthwise convolution's two gradients, on a CPU, in channels-last memory.

Maps are (N, H, W, C) arrays, fp32 or bf16 (:mod:`segwright.kernels.bf16`); kernels are (k · k, C) in float32; sums are
float32. The innermost loop runs over the channels, which lie side by side, so that it fills the vector units.

Importing this module imports numba; :mod:`segwright.kernels.depthwise` does so at the first batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from segwright.kernels.bf16 import narrow, wide
from segwright.kernels.jit import jit

ZERO = np.float32(0)


@jit
def weight_gradient(
    x: Any, grad: Any, start: Any, stop: Any, size: Any, stride: Any, padding: Any, dilation: Any, out: Any
) -> None:
    """``out`` (N, k · k, C), of the images from ``start`` to ``stop``: the sums over an image's outputs of the gradient
    times the input below each tap."""
    height, width, channels = x.shape[1], x.shape[2], x.shape[3]
    along = np.empty(channels, np.float32)
    for image in range(start, stop):
        out[image] = 0
        for i in range(size[0]):
            for j in range(size[1]):
                shift = j * dilation[1] - padding[1]
                first = max(0, -(shift // stride[1]))
                last = min(grad.shape[2], (width - 1 - shift) // stride[1] + 1)
                for row in range(grad.shape[1]):
                    above = row * stride[0] + i * dilation[0] - padding[0]
                    if above < 0 or above >= height:
                        continue
                    along[:] = 0
                    for column in range(first, last):
                        here, there = grad[image, row, column], x[image, above, column * stride[1] + shift]
                        for c in range(channels):
                            along[c] += wide(here[c]) * wide(there[c])
                    for c in range(channels):
                        out[image, i * size[1] + j, c] += along[c]


@jit
def input_gradient(
    grad: Any, weight: Any, start: Any, stop: Any, size: Any, stride: Any, padding: Any, dilation: Any, out: Any
) -> None:
    """``out`` (N, H, W, C), its rows from ``start`` to ``stop`` of all N · H: the gradients of the outputs that an
    input reaches, each times the weight of the tap on the way."""
    height, width, channels = out.shape[1], out.shape[2], out.shape[3]
    sums = np.empty((width, channels), np.float32)
    for place in range(start, stop):
        image, row = place // height, place % height
        sums[:] = 0
        for i in range(size[0]):
            along = row + padding[0] - i * dilation[0]
            if along < 0 or along % stride[0] or along // stride[0] >= grad.shape[1]:
                continue
            below = grad[image, along // stride[0]]
            for j in range(size[1]):
                tap = weight[i * size[1] + j]
                shift = j * dilation[1] - padding[1]
                first = max(0, -(shift // stride[1]))
                last = min(grad.shape[2], (width - 1 - shift) // stride[1] + 1)
                for column in range(first, last):
                    here, total = below[column], sums[column * stride[1] + shift]
                    for c in range(channels):
                        total[c] += wide(here[c]) * tap[c]
        for column in range(width):
            for c in range(channels):
                out[image, row, column, c] = narrow(sums[column, c], out)
