"""The transforms of Winograd's 3×3 convolution over tiles of 4×4, on a CPU.

Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks" (arXiv 1509.09308), F(4×4, 3×3):
Y = Aᵀ [(G w Gᵀ) ⊙ (Bᵀ d B)] A for a tile d of 6×6 pixels that gives 4×4. Along one axis

    Bᵀ = [4  0 −5  0  1  0]     Aᵀ = [1  1  1  1  1  0]
         [0 −4 −4  1  1  0]          [0  1 −1  2 −2  0]
         [0  4 −4 −1  1  0]          [0  1  1  4  4  0]
         [0 −2 −1  2  1  0]          [0  1 −1  8 −8  1]
         [0  2 −1 −2  1  0]
         [0  4  0 −5  0  1]

Images are flat float32 memory, channels last; their channels are a multiple of 16, which are taken at once. Tiles are
(36, tiles, channels), flat: ``plane`` values lie between two of the 36. Tiles begin at every fourth row and column.

Importing this module imports numba.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from segwright.kernels.jit import jit
from segwright.kernels.simd import add, form, load, scale, scale_add, store

F32 = np.float32
LANES = form(16)
ONCE = 16  # channels
LESS_1, LESS_2, LESS_4, LESS_5 = F32(-1), F32(-2), F32(-4), F32(-5)
PLUS_2, PLUS_4, PLUS_8, ZERO = F32(2), F32(4), F32(8), F32(0)


@jit
def _enter(a: Any, at: Any, step: Any, b: Any, to: Any, stride: Any, lanes: Any) -> None:
    """Six of ``a``, ``step`` apart, by Bᵀ to six of ``b``."""
    a0, a1, a2 = load(a, at, lanes), load(a, at + step, lanes), load(a, at + 2 * step, lanes)
    a3, a4, a5 = load(a, at + 3 * step, lanes), load(a, at + 4 * step, lanes), load(a, at + 5 * step, lanes)
    store(b, to, add(scale_add(PLUS_4, a0, a4), scale(LESS_5, a2)))
    even, odd = scale_add(LESS_4, a2, a4), scale_add(LESS_4, a1, a3)
    store(b, to + stride, add(even, odd))
    store(b, to + 2 * stride, scale_add(LESS_1, odd, even))
    even, odd = scale_add(LESS_1, a2, a4), scale_add(LESS_1, a1, a3)
    store(b, to + 3 * stride, scale_add(PLUS_2, odd, even))
    store(b, to + 4 * stride, scale_add(LESS_2, odd, even))
    store(b, to + 5 * stride, add(scale_add(PLUS_4, a1, a5), scale(LESS_5, a3)))


@jit
def _leave(a: Any, at: Any, step: Any, b: Any, to: Any, stride: Any, lanes: Any) -> None:
    """Six of ``a`` by Aᵀ to four of ``b``."""
    a0, a1, a2 = load(a, at, lanes), load(a, at + step, lanes), load(a, at + 2 * step, lanes)
    a3, a4, a5 = load(a, at + 3 * step, lanes), load(a, at + 4 * step, lanes), load(a, at + 5 * step, lanes)
    near, near_odd = add(a1, a2), scale_add(LESS_1, a2, a1)
    far, far_odd = add(a3, a4), scale_add(LESS_1, a4, a3)
    store(b, to, add(a0, add(near, far)))
    store(b, to + stride, scale_add(PLUS_2, far_odd, near_odd))
    store(b, to + 2 * stride, scale_add(PLUS_4, far, near))
    store(b, to + 3 * stride, add(scale_add(PLUS_8, far_odd, near_odd), a5))


@jit
def _leave_transposed(a: Any, at: Any, step: Any, b: Any, to: Any, stride: Any, lanes: Any) -> None:
    """Four of ``a`` by A to six of ``b``."""
    a0, a1, a2, a3 = (
        load(a, at, lanes),
        load(a, at + step, lanes),
        load(a, at + 2 * step, lanes),
        load(a, at + 3 * step, lanes),
    )
    store(b, to, a0)
    even, odd = add(a0, a2), add(a1, a3)
    store(b, to + stride, add(even, odd))
    store(b, to + 2 * stride, scale_add(LESS_1, odd, even))
    even, odd = scale_add(PLUS_4, a2, a0), scale(PLUS_2, scale_add(PLUS_4, a3, a1))
    store(b, to + 3 * stride, add(even, odd))
    store(b, to + 4 * stride, scale_add(LESS_1, odd, even))
    store(b, to + 5 * stride, a3)


@jit
def _with_border(
    x: Any, image: Any, top: Any, left: Any, side: Any, height: Any, width: Any, channels: Any, tile: Any
) -> None:
    """A tile of ``side``×``side`` pixels, zero where it lies outside of the image, into ``tile``."""
    for i in range(side):
        for j in range(side):
            row, column, to = top + i, left + j, (i * side + j) * channels
            if row >= 0 and row < height and column >= 0 and column < width:
                at = ((image * height + row) * width + column) * channels
                for c in range(channels):
                    tile[to + c] = x[at + c]
            else:
                for c in range(channels):
                    tile[to + c] = ZERO


@jit
def enter(
    x: Any, height: Any, width: Any, channels: Any, rows: Any, columns: Any, start: Any, stop: Any,
    tiles: Any, plane: Any, lanes: Any,
) -> None:  # fmt: skip
    """Bᵀ d B of the tiles in the rows of tiles start … stop, counted over all images, ``rows`` in each."""
    border, between = np.empty(36 * channels, F32), np.empty(36 * ONCE, F32)
    for tile_row in range(start, stop):
        image, top = tile_row // rows, (tile_row % rows) * 4 - 1
        for tile_column in range(columns):
            left, to = tile_column * 4 - 1, (tile_row * columns + tile_column) * channels
            if top >= 0 and left >= 0 and top + 6 <= height and left + 6 <= width:
                source, at, step = x, ((image * height + top) * width + left) * channels, width * channels
            else:
                _with_border(x, image, top, left, 6, height, width, channels, border)
                source, at, step = border, 0, 6 * channels
            for c in range(0, channels, ONCE):
                for j in range(6):
                    _enter(source, at + j * channels + c, step, between, j * ONCE, 6 * ONCE, lanes)
                for i in range(6):
                    _enter(between, i * 6 * ONCE, ONCE, tiles, i * 6 * plane + to + c, plane, lanes)


@jit
def leave(
    tiles: Any, plane: Any, height: Any, width: Any, channels: Any, rows: Any, columns: Any, start: Any, stop: Any,
    out: Any, lanes: Any,
) -> None:  # fmt: skip
    """Aᵀ m A of the tiles in some rows of tiles, into the image; what lies outside of it is left out."""
    between, last = np.empty(24 * ONCE, F32), np.empty(16 * ONCE, F32)
    for tile_row in range(start, stop):
        image, top = tile_row // rows, (tile_row % rows) * 4
        high = min(4, height - top)
        for tile_column in range(columns):
            left, at = tile_column * 4, (tile_row * columns + tile_column) * channels
            wide = min(4, width - left)
            for c in range(0, channels, ONCE):
                to = ((image * height + top) * width + left) * channels + c
                for j in range(6):
                    _leave(tiles, j * plane + at + c, 6 * plane, between, j * ONCE, 6 * ONCE, lanes)
                if high == 4 and wide == 4:
                    for i in range(4):
                        _leave(between, i * 6 * ONCE, ONCE, out, to + i * width * channels, channels, lanes)
                else:
                    for i in range(4):
                        _leave(between, i * 6 * ONCE, ONCE, last, i * 4 * ONCE, ONCE, lanes)
                    for i in range(high):
                        for j in range(wide):
                            value = load(last, (i * 4 + j) * ONCE, lanes)
                            store(out, to + (i * width + j) * channels, value)


@jit
def leave_transposed(
    x: Any, height: Any, width: Any, channels: Any, rows: Any, columns: Any, start: Any, stop: Any,
    tiles: Any, plane: Any, lanes: Any,
) -> None:  # fmt: skip
    """A y Aᵀ of tiles of 4×4: how the gradient comes back through :func:`leave`."""
    border, between = np.empty(16 * channels, F32), np.empty(24 * ONCE, F32)
    for tile_row in range(start, stop):
        image, top = tile_row // rows, (tile_row % rows) * 4
        for tile_column in range(columns):
            left, to = tile_column * 4, (tile_row * columns + tile_column) * channels
            if top + 4 <= height and left + 4 <= width:
                source, at, step = x, ((image * height + top) * width + left) * channels, width * channels
            else:
                _with_border(x, image, top, left, 4, height, width, channels, border)
                source, at, step = border, 0, 4 * channels
            for c in range(0, channels, ONCE):
                for j in range(4):
                    _leave_transposed(source, at + j * channels + c, step, between, j * ONCE, 4 * ONCE, lanes)
                for i in range(6):
                    _leave_transposed(between, i * 4 * ONCE, ONCE, tiles, i * 6 * plane + to + c, plane, lanes)
