"""Sparse labels: how points, lines and boxes become pixels, and what the pixels are that no annotation covers.

A point or a line is evidence about a few pixels, and states nothing about the rest of its image; an outline states
where an object ends. So an image that is annotated by points and lines alone is *partial*: all other pixels are ignored
(255). An image with outlines is *complete*: all other pixels are background. Where a dataset has both, several readings
are possible, and :class:`LabelRule` is how a person chooses.

A box is a weak label: not all of its pixels are the object's. It is drawn in full, or by its core (Khoreva et al. 2017,
"Simple does it", section 3.1: Box^i): the inner fifth of its area is the class, the rest of the box is ignored.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import yaml

from segwright.core.counted import counted
from segwright.core.errors import DataError, LabelError, UsageError
from segwright.core.types import IGNORE_INDEX
from segwright.core.yaml_text import load_yaml
from segwright.data.annotations.polygons import Points, fill_box
from segwright.data.annotations.rle import BoolMask
from segwright.data.records import Problem
from segwright.data.text_files import read_text

Rest = Literal["auto", "ignore", "background", "by-image"]
Boxes = Literal["auto", "fill", "core"]

POINT_RADIUS = 2.0  # pixels: 13 of them, about how exactly people click
LINE_WIDTH = 3.0  # pixels
CORE = 0.2  # share of a box's area that is surely the object
LARGEST = 1000.0  # of a radius or a width
FILE = "sparse-labels.yaml"  # beside the data: the rule for every command
MAX_FILE = 100_000  # bytes
PIECE = 64.0  # pixels of a line that are measured together
MAX_PIECES = 200_000  # of one line; more is a broken or hostile file

Box = tuple[int, int, BoolMask]  # top, left, mask


@dataclass(frozen=True)
class LabelRule:
    """How annotations become label masks where there are several readings.

    ``unlabeled_pixels``: what no annotation covers: "ignore", "background", "by-image" (ignored in images of points and
    lines alone, background in those with outlines), or "auto": ignored where the whole dataset is points and lines.
    ``boxes``: "fill", "core", or "auto": as the format has them. ``point_radius``
    and ``line_width`` in pixels; None: 2 and 3, and labelme's own 5 and 10 where its images are complete.
    UsageError for a value out of range.
    """

    unlabeled_pixels: Rest = "auto"
    boxes: Boxes = "auto"
    point_radius: float | None = None
    line_width: float | None = None

    def __post_init__(self) -> None:
        for name, kinds in (("unlabeled_pixels", Rest), ("boxes", Boxes)):
            if getattr(self, name) not in get_args(kinds):
                raise UsageError(
                    f"no such reading: {name}", expected=", ".join(get_args(kinds)), found=str(getattr(self, name))[:40]
                )
        for name, least in (("point_radius", 0.0), ("line_width", 1.0)):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float) and least <= value <= LARGEST):
                raise UsageError(
                    f"{name} is out of range", expected=f"{least:g} to {LARGEST:g} pixels", found=str(value)[:40]
                )

    @property
    def is_default(self) -> bool:
        return self == LabelRule()

    @property
    def radius(self) -> float:
        return POINT_RADIUS if self.point_radius is None else float(self.point_radius)

    @property
    def width(self) -> float:
        return LINE_WIDTH if self.line_width is None else float(self.line_width)

    def given(self) -> dict[str, Any]:
        """What is not left to the default."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) != f.default}

    @classmethod
    def of(cls, values: LabelRule | Mapping[str, Any] | None) -> LabelRule:
        """A rule from its fields by name; UsageError for an unknown name."""
        if isinstance(values, LabelRule):
            return values
        known = [f.name for f in fields(cls)]
        stray = [str(name) for name in values or {} if name not in known]
        if stray:
            raise UsageError("no such setting of sparse labels", expected=", ".join(known), found=", ".join(stray)[:80])
        return cls(**{str(name): value for name, value in (values or {}).items() if value is not None})


