"""Classes of one crop in another."""

import numpy as np
import pytest

from segwright.augment.paste import ClassPaste, paste_classes
from segwright.core.errors import UsageError


def crops() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """An image of class 0, and another in columns of four classes and ignored; pixels say where they come from."""
    mask = np.zeros((6, 10), np.uint8)
    other_mask = np.repeat(np.array([1, 2, 3, 4, 255], np.uint8), 2)[None].repeat(6, axis=0)
    return np.full((6, 10, 3), 50, np.uint8), mask, np.full((6, 10, 3), 200, np.uint8), other_mask


def test_half_of_the_classes_come_whole_with_their_pixels() -> None:
    image, mask, other, other_mask = crops()
    seen = set()
    for seed in range(30):
        pasted, labels = paste_classes(image, mask, other, other_mask, np.random.default_rng(seed))
        taken = sorted(set(np.unique(labels)) - {0})
        assert len(taken) == 2 and 255 not in taken
        region = np.isin(other_mask, taken)
        assert np.array_equal(labels, np.where(region, other_mask, mask))
        assert np.array_equal(pasted, np.where(region[..., None], other, image))
        seen |= set(taken)
    assert seen == {1, 2, 3, 4}


def test_arguments_stay_and_ignored_pixels_are_never_taken() -> None:
    image, mask, other, other_mask = crops()
    before = [one.copy() for one in (image, mask, other, other_mask)]
    paste_classes(image, mask, other, other_mask, np.random.default_rng(0))
    assert all(np.array_equal(*pair) for pair in zip(before, (image, mask, other, other_mask), strict=True))
    nothing = np.full_like(mask, 255)
    pasted, labels = paste_classes(image, mask, other, nothing, np.random.default_rng(0))
    assert np.array_equal(pasted, image) and np.array_equal(labels, mask)


def test_one_class_is_taken_whole_and_three_give_one() -> None:
    image, mask, other, _ = crops()
    one = np.full_like(mask, 3)
    assert (paste_classes(image, mask, other, one, np.random.default_rng(0))[1] == 3).all()
    three = np.repeat(np.array([1, 2, 3, 255, 255], np.uint8), 2)[None].repeat(6, axis=0)
    labels = paste_classes(image, mask, other, three, np.random.default_rng(0))[1]
    assert len(set(np.unique(labels)) - {0}) == 1


@pytest.mark.parametrize("channels", [1, 4])
def test_any_number_of_channels(channels: int) -> None:
    _, mask, _, other_mask = crops()
    image, other = np.zeros((6, 10, channels), np.uint8), np.ones((6, 10, channels), np.uint8)
    pasted, labels = paste_classes(image, mask, other, other_mask, np.random.default_rng(1))
    assert np.array_equal(pasted[..., 0] == 1, labels > 0) and pasted.dtype == np.uint8


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_is_a_fraction(share: float) -> None:
    with pytest.raises(UsageError, match="0 to 1"):
        ClassPaste(share)
