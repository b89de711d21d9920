"""Bands, bits and value range of a dataset's images, measured on a few of them.

A dataset of 8-bit gray, palette or color images is read as RGB. Any other keeps its bands, and its numbers become
8 bit by one range for the whole dataset, so that two images of one place stay comparable and a model can save the
range: the 0.5th to the 99.5th percentile of the sample (0 to 1 where floating-point numbers stay within), one for all
bands up to four, one a band beyond.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segwright.core.errors import DataError
from segwright.data.formats.mask_histogram import spread_order
from segwright.data.records import ValueRange
from segwright.imageio import ImageInfo, read_header, read_raster, read_window, sniff, tiff_info
from segwright.imageio.sandbox import map_isolated

HEADERS = 48  # how many headers are looked at
RASTERS = 12  # how many images are decoded where the range has to be found
PIXELS = 24_000_000
MIDDLE = 2048  # side of the part of a big raster that is looked at


@dataclass(frozen=True)
class PixelFormat:
    """``bands`` None: 8-bit images, read as RGB."""

    bands: int | None = None
    value_range: ValueRange | None = None
    notes: tuple[str, ...] = ()


def find_pixel_format(paths: Sequence[Path]) -> PixelFormat:
    """Look at a spread of the images; unreadable ones are passed over, for reading them is what reports them."""
    sampled = [paths[i] for i in spread_order(len(paths))[:HEADERS]]
    special = [path for path, found in zip(sampled, _special(sampled), strict=True) if found]
    if len(special) * 2 <= len(sampled):
        return PixelFormat()
    budget, rasters = PIXELS, []
    with contextlib.closing(map_isolated(_look, special[:RASTERS], batch=1)) as outcomes:
        for outcome in outcomes:
            try:
                raster: npt.NDArray[Any] = outcome.get()
            except DataError:
                continue
            rasters.append(raster)
            budget -= raster.size
            if budget <= 0:
                break
    if not rasters:
        return PixelFormat()
    counts = [raster.shape[2] for raster in rasters]
    bands = max(set(counts), key=counts.count)
    same = [raster for raster in rasters if raster.shape[2] == bands]
    types = sorted({str(raster.dtype) for raster in same})
    note = f"images of {bands} band{'s' if bands > 1 else ''}, {', '.join(types)}"
    if types == ["uint8"]:
        return PixelFormat(bands if bands not in (1, 3) else None, None, (note,))
    found = range_of(same, bands)
    low, high = (", ".join(f"{v:g}" for v in values) for values in (found.low, found.high))
    return PixelFormat(bands, found, (f"{note}; {low} becomes 0 and {high} becomes 255 in every image",))


def _look(path: Path) -> npt.NDArray[Any]:
    """An image's pixels; of a raster that is larger than the budget its middle."""
    found = tiff_info(path) if path.suffix.lower() in (".tif", ".tiff") else None
    if found is None or found.height * found.width <= PIXELS // 4:
        return read_raster(path)
    height, width = min(found.height, MIDDLE), min(found.width, MIDDLE)
    return read_window(path, (found.height - height) // 2, (found.width - width) // 2, height, width)


def _special(paths: Sequence[Path]) -> list[bool]:
    """Whether each is special. The headers of PNG and JPEG are read here, any other, by others' parsers, in a child."""
    found: dict[Path, bool] = {path: _is_special(path) for path in paths if _is_plain(path)}
    rest = [path for path in paths if path not in found]
    if rest:
        for path, outcome in zip(rest, map_isolated(_is_special, rest), strict=True):
            found[path] = bool(outcome.result)
    return [found[path] for path in paths]


def _is_plain(path: Path) -> bool:
    try:
        if not path.is_file():
            return True  # read_header raises for it
        with open(path, "rb") as file:
            return sniff(file.read(16)) in ("PNG", "JPEG")
    except OSError:
        return True


def _is_special(path: Path) -> bool:
    try:
        info: ImageInfo = read_header(path)
    except DataError:
        found = tiff_info(path) if path.suffix.lower() in (".tif", ".tiff") else None  # beyond the limits, but windowed
        return found is not None and (found.dtype != "uint8" or found.bands not in (1, 3))
    if info.bits > 8 or info.mode == "F" or info.mode.startswith("I"):
        return True
    return info.format == "TIFF" and info.mode not in ("L", "RGB", "P", "1", "CMYK", "YCbCr")


def range_of(rasters: Sequence[npt.NDArray[Any]], bands: int) -> ValueRange:
    samples = [raster.reshape(-1, bands)[:: max(1, raster.shape[0] * raster.shape[1] // 200_000)] for raster in rasters]
    values = np.concatenate([sample.astype(np.float64) for sample in samples])
    values[~np.isfinite(values)] = np.nan
    if np.isnan(values).all():
        return ValueRange.of(0.0, 1.0)
    if rasters[0].dtype.kind == "f" and np.nanmin(values) >= 0 and np.nanmax(values) <= 1:
        return ValueRange.of(0.0, 1.0)
    axis = None if bands <= 4 else 0
    low, high = np.nanpercentile(values, (0.5, 99.5), axis=axis)
    low, high = np.nan_to_num(np.atleast_1d(low)), np.nan_to_num(np.atleast_1d(high))
    high = np.where(high > low, high, low + 1)  # a constant band
    return ValueRange.of(tuple(low.tolist()), tuple(high.tolist()))
