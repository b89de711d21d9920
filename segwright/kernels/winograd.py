"""3×3 convolutions in training on a CPU with a quarter of the multiplications, where many channels meet.

Winograd's minimal filtering F(4×4, 3×3) (Lavin and Gray 2016, arXiv 1509.09308): 36 products for what takes 144, as 36
matrix products over all tiles. What that saves is lost again on transforming where channels are few. Results differ
from the direct sums by some 1e-5 of the largest value (fp32), so prediction and export keep to the direct ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from segwright.kernels.dispatch import supports
from segwright.kernels.forms import KernelForm
from segwright.kernels.threads import parallel_map, split_range

Array = np.ndarray[Any, np.dtype[Any]]
MIN_CHANNELS = 96
MIN_TILES = 32
MAX_WASTE = 1.5  # pixels of all tiles to those of the map
G = ((1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6),
     (1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6), (0, 0, 1))  # fmt: skip
FILTER = torch.from_numpy(np.kron(G, G).astype(np.float32))  # (36, 9): a filter to its 36 factors


class WinogradForm(KernelForm):
    """For torch's Conv2d, 3×3: in training."""

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(self, nn.Conv2d)
        if not (self.training and applies(x, self.weight)):
            result: Tensor = super().forward(x)
            return result
        out: Tensor = Winograd.apply(x, self.weight)
        return out if self.bias is None else out + self.bias[:, None, None]


def fits(module: nn.Conv2d) -> bool:
    """Whether it is a 3×3 convolution of stride 1 with padding 1 and enough channels."""
    return (
        module.kernel_size == (3, 3)
        and module.stride == module.dilation == (1, 1)
        and module.padding == (1, 1)
        and module.padding_mode == "zeros"
        and module.groups == 1
        and not module.in_channels % 16
        and not module.out_channels % 16
        and min(module.in_channels, module.out_channels) >= MIN_CHANNELS
    )


def applies(x: Tensor, weight: Tensor) -> bool:
    """Whether the kernels take this map: fp32 on a CPU, channels-last, large enough, nothing traced or cast."""
    if not (supports(x) and x.dim() == 4 and weight.dtype == torch.float32):
        return False
    n, _, height, width = x.shape
    rows, columns = _tiles(height, width)
    return (
        n * rows * columns >= MIN_TILES
        and 16 * rows * columns <= MAX_WASTE * height * width
        and x.is_contiguous(memory_format=torch.channels_last)
        and not torch.is_autocast_enabled("cpu")
        and type(x) in (Tensor, nn.Parameter)
        and type(weight) in (Tensor, nn.Parameter)
    )


class Winograd(torch.autograd.Function):
    """(x (N, C, H, W) channels-last, weight (O, C, 3, 3)) → the convolution with padding 1, (N, O, H, W).

    C and O are multiples of 16. First derivatives only.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _convolved(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, Tensor | None]:
        from segwright.kernels import winograd_kernels as kernels

        x, weight = ctx.saved_tensors
        grad_output = grad_output.contiguous(memory_format=torch.channels_last)
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = _convolved(grad_output, weight.flip(2, 3).transpose(0, 1))
        if ctx.needs_input_grad[1]:
            products = torch.bmm(
                _to_tiles(kernels.enter, x).transpose(1, 2), _to_tiles(kernels.leave_transposed, grad_output)
            )
            o, c = weight.shape[:2]
            grad_weight = (FILTER.T @ products.view(36, c * o)).view(3, 3, c, o).permute(3, 2, 0, 1)
        return grad_x, grad_weight


def _convolved(x: Tensor, weight: Tensor) -> Tensor:
    from segwright.kernels import winograd_kernels as kernels

    n, _, height, width = x.shape
    o, c = weight.shape[:2]
    filters = (FILTER @ weight.permute(2, 3, 1, 0).reshape(9, c * o)).view(36, c, o)
    products = torch.bmm(_to_tiles(kernels.enter, x), filters)
    rows, columns = _tiles(height, width)
    out = torch.empty(n, o, height, width, memory_format=torch.channels_last)
    tiles, flat = products.numpy().reshape(-1), _flat(out)
    plane = n * rows * columns * o
    _map_rows(
        lambda a, z: kernels.leave(tiles, plane, height, width, o, rows, columns, a, z, flat, kernels.LANES), n * rows
    )
    return out


def _to_tiles(transform: Callable[..., None], x: Tensor) -> Tensor:
    """(N, C, H, W) channels-last → (36, tiles, C)."""
    from segwright.kernels.winograd_kernels import LANES

    n, c, height, width = x.shape
    rows, columns = _tiles(height, width)
    tiles = torch.empty(36, n * rows * columns, c)
    into, flat = tiles.numpy().reshape(-1), _flat(x)
    plane = n * rows * columns * c
    _map_rows(lambda a, z: transform(flat, height, width, c, rows, columns, a, z, into, plane, LANES), n * rows)
    return tiles


def _tiles(height: int, width: int) -> tuple[int, int]:
    return -(-height // 4), -(-width // 4)


def _flat(x: Tensor) -> Array:
    return x.detach().numpy().transpose(0, 2, 3, 1).reshape(-1)


def _map_rows(work: Callable[[int, int], None], rows: int) -> None:
    threads = torch.get_num_threads()
    parallel_map(work, split_range(rows, threads), threads)
