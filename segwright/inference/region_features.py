"""Figures of every predicted region (connected component of one class) that tell whether it is right.

The features are those of MetaSeg (Rottmann et al. 2020, "Prediction error meta classification in semantic
segmentation"): means of entropy, margin and variation ratio over the region, its inside and its boundary, sizes, class
probabilities; and, as in their later work, neighborhood and geometry. No ground truth is needed.

Regions are 8-connected. A boundary pixel has a pixel of another class among its eight neighbors; the edge of the image
is no boundary. The pixels are sorted by region once, so the cost hardly depends on the number of regions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from segwright.core.errors import ModelError
from segwright.core.types import IGNORE_INDEX, Float32Array, UInt8Array

Float64Array = npt.NDArray[np.float64]
Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

PLANES = ("entropy", "margin", "variation")  # dispersion of the class probabilities of a pixel, each 0…1
PARTS = ("", "_inside", "_boundary", "_relative", "_inside_relative")
SHAPE = (
    "log_size", "log_inside", "log_boundary", "size_relative", "inside_relative", "image_share", "class_share",
    "height", "width", "filled", "center_y", "center_x", "at_edge", "neighbors", "thickness", "depth",
)  # fmt: skip
SPREAD = ("entropy_spread", "margin_spread", "variation_spread", "variation_highest", "variation_lowest")
SOFT = ("soft_missed", "soft_log_missed", "soft_share", "soft_regions", "soft_spill", "soft_found", "soft_iou")
AROUND = ("neighbor_own", "neighbor_confidence", "neighbor_entropy", "second_share")
CONTEXT = ("image_entropy", "image_variation", "class_regions", "class_image_share")
LIKELY = 0.2  # probability of a class from which a pixel joins what the class probably covers


@dataclass(frozen=True)
class Regions:
    """The regions of one prediction, in the order of their classes and of their first pixels; R of them."""

    numbers: Int32Array  # (H, W): the region of each pixel, from 0
    classes: UInt8Array  # (R,)
    areas: Int64Array  # (R,) pixels
    boxes: Int32Array  # (R, 4): left, top, width, height in pixels
    boundary: BoolArray  # (H, W): whether a pixel has one of another region beside it
    inside: Int64Array  # (R,) pixels that are not boundary

    def __len__(self) -> int:
        return len(self.classes)


def find_regions(labels: UInt8Array) -> Regions:
    """The 8-connected components of a label map (H, W); ignored pixels (255) form regions of their own."""
    numbers = np.zeros(labels.shape, np.int32)
    classes: list[int] = []
    areas: list[Int64Array] = []
    boxes: list[Int32Array] = []
    for label in np.flatnonzero(np.bincount(labels.ravel(), minlength=256)):
        mask = np.asarray(labels == label)
        count, found, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
        numbers += np.where(mask, np.asarray(found, np.int32) - 1 + len(classes), 0)
        areas.append(np.asarray(stats)[1:, cv2.CC_STAT_AREA].astype(np.int64))
        boxes.append(np.asarray(stats)[1:, :4].astype(np.int32))
        classes += [int(label)] * (count - 1)
    boundary = np.zeros(labels.shape, bool)
    for here, there in _neighbor_slices():
        border = labels[here] != labels[there]
        boundary[here] |= border
        boundary[there] |= border
    sizes = np.concatenate(areas)
    inside = np.bincount(numbers[~boundary], minlength=len(classes))
    return Regions(numbers, np.array(classes, np.uint8), sizes, np.concatenate(boxes), boundary, inside)


def _neighbor_slices() -> Sequence[tuple[tuple[slice, slice], tuple[slice, slice]]]:
    """Slices of pairs of neighboring pixels: right, below, and both diagonals."""
    return (
        (np.s_[:, :-1], np.s_[:, 1:]),
        (np.s_[:-1, :], np.s_[1:, :]),
        (np.s_[:-1, :-1], np.s_[1:, 1:]),
        (np.s_[:-1, 1:], np.s_[1:, :-1]),
    )


def dispersion(probabilities: Float32Array) -> dict[str, Float32Array]:
    """Of probabilities (K, H, W), maps (H, W) in 0…1: entropy over log K, 1 − p₁ + p₂ (margin), 1 − p₁ (variation
    ratio); p₁ and p₂ are the largest and second largest."""
    classes = len(probabilities)
    if classes == 1:
        zero = np.zeros(probabilities.shape[1:], np.float32)
        return {"entropy": zero, "margin": zero, "variation": zero}
    top = np.full(probabilities.shape[1:], -1, np.float32)
    second = top.copy()
    entropy = np.zeros(top.shape, np.float32)
    for plane in probabilities:
        np.maximum(second, np.minimum(top, plane), out=second)
        np.maximum(top, plane, out=top)
        entropy -= plane * np.log(np.maximum(plane, np.float32(1e-12)))
    entropy /= np.float32(np.log(classes))
    return {"entropy": np.clip(entropy, 0, 1), "margin": 1 - top + second, "variation": 1 - top}


def feature_names(classes: int) -> tuple[str, ...]:
    """The names of the columns of :func:`region_features` for K classes."""
    planes = tuple(plane + part for plane in PLANES for part in PARTS)
    return (
        *planes, *SHAPE, *SPREAD, *AROUND, *CONTEXT, *SOFT,
        *(f"probability_{k}" for k in range(classes)),
        *(f"around_{k}" for k in range(classes)),
        *(f"class_{k}" for k in range(classes)),
    )  # fmt: skip


def region_features(probabilities: Float32Array, regions: Regions) -> Float32Array:
    """(R, F): the features of each region, columns as :func:`feature_names`; ``probabilities`` (K, H, W).

    ModelError if the sizes differ.
    """
    classes, count = len(probabilities), len(regions)
    if probabilities.shape[1:] != regions.numbers.shape:
        raise ModelError(
            "probabilities and regions differ in size",
            expected=str(regions.numbers.shape),
            found=str(probabilities.shape[1:]),
        )
    # Pixels sorted by region: one radix sort, after which every sum and maximum is a pass over a plane.
    narrow = regions.numbers.ravel().astype(np.uint16 if count <= 65536 else np.int32)
    order = np.argsort(narrow, kind="stable")
    starts = np.cumsum(regions.areas) - regions.areas
    on_boundary = regions.boundary.ravel()[order].astype(np.float64)
    size = regions.areas.astype(np.float64)
    rim = np.maximum(size - regions.inside, 1.0)  # a region that fills the image has no boundary
    inside = regions.inside.astype(np.float64)

    def in_order(plane: npt.NDArray[Any]) -> Float64Array:
        return np.asarray(plane.ravel()[order], np.float64)

    def sums(ordered: Float64Array) -> Float64Array:
        return np.asarray(np.add.reduceat(ordered, starts))

    planes = dispersion(probabilities)
    columns: list[Float64Array] = []
    spread: list[Float64Array] = []
    for name in PLANES:
        plane = in_order(planes[name])
        total = sums(plane)
        edge = sums(plane * on_boundary)
        whole, middle = total / size, (total - edge) / np.maximum(inside, 1.0)
        columns += [whole, middle, edge / rim, whole * size / rim, middle * inside / rim]
        spread.append(np.sqrt(np.maximum(sums(plane * plane) / size - whole * whole, 0.0)))
    height, width = regions.numbers.shape
    pixels = float(height * width)
    kinds = regions.classes.astype(np.int64)
    of_class = np.bincount(kinds, weights=size, minlength=256)
    box = regions.boxes.astype(np.float64)
    rows, across = sums((order // width).astype(np.float64)) / size, sums((order % width).astype(np.float64)) / size
    at_edge = (box[:, 0] == 0) | (box[:, 1] == 0) | (box[:, 0] + box[:, 2] == width) | (box[:, 1] + box[:, 3] == height)
    around, around_kinds = _neighborhood(regions, probabilities, planes, classes)
    distance = cv2.distanceTransform((~regions.boundary).view(np.uint8), cv2.DIST_L2, 3)
    depth = np.maximum.reduceat(in_order(np.asarray(distance)), starts)
    columns += [
        np.log(size), np.log1p(inside), np.log(rim), size / rim, inside / rim, size / pixels, size / of_class[kinds],
        box[:, 3] / height, box[:, 2] / width, size / (box[:, 2] * box[:, 3]), rows / height, across / width,
        at_edge.astype(np.float64), (around_kinds > 0).sum(axis=1).astype(np.float64), np.sqrt(size) / rim,
        depth / np.sqrt(size),
    ]  # fmt: skip
    variation = in_order(planes["variation"])
    columns += [*spread, np.maximum.reduceat(variation, starts), np.minimum.reduceat(variation, starts)]
    mean = np.stack([sums(in_order(plane)) / size for plane in probabilities], axis=1)  # (R, K)
    others = mean.copy()
    known = kinds < classes
    others[known, kinds[known]] = 0
    columns += [*around, others.max(axis=1)]
    number_of_class = np.bincount(kinds, minlength=256).astype(np.float64)
    columns += [
        np.full(count, float(planes["entropy"].mean())),
        np.full(count, float(variation.mean())),
        np.log(number_of_class[kinds]),
        of_class[kinds] / pixels,
        *_soft_component(regions, probabilities, mean),
    ]
    one_hot = (kinds[:, None] == np.arange(classes)).astype(np.float64)
    return np.concatenate([np.stack(columns, axis=1), mean, around_kinds, one_hot], axis=1).astype(np.float32)


def _soft_component(regions: Regions, probabilities: Float32Array, mean: Float64Array) -> list[Float64Array]:
    """What the class of a region probably covers around it, columns SOFT, (R,) each.

    The soft component of a region is the 8-connected set of pixels that were given its class or have it with LIKELY at
    least. The class's probability summed over the pixels that were given another class is the expected number of missed
    pixels, and with it the adjusted IoU that MetaSeg's target has, if the probabilities are taken at their word.
    """
    count, classes = len(regions), len(probabilities)
    labels = regions.classes[regions.numbers]
    area = regions.areas.astype(np.float64)
    missed, hit, covered, pieces, wide = (np.zeros(count), np.zeros(count), area.copy(), np.ones(count), area.copy())
    for kind in np.unique(regions.classes[regions.classes < classes]).tolist():
        plane, own = probabilities[kind], labels == kind
        likely = own | (plane >= LIKELY)
        number, parts, boxes, _ = cv2.connectedComponentsWithStats(likely.view(np.uint8), connectivity=8)
        inside = np.bincount(parts[own], weights=plane[own], minlength=number)
        rest = likely & ~own
        outside = np.bincount(parts[rest], weights=plane[rest], minlength=number)
        mine = np.flatnonzero(regions.classes == kind)
        place = np.zeros(count, np.int64)
        place[regions.numbers[own]] = parts[own]  # of any pixel: a region is in one component
        part = place[mine]
        missed[mine], hit[mine] = outside[part], inside[part]
        covered[mine] = np.bincount(part, weights=area[mine], minlength=number)[part]
        pieces[mine] = np.bincount(part, minlength=number)[part]
        wide[mine] = np.asarray(boxes)[part, cv2.CC_STAT_AREA]
    kinds = regions.classes.astype(np.int64)
    known = kinds < classes
    expected = np.zeros(count)
    expected[known] = mean[known, kinds[known]] * area[known]
    return [
        missed / area, np.log1p(missed), area / covered, np.log(pieces), np.log(wide / covered),
        hit / (covered + missed), expected / (area + missed),
    ]  # fmt: skip


def _neighborhood(
    regions: Regions, probabilities: Float32Array, planes: dict[str, Float32Array], classes: int
) -> tuple[list[Float64Array], Float64Array]:
    """Of the pixels beside a region, counted once per pair: mean probability of the region's class, of their own label,
    and entropy; and the shares of their classes (R, K)."""
    numbers, count = regions.numbers, len(regions)
    labels = regions.classes[numbers]
    pairs = np.zeros(count)
    own, sure, unsure = np.zeros(count), np.zeros(count), np.zeros(count)
    kinds = np.zeros(count * 256)
    confidence, entropy = 1 - planes["variation"], planes["entropy"]
    for here, there in (*_neighbor_slices()[:2], *((b, a) for a, b in _neighbor_slices()[:2])):
        border = numbers[here] != numbers[there]
        mine, theirs = numbers[here][border], labels[there][border].astype(np.int64)
        y, x = np.nonzero(border)
        y, x = y + (there[0].start or 0), x + (there[1].start or 0)
        pairs += np.bincount(mine, minlength=count)
        kind = np.minimum(regions.classes[mine].astype(np.int64), classes - 1)
        own += np.bincount(mine, weights=probabilities[kind, y, x], minlength=count)
        sure += np.bincount(mine, weights=confidence[y, x], minlength=count)
        unsure += np.bincount(mine, weights=entropy[y, x], minlength=count)
        kinds += np.bincount(mine.astype(np.int64) * 256 + theirs, minlength=count * 256)
    shares = kinds.reshape(count, 256)[:, :classes] / np.maximum(pairs, 1)[:, None]
    shares[regions.classes == IGNORE_INDEX] = 0
    return [own / np.maximum(pairs, 1), sure / np.maximum(pairs, 1), unsure / np.maximum(pairs, 1)], shares
