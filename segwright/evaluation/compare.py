"""Several models on the same images: the paired difference of each to the first with its interval, in total and per
class; speed and size beside quality, and the images on which models differ most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from segwright import reports
from segwright.core.atomic_io import without_nan
from segwright.core.counted import counted
from segwright.core.errors import UsageError
from segwright.core.progress import literal
from segwright.evaluation.disagreements import Disagreement
from segwright.evaluation.evaluation import Evaluation
from segwright.evaluation.model_costs import ModelCost, dominated
from segwright.evaluation.sequences import BootstrapUnits
from segwright.metrics.bootstrap import PairedDifference, paired_difference
from segwright.metrics.class_differences import ClassDifference, class_differences
from segwright.metrics.confusion import labeled_miou, predicted_alone
from segwright.reports import Series, percent
from segwright.reports.viewer import DIFFERENCE, IMAGE, LABELS, Layer, Viewer, ViewerImage, pack_images

SHOWN_DISAGREEMENTS = 5  # lines on the screen

MOST_CHARTED = 40  # classes of a chart with a row each
MOST_LETTERS = 24  # of a model's name on a button


@dataclass(frozen=True)
class Comparison:
    """Evaluations by name, and each one's difference in mIoU to the first (the baseline)."""

    evaluations: Mapping[str, Evaluation]
    differences: Mapping[str, PairedDifference]  # without the baseline
    class_differences: Mapping[str, list[ClassDifference]] = field(default_factory=dict)  # in the order of the classes
    costs: Mapping[str, ModelCost] = field(default_factory=dict)  # of all models, or empty
    disagreements: list[Disagreement] = field(default_factory=list)  # with the baseline, the largest first

    @property
    def baseline(self) -> str:
        return next(iter(self.evaluations))

    @property
    def independent(self) -> BootstrapUnits:
        """The units of the bootstrap, the same for all models."""
        return self.evaluations[self.baseline].independent

    @property
    def notes(self) -> list[str]:
        """What is needed to interpret the differences: remarks on the scores, and what the intervals do not hold."""
        found = [
            *self._notes_of_models(),
            *filter(None, [absent_note(self.absent), self.independent.note]),
        ]
        if any(d.clear for d in self.differences.values()):
            found.append(
                f"the intervals are over {self.independent.over}, not over trainings: they hold for these models, and "
                "the same recipe trained with another seed can differ by more"
            )
        return found

    def _notes_of_models(self) -> list[str]:
        """The remarks on the scores of every model, with its name where they are not on all of them."""
        notes = {name: list(dict.fromkeys(found.notes)) for name, found in self.evaluations.items()}
        common = [note for note in notes[self.baseline] if all(note in own for own in notes.values())]
        return [*common, *(f"{name}: {note}" for name, own in notes.items() for note in own if note not in common)]

    @property
    def dominated(self) -> dict[str, list[str]]:
        """Model → the models that are at least as good, as fast and as small; without costs, nothing."""
        scores = {name: labeled_miou(found.counts) for name, found in self.evaluations.items()}
        return dominated(scores, self.costs, self._clear)

    @property
    def absent(self) -> list[str]:
        """Classes without a labeled pixel that a model predicts: differences leave them out."""
        found = predicted_alone(*(one.counts for one in self.evaluations.values()))
        return [self.evaluations[self.baseline].label_space.names[k] for k in found]

    def _clear(self, one: str, other: str) -> bool:
        """Whether the mIoU of two models differs beyond chance."""
        a, b = self.evaluations[one].counts, self.evaluations[other].counts
        return paired_difference(a, b, groups=self.independent.groups).clear

    def with_short_names(self) -> Comparison:
        """The same with models named by the ends of their paths, for people."""
        short = short_names(list(self.evaluations))
        return Comparison(
            {short[name]: found for name, found in self.evaluations.items()},
            {short[name]: found for name, found in self.differences.items()},
            {short[name]: found for name, found in self.class_differences.items()},
            {short[name]: found for name, found in self.costs.items()},
            [replace(one, first=short[one.first], second=short[one.second]) for one in self.disagreements],
        )

    def sentences(self) -> list[str]:
        """One sentence per model other than the first, and one per model that is dominated."""
        found = [verdict(d, self.baseline, self.independent, name=name) for name, d in self.differences.items()]
        for name, rivals in self.dominated.items():
            if rivals:
                found.append(f"{name} is dominated: {_and(rivals)} at least as good, as fast and as small.")
        return found

    def to_json(self) -> dict[str, Any]:
        names = self.evaluations[self.baseline].label_space.names
        tree: dict[str, Any] = {
            "baseline": self.baseline,
            "models": [{"name": name, **found.to_json()} for name, found in self.evaluations.items()],
            "differences": [
                {
                    "name": name,
                    "miou_difference": d.difference,
                    "ci95": [d.low, d.high],
                    **self.independent.to_json(),
                    "share_above": d.share_above,
                    "clear": d.clear,
                    "sentence": verdict(d, self.baseline, self.independent, name=name),
                    "per_class": [
                        {
                            "name": label,
                            "iou_difference": one.difference,
                            "ci95": [one.low, one.high],
                            "p_holm": one.p_holm,
                            "clear": one.clear,
                        }
                        for label, one in zip(names, self.class_differences.get(name, ()), strict=False)
                    ],
                }
                for name, d in self.differences.items()
            ],
            "absent_classes": self.absent,
            "disagreements": [one.to_json() for one in self.disagreements],
            "notes": self.notes,
        }
        if self.costs:
            tree["costs"] = [
                {"name": name, **cost.to_json(), "miou": self.evaluations[name].miou, "dominated_by": rivals}
                for (name, cost), rivals in zip(self.costs.items(), self.dominated.values(), strict=True)
            ]
        return dict(without_nan(tree))


