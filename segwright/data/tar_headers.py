"""Parse the headers of untrusted tars: POSIX ustar and pax, GNU long names. No header value is allocated.

Python's ``tarfile`` reads a header's whole payload at once, scans it by expressions whose time is quadratic, takes
negative sizes for steps backwards, and ends without an error at a damaged header. Here a payload is small, its records
follow one another, the place in the file only grows, and an archive that does not end as one is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

BLOCK = 512
MAX_PAYLOAD = 1 << 20  # bytes of one extended header: a path, and attributes that nobody reads here
MAX_PAYLOADS = 64  # extended headers before one file
MAX_NAME = 1 << 16  # bytes
MAX_SPARSE = 1 << 16  # blocks of a map of holes
SKIP = 1 << 20  # bytes passed over at a time, where a stream cannot seek
_PAX, _PAX_ALL, _LONG_NAME, _LONG_LINK, _SPARSE = b"xX", b"g", b"L", b"K", b"S"
_KINDS = {
    b"0": "file", b"\0": "file", b"7": "file", b"5": "folder", b"1": "a link", b"2": "a link",
    b"S": "a sparse file (make the archive without --sparse)",
}  # fmt: skip


class TarHeaderError(ValueError):
    """The file is no tar, or a damaged one; the message names the position."""


class Stream(Protocol):
    """A file opened for reading in bytes."""

    def read(self, size: int, /) -> bytes: ...
    def seek(self, offset: int, /) -> int: ...
    def tell(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Entry:
    """A file in a tar, or what it is instead."""

    name: str
    kind: str  # "file", "folder", or words for what is neither
    offset: int  # of its bytes, in the archive
    size: int


def entries(stream: Stream, length: int | None = None) -> Iterator[Entry]:
    """The members of a tar in order, from the beginning of ``stream``; TarHeaderError if it is damaged.

    The stream stands at an entry's bytes when the entry is yielded, and may be read up to its ``size`` there.
    ``length``: of a file that can seek, in bytes; without it what is passed over is read.
    """
    place, first = 0, True
    settings: dict[str, str] = {}  # of global headers
    while True:
        ours, name, extended = dict(settings), None, 0
        while True:
            block = stream.read(BLOCK)
            if not block or not block.strip(b"\0"):
                if first and not block:
                    raise TarHeaderError("an empty file")
                if extended:
                    raise TarHeaderError(f"it breaks off at byte {place}")
                return
            if len(block) < BLOCK or not _sum_fits(block):
                raise TarHeaderError(
                    "its first 512 bytes are no header" if first else f"it is damaged or breaks off at byte {place}"
                )
            first = False
            place += BLOCK
            kind, size = block[156:157], _number(block[124:136], place)
            if kind not in (*map(_byte, _PAX), _PAX_ALL, _LONG_NAME, _LONG_LINK):
                break
            extended += 1
            if size > MAX_PAYLOAD or extended > MAX_PAYLOADS:
                raise TarHeaderError(f"the header before byte {place} claims {size} bytes")
            payload = stream.read(_padded(size))
            if len(payload) < size:
                raise TarHeaderError(f"it breaks off at byte {place}")
            place += _padded(size)
            payload = payload[:size]
            if kind == _LONG_NAME:
                name = _text(payload)
            elif kind == _PAX_ALL:
                settings.update(_records(payload, place))
                ours.update(settings)
            elif kind != _LONG_LINK:
                ours.update(_records(payload, place))
        if kind == _SPARSE:  # blocks of places follow the header
            more, maps = block[482], 0
            while more:
                block_of_map = stream.read(BLOCK)
                maps += 1
                if len(block_of_map) < BLOCK or maps > MAX_SPARSE:
                    raise TarHeaderError(f"it breaks off at byte {place}")
                place, more = place + BLOCK, block_of_map[504]
        if "size" in ours:
            size = _digits(ours["size"], place)
        entry = _entry(block, kind, ours.get("path") or name, place, size, "GNU.sparse" in ours)
        data = size if kind not in (b"1", b"2", b"3", b"4", b"5", b"6") else 0
        if length is not None and place + data > length:
            raise TarHeaderError(f"it breaks off in {entry.name[:200]!r}, which begins at byte {place}")
        yield entry
        _pass_over(stream, entry, place + data, place + _padded(data), length is not None)
        place += _padded(data)


def _byte(value: int) -> bytes:
    return bytes((value,))


def _entry(block: bytes, kind: bytes, name: str | None, place: int, size: int, holes: bool) -> Entry:
    if name is None:
        name = _text(block[:100])
        prefix = _text(block[345:500]) if block[257:263] == b"ustar\0" else ""
        name = f"{prefix}/{name}" if prefix else name
    label = _KINDS.get(kind, "a special file")
    if label == "file" and holes:
        label = _KINDS[_SPARSE]
    if kind == b"\0" and name.endswith("/"):  # before 1988
        label = "folder"
    return Entry(name.rstrip("/") if label == "folder" else name, label, place, size if label == "file" else 0)


def _pass_over(stream: Stream, entry: Entry, end: int, following: int, seek: bool) -> None:
    if seek:
        stream.seek(following)
        return
    while (at := stream.tell()) < following:
        if not stream.read(min(following - at, SKIP)):
            if at < end:
                raise TarHeaderError(f"it breaks off in {entry.name[:200]!r}, at byte {at}")
            return  # the last one is not filled up to a whole block


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _sum_fits(block: bytes) -> bool:
    """The header's sum, of bytes without or, as some have written it, with a sign."""
    try:
        stored = int(block[148:156].strip(b"\0 ") or b"x", 8)
    except ValueError:
        return False
    rest = block[:148] + b" " * 8 + block[156:]
    plain = sum(rest)
    return stored in (plain, plain - 256 * sum(byte > 127 for byte in rest))


def _number(field: bytes, place: int) -> int:
    """A size: octal digits, or GNU's binary for large ones."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    try:
        text = field.strip(b"\0 ")
        if text.startswith((b"-", b"+")):
            raise ValueError
        return int(text or b"0", 8)
    except ValueError:
        raise TarHeaderError(f"the header before byte {place} holds no size") from None


def _digits(text: str, place: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        raise TarHeaderError(f"the header before byte {place} holds no size")
    return int(text)


def _text(field: bytes) -> str:
    return field[:MAX_NAME].partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _records(payload: bytes, place: int) -> dict[str, str]:
    """The used parts of the pax records ``LENGTH KEY=VALUE\\n``: path, size, and whether the file is sparse."""
    found: dict[str, str] = {}
    at = 0
    while at < len(payload) and payload[at] != 0:
        space = payload.find(b" ", at, at + 9)
        digits = payload[at:space]
        length = int(digits) if space > at and digits.isdigit() else 0
        record = payload[space + 1 : at + length]
        if length <= len(digits) + 2 or at + length > len(payload) or not record.endswith(b"\n"):
            raise TarHeaderError(f"the extended header before byte {place} is damaged")
        key, equals, value = record[:-1].partition(b"=")
        if not equals:
            raise TarHeaderError(f"the extended header before byte {place} is damaged")
        if key in (b"path", b"size"):
            found[key.decode()] = _text(value)
        elif key.startswith(b"GNU.sparse."):
            found["GNU.sparse"] = "1"
        at += length
    return found
