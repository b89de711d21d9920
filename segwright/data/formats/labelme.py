"""labelme (Wada): a JSON beside each picture, with shapes; classes from ``labels.txt`` where it lies there.

Shapes are drawn in their order, later over earlier, with the pixels that labelme's own exporter sets: polygons,
rectangles, circles, lines, points, and masks (PNG inside the JSON), which are exact. ``__ignore__`` is ignored,
``_background_`` is what no shape covers. A picture that is only inside the JSON (``imageData``) is read from there.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segwright.console import track
from segwright.data.classes import read_class_list
from segwright.data.drawing import DrawnReader, Region, annotated_space, fill_name, paint
from segwright.data.formats.base import Format, in_order, pairing_problems, unique_ids
from segwright.data.formats.pairing import describe_folder, find_class_list
from segwright.data.formats.tree import Folder, Tree, is_picture, peek, stem
from segwright.data.polygons import as_points, draw_labelme
from segwright.data.records import Dataset, Record
from segwright.data.rle import check_size
from segwright.errors import FormatError, LabelError
from segwright.images import UInt8Array, decode_image, decode_mask
from segwright.types import Colour

CLASS_FILES = ("classes.csv", "classes.json", "labels.txt", "classes.txt", "class_names.txt")
MAX_BYTES = 500_000_000


def load(path: Path) -> Mapping[str, Any]:
    """A labelme JSON; LabelError naming it where it is none."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"{path.stat().st_size} bytes")
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
        if not isinstance(data, dict) or not isinstance(data.get("shapes"), list):
            raise ValueError("no list of shapes")
        return data
    except (OSError, ValueError, RecursionError) as error:
        raise LabelError(
            "not a labelme JSON", expected="an object with shapes", found=str(error), where=path, fix="save it again"
        ) from error


@dataclass
class LabelmeReader(DrawnReader):
    """Draws the shapes of a JSON; ``payload`` of a record is its path."""

    index: Mapping[str, int] | None = None  # label → class index
    background: int = 0

    def image(self, record: Record) -> UInt8Array:
        if record.image_path is not None:
            return super().image(record)
        data = load(record.payload).get("imageData")
        if not data:
            raise LabelError("neither the picture nor its data is there", where=record.payload)
        return decode_image(_base64(data, record.payload), f"{record.payload} (imageData)", self.limits)

    def draw(self, record: Record) -> UInt8Array:
        path: Path = record.payload
        data = load(path)
        try:
            height, width = int(data.get("imageHeight") or 0), int(data.get("imageWidth") or 0)
        except (TypeError, ValueError) as error:
            raise LabelError("imageHeight and imageWidth are numbers", found=str(error), where=path) from error
        if not height or not width:
            height, width = self.size(record)
        check_size(height, width, str(path))
        regions = [self._region(shape, height, width, path) for shape in data["shapes"]]
        return paint(regions, height, width, self.background)

    def _region(self, shape: Any, height: int, width: int, path: Path) -> Region:
        if not isinstance(shape, Mapping) or "label" not in shape or "points" not in shape:
            raise LabelError("a shape has a label and points", found=repr(shape)[:80], where=path)
        known = self.index or {}
        label = str(shape["label"])
        if label not in known:
            raise LabelError(
                "a shape's label is not in the class list",
                expected=", ".join(known),
                found=label,
                where=path,
                fix="add it to labels.txt, or correct the shape",
            )
        points = as_points(shape["points"], str(path))
        kind = str(shape.get("shape_type") or "polygon")
        if kind != "mask":
            return Region(known[label], draw_labelme(kind, points, height, width, str(path)))
        mask = decode_mask(_base64(shape.get("mask"), path), f"{path} (mask)")
        if mask.ndim != 2 or len(points) < 1:
            raise LabelError("a mask shape holds one channel and its corner", where=path)
        return Region(known[label], np.asarray(mask, bool), top=round(points[0][1]), left=round(points[0][0]))


def _base64(text: Any, path: Path) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise LabelError("the embedded picture is not base64", found=str(error), where=path) from error


