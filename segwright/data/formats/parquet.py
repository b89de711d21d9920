"""Hugging Face's Parquet datasets: a column of images and one of masks, each ``{bytes, path}``.

Columns are chosen by what they hold (encoded images, not numbers or text), then by name: a ``label`` of numbers beside
a ``segmentation_mask`` is no mask. A row whose mask is null is an unlabeled sample.

Splits come from the file names (``data/train-00000-of-00004.parquet``). Needs pyarrow (extra ``hf``). Rows are read a
row group at a time and the last groups are kept, so that reading in order is fast. Class names come from a class list
or ``id2label.json`` beside the files, else from the masks' values.
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy.typing as npt

from segwright.core.counted import counted
from segwright.core.errors import FormatError, LabelError, MissingExtraError
from segwright.core.types import LabelSpace
from segwright.data.formats.base import SPLIT_NAMES, Format, sort_splits, unique_ids
from segwright.data.formats.file_tree import Folder, Tree, is_image
from segwright.data.formats.mask_encoding import encoding_of
from segwright.data.formats.mask_histogram import look_at_bytes, mask_value_histogram
from segwright.data.formats.name_matching import find_class_list
from segwright.data.formats.writing import OutputSample, write_classes
from segwright.data.label_maps import ClassList, read_class_list
from segwright.data.readers import FileReader
from segwright.data.records import Dataset, Problem, Record
from segwright.imageio import UInt8Array, decode_image, read_file

IMAGE_COLUMNS = ("image", "img", "pixel_values", "picture", "photo", "jpg", "input")
MASK_COLUMNS = (
    "mask", "label", "labels", "annotation", "annotations", "segmentation", "segmentation_mask", "semantic_mask",
    "semantic_segmentation", "seg", "gt", "target", "label_map",
)  # fmt: skip
KEPT_BYTES = 256 << 20  # of decompressed row groups
GROUP_BYTES = 2 << 30  # of one row group's images and masks
GROUP_RATIO = 20  # unpacked to packed: images are packed already
ALWAYS_BYTES = 256 << 20  # of a row group, whatever the ratio
BATCH = 64  # rows unpacked at a time
MAX_NAME = 1024  # characters of an image's own path


@dataclass(frozen=True, slots=True)
class Row:
    """The position of an image: file, row group and row."""

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
    # (file, row group) → its table, the last used at the end; shared by the loader's threads
    _groups: OrderedDict[tuple[str, int], Any] = field(default_factory=OrderedDict, repr=False, compare=False)
    _refused: dict[tuple[str, int], LabelError] = field(default_factory=dict, repr=False, compare=False)
    _lock: Any = field(default_factory=threading.Lock, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_groups": OrderedDict(), "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def __copy__(self) -> ParquetReader:
        copied = object.__new__(type(self))
        copied.__setstate__(self.__getstate__())
        return copied

    def _cell(self, row: Row, column: str) -> bytes | None:
        return _bytes(self._table(row).column(column)[row.row].as_py(), Path(row.path))

    def _table(self, row: Row) -> Any:
        """The row group's two columns, read once by whichever thread comes first."""
        key = (row.path, row.group)
        with self._lock:
            if key in self._refused:
                raise self._refused[key].with_traceback(None)
            if key not in self._groups:
                columns = [name for name in (self.image_column, self.mask_column) if name is not None]
                try:
                    table = _group(_pyarrow().ParquetFile(row.path), row.group, columns, Path(row.path))
                except LabelError as error:  # too large: found out once, and not for every row
                    self._refused[key] = error
                    raise
                except (OSError, ValueError) as error:
                    raise LabelError("cannot read the Parquet file", found=str(error), where=row.path) from error
                self._groups[key] = table
                # Row groups hold up to hundreds of megabytes: as many are kept as fit, and always the last.
                while len(self._groups) > 1 and sum(kept.nbytes for kept in self._groups.values()) > KEPT_BYTES:
                    self._groups.popitem(last=False)
            self._groups.move_to_end(key)
            return self._groups[key]

    def image(self, record: Record) -> UInt8Array:
        row: Row = record.payload
        data = self._cell(row, self.image_column)
        if data is None:
            raise LabelError("the row holds no image", found=self.image_column, where=f"{row.path}, {record.id}")
        return decode_image(data, f"{row.path}, {record.id}", self.limits)

    def read_mask_values(self, record: Record) -> npt.NDArray[Any] | None:
        row: Row = record.payload
        data = None if self.mask_column is None else self._cell(row, self.mask_column)
        if data is None:
            return None
        where = f"{row.path}, {record.id}"
        return self.decode_file(data, where)


