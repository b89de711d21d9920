"""The result of an evaluation: every figure with its 95 % interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from segwright.core.atomic_io import without_nan
from segwright.core.types import LabelSpace
from segwright.evaluation.examples import Example
from segwright.evaluation.intervals import (
    PER_CLASS,
    Figures,
    ImageSums,
    Interval,
    Intervals,
    figures_of,
    find_intervals,
)
from segwright.evaluation.sequences import BootstrapUnits, find_units
from segwright.metrics.bootstrap import miou_interval
from segwright.metrics.boundary import BoundaryIoU
from segwright.metrics.calibration import Calibration
from segwright.metrics.confusion import Float64Array, Int64Array, Scores, iou_per_class, nanmean, scores
from segwright.metrics.conventions import (
    CONVENTIONS,
    ConventionResult,
    ScoredCounts,
    apply_convention,
    apply_conventions,
)

CONVENTION = "pooled"


class Part(Protocol):
    """A further result of a pass, such as its slices."""

    def to_json(self) -> Any: ...


@dataclass
class Evaluation:
    """The scores of one pass, each with a 95 % interval.

    :class:`segwright.metrics.confusion.Scores` defines the pooled ones. Figures in 0…1, except ``brier`` (0…2) and
    ``nll`` (nats); NaN where nothing defines them or they were not computed: ``not_computed`` has the reasons.
    """

    label_space: LabelSpace
    split: str
    matrix: Int64Array  # (K, K), rows ground truth
    ids: list[str]  # of the scored images
    counts: Int64Array  # (N, 3, K): hits, truth, prediction of each scored image
    boundary: BoundaryIoU | None = None
    calibration: Calibration | None = None
    seconds: float = 0.0
    examples: list[Example] = field(default_factory=list)  # for a report, the worst first
    without_mask: list[str] = field(default_factory=list)  # ids of images without a mask
    all_ignored: list[str] = field(default_factory=list)  # ids of masks with only the ignore value
    skipped: dict[str, str] = field(default_factory=dict)  # id → why (skip_bad)
    notes: list[str] = field(default_factory=list)
    convention: str = CONVENTION  # the one that is shown beside ours
    drawn: BootstrapUnits | None = None  # the units of the bootstrap; None: found from the ids
    parts: dict[str, Part] = field(default_factory=dict)  # further results by their JSON key, such as "slices"
    sums: ImageSums = field(default_factory=ImageSums)  # what the other figures need of each image
    ignored: int = 0  # ignored pixels of the scored images
    stray: int = 0  # images whose prediction has a value of no class, on ignored pixels
    temperature: float | None = None  # by which the model's logits were divided after training; None: they were not
    not_computed: dict[str, str] = field(default_factory=dict)  # figure → why it is absent

    def __post_init__(self) -> None:
        self.scores: Scores = scores(self.matrix)
        self.independent: BootstrapUnits = self.drawn or find_units(self.ids)
        self.miou_ci95: Interval = miou_interval(self.counts, groups=self.independent.groups)
        self.per_image: Float64Array = np.array([nanmean(row) for row in iou_per_class(self.counts)])  # (N,) mIoU

    @property
    def images(self) -> int:
        """The number of scored images."""
        return len(self.ids)

    @property
    def miou(self) -> float:
        return self.scores.miou

    @property
    def pixel_accuracy(self) -> float:
        return self.scores.pixel_accuracy

    @property
    def mean_accuracy(self) -> float:
        return self.scores.mean_accuracy

    @property
    def fwiou(self) -> float:
        return self.scores.fwiou

    @property
    def mean_dice(self) -> float:
        return self.scores.mean_dice

    @property
    def boundary_iou(self) -> float:
        return float("nan") if self.boundary is None else self.boundary.mean()

    def without_confidences(self, why: str) -> Evaluation:
        """The same without what rests on confidences: for labels that hold, of a model whose confidences changed."""
        examples = [replace(one, doubt_size=None, packed_doubt=b"") for one in self.examples]
        not_computed = {**self.not_computed, "ece": why}
        sums = replace(self.sums, calibration=None)
        return replace(self, calibration=None, sums=sums, examples=examples, not_computed=not_computed)

    @cached_property
    def intervals(self) -> Intervals:
        """The 95 % interval of each figure of :attr:`figures`, and of each figure of a class."""
        return find_intervals(self.counts, self.sums, self.independent.groups)

    @cached_property
    def _found(self) -> Figures:
        terms = self.sums.terms(self.counts)
        return figures_of({name: values.sum(axis=0, keepdims=True) for name, values in terms.items()})

    @property
    def figures(self) -> dict[str, float]:
        """Every headline figure by its JSON name: miou, bf_score, trimap_miou_3, ece, brier, nll, …"""
        return {name: float(value[0]) for name, value in self._found.headline.items()}

    def interval(self, figure: str) -> Interval:
        """The 95 % interval of a headline figure; NaN if there is none."""
        return self.intervals.headline.get(figure, (float("nan"), float("nan")))

    @property
    def per_class(self) -> list[dict[str, Any]]:
        """One dict per class: name, iou, dice, precision, recall, pixels, and further figures that were computed; each
        figure's interval under its name with ``_ci95``."""
        pixels, found, intervals = self.scores.pixels, self._found.per_class, self.intervals.per_class
        return [
            {
                "name": name,
                **{figure: float(found[figure][0, i]) for figure in PER_CLASS},
                "pixels": int(pixels[i]),
                **{figure: float(values[0, i]) for figure, values in found.items() if figure not in PER_CLASS},
                **{f"{figure}_ci95": intervals[figure][i].tolist() for figure in found},
            }
            for i, name in enumerate(self.label_space.names)
        ]

    @cached_property
    def convention_result(self) -> ConventionResult:
        """What the tool of :attr:`convention` would print."""
        return self.printed_by(self.convention)

    def printed_by(self, convention: str) -> ConventionResult:
        """What another tool would print for these predictions, with intervals; see
        :mod:`segwright.metrics.conventions`."""
        return apply_convention(convention, self._scored, groups=self.independent.groups)

    @property
    def _scored(self) -> ScoredCounts:
        return ScoredCounts(self.counts, self.ignored, len(self.all_ignored), self.stray)

    @cached_property
    def _every_convention(self) -> dict[str, ConventionResult]:
        return apply_conventions(CONVENTIONS, self._scored, groups=self.independent.groups)

    def by_convention(self) -> dict[str, float]:
        """The mean IoU by the conventions of other code, by name; NaN where the tool prints nan or refuses the data."""
        return {name: found.value for name, found in self._every_convention.items()}

    def convention_intervals(self) -> dict[str, Interval]:
        """The 95 % interval of each figure of :meth:`by_convention`; NaN where there is none."""
        return {name: found.figures[0].ci95 for name, found in self._every_convention.items()}

    def reliability(self) -> list[dict[str, Any]]:
        """The reliability diagram: per bin of confidence its edges, pixels, mean confidence, share that is right, and
        the 95 % intervals of the last two."""
        if self.calibration is None:
            return []
        r, none = self.calibration.reliability(), np.full((self.calibration.bins, 2), np.nan)
        sure, right = (self.intervals.per_bin.get(figure, none) for figure in ("confidence", "accuracy"))
        return [
            {
                "low": float(r.edges[i]),
                "high": float(r.edges[i + 1]),
                "pixels": int(r.pixels[i]),
                "confidence": float(r.confidence[i]),
                "confidence_ci95": sure[i].tolist(),
                "accuracy": float(r.accuracy[i]),
                "accuracy_ci95": right[i].tolist(),
            }
            for i in range(len(r.pixels))
        ]

    def to_json(self) -> dict[str, Any]:
        """The scores as JSON types; NaN (undefined) is null."""
        figures = self.figures
        tree: dict[str, Any] = {
            "images": self.images,
            "miou": self.miou,
            "miou_ci95": list(self.miou_ci95),
            "pixel_accuracy": self.pixel_accuracy,
            "mean_accuracy": self.mean_accuracy,
            "fwiou": self.fwiou,
            "mean_dice": self.mean_dice,
            "boundary_iou": self.boundary_iou,
            "convention": self.convention,
            "per_class": self.per_class,
            "per_image": [{"id": i, "miou": float(m)} for i, m in zip(self.ids, self.per_image, strict=True)],
            "confusion": self.matrix.tolist(),
            "conventions": self.by_convention(),
            "conventions_ci95": {name: list(pair) for name, pair in self.convention_intervals().items()},
            "convention_result": self.convention_result.to_json(),
            "split": self.split,
            "seconds": round(self.seconds, 3),
            "without_mask": self.without_mask,
            "all_ignored": self.all_ignored,
            "skipped": [{"id": key, "reason": why} for key, why in self.skipped.items()],
            "notes": self.notes,
            **self.independent.to_json(),
            "interval_note": self.independent.note,
            "intervals": self.intervals.to_json(),
            "not_computed": self.not_computed,
            "ignored_pixels": self.ignored,
        }
        tree |= {name: value for name, value in figures.items() if name not in tree}
        if self.calibration is not None:
            measures = ("ece", "classwise_ece", "brier", "nll")
            tree |= {name: figures.get(name, float("nan")) for name in measures}
            tree["calibration"] = {
                **{name: tree[name] for name in measures},
                "intervals": {name: list(self.interval(name)) for name in measures},
                "temperature": self.temperature,
                "reliability": self.reliability(),
            }
        tree |= {key: part.to_json() for key, part in self.parts.items()}
        return dict(without_nan(tree))


def summary(evaluation: Evaluation) -> Mapping[str, float]:
    """The pooled figures by name, for logs and tables."""
    e = evaluation
    figures = {
        "miou": e.miou,
        "pixel_accuracy": e.pixel_accuracy,
        "mean_accuracy": e.mean_accuracy,
        "fwiou": e.fwiou,
        "mean_dice": e.mean_dice,
        "boundary_iou": e.boundary_iou,
    }
    return figures | {name: value for name, value in e.figures.items() if name not in figures}
