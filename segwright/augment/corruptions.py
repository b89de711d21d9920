"""The 15 corruptions of "Benchmarking neural network robustness to common corruptions and perturbations" (Hendrycks and
Dietterich 2019), each in 5 strengths, for images of any size.

Written from the paper's description. Lengths in pixels are for a shorter side of 224 and grow with it, as far as
``MAX_SCALE``. Frost is a generated texture, not one of the paper's photographs, and fog is spectral noise in place of
its diamond-square fractal, so that figures are not those of ImageNet-C, though close in kind and in strength.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from segwright.core.errors import UsageError

UInt8Array = npt.NDArray[np.uint8]
Float32Array = npt.NDArray[np.float32]

SEVERITIES = (1, 2, 3, 4, 5)
REFERENCE_SIDE = 224  # pixels; lengths are given for it
MAX_SCALE = 4.0
ZOOM_STEPS = 12

Corruption = Callable[[Float32Array, int, np.random.Generator], Float32Array]


def corrupt(image: npt.NDArray[np.uint8], name: str, severity: int = 3, *, seed: int = 0) -> npt.NDArray[np.uint8]:
    """An image as it would look with noise, blur, bad weather or a poor encoding.

    One seed gives one pattern of noise, fog or frost, which grows stronger with the severity.

    Parameters
    ----------
    image : array of uint8
        (H, W) or (H, W, C); RGB order where C is 3.
    name : str
        One of ``CORRUPTIONS``: gaussian_noise, shot_noise, impulse_noise, defocus_blur, glass_blur, motion_blur,
        zoom_blur, snow, frost, fog, brightness, contrast, elastic, pixelate, jpeg.
    severity : {1, 2, 3, 4, 5}, default=3
        The strength; 1 is the weakest.
    seed : int, default=0
        Of the random pattern.

    Returns
    -------
    array of uint8
        A new image of the same shape.

    Raises
    ------
    UsageError
        An unknown name, another severity, or no uint8 image.

    Examples
    --------
    >>> import numpy as np, segwright as sw
    >>> image = np.full((48, 64, 3), 90, np.uint8)
    >>> foggy = sw.corrupt(image, "fog", 3)
    >>> foggy.shape, bool(foggy.mean() > image.mean())
    ((48, 64, 3), True)
    """
    if name not in CORRUPTIONS:
        raise UsageError("unknown corruption", expected=", ".join(CORRUPTIONS), found=str(name)[:60])
    if severity not in SEVERITIES:
        raise UsageError("unknown severity of a corruption", expected="1 (weak) to 5 (strong)", found=str(severity))
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or 0 in image.shape:
        raise UsageError(
            "a corruption needs an 8-bit image", expected="uint8, (H, W) or (H, W, C)",
            found=f"{image.dtype} {image.shape}",
        )  # fmt: skip
    values = image.astype(np.float32)[..., None] if image.ndim == 2 else image.astype(np.float32)
    # zlib.crc32 and not hash(), which differs between processes
    random = np.random.default_rng([seed & 0xFFFFFFFF, zlib.crc32(name.encode())])
    found = CORRUPTIONS[name](values / np.float32(255), int(severity) - 1, random)
    result = np.clip(np.rint(found * 255), 0, 255).astype(np.uint8)
    return result.reshape(image.shape)


def parse_corruption(text: str) -> tuple[str, int]:
    """``fog:3`` → ("fog", 3); ``fog`` alone is severity 3. UsageError for anything else."""
    name, colon, strength = text.partition(":")
    if name not in CORRUPTIONS:
        raise UsageError("unknown corruption", expected=", ".join(CORRUPTIONS), found=text[:60])
    if colon and strength not in {str(one) for one in SEVERITIES}:
        raise UsageError("unknown severity of a corruption", expected=f"{name}:1 to {name}:5", found=text[:60])
    return name, int(strength) if colon else 3


def _scale(image: Float32Array) -> float:
    return min(MAX_SCALE, float(min(image.shape[:2])) / REFERENCE_SIDE)


def _by_bands(image: Float32Array, work: Callable[[Float32Array], Any]) -> Float32Array:
    """``work`` on four channels at a time, the most of some of OpenCV's functions, which also drop an axis of one."""
    parts = [np.ascontiguousarray(image[..., start : start + 4]) for start in range(0, image.shape[2], 4)]
    done = [np.asarray(work(part), np.float32) for part in parts]
    shaped = [one.reshape(*one.shape[:2], part.shape[2]) for one, part in zip(done, parts, strict=True)]
    return shaped[0] if len(shaped) == 1 else np.concatenate(shaped, axis=2)


