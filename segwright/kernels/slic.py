"""k-means in color and position around the cells of a grid: the clustering of SLIC superpixels, and its numpy twin."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from segwright.kernels.switch import enabled

Float32Array = npt.NDArray[np.float32]
Int32Array = npt.NDArray[np.int32]


def cluster(lab: Float32Array, rows: int, columns: int, weight: np.float32, rounds: int) -> Int32Array:
    """Cluster numbers int32 (H, W), 0 … rows · columns - 1, of an image float32 (H, W, 3).

    A pixel considers the centers of the nine cells around its own. Distances are squared color differences plus
    ``weight`` times squared pixel distances; of equal ones the center that comes first counts.
    """
    if not enabled():
        return cluster_plain(lab, rows, columns, weight, rounds)
    from segwright.kernels import slic_kernels

    result = np.empty(lab.shape[:2], np.int32)
    slic_kernels.cluster(lab, rows, columns, weight, rounds, result)
    return result


def cluster_plain(lab: Float32Array, rows: int, columns: int, weight: np.float32, rounds: int) -> Int32Array:
    """The twin of :func:`cluster` in numpy: equal but for pixels that are within rounding of two centers."""
    height, width = lab.shape[:2]
    y, x = np.arange(height), np.arange(width)
    row, column = np.broadcast_arrays((y * rows // height)[:, None], (x * columns // width)[None])
    points = np.empty((height, width, 5), np.float32)
    points[..., :3], points[..., 3], points[..., 4] = lab, y[:, None], x
    scale = np.array([1, 1, 1, weight, weight], np.float32)
    result: Int32Array = (row * columns + column).astype(np.int32)
    centers = np.zeros((rows * columns, 5), np.float32)
    for _ in range(rounds):
        counts = np.bincount(result.ravel(), minlength=rows * columns)
        for axis in range(5):
            sums = np.bincount(result.ravel(), points[..., axis].ravel(), minlength=rows * columns)
            centers[:, axis] = np.where(counts, sums / np.maximum(counts, 1), centers[:, axis])
        best = np.full((height, width), np.inf, np.float32)
        nearest = np.zeros((height, width), np.int32)
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                r, k = row + down, column + right
                inside = (r >= 0) & (r < rows) & (k >= 0) & (k < columns)
                other = np.where(inside, r * columns + k, 0)
                distance = (np.square(points - centers[other]) * scale).sum(axis=-1, dtype=np.float32)
                closer = inside & (distance < best)
                best, nearest = np.where(closer, distance, best), np.where(closer, other, nearest)
        result = nearest.astype(np.int32)
    return result
