"""COCO's segmentations as they stand in its JSON, and the pixels they cover."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from segwright.core.errors import LabelError
from segwright.core.types import IGNORE_INDEX
from segwright.data.annotations.polygons import as_points, fill_box
from segwright.data.annotations.rasterize import Region
from segwright.data.annotations.rle import check_size, crop_columns, list_runs, string_runs
from segwright.data.annotations.sparse import LabelRule, core, stamp


def whole(value: Any) -> int:
    """A size as a whole number, 0 if the file lacks it."""
    try:
        number = int(float(value))
    except (TypeError, ValueError, OverflowError):
        return 0
    return max(number, 0)


def is_crowd(annotation: Mapping[str, Any]) -> bool:
    """Whether an annotation is marked iscrowd, as a number, a truth value or text."""
    value = annotation.get("iscrowd", 0)
    if not value:
        return False
    return str(value).strip().lower() in ("1", "1.0", "true")


def outlines(segmentation: Any) -> list[Any] | None:
    """The polygons of a segmentation, each flat numbers or pairs; None for an RLE.

    Tools write a list of polygons, one flat polygon without the list around it, or one polygon as a list of points.
    """
    if isinstance(segmentation, Mapping):
        return None
    if not isinstance(segmentation, list):
        return []
    parts = [part for part in segmentation if part is not None]
    if parts and all(isinstance(part, int | float) for part in parts):
        return [parts]
    pairs = all(isinstance(part, list) and len(part) == 2 for part in parts)
    if pairs and len(parts) >= 3 and all(isinstance(value, int | float) for part in parts for value in part):
        return [parts]
    return [part for part in parts if not (isinstance(part, list) and len(part) == 0)]


@dataclass(frozen=True, slots=True)
class Weak:
    """An annotation without an outline: its visible key points (x, y), or its box (left, top, width, height)."""

    rule: LabelRule
    points: tuple[tuple[float, float], ...] = ()
    box: tuple[float, float, float, float] | None = None

    def region(self, height: int, width: int, where: str) -> Region | None:
        """The pixels that it labels."""
        check_size(height, width, where)
        if self.points:
            top, left, mask = stamp(as_points(self.points, where), self.rule.radius, height, width)
            return Region(0, mask, top, left)
        if self.box is None:
            return None
        x, y, across, down = self.box
        corners = as_points([[x, y], [x + across, y], [x + across, y + down], [x, y + down]], where)
        if self.rule.boxes == "core":
            (top, left, mask), unsure = core(corners, height, width, where)
            return Region(0, mask, top, left, unsure)
        top, left, mask = fill_box(corners, height, width, where)
        return Region(0, mask, top, left)


VISIBLE = 2  # of a key point: labeled and seen; 1 is labeled and hidden behind something else


def visible_points(annotation: Mapping[str, Any]) -> tuple[tuple[float, float], ...]:
    """The key points of an annotation that are seen, (x, y); empty where it has none that can be read."""
    values = annotation.get("keypoints")
    if not isinstance(values, list) or len(values) % 3 or not all(isinstance(v, int | float) for v in values):
        return ()
    return tuple((float(x), float(y)) for x, y, v in zip(*[iter(values)] * 3, strict=True) if v == VISIBLE)


def box_of(annotation: Mapping[str, Any]) -> tuple[float, float, float, float] | None:
    """The box of an annotation; None where it has none."""
    values = annotation.get("bbox")
    if not isinstance(values, list) or len(values) != 4 or not all(isinstance(v, int | float) for v in values):
        return None
    left, top, across, down = (float(v) for v in values)
    return left, top, across, down


def why_not_drawn(segmentation: Any) -> str | None:
    """Why a segmentation has no area in any image; None if it may have one."""
    if not segmentation:
        return "no segmentation"
    if type(segmentation) is list and type(segmentation[0]) is list and len(segmentation[0]) >= 6:
        return None  # the common case: a list of polygons in flat numbers
    polygons = outlines(segmentation)
    if polygons is None:
        return None if segmentation.get("counts") else "an RLE without counts"
    if not polygons:
        return "neither polygons nor an RLE"
    if all(isinstance(p, list) and _corners(p) < 3 for p in polygons):
        return "an outline of fewer than three points"
    return None


def _corners(polygon: Sequence[Any]) -> int:
    return len(polygon) if isinstance(polygon[0], list) else len(polygon) // 2


def decode_segmentation(segmentation: Any, height: int, width: int, where: str) -> list[Region]:
    """Polygons (one list of numbers each), uncompressed or compressed RLE to regions of index 0."""
    if isinstance(segmentation, Mapping):
        size = segmentation.get("size", [height, width])
        if not isinstance(size, Sequence) or [whole(v) for v in size] != [height, width]:
            raise LabelError("an RLE differs in size from its image", expected=f"{[height, width]}", found=f"{size}",
                             where=where, fix="export the annotations again")  # fmt: skip
        check_size(height, width, where)
        counts = segmentation.get("counts", ())
        runs = string_runs(counts, where) if isinstance(counts, str | bytes) else list_runs(counts, where)
        left, mask = crop_columns(runs, height, width, where)
        return [Region(0, mask, 0, left)]
    polygons = outlines(segmentation)
    if not polygons:
        raise LabelError("a segmentation is polygons or an RLE", found=repr(segmentation)[:60], where=where)
    regions = []
    for polygon in polygons:
        if isinstance(polygon, Mapping):  # a list of RLEs
            regions += decode_segmentation(polygon, height, width, where)
            continue
        points = as_points(polygon, where)
        if len(points) >= 3:
            top, left, mask = fill_box(points, height, width, where)
            regions.append(Region(0, mask, top, left))
    return regions


def rasterize(index: int, crowd: bool, segmentation: Any, height: int, width: int, where: str) -> Region | None:
    if isinstance(segmentation, Weak):
        merged = segmentation.region(height, width, where)
    else:
        merged = _union(decode_segmentation(segmentation, height, width, where))
    if merged is None:
        return None
    return Region(IGNORE_INDEX if crowd else index, merged.mask, merged.top, merged.left, merged.unsure)


def _union(parts: list[Region]) -> Region | None:
    """The parts of one annotation as one region, for its area counts as a whole."""
    parts = [part for part in parts if part.mask.size]
    if len(parts) <= 1:
        return parts[0] if parts else None
    top, left = min(p.top for p in parts), min(p.left for p in parts)
    bottom = max(p.top + p.mask.shape[0] for p in parts)
    right = max(p.left + p.mask.shape[1] for p in parts)
    mask = np.zeros((bottom - top, right - left), bool)
    for p in parts:
        mask[p.top - top : p.top - top + p.mask.shape[0], p.left - left : p.left - left + p.mask.shape[1]] |= p.mask
    return Region(0, mask, top, left)
