"""Several models on the same images: a table, and for each the paired difference to the first with its interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from segwright import reports
from segwright.core.atomic_io import without_nan
from segwright.core.errors import UsageError
from segwright.core.progress import literal
from segwright.evaluation.evaluate import Evaluation
from segwright.evaluation.sequences import BootstrapUnits
from segwright.metrics.bootstrap import PairedDifference, paired_difference
from segwright.reports import percent


@dataclass(frozen=True)
class Comparison:
    """Evaluations by name, and each one's difference in mIoU to the first (the baseline)."""

    evaluations: Mapping[str, Evaluation]
    differences: Mapping[str, PairedDifference]  # without the baseline

    @property
    def baseline(self) -> str:
        return next(iter(self.evaluations))

    @property
    def independent(self) -> BootstrapUnits:
        """The units of the bootstrap, the same for all models."""
        return self.evaluations[self.baseline].independent

    def to_json(self) -> dict[str, Any]:
        tree = {
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
                }
                for name, d in self.differences.items()
            ],
        }
        return dict(without_nan(tree))


def compare(evaluations: Mapping[str, Evaluation], *, seed: int = 0) -> Comparison:
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
                found=f"{other.images} images, {other.label_space.classes} classes",
                fix="evaluate both on one split",
            )
    groups = first.independent.groups
    differences = {
        name: paired_difference(first.counts, evaluations[name].counts, seed=seed, groups=groups) for name in names[1:]
    }
    return Comparison(evaluations, differences)


def render_comparison(comparison: Comparison, console: Console) -> None:
    """Print the table and the verdicts on a terminal."""
    table = Table("model", title=None)
    for header in ("mIoU", "95 %", "difference", "95 %", "pixel acc.", "Dice", "boundary IoU"):
        table.add_column(header, justify="right")
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
    over = comparison.independent
    limits = [over.note] if over.note else []
    for note in [*comparison.evaluations[comparison.baseline].notes, *limits]:
        console.print(literal(f"note: {note}"), soft_wrap=True)
    for name, d in comparison.differences.items():
        console.print(literal(f"{name}: {verdict(d, comparison.baseline, over)}"))


def verdict(d: PairedDifference, baseline: str, over: BootstrapUnits | None = None) -> str:
    """One sentence: better, worse, or no significant difference; ``over``: the units of the bootstrap."""
    if np.isnan(d.low):
        return f"{100 * d.difference:+.2f} points against {baseline}; one image gives no interval"
    drawn = "" if over is None else f" over {over}"
    span = f"{100 * d.difference:+.2f} points, 95 % {interval_text((d.low, d.high), signed=True)}{drawn}"
    if d.few:
        return f"no significant difference to {baseline}: too few {over.over if over else 'units'} ({span})"
    if d.clear:
        return f"{'better' if d.low > 0 else 'worse'} than {baseline} ({span})"
    return f"no significant difference to {baseline} on these images ({span})"


def interval_text(interval: tuple[float, float], *, signed: bool = False) -> str:
    """In per cent: 61.2–66.8, or with signs -0.30 to +1.20; empty for NaN."""
    low, high = interval
    if np.isnan(low):
        return ""
    return f"{100 * low:+.2f} to {100 * high:+.2f}" if signed else f"{100 * low:.1f}–{100 * high:.1f}"


def comparison_page(comparison: Comparison, *, command: str = "") -> str:
    """The same as one self-contained HTML page, with the per-class IoU of every model side by side."""
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
    classes = [
        {"name": name, "color": color, "ious": [float(e.scores.iou[i]) for e in evaluations]}
        for i, (name, color) in enumerate(zip(first.label_space.names, first.label_space.colors, strict=True))
    ]
    return reports.page(
        "comparison.html.j2",
        title="Model comparison",
        lead=f"{first.images} images of split {first.split}",
        over=over.over,
        verdicts=[
            (_verdict_style(d), f"{name}: {verdict(d, comparison.baseline, over)}")
            for name, d in comparison.differences.items()
        ],
        limits=over.note,
        models=models,
        names=list(comparison.evaluations),
        classes=classes,
        command=command,
    )


def _verdict_style(d: PairedDifference) -> str:
    return "warn" if not d.clear else "good" if d.low > 0 else "bad"
