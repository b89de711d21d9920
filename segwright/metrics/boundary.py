"""How well borders are met: boundary IoU, the BF score, and mIoU in a band around the true borders (trimap).

Region scores hardly see borders: a pixel's shift of every outline costs a large class next to nothing. All classes are
handled at once, on the label maps: a pixel lies near a border if the smallest or the largest label around it differs
from its own.

A border between a class and ignored pixels is no border in any of them, for the truth or for the prediction: where the
class ends there is unknown, and a band that both sides share by construction would count as a hit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from segwright.core.errors import LabelError, UsageError
from segwright.core.types import IGNORE_INDEX
from segwright.metrics.confusion import Float64Array, Int64Array, count_pairs, iou_per_class, nanmean, scores

UInt8Array = npt.NDArray[np.uint8]
CROSS = np.ones((3, 3), np.uint8)
LARGEST_DISK = 24  # radius in pixels up to which a disk is drawn around each pixel; beyond, distances are faster
TRIMAP_WIDTHS = (1, 3, 5, 10)  # pixels


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


def class_bands(labels: UInt8Array, erosions: int) -> npt.NDArray[np.bool_]:
    """(H, W) bool: the bands (:func:`boundary_band`) of all classes of ``labels`` (H, W), in which 255 is ignored."""
    band = _differs_nearby(labels, erosions)
    for edge in (np.s_[:erosions], np.s_[-erosions:], np.s_[:, :erosions], np.s_[:, -erosions:]):
        band[edge] = labels[edge] != IGNORE_INDEX
    return band


def _differs_nearby(labels: UInt8Array, radius: int) -> npt.NDArray[np.bool_]:
    """(H, W) bool: labeled, and another label within ``radius`` pixels (in a square)."""
    square = np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)
    void = labels == IGNORE_INDEX
    lowest = cv2.erode(labels, square, borderType=cv2.BORDER_CONSTANT, borderValue=255)
    filled = np.where(void, 0, labels).astype(np.uint8, copy=False)
    highest = cv2.dilate(filled, square, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return np.asarray(((lowest != labels) | (highest != labels)) & ~void)


def _with_void_of(prediction: UInt8Array, target: UInt8Array) -> UInt8Array:
    return np.where(target == IGNORE_INDEX, IGNORE_INDEX, prediction).astype(np.uint8, copy=False)


def _occurring(labels: UInt8Array, asked: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """(K,) which of the classes ``asked`` for occur."""
    table = np.zeros(256, np.uint8)
    table[: len(asked)] = asked
    if not cv2.LUT(labels, table).any():  # the usual case, many times faster than counting
        return np.zeros_like(asked)
    return (_pixels(labels.ravel(), len(asked)) > 0) & asked


def _pixels(labels: UInt8Array, classes: int) -> Int64Array:
    """(K,) pixels of each class."""
    return np.bincount(labels, minlength=256)[:classes]


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

    def update(self, prediction: UInt8Array, target: UInt8Array) -> Int64Array:
        """One image: (H, W) class indices each, 255 in the target ignored; returns its own intersection and union,
        (2, K)."""
        check_pair(prediction, target)
        erosions = band_width(target.shape[0], target.shape[1], self.ratio)
        predicted = _with_void_of(prediction, target)
        truth_band, predicted_band = class_bands(target, erosions), class_bands(predicted, erosions)
        both = truth_band & predicted_band & (target == predicted)
        intersection = _pixels(target[both], self.classes)
        union = _pixels(target[truth_band], self.classes) + _pixels(predicted[predicted_band], self.classes)
        union -= intersection
        self.intersection += intersection
        self.union += union
        return np.stack([intersection, union])

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

    def update(self, prediction: UInt8Array, target: UInt8Array) -> Float64Array:
        """One image: (H, W) class indices each, 255 in the target ignored; returns its own scores and whether the class
        occurs, (2, K), zeros where it does not."""
        check_pair(prediction, target)
        tolerance = self.tolerance * float(np.hypot(*target.shape))
        predicted = _with_void_of(prediction, target)
        f1 = _border_f1(predicted, target, self.classes, tolerance)
        bare = np.isnan(f1)  # no border in either: absent, or filling the image, where there is no border to miss
        in_truth, in_prediction = _occurring(target, bare), _occurring(predicted, bare)
        present = ~bare | in_truth | in_prediction
        found = np.stack([np.where(bare, in_truth & in_prediction, f1), present])
        self.class_sum += found[0]
        self.class_count += present
        if present.any():
            self.images.append(float(found[0, present].mean()))
        return found

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


def _border_f1(predicted: UInt8Array, truth: UInt8Array, classes: int, tolerance: float) -> Float64Array:
    """(K,) F1 of the borders of each class of two label maps with the same ignored pixels; NaN where a class has a
    border in neither."""
    predicted_border, true_border = _differs_nearby(predicted, 1), _differs_nearby(truth, 1)
    predicted_pixels = _pixels(predicted[predicted_border], classes)
    true_pixels = _pixels(truth[true_border], classes)
    f1: Float64Array = np.where((predicted_pixels == 0) & (true_pixels == 0), np.nan, 0.0)
    predicted_outlines = np.where(predicted_border, predicted, IGNORE_INDEX)
    true_outlines = np.where(true_border, truth, IGNORE_INDEX)
    for index in np.flatnonzero((predicted_pixels > 0) & (true_pixels > 0)).tolist():
        one, other = predicted_outlines == index, true_outlines == index
        precision = _met(one, other, tolerance) / predicted_pixels[index]
        recall = _met(other, one, tolerance) / true_pixels[index]
        f1[index] = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return f1


def _met(border: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_], tolerance: float) -> int:
    """How many pixels of ``border`` (not empty) are within ``tolerance`` pixels (Euclidean) of ``other``."""
    x, y, width, height = cv2.boundingRect(border.view(np.uint8))
    reach = int(tolerance) + 1
    crop = np.s_[max(0, y - reach) : y + height + reach, max(0, x - reach) : x + width + reach]
    return int(np.count_nonzero(_within(other[crop], tolerance) & border[crop]))


def _within(region: npt.NDArray[np.bool_], distance: float) -> npt.NDArray[np.bool_]:
    """(H, W) bool: the pixels within ``distance`` pixels (Euclidean) of a pixel of ``region``."""
    reach = int(distance)
    if reach > LARGEST_DISK:
        return np.asarray(_distance_to(region) <= distance) if region.any() else region
    steps = np.arange(-reach, reach + 1)
    disk = (np.hypot(steps[:, None], steps[None]) <= distance).astype(np.uint8)
    return cv2.dilate(region.view(np.uint8), disk, borderType=cv2.BORDER_CONSTANT, borderValue=0).astype(bool)


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


class TrimapCurve:
    """:class:`TrimapIoU` for several widths from one distance map: where the errors lie, as a curve over the width."""

    def __init__(self, classes: int, *, widths: Sequence[int] = TRIMAP_WIDTHS) -> None:
        if not 1 <= len(widths) < 255 or min(widths) < 1 or list(widths) != sorted(set(widths)):
            raise UsageError("widths of a trimap rise, from 1 pixel", found=str(list(widths)))
        self.classes, self.widths = classes, tuple(widths)
        self.counts: Int64Array = np.zeros((len(widths), 3, classes), np.int64)

    def update(self, prediction: UInt8Array, target: UInt8Array) -> Int64Array:
        """One image: (H, W) class indices each, 255 in the target ignored; returns its own hits, truth and prediction
        per width and class, (W, 3, K)."""
        check_pair(prediction, target)
        found = np.zeros_like(self.counts)
        edge = _true_edges(target)
        if not edge.any():
            return found
        ring = np.full(target.shape, len(self.widths), np.uint8)  # the narrowest band that has the pixel
        for index in reversed(range(len(self.widths))):
            ring[_within(edge, self.widths[index] - 1)] = index
        near = (ring < len(self.widths)) & (target != IGNORE_INDEX)
        truth, predicted, ring = target[near], prediction[near], ring[near]
        check_labels(truth, predicted, self.classes)
        base = ring.astype(np.int64) * self.classes
        for row, codes in enumerate(((base + truth)[truth == predicted], base + truth, base + predicted)):
            counted = np.bincount(codes, minlength=len(self.widths) * self.classes)
            found[:, row] = counted.reshape(len(self.widths), self.classes).cumsum(axis=0)
        self.counts += found
        return found

    def means(self) -> list[float]:
        """The pooled mIoU of each width; NaN where the truth has no border."""
        return [nanmean(iou_per_class(counts)) for counts in self.counts]


def trimap(target: UInt8Array, width: int) -> npt.NDArray[np.bool_]:
    """(H, W) bool: labeled and within ``width`` pixels (Euclidean) of a pixel that has a neighbor of another class.

    Borders between a class and void do not count: where the void's true border lies is unknown.
    """
    edge = _true_edges(target)
    if not edge.any():
        return edge
    # The border runs between pixels: a border pixel itself is the first of ``width``.
    return np.asarray((_distance_to(edge) <= width - 1) & (target != IGNORE_INDEX))


def _true_edges(target: UInt8Array) -> npt.NDArray[np.bool_]:
    """(H, W) bool: labeled, with a labeled neighbor (of four) of another class."""
    edge = np.zeros(target.shape, bool)
    for one, other in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[1:], np.s_[:-1])):
        differ = (target[one] != target[other]) & (target[one] != IGNORE_INDEX) & (target[other] != IGNORE_INDEX)
        edge[one] |= differ
        edge[other] |= differ
    return edge


def check_pair(prediction: npt.NDArray[Any], target: npt.NDArray[Any]) -> None:
    if prediction.shape != target.shape or prediction.ndim != 2:
        raise LabelError(
            "prediction and ground truth differ in size", expected=str(target.shape), found=str(prediction.shape)
        )


def check_labels(truth: UInt8Array, predicted: UInt8Array, classes: int) -> None:
    for values, what in ((truth, "ground truth"), (predicted, "prediction")):
        if values.size and int(values.max()) >= classes:
            raise LabelError(
                f"the {what} holds values that are no class",
                expected=f"0 to {classes - 1}",
                found=", ".join(map(str, np.unique(values[values >= classes])[:8])),
            )
