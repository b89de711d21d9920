"""What a question is about: connected regions of an image that likely have one class.

Three kinds. **superpixels**: SLIC, cut into connected parts. **segments**: the connected regions of the predicted mask,
large ones cut where the image has edges. **merged**: superpixels joined, the most alike first, until as many are left
as can be asked about; likeness is color, and the predicted probabilities where there is a model, so that a road needs
one answer and a pole keeps its own. :func:`purity` measures how much of a unit has its dominant class.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from segwright.core.errors import UsageError
from segwright.core.types import IGNORE_INDEX, Float32Array, UInt8Array
from segwright.postprocess.superpixels import superpixels

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]

KINDS = ("merged", "segments", "superpixels")
LEAST_PIXELS = 12  # a smaller part of a superpixel joins a neighbor
COLOR_SCALE = 10.0  # CIE Lab units that count as much as a class that is certain


def connected(numbers: Int32Array, least: int = LEAST_PIXELS) -> Int32Array:
    """Numbers (H, W) from 0 of the 4-connected parts of equal ``numbers``; parts of fewer than ``least`` pixels join
    the neighbor that they touch most."""
    parts = _components(numbers)
    for _ in range(4):  # a part may join one that is small itself
        sizes = np.bincount(parts.ravel())
        small = sizes < least
        if not small.any() or len(sizes) == 1:
            break
        target = np.arange(len(sizes))
        first, second, length = borders(parts)
        both_first, both_second = np.concatenate([first, second]), np.concatenate([second, first])
        lengths = np.concatenate([length, length])
        order = np.lexsort((both_second, -lengths, both_first))
        heads = np.unique(both_first[order], return_index=True)[1]
        longest = order[heads]
        joins = small[both_first[longest]]
        source, into = both_first[longest][joins], both_second[longest][joins]
        mutual = small[into] & (into > source)  # of two small neighbors the later joins the earlier
        source, into = source[~mutual], into[~mutual]
        target[source] = into
        for _ in range(8):
            target = target[target]
        parts = _compact(target[parts])
    return parts


def _components(numbers: Int32Array) -> Int32Array:
    """The 4-connected parts of equal numbers, numbered by their first pixel."""
    height, width = numbers.shape
    index = np.arange(height * width).reshape(height, width)
    across = numbers[:, 1:] == numbers[:, :-1]
    down = numbers[1:] == numbers[:-1]
    from scipy.sparse import coo_array  # half a second to import
    from scipy.sparse.csgraph import connected_components

    first = np.concatenate([index[:, :-1][across], index[:-1][down]])
    second = np.concatenate([index[:, 1:][across], index[1:][down]])
    graph = coo_array((np.ones(len(first), np.bool_), (first, second)), shape=(height * width,) * 2)
    return _compact(connected_components(graph, directed=False)[1].reshape(height, width))


def _compact(numbers: npt.NDArray[np.int32] | npt.NDArray[np.int64]) -> Int32Array:
    """The same regions, numbered from 0 by their first pixel."""
    _, first, inverse = np.unique(numbers, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int32)
    rank[np.argsort(first, kind="stable")] = np.arange(len(first), dtype=np.int32)
    return np.asarray(rank[np.ravel(inverse)].reshape(numbers.shape))


def borders(units: Int32Array) -> tuple[Int64Array, Int64Array, Int64Array]:
    """(first, second, length): the pairs of units that touch, first < second, and along how many pixel edges."""
    pairs = [np.stack([a.ravel(), b.ravel()]) for a, b in ((units[:, 1:], units[:, :-1]), (units[1:], units[:-1]))]
    found = np.concatenate(pairs, axis=1).astype(np.int64)
    found = found[:, found[0] != found[1]]
    found.sort(axis=0)
    count = int(units.max()) + 1
    keys, lengths = np.unique(found[0] * count + found[1], return_counts=True)
    return keys // count, keys % count, lengths.astype(np.int64)


def superpixel_units(image: UInt8Array, size: int = 12, compactness: float = 10.0) -> Int32Array:
    """Connected superpixels (H, W) of about ``size``² pixels."""
    return connected(superpixels(image, size, compactness), max(LEAST_PIXELS, size * size // 16))


def segment_units(image: UInt8Array, labels: UInt8Array, size: int = 48) -> Int32Array:
    """The connected regions of predicted labels (H, W); those larger than ``size``² pixels are cut by superpixels."""
    parts = connected(labels.astype(np.int32))
    large = np.bincount(parts.ravel()) > size * size
    cuts = superpixels(image, size, 10.0) + 1
    mixed = parts.astype(np.int64) * (int(cuts.max()) + 1) + np.where(large[parts], cuts, 0)
    return connected(_compact(mixed), LEAST_PIXELS)


def merged_units(
    image: UInt8Array, count: int, probabilities: Float32Array | None = None, size: int = 8, exponent: float = 0.5
) -> Int32Array:
    """Superpixels of about ``size``² pixels, joined until ``count`` are left.

    The two that are joined next touch and have the least distance of mean features times (smaller area)^``exponent``:
    0 keeps small regions that differ, 1 makes regions of similar size (Ward).
    """
    units = superpixel_units(image, size)
    features = unit_means(units, _features(image, probabilities))
    return _compact(_join(units, features, count, exponent)[units])


def _features(image: UInt8Array, probabilities: Float32Array | None) -> list[Float32Array]:
    """The planes (H, W) that units are compared by: color and, scaled alike, probabilities."""
    rgb = image if image.shape[2] == 3 else np.repeat(image[..., :1], 3, axis=2)
    lab = cv2.cvtColor(np.ascontiguousarray(rgb).astype(np.float32) / 255, cv2.COLOR_RGB2Lab) / COLOR_SCALE
    planes = [np.asarray(lab[..., channel], np.float32) for channel in range(3)]
    if probabilities is not None:
        planes += [np.sqrt(plane) * np.float32(4.0) for plane in probabilities]  # Hellinger: rare classes count
    return planes


def unit_means(units: Int32Array, planes: list[Float32Array]) -> Float64Array:
    """The means (units, planes) of planes (H, W) over each unit."""
    flat = units.ravel()
    sizes = np.bincount(flat)
    return np.stack([np.bincount(flat, plane.ravel()) / sizes for plane in planes], axis=1)


def _join(units: Int32Array, features: Float64Array, count: int, exponent: float) -> Int64Array:
    """Old number → the number of the unit that it is now part of."""
    sizes = np.bincount(units.ravel()).astype(np.float64).tolist()
    means = list(features)
    first, second, _ = borders(units)
    near: list[set[int]] = [set() for _ in sizes]
    for one, other in zip(first.tolist(), second.tolist(), strict=True):
        near[one].add(other)
        near[other].add(one)
    version = [0] * len(sizes)
    owner = np.arange(len(sizes))

    def cost(one: int, other: int) -> tuple[float, int, int, int, int]:
        gap = means[one] - means[other]
        value = float(gap @ gap) * min(sizes[one], sizes[other]) ** exponent
        return value, one, other, version[one], version[other]

    heap = [cost(one, other) for one, other in zip(first.tolist(), second.tolist(), strict=True)]
    heapq.heapify(heap)
    left = len(sizes)
    while left > max(1, count) and heap:
        _, one, other, seen_one, seen_other = heapq.heappop(heap)
        if version[one] != seen_one or version[other] != seen_other:
            continue
        total = sizes[one] + sizes[other]
        means[one] = (means[one] * sizes[one] + means[other] * sizes[other]) / total
        sizes[one] = total
        version[one] += 1
        version[other] = -1  # gone: no entry of the heap has this number
        owner[other] = one
        near[one] = (near[one] | near[other]) - {one, other}
        for neighbor in near[one]:
            near[neighbor].discard(other)
            near[neighbor].add(one)
            heapq.heappush(
                heap, cost(min(one, neighbor), max(one, neighbor)) if one < neighbor else cost(neighbor, one)
            )
        left -= 1
    while (owner[owner] != owner).any():
        owner = owner[owner]
    return owner


@dataclass(frozen=True)
class Purity:
    """How well units fit a truth: over N units that have a labeled pixel."""

    dominant: UInt8Array  # (N,): the class that most of the unit's labeled pixels have; 255 where none is labeled
    share: Float64Array  # (N,): of its labeled pixels that have it, 0…1
    labeled: Float64Array  # (N,): of its pixels that the truth labels, 0…1
    pixels: Int64Array  # (N,)

    @property
    def mean(self) -> float:
        """The share of labeled pixels that get their own class if each unit is filled with its dominant one."""
        weight = self.pixels * self.labeled
        return float((self.share * weight).sum() / weight.sum()) if weight.sum() else float("nan")


def purity(units: Int32Array, truth: UInt8Array) -> Purity:
    """The dominant class of each unit in a label mask (H, W), 255: not labeled."""
    flat = units.ravel().astype(np.int64)
    count = int(flat.max()) + 1
    pixels = np.bincount(flat, minlength=count)
    known = truth.ravel() != IGNORE_INDEX
    classes = int(truth.ravel()[known].max()) + 1 if known.any() else 1
    table = np.bincount(flat[known] * classes + truth.ravel()[known], minlength=count * classes)
    table = table.reshape(count, classes)
    inside = table.sum(axis=1)
    dominant = np.where(inside > 0, table.argmax(axis=1), IGNORE_INDEX).astype(np.uint8)
    share = np.where(inside > 0, table.max(axis=1) / np.maximum(inside, 1), 0.0)
    return Purity(dominant, share, inside / np.maximum(pixels, 1), pixels)


def core(units: Int32Array, width: int = 1) -> npt.NDArray[np.bool_]:
    """(H, W): pixels at least ``width`` pixels away from every other unit; all of a unit that has no such pixel.

    Labels are most often wrong at a unit's border: an answer that fills the core alone is worth more per pixel.
    """
    edge = np.zeros(units.shape, bool)
    for a, b in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[1:], np.s_[:-1])):
        differs = units[a] != units[b]
        edge[a] |= differs
        edge[b] |= differs
    if width > 1:
        edge = cv2.dilate(edge.astype(np.uint8), np.ones((2 * width - 1,) * 2, np.uint8)) > 0
    inside = ~edge
    left = np.bincount(units.ravel(), inside.ravel(), minlength=int(units.max()) + 1)
    return np.asarray(inside | (left[units] == 0))


def make_units(
    kind: str,
    image: UInt8Array,
    *,
    probabilities: Float32Array | None = None,
    size: int = 16,
    count: int = 80,
) -> Int32Array:
    """Units (H, W) of an image by a name of :data:`KINDS`; UsageError for segments without a model.

    ``size``: pixels on a side, of superpixels, and 3 times it of what segments are cut to; ``count``: of merged ones.
    """
    if kind not in KINDS:
        raise UsageError("unknown kind of units", expected=", ".join(KINDS), found=kind)
    if kind == "superpixels":
        return superpixel_units(image, size)
    if kind == "merged":
        return merged_units(image, count, probabilities, size=max(4, size // 2), exponent=1.0)
    if probabilities is None:
        raise UsageError("segments are of a prediction", found="no model", fix="--units merged or superpixels")
    return segment_units(image, probabilities.argmax(axis=0).astype(np.uint8), 3 * size)
