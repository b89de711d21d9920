"""JPEG: whether the file is whole.

Decoders fill what is missing with grey and say nothing, or a line on stderr. Three tests, cheapest first:

1. The end marker is there (a cut file has none), and all frequencies of a progressive file were sent.
2. The entropy-coded bytes can hold so many blocks at all: a block takes two bits at least (one when progressive).
   This is what stops a file of 378 bytes that asks for a gigapixel, before anything is allocated.
3. Where the last block comes out flat, as missing data does (and as a white border does): bits are put in before the
   end of every scan and the file is decoded again. A complete scan never reads them; a short one does, and changes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from segwright.errors import ImageReadError
from segwright.images.headers import UInt8Array, exif_orientation, unreadable
from segwright.images.limits import Limits

_SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
# Bits that code something whatever the Huffman table; no 0xFF, which would be a marker.
PADDING = bytes(np.random.default_rng(5).integers(0, 255, 192, dtype=np.uint8))


@dataclass(frozen=True)
class Frame:
    """The frame header (SOF): how many blocks there are."""

    progressive: bool
    blocks: int
    components: tuple[int, ...]  # their ids
    unit: tuple[int, int]  # (height, width) in pixels of what is coded together


def frame(data: bytes, where: str | Path) -> tuple[Frame, int]:
    """The frame, and the offset of the first scan's header."""
    place, end = 2, len(data)
    found: Frame | None = None
    while place + 4 <= end:
        if data[place] != 0xFF or data[place + 1] in (0xFF, 0x00, 0x01):
            place += 1
            continue
        marker = data[place + 1]
        if 0xD0 <= marker <= 0xD8:
            place += 2
            continue
        if marker == 0xDA and found is not None:
            return found, place
        if marker == 0xD9:
            break
        length = data[place + 2] << 8 | data[place + 3]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            body = data[place + 4 : place + 2 + length]
            if marker not in (0xC0, 0xC1, 0xC2) or body[0] != 8:
                raise unreadable(
                    where, f"a JPEG of a rare kind (frame type {marker - 0xC0}, {body[0]} bits)", "unsupported"
                )
            found = _frame(body, marker == 0xC2)
            if found is None:
                raise unreadable(where, "a JPEG whose frame header is damaged")
        place += 2 + length
    raise unreadable(where, "a JPEG cut off before its image data", "truncated")


