"""Polygons of a label mask: drawn, they give the mask again; simplified, neighbors keep their common edge."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segwright import kernels
from segwright.core.types import LabelSpace
from segwright.imageio import UInt8Array
from segwright.inference.coverage import Region, regions, signed_area
from segwright.inference.vectorize import CocoWriter, geojson, keyholed, labelme

SPACE = LabelSpace(("ground", "thing", "other", "more"))


def covered(region: Region, height: int, width: int) -> np.ndarray:
    """(H, W): whether each pixel's center is inside, by the even-odd rule over all rings, half open at edges."""
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    inside = np.zeros((height, width), bool)
    for ring in (region.exterior, *region.holes):
        for (ax, ay), (bx, by) in zip(ring.tolist(), np.roll(ring, -1, axis=0).tolist(), strict=True):
            rows = (ay > y) != (by > y)
            if rows.any():
                crossing = ax + (y[rows] - ay) * (bx - ax) / (by - ay)
                inside[rows] ^= x[None] < crossing[:, None]
    return inside


def drawn(labels: UInt8Array, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """How many regions cover each pixel, ignored ones too, and which label the last one has."""
    count, found = np.zeros(labels.shape, int), np.full(labels.shape, 77, np.uint8)
    for region in regions(labels, 4, tolerance, ignored=True):
        inside = covered(region, *labels.shape)
        count += inside
        found[inside] = region.label
    return count, found


def blobs(seed: int, height: int = 60, width: int = 80, classes: int = 4, scale: float = 4.0) -> UInt8Array:
    """A mask with curved boundaries, islands and holes; 255 is one of its values."""
    from scipy.ndimage import gaussian_filter

    noise = np.random.default_rng(seed).normal(size=(classes + 1, height, width))
    found = gaussian_filter(noise, (0, scale, scale)).argmax(axis=0).astype(np.uint8)
    found[found == classes] = 255
    return found


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 9), st.integers(1, 5))
def test_drawing_the_polygons_gives_the_mask_again(seed: int, height: int, width: int, values: int) -> None:
    pool = np.array([0, 1, 2, 3, 255], np.uint8)[:values]
    labels = np.random.default_rng(seed).choice(pool, (height, width))
    count, found = drawn(labels, 0)
    assert (count == 1).all() and (found == labels).all()
    for region in regions(labels, 4, ignored=True):
        assert signed_area(region.exterior) > 0 and all(signed_area(hole) < 0 for hole in region.holes)
        assert sum(signed_area(ring) for ring in (region.exterior, *region.holes)) == region.area
        for ring in (region.exterior, *region.holes):
            assert len({tuple(point) for point in ring.tolist()}) == len(ring), "no corner twice in a ring"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.6, 1.0, 2.5, 8.0]), st.sampled_from([0.7, 1.5, 4.0]))
def test_simplified_polygons_have_no_gap_and_no_overlap(seed: int, tolerance: float, scale: float) -> None:
    labels = blobs(seed, 30, 40, scale=scale)
    count, _ = drawn(labels, tolerance)
    assert (count == 1).all(), "each pixel belongs to one region"
    area = 0.0
    for region in regions(labels, 4, tolerance, ignored=True):
        assert signed_area(region.exterior) > 0 and all(signed_area(hole) < 0 for hole in region.holes)
        area += sum(signed_area(ring) for ring in (region.exterior, *region.holes))
    assert area == labels.size, "the areas add up to the image's"


@pytest.mark.parametrize("tolerance", [1.0, 3.0])
def test_simplification_takes_points_and_moves_no_boundary_further_than_stated(tolerance: float) -> None:
    labels = blobs(3)
    exact, simple = (list(regions(labels, 4, t)) for t in (0, tolerance))
    points = [sum(len(r.exterior) + sum(map(len, r.holes)) for r in found) for found in (exact, simple)]
    assert points[1] < points[0] / 3
    for before, after in zip(exact, simple, strict=True):
        assert before.label == after.label and before.area == after.area and len(before.holes) == len(after.holes)
        a, b = after.exterior.astype(float), np.roll(after.exterior, -1, axis=0).astype(float)
        for p in before.exterior:
            along = np.clip(((p - a) * (b - a)).sum(1) / ((b - a) ** 2).sum(1), 0, 1)
            assert np.hypot(*(p - a - along[:, None] * (b - a)).T).min() <= tolerance + 1e-6


def test_neighbors_have_the_same_edges() -> None:
    labels = blobs(5)
    edges: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}
    for region in regions(labels, 4, 2.0, ignored=True):
        for ring in (region.exterior, *region.holes):
            for a, b in zip(ring.tolist(), np.roll(ring, -1, axis=0).tolist(), strict=True):
                edges[tuple(a), tuple(b)] = edges.get((tuple(a), tuple(b)), 0) + 1
    height, width = labels.shape
    for a, b in edges:
        frame = (a[0] == b[0] and a[0] in (0, width)) or (a[1] == b[1] and a[1] in (0, height))
        assert edges[a, b] == 1 and (frame or (b, a) in edges)


def test_the_compiled_functions_and_the_plain_ones_agree() -> None:
    labels = blobs(7, 24, 30, scale=1.5)
    compiled = list(regions(labels, 4, 1.0))
    with kernels.disabled():
        plain = list(regions(labels, 4, 1.0))
    for one, other in zip(compiled, plain, strict=True):
        assert one.label == other.label and (one.exterior == other.exterior).all()
        assert all((a == b).all() for a, b in zip(one.holes, other.holes, strict=True))


@pytest.mark.parametrize("tolerance", [0.0, 1.5])
def test_geojson_coco_and_labelme_have_the_same_edges(tolerance: float) -> None:
    masks = pytest.importorskip("pycocotools.mask")
    labels = blobs(9)
    labels[20:30, 20:30], labels[23:27, 23:27] = 1, 255
    found = list(regions(labels, 4, tolerance))
    features = geojson(labels, SPACE, tolerance=tolerance)["features"]
    assert [f["geometry"]["coordinates"][0][:-1] for f in features] == [r.exterior.tolist() for r in found]
    writer = CocoWriter(SPACE, tolerance)
    writer.add(labels, "a.png")
    annotations = writer.tree()["annotations"]
    assert [one["area"] for one in annotations] == [region.area for region in found]
    total = np.zeros(labels.shape, int)
    for one in annotations:
        shapes = one["segmentation"]
        runs = masks.frPyObjects(shapes, *labels.shape)
        total += masks.decode(masks.merge(runs) if isinstance(shapes, list) else runs)
    _, expected = drawn(labels, tolerance)
    assert (total != (expected != 255)).mean() <= (0 if tolerance == 0 else 0.01), "slants are rounded by COCO's rule"
    shapes = labelme(labels, SPACE, "a.png", tolerance)["shapes"]
    assert {shape["label"] for shape in shapes} == {*SPACE.names, "__ignore__"}, "an ignored hole is not filled"
    assert sorted(map(len, (s["points"] for s in shapes if s["label"] != "__ignore__"))) == sorted(
        len(r.exterior) for r in found
    )


def test_a_hole_is_reached_by_a_cut() -> None:
    labels = np.zeros((9, 9), np.uint8)
    labels[2:4, 2:4], labels[5:8, 5:8] = 1, 2
    region = next(iter(regions(labels, 4)))
    assert len(region.holes) == 2 and signed_area(keyholed(region)) == region.area == 81 - 4 - 9
