"""The 15 corruptions: the same for one seed, any size, and stronger with the severity."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import cv2
import numpy as np
import pytest

from segwright.augment.corruptions import CORRUPTIONS, SEVERITIES, corrupt, parse_corruption
from segwright.core.errors import UsageError


def image_of(height: int, width: int, channels: int | None = 3) -> np.ndarray:
    """Structure of several scales: a gradient, disks, and fine texture."""
    random = np.random.default_rng(7)
    y, x = np.mgrid[:height, :width]
    found = np.stack([100 + 60 * np.sin(x / 17 + k) + 40 * np.cos(y / 11 - k) for k in range(3)], axis=-1)
    found = np.ascontiguousarray(found + random.normal(0, 6, found.shape))
    for _ in range(12):
        center = (int(random.integers(width)), int(random.integers(height)))
        cv2.circle(found, center, max(1, min(height, width) // 12), random.uniform(0, 255, 3).tolist(), -1)
    found = np.clip(found, 0, 255).astype(np.uint8)
    return found[..., 0] if channels is None else np.resize(found, (height, width, channels)) if channels > 3 else (
        np.ascontiguousarray(found[..., :channels])
    )  # fmt: skip


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_one_seed_gives_one_image(name: str) -> None:
    image = image_of(60, 90)
    before = image.copy()
    first, again = corrupt(image, name, 3, seed=5), corrupt(image, name, 3, seed=5)
    assert np.array_equal(first, again) and np.array_equal(image, before)
    assert first.dtype == np.uint8 and first.shape == image.shape and not np.array_equal(first, image)
    random = name not in ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg")
    assert np.array_equal(first, corrupt(image, name, 3, seed=6)) != random


def test_the_seed_holds_in_another_process() -> None:
    code = (
        "import numpy as np; from segwright.augment.corruptions import corrupt;"
        "print(int(corrupt(np.full((20, 30, 3), 90, np.uint8), 'fog', 2, seed=4).astype(int).sum()))"
    )
    here = int(corrupt(np.full((20, 30, 3), 90, np.uint8), "fog", 2, seed=4).astype(int).sum())
    assert int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout) == here


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 40, 3), (33, 2, 3), (17, 31), (24, 40, 1), (24, 40, 4), (9, 9, 6)])
def test_any_size_and_number_of_channels(name: str, shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    for severity in (1, 5):
        found = corrupt(image, name, severity)
        assert found.shape == shape and found.dtype == np.uint8


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("size", [(96, 128), (240, 320)])
def test_the_distance_grows_with_the_severity(name: str, size: tuple[int, int]) -> None:
    image = image_of(*size)
    distances = [
        float(np.sqrt(((corrupt(image, name, severity).astype(float) - image) ** 2).mean())) for severity in SEVERITIES
    ]
    assert all(low < high for low, high in pairwise(distances)), distances
    assert distances[0] > 1


@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_flat_images(name: str, value: int) -> None:
    assert corrupt(np.full((40, 50, 3), value, np.uint8), name, 4).shape == (40, 50, 3)


def test_brightness_keeps_the_hue() -> None:
    found = corrupt(np.full((4, 4, 3), (100, 50, 20), np.uint8), "brightness", 2).astype(float)[0, 0]
    assert found / found[0] == pytest.approx(np.array([1, 0.5, 0.2]), abs=0.02)


def test_wrong_input_is_refused() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(UsageError, match="unknown corruption"):
        corrupt(image, "rain")
    with pytest.raises(UsageError, match="severity"):
        corrupt(image, "fog", 6)
    with pytest.raises(UsageError, match="8-bit"):
        corrupt(image.astype(np.float32), "fog", 2)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="8-bit"):
        corrupt(np.zeros((0, 4, 3), np.uint8), "fog", 2)


def test_text_of_a_corruption() -> None:
    assert parse_corruption("fog:5") == ("fog", 5) and parse_corruption("snow") == ("snow", 3)
    for text in ("fog:", "fog:9", "fog:two", "mist", ""):
        with pytest.raises(UsageError):
            parse_corruption(text)