def _pieces(opened: Any, groups: Sequence[int], columns: Sequence[str], path: Path) -> Iterator[Any]:
    """Rows of row groups, a few at a time: a value that is stored once may be every row's.

    LabelError where a group's columns hold more bytes than the limit, by its metadata or by what comes out.
    """
    for group in groups:
        meta = opened.metadata.row_group(group)
        chunks = [meta.column(place) for place in range(meta.num_columns)]
        wanted = [c for c in chunks if any(f"{c.path_in_schema}.".startswith(f"{name}.") for name in columns)]
        packed = sum(max(int(chunk.total_compressed_size), 0) for chunk in wanted)
        most = min(GROUP_BYTES, max(ALWAYS_BYTES, GROUP_RATIO * packed))
        held = sum(max(int(chunk.total_uncompressed_size), 0) for chunk in wanted)
        _check_bytes(held, most, path)
        held = 0
        for piece in opened.iter_batches(batch_size=BATCH, row_groups=[group], columns=list(columns)):
            held += piece.nbytes
            _check_bytes(held, most, path)
            yield piece


def _check_bytes(count: int, most: int, path: Path) -> None:
    if count > most:
        raise LabelError(
            "a row group of the table is larger than the limit", expected=f"at most {most} bytes",
            found=f"{count}", where=path, fix="write it with smaller row groups: to_parquet(…, row_group_size=100)",
        )  # fmt: skip


def _group(opened: Any, group: int, columns: Sequence[str], path: Path) -> Any:
    """Columns of a row group, as a table."""
    import pyarrow

    kept: list[Any] = []
    try:
        kept.extend(_pieces(opened, [group], columns, path))
    except LabelError:
        kept.clear()  # the error may be kept, and with it what is here
        raise
    if not kept:
        return opened.read_row_group(group, columns=list(columns))
    return pyarrow.Table.from_batches(kept)


def _bytes(value: Any, path: Path) -> bytes | None:
    """The encoded image of a cell: ``{bytes, path}``, or the bytes themselves; a bare path is one beside the file."""
    if isinstance(value, Mapping):
        if value.get("bytes") is not None:
            return bytes(value["bytes"])
        value = value.get("path")
    if isinstance(value, str):
        beside = (path.parent / value).resolve()
        if not beside.is_relative_to(path.parent.resolve()) or not beside.is_file():
            raise LabelError("the cell points to a file that is not beside the table", found=value[:300], where=path)
        return read_file(beside)
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


def detect(tree: Tree) -> str | None:
    files = _files(tree)
    return f"{len(files)} Parquet files" if files else None


def _split(relative: str, name: str) -> str | None:
    for text in (name, relative.rpartition("/")[2]):
        match = re.match(r"(train(?:ing)?|val(?:id(?:ation)?)?|test(?:ing)?|dev)(?:[-_.0-9]|$)", text.lower())
        if match:
            return SPLIT_NAMES[match[1]]
    return None


def _holds_images(opened: Any, place: int) -> bool:
    """Whether a column holds encoded images: bytes, ``{bytes, path}``, or text that is the name of an image file."""
    import pyarrow
    from pyarrow import types

    field_type = opened.schema_arrow.field(place).type
    if isinstance(field_type, pyarrow.StructType):
        inner = {field_type.field(i).name: field_type.field(i).type for i in range(field_type.num_fields)}
        kind = inner.get("bytes")
        if kind is not None and types.is_null(kind):  # all cells are paths, or empty
            return "path" in inner and types.is_string(inner["path"])
        return kind is not None and (types.is_binary(kind) or types.is_large_binary(kind))
    if types.is_binary(field_type) or types.is_large_binary(field_type):
        return True
    if not (types.is_string(field_type) or types.is_large_string(field_type)) or not opened.num_row_groups:
        return False
    name = opened.schema_arrow.names[place]
    first = next(opened.iter_batches(batch_size=64, row_groups=[0], columns=[name]), None)
    cells = [] if first is None else [cell for cell in first.column(0).to_pylist() if cell]
    return bool(cells) and all(is_image(cell) for cell in cells)


