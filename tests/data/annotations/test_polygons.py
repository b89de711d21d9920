"""Polygons whose corners are far outside the image, or many: the same pixels, in bounded time."""

from __future__ import annotations

import time

import numpy as np
import pytest

from segwright.core.errors import LabelError
from segwright.data.annotations import polygons
from segwright.data.annotations.polygons import draw_labelme, fill_box


def filled(points: np.ndarray, height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    top, left, box = fill_box(points, height, width)
    mask[top : top + box.shape[0], left : left + box.shape[1]] = box
    return mask


def test_single_steps_are_those_of_the_whole_outline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way for long outlines gives the pixels of the way for short ones."""
    rng = np.random.default_rng(0)
    for round in range(250):
        height, width = rng.integers(1, 120, 2)
        count, spread = int(rng.choice((1, 2, 3, 5, 40))), float(rng.choice((1.0, 1.0, 3.0, 60.0)))
        points = (rng.random((count, 2)) - 0.3) * spread * (width, height)
        points = np.round(points) if round % 3 == 0 else points
        if round % 5 == 0:
            points[:, round % 2] = points[0, 0]  # all on one line
        monkeypatch.setattr(polygons, "CHUNK", 1 << 40)
        whole = filled(points, height, width)
        monkeypatch.setattr(polygons, "CHUNK", 200)
        assert np.array_equal(filled(points, height, width), whole), points.tolist()


def test_corners_far_outside_take_no_time() -> None:
    began = time.process_time()
    far = 1e7
    assert filled(np.array([[-far, -far], [far, -far], [far, far], [-far, far]]), 24, 32).all()
    half = filled(np.array([[-far, -far], [far, far], [-far, far]]), 30, 30)
    assert half[29, 0] and not half[0, 29] and 400 < half.sum() < 500
    edges = np.array([(x, y) for _ in range(2000) for x, y in ((-far, 3.0), (far, 7.0))])
    fill_box(edges, 24, 32)
    for _ in range(200):
        fill_box(np.array([[0.0, 0.0], [4.8e6, 0.0], [4.8e6, 10.0]]), 24, 32)
    assert time.process_time() - began < 5
    with pytest.raises(LabelError, match="crosses too many columns"):
        fill_box(np.array([[-5.0, 1.0], [9000.0, 2.0]] * 1000), 24, 9000)


@pytest.mark.parametrize("kind", ["circle", "polygon", "rectangle", "line", "linestrip", "point"])
def test_labelme_shapes_far_outside_end(kind: str) -> None:
    began = time.process_time()
    for points in ([[29.4, -1e7], [6.3, 20.2]], [[-1e7, 1e7], [1e7, -1e7]], [[0.0, 0.0], [1e7, 1e7]]):
        corners = np.array([*points, [11.7, 20.4]][: 3 if kind in ("polygon", "linestrip") else 2])
        _, _, mask = draw_labelme(kind, corners, 16, 20, "x")
        assert mask.shape[0] <= 16 and mask.shape[1] <= 20
    assert time.process_time() - began < 5


def test_a_large_circle_is_as_pillow_draws_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for center, on in (((50.0, 30.0), (80.0, 30.0)), ((500.0, -200.0), (40.0, 50.0)), ((-900.0, 30.0), (45.0, 33.0))):
        points = np.array([center, on])
        drawn = draw_labelme("circle", points, 60, 100, "x")
        monkeypatch.setattr(polygons, "LARGEST_CIRCLE", 1.0)
        ours = draw_labelme("circle", points, 60, 100, "x")
        monkeypatch.undo()
        assert drawn[:2] == ours[:2] and drawn[2].shape == ours[2].shape
        different = drawn[2] != ours[2]
        assert different.sum() < 0.6 * (np.diff(drawn[2].astype(int), axis=1) != 0).sum() + 40, (
            "half a pixel at borders"
        )
        assert drawn[2].any()


def test_many_points_of_a_labelme_shape_are_bounded() -> None:
    points = np.random.default_rng(0).random((400_000, 2)) * 2000
    with pytest.raises(LabelError, match="too many points for its size"):
        draw_labelme("polygon", points, 2000, 2000, "x")
