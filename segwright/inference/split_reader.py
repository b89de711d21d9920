"""A split with its images scaled by a model's value range, as in :meth:`Predictor.read`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from segwright.core.errors import DataError, ImageReadError
from segwright.core.types import LabelSpace
from segwright.data.records import Reader, Record, Split, Values
from segwright.imageio import UInt8Array
from segwright.inference.pixels import fit_channels
from segwright.inference.predictor import STRETCHED_DATA, Predictor


def as_model_sees(split: Split, predictor: Predictor) -> Split:
    """``split`` with images scaled to 8 bit by the model's value range, if it has one.

    Otherwise the dataset's own range would be used, which differs from the model's unless it is the training data. If a
    dataset mixes 8-bit and deeper images, they are read as in training (:meth:`ValueRange.among_deeper`); if all are
    8 bit, ``predictor.eight_bit`` decides, and an ambiguous image raises ImageReadError when it is read.
    """
    own = split.reader.value_range
    if predictor.value_range is None:
        if own is not None:
            predictor.note(STRETCHED_DATA)
        return split
    if isinstance(split.reader, ModelReader):
        return split
    seen = Split(split.name, split.records, ModelReader(split.reader, predictor, own is not None))
    seen.note = split.note
    return seen


@dataclass
class ModelReader(Reader):
    """A reader whose images are scaled by a model's value range; masks are unchanged."""

    reader: Reader
    predictor: Predictor
    mixed: bool  # whether the dataset holds deeper images, so that its 8-bit ones are already scaled

    def __post_init__(self) -> None:
        self.label_space: LabelSpace = self.reader.label_space
        self.value_range = self.predictor.value_range

    def image(self, record: Record) -> UInt8Array:
        pixels = self.reader.read_bands(record)
        where = record.image_path or record.id
        if pixels.dtype == np.uint8 and self.mixed:
            known = self.predictor.value_range
            image = np.asarray(pixels, np.uint8) if known is None else known.among_deeper(pixels)
            return fit_channels(image, self.predictor.runtime.in_channels)
        try:
            return self.predictor.scaled(pixels, where)
        except ImageReadError:
            raise
        except DataError as error:
            raise ImageReadError(
                error.message, expected=error.expected, found=error.found, where=where, fix=error.fix
            ) from error

    def mask(self, record: Record) -> UInt8Array | None:
        return self.reader.mask(record)

    def values(self, record: Record) -> Values | None:
        return self.reader.values(record)

    def __getattr__(self, name: str) -> Any:
        if name in ("reader", "__getstate__", "__setstate__"):
            raise AttributeError(name)
        return getattr(self.reader, name)
