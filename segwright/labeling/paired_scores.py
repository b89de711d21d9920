"""Two models on the same images: scores in total and per class, with the paired interval, as refine and promote judge.

Only the classes with labeled pixels in the images are scored: a model that predicts a class which they do not hold
would lose a whole class of its mean IoU by one pixel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from segwright.core.atomic_io import without_nan
from segwright.core.counted import counted
from segwright.core.errors import UsageError
from segwright.evaluation.compare import absent_note, interval_text, verdict
from segwright.evaluation.evaluation import Evaluation
from segwright.evaluation.pairing import pair_evaluations
from segwright.evaluation.sequences import BootstrapUnits
from segwright.metrics.bootstrap import PairedDifference, paired_difference
from segwright.metrics.class_differences import class_differences
from segwright.metrics.confusion import Int64Array, labeled_iou, predicted_alone
from segwright.reports import percent

BEFORE, AFTER = "the model before", "the candidate"


@dataclass(frozen=True)
class ClassScores:
    """One class: IoU before and after in 0…1, NaN where there is none; the difference with its 95 % interval."""

    name: str
    before: float
    after: float
    difference: float
    low: float
    high: float
    clear: bool  # of chance, adjusted for the number of classes

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "iou": [self.before, self.after],
            "iou_difference": self.difference,
            "ci95": [self.low, self.high],
            "clear": self.clear,
        }

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> ClassScores:
        before, after = map(_number, tree["iou"])
        low, high = map(_number, tree["ci95"])
        return cls(str(tree["name"]), before, after, _number(tree["iou_difference"]), low, high, bool(tree["clear"]))


@dataclass(frozen=True)
class PairedScores:
    """Two models on one set of images."""

    data: str  # "new", "old", or a path
    images: int
    before: float  # mIoU over the classes with labeled pixels in the images, 0…1
    after: float
    difference: PairedDifference
    over: BootstrapUnits  # without the names of the groups where it was read from a file
    count: int  # of the units of the bootstrap
    classes: tuple[ClassScores, ...]
    absent: tuple[str, ...] = ()  # predicted, without a labeled pixel: not scored

    def sentence(self, before: str = BEFORE, after: str = AFTER) -> str:
        """The verdict in words."""
        text = verdict(self.difference, before, name=after)
        unit = {"images": "image", "sequences": "sequence", "blocks": "block of neighboring frames"}[self.over.over]
        many = {"blocks": "blocks of neighboring frames"}.get(self.over.over, self.over.over)
        drawn = counted(self.images, "image")
        if self.over.over != "images":
            drawn += f" in {self.count} {unit if self.count == 1 else many}"
        return f"On the {self.data} images: {text[:-1]} ({100 * self.before:.1f} → {100 * self.after:.1f}; {drawn})."

    def fallen(self, points: float) -> list[ClassScores]:
        """The classes whose IoU fell by more than ``points``, the most first."""
        found = [one for one in self.classes if 100 * one.difference < -points]
        return sorted(found, key=lambda one: one.difference)

    def cells(self) -> list[tuple[str, str, str, str, str]]:
        """A row of text per class: name, IoU before and after in per cent, difference in points, its interval."""
        return [
            (
                one.name,
                percent(one.before),
                percent(one.after),
                "–" if math.isnan(one.difference) else f"{'* ' if one.clear else ''}{100 * one.difference:+.1f}",
                interval_text((one.low, one.high), signed=True),
            )
            for one in self.classes
        ]

    def lines(self) -> list[str]:
        """The verdict, and a line per class."""
        width = max((len(one.name) for one in self.classes), default=0)
        rows = [
            f"  {name:{width}}  {before:>5} → {after:>5}  {difference:>7}  {span}".rstrip()
            for name, before, after, difference, span in self.cells()
        ]
        note = absent_note(self.absent)
        return [self.sentence(), *rows, *([f"  {note}"] if note else [])]

    def to_json(self) -> dict[str, Any]:
        d = self.difference
        tree = {
            "data": self.data,
            "images": self.images,
            "miou": [self.before, self.after],
            "miou_difference": d.difference,
            "ci95": [d.low, d.high],
            "share_above": d.share_above,
            "clear": d.clear,
            "interval_over": self.over.over,
            "interval_count": self.count,
            "interval_note": self.over.note,
            "sentence": self.sentence(),
            "per_class": [one.to_json() for one in self.classes],
            "absent_classes": list(self.absent),
        }
        return dict(without_nan(tree))

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> PairedScores:
        """The inverse of :meth:`to_json`; KeyError, TypeError or ValueError for anything else."""
        before, after = map(_number, tree["miou"])
        low, high = map(_number, tree["ci95"])
        count, over = int(tree["interval_count"]), str(tree["interval_over"])
        if over not in ("images", "sequences", "blocks"):
            raise ValueError(f"no unit of an interval: {over[:40]}")
        difference = PairedDifference(
            _number(tree["miou_difference"]), low, high, _number(tree.get("share_above")), count
        )
        units = BootstrapUnits(over, (), (), str(tree.get("interval_note", "")))
        classes = tuple(ClassScores.from_json(one) for one in tree["per_class"])
        absent = tuple(str(name) for name in tree.get("absent_classes", ()))
        return cls(str(tree["data"]), int(tree["images"]), before, after, difference, units, count, classes, absent)


def pair(data: str, before: Evaluation, after: Evaluation, *, seed: int = 0) -> PairedScores:
    """Pair two evaluations over the images that both have, in the classes that have labeled pixels there.

    UsageError if they have no image in common.
    """
    paired = pair_evaluations(before, after)
    if paired is None:
        raise UsageError("the two models were not scored on the same images", where=data)
    kept = np.flatnonzero(paired.first[:, 1].any(axis=0))
    a, b = paired.first[:, :, kept], paired.second[:, :, kept]
    over, groups = paired.over, paired.over.groups
    difference = paired_difference(a, b, groups=groups, seed=seed)
    single = class_differences(a, b, groups=groups, seed=seed)
    ious = _ious(a), _ious(b)
    names = before.label_space.names
    classes = tuple(
        ClassScores(name, float(x), float(y), one.difference, one.low, one.high, one.clear)
        for name, x, y, one in zip([names[k] for k in kept], *ious, single, strict=True)
    )
    return PairedScores(
        data, len(paired.ids), difference.miou_a, difference.miou_b, difference, over, over.count, classes,
        tuple(names[k] for k in predicted_alone(paired.first, paired.second)),
    )  # fmt: skip


def _ious(counts: Int64Array) -> Any:
    return labeled_iou(counts.sum(axis=0))


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)
