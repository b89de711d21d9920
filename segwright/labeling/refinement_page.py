"""The report of a refinement: the candidate beside the model before, on new and old images, class by class."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Protocol

from segwright import reports
from segwright.evaluation.compare import absent_note
from segwright.labeling.paired_scores import PairedScores

MOST_CHARTED = 40  # classes of a chart with a row each


class Judged(Protocol):
    """A refinement."""

    @property
    def new(self) -> PairedScores | None: ...
    @property
    def old(self) -> PairedScores | None: ...
    @property
    def notes(self) -> tuple[str, ...]: ...
    @property
    def better(self) -> bool: ...
    @property
    def model(self) -> Path: ...
    @property
    def parent(self) -> Path: ...
    def verdict(self) -> str: ...


def write_refinement_page(path: Path, found: Judged) -> None:
    """Write the page atomically; OutputError if it cannot be written."""
    reports.write_page(path, refinement_page(found))


def refinement_page(found: Judged) -> str:
    """One self-contained HTML page."""
    return reports.page(
        "refinement.html.j2",
        title="Refinement",
        lead=f"{found.model} beside {found.parent}",
        verdict=found.verdict(),
        kind="good" if found.better else "warn",
        notes=found.notes,
        parts_shown=[_section(one) for one in (found.new, found.old) if one is not None],
        command=f"segwright promote {found.model} SLOT",
    )


def _section(one: PairedScores) -> dict[str, Any]:
    shown = sorted((c for c in one.classes if not math.isnan(c.difference)), key=lambda c: -c.difference)
    chart = None
    if 0 < len(shown) <= MOST_CHARTED:
        chart = reports.interval_chart(
            [c.name for c in shown], *([100 * getattr(c, key) for c in shown] for key in ("difference", "low", "high")),
            x_label="IoU of the candidate minus that of the model before, points", signed=True,
        )  # fmt: skip
    return {
        "title": f"{one.data.capitalize()} images" if one.data in ("new", "old") else one.data,
        "sentence": one.sentence(),
        "kind": "warn" if not one.difference.clear else "good" if one.difference.low > 0 else "bad",
        "notes": [*filter(None, [absent_note(one.absent), one.over.note])],
        "rows": one.cells(),
        "chart": chart,
    }
