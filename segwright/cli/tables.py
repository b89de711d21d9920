"""Tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from segwright.data.catalogue import Downloadable
    from segwright.data.formats import Format
    from segwright.evaluation.tune_post import Trial


def models_table(rows: Sequence[Mapping[str, Any]], measured: bool) -> Table:
    """The catalog, one row a network."""
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("name", no_wrap=True)
    table.add_column("parameters", justify="right", no_wrap=True)
    table.add_column("stride", justify="right")
    if measured:
        for title in ("GFLOP", "train MiB/img", "ms/img here"):
            table.add_column(title, justify="right", no_wrap=True)
    table.add_column("what it is, when to use it")
    table.add_column("weights")
    for row in rows:
        cells = [str(row["name"]), f"{row['parameters'] / 1e6:.1f} M", str(row["stride"])]
        if measured:
            cells += [f"{row['gflop']:.1f}", f"{row['training_mib']:.0f}", f"{row['latency_ms']:.0f}"]
        table.add_row(*cells, f"{row['summary']} [dim]({row['paper']})[/]", str(row["licence"]))
    return table


def print_prediction(result: Mapping[str, Any], console: Console) -> None:
    """What was written and, for a single picture, what is in it."""
    for item in result["results"][:1] if result["pictures"] == 1 else ():
        for name, share in sorted(item["shares"].items(), key=lambda pair: -pair[1]):
            console.print(f"{name:>16} {share:6.1%}")
        console.print(f"mean confidence {item['mean_confidence']:.2f}")
        console.print(f"mask: {item['mask']}" + (f"\noverlay: {item['overlay']}" if "overlay" in item else ""))
    if result["pictures"] != 1:
        console.print(f"{result['pictures']} pictures segmented: {result['out']}")
    for item in result["failed"]:
        console.print(f"[red]not segmented:[/] {item['error']}")


def tuning_table(trials: Sequence[Trial], baseline: float, rows: int = 8) -> Table:
    """The best chains of a search, beside the network alone."""
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("chain")
    for title in ("mIoU", "gain", "ms a picture"):
        table.add_column(title, justify="right")
    for trial in sorted(trials, key=lambda trial: -trial.miou)[:rows]:
        gain = f"{100 * (trial.miou - baseline):+.2f}"
        table.add_row(trial.chain or "(the network alone)", f"{trial.miou:.4f}", gain, f"{trial.milliseconds:.0f}")
    return table


def formats_table(formats: Sequence[Format]) -> Table:
    """The data formats, with what each is recognised by."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    for known in formats:
        table.add_row(known.name, f"{known.title}: {known.looks_for}")
    return table


def downloads_table(entries: Sequence[Downloadable]) -> Table:
    """What can be downloaded, how large it is, on what terms."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(no_wrap=True, justify="right")
    for entry in entries:
        table.add_row(entry.name, f"{entry.bytes / 1e9:.1f} GB", f"{entry.title} [dim]({entry.licence})[/]")
    return table


def trials_table(trials: Sequence[Mapping[str, Any]], rows: int = 10) -> Table:
    """The best trainings of a search, the default among them."""
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("trial", no_wrap=True)
    table.add_column("val mIoU", justify="right")
    table.add_column("state")
    for name in trials[0]["params"] if trials else ():
        table.add_column(name)
    ordered = sorted(trials, key=lambda trial: -(trial["val_miou"] or 0.0))
    default = [trial for trial in ordered[rows:] if trial["number"] == 0]
    for trial in ordered[:rows] + default:
        values = [f"{v:.2g}" if isinstance(v, float) else str(v) for v in trial["params"].values()]
        name = "0, the default" if trial["number"] == 0 else str(trial["number"])
        miou = trial["val_miou"]
        table.add_row(name, "–" if miou is None else f"{miou:.3f}", trial["note"] or trial["state"], *values)
    return table


def folds_table(summary: Mapping[str, Any]) -> Table:
    """A cross-validation: a row a fold, and the spread of every class."""
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("fold")
    for title in ("pictures", "val mIoU", "95 %"):
        table.add_column(title, justify="right")
    for fold in summary["folds"]:
        low, high = fold["val_miou_ci95"]
        span = "" if low is None or low != low else f"{low:.3f}–{high:.3f}"
        table.add_row(str(fold["fold"]), str(fold["pictures"]), f"{fold['val_miou']:.3f}", span)
    for name, found in summary["per_class_iou"].items():
        if found["mean"] is not None:
            spread = "" if found["spread"] is None else f"± {found['spread']:.3f}"
            table.add_row(f"[dim]IoU of[/] {name}", "", f"{found['mean']:.3f}", spread)
    return table
