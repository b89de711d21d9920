"""``report.html`` of a cross-validation: how far the folds lie apart, in whole and by class."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segwright import reports
from segwright.reports import Markup, Number, Series
from segwright.search.folds import CrossValidation
from segwright.training.callbacks.log import read_log

MANY = 10  # folds whose curves are drawn


def write_folds_page(path: Path, found: CrossValidation, *, command: str = "") -> Path:
    """Write the page of a cross-validation."""
    return reports.write_page(path, folds_page(found, command=command))


def folds_page(found: CrossValidation, *, command: str = "") -> str:
    """The page as one HTML document; it links to the folds' own reports beside it."""
    summary = found.summary()
    sentence = found.sentence()
    return reports.page(
        "Cross-validation",
        reports.heading("Cross-validation", found.folder.name, kicker="segwright report"),
        reports.paragraph(sentence[0].upper() + sentence[1:] + ".", kind="good" if summary["finished"] else "warn"),
        reports.numbers(_headline(found, summary)),
        reports.section(
            "Folds",
            reports.grid(
                reports.card(_folds(found), title="Scores"),
                reports.card(_curves(found), title="While training"),
                wide=True,
            ),
            note="Every labeled image outside the test split is scored once, by the model that has not seen it. "
            "Sequences and near-duplicates are on one side.",
        ),
        reports.section(
            "Classes",
            reports.card(_classes(summary["per_class_iou"])),
            note="Mean and standard deviation over the folds that show the class.",
        ),
        _model(summary),
        reports.section("Command", reports.code(command)) if command else "",
    )


def _headline(found: CrossValidation, summary: Mapping[str, Any]) -> list[Number]:
    low, high = summary["val_miou_range"] or (None, None)
    pooled, interval = summary["pooled_miou"], summary["pooled_miou_ci95"] or (None, None)
    spread = summary["val_miou_spread"]
    return [
        Number(
            "val mIoU",
            _percent(summary["val_miou_mean"]),
            "" if spread is None else f"± {100 * spread:.1f} over the folds",
        ),
        Number(
            "pooled",
            _percent(pooled),
            ""
            if interval[0] is None
            else f"95 %: {_percent(interval[0])} to {_percent(interval[1])} over {found.independent()}",
        ),
        Number("worst and best fold", "–" if low is None else f"{_percent(low)} – {_percent(high)}"),
        Number("folds", f"{len(found.folds)} of {found.wanted}", f"{sum(len(f.counts) for f in found.folds)} images"),
    ]


def _folds(found: CrossValidation) -> Markup:
    rows = []
    for fold in found.folds:
        low, high = fold.ci95
        span = "" if low != low else f"{100 * low:.1f} – {100 * high:.1f}"
        name: Markup | str = f"fold {fold.number}"
        if (fold.folder / "report.html").exists():
            name = reports.tag("a", name, href=f"{fold.folder.name}/report.html")
        rows.append((name, len(fold.counts), reports.bar(fold.miou, label=_percent(fold.miou)), span))
    return reports.table(("", "images", "val mIoU", "95 %"), rows, numeric=(1, 3))


def _curves(found: CrossValidation) -> Markup:
    series = []
    for fold in found.folds[:MANY]:
        points = [(r["epoch"], r["val_miou"]) for r in read_log(fold.folder) if r.get("val_miou") is not None]
        if len(points) > 1:
            series.append(Series(f"fold {fold.number}", [float(x) for x, _ in points], [float(y) for _, y in points]))
    if not series:
        return reports.paragraph("Too few validations for curves.", kind="note")
    return reports.line_chart(series, x_label="epoch", y_label="val mIoU")


def _classes(by_class: Mapping[str, Mapping[str, float | None]]) -> Markup:
    rows = [
        (
            name,
            reports.bar(c["mean"], label=_percent(c["mean"])),
            "" if c["spread"] is None else f"± {100 * c['spread']:.1f}",
        )
        for name, c in sorted(by_class.items(), key=lambda pair: -(pair[1]["mean"] or 0.0))
    ]
    return reports.table(("class", "IoU", "spread"), rows, numeric=(2,))


def _model(summary: Mapping[str, Any]) -> Markup:
    if summary["model"] is None:
        return Markup("")
    return reports.section(
        "The model",
        reports.code(f"segwright predict {shlex.quote(str(summary['folder']))} IMAGE"),
        note="The folds' models as one: it answers the mean of their probabilities. All but one of them have trained "
        "on any image above: only others, such as a test split, can score it.",
    )


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"
