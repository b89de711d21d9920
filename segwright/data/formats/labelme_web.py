"""The LabelMe web tool (Russell et al. 2008): an XML per image with polygons, ``Annotations/place/x.xml`` beside
``Images/place/x.jpg``, or the XML beside its image. Not the program labelme, which writes JSON.

Objects marked as deleted are not drawn; what no object covers is background; later objects lie over earlier ones.
Objects drawn as masks (``segm``) name a PNG in ``Masks/place``; it is what is not 0. VOC's XML with polygons
(``<x1>``, ``<y1>``, …: RectLabel, Roboflow) is read alike.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from segwright.core.counted import counted
from segwright.core.errors import DataError, FormatError, LabelError
from segwright.core.progress import track
from segwright.data.annotations.rasterize import Drawable, Drawing, Region, annotated_space, fill_name
from segwright.data.annotations.sparse import Choice, LabelRule, Reading
from segwright.data.formats.base import Format, label_rule, pairing_problems
from segwright.data.formats.file_references import Reference, claimed_twice, resolve_all
from segwright.data.formats.file_tree import Tree, read_bytes, read_ends
from segwright.data.formats.name_parts import split_of
from segwright.data.formats.published_layout import assemble
from segwright.data.formats.shapes import (
    AREAS,
    Figure,
    Figures,
    FiguresReader,
    class_names,
    is_stroke,
    reading_of,
    unlisted_images,
    without_area,
)
from segwright.data.records import Dataset, Problem, Record
from segwright.imageio import read_mask

MAX_BYTES = 100_000_000
LOOKED_AT = 3
_CORNER = re.compile(r"[xy][0-9]+")


@dataclass(frozen=True)
class _File:
    image: str
    folder: str
    height: int
    width: int
    figures: tuple[Figure, ...]


def read_file(path: Path) -> _File:
    """One annotation; LabelError naming it."""
    try:
        root = fromstring(read_bytes(path, MAX_BYTES))
        if root.tag != "annotation":
            raise ValueError(f"the root is {root.tag}")
        figures = [_figure(one) for one in root.iter("object") if (one.findtext("deleted") or "0").strip() != "1"]
        rows = root.findtext("imagesize/nrows") or root.findtext("size/height") or ""
        columns = root.findtext("imagesize/ncols") or root.findtext("size/width") or ""
        size = (int(rows), int(columns)) if rows.strip().isdecimal() and columns.strip().isdecimal() else (0, 0)
        folder = (root.findtext("folder") or "").strip()
        return _File((root.findtext("filename") or "").strip(), folder, *size, tuple(figures))
    except (ValueError, OverflowError, SyntaxError, DefusedXmlException, TypeError) as error:
        raise LabelError(
            "not an annotation of the LabelMe web tool",
            expected="<annotation> with <filename> and <object>s, each with a <name> and a <polygon>",
            found=str(error)[:120],
            where=path,
            fix="download it again",
        ) from error


def _figure(one: Any) -> Figure:
    name = (one.findtext("name") or "").strip()
    polygon = one.find("polygon")
    if polygon is not None:
        points = [[float(pt.findtext("x") or "nan"), float(pt.findtext("y") or "nan")] for pt in polygon.iter("pt")]
        points = points or _numbered(polygon)
        kind = "polygon" if len(points) > 2 else "lines" if len(points) == 2 else "points"
        return Figure(name, kind, [points] if kind == "polygon" else points)
    mask = (one.findtext("segm/mask") or "").strip()
    return Figure(name, "mask files", mask) if mask else Figure(name, "objects without a shape")


def _numbered(polygon: Any) -> list[list[float]]:
    """The corners of <x1>, <y1>, <x2>, … as RectLabel and Roboflow write polygons into VOC's files."""
    found = {child.tag: float(child.text or "nan") for child in polygon if _CORNER.fullmatch(child.tag)}
    numbers = sorted(int(tag[1:]) for tag in found if tag.startswith("x"))
    return [[found[f"x{n}"], found.get(f"y{n}", float("nan"))] for n in numbers]


@dataclass
class WebReader(FiguresReader):
    """``payload`` of a record is the path of its annotation."""

    def figures(self, record: Record) -> Figures:
        found = read_file(record.payload)
        return Figures(str(record.payload), found.figures, found.height, found.width)

    def drawing(self, record: Record) -> Drawing | None:
        drawing = super().drawing(record)
        if drawing is None:
            return None
        found, objects = read_file(record.payload).figures, list(drawing.objects)
        for place, figure in enumerate(found):
            if figure.kind == "mask files":
                objects[place] = Drawable(
                    objects[place].index, _Mask(objects[place].index, record.payload, figure.data)
                )
        drawing.objects = objects
        if any(figure.kind == "mask files" for figure in found):
            drawing.background = self.reading.fill(self.background, True)
        return drawing


