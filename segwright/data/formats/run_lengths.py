"""Run lengths in a CSV, as Kaggle's competitions keep them: pairs of start and length, one or several rows per image.

The direction of counting is not part of the file. The competition fixes it, and the header identifies the competition:

============================================  ==============================================  =======================
header                                        competitions                                    pixels are counted
============================================  ==============================================  =======================
``ImageId, EncodedPixels``                    Airbus ships, Data Science Bowl 2018            down the columns, from 1
``ImageId, ClassId, EncodedPixels``           Severstal steel                                 down the columns, from 1
``ImageId_ClassId, EncodedPixels``            Severstal steel, first form                     down the columns, from 1
``Image_Label, EncodedPixels``                Understanding clouds                            down the columns, from 1
``ImageId, EncodedPixels, Height, Width, …``  iMaterialist                                    down the columns, from 1
``id, rle_mask``                              TGS salt                                        down the columns, from 1
``img, pixels``                               Ultrasound nerves                               down the columns, from 1
``id, encoding``; ``id, …, rle, img_height``  HuBMAP                                          down the columns, from 1
``img, rle_mask``                             Carvana                                         along the rows, from 1
``id, class, segmentation``                   UW-Madison                                      along the rows, from 1
``id, annotation, width, height, …``          Sartorius cells                                 along the rows, from 1
``id, rle`` with kidney ids                   SenNet blood vessels                            along the rows, from 1
``rle_columns`` or ``rle_rows``               yours                                           as in the column's name
============================================  ==============================================  =======================

A header that fits none of these is refused with both readings. Rows of one image and class are parts of one mask; an
empty cell (or ``-1``) is an image without that class. SIIM's pneumothorax counts each start from the end before; its
images are DICOM.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segwright.core.counted import counted
from segwright.core.errors import FormatError, LabelError
from segwright.core.types import MAX_CLASSES, LabelSpace
from segwright.data.annotations.rasterize import Drawable, Drawing, RasterizedReader, Region
from segwright.data.annotations.rle import decode_pairs
from segwright.data.formats.base import Format
from segwright.data.formats.file_tree import Tree, is_image, read_ends, read_text
from segwright.data.formats.folder import pair_tree
from segwright.data.formats.name_matching import find_class_list
from segwright.data.formats.name_parts import split_of
from segwright.data.formats.published_layout import assemble
from segwright.data.formats.shapes import CLASS_FILES
from segwright.data.label_maps import ClassList, generated_name, read_class_list
from segwright.data.records import Dataset, Problem, Record

MAX_BYTES = 2_000_000_000
RUN_COLUMNS = (
    "encodedpixels", "rle_mask", "rle", "encoding", "segmentation", "pixels", "annotation", "rle_columns", "rle_rows",
    "rle_col", "rle_row", "mask_rle", "encoded_pixels", "run_length", "run_lengths",
)  # fmt: skip
IMAGE_COLUMNS = (
    "imageid", "image_id", "id", "img", "image", "imageid_classid", "image_label", "filename", "file_name", "name",
    "image_name", "imagename", "img_name", "img_id", "imgid", "image_file",
)  # fmt: skip
CLASS_COLUMNS = ("classid", "class_id", "class", "label", "category", "category_id")
_RUNS = re.compile(r"^\s*(?:-1|nan|\d+\s+\d+(?:\s+\d+\s+\d+)*)?\s*$", re.I)
_NOT_TRUTH = re.compile(r"submission|sample_sub", re.I)


@dataclass(frozen=True)
class Convention:
    """How a table counts pixels."""

    name: str  # what recognized it
    columns: bool  # down the columns, else along the rows
    relative: bool = False  # starts are counted from the end of the run before


@dataclass(frozen=True)
class _Table:
    path: Path
    image: int
    runs: int
    label: int | None
    height: int | None
    width: int | None
    joined: bool  # image and class in one column
    convention: Convention | None  # None: not known
    header: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Runs:
    """The payload of a record: (class index, run lengths as text) of its rows."""

    source: str
    parts: tuple[tuple[int, str], ...]
    columns: bool
    relative: bool
    height: int = 0
    width: int = 0


@dataclass
class RunsReader(RasterizedReader):
    """Draws run lengths; where classes overlap, the later class is on top."""

    def drawing(self, record: Record) -> Drawing | None:
        runs: Runs = record.payload
        where = f"{runs.source}, {record.id}"
        height, width = self.sized(record, runs.height, runs.width, where)
        objects = [Drawable(index, _Draw(index, text, runs, height, width, where)) for index, text in runs.parts]
        return Drawing(height, width, objects, 0, where=where)


@dataclass(frozen=True, slots=True)
class _Draw:
    index: int
    text: str
    runs: Runs
    height: int
    width: int
    where: str

    def __call__(self) -> Region:
        numbers = np.array(self.text.split(), np.int64)
        if self.runs.relative and numbers.size % 2 == 0:
            numbers[::2] = np.cumsum(numbers)[::2] + 1  # each start from the end before, the first from 0
        flat = decode_pairs(numbers, self.height * self.width, self.where)
        if self.runs.columns:
            return Region(self.index, flat.reshape(self.width, self.height).T)
        return Region(self.index, flat.reshape(self.height, self.width))


# --- recognizing the table


def _place(header: Sequence[str], names: Sequence[str]) -> int | None:
    return next((header.index(name) for name in names if name in header), None)


def _table(path: Path) -> _Table | None:
    """The table of run lengths that a CSV is; None where it is none."""
    text = read_ends(path)
    first = text.split("\n", 1)[0].strip().lstrip("\ufeff")
    header = [cell.strip().strip('"').lower() for cell in next(csv.reader([first]), [])]
    image, runs = _place(header, IMAGE_COLUMNS), _place(header, RUN_COLUMNS)
    if image is None or runs is None or image == runs:
        return None
    rows = list(csv.reader(io.StringIO(text.split("\n", 1)[1] if "\n" in text else "")))[:200]
    cells = [row[runs] for row in rows if len(row) == len(header)]
    fitting = sum(_RUNS.match(cell) is not None for cell in cells)
    if not cells or fitting < 0.5 * len(cells):
        return None
    joined = header[image] in ("imageid_classid", "image_label")
    label = None if joined else _place(header, CLASS_COLUMNS)
    height = _place(header, ("height", "img_height", "image_height", "h"))
    width = _place(header, ("width", "img_width", "image_width", "w"))
    ids = [row[image] for row in rows if len(row) == len(header)]
    convention = _convention(header, image, runs, ids)
    if convention is None and (fitting < len(cells) or not any(cell.strip() for cell in cells)):
        return None  # only a column's name suggests runs
    return _Table(path, image, runs, label, height, width, joined, convention, tuple(header))


def _convention(header: Sequence[str], image: int, runs: int, ids: Sequence[str]) -> Convention | None:
    named, other = header[runs], set(header)
    if named in ("rle_columns", "rle_col"):
        return Convention("the column's name", True)
    if named in ("rle_rows", "rle_row"):
        return Convention("the column's name", False)
    if ids and all(re.match(r"1\.2\.\d{3}\.", one) for one in ids):
        return Convention("SIIM pneumothorax", True, True)
    if named == "encodedpixels" and header[image] in ("imageid", "imageid_classid", "image_label"):
        known = {"imageid_classid": "Severstal steel", "image_label": "Understanding clouds"}
        origin = known.get(header[image]) or (
            "Severstal steel or iMaterialist" if "classid" in other else "Airbus ships"
        )
        return Convention(origin, True)
    if named == "rle_mask" and header[image] == "id":
        return Convention("TGS salt", True)
    if named == "rle_mask" and header[image] == "img":
        return Convention("Carvana", False)
    if named == "pixels" and header[image] == "img":
        return Convention("Ultrasound nerves", True)
    if named == "encoding" and header[image] == "id":
        return Convention("HuBMAP", True)
    if named == "segmentation" and header[image] == "id" and "class" in other:
        return Convention("UW-Madison", False)
    if named == "annotation" and header[image] == "id" and {"width", "height"} <= other:
        return Convention("Sartorius cells", False)
    if named == "rle" and header[image] == "id":
        if other & {"organ", "img_height", "data_source"}:
            return Convention("HuBMAP", True)
        if ids and all(re.match(r"kidney_\d", one) for one in ids):
            return Convention("SenNet", False)
    return None


def _tables(tree: Tree) -> list[_Table]:
    """The tables under the root's first levels, submissions aside."""
    if "run lengths" in tree.memo:
        return list(tree.memo["run lengths"])
    if tree.is_file:
        candidates = [tree.root] if tree.root.suffix.lower() == ".csv" else []
    else:
        candidates = [
            Path(listing.path, name)
            for _, listing in tree.walk(depth=2)
            for name in [n for n in listing.files if n.lower().endswith(".csv")][:20]
        ]
    found = [_table(path) for path in candidates if not _NOT_TRUTH.search(path.name) or tree.is_file]
    tree.memo["run lengths"] = [table for table in found if table is not None]
    return list(tree.memo["run lengths"])


