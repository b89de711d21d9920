"""Bytes to pixels: the fastest decoder that tells a whole file from a broken one.

PNG and JPEG go to OpenCV, the rest to Pillow, floating-point and many-band TIFF to tifffile. OpenCV's habits are
undone: it gives BGR (asked for RGB), spreads palettes into colours (a palette mask is handed over as grey, so that its
indices come out) and turns by EXIF (told not to; we turn images and masks alike).
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from segwright.errors import ImageReadError
from segwright.images import jpeg, png
from segwright.images.headers import ImageInfo, UInt8Array, open_checked, parse_header, pillow_open, unreadable, upright
from segwright.images.limits import DEFAULT_LIMITS, Limits
from segwright.images.tiff import tiff_pixels

# OpenCV before 4.11 cannot hand out RGB itself.
_RGB: int | None = getattr(cv2, "IMREAD_COLOR_RGB", None)
_COLOUR = (_RGB if _RGB is not None else cv2.IMREAD_COLOR) | cv2.IMREAD_IGNORE_ORIENTATION
_GREY = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION
_SCALE = {1: 255, 2: 85, 4: 17}  # how libpng spreads few grey levels over 0…255
_FLAGS = getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)  # a pipe must not be waited for
PILLOW_ERRORS = (OSError, ValueError, SyntaxError, EOFError, struct.error, MemoryError, KeyError, IndexError)

MaskArray = npt.NDArray[np.uint16] | UInt8Array


def read_file(path: str | Path, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """The bytes of a file within the limits; ImageReadError where it cannot be opened, is empty or too large."""
    # Straight to the system: a tenth of a small mask's decoding goes into Python's file objects otherwise.
    try:
        handle = os.open(path, os.O_RDONLY | _FLAGS)
    except (OSError, ValueError):
        handle = -1
    if handle >= 0:
        try:
            size = os.fstat(handle).st_size
            if 0 < size <= limits.max_bytes:
                data = os.read(handle, size)
                if len(data) == size:
                    return data
        except OSError:
            pass  # a folder, a broken disk: said below
        finally:
            os.close(handle)
    with open_checked(path, limits) as file:  # whatever is unusual is said, or read, here
        return file.read()


def read_image(path: str | Path, limits: Limits = DEFAULT_LIMITS) -> UInt8Array:
    """The picture as uint8 H×W×3, RGB, turned upright by its EXIF orientation.

    Alpha is dropped; grey, palettes and CMYK become RGB. More than 8 bits are stretched linearly from the picture's
    own lowest to its highest value; :func:`read_raster` keeps them, and all bands. ImageReadError where the file is not
    a whole picture within the limits.
    """
    return decode_image(read_file(path, limits), path, limits)


def decode_image(data: bytes, where: str | Path = "the picture", limits: Limits = DEFAULT_LIMITS) -> UInt8Array:
    """:func:`read_image` for a file in memory; ``where`` names it in errors."""
    quick = _quick_image(data, limits)
    if quick is not None:
        return quick
    info = parse_header(data, where, limits)
    if info.format == "PNG" and info.bits <= 8:
        return _png_image(data, info, where)
    if info.format == "JPEG":
        pixels = _jpeg_pixels(data, info, where)
        if pixels is not None:
            return upright(pixels, info.orientation)
    if info.bits > 8:
        return _stretched(_deep(data, info, where, limits), where)
    return _pillow(data, info, where, limits, "RGB")


def read_mask(path: str | Path, limits: Limits = DEFAULT_LIMITS) -> MaskArray:
    """The values in a mask file: H×W indices (uint8 or uint16; a palette PNG keeps its indices), or H×W×3 colours."""
    return decode_mask(read_file(path, limits), path, limits)


def decode_mask(data: bytes, where: str | Path = "the mask", limits: Limits = DEFAULT_LIMITS) -> MaskArray:
    """:func:`read_mask` for a file in memory; ``where`` names it in errors."""
    quick = _quick_mask(data, limits)
    if quick is not None:
        return quick
    info = parse_header(data, where, limits)
    if info.format == "PNG":
        return _png_mask(data, info, where)
    if info.format == "JPEG":
        pixels = _jpeg_pixels(data, info, where, grey=info.mode == "L")
        if pixels is not None:
            return upright(pixels, info.orientation)
    if info.bits > 8:
        return integers(_deep(data, info, where, limits), where)
    wanted = {"1": "L", "LA": "L", "RGBA": "RGB", "CMYK": "RGB", "YCbCr": "RGB", "PA": "P"}.get(info.mode, info.mode)
    return _pillow(data, info, where, limits, wanted)


def _quick_image(data: bytes, limits: Limits) -> UInt8Array | None:
    """What most PNGs are, by the shortest way; None for any other file, and for whatever is wrong with it."""
    found = png.plain(data, limits)
    if found is None:
        return None
    pixels = png.opencv(data, _COLOUR)
    return None if pixels is None or pixels.shape != (found[0], found[1], 3) else _rgb(pixels)


def _quick_mask(data: bytes, limits: Limits) -> MaskArray | None:
    """What most masks are, by the shortest way; None for any other, and for whatever is wrong with it."""
    found = png.plain(data, limits)
    if found is None:
        return None
    height, width, colour, first_data = found
    if colour == 2:
        pixels = png.opencv(data, _COLOUR)
        return None if pixels is None or pixels.shape != (height, width, 3) else _rgb(pixels)
    pixels = png.opencv(png.as_grey(data, first_data) if colour == 3 else data, _GREY)
    return None if pixels is None or pixels.shape != (height, width) else pixels


def _png_image(data: bytes, info: ImageInfo, where: str | Path) -> UInt8Array:
    chunks = png.walk(data, info, where)
    pixels = png.opencv(data, _COLOUR)
    if pixels is None or pixels.shape != (info.height, info.width, 3):
        raise png.diagnose(data, info, where)
    return upright(_rgb(pixels), chunks.orientation)


def png_bands(data: bytes, info: ImageInfo, where: str | Path) -> npt.NDArray[Any]:
    """H×W×C as stored: 1 to 4 channels of 8 or 16 bits, alpha kept; palettes not."""
    chunks = png.walk(data, info, where)
    pixels = png.opencv(data, cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.shape[:2] != (info.height, info.width):
        raise png.diagnose(data, info, where)
    bands = {"L": [0], "I": [0], "LA": [0, 3]}.get(info.mode.split(";")[0])
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    elif bands is None:
        bands = [2, 1, 0, 3][: 4 if info.mode.startswith("RGBA") else 3]
    return upright(pixels if bands == [0] else pixels[..., bands], chunks.orientation)


def _deep(data: bytes, info: ImageInfo, where: str | Path, limits: Limits) -> npt.NDArray[Any]:
    """H×W×C of more than 8 bits, or of many bands."""
    if info.format == "TIFF":
        return tiff_pixels(data, where, limits)
    if info.format == "PNG":
        return png_bands(data, info, where)
    pixels = _pillow(data, info, where, limits, info.mode)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _png_mask(data: bytes, info: ImageInfo, where: str | Path) -> MaskArray:
    chunks = png.walk(data, info, where)
    if info.mode == "P":
        pixels = png.opencv(png.as_grey(data, chunks.first_data), _GREY)
        if pixels is not None and info.bits < 8:
            pixels //= _SCALE[info.bits]
    elif info.mode in ("1", "L", "I;16"):
        pixels = png.opencv(data, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION)
    elif info.mode in ("LA", "LA;16"):  # comes out as three equal channels
        pixels = png.opencv(data, _COLOUR | (cv2.IMREAD_ANYDEPTH if info.bits > 8 else 0))
        pixels = None if pixels is None else pixels[..., 0]
    else:
        pixels = png.opencv(data, _COLOUR)
        pixels = None if pixels is None else _rgb(pixels)
    if pixels is None or pixels.shape[:2] != (info.height, info.width):
        raise png.diagnose(data, info, where)
    return upright(pixels, chunks.orientation)


def _jpeg_pixels(data: bytes, info: ImageInfo, where: str | Path, *, grey: bool = False) -> UInt8Array | None:
    """As stored, not turned; None for the kinds that Pillow converts to RGB."""
    if info.mode in ("RGB", "L"):
        return jpeg.decode(data, info, where, grey=grey)
    if info.mode == "CMYK":
        jpeg.check_whole(data, where)
    return None


def _rgb(pixels: npt.NDArray[Any]) -> UInt8Array:
    return pixels if _RGB is not None else np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)


def _pillow(data: bytes, info: ImageInfo, where: str | Path, limits: Limits, mode: str) -> UInt8Array:
    with pillow_open(data, info.format, where, limits) as picture:
        try:
            picture.load()
            turned = picture if picture.mode == mode else _converted(picture, mode)
            # Pillow turns a TIFF by itself while loading, and nothing else.
            return upright(np.asarray(turned), 1 if info.format == "TIFF" else info.orientation)
        except Image.DecompressionBombError as error:
            raise unreadable(where, str(error), "too_large") from error
        except PILLOW_ERRORS as error:
            raise unreadable(where, f"a broken {info.format} ({error})") from error


def _converted(picture: Image.Image, mode: str) -> Image.Image:
    if picture.mode in ("RGBA", "LA", "PA") and mode in ("RGB", "L"):
        return picture.convert("RGBA").convert(mode)  # drops alpha, never blends it
    return picture.convert(mode)


def _stretched(raster: npt.NDArray[Any], where: str | Path) -> UInt8Array:
    """H×W×C of any type to uint8 H×W×3, from the lowest to the highest value; what is not a number becomes 0."""
    colours = raster.shape[2] - raster.shape[2] % 2 if raster.shape[2] in (2, 4) else raster.shape[2]
    colours = {1: 1, 2: 1, 3: 3, 4: 3}.get(colours, 0)
    if not colours:
        raise ImageReadError(
            "the picture has more bands than a colour picture",
            expected="1 to 4 bands",
            found=f"{raster.shape[2]} bands",
            where=where,
            fix="open it as a data set, which keeps all bands, or choose three of them",
            reason="bands",
        )
    values = raster[..., :colours]
    if values.dtype == np.uint8:
        image = values
    else:
        numbers = values.astype(np.float32)
        finite = np.isfinite(numbers)
        low = float(numbers.min(where=finite, initial=np.inf)) if finite.any() else 0.0
        high = float(numbers.max(where=finite, initial=-np.inf)) if finite.any() else 1.0
        scaled = (np.where(finite, numbers, low) - low) * (255.0 / max(high - low, 1e-9))
        image = np.clip(scaled, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(image if colours == 3 else np.repeat(image, 3, axis=2))


def integers(raster: npt.NDArray[Any], where: str | Path) -> MaskArray:
    """H×W×C of any type to mask values, H×W or H×W×3; ImageReadError where they are no whole numbers of 16 bits."""
    values = raster[..., 0] if raster.shape[2] <= 2 else raster[..., :3]
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    whole = np.nan_to_num(values, nan=-1.0) if values.dtype.kind == "f" else values
    low, high = whole.min(), whole.max()
    if low < 0 or high > 65535 or (values.dtype.kind == "f" and (whole != np.floor(whole)).any()):
        raise ImageReadError(
            "mask values must be whole numbers of 16 bits",
            expected="0 to 65535",
            found=f"{low} to {high} ({values.dtype})",
            where=where,
            fix="write the mask as an 8-bit or 16-bit PNG of class indices",
            reason="values",
        )
    return np.ascontiguousarray(whole.astype(np.uint16))
