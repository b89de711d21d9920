"""CVAT's XML ("CVAT for images 1.1"): polygons, boxes, ellipses and masks, drawn by their z order.

A mask's run lengths go along the rows of its box and are exact. Labels and colours come from the task's description;
what no shape covers is background. Polylines, points and tags cover no area and are passed over, which a note says.
"""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segwright.data.drawing import DrawnReader, Region, annotated_space, describe_source, fill_name, paint
from segwright.data.formats.base import SPLIT_NAMES, Format, in_order, pairing_problems, unique_ids
from segwright.data.formats.tree import Tree, is_picture, peek
from segwright.data.polygons import as_points, fill_box
from segwright.data.records import Dataset, Problem, Record
from segwright.data.rle import check_size, decode_rows
from segwright.errors import FormatError, LabelError
from segwright.images import UInt8Array
from segwright.types import Colour

AREAS = ("polygon", "box", "ellipse", "mask")
ELLIPSE_POINTS = 180


@dataclass(frozen=True, slots=True)
class Shape:
    """One annotation as it stands in the file."""

    kind: str
    label: str
    z: int
    attributes: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Annotated:
    source: str
    height: int
    width: int
    shapes: tuple[Shape, ...]


@dataclass
class CvatReader(DrawnReader):
    index: Mapping[str, int] | None = None
    background: int = 0

    def draw(self, record: Record) -> UInt8Array:
        payload: Annotated = record.payload
        where = describe_source(Path(payload.source), record.id)
        check_size(payload.height, payload.width, where)
        regions = []
        for shape in sorted(payload.shapes, key=lambda shape: shape.z):
            if shape.label not in (self.index or {}):
                raise LabelError(
                    "a shape's label is not among the task's",
                    expected=", ".join(self.index or {}),
                    found=shape.label,
                    where=where,
                    fix="export the annotations again",
                )
            try:
                top, left, mask = _pixels(shape, payload.height, payload.width, where)
            except (KeyError, ValueError) as error:
                raise LabelError(f"a broken {shape.kind}", found=repr(error), where=where) from error
            regions.append(Region((self.index or {})[shape.label], mask, top, left))
        return paint(regions, payload.height, payload.width, self.background)


def _pixels(
    shape: Shape, height: int, width: int, where: str
) -> tuple[int, int, np.ndarray[tuple[int, ...], np.dtype[np.bool_]]]:
    values = shape.attributes
    if shape.kind == "mask":
        counts = [int(part) for part in values["rle"].split(",")]
        mask = decode_rows(counts, int(float(values["height"])), int(float(values["width"])), where)
        return int(float(values["top"])), int(float(values["left"])), mask
    if shape.kind == "polygon":
        points = as_points([[float(v) for v in pair.split(",")] for pair in values["points"].split(";")], where)
    elif shape.kind == "box":
        left, top, right, bottom = (float(values[key]) for key in ("xtl", "ytl", "xbr", "ybr"))
        points = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
        points = _turned(points, float(values.get("rotation", 0)))
    else:
        t = np.linspace(0, 2 * math.pi, ELLIPSE_POINTS, endpoint=False)
        across, down = float(values["rx"]) * np.cos(t), float(values["ry"]) * np.sin(t)
        points = np.stack([float(values["cx"]) + across, float(values["cy"]) + down], axis=1)
        points = _turned(points, float(values.get("rotation", 0)))
    return fill_box(as_points(points.tolist(), where), height, width, where)


