"""Polygons to pixels, by the two rules that annotation tools draw with.

*COCO's* (for COCO, CVAT, Label Studio, YOLO: coordinates are continuous, pixel 0 covers 0…1): the outline at five times
the size, a pixel inside where its centre column's crossings say so. The same pixels as the reference implementation.
*labelme's*: Pillow's polygon with its outline, coordinates being pixel positions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

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


def fill(points: Points, height: int, width: int, where: str = "polygon") -> BoolMask:
    """A polygon's pixels by COCO's rule, as an H×W mask."""
    mask = np.zeros((height, width), bool)
    top, left, box = fill_box(points, height, width, where)
    mask[top : top + box.shape[0], left : left + box.shape[1]] = box
    return mask


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


def _crossings(
    corners: npt.NDArray[np.int64], height: int, width: int, where: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(columns, rows) where the outline steps over a column's centre, on the side towards the lower one."""
    ends = np.roll(corners, -1, axis=0)
    last = SCALE * (width - 1) + SCALE // 2  # the centre of the last column
    # An edge that lies beside all columns crosses none, and one along a column's side steps over no centre.
    reaches = (np.maximum(corners[:, 0], ends[:, 0]) >= 0) & (np.minimum(corners[:, 0], ends[:, 0]) <= last + 1)
    starts, stops = corners[reaches], ends[reaches]
    size = np.abs(stops - starts)
    first = np.zeros(len(starts), np.int64)
    lengths = size.max(axis=1, initial=0) + 1
    if int(lengths.sum()) > CHUNK:
        # Along its columns a flat edge need not be traced beside the image: t counts from the lower column.
        flat = size[:, 0] >= size[:, 1]
        low = np.minimum(starts[:, 0], stops[:, 0])
        first = np.where(flat, np.clip(-1 - low, 0, size[:, 0]), 0)
        beyond = np.where(flat, np.clip(last + 2 - low, 0, size[:, 0]), size.max(axis=1, initial=0))
        lengths = beyond - first + 1
    total = int(lengths.sum())
    if total > MAX_OUTLINE:
        raise LabelError(
            "a polygon's outline is out of bounds",
            expected=f"at most {MAX_OUTLINE // SCALE} pixels long",
            found=f"{total // SCALE} pixels",
            where=where,
            fix="correct its coordinates",
        )
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    parts = []
    for begin in range(0, total, CHUNK):
        span = np.arange(max(begin - 1, 0), min(begin + CHUNK, total))  # with the point before: a step is between two
        edge = (
            np.searchsorted(offsets, span, side="right") - 1
            if total > CHUNK
            else np.repeat(np.arange(len(lengths)), lengths)
        )
        u, v = _trace(starts, stops, first, offsets, span, edge)
        step = np.flatnonzero(u[1:] != u[:-1]) + 1
        step = step[edge[step] == edge[step - 1]]  # each edge is traced upwards: two edges are no neighbours here
        low = np.minimum(u[step], u[step - 1])
        kept = (low % SCALE == SCALE // 2) & (low >= 0) & (low <= last)
        y = (np.minimum(v[step], v[step - 1])[kept] + 0.5) / SCALE - 0.5
        parts.append((low[kept] // SCALE, np.ceil(np.clip(y, 0, height)).astype(np.int64)))
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return np.concatenate([x for x, _ in parts]), np.concatenate([rows for _, rows in parts])


def _trace(
    starts: npt.NDArray[np.int64],
    stops: npt.NDArray[np.int64],
    first: npt.NDArray[np.int64],
    offsets: npt.NDArray[np.int64],
    span: npt.NDArray[np.int64],
    edge: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(x, y) of the points ``span`` of the outline, lattice points along the longer axis of each edge."""
    low_edge, high_edge = int(edge[0]), int(edge[-1]) + 1
    starts, stops, first = starts[low_edge:high_edge], stops[low_edge:high_edge], first[low_edge:high_edge]
    size = np.abs(stops - starts)
    flat = size[:, 0] >= size[:, 1]
    swapped = (flat & (starts[:, 0] > stops[:, 0])) | (~flat & (starts[:, 1] > stops[:, 1]))
    low = np.where(swapped[:, None], stops, starts)
    high = np.where(swapped[:, None], starts, stops)
    run = np.where(flat, size[:, 0], size[:, 1])
    rise = np.where(flat, high[:, 1] - low[:, 1], high[:, 0] - low[:, 0])
    slope = rise / np.maximum(run, 1)
    here = edge - low_edge
    flat_here = flat[here]
    t = first[here] + span - offsets[edge]  # from the lower end, whichever way the edge goes: steps are the same
    base = np.where(flat, low[:, 1], low[:, 0])[here]
    across = np.trunc(base + slope[here] * t + 0.5).astype(np.int64)
    main = np.where(flat, low[:, 0], low[:, 1])[here] + t
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
