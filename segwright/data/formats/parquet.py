"""Hugging Face's Parquet data sets: a column of pictures and one of masks, each ``{bytes, path}``.

Splits come from the file names (``data/train-00000-of-00004.parquet``). Needs pyarrow (extra ``hf``). Rows are read a
row group at a time and the last group is kept, so that reading in order is fast. Class names come from a class list or
``id2label.json`` beside the files, else from the masks' values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy.typing as npt

from segwright.data.classes import FILE_NAMES, ClassList, read_class_list
from segwright.data.formats.base import SPLIT_NAMES, Format, in_order, unique_ids
from segwright.data.formats.pairing import find_class_list
from segwright.data.formats.tree import Tree
from segwright.data.formats.values import conclude, survey
from segwright.data.readers import FileReader
from segwright.data.records import Dataset, Record
from segwright.errors import FormatError, LabelError, MissingExtraError
from segwright.images import UInt8Array, decode_image, decode_mask
from segwright.types import LabelSpace

IMAGE_COLUMNS = ("image", "img", "pixel_values", "picture", "photo", "jpg", "input")
MASK_COLUMNS = (
    "mask", "label", "labels", "annotation", "annotations", "segmentation", "segmentation_mask", "semantic_mask",
    "semantic_segmentation", "seg", "gt", "target", "label_map",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """Where a picture is: which file, row group and row in it."""

    path: str
    group: int
    row: int


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingExtraError(
            "reading Parquet needs pyarrow", found="not installed", fix="pip install 'segwright[hf]'"
        ) from error
    return parquet


@dataclass
class ParquetReader(FileReader):
    image_column: str = "image"
    mask_column: str | None = "mask"
    _groups: dict[tuple[str, int], Any] = field(default_factory=dict, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_groups": {}}

    def _cell(self, row: Row, column: str) -> bytes | None:
        key = (row.path, row.group)
        if key not in self._groups:
            self._groups.clear()  # one row group at a time: they hold hundreds of megabytes
            columns = [name for name in (self.image_column, self.mask_column) if name is not None]
            try:
                self._groups[key] = _pyarrow().ParquetFile(row.path).read_row_group(row.group, columns=columns)
            except (OSError, ValueError) as error:
                raise LabelError("cannot read the Parquet file", found=str(error), where=row.path) from error
        return _bytes(self._groups[key].column(column)[row.row].as_py(), Path(row.path))

    def image(self, record: Record) -> UInt8Array:
        row: Row = record.payload
        data = self._cell(row, self.image_column)
        if data is None:
            raise LabelError("the row holds no picture", found=self.image_column, where=f"{row.path}, {record.id}")
        return decode_image(data, f"{row.path}, {record.id}", self.limits)

    def raw(self, record: Record) -> npt.NDArray[Any] | None:
        row: Row = record.payload
        data = None if self.mask_column is None else self._cell(row, self.mask_column)
        if data is None:
            return None
        where = f"{row.path}, {record.id}"
        return self.decode(decode_mask(data, where, self.limits), where)


def _bytes(value: Any, path: Path) -> bytes | None:
    """The encoded picture of a cell: ``{bytes, path}``, or the bytes themselves; a bare path is one beside the file."""
    if isinstance(value, Mapping):
        if value.get("bytes") is not None:
            return bytes(value["bytes"])
        value = value.get("path")
    if isinstance(value, str):
        beside = (path.parent / value).resolve()
        if not beside.is_relative_to(path.parent.resolve()) or not beside.is_file():
            raise LabelError("the cell points to a file that is not beside the table", found=value, where=path)
        return beside.read_bytes()
    return None if value is None else bytes(value)


def _files(tree: Tree) -> list[tuple[str, Path]]:
    if tree.is_file:
        return [("", tree.root)] if tree.root.suffix.lower() == ".parquet" else []
    return [
        (relative, Path(listing.path, name))
        for relative, listing in tree.walk(depth=2)
        for name in listing.files
        if name.lower().endswith(".parquet")
    ]


def recognise(tree: Tree) -> str | None:
    files = _files(tree)
    return f"{len(files)} Parquet files" if files else None


def _split(relative: str, name: str) -> str | None:
    for text in (name, relative.rpartition("/")[2]):
        match = re.match(r"(train(?:ing)?|val(?:id(?:ation)?)?|test(?:ing)?|dev)(?:[-_.0-9]|$)", text.lower())
        if match:
            return SPLIT_NAMES[match[1]]
    return None


def _column(names: Sequence[str], wanted: Sequence[str]) -> str | None:
    lower = {name.lower(): name for name in names}
    return next((lower[name] for name in wanted if name in lower), None)


def open_parquet(tree: Tree) -> Dataset:
    files = _files(tree)
    if not files:
        raise FormatError("no Parquet file", expected="*.parquet", found=tree.summary(), where=tree.root)
    parquet = _pyarrow()
    names: list[tuple[str, str, str]] = []
    rows: list[tuple[str | None, Row]] = []
    image_column = mask_column = None
    for relative, path in files:
        try:
            opened = parquet.ParquetFile(path)
        except (OSError, ValueError) as error:
            raise FormatError("not a Parquet file", found=str(error), where=path, fix="download it again") from error
        columns = opened.schema_arrow.names
        image_column = image_column or _column(columns, IMAGE_COLUMNS)
        mask_column = mask_column or _column(columns, MASK_COLUMNS)
        if image_column is None or image_column not in columns:
            raise FormatError("no column of pictures", expected=", ".join(IMAGE_COLUMNS), found=", ".join(columns),
                              where=path)  # fmt: skip
        stored = _stored_names(opened, image_column)
        at = 0
        for group in range(opened.num_row_groups):
            for row in range(opened.metadata.row_group(group).num_rows):
                stem = Path(stored[at] or "").stem or f"{path.stem}-{at:06d}"
                names.append((_split(relative, path.name) or path.stem, stem, f"-{at}"))
                rows.append((_split(relative, path.name), Row(str(path), group, row)))
                at += 1
    ids = unique_ids(names)
    records = tuple(Record(name, None, None, row) for name, (_, row) in zip(ids, rows, strict=True))
    given: dict[str, list[Record]] = {}
    for record, (split, _) in zip(records, rows, strict=True):
        if split is not None:
            given.setdefault(split, []).append(record)
    return _dataset(tree, records, given, str(image_column), mask_column)


def _stored_names(opened: Any, column: str) -> list[str | None]:
    """The pictures' own file names, where the table keeps them (``image.path``); no bytes are read for it."""
    fields = {f.path: i for i, f in enumerate(opened.schema[k] for k in range(len(opened.schema)))}
    if f"{column}.path" not in fields:
        return [None] * int(opened.metadata.num_rows)
    table = opened.read(columns=[f"{column}.path"])
    return [None if cell is None else cell.get("path") for cell in table.column(column).to_pylist()]


