"""The reader of data sets whose pictures and masks are files: pixels, then the label map.

Masks come in two codings. *Index*: a pixel's number is the file value. *Colour*: the row of the pixel's colour in a
colour table is the file value. Both then go through ``LabelSpace.mapping``, so that one map says it all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segwright.data.records import Record, ValueRange, Values, apply_lookup
from segwright.errors import DataError, LabelError
from segwright.images import DEFAULT_LIMITS, Limits, UInt8Array, read_image, read_mask
from segwright.types import Colour, LabelSpace


@dataclass(frozen=True)
class ColourTable:
    """Colours of a colour-coded mask; a colour's row is its file value."""

    colours: tuple[Colour, ...]

    def rows(self, mask: npt.NDArray[Any]) -> Values:
        """H×W×3 colours to H×W rows; -1 where the colour is not in the table."""
        packed = pack_colours(mask)
        keys = np.array([r << 16 | g << 8 | b for r, g, b in self.colours], np.int32)
        order = np.argsort(keys, kind="stable")
        place = np.clip(np.searchsorted(keys[order], packed), 0, len(keys) - 1)
        rows = order[place].astype(np.int32)
        return np.where(keys[rows] == packed, rows, np.int32(-1))


def pack_colours(mask: npt.NDArray[Any]) -> Values:
    """H×W×3 uint8 to H×W numbers r·65536 + g·256 + b."""
    wide = mask.astype(np.int32)
    return np.asarray(wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2], np.int32)


def is_grey(mask: npt.NDArray[Any]) -> bool:
    """Whether an H×W×3 mask is an index mask that was saved as RGB."""
    return bool((mask[..., 0] == mask[..., 1]).all() and (mask[..., 0] == mask[..., 2]).all())


@dataclass
class FileReader:
    """Pictures and masks that are files of their own."""

    label_space: LabelSpace
    colour_table: ColourTable | None = None  # None: masks hold indices
    value_range: ValueRange | None = None  # None: pictures are 8 bit
    limits: Limits = DEFAULT_LIMITS
    _lookup: npt.NDArray[np.int32] | None = field(default=None, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lookup": None}

    def image(self, record: Record) -> UInt8Array:
        if record.image_path is None:
            raise DataError("the record has no picture", found=record.id)
        return read_image(record.image_path, self.limits)

    def values(self, record: Record) -> Values | None:
        raw = self.raw(record)
        return None if raw is None else raw.astype(np.int32)

    def raw(self, record: Record) -> npt.NDArray[Any] | None:
        """H×W file values in the type they come in: uint8 and uint16 from the file, int32 rows of a colour table."""
        if record.mask_path is None:
            return None
        return self.decode(read_mask(record.mask_path, self.limits), record.mask_path)

    def decode(self, raw: npt.NDArray[Any], where: Path | str) -> npt.NDArray[Any]:
        """What a mask file holds, H×W or H×W×3, to H×W file values."""
        if self.colour_table is not None:
            return self.colour_table.rows(np.repeat(raw[..., None], 3, axis=2) if raw.ndim == 2 else raw)
        if raw.ndim == 2:
            return raw
        if is_grey(raw):
            return np.ascontiguousarray(raw[..., 0])
        raise LabelError(
            "the mask is colour-coded, the others hold class indices",
            expected="one channel, or three equal ones",
            found=f"{len(np.unique(pack_colours(raw)))} colours",
            where=where,
            fix="write the mask as an index or palette PNG like the others",
        )

    def mask(self, record: Record) -> UInt8Array | None:
        raw = self.raw(record)
        if raw is None:
            return None
        if self._lookup is None:
            self._lookup = self.label_space.lookup()
        return apply_lookup(raw, self._lookup, record.mask_path)
