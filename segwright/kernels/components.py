"""The number of connected components of each class of a label map, and its plain twin."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from segwright.kernels.switch import enabled

Int32Array = npt.NDArray[np.int32]


def count_components(labels: npt.NDArray[np.uint8], classes: int) -> Int32Array:
    """(K,): 4-connected components of each class of ``labels`` (H, W); other values are not counted."""
    if not enabled():
        return count_components_plain(labels, classes)
    from segwright.kernels import components_kernels

    counts = np.zeros(256, np.int32)
    height, width = labels.shape
    components_kernels.count(np.ascontiguousarray(labels), np.empty(height * width, np.int32), counts)
    return counts[:classes]


def count_components_plain(labels: npt.NDArray[np.uint8], classes: int) -> Int32Array:
    """The twin of :func:`count_components` in OpenCV."""
    counts = np.zeros(classes, np.int32)
    for label in np.unique(labels):
        if label < classes:
            counts[label] = cv2.connectedComponents((labels == label).astype(np.uint8), connectivity=4)[0] - 1
    return counts
