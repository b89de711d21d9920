"""One composed affine warp: scale, aspect, rotation, shear, flip, shift and crop in a single resampling.

Chains of separate operations resample an image several times (each blurs it and costs a pass) and compute pixels that
the crop then throws away. Here the operations are multiplied into one 2×3 matrix, and only the pixels of the crop are
computed: bilinear in the image, nearest in the mask.

Conventions: pixel centers lie at integer coordinates, x to the right, y down. A matrix maps **destination to source**:
``source = matrix @ (x, y, 1)``. What lies outside the source is reflected (or one color) in the image and always the
ignore value 255 in the mask, so that nothing invented is ever learnt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from segwright.core.errors import UsageError
from segwright.core.types import IGNORE_INDEX, SPARSE
from segwright.imageio import UInt8Array

Matrix = npt.NDArray[np.float64]  # (2, 3), destination → source
Border = Literal["reflect", "mean"] | tuple[int, ...]
Size = tuple[int, int]  # (height, width)

# OpenCV's warps hold coordinates in 16 bits; above that the source is cut to what the crop touches first.
_LARGEST_SIDE = 32_000
# From here on one source pixel in every direction is skipped by bilinear sampling; an area-averaged copy replaces it.
_SHRINK_FROM = 0.6


def affine(
    source: Size,
    size: Size,
    *,
    scale: float | tuple[float, float] = 1.0,
    rotation: float = 0.0,
    shear: float = 0.0,
    flip: bool = False,
    flip_vertical: bool = False,
    center: tuple[float, float] | None = None,
) -> Matrix:
    """The 2×3 matrix from crop to image.

    ``source`` and ``size`` are (height, width) of image and crop. ``scale`` (or (x, y)) is crop pixels per image
    pixel: 2 magnifies. ``rotation`` is in degrees, counter-clockwise as seen; ``shear`` in degrees along x. ``center``
    is the image's point (x, y) that comes to lie in the crop's middle; None is the image's own middle.
    """
    scale_x, scale_y = scale if isinstance(scale, tuple) else (scale, scale)
    if not (scale_x > 0 and scale_y > 0 and math.isfinite(scale_x) and math.isfinite(scale_y)):
        raise UsageError("a scale is positive and finite", found=f"{scale}")
    theta, lean = math.radians(rotation), math.tan(math.radians(shear))
    cos, sin = (1.0, 0.0) if rotation == 0 else (math.cos(theta), math.sin(theta))
    # Inverse of flip · scale · shear · rotation, multiplied out: crop offset → image offset.
    ix = (-1.0 if flip else 1.0) / scale_x
    iy = (-1.0 if flip_vertical else 1.0) / scale_y
    a, b = cos * ix, -(cos * lean + sin) * iy
    c, d = sin * ix, (cos - sin * lean) * iy
    middle_x, middle_y = (size[1] - 1) / 2, (size[0] - 1) / 2
    center_x, center_y = center if center is not None else ((source[1] - 1) / 2, (source[0] - 1) / 2)
    return np.array(
        [
            [a, b, center_x - a * middle_x - b * middle_y],
            [c, d, center_y - c * middle_x - d * middle_y],
        ]
    )


def is_mirrored(matrix: Matrix) -> bool:
    """Whether the crop is a mirror image: of flips left to right and top to bottom one alone, whatever the rotation."""
    return bool(matrix[0, 0] * matrix[1, 1] < matrix[0, 1] * matrix[1, 0])


def warp_image(image: UInt8Array, matrix: Matrix, size: Size, *, border: Border = "reflect") -> UInt8Array:
    """``image`` (H, W, C), any C, resampled to (*size, C): bilinear, averaged over areas where it shrinks strongly.

    ``border`` fills what lies outside: "reflect", "mean" (the image's mean color) or one value per channel.
    """
    cut = _aligned_cut(image, matrix, size)
    if cut is not None:
        return cut
    if isinstance(border, str) and border not in ("reflect", "mean"):
        raise UsageError("unknown border", expected="reflect, mean or one value per channel", found=border)
    fill = _fill(image, border)
    image, matrix = _shrink(image, matrix, size)
    image, matrix = _cut(image, matrix, size)
    parts = [
        _warp_linear(_four(image, i), matrix, size, None if fill is None else fill[i : i + 4])
        for i in range(0, image.shape[2], 4)
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)


def warp_mask(mask: UInt8Array, matrix: Matrix, size: Size, *, ignore_index: int = IGNORE_INDEX) -> UInt8Array:
    """``mask`` (H, W) resampled to ``size``: nearest, ``ignore_index`` outside."""
    cut = _aligned_cut(mask, matrix, size)
    if cut is not None:
        return cut
    if max(mask.shape) > _LARGEST_SIDE:
        mask, matrix = _cut(mask, matrix, size)
    warped = cv2.warpAffine(
        mask,
        matrix,
        (size[1], size[0]),
        flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=ignore_index,
    )
    return np.asarray(warped, np.uint8)


def few_labels(mask: UInt8Array) -> bool:
    """Whether the labels of a mask are points and strokes: less than :data:`SPARSE` of its pixels."""
    return bool(np.count_nonzero(mask != IGNORE_INDEX) < SPARSE * mask.size)


def keep_labels(mask: UInt8Array, warped: UInt8Array, matrix: Matrix) -> UInt8Array:
    """``warped`` with every labeled pixel of ``mask`` that lies in the crop: sampling alone loses single pixels.

    Where a crop shrinks by 0.4, nearest sampling keeps one pixel in six. Each labeled pixel is written to where it lies
    if that is ignored; of several that fall together the last in reading order stays. For masks with few labels.
    """
    y, x = np.nonzero(mask != IGNORE_INDEX)
    if not len(x):
        return warped
    (a, b, e), (c, d, f) = matrix.tolist()
    determinant = a * d - b * c
    column = np.rint((d * (x - e) - b * (y - f)) / determinant).astype(np.int64)
    row = np.rint((a * (y - f) - c * (x - e)) / determinant).astype(np.int64)
    inside = (column >= 0) & (row >= 0) & (column < warped.shape[1]) & (row < warped.shape[0])
    row, column, labels = row[inside], column[inside], mask[y[inside], x[inside]]
    missing = warped[row, column] == IGNORE_INDEX
    result = warped.copy()
    result[row[missing], column[missing]] = labels[missing]
    return result


def mean_color(image: UInt8Array) -> UInt8Array:
    """(C,): the mean of every channel of ``image`` (H, W, C)."""
    # Every fourth pixel: a mean needs no more, and all of them would cost as much as the warp.
    return np.asarray(image[::4, ::4].reshape(-1, image.shape[2]).mean(axis=0) + 0.5, np.uint8)


def to_crop(matrix: Matrix, x: float, y: float) -> tuple[float, float]:
    """Where the image's point (x, y) lies in the crop."""
    (a, b, e), (c, d, f) = matrix.tolist()
    determinant = a * d - b * c
    x, y = x - e, y - f
    return (d * x - b * y) / determinant, (a * y - c * x) / determinant


@dataclass(frozen=True)
class RandomAffineCrop:
    """Draws one :func:`affine` a sample. Every range is closed and sampled uniformly, scale in its logarithm.

    ``size``: the crop, (height, width). ``scale``: crop pixels per image pixel, (lowest, highest); with
    ``unit="fit"`` 1 stands for the scale at which the whole image just fits into the crop. ``aspect``: width against
    height is changed by up to this factor (1.1: ±10 %). ``rotation`` and ``shear``: largest angle in degrees, either
    way, ``rotation_share`` of the samples rotated. ``flip``, ``flip_vertical``: probabilities. ``shift``: how far the
    crop may reach over the image's edge, as a share of the crop. ``class_aware``: the share of the samples whose crop
    is laid around a pixel of a class that was drawn first, with ``class_weights`` (one a class, relative) or every
    class of the image alike. ``find_labels``: of a mask with few labeled pixels every crop is laid around one.
    """

    size: Size
    scale: tuple[float, float] = (0.5, 2.0)
    unit: Literal["pixel", "fit"] = "pixel"
    aspect: float = 1.0
    rotation: float = 0.0
    rotation_share: float = 1.0
    shear: float = 0.0
    flip: float = 0.5
    flip_vertical: float = 0.0
    shift: float = 0.0
    class_aware: float = 0.0
    class_weights: tuple[float, ...] | None = None
    find_labels: bool = False

    def __post_init__(self) -> None:
        low, high = self.scale
        checks: list[tuple[bool, str, str, object]] = [
            (min(self.size) >= 1, "size", "two sides of at least 1", self.size),
            (0 < low <= high and math.isfinite(high), "scale", "0 < lowest <= highest", self.scale),
            (self.unit in ("pixel", "fit"), "unit", "pixel or fit", self.unit),
            (self.aspect >= 1, "aspect", "a factor of at least 1", self.aspect),
            (0 <= self.rotation <= 180, "rotation", "0 to 180 degrees", self.rotation),
            (0 <= self.shear < 80, "shear", "0 to 80 degrees", self.shear),
            (0 <= self.shift <= 1, "shift", "0 to 1", self.shift),
        ]
        for name in ("flip", "flip_vertical", "class_aware", "rotation_share"):
            value = getattr(self, name)
            checks.append((0 <= value <= 1, name, "a probability, 0 to 1", value))
        if self.class_weights is not None:
            legal = all(weight >= 0 and math.isfinite(weight) for weight in self.class_weights)
            checks.append(
                (legal and sum(self.class_weights) > 0, "class_weights", "weights >= 0, not all 0", self.class_weights)
            )
        for right, name, expected, found in checks:
            if not right:
                raise UsageError(f"augmentation: {name} out of range", expected=expected, found=str(found))

    def draw(self, mask: UInt8Array, rng: np.random.Generator) -> Matrix:
        """The matrix for one sample of ``mask``'s (H, W)."""
        height, width = mask.shape
        # One call for all numbers: a Generator call costs more than the arithmetic. The count is fixed, so adding a
        # class-aware draw behind it never shifts the other values.
        u = rng.random(10).tolist()
        scale = math.exp(_between(math.log(self.scale[0]), math.log(self.scale[1]), u[0]))
        if self.unit == "fit":
            scale *= min(self.size[0] / height, self.size[1] / width)
        stretch = math.exp(_between(-0.5, 0.5, u[1]) * math.log(self.aspect))
        scale_x, scale_y = scale * stretch, scale / stretch
        rotation = _between(-self.rotation, self.rotation, u[2]) if u[3] < self.rotation_share else 0.0
        shear = _between(-self.shear, self.shear, u[4])
        flip, flip_vertical = u[5] < self.flip, u[6] < self.flip_vertical
        window = (self.size[1] / scale_x, self.size[0] / scale_y)
        aware = u[7] < self.class_aware or (self.find_labels and few_labels(mask))
        focus = self._focus(mask, rng) if aware else None
        center = (
            self._center(width, window[0], u[8], None if focus is None else focus[0]),
            self._center(height, window[1], u[9], None if focus is None else focus[1]),
        )

        def build(middle: tuple[float, float]) -> Matrix:
            return affine(
                (height, width),
                self.size,
                scale=(scale_x, scale_y),
                rotation=rotation,
                shear=shear,
                flip=flip,
                flip_vertical=flip_vertical,
                center=middle,
            )

        matrix = build(center)
        if focus is not None:
            x, y = to_crop(matrix, *focus)
            if not (0 <= x <= self.size[1] - 1 and 0 <= y <= self.size[0] - 1):
                matrix = build(focus)  # rotation turned it out of the crop: put it in the middle
        return matrix

    def _center(self, length: int, window: float, u: float, focus: float | None) -> float:
        """Where along one axis the crop's middle lies: the crop inside the image (or around it), plus the shift."""
        low, high = window / 2 - 0.5, length - window / 2 - 0.5
        if low > high:
            low, high = high, low
        reach = self.shift * window
        low, high = low - reach, high + reach
        if focus is None:
            return _between(low, high, u)
        # The class pixel need not be in the middle: anywhere in the inner 70 % of the crop shows what is around it.
        return min(max(focus + (u - 0.5) * 0.7 * window, low), high)

    def _focus(self, mask: UInt8Array, rng: np.random.Generator) -> tuple[float, float] | None:
        counts = cv2.calcHist([mask], [0], None, [256], [0, 256]).ravel()
        counts[IGNORE_INDEX] = 0
        present = np.flatnonzero(counts)
        if self.class_weights is not None:
            table = np.zeros(256)
            table[: len(self.class_weights)] = self.class_weights
            weights = table[present]
        else:
            weights = np.ones(len(present))
        total = float(weights.sum())
        if total <= 0:
            return None
        which, where = rng.random(2).tolist()
        label = int(present[min(int(np.searchsorted(np.cumsum(weights), which * total, "right")), len(present) - 1)])
        places = np.flatnonzero(mask == label)
        y, x = divmod(int(places[int(where * len(places))]), mask.shape[1])
        return float(x), float(y)


def _between(low: float, high: float, u: float) -> float:
    return low + (high - low) * u


def _fill(image: UInt8Array, border: Border) -> tuple[int, ...] | None:
    """One value per channel, or None for reflection."""
    if border == "reflect":
        return None
    channels = image.shape[2]
    if isinstance(border, str):
        return tuple(mean_color(image).tolist())
    if len(border) not in (1, channels):
        raise UsageError("the border color does not fit", expected=f"1 or {channels} values", found=str(len(border)))
    return tuple(border) if len(border) == channels else tuple(border) * channels


def _warp_linear(image: UInt8Array, matrix: Matrix, size: Size, fill: Sequence[int] | None) -> UInt8Array:
    """One warp of up to four channels; reflection (``fill`` None) is laid around the image beforehand."""
    channels = image.shape[2]
    if channels == 3:
        # OpenCV's loops load four channels with one instruction, three with several: with a channel of nothing the
        # warp takes two thirds of the time, the conversions there and back included.
        image = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2RGBA), np.uint8)
    if fill is None:
        # Pixels that the warp itself has to reflect cost four times the others; copying rows costs next to nothing.
        image, matrix = _reflected(image, matrix, size)
    value = [float(v) for v in fill or ()]
    warped = cv2.warpAffine(
        image,
        matrix,
        (size[1], size[0]),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101 if fill is None else cv2.BORDER_CONSTANT,
        borderValue=value + [0.0] * (4 - len(value)),
    )
    if channels == 3:
        warped = cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB)
    return np.asarray(warped, np.uint8).reshape(*size, channels)


