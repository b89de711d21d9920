"""Mean-field inference of the dense CRF on CPU threads: one pass over the pixels an iteration.

The usual implementation goes over the pixels five times an iteration (splat, slice, message, softmax, copy) and keeps a
copy of the class distributions for each. Here the passes are one: slice both kernels, add the unary, take the softmax
and splat the new distribution at once, while the pixel is in registers. The distributions are never stored.

The unary enters as a factor, not as an energy: softmax(log p + m) = p·exp(m) / Σ p·exp(m), which saves a logarithm, and
padded classes (p = 0) vanish by themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from segwright.postprocess.lanes import (
    add,
    aligned_zeros,
    exponential,
    fill,
    form,
    kernel,
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
from segwright.postprocess.permutohedral import Float32Array, Int32Array, Lattice, Workers, add_rows, blur

CLIP = 1e-5  # probabilities below are raised to it: -log 0 would silence every message


@dataclass
class Term:
    """One pairwise kernel of the CRF, ready to be filtered with."""

    lattice: Lattice
    strength: float  # w · alpha
    norm: Float32Array  # (n)
    symmetric: bool


@dataclass
class _Field:
    """A term with its values on the lattice: what is being splatted, and what is sliced from."""

    term: Term
    splat: Float32Array  # flat, (parts · (vertices + 1) · row)
    sliced: Float32Array  # flat, ((vertices + 1) · row)
    stride: int


def mean_field(
    probabilities: Float32Array, terms: tuple[Term, Term], iterations: int, team: Workers
) -> tuple[Float32Array, float, float]:
    """``iterations`` of mean field on probabilities (K, n), C-contiguous; returns marginals (K, n), and the smallest
    value and the largest deviation of a pixel's sum from one found in the input (NaN shows in both)."""
    classes, pixels = probabilities.shape
    width = width_for(classes)
    row = -(-classes // width) * width
    ranges = team.ranges(0, pixels)
    factors = aligned_zeros(pixels * row)
    checks = team.run(_take_in, [(probabilities, factors, row, first, last) for first, last in ranges])
    smallest = float(np.min([check[0] for check in checks]))
    deviation = float(np.max([check[1] for check in checks]))
    result = np.empty_like(probabilities)
    if not (smallest >= -1e-3 and deviation <= 1e-2):
        return result, smallest, deviation
    fields = [_field(term, row, len(ranges)) for term in terms]
    for iteration in range(iterations + 1):
        step = 0 if iteration == 0 else (2 if iteration == iterations else 1)
        team.run(
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
            for field in fields:
                _spread(field, row, width, len(ranges), team)
    return result, smallest, deviation


def _field(term: Term, row: int, parts: int) -> _Field:
    stride = (term.lattice.vertices + 1) * row
    return _Field(term, aligned_zeros(parts * stride), aligned_zeros(stride), stride)


def _arguments(field: _Field, part: int) -> tuple[object, ...]:
    term = field.term
    return (
        term.lattice.corners, term.lattice.weights, form(term.lattice.dimensions + 1), term.norm,
        np.float32(term.strength), term.symmetric, field.sliced, field.splat[part * field.stride :][: field.stride],
    )  # fmt: skip


def _spread(field: _Field, row: int, width: int, parts: int, team: Workers) -> None:
    """Sum what the threads splatted and blur it; ready to be sliced."""
    if parts > 1:
        for_each = team.ranges(0, field.stride // width, smallest=16384)
        team.run(
            add_rows,
            [(field.splat, parts, field.stride, form(width), low * width, high * width) for low, high in for_each],
        )
    first = field.splat[: field.stride]
    done, _ = blur(field.term.lattice, first, field.sliced, row, width, team)
    if done is not field.sliced:  # an even number of directions ends where it began
        field.sliced[:] = done
    field.splat[: field.stride] = 0.0


@kernel
def _take_in(probabilities: Float32Array, factors: Float32Array, row: int, first: int, last: int) -> tuple[Any, Any]:
    """(K, n) to (n, row), clipped; returns the smallest value and the largest |sum - 1|."""
    classes = probabilities.shape[0]
    smallest, deviation, missing = np.float32(np.inf), np.float32(0.0), False
    for pixel in range(first, last):
        summed = np.float32(0.0)
        for k in range(classes):
            value = probabilities[k, pixel]
            summed += value
            missing |= value != value
            smallest = min(smallest, value)
            if value < np.float32(CLIP):
                value = np.float32(CLIP)
            elif value > np.float32(1.0):
                value = np.float32(1.0)
            factors[pixel * row + k] = value
        for k in range(classes, row):
            factors[pixel * row + k] = np.float32(0.0)
        off = abs(summed - np.float32(1.0))
        deviation = max(deviation, off)
    if missing:  # comparisons with NaN are false, so that it would be lost in the minimum
        return np.float32(np.nan), np.float32(np.nan)
    return smallest, deviation


@kernel
def _pass(
    factors: Float32Array, result: Float32Array, row: int, width: tuple[int, ...], first: int, last: int, step: int,
    corners1: Int32Array, weights1: Float32Array, simplex1: tuple[int, ...], norm1: Float32Array, strength1: float,
    symmetric1: bool, sliced1: Float32Array, splat1: Float32Array,
    corners2: Int32Array, weights2: Float32Array, simplex2: tuple[int, ...], norm2: Float32Array, strength2: float,
    symmetric2: bool, sliced2: Float32Array, splat2: Float32Array,
) -> None:  # fmt: skip
    """Pixels first…last: slice, softmax, splat. ``step`` 0: nothing to slice yet; 2: the last, out goes the result."""
    scratch = np.zeros(row, np.float32)
    one, nothing = np.float32(1.0), fill(np.float32(0.0), width)
    for pixel in range(first, last):
        here1, here2, base = pixel * len(simplex1), pixel * len(simplex2), pixel * row
        scale1, scale2 = peek(norm1, pixel), peek(norm2, pixel)
        top = nothing
        if step > 0:
            for lane in range(0, row, len(width)):
                message1, message2 = nothing, nothing
                for i in range(len(simplex1)):
                    place = np.int64(peek(corners1, here1 + i)) * row + lane
                    message1 = scale_add(peek(weights1, here1 + i), load(sliced1, place, width), message1)
                for i in range(len(simplex2)):
                    place = np.int64(peek(corners2, here2 + i)) * row + lane
                    message2 = scale_add(peek(weights2, here2 + i), load(sliced2, place, width), message2)
                message = scale_add(strength2 * scale2, message2, scale(strength1 * scale1, message1))
                store(scratch, lane, message)
                top = maximum(top, message)
        shift, summed = largest(top), nothing
        for lane in range(0, row, len(width)):
            share = multiply(exponential(load(scratch, lane, width), shift), load(factors, base + lane, width))
            if step == 0:
                share = load(factors, base + lane, width)
            store(scratch, lane, share)
            summed = add(summed, share)
        inverse = one / total(summed)
        if step == 2:
            for k in range(result.shape[0]):
                result[k, pixel] = scratch[k] * inverse
            continue
        gain1 = inverse * scale1 if symmetric1 else inverse
        gain2 = inverse * scale2 if symmetric2 else inverse
        for lane in range(0, row, len(width)):
            share = load(scratch, lane, width)
            share1, share2 = scale(gain1, share), scale(gain2, share)
            for i in range(len(simplex1)):
                place = np.int64(peek(corners1, here1 + i)) * row + lane
                store(splat1, place, scale_add(peek(weights1, here1 + i), share1, load(splat1, place, width)))
            for i in range(len(simplex2)):
                place = np.int64(peek(corners2, here2 + i)) * row + lane
                store(splat2, place, scale_add(peek(weights2, here2 + i), share2, load(splat2, place, width)))
