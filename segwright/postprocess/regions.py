"""Regions of a label map: opening, closing, smoothing, holes, small components.

Every function takes labels uint8 H×W and returns new labels of the same shape. Ignored pixels (255) neither vote nor
spread, and stay ignored. All are deterministic; where two classes claim a pixel, the rule is stated.

Masks are binary, label maps are not: an opening leaves pixels to nobody, a closing gives some to several classes.
Vacant pixels go to the class of the nearest pixel that kept its label. Claimed pixels go to the *rarest* claiming class
of the image, and never from a rarer class to a more frequent one, so that closing the road does not swallow
the poles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from segwright.core.errors import PostprocessError

UInt8Array = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]
IGNORE = 255
STRIP_PIXELS = 4_000_000  # what is done in floats goes through larger images in strips


@dataclass(frozen=True)
class Area:
    """A limit in pixels, or as a share (0…1) of the image."""

    amount: float
    share: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.amount < (1.0000001 if self.share else 2**53):
            raise PostprocessError(
                "an area out of range", expected="pixels, 0 or more, or a share from 0 to 100 %", found=str(self)
            )

    def pixels(self, labels: UInt8Array) -> float:
        return self.amount * labels.size if self.share else self.amount

    def of(self, pixels: int) -> Area:
        """The limit in pixels, where the image has so many."""
        return Area(self.amount * pixels) if self.share else self

    def __str__(self) -> str:
        return f"{self.amount * 100:g}%" if self.share else f"{self.amount:g}"


def opened(labels: UInt8Array, size: int) -> UInt8Array:
    """Each class opened by a square of ``size`` pixels (odd): parts thinner than that go to their surroundings."""
    labels, square = _checked(labels), _square(size)
    kept = np.zeros(labels.shape, np.uint8)
    for label in _present(labels):
        # OpenCV pads erosion with 'inside' at the image's edge, so that a region cut by the edge is not eroded there.
        kept |= np.asarray(cv2.morphologyEx((labels == label).astype(np.uint8), cv2.MORPH_OPEN, square), np.uint8)
    return _refilled(labels, kept == 0)


def closed(labels: UInt8Array, size: int) -> UInt8Array:
    """Each class closed by a square of ``size`` pixels (odd): narrower gaps are filled, the rarest class first."""
    labels, square = _checked(labels), _square(size)
    present = _present(labels)
    counts = _counts(labels)
    from_frequent = sorted(present, key=lambda label: (-counts[label], -label))
    order = np.full(256, len(present), np.uint8)  # an ignored pixel is never taken
    order[from_frequent] = np.arange(len(present))
    rarity = order[labels]
    result = labels.copy()
    for label in from_frequent:  # a rarer class comes later and overrides
        mask = (labels == label).astype(np.uint8)
        gained = np.asarray(cv2.morphologyEx(mask, cv2.MORPH_CLOSE, square)) != 0
        result[gained & (rarity < order[label])] = label
    return result


def smoothed(labels: UInt8Array, size: int) -> UInt8Array:
    """The most frequent label in a ``size``×``size`` window (odd). On a tie the pixel keeps its label if that is among
    the winners, else the lowest index wins."""
    labels = _checked(labels)
    _square(size)
    strip = max(1, STRIP_PIXELS // labels.shape[1])
    if labels.shape[0] <= strip:
        return _smoothed(labels, size)
    result = np.empty_like(labels)
    for top in range(0, labels.shape[0], strip):  # a window looks size // 2 rows up and down: strips change nothing
        first, last = max(0, top - size // 2), top + strip + size // 2
        result[top : top + strip] = _smoothed(labels[first:last], size)[top - first :][:strip]
    return result


def _smoothed(labels: UInt8Array, size: int) -> UInt8Array:
    best = np.zeros(labels.shape, np.float32)
    result = labels.copy()
    for label in _present(labels):
        mask = (labels == label).astype(np.float32)
        votes = np.asarray(cv2.boxFilter(mask, -1, (size, size), normalize=False, borderType=cv2.BORDER_CONSTANT))
        votes = np.rint(votes) + 0.5 * mask  # half a vote for the pixel's own label decides its ties
        wins = votes > best
        result[wins] = label
        best[wins] = votes[wins]
    result[labels == IGNORE] = IGNORE
    return result


def fill_holes(labels: UInt8Array, limit: Area) -> UInt8Array:
    """Components (4-connected) of at most ``limit`` that lie wholly inside *one* other class become that class.

    A component that touches the image's edge, an ignored pixel or two classes is no hole.
    """
    labels = _checked(labels)
    components, areas, classes = _components(labels)
    count = len(areas)
    lowest = np.full(count, 1 << 30, np.int64)
    highest = np.full(count, -1, np.int64)
    for here, there in (
        (np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:, 1:], np.s_[:, :-1]), (np.s_[:-1], np.s_[1:]), (np.s_[1:], np.s_[:-1]),
    ):  # fmt: skip
        border = components[here] != components[there]
        own, other = components[here][border], labels[there][border].astype(np.int64)
        np.minimum.at(lowest, own, other)
        np.maximum.at(highest, own, other)
    hole = (lowest == highest) & (highest != IGNORE) & (areas <= limit.pixels(labels)) & (classes != IGNORE)
    for edge in (components[0], components[-1], components[:, 0], components[:, -1]):
        hole[edge] = False
    fill = np.where(hole, lowest, classes).astype(np.uint8)
    return fill[components]


def remove_small_regions(labels: UInt8Array, limit: Area, per_class: Mapping[int, Area] | None = None) -> UInt8Array:
    """Components (4-connected) of fewer pixels than ``limit``, or than their class's own limit, go to the class of the
    nearest pixel outside them. An image of nothing but small components stays as it is."""
    labels = _checked(labels)
    components, areas, classes = _components(labels)
    limits = np.full(256, limit.pixels(labels))
    for label, area in (per_class or {}).items():
        limits[label] = area.pixels(labels)
    small = (areas < limits[classes]) & (classes != IGNORE)
    return _refilled(labels, small[components])


def majority_filter(labels: UInt8Array, groups: npt.NDArray[np.int32]) -> UInt8Array:
    """Every pixel takes the most frequent label of its group (H×W numbers from 0); ties go to the lowest index."""
    labels = _checked(labels)
    counts = np.zeros((int(groups.max()) + 1, 256), np.int32)
    np.add.at(counts, (groups.ravel(), labels.ravel()), 1)
    counts[:, IGNORE] = 0
    winners = counts.argmax(axis=1).astype(np.uint8)
    return np.where(labels == IGNORE, labels, winners[groups])


def _components(labels: UInt8Array) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64], UInt8Array]:
    """4-connected components of equal labels: their numbers H×W (from 0), areas, and classes."""
    numbers = np.zeros(labels.shape, np.int32)
    areas: list[npt.NDArray[np.int64]] = []
    classes: list[int] = []
    for label in np.flatnonzero(_counts(labels)):
        mask = labels == label
        count, found, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
        numbers[mask] = np.asarray(found)[mask] - 1 + len(classes)
        areas.append(np.asarray(stats)[1:, cv2.CC_STAT_AREA].astype(np.int64))
        classes += [int(label)] * (count - 1)
    return numbers, np.concatenate(areas), np.array(classes, np.uint8)


def _refilled(labels: UInt8Array, vacant: BoolArray) -> UInt8Array:
    """Vacant pixels take the label of the nearest pixel that is neither vacant nor ignored."""
    ignored = labels == IGNORE
    vacant = vacant & ~ignored
    source = ~vacant & ~ignored
    if not vacant.any() or not source.any():
        return labels.copy()
    _, nearest = cv2.distanceTransformWithLabels(
        (~source).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    nearest = np.asarray(nearest)
    table = np.zeros(int(nearest.max()) + 1, np.uint8)
    table[nearest[source]] = labels[source]
    return np.where(vacant, table[nearest], labels).astype(np.uint8)


def _counts(labels: UInt8Array) -> npt.NDArray[np.int64]:
    """How many pixels have each of the 256 labels. In strips: bincount makes eight bytes of every label."""
    total = np.zeros(256, np.int64)
    strip = max(1, STRIP_PIXELS // labels.shape[1])
    for top in range(0, labels.shape[0], strip):
        total += np.bincount(labels[top : top + strip].ravel(), minlength=256)
    return total


def _present(labels: UInt8Array) -> list[int]:
    return [int(label) for label in np.flatnonzero(_counts(labels)) if label != IGNORE]


def _square(size: int) -> UInt8Array:
    if not 1 <= size <= 255 or size % 2 == 0:
        raise PostprocessError("a size must be odd", expected="1, 3, 5, … 255 pixels across", found=str(size))
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_RECT, (size, size)), np.uint8)


def _checked(labels: UInt8Array) -> UInt8Array:
    labels = np.asarray(labels)
    if labels.dtype != np.uint8 or labels.ndim != 2 or labels.size == 0:
        raise PostprocessError("a label map is uint8 height×width, not empty", found=f"{labels.dtype} {labels.shape}")
    return np.ascontiguousarray(labels)
