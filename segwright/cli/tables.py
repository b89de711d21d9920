"""Tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from segwright.core.counted import counted
from segwright.core.progress import literal, visible

if TYPE_CHECKING:
    from segwright.data.download.catalog import DatasetEntry
    from segwright.data.formats import Format
    from segwright.search.tune_postprocessing import Trial

MOST_FAILURES = 20  # listed on the screen
LOWEST = 3  # images of the lowest estimated mIoU that are named
WIDE = 110  # columns from which the networks are a table
MODEL_GROUPS = {
    "today": "To choose from",
    "torchvision": "torchvision's networks, with its COCO weights",
    "classic": "The classics, as published",
    "plugin": "Of plugins",
}


def print_models(rows: Sequence[Mapping[str, Any]], console: Console, size: str | None = None) -> None:
    """The catalog by groups: a table where there is room for one, else a paragraph a network; then what the words mean.

    ``size``: the image's size where the rows were measured.
    """
    for group, title in MODEL_GROUPS.items():
        members = [row for row in rows if row["group"] == group]
        if not members:
            continue
        console.print(Text(f"\n{title}\n", style="bold underline"))
        if console.width >= WIDE:
            console.print(_models_table(members, size is not None))
            continue
        for row in members:
            console.print(literal(row["name"], "bold") + Text(f"  {' · '.join(_figures(row))}"))
            console.print(Padding(_model_text(row), (0, 0, 1, 2)))
    console.print(_legend(size))


def _models_table(rows: Sequence[Mapping[str, Any]], measured: bool) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 2, 1, 0))
    table.add_column("name", no_wrap=True)
    for title in ("parameters", "stride"):
        table.add_column(title, justify="right", no_wrap=True)
    if measured:
        for title in ("GFLOP", "training\nMiB", "ms\nhere"):
            table.add_column(title, justify="right", no_wrap=True)
    table.add_column("what it is, when to use it")
    for row in rows:
        cells = [str(row["name"]), f"{row['parameters'] / 1e6:.1f} M", str(row["stride"])]
        if measured:
            memory = f"{row['fixed_mib']:.0f} + {row['training_mib']:.0f} n"
            cells += [f"{row['gflop']:.1f}", memory, f"{row['latency_ms']:.0f}"]
        table.add_row(*cells, _model_text(row))
    return table


def _figures(row: Mapping[str, Any]) -> list[str]:
    figures = [f"{row['parameters'] / 1e6:.1f} M parameters", f"stride {row['stride']}"]
    if "gflop" in row:
        figures += [f"{row['gflop']:.1f} GFLOP", f"training {row['fixed_mib']:.0f} + {row['training_mib']:.0f} n MiB"]
        figures.append(f"{row['latency_ms']:.0f} ms here")
    return figures


def _model_text(row: Mapping[str, Any]) -> Text:
    encoder = f"encoder: {row['encoder']} unless you name one; " if row["encoder"] and row["group"] == "today" else ""
    return Text(f"{row['summary']}\n").append(f"{encoder}{row['paper']}; weights: {row['license']}", "dim")


def _legend(size: str | None) -> Table:
    """What the words above mean, and what to do next."""
    lines = {
        "parameters": "of the network with 21 classes",
        "stride": "scored is one cell of so many pixels per side (1: every pixel), then enlarged to the image's size",
        "weights": "the license of the pretrained ones, which --weights auto takes where it can",
    }
    if size is not None:
        lines |= {
            "GFLOP": f"one image of {size} forward; a multiplication and an addition are two",
            "training": "memory at the peak in fp32: for weights, gradients and AdamW, and for each of the n images",
            "ms here": "one image forward on this machine's CPU, the median",
        }
    else:
        lines["cost here"] = "segwright models NAME --measure"
    lines["train one"] = "segwright train DATA --model NAME [--encoder ENCODER]"
    lines["others'"] = "torchvision:NAME, smp:NAME and transformers:TYPE are names too"
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), style="dim")
    table.add_column(no_wrap=True)
    table.add_column()
    for word, meaning in lines.items():
        table.add_row(word, Text(meaning))
    return table


def print_prediction(result: Mapping[str, Any], console: Console) -> None:
    """What was written and, for a single image, what is in it. Names of files and classes are never markup."""

    def message(text: str) -> None:
        console.print(literal(visible(text, lines=True)), soft_wrap=True)

    for item in result["results"][:1] if result["images"] == 1 else ():
        for name, share in sorted(item.get("shares", {}).items(), key=lambda pair: -pair[1]):
            message(f"{name:>16} {share:6.1%}")
        if "mean_confidence" in item:
            message(f"mean confidence {item['mean_confidence']:.2f}")
        if "mean_uncertainty" in item:
            message(f"mean uncertainty {item['mean_uncertainty']:.3f}")
        if "quality" in item:
            message(item["quality"].get("summary") or item["quality"]["note"])
        for kind in ("mask", "overlay", "confidence", "probabilities", "uncertainty", "geojson", "labelme", "video"):
            if kind in item:
                placed = f"  (placed by {item['placed']})" if kind == "mask" and "placed" in item else ""
                message(f"{kind}: {item[kind]}{placed}")
    if result["images"] != 1:
        message(f"{counted(result['images'], 'image')} segmented: {result['out']}")
        for line in _qualities(result["results"]):
            message(line)
    for kind in ("coco", "areas"):
        if kind in result:
            message(f"{kind}: {result[kind]}")
    if "journal" in result:
        message(f"journal: {counted(result['journal']['rows'], 'row')}: {result['journal']['folder']}")
    for note in result.get("notes", ()):
        message(f"note: {note}")
    for item in result["failed"][:MOST_FAILURES]:
        console.print(
            Text.assemble(("not segmented:", "red"), f" {visible(item['error'], lines=True)}"), soft_wrap=True
        )
    if len(result["failed"]) > MOST_FAILURES:
        message(f"… {counted(len(result['failed']), 'file')} could not be segmented; --json FILE lists all")
    if "stopped" in result:
        console.print(Text.assemble(("stopped:", "red"), f" {visible(result['stopped'], lines=True)}"), soft_wrap=True)


def _qualities(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of several images: the mean of their estimated mIoUs and the lowest, or why there is none."""
    found = [(one["quality"]["estimated_miou"], one) for one in results if "estimated_miou" in one.get("quality", {})]
    if not found:
        return sorted({f"no estimated mIoU: {one['quality']['note']}" for one in results if "quality" in one})
    found.sort(key=lambda pair: float(pair[0]["iou"]))
    mean = sum(estimate["iou"] for estimate, _ in found) / len(found)
    lowest = ", ".join(f"{one['file']} {100 * estimate['iou']:.0f} %" for estimate, one in found[:LOWEST])
    unlike = sum(one["quality"]["extrapolates"] for _, one in found)
    lines = [f"estimated mIoU {100 * mean:.0f} % in the mean of {counted(len(found), 'image')}; lowest: {lowest}"]
    if unlike:
        lines.append(f"{counted(unlike, 'image', 'is')} unlike those that the estimate was fitted on")
    return lines


