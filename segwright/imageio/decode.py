"""Decode bytes to pixels by the fastest decoder that detects broken files.

PNG and JPEG go to OpenCV, the rest to Pillow, floating-point and many-band TIFF to tifffile. OpenCV's habits are
undone: it gives BGR (asked for RGB), spreads palettes into colors (a palette mask is handed over as gray, so that its
indices come out) and turns by EXIF (switched off; we turn images and masks alike).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from segwright.core.counted import counted
from segwright.core.errors import ImageReadError, SegwrightError
from segwright.imageio import jpeg, png
from segwright.imageio.headers import open_checked, parse_header, pillow_open, reading
from segwright.imageio.image_info import ImageInfo, UInt8Array, apply_exif_orientation, unreadable
from segwright.imageio.limits import DEFAULT_LIMITS, Limits
from segwright.imageio.tiff import directory_of, tiff_pixels

# OpenCV before 4.11 cannot hand out RGB itself.
_RGB: int | None = getattr(cv2, "IMREAD_COLOR_RGB", None)
_COLOR = (_RGB if _RGB is not None else cv2.IMREAD_COLOR) | cv2.IMREAD_IGNORE_ORIENTATION
_GRAY = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION
_SCALE = {1: 255, 2: 85, 4: 17}  # how libpng spreads few gray levels over 0…255
PIECE = 1 << 20  # values that are stretched at a time
_FLAGS = getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)  # a pipe must not be waited for

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
            pass  # a folder, a broken disk: reported below
        finally:
            os.close(handle)
    with open_checked(path, limits) as file:  # whatever is unusual is reported, or read, here
        return file.read()


def read_image(path: str | Path, limits: Limits = DEFAULT_LIMITS, *, page: int | None = None) -> UInt8Array:
    """The image as uint8 H×W×3, RGB, turned upright by its EXIF orientation.

    Alpha is dropped (see :attr:`ImageInfo.alpha` of the header); gray, palettes and CMYK become RGB. More than 8 bits
    are stretched linearly from the image's own lowest to its highest value; :func:`read_raster` keeps them, and all
    bands. ``page`` chooses one of a TIFF's pages, from 0. ImageReadError where the file is not a whole image within the
    limits, has several frames (``animated``), or several pages and none was chosen (``pages``).
    """
    return decode_image(read_file(path, limits), path, limits, page=page)


def decode_image(
    data: bytes, where: str | Path = "the image", limits: Limits = DEFAULT_LIMITS, *, page: int | None = None
) -> UInt8Array:
    """:func:`read_image` for a file in memory; ``where`` names it in errors."""
    quick = _quick_image(data, limits) if not page else None
    if quick is not None:
        return quick
    with reading(where):
        info = parse_header(data, where, limits)
        page = _page(info, page, where)
        if info.format == "PNG" and info.bits <= 8:
            return _png_image(data, info, where)
        if info.format == "JPEG":
            pixels = _jpeg_pixels(data, info, where)
            if pixels is not None:
                return apply_exif_orientation(pixels, info.orientation)
        if info.bits > 8 or "bands" in info.mode:
            return stretched(_deep(data, info, where, limits, page), where)
        return _pillow(data, info, where, limits, "RGB", page)


def read_mask(
    path: str | Path,
    limits: Limits = DEFAULT_LIMITS,
    *,
    page: int | None = None,
    channel: int | Literal["alpha"] | None = None,
) -> MaskArray:
    """The values in a mask file: H×W indices (uint8 or uint16; a palette PNG keeps its indices), or H×W×3 colors.

    Nothing that separates pixels is dropped: ImageReadError where the alpha channel holds more than the colors, where
    three channels have more than 8 bits, or where there are other bands or several pages. ``channel`` (from 0, or
    "alpha") reads one of the channels alone, ``page`` one of a TIFF's pages.
    """
    return decode_mask(read_file(path, limits), path, limits, page=page, channel=channel)


def decode_mask(
    data: bytes,
    where: str | Path = "the mask",
    limits: Limits = DEFAULT_LIMITS,
    *,
    page: int | None = None,
    channel: int | Literal["alpha"] | None = None,
) -> MaskArray:
    """:func:`read_mask` for a file in memory; ``where`` names it in errors."""
    quick = _quick_mask(data, limits) if channel is None and not page else None
    if quick is not None:
        return quick
    with reading(where):
        info = parse_header(data, where, limits)
        page = _page(info, page, where)
        if channel is not None:
            return _one_channel(_deep(data, info, where, limits, page), info, channel, where)
        if info.format == "PNG":
            return _png_mask(data, info, where)
        if info.format == "JPEG":
            pixels = _jpeg_pixels(data, info, where, gray=info.mode == "L")
            if pixels is not None:
                return apply_exif_orientation(pixels, info.orientation)
        if info.bits > 8 or "bands" in info.mode:
            return integers(_deep(data, info, where, limits, page), where)
        if info.mode in ("RGBA", "LA", "PA"):
            raster = _pillow(data, info, where, limits, "LA" if info.mode == "LA" else "RGBA", page)
            return integers(raster, where)
        wanted = {"1": "L", "CMYK": "RGB", "YCbCr": "RGB", "RGBX": "RGB"}.get(info.mode, info.mode)
        return _pillow(data, info, where, limits, wanted, page)


def _page(info: ImageInfo, page: int | None, where: str | Path) -> int:
    """The page to read: the chosen one, or the only one."""
    if page is None and info.pages > 1:
        raise ImageReadError(
            "the file has several pages",
            expected="one image per file",
            found=f"{info.pages} pages",
            where=where,
            fix="split it into a file per page (tiffsplit), or choose one (in Python: read_image(path, page=0))",
            reason="pages",
        )
    if page is not None and not 0 <= page < info.pages:
        raise ImageReadError(
            "the file has no such page", expected=f"0 to {info.pages - 1}", found=str(page), where=where, reason="pages"
        )
    return page or 0


def _one_channel(
    raster: npt.NDArray[Any], info: ImageInfo, channel: int | Literal["alpha"], where: str | Path
) -> MaskArray:
    bands = raster.shape[2]
    if (channel == "alpha" and not info.alpha) or (channel != "alpha" and not 0 <= channel < bands):
        raise ImageReadError(
            "the mask has no such channel",
            expected=f"0 to {bands - 1}" + (", or alpha" if info.alpha else ""),
            found=str(channel),
            where=where,
            reason="bands",
        )
    place = bands - 1 if channel == "alpha" else channel
    return integers(raster[..., place : place + 1], where)


def _quick_image(data: bytes, limits: Limits) -> UInt8Array | None:
    """Fast path for most PNG images; None for any other file, and for every broken one."""
    found = png.fast_header(data, limits)
    if found is None:
        return None
    pixels = png.opencv(data, _COLOR)
    return None if pixels is None or pixels.shape != (found[0], found[1], 3) else _rgb(pixels)


def _quick_mask(data: bytes, limits: Limits) -> MaskArray | None:
    """Fast path for most masks; None for any other file, and for every broken one."""
    found = png.fast_header(data, limits)
    if found is None:
        return None
    height, width, color, first_data = found
    if color == 2:
        pixels = png.opencv(data, _COLOR)
        return None if pixels is None or pixels.shape != (height, width, 3) else _rgb(pixels)
    pixels = png.opencv(png.as_gray(data, first_data) if color == 3 else data, _GRAY)
    return None if pixels is None or pixels.shape != (height, width) else pixels


def _png_image(data: bytes, info: ImageInfo, where: str | Path) -> UInt8Array:
    chunks = png.parse_chunks(data, info, where)
    pixels = png.opencv(data, _COLOR)
    if pixels is None or pixels.shape != (info.height, info.width, 3):
        raise png.explain_failure(data, info, where)
    return apply_exif_orientation(_rgb(pixels), chunks.orientation)


def png_bands(data: bytes, info: ImageInfo, where: str | Path) -> npt.NDArray[Any]:
    """H×W×C as stored: 1 to 4 channels of 8 or 16 bits, alpha kept; palettes not."""
    chunks = png.parse_chunks(data, info, where)
    pixels = png.opencv(data, cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.shape[:2] != (info.height, info.width):
        raise png.explain_failure(data, info, where)
    bands = {"L": [0], "I": [0], "LA": [0, 3]}.get(info.mode.split(";")[0])
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    elif bands is None:
        bands = [2, 1, 0, 3][: 4 if info.mode.startswith("RGBA") else 3]
    return apply_exif_orientation(pixels if bands == [0] else pixels[..., bands], chunks.orientation)


def _deep(data: bytes, info: ImageInfo, where: str | Path, limits: Limits, page: int = 0) -> npt.NDArray[Any]:
    """H×W×C with all bits and bands."""
    if info.format == "TIFF":
        return tiff_pixels(data, where, limits, page)
    if info.format == "PNG" and info.mode != "P":
        return png_bands(data, info, where)
    pixels = _pillow(data, info, where, limits, info.mode)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _png_mask(data: bytes, info: ImageInfo, where: str | Path) -> MaskArray:
    if info.alpha or info.mode == "RGB;16":
        return integers(png_bands(data, info, where), where)
    chunks = png.parse_chunks(data, info, where)
    if info.mode == "P":
        pixels = png.opencv(png.as_gray(data, chunks.first_data), _GRAY)
        if pixels is not None and info.bits < 8:
            pixels //= _SCALE[info.bits]
    elif info.mode in ("1", "L", "I;16"):
        pixels = png.opencv(data, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION)
    else:
        pixels = png.opencv(data, _COLOR)
        pixels = None if pixels is None else _rgb(pixels)
    if pixels is None or pixels.shape[:2] != (info.height, info.width):
        raise png.explain_failure(data, info, where)
    return apply_exif_orientation(pixels, chunks.orientation)


def _jpeg_pixels(data: bytes, info: ImageInfo, where: str | Path, *, gray: bool = False) -> UInt8Array | None:
    """Pixels as stored, without EXIF rotation; None for the kinds that Pillow converts to RGB."""
    if info.mode in ("RGB", "L"):
        return jpeg.decode(data, info, where, gray=gray)
    if info.mode == "CMYK":
        jpeg.check_whole(data, where)
    return None


def _rgb(pixels: npt.NDArray[Any]) -> UInt8Array:
    return pixels if _RGB is not None else np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)


def _pillow(data: bytes, info: ImageInfo, where: str | Path, limits: Limits, mode: str, page: int = 0) -> UInt8Array:
    with pillow_open(data, info.format, where, limits) as image:
        try:
            if page:
                image.seek(directory_of(data, page, where, limits))
            image.load()
            turned = image if image.mode == mode else _converted(image, mode)
            # Pillow turns a TIFF by itself while loading, and nothing else.
            return apply_exif_orientation(np.asarray(turned), 1 if info.format == "TIFF" else info.orientation)
        except Image.DecompressionBombError as error:
            raise unreadable(where, str(error), "too_large") from error
        except SegwrightError:
            raise
        except Exception as error:  # whatever its parsing trips over
            cut = "truncated" in str(error)
            raise unreadable(where, f"a broken {info.format} ({error})", "truncated" if cut else "corrupt") from error


def _converted(image: Image.Image, mode: str) -> Image.Image:
    if image.mode in ("RGBA", "LA", "PA") and mode in ("RGB", "L"):
        return image.convert("RGBA").convert(mode)  # drops alpha, never blends it
    return image.convert(mode)


def stretched(raster: npt.NDArray[Any], where: str | Path) -> UInt8Array:
    """H×W×C of any type to uint8 H×W×3, from the lowest to the highest value; what is not a number becomes 0."""
    colors = raster.shape[2] - raster.shape[2] % 2 if raster.shape[2] in (2, 4) else raster.shape[2]
    colors = {1: 1, 2: 1, 3: 3, 4: 3}.get(colors, 0)
    if not colors:
        raise ImageReadError(
            "the image has more bands than a color image",
            expected="1 to 4 bands",
            found=f"{raster.shape[2]} bands",
            where=where,
            fix="open it as a dataset, which keeps all bands, or choose three of them",
            reason="bands",
        )
    values = raster[..., :colors]
    if values.dtype == np.uint8:
        image = values
    else:
        low, high = _range(values)
        factor = 255.0 / max(high - low, 1e-9)
        image = np.empty(values.shape, np.uint8)
        for rows in _pieces(values):
            numbers = values[rows].astype(np.float32)
            numbers[~np.isfinite(numbers)] = low
            numbers -= low
            numbers *= factor
            image[rows] = np.clip(numbers, 0, 255, out=numbers)
    return np.ascontiguousarray(image if colors == 3 else np.repeat(image, 3, axis=2))


def _pieces(values: npt.NDArray[Any]) -> Iterator[slice]:
    """Rows of an image, so many at a time that a copy of them in float32 is small."""
    rows = max(1, PIECE // max(1, values[:1].size))
    return (slice(top, top + rows) for top in range(0, len(values), rows))


def _range(values: npt.NDArray[Any]) -> tuple[float, float]:
    """The lowest and the highest finite value as float32 holds them; 0 and 1 where there is none."""
    low, high = np.inf, -np.inf
    for rows in _pieces(values):
        numbers = values[rows].astype(np.float32)
        finite = np.isfinite(numbers)
        low = min(low, float(numbers.min(where=finite, initial=np.inf)))
        high = max(high, float(numbers.max(where=finite, initial=-np.inf)))
    return (low, high) if low <= high else (0.0, 1.0)


def integers(raster: npt.NDArray[Any], where: str | Path) -> MaskArray:
    """H×W×C of any type to mask values, H×W or H×W×3.

    ImageReadError where they are no whole numbers of 16 bits, or where something that separates pixels would be lost.
    """
    bands = raster.shape[2]
    if bands in (2, 4):
        raster = _without_alpha(raster, where)
    elif bands not in (1, 3):
        raise ImageReadError(
            "the mask has more bands than a mask",
            expected="one band of class ids, or three of colors",
            found=f"{bands} bands",
            where=where,
            fix="write the band that holds the classes to a file of its own",
            reason="bands",
        )
    values = raster[..., 0] if raster.shape[2] == 1 else raster
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    whole = np.nan_to_num(values, nan=-1.0) if values.dtype.kind == "f" else values
    low, high = whole.min(), whole.max()
    empty = int(np.isnan(values).sum()) if values.dtype.kind == "f" else 0
    if low < 0 or high > 65535 or (values.dtype.kind == "f" and (whole != np.floor(whole)).any()):
        raise ImageReadError(
            "mask values must be whole numbers of 16 bits",
            expected="0 to 65535",
            found=f"{low} to {high} ({values.dtype})"
            if not empty
            else f"not a number (NaN) in {counted(empty, 'pixel')}",
            where=where,
            fix="write the mask as an 8-bit or 16-bit PNG of class indices"
            + (", with 255 where it is not a number" if empty else ""),
            reason="values",
        )
    if values.ndim == 3 and (values[..., 0] == values[..., 1]).all() and (values[..., 0] == values[..., 2]).all():
        values, whole = values[..., 0], whole[..., 0]  # gray, saved in three channels
    if values.ndim == 3 and not (whole % 257).any():  # colors of 8 bits, spread over 16
        return np.ascontiguousarray((whole // 257).astype(np.uint8))
    if values.ndim == 3:
        highest = ", ".join(str(values[..., band].max()) for band in range(3))
        raise ImageReadError(
            "the mask has three channels of more than 8 bits, which are no colors",
            expected="one channel of class ids, or colors of 8 bits",
            found=f"3 channels of 16 bits with values up to {highest}",
            where=where,
            fix="write the channel that holds the classes to a file of its own (in Python: read_mask(path, channel=0))",
            reason="bands",
        )
    return np.ascontiguousarray(whole.astype(np.uint16))


MANY_COLORS = 256  # more in one mask are no classes: that each has one alpha is an accident


def _without_alpha(raster: npt.NDArray[Any], where: str | Path) -> npt.NDArray[Any]:
    """The channels before the last, if the last follows from them; ImageReadError if it holds more."""
    colors, alpha = raster[..., :-1], raster[..., -1]
    low, high = alpha.min(), alpha.max()
    if low == high:
        return colors
    keys = colors[..., 0].astype(np.uint64)
    for band in range(1, colors.shape[2]):
        keys = keys << np.uint64(16) | colors[..., band].astype(np.uint64)
    alone = np.unique(keys)
    if alone.size <= MANY_COLORS and np.unique(keys << np.uint64(16) | alpha.astype(np.uint64)).size == alone.size:
        return colors
    raise ImageReadError(
        "the mask has an alpha channel that differs from its colors",
        expected="an opaque mask, or one whose transparency follows from its colors",
        found=f"alpha from {low} to {high} over {alone.size} color{'s' if alone.size > 1 else ''}",
        where=where,
        fix="if the alpha channel is the mask, save it as a gray PNG of its own (in Python: read_mask(path, "
        "channel='alpha')); if the colors are, save them without alpha",
        reason="bands",
    )
