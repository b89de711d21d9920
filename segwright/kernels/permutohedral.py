"""The permutohedral lattice: Gaussian filtering of pixels in position and color, in time linear in the pixels.

Source: Adams, Baek and Davis, 'Fast High-Dimensional Filtering Using the Permutohedral Lattice' (2010), as used for the
dense CRF by Krähenbühl and Koltun (2011). A filter is three steps: *splat* each pixel onto the d + 1 corners of its
simplex, *blur* the vertices along the d + 1 lattice directions with (1/2, 1, 1/2), *slice* back at the pixels. A
feature's unit is one standard deviation.

What differs from the usual implementations, for speed:

- A vertex's key is one 64-bit integer that is *linear* in its coordinates. The d + 1 corners of a simplex, and the
  neighbors of a vertex, then follow by one addition each, and hashing and comparing cost one instruction.
- Pixels are cut into chunks that build their own tables without locks; the tables are merged afterwards. The work runs
  in plain threads with the interpreter lock released.
- Vertices are numbered as a raster scan meets them, so that neighboring pixels touch neighboring memory.

Vertex 0 stands for 'no such neighbor': its values are zero. The twin in torch operations is
:mod:`segwright.postprocess.crf_layer`. Importing this module imports numba.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from segwright.kernels.jit import jit
from segwright.kernels.lattice import (
    Float32Array,
    Int32Array,
    Int64Array,
    Lattice,
    UInt8Array,
    blur_scales,
    number_coordinates,
)
from segwright.kernels.simd import add, form, load, peek, scale_add, store
from segwright.kernels.threads import ThreadPool

STRETCH = 256  # pixels whose simplices are found together
_GOLDEN = np.int64(-7046029254386353131)  # 2^64 / golden ratio: spreads consecutive keys over the table


def build_lattice(
    image: UInt8Array, position_sigma: float, color_sigma: float | None, *, pool: ThreadPool | None = None
) -> Lattice:
    """The lattice of an image (H×W×C uint8): position in pixels over ``position_sigma``, and color (0–255) over
    ``color_sigma``; ``color_sigma`` None leaves color out (the smoothness kernel).

    PostprocessError where a sigma is so small that the lattice cannot be numbered in 62 bits.
    """
    height, width, channels = image.shape
    sigmas = [position_sigma, position_sigma]
    extents: list[float] = [width - 1, height - 1]
    if color_sigma is not None:
        sigmas += [color_sigma] * channels
        extents += [255.0] * channels
    dimensions = len(sigmas)
    scales = tuple(np.float32(factor / sigma) for factor, sigma in zip(blur_scales(dimensions), sigmas, strict=True))
    strides, origin, _ = number_coordinates(
        [extent * float(scale) for extent, scale in zip(extents, scales, strict=True)]
    )
    pixels = height * width
    corners = np.empty(pixels * (dimensions + 1), np.int32)
    weights = np.empty(pixels * (dimensions + 1), np.float32)
    flat = np.ascontiguousarray(image).reshape(-1)
    pool = pool or ThreadPool()
    ranges = pool.ranges(0, pixels)
    sketches = pool.run(
        _embed,
        [(flat, width, channels, scales, strides, origin, first, last, corners, weights) for first, last in ranges],
    )
    table, keys, count = sketches[0]
    for (first, last), (_, other_keys, other_count) in zip(ranges[1:], sketches[1:], strict=True):
        table, keys, count, renumbered = _merge(table, keys, count, other_keys, other_count)
        part = slice(first * (dimensions + 1), last * (dimensions + 1))
        pool.run(
            _renumber, [(corners[part], renumbered, low, high) for low, high in pool.ranges(0, corners[part].size)]
        )
    neighbors = np.zeros((dimensions + 1, count + 1, 2), np.int32)
    pool.run(
        _connect,
        [(table, keys, strides, dimensions, neighbors, low, high) for low, high in pool.ranges(1, count + 1)],
    )
    return Lattice(corners, weights, neighbors, dimensions)


def ones_filtered(lattice: Lattice, pool: ThreadPool) -> Float32Array:
    """The filter's response to an input of ones, (n), by which the kernel is normalized."""
    per_pixel = lattice.dimensions + 1
    ranges = pool.ranges(0, lattice.pixels)
    values = np.zeros((len(ranges), lattice.vertices + 1), np.float32)
    pool.run(
        _splat_ones,
        [
            (lattice.corners, lattice.weights, per_pixel, first, last, values[i])
            for i, (first, last) in enumerate(ranges)
        ],
    )
    current = values.sum(axis=0) if len(ranges) > 1 else values[0]
    other = np.zeros_like(current)
    for direction in range(per_pixel):
        near = lattice.neighbors[direction]
        pool.run(
            _blur_scalar,
            [(current, other, near, low, high) for low, high in pool.ranges(1, lattice.vertices + 1, smallest=16384)],
        )
        current, other = other, current
    result = np.empty(lattice.pixels, np.float32)
    alpha = np.float32(lattice.alpha)
    pool.run(
        _slice_scalar,
        [(lattice.corners, lattice.weights, per_pixel, first, last, current, alpha, result) for first, last in ranges],
    )
    return result


