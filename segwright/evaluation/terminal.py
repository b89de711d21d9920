"""An evaluation on a terminal: the pooled scores, and a table of the classes with bars."""

from __future__ import annotations

import math

from rich.console import Console
from rich.table import Table
from rich.text import Text

from segwright.core.progress import literal
from segwright.evaluation.compare import interval_text
from segwright.evaluation.evaluate import Evaluation
from segwright.reports import percent

BAR_CELLS = 20
EIGHTHS = " ▏▎▍▌▋▊▉"


def render_evaluation(evaluation: Evaluation, console: Console) -> None:
    """Print the scores: colored bars on a terminal, plain columns otherwise."""
    e, plain = evaluation, not console.is_terminal
    table = Table(box=None if plain else Table().box, pad_edge=not plain)
    table.add_column("class", overflow="fold")
    for header in ("IoU", "Dice", "precision", "recall", "pixels"):
        table.add_column(header, justify="right")
    if not plain:
        table.add_column("", width=BAR_CELLS)
    total = max(1, int(e.scores.pixels.sum()))
    for row, color in zip(e.per_class, e.label_space.colors, strict=True):
        cells: list[str | Text] = [literal(row["name"])]
        cells += [percent(row[key]) for key in ("iou", "dice", "precision", "recall")]
        cells.append(f"{100 * row['pixels'] / total:.2f} %")
        if not plain:
            cells.append(Text(text_bar(row["iou"]), style="rgb({},{},{})".format(*color)))
        table.add_row(*cells)
    console.print(table)
    interval = interval_text(e.miou_ci95)
    lines = [
        f"mIoU {percent(e.miou)}" + (f" (95 % {interval} over {e.independent})" if interval else "")
        + f"  pixel accuracy {percent(e.pixel_accuracy)}  mean accuracy {percent(e.mean_accuracy)}",
        f"frequency-weighted IoU {percent(e.fwiou)}  mean Dice {percent(e.mean_dice)}"
        f"  boundary IoU {percent(e.boundary_iou)}",
        f"{e.images} images of split {e.split}, in per cent; convention: {e.convention} (see docs/metrics.md)",
    ]  # fmt: skip
    if e.calibration is not None:
        lines.insert(2, f"calibration error {percent(e.calibration.ece())}")
    lines += [f"note: {note}" for note in notes(e)]
    for line in lines:
        console.print(literal(line), soft_wrap=True)


def notes(evaluation: Evaluation) -> list[str]:
    """The remarks that are needed to interpret the scores."""
    e = evaluation
    found = list(e.notes)
    absent = [row["name"] for row in e.per_class if math.isnan(row["iou"])]
    if absent:
        found.append(f"neither in the masks nor predicted, left out of the means: {', '.join(absent)}")
    if e.without_mask:
        found.append(f"{len(e.without_mask)} images have no mask and were not scored")
    if e.all_ignored:
        found.append(f"{len(e.all_ignored)} images have only ignored pixels and were not scored")
    if e.skipped:
        found.append(f"{len(e.skipped)} unreadable images were left out: {', '.join(list(e.skipped)[:5])}")
    if e.images < 2:
        found.append("one image gives no interval")
    elif e.independent.note:
        found.append(e.independent.note)
    return found


def text_bar(value: float, cells: int = BAR_CELLS) -> str:
    """A bar of block characters for ``value`` in 0…1, to an eighth of a cell."""
    if math.isnan(value):
        return ""
    eighths = round(min(max(value, 0.0), 1.0) * cells * 8)
    return "█" * (eighths // 8) + EIGHTHS[eighths % 8].strip()
