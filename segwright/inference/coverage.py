"""The regions of a label mask as polygons with shared edges: no gap and no overlap, simplified or not.

Boundaries are traced once, as arcs between the corners where three or four of them meet, and every region is a list of
arcs. Simplification works on arcs, so the two regions beside one keep the same edge (the idea of TopoJSON, Bostock
2012); no arc crosses or touches another by it (:mod:`segwright.kernels.arcs`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from segwright.core.types import IGNORE_INDEX
from segwright.imageio import UInt8Array
from segwright.kernels.arcs import simplify_arcs, trace_arcs

Ring = npt.NDArray[np.int64]  # (N, 2) corners x, y; not closed
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Region:
    """One connected region of a class; the exterior's area is positive by the shoelace formula, a hole's negative."""

    label: int
    exterior: Ring
    holes: tuple[Ring, ...]
    area: int  # pixels in the mask
    number: int = 0  # from 1, as in numbered_regions


def regions(
    labels: UInt8Array,
    classes: int,
    tolerance: float = 0.0,
    *,
    ignored: bool = False,
    around: UInt8Array | None = None,
) -> Iterator[Region]:
    """The connected regions of a mask (H, W), class by class, without ignored pixels.

    ``tolerance``: how far a boundary may move by simplification, in pixels; 0 keeps the edges of the pixels.
    ``ignored``: regions of the ignore value too, as label 255. ``around`` (H+2, W+2): the labels with one pixel of what
    surrounds them; the border then also has a corner wherever regions beyond it meet.
    """
    numbered, found = numbered_regions(labels, classes)
    rings = _rings(numbered, tolerance, None if around is None else _met_beyond(_known(around, classes)))
    for number, (label, area) in enumerate(found, 1):
        if label != IGNORE_INDEX or ignored:
            own = sorted(rings.get(number, ()), key=lambda ring: -signed_area(ring))  # the exterior alone is positive
            yield Region(label, own[0], tuple(own[1:]), area, number)


def signed_area(ring: npt.NDArray[Any]) -> float:
    """The area by the shoelace formula; positive for a ring that is clockwise where y points down."""
    x, y = ring[:, 0], ring[:, 1]
    return float(np.dot(x, np.roll(y, -1)) - np.dot(np.roll(x, -1), y)) / 2


def numbered_regions(labels: UInt8Array, classes: int) -> tuple[npt.NDArray[np.int32], list[tuple[int, int]]]:
    """Regions numbered from 1 in a frame of zeros (H+2, W+2); label and area of each. Other values count as ignored."""
    height, width = labels.shape
    numbered = np.zeros((height + 2, width + 2), np.int32)
    inner = numbered[1:-1, 1:-1]
    found: list[tuple[int, int]] = []
    known = _known(labels, classes)
    for label in np.unique(known).tolist():
        here = known == label
        count, parts, stats, _ = cv2.connectedComponentsWithStats(here.view(np.uint8), connectivity=4)
        np.copyto(inner, parts + len(found), where=here)
        found += [(label, int(area)) for area in stats[1:count, cv2.CC_STAT_AREA]]
    return numbered, found


def _known(labels: UInt8Array, classes: int) -> UInt8Array:
    return np.where(labels < classes, labels, np.uint8(IGNORE_INDEX))


def _met_beyond(around: UInt8Array) -> npt.NDArray[np.bool_]:
    """(H+1, W+1): the corners of the border at which two labels meet in the pixels around it."""
    met = np.zeros((around.shape[0] - 1, around.shape[1] - 1), np.bool_)
    for here, line in (
        (met[0], around[0]),
        (met[-1], around[-1]),
        (met[:, 0], around[:, 0]),
        (met[:, -1], around[:, -1]),
    ):
        here |= line[1:] != line[:-1]
    return met


def _rings(
    numbered: npt.NDArray[np.int32], tolerance: float, met: npt.NDArray[np.bool_] | None = None
) -> dict[int, list[Ring]]:
    """Number of a region → its rings, the region to the right of each; a ring passes no corner twice."""
    across = numbered[:-1, 1:-1] != numbered[1:, 1:-1]
    down = numbered[1:-1, :-1] != numbered[1:-1, 1:]
    nodes, most_points, most_arcs = _nodes(across, down, met)
    points, starts, ways = trace_arcs(across, down, nodes, most_points, most_arcs)
    firsts, lasts = points[starts[:-1]].astype(np.int64), points[starts[1:] - 1].astype(np.int64)
    width = nodes.shape[1]
    first, last = (ends[:, 1] * width + ends[:, 0] for ends in (firsts, lasts))
    sides = _beside(numbered, firsts, ways[:, 0])
    following = _following(first, last, ways, nodes.ravel())
    chains = np.split(points.astype(np.int64), starts[1:-1])
    if tolerance > 0:
        corners = np.zeros(nodes.shape, np.uint8)
        corners[points[:, 1], points[:, 0]] = 1
        keep = simplify_arcs(points, starts, _pairs(first, last), corners, tolerance)
        chains = [chain[kept] for chain, kept in zip(chains, np.split(keep, starts[1:-1]), strict=True)]
    origin = np.stack((first, last), axis=1).ravel().tolist()  # of each half: forward, backward
    found: dict[int, list[Ring]] = {}
    for cycle in _cycles(following):
        number = int(sides[cycle[0]])
        if number:
            found.setdefault(number, []).extend(_joined(loop, chains) for loop in _parted(cycle, origin))
    return found


def _nodes(
    across: npt.NDArray[np.bool_], down: npt.NDArray[np.bool_], met: npt.NDArray[np.bool_] | None
) -> tuple[npt.NDArray[np.bool_], int, int]:
    """Where arcs end (H+1, W+1), and how many points and arcs there are at most. The image's corners are nodes, and
    ``met``."""
    right, left = np.pad(across, ((0, 0), (0, 1))), np.pad(across, ((0, 0), (1, 0)))
    below, above = np.pad(down, ((0, 1), (0, 0))), np.pad(down, ((1, 0), (0, 0)))
    degree = right.view(np.uint8) + left.view(np.uint8) + below.view(np.uint8) + above.view(np.uint8)
    nodes = degree > 2
    nodes[:: nodes.shape[0] - 1, :: nodes.shape[1] - 1] = True
    if met is not None:
        nodes |= met
    bends = int(((degree == 2) & (right != left)).sum())
    arcs = int(degree[nodes].sum(dtype=np.int64)) // 2 + bends // 4
    return nodes, bends + 2 * arcs, arcs


def _beside(numbered: npt.NDArray[np.int32], firsts: IntArray, way: npt.NDArray[np.int32]) -> IntArray:
    """The region to the right of each half of the arcs (2A,): forward, backward. 0 right, 1 down, 2 left, 3 up."""
    x, y = firsts[:, 0], firsts[:, 1]
    right_x, right_y = np.array([1, 0, 0, 1])[way], np.array([1, 1, 0, 0])[way]  # in the frame of ``numbered``
    left_x, left_y = np.array([1, 1, 0, 0])[way], np.array([0, 1, 1, 0])[way]
    beside = np.stack((numbered[y + right_y, x + right_x], numbered[y + left_y, x + left_x]), axis=1)
    return beside.ravel().astype(np.int64)


def _following(first: IntArray, last: IntArray, ways: npt.NDArray[np.int32], nodes: npt.NDArray[np.bool_]) -> IntArray:
    """The half that follows each half of the arcs (2A,) around the region to its right: the sharpest turn to it."""
    number = np.cumsum(nodes) - 1
    begins = nodes[first]  # else a boundary without nodes
    arcs = np.arange(len(first))
    out = np.full((int(nodes.sum()), 4), -1, np.int64)
    out[number[first[begins]], ways[begins, 0]] = 2 * arcs[begins]
    out[number[last[begins]], (ways[begins, 1] + 2) % 4] = 2 * arcs[begins] + 1
    result = np.arange(2 * len(first))
    for half, place, way in ((0, last, ways[:, 1]), (1, first, (ways[:, 0] + 2) % 4)):
        at, heading = number[place[begins]], way[begins]
        found = np.full(len(at), -1, np.int64)
        for turn in (3, 0, 1):  # left, straight, right: the last one that exists is taken
            candidate = out[at, (heading + turn) % 4]
            found = np.where(candidate >= 0, candidate, found)
        result[2 * arcs[begins] + half] = found
    return result


def _pairs(first: IntArray, last: IntArray) -> npt.NDArray[np.int32]:
    """Equal numbers for arcs between the same two nodes; -1 for an arc that ends where it starts."""
    both = np.stack((np.minimum(first, last), np.maximum(first, last)), axis=1)
    numbers = np.unique(both, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int32)
    numbers[first == last] = -1
    return numbers


def _cycles(following: IntArray) -> Iterator[list[int]]:
    after = following.tolist()
    done = bytearray(len(after))
    for start in range(len(after)):
        if done[start]:
            continue
        cycle, half = [], start
        while not done[half]:
            done[half] = 1
            cycle.append(half)
            half = after[half]
        yield cycle


def _parted(cycle: list[int], origin: list[int]) -> list[list[int]]:
    """The halves of a cycle as loops that pass no node twice."""
    loops, path = [], list[int]()
    place: dict[int, int] = {}
    for half in cycle:
        start = place.get(origin[half])
        if start is not None:
            loop = path[start:]
            for one in loop:
                del place[origin[one]]
            del path[start:]
            loops.append(loop)
        place[origin[half]] = len(path)
        path.append(half)
    return [*loops, path]


def _joined(loop: list[int], chains: list[IntArray]) -> Ring:
    parts = [chains[half // 2] if half % 2 == 0 else chains[half // 2][::-1] for half in loop]
    return np.concatenate([part[:-1] for part in parts])
