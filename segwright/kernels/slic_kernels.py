"""The loops of SLIC's k-means. Importing this module imports numba; :mod:`segwright.kernels.slic` does so."""

from __future__ import annotations

from typing import Any

import numpy as np

from segwright.kernels.jit import jit


@jit
def cluster(lab: Any, rows: int, columns: int, weight: Any, rounds: int, result: Any) -> None:
    """Fills ``result`` int32 (H, W); arguments as :func:`segwright.kernels.slic.cluster`."""
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