def _reflected(image: UInt8Array, matrix: Matrix, size: Size) -> tuple[UInt8Array, Matrix]:
    """The image with as much reflection around it as the crop takes in."""
    height, width = image.shape[:2]
    left, top, right, bottom = _bounds(matrix, size)
    before_x, before_y = max(math.ceil(-left), 0), max(math.ceil(-top), 0)
    after_x, after_y = max(math.ceil(right) - width + 2, 0), max(math.ceil(bottom) - height + 2, 0)
    if not (before_x or before_y or after_x or after_y):
        return image, matrix
    if max(before_x + after_x + width, before_y + after_y + height) > 4 * max(height, width, *size):
        return image, matrix  # a crop far outside: laying it all out would cost memory, the warp can do it
    moved = matrix.copy()
    moved[:, 2] += (before_x, before_y)
    around = cv2.copyMakeBorder(image, before_y, after_y, before_x, after_x, cv2.BORDER_REFLECT_101)
    return np.asarray(around, np.uint8).reshape(*around.shape[:2], image.shape[2]), moved


def _aligned_cut(pixels: UInt8Array, matrix: Matrix, size: Size) -> UInt8Array | None:
    """A copy without resampling where the crop's pixels are the image's pixels (whole shift, flips, all inside)."""
    (a, b, e), (c, d, f) = matrix.tolist()
    if b != 0 or c != 0 or abs(a) != 1 or abs(d) != 1 or e != int(e) or f != int(f):
        return None
    height, width = size
    left, top = (int(e) if a > 0 else int(e) - width + 1), (int(f) if d > 0 else int(f) - height + 1)
    if left < 0 or top < 0 or left + width > pixels.shape[1] or top + height > pixels.shape[0]:
        return None
    cut = pixels[top : top + height, left : left + width]
    return np.ascontiguousarray(cut[:: int(d), :: int(a)])


