"""Labels that contradict what the rest of the data says of their class: a ranking for a person to look at.

Every larger region of a class is described by its colour, spread and place. A region is suspicious where regions of
another class, in other pictures, are much more like it than any of its own: exchanged classes, masks of another
picture, regions filled with the wrong tool. Nearest neighbours and not averages, because a class may have several
looks (a sky by day and one at dusk). This finds candidates; it is no proof.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from segwright.data.examine import SMALLEST

LEAST_PICTURES = 10  # fewer say little of what is usual
NEIGHBOURS = 3  # so many regions must agree, in other pictures
FAR = 1.5  # distance to the own class, in the units below, from which a region is odd
NEARER = 0.5  # the other class's distance as a share of the own
UNITS = np.array([25, 25, 25, 12, 0.12, 0.25], np.float32)  # r, g, b, spread, y, distance from the middle
MOST = 400_000  # regions that are kept; more are thinned

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Suspect:
    """A region whose label is doubtful."""

    record: int  # place of its picture
    label: int
    looks_like: int
    score: float
    area: float  # share of the picture
    y: float  # centre, as shares of the picture
    x: float


def rank(regions: Float32, records: npt.NDArray[np.int64], classes: int) -> list[Suspect]:
    """Suspicious regions, the worst first, one a picture. ``regions`` as :class:`.examine.Examination` has them."""
    large = regions[:, 1] >= SMALLEST
    regions, records = regions[large], records[large]
    if len(np.unique(records)) < LEAST_PICTURES:
        return []
    labels = regions[:, 0].astype(np.intp)
    features = regions[:, 2:8].copy()
    features[:, 5] = np.abs(features[:, 5] - 0.5)  # left or right of the middle is all the same
    distances = _distances(features / UNITS, labels, records, classes)
    rows = np.arange(len(labels))
    own = distances[rows, labels]
    distances[rows, labels] = np.inf
    best = distances.argmin(axis=1)
    other = distances[rows, best]
    wrong = np.isfinite(own) & (own > FAR) & (other < NEARER * own)
    score = np.where(wrong, np.log(np.where(wrong, own, 1) / np.where(wrong, other, 1).clip(0.05)), 0)
    score = score * np.sqrt(regions[:, 1])
    found: dict[int, Suspect] = {}
    for i in np.argsort(-score, kind="stable")[: int(wrong.sum())].tolist():
        suspect = Suspect(
            int(records[i]), int(labels[i]), int(best[i]), float(score[i]),
            float(regions[i, 1]), float(regions[i, 6]), float(regions[i, 7]),
        )  # fmt: skip
        found.setdefault(suspect.record, suspect)
    return list(found.values())


def _distances(
    features: Float32, labels: npt.NDArray[np.intp], records: npt.NDArray[np.int64], classes: int
) -> npt.NDArray[np.float64]:
    """(n, K): how far the third-nearest region of each class in other pictures is; infinite where there are too few."""
    from scipy.spatial import cKDTree  # half a second to import: only the check needs it

    result = np.full((len(features), classes), np.inf)
    for index in range(classes):
        members = np.flatnonzero(labels == index)
        if len(np.unique(records[members])) <= NEIGHBOURS:
            continue
        count = min(len(members), NEIGHBOURS + 3)  # a picture has at most three regions of a class
        near, places = cKDTree(features[members]).query(features, k=count)
        near[records[members][places] == records[:, None]] = np.inf
        result[:, index] = np.sort(near, axis=1)[:, NEIGHBOURS - 1]
    return result
