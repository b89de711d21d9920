"""Polygons of a raster tile by tile: pieces fit corner by corner, and their numbers are the regions of the whole."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from test_coverage import blobs

from segwright.core.types import LabelSpace
from segwright.imageio import UInt8Array
from segwright.inference.cog import rows_of
from segwright.inference.raster_polygons import write_raster_geojson

SPACE = LabelSpace(("ground", "thing", "other", "more"))
TILE = 64  # the lowest tile


def written(path: Path, labels: UInt8Array, tolerance: float = 0.0) -> Any:
    size = (labels.shape[0], labels.shape[1])
    write_raster_geojson(path, rows_of(labels), size, SPACE, None, tolerance, TILE)
    return json.loads(path.read_text())["features"]


def inside(feature: Any, height: int, width: int) -> np.ndarray:
    """(H, W): whether each pixel's center is inside, by the even-odd rule."""
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    found = np.zeros((height, width), bool)
    for ring in feature["geometry"]["coordinates"]:
        for (ax, ay), (bx, by) in pairwise(ring):
            rows = (ay > y) != (by > y)
            if rows.any():
                found[rows] ^= x[None] < (ax + (y[rows] - ay) * (bx - ax) / (by - ay))[:, None]
    return found


def noise(height: int, width: int) -> UInt8Array:
    return np.random.default_rng(1).choice(np.array([0, 1, 255], np.uint8), (height, width))


@pytest.mark.parametrize("labels", [blobs(3, 150, 170, scale=6.0), noise(70, 66), blobs(5, 40, 30)])
def test_pieces_are_the_mask_and_their_numbers_the_regions_of_the_whole(tmp_path: Path, labels: UInt8Array) -> None:
    features = written(tmp_path / "a.geojson", labels)
    height, width = labels.shape
    regions, count = np.zeros(labels.shape, int), np.zeros(labels.shape, int)
    for feature in features:
        facts, here = feature["properties"], inside(feature, height, width)
        assert here.sum() == facts["pixels"] and (labels[here] == facts["index"]).all()
        regions[here] = facts["region"]
        count += here
    assert (count == (labels != 255)).all()
    number = 0
    for label in range(4):
        parts, found = ndimage.label(labels == label)
        for part in range(1, found + 1):
            here = parts == part
            assert len(np.unique(regions[here])) == 1, "one number per region"
            own = [one["properties"] for one in features if one["properties"]["region"] == regions[here][0]]
            assert {one["region_pixels"] for one in own} == {int(here.sum())} == {sum(one["pixels"] for one in own)}
        number += found
    assert set(np.unique(regions[labels != 255])) == set(range(1, number + 1))


@pytest.mark.parametrize("tolerance", [0.0, 1.5])
def test_pieces_meet_corner_by_corner_and_cover_the_raster(tmp_path: Path, tolerance: float) -> None:
    labels = blobs(8, 150, 200, scale=5.0)
    labels[labels == 255] = 0
    features = written(tmp_path / "a.geojson", labels, tolerance)
    count = sum(inside(feature, *labels.shape).astype(int) for feature in features)
    assert (np.asarray(count) == 1).all(), "no gap and no overlap"
    for axis, border in ((0, 64), (0, 128), (1, 64), (1, 128)):
        sides: tuple[set[int], set[int]] = set(), set()
        for feature in features:
            points = np.array(feature["geometry"]["coordinates"][0])
            on = points[points[:, axis] == border, 1 - axis].tolist()
            sides[int(points[:, axis].max() > border)].update(on)
        assert sides[0] == sides[1] and len(sides[0]) > 4, "both sides have the same corners on the border"
