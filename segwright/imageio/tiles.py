"""Windows of big TIFFs: of a raster that no memory holds, only the strips or tiles that a window touches are decoded.

tifffile reads them; rasterio (extra ``geo``) where tifffile lacks the compression. The limits hold for the window and
for each strip or tile, not for the whole.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segwright.core.errors import SegwrightError
from segwright.imageio.image_info import ImageInfo, check_limits, unreadable
from segwright.imageio.limits import DEFAULT_LIMITS, Limits
from segwright.imageio.tiff import Box, Segments, codec_missing, missing_codec

GDAL_CACHE = 64 << 20  # bytes of decoded blocks; its own default is a share of the machine's memory


@dataclass(frozen=True)
class TiffInfo:
    """Size, bands and number type of a TIFF's first page."""

    height: int
    width: int
    bands: int
    dtype: str


@contextmanager
def _typed(path: Path) -> Iterator[None]:
    """Every exception of tifffile becomes an ImageReadError."""
    try:
        yield
    except SegwrightError:
        raise
    except Exception as error:
        if codec_missing(error):
            raise missing_codec(error, path) from error
        raise unreadable(path, f"a broken TIFF ({type(error).__name__}: {str(error)[:120]})") from error


@contextmanager
def _page(path: Path) -> Iterator[Any]:
    """The first page, open."""
    import tifffile

    with _typed(path), tifffile.TiffFile(path) as file:
        page = file.pages.first
        if not 0 < page.samplesperpixel <= DEFAULT_LIMITS.max_bands:
            raise unreadable(path, f"a TIFF of {page.samplesperpixel} bands", "too_large")
        yield page


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
    check_limits(ImageInfo("TIFF", width, height, ""), Path(path), limits)
    with WindowReader(path, limits) as reader:
        return reader.read(top, left, height, width)


class WindowReader:
    """Many windows of one TIFF, whose file stays open until :meth:`close`. ``keep``: bytes of decoded strips or tiles
    that are kept for the windows that follow. Errors as of :func:`read_window`."""

    def __init__(self, path: str | Path, limits: Limits = DEFAULT_LIMITS, keep: int = 0) -> None:
        self.path, self._limits, self._keep = Path(path), limits, keep
        self._stack = ExitStack()
        self._segments: Segments | None = None
        self._page: Any = None
        self._raster: Any = None

    def __enter__(self) -> WindowReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._stack.close()
        self._segments = self._page = self._raster = None

    def read(self, top: int, left: int, height: int, width: int) -> npt.NDArray[Any]:
        """H×W×C of a window."""
        check_limits(ImageInfo("TIFF", width, height, ""), self.path, self._limits)
        box = (top, left, height, width)
        with _typed(self.path):
            if self._page is None:
                self._page = self._stack.enter_context(_page(self.path))
            page = self._page
            if min(top, left) < 0 or top + height > page.imagelength or left + width > page.imagewidth:
                raise unreadable(
                    self.path, f"{page.imagewidth}×{page.imagelength} pixels, and no window that reaches beyond"
                )
            try:
                return self._opened(page).read(box)
            except SegwrightError:
                raise
            except Exception as error:
                if not codec_missing(error):
                    raise
                return self._by_rasterio(box, error)

    def _by_rasterio(self, box: Box, error: Exception) -> npt.NDArray[Any]:
        """The window by rasterio; ``error`` where it is not installed."""
        if self._raster is None:
            self._raster = _by_rasterio(self.path)
            if self._raster is None:
                raise error
            self._stack.enter_context(self._raster)
        import rasterio

        top, left, height, width = box
        with rasterio.Env(GDAL_CACHEMAX=max(self._keep, GDAL_CACHE)):
            found = self._raster.read(window=rasterio.windows.Window(left, top, width, height))
        return np.ascontiguousarray(np.moveaxis(found, 0, 2))

    def _opened(self, page: Any) -> Segments:
        if self._segments is None:
            file = self._stack.enter_context(open(self.path, "rb"))  # noqa: SIM115

            def fetch(offset: int, count: int) -> bytes:
                file.seek(offset)
                return file.read(count)

            size = os.path.getsize(self.path)
            self._segments = Segments(page, fetch, size, self.path, self._limits, self._keep)
        return self._segments


def _by_rasterio(path: Path) -> Any:
    """The file as rasterio opens it, for compressions that tifffile leaves to others; None where it is missing."""
    try:
        import rasterio
    except ImportError:
        return None
    # By this driver alone: a file of another kind may name others to be read, and addresses to be fetched.
    return rasterio.open(path, driver="GTiff")
