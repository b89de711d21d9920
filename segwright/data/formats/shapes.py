"""Figures of annotation tools as regions: polygons with holes, boxes, circles, ellipses, bitmaps, run lengths.

What the JSON formats of Supervisely, VIA, Darwin and Hasty share. Points and lines are drawn where the dataset is read
so (:mod:`segwright.data.annotations.sparse`); any other figure without an area (a graph, a cuboid) is listed and draws
nothing, so that the count of objects includes it. Every number and every embedded bitmap is checked
against the image's size before memory is taken for it.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import math
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from segwright.core.counted import counted
from segwright.core.errors import LabelError
from segwright.data.annotations.polygons import Points, as_points, fill_box
from segwright.data.annotations.rasterize import Drawable, Drawing, RasterizedReader, Region, describe_source
from segwright.data.annotations.rle import decode_pairs
from segwright.data.annotations.sparse import (
    COMPLETE,
    DEFAULT,
    Choice,
    LabelRule,
    PointCount,
    Reading,
    choose_reading,
    core,
    stamp,
    trace,
)
from segwright.data.formats.file_tree import Tree, is_image
from segwright.data.formats.name_matching import find_class_list
from segwright.data.label_maps import read_class_list
from segwright.data.records import Problem, Record
from segwright.imageio import decode_mask, parse_header
from segwright.imageio.raster import decode_raster

AREAS = frozenset({"polygon", "pixels", "box", "pixel box", "circle", "ellipse", "bitmap", "runs"})
BOXES = frozenset({"box", "pixel box"})
STROKES = frozenset(
    {"points", "lines", "polylines"}
)  # their data are points (x, y); empty or None where there are none
SLACK = 1_000_000  # bytes that a packed bitmap may take beyond four a pixel


@dataclass(frozen=True, slots=True)
class Figure:
    """One object of an annotation: its class's name, its kind, and what the kind needs."""

    label: str
    kind: str  # one of AREAS, or the tool's own word for what has no area
    data: Any = None


@dataclass(frozen=True, slots=True)
class Figures:
    """The payload of a record whose figures were read on opening; a size of 0 is taken from the image."""

    source: str
    figures: tuple[Figure, ...]
    height: int = 0
    width: int = 0


@dataclass
class FiguresReader(RasterizedReader):
    """Draws figures in their order, later over earlier."""

    index: Mapping[str, int] | None = None  # class name → class index
    background: int = 0
    reading: Reading = COMPLETE
    centers: bool = False  # whether coordinates are pixel positions: of points and lines

    @property
    def partial(self) -> bool:
        return self.reading.partial

    def figures(self, record: Record) -> Figures:
        """The figures of a record with a payload; formats with a file per image read it here."""
        found: Figures = record.payload
        return found

    def drawing(self, record: Record) -> Drawing | None:
        found = self.figures(record)
        where = describe_source(Path(found.source), record.id)
        height, width = self.sized(record, found.height, found.width, where)
        known = self.index or {}
        objects = []
        for figure in found.figures:
            if figure.label not in known:
                raise LabelError(
                    "an object's class is not in the class list",
                    expected=", ".join(known),
                    found=figure.label,
                    where=where,
                    fix="add it to the class list, or correct the object",
                )
            index = known[figure.label]
            draw = _Draw(index, figure, height, width, where, self.reading, self.centers)
            objects.append(Drawable(index, draw))
        outlines = any(figure.kind in AREAS for figure in found.figures)
        return Drawing(height, width, objects, self.reading.fill(self.background, outlines), where=where)


@dataclass(frozen=True, slots=True)
class _Draw:
    index: int
    figure: Figure
    height: int
    width: int
    where: str
    reading: Reading
    centers: bool

    def __call__(self) -> Region | None:
        stroke = self.reading.strokes and is_stroke(self.figure)
        if not stroke and self.figure.kind not in AREAS:
            return None
        rule = self.reading.rule
        try:
            if stroke:
                points = as_points(self.figure.data, self.where)
                if self.figure.kind == "points":
                    box = stamp(points, rule.radius, self.height, self.width, centers=self.centers)
                else:
                    box = trace(points, rule.width, self.height, self.width, self.where, centers=self.centers)
                return Region(self.index, box[2], box[0], box[1])
            if rule.boxes == "core" and self.figure.kind in BOXES:
                left, top, right, bottom = _sides(self.figure.data, 1 if self.figure.kind == "pixel box" else 0)
                corners = as_points([[left, top], [right, top], [right, bottom], [left, bottom]], self.where)
                box, unsure = core(corners, self.height, self.width, self.where)
                return Region(self.index, box[2], box[0], box[1], unsure)
            box = rasterize(self.figure.kind, self.figure.data, self.height, self.width, self.where)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
            raise LabelError(
                f"a broken {self.figure.kind}", found=repr(error)[:120], where=self.where, fix="export it again"
            ) from error
        return Region(self.index, box[2], box[0], box[1])


Box = tuple[int, int, npt.NDArray[np.bool_]]  # top, left, mask
NOTHING: Box = (0, 0, np.zeros((0, 0), bool))


