"""CVAT's shapes as they stand in its XML, and the pixels they cover."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from xml.etree.ElementTree import Element

import numpy as np
import numpy.typing as npt

from segwright.core.errors import LabelError
from segwright.data.annotations.polygons import as_points, fill_box
from segwright.data.annotations.rle import BoolMask, decode_rows
from segwright.data.annotations.sparse import LabelRule, core, stamp, trace

AREAS = ("polygon", "box", "ellipse", "mask")
STROKES = ("polyline", "points")  # sparse labels
NO_AREA = ("cuboid", "skeleton")
ELLIPSE_POINTS = 180

Points = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Shape:
    """One annotation as it stands in the file."""

    kind: str
    label: str
    z: int
    attributes: Mapping[str, str]


def shape_of(element: Element, label: str | None = None) -> Shape:
    """The shape of an XML element; ``label`` where the element around it holds the name (a track)."""
    name = element.get("label", "").strip() if label is None else label
    return Shape(element.tag, name, int(element.get("z_order", "0") or 0), dict(element.attrib))


def whole(text: str | None) -> int:
    """A size as a whole number; 0 if the file lacks it."""
    try:
        return max(int(float(text or 0)), 0)
    except (ValueError, OverflowError):
        return 0


@dataclass(frozen=True, slots=True)
class Pixels:
    """What a shape covers: a mask, where its corner lies, and the rest of a box that is read by its core."""

    top: int
    left: int
    mask: BoolMask
    unsure: BoolMask | None = None


def pixels(shape: Shape, height: int, width: int, where: str, rule: LabelRule) -> Pixels:
    """The pixels that the shape covers; LabelError where it is broken."""
    try:
        if shape.kind in STROKES:
            points = as_points(corners(shape.attributes).tolist(), where)
            if shape.kind == "points":
                return Pixels(*stamp(points, rule.radius, height, width))
            return Pixels(*trace(points, rule.width, height, width, where))
        if shape.kind == "box" and rule.boxes == "core":
            found, unsure = core(as_points(_box(shape.attributes).tolist(), where), height, width, where)
            return Pixels(*found, unsure)
        return Pixels(*_pixels(shape, height, width, where))
    except (KeyError, ValueError, OverflowError, IndexError) as error:
        raise LabelError(f"a broken {shape.kind}", found=repr(error), where=where, fix="export it again") from error


def _pixels(shape: Shape, height: int, width: int, where: str) -> tuple[int, int, BoolMask]:
    values = shape.attributes
    if shape.kind == "mask":
        counts = [int(part) for part in values["rle"].split(",")]
        mask = decode_rows(counts, int(float(values["height"])), int(float(values["width"])), where)
        return int(float(values["top"])), int(float(values["left"])), mask
    if shape.kind == "polygon":
        points = corners(values)
    elif shape.kind == "box":
        points = _box(values)
    else:
        t = np.linspace(0, 2 * math.pi, ELLIPSE_POINTS, endpoint=False)
        across, down = float(values["rx"]) * np.cos(t), float(values["ry"]) * np.sin(t)
        points = np.stack([float(values["cx"]) + across, float(values["cy"]) + down], axis=1)
        points = _turned(points, float(values.get("rotation", 0)))
    return fill_box(as_points(points.tolist(), where), height, width, where)


def _box(values: Mapping[str, str]) -> Points:
    left, top, right, bottom = (float(values[key]) for key in ("xtl", "ytl", "xbr", "ybr"))
    points = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    return _turned(points, float(values.get("rotation", 0)))


def corners(values: Mapping[str, str]) -> Points:
    """N×2 x, y of a polygon, a polyline or points; ValueError where the text holds none."""
    return np.array([[float(v) for v in pair.split(",")] for pair in values["points"].split(";")], np.float64)


def _turned(points: Points, degrees: float) -> Points:
    """Clockwise about the middle, y pointing down."""
    angle = math.radians(degrees)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    return np.asarray((points - middle) @ turn + middle)
