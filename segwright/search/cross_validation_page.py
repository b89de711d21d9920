"""``report.html`` of a cross-validation: the spread of the scores over the folds, overall and per class."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segwright import reports
from segwright.core.counted import as_sentence, counted
from segwright.reports import Markup, Number, Series, percent
from segwright.search.folds import CrossValidation, Fold
from segwright.training.callbacks.log import read_log

MANY = 10  # folds whose curves are drawn


def write_folds_page(path: Path, found: CrossValidation, *, command: str = "") -> Path:
    """Write the page of a cross-validation."""
    return reports.write_page(path, folds_page(found, command=command))


def folds_page(found: CrossValidation, *, command: str = "") -> str:
    """The page as one HTML document; it links to the folds' own reports beside it."""
    summary = found.summary()
    return reports.page(
        "cross_validation.html.j2",
        title="Cross-validation",
        folder=found.folder.name,
        sentence=as_sentence(found.sentence()),
        finished=summary["finished"],
        tiles=_headline(found, summary),
        folds=[_fold(fold) for fold in found.folds],
        chart=_curves(found),
        classes=_classes(summary["per_class_iou"]),
        predict=summary["model"] and f"segwright predict {shlex.quote(str(summary['folder']))} IMAGE",
        command=command,
    )


def _headline(found: CrossValidation, summary: Mapping[str, Any]) -> list[Number]:
    low, high = summary["val_miou_range"] or (None, None)
    pooled, interval = summary["pooled_miou"], summary["pooled_miou_ci95"] or (None, None)
    spread = summary["val_miou_spread"]
    return [
        Number(
            "val mIoU",
            f"{percent(summary['val_miou_mean'])} %",
            "" if spread is None else f"± {100 * spread:.1f} over the folds",
        ),
        Number(
            "pooled",
            f"{percent(pooled)} %",
            ""
            if interval[0] is None
            else f"95 %: {percent(interval[0])} to {percent(interval[1])} over {found.independent()}",
        ),
        Number("worst and best fold", "–" if low is None else f"{percent(low)} – {percent(high)} %"),
        Number(
            "folds",
            f"{len(found.folds)} of {found.wanted}",
            counted(sum(len(f.counts) for f in found.folds), "image"),
        ),
    ]


def _fold(fold: Fold) -> dict[str, Any]:
    low, high = fold.ci95
    return {
        "name": f"fold {fold.number}",
        "link": f"{fold.folder.name}/report.html" if (fold.folder / "report.html").exists() else None,
        "images": len(fold.counts),
        "miou": fold.miou,
        "interval": "" if math.isnan(low) else f"{100 * low:.1f} – {100 * high:.1f}",
    }


def _curves(found: CrossValidation) -> Markup | None:
    series = []
    for fold in found.folds[:MANY]:
        points = [(r["epoch"], r["val_miou"]) for r in read_log(fold.folder) if r.get("val_miou") is not None]
        if len(points) > 1:
            series.append(Series(f"fold {fold.number}", [float(x) for x, _ in points], [100.0 * y for _, y in points]))
    return reports.line_chart(series, x_label="epoch", y_label="validation mIoU, %") if series else None


def _classes(by_class: Mapping[str, Mapping[str, float | None]]) -> list[dict[str, Any]]:
    """The classes, the best first."""
    ordered = sorted(by_class.items(), key=lambda pair: -(pair[1]["mean"] or 0.0))
    return [{"name": name, "mean": c["mean"], "spread": c["spread"]} for name, c in ordered]
