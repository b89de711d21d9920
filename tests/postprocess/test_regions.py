"""Regions: hand-worked label maps, tie rules, and the ignore value."""

from __future__ import annotations

import numpy as np
import pytest

from segwright.core.errors import PostprocessError
from segwright.postprocess.regions import (
    Area,
    closed,
    fill_holes,
    majority_filter,
    opened,
    remove_small_regions,
    smoothed,
)
from segwright.postprocess.superpixels import superpixels


def labels(*rows: str) -> np.ndarray:
    return np.array([[255 if c == "." else int(c) for c in row] for row in rows], np.uint8)


def test_opening_gives_thin_parts_to_their_surroundings() -> None:
    image = np.zeros((20, 20), np.uint8)
    image[5:12, 5:12] = 1
    image[8, 12:18] = 1  # a whisker one pixel wide
    result = opened(image, 3)
    assert (result[8, 13:18] == 0).all()
    assert (result[6:11, 6:11] == 1).all()


def test_closing_fills_gaps_for_the_rarer_class_only() -> None:
    image = np.zeros((15, 15), np.uint8)
    image[7, 2:13] = 1
    image[7, 7] = 0  # a gap in a rare line; the line itself is a gap in the frequent class
    result = closed(image, 3)
    assert result[7, 7] == 1
    assert (result[7, 2:13] == 1).all()
    assert (result == 0).sum() == 225 - 11


def test_smoothing_takes_the_majority_and_keeps_ties() -> None:
    assert (smoothed(labels("000", "010", "000"), 3) == 0).all()
    tie = labels("01", "01")
    assert np.array_equal(smoothed(tie, 3), tie)  # two against two everywhere: each pixel keeps its own
    assert np.array_equal(smoothed(labels(".1", ".1"), 3), labels(".1", ".1"))


def test_holes_are_filled_only_when_wholly_inside_one_class() -> None:
    image = labels("000000", "011100", "012110", "011100", "000000")
    filled = fill_holes(image, Area(1))
    assert filled[2, 2] == 1
    assert np.array_equal(fill_holes(image, Area(0)), image)
    assert filled[0, 0] == 0  # the outside touches the edge
    assert fill_holes(labels("111", "101", "1.1"), Area(9))[1, 1] == 0  # beside an ignored pixel: not known


def test_small_components_go_to_the_nearest() -> None:
    image = labels("000011", "020011", "000011", "000000")
    assert (remove_small_regions(image, Area(2)) == labels("000011", "000011", "000011", "000000")).all()
    assert remove_small_regions(image, Area(2), {2: Area(0)})[1, 1] == 2
    assert (remove_small_regions(image, Area(0), {1: Area(0.3, share=True)})[:, 4:] == 0).all()
    assert np.array_equal(remove_small_regions(image, Area(1000)), image)  # nothing would be left
    assert (remove_small_regions(labels("0.0", "010"), Area(2)) == labels("0.0", "000")).sum() == 6


def test_votes_ignore_the_ignored() -> None:
    groups = np.array([[0, 0, 0, 1, 1]], np.int32)
    assert np.array_equal(majority_filter(labels("011.."), groups), labels("111.."))
    assert np.array_equal(majority_filter(labels("0.1.."), groups), labels("0.0.."))  # a tie: the lowest


def test_superpixels_follow_edges() -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, 33:] = (200, 60, 30)
    groups = superpixels(image, 10, 5.0)
    assert not set(np.unique(groups[:, :33])) & set(np.unique(groups[:, 33:]))
    assert 12 <= len(np.unique(groups)) <= 40
    assert superpixels(np.zeros((1, 1, 1), np.uint8)).tolist() == [[0]]


@pytest.mark.parametrize("operation", [opened, closed, smoothed])
def test_every_operation_keeps_ignored_pixels_and_shape(operation: object) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 4, (37, 23)).astype(np.uint8)
    image[image == 3] = 255
    for size in (1, 3, 7):
        result = operation(image, size)  # type: ignore[operator]
        assert np.array_equal(result == 255, image == 255)
        assert set(np.unique(result)) <= {0, 1, 2, 255}
    assert np.array_equal(operation(image, 1), image)  # type: ignore[operator]
    everything = np.full((5, 5), 255, np.uint8)
    assert np.array_equal(operation(everything, 3), everything)  # type: ignore[operator]
    with pytest.raises(PostprocessError, match="odd"):
        operation(image, 4)  # type: ignore[operator]
    with pytest.raises(PostprocessError, match="uint8"):
        operation(image.astype(np.int64), 3)  # type: ignore[operator]
