"""The presets as the loader calls them."""

from __future__ import annotations

import numpy as np
import pytest

from segwright.augment import presets
from segwright.augment.color import ColorJitter
from segwright.core.errors import UsageError

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("channels", [1, 3, 4, 5])
@pytest.mark.parametrize("source", [(1, 1), (3, 500), (37, 53), (240, 320)])
@pytest.mark.parametrize("color", ["none", "light", "medium", "strong"])
def test_any_image_comes_out_at_the_size(channels: int, source: tuple[int, int], color: presets.Strength) -> None:
    image = RNG.integers(0, 256, (*source, channels), dtype=np.uint8)
    mask = RNG.integers(0, 4, source, dtype=np.uint8)
    image.flags.writeable = mask.flags.writeable = False  # as the cache hands them out
    transform = presets.training(size=(45, 61), color=color, class_aware=0.5, cutout=0.5, shear=3, shift=0.1)
    for seed in range(4):
        changed, moved = transform(image, mask, np.random.default_rng(seed))
        assert changed.shape == (45, 61, channels) and changed.dtype == np.uint8
        assert moved.shape == (45, 61) and moved.dtype == np.uint8
        assert set(np.unique(moved)) <= {*np.unique(mask).tolist(), 255}
        again, _ = transform(image, mask, np.random.default_rng(seed))
        assert np.array_equal(changed, again)


def test_everything_off_is_a_crop() -> None:
    image = RNG.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    mask = RNG.integers(0, 4, (40, 50), dtype=np.uint8)
    transform = presets.training(size=(40, 50), scale=(1, 1), rotation=0, aspect=1, flip=0, color="none")
    changed, moved = transform(image, mask, np.random.default_rng(0))
    assert np.array_equal(changed, image) and np.array_equal(moved, mask)


def test_plain_leaves_images_as_they_lie_or_resizes() -> None:
    image = RNG.integers(0, 256, (40, 80, 3), dtype=np.uint8)
    mask = RNG.integers(0, 4, (40, 80), dtype=np.uint8)
    rng = np.random.default_rng(0)
    assert presets.plain()(image, mask, rng) == (image, mask) or presets.plain()(image, mask, rng)[0] is image
    doubled, labels = presets.plain((80, 160))(image, mask, rng)
    assert doubled.shape == (80, 160, 3) and np.array_equal(labels[::2, ::2], mask)
    _, padded = presets.plain((80, 80), mode="pad")(image, mask, rng)
    assert (padded[:20] == 255).all() and (padded[-20:] == 255).all() and np.array_equal(padded[20:60], mask)
    _, cropped = presets.plain((40, 40), mode="crop")(image, mask, rng)
    assert np.array_equal(cropped, mask[:, 20:60])


def test_plain_shrinks_without_aliasing() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[::2] = 255
    small, _ = presets.plain((16, 64))(image, np.zeros((64, 64), np.uint8), None)
    assert np.abs(small.astype(float) - 127.5).max() <= 1


def test_cutout_is_ignored_and_of_bounded_area() -> None:
    image, mask = np.full((100, 100, 3), 9, np.uint8), np.zeros((100, 100), np.uint8)
    shares = [(presets.cut_out(image, mask, np.random.default_rng(seed))[1] == 255).mean() for seed in range(100)]
    assert min(shares) > 0.005 and max(shares) < 0.12
    assert (mask == 0).all()


def test_color_by_name_by_value_and_wrong() -> None:
    own = ColorJitter(gain=0.9)
    assert presets.training(size=(8, 8), color=own).color is own
    assert presets.training(size=(8, 8), color="medium", color_scale=0.5).color.bias == presets.COLOR["medium"].bias / 2
    with pytest.raises(UsageError, match="color strength"):
        presets.training(size=(8, 8), color="wild")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="cutout"):
        presets.training(size=(8, 8), cutout=2)
    with pytest.raises(UsageError, match="unknown mode"):
        presets.plain((8, 8), mode="tile")  # type: ignore[arg-type]