def _dataset(
    tree: Tree, records: tuple[Record, ...], given: dict[str, list[Record]], image_column: str, mask_column: str | None
) -> Dataset:
    if mask_column is None:
        raise FormatError("no column of masks", expected=", ".join(MASK_COLUMNS), found=image_column, where=tree.root)
    probe = ParquetReader(LabelSpace(("unknown",)), image_column=image_column, mask_column=mask_column)

    def read(index: int) -> npt.NDArray[Any]:
        row: Row = records[index].payload
        data = probe._cell(row, mask_column)
        if data is None:
            raise LabelError("the row holds no mask", where=f"{row.path}, {records[index].id}")
        return decode_mask(data, f"{row.path}, {records[index].id}")

    coding = conclude(survey(len(records), read), _class_list(tree), tree.root)
    reader = ParquetReader(coding.label_space, coding.colour_table, image_column=image_column, mask_column=mask_column)
    return Dataset(
        root=tree.root,
        format="hf",
        reader=reader,
        records=records,
        given=in_order(given),
        notes=[f"pictures in column {image_column}, masks in column {mask_column}", *coding.notes],
        problems=list(coding.problems),
    )


def _class_list(tree: Tree) -> ClassList | None:
    folders = [tree.folder(), tree.folder("data")] if not tree.is_file else []
    path = find_class_list(folders, (*FILE_NAMES, "id2label.json"))
    return None if path is None else read_class_list(path)


FORMAT = Format("hf", "Hugging Face Parquet", "*.parquet with columns of pictures and masks", recognise, open_parquet)
