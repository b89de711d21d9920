"""The directories of a TIFF, read before any other parser sees the file: pages, sizes, and what their strips claim.

A TIFF is a chain of directories, each a list of tags. The chain may lead back, out of the file, or on forever; a strip
may claim more rows than a memory holds, or fewer bytes than it has. Whoever reads the file further may rely on what is
checked here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from segwright.core.errors import TooLargeError
from segwright.imageio.image_info import unreadable
from segwright.imageio.limits import Limits

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_CODES = {1: "B", 3: "H", 4: "I", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _SAMPLES, _ROWS, _PLANAR = 256, 257, 258, 259, 277, 278, 284
_TILE_WIDTH, _TILE_HEIGHT, _SUBFILE, _EXTRA = 322, 323, 254, 338
_OFFSETS, _COUNTS, _TILE_OFFSETS, _TILE_COUNTS = 273, 279, 324, 325
_NEEDED = frozenset({
    _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _SAMPLES, _ROWS, _PLANAR, _TILE_WIDTH, _TILE_HEIGHT, _SUBFILE, _EXTRA,
})  # fmt: skip
MAX_TAGS = 4096  # of one directory; the format defines some hundred
MAX_VALUES = 512  # of one of the tags above: as many as bands


@dataclass(frozen=True)
class Directory:
    """One page, or something that belongs to a page: a smaller copy, a mask of transparency."""

    width: int
    height: int
    bits: int  # of the widest sample
    samples: int
    compression: int
    planes: int  # 1: the samples of a pixel lie together; else as many planes as samples
    segment: tuple[int, int]  # (height, width) of a strip or tile
    alpha: bool
    reduced: bool

    @property
    def segment_bytes(self) -> int:
        """Bytes of a whole strip or tile, not compressed."""
        tall, wide = self.segment
        return tall * ((wide * (self.samples if self.planes == 1 else 1) * self.bits + 7) // 8)


def directories(data: bytes, where: str | Path, limits: Limits) -> list[Directory]:
    """All directories in order. ImageReadError if the chain loops or leaves the file, or a tag is impossible;
    TooLargeError where there are more of them, or larger strips, than the limits allow."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    offset_code, count_code, entry = ("Q", "Q", 20) if big else ("I", "H", 12)
    place = 8 if big else 4
    width, head = struct.calcsize(offset_code), struct.calcsize(count_code)
    seen: set[int] = set()
    found: list[Directory] = []
    while place + width <= len(data):
        (place,) = struct.unpack_from(order + offset_code, data, place)
        if place == 0:
            if not found:
                raise unreadable(where, "a TIFF without a page")
            return found
        if place in seen:
            raise unreadable(where, "a TIFF whose directories form a loop")
        if len(found) >= limits.max_pages:
            raise TooLargeError(
                "the TIFF has more pages than the limit",
                expected=f"at most {limits.max_pages}",
                found=f"more than {len(found)} directories",
                where=where,
                fix="split it into files of fewer pages",
            )
        seen.add(place)
        if place + head > len(data):
            break
        (count,) = struct.unpack_from(order + count_code, data, place)
        if count > MAX_TAGS:
            raise unreadable(where, f"a TIFF with a directory of {count} tags")
        begin, place = place + head, place + head + entry * count
        if place + width > len(data):
            break
        values: dict[int, tuple[int, ...]] = {}
        for at in range(begin, place, entry):
            _tag(data, at, order, big, values, where)
        found.append(_directory(values, where, limits))
    raise unreadable(where, f"a TIFF cut off after {len(data)} bytes", "truncated")


def pages(found: list[Directory]) -> list[int]:
    """Which directories are pages: all but smaller copies and masks, as flagged or as a pyramid shows them."""
    first = found[0]

    def copy(one: Directory) -> bool:
        alike = abs(one.width * first.height - one.height * first.width) <= 2 * first.width
        return one.reduced or (one.width < first.width and alike)

    return [index for index, one in enumerate(found) if index == 0 or not copy(one)]


def _tag(data: bytes, at: int, order: str, big: bool, values: dict[int, tuple[int, ...]], where: str | Path) -> None:
    """Note the values of a needed tag; of any tag, see that its values lie inside the file."""
    tag, kind = struct.unpack_from(order + "HH", data, at)
    (count,) = struct.unpack_from(order + ("Q" if big else "I"), data, at + 4)
    place, room = (at + 12, 8) if big else (at + 8, 4)
    size = _SIZES.get(kind, 1) * count
    if size > room:
        (place,) = struct.unpack_from(order + ("Q" if big else "I"), data, place)
    if tag not in _NEEDED:
        if tag in (_OFFSETS, _COUNTS, _TILE_OFFSETS, _TILE_COUNTS) and place + size > len(data):
            raise unreadable(where, f"a TIFF cut off after {len(data)} bytes", "truncated")
        return
    if kind not in _CODES or not 1 <= count <= MAX_VALUES:
        raise unreadable(where, f"a TIFF with a tag that cannot be ({tag}: {count} values of type {kind})")
    if place + size > len(data):
        raise unreadable(where, f"a TIFF cut off after {len(data)} bytes", "truncated")
    values.setdefault(tag, struct.unpack_from(f"{order}{count}{_CODES[kind]}", data, place))


def _directory(values: dict[int, tuple[int, ...]], where: str | Path, limits: Limits) -> Directory:
    def one(tag: int, default: int) -> int:
        return values.get(tag, (default,))[0]

    height, width, samples = one(_HEIGHT, 0), one(_WIDTH, 0), one(_SAMPLES, 1)
    if height < 1 or width < 1 or samples < 1:
        raise unreadable(where, f"a TIFF of {width}×{height} pixels in {samples} bands")
    if _TILE_WIDTH in values:
        segment = (one(_TILE_HEIGHT, 0), one(_TILE_WIDTH, 0))
        largest = (height + 8192, width + 8192)  # tiles may reach beyond the image, not by any amount
    else:
        segment, largest = (min(one(_ROWS, height) & 0xFFFFFFFF, height), width), (height, width)
    bits = max(values.get(_BITS, (1,)))
    found = Directory(
        width, height, bits, samples, one(_COMPRESSION, 1),
        samples if one(_PLANAR, 1) == 2 and samples > 1 else 1, segment,
        any(extra in (1, 2) for extra in values.get(_EXTRA, ())), bool(one(_SUBFILE, 0) & 5),
    )  # fmt: skip
    if min(segment) < 1 or any(side > most for side, most in zip(segment, largest, strict=True)) or not 1 <= bits <= 64:
        raise unreadable(where, f"a TIFF with strips or tiles of {segment[1]}×{segment[0]} pixels of {bits} bits")
    if samples > limits.max_bands or found.segment_bytes > limits.max_bytes:
        raise TooLargeError(
            "the TIFF needs more memory than the limit",
            expected=f"at most {limits.max_bands} bands and {limits.max_bytes} bytes",
            found=f"{samples} bands, strips or tiles of {segment[1]}×{segment[0]} pixels",
            where=where,
            fix="cut it into tiles",
        )
    return found
