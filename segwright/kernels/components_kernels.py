"""Components by union and find. Importing this module imports numba; :mod:`segwright.kernels.components` does so."""

from __future__ import annotations

from typing import Any

from segwright.kernels.jit import jit


@jit
def _root(parent: Any, place: int) -> int:
    while parent[place] != place:
        parent[place] = parent[parent[place]]
        place = parent[place]
    return place


@jit
def count(labels: Any, parent: Any, counts: Any) -> None:
    """Adds to ``counts`` (256,) the components of each value of ``labels`` (H, W); ``parent``: int32 (H·W,)."""
    height, width = labels.shape
    for y in range(height):
        for x in range(width):
            place, label = y * width + x, labels[y, x]
            parent[place] = place
            counts[label] += 1
            if x > 0 and labels[y, x - 1] == label:
                parent[place] = _root(parent, place - 1)
                counts[label] -= 1
            if y > 0 and labels[y - 1, x] == label:
                one, other = _root(parent, place), _root(parent, place - width)
                if one != other:
                    parent[max(one, other)] = min(one, other)
                    counts[label] -= 1
