"""Which pairs of classes occur in the same images, for slices: images that show both, and one class with another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from segwright.metrics.bootstrap import LEAST_DRAWN

MOST_PAIRS = 10  # pairs that are listed: each adds up to three slices, and every slice costs the others power


def frequent_pairs(
    present: npt.NDArray[np.bool_], groups: Sequence[object], *, least: int, most: int = MOST_PAIRS
) -> tuple[list[tuple[int, int]], int]:
    """The pairs of classes that divide the images, the most frequent first, and how many such pairs there are.

    ``present`` (N, K): the classes of each image; ``groups`` (N,): its unit. A pair divides the images if at least
    ``least`` of them show both classes and as many do not. Pairs with units enough on both sides for a verdict come
    before others.
    """
    total = len(present)
    shown = present.astype(np.float64)
    together = (shown.T @ shown).astype(np.int64)
    first, second = np.triu_indices(present.shape[1], 1)
    images = together[first, second]
    divides = (images >= least) & (images <= total - least)
    order = np.flatnonzero(divides)[np.argsort(-images[divides], kind="stable")]
    numbers = np.unique(np.array([str(name) for name in groups]), return_inverse=True)[1]
    chosen, rest = list[tuple[int, int]](), list[tuple[int, int]]()
    for place in order.tolist():
        pair = int(first[place]), int(second[place])
        inside = present[:, pair[0]] & present[:, pair[1]]
        units = min(np.count_nonzero(np.bincount(numbers[side])) for side in (inside, ~inside))
        (chosen if units >= LEAST_DRAWN else rest).append(pair)
        if len(chosen) == most:
            break
    return (chosen + rest)[:most], int(divides.sum())