def _turned(
    points: np.ndarray[tuple[int, ...], np.dtype[np.float64]], degrees: float
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Clockwise about the middle, y pointing down."""
    angle = math.radians(degrees)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    return np.asarray((points - middle) @ turn + middle)


def _files(tree: Tree) -> list[Path]:
    """CVAT's XML files: the root itself, or annotations.xml in it."""
    if tree.is_file:
        candidates = [tree.root] if tree.root.suffix.lower() == ".xml" else []
    else:
        candidates = [
            Path(listing.path, name)
            for _, listing in tree.walk(depth=1)
            for name in [n for n in listing.files if n.lower().endswith(".xml")][:8]
        ]
    return [path for path in candidates if re.search(r"<annotations>", peek(path, 4096))]


def recognise(tree: Tree) -> str | None:
    files = _files(tree)
    return f"CVAT's XML ({', '.join(path.name for path in files)})" if files else None


@dataclass
class _Parsed:
    labels: dict[str, Colour | None]
    images: list[tuple[str, str | None, Annotated]]  # name, subset, annotations
    skipped: int = 0


def _parse(path: Path, parsed: _Parsed) -> None:
    """Read one XML as a stream; one that declares entities is refused, for they can be bombs."""
    if re.search(r"<!(?:DOCTYPE|ENTITY)", peek(path), re.IGNORECASE):
        raise FormatError("the XML declares entities", found="<!DOCTYPE", where=path, fix="export it from CVAT again")
    try:
        for _, element in ElementTree.iterparse(path, events=("end",)):
            if element.tag == "label" and element.find("name") is not None:
                name = (element.findtext("name") or "").strip()
                if (element.findtext("type") or "") != "skeleton":
                    parsed.labels.setdefault(name, _hex(element.findtext("color")))
            elif element.tag == "track":
                raise FormatError("a video's tracks, not pictures", found="<track>", where=path,
                                  fix="export the task as 'CVAT for images 1.1'")  # fmt: skip
            elif element.tag == "image":
                shapes = tuple(
                    Shape(child.tag, child.get("label", ""), int(child.get("z_order", "0") or 0), dict(child.attrib))
                    for child in element
                    if child.tag in AREAS
                )
                parsed.skipped += sum(child.tag in ("polyline", "points", "cuboid", "skeleton") for child in element)
                size = int(element.get("height", "0")), int(element.get("width", "0"))
                parsed.images.append(
                    (element.get("name", ""), element.get("subset"), Annotated(str(path), *size, shapes))
                )
                element.clear()
    except (ElementTree.ParseError, ValueError, OSError) as error:
        raise FormatError("not a CVAT XML", expected="well-formed XML", found=str(error), where=path,
                          fix="export it again") from error  # fmt: skip


def _hex(text: str | None) -> Colour | None:
    match = re.fullmatch(r"#?([0-9a-fA-F]{6})", (text or "").strip())
    if match is None:
        return None
    number = int(match[1], 16)
    return (number >> 16, number >> 8 & 255, number & 255)


def open_cvat(tree: Tree) -> Dataset:
    files = _files(tree)
    if not files:
        raise FormatError("no CVAT XML", expected="annotations.xml", found=tree.summary(), where=tree.root)
    parsed = _Parsed({}, [])
    for path in files:
        _parse(path, parsed)
    for _, _, annotated in parsed.images:  # a job's export may lack the task's list of labels
        for shape in annotated.shapes:
            parsed.labels.setdefault(shape.label, None)
    if not parsed.labels:
        raise FormatError(
            "the XML names no label", expected="<labels>", found=f"{len(parsed.images)} images", where=files[0]
        )
    space, index, background = annotated_space(list(parsed.labels), list(parsed.labels.values()))
    located = [(name, subset, tree.locate(name), annotated) for name, subset, annotated in parsed.images]
    missing = tuple(name for name, _, path, _ in located if path is None)
    present = [(path, subset, annotated) for _, subset, path, annotated in located if path is not None]
    ids = unique_ids([(path.parent.name, path.stem, path.suffix) for path, _, _ in present])
    records = [Record(name, path, None, annotated) for name, (path, _, annotated) in zip(ids, present, strict=True)]
    given: dict[str, list[Record]] = {}
    for record, (_, subset, _) in zip(records, present, strict=True):
        if subset and subset.lower() in SPLIT_NAMES:
            given.setdefault(SPLIT_NAMES[subset.lower()], []).append(record)
    used = {path for path, _, _ in present}
    lone = [
        Path(listing.path, name)
        for _, listing in (() if tree.is_file else tree.walk())
        for name in listing.files
        if is_picture(name) and Path(listing.path, name) not in used
    ]
    notes = [
        f"{len(space)} classes; what no shape covers is {fill_name(space, background)}; shapes lie by their z order"
    ]
    if parsed.skipped:
        notes.append(f"{parsed.skipped} lines, points and cuboids cover no area and are passed over")
    problems = pairing_problems(lone, [])
    if missing:
        message = f"{len(missing)} pictures that the XML names are not there"
        problems.append(Problem("warning", "mask without image", message, missing, "copy them beside the XML"))
    return Dataset(
        root=tree.root,
        format="cvat",
        reader=CvatReader(space, index=index, background=background),
        records=tuple(records),
        given=in_order(given),
        notes=notes,
        problems=problems,
        unpaired_images=tuple(lone),
        unpaired_masks=tuple(Path(name) for name in missing),
    )


FORMAT = Format("cvat", "CVAT", "annotations.xml (CVAT for images 1.1) with its pictures", recognise, open_cvat)
