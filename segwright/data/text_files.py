"""Read the text files of a dataset (lists, JSON, XML, YAML): regular files only, within a size limit, any encoding.

A dataset folder may hold pipes, devices and links to them, which must not be opened for reading, and files written by
tools that use other encodings than UTF-8. A byte order mark, UTF-16 and UTF-32 are certain and are decoded; a legacy
code page (GB18030, Shift JIS, Windows-1252) is a guess and ends in an error that shows the readings.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import gc
import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from segwright.core.errors import DataError, FormatError

MAX_TEXT_BYTES = 100_000_000  # lists, class lists, YAML
MAX_ANNOTATION_BYTES = 4_000_000_000  # one JSON or XML: COCO's largest is 0.5 GB
MAX_PARTS = 8_000_000  # lists and objects of a JSON, or one to eight bytes: Python takes 64 bytes for an empty one
LEGACY = ("gb18030", "cp1252", "shift_jis", "euc_kr")  # code pages of which an error shows the reading

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

_ZEROS = (("utf-32-le", (1, 2, 3)), ("utf-32-be", (0, 1, 2)), ("utf-16-le", (1,)), ("utf-16-be", (0,)))

MakeError = Callable[..., DataError]


def open_regular(path: str | Path, limit: int = MAX_TEXT_BYTES) -> IO[bytes]:
    """Open a regular file of at most ``limit`` bytes; DataError for a pipe, a device, a folder, a larger file.

    The open does not block: a pipe without a writer is refused at once.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except (OSError, ValueError) as error:
        raise DataError("the file cannot be opened", found=_reason(error), where=path) from error
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise DataError("not a regular file", found=_kind(status.st_mode), where=path, fix="move it away")
        if status.st_size > limit:
            raise DataError(
                "the file is larger than the limit", expected=f"at most {limit} bytes",
                found=f"{status.st_size} bytes", where=path, fix="move it away, or split it",
            )  # fmt: skip
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_bytes(path: str | Path, limit: int = MAX_TEXT_BYTES) -> bytes:
    """The bytes of a regular file; DataError as :func:`open_regular`."""
    with open_regular(path, limit) as file:
        try:
            data = file.read(min(limit, os.fstat(file.fileno()).st_size) + 1)  # so much is reserved at once
            while 0 < len(data) <= limit and (more := file.read(min(limit, 1 << 20))):  # it grows, or has no size
                data += more
        except OSError as error:
            raise DataError("the file cannot be read", found=_reason(error), where=path) from error
    if len(data) > limit:
        raise DataError("the file is larger than the limit", expected=f"at most {limit} bytes", where=path)
    return data