def read_rule(folder: Path) -> LabelRule:
    """The rule of ``sparse-labels.yaml`` in a folder; the default where there is none. DataError naming the file."""
    path = folder / FILE
    if not path.is_file():
        return LabelRule()
    try:
        values = load_yaml(read_text(path, MAX_FILE))
        if values is not None and not isinstance(values, Mapping):
            raise ValueError(f"a {type(values).__name__}")
        return LabelRule.of(values)
    except (UsageError, ValueError, TypeError, yaml.YAMLError, RecursionError) as error:
        detail = f"{error.message}: {error.found}" if isinstance(error, UsageError) else str(error)
        raise DataError(
            f"{FILE} cannot be used",
            expected=", ".join(f.name for f in fields(LabelRule)),
            found=" ".join(detail.split())[:200],
            where=path,
            fix="write lines such as  unlabeled_pixels: ignore",
        ) from error


@dataclass
class PointCount:
    """Points that label nothing, and points of different classes on one pixel, of which the later one counts."""

    total: int = 0
    outside: int = 0
    conflicts: int = 0
    images: int = 0  # with conflicts

    def add(self, points: Iterable[tuple[str, float, float]], height: int, width: int) -> None:
        """Count the points (class, x, y) of an image; pixel (column, row) is the square from there to
        (column + 1, row + 1). A size of 0 is not known."""
        held: dict[tuple[int, int], set[str]] = {}
        for name, x, y in points:
            if not (math.isfinite(x) and math.isfinite(y)):
                continue  # refused when the mask is drawn
            self.total += 1
            if x < 0 or y < 0 or (width > 0 and x > width) or (height > 0 and y > height):
                self.outside += 1
            else:
                held.setdefault((math.floor(x), math.floor(y)), set()).add(name)
        found = sum(len(names) > 1 for names in held.values())
        self.conflicts += found
        self.images += found > 0

    def notes(self) -> list[str]:
        """Lines for the notes of a dataset."""
        lines = []
        if self.outside:
            lines.append(f"{self.outside} of {counted(self.total, 'point')} outside of their image")
        if self.conflicts:
            lines.append(
                f"{counted(self.conflicts, 'pixel', 'has')} points of several classes, in "
                f"{counted(self.images, 'image')}: the later one counts"
            )
        return lines


DEFAULT = LabelRule()


@dataclass(frozen=True)
class Reading:
    """What a rule means for one dataset.

    ``rest``: "ignored" or "background" throughout, or "by image": background in images with outlines, ignored in the
    others. ``strokes``: whether points and lines are drawn.
    """

    rule: LabelRule = DEFAULT
    rest: Literal["ignored", "background", "by image"] = "background"
    strokes: bool = True

    @property
    def partial(self) -> bool:
        """Whether some images have labels on a part of their pixels alone."""
        return self.rest != "background"

    def fill(self, background: int, outlines: bool) -> int:
        """The class index of the uncovered pixels of an image."""
        ignored = self.rest == "ignored" or (self.rest == "by image" and not outlines)
        return IGNORE_INDEX if ignored else background

    def notes(self, fill: str, *, strokes: bool = True) -> list[str]:
        """What the notes of a dataset add; ``fill``: the background's name, ``strokes``: it has points or lines."""
        if self.rest == "background" and not (strokes and self.strokes):
            return []
        rest = {
            "ignored": "partial labels: what no annotation covers is ignored",
            "by image": f"partial labels: what nothing covers is {fill} in images with outlines, ignored in the others",
            "background": f"complete labels: what no annotation covers is {fill}",
        }[self.rest]
        sizes = f"points have a radius of {self.rule.radius:g} px, lines a width of {self.rule.width:g} px"
        return [f"{rest}; {sizes}" if strokes else rest]


COMPLETE = Reading(strokes=False)  # as of formats without points and lines
DRAWN = Reading()


@dataclass(frozen=True)
class Choice:
    """A reading, and what has to be reported about it."""

    reading: Reading
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


