"""The confusion matrix pooled over a dataset, and every score that follows from it.

Our convention (named ``pooled``): one K×K matrix over all images, rows ground truth and columns prediction; pixels
whose ground truth is ignored are dropped; a class absent from ground truth *and* prediction is NaN and skipped in
means; background counts as any other class. FCN and mmsegmentation do the same. :mod:`.conventions` has what other code
would print for the same pixels.

Counting is exact (int64): ``numpy.bincount`` over the codes target · K + prediction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segwright.core.errors import LabelError, UsageError
from segwright.core.types import IGNORE_INDEX, MAX_CLASSES

Int64Array = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]

BLOCK = 1 << 16  # pixels counted at a time: bincount widens its input to 64 bits, which then stays in the cache


class ConfusionMatrix:
    """Counts of (ground truth, prediction) pairs over any number of images; rows are ground truth."""

    def __init__(self, classes: int, matrix: npt.ArrayLike | None = None) -> None:
        """``classes`` 1…255; ``matrix`` an existing K×K count to go on from."""
        if not 1 <= classes <= MAX_CLASSES:
            raise UsageError("a confusion matrix has 1 to 255 classes", found=str(classes))
        self.classes = classes
        self.matrix: Int64Array = np.zeros((classes, classes), np.int64)
        if matrix is not None:
            self.add(np.asarray(matrix))

    def update(self, prediction: npt.ArrayLike, target: npt.ArrayLike) -> Int64Array:
        """Count two arrays of one shape (see :func:`count_pairs`); returns this call's own K×K counts."""
        counts = count_pairs(prediction, target, self.classes)
        self.matrix += counts
        return counts

    def add(self, counts: npt.NDArray[Any]) -> None:
        """Add K×K counts made elsewhere: another image's, another rank's."""
        if counts.shape != self.matrix.shape:
            raise UsageError("matrices differ in size", expected=str(self.matrix.shape), found=str(counts.shape))
        self.matrix += counts.astype(np.int64)

    def merge(self, other: ConfusionMatrix) -> None:
        """Add another matrix's counts to this one."""
        self.add(other.matrix)

    def reset(self) -> None:
        self.matrix[:] = 0

    def scores(self) -> Scores:
        """Every score of the pooled matrix."""
        return scores(self.matrix)


@dataclass(frozen=True)
class Scores:
    """Scores in 0…1 by the ``pooled`` convention; NaN where nothing defines them."""

    miou: float  # mean IoU over the classes that occur in ground truth or prediction
    pixel_accuracy: float  # trace / sum
    mean_accuracy: float  # mean recall over the classes that occur in the ground truth
    fwiou: float  # IoU weighted by each class's share of ground-truth pixels
    mean_dice: float
    iou: Float64Array  # (K,) TP / (TP + FP + FN)
    dice: Float64Array  # (K,) 2 TP / (2 TP + FP + FN), which is F1
    precision: Float64Array  # (K,) TP / (TP + FP)
    recall: Float64Array  # (K,) TP / (TP + FN)
    pixels: Int64Array  # (K,) ground-truth pixels

    @property
    def labeled_miou(self) -> float:
        """Mean IoU over the classes that occur in the ground truth, by which models are chosen."""
        return nanmean(self.iou[self.pixels > 0])


def scores(matrix: npt.ArrayLike) -> Scores:
    """The scores of one K×K matrix of counts."""
    counts = np.asarray(matrix)
    hit = np.diagonal(counts).astype(np.float64)
    truth, predicted = counts.sum(axis=1), counts.sum(axis=0)
    union = truth + predicted - hit
    total = float(truth.sum())
    iou, recall = _ratio(hit, union), _ratio(hit, truth)
    dice = _ratio(2 * hit, truth + predicted)
    present = truth > 0
    return Scores(
        miou=nanmean(iou),
        pixel_accuracy=float(hit.sum() / total) if total else float("nan"),
        mean_accuracy=nanmean(recall),
        fwiou=float((truth[present] * iou[present]).sum() / total) if total else float("nan"),
        mean_dice=nanmean(dice),
        iou=iou,
        dice=dice,
        precision=_ratio(hit, predicted),
        recall=recall,
        pixels=truth.astype(np.int64),
    )


def class_counts(matrices: npt.ArrayLike) -> Int64Array:
    """What IoU needs of K×K matrices, any leading dimensions: (…, K, K) → (…, 3, K) with hits, truth and prediction.

    Per-image matrices of a large dataset would not fit memory; these do.
    """
    counts = np.asarray(matrices)
    hit = np.diagonal(counts, axis1=-2, axis2=-1)
    return np.stack([hit, counts.sum(axis=-1), counts.sum(axis=-2)], axis=-2).astype(np.int64)