def compare(
    evaluations: Mapping[str, Evaluation],
    *,
    seed: int = 0,
    costs: Mapping[str, ModelCost] | None = None,
    disagreements: Sequence[Disagreement] = (),
) -> Comparison:
    """Pair evaluations of the same images, the first being the baseline.

    UsageError for fewer than two, or if images or classes differ, because the difference would not be due to the model.
    """
    if len(evaluations) < 2:
        raise UsageError("a comparison needs two models", found=", ".join(evaluations) or "none")
    names = list(evaluations)
    first = evaluations[names[0]]
    for name in names[1:]:
        other = evaluations[name]
        if other.ids != first.ids or other.label_space.names != first.label_space.names:
            raise UsageError(
                f"{names[0]} and {name} were not evaluated on the same images and classes",
                expected=f"{first.images} images, {first.label_space.classes} classes",
                found=f"{counted(other.images, 'image')}, {counted(other.label_space.classes, 'class')}",
                fix="evaluate both on one split",
            )
    groups = first.independent.groups
    differences = {
        name: paired_difference(first.counts, evaluations[name].counts, seed=seed, groups=groups) for name in names[1:]
    }
    by_class = {
        name: class_differences(first.counts, evaluations[name].counts, groups=groups, seed=seed) for name in names[1:]
    }
    return Comparison(evaluations, differences, by_class, costs or {}, list(disagreements))


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Each name by the fewest last parts of its path that no other has; ``model`` alone names no run.

    >>> short_names(["/runs/a/model", "/runs/b"])
    {'/runs/a/model': 'a', '/runs/b': 'b'}
    """
    parts = {name: PurePath(name).parts for name in names}
    parts = {name: own[:-1] if len(own) > 1 and own[-1] == "model" else own for name, own in parts.items()}
    found = {}
    for name, own in parts.items():
        for count in range(1, len(own) + 1):
            if sum(other[-count:] == own[-count:] for other in parts.values()) == 1:
                found[name] = str(PurePath(*own[-count:]))
                break
    return found if len(set(found.values())) == len(names) else {name: name for name in names}


def render_comparison(comparison: Comparison, console: Console) -> None:
    """Print the table and the verdicts on a terminal."""
    comparison = comparison.with_short_names()
    # No frame and no padding at the edge: all figures fit in 80 columns.
    table = Table("model", title=None, box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for header in ("mIoU", "95 %", "difference", "95 %", "pixel\nacc.", "Dice", "boundary\nIoU"):
        table.add_column(header, justify="right", overflow="fold")
    for name, found in comparison.evaluations.items():
        d = comparison.differences.get(name)
        table.add_row(
            literal(name),
            f"{100 * found.miou:.1f}",
            interval_text(found.miou_ci95),
            "baseline" if d is None else f"{100 * d.difference:+.2f}",
            "" if d is None else interval_text((d.low, d.high), signed=True),
            percent(found.pixel_accuracy),
            percent(found.mean_dice),
            percent(found.boundary_iou),
        )
    console.print(table)
    if comparison.costs:
        console.print(_costs_table(comparison))
    for name, rows in comparison.class_differences.items():
        console.print(_classes_table(comparison, name, rows))
    for note in comparison.notes:
        console.print(literal(f"note: {note}"), soft_wrap=True)
    for sentence in comparison.sentences():
        console.print(literal(sentence), soft_wrap=True)
    for one in comparison.disagreements[:SHOWN_DISAGREEMENTS]:
        console.print(literal(_disagreement_line(one)), soft_wrap=True)
    hidden = len(comparison.disagreements) - SHOWN_DISAGREEMENTS
    if hidden > 0:
        console.print(f"… and {counted(hidden, 'image')} more: --html FILE shows them")


def _costs_table(comparison: Comparison) -> Table:
    device = next(iter(comparison.costs.values())).device
    table = Table(f"speed and size ({device})", title=None)
    for header in ("ms per image", "MB", "parameters", "mIoU"):
        table.add_column(header, justify="right")
    table.add_column("dominated by")
    for name, cost in comparison.costs.items():
        rivals = ", ".join(comparison.dominated[name])
        row = _cost_cells(cost)
        table.add_row(literal(name), *row, f"{100 * comparison.evaluations[name].miou:.1f}", literal(rivals))
    return table


def _cost_cells(cost: ModelCost) -> tuple[str, str, str]:
    return (
        "–" if np.isnan(cost.milliseconds) else cost.spread,
        "–" if np.isnan(cost.megabytes) else f"{cost.megabytes:.1f}",
        "–" if np.isnan(cost.parameters) else f"{cost.parameters / 1e6:.1f} M",
    )


def _classes_table(comparison: Comparison, name: str, rows: Sequence[ClassDifference]) -> Table:
    first, second = comparison.evaluations[comparison.baseline], comparison.evaluations[name]
    table = Table("IoU", title=None)
    for header in (literal(comparison.baseline), literal(name), "difference", "95 %"):
        table.add_column(header, justify="right", overflow="fold")
    for i, (label, one) in enumerate(zip(first.label_space.names, rows, strict=True)):
        table.add_row(
            literal(label),
            percent(float(first.scores.iou[i])),
            percent(float(second.scores.iou[i])),
            _difference_text(one),
            interval_text((one.low, one.high), signed=True),
        )
    table.caption = "* clear of chance, Holm-adjusted for the number of classes"
    return table


def _difference_text(one: ClassDifference) -> str:
    return "–" if np.isnan(one.difference) else f"{'* ' if one.clear else ''}{100 * one.difference:+.1f}"


def _disagreement_line(one: Disagreement) -> str:
    shares = (100 * share for share in (one.differ, one.only_first, one.only_second, one.both_wrong))
    differ, first, second, wrong = shares
    return (
        f"{one.id}: {differ:.0f} % of the pixels differ; only {one.first} right {first:.0f} %, "
        f"only {one.second} right {second:.0f} %, both wrong {wrong:.0f} %"
    )


def _and(names: Sequence[str]) -> str:
    return f"{names[0]} is" if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]} are"


def absent_note(names: Sequence[str]) -> str:
    """A sentence about the classes that are predicted without a labeled pixel; empty without any."""
    if not names:
        return ""
    one = len(names) == 1
    return (
        f"{', '.join(names)} {'is' if one else 'are'} predicted, but no pixel of these images is labeled as "
        f"{'it' if one else 'them'}: differences are over the other classes"
    )


def verdict(d: PairedDifference, baseline: str, over: BootstrapUnits | None = None, *, name: str = "it") -> str:
    """One sentence: better, worse, or no significant difference; ``over``: the units of the bootstrap."""
    points = f"{100 * abs(d.difference):.1f} points of mIoU"
    if np.isnan(d.low):
        if d.difference == 0:
            return f"{name} and {baseline} have the same mIoU on one image, which gives no interval."
        side = "above" if d.difference > 0 else "below"
        return f"{name} is {points} {side} {baseline} on one image, which gives no interval."
    worse = d.difference < 0
    low, high = (-d.high, -d.low) if worse else (d.low, d.high)
    drawn = "" if over is None else f", over {over}"
    span = f"95 %: {100 * low:.1f} to {100 * high:.1f}{drawn}"
    if d.clear:
        return f"{name} is {'worse' if worse else 'better'} than {baseline} by {points} ({span})."
    why = f"too few {over.over if over else 'units'}" if d.few else "no significant difference on these images"
    if d.difference == 0:
        return f"{name} and {baseline} have the same mIoU: {why} ({span})."
    return f"{name} is {points} {'below' if worse else 'above'} {baseline}: {why} ({span})."


def interval_text(interval: tuple[float, float], *, signed: bool = False) -> str:
    """In per cent: 61.2–66.8, or with signs -0.30 to +1.20; empty for NaN."""
    low, high = interval
    if np.isnan(low):
        return ""
    return f"{100 * low:+.2f} to {100 * high:+.2f}" if signed else f"{100 * low:.1f}–{100 * high:.1f}"


def comparison_page(comparison: Comparison, *, command: str = "") -> str:
    """The same as one self-contained HTML page, with the per-class IoU of every model side by side."""
    comparison = comparison.with_short_names()
    evaluations = list(comparison.evaluations.values())
    first, over = evaluations[0], comparison.independent
    models = []
    for name, found in comparison.evaluations.items():
        d = comparison.differences.get(name)
        models.append(
            {
                "name": name,
                "miou": found.miou,
                "interval": interval_text(found.miou_ci95),
                "difference": "baseline" if d is None else f"{100 * d.difference:+.2f}",
                "difference_interval": "" if d is None else interval_text((d.low, d.high), signed=True),
                "pixel_accuracy": found.pixel_accuracy,
                "boundary_iou": found.boundary_iou,
            }
        )
    differences = list(comparison.class_differences.values())
    classes = [
        {
            "name": name,
            "color": color,
            "ious": [float(e.scores.iou[i]) for e in evaluations],
            "differences": [
                (_difference_text(rows[i]), interval_text((rows[i].low, rows[i].high), signed=True))
                for rows in differences
            ],
        }
        for i, (name, color) in enumerate(zip(first.label_space.names, first.label_space.colors, strict=True))
    ]
    viewer = _viewer(comparison)
    return reports.page(
        "comparison.html.j2",
        title="Model comparison",
        parts=("viewer",) if viewer is not None else (),
        lead=f"{counted(first.images, 'image')} of split {first.split}",
        over=over.over,
        verdicts=[
            (_verdict_style(d), verdict(d, comparison.baseline, over, name=name))
            for name, d in comparison.differences.items()
        ],
        notes=[("warn" if note == over.note else "note", note) for note in comparison.notes],
        models=models,
        names=list(comparison.evaluations),
        classes=classes,
        compared=list(comparison.class_differences),
        costs=_cost_rows(comparison),
        pareto=_pareto_charts(comparison),
        device=next((cost.device for cost in comparison.costs.values()), ""),
        difference_charts=_difference_charts(comparison),
        viewer=viewer,
        command=command,
    )


def _verdict_style(d: PairedDifference) -> str:
    return "warn" if not d.clear else "good" if d.low > 0 else "bad"


def _difference_charts(comparison: Comparison) -> list[tuple[str, Any]]:
    """The paired differences of the classes to the first model, with intervals: titles and charts."""
    names, charts = comparison.evaluations[comparison.baseline].label_space.names, []
    for other, rows in comparison.class_differences.items():
        kept = sorted(
            ((name, row) for name, row in zip(names, rows, strict=True) if not np.isnan(row.difference)),
            key=lambda pair: -pair[1].difference,
        )
        if 0 < len(kept) <= MOST_CHARTED:
            chart = reports.interval_chart(
                [name for name, _ in kept],
                *([100 * getattr(row, key) for _, row in kept] for key in ("difference", "low", "high")),
                x_label=f"IoU minus that of {comparison.baseline[:MOST_LETTERS]}, points",
                signed=True,
            )
            charts.append((f"{other}: difference of each class, with its 95 % interval", chart))
    return charts


def _viewer(comparison: Comparison) -> Viewer | None:
    """The images on which the models differ most; None without any."""
    kept = [one for one in comparison.disagreements if one.image is not None]
    packed, notes = pack_images(len(kept), lambda number: _shown(kept[number]))
    if not packed:
        return None
    space = comparison.evaluations[comparison.baseline].label_space
    others = {one.second for one in kept}
    first = kept[0].first[:MOST_LETTERS]
    second = kept[0].second[:MOST_LETTERS] if len(others) == 1 else "other model"
    return Viewer(
        id="images",
        layers=[
            Layer("image", "Image", IMAGE),
            Layer("truth", "Truth", LABELS),
            Layer("first", first, LABELS),
            Layer("second", second, LABELS),
            Layer("differ", "Where they differ", DIFFERENCE, ("first", "second")),
            Layer("first_errors", f"Errors of {first}", DIFFERENCE, ("truth", "first")),
            Layer("second_errors", f"Errors of {second}", DIFFERENCE, ("truth", "second")),
        ],
        classes=list(zip(space.names, space.colors, strict=True)),
        images=packed,
        view="second",
        against="first",
        ignore="truth",
        difference="pixels that differ, or are wrong",
        notes=notes,
    )


def _shown(one: Disagreement) -> ViewerImage | None:
    if one.image is None:
        return None
    line = _disagreement_line(one).removeprefix(f"{one.id}: ")
    return ViewerImage(one.id, line, f"{100 * one.differ:.0f} % differ", one.image, one.maps)


def _cost_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    rivals = comparison.dominated
    return [
        (name, *_cost_cells(cost), percent(comparison.evaluations[name].miou), ", ".join(rivals[name]))
        for name, cost in comparison.costs.items()
    ]


def _pareto_charts(comparison: Comparison) -> list[tuple[str, Any]]:
    """Quality over speed and over size: titles and charts, a point per model."""
    charts = []
    for title, label, key in (
        ("Quality and speed", "milliseconds per image", "milliseconds"),
        ("Quality and size", "megabytes", "megabytes"),
    ):
        series = [
            Series(name, [value], [100 * comparison.evaluations[name].miou])
            for name, cost in comparison.costs.items()
            if not np.isnan(value := float(getattr(cost, key)))
        ]
        if series:
            charts.append((title, reports.scatter_chart(series, x_label=label, y_label="mean IoU, %")))
    return charts