def rasterize(kind: str, data: Any, height: int, width: int, where: str) -> Box:
    """A figure's pixels, cut to where they are: (top, left, mask)."""
    if kind == "polygon":  # rings; a pixel is inside where an odd number of them holds it
        return _combined([fill_box(as_points(ring, where), height, width, where) for ring in data])
    if kind == "pixels":  # (outline, holes) by pixel positions, the outlines included
        return _filled(data[0], data[1], height, width, where)
    if kind == "pixel box":  # the same by pixel positions, both corners included
        left, top, right, bottom = _sides(data)
        return _filled([[left, top], [right, top], [right, bottom], [left, bottom]], (), height, width, where)
    if kind == "box":  # left, top, right, bottom
        left, top, right, bottom = _sides(data)
        corners = [[left, top], [right, top], [right, bottom], [left, bottom]]
        return fill_box(as_points(corners, where), height, width, where)
    if kind in ("circle", "ellipse"):  # x, y, radius, radius, angle in radians
        return _ellipse(*(_number(v) for v in data), height=height, width=width)
    if kind == "bitmap":  # base64 text, whether packed by zlib, left, top
        text, packed, left, top = data
        mask = unpack_bitmap(text, packed, height, width, where)
        return int(_number(top)), int(_number(left)), mask
    values, left, top, tall, wide = data  # "runs": pairs of start and length along the rows of a box, from 1
    return top, left, _runs(values, tall, wide, height, width, where)


def _sides(data: Any, wider: float = 0.0) -> tuple[float, float, float, float]:
    """Left, top, right, bottom in their order; right and bottom ``wider``."""
    x0, y0, x1, y1 = (_number(v) for v in data)
    return min(x0, x1), min(y0, y1), max(x0, x1) + wider, max(y0, y1) + wider


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number) or abs(number) > 1e7:
        raise ValueError(f"the number {value} is out of bounds")
    return number


def _combined(parts: Sequence[Box]) -> Box:
    """Rings one over the other: inside where an odd number of them is."""
    parts = [part for part in parts if part[2].size]
    if len(parts) <= 1:
        return parts[0] if parts else NOTHING
    top, left = min(p[0] for p in parts), min(p[1] for p in parts)
    bottom, right = max(p[0] + p[2].shape[0] for p in parts), max(p[1] + p[2].shape[1] for p in parts)
    mask = np.zeros((bottom - top, right - left), bool)
    for y, x, part in parts:
        mask[y - top : y - top + part.shape[0], x - left : x - left + part.shape[1]] ^= part
    return top, left, mask


def _filled(outline: Any, holes: Sequence[Any], height: int, width: int, where: str) -> Box:
    """A polygon by pixel positions as OpenCV fills it: pixels on the outline are inside, those on a hole's are not."""
    points = np.rint(as_points(outline, where))
    if len(points) < 3:
        return NOTHING
    left, top = (int(v) for v in np.maximum(points.min(axis=0), 0))
    right, bottom = (int(v) for v in np.minimum(points.max(axis=0), (width - 1, height - 1)))
    if right < left or bottom < top:
        return NOTHING
    canvas = np.zeros((bottom - top + 1, right - left + 1), np.uint8)
    cv2.fillPoly(canvas, [_shifted(points, left, top)], (1,))
    for hole in holes:
        cv2.fillPoly(canvas, [_shifted(np.rint(as_points(hole, where)), left, top)], (0,))
    return top, left, np.asarray(canvas, bool)


def _shifted(points: Points, left: int, top: int) -> npt.NDArray[np.int32]:
    return (points - (left, top)).astype(np.int32)


def _ellipse(x: float, y: float, across: float, down: float, angle: float = 0.0, *, height: int, width: int) -> Box:
    """The pixels whose centers lie in an ellipse about (x, y)."""
    if across <= 0 or down <= 0:
        return NOTHING
    reach = math.hypot(across, down)
    left, top = max(int(x - reach) - 1, 0), max(int(y - reach) - 1, 0)
    right, bottom = min(int(x + reach) + 2, width), min(int(y + reach) + 2, height)
    if right <= left or bottom <= top:
        return NOTHING
    dy, dx = np.ogrid[top:bottom, left:right]
    dx, dy = dx + (0.5 - x), dy + (0.5 - y)
    u = (dx * math.cos(angle) + dy * math.sin(angle)) / across
    v = (dy * math.cos(angle) - dx * math.sin(angle)) / down
    return top, left, np.asarray(u * u + v * v <= 1, bool)