def tuning_table(trials: Sequence[Trial], baseline: float, rows: int = 8) -> Table:
    """The best pipelines of a search, beside the network alone."""
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("pipeline")
    for title in ("mIoU", "gain", "ms per image"):
        table.add_column(title, justify="right")
    for trial in sorted(trials, key=lambda trial: -trial.miou)[:rows]:
        gain = f"{100 * (trial.miou - baseline):+.2f}"
        table.add_row(
            literal(trial.pipeline) if trial.pipeline else "(the network alone)",
            f"{trial.miou:.4f}",
            gain,
            f"{trial.milliseconds:.0f}",
        )
    return table


def formats_table(formats: Sequence[Format]) -> Table:
    """The data formats, with what each is recognized by."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    for known in formats:
        table.add_row(known.name, f"{known.title}: {known.layout}")
    return table


def downloads_table(entries: Sequence[DatasetEntry]) -> Table:
    """What can be downloaded, how large it is, on what terms."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(no_wrap=True, justify="right")
    for entry in entries:
        table.add_row(entry.name, f"{entry.bytes / 1e9:.1f} GB", Text(entry.title).append(f" ({entry.license})", "dim"))
    return table


def trials_table(trials: Sequence[Mapping[str, Any]], rows: int = 10) -> Table:
    """The best trainings of a search, the default among them."""
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("trial", no_wrap=True)
    table.add_column("val mIoU", justify="right")
    table.add_column("state")
    for name in trials[0]["params"] if trials else ():
        table.add_column(literal(name))
    ordered = sorted(trials, key=lambda trial: -(trial["val_miou"] or 0.0))
    default = [trial for trial in ordered[rows:] if trial["number"] == 0]
    for trial in ordered[:rows] + default:
        values = [f"{v:.2g}" if isinstance(v, float) else str(v) for v in trial["params"].values()]
        name = "0, the default" if trial["number"] == 0 else str(trial["number"])
        miou = trial["val_miou"]
        note = literal(trial["note"] or trial["state"])
        table.add_row(name, "–" if miou is None else f"{miou:.3f}", note, *map(literal, values))
    return table


def folds_table(summary: Mapping[str, Any]) -> Table:
    """A cross-validation: a row a fold, and the spread of every class."""
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("fold")
    for title in ("images", "val mIoU", "95 %"):
        table.add_column(title, justify="right")
    for fold in summary["folds"]:
        low, high = fold["val_miou_ci95"]
        span = "" if low is None or low != low else f"{low:.3f}–{high:.3f}"
        table.add_row(str(fold["fold"]), str(fold["images"]), f"{fold['val_miou']:.3f}", span)
    for name, found in summary["per_class_iou"].items():
        if found["mean"] is not None:
            spread = "" if found["spread"] is None else f"± {found['spread']:.3f}"
            table.add_row(Text.assemble(("IoU of ", "dim"), visible(name)), "", f"{found['mean']:.3f}", spread)
    return table