def _filter(image: Float32Array, kernel: Float32Array) -> Float32Array:
    return _by_bands(image, lambda part: cv2.filter2D(part, -1, kernel, borderType=cv2.BORDER_REPLICATE))


def _blur(image: Float32Array, sigma: float) -> Float32Array:
    if sigma < 0.1:
        return image
    return _by_bands(image, lambda part: cv2.GaussianBlur(part, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE))


def _gaussian_noise(image: Float32Array, level: int, random: np.random.Generator) -> Float32Array:
    sigma = (0.08, 0.12, 0.18, 0.26, 0.38)[level]
    return image + np.float32(sigma) * random.standard_normal(image.shape, np.float32)


def _shot_noise(image: Float32Array, level: int, random: np.random.Generator) -> Float32Array:
    photons = (60.0, 25.0, 12.0, 5.0, 3.0)[level]  # of a white pixel
    return (random.poisson(image * photons) / photons).astype(np.float32)


def _impulse_noise(image: Float32Array, level: int, random: np.random.Generator) -> Float32Array:
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[level]
    drawn = random.random(image.shape, np.float32)
    found = np.where(drawn < share / 2, np.float32(0), image)
    return np.where(drawn > 1 - share / 2, np.float32(1), found).astype(np.float32)


def _disk(radius: float) -> Float32Array:
    """A disk with an anti-aliased rim, sum 1."""
    reach = int(np.ceil(radius))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    kernel = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1).astype(np.float32)
    return np.asarray(kernel / kernel.sum(), np.float32)


def _defocus_blur(image: Float32Array, level: int, random: np.random.Generator) -> Float32Array:
    return _filter(image, _disk((3.0, 4.0, 6.0, 8.0, 10.0)[level] * _scale(image)))


def _glass_blur(image: Float32Array, level: int, random: np.random.Generator) -> Float32Array:
    scale = _scale(image)
    reach, sigma = ((1.0, 0.7), (2.0, 0.9), (2.8, 1.0), (4.0, 1.1), (5.6, 1.5))[level]
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    found = _blur(image, sigma * scale)
    shift = random.uniform(-1, 1, (2, height, width)).astype(np.float32) * np.float32(reach * scale)
    y, x = y + shift[0], x + shift[1]
    found = _by_bands(found, lambda part: cv2.remap(part, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))
    return _blur(found, sigma * scale)


def _line(length: float, sigma: float, angle: float) -> Float32Array:
    """The path of a moving camera that slows down: a line of Gaussian weights, drawn with sub-pixel points."""
    reach = max(1, int(np.ceil(length)))
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    for distance in np.linspace(0, length, 8 * reach + 1):
        x, y = reach + distance * np.cos(angle), reach + distance * np.sin(angle)
        left, top = int(np.floor(x)), int(np.floor(y))
        weight = np.exp(-0.5 * (distance / sigma) ** 2)
        for row, column, part in (
            (top, left, (1 - y + top) * (1 - x + left)), (top, left + 1, (1 - y + top) * (x - left)),
            (top + 1, left, (y - top) * (1 - x + left)), (top + 1, left + 1, (y - top) * (x - left)),
        ):  # fmt: skip
            if 0 <= row < kernel.shape[0] and 0 <= column < kernel.shape[1]:
                kernel[row, column] += weight * part
    return np.asarray(kernel / kernel.sum(), np.float32)


def _motion(image: Float32Array, length: float, sigma: float, angle: float) -> Float32Array:
    return _filter(image, _line(length, sigma, angle))


