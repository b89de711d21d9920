"""Cloud-optimized GeoTIFF: tiled, deflated, overviews by the nearest pixel, headers first, the smallest data first.

The layout follows the rules that GDAL's and rio-cogeo's validators check. It is written from top to bottom in strips,
so memory does not grow with the raster; only the tables of tile offsets are filled in at the end.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

TILE = 512
CLASSIC_BYTES = 4_000_000_000  # a larger file has 64-bit offsets
ASCII, SHORT, LONG, LONG8 = 2, 3, 4, 16
_FORMATS = {1: "B", 2: "s", 3: "H", 4: "I", 5: "II", 6: "b", 7: "B", 8: "h", 9: "i", 11: "f", 12: "d", 16: "Q"}
DEFLATE, GRAY, PALETTE, REDUCED = 8, 1, 3, 1

ReadRows = Callable[[int, int, int], npt.NDArray[Any]]  # first row, row after the last, step of rows and columns
Tag = tuple[int, int, int, Any]  # code, type, count, value


@dataclass
class _Level:
    """One resolution: its size, and where the tables of its tiles are in the file."""

    step: int
    height: int
    width: int
    offsets_at: int = 0
    counts_at: int = 0

    @property
    def tiles(self) -> int:
        return -(-self.height // TILE) * -(-self.width // TILE)


def write_cog(
    path: Path,
    read: ReadRows,
    shape: tuple[int, int],
    dtype: npt.DTypeLike,
    *,
    tags: Sequence[Tag] = (),
    colors: npt.NDArray[np.uint8] | None = None,
    nodata: str | None = None,
) -> None:
    """Write one band of unsigned integers; ``read(top, bottom, step)`` gives its rows [top:bottom:step, ::step].

    ``tags``: further ones of the main image, such as its georeference. ``colors`` 256×3 makes a palette.
    """
    kind = np.dtype(dtype)
    levels = list(_levels(*shape))
    raw = sum(level.height * level.width for level in levels) * kind.itemsize
    big = raw * 1.02 + 64 * sum(level.tiles for level in levels) > CLASSIC_BYTES
    with open(path, "wb") as file:
        _write_headers(file, levels, kind, tags, colors, nodata, big)
        for level in reversed(levels):
            places = list(_write_tiles(file, read, level, shape[0], kind))
            form = "<Q" if big else "<I"
            for at, values in ((level.offsets_at, [p[0] for p in places]), (level.counts_at, [p[1] for p in places])):
                file.seek(at)
                file.write(b"".join(struct.pack(form, value) for value in values))
            file.seek(0, 2)


def rows_of(values: npt.NDArray[Any]) -> ReadRows:
    """The rows of an array in memory."""
    return lambda top, bottom, step: values[top:bottom:step, ::step]


def _levels(height: int, width: int) -> Iterator[_Level]:
    step = 1
    while True:
        level = _Level(step, -(-height // step), -(-width // step))
        yield level
        if max(level.height, level.width) <= TILE:
            return
        step *= 2


def _write_headers(
    file: BinaryIO,
    levels: Sequence[_Level],
    kind: np.dtype[Any],
    tags: Sequence[Tag],
    colors: npt.NDArray[np.uint8] | None,
    nodata: str | None,
    big: bool,
) -> None:
    file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16) if big else struct.pack("<2sHI", b"II", 42, 8))
    wide = LONG8 if big else LONG
    for number, level in enumerate(levels):
        entries: list[Tag] = [
            (254, LONG, 1, REDUCED if number else 0), (256, LONG, 1, level.width), (257, LONG, 1, level.height),
            (258, SHORT, 1, kind.itemsize * 8), (259, SHORT, 1, DEFLATE),
            (262, SHORT, 1, GRAY if colors is None else PALETTE), (277, SHORT, 1, 1), (284, SHORT, 1, 1),
            (322, SHORT, 1, TILE), (323, SHORT, 1, TILE), (339, SHORT, 1, 1),
            (324, wide, level.tiles, (0,) * level.tiles), (325, wide, level.tiles, (0,) * level.tiles),
        ]  # fmt: skip
        if colors is not None:
            table = colors.T.astype(np.uint16) * 257
            entries.append((320, SHORT, table.size, tuple(table.ravel().tolist())))
        if nodata is not None:
            entries.append((42113, ASCII, len(nodata) + 1, nodata))
        if number == 0:
            entries.append((305, ASCII, len("segwright") + 1, "segwright"))
            entries += [tag for tag in tags if tag[0] not in {entry[0] for entry in entries}]
        _write_directory(file, level, sorted(entries, key=lambda entry: entry[0]), big, number == len(levels) - 1)


def _write_directory(file: BinaryIO, level: _Level, entries: Sequence[Tag], big: bool, last: bool) -> None:
    """A directory, followed by the values that do not fit into it."""
    start = file.tell()
    room, count, head, after = (8, "<Q", "<HHQ", "<Q") if big else (4, "<H", "<HHI", "<I")
    body = struct.calcsize(count) + len(entries) * (struct.calcsize(head) + room) + room
    place, inner, outer = start + body, b"", b""
    for code, type_, number, value in entries:
        data = _packed(type_, number, value)
        inner += struct.pack(head, code, type_, number)
        if len(data) <= room:
            at = start + struct.calcsize(count) + len(inner)
            inner += data.ljust(room, b"\0")
        else:
            at = place + len(outer)
            inner += struct.pack(after, at)
            outer += data + b"\0" * (len(data) % 2)
        if code == 324:
            level.offsets_at = at
        elif code == 325:
            level.counts_at = at
    following = 0 if last else place + len(outer)
    file.write(struct.pack(count, len(entries)) + inner + struct.pack(after, following) + outer)


def _packed(type_: int, count: int, value: Any) -> bytes:
    if type_ == ASCII:
        text = value if isinstance(value, bytes) else str(value).encode("ascii", "replace")
        return text[: count - 1].ljust(count, b"\0")
    if isinstance(value, bytes):
        return value
    values = value if isinstance(value, list | tuple) else (value,)
    return struct.pack(f"<{len(values)}{_FORMATS[type_][0]}", *values)


def _write_tiles(
    file: BinaryIO, read: ReadRows, level: _Level, height: int, kind: np.dtype[Any]
) -> Iterator[tuple[int, int]]:
    """Write the tiles of a level, row by row; yields offset and size of each."""
    for top in range(0, level.height, TILE):
        rows = read(top * level.step, min((top + TILE) * level.step, height), level.step)
        for left in range(0, level.width, TILE):
            tile = np.zeros((TILE, TILE), kind)
            part = rows[:, left : left + TILE]
            tile[: part.shape[0], : part.shape[1]] = part
            data = zlib.compress(tile.astype(kind.newbyteorder("<"), copy=False).tobytes(), 6)
            at = file.tell()
            file.write(data)
            yield at, len(data)
