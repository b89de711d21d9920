"""GeoTIFF pairs: tiles of a satellite or an aerial camera and their masks, TIFF both, in a folder's usual layouts.

All bands are kept. What the file calls no data (GDAL's tag) in every band of an image is ignored in its mask. Files
are read with tifffile; those in a compression that it leaves to others with rasterio, where the extra ``geo`` is
installed.

A raster of more than 16.8 million pixels becomes many samples of at most 2048×2048, of which one at a time is decoded:
memory does not grow with the raster (:mod:`segwright.imageio.tiles`). Where image and mask are both placed on the
ground, their places and coordinate systems must agree (:mod:`.georeference`); the check reports where they do not.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segwright.core.counted import counted
from segwright.core.errors import FormatError, LabelError
from segwright.core.types import IGNORE_INDEX
from segwright.data.formats.base import Format
from segwright.data.formats.file_tree import Tree
from segwright.data.formats.folder import FolderReader, open_pairing, pair_tree
from segwright.data.formats.georeference import georeference, georeference_mismatch
from segwright.data.formats.mask_histogram import look_at
from segwright.data.label_maps import is_generated_name
from segwright.data.mask_files import MaskPixels
from segwright.data.records import Dataset, Problem, Record
from segwright.imageio import ImageInfo, UInt8Array, read_header, read_window, tiff_info
from segwright.imageio.decode import integers

TIFF = (".tif", ".tiff")
WHOLE = 4096 * 4096  # pixels of a raster that is still one sample
SIDE = 2048  # of the tiles that a larger one is cut into, at most
SMALL = 500_000  # bytes: no raster of so many pixels is smaller, and its header need not be read
LOOKED_AT = 1024  # side of the parts of a big mask that are looked at for its values
LOOKED_AT_MASKS = 12  # whose no-data value is looked up


@dataclass(frozen=True, slots=True)
class Tile:
    """The part of a raster that is a sample."""

    top: int
    left: int
    height: int
    width: int

    @property
    def first(self) -> bool:
        return self.top == self.left == 0


class GeoTiffReader(FolderReader):
    """Bands by windows where a record is a tile, and no data ignored."""

    def is_full_file(self, record: Record) -> bool:
        return not isinstance(record.payload, Tile) and super().is_full_file(record)

    def header(self, path: Path) -> ImageInfo:
        found = _big(path)
        if found is None:
            return read_header(path, self.limits)
        bits = np.dtype(found.dtype).itemsize * 8
        return ImageInfo("TIFF", found.width, found.height, f"{found.bands} bands {found.dtype}", 1, bits)

    def read_bands(self, record: Record) -> npt.NDArray[Any]:
        part = record.payload
        if not isinstance(part, Tile) or record.image_path is None:
            return super().read_bands(record)
        return read_window(record.image_path, part.top, part.left, part.height, part.width, self.limits)

    def read_mask_values(self, record: Record) -> npt.NDArray[Any] | None:
        part = record.payload
        if not isinstance(part, Tile) or record.mask_path is None:
            return super().read_mask_values(record)
        values = read_window(record.mask_path, part.top, part.left, part.height, part.width, self.limits)
        return self.decode(integers(values, record.mask_path), record.mask_path)

    def mask(self, record: Record) -> UInt8Array | None:
        mask = super().mask(record)
        if mask is None or record.image_path is None:
            return mask
        nodata = nodata_of(record.image_path)
        if nodata is None:
            return mask
        pixels = self.read_bands(record)
        empty = np.isnan(pixels).all(axis=2) if np.isnan(nodata) else (pixels == nodata).all(axis=2)
        if empty.shape == mask.shape:
            mask = np.where(empty, np.uint8(IGNORE_INDEX), mask)
        return mask

    def georeference_mismatch(self, record: Record) -> LabelError | None:
        """The error if image and mask differ in georeference; the first tile of a raster stands for all."""
        if record.image_path is None or record.mask_path is None:
            return None
        if isinstance(record.payload, Tile) and not record.payload.first:
            return None
        return georeference_mismatch(record.image_path, record.mask_path)


def _big(path: Path) -> Any:
    """The extent of a raster that is cut into tiles; None for others."""
    try:
        if os.path.getsize(path) < SMALL:
            return None
    except OSError:
        return None
    found = tiff_info(path)
    return found if found is not None and found.height * found.width > WHOLE else None


def nodata_of(path: Path) -> float | None:
    """The value that GDAL's tag 42113 calls no data; None where there is none."""
    import tifffile

    # Whatever is wrong with the file is reported when its pixels are read.
    with contextlib.suppress(Exception), tifffile.TiffFile(path) as file:
        tag = file.pages.first.tags.get(42113)
        return None if tag is None else float(str(tag.value).strip("\0 "))
    return None


