"""Images that show the same thing: what counts as near-duplicate, for the check and for the splits.

Two images are near-duplicates where their 16×16 gray thumbnails correlate and their brightness agrees. Everything here
works block by block: 20,000 frames of a fixed camera, all alike, have 200 million pairs, which no memory holds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

NEAR_DUPLICATE = 0.985  # correlation of 16×16 thumbnails from which two images are near-duplicates
BRIGHTNESS = 16.0  # gray levels that the means of near-duplicates differ by at most
EXHAUSTIVE = 20_000  # up to so many different images all are compared with all
HASH_DISTANCE = 8  # beyond, a perceptual hash proposes pairs: a copy in another size or quality differs by 0 to 6 bits
CROWD = 200  # images with the same quarter of a hash; more is a kind of image, and is compared to neighbors only
BLOCK = 128  # images compared with all others at a time

Float32 = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Pair:
    """Two images by their places in the list, first < second."""

    first: int
    second: int
    exact: bool  # every pixel equal
    correlation: float


def find_pairs(
    hashes: npt.NDArray[np.uint64],
    crcs: npt.NDArray[np.uint32],
    thumbs: npt.NDArray[np.floating[Any]],
    parts: npt.NDArray[np.int64] | None = None,
    gray: Float32 | None = None,
    together: Collection[tuple[int, int]] = (),
) -> list[Pair]:
    """Copies among N images, and near-duplicates in different parts of the data.

    ``thumbs`` are N×256, zero mean and unit length; a row of zeros (a flat or unreadable image) pairs with none.
    ``parts`` (N numbers, one for all if None): the split of each; ``together``: numbers of parts, each way round, that
    share images and are not compared. ``gray``: mean gray levels (N,).

    Of equal images in one part each pairs with the first alone, which stands for them elsewhere; a near-duplicate is
    named with the image of another part that is most like it. So there are at most 3 N pairs, whatever the images show.
    Up to :data:`EXHAUSTIVE` images the search is exhaustive; beyond, a pair must agree in one quarter of the hash.
    """
    part_of = np.zeros(len(hashes), np.int64) if parts is None else parts
    usable = np.flatnonzero(thumbs.any(axis=1))
    keys = np.stack([hashes[usable], crcs[usable].astype(np.uint64), part_of[usable].astype(np.uint64)])
    _, first, group = np.unique(keys, axis=1, return_index=True, return_inverse=True)
    leaders = usable[np.sort(first)]
    owner = usable[first][np.ravel(group)]
    pairs = {}
    for copy in np.flatnonzero(owner != usable).tolist():
        key = (int(owner[copy]), int(usable[copy]))
        pairs[key] = Pair(*key, True, 1.0)
    best = _Best(len(leaders))
    if len(np.unique(part_of[leaders])) > 1:
        of = part_of[leaders]
        light = None if gray is None else gray[leaders]
        if len(leaders) <= EXHAUSTIVE:
            _compare_all(thumbs[leaders].astype(np.float32), light, of, together, best)
        else:
            _compare_proposed(hashes[leaders], thumbs, leaders, light, of, together, best)
    for one in np.flatnonzero(best.other >= 0).tolist():
        a, b = int(leaders[one]), int(leaders[best.other[one]])
        key = (min(a, b), max(a, b))
        exact = bool(crcs[a] == crcs[b] and hashes[a] == hashes[b])
        pairs[key] = Pair(*key, exact, float(best.correlation[one]))
    return [pairs[key] for key in sorted(pairs)]


class _Best:
    """The most similar other image of each image."""

    def __init__(self, count: int) -> None:
        self.correlation = np.full(count, -1.0, np.float32)
        self.other = np.full(count, -1, np.intp)

    def add(self, a: Indices, b: Indices, correlation: Float32) -> None:
        """Pairs, to be noted at both ends."""
        order = np.argsort(correlation, kind="stable")
        for one, other in ((a[order], b[order]), (b[order], a[order])):
            better = correlation[order] > self.correlation[one]
            # Of an image that comes several times the last assignment stays, which is the most alike.
            self.correlation[one[better]], self.other[one[better]] = correlation[order][better], other[better]


def _compare_all(
    thumbs: Float32,
    gray: Float32 | None,
    parts: npt.NDArray[np.int64],
    together: Collection[tuple[int, int]],
    best: _Best,
) -> None:
    for start, found in _correlations(thumbs, gray):
        rows = parts[start : start + len(found)]
        unwanted = rows[:, None] == parts[None, start:]
        for p, q in together:
            unwanted |= (rows == p)[:, None] & (parts[start:] == q)[None]
        found[unwanted] = -1
        row, column = found.argmax(axis=1), found.argmax(axis=0)
        of_row, of_column = found.max(axis=1), found.max(axis=0)
        kept = np.flatnonzero(of_row >= NEAR_DUPLICATE)
        best.add(kept + start, row[kept] + start, of_row[kept])
        kept = np.flatnonzero(of_column >= NEAR_DUPLICATE)
        best.add(column[kept] + start, kept + start, of_column[kept])


def _compare_proposed(
    hashes: npt.NDArray[np.uint64],
    thumbs: npt.NDArray[np.floating[Any]],
    places: Indices,
    gray: Float32 | None,
    parts: npt.NDArray[np.int64],
    together: Collection[tuple[int, int]],
    best: _Best,
) -> None:
    """All but ``thumbs`` are of the images at ``places``: a copy of the thumbnails would be most of the memory."""
    for a, b in _candidates(hashes):
        wanted = parts[a] != parts[b]
        for p, q in together:
            wanted &= ~((parts[a] == p) & (parts[b] == q))
        if gray is not None:
            wanted &= np.abs(gray[a] - gray[b]) < BRIGHTNESS
        a, b = a[wanted], b[wanted]
        found = (thumbs[places[a]].astype(np.float32) * thumbs[places[b]].astype(np.float32)).sum(axis=1)
        alike = found >= NEAR_DUPLICATE
        best.add(a[alike], b[alike], found[alike])


def _correlations(thumbs: Float32, gray: Float32 | None) -> Iterator[tuple[int, Float32]]:
    """(first row, its block of rows by the images from there on): correlations; -1 where brightness differs, on the
    diagonal and below it."""
    for start in range(0, len(thumbs), BLOCK):
        found = np.asarray(thumbs[start : start + BLOCK] @ thumbs[start:].T, np.float32)
        found[np.tril_indices(len(found))] = -1
        if gray is not None:
            differs = np.abs(gray[start : start + BLOCK, None] - gray[None, start:]) >= BRIGHTNESS
            found[differs] = -1
        yield start, found


def join_alike(
    thumbs: Float32, gray: Float32, groups: npt.NDArray[np.int64], level: float = NEAR_DUPLICATE
) -> tuple[npt.NDArray[np.int64], int]:
    """Groups (N,) joined where they hold near-duplicates; and how many pairs lay in different groups before."""
    from scipy.sparse import coo_array  # half a second to import: few commands need it
    from scipy.sparse.csgraph import connected_components

    _, labels = np.unique(groups, return_inverse=True)
    labels = np.ravel(labels)
    joined = 0
    for start, found in _correlations(thumbs, gray):
        rows, columns = np.nonzero(found >= level)
        rows, columns = rows + start, columns + start
        joined += int(np.count_nonzero(groups[rows] != groups[columns]))
        a, b = labels[rows], labels[columns]
        apart = a != b
        if apart.any():
            a, b, count = a[apart], b[apart], int(labels.max()) + 1
            graph = coo_array((np.ones(len(a), np.bool_), (a, b)), shape=(count, count))
            labels = connected_components(graph, directed=False)[1][labels]
    return np.asarray(labels, np.int64), joined


def _candidates(hashes: npt.NDArray[np.uint64]) -> Iterator[tuple[Indices, Indices]]:
    """Pairs whose hashes differ in few bits and agree in a quarter, in blocks."""
    for quarter in range(4):
        key = (hashes >> np.uint64(16 * quarter)) & np.uint64(0xFFFF)
        order = np.argsort(key, kind="stable")
        bounds = np.flatnonzero(np.diff(key[order])) + 1
        for members in np.split(order, bounds):
            if len(members) < 2:
                continue
            reach = len(members) if len(members) <= CROWD else 8
            for shift in range(1, reach):
                a, b = members[:-shift], members[shift:]
                close = _popcount(hashes[a] ^ hashes[b]) <= HASH_DISTANCE
                if close.any():
                    yield a[close], b[close]


_BITS = np.array([bin(value).count("1") for value in range(65536)], np.uint8)


def _popcount(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
    parts = np.ascontiguousarray(values).view(np.uint16).reshape(*values.shape, 4)
    return np.asarray(_BITS[parts].sum(axis=-1), np.uint8)