def blur(
    lattices: Sequence[Lattice],
    values: list[Float32Array],
    spare: list[Float32Array],
    row: int,
    width: int,
    pool: ThreadPool,
) -> None:
    """Blur flat (vertices + 1) · ``row`` values of each lattice along every direction, ``width`` lanes at a time.

    The lists change: ``values`` holds the results afterwards, ``spare`` the other buffers. All lattices go through a
    direction together, since every direction ends with all threads waiting for the slowest.
    """
    cuts = [pool.ranges(1, lattice.vertices + 1, smallest=4096) for lattice in lattices]
    for direction in range(max(lattice.dimensions for lattice in lattices) + 1):
        parts: list[list[tuple[Any, ...]]] = [[] for _ in range(max(len(cut) for cut in cuts))]
        for i, lattice in enumerate(lattices):
            if direction > lattice.dimensions:
                continue
            near = lattice.neighbors[direction].reshape(-1)
            for part, (low, high) in zip(parts, cuts[i], strict=False):
                part.append((values[i], spare[i], near, row, form(width), low, high))
            values[i], spare[i] = spare[i], values[i]
        pool.run(_blur_several, [(part,) for part in parts if part])


def _blur_several(parts: Sequence[tuple[Any, ...]]) -> None:
    for part in parts:
        blur_rows(*part)


@jit
def _slot(table: Int32Array, keys: Int64Array, key: Any) -> Any:
    """Where ``key`` is in the table, or the free place where it would go."""
    mask = table.size - 1
    spread = key * _GOLDEN
    place = (spread ^ (spread >> 29)) & mask
    while True:
        vertex = peek(table, place)
        if vertex == 0 or peek(keys, vertex) == key:
            return place
        place = (place + 1) & mask


@jit
def _grown(keys: Int64Array, count: int) -> tuple[Int32Array, Int64Array]:
    """A table and a key list of twice the size."""
    table = np.zeros(keys.size * 4, np.int32)
    longer = np.empty(keys.size * 2, np.int64)
    for vertex in range(1, count + 1):  # a loop: slices would cost twenty seconds of compiling
        longer[vertex] = keys[vertex]
        table[_slot(table, longer, longer[vertex])] = vertex
    return table, longer


@jit
def _embed(
    image: UInt8Array,
    width: int,
    channels: int,
    scales: tuple[float, ...],
    strides: Int64Array,
    origin: int,
    first: int,
    last: int,
    corners: Int32Array,
    weights: Float32Array,
) -> tuple[Int32Array, Int64Array, int]:
    """Find the simplex of pixels first…last; fills corners (numbered by this call's own table) and weights."""
    d = len(scales)  # a tuple: its length is known to the compiler, which unrolls the loops below
    capacity = 8 * STRETCH
    while capacity * 8 < last - first:
        capacity *= 2
    table, keys, count = np.zeros(capacity * 2, np.int32), np.empty(capacity, np.int64), 0
    offset, rank = np.empty((d + 1) * STRETCH, np.float32), np.empty((d + 1) * STRETCH, np.int32)
    origins, axes = np.empty(STRETCH, np.int64), np.empty(STRETCH, np.int64)
    for start in range(first, last, STRETCH):
        size = min(STRETCH, last - start)
        _simplices(image, width, channels, scales, strides, origin, start, size, offset, rank, origins, axes)
        _weigh(offset, axes, start, size, d, weights)
        while count + size * (d + 1) + 1 >= keys.size:
            table, keys = _grown(keys, count)
        count = _look_up(table, keys, count, strides, origins, axes, start, size, d, corners)
    return table, keys, count