def detect(tree: Tree) -> str | None:
    tables = _tables(tree)
    if not tables:
        return None
    if not tree.is_file and any(mask is not None for _, mask in pair_tree(tree).pairs):
        return None  # the masks themselves lie there, too
    return f"run lengths in {', '.join(table.path.name for table in tables[:4])}"


# --- opening


def open_run_lengths(tree: Tree) -> Dataset:
    tables = _tables(tree)
    if not tables:
        raise FormatError(
            "no table of run lengths", expected="a CSV with columns such as ImageId and EncodedPixels",
            found=tree.summary(), where=tree.root,
        )  # fmt: skip
    for table in tables:
        if table.convention is None:
            raise _both_readings(table)
    rows = [row for table in tables for row in _rows(table)]
    labels = list(dict.fromkeys(row.label for row in rows if row.label is not None))
    names, notes = _classes(tree, labels)
    index = _index(labels, names, tree)
    images = _Images(tree)
    order: dict[Path, list[_Row]] = {}
    missing: dict[str, None] = {}
    for row in rows:
        path = images.find(row.image)
        if path is None:
            missing[row.image] = None
        else:
            order.setdefault(path, []).append(row)
    if not order:
        raise FormatError(
            "a table of run lengths, and none of its images is here",
            expected=", ".join(list(missing)[:3]),
            found=tree.summary(),
            where=tables[0].path,
            fix="unpack the images beside the table"
            + ("; those of SIIM are DICOM: save them as PNG under the same names" if _relative(tables) else ""),
        )
    payloads = [_payload(found, index) for found in order.values()]
    lone = [path for path in images.all if path not in order]
    problems = list(images.problems)
    if missing:
        message = f"{counted(len(missing), 'image')} that the table names are missing: {', '.join(list(missing)[:3])}"
        problems.append(
            Problem("error", "image missing", message, tuple(missing), "unpack all images beside the table")
        )
    conventions = dict.fromkeys(table.convention for table in tables if table.convention)
    for convention in conventions:
        way = "down the columns" if convention.columns else "along the rows"
        notes.insert(0, f"pixels are counted {way} from 1, as {convention.name} does it")
    empty = sum(not payload.parts for payload in payloads)
    notes.append(f"{counted(len(rows), 'row')} for {counted(len(order), 'image')}, {empty} of them without an object")
    if lone:
        notes.append(f"{counted(len(lone), 'image', 'is')} in no row of the table, and have no mask")
    splits = [None if split_of(_within(tree, path)) == "train" else split_of(_within(tree, path)) for path in order]
    pairs: list[tuple[str | None, Path, Path | None]] = [
        (split, path, None) for split, path in zip(splits, order, strict=True)
    ]
    if any(splits):
        pairs = [(split or "train", path, None) for split, path, _ in pairs]
    return assemble(
        tree, "run_lengths", pairs, RunsReader(LabelSpace(tuple(names))), notes, problems, payloads=payloads
    )


