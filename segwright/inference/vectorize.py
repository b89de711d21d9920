"""Label masks as polygons: GeoJSON, COCO and labelme.

Polygons follow the pixels' edges exactly: a pixel (column x, row y) is the square from (x, y) to (x+1, y+1), and
drawing the polygons gives the mask again. A region is connected over the sides of its pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from segwright.core.types import IGNORE_INDEX, LabelSpace
from segwright.imageio import UInt8Array

Ring = npt.NDArray[np.int64]  # (N, 2) corners x, y; not closed
Place = Callable[[float, float], tuple[float, float]]  # pixel corner x, y → coordinates


@dataclass(frozen=True)
class Region:
    """One connected region of a class; the exterior's area is positive by the shoelace formula, a hole's negative."""

    label: int
    exterior: Ring
    holes: tuple[Ring, ...]
    area: int  # pixels


def regions(labels: UInt8Array, classes: int) -> Iterator[Region]:
    """The connected regions of a mask (H, W), class by class, without ignored pixels."""
    for label in np.unique(labels).tolist():
        if label == IGNORE_INDEX or label >= classes:
            continue
        count, numbered, stats, _ = cv2.connectedComponentsWithStats((labels == label).view(np.uint8), connectivity=4)
        for number in range(1, count):
            x, y, width, height, area = (int(value) for value in stats[number])
            part = (numbered[y : y + height, x : x + width] == number).view(np.uint8)
            yield _region(label, part, (x, y), area)


def geojson(labels: UInt8Array, space: LabelSpace, place: Place | None = None, epsg: int | None = None) -> Any:
    """A FeatureCollection, one feature per region with its class; ``place`` gives coordinates on the ground.

    Without it coordinates are pixels, y pointing down. ``epsg`` is written as ``crs``, as GDAL does: RFC 7946 has
    longitude and latitude only.
    """
    features = []
    for region in regions(labels, space.classes):
        rings = [_closed(ring, place) for ring in (region.exterior, *region.holes)]
        features.append(
            {
                "type": "Feature",
                "properties": {"class": space.names[region.label], "index": region.label, "pixels": region.area},
                "geometry": {"type": "Polygon", "coordinates": rings},
            }
        )
    tree: dict[str, Any] = {"type": "FeatureCollection", "features": features}
    if epsg is not None:
        tree["crs"] = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:EPSG::{epsg}"}}
    return tree


def labelme(labels: UInt8Array, space: LabelSpace, image: str) -> Any:
    """A labelme file. It cannot store holes: larger regions come first, and regions in a hole are drawn over them."""
    found = sorted(regions(labels, space.classes), key=lambda region: -abs(_signed_area(region.exterior)))
    shapes = [
        {
            "label": space.names[region.label],
            "points": region.exterior.astype(float).tolist(),
            "group_id": None,
            "shape_type": "polygon",
            "flags": {},
        }
        for region in found
    ]
    height, width = labels.shape
    return {
        "version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": image, "imageData": None,
        "imageHeight": height, "imageWidth": width,
    }  # fmt: skip


class CocoWriter:
    """Collects a COCO file over many images: one annotation per region, as run-length masks, which keep holes."""

    def __init__(self, space: LabelSpace) -> None:
        self.space = space
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    def add(self, labels: UInt8Array, file: str) -> None:
        """Add the regions of one image."""
        height, width = labels.shape
        number = len(self.images) + 1
        self.images.append({"id": number, "file_name": file, "height": height, "width": width})
        for label in np.unique(labels).tolist():
            if label == IGNORE_INDEX or label >= self.space.classes:
                continue
            count, numbered, stats, _ = cv2.connectedComponentsWithStats(
                (labels == label).view(np.uint8), connectivity=4
            )
            for part in range(1, count):
                x, y, w, h, area = (int(value) for value in stats[part])
                self.annotations.append(
                    {
                        "id": len(self.annotations) + 1,
                        "image_id": number,
                        "category_id": label + 1,
                        "segmentation": {"size": [height, width], "counts": _runs(numbered, part, (x, y, w, h))},
                        "bbox": [x, y, w, h],
                        "area": area,
                        "iscrowd": 0,
                    }
                )

    def tree(self) -> Any:
        """The file."""
        categories = [{"id": i + 1, "name": name} for i, name in enumerate(self.space.names)]
        return {"images": self.images, "categories": categories, "annotations": self.annotations}


def _region(label: int, part: UInt8Array, corner: tuple[int, int], area: int) -> Region:
    # At twice the size every pixel edge lies between two pixels of the contour, which cv2 leads through pixel centers.
    doubled = np.repeat(np.repeat(part, 2, axis=0), 2, axis=1)
    contours, _ = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    rings = [ring for contour in contours for ring in _simple((contour[:, 0].astype(np.int64) + 1) // 2)]
    rings.sort(key=lambda ring: -abs(_signed_area(ring)))  # the exterior encloses all others
    turned = [ring[::-1] if (_signed_area(ring) > 0) != (i == 0) else ring for i, ring in enumerate(rings)]
    moved = [ring + np.array(corner) for ring in turned]
    return Region(label, moved[0], tuple(moved[1:]), area)


def _simple(points: Ring) -> list[Ring]:
    """Split a closed path into rings that pass no corner twice, without corners on a straight line."""
    rings: list[Ring] = []
    path: list[tuple[int, int]] = []
    place: dict[tuple[int, int], int] = {}
    for point in map(tuple, points.tolist()):
        if path and path[-1] == point:
            continue
        if point in place:  # a loop is closed: off with it
            start = place[point]
            loop = path[start:]
            for corner in loop[1:]:
                del place[corner]
            del path[start + 1 :]
            rings.append(np.array(loop))
        else:
            place[point] = len(path)
            path.append(point)
    rings.append(np.array(path))
    return [ring for ring in map(_corners, rings) if len(ring) >= 4]


def _corners(ring: Ring) -> Ring:
    """The points at which the direction changes."""
    if len(ring) < 4:
        return ring
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    return np.asarray(ring[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]], np.int64)


def _signed_area(ring: npt.NDArray[Any]) -> float:
    x, y = ring[:, 0], ring[:, 1]
    return float(np.dot(x, np.roll(y, -1)) - np.dot(np.roll(x, -1), y)) / 2


def _closed(ring: Ring, place: Place | None) -> list[list[float]]:
    points: Sequence[Any] = ring.tolist()
    if place is not None:
        points = [list(place(x, y)) for x, y in points]
        if _signed_area(np.array(points)) * _signed_area(ring) < 0:  # y points up there
            points = points[::-1]
    return [*points, points[0]]


def _runs(numbered: npt.NDArray[np.int32], part: int, box: tuple[int, int, int, int]) -> list[int]:
    """COCO's uncompressed run lengths, column by column, of one region inside its box."""
    height, width = numbered.shape
    x, y, w, h = box
    whole = np.zeros((w, height), np.uint8)
    whole[:, y : y + h] = (numbered[y : y + h, x : x + w] == part).T
    flat = whole.ravel()
    changes = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate(([0], changes, [flat.size]))).tolist()
    if flat[0]:
        runs = [0, *runs]
    runs[0] += x * height
    rest = (width - x - w) * height
    if len(runs) % 2:  # ends with zeros
        runs[-1] += rest
    elif rest:
        runs.append(rest)
    return [int(run) for run in runs]