@jit
def _simplices(
    image: UInt8Array,
    width: int,
    channels: int,
    scales: tuple[float, ...],
    strides: Int64Array,
    origin: int,
    start: int,
    size: int,
    offset: Float32Array,
    rank: Int32Array,
    origins: Int64Array,
    axes: Int64Array,
) -> None:
    """The simplex of each of ``size`` pixels from ``start``: the key of its corner of remainder 0 (``origins``), which
    axis has each rank (``axes``, four bits each), and the offsets from that corner, axis by axis.

    Every inner loop runs over pixels and does one thing, so that the compiler makes vector operations of it.
    """
    d = len(scales)
    scaled, running, excess = np.zeros(STRETCH, np.float32), np.zeros(STRETCH, np.float32), np.zeros(STRETCH, np.int32)
    inverse, steps = np.float32(1.0 / (d + 1)), np.float32(d + 1)
    for p in range(size):
        origins[p] = origin
        axes[p] = 0
    for j in range(d, -1, -1):
        base = j * STRETCH
        if j > 2:
            for p in range(size):
                scaled[p] = np.float32(peek(image, (start + p) * channels + j - 3)) * scales[j - 1]
        elif j > 0:
            x, y = (
                start % width,
                start // width,
            )  # counted, since dividing for every pixel would cost more than the rest
            for p in range(size):
                scaled[p] = np.float32(y if j == 2 else x) * scales[j - 1]
                x += 1
                if x == width:
                    x, y = 0, y + 1
        for p in range(size):
            elevated = running[p] - np.float32(j) * scaled[p]
            running[p] += scaled[p]
            nearest = np.floor(elevated * inverse + np.float32(0.5))
            offset[base + p] = elevated - nearest * steps
            excess[p] += np.int32(nearest)
            origins[p] += peek(strides, j) * (np.int64(nearest) * (d + 1))
            rank[base + p] = 0
    for i in range(d):
        for j in range(i + 1, d + 1):
            for p in range(size):
                behind = np.int32(offset[i * STRETCH + p] < offset[j * STRETCH + p])
                rank[i * STRETCH + p] += behind
                rank[j * STRETCH + p] += 1 - behind
    for j in range(d + 1):
        for p in range(size):
            moved = rank[j * STRETCH + p] + excess[p]
            turn = (np.int32(moved < 0) - np.int32(moved > d)) * (d + 1)  # back onto the plane: whole steps of d + 1
            origins[p] += peek(strides, j) * np.int64(turn)
            offset[j * STRETCH + p] -= np.float32(turn)
            axes[p] |= np.int64(j) << np.int64(4 * (moved + turn))


@jit
def _weigh(offset: Float32Array, axes: Int64Array, start: int, size: int, d: int, weights: Float32Array) -> None:
    """The barycentric weights: the differences of the offsets in order of rank."""
    inverse, steps = np.float32(1.0 / (d + 1)), np.float32(d + 1)
    for p in range(size):
        order, here = peek(axes, p), (start + p) * (d + 1)
        after = peek(offset, (order & 15) * STRETCH + p) - steps  # the corner of remainder 0 wraps around
        for corner in range(d + 1):
            deviation = peek(offset, ((order >> (4 * (d - corner))) & 15) * STRETCH + p)
            weights[here + corner] = (deviation - after) * inverse
            after = deviation


@jit
def _look_up(
    table: Int32Array,
    keys: Int64Array,
    count: int,
    strides: Int64Array,
    origins: Int64Array,
    axes: Int64Array,
    start: int,
    size: int,
    d: int,
    corners: Int32Array,
) -> int:
    """Number the corners of ``size`` pixels; returns how many vertices there are now. The table has room for all.

    A kernel of its own: where a table is replaced within a loop, numba counts references to it, atomically, at every
    use, which took longer than the looking up.
    """
    all_strides = np.int64(0)
    for j in range(d):
        all_strides += strides[j]
    last_key, last_order = np.int64(-1), np.int64(-1)
    for p in range(size):
        key, order, here = peek(origins, p), peek(axes, p), (start + p) * (d + 1)
        if key == last_key and order == last_order:  # the simplex of the pixel before: no need to look it up
            for corner in range(d + 1):
                corners[here + corner] = corners[here + corner - d - 1]
            continue
        last_key, last_order = key, order
        for corner in range(d + 1):
            place = _slot(table, keys, key)
            vertex = np.int64(peek(table, place))
            if vertex == 0:
                count += 1
                vertex = np.int64(count)
                keys[vertex] = key
                table[place] = vertex
            corners[here + corner] = vertex
            key += all_strides - (d + 1) * peek(strides, (order >> (4 * (d - corner))) & 15)
    return count


