"""``report.html`` of a cross-validation: how far the folds lie apart, in whole and by class."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segwright import pages
from segwright.pages import Markup, Number, Series
from segwright.training.log import read_log

if TYPE_CHECKING:
    from segwright.training.crossval import CrossValidation

MANY = 10  # folds whose curves are drawn


def write_folds_page(path: Path, found: CrossValidation, *, command: str = "") -> Path:
    """Write the page of a cross-validation."""
    return pages.write_page(path, folds_page(found, command=command))


def folds_page(found: CrossValidation, *, command: str = "") -> str:
    """The page as one HTML document; it links to the folds' own reports beside it."""
    summary = found.summary()
    sentence = found.sentence()
    return pages.page(
        "Cross-validation",
        pages.heading("Cross-validation", found.folder.name, kicker="segwright report"),
        pages.paragraph(sentence[0].upper() + sentence[1:] + ".", kind="good" if summary["finished"] else "warn"),
        pages.numbers(_headline(found, summary)),
        pages.section(
            "Folds",
            pages.grid(
                pages.card(_folds(found), title="Scores"), pages.card(_curves(found), title="While training"), wide=True
            ),
            note="Every labelled picture outside the test split is scored once, by the model that has not seen it. "
            "Sequences and near-duplicates are on one side.",
        ),
        pages.section(
            "Classes",
            pages.card(_classes(summary["per_class_iou"])),
            note="Mean and standard deviation over the folds that show the class.",
        ),
        _model(summary),
        pages.section("Command", pages.code(command)) if command else "",
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
        Number("folds", f"{len(found.folds)} of {found.wanted}", f"{sum(len(f.counts) for f in found.folds)} pictures"),
    ]


def _folds(found: CrossValidation) -> Markup:
    rows = []
    for fold in found.folds:
        low, high = fold.ci95
        span = "" if low != low else f"{100 * low:.1f} – {100 * high:.1f}"
        name: Markup | str = f"fold {fold.number}"
        if (fold.folder / "report.html").exists():
            name = pages.tag("a", name, href=f"{fold.folder.name}/report.html")
        rows.append((name, len(fold.counts), pages.bar(fold.miou, label=_percent(fold.miou)), span))
    return pages.table(("", "pictures", "val mIoU", "95 %"), rows, numeric=(1, 3))


def _curves(found: CrossValidation) -> Markup:
    series = []
    for fold in found.folds[:MANY]:
        points = [(r["epoch"], r["val_miou"]) for r in read_log(fold.folder) if r.get("val_miou") is not None]
        if len(points) > 1:
            series.append(Series(f"fold {fold.number}", [float(x) for x, _ in points], [float(y) for _, y in points]))
    if not series:
        return pages.paragraph("Too few validations for curves.", kind="note")
    return pages.line_chart(series, x_label="epoch", y_label="val mIoU")


def _classes(by_class: Mapping[str, Mapping[str, float | None]]) -> Markup:
    rows = [
        (
            name,
            pages.bar(c["mean"], label=_percent(c["mean"])),
            "" if c["spread"] is None else f"± {100 * c['spread']:.1f}",
        )
        for name, c in sorted(by_class.items(), key=lambda pair: -(pair[1]["mean"] or 0.0))
    ]
    return pages.table(("class", "IoU", "spread"), rows, numeric=(2,))


def _model(summary: Mapping[str, Any]) -> Markup:
    if summary["model"] is None:
        return Markup("")
    return pages.section(
        "The model",
        pages.code(f"segwright predict {shlex.quote(str(summary['folder']))} PICTURE"),
        note="The folds' models as one: it answers the mean of their probabilities. All but one of them have trained "
        "on any picture above: only others, such as a test split, can score it.",
    )


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"
