"""The boundaries of a map of regions as arcs that neighbors share, and their simplification.

Corners of pixels are (x, y); an arc is a chain of corners along pixel edges from one node, where three or four edges
meet, to the next. Each edge is in one arc, so two regions beside it have the same points, before and after
simplification.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from segwright.kernels import arcs_plain
from segwright.kernels.switch import enabled

Int32Array = npt.NDArray[np.int32]
BoolArray = npt.NDArray[np.bool_]


def trace_arcs(
    across: BoolArray, down: BoolArray, nodes: BoolArray, most_points: int, most_arcs: int
) -> tuple[Int32Array, Int32Array, Int32Array]:
    """The arcs of edges ``across`` (H+1, W), from a corner to the right, and ``down`` (H, W+1).

    Returns points (P, 2) as x, y, in which arc i has the rows ``starts[i]`` to ``starts[i + 1]``, first and last corner
    included; starts (A+1,); and directions (A, 2) of its first and last edge: 0 right, 1 down, 2 left, 3 up. A boundary
    without nodes is an arc that ends where it starts.
    """
    points, starts = np.empty((most_points, 2), np.int32), np.zeros(most_arcs + 1, np.int32)
    ways = np.empty((most_arcs, 2), np.int32)
    count = _function("trace")(across.copy(), down.copy(), nodes, points, starts, ways)
    return points[: starts[count]].copy(), starts[: count + 1].copy(), ways[:count].copy()


def simplify_arcs(
    points: Int32Array, starts: Int32Array, pairs: Int32Array, corners: npt.NDArray[np.uint8], tolerance: float
) -> BoolArray:
    """Which points of the arcs stay, if no boundary may move by more than ``tolerance`` pixels.

    Points are taken away by Visvalingam and Whyatt's order (1993), smallest triangle first, and only where the triangle
    holds no other corner that is in use: no two boundaries ever cross or touch. ``pairs`` (A,): equal numbers for arcs
    between the same two nodes, -1 for one that ends where it starts. ``corners`` (H+1, W+1): 1 at each point of an arc;
    changed.
    """
    keep = np.ones(len(points), np.bool_)
    direct = np.zeros(int(pairs.max(initial=0)) + 1, np.int32)
    interior = np.diff(starts) - 2
    np.add.at(direct, pairs[(interior == 0) & (pairs >= 0)], 1)
    _function("simplify")(points, starts, pairs, corners, direct, keep, float(tolerance))
    return keep


def _function(name: str) -> Any:
    if not enabled():
        return getattr(arcs_plain, name)
    from segwright.kernels import arcs_kernels

    return getattr(arcs_kernels, name)
