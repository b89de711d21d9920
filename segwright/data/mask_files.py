"""Read mask files without dropping anything silently: indices, palette, colors, alpha, deep channels, arrays.

:func:`segwright.imageio.read_mask` gives the pixels as most masks mean them. Here stands what it leaves out: a
palette's colors (the indices of two files of one dataset need not agree), an alpha channel that is the mask, colors of
16 bits with the class in one channel, TIFFs of several pages, and arrays (``.npy``, ``.npz``, ``.mat``). Whatever of
these a reading does not use must be redundant, or the file is refused.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from segwright.core.errors import LabelError
from segwright.data.mask_arrays import ARRAY_ENDINGS, array_of, is_array
from segwright.imageio import DEFAULT_LIMITS, Limits, UInt8Array, decode_mask, parse_header, read_file, sniff
from segwright.imageio.headers import pillow_open, reading
from segwright.imageio.image_info import apply_exif_orientation
from segwright.imageio.raster import decode_raster

__all__ = ["ARRAY_ENDINGS", "MaskPixels", "MaskSource", "inspect_mask", "mask_pixels", "read_mask_file", "tiff_facts"]

# values: the indices, also of a palette, or the colors; colors: a palette's colors; else the channel that is the class
MaskSource = Literal["values", "colors", "alpha", "red", "green", "blue"]
CHANNELS: dict[MaskSource, int] = {"red": 0, "green": 1, "blue": 2}
MAX_DIRECTORIES = 65_536


@dataclass(frozen=True)
class MaskPixels:
    """A mask file's content."""

    pixels: npt.NDArray[Any]  # H×W indices or H×W×3 colors, uint8 or uint16
    palette: UInt8Array | None = None  # N×3: the colors of the indices in ``pixels``
    alpha: UInt8Array | None = None  # H×W, where the file has an alpha channel that is not opaque all over
    deep: bool = False  # H×W×3 of 16 bits that are not just 8-bit colors written wider


def read_mask_file(
    path: str | Path, source: MaskSource = "values", limits: Limits = DEFAULT_LIMITS
) -> npt.NDArray[Any]:
    """H×W file values or H×W×3 colors of a mask file; see :func:`mask_pixels`."""
    return mask_pixels(read_file(path, limits), path, source, limits)


def mask_pixels(
    data: bytes, where: str | Path = "the mask", source: MaskSource = "values", limits: Limits = DEFAULT_LIMITS
) -> npt.NDArray[Any]:
    """H×W file values or H×W×3 colors, from the part of the file that ``source`` names.

    LabelError where the file holds something that this reading would drop: an alpha channel that separates what the
    colors do not, colors of 16 bits, several pages.
    """
    if source == "values" and _is_plain(data):
        return decode_mask(data, where, limits)
    found = inspect_mask(data, where, limits)
    if source == "alpha":
        return found.alpha if found.alpha is not None else np.full(found.pixels.shape[:2], 255, np.uint8)
    if source in CHANNELS:
        if found.pixels.ndim == 2:
            raise _another_kind(where, "one channel", "class in one of three channels")
        return np.ascontiguousarray(found.pixels[..., CHANNELS[source]])
    if found.alpha is not None and not alpha_follows(found.pixels, found.alpha):
        raise _another_kind(where, "an alpha channel that differs where the colors do not", "no alpha channel")
    if found.deep and found.pixels.dtype != np.uint8:
        raise _another_kind(where, "three channels of 16 bits", "8-bit masks")
    if source == "colors" and found.palette is not None:
        return _spread(found)
    return found.pixels


def _another_kind(where: str | Path, found: str, others: str) -> LabelError:
    return LabelError(
        "the mask is coded in another way than the others of the dataset", expected=f"as the others: {others}",
        found=found, where=where, fix="write it as an index PNG like the others",
    )  # fmt: skip


def _is_plain(data: bytes) -> bool:
    """Whether the file is of a kind of which :func:`decode_mask` drops nothing: most PNGs and all JPEGs."""
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return len(data) > 26 and (data[25] in (0, 3) or (data[25] == 2 and data[24] == 8))
    return data[:3] == b"\xff\xd8\xff"


