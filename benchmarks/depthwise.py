"""The gradients of depthwise convolutions: torch's, and segwright's in the same process, on this CPU.

    python benchmarks/depthwise.py

Shapes are those of EfficientNet-Lite0 on 8 images of 192×256. One line per layer and precision: milliseconds, the
fastest of five, both ways by turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from segwright.kernels import depthwise

LAYERS = [  # channels, kernel, stride, height and width
    (96, 3, 2, (96, 128)),
    (144, 5, 2, (48, 64)),
    (240, 5, 1, (24, 32)),
    (240, 3, 2, (24, 32)),
    (480, 5, 1, (12, 16)),
    (672, 5, 1, (12, 16)),
    (672, 5, 2, (12, 16)),
    (1152, 5, 1, (6, 8)),
]


def main() -> None:
    print(
        f"{torch.get_num_threads()} threads, torch {torch.__version__}; milliseconds of input's and weight's gradient"
    )
    for channels, kernel, stride, size in LAYERS:
        for dtype in (torch.float32, torch.bfloat16):
            x = torch.randn(8, channels, *size).to(dtype, memory_format=torch.channels_last).requires_grad_()
            weight = torch.randn(channels, 1, kernel, kernel).to(dtype).requires_grad_()
            geometry = ((kernel, kernel), (stride, stride), (kernel // 2, kernel // 2), (1, 1))
            ways = (
                F.conv2d(x, weight, None, stride, kernel // 2, 1, channels),
                depthwise.Depthwise.apply(x, weight, *geometry),
            )
            slope = torch.randn_like(ways[0])
            backward = partial(torch.autograd.grad, inputs=(x, weight), grad_outputs=slope, retain_graph=True)
            theirs, ours = best([partial(backward, out) for out in ways])
            name = f"{channels} channels, {kernel}×{kernel}, stride {stride}, {size[0]}×{size[1]}"
            print(f"{name:40} {str(dtype)[6:]:9} torch {theirs:6.2f}  segwright {ours:6.2f}  {theirs / ours:5.1f} ×")


def best(ways: list[Callable[[], object]]) -> list[float]:
    """The fastest of five calls of each, by turns."""
    found = [float("inf")] * len(ways)
    for turn in range(6):
        for index, way in enumerate(ways):
            started = time.perf_counter()
            way()
            if turn:
                found[index] = min(found[index], 1000 * (time.perf_counter() - started))
    return found


if __name__ == "__main__":
    main()
