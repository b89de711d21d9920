"""Whether COCO's outlines are in pixels: compared with the boxes of the same objects, and with the sizes of the images.

Outlines in percent, in shares or with x and y exchanged are drawn without an error, somewhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from segwright.core.errors import LabelError
from segwright.data.formats.coco_shapes import box_of, outlines, whole
from segwright.data.records import Problem

FEWEST = 4
MOSTLY = 0.8
TOLERANCE = 3.0  # pixels, and
RELATIVE = 0.05  # of the box
COMPARED = 5000  # objects
SMALL = 4.0  # a box of fewer pixels on a side is a placeholder

Extent = tuple[float, float, float, float]  # left, top, right, bottom


def check_units(objects: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]], where: Path) -> list[Problem]:
    """LabelError where (image, annotation) show outlines in other units than pixels; a finding where they differ."""
    compared = 0
    agree = percent = share = turned = 0
    outside = hundred = 0
    count = 0
    for image, annotation in objects:
        height, width = whole(image.get("height")), whole(image.get("width"))
        extent = _extent(annotation.get("segmentation"))
        if extent is None or not height or not width:
            continue
        count += 1
        hundred += max(extent) <= 100.001 and min(extent) >= 0 and min(height, width) >= 250
        outside += max(extent) > 60
        box = box_of(annotation)
        if box is not None and min(box[2:]) >= SMALL:
            compared += 1
            target = (box[0], box[1], box[0] + box[2], box[1] + box[3])
            left, top, right, bottom = extent
            agree += _close(extent, target) or _close(extent, box)
            percent += _close(_scaled(extent, width / 100, height / 100), target)
            share += _close(_scaled(extent, width, height), target)
            turned += _close((top, left, bottom, right), target)
        if count >= COMPARED:
            break
    if compared >= FEWEST and agree < 0.5 * compared:
        for number, what, fix in (
            (percent, "in percent of the image", "multiply x by width / 100 and y by height / 100"),
            (share, "in shares of the image", "multiply x by width and y by height"),
            (turned, "with x and y exchanged", "write them as x, y, x, y, …"),
        ):
            if number >= MOSTLY * compared:
                raise LabelError(
                    f"the outlines are {what}, and its boxes are not",
                    expected="pixels, x before y, as the boxes (bbox) are",
                    found=f"{number} of {compared} objects whose outline fits its box so, {agree} as they stand",
                    where=where,
                    fix=f"{fix}, or export the annotations again",
                )
        return [
            Problem(
                "warning",
                "outlines in doubt",
                f"{compared - agree} of {compared} objects of {where.name} have an outline elsewhere than their box "
                "(bbox); the outlines are read",
                (str(where),),
                "look at some images (segwright view); if the boxes are right, export the annotations again",
            )
        ]
    if not compared and count >= FEWEST and hundred == count and outside:
        return [
            Problem(
                "warning",
                "outlines in doubt",
                f"no coordinate of {where.name} is above 100, and its images are larger: are the outlines in percent?",
                (str(where),),
                "if so, multiply x by width / 100 and y by height / 100",
            )
        ]
    return []


def _extent(segmentation: Any) -> Extent | None:
    """The box around an object's polygons; None for run lengths and what is no polygon."""
    xs: list[float] = []
    ys: list[float] = []
    for polygon in outlines(segmentation) or ():
        if not isinstance(polygon, list) or not polygon:
            return None
        pairs = polygon if isinstance(polygon[0], list) else [polygon[i : i + 2] for i in range(0, len(polygon) - 1, 2)]
        for pair in pairs:
            if len(pair) != 2 or not all(isinstance(v, int | float) for v in pair):
                return None
            xs.append(float(pair[0]))
            ys.append(float(pair[1]))
    return (min(xs), min(ys), max(xs), max(ys)) if xs else None


def _scaled(extent: Extent, across: float, down: float) -> Extent:
    return extent[0] * across, extent[1] * down, extent[2] * across, extent[3] * down


def _close(one: Extent, other: Extent) -> bool:
    allowed = TOLERANCE + RELATIVE * max(other[2] - other[0], other[3] - other[1], 0)
    return all(abs(a - b) <= allowed for a, b in zip(one, other, strict=True))
