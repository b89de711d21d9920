"""Polygons to pixels, by the two rules that annotation tools draw with.

*COCO's* (for COCO, CVAT, Label Studio, YOLO: coordinates are continuous, pixel 0 covers 0…1): the outline at five times
the size, a pixel inside where its centre column's crossings say so. The same pixels as the reference implementation.
*labelme's*: Pillow's polygon with its outline, coordinates being pixel positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from segwright.data.rle import BoolMask
from segwright.errors import LabelError

SCALE = 5  # COCO's: outlines are traced at five times the size
MAX_OUTLINE = 20_000_000  # points of a traced outline near the image; a longer one is a broken or hostile file
CHUNK = 500_000  # points traced at a time
MAX_CORNERS = 2_000_000
Points = npt.NDArray[np.float64]


def as_points(values: Sequence[float] | Sequence[Sequence[float]], where: str) -> Points:
    """(k, 2) x, y from flat or nested numbers; LabelError where they are none."""
    try:
        points = np.asarray(values, np.float64).reshape(-1, 2)
    except (TypeError, ValueError) as error:
        raise LabelError("a polygon is pairs of numbers", found=str(error), where=where) from error
    if not np.isfinite(points).all() or np.abs(points).max(initial=0.0) > 1e7:
        raise LabelError("a polygon's coordinates are out of bounds", found=str(points[:4].tolist()), where=where)
    return points


def fill_box(points: Points, height: int, width: int, where: str = "polygon") -> tuple[int, int, BoolMask]:
    """A polygon's pixels by COCO's rule, cut to where they are: (top, left, mask)."""
    empty = np.zeros((0, 0), bool)
    if len(points) == 0:
        return 0, 0, empty
    if len(points) > MAX_CORNERS:
        raise LabelError("a polygon has too many corners", expected=f"at most {MAX_CORNERS}", found=str(len(points)),
                         where=where, fix="simplify it")  # fmt: skip
    corners = np.trunc(SCALE * points + 0.5).astype(np.int64)
    x, rows = _crossings(corners, height, width, where)
    if x.size == 0:
        return 0, 0, empty
    # A closed outline crosses each column an even number of times: columns are independent, and a running sum modulo 2
    # down each tells inside from outside.
    left, top = int(x.min()), int(rows.min())
    columns, tall = int(x.max()) - left + 1, int(rows.max()) - top
    places, cells = (x - left) * (tall + 1) + rows - top, columns * (tall + 1)
    if cells <= CHUNK:
        toggles = np.bincount(places, minlength=cells).astype(np.uint8)
        inside = np.cumsum(toggles.reshape(columns, tall + 1)[:, :tall], axis=1, dtype=np.uint8) & 1
        return top, left, np.asarray(inside.T, bool)
    parity = np.zeros(cells, np.bool_)  # a byte per pixel, in place
    np.logical_xor.at(parity, places, True)
    grid = parity.reshape(columns, tall + 1)
    np.logical_xor.accumulate(grid, axis=1, out=grid)
    return top, left, grid[:, :tall].T


Ints = npt.NDArray[np.int64]


def _crossings(corners: Ints, height: int, width: int, where: str) -> tuple[Ints, Ints]:
    """(columns, rows) where the outline steps over a column's centre, on the side towards the lower one."""
    starts, stops = corners, np.roll(corners, -1, axis=0)
    last = SCALE * (width - 1) + SCALE // 2  # the centre of the last column
    lengths = np.abs(stops - starts).max(axis=1) + 1
    total = int(lengths.sum())
    if total <= CHUNK:
        offsets = np.cumsum(lengths)
        t = np.arange(total) - np.repeat(offsets - lengths, lengths)
        u, v = _trace(starts, stops, t, lambda values: np.repeat(values, lengths))
        changed = u[1:] != u[:-1]
        changed[offsets[:-1] - 1] = False  # each edge is traced upwards: two edges are no neighbours here
        return _centres(u, v, np.flatnonzero(changed) + 1, last, height)
    # An edge that lies beside all columns crosses none; along its columns a flat edge is not traced beside the image.
    reaches = (np.maximum(starts[:, 0], stops[:, 0]) >= 0) & (np.minimum(starts[:, 0], stops[:, 0]) <= last + 1)
    starts, stops = starts[reaches], stops[reaches]
    size = np.abs(stops - starts)
    flat, low = size[:, 0] >= size[:, 1], np.minimum(starts[:, 0], stops[:, 0])
    first = np.where(flat, np.clip(-1 - low, 0, size[:, 0]), 0)
    lengths = np.where(flat, np.clip(last + 2 - low, 0, size[:, 0]), size.max(axis=1, initial=0)) - first + 1
    total = int(lengths.sum())
    if total > MAX_OUTLINE:
        raise LabelError(
            "a polygon's outline is out of bounds",
            expected=f"at most {MAX_OUTLINE // SCALE} pixels long",
            found=f"{total // SCALE} pixels",
            where=where,
            fix="correct its coordinates",
        )
    offsets = np.cumsum(lengths)
    parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
    for begin in range(0, total, CHUNK):
        span = np.arange(max(begin - 1, 0), min(begin + CHUNK, total))  # with the point before: a step is between two
        edge = np.searchsorted(offsets, span, side="right")
        t = span - (offsets - lengths - first)[edge]
        low_edge, high_edge = int(edge[0]), int(edge[-1]) + 1
        u, v = _trace(starts[low_edge:high_edge], stops[low_edge:high_edge], t, _picker(edge - low_edge))
        step = np.flatnonzero((u[1:] != u[:-1]) & (edge[1:] == edge[:-1])) + 1
        parts.append(_centres(u, v, step, last, height))
    return np.concatenate([x for x, _ in parts]), np.concatenate([rows for _, rows in parts])