def _shrink(image: UInt8Array, matrix: Matrix, size: Size) -> tuple[UInt8Array, Matrix]:
    """Area-average by whole factors first where bilinear sampling would skip pixels (and so alias)."""
    (a, b, _), (c, d, _) = matrix.tolist()
    if b == 0 and c == 0:
        steps = abs(a), abs(d)  # no rotation: each axis by itself, for stretched crops
    else:
        steps = (min(math.hypot(a, c), math.hypot(b, d)),) * 2  # image pixels per crop pixel where it shrinks least
    factor_x, factor_y = (1 if step * _SHRINK_FROM < 1 else max(int(step + 2 - 1 / _SHRINK_FROM), 2) for step in steps)
    if factor_x == factor_y == 1:
        return image, matrix
    top, bottom, left, right = _touched(image, matrix, size, margin=2 * max(factor_x, factor_y))
    height, width = (bottom - top) // factor_y, (right - left) // factor_x
    if height < 1 or width < 1:
        return image, matrix
    region = image[top : top + height * factor_y, left : left + width * factor_x]
    channels = image.shape[2]
    parts = [
        cv2.resize(_four(region, i), (width, height), interpolation=cv2.INTER_AREA).reshape(height, width, -1)
        for i in range(0, channels, 4)
    ]
    small = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)
    factors = np.array([[factor_x], [factor_y]], np.float64)
    offsets = np.array([[left + (factor_x - 1) / 2], [top + (factor_y - 1) / 2]])
    moved = matrix.copy()
    moved[:, 2:] -= offsets
    return np.asarray(small, np.uint8), moved / factors