def look_at_mask(path: Path) -> npt.NDArray[Any] | MaskPixels:
    """A mask for the survey of values: of a big one five parts, from the corners and the middle."""
    found = tiff_info(path) if path.suffix.lower() in TIFF else None
    if found is None or found.height * found.width <= WHOLE:
        return look_at(path)
    down, across = found.height - LOOKED_AT, found.width - LOOKED_AT
    if min(down, across) < 0:  # long and narrow
        side = WHOLE // max(found.height, found.width)
        return integers(read_window(path, 0, 0, min(found.height, side), min(found.width, side)), path)
    places = [(0, 0), (0, across), (down, 0), (down, across), (down // 2, across // 2)]
    parts = [integers(read_window(path, y, x, LOOKED_AT, LOOKED_AT), path) for y, x in places]
    return np.concatenate(parts)


def tiles(height: int, width: int, side: int = SIDE) -> list[Tile]:
    """A raster in equal tiles of at most ``side``, row by row; they cover it once."""
    down, across = -(-height // side), -(-width // side)
    rows = [round(height * i / down) for i in range(down + 1)]
    columns = [round(width * i / across) for i in range(across + 1)]
    return [
        Tile(y, x, rows[i + 1] - y, columns[j + 1] - x)
        for i, y in enumerate(rows[:-1])
        for j, x in enumerate(columns[:-1])
    ]


def cut_into_tiles(dataset: Dataset) -> Dataset:
    """Replace large rasters by their tiles in every split; a pair of different sizes stays whole and is an error."""
    parts: dict[str, tuple[Record, ...]] = {}
    for record in dataset.records:
        if record.image_path is None or record.mask_path is None or record.payload is not None:
            continue
        found = _big(record.image_path)
        mask = tiff_info(record.mask_path) if found is not None else None
        if found is None or mask is None or (mask.height, mask.width) != (found.height, found.width):
            continue
        cut = tiles(found.height, found.width)
        parts[record.id] = tuple(replace(record, id=f"{record.id}_y{t.top:06d}_x{t.left:06d}", payload=t) for t in cut)
    if not parts:
        return dataset
    count = sum(map(len, parts.values()))
    note = f"{len(parts)} rasters of more than {WHOLE / 1e6:.1f} million pixels are cut into {count} tiles"
    return replace(
        dataset,
        records=_expanded(dataset.records, parts),
        given={name: _expanded(records, parts) for name, records in dataset.given.items()},
        notes=[*dataset.notes, note],
    )


def _expanded(records: Any, parts: Mapping[str, tuple[Record, ...]]) -> tuple[Record, ...]:
    return tuple(one for record in records for one in parts.get(record.id, (record,)))


def detect(tree: Tree) -> str | None:
    if tree.is_file:
        return None
    pairs = [(image, mask) for image, mask in pair_tree(tree).pairs if mask is not None]
    tiffs = sum(image.name.lower().endswith(TIFF) and mask.name.lower().endswith(TIFF) for image, mask in pairs)
    return f"{counted(tiffs, 'pair')} of TIFF files" if tiffs and tiffs == len(pairs) else None


def open_geotiff(tree: Tree) -> Dataset:
    if not tree.is_file and not any(mask is not None for _, mask in pair_tree(tree).pairs):
        raise FormatError("no pairs of TIFF files", expected="images/x.tif and masks/x.tif", found=tree.summary(),
                          where=tree.root)  # fmt: skip
    dataset = cut_into_tiles(open_pairing(tree, "geotiff", GeoTiffReader, look_at_mask))
    placed = next((found for r in dataset.records[:20] if r.image_path and (found := georeference(r.image_path))), None)
    dataset.problems += _no_data_is_a_class(dataset)
    if placed is not None:
        dataset.notes.append(f"placed on the ground: {placed.system}, a pixel is {placed.pixel}")
    return dataset


def _no_data_is_a_class(dataset: Dataset) -> list[Problem]:
    """The finding for masks whose own no-data value is read as a class that no list names."""
    if not isinstance(dataset.reader, GeoTiffReader) or dataset.reader.color_table is not None:
        return []
    masks = [record.mask_path for record in dataset.records if record.mask_path is not None][:LOOKED_AT_MASKS]
    stated = {value for path in masks if (value := nodata_of(path)) is not None and value.is_integer()}
    space = dataset.label_space
    read = {int(v): space.mapping.get(int(v), IGNORE_INDEX) for v in stated}
    guessed = [v for v, index in read.items() if index != IGNORE_INDEX and is_generated_name(space.names[index])]
    if not guessed:
        return []
    values = ", ".join(map(str, sorted(guessed)))
    text = f"GDAL's no-data of the masks is {values}, which is read as a class: is it a class, or not labeled?"
    fix = f"list the values in classes.csv (id,name): '{guessed[0]},void' if it is not labeled, else its name"
    return [Problem("warning", "masks guessed", text, (), fix)]


FORMAT = Format("geotiff", "GeoTIFF pairs", "images/x.tif and masks/x.tif", detect, open_geotiff)