def _relative(tables: Sequence[_Table]) -> bool:
    return any(table.convention is not None and table.convention.relative for table in tables)


def _within(tree: Tree, path: Path) -> str:
    base = tree.root.parent if tree.is_file else tree.root
    return os.path.relpath(path.parent.absolute(), base.absolute()).replace(os.sep, "/")


def _both_readings(table: _Table) -> FormatError:
    column = table.header[table.runs]
    return FormatError(
        "a table of run lengths whose order of pixels is not known",
        expected="the header of a known competition, such as ImageId,EncodedPixels",
        found=f"columns {', '.join(table.header)}: pixels counted down the columns or along the rows both fit",
        where=table.path,
        fix=f"rename the column {column} to rle_columns (down the columns, from 1) or to rle_rows (along the rows)",
    )


@dataclass(frozen=True, slots=True)
class _Row:
    image: str
    label: str | None
    runs: str  # "" for none
    table: _Table
    height: int
    width: int


def _rows(table: _Table) -> list[_Row]:
    """The rows of a table; LabelError naming the line of a broken one."""
    text = read_text(table.path, MAX_BYTES, LabelError)
    csv.field_size_limit(min(MAX_BYTES, 2**31 - 1))
    found = []
    for number, row in enumerate(csv.reader(io.StringIO(text)), 1):
        if number == 1 or not any(cell.strip() for cell in row):
            continue
        try:
            image, runs = row[table.image].strip(), row[table.runs].strip()
            if not _RUNS.match(runs):
                raise ValueError(f"{runs[:40]!r} is no list of pairs of start and length")
            label = row[table.label].strip() if table.label is not None else None
            if table.joined:
                image, _, label = image.rpartition("_")
            size = [int(float(row[c])) if c is not None and row[c].strip() else 0 for c in (table.height, table.width)]
        except (IndexError, ValueError, OverflowError) as error:
            raise LabelError(
                "a row of the table of run lengths is broken",
                expected=", ".join(table.header),
                found=str(error),
                where=f"{table.path}, line {number}",
                fix="download the table again",
            ) from error
        label = label.split("_")[0] if label and table.header[table.image] == "imageid" else label
        runs = "" if runs.lower() in ("-1", "nan") else runs
        found.append(_Row(image, label, runs, table, *size))
    return found