@jit
def _merge(
    table: Int32Array, keys: Int64Array, count: int, other_keys: Int64Array, other_count: int
) -> tuple[Int32Array, Int64Array, int, Int32Array]:
    """Take another chunk's vertices into the table; also returns their new numbers."""
    renumbered = np.zeros(other_count + 1, np.int32)
    for vertex in range(1, other_count + 1):
        key = other_keys[vertex]
        place = _slot(table, keys, key)
        if table[place] == 0:
            if count + 1 >= keys.size:
                table, keys = _grown(keys, count)
                place = _slot(table, keys, key)
            count += 1
            keys[count] = key
            table[place] = count
        renumbered[vertex] = table[place]
    return table, keys, count, renumbered


@jit
def _renumber(corners: Int32Array, renumbered: Int32Array, first: int, last: int) -> None:
    for i in range(first, last):
        corners[i] = renumbered[corners[i]]


@jit
def _connect(
    table: Int32Array,
    keys: Int64Array,
    strides: Int64Array,
    dimensions: int,
    neighbors: Int32Array,
    first: int,
    last: int,
) -> None:
    """Find the neighbor ahead of each vertex; the one behind is the same bond seen from the other end."""
    step = np.int64(0)
    for j in range(dimensions):
        step += strides[j]
    for direction in range(dimensions + 1):
        bond = step - (dimensions + 1) * strides[direction]
        for vertex in range(first, last):
            ahead = table[_slot(table, keys, keys[vertex] + bond)]
            if ahead != 0:
                neighbors[direction, vertex, 1] = ahead
                neighbors[direction, ahead, 0] = vertex


@jit
def blur_rows(
    values: Float32Array,
    result: Float32Array,
    near: Int32Array,
    row: int,
    width: tuple[int, ...],
    first: int,
    last: int,
) -> None:
    """One direction of the blur on vertices first…last: v + (its two neighbors) / 2."""
    half = np.float32(0.5)
    for vertex in range(first, last):
        here = vertex * row
        behind, ahead = np.int64(peek(near, 2 * vertex)) * row, np.int64(peek(near, 2 * vertex + 1)) * row
        for lane in range(0, row, len(width)):
            both = add(load(values, behind + lane, width), load(values, ahead + lane, width))
            store(result, here + lane, scale_add(half, both, load(values, here + lane, width)))


@jit
def add_rows(values: Float32Array, others: Float32Array, width: tuple[int, ...], first: int, last: int) -> None:
    """Add ``others`` to ``values``, floats first…last."""
    for i in range(first, last, len(width)):
        store(values, i, add(load(values, i, width), load(others, i, width)))


@jit
def _splat_ones(
    corners: Int32Array, weights: Float32Array, per_pixel: int, first: int, last: int, result: Float32Array
) -> None:
    for i in range(first * per_pixel, last * per_pixel):
        result[corners[i]] += weights[i]


@jit
def _blur_scalar(values: Float32Array, result: Float32Array, near: Int32Array, first: int, last: int) -> None:
    for vertex in range(first, last):
        result[vertex] = values[vertex] + np.float32(0.5) * (values[near[vertex, 0]] + values[near[vertex, 1]])


@jit
def _slice_scalar(
    corners: Int32Array,
    weights: Float32Array,
    per_pixel: int,
    first: int,
    last: int,
    values: Float32Array,
    alpha: float,
    result: Float32Array,
) -> None:
    for pixel in range(first, last):
        total = np.float32(0.0)
        for i in range(pixel * per_pixel, (pixel + 1) * per_pixel):
            total += weights[i] * values[corners[i]]
        result[pixel] = total * alpha
