"""The scores of a model on corrupted images, beside those on the images as they are.

Each corruption of :mod:`segwright.augment.corruptions` is one further pass over the scored images; label masks stay as
they are. Differences are paired: the same images, sequences or blocks are drawn for the corrupted and the clean score,
so that what is hard for both cancels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from rich.table import Table

from segwright.augment.corruptions import CORRUPTIONS, SEVERITIES, corrupt, parse_corruption
from segwright.core.atomic_io import without_nan
from segwright.core.errors import UsageError
from segwright.core.progress import literal
from segwright.core.types import LabelSpace, UInt8Array
from segwright.evaluation.evaluate import LabeledImages, PredictorProtocol, evaluate
from segwright.evaluation.evaluation import Evaluation
from segwright.evaluation.intervals import Figures, ImageSums, Interval, Intervals, figures_of, find_intervals
from segwright.evaluation.sequences import BootstrapUnits
from segwright.metrics.bootstrap import PairedDifference, paired_difference, percentile_interval, resampled_sums
from segwright.metrics.confusion import Int64Array, iou_per_class, nanmean

ALL = "all"
FIGURES = ("miou", "pixel_accuracy", "mean_accuracy", "ece")
NAN = float("nan")


def parse_corruptions(given: str | Sequence[str]) -> list[tuple[str, int]]:
    """``["fog:5", "snow"]`` → [("fog", 5), ("snow", 3)]; ``all`` and ``all:5`` are every corruption of one strength.

    In the order given, each pair once. UsageError for an unknown name or strength, and for none at all.
    """
    found: dict[tuple[str, int], None] = {}
    for text in [given] if isinstance(given, str) else given:
        name, colon, strength = text.partition(":")
        if name == ALL:
            if colon and strength not in {str(one) for one in SEVERITIES}:
                raise UsageError("unknown severity of a corruption", expected="all:1 to all:5", found=text[:60])
            found |= dict.fromkeys(parse_corruption(one + colon + strength) for one in CORRUPTIONS)
        else:
            try:
                found[parse_corruption(text)] = None
            except UsageError as error:
                if name in CORRUPTIONS:
                    raise
                expected = f"{ALL}, {', '.join(CORRUPTIONS)}"
                raise UsageError(error.message, expected=expected, found=error.found) from error
    if not found:
        raise UsageError("no corruption is named", expected=f"{ALL}, {', '.join(CORRUPTIONS)}", found="none")
    return list(found)


class CorruptedImages:
    """Images ``indices`` of a split under one corruption, masks unchanged. The pattern of an image is that of its index
    in the split, so it does not depend on which images are scored."""

    def __init__(self, split: LabeledImages, indices: Sequence[int], corruption: str, severity: int) -> None:
        self.split, self.indices, self.corruption, self.severity = split, list(indices), corruption, severity
        self.name, self.label_space = f"{split.name} under {corruption}:{severity}", split.label_space
        self.ids = [split.ids[index] for index in self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def read_image(self, index: int) -> UInt8Array:
        original = self.indices[index]
        return corrupt(self.split.read_image(original), self.corruption, self.severity, seed=original)

    def read_mask(self, index: int) -> UInt8Array | None:
        return self.split.read_mask(self.indices[index])


@dataclass(frozen=True)
class ScoredImages:
    """What one pass counted: class counts (N, 3, K) and the other sums, with the figures and intervals of both."""

    counts: Int64Array
    sums: ImageSums
    figures: Figures
    intervals: Intervals

    @classmethod
    def of(cls, counts: Int64Array, sums: ImageSums, units: BootstrapUnits) -> ScoredImages:
        kept = ImageSums(calibration=sums.calibration)
        totals = {name: value.sum(axis=0, keepdims=True) for name, value in kept.terms(counts).items()}
        return cls(counts, kept, figures_of(totals), find_intervals(counts, kept, units.groups))

    def figure(self, name: str) -> float:
        """A headline figure; NaN if it was not computed."""
        return float(self.figures.headline[name][0]) if name in self.figures.headline else NAN

    def interval(self, name: str) -> Interval:
        return self.intervals.headline.get(name, (NAN, NAN))

    def to_json(self, names: Sequence[str]) -> dict[str, Any]:
        iou, bounds = self.figures.per_class["iou"][0], self.intervals.per_class["iou"]
        tree: dict[str, Any] = {}
        for name in FIGURES:
            tree |= {name: self.figure(name), f"{name}_ci95": list(self.interval(name))}
        classes = zip(names, iou.tolist(), bounds.tolist(), strict=True)
        return tree | {"per_class": [{"name": n, "iou": value, "iou_ci95": ci} for n, value, ci in classes]}


@dataclass(frozen=True)
class CorruptionScore:
    """The score under one corruption."""

    name: str
    severity: int
    scored: ScoredImages
    change: PairedDifference  # of the mIoU, corrupted minus clean

    def __str__(self) -> str:
        return f"{self.name}:{self.severity}"

    @property
    def miou(self) -> float:
        return self.scored.figure("miou")


@dataclass(frozen=True)
class MeanScore:
    """The mean over the corruptions of the pooled mIoU, and what share of the clean one that is."""

    miou: float
    miou_ci95: Interval
    change: float
    change_ci95: Interval
    kept: float  # mean mIoU over clean mIoU
    kept_ci95: Interval

    def to_json(self) -> dict[str, Any]:
        return {
            "miou": self.miou,
            "miou_ci95": list(self.miou_ci95),
            "change": self.change,
            "change_ci95": list(self.change_ci95),
            "kept": self.kept,
            "kept_ci95": list(self.kept_ci95),
        }


@dataclass(frozen=True)
class CorruptionScores:
    """The scores under every corruption asked for, beside the clean ones; a part of an evaluation."""

    clean: ScoredImages
    scores: list[CorruptionScore]
    units: BootstrapUnits
    label_space: LabelSpace

    @cached_property
    def mean(self) -> MeanScore:
        """Over all corruptions, each of the same weight."""
        return _mean_score(self.clean.counts, [one.scored.counts for one in self.scores], self.units)

    def to_json(self) -> dict[str, Any]:
        names = self.label_space.names
        each = [
            {
                "corruption": one.name,
                "strength": one.severity,
                **one.scored.to_json(names),
                "change": one.change.difference,
                "change_ci95": [one.change.low, one.change.high],
                "clear": one.change.clear,
            }
            for one in self.scores
        ]
        tree = {"clean": self.clean.to_json(names), "corruptions": each, "mean": self.mean.to_json()}
        return dict(without_nan({**tree, **self.units.to_json()}))

    def sentence(self) -> str:
        """The mean and the worst corruptions in words."""
        clean, mean = self.clean.figure("miou"), self.mean
        worst = sorted((one for one in self.scores if not np.isnan(one.miou)), key=lambda one: one.miou)[:3]
        named = ", ".join(f"{one} ({100 * one.miou:.1f} %)" for one in worst)
        if len(self.scores) == 1 or not worst:
            only = self.scores[0]
            return f"Under {only} the mIoU is {100 * only.miou:.1f} %; it is {100 * clean:.1f} % on the clean images."
        low, high = mean.kept_ci95
        between = "" if np.isnan(low) else f" (95 %: {100 * low:.0f} to {100 * high:.0f} %)"
        return (
            f"Mean over {len(self.scores)} corruptions: {100 * mean.miou:.1f} % mIoU, {100 * mean.kept:.0f} %{between} "
            f"of the {100 * clean:.1f} % on the clean images. Lowest: {named}."
        )


def _mean_score(clean: Int64Array, corrupted: Sequence[Int64Array], units: BootstrapUnits) -> MeanScore:
    def mean_of(parts: Sequence[Any]) -> Any:
        return np.mean([_miou(one) for one in parts], axis=0)

    at_clean = float(_miou(clean.sum(axis=0)[None])[0])
    at = float(mean_of([one.sum(axis=0)[None] for one in corrupted])[0])
    terms = {"clean": clean} | {str(number): one for number, one in enumerate(corrupted)}
    means, cleans = [np.empty(0)], [np.empty(0)]
    for drawn in resampled_sums(terms, groups=units.groups):
        means.append(mean_of([drawn[str(number)] for number in range(len(corrupted))]))
        cleans.append(_miou(drawn["clean"]))
    under, clear = np.concatenate(means), np.concatenate(cleans)
    shares = under[clear > 0] / clear[clear > 0]
    interval, apart, share = (percentile_interval(values) for values in (under, under - clear, shares))
    return MeanScore(at, interval, at - at_clean, apart, at / at_clean if at_clean > 0 else NAN, share)


def _miou(counts: Any) -> Any:
    """(D, 3, K) → (D,)."""
    return np.array([nanmean(row) for row in iou_per_class(counts)])


def evaluate_corrupted(
    predictor: PredictorProtocol,
    split: LabeledImages,
    clean: Evaluation,
    corruptions: Sequence[tuple[str, int]],
    *,
    match: str = "names",
) -> CorruptionScores:
    """Score the images of ``clean`` under each of ``corruptions`` (name, severity).

    ``split`` and ``predictor`` are those of the clean evaluation; images that it left out stay out, and intervals draw
    what it drew. DataError if an image can no longer be read.
    """
    walk = iter(enumerate(split.ids))  # the ids of the evaluation are in the order of the split
    indices = [next(index for index, name in walk if name == wanted) for wanted in clean.ids]
    units = clean.independent
    found = []
    for name, severity in corruptions:
        images = CorruptedImages(split, indices, name, severity)
        passed = evaluate(
            predictor, images, match=match, boundary=False, examples=1, groups=units.groups, title=f"{name}:{severity}"
        )
        change = paired_difference(clean.counts, passed.counts, groups=units.groups, absent=True)  # as its mIoU beside
        found.append(CorruptionScore(name, severity, ScoredImages.of(passed.counts, passed.sums, units), change))
    return CorruptionScores(ScoredImages.of(clean.counts, clean.sums, units), found, units, clean.label_space)


def corruption_table(part: CorruptionScores) -> Table:
    """The clean score and one row per corruption, for a terminal of 80 columns."""
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    table.add_column("images", overflow="fold")
    for title in ("mIoU", "95 %", "to clean", "95 %", "pixel acc.", "ECE"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_row(literal("clean"), *_cells(part.clean, None))
    for one in part.scores:
        table.add_row(literal(str(one)), *_cells(one.scored, one.change))
    if len(part.scores) > 1:
        mean = part.mean
        change = _signed(mean.change), _between(mean.change_ci95, signed=True)
        table.add_row(literal("mean, corrupted"), _percent(mean.miou), _between(mean.miou_ci95), *change, "", "")
    return table


def _cells(scored: ScoredImages, change: PairedDifference | None) -> list[str]:
    apart = ["", ""]
    if change is not None:
        star = "* " if change.clear else ""
        apart = [star + _signed(change.difference), _between((change.low, change.high), signed=True)]
    return [
        _percent(scored.figure("miou")), _between(scored.interval("miou")), *apart,
        _percent(scored.figure("pixel_accuracy")), _percent(scored.figure("ece")),
    ]  # fmt: skip


def _percent(value: float) -> str:
    return "–" if np.isnan(value) else f"{100 * value:.1f}"


def _signed(value: float) -> str:
    return "–" if np.isnan(value) else f"{100 * value:+.1f}"


def _between(pair: Interval, *, signed: bool = False) -> str:
    low, high = pair
    if np.isnan(low):
        return ""
    return f"{100 * low:+.1f} to {100 * high:+.1f}" if signed else f"{100 * low:.1f}–{100 * high:.1f}"
