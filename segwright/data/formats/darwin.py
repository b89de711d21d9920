"""V7's Darwin JSON, versions 1 and 2: a file per image, with polygons, boxes, ellipses and raster layers.

Polygons are rings of points; a pixel is inside where an odd number of rings holds it. A raster layer holds run lengths
along the rows of the image, of the numbers that its own table gives to the annotations. Lines and keypoints are sparse
labels (:mod:`segwright.data.annotations.sparse`); skeletons and cuboids have no area; tags belong to the whole image.
Later annotations lie over earlier ones, raster layers below them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segwright.core.counted import counted
from segwright.core.errors import DataError, FormatError, LabelError
from segwright.core.progress import track
from segwright.data.annotations.rasterize import Drawable, Drawing, Region, annotated_space, fill_name
from segwright.data.formats.base import Format, label_rule, pairing_problems
from segwright.data.formats.file_references import Reference, claimed_twice, resolve_all
from segwright.data.formats.file_tree import Tree, read_ends, read_json
from segwright.data.formats.name_parts import split_of
from segwright.data.formats.published_layout import assemble
from segwright.data.formats.shapes import (
    Figure,
    Figures,
    FiguresReader,
    boxes_alone,
    class_names,
    is_stroke,
    point_notes,
    reading_of,
    unlisted_images,
    without_area,
)
from segwright.data.records import Dataset, Problem, Record

LOOKED_AT = 3
_NO_AREA = {"line": "lines", "keypoint": "points", "skeleton": "skeletons", "cuboid": "cuboids", "link": "links"}
_MARKS = frozenset({"tag", "mask", "string", "table", "graph", "eye", "simple_table"})  # no object of its own


@dataclass(frozen=True)
class _File:
    """The content of one annotation file."""

    name: str  # of the image, with its folder
    height: int
    width: int
    figures: tuple[Figure, ...]
    layers: tuple[tuple[Sequence[Any], Mapping[int, str]], ...]  # (run lengths, number → class)


def read_file(path: Path) -> _File:
    """One annotation file; LabelError naming it."""
    data = read_json(path, make=LabelError)
    try:
        item = data.get("item")
        if item is not None:
            slots = item.get("slots") or [{}]
            kinds = {str(slot.get("type", "image")) for slot in slots}
            if len(slots) > 1 or kinds - {"image"}:
                raise _not_an_image(path, f"{len(slots)} slots of type {', '.join(sorted(kinds))}")
            width, height = slots[0].get("width"), slots[0].get("height")
            folder, name = str(item.get("path") or ""), str(item["name"])
        else:
            image = data["image"]
            if "frame_urls" in image or "fps" in image:
                raise _not_an_image(path, "a video's frames")
            width, height = image.get("width"), image.get("height")
            folder, name = str(image.get("path") or ""), str(image.get("original_filename") or image["filename"])
        name = f"{folder.strip('/')}/{name}" if folder.strip("/") else name
        figures, layers = _annotations(data["annotations"])
        return _File(name, int(height or 0), int(width or 0), tuple(figures), tuple(layers))
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError, IndexError) as error:
        raise LabelError(
            "not an annotation file of Darwin",
            expected="item (or image) and annotations, each with a name and a shape",
            found=repr(error)[:120],
            where=path,
            fix="export it again as Darwin JSON",
        ) from error


def _not_an_image(path: Path, found: str) -> LabelError:
    return LabelError(
        "a video or volume of V7 Darwin, not an image",
        expected="one slot of type image",
        found=found,
        where=path,
        fix="export the frames as images of their own",
    )


def _annotations(listed: Sequence[Mapping[str, Any]]) -> tuple[list[Figure], list[Any]]:
    figures: list[Figure] = []
    layers = []
    names = {str(one.get("id")): str(one["name"]) for one in listed if "id" in one}
    for one in listed:
        label = str(one["name"])
        if "raster_layer" in one:
            layer = one["raster_layer"]
            table = {int(n): names[str(i)] for i, n in layer["mask_annotation_ids_mapping"].items() if str(i) in names}
            layers.append((layer["dense_rle"], table))
        elif "polygon" in one:
            polygon = one["polygon"]
            paths = polygon.get("paths") or [polygon["path"], *polygon.get("additional_paths", ())]
            figures.append(Figure(label, "polygon", [_points(path) for path in paths]))
        elif "complex_polygon" in one:
            figures.append(Figure(label, "polygon", [_points(path) for path in one["complex_polygon"]["path"]]))
        elif "ellipse" in one:
            shape = one["ellipse"]
            center, radius = shape["center"], shape["radius"]
            data = (center["x"], center["y"], radius["x"], radius["y"], shape.get("angle") or 0)
            figures.append(Figure(label, "ellipse", data))
        elif "bounding_box" in one:
            x, y, w, h = (float(one["bounding_box"][key]) for key in "xywh")
            figures.append(Figure(label, "box", (x, y, x + w, y + h)))
        else:
            key = next((key for key in one if key in _NO_AREA), None)
            if key is not None:
                figures.append(Figure(label, _NO_AREA[key], _stroke(key, one[key])))
            elif not _MARKS & one.keys():
                figures.append(Figure(label, "annotations of an unknown kind"))
    return figures, layers


def _stroke(key: str, shape: Any) -> list[list[float]] | None:
    """The points of a keypoint or a line; None for what is neither."""
    if key == "keypoint":
        return _points([shape])
    return _points(shape["path"]) if key == "line" else None


def _points(path: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    return [[float(point["x"]), float(point["y"])] for point in path]


@dataclass
class DarwinReader(FiguresReader):
    """``payload`` of a record is the path of its annotation file."""

    def figures(self, record: Record) -> Figures:
        found = read_file(record.payload)
        return Figures(str(record.payload), found.figures, found.height, found.width)

    def drawing(self, record: Record) -> Drawing | None:
        drawing = super().drawing(record)
        if drawing is None:
            return None
        known, objects = self.index or {}, []
        for runs, table in read_file(record.payload).layers:
            numbers = expand(runs, drawing.height, drawing.width, str(record.payload))
            stray = sorted(set(np.unique(numbers).tolist()) - {0, *table})
            if stray:
                raise LabelError(
                    "a raster layer holds numbers of no annotation", expected=str(sorted(table)), found=str(stray[:8]),
                    where=record.payload, fix="export it again",
                )  # fmt: skip
            for number, label in table.items():
                if label not in known:
                    raise LabelError("a mask's class is not in the class list", expected=", ".join(known),
                                     found=label, where=record.payload)  # fmt: skip
                objects.append(Drawable(known[label], _Layer(known[label], numbers, number)))
        background = self.reading.fill(self.background, True) if objects else drawing.background
        return replace(drawing, objects=[*objects, *drawing.objects], background=background)


@dataclass(frozen=True, slots=True)
class _Layer:
    index: int
    numbers: npt.NDArray[np.int32]
    number: int

    def __call__(self) -> Region:
        return Region(self.index, np.asarray(self.numbers == self.number))


def expand(runs: Sequence[Any], height: int, width: int, where: str) -> npt.NDArray[np.int32]:
    """Pairs of (value, length) along the rows to H×W values; LabelError where they do not fill the image."""
    try:
        pairs = np.asarray(runs, np.int64).reshape(-1, 2)
    except (TypeError, ValueError, OverflowError) as error:
        raise LabelError("a raster layer is pairs of value and length", found=str(error), where=where) from error
    values, lengths = pairs[:, 0], pairs[:, 1]
    if (lengths < 0).any() or int(lengths.sum()) != height * width or np.abs(values).max(initial=0) > 2**31 - 1:
        raise LabelError(
            "the run lengths of a raster layer do not fill the image",
            expected=f"lengths that sum to {height * width}",
            found=str(int(lengths.sum())),
            where=where,
            fix="export it again",
        )
    return np.repeat(values.astype(np.int32), lengths).reshape(height, width)


def _outlined(one: _File) -> list[Figure]:
    """The figures of a file; its raster layers count as outlines."""
    return [*one.figures, *[Figure(name, "bitmap") for _, table in one.layers for name in table.values()]]


def _is_darwin(path: Path) -> bool:
    text = read_ends(path)
    if '"annotations"' not in text or not text.lstrip("\ufeff \t\r\n").startswith("{"):
        return False
    first = '"image"' in text and ('"original_filename"' in text or '"workview_url"' in text)
    return first or ('"item"' in text and '"slots"' in text)


def _files(tree: Tree) -> list[Path]:
    """The annotation files: those of folders whose first ones are Darwin's."""
    if "darwin" in tree.memo:
        return list(tree.memo["darwin"])
    found: list[Path] = []
    if tree.is_file:
        found = [tree.root] if tree.root.suffix.lower() == ".json" and _is_darwin(tree.root) else []
    else:
        for _, listing in tree.walk():
            paths = [Path(listing.path, name) for name in listing.files if name.lower().endswith(".json")]
            if any(_is_darwin(path) for path in paths[:LOOKED_AT]):
                found += [path for path in paths if _is_darwin(path)]
    tree.memo["darwin"] = found
    return list(found)


