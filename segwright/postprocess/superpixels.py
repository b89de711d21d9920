"""Superpixels by SLIC (Achanta et al. 2012): k-means in color and position, each center looking only around itself.

What differs: a pixel considers the nine centers around its own grid cell (as gSLIC does), which bounds the work per
pixel and makes the result independent of the order; superpixels need not be connected, which a vote does not require.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from segwright.core.errors import PostprocessError
from segwright.kernels.slic import cluster
from segwright.postprocess.regions import majority_filter

UInt8Array = npt.NDArray[np.uint8]
Int32Array = npt.NDArray[np.int32]

BLOCK_SIDE = 2048
ROUNDS = 5  # the paper uses ten; after five fewer than one pixel in a hundred still moves


def superpixels(image: UInt8Array, size: int = 12, compactness: float = 10.0) -> Int32Array:
    """Numbers from 0, H×W, of superpixels about ``size``×``size`` pixels.

    ``compactness`` weighs position against color (CIE Lab units): 1 follows edges closely, 40 gives squares.
    """
    if image.ndim != 3 or image.dtype != np.uint8 or image.size == 0:
        raise PostprocessError("an image is uint8 height×width×channels", found=f"{image.dtype} {image.shape}")
    if not 2 <= size <= 1000 or not 0 < compactness <= 1000:
        raise PostprocessError(
            "superpixels out of range",
            expected="size 2 to 1000, compactness up to 1000",
            found=f"{size}, {compactness}",
        )
    rgb = image if image.shape[2] == 3 else np.repeat(image[..., :1], 3, axis=2)
    lab = np.asarray(cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2Lab), np.float32)
    height, width = lab.shape[:2]
    rows, columns = max(1, round(height / size)), max(1, round(width / size))
    return cluster(np.ascontiguousarray(lab), rows, columns, np.float32((compactness / size) ** 2), ROUNDS)


def majority(image: UInt8Array, labels: UInt8Array, size: int = 12, compactness: float = 10.0) -> UInt8Array:
    """Every pixel (labels uint8 H×W) takes the most frequent label of its superpixel; arguments as ``superpixels``.

    Images of more than ``BLOCK_SIDE``² pixels go in blocks, each seen with ``4 · size`` pixels around it.
    """
    height, width = labels.shape
    if height * width <= BLOCK_SIDE**2:
        return majority_filter(labels, superpixels(image, size, compactness))
    result, around = np.empty_like(labels), 4 * size
    for top in range(0, height, BLOCK_SIDE):
        for left in range(0, width, BLOCK_SIDE):
            seen = np.s_[
                max(0, top - around) : top + BLOCK_SIDE + around, max(0, left - around) : left + BLOCK_SIDE + around
            ]
            found = majority_filter(labels[seen], superpixels(image[seen], size, compactness))
            inside = found[top - max(0, top - around) :, left - max(0, left - around) :][:BLOCK_SIDE, :BLOCK_SIDE]
            result[top : top + BLOCK_SIDE, left : left + BLOCK_SIDE] = inside
    return result
