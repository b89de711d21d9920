"""Windows cover an image once, and their seams do not show."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.ndimage import uniform_filter

from segwright.core.types import Float32Array
from segwright.imageio import UInt8Array
from segwright.inference.sliding_window import sliding_windows


@pytest.mark.parametrize("size", [(1, 1), (64, 64), (65, 64), (200, 333), (64, 1000)])
@pytest.mark.parametrize(("window", "margin"), [(64, 8), (64, 0), (64, 31), (33, 40)])
def test_every_pixel_is_kept_once(size: tuple[int, int], window: int, margin: int) -> None:
    seen = np.zeros(size, int)
    for part in sliding_windows(*size, window, margin):
        assert part.top <= part.core_top < part.core_bottom <= part.bottom <= size[0]
        assert part.left <= part.core_left < part.core_right <= part.right <= size[1]
        assert part.bottom - part.top <= window and part.right - part.left <= window
        seen[part.core_top : part.core_bottom, part.core_left : part.core_right] += 1
    assert (seen == 1).all()


def in_windows(
    image: UInt8Array, run: Callable[[UInt8Array], tuple[UInt8Array, Float32Array]], margin: int
) -> tuple[UInt8Array, Float32Array]:
    labels, confidence = np.empty(image.shape[:2], np.uint8), np.empty(image.shape[:2], np.float32)
    for part in sliding_windows(*image.shape[:2], window=64, margin=margin):
        found, sure = run(image[None, *part.window])
        labels[part.core], confidence[part.core] = found[0][part.core_in_window], sure[0][part.core_in_window]
    return labels, confidence


def test_seams_do_not_show_where_the_margin_covers_what_is_looked_at() -> None:
    image = np.random.default_rng(0).integers(0, 256, (150, 210, 3), np.uint8)

    def run(pixels: UInt8Array) -> tuple[UInt8Array, Float32Array]:
        around = uniform_filter(pixels.astype(np.float32), (0, 9, 9, 0))[..., 0]  # looks 4 pixels around
        return (around > 127).astype(np.uint8), (around / 255).astype(np.float32)

    whole, sure = run(image[None])
    labels, confidence = in_windows(image, run, margin=6)
    np.testing.assert_array_equal(labels, whole[0])
    np.testing.assert_allclose(confidence, sure[0], atol=1e-5)
    narrow, _ = in_windows(image, run, margin=0)
    assert (narrow != whole[0]).any(), "without a margin the seams do show"
