"""TIFF with tifffile: any bands, any number type; what is missing is an error, not zeros.

Strips and tiles are unpacked here, to the size that the header gives them and no further: tifffile unpacks whatever
comes, and a strip of a few hundred kilobytes can hold gigabytes of zeros.
"""

from __future__ import annotations

import io
import lzma
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from segwright.core.errors import ImageReadError, MissingExtraError, TooLargeError
from segwright.imageio.image_info import ImageInfo, apply_exif_orientation, check_limits, unreadable
from segwright.imageio.limits import Limits
from segwright.imageio.tiff_tags import directories, pages

T = TypeVar("T")
_LEADING = "CSIQZTR"  # axes that count bands where they stand before Y and X
_DEFLATE, _LZMA, _PACKBITS = (8, 32946), 34925, 32773
_LZMA_MEMORY = 256 << 20  # for the dictionary that a stream requests
_SLACK = 4096  # bytes that a strip may hold beyond its size: some writers pad
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))

Box = tuple[int, int, int, int]  # top, left, height, width


def tiff_header(data: bytes, where: str | Path, limits: Limits) -> ImageInfo:
    """The header of kinds that Pillow does not read: many bands, unusual number types."""
    return _open(data, where, limits, lambda file: _info(_series(file, where, limits), where))


def tiff_pixels(data: bytes, where: str | Path, limits: Limits, page: int | None = None) -> npt.NDArray[Any]:
    """H×W×C in the file's number type, turned upright, of page ``page``; of None a stack of equal pages of one band
    counts as bands.

    Compressions that tifffile leaves to others (LZW, Zstandard, LERC) are read by rasterio; MissingExtraError without.
    """
    try:
        return _open(data, where, limits, lambda file: _pixels(file, data, where, limits, page))
    except MissingExtraError:
        found = _by_rasterio(data, where, limits, page)
        if found is None:
            raise
        return found


def directory_of(data: bytes, page: int, where: str | Path, limits: Limits) -> int:
    """The place of a page in the chain of directories, which holds smaller copies too."""
    found = pages(directories(data, where, limits))
    if not 0 <= page < len(found):
        raise unreadable(where, f"a TIFF of {len(found)} pages, and no page {page}", "pages")
    return found[page]


def _series(file: Any, where: str | Path, limits: Limits) -> Any:
    if not file.series:
        raise unreadable(where, "a TIFF without an image")
    series = file.series[0]
    _check_size(series.shape, series.axes, series.dtype, where, limits)
    _check_data(series, file.filehandle.size, where)
    return series


def _info(series: Any, where: str | Path) -> ImageInfo:
    sides = dict(zip(series.axes, series.shape, strict=True))
    bands = int(np.prod(series.shape)) // (sides["Y"] * sides["X"])
    return ImageInfo(
        "TIFF", sides["X"], sides["Y"], f"{bands} bands {series.dtype}", _orientation(series.keyframe),
        series.dtype.itemsize * 8,
    )  # fmt: skip


def _pixels(file: Any, data: bytes, where: str | Path, limits: Limits, page: int | None) -> npt.NDArray[Any]:
    def fetch(offset: int, count: int) -> bytes:
        return data[offset : offset + count]

    if page is not None:
        one = file.pages[directory_of(data, page, where, limits)]
        one = one.aspage() if hasattr(one, "aspage") else one
        shape = (one.imagelength, one.imagewidth, one.samplesperpixel)
        _check_size(shape, "YXS", one.dtype, where, limits)
        whole = (0, 0, one.imagelength, one.imagewidth)
        return apply_exif_orientation(read_segments(one, fetch, len(data), whole, where, limits), _orientation(one))
    series = _series(file, where, limits)
    key = series.keyframe
    if key.compression == 1 or key.imagedepth != 1:  # as it lies in the file: nothing is unpacked
        return apply_exif_orientation(_to_bands(series.asarray(), series.axes, where), _orientation(key))
    found = [
        read_segments(
            one.aspage() if hasattr(one, "aspage") else one, fetch, len(data),
            (0, 0, key.imagelength, key.imagewidth), where, limits,
        )
        for one in series.pages
    ]  # fmt: skip
    if len(found) == 1:
        return apply_exif_orientation(found[0], _orientation(key))
    return apply_exif_orientation(_to_bands(np.stack(found), "QYXS", where), _orientation(key))