def _motion_blur(image: Float32Array, level: int, random: np.random.Generator) -> Float32Array:
    length, sigma = ((10.0, 3.0), (12.0, 5.0), (15.0, 8.0), (17.0, 12.0), (20.0, 15.0))[level]
    angle = float(random.uniform(-np.pi / 4, np.pi / 4))
    return _motion(image, length * _scale(image), sigma * _scale(image), angle)


def _zoom_blur(image: Float32Array, level: int, random: np.random.Generator) -> Float32Array:
    most = (1.11, 1.16, 1.21, 1.26, 1.33)[level]
    height, width = image.shape[:2]
    total = np.zeros_like(image)
    for factor in np.linspace(1, most, ZOOM_STEPS):
        turn = np.array([[factor, 0, (1 - factor) * (width - 1) / 2], [0, factor, (1 - factor) * (height - 1) / 2]])
        total += _warp(image, turn)
    return np.asarray(total / ZOOM_STEPS, np.float32)


def _warp(image: Float32Array, turn: npt.NDArray[np.float64]) -> Float32Array:
    size = (image.shape[1], image.shape[0])
    return _by_bands(image, lambda part: cv2.warpAffine(part, turn, size, borderMode=cv2.BORDER_REPLICATE))


def _noise_field(height: int, width: int, roughness: float, random: np.random.Generator) -> Float32Array:
    """Spectral noise of amplitude 1/f^roughness, (H, W) in 0…1."""
    y, x = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    frequency = np.hypot(x, y)
    frequency[0, 0] = 1
    spectrum = np.fft.rfft2(random.standard_normal((height, width))) / frequency**roughness
    spectrum[0, 0] = 0
    field = np.fft.irfft2(spectrum, (height, width))
    span = np.ptp(field)
    return ((field - field.min()) / span if span > 0 else np.full((height, width), 0.5)).astype(np.float32)


def _snow(image: Float32Array, level: int, random: np.random.Generator) -> Float32Array:
    amount, size, length, white = (
        (0.06, 1.2, 6.0, 0.15), (0.10, 1.6, 8.0, 0.25), (0.14, 1.9, 9.0, 0.35), (0.19, 2.2, 10.0, 0.42),
        (0.25, 2.5, 12.0, 0.50),
    )[level]  # fmt: skip
    height, width = image.shape[:2]
    scale = _scale(image)
    drawn = random.standard_normal((height, width), np.float32)
    angle = float(random.uniform(0.35, 0.65)) * np.pi  # down, to either side
    grain = max(0.6, size * scale * 0.6)
    flakes = _blur(drawn[..., None], grain)[..., 0]
    deviation = float(flakes.std())
    if deviation > 0:
        flakes = flakes / deviation
    threshold = float(np.sqrt(2) * _inverse_erfc(2 * amount))
    flakes = np.clip((flakes - threshold) * 1.5, 0, 1).astype(np.float32)
    falling = _motion(flakes[..., None], length * scale, length * scale / 2, angle)
    gray = np.max(image, axis=2, keepdims=True)
    haze = image * (1 - white) + white * np.maximum(image, gray * 0.5 + 0.5)
    return np.asarray(haze + np.clip(1.6 * falling, 0, 1), np.float32)


def _inverse_erfc(value: float) -> float:
    from scipy.special import erfcinv

    return float(erfcinv(value))


def _frost(image: Float32Array, level: int, random: np.random.Generator) -> Float32Array:
    light, ice = ((0.9, 0.35), (0.8, 0.5), (0.72, 0.6), (0.66, 0.68), (0.6, 0.76))[level]
    height, width = image.shape[:2]
    texture = np.zeros((height, width), np.float32)
    for turn in range(3):  # needles: ridges of noise that is smooth along one direction
        field = _noise_field(height, width, 1.2, random)
        angle = float(random.uniform(0, np.pi)) + turn
        field = _motion(field[..., None], 18 * _scale(image) + 1, 9 * _scale(image) + 1, angle)[..., 0]
        spread = float(field.std()) or 1.0
        texture = np.maximum(texture, np.exp(-(((field - field.mean()) / (0.35 * spread)) ** 2)).astype(np.float32))
    cover = 0.35 + 0.65 * _noise_field(height, width, 1.6, random)
    frozen = (texture * cover)[..., None]
    color = np.array([0.86, 0.93, 1.0], np.float32) if image.shape[2] == 3 else np.float32(0.93)
    return np.asarray(image * light + np.float32(ice) * frozen * color, np.float32)


