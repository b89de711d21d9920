"""Parts of the report besides images and curves: figures with intervals, calibration, slices, likely label errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segwright import reports
from segwright.evaluation.compare import interval_text
from segwright.evaluation.evaluation import Evaluation
from segwright.evaluation.terminal import IN_PER_CENT, NATURAL
from segwright.reports import Markup, Series, percent

CURVE = ("coverage", "risk", "risk_low", "risk_high")  # of a measure of uncertainty
CHARTED = 40  # classes of a chart with a row each
SLICES_CHARTED = 16
ERRORS_LISTED = 100
NAN = float("nan")


def figure_rows(e: Evaluation) -> list[tuple[str, str, str, str]]:
    """Every headline figure that was computed: name, value, interval, unit."""
    figures, rows = e.figures, []
    for title, name in (("mean IoU", "miou"), *IN_PER_CENT, *NATURAL):
        value = figures.get(name, NAN)
        if math.isnan(value):
            continue
        natural = (title, name) in NATURAL
        scale, digits = (1, 3) if natural else (100, 1)
        low, high = e.miou_ci95 if name == "miou" else e.interval(name)
        between = "" if math.isnan(low) else f"{scale * low:.{digits}f}–{scale * high:.{digits}f}"
        unit = "%" if not natural else "0–2" if name == "brier" else "nats"
        rows.append((title, f"{scale * value:.{digits}f}", between, unit))
    return rows


def class_rows(e: Evaluation) -> list[dict[str, Any]]:
    """The classes with color, share of the pixels and the interval of the IoU."""
    total = max(1, int(e.scores.pixels.sum()))
    return [
        {
            **row,
            "color": color,
            "share": row["pixels"] / total,
            "interval": interval_text((row["iou_ci95"][0], row["iou_ci95"][1])),
        }
        for row, color in zip(e.per_class, e.label_space.colors, strict=True)
    ]


def class_chart(rows: Sequence[Mapping[str, Any]]) -> Markup | None:
    """The IoU of the classes with intervals, the best first; None if there are too many classes or too few."""
    kept = [row for row in rows if not math.isnan(row["iou"])]
    if not 2 <= len(kept) <= CHARTED:
        return None
    kept.sort(key=lambda row: -float(row["iou"]))
    low, high = ([100 * float(row["iou_ci95"][side]) for row in kept] for side in (0, 1))
    return reports.interval_chart(
        [row["name"] for row in kept], [100 * float(row["iou"]) for row in kept], low, high, x_label="IoU, %"
    )


def calibration_cards(e: Evaluation) -> list[tuple[str, Markup]]:
    """The reliability diagram, and how the pixels are spread over the confidence; titles and charts."""
    if e.calibration is None:
        return []
    bins = e.calibration.reliability()
    low, high = ([100 * row["accuracy_ci95"][side] for row in e.reliability()] for side in (0, 1))
    measured = Series("measured", (100 * bins.confidence).tolist(), (100 * bins.accuracy).tolist(), low, high)
    ideal = Series("perfect", [0.0, 100.0], [0.0, 100.0], dots=False)
    diagram = reports.line_chart([measured, ideal], x_label="confidence, %", y_label="correct pixels, %", zero=True)
    share = 100 * bins.pixels / max(int(bins.pixels.sum()), 1)
    spread = reports.bar_chart(
        [f"{100 * edge:.0f}" for edge in bins.edges[:-1]], share.tolist(), x_label="confidence from, %",
        y_label="share of the pixels, %",
    )  # fmt: skip
    return [("Reliability: is what is 80 % sure right in 80 %?", diagram), ("Pixels by confidence", spread)]


def calibration_sentence(e: Evaluation) -> str:
    """How far confidence and accuracy lie apart, and whether the model has a temperature."""
    if e.calibration is None:
        return ""
    low, high = e.interval("ece")
    between = "" if math.isnan(low) else f" (95 % interval {interval_text((low, high))})"
    found = f"Confidence and accuracy differ by {percent(e.calibration.ece())} points on average{between}."
    if e.temperature is not None:
        found += f" The logits of this model are divided by a temperature of {e.temperature:.2f}, kept after training."
    return found


def tool_rows(e: Evaluation) -> tuple[str, list[tuple[str, str, str]]] | None:
    """What the tool of ``--convention`` would print: a sentence, and rows of figure, value, interval."""
    if e.convention == "pooled":
        return None
    found = e.convention_result
    rows = []
    for figure in found.figures:
        low, high = (found.convention.printed(bound) for bound in figure.ci95)
        between = "" if math.isnan(figure.ci95[0]) else f"{low}–{high}"
        rows.append((figure.name, figure.why_not or str(figure.printed), between))
    rows += [(one.name, one.printed, "see Classes") for one in found.lists]
    sentence = f"What {found.convention.tool} would print. It differs from pooled: {found.convention.differs}"
    return sentence, rows


def slice_section(e: Evaluation) -> dict[str, Any] | None:
    """The slices: a sentence, rows for a table, and a chart of those that are clearly different."""
    part = e.parts.get("slices")
    if part is None:
        return None
    slices: list[Mapping[str, Any]] = part.to_json()
    sentence = getattr(part, "sentence", None)
    apart = sorted((s for s in slices if s["clear"]), key=lambda s: float(s["difference"]))[:SLICES_CHARTED]
    chart = None
    if apart:
        low, high = ([100 * _number(s["difference_ci95"][side]) for s in apart] for side in (0, 1))
        chart = reports.interval_chart(
            [str(s["name"]).split(":")[0] for s in apart], [100 * _number(s["difference"]) for s in apart], low, high,
            x_label="mean IoU minus that of the rest, points", signed=True,
        )  # fmt: skip
    return {
        "sentence": sentence() if callable(sentence) else "",
        "chart": chart,
        "rows": [
            {
                "by": s["by"],
                "name": s["name"],
                "images": str(s["images"]),
                "miou": _number(s["miou"]),
                "interval": _interval(s["miou_ci95"]),
                "difference": _points(s["difference"]),
                "difference_interval": _interval(s["difference_ci95"], signed=True),
                "apart": "yes" if s["clear"] else "no",
            }
            for s in slices
        ],
    }


def corruption_section(e: Evaluation) -> dict[str, Any] | None:
    """The scores under corruptions: a sentence, a chart with the clean score, and rows for a table."""
    part = e.parts.get("corruptions")
    if part is None:
        return None
    tree: Mapping[str, Any] = part.to_json()
    sentence = getattr(part, "sentence", None)
    scored: list[tuple[str, Mapping[str, Any]]] = [("clean", tree["clean"])]
    scored += [(f"{one['corruption']}:{one['strength']}", one) for one in tree["corruptions"]]
    low, high = ([100 * _number(one["miou_ci95"][side]) for _, one in scored] for side in (0, 1))
    names, values = [name for name, _ in scored], [100 * _number(one["miou"]) for _, one in scored]
    chart = reports.interval_chart(names, values, low, high, x_label="mean IoU, %")
    if len(scored) > 2:
        scored.append(("mean of the corruptions", tree["mean"]))
    return {
        "sentence": sentence() if callable(sentence) else "",
        "chart": chart,
        "rows": [
            {
                "name": name,
                "miou": _number(one["miou"]),
                "interval": _interval(one["miou_ci95"]),
                "change": _points(one.get("change")) if "change" in one else "",
                "change_interval": _interval(one.get("change_ci95", (None, None)), signed=True),
                "accuracy": _number(one.get("pixel_accuracy")),
                "ece": _number(one.get("ece")),
                "apart": "yes" if one.get("clear") else "no" if "clear" in one else "",
            }
            for name, one in scored
        ],
    }


def label_error_section(e: Evaluation, numbers: Mapping[str, int]) -> dict[str, Any] | None:
    """Likely label errors, the likeliest first; ``numbers``: image → its number in the viewer."""
    part = e.parts.get("label_errors")
    if part is None:
        return None
    tree: Mapping[str, Any] = part.to_json()
    return {
        "found": str(tree["regions_found"]),
        "rows": [
            {
                "rank": str(r["rank"]),
                "image": r["id"],
                "number": numbers.get(r["id"]),
                "given": r["given"],
                "suggested": r["suggested"],
                "share": _number(r["share"]),
                "sure": _number(r["suggested_probability"]),
                "box": "{} × {} at {}, {}".format(r["box"][2], r["box"][3], r["box"][0], r["box"][1]),
            }
            for r in tree["regions"][:ERRORS_LISTED]
        ],
    }


def uncertainty_section(e: Evaluation) -> dict[str, Any] | None:
    """How well each measure of uncertainty finds the wrong pixels: rows for a table, and risk by coverage."""
    part = e.parts.get("uncertainty")
    if part is None:
        return None
    tree: Mapping[str, Mapping[str, Any]] = part.to_json()
    lines = []
    for name, found in tree.items():
        x, y, low, high = ([100 * _number(v) for v in found.get(key, ())] for key in CURVE)
        lines.append(Series(name, x, y, low, high))
    rows = []
    for name, found in sorted(tree.items(), key=lambda item: -np.nan_to_num(_number(item[1]["auroc"]))):
        row = [name]
        for figure in ("auroc", "aupr", "aurc"):
            row += [percent(_number(found[figure]), 2), _interval(found["intervals"][figure])]
        rows.append(row)
    chart = reports.line_chart(
        lines, x_label="coverage: the surest pixels, %", y_label="risk: wrong among them, %", zero=True
    )
    return {"chart": chart, "rows": rows}


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float | np.floating) else NAN


def _interval(pair: Sequence[object], *, signed: bool = False) -> str:
    low, high = (_number(value) for value in pair)
    if math.isnan(low) or math.isnan(high):
        return ""
    return f"{100 * low:+.1f} to {100 * high:+.1f}" if signed else f"{100 * low:.1f}–{100 * high:.1f}"


def _points(value: object) -> str:
    number = _number(value)
    return "–" if math.isnan(number) else f"{100 * number:+.1f}"