def choose_reading(rule: LabelRule, images: Iterable[tuple[int, int]], *, drawn_beside: str = "") -> Choice:
    """The reading of a dataset from the (points and lines, outlines) of each of its images.

    ``drawn_beside``: how the tool itself draws points and lines beside outlines, in words; empty where the format
    counts them as lost.
    """
    pairs = list(images)
    strokes = sum(1 for some, areas in pairs if some and not areas)
    outlines = sum(1 for some, areas in pairs if areas and not some)
    both = sum(1 for some, areas in pairs if some and areas)
    empty = len(pairs) - strokes - outlines - both
    named = ((strokes, "points or lines alone"), (outlines, "outlines alone"), (both, "both"), (empty, "no object"))
    found = ", ".join(f"{counted(n, 'image')} with {what}" for n, what in named if n)
    if rule.unlabeled_pixels != "auto":
        return Choice(Reading(rule, _REST[rule.unlabeled_pixels]), (f"read as asked: {found}",))
    if not strokes and not both:
        return Choice(Reading(rule))
    if not outlines and not both:
        return Choice(Reading(rule, "ignored"), (found,))
    message = (
        f"points or lines beside outlines ({found}): these can be complete images, whose rest is background, or "
        f"partial labels, whose rest is unknown; taken as complete, {drawn_beside or 'points and lines not drawn'}"
    )
    problem = Problem("warning", "points beside outlines", message, (), choices())
    return Choice(Reading(rule, "background", strokes=bool(drawn_beside)), (), (problem,))


_REST: dict[str, Literal["ignored", "background", "by image"]] = {
    "ignore": "ignored", "background": "background", "by-image": "by image",
}  # fmt: skip


def choices() -> str:
    """The readings of points and lines beside outlines, and how to choose, for errors and findings."""
    return (
        "all of these draw the points and lines: --unlabeled-pixels ignore ignores what nothing covers, "
        "--unlabeled-pixels background makes it background, --unlabeled-pixels by-image ignores it in images of points "
        f"and lines alone (or write unlabeled_pixels: into {FILE} beside the data)"
    )


def box_choices() -> str:
    """The readings of boxes without outlines, for errors."""
    return (
        "outline the objects; or take the boxes as weak labels: --boxes core makes the inner fifth of each box its "
        "class and ignores the rest of the box, --boxes fill takes the whole box (objects that really are rectangles). "
        "What no box covers is then background, as of a complete annotation; ignored with --unlabeled-pixels ignore"
    )


# --- pixels


def stamp(points: Points, radius: float, height: int, width: int, *, centers: bool = False) -> Box:
    """The pixels within ``radius`` of any of the points, and those that the points lie in: (top, left, mask).

    Coordinates are continuous, pixel 0 covers 0…1; with ``centers`` they are pixel positions.
    """
    shifted = points + 0.5 if centers else points
    inside = (shifted > -radius - 1).all(axis=1) & (shifted < np.array([width, height]) + radius + 1).all(axis=1)
    return _union([_near(p, p, radius, height, width) for p in shifted[inside]])


def trace(points: Points, line_width: float, height: int, width: int, where: str, *, centers: bool = False) -> Box:
    """The pixels whose centers lie within half of ``line_width`` of a line through the points: (top, left, mask)."""
    shifted = points + 0.5 if centers else points
    half = max(line_width / 2, 0.5)
    if len(shifted) == 1:
        return _union([_near(shifted[0], shifted[0], half, height, width)])
    ends = _clipped(shifted[:-1], shifted[1:], half + 1, height, width)
    lengths = np.hypot(*(ends[1] - ends[0]).T)
    counts = np.maximum(np.ceil(lengths / PIECE), 1).astype(np.int64)
    if counts.sum() > MAX_PIECES:
        raise LabelError(
            "a line is too long for its image", expected=f"at most {MAX_PIECES} pieces of {PIECE:g} pixels",
            found=str(int(counts.sum())), where=where, fix="simplify it",
        )  # fmt: skip
    parts = []
    for start, stop, count in zip(*ends, counts.tolist(), strict=True):
        places = start + (stop - start) * np.linspace(0, 1, count + 1)[:, None]
        parts += [_near(a, b, half, height, width) for a, b in pairwise(places)]
    return _union(parts)


