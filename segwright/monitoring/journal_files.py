"""The two kinds of file of a journal: lines that are appended, and Parquet.

A line file begins with a header, a JSON object, and has one record per line: the CRC-32 of the rest in hexadecimal, a
space, and a JSON array whose last part is the record's numbers as float32 in base64. Lines can be appended one by one
and a cut one is recognized; a full line file is rewritten as Parquet, which other tools read too.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from segwright.core.atomic_io import atomic_file
from segwright.core.errors import DataError, MissingExtraError, SegwrightError
from segwright.core.types import LabelSpace
from segwright.monitoring.observation import (
    CONFIDENCE_BINS,
    IMAGE_STATISTICS,
    QUANTILES,
    SCALARS,
    VECTORS,
    Observation,
    bounded_text,
)

FORMAT = "segwright-journal"
VERSION = 1
METADATA_KEY = b"segwright"
LINES = re.compile(r"current-[0-9a-f]{12}-\d{1,9}\.jsonl")
PARQUET = re.compile(r"journal-\d{8}T\d{6}-[0-9a-f]{12}-\d{1,9}\.parquet")
IMAGES = "images"
MAX_HEADER = 1_000_000  # bytes
MAX_LINE = 1_000_000
MAX_FILE_BYTES = 512_000_000
MAX_DECODED = 2_000_000_000  # bytes of a Parquet file's columns
MAX_EMBEDDING = 4_096
LATEST = 32_503_680_000.0  # the year 3000, in seconds since 1970
FLOATS = ("mean_confidence", "entropy", "estimated_iou", "iou_low", "iou_high")


@dataclass(frozen=True)
class Header:
    """What all records of a file have in common."""

    writer: str  # 12 hexadecimal digits, other for every writer
    label_space: LabelSpace
    model: str = ""  # its name
    version: str = ""  # of segwright
    settings: Mapping[str, Any] = field(default_factory=dict)  # post-processing, test-time augmentation, precision

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT, "version": VERSION, "writer": self.writer, "label_space": self.label_space.to_json(),
            "model": self.model, "segwright": self.version, "settings": dict(self.settings),
        }  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A record with its place in the sequence of its writer."""

    sequence: int
    observation: Observation


@dataclass
class FileRows:
    """The records of one file, and how many could not be read."""

    header: Header
    rows: list[Row] = field(default_factory=list)
    damaged: int = 0  # lines in the middle
    cut: bool = False  # the last line is incomplete