def _picker(places: Ints) -> Callable[[npt.NDArray[Any]], npt.NDArray[Any]]:
    return lambda values: values[places]


def _centres(u: Ints, v: Ints, step: Ints, last: int, height: int) -> tuple[Ints, Ints]:
    """(columns, rows) of the steps that are at a column's centre."""
    low = np.minimum(u[step], u[step - 1])
    kept = (low % SCALE == SCALE // 2) & (low >= 0) & (low <= last)
    y = (np.minimum(v[step], v[step - 1])[kept] + 0.5) / SCALE - 0.5
    return low[kept] // SCALE, np.ceil(np.clip(y, 0, height)).astype(np.int64)


def _trace(
    starts: Ints, stops: Ints, t: Ints, spread: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
) -> tuple[Ints, Ints]:
    """(x, y) of points on edges, at ``t`` lattice points along the longer axis from the lower end of their edge.

    ``spread`` repeats a value per edge for each of the points.
    """
    size = np.abs(stops - starts)
    flat = size[:, 0] >= size[:, 1]
    swapped = np.where(flat, starts[:, 0] > stops[:, 0], starts[:, 1] > stops[:, 1])[:, None]
    low, high = np.where(swapped, stops, starts), np.where(swapped, starts, stops)
    run = np.where(flat, size[:, 0], size[:, 1])
    slope = np.where(flat, high[:, 1] - low[:, 1], high[:, 0] - low[:, 0]) / np.maximum(run, 1)
    across = np.trunc(spread(np.where(flat, low[:, 1], low[:, 0])) + spread(slope) * t + 0.5).astype(np.int64)
    main = spread(np.where(flat, low[:, 0], low[:, 1])) + t
    flat_here = spread(flat)
    return np.where(flat_here, main, across), np.where(flat_here, across, main)


def draw_labelme(shape_type: str, points: Points, height: int, width: int, where: str) -> tuple[int, int, BoolMask]:
    """A labelme shape's pixels as its own exporter draws them, cut to where they are: (top, left, mask).

    Four corners of a rectangle are its outline, as X-AnyLabeling writes them; two are opposite corners.
    """
    needed = {"polygon": 3, "rectangle": 2, "rotation": 4, "circle": 2, "line": 2, "linestrip": 2, "point": 1}
    if shape_type not in needed:
        raise LabelError(
            "a shape of an unknown kind", expected=", ".join([*needed, "mask"]), found=shape_type, where=where
        )
    if len(points) < needed[shape_type]:
        raise LabelError(
            f"a {shape_type} has too few points",
            expected=f"{needed[shape_type]}",
            found=str(len(points)),
            where=where,
            fix="draw it again, or remove it",
        )
    if len(points) > MAX_CORNERS:
        raise LabelError("a shape has too many points", expected=f"at most {MAX_CORNERS}", found=str(len(points)),
                         where=where)  # fmt: skip
    if shape_type in ("rectangle", "rotation") and len(points) != 2:
        if len(points) != 4:
            raise LabelError(f"a {shape_type} has two or four corners", found=str(len(points)), where=where)
        shape_type = "polygon"
    margin = 12 if shape_type in ("line", "linestrip", "point") else 2
    low, high = points.min(axis=0), points.max(axis=0)
    if shape_type == "circle":
        radius = math.dist(points[0], points[1])
        low, high = points[0] - radius, points[0] + radius
    # The canvas is the shape's box within the image, for a small shape of a large image costs what it covers.
    left, top = (max(math.floor(value) - margin, 0) for value in low)
    right, bottom = (min(math.ceil(high[0]) + margin, width), min(math.ceil(high[1]) + margin, height))
    if right <= left or bottom <= top:
        return 0, 0, np.zeros((0, 0), bool)
    canvas = Image.new("L", (right - left, bottom - top), 0)
    pen = ImageDraw.Draw(canvas)
    xy = [(float(x), float(y)) for x, y in points - (left, top)]
    if shape_type == "polygon":
        pen.polygon(xy, outline=1, fill=1)
    elif shape_type == "rectangle":
        (x0, y0), (x1, y1) = xy
        pen.rectangle([min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)], outline=1, fill=1)
    elif shape_type == "circle":
        (x, y), (px, py) = xy[:2]
        radius = math.hypot(x - px, y - py)
        pen.ellipse([x - radius, y - radius, x + radius, y + radius], outline=1, fill=1)
    elif shape_type in ("line", "linestrip"):
        pen.line(xy, fill=1, width=10)
    else:
        x, y = xy[0]
        pen.ellipse([x - 5, y - 5, x + 5, y + 5], outline=1, fill=1)
    return top, left, np.asarray(canvas, bool)