def _four(image: UInt8Array, first: int) -> UInt8Array:
    """Channels first … first+3, as OpenCV takes them: its border value and some of its loops end at four."""
    if image.shape[2] <= 4:
        return image
    return np.ascontiguousarray(image[..., first : first + 4])


def _cut(pixels: UInt8Array, matrix: Matrix, size: Size) -> tuple[UInt8Array, Matrix]:
    """The part of the image that the crop touches, as a view: less to convert, and OpenCV's 16 bits hold it."""
    top, bottom, left, right = _touched(pixels, matrix, size, margin=4)
    if bottom - top > _LARGEST_SIDE or right - left > _LARGEST_SIDE:
        raise UsageError(
            "the crop takes in more of the image than one warp can hold",
            expected=f"at most {_LARGEST_SIDE} image pixels per side",
            found=f"{right - left}×{bottom - top}",
            fix="cut the image into tiles, or shrink it beforehand",
        )
    moved = matrix.copy()
    moved[:, 2] -= (left, top)
    return pixels[top:bottom, left:right], moved


def _touched(pixels: UInt8Array, matrix: Matrix, size: Size, *, margin: int) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of the part of the image that the crop covers, never empty.

    A crop that reaches over the edge reflects: it needs as much again from inside, so the margin grows by the overhang.
    """
    height, width = pixels.shape[:2]
    left, top, right, bottom = _bounds(matrix, size)
    over_x, over_y = max(-left, right - width, 0), max(-top, bottom - height, 0)
    x0, x1 = _clip_range(left - over_x - margin, right + over_x + margin, width)
    y0, y1 = _clip_range(top - over_y - margin, bottom + over_y + margin, height)
    return y0, y1, x0, x1


def _bounds(matrix: Matrix, size: Size) -> tuple[float, float, float, float]:
    """(left, top, right, bottom): where the crop's outermost pixels lie in the image."""
    (a, b, e), (c, d, f) = matrix.tolist()
    across_x, across_y, down_x, down_y = a * (size[1] - 1), c * (size[1] - 1), b * (size[0] - 1), d * (size[0] - 1)
    return (
        e + min(across_x, 0) + min(down_x, 0),
        f + min(across_y, 0) + min(down_y, 0),
        e + max(across_x, 0) + max(down_x, 0),
        f + max(across_y, 0) + max(down_y, 0),
    )


def _clip_range(low: float, high: float, length: int) -> tuple[int, int]:
    first = int(min(max(math.floor(low), 0), length - 1))
    last = int(min(max(math.ceil(high) + 1, first + 1), length))
    return first, last
