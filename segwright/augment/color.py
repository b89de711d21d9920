"""One color step: gain, bias, tint, contrast, saturation, hue and gamma folded into one pass over the crop.

All but gamma are affine in RGB and multiply into one 3×3 matrix with an offset; what does not mix channels folds into
one table of 256 entries per channel, gamma with it. A sample therefore costs one matrix or one table (both only where
gamma and a change of saturation or hue meet), however many properties change. Pixels stay uint8.

Blur and noise, off by default, are passes of their own.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, fields
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from segwright.core.errors import UsageError
from segwright.imageio import UInt8Array

# Rec. 601 luma: what "gray" means for saturation and contrast.
_LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class ColorJitter:
    """Draws one color change a sample; every amount is the largest deviation, sampled uniformly either way.

    ``gain``: brightness factor exp(±gain). ``tint``: the same for each channel by itself. ``bias``: added, in 0…255.
    ``channel_bias``: the same for each channel by itself. ``contrast``: factor 1 ± contrast around the image's mean
    gray. ``saturation``: factor 1 ± saturation. ``hue``: rotation about the gray axis, in degrees. ``gamma``: exponent
    exp(±gamma), in ``gamma_share`` of the samples. ``blur``: probability of a Gaussian blur of sigma 0.4…1.5 pixels.
    ``noise``: largest standard deviation of Gaussian noise, in 0…255; ``noise_share`` of the samples get some.
    Images without three channels get all but saturation and hue.
    """

    gain: float = 0.0
    tint: float = 0.0
    bias: float = 0.0
    channel_bias: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    gamma: float = 0.0
    gamma_share: float = 0.25
    blur: float = 0.0
    noise: float = 0.0
    noise_share: float = 0.25

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not (math.isfinite(value) and value >= 0):
                raise UsageError(f"color: {item.name} out of range", expected="at least 0", found=str(value))
        for name in ("gamma_share", "blur", "noise_share", "contrast", "saturation"):
            if getattr(self, name) > 1:
                raise UsageError(f"color: {name} out of range", expected="0 to 1", found=str(getattr(self, name)))

    def __call__(self, image: UInt8Array, rng: np.random.Generator) -> UInt8Array:
        """``image`` (H, W, C) uint8 → the same shape; the input is left as it is."""
        channels = image.shape[2]
        u = (rng.random(10 + 2 * channels) * 2 - 1).tolist()
        contrast, saturation, hue = 1 + self.contrast * u[1], 1 + self.saturation * u[2], self.hue * u[3]
        brightness = math.exp(self.gain * u[0])
        # Contrast turns about the image's mean; 1 pixel in 64 estimates it well enough.
        pivot = float(image[::8, ::8].mean()) * (1 - contrast) if self.contrast else 0.0
        gains = [brightness * contrast * math.exp(self.tint * v) for v in u[10 : 10 + channels]]
        shared = self.bias * u[4] + pivot * brightness
        offsets = [shared + self.channel_bias * v for v in u[10 + channels :]]
        gamma = math.exp(self.gamma * u[5]) if self.gamma and abs(u[6]) < self.gamma_share else 1.0
        mixing = channels == 3 and (saturation != 1 or hue != 0)
        if mixing:
            if gamma != 1:
                image = apply_table(image, tables([1.0] * 3, [0.0] * 3, gamma))
            image = apply_matrix(image, mixing_matrix(saturation, hue) * np.array(gains)[:, None], offsets)
        elif gamma != 1 or any(g != 1 for g in gains) or any(offsets):
            image = apply_table(image, tables(gains, offsets, gamma))
        if abs(u[7]) < self.blur:
            sigma = 0.95 + 0.55 * u[8]
            image = _with_channels(cv2.GaussianBlur(image, (0, 0), sigma), image)
        if self.noise and abs(u[9]) < self.noise_share:
            image = add_noise(image, self.noise * rng.random(), int(rng.integers(1 << 30)))
        return image


def mixing_matrix(saturation: float, hue: float) -> npt.NDArray[np.float64]:
    """3×3: RGB rotated about the gray axis by ``hue`` degrees, then its distance from gray times ``saturation``."""
    gray = np.tile(_LUMA, (3, 1))
    matrix = saturation * np.eye(3) + (1 - saturation) * gray
    if hue == 0:
        return matrix
    cos, sin = math.cos(math.radians(hue)), math.sin(math.radians(hue))
    third, skew = (1 - cos) / 3, sin / math.sqrt(3)
    # Rodrigues' rotation about (1, 1, 1)/√3.
    rotation = np.array(
        [
            [cos + third, third - skew, third + skew],
            [third + skew, cos + third, third - skew],
            [third - skew, third + skew, cos + third],
        ]
    )
    return np.asarray(matrix @ rotation, np.float64)


def tables(gains: list[float], offsets: list[float], gamma: float = 1.0) -> UInt8Array:
    """(256, C): ``255·(v/255)^gamma · gain + offset``, rounded and clipped, for every value and channel."""
    values = np.arange(256.0)
    if gamma != 1:
        values = 255.0 * (values / 255.0) ** gamma
    mapped = values[:, None] * np.array(gains) + np.array(offsets)
    return np.asarray(np.clip(np.rint(mapped), 0, 255), np.uint8)


def apply_table(image: UInt8Array, table: UInt8Array) -> UInt8Array:
    """``image`` (H, W, C) through ``table`` (256, C)."""
    if bool((table == table[:, :1]).all()):
        return _with_channels(cv2.LUT(image, np.ascontiguousarray(table[:, 0]).reshape(1, 256)), image)
    if image.shape[2] <= 4:
        return _with_channels(cv2.LUT(image, table.reshape(1, 256, -1)), image)
    parts = [cv2.LUT(image[..., i], table[:, i].reshape(1, 256)) for i in range(image.shape[2])]
    return np.asarray(np.stack(parts, axis=2), np.uint8)


def apply_matrix(image: UInt8Array, matrix: npt.NDArray[np.float64], offsets: list[float]) -> UInt8Array:
    """``matrix`` (3, 3) · pixel + ``offsets`` for every pixel of ``image`` (H, W, 3), rounded and clipped."""
    full = np.empty((3, 4))
    full[:, :3], full[:, 3] = matrix, offsets
    return np.asarray(cv2.transform(image, full), np.uint8)


def add_noise(image: UInt8Array, sigma: float, seed: int) -> UInt8Array:
    """Gaussian noise of ``sigma`` (in 0…255) added to every value, clipped.

    Normal numbers cost more than the whole rest of the path, so they come from a fixed table, entered at a place that
    ``seed`` chooses.
    """
    table = _noise_table()
    start = seed % len(table)
    # np.take with wrapping, without its index array: the table is laid end to end as often as needed.
    repeats = -(-(start + image.size) // len(table))
    noise = (table if repeats == 1 else np.tile(table, repeats))[start : start + image.size]
    mixed = cv2.addWeighted(
        np.ascontiguousarray(image).reshape(1, -1), 1.0, noise.reshape(1, -1), sigma / 32.0, 0.0, dtype=cv2.CV_8U
    )
    return np.asarray(mixed, np.uint8).reshape(image.shape)


@functools.lru_cache(maxsize=1)
def _noise_table() -> npt.NDArray[np.int16]:
    """2²⁰ normal numbers of standard deviation 32, as int16."""
    values = np.random.default_rng(20_240_229).standard_normal(1 << 20, dtype=np.float32)
    return np.rint(values * 32).astype(np.int16)


def _with_channels(pixels: npt.NDArray[Any], like: UInt8Array) -> UInt8Array:
    """OpenCV drops a channel axis of 1."""
    return np.asarray(pixels, np.uint8).reshape(like.shape)
