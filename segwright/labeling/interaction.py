"""From points to one object's mask: the model's segments, cut and joined by what people click.

The image is divided once into small units that cross no border of the predicted label mask: superpixels, each with its
mean color and its mean class probabilities. Going from a unit to its neighbor costs more where the probabilities and
the color change. A unit belongs to the object if the cheapest way to a positive point is shorter than that to a
negative one, among the segments that the positive points are in. So the first point gives the model's whole segment, a
negative point cuts it along the strongest edge between the two, and a positive point in another segment adds what is
nearest to it there, up to ``GROWTH`` of the first segment: a correction is small, and a road must not join a car. A box
bounds the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from segwright.core.errors import UsageError
from segwright.core.types import Float32Array, UInt8Array
from segwright.postprocess.superpixels import superpixels

BoolMask = npt.NDArray[np.bool_]
Point = tuple[float, float]  # x, y in pixels; pixel (column, row) is the square from there to (column + 1, row + 1)

UNIT = 8  # pixels: the side of a unit
STEP = 0.02  # the cost of a step between equal units: the shorter of equal ways wins
GROWTH = 0.3  # of the first segment's pixels, that a further point adds at most; 10 clicks: 0.80 IoU, without it 0.78
COLOR = 0.02  # the cost of one CIE Lab unit of difference


@dataclass(frozen=True)
class Units:
    """An image divided into N units, prepared once for all points."""

    number: npt.NDArray[np.int32]  # (H, W): the unit of a pixel
    segment: npt.NDArray[np.int32]  # (N,): the connected region of the predicted label mask that the unit is part of
    first: npt.NDArray[np.int64]  # (E,): units that touch, first < second
    second: npt.NDArray[np.int64]
    cost: npt.NDArray[np.float64]  # (E,): of going from one to the other


def prepare(image: UInt8Array, labels: UInt8Array, probabilities: Float32Array) -> Units:
    """Divide an image (H, W, C) with its predicted labels (H, W) and probabilities (K, H, W)."""
    rgb = image if image.shape[2] == 3 else np.repeat(image[..., :1], 3, axis=2)
    segments = connected(labels.astype(np.int64))
    grid = superpixels(np.ascontiguousarray(rgb), UNIT).astype(np.int64)
    number = connected(segments * (int(grid.max()) + 1) + grid)
    flat = number.ravel()
    sizes = np.bincount(flat)
    lab = cv2.cvtColor(np.ascontiguousarray(rgb).astype(np.float32) / 255, cv2.COLOR_RGB2Lab)
    color = np.stack([np.bincount(flat, lab[..., k].ravel()) / sizes for k in range(3)], axis=1)
    chance = np.stack([np.bincount(flat, plane.ravel()) / sizes for plane in probabilities], axis=1)
    segment = np.zeros(len(sizes), np.int32)
    segment[flat] = segments.ravel()
    first, second = _neighbors(number)
    change = np.abs(chance[first] - chance[second]).sum(axis=1) / 2  # 0…1: total variation
    cost = STEP + change + COLOR * np.linalg.norm(color[first] - color[second], axis=1)
    return Units(number, segment, first, second, cost)


def connected(numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """Numbers (H, W) from 0 of the parts of equal ``numbers`` that are connected over the sides of their pixels."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    index = np.arange(numbers.size).reshape(numbers.shape)
    across, down = numbers[:, 1:] == numbers[:, :-1], numbers[1:] == numbers[:-1]
    first = np.concatenate([index[:, :-1][across], index[:-1][down]])
    second = np.concatenate([index[:, 1:][across], index[1:][down]])
    graph = coo_array((np.ones(len(first), np.bool_), (first, second)), shape=(numbers.size,) * 2)
    return np.asarray(connected_components(graph, directed=False)[1].reshape(numbers.shape), np.int32)


