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
MAX_OUTLINE = 50_000_000  # points of a traced outline; a longer one is a broken or hostile file
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
    if len(points) == 0:
        return 0, 0, np.zeros((0, 0), bool)
    corners = np.trunc(SCALE * points + 0.5).astype(np.int64)
    u, v = _outline(corners, where)
    # A crossing where the outline steps to another column, on the side towards the lower one.
    step = np.flatnonzero(u[1:] != u[:-1]) + 1
    low = np.minimum(u[step], u[step - 1])
    kept = (low % SCALE == SCALE // 2) & (low >= 0) & (low <= SCALE * (width - 1) + SCALE // 2)  # a column's centre
    x = low[kept] // SCALE
    y = (np.minimum(v[step], v[step - 1])[kept] + 0.5) / SCALE - 0.5
    rows = np.ceil(np.clip(y, 0, height)).astype(np.int64)
    if x.size == 0:
        return 0, 0, np.zeros((0, 0), bool)
    # A closed outline crosses each column an even number of times: columns are independent, and a running sum modulo 2
    # down each tells inside from outside.
    left, top = int(x.min()), int(rows.min())
    columns, tall = int(x.max()) - left + 1, int(rows.max()) - top
    toggles = np.bincount((x - left) * (tall + 1) + rows - top, minlength=columns * (tall + 1)).astype(np.uint8)
    inside = np.cumsum(toggles.reshape(columns, tall + 1)[:, :tall], axis=1, dtype=np.uint8) & 1
    return top, left, np.asarray(inside.T, bool)


def _outline(corners: npt.NDArray[np.int64], where: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Every lattice point along the closed outline, along the longer axis of each edge."""
    ends = np.roll(corners, -1, axis=0)
    size = np.abs(ends - corners)
    lengths = size.max(axis=1) + 1
    if int(lengths.sum()) > MAX_OUTLINE:
        raise LabelError("a polygon's outline is out of bounds", found=f"{int(lengths.sum())} points", where=where)
    flat = size[:, 0] >= size[:, 1]
    swapped = (flat & (corners[:, 0] > ends[:, 0])) | (~flat & (corners[:, 1] > ends[:, 1]))
    low = np.where(swapped[:, None], ends, corners)
    high = np.where(swapped[:, None], corners, ends)
    run = np.where(flat, size[:, 0], size[:, 1])
    rise = np.where(flat, high[:, 1] - low[:, 1], high[:, 0] - low[:, 0])
    slope = rise / np.maximum(run, 1)
    edge = np.repeat(np.arange(len(corners)), lengths)
    along = np.arange(edge.size) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    t = np.where(swapped[edge], run[edge] - along, along)
    base = np.where(flat, low[:, 1], low[:, 0])[edge]
    across = np.trunc(base + slope[edge] * t + 0.5).astype(np.int64)
    main = np.where(flat, low[:, 0], low[:, 1])[edge] + t
    return np.where(flat[edge], main, across), np.where(flat[edge], across, main)


def draw_labelme(shape_type: str, points: Points, height: int, width: int, where: str) -> BoolMask:
    """A labelme shape's pixels as its own exporter draws them."""
    canvas = Image.new("L", (width, height), 0)
    draw = ImageDraw.Draw(canvas)
    xy = [(float(x), float(y)) for x, y in points]
    needed = {"polygon": 3, "rectangle": 2, "circle": 2, "line": 2, "linestrip": 2, "point": 1}
    if shape_type not in needed:
        raise LabelError(
            "a shape of an unknown kind", expected=", ".join([*needed, "mask"]), found=shape_type, where=where
        )
    if len(xy) < needed[shape_type]:
        raise LabelError(
            f"a {shape_type} has too few points", expected=f"{needed[shape_type]}", found=str(len(xy)), where=where
        )
    if shape_type == "polygon":
        draw.polygon(xy, outline=1, fill=1)
    elif shape_type == "rectangle":
        (x0, y0), (x1, y1) = xy[:2]
        draw.rectangle([min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)], outline=1, fill=1)
    elif shape_type == "circle":
        (x, y), (px, py) = xy[:2]
        radius = math.hypot(x - px, y - py)
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], outline=1, fill=1)
    elif shape_type in ("line", "linestrip"):
        draw.line(xy, fill=1, width=10)
    else:
        x, y = xy[0]
        draw.ellipse([x - 5, y - 5, x + 5, y + 5], outline=1, fill=1)
    return np.asarray(canvas, bool)
