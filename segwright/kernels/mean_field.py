"""Mean-field inference of the dense CRF on CPU threads: one pass over the pixels per iteration.

The usual implementation goes over the pixels five times per iteration (splat, slice, message, softmax, copy) and keeps
a copy of the class distributions for each. Here the passes are one: slice both kernels, add the unary, take the softmax
and splat the new distribution at once, while the pixel is in registers. The distributions are never stored.

The unary enters as a factor, not as an energy: softmax(log p + m) = p·exp(m) / Σ p·exp(m), which saves a logarithm, and
padded classes (p = 0) vanish by themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from segwright.kernels.jit import jit
from segwright.kernels.lattice import CLIP, Float32Array, Int32Array, Lattice
from segwright.kernels.permutohedral import add_rows, blur
from segwright.kernels.simd import (
    add,
    aligned_zeros,
    exponential,
    fill,
    form,
    largest,
    load,
    maximum,
    multiply,
    peek,
    scale,
    scale_add,
    store,
    total,
    width_for,
)
from segwright.kernels.threads import ThreadPool

BLOCK = 16  # pixels that go through one stage of a pass together; their distributions stay in the first cache


@dataclass
class Term:
    """One pairwise kernel of the CRF, ready to be filtered with."""

    lattice: Lattice
    strength: float  # w · alpha
    norm: Float32Array  # (n)
    symmetric: bool


@dataclass
class _Field:
    """A term with its values on the lattice: what each thread splats into, and what is sliced from.

    Each flat, (vertices + 1) · row; the buffers change places as the blur goes to and fro between them.
    """

    term: Term
    splats: list[Float32Array]
    sliced: Float32Array


def mean_field(
    probabilities: Float32Array, terms: tuple[Term, Term], iterations: int, pool: ThreadPool
) -> tuple[Float32Array, float, float]:
    """``iterations`` of mean field on probabilities (K, n), C-contiguous; returns marginals (K, n), and the smallest
    value and the largest deviation of a pixel's sum from one found in the input (NaN shows in both)."""
    classes, pixels = probabilities.shape
    width = width_for(classes)
    row = -(-classes // width) * width
    ranges = pool.ranges(0, pixels)
    factors = aligned_zeros(pixels * row)
    checks = pool.run(_take_in, [(probabilities, factors, row, first, last) for first, last in ranges])
    smallest = float(np.min([check[0] for check in checks]))
    deviation = float(np.max([check[1] for check in checks]))
    result = np.empty_like(probabilities)
    if not (smallest >= -1e-3 and deviation <= 1e-2):
        return result, smallest, deviation
    fields = [_field(term, row, len(ranges)) for term in terms]
    for iteration in range(iterations + 1):
        step = 0 if iteration == 0 else (2 if iteration == iterations else 1)
        pool.run(
            _pass,
            [
                (
                    factors, result, row, form(width), first, last, step,
                    *_arguments(fields[0], part), *_arguments(fields[1], part),
                )
                for part, (first, last) in enumerate(ranges)
            ],
        )  # fmt: skip
        if iteration < iterations:
            _spread(fields, row, width, pool)
    return result, smallest, deviation


def _field(term: Term, row: int, parts: int) -> _Field:
    size = (term.lattice.vertices + 1) * row
    return _Field(term, [aligned_zeros(size) for _ in range(parts)], aligned_zeros(size))


def _arguments(field: _Field, part: int) -> tuple[object, ...]:
    term = field.term
    return (
        term.lattice.corners, term.lattice.weights, form(term.lattice.dimensions + 1), term.norm,
        np.float32(term.strength), term.symmetric, field.sliced, field.splats[part],
    )  # fmt: skip


def _spread(fields: list[_Field], row: int, width: int, pool: ThreadPool) -> None:
    """Sum what the threads splatted and blur it; ready to be sliced."""
    for field in fields:
        size = field.sliced.size // width
        ranges = [(low * width, high * width) for low, high in pool.ranges(0, size, smallest=16384)]
        for other in field.splats[1:]:
            pool.run(add_rows, [(field.splats[0], other, form(width), low, high) for low, high in ranges])
    blurred, spare = [field.splats[0] for field in fields], [field.sliced for field in fields]
    blur([field.term.lattice for field in fields], blurred, spare, row, width, pool)
    for field, result, other in zip(fields, blurred, spare, strict=True):
        field.sliced, field.splats[0] = result, other


@jit
def _take_in(probabilities: Float32Array, factors: Float32Array, row: int, first: int, last: int) -> tuple[Any, Any]:
    """(K, n) to (n, row), clipped; returns the smallest value and the largest |sum - 1|, both NaN where one is."""
    classes, pixels = probabilities.shape
    flat = probabilities.reshape(-1)
    summed, smallest = np.empty(BLOCK, np.float32), np.full(BLOCK, np.inf, np.float32)
    deviation, missing = np.zeros(BLOCK, np.float32), np.zeros(BLOCK, np.int32)
    for start in range(first, last, BLOCK):
        size = min(BLOCK, last - start)
        for p in range(size):
            summed[p] = np.float32(0.0)
        for k in range(classes):
            for p in range(size):  # a class's neighboring pixels lie side by side: whole cache lines are read
                value = peek(flat, k * pixels + start + p)
                summed[p] += value
                smallest[p] = min(smallest[p], value)
                factors[(start + p) * row + k] = min(max(value, np.float32(CLIP)), np.float32(1.0))
        for p in range(size):
            off = abs(summed[p] - np.float32(1.0))
            missing[p] |= np.int32(off != off)  # comparisons with NaN are false: it would be lost in the largest
            deviation[p] = max(deviation[p], off)
    if missing.any():
        return np.float32(np.nan), np.float32(np.nan)
    return smallest.min(), deviation.max()


@jit
def _pass(
    factors: Float32Array, result: Float32Array, row: int, width: tuple[int, ...], first: int, last: int, step: int,
    corners1: Int32Array, weights1: Float32Array, simplex1: tuple[int, ...], norm1: Float32Array, strength1: float,
    symmetric1: bool, sliced1: Float32Array, splat1: Float32Array,
    corners2: Int32Array, weights2: Float32Array, simplex2: tuple[int, ...], norm2: Float32Array, strength2: float,
    symmetric2: bool, sliced2: Float32Array, splat2: Float32Array,
) -> None:  # fmt: skip
    """Pixels first…last: slice, softmax, splat. ``step`` 0: nothing to slice yet; 2: the last, out goes the result.

    A block of pixels goes through one stage after the other: a softmax is one long chain of dependent operations, and
    the processor works on several at once only where they stand close together.
    """
    scratch, inverse = np.zeros(BLOCK * row, np.float32), np.zeros(BLOCK, np.float32)
    one, nothing = np.float32(1.0), fill(np.float32(0.0), width)
    classes, pixels = result.shape
    flat = result.reshape(-1)
    if step < 2:  # what the blur left there
        for i in range(0, splat1.size, len(width)):
            store(splat1, i, nothing)
        for i in range(0, splat2.size, len(width)):
            store(splat2, i, nothing)
    for start in range(first, last, BLOCK):
        stop = min(start + BLOCK, last)
        for pixel in range(start, stop if step > 0 else start):
            here1, here2, out = pixel * len(simplex1), pixel * len(simplex2), (pixel - start) * row
            gain1, gain2 = strength1 * peek(norm1, pixel), strength2 * peek(norm2, pixel)
            for lane in range(0, row, len(width)):
                message1, message2 = nothing, nothing
                for i in range(len(simplex1)):
                    place = np.int64(peek(corners1, here1 + i)) * row + lane
                    message1 = scale_add(peek(weights1, here1 + i), load(sliced1, place, width), message1)
                for i in range(len(simplex2)):
                    place = np.int64(peek(corners2, here2 + i)) * row + lane
                    message2 = scale_add(peek(weights2, here2 + i), load(sliced2, place, width), message2)
                store(scratch, out + lane, scale_add(gain2, message2, scale(gain1, message1)))
        for pixel in range(start, stop):
            base, out, top, summed = pixel * row, (pixel - start) * row, nothing, nothing
            if step > 0:
                for lane in range(0, row, len(width)):
                    top = maximum(top, load(scratch, out + lane, width))
                shift = largest(top)
                for lane in range(0, row, len(width)):
                    power = exponential(load(scratch, out + lane, width), shift)
                    share = multiply(power, load(factors, base + lane, width))
                    store(scratch, out + lane, share)
                    summed = add(summed, share)
            else:
                for lane in range(0, row, len(width)):
                    share = load(factors, base + lane, width)
                    store(scratch, out + lane, share)
                    summed = add(summed, share)
            inverse[pixel - start] = one / total(summed)
        if step == 2:
            for k in range(classes):
                for p in range(stop - start):
                    flat[k * pixels + start + p] = peek(scratch, p * row + k) * peek(inverse, p)
            continue
        for pixel in range(start, stop):
            here1, here2, out = pixel * len(simplex1), pixel * len(simplex2), (pixel - start) * row
            gain1 = gain2 = peek(inverse, pixel - start)
            if symmetric1:
                gain1 *= peek(norm1, pixel)
            if symmetric2:
                gain2 *= peek(norm2, pixel)
            for lane in range(0, row, len(width)):
                share = load(scratch, out + lane, width)
                share1, share2 = scale(gain1, share), scale(gain2, share)
                for i in range(len(simplex1)):
                    place = np.int64(peek(corners1, here1 + i)) * row + lane
                    store(splat1, place, scale_add(peek(weights1, here1 + i), share1, load(splat1, place, width)))
                for i in range(len(simplex2)):
                    place = np.int64(peek(corners2, here2 + i)) * row + lane
                    store(splat2, place, scale_add(peek(weights2, here2 + i), share2, load(splat2, place, width)))
