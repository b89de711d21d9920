"""The pages of a multi-page TIFF, each an image of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from segwright.core.errors import SegwrightError
from segwright.imageio import UInt8Array, page_count, read_header, read_raster
from segwright.inference.predictor import Predictor

TIFF = (".tif", ".tiff")


def page_images(predictor: Predictor, path: Path) -> Iterator[UInt8Array] | None:
    """The pages of a TIFF, read as :meth:`Predictor.read` reads a file; None for a file of one page, and for one whose
    pages are the bands of one image: as many as the model's channels, of one band each."""
    if path.suffix.lower() not in TIFF:
        return None
    try:
        count = page_count(path)
        if count < 2 or (count == predictor.runtime.in_channels and predictor.value_range is not None):
            return None
        if count == predictor.runtime.in_channels and count > 3 and read_header(path).bits <= 8:
            return None
    except SegwrightError:
        return None  # reading it reports what is wrong
    return _pages(predictor, path, count)


def _pages(predictor: Predictor, path: Path, count: int) -> Iterator[UInt8Array]:
    for page in range(count):
        if predictor.value_range is not None:
            yield predictor.scaled(read_raster(path, page=page), path)
        else:
            yield predictor.eight_bits(path, page)
