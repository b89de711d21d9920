"""TIFF with tifffile: any bands, any number type; what is missing is an error, not zeros."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from segwright.errors import ImageReadError, MissingExtraError, TooLargeError
from segwright.images.headers import ImageInfo, check_directories, check_limits, unreadable, upright
from segwright.images.limits import Limits

T = TypeVar("T")
MAX_BANDS = 512
_LEADING = "CSIQZTR"  # axes that count bands where they stand before Y and X


def tiff_header(data: bytes, where: str | Path, limits: Limits) -> ImageInfo:
    """For the kinds that Pillow does not know: many bands, odd number types."""
    return _open(data, where, limits, lambda series: _info(series, where))


def tiff_pixels(data: bytes, where: str | Path, limits: Limits) -> npt.NDArray[Any]:
    """H×W×C in the file's number type, turned upright; a stack of equal pages counts as bands.

    Compressions that tifffile leaves to others (LZW, Zstandard, LERC) are read by rasterio; MissingExtraError without.
    """
    try:
        return _open(data, where, limits, lambda series: _pixels(series, where))
    except MissingExtraError:
        found = _by_rasterio(data, where, limits)
        if found is None:
            raise
        return found


def _info(series: Any, where: str | Path) -> ImageInfo:
    sides = dict(zip(series.axes, series.shape, strict=True))
    bands = int(np.prod(series.shape)) // (sides["Y"] * sides["X"])
    return ImageInfo(
        "TIFF", sides["X"], sides["Y"], f"{bands} bands {series.dtype}", _orientation(series), series.dtype.itemsize * 8
    )


def _pixels(series: Any, where: str | Path) -> npt.NDArray[Any]:
    return upright(_to_bands(series.asarray(), series.axes, where), _orientation(series))


def _orientation(series: Any) -> int:
    tag = series.keyframe.tags.get(274)
    return int(tag.value) if tag is not None and tag.value in range(1, 9) else 1


def _open(data: bytes, where: str | Path, limits: Limits, use: Callable[[Any], T]) -> T:
    import tifffile

    check_directories(data, where)
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            if not file.series:
                raise unreadable(where, "a TIFF without a picture")
            series = file.series[0]
            _check_size(series.shape, series.axes, series.dtype, where, limits)
            _check_data(file, series, len(data), where)
            return use(series)
    except ImageReadError:
        raise
    except Exception as error:
        # tifffile raises whatever its parsing trips over (struct, index, type, zlib errors); all else is a broken file.
        if codec_missing(error):
            raise missing_codec(error, where) from error
        raise unreadable(where, f"a broken TIFF ({type(error).__name__}: {str(error)[:120]})") from error


def codec_missing(error: BaseException) -> bool:
    """Whether an exception of tifffile's is about a compression that it leaves to another package."""
    return isinstance(error, ImportError) or "imagecodecs" in str(error)


def missing_codec(error: BaseException, where: str | Path) -> MissingExtraError:
    return MissingExtraError(
        "this TIFF's compression needs another package",
        found=str(error).split("\n")[0],
        where=where,
        fix="pip install 'segwright[geo]', or save the file uncompressed or with deflate",
    )


def _by_rasterio(data: bytes, where: str | Path, limits: Limits) -> npt.NDArray[Any] | None:
    """H×W×C by rasterio, from memory; None where it is not installed."""
    try:
        import rasterio
    except ImportError:
        return None
    try:
        # By this driver alone: a file of another kind may name others to be read, and addresses to be fetched.
        with rasterio.MemoryFile(data) as memory, memory.open(driver="GTiff") as file:
            _check_size((file.count, file.height, file.width), "SYX", np.dtype(file.dtypes[0]), where, limits)
            return np.ascontiguousarray(np.moveaxis(file.read(), 0, 2))
    except rasterio.errors.RasterioError as error:
        raise unreadable(where, f"a broken TIFF ({str(error)[:120]})") from error


def _check_size(shape: tuple[int, ...], axes: str, dtype: Any, where: str | Path, limits: Limits) -> None:
    sides = dict(zip(axes, shape, strict=True))
    height, width = sides.get("Y", 0), sides.get("X", 0)
    if not height or not width or dtype is None:
        raise unreadable(where, f"a TIFF that is no picture (axes {axes}, shape {shape})")
    check_limits(ImageInfo("TIFF", width, height, str(dtype)), where, limits)
    total = 1
    for side in shape:
        total *= side
    bands = total // (height * width)
    if bands > MAX_BANDS or total * dtype.itemsize > limits.max_bytes:
        raise TooLargeError(
            "the TIFF asks for more memory than the limit",
            expected=f"at most {MAX_BANDS} bands and {limits.max_bytes} bytes",
            found=f"{bands} bands of {width}×{height}, {dtype}",
            where=where,
            fix="cut it into tiles",
        )


def _check_data(file: Any, series: Any, size: int, where: str | Path) -> None:
    """Strips and tiles lie inside the file: tifffile fills what is missing with zeros."""
    for page in series.pages:
        if page is None:
            raise unreadable(where, "a TIFF with a page missing")
        page = page.aspage() if hasattr(page, "aspage") else page
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
            if offset + count > size:
                raise unreadable(where, f"a TIFF cut off after {size} bytes", "truncated")


def _to_bands(values: npt.NDArray[Any], axes: str, where: str | Path) -> npt.NDArray[Any]:
    """Any axes with Y and X to H×W×C."""
    keep = [i for i, axis in enumerate(axes) if axis in "YX" or values.shape[i] > 1]
    values, axes = values.reshape([values.shape[i] for i in keep]), "".join(axes[i] for i in keep)
    if axes == "YX":
        return np.ascontiguousarray(values[..., None])
    if axes[:2] == "YX" and len(axes) == 3:
        return np.ascontiguousarray(values)
    if axes[-2:] == "YX" and all(axis in _LEADING for axis in axes[:-2]):
        stacked = values.reshape(-1, *values.shape[-2:])
        return np.ascontiguousarray(stacked.transpose(1, 2, 0))
    if axes[-3:-1] == "YX" and len(axes) == 4:  # a stack of colour pages: the first is the picture
        return np.ascontiguousarray(values[0])
    raise unreadable(where, f"a TIFF with axes {axes}, shape {values.shape}")
