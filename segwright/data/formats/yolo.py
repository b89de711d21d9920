"""YOLO's segmentation labels: ``labels/x.txt`` beside ``images/x.jpg``, a polygon a line, coordinates in 0…1.

A line is ``class x1 y1 x2 y2 …``. Names come from ``data.yaml`` or a class list. Class 0 of the files becomes 1, for
what nothing covers is background; where polygons overlap, the smaller is on top. Lines of five numbers are boxes of a
detection data set and have no outline: files of nothing else are told apart from this format, and a box among polygons
is an error when its picture is read. A picture without a text file, or with an empty one, is
all background, as the convention has it.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from segwright.data.classes import ClassEntry, ClassList, read_class_list
from segwright.data.drawing import DrawnReader, Region, paint, smaller_on_top
from segwright.data.formats.base import Format, in_order, pairing_problems, unique_ids
from segwright.data.formats.pairing import describe_folder, find_class_list
from segwright.data.formats.tree import Folder, Tree, is_picture, peek, stem
from segwright.data.polygons import as_points, fill_box
from segwright.data.records import Dataset, Record
from segwright.errors import FormatError, LabelError
from segwright.images import UInt8Array
from segwright.types import LabelSpace

CLASS_FILES = ("classes.txt", "obj.names", "classes.json", "labels.txt")
_LINE = re.compile(r"^\d+(?:[ \t]+[-+0-9.eE]+){6,}[ \t]*\r?$", re.MULTILINE)
_BOX = re.compile(r"^\d+(?:[ \t]+[-+0-9.eE]+){4,5}[ \t]*\r?$", re.MULTILINE)
LOOKED_AT = 20  # text files a folder


@dataclass
class YoloReader(DrawnReader):
    """``payload`` of a record is the path of its text file, or False where there is none (all background)."""

    def draw(self, record: Record) -> UInt8Array:
        height, width = self.size(record)
        regions = []
        if record.payload is not False:
            path: Path = record.payload
            try:
                lines = path.read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise LabelError("cannot read the labels", found=str(error), where=path) from error
            regions = [
                self._region(line.split(), height, width, f"{path}:{number}")
                for number, line in enumerate(lines, start=1)
                if line.strip()
            ]
        return paint(smaller_on_top(regions), height, width, 0)

    def _region(self, fields: list[str], height: int, width: int, where: str) -> Region:
        if len(fields) in (5, 6):  # the sixth is a detector's confidence
            file, line = where.rsplit(":", 1)
            raise LabelError(
                "a box, not a polygon: where the object is, not its outline",
                expected="a class and at least three pairs of numbers",
                found=f"{len(fields)} numbers",
                where=where,
                fix=f"draw its outline, or remove the line: sed -i {line}d {shlex.quote(file)}",
            )
        if len(fields) < 7 or len(fields) % 2 == 0:
            raise LabelError(
                "a line is no polygon",
                expected="a class and at least three pairs of numbers",
                found=f"{len(fields)} fields",
                where=where,
                fix="export segmentation polygons",
            )
        try:
            index = int(fields[0]) + 1
            points = as_points([float(field) for field in fields[1:]], where)
        except ValueError as error:
            raise LabelError("a line of numbers", found=str(error), where=where) from error
        if not 0 < index < len(self.label_space):
            raise LabelError(
                "a class outside the list", expected=f"0 to {len(self.label_space) - 2}", found=fields[0], where=where
            )
        top, left, mask = fill_box(points * (width, height), height, width, where)
        return Region(index, mask, top, left)


def _text_folders(tree: Tree, line: re.Pattern[str]) -> list[tuple[str, Folder]]:
    """Label folders where one of the first text files holds such a line."""
    if tree.is_file:
        return []
    found = []
    for relative, listing in tree.walk():
        if describe_folder(relative)[0] != "mask":
            continue
        texts = [name for name in listing.files if name.lower().endswith(".txt") and name.lower() not in CLASS_FILES]
        if any(line.search(peek(Path(listing.path, name))) for name in texts[:LOOKED_AT]):
            found.append((relative, listing))
    return found


def _label_folders(tree: Tree) -> list[tuple[str, Folder]]:
    """Folders of text files with polygons."""
    if "yolo" not in tree.memo:
        tree.memo["yolo"] = _text_folders(tree, _LINE)
    return list(tree.memo["yolo"])


def recognise(tree: Tree) -> str | None:
    folders = _label_folders(tree)
    return f"text files with polygons in {', '.join(relative for relative, _ in folders[:4])}" if folders else None


def hint(tree: Tree) -> FormatError | None:
    """For a detection data set: its labels are boxes."""
    folders = _text_folders(tree, _BOX)
    if not folders:
        return None
    return FormatError(
        "these are boxes, not polygons: the labels of a detection data set, which hold no outline",
        expected="lines of a class and at least three pairs of numbers, as YOLO's segmentation labels have",
        found=f"lines of a class and a box in {', '.join(relative for relative, _ in folders[:4])}",
        where=tree.root,
        fix="export the polygons (in a YOLO segmentation format), or outline the boxes in an annotation tool first",
    )


def _names(tree: Tree) -> ClassList | None:
    for name in tree.folder().files:
        if not name.lower().endswith((".yaml", ".yml")):
            continue
        try:
            with open(tree.path(name), encoding="utf-8") as file:
                data: Any = yaml.safe_load(file)
        except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError):
            continue
        names = data.get("names") if isinstance(data, dict) else None
        if isinstance(names, list):
            return ClassList(tuple(ClassEntry(i, str(n)) for i, n in enumerate(names)), tree.path(name))
        if isinstance(names, dict) and all(str(key).isdecimal() for key in names):
            return ClassList(tuple(ClassEntry(int(k), str(n)) for k, n in sorted(names.items())), tree.path(name))
    path = find_class_list([tree.folder(), tree.folder("labels")], CLASS_FILES)
    return None if path is None else read_class_list(path)


def _highest(folders: list[tuple[str, Folder]]) -> int:
    """The highest class in the text files; read whole only where no list names the classes."""
    highest = 0
    for _, listing in folders:
        for name in listing.files:
            if name.lower().endswith(".txt"):
                text = Path(listing.path, name).read_text(encoding="utf-8", errors="replace")
                highest = max([highest, *(int(m) for m in re.findall(r"^(\d{1,3})\s", text, re.MULTILINE))])
    return highest


def open_yolo(tree: Tree) -> Dataset:
    folders = _label_folders(tree)
    if not folders:
        raise hint(tree) or FormatError("no YOLO polygons", expected="labels/x.txt beside images/x.jpg",
                                        found=tree.summary(), where=tree.root)  # fmt: skip
    classes = _names(tree)
    if classes is None:
        names = [f"class {i}" for i in range(_highest(folders) + 1)]
        notes = [f"{len(names)} classes found in the text files; data.yaml or classes.txt would name them"]
    else:
        by_value = {entry.value: entry.name for entry in classes.entries}
        names = [by_value.get(i, f"class {i}") for i in range(max(by_value) + 1)]
        notes = classes.notes()
    unique = [
        name if names.count(name) == 1 and name != "background" else f"{name} ({i})" for i, name in enumerate(names)
    ]
    texts = {
        (describe_folder(relative)[1:], stem(name)): Path(listing.path, name)
        for relative, listing in folders
        for name in listing.files
        if name.lower().endswith(".txt") and name.lower() not in CLASS_FILES
    }
    pictures = [
        (relative, describe_folder(relative)[1:], Path(listing.path, name))
        for relative, listing in tree.walk()
        for name in listing.files
        if is_picture(name)
    ]
    ids = unique_ids([(relative, path.stem, path.suffix) for relative, _, path in pictures])
    records: list[Record] = []
    given: dict[str, list[Record]] = {}
    annotated = {place for place, _ in texts}
    for name, (_, place, path) in zip(ids, pictures, strict=True):
        text = texts.pop((place, path.stem), None)
        payload = text if text is not None else False if place in annotated else None
        records.append(Record(name, path, None, payload))
        if place[0] is not None:
            given.setdefault(place[0], []).append(records[-1])
    lone = sorted(texts.values())
    notes.append("class 0 of the files is class 1 here: background is put before them; the smaller polygon is on top")
    return Dataset(
        root=tree.root,
        format="yolo",
        reader=YoloReader(LabelSpace(("background", *unique))),
        records=tuple(records),
        given=in_order(given),
        notes=notes,
        problems=pairing_problems([], lone),
        unpaired_masks=tuple(lone),
    )


FORMAT = Format("yolo", "YOLO", "labels/x.txt with polygons beside images/x.jpg", recognise, open_yolo, hint)