def parse_header(text: bytes | str, where: Path) -> Header:
    """The header of a file; DataError if it is none of ours, or of a newer version."""
    try:
        tree = json.loads(text)
        if not isinstance(tree, dict) or tree.get("format") != FORMAT:
            raise DataError("not a journal of segwright", where=where)
        if not isinstance(tree.get("version"), int) or tree["version"] > VERSION:
            raise DataError(
                "the journal is of a newer version", expected=f"up to {VERSION}", found=str(tree.get("version"))[:50],
                where=where, fix="install a newer segwright",
            )  # fmt: skip
        settings = tree.get("settings")
        return Header(
            bounded_text(tree["writer"]), LabelSpace.from_json(tree["label_space"]), bounded_text(tree["model"]),
            bounded_text(tree["segwright"]), dict(settings) if isinstance(settings, dict) else {},
        )  # fmt: skip
    except DataError:
        raise
    except (SegwrightError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError("the journal's header is damaged", found=str(error)[:200], where=where) from error


# -- lines ------------------------------------------------------------------------------------------------------------


def header_line(header: Header) -> bytes:
    return json.dumps(header.to_json()).encode() + b"\n"


def encode_row(row: Row) -> bytes:
    """One line."""
    o = row.observation
    parts = [np.asarray(getattr(o, name), np.float32).ravel() for name in VECTORS if name != "embedding"]
    parts.append(np.array([getattr(o, name) for name in FLOATS], np.float32))
    numbers = np.concatenate([*parts, o.embedding.astype(np.float32)])
    packed = base64.b64encode(numbers.astype("<f4").tobytes()).decode()
    payload = json.dumps([row.sequence, o.time, o.id, o.model, o.height, o.width, o.tags, packed]).encode()
    return b"%08x %s\n" % (zlib.crc32(payload), payload)


def decode_row(line: bytes, classes: int) -> Row:
    """The record of a line; ValueError if it is damaged."""
    payload = line[9:].rstrip(b"\n")
    if len(line) < 10 or line[8:9] != b" " or int(line[:8], 16) != zlib.crc32(payload):
        raise ValueError("checksum")
    tree = json.loads(payload)
    if not isinstance(tree, list) or len(tree) != 8:
        raise ValueError("parts")
    sequence, time, name, model, height, width, tags, packed = tree
    numbers = np.frombuffer(base64.b64decode(packed, validate=True), "<f4").astype(np.float32)
    sizes = _sizes(classes)
    fixed = sum(size for key, size in sizes.items() if key != "embedding")
    rest = numbers.size - fixed - len(FLOATS)
    if not 0 <= rest <= MAX_EMBEDDING:
        raise ValueError("length")
    values: dict[str, Any] = {}
    place = 0
    for key in VECTORS:
        if key != "embedding":
            values[key] = numbers[place : place + sizes[key]]
            place += sizes[key]
    for key in FLOATS:
        values[key] = float(numbers[place])
        place += 1
    values["embedding"] = numbers[place:]
    return Row(int(sequence), checked({**values, "time": time, "height": height, "width": width}, name, model, tags))


def _sizes(classes: int) -> dict[str, int]:
    return {
        "shares": classes, "expected_shares": classes, "expected_hits": classes, "confidence": len(QUANTILES),
        "confidence_histogram": classes * CONFIDENCE_BINS, "entropy_quantiles": len(QUANTILES),
        "statistics": len(IMAGE_STATISTICS), "components": classes, "embedding": -1,
    }  # fmt: skip


def checked(values: Mapping[str, Any], name: Any, model: Any, tags: Any) -> Observation:
    """A record from the numbers of a file; ValueError for what no record has."""
    time, height, width = float(values["time"]), int(values["height"]), int(values["width"])
    if not (0 <= time < LATEST) or not (0 < height < 2**31 and 0 < width < 2**31):
        raise ValueError("time or size")
    if not isinstance(name, str) or not isinstance(model, str) or not isinstance(tags, dict):
        raise ValueError("texts")
    classes = np.asarray(values["shares"]).size
    vectors: dict[str, Any] = {key: np.asarray(values[key], np.float32) for key in VECTORS}
    if not np.isfinite(vectors["shares"]).all() or not np.isfinite(vectors["embedding"]).all():
        raise ValueError("numbers")
    vectors["confidence_histogram"] = vectors["confidence_histogram"].reshape(classes, CONFIDENCE_BINS)
    counts = np.nan_to_num(vectors.pop("components"), nan=0.0, posinf=0.0, neginf=0.0)
    return Observation(
        time=time, id=bounded_text(name), model=bounded_text(model), height=height, width=width,
        components=np.clip(counts, 0, 2**31 - 1).astype(np.int32),
        tags={bounded_text(key): bounded_text(value) for key, value in tags.items()},
        **{**vectors, **{key: float(values[key]) for key in FLOATS}},
    )  # fmt: skip


def read_lines(path: Path, most: int = 1_000_000_000) -> FileRows:
    """The records of a line file, at most ``most``; damaged lines are counted. DataError without a readable header."""
    with open(path, "rb") as file:
        return parse_lines(file, path, most)


def parse_lines(file: io.BufferedReader, path: Path, most: int = 1_000_000_000) -> FileRows:
    """As :func:`read_lines`, from an open file."""
    first = file.readline(MAX_HEADER)
    if not first.endswith(b"\n"):
        raise DataError("the journal's header is damaged", found="it is incomplete", where=path)
    found = FileRows(parse_header(first, path))
    classes = len(found.header.label_space)
    whole = True  # whether a line begins here
    while line := file.readline(MAX_LINE):
        begins, whole = whole, line.endswith(b"\n")
        if not whole:
            found.cut = True
            continue
        found.cut = False
        if not begins:
            found.damaged += 1
            continue
        try:
            row = decode_row(line, classes)
        except (ValueError, TypeError, OverflowError, binascii.Error, RecursionError):
            found.damaged += 1
            continue
        if len(found.rows) < most:
            found.rows.append(row)
    return found


# -- Parquet ----------------------------------------------------------------------------------------------------------


def require_pyarrow() -> None:
    """MissingExtraError without pyarrow."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "journals are Parquet files, which needs pyarrow", fix='pip install "segwright[monitor]"'
        ) from error


def write_parquet(path: Path, header: Header, rows: Sequence[Row]) -> Path:
    """Write records as one Parquet file, atomically; the header is in the schema's metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    observations = [row.observation for row in rows]
    columns: dict[str, Any] = {
        "sequence": pa.array([row.sequence for row in rows], pa.int64()),
        "time": pa.array(np.array([round(o.time * 1e6) for o in observations], np.int64), pa.int64()).cast(
            pa.timestamp("us", "UTC")
        ),
        "id": pa.array([o.id for o in observations], pa.string()),
        "model": pa.array([o.model for o in observations], pa.string()),
    }
    for name, dtype in SCALARS.items():
        if name != "time":
            columns[name] = pa.array(np.array([getattr(o, name) for o in observations], dtype))
    for name in VECTORS:
        values = [np.asarray(getattr(o, name)).ravel() for o in observations]
        offsets = np.concatenate([[0], np.cumsum([value.size for value in values])]).astype(np.int32)
        flat = np.concatenate(values) if values else np.zeros(0, np.float32)
        columns[name] = pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat))
    columns["tags"] = pa.array([json.dumps(o.tags) for o in observations], pa.string())
    table = pa.table(columns).replace_schema_metadata({METADATA_KEY: json.dumps(header.to_json()).encode()})
    with atomic_file(path) as beside:
        pq.write_table(table, str(beside), compression="zstd")
    return path