def _classes(tree: Tree, labels: Sequence[str]) -> tuple[list[str], list[str]]:
    """(background and the classes, notes)."""
    folder = tree.folder() if not tree.is_file else Tree(tree.root.absolute().parent).folder()
    path = find_class_list([folder], CLASS_FILES)
    listed: ClassList | None = read_class_list(path) if path is not None else None
    if not labels:
        return ["background", "object"], ["one class: the table names none"]
    numbers = all(label.isdecimal() for label in labels)
    if numbers:
        top = max(int(label) for label in labels)
        if top > 50_000:
            raise LabelError(
                "class numbers out of bounds", expected="up to 254 classes", found=str(top), where=tree.root
            )
        start = 0 if any(int(label) == 0 for label in labels) else 1
        used = sorted({int(label) for label in labels})
        wanted = list(range(start, top + 1)) if top < MAX_CLASSES - 1 else used
        by_value = {entry.value: entry.name for entry in listed.entries} if listed else {}
        names = [by_value.get(n, generated_name(n)) for n in wanted]
        origin = f"names from {path.name}" if path is not None else "classes are numbered"
        return _checked(["background", *names], tree), [f"{origin}; what no run covers is background"]
    names = sorted(set(labels))
    if listed is not None and set(names) <= {entry.name for entry in listed.entries}:
        names = [entry.name for entry in listed.entries if entry.name.lower() != "background"]
    return _checked(["background", *names], tree), [f"{counted(len(names), 'class')}; what no run covers is background"]


def _checked(names: list[str], tree: Tree) -> list[str]:
    if len(names) > MAX_CLASSES or len(set(names)) != len(names):
        raise LabelError("1 to 254 classes of different names", found=counted(len(names), "class"), where=tree.root)
    return names


def _index(labels: Sequence[str], names: Sequence[str], tree: Tree) -> dict[str | None, int]:
    if not labels:
        return {None: 1}
    if all(label.isdecimal() for label in labels):
        start = 0 if any(int(label) == 0 for label in labels) else 1
        top = max(int(label) for label in labels)
        if top < MAX_CLASSES - 1:
            return {label: int(label) - start + 1 for label in labels}
        used = sorted({int(label) for label in labels})
        return {label: used.index(int(label)) + 1 for label in labels}
    return {label: list(names).index(label) for label in labels}


def _payload(rows: Sequence[_Row], index: Mapping[str | None, int]) -> Runs:
    first = rows[0]
    convention = first.table.convention
    parts = sorted((index[row.label], row.runs) for row in rows if row.runs)
    return Runs(
        str(first.table.path),
        tuple(parts),
        convention is None or convention.columns,
        convention is not None and convention.relative,
        first.height,
        first.width,
    )


class _Images:
    """The images under the root by name, by stem, and by UW-Madison's ids."""

    def __init__(self, tree: Tree) -> None:
        around = Tree(tree.root.absolute().parent) if tree.is_file else tree
        self.all = [Path(li.path, n) for _, li in around.walk() for n in li.files if is_image(n)]
        self.keys: dict[str, list[Path]] = {}
        for path in self.all:
            for key in self._names(path):
                self.keys.setdefault(key, []).append(path)
        self.problems: list[Problem] = []

    @staticmethod
    def _names(path: Path) -> set[str]:
        scan = re.match(r"(slice_\d+)_", path.name)
        names = {path.name, path.stem}
        if scan is not None and path.parent.name == "scans":
            names.add(f"{path.parent.parent.name}_{scan[1]}")
        if path.parent.name == "images" and path.parent.parent.name == path.stem:  # Data Science Bowl 2018
            names.add(path.stem)
        if re.fullmatch(r"kidney_.*", path.parent.parent.name):
            names.add(f"{path.parent.parent.name}_{path.stem}")
        return names

    def find(self, name: str) -> Path | None:
        """The one image of that name; FormatError where several fit."""
        found = self.keys.get(name) or self.keys.get(os.path.basename(name), [])
        if len(found) > 1:
            trained = [path for path in found if split_of(path.parent.name) == "train"]
            found = trained if len(trained) == 1 else found
        if len(found) > 1:
            raise FormatError(
                "several images have the name that a row of the table gives",
                expected="one image per name",
                found=" and ".join(str(path) for path in found[:3]),
                where=name,
                fix="keep the folder that the table belongs to, and move the other away",
            )
        return found[0] if found else None


FORMAT = Format(
    "run_lengths",
    "run lengths in a CSV",
    "a CSV with columns such as ImageId and EncodedPixels, and the images",
    detect,
    open_run_lengths,
)
