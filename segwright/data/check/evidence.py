"""Input of the rules of the check: the dataset, its records, and the results of the scan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from segwright.data.check.aggregate import CheckAccumulator
from segwright.data.check.duplicates import Pair, find_pairs
from segwright.data.check.fingerprint import Fingerprint
from segwright.data.check.label_outliers import LabelOutlier, rank
from segwright.data.records import Dataset, Record

MOST_OUTLIERS = 20
JOINING = frozenset({"trainval", "trainaug", "all", "train_aug", "trainvaltest"})  # lists that repeat other splits


@dataclass(frozen=True)
class Evidence:
    """The results for N records. Pairs and outliers are computed on first use."""

    dataset: Dataset
    records: Sequence[Record]
    member: Sequence[Sequence[str]]  # the splits that each record is in
    totals: CheckAccumulator
    overall: Fingerprint
    prints: Mapping[str, Fingerprint]  # by split
    examined: int | None = None  # of the records, where the time was not enough for all; their rows alone are filled

    @property
    def sparse(self) -> bool:
        """Whether the labels of the whole or of a split are sparse: findings about shares and regions do not apply."""
        return self.overall.sparse or any(one.sparse for one in self.prints.values())

    @cached_property
    def pairs(self) -> list[Pair]:
        """Copies, and near-duplicates in different splits."""
        totals = self.totals
        parts, together = _parts(self.member)
        return find_pairs(totals.hashes, totals.crcs, totals.thumbs, parts, totals.gray, together)

    @cached_property
    def outliers(self) -> list[LabelOutlier]:
        """Regions whose label is doubtful, the most doubtful first."""
        return rank(*self.totals.regions(), len(self.overall.class_names))[:MOST_OUTLIERS]


def joins(name: str) -> bool:
    """Whether a split repeats the images of others on purpose."""
    return name in JOINING


def _parts(member: Sequence[Sequence[str]]) -> tuple[npt.NDArray[np.int64], list[tuple[int, int]]]:
    """A number for the splits that each record is in, and the numbers of parts that have a split in common.

    A record that is in joining lists alone (trainval) has every split in common with all.
    """
    sides = [frozenset(name for name in names if not joins(name)) for names in member]
    numbers = {side: number for number, side in enumerate(dict.fromkeys(sides))}
    together = [
        (numbers[a], numbers[b])
        for a in numbers
        for b in (numbers if len(a) != 1 else [side for side in numbers if len(side) != 1])
        if a != b and (not a or not b or a & b)
    ]
    return np.array([numbers[side] for side in sides], np.int64), together
