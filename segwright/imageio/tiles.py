"""Windows of big TIFFs: of a raster that no memory holds, only the strips or tiles that a window touches are decoded.

tifffile reads them; rasterio (extra ``geo``) where tifffile lacks the compression. The limits hold for the window and
for each strip or tile, not for the whole.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segwright.core.errors import SegwrightError
from segwright.imageio.image_info import ImageInfo, check_limits, unreadable
from segwright.imageio.limits import DEFAULT_LIMITS, Limits
from segwright.imageio.tiff import Box, codec_missing, missing_codec, read_segments


@dataclass(frozen=True)
class TiffInfo:
    """Size, bands and number type of a TIFF's first page."""

    height: int
    width: int
    bands: int
    dtype: str


@contextmanager
def _page(path: Path) -> Iterator[Any]:
    """The first page, open; every exception of tifffile becomes an ImageReadError."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            if not 0 < page.samplesperpixel <= DEFAULT_LIMITS.max_bands:
                raise unreadable(path, f"a TIFF of {page.samplesperpixel} bands", "too_large")
            yield page
    except SegwrightError:
        raise
    except Exception as error:
        if codec_missing(error):
            raise missing_codec(error, path) from error
        raise unreadable(path, f"a broken TIFF ({type(error).__name__}: {str(error)[:120]})") from error


def tiff_info(path: str | Path) -> TiffInfo | None:
    """Size, bands and number type, whatever the size; None if it is no plain TIFF page that can be read by windows."""
    try:
        with _page(Path(path)) as page:
            turned = page.tags.get(274)
            if page.imagedepth != 1 or page.dtype is None or (turned is not None and turned.value != 1):
                return None
            return TiffInfo(page.imagelength, page.imagewidth, page.samplesperpixel, str(page.dtype))
    except SegwrightError:
        return None


def read_window(
    path: str | Path, top: int, left: int, height: int, width: int, limits: Limits = DEFAULT_LIMITS
) -> npt.NDArray[Any]:
    """H×W×C of a part of a TIFF's first page, in its own number type.

    ImageReadError where the file is broken or the window is not inside it; MissingExtraError where the compression
    needs another package.
    """
    path = Path(path)
    check_limits(ImageInfo("TIFF", width, height, ""), path, limits)
    with _page(path) as page:
        if min(top, left) < 0 or top + height > page.imagelength or left + width > page.imagewidth:
            raise unreadable(path, f"{page.imagewidth}×{page.imagelength} pixels, and no window that reaches beyond")
        try:
            return _by_segments(page, path, (top, left, height, width), limits)
        except SegwrightError:
            raise
        except Exception as error:
            if not codec_missing(error):
                raise
            found = _by_rasterio(path, (top, left, height, width))
            if found is None:
                raise
            return found


def _by_segments(page: Any, path: Path, box: Box, limits: Limits) -> npt.NDArray[Any]:
    with open(path, "rb") as file:

        def fetch(offset: int, count: int) -> bytes:
            file.seek(offset)
            return file.read(count)

        return read_segments(page, fetch, os.path.getsize(path), box, path, limits)


def _by_rasterio(path: Path, box: Box) -> npt.NDArray[Any] | None:
    """The window by rasterio; None where it is not installed."""
    try:
        import rasterio
    except ImportError:
        return None
    top, left, height, width = box
    try:
        # By this driver alone: a file of another kind may name others to be read, and addresses to be fetched.
        with rasterio.open(path, driver="GTiff") as file:
            window = rasterio.windows.Window(left, top, width, height)
            return np.ascontiguousarray(np.moveaxis(file.read(window=window), 0, 2))
    except rasterio.errors.RasterioError as error:
        raise unreadable(path, f"a broken TIFF ({str(error)[:120]})") from error
