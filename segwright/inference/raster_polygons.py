"""GeoJSON of a raster that no memory holds: polygons tile by tile, with shared edges across the borders of tiles.

A region that extends over several tiles becomes a piece per tile. On a border, each side has a corner wherever regions
of the other side meet, so that pieces touch corner by corner. Pieces of one region have its number, found by a first
pass that joins them across the borders: a GIS dissolves them by it. In memory are a strip of tiles, and the numbers of
the pieces at borders.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
import numpy.typing as npt

from segwright.core.types import IGNORE_INDEX, LabelSpace, UInt8Array
from segwright.data.formats.georeference import Georeference
from segwright.inference.cog import ReadRows
from segwright.inference.coverage import Region, numbered_regions, regions
from segwright.inference.vectorize import closed_ring, crs_of

TILE = 2048
STRIP_BYTES = 128 << 20  # of the labels in memory; a wider raster has lower tiles
IntArray = npt.NDArray[np.int64]


class _Tile(NamedTuple):
    """A tile's labels with one pixel around (h+2, w+2), 255 outside the raster, and its place."""

    number: int
    top: int
    left: int
    around: UInt8Array

    @property
    def labels(self) -> UInt8Array:
        return np.ascontiguousarray(self.around[1:-1, 1:-1])


def write_raster_geojson(
    path: Path,
    read: ReadRows,
    shape: tuple[int, int],
    space: LabelSpace,
    ground: Georeference | None,
    tolerance: float,
    tile: int = TILE,
) -> int:
    """Write the regions of a mask (H, W) that is read by rows; the number of regions."""
    totals = _Joined(read, shape, space.classes, tile)
    place, epsg = (ground.at, ground.epsg) if ground is not None else (None, None)
    with open(path, "w", encoding="utf-8") as file:
        head = json.dumps({"type": "FeatureCollection", **crs_of(epsg)})[:-1]
        file.write(f'{head}, "features": [')
        comma = ""
        for part in _tiles(read, shape, tile):
            for region in regions(part.labels, space.classes, tolerance, around=part.around):
                file.write(f"{comma}\n")
                _write_feature(file, region, part, space, place, totals)
                comma = ","
        file.write("\n]}\n")
    return totals.count


def _write_feature(file: TextIO, region: Region, part: _Tile, space: LabelSpace, place: Any, totals: _Joined) -> None:
    at = np.array([part.left, part.top])
    number, pixels = totals.region(part.number, region.number, region.area)
    rings = [closed_ring(ring + at, place) for ring in (region.exterior, *region.holes)]
    json.dump(
        {
            "type": "Feature",
            "properties": {
                "class": space.names[region.label], "index": region.label, "pixels": region.area,
                "region": number, "region_pixels": pixels,
            },
            "geometry": {"type": "Polygon", "coordinates": rings},
        },
        file,
    )  # fmt: skip


def _tiles(read: ReadRows, shape: tuple[int, int], tile: int) -> Iterator[_Tile]:
    """The tiles, row by row."""
    height, width = shape
    tall = max(64, min(tile, STRIP_BYTES // width))
    number = 0
    for top in range(0, height, tall):
        bottom = min(top + tall, height)
        rows = read(max(0, top - 1), min(bottom + 1, height), 1)
        strip = np.full((bottom - top + 2, width + 2), IGNORE_INDEX, np.uint8)
        first = 1 if top == 0 else 0
        strip[first : first + rows.shape[0], 1:-1] = rows
        for left in range(0, width, tile):
            right = min(left + tile, width)
            yield _Tile(number, top, left, strip[:, left : right + 2])
            number += 1


class _Joined:
    """The regions to which pieces at the borders of tiles belong; numbers and pixels of regions."""

    def __init__(self, read: ReadRows, shape: tuple[int, int], classes: int, tile: int) -> None:
        self.count = 0
        self._parents: dict[int, int] = {}
        self._pixels: dict[int, int] = {}
        self._numbers: dict[int, int] = {}
        above: dict[int, tuple[IntArray, UInt8Array]] = {}  # left of a tile → its lowest row: pieces and labels
        beside: tuple[IntArray, UInt8Array] | None = None
        for part in _tiles(read, shape, tile):
            labels = part.labels
            numbered, found = numbered_regions(labels, classes)
            pieces = numbered[1:-1, 1:-1].astype(np.int64)
            areas = np.array([area for _, area in found], np.int64)
            for line in (pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]):
                for piece in np.unique(line).tolist():
                    self._pixels[_key(part.number, piece)] = int(areas[piece - 1])
            base = _key(part.number, 0)
            self._touch(above.get(part.left), (pieces[0] + base, labels[0]), classes)
            self._touch(beside if part.left else None, (pieces[:, 0] + base, labels[:, 0]), classes)
            above[part.left] = pieces[-1] + base, labels[-1].copy()
            beside = pieces[:, -1] + base, labels[:, -1].copy()
        for piece in list(self._parents):
            root = self._root(piece)
            if root != piece:
                self._pixels[root] += self._pixels.pop(piece)

    def _touch(self, one: tuple[IntArray, UInt8Array] | None, other: tuple[IntArray, UInt8Array], classes: int) -> None:
        """Join the pieces of one label on both sides of a border."""
        if one is None:
            return
        same = (one[1] == other[1]) & (one[1] < classes)
        for a, b in np.unique(np.stack((one[0][same], other[0][same])), axis=1).T.tolist():
            first, second = self._root(a), self._root(b)
            if first != second:
                self._parents[second] = first

    def _root(self, piece: int) -> int:
        root = piece
        while root in self._parents:
            root = self._parents[root]
        while piece != root:  # later searches are short
            self._parents[piece], piece = root, self._parents[piece]
        return root

    def region(self, tile: int, piece: int, area: int) -> tuple[int, int]:
        """The number of a piece's region, from 1 in the order of their first pieces, and its pixels."""
        root = self._root(_key(tile, piece))
        if root not in self._pixels:  # touches no border
            self.count += 1
            return self.count, area
        if root not in self._numbers:
            self.count += 1
            self._numbers[root] = self.count
        return self._numbers[root], self._pixels[root]


def _key(tile: int, piece: int) -> int:
    return (tile << 32) + piece
