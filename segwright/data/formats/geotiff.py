"""GeoTIFF pairs: tiles of a satellite or an aerial camera and their masks, TIFF both, in a folder's usual layouts.

All bands are kept. What the file calls no data (GDAL's tag) in every band of a picture is ignored in its mask. Files
are read with tifffile; those in a compression that it leaves to others with rasterio, where the extra ``geo`` is
installed.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segwright.data.formats.base import Format
from segwright.data.formats.folder import FolderReader, open_pairing, pair_tree
from segwright.data.formats.tree import Tree
from segwright.data.records import Dataset, Record
from segwright.errors import FormatError, ImageReadError, MissingExtraError
from segwright.images import DEFAULT_LIMITS, ImageInfo, Limits, UInt8Array, check_limits, read_raster
from segwright.types import IGNORE_INDEX

TIFF = (".tif", ".tiff")


class GeoTiffReader(FolderReader):
    """Bands by :meth:`raster`, and no data ignored."""

    def raster(self, path: Path) -> npt.NDArray[Any]:
        return read_geotiff(path, self.limits)

    def mask(self, record: Record) -> UInt8Array | None:
        mask = super().mask(record)
        if mask is None or record.image_path is None:
            return mask
        nodata = nodata_of(record.image_path)
        if nodata is None:
            return mask
        pixels = self.raster(record.image_path)
        empty = np.isnan(pixels).all(axis=2) if np.isnan(nodata) else (pixels == nodata).all(axis=2)
        if empty.shape == mask.shape:
            mask = np.where(empty, np.uint8(IGNORE_INDEX), mask)
        return mask


def read_geotiff(path: Path, limits: Limits = DEFAULT_LIMITS) -> npt.NDArray[Any]:
    """H×W×C in the file's number type, by tifffile, or by rasterio where tifffile lacks the compression."""
    try:
        return read_raster(path, limits)
    except (MissingExtraError, ImageReadError) as error:
        try:
            import rasterio
        except ImportError:
            raise error from None
        try:
            with rasterio.open(path) as file:
                check_limits(ImageInfo("TIFF", file.width, file.height, f"{file.count} bands"), path, limits)
                return np.ascontiguousarray(np.moveaxis(file.read(), 0, 2))
        except rasterio.errors.RasterioError:
            raise error from None


def nodata_of(path: Path) -> float | None:
    """The value that GDAL's tag 42113 calls no data; None where there is none."""
    import tifffile

    # Whatever is wrong with the file is reported when its pixels are read.
    with contextlib.suppress(Exception), tifffile.TiffFile(path) as file:
        tag = file.pages.first.tags.get(42113)
        return None if tag is None else float(str(tag.value).strip("\0 "))
    return None


def recognise(tree: Tree) -> str | None:
    if tree.is_file:
        return None
    pairs = [(image, mask) for image, mask in pair_tree(tree).pairs if mask is not None]
    tiffs = sum(image.name.lower().endswith(TIFF) and mask.name.lower().endswith(TIFF) for image, mask in pairs)
    return f"{tiffs} pairs of TIFF files" if tiffs and tiffs == len(pairs) else None


def open_geotiff(tree: Tree) -> Dataset:
    if not tree.is_file and not any(mask is not None for _, mask in pair_tree(tree).pairs):
        raise FormatError("no pairs of TIFF files", expected="images/x.tif and masks/x.tif", found=tree.summary(),
                          where=tree.root)  # fmt: skip
    return open_pairing(tree, "geotiff", GeoTiffReader)


FORMAT = Format("geotiff", "GeoTIFF pairs", "images/x.tif and masks/x.tif", recognise, open_geotiff)
