"""Two evaluations on the images that both scored: runs of limited time are scored on as many as it allows."""

from __future__ import annotations

from dataclasses import dataclass

from segwright.evaluation.evaluation import Evaluation
from segwright.evaluation.sequences import BootstrapUnits, units_of
from segwright.metrics.bootstrap import LEAST_DRAWN, PairedDifference, paired_difference
from segwright.metrics.confusion import Int64Array


@dataclass(frozen=True)
class Pairing:
    """The common images of two evaluations, in the order of the first."""

    ids: tuple[str, ...]  # (N,)
    first: Int64Array  # (N, 3, K): class counts
    second: Int64Array  # (N, 3, K)
    over: BootstrapUnits
    scored: tuple[int, int]  # images of each evaluation

    @property
    def whole(self) -> bool:
        """Whether both evaluations are of just these images."""
        return self.scored == (len(self.ids), len(self.ids))

    def difference(self) -> PairedDifference:
        """The mIoU of the second minus that of the first."""
        return paired_difference(self.first, self.second, groups=self.over.groups)


def pair_evaluations(first: Evaluation, second: Evaluation) -> Pairing | None:
    """Pair two evaluations by the ids of their images; None if they have no image in common."""
    places = [{name: row for row, name in enumerate(found.ids)} for found in (first, second)]
    ids = [name for name in first.ids if name in places[1]]
    if not ids:
        return None
    rows = [[place[name] for name in ids] for place in places]
    # Of few images no three may be of one sequence, and beside images of another kind thumbnails may not show one. An
    # interval over too many units is too narrow: a sequence that either evaluation shows counts.
    both = sorted(zip((first, second), rows, strict=True), key=lambda one: -len(one[0].ids))
    over = min((_units(found, ids, row) for found, row in both), key=lambda units: units.count)
    counts = first.counts[rows[0]], second.counts[rows[1]]
    return Pairing(tuple(ids), *counts, over, (len(first.ids), len(second.ids)))


def _units(found: Evaluation, ids: list[str], rows: list[int]) -> BootstrapUnits:
    """The units of an evaluation on some of its images."""
    over = found.independent
    return over if len(over.sequences) == len(ids) else units_of(ids, [over.sequences[row] for row in rows])


def too_few(found: Pairing | None, images: int) -> bool:
    """Whether the common images are too few units for a verdict, though more, ``images`` in all, could be scored."""
    return found is None or (found.over.count < LEAST_DRAWN and len(found.ids) < images)