def _choose_columns(opened: Any, path: Path) -> tuple[str, str, list[str]]:
    """(column of images, column of masks, other columns that hold images); FormatError where that is not certain."""
    schema = opened.schema_arrow
    able = [name for place, name in enumerate(schema.names) if _holds_images(opened, place)]
    found = ", ".join(f"{name} ({_type_name(schema.field(i).type)})" for i, name in enumerate(schema.names))
    image = _named(able, IMAGE_COLUMNS)
    mask = _named([name for name in able if name != image], MASK_COLUMNS)
    rest = [name for name in able if name not in (image, mask)]
    if mask is None:
        marked = [name for name in rest if set(re.split(r"[^a-z]+", name.lower())) & _MASK_WORDS]
        mask = marked[0] if len(marked) == 1 else None
    if image is None:
        others = [name for name in able if name != mask]
        image = others[0] if len(others) == 1 else None
    if image is None:
        raise FormatError(
            "no column of images", expected=f"a column of encoded images, such as {', '.join(IMAGE_COLUMNS[:4])}",
            found=found, where=path, fix="write the column as datasets.Image, or rename it to image",
        )  # fmt: skip
    if mask is None:
        several = [name for name in able if name != image]
        raise FormatError(
            "no column of masks" + (": which of several columns of images they are is not certain" if several else
                                    ": no other column holds images"),
            expected=f"one column of encoded masks beside {image}, such as {', '.join(MASK_COLUMNS[:4])}",
            found=", ".join(several) if several else found,
            where=path,
            fix="rename the column of masks to mask" if several else "numbers, text and lists are no masks: add a "
            "column mask of type datasets.Image with class indices as PNG",
        )  # fmt: skip
    return image, mask, [name for name in able if name not in (image, mask)]


_MASK_WORDS = frozenset({"mask", "masks", "seg", "segmentation", "annotation", "annotations", "label", "labels", "gt",
                         "semantic"})  # fmt: skip


def _type_name(kind: Any) -> str:
    text = str(kind)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _named(names: Sequence[str], wanted: Sequence[str]) -> str | None:
    lower = {name.lower(): name for name in names}
    return next((lower[name] for name in wanted if name in lower), None)


def _filled(opened: Any, group: int, column: str, path: Path) -> list[bool]:
    """Whether the column's cell is filled, for each row of a group; bytes are read only if some are empty."""
    meta = opened.metadata.row_group(group)
    for place in range(meta.num_columns):
        chunk = meta.column(place)
        if chunk.path_in_schema in (column, f"{column}.bytes"):
            statistics = chunk.statistics
            if statistics is not None and statistics.has_null_count and statistics.null_count == 0:
                return [True] * int(meta.num_rows)
    return [
        cell is not None and (not isinstance(cell, Mapping) or bool(cell.get("bytes")) or bool(cell.get("path")))
        for piece in _pieces(opened, [group], [column], path)
        for cell in piece.column(0).to_pylist()
    ]


def open_parquet(tree: Tree) -> Dataset:
    files = _files(tree)
    if not files:
        raise FormatError("no Parquet file", expected="*.parquet", found=tree.summary(), where=tree.root)
    names: list[tuple[str, str, str]] = []
    rows: list[tuple[str | None, Row, bool]] = []
    image_column, mask_column, others = "", "", list[str]()
    tables = [(relative, path, _opened(path)) for relative, path in files]
    for place, (_, path, opened) in enumerate(
        tables
    ):  # a part without masks has a column of nothing: the next may tell
        try:
            image_column, mask_column, others = _choose_columns(opened, path)
            break
        except FormatError:
            if place == len(tables) - 1:
                raise
    for relative, path, opened in tables:
        columns = opened.schema_arrow.names
        if image_column not in columns:
            raise FormatError("a table without the others' column of images", expected=image_column,
                              found=", ".join(columns), where=path)  # fmt: skip
        stored = _stored_names(opened, image_column, path)
        at = 0
        for group in range(opened.num_row_groups):
            count = opened.metadata.row_group(group).num_rows
            has = _filled(opened, group, mask_column, path) if mask_column in columns else [False] * count
            for row in range(count):
                stem = Path(stored[at] or "").stem or f"{path.stem}-{at:06d}"
                names.append((_split(relative, path.name) or path.stem, stem, f"-{at}"))
                rows.append((_split(relative, path.name), Row(str(path), group, row), has[row]))
                at += 1
    ids = unique_ids(names)
    records = tuple(Record(name, None, None, row, labeled=has) for name, (_, row, has) in zip(ids, rows, strict=True))
    given: dict[str, list[Record]] = {}
    for record, (split, _, _) in zip(records, rows, strict=True):
        if split is not None:
            given.setdefault(split, []).append(record)
    dataset = _dataset(tree, records, given, image_column, mask_column)
    if others:
        dataset.notes.append(f"columns of images that are not read: {', '.join(others)}")
    return dataset


def _opened(path: Path) -> Any:
    try:
        return _pyarrow().ParquetFile(path)
    except (OSError, ValueError) as error:
        raise FormatError("not a Parquet file", found=str(error), where=path, fix="download it again") from error


