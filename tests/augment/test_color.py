"""The color step against the formulas written out in floating point."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest

from segwright.augment.color import ColorJitter, add_noise, apply_matrix, apply_table, mixing_matrix, tables
from segwright.core.errors import UsageError

RNG = np.random.default_rng(0)


def make_image(channels: int = 3) -> np.ndarray:
    return RNG.integers(0, 256, (33, 47, channels), dtype=np.uint8)


def test_nothing_asked_changes_nothing() -> None:
    image = make_image()
    assert np.array_equal(ColorJitter()(image, np.random.default_rng(0)), image)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_table_is_gain_bias_and_gamma(channels: int) -> None:
    image = make_image(channels)
    gains, offsets = [0.6 + 0.2 * i for i in range(channels)], [5.0 - 7 * i for i in range(channels)]
    wanted = 255 * (image / 255.0) ** 0.7 * gains + offsets
    changed = apply_table(image, tables(gains, offsets, 0.7))
    assert changed.shape == image.shape
    assert np.abs(changed - np.clip(wanted, 0, 255)).max() <= 0.5 + 1e-9


def test_matrix_is_rounded_and_clipped() -> None:
    image, matrix, offsets = make_image(), RNG.normal(0, 0.6, (3, 3)), [10.0, -5.0, 100.0]
    wanted = np.clip(image.astype(float) @ matrix.T + offsets, 0, 255)
    assert np.abs(apply_matrix(image, matrix, offsets) - wanted).max() <= 1.0


def test_saturation_zero_is_gray_and_keeps_luma() -> None:
    image = make_image()
    gray = apply_matrix(image, mixing_matrix(0.0, 0.0), [0.0] * 3)
    assert (gray[..., 0] == gray[..., 1]).all() and (gray[..., 1] == gray[..., 2]).all()
    assert np.abs(gray[..., 0] - image @ np.array([0.299, 0.587, 0.114])).max() <= 1


def test_hue_turns_about_gray() -> None:
    matrix = mixing_matrix(1.0, 120.0)
    assert matrix @ [1, 1, 1] == pytest.approx([1, 1, 1])
    assert matrix @ [1, 0, 0] == pytest.approx([0, 1, 0])  # red becomes green, as in HSV
    assert mixing_matrix(1.0, 360.0) == pytest.approx(np.eye(3))
    hue = colorsys.rgb_to_hsv(*(mixing_matrix(1.0, 20.0) @ [0.8, 0.3, 0.2]))[0] * 360
    assert hue == pytest.approx(colorsys.rgb_to_hsv(0.8, 0.3, 0.2)[0] * 360 + 20, abs=5)


@pytest.mark.parametrize("channels", [1, 3, 4, 6])
def test_everything_at_once_is_deterministic_and_leaves_the_input(channels: int) -> None:
    image = make_image(channels)
    before = image.copy()
    image.flags.writeable = False
    color = ColorJitter(
        gain=0.4, tint=0.2, bias=20, channel_bias=9, contrast=0.4, saturation=0.6, hue=15, gamma=0.5, gamma_share=1,
        blur=1, noise=10, noise_share=1,
    )  # fmt: skip
    first, second = color(image, np.random.default_rng(4)), color(image, np.random.default_rng(4))
    other = color(image, np.random.default_rng(5))
    assert first.shape == image.shape and first.dtype == np.uint8
    assert np.array_equal(first, second) and not np.array_equal(first, other)
    assert np.array_equal(image, before)


def test_contrast_keeps_the_mean() -> None:
    image = RNG.integers(80, 160, (64, 64, 3), dtype=np.uint8)
    for seed in range(5):
        changed = ColorJitter(contrast=0.5)(image, np.random.default_rng(seed))
        assert changed.mean() == pytest.approx(image.mean(), abs=4)


def test_gain_spans_its_range() -> None:
    image = np.full((8, 8, 3), 100, np.uint8)
    values = [float(ColorJitter(gain=0.5)(image, np.random.default_rng(seed)).mean()) for seed in range(300)]
    assert 60 <= min(values) < 65 and 155 < max(values) <= 165


def test_noise_is_normal_with_its_sigma_and_never_wraps() -> None:
    image = np.full((400, 400, 3), 128, np.uint8)
    noisy = add_noise(image, 8.0, 12345).astype(float) - 128
    assert noisy.std() == pytest.approx(8.0, rel=0.03) and abs(noisy.mean()) < 0.1
    assert add_noise(np.full((50, 50, 1), 255, np.uint8), 20.0, 1).min() > 150
    large = add_noise(np.full((800, 800, 3), 128, np.uint8), 8.0, (1 << 20) - 1)  # longer than the table
    assert (large.astype(float) - 128).std() == pytest.approx(8.0, rel=0.03)


def test_values_out_of_range_are_named() -> None:
    with pytest.raises(UsageError, match="saturation"):
        ColorJitter(saturation=1.5)
    with pytest.raises(UsageError, match="gain"):
        ColorJitter(gain=-1)
