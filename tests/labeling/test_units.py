"""Units: connected, complete, and what part of them has their dominant class."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import label

from segwright.core.errors import UsageError
from segwright.labeling.units import (
    KINDS,
    borders,
    connected,
    core,
    make_units,
    merged_units,
    purity,
    segment_units,
    superpixel_units,
)


def blocks(height: int = 60, width: int = 80, seed: int = 0) -> np.ndarray:
    """An image of four colored quarters with a little noise."""
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, : width // 2] = (200, 30, 30)
    image[: height // 2, width // 2 :] = (30, 200, 30)
    image[height // 2 :, : width // 2] = (30, 30, 200)
    image[height // 2 :, width // 2 :] = (200, 200, 30)
    noise = np.random.default_rng(seed).integers(0, 8, image.shape)
    return (image + noise).astype(np.uint8)


def probabilities_of(labels: np.ndarray, classes: int, sure: float = 0.9) -> np.ndarray:
    found = np.full((classes, *labels.shape), (1 - sure) / (classes - 1), np.float32)
    np.put_along_axis(found, labels[None].astype(np.int64), np.float32(sure), axis=0)
    return found


def is_connected(units: np.ndarray) -> bool:
    return all(label(units == one)[1] == 1 for one in range(int(units.max()) + 1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(60, 80), (17, 5), (1, 1), (1, 40), (9, 9)])
def test_units_fill_the_image_and_are_connected(kind: str, size: tuple[int, int]) -> None:
    image = blocks(*size)
    labels = (np.arange(size[0])[:, None] + np.arange(size[1])[None]) // 9 % 3
    units = make_units(kind, image, probabilities=probabilities_of(labels, 3), size=8, count=10)
    assert units.shape == size and units.dtype == np.int32
    np.testing.assert_array_equal(np.unique(units), np.arange(units.max() + 1))
    assert is_connected(units)


def test_parts_of_one_number_are_separate_and_small_ones_join() -> None:
    numbers = np.zeros((4, 9), np.int32)
    numbers[:, 4] = 1
    numbers[0, 0] = 2  # one pixel
    units = connected(numbers, least=2)
    np.testing.assert_array_equal(units[1], [0, 0, 0, 0, 1, 2, 2, 2, 2])
    assert units[0, 0] == units[0, 1]


def test_many_small_parts_settle() -> None:
    numbers = np.random.default_rng(0).integers(0, 5, (40, 40)).astype(np.int32)
    units = connected(numbers, least=12)
    assert is_connected(units) and np.bincount(units.ravel()).min() >= 2


def test_borders_count_pixel_edges() -> None:
    units = np.array([[0, 0, 1], [2, 2, 1]], np.int32)
    first, second, length = borders(units)
    assert list(zip(first.tolist(), second.tolist(), length.tolist(), strict=True)) == [(0, 1, 1), (0, 2, 2), (1, 2, 1)]


def test_merging_ends_at_the_four_quarters() -> None:
    units = merged_units(blocks(), 4, exponent=1.0)
    truth = np.zeros((60, 80), np.uint8)
    truth[:30, 40:], truth[30:, :40], truth[30:, 40:] = 1, 2, 3
    assert units.max() == 3
    assert purity(units, truth).mean > 0.97


def test_merging_heeds_the_probabilities() -> None:
    """Of one color, and two predicted classes: without a model nothing separates them."""
    image = np.full((40, 40, 3), 90, np.uint8)
    labels = np.zeros((40, 40), np.uint8)
    labels[:, 20:] = 1
    units = merged_units(image, 2, probabilities_of(labels, 2))
    assert purity(units, labels).mean > 0.85
    assert merged_units(image, 1).max() == 0


def test_segments_are_of_one_predicted_class() -> None:
    labels = np.zeros((60, 80), np.uint8)
    labels[10:20, 10:30] = 2
    units = segment_units(blocks(), labels, size=24)
    assert purity(units, labels).mean == 1.0
    inside = units[labels == 2]
    assert len(np.unique(inside)) == 1  # small enough to be one
    assert units.max() > 2  # the large one is cut


def test_purity_by_hand() -> None:
    units = np.array([[0, 0, 0, 1], [0, 2, 2, 1]], np.int32)
    truth = np.array([[3, 3, 5, 255], [255, 5, 255, 255]], np.uint8)
    found = purity(units, truth)
    np.testing.assert_array_equal(found.dominant, [3, 255, 5])
    np.testing.assert_allclose(found.share, [2 / 3, 0, 1])
    np.testing.assert_allclose(found.labeled, [3 / 4, 0, 1 / 2])
    np.testing.assert_array_equal(found.pixels, [4, 2, 2])
    assert found.mean == pytest.approx((2 + 1) / 4)
    assert np.isnan(purity(units, np.full((2, 4), 255, np.uint8)).mean)


def test_the_core_leaves_the_border_out() -> None:
    units = np.zeros((5, 7), np.int32)
    units[:, 4:] = 1
    units[2, 5] = 2  # one pixel, which is all border
    inside = core(units)
    np.testing.assert_array_equal(inside[0], [1, 1, 1, 0, 0, 1, 1])
    assert inside[2, 5] and not inside[1, 5]


def test_the_same_image_gives_the_same_units() -> None:
    for kind in ("merged", "superpixels"):
        np.testing.assert_array_equal(make_units(kind, blocks()), make_units(kind, blocks()))
    assert superpixel_units(blocks(), 8).max() > superpixel_units(blocks(), 20).max()


def test_unknown_units_and_segments_without_a_model_are_refused() -> None:
    with pytest.raises(UsageError, match="unknown kind"):
        make_units("hexagons", blocks())
    with pytest.raises(UsageError, match="of a prediction"):
        make_units("segments", blocks())