def _neighbors(number: npt.NDArray[np.int32]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    pairs = [np.stack([a.ravel(), b.ravel()]) for a, b in ((number[:, 1:], number[:, :-1]), (number[1:], number[:-1]))]
    found = np.concatenate(pairs, axis=1).astype(np.int64)
    found = np.sort(found[:, found[0] != found[1]], axis=0)
    count = int(number.max()) + 1
    keys = np.unique(found[0] * count + found[1])
    return keys // count, keys % count


def object_mask(
    units: Units,
    positive: Sequence[Point],
    negative: Sequence[Point] = (),
    box: tuple[Point, Point] | None = None,
) -> BoolMask:
    """The object (H, W) that the positive points are in and the negative ones are not; nothing outside ``box``.

    UsageError without a positive point or a box, or for a point outside the image. A box alone stands for the middle of
    its part in the image; one that lies outside gives no pixel. Its corners may come in any order.
    """
    height, width = units.number.shape
    inside = np.ones((height, width), bool)
    if box is not None:
        (left, right), (top, bottom) = (sorted(values) for values in zip(*box, strict=True))
        left, right, top, bottom = max(left, 0), min(right, width), max(top, 0), min(bottom, height)
        inside[:] = False
        inside[max(0, round(top)) : max(0, round(bottom)), max(0, round(left)) : max(0, round(right))] = True
        if not positive:
            if left >= right or top >= bottom:
                return np.zeros((height, width), bool)
            positive = [((left + right) / 2, (top + bottom) / 2)]
    if not positive:
        raise UsageError("an object needs a positive point or a box", found="neither")
    wanted = [_pixel(point, height, width) for point in positive]
    unwanted = [_pixel(point, height, width) for point in negative]
    seeds = {int(units.number[place]) for place in wanted}
    others = {int(units.number[place]) for place in unwanted} - seeds
    allowed = _allowed(units, [int(units.number[place]) for place in wanted])
    near, far = _distances(units, seeds, allowed), _distances(units, others, allowed)
    result = ((near <= far) & np.isfinite(near) & allowed)[units.number] & inside
    for one in seeds & {int(units.number[place]) for place in unwanted}:  # both kinds of points in one unit
        rows, columns = np.nonzero(units.number == one)
        to_wanted, to_unwanted = _nearest(rows, columns, wanted), _nearest(rows, columns, unwanted)
        result[rows, columns] = (to_wanted <= to_unwanted) & inside[rows, columns]
    return result


def _allowed(units: Units, seeds: Sequence[int]) -> npt.NDArray[np.bool_]:
    """(N,): the whole segment of the first seed; of the others' segments what is nearest to them."""
    sizes = np.bincount(units.number.ravel(), minlength=len(units.segment))
    result: npt.NDArray[np.bool_] = units.segment == units.segment[seeds[0]]
    most = GROWTH * float(sizes[result].sum())
    for seed in seeds[1:]:
        if result[seed]:
            continue
        segment = units.segment == units.segment[seed]
        order = np.argsort(_distances(units, {seed}, segment), kind="stable")
        order = order[segment[order]]
        result[order[np.cumsum(sizes[order]) <= most]] = True
        result[seed] = True
    return result


def _pixel(point: Point, height: int, width: int) -> tuple[int, int]:
    """(row, column) of a point; those on the right or lower edge belong to the last pixel."""
    x, y = point
    if not (0 <= x <= width and 0 <= y <= height):
        raise UsageError("a point lies outside the image", expected=f"within {width}×{height}", found=f"{x:g}, {y:g}")
    return min(int(y), height - 1), min(int(x), width - 1)


def _distances(units: Units, seeds: set[int], allowed: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """(N,): the cost of the cheapest way from a seed over allowed units; infinite where there is none."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import dijkstra

    count = len(units.segment)
    if not seeds:
        return np.full(count, np.inf)
    kept = allowed[units.first] & allowed[units.second]
    graph = coo_array((units.cost[kept], (units.first[kept], units.second[kept])), shape=(count, count)).tocsr()
    found = dijkstra(graph, directed=False, indices=sorted(seeds), min_only=True)
    return np.asarray(np.where(allowed, found, np.inf), np.float64)


def _nearest(
    rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64], places: Sequence[tuple[int, int]]
) -> npt.NDArray[np.float64]:
    """The squared distance of pixels to the nearest of places."""
    spots = np.asarray(places, np.float64)
    return np.asarray(((rows[:, None] - spots[:, 0]) ** 2 + (columns[:, None] - spots[:, 1]) ** 2).min(axis=1))