def _frame(body: bytes, progressive: bool) -> Frame | None:
    height, width, count = body[1] << 8 | body[2], body[3] << 8 | body[4], body[5]
    if not width or not height or not 1 <= count <= 4 or len(body) < 6 + 3 * count:
        return None
    parts = [(body[6 + 3 * i], body[7 + 3 * i] >> 4, body[7 + 3 * i] & 15) for i in range(count)]
    if any(not 1 <= h <= 4 or not 1 <= v <= 4 for _, h, v in parts):
        return None
    across, down = max(h for _, h, _ in parts), max(v for _, _, v in parts)
    units = -(-width // (8 * across)) * -(-height // (8 * down))
    if len(parts) == 1:  # a single component is coded block by block, whatever its factors say
        return Frame(progressive, -(-width // 8) * -(-height // 8), (parts[0][0],), (8, 8))
    blocks = units * sum(h * v for _, h, v in parts)
    return Frame(progressive, blocks, tuple(part[0] for part in parts), (8 * down, 8 * across))


def check_structure(data: bytes, where: str | Path) -> Frame:
    """Tests 1 and 2; ImageReadError where one fails."""
    found, scan = frame(data, where)
    end = data.rfind(b"\xff\xd9", scan)
    if end < 0:
        raise unreadable(where, f"a JPEG cut off after {len(data)} bytes: its end marker is missing", "truncated")
    least = found.blocks * (1 if found.progressive else 2) // 8
    if end - scan - 8 < least:
        raise missing(where, f"{max(0, end - scan - 8)} bytes for {found.blocks} blocks")
    if found.progressive:
        _check_script(data, found, scan, where)
    return found


def _check_script(data: bytes, found: Frame, place: int, where: str | Path) -> None:
    """All frequencies of all components were sent, down to their last bit."""
    sent: dict[int, npt.NDArray[Any]] = {part: np.full(64, 99) for part in found.components}
    while 0 <= place < len(data) - 4 and data[place + 1] != 0xD9:
        length = data[place + 2] << 8 | data[place + 3]
        if data[place + 1] == 0xDA:
            count = data[place + 4]
            first, last, bits = data[place + 5 + 2 * count : place + 8 + 2 * count]
            for i in range(count):
                part = data[place + 5 + 2 * i]
                if part in sent:
                    sent[part][first : last + 1] = np.minimum(sent[part][first : last + 1], bits & 15)
            match = _SCAN_END.search(data, place + 2 + length)
            place = match.start() if match else -1
        else:
            place += 2 + length
    if any(bits.any() for bits in sent.values()):
        raise missing(where, "scans that were announced and never sent")


def plain(data: bytes, limits: Limits) -> tuple[int, int, int, int, int] | None:
    """(height, width, components, orientation, height of a coded unit) of what most JPEGs are, in one short walk.

    Baseline, grey or three components, within the limits, with an end marker and as many bytes as tests 1 and 2 ask
    for; None for any other, where :func:`.headers.parse_header` and :func:`check_structure` say what it is.
    """
    if data[:3] != b"\xff\xd8\xff" or data[-2:] != b"\xff\xd9":
        return None
    place, end, orientation, blocks, body = 2, len(data) - 4, 1, 0, b""
    height = width = unit = 0
    while place < end:
        marker = data[place + 1]
        length = data[place + 2] << 8 | data[place + 3]
        if data[place] != 0xFF or length < 2:
            return None
        if marker in (0xC0, 0xC1):
            if body:
                return None
            body = data[place + 4 : place + 2 + length]
            if len(body) < 9 or body[0] != 8 or body[5] not in (1, 3) or len(body) < 6 + 3 * body[5]:
                return None
            height, width = body[1] << 8 | body[2], body[3] << 8 | body[4]
            factors = body[7 : 6 + 3 * body[5] : 3]
            down, across = max(f & 15 for f in factors), max(f >> 4 for f in factors)
            if not height or not width or not 1 <= min(f & 15 for f in factors) <= down <= 4:
                return None
            if not 1 <= min(f >> 4 for f in factors) <= across <= 4:
                return None
            if body[5] == 1:  # coded block by block, whatever its factors say
                unit, blocks = 8, -(-width // 8) * -(-height // 8)
            else:
                unit = 8 * down
                blocks = -(-width // (8 * across)) * -(-height // unit) * sum((f >> 4) * (f & 15) for f in factors)
        elif marker == 0xDA:
            side = limits.max_side
            if not blocks or width > side or height > side or width * height > limits.max_pixels:
                return None
            return (height, width, body[5], orientation, unit) if len(data) - place - 10 >= blocks // 4 else None
        elif marker == 0xE1 and data[place + 4 : place + 10] == b"Exif\0\0":
            orientation = exif_orientation(data[place + 10 : place + 2 + length])
        elif not (0xC4 <= marker <= 0xFE) or (0xC8 <= marker <= 0xD9 and marker != 0xCC) or 0xC5 <= marker <= 0xC7:
            return None  # progressive, lossless, a marker without a length: for the careful reading
        place += 2 + length
    return None


def tail_is_flat(pixels: UInt8Array, unit: int) -> bool:
    """Whether the last coded block is of one colour. ``pixels`` as stored, before any turning."""
    rows = (pixels.shape[0] - 1) % unit + 1
    corner = pixels[-min(rows, 8) :, -8:].tobytes()
    last = corner[-pixels.shape[2] :] if pixels.ndim == 3 else corner[-1:]
    return corner == last * (len(corner) // len(last))


def is_short(data: bytes, pixels: npt.NDArray[Any], decode: Callable[[bytes], npt.NDArray[Any] | None]) -> bool:
    """Test 3: whether a scan ends before its picture does. ``decode`` is what made ``pixels`` from ``data``."""
    padded = pad_scans(data)
    again = decode(padded)
    return again is None or again.shape != pixels.shape or not np.array_equal(again, pixels)


def pad_scans(data: bytes) -> bytes:
    """The file with spare bits before the end of every scan and every restart interval."""
    parts, place, copied = [], 2, 0
    while 0 <= place < len(data) - 4:
        marker = data[place + 1]
        if data[place] != 0xFF or marker == 0xFF:
            place += 1
            continue
        if marker == 0xD9:
            break
        length = data[place + 2] << 8 | data[place + 3]
        begin = place + 2 + length
        place = begin
        if marker != 0xDA:
            continue
        match = _SCAN_END.search(data, begin)
        place = match.start() if match else len(data)
        for restart in _RESTART.finditer(data, begin, place):
            parts += [data[copied : restart.start()], PADDING]
            copied = restart.start()
        parts += [data[copied:place], PADDING]
        copied = place
    return b"".join([*parts, data[copied:]])


def missing(where: str | Path, found: str) -> ImageReadError:
    return unreadable(where, f"a JPEG with missing image data ({found})", "truncated")


def decode_pixels(data: bytes, flags: int) -> npt.NDArray[Any] | None:
    """OpenCV's decoder; None where it refuses."""
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None


def check_whole(data: bytes, where: str | Path, *, thorough: bool, pixels: UInt8Array) -> None:
    """Test 3 where it is called for: a flat last block; ``thorough`` also restart intervals and progressive files."""
    found, _ = frame(data, where)
    if tail_is_flat(pixels, found.unit[0]) or (thorough and worth_a_second_look(data, where)):
        flags = cv2.IMREAD_GRAYSCALE if pixels.ndim == 2 else cv2.IMREAD_COLOR
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
        first = decode_pixels(data, flags)
        if first is None or is_short(data, first, lambda padded: decode_pixels(padded, flags)):
            raise missing(where, "the compressed data ends before the picture does")


def worth_a_second_look(data: bytes, where: str | Path) -> bool:
    """Whether missing data could hide where a flat last block does not show it."""
    found, scan = frame(data, where)
    return found.progressive or _RESTART.search(data, scan) is not None
