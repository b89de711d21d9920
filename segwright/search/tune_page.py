"""``study.html``: what a search tried, what mattered, and whether it paid. One self-contained page."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segwright import reports
from segwright.core.progress import duration
from segwright.reports import Markup, Number, Series
from segwright.search.tuning import Trial, Tuning

CURVES = 8  # trials whose curves are drawn: more than that is a thicket


def write_study_page(path: Path, tuning: Tuning) -> Path:
    """Write the page of a search."""
    return reports.write_page(path, study_page(tuning))


def study_page(tuning: Tuning) -> str:
    """The page as one HTML document."""
    scored = [trial for trial in tuning.trials if trial.state == "complete" and trial.miou is not None]
    mood = "warn" if not tuning.beats_default else "good"
    return reports.page(
        "Tuning",
        reports.heading("Tuning", tuning.folder.name, kicker="segwright"),
        reports.paragraph(tuning.sentence[0].upper() + tuning.sentence[1:] + ".", kind=mood),
        reports.numbers(_headline(tuning, scored)),
        reports.section(
            "The search",
            reports.grid(
                reports.card(_history(scored), title="Score by trial"),
                reports.card(_curves(tuning), title="Scores over a trial's time"),
                reports.card(_importance(tuning), title="What decides"),
                wide=True,
            ),
            note="Validation mIoU of a trial's best model. The best of many is partly luck: the comparison counts.",
        ),
        reports.section(
            "Slices",
            reports.grid(*(reports.card(_slice(name, scored), title=name) for name in _parameters(scored)), wide=True),
            note="Every trial's score by one of its settings. lr, weight_decay, crop and zoom are factors on the plan.",
        ),
        reports.section("Trials", reports.card(_table(tuning.trials))),
        reports.section(
            "Train with it", reports.code(f"segwright train DATA --config {shlex.quote(str(tuning.config))}")
        ),
    )


def _headline(tuning: Tuning, scored: Sequence[Trial]) -> list[Number]:
    default = next((trial.miou for trial in scored if trial.number == 0), None)
    pruned = sum(trial.state == "pruned" for trial in tuning.trials)
    found = [
        Number(
            "best trial",
            f"{tuning.best.miou:.3f}" if tuning.best.miou is not None else "–",
            f"trial {tuning.best.number}",
        ),
        Number("default", "–" if default is None else f"{default:.3f}", "trial 0"),
        Number("trials", str(len(tuning.trials)), f"{pruned} ended early"),
        Number("time", duration(sum(trial.seconds for trial in tuning.trials)), f"{tuning.trial_minutes:g} min each"),
    ]
    d = tuning.difference
    if d is not None:
        over = "" if tuning.independent is None else f" over {tuning.independent}"
        note = f"95 %: {100 * d.low:+.2f} to {100 * d.high:+.2f}{over}; {tuning.final_minutes:g} min each"
        found.insert(0, Number("winner − default", f"{100 * d.difference:+.2f} points", note))
    return found


def _history(scored: Sequence[Trial]) -> Markup:
    numbers = [float(trial.number) for trial in scored]
    values = [float(trial.miou or 0.0) for trial in scored]
    best = np.maximum.accumulate(values).tolist() if values else []
    return reports.line_chart(
        [Series("best so far", numbers, best), Series("trial", numbers, values)], x_label="trial", y_label="val mIoU"
    )


def _curves(tuning: Tuning) -> Markup:
    ordered = sorted(
        (trial for trial in tuning.trials if trial.curve), key=lambda trial: (trial.number != 0, -(trial.miou or 0.0))
    )[:CURVES]
    series = [
        Series(f"trial {t.number}", [10.0 * step for step in sorted(t.curve)], [t.curve[s] for s in sorted(t.curve)])
        for t in ordered
    ]
    if not series:
        return reports.paragraph("No trial was validated before its end.", kind="note")
    return reports.line_chart(series, x_label="% of the trial's time", y_label="val mIoU")


def _importance(tuning: Tuning) -> Markup:
    if not tuning.importance:
        return reports.paragraph("Too few finished trials to tell.", kind="note")
    total = sum(tuning.importance.values()) or 1.0
    rows = [(name, reports.bar(v / total, label=f"{v / total:.0%}")) for name, v in tuning.importance.items()]
    return reports.table(("setting", "share"), rows)


def _parameters(scored: Sequence[Trial]) -> list[str]:
    """Those that differed between trials: of one choice alone there is nothing to see."""
    names = scored[0].params if scored else ()
    return [name for name in names if len({trial.params[name] for trial in scored}) > 1]


def _slice(name: str, scored: Sequence[Trial]) -> Markup:
    """A cloud over a number; best and mean of every choice over names."""
    values = [trial.params[name] for trial in scored]
    scores = [float(trial.miou or 0.0) for trial in scored]
    if all(isinstance(value, int | float) for value in values) and name != "crop":
        # Factors are spread over orders of magnitude: their logarithm is what was drawn evenly.
        factor = name in ("lr", "weight_decay", "zoom")
        x = [float(np.log10(value)) if factor else float(value) for value in values]
        label = f"log10 of {name}'s factor" if factor else name
        return reports.scatter_chart([Series("trial", x, scores)], x_label=label, y_label="val mIoU")
    rows = []
    for choice in dict.fromkeys(values):
        mine = [score for value, score in zip(values, scores, strict=True) if value == choice]
        rows.append((str(choice), len(mine), f"{max(mine):.3f}", f"{np.mean(mine):.3f}"))
    rows.sort(key=lambda row: row[2], reverse=True)
    return reports.table((name, "trials", "best", "mean"), rows, numeric=(1, 2, 3))


def _table(trials: Sequence[Trial]) -> Markup:
    names = list(trials[0].params) if trials else []
    rows = [
        (
            trial.number,
            "–" if trial.miou is None else f"{trial.miou:.3f}",
            trial.note or trial.state,
            *(f"{v:.3g}" if isinstance(v, float) else str(v) for v in (trial.params.get(name, "") for name in names)),
            duration(trial.seconds),
        )
        for trial in sorted(trials, key=lambda trial: -(trial.miou or 0.0))
    ]
    return reports.table(("trial", "val mIoU", "state", *names, "time"), rows, numeric=(0, 1))