def _fog(image: Float32Array, level: int, random: np.random.Generator) -> Float32Array:
    thickness, roughness = (1.5, 2.0, 2.5, 2.9, 3.3)[level], 1.6
    field = _noise_field(image.shape[0], image.shape[1], roughness, random)[..., None]
    most = max(float(image.max()), 0.3)
    return np.asarray((image + np.float32(thickness) * field) * np.float32(most / (most + thickness)), np.float32)


def _brightness(image: Float32Array, level: int, random: np.random.Generator) -> Float32Array:
    added = np.float32((0.1, 0.2, 0.3, 0.4, 0.5)[level])
    if image.shape[2] != 3:
        return image + added
    # The value of HSV grows, hue and saturation stay: every channel by the same factor.
    value = image.max(axis=2, keepdims=True)
    factor = np.minimum(value + added, 1) / np.maximum(value, 1e-6)
    return np.asarray(np.where(value > 0, image * factor, np.minimum(added, np.float32(1))), np.float32)


def _contrast(image: Float32Array, level: int, random: np.random.Generator) -> Float32Array:
    kept = np.float32((0.4, 0.3, 0.2, 0.1, 0.05)[level])
    mean = image.mean(axis=(0, 1), keepdims=True)
    return np.asarray((image - mean) * kept + mean, np.float32)


def _elastic(image: Float32Array, level: int, random: np.random.Generator) -> Float32Array:
    reach, smooth = ((5.0, 12.0), (6.0, 9.0), (7.0, 7.0), (8.0, 5.5), (10.0, 4.5))[level]
    height, width = image.shape[:2]
    scale = _scale(image)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    shift = random.uniform(-1, 1, (height, width, 2)).astype(np.float32)
    shift = _blur(shift, smooth * scale)
    deviation = float(shift.std())
    shift *= np.float32(0.4 * reach * scale / deviation if deviation > 0 else 0)
    x, y = x + shift[..., 0], y + shift[..., 1]
    return _by_bands(image, lambda part: cv2.remap(part, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101))


def _pixelate(image: Float32Array, level: int, random: np.random.Generator) -> Float32Array:
    share = (0.6, 0.5, 0.4, 0.3, 0.25)[level] / max(1.0, _scale(image))
    height, width = image.shape[:2]
    size = (max(1, round(width * share)), max(1, round(height * share)))
    small = _by_bands(image, lambda part: cv2.resize(part, size, interpolation=cv2.INTER_AREA))
    return _by_bands(small, lambda part: cv2.resize(part, (width, height), interpolation=cv2.INTER_NEAREST_EXACT))


def _jpeg(image: Float32Array, level: int, random: np.random.Generator) -> Float32Array:
    quality = (25, 18, 15, 10, 7)[level]
    values = np.clip(np.rint(image * 255), 0, 255).astype(np.uint8)
    # Three channels are a color image; any other number, one gray image per channel.
    groups = [values] if values.shape[2] == 3 else [values[..., [band]] for band in range(values.shape[2])]
    parts = []
    for group in groups:
        ordered = np.ascontiguousarray(group[..., ::-1])  # OpenCV's order, so that luma is luma
        encoded = cv2.imencode(".jpg", ordered, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR if group.shape[2] == 3 else cv2.IMREAD_GRAYSCALE)
        parts.append(np.asarray(decoded).reshape(group.shape)[..., ::-1])
    return np.concatenate(parts, axis=2).astype(np.float32) / np.float32(255)


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": _gaussian_noise, "shot_noise": _shot_noise, "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur, "glass_blur": _glass_blur, "motion_blur": _motion_blur, "zoom_blur": _zoom_blur,
    "snow": _snow, "frost": _frost, "fog": _fog, "brightness": _brightness, "contrast": _contrast,
    "elastic": _elastic, "pixelate": _pixelate, "jpeg": _jpeg,
}  # fmt: skip
