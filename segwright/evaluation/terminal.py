"""An evaluation on a terminal: the scores with their intervals, and a table of the classes with bars."""

from __future__ import annotations

import math
import textwrap

from rich.console import Console
from rich.table import Table
from rich.text import Text

from segwright.core.counted import counted
from segwright.core.progress import literal
from segwright.evaluation.compare import interval_text
from segwright.evaluation.evaluation import Evaluation
from segwright.evaluation.intervals import trimap_name
from segwright.evaluation.robustness import CorruptionScores, corruption_table
from segwright.evaluation.slices import Slices, slices_table
from segwright.metrics.boundary import TRIMAP_WIDTHS
from segwright.reports import percent

BAR_CELLS = 20
BAR_FROM = 100  # columns of the terminal; narrower, the classes have no bars
LINE = 80
NO_BREAK = "\u00a0"
IN_PER_CENT = (
    ("pixel accuracy", "pixel_accuracy"),
    ("mean accuracy", "mean_accuracy"),
    ("frequency-weighted IoU", "fwiou"),
    ("mean Dice", "mean_dice"),
    ("mean precision", "mean_precision"),
    ("boundary IoU", "boundary_iou"),
    ("BF score", "bf_score"),
    *((f"mIoU within {width} px of a border", trimap_name(width)) for width in TRIMAP_WIDTHS),
    ("calibration error", "ece"),
    ("classwise calibration error", "classwise_ece"),
)
NATURAL = (("Brier score", "brier"), ("log loss", "nll"))
EIGHTHS = " ▏▎▍▌▋▊▉"


def render_evaluation(evaluation: Evaluation, console: Console) -> None:
    """Print the scores: colored bars on a terminal, plain columns otherwise."""
    e, plain = evaluation, not console.is_terminal
    bars = not plain and console.width >= BAR_FROM
    table = Table(box=None if plain else Table().box, pad_edge=not plain)
    table.add_column("class", overflow="fold")
    for header in ("IoU", "95 %", "Dice", "precision", "recall", "pixels"):
        table.add_column(header, justify="right", no_wrap=True)
    if bars:
        table.add_column("", width=BAR_CELLS)
    total = max(1, int(e.scores.pixels.sum()))
    for row, color in zip(e.per_class, e.label_space.colors, strict=True):
        cells: list[str | Text] = [
            literal(row["name"]),
            percent(row["iou"]),
            interval_text((row["iou_ci95"][0], row["iou_ci95"][1])),
        ]
        cells += [percent(row[key]) for key in ("dice", "precision", "recall")]
        cells.append(f"{100 * row['pixels'] / total:.2f} %")
        if bars:
            cells.append(Text(text_bar(row["iou"]), style="rgb({},{},{})".format(*color)))
        table.add_row(*cells)
    console.print(table)
    interval = interval_text(e.miou_ci95)
    lines = [
        f"mIoU {percent(e.miou)}" + (f" (95 % {interval} over {e.independent})" if interval else ""),
        *_figure_lines(e),
        *_convention_lines(e),
        f"{counted(e.images, 'image')} of split {e.split}, in per cent; convention: pooled (see docs/metrics.md)",
    ]
    slices = e.parts.get("slices")
    if isinstance(slices, Slices):
        if slices.slices:
            console.print(slices_table(slices.slices))
        lines.append(slices.sentence())
    corruptions = e.parts.get("corruptions")
    if isinstance(corruptions, CorruptionScores):
        console.print(corruption_table(corruptions))
        lines.append(corruptions.sentence())
    lines += [f"note: {note}" for note in notes(e)]
    for line in lines:
        console.print(literal(line), soft_wrap=True)


def _figure_lines(e: Evaluation) -> list[str]:
    """The other figures, each with its interval, in lines of at most :data:`LINE` columns."""
    figures, cells = e.figures, []
    for title, name in (*IN_PER_CENT, *NATURAL):
        if math.isnan(figures.get(name, float("nan"))):
            continue
        scale, digits = (100, 1) if (title, name) in IN_PER_CENT else (1, 3)
        low, high = e.interval(name)
        between = "" if math.isnan(low) else f" ({scale * low:.{digits}f}–{scale * high:.{digits}f})"
        cells.append(f"{title} {scale * figures[name]:.{digits}f}{between}".replace(" ", NO_BREAK))
    text = textwrap.wrap("  ".join(cells), LINE, break_long_words=False, break_on_hyphens=False)
    return [line.replace(NO_BREAK, " ") for line in text]


def _convention_lines(e: Evaluation) -> list[str]:
    """What another tool would print, with exactly what differs; nothing for our own convention."""
    if e.convention == "pooled":
        return []
    found = e.convention_result
    lines = [f"{found.convention.name}: what {found.convention.tool} would print"]
    for figure in found.figures:
        shown = f"not computed: {figure.why_not}" if figure.why_not else figure.printed
        low, high = (found.convention.printed(bound) for bound in figure.ci95)
        lines.append(f"  {figure.name}: {shown}" + ("" if math.isnan(figure.ci95[0]) else f"  (95 % {low}–{high})"))
    lines += [f"  {one.name}: {one.printed}" for one in found.lists]
    return [*lines, f"  differs from pooled: {found.convention.differs}"]


def notes(evaluation: Evaluation) -> list[str]:
    """The remarks that are needed to interpret the scores."""
    e = evaluation
    found = list(e.notes)
    absent = [row["name"] for row in e.per_class if math.isnan(row["iou"])]
    if absent:
        found.append(f"neither in the masks nor predicted, left out of the means: {', '.join(absent)}")
    if e.without_mask:
        found.append(f"{counted(len(e.without_mask), 'image', 'has')} no mask: not scored")
    if e.all_ignored:
        found.append(f"{counted(len(e.all_ignored), 'image', 'has')} only ignored pixels: not scored")
    if e.skipped:
        found.append(f"{len(e.skipped)} unreadable images were left out: {', '.join(list(e.skipped)[:5])}")
    if not e.sums.calibration and "ece" in e.not_computed:
        found.append(f"no calibration figures: {e.not_computed['ece']}")
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
