"""A street at night: the generated scenes in little light, for trying what a change of the world does to a model."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

UInt8Array = npt.NDArray[np.uint8]

LIGHT = (0.16, 0.19, 0.30)  # red, green, blue that are left of daylight: the little there is is blue
LAMPS = (1, 3)  # street lamps and headlights per image
READOUT_NOISE = 5.0  # standard deviation in levels, of a sensor at high gain


def at_night(image: UInt8Array, seed: int = 0) -> UInt8Array:
    """``image`` (H, W, 3) in RGB as it would look at night: dark and blue, with lamps, their halos and noise.

    The same seed gives the same lamps and noise. Labels stay as they are.
    """
    random = np.random.default_rng(seed)
    height, width = image.shape[:2]
    values = image.astype(np.float32) / 255
    dark = values**1.25 * np.array(LIGHT, np.float32) * random.uniform(0.8, 1.2)
    glow: npt.NDArray[np.float64] = np.zeros((height, width))
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float64)
    for _ in range(random.integers(LAMPS[0], LAMPS[1] + 1)):
        row, column = random.uniform(0.1, 0.7) * height, random.uniform(0, 1) * width
        reach = random.uniform(0.08, 0.22) * height
        distance = (rows - row) ** 2 + ((columns - column) * 0.9) ** 2
        glow += float(random.uniform(0.5, 1.0)) * np.exp(-distance / (2 * reach**2))
    warm = np.array([1.0, 0.82, 0.55], np.float32)
    lit = dark + glow.astype(np.float32)[..., None] * (0.30 * values + 0.12) * warm
    exposed: npt.NDArray[np.float32] = np.asarray(cv2.GaussianBlur(lit, (0, 0), max(height / 500, 0.3)), np.float32)
    noise = random.normal(0, READOUT_NOISE, image.shape) * (0.5 + np.sqrt(np.clip(exposed, 0, 1)))
    return np.clip(255 * exposed + noise + 0.5, 0, 255).astype(np.uint8)