def unpack_bitmap(text: Any, packed: bool, height: int, width: int, where: str) -> npt.NDArray[np.bool_]:
    """A PNG in base64 (packed by zlib once more) to a mask: its alpha where it has one, else what is not 0."""
    limit = 4 * height * width + SLACK
    if not isinstance(text, str) or len(text) > 2 * limit:
        raise LabelError("an embedded bitmap is text in base64", expected=f"at most {limit} bytes", where=where)
    try:
        data = base64.b64decode(text, validate=True)
        if packed:
            unpacker = zlib.decompressobj()
            data = unpacker.decompress(data, limit)
            if unpacker.unconsumed_tail:
                raise ValueError(f"it unpacks to more than {limit} bytes")
    except (ValueError, binascii.Error, zlib.error) as error:
        raise LabelError(
            "an embedded bitmap cannot be unpacked",
            expected=f"a PNG in base64{' and zlib' if packed else ''}",
            found=str(error),
            where=where,
            fix="export the annotations again",
        ) from error
    info = parse_header(data, where)
    if info.width * info.height > 4 * height * width + SLACK:
        raise LabelError(
            "an embedded bitmap is larger than its image",
            expected=f"at most {width}×{height}",
            found=f"{info.width}×{info.height}",
            where=where,
        )
    if info.mode in ("P", "1"):
        return np.asarray(decode_mask(data, where) != 0)
    pixels = decode_raster(data, where)
    if info.mode.startswith(("RGBA", "LA")):
        return np.asarray(pixels[..., -1] > 0)
    return np.asarray((pixels != 0).any(axis=2))


def _runs(values: Any, tall: int, wide: int, height: int, width: int, where: str) -> npt.NDArray[np.bool_]:
    if tall < 0 or wide < 0 or tall * wide > 4 * height * width + SLACK:
        raise LabelError("run lengths of a box outside the image", found=f"{wide}×{tall}", where=where)
    return decode_pairs(values, tall * wide, where).reshape(tall, wide)


def is_stroke(figure: Figure) -> bool:
    """Whether it is points or a line that can be drawn."""
    return figure.kind in STROKES and bool(figure.data)


def reading_of(rule: LabelRule, images: Iterable[Iterable[Figure]]) -> Choice:
    """How the figures of the images are read."""
    listed = [list(figures) for figures in images]
    return choose_reading(
        rule, [(sum(map(is_stroke, one)), sum(figure.kind in AREAS for figure in one)) for one in listed]
    )


def point_notes(images: Iterable[Figures], reading: Reading, centers: bool = False) -> list[str]:
    """Notes on points outside of their image and on one pixel with another class; ``centers`` as of the reader."""
    count = PointCount()
    for one in images if reading.strokes else ():
        points: list[tuple[str, float, float]] = []
        for figure in one.figures:
            if figure.kind == "points" and is_stroke(figure):
                with contextlib.suppress(TypeError, ValueError):
                    points += [(figure.label, float(x) + centers / 2, float(y) + centers / 2) for x, y in figure.data]
        count.add(points, one.height, one.width)
    return count.notes()


def without_area(figures: Iterable[Figure], reading: Reading) -> list[str]:
    """A note that counts the kinds that draw nothing, and one on how points and lines are drawn."""
    counts = Counter(
        figure.kind for figure in figures if figure.kind not in AREAS and not (reading.strokes and is_stroke(figure))
    )
    counted = ", ".join(f"{kind} ({count})" for kind, count in sorted(counts.items()))
    return [f"without an area, and not drawn: {counted}"] if counted else []


def boxes_alone(figures: Sequence[Figure], names: str, rule: LabelRule = DEFAULT) -> list[Problem]:
    """A warning where every object is a box: a detector's annotations rather than outlines."""
    kinds = {figure.kind for figure in figures}
    return boxes_only(len(figures), names, rule) if kinds and kinds <= BOXES else []


def boxes_only(count: int, names: str, rule: LabelRule = DEFAULT) -> list[Problem]:
    """The warning where all ``count`` objects of a dataset are boxes."""
    if rule.boxes == "fill":
        return []
    how = "the inner fifth of each is its class, the rest of it ignored" if rule.boxes == "core" else ""
    return [
        Problem(
            "note" if rule.boxes == "core" else "warning",
            "boxes only",
            f"all {counted(count, 'object', 'is')} {names}: {how or 'they are drawn as full rectangles'}",
            (),
            "outline the objects as polygons or masks"
            if rule.boxes == "core"
            else "outline the objects as polygons or masks unless they really are rectangles (--boxes fill confirms "
            "it; --boxes core takes the inner fifth of each)",
        )
    ]


CLASS_FILES = ("classes.txt", "labels.txt", "classes.csv", "classes.json")


def listed_classes(tree: Tree) -> list[str]:
    """The names of a class list beside the annotations, in its order; empty where there is none."""
    folder = tree.folder() if not tree.is_file else Tree(tree.root.absolute().parent).folder()
    path = find_class_list([folder], CLASS_FILES)
    return [entry.name for entry in read_class_list(path).entries] if path is not None else []


def class_names(tree: Tree, labels: set[str]) -> tuple[list[str], str]:
    """(the classes of the objects in the class list's order, else by name; words for a note)."""
    listed = listed_classes(tree)
    if listed:
        stray = sorted(labels - set(listed))
        return [*listed, *stray], f" of the class list{f' and {len(stray)} more' if stray else ''}"
    return sorted(labels), ", in alphabetical order"


def unlisted_images(tree: Tree, used: Iterable[Path]) -> list[Path]:
    """Images under the root that no annotation names."""
    own = {str(path.absolute()) for path in used}
    found = [] if tree.is_file else [Path(li.path, n) for _, li in tree.walk() for n in li.files if is_image(n)]
    return [path for path in found if str(path.absolute()) not in own]
