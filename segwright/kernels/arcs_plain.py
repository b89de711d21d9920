"""Tracing and simplifying of arcs in plain Python; :mod:`segwright.kernels.arcs_kernels` compiles these functions."""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np


def trace(across: Any, down: Any, nodes: Any, points: Any, starts: Any, ways: Any) -> int:
    """The number of arcs, which are put into ``points``, ``starts`` and ``ways``; edges are taken out of the maps."""
    height, width = nodes.shape
    count = 0
    place = 0
    for phase in range(2):
        for top in range(height):
            for left in range(width):
                for first in range(4 if phase == 0 else 1):
                    if phase == 0 and not nodes[top, left]:
                        continue
                    y, x, way = top, left, first
                    there = False
                    if way == 0:
                        there = x < width - 1 and across[y, x]
                    elif way == 1:
                        there = y < height - 1 and down[y, x]
                    elif way == 2:
                        there = x > 0 and across[y, x - 1]
                    else:
                        there = y > 0 and down[y - 1, x]
                    if not there:
                        continue
                    points[place, 0], points[place, 1] = x, y
                    place += 1
                    while True:
                        if way == 0:
                            across[y, x] = False
                            x += 1
                        elif way == 1:
                            down[y, x] = False
                            y += 1
                        elif way == 2:
                            x -= 1
                            across[y, x] = False
                        else:
                            y -= 1
                            down[y, x] = False
                        if nodes[y, x] or (y == top and x == left):
                            break
                        onward = way
                        if x < width - 1 and across[y, x]:
                            onward = 0
                        elif y < height - 1 and down[y, x]:
                            onward = 1
                        elif x > 0 and across[y, x - 1]:
                            onward = 2
                        else:
                            onward = 3
                        if onward != way:
                            points[place, 0], points[place, 1] = x, y
                            place += 1
                            way = onward
                    points[place, 0], points[place, 1] = x, y
                    place += 1
                    ways[count, 0], ways[count, 1] = first, way
                    count += 1
                    starts[count] = place
    return count


def simplify(points: Any, starts: Any, pairs: Any, corners: Any, direct: Any, keep: Any, tolerance: float) -> None:
    """Clear ``keep`` at the points that go; see :func:`segwright.kernels.arcs.simplify_arcs`."""
    size = len(points)
    before = np.arange(-1, size - 1)
    after = np.arange(1, size + 1)
    arc_of = np.zeros(size, np.int64)
    inner = np.zeros(len(pairs), np.int64)  # points of an arc between its ends
    key = np.full(size, -1, np.int64)  # twice the area of the triangle with both neighbors; -1: an end
    heap: Any = [(np.int64(0), np.int64(0)) for _ in range(0)]
    for arc in range(len(pairs)):
        low, high = starts[arc], starts[arc + 1]
        inner[arc] = high - low - 2
        for i in range(low, high):
            arc_of[i] = arc
        for i in range(low + 1, high - 1):
            ax, ay = np.int64(points[i - 1, 0]), np.int64(points[i - 1, 1])
            bx, by = np.int64(points[i, 0]), np.int64(points[i, 1])
            cx, cy = np.int64(points[i + 1, 0]), np.int64(points[i + 1, 1])
            key[i] = abs((bx - ax) * (cy - ay) - (cx - ax) * (by - ay))
            heapq.heappush(heap, (key[i], np.int64(i)))
    limit = tolerance * tolerance
    while len(heap) > 0:
        least = heapq.heappop(heap)
        area, i = least[0], least[1]
        if not keep[i] or key[i] != area:
            continue
        arc = arc_of[i]
        if pairs[arc] < 0 and inner[arc] <= 2:  # a ring has three corners
            continue
        if pairs[arc] >= 0 and inner[arc] == 1 and direct[pairs[arc]] > 0:  # two arcs would lie on each other
            continue
        p, q = before[i], after[i]
        ax, ay = np.int64(points[p, 0]), np.int64(points[p, 1])
        bx, by = np.int64(points[i, 0]), np.int64(points[i, 1])
        cx, cy = np.int64(points[q, 0]), np.int64(points[q, 1])
        dx, dy = float(cx - ax), float(cy - ay)
        length = dx * dx + dy * dy
        near = True
        for k in range(p + 1, q):
            ex, ey = float(points[k, 0] - ax), float(points[k, 1] - ay)
            along = 0.0
            if length > 0:
                along = min(1.0, max(0.0, (ex * dx + ey * dy) / length))
            ex -= along * dx
            ey -= along * dy
            if ex * ex + ey * ey > limit + 1e-9:
                near = False
                break
        if not near:
            continue
        free = True
        for y in range(min(ay, by, cy), max(ay, by, cy) + 1):
            low_x, high_x = 1e18, -1e18
            for edge in range(3):
                ux, uy, vx, vy = ax, ay, bx, by
                if edge == 1:
                    ux, uy, vx, vy = bx, by, cx, cy
                elif edge == 2:
                    ux, uy, vx, vy = cx, cy, ax, ay
                if uy == vy:
                    if uy == y:
                        low_x, high_x = min(low_x, float(min(ux, vx))), max(high_x, float(max(ux, vx)))
                elif min(uy, vy) <= y <= max(uy, vy):
                    at = float(ux) + float(y - uy) * float(vx - ux) / float(vy - uy)
                    low_x, high_x = min(low_x, at), max(high_x, at)
            for x in range(int(np.floor(low_x - 1e-6)), int(np.ceil(high_x + 1e-6)) + 1):
                if x < 0 or x >= corners.shape[1] or corners[y, x] == 0:
                    continue
                if (x == ax and y == ay) or (x == bx and y == by) or (x == cx and y == cy):
                    continue
                one = (bx - ax) * (y - ay) - (by - ay) * (x - ax)
                two = (cx - bx) * (y - by) - (cy - by) * (x - bx)
                three = (ax - cx) * (y - cy) - (ay - cy) * (x - cx)
                if (one >= 0 and two >= 0 and three >= 0) or (one <= 0 and two <= 0 and three <= 0):
                    free = False
                    break
            if not free:
                break
        if not free:
            continue
        keep[i] = False
        corners[by, bx] = 0
        after[p] = q
        before[q] = p
        inner[arc] -= 1
        if inner[arc] == 0 and pairs[arc] >= 0:
            direct[pairs[arc]] += 1
        for j in (p, q):
            if key[j] < 0:
                continue
            m, n = before[j], after[j]
            sx, sy = np.int64(points[m, 0]), np.int64(points[m, 1])
            tx, ty = np.int64(points[j, 0]), np.int64(points[j, 1])
            wx, wy = np.int64(points[n, 0]), np.int64(points[n, 1])
            # Not below the one that went (as in the paper), so that the order stays one of growing triangles.
            key[j] = max(area, abs((tx - sx) * (wy - sy) - (wx - sx) * (ty - sy)))
            heapq.heappush(heap, (key[j], np.int64(j)))
