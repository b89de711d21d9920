"""The reader of datasets whose images and masks are files: pixels, then the label map.

Masks come in two codings. *Index*: a pixel's number is the file value. *Color*: the row of the pixel's color in a
color table is the file value. Both then go through ``LabelSpace.mapping``, so that one map holds it all. Which part of
a mask file holds them (a palette's indices or its colors, the alpha channel) is ``source``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from segwright.core.errors import DataError, ImageReadError, LabelError
from segwright.core.types import Color, LabelSpace
from segwright.data.mask_files import MaskSource, mask_pixels, read_mask_file
from segwright.data.records import Reader, Record, ValueRange, Values, apply_lookup
from segwright.imageio import DEFAULT_LIMITS, ImageInfo, Limits, UInt8Array, read_header, read_image, read_raster


@dataclass(frozen=True)
class ColorTable:
    """Colors of a color-coded mask; a color's row is its file value."""

    colors: tuple[Color, ...]

    def rows(self, mask: npt.NDArray[Any]) -> Values:
        """H×W×3 colors to H×W rows; -1 where the color is not in the table."""
        packed = pack_colors(mask)
        keys = np.array([r << 16 | g << 8 | b for r, g, b in self.colors], np.int32)
        order = np.argsort(keys, kind="stable")
        place = np.clip(np.searchsorted(keys[order], packed), 0, len(keys) - 1)
        rows = order[place].astype(np.int32)
        return np.where(keys[rows] == packed, rows, np.int32(-1))


def pack_colors(mask: npt.NDArray[Any]) -> Values:
    """H×W×3 uint8 to H×W numbers r·65536 + g·256 + b."""
    wide = mask.astype(np.int32)
    return np.asarray(wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2], np.int32)


def is_gray(mask: npt.NDArray[Any]) -> bool:
    """Whether an H×W×3 mask is an index mask that was saved as RGB."""
    return bool((mask[..., 0] == mask[..., 1]).all() and (mask[..., 0] == mask[..., 2]).all())


def _fit_bands(pixels: npt.NDArray[Any], bands: int, path: Path) -> npt.NDArray[Any]:
    """Gray spread over three colors, alpha dropped; any other difference is an error."""
    found = pixels.shape[2]
    if found == bands or {found, bands} == {1, 3}:
        return pixels if found <= bands else pixels[..., :1]
    if (found, bands) == (4, 3):
        return pixels[..., :3]
    raise ImageReadError("the image differs in bands from the others", expected=f"{bands}", found=f"{found}",
                         where=path, fix="give all images the same bands")  # fmt: skip


@dataclass
class FileReader(Reader):
    """Images and masks that are files of their own."""

    label_space: LabelSpace
    color_table: ColorTable | None = None  # None: masks hold indices
    value_range: ValueRange | None = None  # None: images are 8 bit
    bands: int | None = None  # None: images are read as RGB; else all bands are kept, this many
    limits: Limits = DEFAULT_LIMITS
    source: MaskSource = "values"  # which part of a mask file is the class
    _lookup: npt.NDArray[np.int32] | None = field(default=None, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lookup": None}

    def image(self, record: Record) -> UInt8Array:
        if record.image_path is None:
            raise DataError("the record has no image", found=record.id)
        if self.bands is None and self.value_range is None and self.is_full_file(record):
            return read_image(record.image_path, self.limits)
        pixels = _fit_bands(self.read_bands(record), self.bands or 3, record.image_path)
        if pixels.dtype == np.uint8:
            image = pixels if self.value_range is None else self.value_range.among_deeper(pixels)
        elif self.value_range is None:
            raise ImageReadError(
                "the image is not 8 bit, the others are",
                expected="uint8",
                found=str(pixels.dtype),
                where=record.image_path,
                fix="convert it, or give a value range",
            )
        else:
            image = self.value_range.apply(pixels)
        return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image

    def read_bands(self, record: Record) -> npt.NDArray[Any]:
        if record.image_path is None:
            raise DataError("the record has no image", found=record.id)
        return read_raster(record.image_path, self.limits)

    def header(self, path: Path) -> ImageInfo:
        return read_header(path, self.limits)

    def changed(self, **changes: Any) -> Self:
        return super().changed(**changes, _lookup=None)

    def values(self, record: Record) -> Values | None:
        raw = self.read_mask_values(record)
        return None if raw is None else raw.astype(np.int32)

    def read_mask_values(self, record: Record) -> npt.NDArray[Any] | None:
        """H×W file values in the type they come in: uint8 and uint16 from the file, int32 rows of a color table."""
        if record.mask_path is None:
            return None
        return self.decode(read_mask_file(record.mask_path, self.source, self.limits), record.mask_path)

    def decode_file(self, data: bytes, where: Path | str) -> npt.NDArray[Any]:
        """The bytes of a mask file to H×W file values."""
        return self.decode(mask_pixels(data, where, self.source, self.limits), where)

    def decode(self, raw: npt.NDArray[Any], where: Path | str) -> npt.NDArray[Any]:
        """Convert the content of a mask file, H×W or H×W×3, to H×W file values."""
        if self.color_table is not None:
            return self.color_table.rows(np.repeat(raw[..., None], 3, axis=2) if raw.ndim == 2 else raw)
        if raw.ndim == 2:
            return raw
        if is_gray(raw):
            return np.ascontiguousarray(raw[..., 0])
        raise LabelError(
            "the mask is color-coded, the others hold class indices",
            expected="one channel, or three equal ones",
            found=f"{len(np.unique(pack_colors(raw)))} colors",
            where=where,
            fix="write the mask as an index or palette PNG like the others",
        )

    def mask(self, record: Record) -> UInt8Array | None:
        raw = self.read_mask_values(record)
        if raw is None:
            return None
        if self._lookup is None:
            self._lookup = self.label_space.lookup()
        return apply_lookup(raw, self._lookup, record.mask_path)
