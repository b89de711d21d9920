"""Read image headers without decoding pixels: format by content, size, mode, orientation."""

from __future__ import annotations

import contextlib
import io
import os
import re
import stat
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

from PIL import Image

from segwright.core.errors import ImageReadError, SegwrightError, TooLargeError
from segwright.imageio.image_info import (
    ImageInfo,
    check_limits,
    too_large,
    unreadable,
)
from segwright.imageio.limits import DEFAULT_LIMITS, Limits
from segwright.imageio.tiff_tags import directories, pages

_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "PNG"), (b"\xff\xd8\xff", "JPEG"), (b"BM", "BMP"), (b"II*\0", "TIFF"), (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"), (b"MM\0+", "TIFF"), (b"P6", "PPM"), (b"P5", "PPM"), (b"P3", "PPM"), (b"P2", "PPM"),
    (b"P4", "PPM"), (b"P1", "PPM"), (b"GIF87a", "GIF"), (b"GIF89a", "GIF"),
)  # fmt: skip
_UNKNOWN_FORMATS = (  # what else people's folders hold under an image's name
    (b"SIMPLE  =", "a FITS file"), (b"8BPS", "a Photoshop file"), (b"%PDF", "a PDF"), (b"PK\x03\x04", "a ZIP archive"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself"), (b"<!DOCTYPE", "a web page"),
    (b"<html", "a web page"), (b"<?xml", "an XML file"), (b"<svg", "an SVG drawing"), (b"\x93NUMPY", "a numpy array"),
    (b"\x00\x00\x00\x0cjP", "a JPEG 2000"), (b"\xff\x4f\xff\x51", "a JPEG 2000"), (b"\x1f\x8b", "a gzip archive"),
    (b"\x89HDF", "an HDF5 file"), (b"\x89PNG", "a PNG damaged by a text-mode transfer"), (b"RIFF", "a RIFF file"),
)  # fmt: skip

_SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # where the image data of a JPEG ends


def sniff(head: bytes) -> str | None:
    """The format by the first bytes: one of those we read, or None."""
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    return "WEBP" if head[:4] == b"RIFF" and head[8:12] == b"WEBP" else None


def describe_unknown_format(head: bytes) -> str:
    """Describe an unrecognized file from its first bytes."""
    if head[4:8] == b"ftyp":
        return "a HEIC or AVIF image, or a video"
    for magic, name in _UNKNOWN_FORMATS:
        if head.startswith(magic):
            return name
    if not any(head[:16]):
        return "zeros: the copy was never finished"
    return f"a file that begins with {head[:8].hex(' ')}"


def read_header(path: str | Path, limits: Limits = DEFAULT_LIMITS) -> ImageInfo:
    """The size and kind of an image without its pixels; ImageReadError where the file is none or breaks a limit."""
    with open_checked(path, limits) as file:
        head = file.read(4096)
        if sniff(head) == "JPEG":  # EXIF may push the size far back
            head += file.read(1 << 18)
        return parse_header(head, path, limits, whole=lambda: head + file.read())


def open_checked(path: str | Path, limits: Limits) -> IO[bytes]:
    """The file, open, and neither empty nor larger than the limit."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait forever
            raise ValueError("not a file")
        file = open(path, "rb", 0)  # noqa: SIM115 (the caller closes it)
    except (OSError, ValueError) as error:
        raise ImageReadError(
            "cannot open the file",
            found=getattr(error, "strerror", None) or str(error),
            where=path,
            fix="check the path and its permissions",
            reason="cannot_open",
        ) from error
    size = os.fstat(file.fileno()).st_size
    if 0 < size <= limits.max_bytes:
        return file
    file.close()
    if size == 0:
        fix = "copy it again from its source"
        raise ImageReadError("the file is empty", found="0 bytes", where=path, fix=fix, reason="empty")
    raise TooLargeError(
        "the file is larger than the limit", expected=f"at most {limits.max_bytes} bytes", found=str(size), where=path
    )


def parse_header(
    data: bytes, where: str | Path, limits: Limits = DEFAULT_LIMITS, whole: Callable[[], bytes] | None = None
) -> ImageInfo:
    """The header of an image in memory. ``whole`` fetches the rest where ``data`` is only the beginning of a file."""
    with reading(where, "a file whose header is damaged"):
        return _parse_header(data, where, limits, whole)


def _parse_header(data: bytes, where: str | Path, limits: Limits, whole: Callable[[], bytes] | None) -> ImageInfo:
    kind = sniff(data)
    if kind is None:
        raise unreadable(where, describe_unknown_format(data), "truncated" if not any(data[:16]) else "unknown_format")
    info = None
    if kind == "PNG":
        info = png_header(data, where)
    elif kind == "JPEG":
        info = jpeg_header(data)
    if info is None:
        if whole is not None:
            data = whole()
        if kind == "JPEG":  # one with 256 KiB of EXIF, or none
            info = jpeg_header(data)
            if info is None:
                raise unreadable(where, "a JPEG without a frame header: cut off within its first bytes", "truncated")
        else:
            info = _other_header(data, kind, where, limits)
    check_limits(info, where, limits)
    return info


_PNG_MODES = {0: "L", 2: "RGB", 3: "P", 4: "LA", 6: "RGBA"}
_PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}


def png_header(data: bytes, where: str | Path) -> ImageInfo:
    """The header from IHDR; the orientation, rare in PNGs, is found by :func:`.png.parse_chunks`."""
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise unreadable(where, "a PNG cut off within its header", "truncated")
    width, height, bits, color, compression, filtering, interlace = struct.unpack(">IIBBBBB", data[16:29])
    if color not in _PNG_MODES or bits not in _PNG_DEPTHS[color] or compression or filtering or interlace > 1:
        raise unreadable(where, f"a PNG header with impossible values (type {color}, {bits} bits)")
    if not width or not height:
        raise unreadable(where, f"a PNG of {width}×{height} pixels")
    mode = _PNG_MODES[color]
    if bits == 16:
        mode = "I;16" if mode == "L" else f"{mode};16"
    elif bits == 1 and mode == "L":
        mode = "1"
    orientation = 1
    alpha = color in (4, 6)
    place = data.find(b"eXIf", 29, 4096)
    if place > 0:
        orientation = exif_orientation(data[place + 4 : place + 4096])
    return ImageInfo("PNG", width, height, mode, orientation, bits, alpha)


def segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, begin, end of its body) of a JPEG's segments in order, image data passed over, to the end marker."""
    place, end = 2, len(data)
    while place + 4 <= end:
        if data[place] != 0xFF:  # bytes between segments: go on at the next marker
            place = data.find(b"\xff", place)
            if place < 0:
                return
            continue
        marker = data[place + 1]
        if marker == 0xFF:
            place += 1
            continue
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:  # no length follows these
            place += 2
            continue
        length = data[place + 2] << 8 | data[place + 3]
        if marker == 0xD9 or length < 2:
            return
        yield marker, place + 4, min(place + 2 + length, end)
        place += 2 + length
        if marker == 0xDA:
            found = _SCAN_END.search(data, place)
            if found is None:
                return
            place = found.start()


def jpeg_header(data: bytes) -> ImageInfo | None:
    """The header from the frame header; None if ``data`` ends before it."""
    orientation = 1
    for marker, begin, end in segments(data):
        if marker == 0xDA:
            return None
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if end - begin < 6:
                return None
            bits, height, width, components = struct.unpack(">BHHB", data[begin : begin + 6])
            if not height or not width:
                return None
            mode = {1: "L", 3: "RGB", 4: "CMYK"}.get(components, f"{components} components")
            return ImageInfo("JPEG", width, height, mode, orientation, bits)
        if marker == 0xE1 and data[begin : begin + 6] == b"Exif\0\0":
            orientation = exif_orientation(data[begin + 6 : end])
    return None


def exif_orientation(tiff: bytes) -> int:
    """Tag 0x0112 of the first directory of an EXIF block (without its ``Exif`` prefix); 1 where there is none."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or len(tiff) < 14:
        return 1
    (offset,) = struct.unpack_from(f"{order}I", tiff, 4)
    if offset + 2 > len(tiff):
        return 1
    (count,) = struct.unpack_from(f"{order}H", tiff, offset)
    for entry in range(offset + 2, min(offset + 2 + 12 * count, len(tiff) - 11), 12):
        tag, kind, _, value = struct.unpack_from(f"{order}HHIH", tiff, entry)
        if tag == 0x0112 and kind == 3:
            return value if 1 <= value <= 8 else 1
    return 1


def _other_header(data: bytes, kind: str, where: str | Path, limits: Limits) -> ImageInfo:
    if kind != "TIFF":
        return _pillow_header(data, kind, where, limits)
    found = directories(data, where, limits)
    first = found[0]
    check_limits(ImageInfo("TIFF", first.width, first.height, ""), where, limits)
    info = None
    if first.samples <= 4 and (first.bits <= 8 or first.samples == 1):
        with contextlib.suppress(ImageReadError):  # of a kind that Pillow does not know
            info = _pillow_header(data, kind, where, limits)
    if info is None:
        from segwright.imageio.tiff import tiff_header  # tifffile is slow to import and seldom needed

        info = tiff_header(data, where, limits)
    return replace(info, alpha=first.alpha, pages=len(pages(found)))


def _pillow_header(data: bytes, kind: str, where: str | Path, limits: Limits) -> ImageInfo:
    with pillow_open(data, kind, where, limits) as image:
        with reading(where, f"a {kind} whose header is damaged"):
            value = image.getexif().get(0x0112, 1)
            frames = bool(getattr(image, "is_animated", False)) and kind != "TIFF"
        if frames:
            raise ImageReadError(
                "the file is an animation",
                expected="one image",
                found=f"a {kind} of several frames",
                where=where,
                fix="save the frames as files of their own",
                reason="animated",
            )
        orientation = value if isinstance(value, int) and 1 <= value <= 8 else 1
        bits = 16 if image.mode.startswith("I;16") else 32 if image.mode in ("I", "F") else 8
        width, height = image.size
        if kind == "TIFF" and orientation >= 5:  # Pillow reports a TIFF's size as it will be after turning
            width, height = height, width
        alpha = image.mode in ("RGBA", "LA", "PA", "La", "RGBa")
        return ImageInfo(kind, width, height, image.mode, orientation, bits, alpha)


class reading:
    """Turn any exception of a parser into an ImageReadError that names the file."""

    def __init__(self, where: str | Path, what: str = "a damaged file") -> None:
        self.where, self.what = where, what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if error is None or isinstance(error, SegwrightError) or not isinstance(error, Exception):
            return
        if isinstance(error, MemoryError) or "nsufficient memory" in str(error):
            raise TooLargeError(
                "the image needs more memory than there is",
                found=str(error) or type(error).__name__,
                where=self.where,
                fix="cut it into tiles",
            ) from error
        raise unreadable(self.where, f"{self.what} ({type(error).__name__}: {_plain(error)[:160]})") from error


def pillow_open(data: bytes, kind: str, where: str | Path, limits: Limits) -> Image.Image:
    """Pillow's lazy image, restricted to the one format that the content shows."""
    try:
        return Image.open(io.BytesIO(data), formats=(kind,))
    except Image.DecompressionBombError as error:
        raise too_large(where, limits, str(error)) from error
    except Exception as error:  # whatever its parsing trips over
        raise unreadable(where, f"a {kind} whose header cannot be read ({_plain(error)})") from error


def _plain(error: BaseException) -> str:
    """An exception's text without addresses of objects in memory."""
    text = str(error) or type(error).__name__
    return text.split(" <")[0] if "<_io" in text else text
