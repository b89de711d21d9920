"""Polygons to pixels, by the two rules that annotation tools draw with.

*COCO's* (for COCO, CVAT, Label Studio, YOLO: coordinates are continuous, pixel 0 covers 0…1): the outline at five times
the size, a pixel inside where its center column's crossings are odd. The same pixels as the reference implementation.
*labelme's*: Pillow's polygon with its outline, coordinates being pixel positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from segwright.core.errors import LabelError
from segwright.data.annotations.rle import BoolMask

SCALE = 5  # COCO's: outlines are traced at five times the size
MAX_CROSSINGS = 5_000_000  # of a polygon's outline with columns of the image; more is a broken or hostile file
CHUNK = 500_000  # points traced at a time
MAX_CORNERS = 2_000_000
MAX_EDGE_ROWS = 500_000_000  # corners of a labelme shape × image rows that it spans: Pillow visits all in each
LARGEST_CIRCLE = 20_000.0  # radius; Pillow's whole numbers overflow beyond some 27,000, and then it does not end
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
    # down each separates inside from outside.
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
    """(columns, rows) where the outline steps over a column's center, on the side towards the lower one."""
    starts, stops = corners, np.roll(corners, -1, axis=0)
    last = SCALE * (width - 1) + SCALE // 2  # the center of the last column
    lengths = np.abs(stops - starts).max(axis=1) + 1
    total = int(lengths.sum())
    if total <= CHUNK:
        offsets = np.cumsum(lengths)
        t = np.arange(total) - np.repeat(offsets - lengths, lengths)
        u, v = _trace(starts, stops, t, lambda values: np.repeat(values, lengths))
        changed = u[1:] != u[:-1]
        changed[offsets[:-1] - 1] = False  # each edge is traced upwards: two edges are no neighbors here
        return _centers(u, v, np.flatnonzero(changed) + 1, last, height)
    # Long ones: only the steps at the centers of columns are computed, however far away an edge's ends are.
    edges = _Edges(starts, stops, width)
    total = int(edges.count.sum())
    if total > MAX_CROSSINGS:
        raise LabelError(
            "a polygon's outline crosses too many columns",
            expected=f"at most {MAX_CROSSINGS}",
            found=str(total),
            where=where,
            fix="correct its coordinates",
        )
    offsets = np.cumsum(edges.count)
    parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
    for begin in range(0, total, CHUNK):
        span = np.arange(begin, min(begin + CHUNK, total))
        edge = np.searchsorted(offsets, span, side="right")
        column = span - (offsets - edges.count - edges.first)[edge]
        step = edges.step_over(edge, column)
        parts.append((column, _row(np.minimum(edges.at(edge, step - 1)[1], edges.at(edge, step)[1]), height)))
    return np.concatenate([x for x, _ in parts]), np.concatenate([rows for _, rows in parts])


class _Edges:
    """The edges that :func:`_trace` traces, to be asked for single points, and the columns that each steps over.

    Along an edge x grows or falls, by one or none at each step.
    """

    def __init__(self, starts: Ints, stops: Ints, width: int) -> None:
        size = np.abs(stops - starts)
        self._flat = size[:, 0] >= size[:, 1]
        swapped = np.where(self._flat, starts[:, 0] > stops[:, 0], starts[:, 1] > stops[:, 1])[:, None]
        low, high = np.where(swapped, stops, starts), np.where(swapped, starts, stops)
        self._run = np.where(self._flat, size[:, 0], size[:, 1])
        rise = np.where(self._flat, high[:, 1] - low[:, 1], high[:, 0] - low[:, 0])
        self._slope = rise / np.maximum(self._run, 1)
        self._main, self._across = (np.where(self._flat, low[:, i], low[:, 1 - i]) for i in (0, 1))
        everyone, half = np.arange(len(starts)), SCALE // 2
        self._begin, end = self.at(everyone, np.zeros_like(self._run))[0], self.at(everyone, self._run)[0]
        left, right = np.minimum(self._begin, end), np.maximum(self._begin, end)
        self.first = np.maximum(-((half - left) // SCALE), 0)  # column c is stepped over from 5c + 2 to 5c + 3
        self.count = np.maximum(np.minimum((right - 1 - half) // SCALE, width - 1) - self.first + 1, 0)

    def at(self, edge: Ints, t: Ints) -> tuple[Ints, Ints]:
        """(x, y) at step ``t`` of an edge."""
        across = np.trunc(self._across[edge] + self._slope[edge] * t + 0.5).astype(np.int64)
        main = self._main[edge] + t
        return np.where(self._flat[edge], main, across), np.where(self._flat[edge], across, main)

    def step_over(self, edge: Ints, column: Ints) -> Ints:
        """The first step of an edge that is beyond a column's center, found by halving."""
        center = SCALE * column + SCALE // 2
        rising = self._begin[edge] <= center
        before: Ints = np.zeros_like(center)
        beyond: Ints = self._run[edge]
        for _ in range(int(beyond.max(initial=0)).bit_length()):
            middle = (before + beyond) // 2
            passed = (self.at(edge, middle)[0] > center) == rising
            beyond, before = np.where(passed, middle, beyond), np.where(passed, before, middle)
        return beyond


def _picker(places: Ints) -> Callable[[npt.NDArray[Any]], npt.NDArray[Any]]:
    return lambda values: values[places]


def _centers(u: Ints, v: Ints, step: Ints, last: int, height: int) -> tuple[Ints, Ints]:
    """(columns, rows) of the steps that are at a column's center."""
    low = np.minimum(u[step], u[step - 1])
    kept = (low % SCALE == SCALE // 2) & (low >= 0) & (low <= last)
    return low[kept] // SCALE, _row(np.minimum(v[step], v[step - 1])[kept], height)


def _row(lower: Ints, height: int) -> Ints:
    """The first row below a crossing at ``lower``, five times the size."""
    return np.ceil(np.clip((lower + 0.5) / SCALE - 0.5, 0, height)).astype(np.int64)


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
    if len(points) * (bottom - top) > MAX_EDGE_ROWS:
        raise LabelError("a shape has too many points for its size",
                         expected=f"at most {MAX_EDGE_ROWS // (bottom - top)} for {bottom - top} rows",
                         found=str(len(points)), where=where, fix="simplify it")  # fmt: skip
    if shape_type == "circle" and math.dist(points[0], points[1]) > LARGEST_CIRCLE:
        return top, left, _disk(points[0] - (left, top), math.dist(points[0], points[1]), bottom - top, right - left)
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


def _disk(center: Points, radius: float, height: int, width: int) -> BoolMask:
    """H×W: the pixel positions within ``radius`` of ``center`` (x, y), which may be far outside."""
    rows = np.abs(np.arange(height) - center[1])
    reach = np.sqrt(np.maximum((radius - rows) * (radius + rows), 0.0))  # the difference of squares without its loss
    columns = np.arange(width)[None]
    found = (columns >= (center[0] - reach)[:, None]) & (columns <= (center[0] + reach)[:, None])
    return np.asarray(found & (rows <= radius)[:, None], bool)
