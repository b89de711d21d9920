"""The reader of COCO's annotations: polygons and run lengths of a JSON, or the PNGs of a panoptic JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from segwright.core.errors import LabelError
from segwright.core.types import IGNORE_INDEX
from segwright.data.annotations.rasterize import Drawable, Drawing, RasterizedReader, describe_source
from segwright.data.annotations.sparse import COMPLETE, Reading
from segwright.data.formats.coco_shapes import Weak, rasterize
from segwright.data.records import ObjectCount, Record
from segwright.imageio import UInt8Array, read_mask


@dataclass(frozen=True, slots=True)
class ObjectAnnotations:
    """An image's annotations: (class index, segmentation, crowd), as they stand in the file."""

    source: str
    height: int  # 0 where the file does not tell
    width: int
    regions: tuple[tuple[int, Any, bool], ...]


@dataclass(frozen=True, slots=True)
class Panoptic:
    """An image's segments: segment id in the PNG → class index."""

    png: Path
    segments: tuple[tuple[int, int], ...]


@dataclass
class CocoReader(RasterizedReader):
    """Draws the annotations of a JSON, or decodes panoptic PNGs."""

    background: int = 0  # what no annotation covers
    reading: Reading = COMPLETE

    @property
    def partial(self) -> bool:
        return self.reading.partial

    def draw(self, record: Record) -> UInt8Array:
        if isinstance(record.payload, Panoptic):
            return self._panoptic(record.payload)
        return super().draw(record)

    def drawing(self, record: Record) -> Drawing | None:
        if isinstance(record.payload, Panoptic):
            return None
        annotated: ObjectAnnotations = record.payload
        where = describe_source(Path(annotated.source), record.id)
        height, width = self.sized(record, annotated.height, annotated.width, where)
        objects = [
            Drawable(
                IGNORE_INDEX if crowd else index, partial(rasterize, index, crowd, segmentation, height, width, where)
            )
            for index, segmentation, crowd in annotated.regions
        ]
        outlines = any(not isinstance(one, Weak) or not one.points for _, one, _ in annotated.regions)
        background = self.reading.fill(self.background, outlines)
        return Drawing(height, width, objects, background, sort_by_area=True, where=where)

    def object_counts(self, record: Record) -> Mapping[int, ObjectCount] | None:
        if not isinstance(record.payload, Panoptic):
            return super().object_counts(record)
        listed = Counter(index for _, index in record.payload.segments)
        present = set(np.unique(self._segments(record.payload)).tolist())
        drawn = Counter(index for segment, index in record.payload.segments if segment in present)
        return {index: ObjectCount(number, drawn[index]) for index, number in sorted(listed.items())}

    def _segments(self, payload: Panoptic) -> Any:
        """H×W segment ids of the PNG."""
        colors = read_mask(payload.png, self.limits)
        if colors.ndim != 3:
            raise LabelError("a panoptic PNG holds colors", expected="RGB", found="one channel", where=payload.png)
        wide = colors.astype(np.int64)
        return wide[..., 0] + 256 * wide[..., 1] + 65536 * wide[..., 2]

    def _panoptic(self, payload: Panoptic) -> UInt8Array:
        ids = self._segments(payload)
        present, inverse = np.unique(ids, return_inverse=True)
        table = {0: IGNORE_INDEX, **dict(payload.segments)}
        unknown = [int(i) for i in present if int(i) not in table]
        if unknown:
            raise LabelError("the panoptic PNG holds segments that its JSON does not name",
                             expected=f"{len(payload.segments)} segments", found=str(unknown[:8]), where=payload.png,
                             fix="use the PNG and the JSON of one export")  # fmt: skip
        return np.array([table[int(i)] for i in present], np.uint8)[inverse].reshape(ids.shape)