def _near(a: Points, b: Points, reach: float, height: int, width: int) -> Box:
    """The pixels whose centers are within ``reach`` of the line from a to b, and the pixels of its ends."""
    low, high = np.minimum(a, b) - reach, np.maximum(a, b) + reach
    left, top = max(math.floor(low[0]), 0), max(math.floor(low[1]), 0)
    right, bottom = min(math.floor(high[0]) + 1, width), min(math.floor(high[1]) + 1, height)
    if right <= left or bottom <= top:
        return 0, 0, np.zeros((0, 0), bool)
    y, x = np.ogrid[top:bottom, left:right]
    dx, dy = x + (0.5 - a[0]), y + (0.5 - a[1])
    along = b - a
    length = float(along @ along)
    t = np.clip((dx * along[0] + dy * along[1]) / length, 0, 1) if length else 0.0
    mask = np.asarray((dx - t * along[0]) ** 2 + (dy - t * along[1]) ** 2 <= reach**2 + 1e-9)
    for point in (a, b):
        column, row = math.floor(point[0]) - left, math.floor(point[1]) - top
        if 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1]:
            mask[row, column] = True
    return top, left, mask


def _clipped(starts: Points, stops: Points, margin: float, height: int, width: int) -> tuple[Points, Points]:
    """The parts of lines within the image and a margin (Liang and Barsky 1984); those outside are left out."""
    low, high = np.full(2, -margin), np.array([width + margin, height + margin])
    along = stops - starts
    with np.errstate(divide="ignore", invalid="ignore"):
        first, last = (low - starts) / along, (high - starts) / along
    still = along == 0
    outside = still & ((starts < low) | (starts > high))
    begin = np.where(still, 0, np.minimum(first, last)).max(axis=1).clip(0, None)
    end = np.where(still, 1, np.maximum(first, last)).min(axis=1).clip(None, 1)
    kept = (begin <= end) & ~outside.any(axis=1)
    return (starts + along * begin[:, None])[kept], (starts + along * end[:, None])[kept]


def _union(parts: Sequence[Box]) -> Box:
    parts = [part for part in parts if part[2].size]
    if len(parts) <= 1:
        return parts[0] if parts else (0, 0, np.zeros((0, 0), bool))
    top, left = min(p[0] for p in parts), min(p[1] for p in parts)
    bottom, right = max(p[0] + p[2].shape[0] for p in parts), max(p[1] + p[2].shape[1] for p in parts)
    mask = np.zeros((bottom - top, right - left), bool)
    for y, x, part in parts:
        mask[y - top : y - top + part.shape[0], x - left : x - left + part.shape[1]] |= part
    return top, left, mask


def core(corners: Points, height: int, width: int, where: str) -> tuple[Box, npt.NDArray[np.bool_]]:
    """(the inner fifth of a box as (top, left, mask of the whole box's extent), the rest of the box, of that shape).

    ``corners`` (4, 2) of the box, which may be turned. A box that covers a pixel has a core of at least one.
    """
    top, left, whole = fill_box(corners, height, width, where)
    middle = corners.mean(axis=0)
    y, x, part = fill_box(middle + (corners - middle) * math.sqrt(CORE), height, width, where)
    inner = np.zeros(whole.shape, bool)
    if part.size:
        rows = slice(y - top, y - top + part.shape[0])
        inner[rows, x - left : x - left + part.shape[1]] = part
    inner &= whole
    if whole.any() and not inner.any():
        places = np.argwhere(whole)
        row, column = places[np.abs(places + 0.5 - (middle[::-1] - (top, left))).sum(axis=1).argmin()]
        inner[row, column] = True
    return (top, left, inner), whole & ~inner
