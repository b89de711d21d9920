"""PNG: whether the file is whole, and a palette's indices at the speed of gray.

OpenCV's libpng refuses missing and broken image data, which Pillow passes over when the compressed stream ends early
(the rest stays black) and which kills torchvision's decoder. What is checked here first is what libpng would only find
after allocating the whole image.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from segwright.core.errors import ImageReadError
from segwright.imageio.headers import exif_orientation
from segwright.imageio.image_info import ImageInfo, unreadable
from segwright.imageio.limits import Limits

DEFLATE_RATIO = 1032  # deflate cannot shrink further than this
_CHANNELS = {"1": 1, "L": 1, "P": 1, "I;16": 1, "LA": 2, "LA;16": 2, "RGB": 3, "RGB;16": 3, "RGBA": 4, "RGBA;16": 4}


@dataclass(frozen=True)
class Chunks:
    """Positions of the relevant chunks."""

    first_data: int  # offset of the first IDAT chunk
    data_bytes: int  # compressed bytes in all IDAT chunks
    palette: bool
    orientation: int


def parse_chunks(data: bytes, info: ImageInfo, where: str | Path) -> Chunks:
    """Go from chunk to chunk to IEND; ImageReadError where the file ends before, or cannot hold so many pixels."""
    place, end = 33, len(data)
    first = total = 0
    palette, orientation = False, 1
    while place + 12 <= end:
        length = int.from_bytes(data[place : place + 4], "big")
        kind = data[place + 4 : place + 8]
        if place + 12 + length > end:
            break
        if kind == b"IDAT":
            first = first or place
            total += length
        elif kind == b"PLTE":
            palette = True
        elif kind == b"acTL":
            raise ImageReadError(
                "the file is an animation",
                expected="one image",
                found="a PNG of several frames",
                where=where,
                fix="save the frames as files of their own",
                reason="animated",
            )
        elif kind == b"eXIf":
            orientation = exif_orientation(data[place + 8 : place + 8 + length])
        elif kind == b"IEND":
            if not first:
                raise unreadable(where, "a PNG without image data")
            if info.mode == "P" and not palette:
                raise unreadable(where, "a palette PNG without a palette")
            if total * DEFLATE_RATIO < raw_bytes(info):
                raise too_little(where, info, total * DEFLATE_RATIO)
            return Chunks(first, total, palette, orientation)
        place += 12 + length
    raise unreadable(where, f"a PNG cut off after {end} bytes", "truncated")


_BEGIN = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_HEADER = struct.Struct(">IIBBBBB").unpack_from
_CHUNK = struct.Struct(">I4s").unpack_from
_PLAIN = {0: 1, 2: 3, 3: 1}  # color type → bytes per pixel


def fast_header(data: bytes, limits: Limits) -> tuple[int, int, int, int] | None:
    """(height, width, color type, offset of the first IDAT chunk) of what most PNGs are, found in one short walk.

    Of 8 bits, gray, RGB or palette, within the limits, not turned, and as whole as :func:`walk` requires; None for any
    other, where :func:`.headers.parse_header` and :func:`walk` describe it. On a mask of half a millisecond every
    tenth microsecond of Python counts: it runs with cold caches after each decoding.
    """
    end = len(data) - 12
    if data[:16] != _BEGIN or end < 33:
        return None
    width, height, bits, color, packing, filtering, interlaced = _HEADER(data, 16)
    if bits != 8 or color not in _PLAIN or packing or filtering or interlaced > 1 or not width or not height:
        return None
    side = limits.max_side
    if width > side or height > side or width * height > limits.max_pixels:
        return None
    place, first, total, palette = 33, 0, 0, color != 3
    while place <= end:
        length, kind = _CHUNK(data, place)
        if kind == b"IDAT":
            first = first or place
            total += length
        elif kind == b"IEND":
            enough = total * DEFLATE_RATIO >= (width * _PLAIN[color] + 1) * height
            return (height, width, color, first) if first and palette and enough else None
        elif kind == b"PLTE":
            palette = True
        elif kind in (b"eXIf", b"acTL"):
            return None
        place += 12 + length
    return None


def raw_bytes(info: ImageInfo) -> int:
    """Bytes of uncompressed image data, a filter byte a row; interlaced images have a few more."""
    row = (info.width * _CHANNELS[info.mode] * info.bits + 7) // 8
    return (row + 1) * info.height


def too_little(where: str | Path, info: ImageInfo, found: int) -> ImageReadError:
    share = 100 * found // raw_bytes(info)
    return unreadable(
        where, f"a PNG with too little image data: {share} % of {info.width}×{info.height} pixels at most", "truncated"
    )


def explain_failure(data: bytes, info: ImageInfo, where: str | Path) -> ImageReadError:
    """Why libpng refused the file: too little data, or damaged."""
    stream, place, found = zlib.decompressobj(), 33, 0
    try:
        while place + 12 <= len(data):
            length = int.from_bytes(data[place : place + 4], "big")
            if data[place + 4 : place + 8] == b"IDAT":
                body = data[place + 8 : place + 8 + length]
                if (
                    zlib.crc32(data[place + 4 : place + 8 + length])
                    != struct.unpack_from(">I", data, place + 8 + length)[0]
                ):
                    return unreadable(where, "a damaged PNG: the checksum of its image data is wrong")
                while body:
                    found += len(stream.decompress(body, 1 << 20))
                    body = stream.unconsumed_tail
            place += 12 + length
    except zlib.error as error:
        return unreadable(where, f"a damaged PNG ({error})")
    if found < raw_bytes(info):
        return too_little(where, info, found)
    return unreadable(where, "a damaged PNG")


def opencv(data: bytes, flags: int) -> npt.NDArray[Any] | None:
    """OpenCV's pixels; None where it refuses."""
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None


def as_gray(data: bytes, first_data: int) -> bytes:
    """A palette PNG rewritten as gray, so that a decoder hands out the indices (scaled up below 8 bit)."""
    header = b"IHDR" + data[16:25] + b"\0" + data[26:29]  # color type 3 → 0
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[first_data:]
