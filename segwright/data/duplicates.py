"""Pictures that show the same thing: proposed by a perceptual hash, confirmed by thumbnails."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

HASH_DISTANCE = 8  # bits of 64: a copy in another size or quality differs by 0 to 6
ALIKE = 0.99  # correlation of 16×16 thumbnails
WHOLE = 4000  # up to so many pictures all are compared with all
CROWD = 200  # pictures with the same quarter of a hash; more is a kind of picture, and is compared to neighbours only


@dataclass(frozen=True)
class Pair:
    """Two pictures by their places in the list, first < second."""

    first: int
    second: int
    exact: bool  # every pixel equal
    correlation: float


def find_pairs(
    hashes: npt.NDArray[np.uint64],
    crcs: npt.NDArray[np.uint32],
    thumbs: npt.NDArray[np.float16],
    parts: npt.NDArray[np.int64] | None = None,
) -> list[Pair]:
    """Pairs of near-duplicates among N pictures.

    ``thumbs`` are N×256, zero mean and unit length; a row of zeros (a flat or unreadable picture) pairs with none.
    Up to :data:`WHOLE` pictures the search is exhaustive; beyond, a pair must agree in one quarter of the hash. Of
    equal pictures in one part (``parts``, N numbers: the split; one for all if None) each pairs with the first alone,
    which stands for them in all other pairs: a thousand copies are a thousand pairs, and not half a million.
    """
    usable = np.flatnonzero(np.abs(thumbs).max(axis=1) > 0) if len(thumbs) else np.zeros(0, np.intp)
    keys = np.stack([hashes[usable], crcs[usable], (np.zeros(len(hashes)) if parts is None else parts)[usable]])
    _, first, group = np.unique(keys.astype(np.uint64), axis=1, return_index=True, return_inverse=True)
    leaders = usable[np.sort(first)]
    owner = usable[first][np.ravel(group)]
    pairs = {}
    for copy in np.flatnonzero(owner != usable).tolist():
        key = (int(owner[copy]), int(usable[copy]))
        pairs[key] = Pair(*key, True, 1.0)
    for a, b in _candidates(hashes[leaders]):
        one, other = leaders[a], leaders[b]
        alike = (thumbs[one].astype(np.float32) * thumbs[other].astype(np.float32)).sum(axis=1)
        for i in np.flatnonzero(alike >= ALIKE).tolist():
            key = (int(min(one[i], other[i])), int(max(one[i], other[i])))
            exact = bool(crcs[key[0]] == crcs[key[1]] and hashes[key[0]] == hashes[key[1]])
            pairs[key] = Pair(*key, exact, float(alike[i]))
    return [pairs[key] for key in sorted(pairs)]


Places = npt.NDArray[np.intp]


def _candidates(hashes: npt.NDArray[np.uint64]) -> Iterator[tuple[Places, Places]]:
    """Places of pairs whose hashes differ in few bits, in blocks."""
    if len(hashes) <= WHOLE:
        for start in range(0, len(hashes), 256):
            distance = _popcount(hashes[start : start + 256, None] ^ hashes[None, start:])
            a, b = np.nonzero(distance <= HASH_DISTANCE)
            later = b > a
            yield a[later] + start, b[later] + start
        return
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
