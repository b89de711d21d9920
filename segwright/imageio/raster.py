"""Images with more than three bands or more than 8 bits, in the number type they were stored in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy.typing as npt

from segwright.imageio.decode import decode_image, png_bands, read_file
from segwright.imageio.headers import parse_header, read_header, reading, sniff
from segwright.imageio.limits import DEFAULT_LIMITS, Limits
from segwright.imageio.tiff import tiff_pixels


def read_raster(path: str | Path, limits: Limits = DEFAULT_LIMITS, *, page: int | None = None) -> npt.NDArray[Any]:
    """H×W×C in the file's own number type, turned upright; ImageReadError where the file is not whole.

    TIFF: all bands, a stack of equal pages of one band counting as bands where no ``page`` is chosen. PNG: 1 to 4
    channels of 8 or 16 bits, alpha kept. What else there is comes as uint8 H×W×3, as from :func:`read_image`.
    """
    return decode_raster(read_file(path, limits), path, limits, page=page)


def decode_raster(
    data: bytes, where: str | Path = "the image", limits: Limits = DEFAULT_LIMITS, *, page: int | None = None
) -> npt.NDArray[Any]:
    """:func:`read_raster` for a file in memory."""
    with reading(where):
        if sniff(data) == "TIFF":
            return tiff_pixels(data, where, limits, page)
        info = parse_header(data, where, limits)
        if info.format == "PNG" and info.mode not in ("P", "1"):
            return png_bands(data, info, where)
        return decode_image(data, where, limits, page=page)


def page_count(path: str | Path, limits: Limits = DEFAULT_LIMITS) -> int:
    """How many images a file holds: the pages of a TIFF, without its smaller copies and masks; 1 of any other file."""
    return read_header(path, limits).pages
