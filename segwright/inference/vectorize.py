"""Label masks as polygons: GeoJSON, COCO and labelme.

Polygons follow the pixels' edges exactly: a pixel (column x, row y) is the square from (x, y) to (x+1, y+1), and
drawing the polygons gives the mask again. A region is connected over the sides of its pixels. With a tolerance, edges
are simplified, and stay common to the two regions beside them (:mod:`segwright.inference.coverage`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from segwright.core.types import IGNORE_INDEX, LabelSpace
from segwright.data.formats.writing import IGNORE_NAME
from segwright.imageio import UInt8Array
from segwright.inference.coverage import Region, Ring, regions, signed_area

Place = Callable[[float, float], tuple[float, float]]  # pixel corner x, y → coordinates


def geojson(
    labels: UInt8Array,
    space: LabelSpace,
    place: Place | None = None,
    epsg: int | None = None,
    tolerance: float = 0.0,
) -> Any:
    """A FeatureCollection, one feature per region with its class; ``place`` gives coordinates on the ground.

    Without it coordinates are pixels, y pointing down. ``epsg`` is written as ``crs``, as GDAL does: RFC 7946 has
    longitude and latitude only.
    """
    features = []
    for region in regions(labels, space.classes, tolerance):
        rings = [closed_ring(ring, place) for ring in (region.exterior, *region.holes)]
        features.append(
            {
                "type": "Feature",
                "properties": {"class": space.names[region.label], "index": region.label, "pixels": region.area},
                "geometry": {"type": "Polygon", "coordinates": rings},
            }
        )
    return {"type": "FeatureCollection", "features": features, **crs_of(epsg)}


def crs_of(epsg: int | None) -> dict[str, Any]:
    """The member ``crs`` of a FeatureCollection; none for pixels."""
    if epsg is None:
        return {}
    return {"crs": {"type": "name", "properties": {"name": f"urn:ogc:def:crs:EPSG::{epsg}"}}}


def labelme(labels: UInt8Array, space: LabelSpace, image: str, tolerance: float = 0.0) -> Any:
    """A labelme file. It cannot store holes: larger regions come first, and regions in a hole are drawn over them;
    ignored ones as ``__ignore__``."""
    found = sorted(
        regions(labels, space.classes, tolerance, ignored=True), key=lambda region: -abs(signed_area(region.exterior))
    )
    shapes = [
        {
            "label": IGNORE_NAME if region.label == IGNORE_INDEX else space.names[region.label],
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
    """Collects a COCO file over many images, one annotation per region: as run-length masks, which keep holes, or with
    a tolerance as polygons, whose holes are joined to the exterior by a cut without width."""

    def __init__(self, space: LabelSpace, tolerance: float = 0.0) -> None:
        self.space = space
        self.tolerance = tolerance
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    def add(self, labels: UInt8Array, file: str) -> None:
        """Add the regions of one image."""
        height, width = labels.shape
        number = len(self.images) + 1
        self.images.append({"id": number, "file_name": file, "height": height, "width": width})
        shapes = self._polygons(labels) if self.tolerance > 0 else self._masks(labels)
        for label, box, area, segmentation in shapes:
            self.annotations.append(
                {
                    "id": len(self.annotations) + 1, "image_id": number, "category_id": label + 1,
                    "segmentation": segmentation, "bbox": box, "area": area, "iscrowd": 0,
                }
            )  # fmt: skip

    def _polygons(self, labels: UInt8Array) -> Iterator[tuple[int, list[int], int, Any]]:
        for region in regions(labels, self.space.classes, self.tolerance):
            ring = keyholed(region)
            x, y = (int(value) for value in ring.min(axis=0))
            right, bottom = (int(value) for value in ring.max(axis=0))
            yield region.label, [x, y, right - x, bottom - y], region.area, [ring.astype(float).ravel().tolist()]

    def _masks(self, labels: UInt8Array) -> Iterator[tuple[int, list[int], int, Any]]:
        height, width = labels.shape
        for label in np.unique(labels).tolist():
            if label == IGNORE_INDEX or label >= self.space.classes:
                continue
            count, numbered, stats, _ = cv2.connectedComponentsWithStats(
                (labels == label).view(np.uint8), connectivity=4
            )
            for part in range(1, count):
                x, y, w, h, area = (int(value) for value in stats[part])
                runs = _runs(numbered, part, (x, y, w, h))
                yield label, [x, y, w, h], area, {"size": [height, width], "counts": runs}

    def tree(self) -> Any:
        """The file."""
        categories = [{"id": i + 1, "name": name} for i, name in enumerate(self.space.names)]
        return {"images": self.images, "categories": categories, "annotations": self.annotations}


def keyholed(region: Region) -> Ring:
    """One ring (N, 2) for a region with holes: each hole is reached and left along the same line."""
    ring = region.exterior
    for hole in region.holes:
        gaps = ((ring - hole[0]) ** 2).sum(axis=1)
        at = int(gaps.argmin())
        ring = np.concatenate((ring[: at + 1], hole, hole[:1], ring[at:]))
    return ring


def closed_ring(ring: Ring, place: Place | None) -> list[list[float]]:
    """The points of a ring, the first one again at the end, on the ground if there is a ``place``."""
    points: Sequence[Any] = ring.tolist()
    if place is not None:
        points = [list(place(x, y)) for x, y in points]
        if signed_area(np.array(points)) * signed_area(ring) < 0:  # y points up there
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
