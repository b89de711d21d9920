"""Images as a network takes them: uint8 height×width×channels, with the network's number of channels."""

from __future__ import annotations

import numpy as np

from segwright.core.errors import ModelError
from segwright.imageio import UInt8Array


def check_image(image: UInt8Array) -> UInt8Array:
    """uint8 H×W×C with at least one pixel; a gray H×W image gets its channel axis. ModelError otherwise."""
    if image.ndim == 2:
        image = image[..., None]
    if image.dtype != np.uint8 or image.ndim != 3 or 0 in image.shape:
        raise ModelError(
            "an image is uint8 height×width×channels, at least one pixel",
            found=f"the text {str(image)!r}" if image.dtype.kind == "U" else f"{image.dtype} {image.shape}",
            fix="a file is read by the predictor itself: predictor(PATH)" if image.dtype.kind in "UO" else None,
        )
    return image


def fit_channels(image: UInt8Array, channels: int) -> UInt8Array:
    """Convert between gray and RGB, and drop alpha; ModelError if the channels still differ."""
    found = image.shape[2]
    if found == channels:
        return image
    if found == 2 and channels in (1, 3):  # gray and alpha
        image, found = np.ascontiguousarray(image[..., :1]), 1
        if channels == 1:
            return image
    if found == 1 and channels == 3:
        return np.repeat(image, channels, axis=2)
    if found == 4 and channels == 3:
        return np.ascontiguousarray(image[..., :3])
    if found in (3, 4) and channels == 1:
        # ITU-R BT.601 luma, as Pillow's convert("L")
        gray = image[..., :3].astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
        return (gray + 0.5).astype(np.uint8)[..., None]
    raise ModelError(
        "the image's channels do not fit the model",
        expected=f"{channels} channels",
        found=f"{found} channels",
        fix="give images with the bands that the model was trained on",
    )


def as_rgb(image: UInt8Array) -> UInt8Array:
    """Three channels, for post-processing that uses colors."""
    return image if image.shape[2] == 3 else np.repeat(image[..., :1], 3, axis=2)