def read_parquet(path: Path, most: int = 1_000_000_000) -> FileRows:
    """The last ``most`` records of a Parquet file; DataError if it is damaged, too large, or not a journal."""
    require_pyarrow()
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.stat().st_size > MAX_FILE_BYTES:
        raise DataError("the file is too large for a journal's", expected=f"at most {MAX_FILE_BYTES} bytes", where=path)
    try:
        with pq.ParquetFile(str(path)) as file:
            metadata = file.metadata
            size = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
            if size > MAX_DECODED:
                raise DataError("the file's columns are too large", found=f"{size} bytes", where=path)
            header = parse_header((file.schema_arrow.metadata or {}).get(METADATA_KEY, b"")[:MAX_HEADER], path)
            table = file.read(columns=["sequence", "id", "model", "tags", *SCALARS, *VECTORS])
        table = table.slice(max(0, table.num_rows - most))
        return _rows_of(table, header)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise DataError("the journal's file is damaged", found=str(error)[:200], where=path) from error


def _rows_of(table: Any, header: Header) -> FileRows:
    import pyarrow as pa

    found = FileRows(header)
    scalars = {name: table[name].cast(pa.int64()).to_numpy() / 1e6 if name == "time" else table[name].to_numpy()
               for name in SCALARS}  # fmt: skip
    texts = {name: table[name].to_pylist() for name in ("id", "model", "tags")}
    sequence = table["sequence"].to_pylist()
    lists: dict[str, tuple[Any, Any]] = {}
    for name in VECTORS:
        column = table[name].combine_chunks()
        if isinstance(column, pa.ChunkedArray):
            column = column.chunk(0) if column.num_chunks else pa.array([], table[name].type)
        lists[name] = column.offsets.to_numpy(), column.values.to_numpy(zero_copy_only=False)
    sizes = _sizes(len(header.label_space))
    for i in range(table.num_rows):
        try:
            values: dict[str, Any] = {name: scalars[name][i] for name in SCALARS}
            for name, (offsets, flat) in lists.items():
                values[name] = flat[offsets[i] : offsets[i + 1]]
                if values[name].size != sizes[name] and (name != "embedding" or values[name].size > MAX_EMBEDDING):
                    raise ValueError("length")
            tags = json.loads(texts["tags"][i])
            found.rows.append(Row(int(sequence[i]), checked(values, texts["id"][i], texts["model"][i], tags)))
        except (ValueError, TypeError, OverflowError, RecursionError):
            found.damaged += 1
    return found