def _folders(tree: Tree) -> list[tuple[str, Folder]]:
    """Folders with labelme JSONs, judged by their first ones."""
    if tree.is_file:
        return []
    found = []
    for relative, listing in tree.walk():
        names = [name for name in listing.files if name.lower().endswith(".json")]
        for name in names[:3]:
            text = peek(Path(listing.path, name))
            if '"shapes"' in text and ('"imagePath"' in text or '"imageData"' in text):
                found.append((relative, listing))
                break
    return found


def recognise(tree: Tree) -> str | None:
    folders = _folders(tree)
    return f"JSON files with shapes in {', '.join(relative or '.' for relative, _ in folders[:4])}" if folders else None


def open_labelme(tree: Tree) -> Dataset:
    folders = _folders(tree)
    if not folders:
        raise FormatError("no labelme JSON", expected="x.json with shapes beside x.jpg", found=tree.summary(),
                          where=tree.root)  # fmt: skip
    jsons = [
        (relative, Path(listing.path, name))
        for relative, listing in folders
        for name in listing.files
        if name.lower().endswith(".json")
    ]
    pictures = {  # (folder, stem) → path; a labelme picture lies beside its JSON, or where imagePath says
        (relative, stem(name)): Path(listing.path, name)
        for relative, listing in tree.walk()
        for name in listing.files
        if is_picture(name)
    }
    found: list[tuple[str, Path, Path | None]] = []
    for relative, path in jsons:
        picture = pictures.pop((relative, path.stem), None) or _named_picture(tree, path, relative)
        found.append((relative, path, picture))
    used = {picture for _, _, picture in found}
    lone = [path for path in pictures.values() if path not in used]
    ids = unique_ids([(relative, path.stem, ".json") for relative, path, _ in found])
    records = [Record(name, picture, None, path) for name, (_, path, picture) in zip(ids, found, strict=True)]
    given: dict[str, list[Record]] = {}
    for (relative, _, _), record in zip(found, records, strict=True):
        split = describe_folder(relative)[1]
        if split is not None:
            given.setdefault(split, []).append(record)
    labels, notes = _labels(tree, folders, [path for _, path in jsons])
    space, index, background = annotated_space(list(labels), list(labels.values()))
    notes.append(f"what no shape covers is {fill_name(space, background)}; later shapes lie over earlier ones")
    return Dataset(
        root=tree.root,
        format="labelme",
        reader=LabelmeReader(space, index=index, background=background),
        records=tuple(records),
        given=in_order(given),
        notes=notes,
        problems=pairing_problems(lone, []),
        unpaired_images=tuple(lone),
    )


def _named_picture(tree: Tree, path: Path, relative: str) -> Path | None:
    try:
        name = str(load(path).get("imagePath") or "")
    except LabelError:
        return None
    return tree.locate(name, relative) if name and is_picture(name) else None


Labels = dict[str, Colour | None]


def _labels(tree: Tree, folders: list[tuple[str, Folder]], jsons: list[Path]) -> tuple[Labels, list[str]]:
    """(labels in order with their colours, notes): from a class list, else from all the JSONs."""
    places = [tree.folder("")] + [tree.folder(os.path.dirname(relative)) for relative, _ in folders]
    path = find_class_list([*places, *(listing for _, listing in folders)], CLASS_FILES)
    if path is not None:
        classes = read_class_list(path)
        return {entry.name: entry.colour for entry in classes.entries}, classes.notes()
    labels: Labels = {}
    for json_path in track(jsons, "reading labels"):
        try:
            labels |= {str(shape["label"]): None for shape in load(json_path)["shapes"]}
        except (LabelError, KeyError, TypeError):
            continue  # the check reports it, and reading it raises
    if not labels:
        raise LabelError("no shape has a label", found=f"{len(jsons)} JSON files", where=tree.root)
    notes = [f"{len(labels)} labels found in the shapes, in alphabetical order; labels.txt would fix it"]
    return dict.fromkeys(sorted(labels)), notes


FORMAT = Format("labelme", "labelme", "x.json with shapes beside x.jpg", recognise, open_labelme)
