"""``study.html``: the trials of a search, the importance of the settings, and the comparison with the default."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segwright import reports
from segwright.core.counted import as_sentence
from segwright.core.progress import duration
from segwright.reports import Markup, Number, Series
from segwright.search.study import Study, Trial

CURVES = 8  # trials whose curves are drawn: more would be unreadable


def write_study_page(path: Path, study: Study) -> Path:
    """Write the page of a search."""
    return reports.write_page(path, study_page(study))


def study_page(study: Study) -> str:
    """The page as one HTML document."""
    scored = [trial for trial in study.trials if trial.state == "complete" and trial.miou is not None]
    total = sum(study.importance.values()) or 1.0
    return reports.page(
        "study.html.j2",
        title="Tuning",
        folder=study.folder.name,
        sentence=as_sentence(study.sentence),
        kind="good" if study.beats_default else "warn",
        notes=study.notes,
        tiles=_headline(study, scored),
        history=_history(scored),
        curves=_curves(study),
        importance=[(name, value / total) for name, value in study.importance.items()],
        slices=[_slice(name, scored) for name in _parameters(scored)],
        trial_headers=("trial", "val mIoU", "state", *_names(study.trials), "time"),
        trials=_rows(study.trials),
        command=f"segwright train DATA --config {shlex.quote(str(study.config))}",
    )


def _headline(study: Study, scored: Sequence[Trial]) -> list[Number]:
    default = next((trial.miou for trial in scored if trial.number == 0), None)
    pruned = sum(trial.state == "pruned" for trial in study.trials)
    each = duration(60 * study.trial_minutes)
    found = [
        Number(
            "best trial",
            f"{study.best.miou:.3f}" if study.best.miou is not None else "–",
            f"trial {study.best.number}",
        ),
        Number("default", "–" if default is None else f"{default:.3f}", "trial 0"),
        Number("trials", str(len(study.trials)), f"{pruned} ended early"),
        Number("time", duration(sum(trial.seconds for trial in study.trials)), f"{each} each"),
    ]
    d = study.difference
    if d is not None:
        over = "" if study.independent is None else f" over {study.independent}"
        note = f"95 %: {100 * d.low:+.2f} to {100 * d.high:+.2f}{over}; {duration(60 * study.final_minutes)} each"
        found.insert(0, Number("winner − default", f"{100 * d.difference:+.2f} points", note))
    return found


def _history(scored: Sequence[Trial]) -> Markup:
    numbers = [float(trial.number) for trial in scored]
    values = [float(trial.miou or 0.0) for trial in scored]
    best = np.maximum.accumulate(values).tolist() if values else []
    return reports.line_chart(
        [Series("best so far", numbers, best), Series("trial", numbers, values)],
        x_label="trial",
        y_label="validation mIoU, 0–1",
    )


def _curves(study: Study) -> Markup | None:
    ordered = sorted(
        (trial for trial in study.trials if trial.curve), key=lambda trial: (trial.number != 0, -(trial.miou or 0.0))
    )[:CURVES]
    series = [
        Series(f"trial {t.number}", [10.0 * step for step in sorted(t.curve)], [t.curve[s] for s in sorted(t.curve)])
        for t in ordered
    ]
    if not series:
        return None
    return reports.line_chart(series, x_label="time of the trial, %", y_label="validation mIoU, 0–1")


def _parameters(scored: Sequence[Trial]) -> list[str]:
    """The settings that differed between trials; a constant one has nothing to show."""
    names = scored[0].params if scored else ()
    return [name for name in names if len({trial.params[name] for trial in scored}) > 1]


def _slice(name: str, scored: Sequence[Trial]) -> dict[str, Any]:
    """A scatter chart over a number; best and mean of every choice over names."""
    values = [trial.params[name] for trial in scored]
    scores = [float(trial.miou or 0.0) for trial in scored]
    if all(isinstance(value, int | float) for value in values) and name != "crop":
        # Factors are spread over orders of magnitude: they are drawn evenly by their logarithm.
        factor = name in ("lr", "weight_decay", "zoom")
        x = [float(np.log10(value)) if factor else float(value) for value in values]
        label = f"log10 of the factor on {name}" if factor else name
        chart = reports.scatter_chart([Series("trial", x, scores)], x_label=label, y_label="validation mIoU, 0–1")
        return {"name": name, "chart": chart, "rows": []}
    rows = []
    for choice in dict.fromkeys(values):
        mine = [score for value, score in zip(values, scores, strict=True) if value == choice]
        rows.append((str(choice), len(mine), f"{max(mine):.3f}", f"{np.mean(mine):.3f}"))
    rows.sort(key=lambda row: row[2], reverse=True)
    return {"name": name, "chart": None, "rows": rows}


def _names(trials: Sequence[Trial]) -> list[str]:
    return list(trials[0].params) if trials else []


def _rows(trials: Sequence[Trial]) -> list[Sequence[object]]:
    """One row per trial, the best first."""
    return [
        (
            trial.number,
            "–" if trial.miou is None else f"{trial.miou:.3f}",
            trial.note or trial.state,
            *(f"{v:.3g}" if isinstance(v, float) else v for v in (trial.params.get(n, "") for n in _names(trials))),
            duration(trial.seconds),
        )
        for trial in sorted(trials, key=lambda trial: -(trial.miou or 0.0))
    ]