def inspect_mask(data: bytes, where: str | Path = "the mask", limits: Limits = DEFAULT_LIMITS) -> MaskPixels:
    """The full content of a mask file; ImageReadError or LabelError if it is incomplete or has several pages."""
    kind = sniff(data)
    if kind == "PNG" and len(data) > 26:
        if data[25] == 3:
            return MaskPixels(decode_mask(data, where, limits), _png_palette(data))
        return MaskPixels(decode_mask(data, where, limits)) if _is_plain(data) else _with_alpha(data, where, limits)
    if kind == "TIFF":
        return _tiff(data, where, limits)
    if kind is None and is_array(data):
        return MaskPixels(array_of(data, where, limits))
    if kind in (None, "JPEG", "PPM"):
        return MaskPixels(decode_mask(data, where, limits))
    return _by_pillow(data, where, limits)


def _png_palette(data: bytes) -> UInt8Array | None:
    place = 33
    while place + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, place)
        if name == b"PLTE":
            return np.frombuffer(data[place + 8 : place + 8 + length // 3 * 3], np.uint8).reshape(-1, 3)
        if name in (b"IDAT", b"IEND"):
            break
        place += 12 + length
    return None


def _with_alpha(data: bytes, where: str | Path, limits: Limits) -> MaskPixels:
    """A PNG of gray and alpha, RGBA, or three channels of 16 bits."""
    bands = decode_raster(data, where, limits)
    most = 65535 if bands.dtype == np.uint16 else 255
    alpha = bands[..., -1] if bands.shape[2] in (2, 4) else None
    if alpha is not None and (alpha == most).all():
        alpha = None
    if alpha is not None and alpha.dtype != np.uint8:
        alpha = (alpha >> 8).astype(np.uint8)
    if bands.shape[2] == 2:
        return MaskPixels(np.ascontiguousarray(bands[..., 0]), alpha=alpha)
    pixels = np.ascontiguousarray(bands[..., :3])
    return MaskPixels(pixels, alpha=alpha) if pixels.dtype == np.uint8 else _deep(pixels, alpha)


def _deep(pixels: npt.NDArray[Any], alpha: UInt8Array | None) -> MaskPixels:
    """Three channels of 16 bits: 8-bit colors where they are those times 257, or never above 255."""
    if not (pixels % 257).any():
        return MaskPixels((pixels // 257).astype(np.uint8), alpha=alpha)
    if pixels.max(initial=0) <= 255:
        return MaskPixels(pixels.astype(np.uint8), alpha=alpha, deep=True)
    return MaskPixels(pixels, alpha=alpha, deep=True)


def _tiff(data: bytes, where: str | Path, limits: Limits) -> MaskPixels:
    pages, samples = tiff_facts(data)
    if pages > 1:
        raise LabelError(
            "the mask is a stack of pages", expected="one page, or as many in the image as in the mask",
            found=f"{pages} pages", where=where, fix="write one file per page, or as many pages in the image",
        )  # fmt: skip
    if samples == 1:
        palette = _pillow_palette(data, where, limits)
        return MaskPixels(decode_mask(data, where, limits), palette)
    bands = decode_raster(data, where, limits)
    if bands.shape[2] > 4:
        raise LabelError(
            "the mask has several bands", expected="one band of class values, or three of colors",
            found=f"{bands.shape[2]} bands", where=where,
            fix="write the band that holds the classes as a file of its own, or one mask of two values per class",
        )  # fmt: skip
    if bands.dtype not in (np.uint8, np.uint16):
        return MaskPixels(decode_mask(data, where, limits))
    alpha = bands[..., -1] if bands.shape[2] in (2, 4) else None
    if alpha is not None:
        alpha = None if (alpha == np.iinfo(alpha.dtype).max).all() else alpha.astype(np.uint8)
    if bands.shape[2] == 2:
        return MaskPixels(np.ascontiguousarray(bands[..., 0]), alpha=alpha)
    pixels = np.ascontiguousarray(bands[..., :3])
    return _deep(pixels, alpha) if pixels.dtype == np.uint16 else MaskPixels(pixels, alpha=alpha)


def _by_pillow(data: bytes, where: str | Path, limits: Limits) -> MaskPixels:
    """GIF, BMP, WebP: their palette and their alpha."""
    info = parse_header(data, where, limits)
    if info.mode not in ("RGBA", "LA"):
        palette = _pillow_palette(data, where, limits) if info.mode == "P" else None
        return MaskPixels(decode_mask(data, where, limits), palette)
    with reading(where), pillow_open(data, info.format, where, limits) as image:
        bands = apply_exif_orientation(np.asarray(image.convert("RGBA")), info.orientation)
    pixels = np.ascontiguousarray(bands[..., 0] if info.mode == "LA" else bands[..., :3])
    alpha = np.ascontiguousarray(bands[..., 3])
    return MaskPixels(pixels, alpha=None if (alpha == 255).all() else alpha)


def _pillow_palette(data: bytes, where: str | Path, limits: Limits) -> UInt8Array | None:
    info = parse_header(data, where, limits)
    if info.mode != "P":
        return None
    with reading(where), pillow_open(data, info.format, where, limits) as image:
        table = image.getpalette("RGB")
    return None if not table else np.array(table, np.uint8).reshape(-1, 3)


def _spread(found: MaskPixels) -> UInt8Array:
    """H×W×3: a palette's colors; indices beyond it are black, as viewers show them."""
    table = np.zeros((256, 3), np.uint8)
    if found.palette is not None:
        table[: len(found.palette)] = found.palette[:256]
    return np.asarray(table[np.minimum(found.pixels, 255)], np.uint8)


def alpha_follows(pixels: npt.NDArray[Any], alpha: UInt8Array) -> bool:
    """Whether all pixels of one color have one alpha, so that the alpha channel adds nothing."""
    wide = pixels.astype(np.uint64)
    key = wide if wide.ndim == 2 else wide[..., 0] << np.uint64(32) | wide[..., 1] << np.uint64(16) | wide[..., 2]
    both = np.unique(key.ravel() << np.uint64(8) | alpha.ravel())
    return len(np.unique(both >> np.uint64(8))) == len(both)


def tiff_facts(source: bytes | str | Path) -> tuple[int, int]:
    """(pages, samples per pixel of the first) of a TIFF by its directories; reduced copies and masks are not counted.

    (0, 0) where it is no TIFF or its directories cannot be followed: reading it raises the reason.
    """
    if isinstance(source, bytes):
        return _walk(lambda offset, count: source[offset : offset + count])
    try:
        with open(source, "rb") as file:

            def read(offset: int, count: int) -> bytes:
                file.seek(offset)
                return file.read(count)

            return _walk(read)
    except OSError:
        return 0, 0


def _walk(read: Callable[[int, int], bytes]) -> tuple[int, int]:
    head = read(0, 16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None or len(head) < 8:
        return 0, 0
    big = head[2:4] in (b"+\0", b"\0+")
    offset_code, count_code, entry, at = ("Q", "Q", 20, 8) if big else ("I", "H", 12, 4)
    pages = samples = 0
    seen: set[int] = set()
    try:
        (place,) = struct.unpack_from(order + offset_code, head, at)
        while place and place not in seen and len(seen) < MAX_DIRECTORIES:
            seen.add(place)
            size = struct.calcsize(order + count_code)
            (count,) = struct.unpack(order + count_code, read(place, size))
            if count > 4096:
                return pages, samples
            body = read(place + size, count * entry + struct.calcsize(order + offset_code))
            tags = {}
            for i in range(count):
                tag, kind = struct.unpack_from(order + "HH", body, i * entry)
                if tag in (254, 277):
                    code = {3: "H", 4: "I"}.get(kind, "H")
                    (tags[tag],) = struct.unpack_from(order + code, body, i * entry + (12 if big else 8))
            if not tags.get(254, 0) & 5:  # 1: a reduced copy, 4: a transparency mask
                pages += 1
                samples = samples or tags.get(277, 1)
            (place,) = struct.unpack_from(order + offset_code, body, count * entry)
    except struct.error:
        pass
    return pages, samples