def detect_encoding(data: bytes) -> str:
    """The encoding that the bytes are certain to have: by the mark, by the zeros of UTF-16 and UTF-32, else UTF-8."""
    for mark, name in _MARKS:
        if data.startswith(mark):
            return name
    head = data[:4096]
    if head.count(0) >= max(len(head) // 4, 1) and len(head) >= 4:
        for name, zeros in _ZEROS:
            step = 4 if "32" in name else 2
            if all(head[place] == 0 for place in zeros) and head[next(i for i in range(step) if i not in zeros)] != 0:
                return name
    return "utf-8"


def decode_text(data: bytes, path: str | Path, make: MakeError = DataError) -> str:
    """Bytes of a text file to text; an error of type ``make`` with the possible readings where it is no Unicode."""
    name = detect_encoding(data)
    try:
        text = data.decode(name)
    except UnicodeDecodeError as error:
        raise make(
            "the text is not encoded in UTF-8",
            expected="UTF-8 or UTF-16",
            found=_readings(data, error.start),
            where=path,
            fix="save it as UTF-8: iconv -f GB18030 -t UTF-8 FILE > NEW, or with the encoding that reads right",
        ) from error
    return text.removeprefix("\ufeff")


def read_text(path: str | Path, limit: int = MAX_TEXT_BYTES, make: MakeError = DataError) -> str:
    """The text of a regular file in UTF-8, UTF-16 or UTF-32, with or without a byte order mark."""
    return decode_text(read_bytes(path, limit), path, make)


def read_json(path: str | Path, limit: int = MAX_ANNOTATION_BYTES, make: MakeError = FormatError) -> Any:
    """The value of a JSON file; an error of type ``make`` naming the file where it is no JSON.

    NaN and infinite numbers are kept as floats, whole numbers of thousands of digits are refused by Python itself.
    """
    data = read_bytes(path, limit)
    if detect_encoding(data) not in ("utf-8", "utf-8-sig"):
        data = decode_text(data, path, make).encode("utf-8", "surrogatepass")
    data = data.removeprefix(codecs.BOM_UTF8)
    if len(data) > MAX_PARTS:
        parts, most = data.count(b"{") + data.count(b"["), max(MAX_PARTS, len(data) // 8)
        if parts > most:
            raise make("the JSON holds more lists and objects than the limit", expected=f"at most {most}",
                       found=str(parts), where=path, fix="split it")  # fmt: skip
    try:
        with without_collection():
            return json.loads(data)
    except UnicodeDecodeError:
        decode_text(data, path, make)
        raise
    except (ValueError, RecursionError) as error:
        raise make("not a JSON file", expected="valid JSON", found=_reason(error), where=path,
                   fix="export it again") from error  # fmt: skip


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Keep Python from looking for cycles in what is read meanwhile: of a large JSON, a quarter of the time."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def read_ends(path: str | Path, size: int = 65536) -> str:
    """The beginning and the end of a text file, to recognize a big JSON or XML without reading it.

    Empty for what is no regular file or cannot be read; characters that cannot be decoded are replaced.
    """
    try:
        with open_regular(path, 1 << 62) as file:
            head = file.read(size)
            end = file.seek(0, os.SEEK_END)
            tail_from = max(end - size, len(head))
            name = detect_encoding(head)
            file.seek(tail_from + (-tail_from % 4 if "32" in name else -tail_from % 2 if "16" in name else 0))
            tail = file.read(size)
    except (DataError, OSError):
        return ""
    plain = {"utf-16": "utf-16-le" if head.startswith(codecs.BOM_UTF16_LE) else "utf-16-be",
             "utf-32": "utf-32-le" if head.startswith(codecs.BOM_UTF32_LE) else "utf-32-be",
             "utf-8-sig": "utf-8"}.get(name, name)  # fmt: skip
    return head.decode(name, errors="replace") + tail.decode(plain, errors="replace")


def _kind(mode: int) -> str:
    for test, name in ((stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"), (stat.S_ISCHR, "a device"),
                       (stat.S_ISBLK, "a device"), (stat.S_ISDIR, "a folder")):  # fmt: skip
        if test(mode):
            return name
    return "a special file"


def _reason(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "too deeply nested"
    return str(getattr(error, "strerror", None) or error)


def _readings(data: bytes, at: int) -> str:
    """How the first undecodable bytes read in the legacy encodings that people use."""
    start = at
    while start > 0 and at - start < 24 and data[start - 1] not in b"\"'\n\t,;:<>{}[]":
        start -= 1
    piece = data[start : at + 24]
    for stop in b"\"'\n\t,;<>{}[]":
        cut = piece.find(bytes([stop]), at - start)
        piece = piece[:cut] if cut > 0 else piece
    shown = []
    for name in LEGACY:
        reading = piece.decode(name, errors="replace").strip()
        if "\ufffd" not in reading.rstrip("\ufffd") and reading.rstrip("\ufffd"):
            shown.append(f"{reading.rstrip(chr(0xFFFD))!r} as {name}")
    return f"byte {at}: " + (", ".join(shown) if shown else repr(data[at : at + 8]))


def delimiter_of(line: str) -> str:
    """What separates the fields of a table, by its first line: a comma, a semicolon, a tab or a bar."""
    return max(",;\t|", key=line.count)


def table_rows(text: str) -> list[list[str]]:
    """The rows of a table with content, their cells stripped; csv.Error where it is none."""
    delimiter = delimiter_of(text.partition("\n")[0])
    rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines(), delimiter=delimiter)]
    return [row for row in rows if any(row)]