def iou_per_class(counts: npt.NDArray[Any]) -> Float64Array:
    """IoU from :func:`class_counts`: (…, 3, K) → (…, K), NaN where a class is absent from both sides."""
    hit = counts[..., 0, :].astype(np.float64)
    return _ratio(hit, counts[..., 1, :] + counts[..., 2, :] - hit)


def labeled_iou(counts: npt.NDArray[Any]) -> Float64Array:
    """IoU from :func:`class_counts`: (…, 3, K) → (…, K), NaN for a class without a ground-truth pixel.

    By it two models are compared: where a class has no truth, one pixel predicted as it would decide over a whole class
    of the mean, and the pixel is already a miss of its true class.
    """
    return np.asarray(np.where(counts[..., 1, :] > 0, iou_per_class(counts), np.nan))


def labeled_miou(counts: npt.NDArray[Any]) -> float:
    """The mean of :func:`labeled_iou` of the images' class counts (N, 3, K); NaN without a labeled pixel."""
    return nanmean(labeled_iou(np.asarray(counts).sum(axis=0)))


def predicted_alone(*counts: npt.NDArray[Any]) -> Int64Array:
    """The classes that are predicted and have no ground truth, from the images' class counts (N, 3, K) of a model, or
    of several: those that any of them predicts so."""
    pooled = [np.asarray(one).sum(axis=0) for one in counts]
    return np.flatnonzero(np.any([(one[1] == 0) & (one[2] > 0) for one in pooled], axis=0))


def nanmean(values: Float64Array) -> float:
    """The mean of what is not NaN; NaN, without a warning, where nothing is left."""
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if kept.size else float("nan")


def _ratio(over: npt.NDArray[Any], under: npt.NDArray[Any]) -> Float64Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(under > 0, over / under, np.nan)


# ---------------------------------------------------------------------------------------------------------------------
# Counting


def count_pairs(prediction: npt.ArrayLike, target: npt.ArrayLike, classes: int) -> Int64Array:
    """K×K counts of (ground truth, prediction) over two arrays of one shape.

    ``target`` holds 0…K-1 or 255, ``prediction`` 0…K-1 wherever the target is not 255; anything else raises
    LabelError with how many pixels are wrong. uint8 is fastest, other integers are checked and narrowed first.
    """
    predicted, truth = _as_bytes(prediction, "prediction"), _as_bytes(target, "target")
    if predicted.shape != truth.shape:
        raise LabelError(
            "prediction and ground truth differ in size", expected=str(truth.shape), found=str(predicted.shape)
        )
    predicted, truth = predicted.ravel(), truth.ravel()
    total = np.zeros(classes * classes, np.int64)
    for start in range(0, predicted.size, BLOCK):
        block = slice(start, start + BLOCK)
        total += _count(predicted[block], truth[block], classes)
    return total.reshape(classes, classes)


def _count(predicted: npt.NDArray[np.uint8], truth: npt.NDArray[np.uint8], classes: int) -> Int64Array:
    """Flat K·K counts of predictions and ground truth, uint8 (N,)."""
    scored = truth != IGNORE_INDEX
    if (
        not scored.all()
    ):  # what is predicted on ignored pixels (a mask of another tool with its own void) does not count
        predicted, truth = predicted[scored], truth[scored]
    if truth.size == 0:
        return np.zeros(classes * classes, np.int64)
    if truth.max() >= classes:
        _refuse(truth[truth >= classes], classes, "ground truth")
    if predicted.max() >= classes:
        _refuse(predicted[predicted >= classes], classes, "prediction")
    codes = truth.astype(np.uint16) * np.uint16(classes) + predicted  # below 255²
    return np.bincount(codes, minlength=classes * classes)


def _refuse(values: npt.NDArray[np.uint8], classes: int, what: str) -> None:
    seen = ", ".join(str(value) for value in np.unique(values)[:8])
    raise LabelError(
        f"the {what} holds values that are no class",
        expected=f"0 to {classes - 1}" + (" or 255 (ignored)" if what == "ground truth" else ""),
        found=f"{values.size} pixels with {seen}",
        fix="check the number of classes and the label map",
    )


def _as_bytes(values: npt.ArrayLike, what: str) -> npt.NDArray[np.uint8]:
    array = np.asarray(values)
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8)
    if array.dtype.kind not in "iu":
        raise LabelError(f"the {what} must hold integers", expected="uint8 class indices", found=str(array.dtype))
    if array.size and (array.min() < 0 or array.max() > 255):
        raise LabelError(
            f"the {what} holds values that are no class", expected="0 to 255", found=f"{array.min()} to {array.max()}"
        )
    return array.astype(np.uint8)