def detect(tree: Tree) -> str | None:
    files = _files(tree)
    return f"{len(files)} Darwin JSON files with items and annotations" if files else None


def open_darwin(tree: Tree) -> Dataset:
    files = _files(tree)
    if not files:
        raise FormatError(
            "no Darwin JSON", expected="a JSON per image with item and annotations", found=tree.summary(),
            where=tree.root,
        )  # fmt: skip
    read: list[tuple[Path, _File]] = []
    broken: list[DataError] = []
    for path in track(files, "reading annotations"):
        try:
            read.append((path, read_file(path)))
        except DataError as error:
            broken.append(error)
    if not read:
        raise broken[0]
    references = [Reference(one.name, path, split_of(path.parent.name)) for path, one in read]
    resolved = resolve_all(tree, references)
    twice = {image: numbers for image, numbers in resolved.shared.items() if len(numbers) > 1}
    kept = [
        (reference.split, image, path)
        for reference, image, (path, _) in zip(references, resolved.paths, read, strict=True)
        if image is not None and image not in twice
    ]
    if not kept:
        raise FormatError(
            "none of the images that the Darwin JSON files name is here",
            expected=", ".join(one.name for _, one in read[:3]),
            found=tree.summary(), where=tree.root, fix="export the images as well, into images/",
        )  # fmt: skip
    figures = [figure for _, one in read for figure in one.figures]
    labels = {figure.label for figure in figures} | {n for _, one in read for _, t in one.layers for n in t.values()}
    names, names_note = class_names(tree, labels)
    if not names:
        raise LabelError(
            "the annotations hold no object with a class", found=counted(len(read), "file"), where=tree.root
        )
    choice = reading_of(label_rule(tree), [_outlined(one) for _, one in read])
    space, index, background = annotated_space(names, rest_ignored=choice.reading.rest == "ignored")
    problems = [*resolved.problems, *choice.problems]
    if twice:
        problems.append(claimed_twice(references, twice, tree.root))
    used = {image for _, image, _ in kept}
    lone = unlisted_images(tree, used)
    fill, reading = fill_name(space, background), choice.reading
    notes = [
        f"{len(names)} classes{names_note}; what no annotation covers is {fill}; later ones are on top",
        *without_area(figures, reading),
        *choice.notes,
        *reading.notes(fill, strokes=any(map(is_stroke, figures))),
        *point_notes((Figures("", one.figures, one.height, one.width) for _, one in read), reading),
    ]
    return assemble(
        tree,
        "darwin",
        [(split, image, None) for split, image, _ in kept],
        DarwinReader(space, index=index, background=background, reading=reading),
        notes,
        [
            *problems,
            *boxes_alone(figures, "boxes", reading.rule),
            *pairing_problems(lone, []),
            *[Problem("error", "unreadable annotation", e.message, (e.where or "",), e.fix) for e in broken],
        ],
        payloads=[path for _, _, path in kept],
    )


FORMAT = Format(
    "darwin",
    "V7 Darwin",
    "a JSON per image with item (or image) and annotations",
    detect,
    open_darwin,
)