@dataclass(frozen=True, slots=True)
class _Mask:
    index: int
    annotation: Path
    name: str

    def __call__(self) -> Region:
        here = self.annotation.parent
        base = Path(self.name).name
        up = [Path(*["Masks" if part == "Annotations" else part for part in here.parts]), here / "Masks", here]
        path = next((folder / base for folder in up if os.path.isfile(folder / base)), None)
        if path is None:
            raise LabelError(
                "an object's mask is missing", expected=f"{base} in Masks/", where=self.annotation,
                fix="download the folder Masks, too",
            )  # fmt: skip
        pixels = read_mask(path)
        return Region(self.index, np.asarray(pixels != 0 if pixels.ndim == 2 else (pixels != 0).any(axis=2)))


def _is_web(path: Path) -> bool:
    text = read_ends(path)
    return "<annotation" in text and "<object>" in text and ("<polygon>" in text or "<segm>" in text)


def _files(tree: Tree) -> list[Path]:
    if "labelme web" in tree.memo:
        return list(tree.memo["labelme web"])
    found: list[Path] = []
    if tree.is_file:
        found = [tree.root] if tree.root.suffix.lower() == ".xml" and _is_web(tree.root) else []
    else:
        for _, listing in tree.walk():
            paths = [Path(listing.path, name) for name in listing.files if name.lower().endswith(".xml")]
            if any(_is_web(path) for path in paths[:LOOKED_AT]):
                found += paths
    tree.memo["labelme web"] = found
    return list(found)


def detect(tree: Tree) -> str | None:
    files = _files(tree)
    return f"{len(files)} XML files with objects and polygons" if files else None


def open_labelme_web(tree: Tree) -> Dataset:
    files = _files(tree)
    if not files:
        raise FormatError(
            "no annotations of the LabelMe web tool", expected="Annotations/place/x.xml and Images/place/x.jpg",
            found=tree.summary(), where=tree.root,
        )  # fmt: skip
    read: list[tuple[Path, _File]] = []
    problems: list[Problem] = []
    for path in track(files, "reading annotations"):
        try:
            read.append((path, read_file(path)))
        except DataError as error:
            problems.append(Problem("error", "unreadable annotation", error.message, (str(path),), error.fix))
    references = [_reference(path, one) for path, one in read]
    resolved = resolve_all(tree, references)
    twice = {image: numbers for image, numbers in resolved.shared.items() if len(numbers) > 1}
    kept = [
        (reference.split, image, path)
        for reference, image, (path, _) in zip(references, resolved.paths, read, strict=True)
        if image is not None and image not in twice
    ]
    figures = [figure for _, one in read for figure in one.figures]
    if not kept or not figures:
        raise FormatError(
            "annotations of the LabelMe web tool without an object, or without their images",
            expected=", ".join(one.image for _, one in read[:3]) or "Images/place/x.jpg",
            found=f"{counted(len(figures), 'object')}, {len(kept)} of {counted(len(read), 'image')}",
            where=tree.root,
            fix="download the folder Images, too",
        )
    names, note = class_names(tree, {figure.label for figure in figures})
    choice = _reading(label_rule(tree), [one.figures for _, one in read])
    reading = choice.reading
    space, index, background = annotated_space(names, rest_ignored=reading.rest == "ignored")
    if twice:
        problems.append(claimed_twice(references, twice, tree.root))
    lone = unlisted_images(tree, [image for _, image, _ in kept])
    lone = [path for path in lone if "Masks" not in path.parts]
    notes = [
        f"{len(names)} classes{note}; what no object covers is {fill_name(space, background)}; later objects on top",
        *without_area([figure for figure in figures if figure.kind != "mask files"], reading),
        *choice.notes,
        *reading.notes(fill_name(space, background), strokes=any(map(is_stroke, figures))),
    ]
    return assemble(
        tree,
        "labelme_web",
        [(split, image, None) for split, image, _ in kept],
        WebReader(space, index=index, background=background, reading=reading),
        notes,
        [*resolved.problems, *problems, *choice.problems, *pairing_problems(lone, [])],
        payloads=[path for _, _, path in kept],
    )


def _reading(rule: LabelRule, images: Sequence[Sequence[Figure]]) -> Choice:
    """The tool draws polygons alone: one of two corners beside others is a slip, unless a rule is given."""
    masks = {"mask files": Figure("", "bitmap")}  # a mask in a file of its own is an outline
    listed = [[masks.get(figure.kind, figure) for figure in one] for one in images]
    if rule.unlabeled_pixels == "auto" and any(figure.kind in AREAS for one in listed for figure in one):
        return Choice(Reading(rule, strokes=False))
    return reading_of(rule, listed)


def _reference(path: Path, one: _File) -> Reference:
    beside = Path(*["Images" if part == "Annotations" else part for part in path.parent.parts])
    name = one.image or f"{path.stem}.jpg"
    there = beside / name
    return Reference(
        str(there) if os.path.isfile(there) and beside != path.parent else name, path, split_of(path.parent.name)
    )


FORMAT = Format(
    "labelme_web",
    "the LabelMe web tool",
    "Annotations/place/x.xml with polygons and Images/place/x.jpg",
    detect,
    open_labelme_web,
)
