"""Rank labels that contradict the rest of their class, for a person to review.

Every larger region of a class is described by its color, spread and place. A region is suspicious where regions of
another class, in other images, are much more like it than any of its own: exchanged classes, masks of another
image, regions filled with the wrong tool. Nearest neighbors and not averages, because a class may have several
looks (a sky by day and one at dusk). This finds candidates; it is no proof.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from segwright.data.check.scan import SMALLEST_REGION

LEAST_IMAGES = 10  # fewer are no base for what is usual
NEIGHBORS = 3  # so many regions must agree, in other images
FAR = 1.5  # distance to the own class, in the units below, from which a region is odd
NEARER = 0.5  # the other class's distance as a share of the own
UNITS = np.array([25, 25, 25, 12, 0.12, 0.25], np.float32)  # r, g, b, spread, y, distance from the middle
MOST = 200_000  # regions that are kept; more are thinned

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LabelOutlier:
    """A region whose label is doubtful."""

    record: int  # place of its image
    label: int
    looks_like: int
    score: float
    area: float  # share of the image
    y: float  # center, as shares of the image
    x: float


def rank(regions: Float32, records: npt.NDArray[np.int64], classes: int) -> list[LabelOutlier]:
    """Suspicious regions, the worst first, one an image. ``regions`` as :class:`.examine.SampleReport` has them."""
    large = regions[:, 1] >= SMALLEST_REGION
    regions, records = regions[large], records[large]
    if len(np.unique(records)) < LEAST_IMAGES:
        return []
    labels = regions[:, 0].astype(np.intp)
    features = regions[:, 2:8].copy()
    features[:, 5] = np.abs(features[:, 5] - 0.5)  # left or right of the middle is all the same
    features /= UNITS
    own = np.full(len(labels), np.inf)
    trees = [_Class(features, labels, records, index) for index in range(classes)]
    for index, tree in enumerate(trees):
        members = np.flatnonzero(labels == index)
        own[members] = tree.distances(features[members], records[members])
    # Only what is odd in its own class is compared with the others: K times the work for a few instead of for all.
    odd = np.flatnonzero(np.isfinite(own) & (own > FAR))
    others = np.stack([tree.distances(features[odd], records[odd]) for tree in trees], axis=1)
    others[np.arange(len(odd)), labels[odd]] = np.inf
    best, other = np.zeros(len(labels), np.intp), np.full(len(labels), np.inf)
    best[odd] = others.argmin(axis=1)
    other[odd] = others.min(axis=1, initial=np.inf)
    wrong = np.isfinite(own) & (own > FAR) & (other < NEARER * own)
    score = np.where(wrong, np.log(np.where(wrong, own, 1) / np.where(wrong, other, 1).clip(0.05)), 0)
    score = score * np.sqrt(regions[:, 1])
    found: dict[int, LabelOutlier] = {}
    for i in np.argsort(-score, kind="stable")[: int(wrong.sum())].tolist():
        outlier = LabelOutlier(
            int(records[i]), int(labels[i]), int(best[i]), float(score[i]),
            float(regions[i, 1]), float(regions[i, 6]), float(regions[i, 7]),
        )  # fmt: skip
        found.setdefault(outlier.record, outlier)
    return list(found.values())


class _Class:
    """The regions of one class, with the distance to the third-nearest of them in other images."""

    def __init__(
        self, features: Float32, labels: npt.NDArray[np.intp], records: npt.NDArray[np.int64], index: int
    ) -> None:
        from scipy.spatial import cKDTree  # half a second to import: only the check needs it

        members = np.flatnonzero(labels == index)
        self.records = records[members]
        self.tree = cKDTree(features[members]) if len(np.unique(self.records)) > NEIGHBORS else None

    def distances(self, features: Float32, records: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """(n,); infinite where there are too few."""
        if self.tree is None or not len(features):
            return np.full(len(features), np.inf)
        count = min(len(self.records), NEIGHBORS + 3)  # an image has at most three regions of a class
        near, places = self.tree.query(features, k=count)
        near[self.records[places] == records[:, None]] = np.inf
        return np.asarray(np.sort(near, axis=1)[:, NEIGHBORS - 1], np.float64)
