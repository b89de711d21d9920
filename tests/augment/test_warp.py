"""The warp to the pixel: exact where it must be, against a brute-force resampling where it interpolates."""

from __future__ import annotations

import math

import numpy as np
import pytest

from segwright.augment.warp import RandomAffineCrop, affine, to_crop, warp_image, warp_mask
from segwright.core.errors import UsageError

RNG = np.random.default_rng(0)


def make_image(height: int, width: int, channels: int = 3) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, channels), dtype=np.uint8)


def labels(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 11, (height, width), dtype=np.uint8)


def brute(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Bilinear resampling in float64, pixel by pixel in vector form; and which pixels lie well inside the source."""
    ys, xs = np.mgrid[: size[0], : size[1]].astype(float)
    x = matrix[0, 0] * xs + matrix[0, 1] * ys + matrix[0, 2]
    y = matrix[1, 0] * xs + matrix[1, 1] * ys + matrix[1, 2]
    height, width = image.shape[:2]
    inside = (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1)
    x0 = np.clip(np.floor(x).astype(int), 0, max(width - 2, 0))
    y0 = np.clip(np.floor(y).astype(int), 0, max(height - 2, 0))
    fx, fy = (x - x0)[..., None], (y - y0)[..., None]
    x1, y1 = np.minimum(x0 + 1, width - 1), np.minimum(y0 + 1, height - 1)
    values = image.astype(float)
    top = values[y0, x0] * (1 - fx) + values[y0, x1] * fx
    bottom = values[y1, x0] * (1 - fx) + values[y1, x1] * fx
    return top * (1 - fy) + bottom * fy, inside


SIZES = [(1, 1), (2, 3), (7, 5), (33, 47), (64, 64)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 9])
def test_identity_is_exact(size: tuple[int, int], channels: int) -> None:
    image, mask = make_image(*size, channels), labels(*size)
    matrix = affine(size, size)
    assert np.array_equal(warp_image(image, matrix, size), image)
    assert np.array_equal(warp_mask(mask, matrix, size), mask)


@pytest.mark.parametrize("size", SIZES)
def test_flips_are_exact(size: tuple[int, int]) -> None:
    image, mask = make_image(*size), labels(*size)
    for flip, flip_vertical in [(True, False), (False, True), (True, True)]:
        step_x, step_y = (-1 if flip else 1), (-1 if flip_vertical else 1)
        matrix = affine(size, size, flip=flip, flip_vertical=flip_vertical)
        assert np.array_equal(warp_image(image, matrix, size), image[::step_y, ::step_x])
        assert np.array_equal(warp_mask(mask, matrix, size), mask[::step_y, ::step_x])


@pytest.mark.parametrize("shift", [(3, -2), (-4, 5), (0, 9), (-30, 0), (100, 100)])
@pytest.mark.parametrize("flip", [False, True])
def test_whole_shifts_are_exact_also_over_the_edge(shift: tuple[int, int], flip: bool) -> None:
    height, width = 21, 26
    image, mask = make_image(height, width), labels(height, width)
    center = ((width - 1) / 2 + shift[0], (height - 1) / 2 + shift[1])
    matrix = affine((height, width), (height, width), center=center, flip=flip)
    wanted_image = np.full_like(image, 7)
    wanted_mask = np.full_like(mask, 255)
    for y in range(height):
        for x in range(width):
            from_x, from_y = (width - 1 - x if flip else x) + shift[0], y + shift[1]
            if 0 <= from_x < width and 0 <= from_y < height:
                wanted_image[y, x], wanted_mask[y, x] = image[from_y, from_x], mask[from_y, from_x]
    assert np.array_equal(warp_mask(mask, matrix, mask.shape), wanted_mask)
    assert np.array_equal(warp_image(image, matrix, mask.shape, border=(7, 7, 7)), wanted_image)


def test_reflection_repeats_no_edge_pixel() -> None:
    image = np.arange(5, dtype=np.uint8).reshape(1, 5, 1)
    matrix = affine((1, 5), (1, 9))
    assert warp_image(image, matrix, (1, 9))[0, :, 0].tolist() == [2, 1, 0, 1, 2, 3, 4, 3, 2]
    assert warp_mask(image[..., 0], matrix, (1, 9))[0].tolist() == [255, 255, 0, 1, 2, 3, 4, 255, 255]


@pytest.mark.parametrize("channels", [1, 3, 4, 6])
@pytest.mark.parametrize(
    "arguments",
    [
        {"scale": 2.0},
        {"scale": 0.8, "rotation": 10.0},
        {"scale": (1.3, 0.9), "rotation": -33.0, "shear": 7.0, "flip": True},
        {"rotation": 90.0},
        {"scale": 1.0, "flip_vertical": True, "rotation": 5.0},
    ],
)
def test_against_brute_force(channels: int, arguments: dict[str, object]) -> None:
    size, crop = (61, 83), (40, 57)
    # Smooth images: OpenCV keeps 5 bits of the fraction, which on noise would allow errors of several levels.
    ys, xs = np.mgrid[: size[0], : size[1]]
    image = np.stack(
        [127 + 120 * np.sin(xs / (9 + i) + i) * np.cos(ys / (11 - i / 3)) for i in range(channels)], axis=2
    )
    image = np.rint(image).astype(np.uint8)
    matrix = affine(size, crop, **arguments)  # type: ignore[arg-type]
    wanted, inside = brute(image, matrix, crop)
    assert inside.mean() > 0.5
    difference = np.abs(warp_image(image, matrix, crop).astype(float) - wanted)[inside]
    assert difference.max() <= 2.0
    assert difference.mean() <= 0.5


@pytest.mark.parametrize("seed", range(12))
def test_image_and_mask_stay_aligned(seed: int) -> None:
    """An image that is painted from its mask still agrees with it after any warp, away from class borders."""
    rng = np.random.default_rng(seed)
    size = (90, 120)
    mask = np.kron(rng.integers(0, 5, (9, 12)), np.ones((10, 10))).astype(np.uint8)
    image = np.repeat((mask * 50)[..., None], 3, axis=2)
    warp = RandomAffineCrop(
        size=(71, 63), scale=(0.3, 2.0), rotation=45, shear=10, aspect=1.3, shift=0.3, flip_vertical=0.5
    )
    matrix = warp.draw(mask, rng)
    assert mask.shape == size
    warped, moved = warp_image(image, matrix, warp.size)[..., 0].astype(int), warp_mask(mask, matrix, warp.size)
    same = moved != 255
    for dy, dx in [(0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (-1, -1), (1, -1), (-1, 1)]:
        same &= np.roll(moved, (dy, dx), (0, 1)) == moved
    same[[0, -1]] = same[:, [0, -1]] = False
    assert same.any()
    assert np.abs(warped - moved * 50.0)[same].max() <= 2


def test_mask_is_the_nearest_pixel_and_ignored_exactly_outside() -> None:
    mask = labels(40, 50)
    matrix = affine(mask.shape, (60, 60), scale=1.37, rotation=21.0, center=(30.0, 10.0))
    warped = warp_mask(mask, matrix, (60, 60))
    ys, xs = np.mgrid[:60, :60].astype(float)
    x = matrix[0, 0] * xs + matrix[0, 1] * ys + matrix[0, 2]
    y = matrix[1, 0] * xs + matrix[1, 1] * ys + matrix[1, 2]
    near_x, near_y = np.rint(x).astype(int), np.rint(y).astype(int)
    # Fixed-point coordinates may fall to either side of a tie: those within 1/100 of one are not judged.
    clear = (np.abs(x - near_x) < 0.49) & (np.abs(y - near_y) < 0.49)
    inside = (near_x >= 0) & (near_x < 50) & (near_y >= 0) & (near_y < 40)
    wanted = np.where(inside, mask[near_y.clip(0, 39), near_x.clip(0, 49)], 255)
    assert clear.mean() > 0.9
    assert np.array_equal(warped[clear], wanted[clear])


def test_rotation_is_counter_clockwise() -> None:
    mask = np.zeros((9, 9), np.uint8)
    mask[4, 8] = 1  # right of the middle
    turned = warp_mask(mask, affine((9, 9), (9, 9), rotation=90.0), (9, 9))
    assert np.argwhere(turned == 1).tolist() == [[0, 4]]  # above it


def test_to_crop_inverts_the_matrix() -> None:
    matrix = affine((50, 60), (30, 20), scale=(0.7, 1.4), rotation=17.0, shear=4.0, flip=True)
    x, y = matrix @ np.array([3.0, 8.0, 1.0])
    assert to_crop(matrix, x, y) == pytest.approx((3.0, 8.0))


@pytest.mark.parametrize("scale", [0.1, 0.25, 0.37, 0.5])
def test_strong_shrinking_averages(scale: float) -> None:
    """One-pixel stripes become gray, not an alias of themselves; a ramp stays where it is."""
    stripes = np.zeros((240, 240, 3), np.uint8)
    stripes[:, ::2] = 255
    size = (round(240 * scale), round(240 * scale))
    small = warp_image(stripes, affine((240, 240), size, scale=scale), size)
    # A factor that is odd leaves at most 1/factor of a stripe over.
    assert np.abs(small.astype(float) - 127.5).max() <= 128 * scale * 1.6 + 2
    ramp = np.repeat(np.arange(240, dtype=np.uint8)[None, :, None], 240, axis=0)
    matrix = affine((240, 240), size, scale=scale)
    wanted, _ = brute(ramp, matrix, size)
    middle = slice(2, -2)
    assert np.abs(warp_image(ramp, matrix, size)[middle, middle] - wanted[middle, middle]).max() <= 1.0


def test_stretching_shrinks_each_axis_by_itself() -> None:
    stripes = np.zeros((40, 400, 1), np.uint8)
    stripes[:, ::2] = 255
    small = warp_image(stripes, affine((40, 400), (40, 100), scale=(0.25, 1.0)), (40, 100))
    assert np.abs(small.astype(float) - 127.5).max() <= 1


def test_huge_images_are_cut_to_the_crop() -> None:
    mask = np.zeros((3, 40_000), np.uint8)
    mask[:, 35_000:] = 3
    image = np.repeat(mask[..., None], 5, axis=2)
    matrix = affine(mask.shape, (3, 10), center=(35_000.0, 1.0), rotation=0.001)
    assert warp_mask(mask, matrix, (3, 10))[1].tolist()[:2] == [0, 0]
    assert warp_mask(mask, matrix, (3, 10))[1].tolist()[-2:] == [3, 3]
    assert warp_image(image, matrix, (3, 10)).shape == (3, 10, 5)


def test_border_mean_and_colors() -> None:
    image = np.full((8, 8, 6), 100, np.uint8)
    matrix = affine((8, 8), (8, 8), center=(100.0, 3.5))
    assert (warp_image(image, matrix, (8, 8), border="mean") == 100).all()
    assert warp_image(image, matrix, (8, 8), border=(1, 2, 3, 4, 5, 6))[0, 0].tolist() == [1, 2, 3, 4, 5, 6]
    with pytest.raises(UsageError, match="border color"):
        warp_image(image, matrix, (8, 8), border=(1, 2))
    with pytest.raises(UsageError, match="unknown border"):
        warp_image(image, matrix, (8, 8), border="wrap")  # type: ignore[arg-type]


def test_crops_stay_inside_when_they_fit() -> None:
    mask = np.zeros((100, 150), np.uint8)
    warp = RandomAffineCrop(size=(40, 40), scale=(0.5, 2.0))
    rng = np.random.default_rng(3)
    for _ in range(200):
        assert (warp_mask(mask, warp.draw(mask, rng), warp.size) == 0).all()


def test_shift_reaches_over_the_edge() -> None:
    mask = np.zeros((100, 150), np.uint8)
    warp = RandomAffineCrop(size=(40, 40), scale=(1.0, 1.0), shift=0.25)
    rng = np.random.default_rng(3)
    shares = [(warp_mask(mask, warp.draw(mask, rng), warp.size) == 255).mean() for _ in range(200)]
    assert 0 < np.mean(np.array(shares) > 0) < 1
    assert max(shares) <= 1 - 0.75**2 + 0.02


@pytest.mark.parametrize("rotation", [0.0, 30.0, 180.0])
def test_class_aware_crops_hold_the_class(rotation: float) -> None:
    mask = np.zeros((200, 300), np.uint8)
    mask[:3, 297:] = 4  # a corner, where a turn takes it out of the crop; one pixel could fall between samples
    warp = RandomAffineCrop(
        size=(48, 48), scale=(1.0, 2.0), rotation=rotation, class_aware=1.0, class_weights=(0, 0, 0, 0, 1.0)
    )
    rng = np.random.default_rng(5)
    held = [bool((warp_mask(mask, warp.draw(mask, rng), warp.size) == 4).any()) for _ in range(100)]
    assert all(held)
    blind = RandomAffineCrop(size=(48, 48), scale=(1.0, 2.0), rotation=rotation)
    held = [bool((warp_mask(mask, blind.draw(mask, rng), blind.size) == 4).any()) for _ in range(100)]
    assert np.mean(held) < 0.5


def test_class_aware_without_weights_takes_every_class_alike() -> None:
    mask = np.zeros((200, 200), np.uint8)
    mask[:20, :20], mask[100:103, 100:103], mask[:, 150:] = 1, 2, 255
    warp = RandomAffineCrop(size=(9, 9), scale=(1.0, 1.0), class_aware=1.0)
    rng = np.random.default_rng(0)
    crops = [warp_mask(mask, warp.draw(mask, rng), warp.size) for _ in range(300)]
    shares = [np.mean([(crop == label).any() for crop in crops]) for label in (1, 2)]
    assert 0.25 < shares[0] < 0.5 and 0.25 < shares[1] < 0.5


def test_class_aware_survives_masks_without_the_class() -> None:
    rng = np.random.default_rng(0)
    for mask in (np.full((20, 20), 255, np.uint8), np.zeros((1, 1), np.uint8)):
        warp = RandomAffineCrop(size=(16, 16), class_aware=1.0, class_weights=(0.0, 1.0))
        assert warp_mask(mask, warp.draw(mask, rng), warp.size).shape == (16, 16)


def test_fit_unit_takes_the_whole_image_at_one() -> None:
    mask = np.ones((100, 400), np.uint8)
    warp = RandomAffineCrop(size=(64, 64), scale=(1.0, 1.0), unit="fit", flip=0.0)
    warped = warp_mask(mask, warp.draw(mask, np.random.default_rng(0)), warp.size)
    assert (warped == 1).sum() == pytest.approx(64 * 16, abs=64)


def test_scale_is_uniform_in_its_logarithm() -> None:
    warp = RandomAffineCrop(size=(8, 8), scale=(0.5, 2.0), flip=0.0)
    rng = np.random.default_rng(1)
    mask = np.zeros((64, 64), np.uint8)
    logs = [math.log(1 / warp.draw(mask, rng)[0, 0]) for _ in range(2000)]
    assert np.mean(logs) == pytest.approx(0, abs=0.03)
    assert min(logs) >= math.log(0.5) - 1e-9 and max(logs) <= math.log(2) + 1e-9


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": (0, 4)},
        {"scale": (0.0, 1.0)},
        {"scale": (2.0, 1.0)},
        {"flip": 1.5},
        {"rotation": 200.0},
        {"aspect": 0.5},
        {"class_weights": (0.0, 0.0)},
        {"class_weights": (-1.0, 2.0)},
        {"unit": "inch"},
    ],
)
def test_values_out_of_range_are_named(wrong: dict[str, object]) -> None:
    arguments: dict[str, object] = {"size": (8, 8), **wrong}
    with pytest.raises(UsageError, match=next(iter(wrong))):
        RandomAffineCrop(**arguments)  # type: ignore[arg-type]