def _stored_names(opened: Any, column: str, path: Path) -> list[str | None]:
    """The images' own file names, where the table keeps them (``image.path``); no bytes are read for it."""
    fields = {f.path: i for i, f in enumerate(opened.schema[k] for k in range(len(opened.schema)))}
    if f"{column}.path" not in fields:
        return [None] * int(opened.metadata.num_rows)
    groups = range(opened.num_row_groups)
    cells = (
        cell for piece in _pieces(opened, groups, [f"{column}.path"], path) for cell in piece.column(0).to_pylist()
    )
    names = (None if cell is None else cell.get("path") for cell in cells)
    return [name if name is not None and len(name) <= MAX_NAME else None for name in names]


def _dataset(
    tree: Tree, records: tuple[Record, ...], given: dict[str, list[Record]], image_column: str, mask_column: str
) -> Dataset:
    labeled = [record for record in records if record.labeled]
    if not labeled:
        raise FormatError("no row has a mask", expected=f"encoded masks in column {mask_column}",
                          found=f"{counted(len(records), 'row')} without one", where=tree.root)  # fmt: skip
    probe = ParquetReader(LabelSpace(("unknown",)), image_column=image_column, mask_column=mask_column)

    def read(index: int) -> tuple[bytes, str]:
        row: Row = labeled[index].payload
        data = probe._cell(row, mask_column)
        if data is None:
            raise LabelError("the row holds no mask", where=f"{row.path}, {labeled[index].id}")
        return data, f"{row.path}, {labeled[index].id}"

    coding = encoding_of(mask_value_histogram(len(labeled), read, decode=look_at_bytes), _class_list(tree), tree.root)
    reader = ParquetReader(
        coding.label_space,
        coding.color_table,
        source=coding.source,
        image_column=image_column,
        mask_column=mask_column,
    )
    return Dataset(
        root=tree.root,
        format="hf",
        reader=reader,
        records=records,
        given=sort_splits(given),
        notes=[f"images in column {image_column}, masks in column {mask_column}", *coding.notes],
        problems=[*coding.problems, *_without(records, labeled, given)],
    )


def _without(
    records: Sequence[Record], labeled: Sequence[Record], given: Mapping[str, Sequence[Record]]
) -> list[Problem]:
    """The finding for rows without a mask; a test part that has none at all is as published."""
    bare = {record.id for record in records if not record.labeled}
    test = given.get("test", ())
    if not any(record.labeled for record in test):
        bare -= {record.id for record in test}
    if not bare:
        return []
    return [Problem("warning", "image without mask", f"{counted(len(bare), 'row', 'has')} no mask", tuple(sorted(bare)),
                    f"they are left out of training; {counted(len(labeled), 'row', 'has')} one")]  # fmt: skip


def _class_list(tree: Tree) -> ClassList | list[Folder] | None:
    folders = [tree.folder(), tree.folder("data")] if not tree.is_file else []
    path = find_class_list(folders, ("id2label.json",))
    return folders if path is None else read_class_list(path)


def write_parquet(dataset: Dataset, samples: Iterator[OutputSample], out: Path) -> None:
    """data/[split]-00000.parquet with columns image and mask as ``datasets.Image`` stores them; classes.csv."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingExtraError(
            "writing Parquet needs pyarrow", found="not installed", fix="pip install 'segwright[hf]'"
        ) from error
    palette = dataset.label_space.palette()
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    features = {"info": {"features": {"image": {"_type": "Image"}, "mask": {"_type": "Image"}}}}
    schema = pa.schema([("image", image), ("mask", image)], {"huggingface": json.dumps(features)})
    (out / "data").mkdir()
    writers: dict[str, Any] = {}
    rows: dict[str, list[dict[str, Any]]] = {}

    def flush(split: str) -> None:
        if rows.get(split):
            writers[split].write_table(pa.Table.from_pylist(rows.pop(split), schema=schema))

    try:
        for sample in samples:
            data, ending = sample.image
            mask = sample.mask_png(palette)
            split = sample.split or "all"
            if split not in writers:
                writers[split] = parquet.ParquetWriter(out / "data" / f"{split}-00000-of-00001.parquet", schema)
            cell = None if mask is None else {"bytes": mask, "path": f"{sample.name}.png"}
            row = {"image": {"bytes": data, "path": f"{sample.name}{ending}"}, "mask": cell}
            rows.setdefault(split, []).append(row)
            if len(rows[split]) >= 100:
                flush(split)
        for split in list(rows):
            flush(split)
    finally:
        for writer in writers.values():
            writer.close()
    write_classes(dataset, out)


FORMAT = Format(
    "hf",
    "Hugging Face Parquet",
    "*.parquet with columns of images and masks",
    detect,
    open_parquet,
    writer=write_parquet,
)
