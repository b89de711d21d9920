"""Superpixels by SLIC (Achanta et al. 2012): k-means in color and position, each center looking only around itself.

What differs: a pixel considers the nine centers around its own grid cell (as gSLIC does), which bounds the work a pixel
and makes the result independent of the order; superpixels need not be connected, which a vote does not ask for.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from segwright.core.errors import PostprocessError
from segwright.kernels.jit import kernel
from segwright.postprocess.regions import voted

UInt8Array = npt.NDArray[np.uint8]
Float32Array = npt.NDArray[np.float32]
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
    result = np.empty((height, width), np.int32)
    _cluster(np.ascontiguousarray(lab), rows, columns, np.float32((compactness / size) ** 2), ROUNDS, result)
    return result


def majority(image: UInt8Array, labels: UInt8Array, size: int = 12, compactness: float = 10.0) -> UInt8Array:
    """Every pixel (labels uint8 H×W) takes the most frequent label of its superpixel; arguments as ``superpixels``.

    Images of more than ``BLOCK_SIDE``² pixels go in blocks, each seen with ``4 · size`` pixels around it.
    """
    height, width = labels.shape
    if height * width <= BLOCK_SIDE**2:
        return voted(labels, superpixels(image, size, compactness))
    result, around = np.empty_like(labels), 4 * size
    for top in range(0, height, BLOCK_SIDE):
        for left in range(0, width, BLOCK_SIDE):
            seen = np.s_[
                max(0, top - around) : top + BLOCK_SIDE + around, max(0, left - around) : left + BLOCK_SIDE + around
            ]
            found = voted(labels[seen], superpixels(image[seen], size, compactness))
            inside = found[top - max(0, top - around) :, left - max(0, left - around) :][:BLOCK_SIDE, :BLOCK_SIDE]
            result[top : top + BLOCK_SIDE, left : left + BLOCK_SIDE] = inside
    return result


@kernel
def _cluster(lab: Float32Array, rows: int, columns: int, weight: Any, rounds: int, result: Int32Array) -> None:
    height, width = lab.shape[0], lab.shape[1]
    centers = np.zeros((rows * columns, 5), np.float32)
    sums = np.zeros((rows * columns, 6), np.float64)
    for y in range(height):
        for x in range(width):
            result[y, x] = (y * rows // height) * columns + x * columns // width
    for turn in range(rounds + 1):
        for c in range(rows * columns):
            for i in range(6):
                sums[c, i] = 0.0
        for y in range(height):
            for x in range(width):
                c = result[y, x]
                for i in range(3):
                    sums[c, i] += lab[y, x, i]
                sums[c, 3] += y
                sums[c, 4] += x
                sums[c, 5] += 1.0
        for c in range(rows * columns):
            if sums[c, 5] > 0:
                for i in range(5):
                    centers[c, i] = sums[c, i] / sums[c, 5]
        if turn == rounds:
            return
        for y in range(height):
            row = y * rows // height
            for x in range(width):
                column = x * columns // width
                best, nearest = np.float32(np.inf), 0
                for r in range(max(row - 1, 0), min(row + 2, rows)):
                    for k in range(max(column - 1, 0), min(column + 2, columns)):
                        c = r * columns + k
                        dl, da, db = (
                            lab[y, x, 0] - centers[c, 0],
                            lab[y, x, 1] - centers[c, 1],
                            lab[y, x, 2] - centers[c, 2],
                        )
                        dy, dx = np.float32(y) - centers[c, 3], np.float32(x) - centers[c, 4]
                        distance = dl * dl + da * da + db * db + weight * (dy * dy + dx * dx)
                        if distance < best:
                            best, nearest = distance, c
                result[y, x] = nearest
