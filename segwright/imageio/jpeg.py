"""JPEG with libjpeg-turbo, its warnings taken for what they are: image data is missing, or damaged.

Decoders fill what is missing with gray, without an error. simplejpeg's strict mode makes an error of
every warning; here they are sorted. Missing and damaged data is an error. Oddities of the header (a revision that is
not known, bytes between segments, scan parameters that a sequential file does not need) are taken out, and the file is
decoded again, as strictly. Superfluous bytes after the image data, which some cameras leave, cost nothing that can be
seen: the image is read, with an :class:`ImageDamageWarning`.

Before anything is allocated, the file must be long enough for its number of blocks: a block takes two bits at least,
one when progressive. This is what stops a file of 378 bytes that claims a gigapixel.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import simplejpeg

from segwright.core.errors import ImageReadError
from segwright.imageio.headers import segments
from segwright.imageio.image_info import ImageInfo, UInt8Array, unreadable

MAX_SCANS = 100  # of a progressive file: each costs a pass over all blocks; honest ones have some ten
_HARMLESS = (
    "JFIF revision",
    "extraneous bytes before marker",
    "Invalid SOS parameters",
    "Adobe color transform",
    "ICC",
)


class ImageDamageWarning(UserWarning):
    """An image was read whole, from a file that is not quite as it should be."""


@dataclass(frozen=True)
class _Frame:
    """The frame header (SOF): how many blocks there are, and where the first scan begins."""

    progressive: bool
    blocks: int
    components: tuple[int, ...]  # their ids
    scan: int


def decode(data: bytes, info: ImageInfo, where: str | Path, *, gray: bool = False) -> UInt8Array | None:
    """H×W×3 RGB, or H×W where ``gray``, as stored, not turned. None: of a kind that is for another decoder.

    ImageReadError where image data is missing (``truncated``) or damaged.
    """
    frame = _frame(data, where)
    if len(data) - frame.scan - 8 < frame.blocks * (1 if frame.progressive else 2) // 8:
        raise _missing(where, f"{len(data) - frame.scan} bytes for {frame.blocks} blocks")
    if frame.progressive:
        _check_script(data, frame, where)
    space = "GRAY" if gray else "RGB"
    pixels, complaint = _strict(data, space)
    if pixels is None and any(harmless in complaint for harmless in _HARMLESS):
        data = _plain_header(data, frame)
        pixels, complaint = _strict(data, space)
        if pixels is None and "extraneous bytes before marker 0xd9" in complaint:
            warnings.warn(f"{where}: {complaint}", ImageDamageWarning, stacklevel=2)
            pixels = simplejpeg.decode_jpeg(data, space, strict=False)
    if pixels is None and ("subsampling" in complaint or "olorspace" in complaint):
        return None
    if pixels is None:
        _check_end(complaint, data, where)
    if pixels is None or pixels.shape[:2] != (info.height, info.width):
        raise unreadable(where, f"a damaged JPEG ({complaint or 'its size is not that of its header'})")
    return np.asarray(pixels[..., 0] if gray else pixels, np.uint8)


def check_whole(data: bytes, where: str | Path) -> None:
    """ImageReadError where a JPEG of four components lacks image data; its pixels are another decoder's to make."""
    _frame(data, where)
    _, complaint = _strict(data, "CMYK")
    _check_end(complaint, data, where)


def _check_end(complaint: str, data: bytes, where: str | Path) -> None:
    if "Premature end of JPEG file" in complaint:
        raise unreadable(where, f"a JPEG cut off after {len(data)} bytes", "truncated")
    if "premature end of data" in complaint:
        raise _missing(where, "the compressed data ends before the image does")


def _strict(data: bytes, space: str) -> tuple[npt.NDArray[Any] | None, str]:
    """The pixels, or None and libjpeg's message."""
    try:
        return simplejpeg.decode_jpeg(data, space, strict=True), ""
    except ValueError as error:
        return None, str(error)


def _frame(data: bytes, where: str | Path) -> _Frame:
    body, kind = b"", 0
    for marker, begin, end in segments(data):
        if marker == 0xDA and body:
            return _parsed(body, kind == 0xC2, begin, where)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            body, kind = data[begin:end], marker
            if len(body) >= 1 and (marker not in (0xC0, 0xC1, 0xC2) or body[0] != 8):
                found = f"a JPEG of a rare kind (frame type {marker - 0xC0}, {body[0]} bits)"
                raise unreadable(where, found, "unsupported")
    raise unreadable(where, "a JPEG cut off before its image data", "truncated")


def _parsed(body: bytes, progressive: bool, scan: int, where: str | Path) -> _Frame:
    count = body[5] if len(body) >= 6 else 0
    parts = [
        (body[6 + 3 * i], body[7 + 3 * i] >> 4, body[7 + 3 * i] & 15) for i in range(min(count, len(body) // 3 - 2))
    ]
    if not 1 <= count <= 4 or len(parts) < count or any(not 1 <= h <= 4 or not 1 <= v <= 4 for _, h, v in parts):
        raise unreadable(where, "a JPEG whose frame header is damaged")
    height, width = body[1] << 8 | body[2], body[3] << 8 | body[4]
    if count == 1:  # a single component is coded block by block, whatever its factors are
        blocks = -(-width // 8) * -(-height // 8)
    else:
        across, down = max(h for _, h, _ in parts), max(v for _, _, v in parts)
        blocks = -(-width // (8 * across)) * -(-height // (8 * down)) * sum(h * v for _, h, v in parts)
    return _Frame(progressive, blocks, tuple(part[0] for part in parts), scan)


def _check_script(data: bytes, frame: _Frame, where: str | Path) -> None:
    """Check that all coefficients of a progressive file were sent, down to their last bit."""
    left = {part: [99] * 64 for part in frame.components}  # bits of each frequency that are still to come
    scans = 0
    for marker, begin, end in segments(data):
        if marker != 0xDA:
            continue
        scans += 1
        count = data[begin]
        if scans > MAX_SCANS or end - begin < 4 + 2 * count:
            raise unreadable(where, "a progressive JPEG with scans that are damaged or too many")
        first, last, bits = data[begin + 1 + 2 * count : begin + 4 + 2 * count]
        for part in data[begin + 1 : begin + 1 + 2 * count : 2]:
            if part in left:
                for frequency in range(first, min(last, 63) + 1):
                    left[part][frequency] = min(left[part][frequency], bits & 15)
    if any(any(bits) for bits in left.values()):
        if data.rfind(b"\xff\xd9", frame.scan) < 0:
            raise unreadable(where, f"a JPEG cut off after {len(data)} bytes", "truncated")
        raise _missing(where, "scans that were announced and never sent")


def _plain_header(data: bytes, frame: _Frame) -> bytes:
    """The file with nothing before its image data but the tables and the frame, as every decoder expects them."""
    parts = [b"\xff\xd8"]
    for marker, begin, end in segments(data):
        if begin >= frame.scan:
            header = bytearray(data[begin - 4 : end])
            if not frame.progressive:
                header[-3:] = b"\0\x3f\0"
            return b"".join([*parts, bytes(header), data[end:]])
        if marker in (0xC4, 0xDB, 0xDD, 0xCC) or 0xC0 <= marker <= 0xCF or (marker == 0xEE and end - begin == 12):
            parts.append(data[begin - 4 : end])
    return data


def _missing(where: str | Path, found: str) -> ImageReadError:
    return unreadable(where, f"a JPEG with missing image data ({found})", "truncated")
