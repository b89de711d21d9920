"""How well borders are met: boundary IoU, the BF score, and mIoU in a band around the true borders (trimap).

Region scores hardly see borders: a pixel's shift of every outline costs a large class next to nothing.

A border between a class and ignored pixels is no border in any of them, for the truth or for the prediction: where the
class ends there is unknown, and a band that both sides share by construction would count as a hit.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from segwright.core.errors import LabelError, UsageError
from segwright.core.types import IGNORE_INDEX
from segwright.metrics.confusion import Float64Array, Int64Array, count_pairs, nanmean, scores

UInt8Array = npt.NDArray[np.uint8]
CROSS = np.ones((3, 3), np.uint8)


def band_width(height: int, width: int, ratio: float = 0.02) -> int:
    """How many 3×3 erosions make the boundary band: ``ratio`` of the image's diagonal, at least 1 pixel."""
    return max(1, round(ratio * float(np.hypot(height, width))))


def boundary_band(
    region: npt.NDArray[np.bool_], erosions: int, void: npt.NDArray[np.bool_] | None = None
) -> npt.NDArray[np.bool_]:
    """The region minus itself eroded, (H, W) bool; beyond the image's edge there is no region, so that the edge
    counts as a border (Cheng et al. 2021, the reference implementation). ``void``: ignored pixels, (H, W) bool; the
    region goes on there for the erosion, so that its border with them is none."""
    covered = region if void is None else region | void
    padded = cv2.copyMakeBorder(covered.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    # n erosions by 3×3 are one by a square of 2n + 1, which OpenCV does in time that does not grow with n
    square = np.ones((2 * erosions + 1, 2 * erosions + 1), np.uint8)
    eroded = cv2.erode(padded, square, borderType=cv2.BORDER_CONSTANT, borderValue=0)[1:-1, 1:-1]
    return np.asarray(region & (eroded == 0))


class BoundaryIoU:
    """Boundary IoU per class, counts pooled over the dataset: Cheng et al. 2021.

    Per class and image, the band of the prediction and the band of the truth are intersected and united; ignored pixels
    are left out of both regions and of the bands, and borders with them are none.
    """

    def __init__(self, classes: int, *, ratio: float = 0.02) -> None:
        if classes < 1 or not 0 < ratio < 1:
            raise UsageError("boundary IoU needs classes ≥ 1 and a ratio in 0…1", found=f"{classes}, {ratio}")
        self.classes, self.ratio = classes, ratio
        self.intersection: Int64Array = np.zeros(classes, np.int64)
        self.union: Int64Array = np.zeros(classes, np.int64)

    def update(self, prediction: UInt8Array, target: UInt8Array) -> None:
        """One image: (H, W) class indices each, 255 in the target ignored."""
        check_pair(prediction, target)
        erosions = band_width(target.shape[0], target.shape[1], self.ratio)
        valid = target != IGNORE_INDEX
        there = np.bincount(prediction[valid], minlength=256) + np.bincount(target[valid], minlength=256)
        for index in np.flatnonzero(there[: self.classes]):
            truth = boundary_band(target == index, erosions, ~valid)
            predicted = boundary_band((prediction == index) & valid, erosions, ~valid)
            self.intersection[index] += np.count_nonzero(truth & predicted)
            self.union[index] += np.count_nonzero(truth | predicted)

    def merge(self, other: BoundaryIoU) -> None:
        self.intersection += other.intersection
        self.union += other.union

    def per_class(self) -> Float64Array:
        """(K,), NaN where a class occurs on neither side."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.union > 0, self.intersection / self.union, np.nan)

    def mean(self) -> float:
        return nanmean(self.per_class())


class BFScore:
    """The boundary F1 score: Csurka et al. 2013, as SegNet (2017) reports it.

    Per image and class that occurs in either mask: precision is the share of the predicted border within ``tolerance``
    of the image's diagonal of the true one, recall the reverse, F1 their harmonic mean; averaged over the image's
    classes, then over images. Borders are the region's own outermost pixels, inside the image; those that only
    ignored pixels touch are left out.
    """

    def __init__(self, classes: int, *, tolerance: float = 0.0075) -> None:
        if classes < 1 or not 0 < tolerance < 1:
            raise UsageError("the BF score needs classes ≥ 1 and a tolerance in 0…1", found=f"{classes}, {tolerance}")
        self.classes, self.tolerance = classes, tolerance
        self.images: list[float] = []
        self.class_sum: Float64Array = np.zeros(classes)
        self.class_count: Int64Array = np.zeros(classes, np.int64)

    def update(self, prediction: UInt8Array, target: UInt8Array) -> None:
        """One image: (H, W) class indices each, 255 in the target ignored."""
        check_pair(prediction, target)
        tolerance = self.tolerance * float(np.hypot(*target.shape))
        valid = target != IGNORE_INDEX
        there = np.bincount(prediction[valid], minlength=256) + np.bincount(target[valid], minlength=256)
        found = []
        for index in np.flatnonzero(there[: self.classes]):
            value = _border_f1((prediction == index) & valid, target == index, ~valid, tolerance)
            found.append(value)
            self.class_sum[index] += value
            self.class_count[index] += 1
        if found:
            self.images.append(float(np.mean(found)))

    def per_class(self) -> Float64Array:
        """(K,) mean over the images in which the class occurs on either side; NaN without one."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.class_count > 0, self.class_sum / self.class_count, np.nan)

    def mean(self) -> float:
        """The mean over images."""
        return float(np.mean(self.images)) if self.images else float("nan")


def outline(region: npt.NDArray[np.bool_], void: npt.NDArray[np.bool_] | None = None) -> npt.NDArray[np.bool_]:
    """The region's pixels that have a neighbor (of eight) outside it within the image; an image's edge is none, and
    ``void`` (ignored pixels, (H, W) bool) is not outside."""
    covered = region if void is None else region | void
    eroded = cv2.erode(covered.astype(np.uint8), CROSS, borderType=cv2.BORDER_CONSTANT, borderValue=1)
    return np.asarray(region & (eroded == 0))


def _border_f1(
    predicted: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_], void: npt.NDArray[np.bool_], tolerance: float
) -> float:
    """F1 of two regions' borders, at least one of the regions not empty."""
    predicted_border, true_border = outline(predicted, void), outline(truth, void)
    if not predicted_border.any() and not true_border.any():
        return float(predicted.any() == truth.any())  # a region that fills the image has no border to miss
    if not predicted_border.any() or not true_border.any():
        return 0.0
    precision = float((_distance_to(true_border)[predicted_border] <= tolerance).mean())
    recall = float((_distance_to(predicted_border)[true_border] <= tolerance).mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _distance_to(border: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """(H, W) exact Euclidean distance in pixels to the nearest pixel of a border that is not empty."""
    far = cv2.distanceTransform((~border).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(far, np.float32)


class TrimapIoU:
    """Pooled mIoU over the pixels within ``width`` pixels of a true border between classes: Kohli et al. 2009."""

    def __init__(self, classes: int, *, width: int = 5) -> None:
        if width < 1:
            raise UsageError("a trimap is at least one pixel wide", found=str(width))
        self.classes, self.width = classes, width
        self.matrix: Int64Array = np.zeros((classes, classes), np.int64)

    def update(self, prediction: UInt8Array, target: UInt8Array) -> None:
        """One image: (H, W) class indices each, 255 in the target ignored."""
        check_pair(prediction, target)
        self.matrix += count_pairs(
            prediction, np.where(trimap(target, self.width), target, IGNORE_INDEX).astype(np.uint8), self.classes
        )

    def mean(self) -> float:
        return scores(self.matrix).miou


def trimap(target: UInt8Array, width: int) -> npt.NDArray[np.bool_]:
    """(H, W) bool: labeled and within ``width`` pixels (Euclidean) of a pixel that has a neighbor of another class.

    Borders between a class and void do not count: where the void's true border lies is unknown.
    """
    edge = np.zeros(target.shape, bool)
    for one, other in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[1:], np.s_[:-1])):
        differ = (target[one] != target[other]) & (target[one] != IGNORE_INDEX) & (target[other] != IGNORE_INDEX)
        edge[one] |= differ
        edge[other] |= differ
    if not edge.any():
        return edge
    # The border runs between pixels: a border pixel itself is the first of ``width``.
    return np.asarray((_distance_to(edge) <= width - 1) & (target != IGNORE_INDEX))


def check_pair(prediction: npt.NDArray[Any], target: npt.NDArray[Any]) -> None:
    if prediction.shape != target.shape or prediction.ndim != 2:
        raise LabelError(
            "prediction and ground truth differ in size", expected=str(target.shape), found=str(prediction.shape)
        )