def _orientation(page: Any) -> int:
    tag = page.tags.get(274)
    return int(tag.value) if tag is not None and tag.value in range(1, 9) else 1


def read_segments(
    page: Any, fetch: Callable[[int, int], bytes], size: int, box: Box, where: str | Path, limits: Limits
) -> npt.NDArray[Any]:
    """H×W×C of a window of one page: only the strips or tiles that it touches are unpacked, one at a time.

    ``fetch(offset, count)`` gives bytes of the file, which has ``size``.
    """
    return Segments(page, fetch, size, where, limits).read(box)


class Segments:
    """The strips or tiles of a page. ``keep``: bytes of unpacked ones that are kept for the next windows, those used
    last; the rest as for :func:`read_segments`."""

    def __init__(
        self, page: Any, fetch: Callable[[int, int], bytes], size: int, where: str | Path, limits: Limits, keep: int = 0
    ) -> None:
        self._page, self._fetch, self._size, self._where = page, fetch, size, where
        tall, wide = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
        self._tall = tall = min(tall, page.imagelength) if not page.is_tiled else tall
        self._wide = wide
        self._planes = page.samplesperpixel if page.planarconfig == 2 else 1
        samples = 1 if self._planes > 1 else page.samplesperpixel
        self._row_bytes = (wide * samples * page.bitspersample + 7) // 8
        if tall * wide > limits.max_pixels or tall * self._row_bytes > limits.max_bytes:
            raise TooLargeError(
                "the TIFF's strips are larger than the limit", expected=f"at most {limits.max_pixels} pixels",
                found=f"strips of {wide}×{tall}", where=where, fix="gdal_translate -co TILED=YES IN.tif OUT.tif",
            )  # fmt: skip
        self._down, self._across = -(-page.imagelength // tall), -(-page.imagewidth // wide)
        needed = self._planes * self._down * self._across
        found = min(len(page.dataoffsets), len(page.databytecounts))
        if found < needed:
            raise unreadable(where, f"a TIFF with {found} strips or tiles, of which it needs {needed}")
        self._unpack = _unpacker(page)
        self._keep = self._room = keep
        self._kept: OrderedDict[int, npt.NDArray[Any]] = OrderedDict()

    def read(self, box: Box) -> npt.NDArray[Any]:
        """H×W×C of a window: top, left, height, width."""
        top, left, height, width = box
        tall, wide = self._tall, self._wide
        out = np.zeros((height, width, self._page.samplesperpixel), self._page.dtype)
        for plane in range(self._planes):
            for row in range(top // tall, -(-(top + height) // tall)):
                for column in range(left // wide, -(-(left + width) // wide)):
                    segment = self._segment((plane * self._down + row) * self._across + column, row)
                    if segment is not None:
                        place = (row * tall - top, column * wide - left)
                        _copy(out, segment, place, plane if self._planes > 1 else None)
        return out

    def _segment(self, index: int, row: int) -> npt.NDArray[Any] | None:
        """The pixels (h, w, samples) of a strip or tile; None if it is empty."""
        if index in self._kept:
            self._kept.move_to_end(index)
            return self._kept[index]
        page, tall = self._page, self._tall
        offset, count = page.dataoffsets[index], page.databytecounts[index]
        if count == 0:  # GDAL leaves out what is empty
            return None
        if offset + count > self._size:
            raise unreadable(self._where, f"a TIFF cut off after {self._size} bytes", "truncated")
        rows = tall if page.is_tiled else min(tall, page.imagelength - row * tall)
        raw = self._unpack(self._fetch(offset, count), tall * self._row_bytes, rows * self._row_bytes, self._where)
        decoded = page.decode(raw, index, jpegtables=page.jpegtables)[0]
        segment = None if decoded is None else decoded[0]
        if segment is not None and segment.nbytes <= self._keep:
            self._kept[index] = segment
            self._room -= segment.nbytes
            while self._room < 0:
                old = self._kept.popitem(last=False)[1]
                self._room += old.nbytes
        return segment


def _copy(out: npt.NDArray[Any], segment: npt.NDArray[Any], place: tuple[int, int], plane: int | None) -> None:
    """Put a segment (h, w, samples) where it belongs, cut to the window."""
    y, x = place
    rows = slice(max(y, 0), min(y + segment.shape[0], out.shape[0]))
    columns = slice(max(x, 0), min(x + segment.shape[1], out.shape[1]))
    part = segment[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]
    if plane is None:
        out[rows, columns] = part
    else:
        out[rows, columns, plane] = part[..., 0]


def _unpacker(page: Any) -> Callable[[bytes, int, int, str | Path], bytes]:
    """The decompressor of a strip, run before tifffile: (bytes, most, least bytes wanted, file) → bytes.

    deflate and LZMA are unpacked here, and the page is marked as uncompressed.
    """
    kind = int(page.compression)
    if kind in _DEFLATE or kind == _LZMA:
        turned = page.fillorder == 2
        page.compression, page.fillorder = 1, 1

        def unpack(data: bytes, most: int, least: int, where: str | Path) -> bytes:
            if turned:
                data = data.translate(_REVERSED)
            inflate: Any = (
                lzma.LZMADecompressor(memlimit=_LZMA_MEMORY) if kind == _LZMA else zlib.decompressobj()
            )  # fmt: skip
            found: bytes = inflate.decompress(data, most + _SLACK + 1)
            if len(found) > most + _SLACK:
                raise TooLargeError(
                    "a strip of the TIFF unpacks to more than its pixels",
                    expected=f"{most} bytes",
                    found=f"more than {most + _SLACK}, from {len(data)}",
                    where=where,
                    fix="leave the file out: no ordinary program writes such a file",
                )
            if len(found) < least:
                raise unreadable(
                    where, f"a TIFF with too little image data: {len(found)} bytes of {least}", "truncated"
                )
            return found[:most]

        return unpack

    def plain(data: bytes, most: int, least: int, where: str | Path) -> bytes:
        # The other codings shrink by some hundreds at most (PackBits by 64): what is as long as this is none of theirs.
        if len(data) > 2 * most + (1 << 16):
            raise unreadable(where, f"a TIFF with {len(data)} bytes for a strip of {most}")
        if kind == 1 and len(data) < least:
            raise unreadable(where, f"a TIFF with too little image data: {len(data)} bytes of {least}", "truncated")
        return data

    return plain


def _open(data: bytes, where: str | Path, limits: Limits, use: Callable[[Any], T]) -> T:
    directories(data, where, limits)
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            return use(file)
    except (ImageReadError, MissingExtraError):
        raise
    except MemoryError as error:
        raise TooLargeError("the TIFF needs more memory than there is", where=where, fix="cut it into tiles") from error
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


def _by_rasterio(data: bytes, where: str | Path, limits: Limits, page: int | None) -> npt.NDArray[Any] | None:
    """H×W×C by rasterio, from memory; None where it is not installed."""
    chain = directories(data, where, limits)
    if len(pages(chain)) > 1 or page:
        raise unreadable(
            where, "a TIFF of several pages in a compression that is read for one page alone", "unsupported"
        )
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
        raise unreadable(where, f"a TIFF that is no image (axes {axes}, shape {shape})")
    check_limits(ImageInfo("TIFF", width, height, str(dtype)), where, limits)
    total = 1
    for side in shape:
        total *= side
    bands = total // (height * width)
    if bands > limits.max_bands or total * dtype.itemsize > limits.max_bytes:
        raise TooLargeError(
            "the TIFF needs more memory than the limit",
            expected=f"at most {limits.max_bands} bands and {limits.max_bytes} bytes",
            found=f"{bands} bands of {width}×{height}, {dtype}",
            where=where,
            fix="cut it into tiles",
        )


def _check_data(series: Any, size: int, where: str | Path) -> None:
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
    if axes[-3:-1] == "YX" and len(axes) == 4:
        raise ImageReadError(
            "the file has several pages",
            expected="one image per file",
            found=f"{values.shape[0]} pages of {values.shape[3]} bands",
            where=where,
            fix="split it into a file per page (tiffsplit)",
            reason="pages",
        )
    raise unreadable(where, f"a TIFF with axes {axes}, shape {values.shape}")
