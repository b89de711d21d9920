"""What the commands share: printing for people and for programs."""

from __future__ import annotations

import errno
import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from segwright.core.atomic_io import write_json
from segwright.core.errors import SegwrightError, UsageError
from segwright.core.progress import PlainConsole, visible

Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the result for programs.")]
Format = Annotated[str | None, typer.Option("--format", help="Data format; detected if left out.")]
Images = Annotated[
    str | None, typer.Option("--images", metavar="GLOB", help="Which files are images; with --masks, pairs anything.")
]
Masks = Annotated[
    str | None, typer.Option("--masks", metavar="GLOB", help="Which files are their masks: 'truth/*_gt.png'.")
]
UnlabeledPixels = Annotated[
    str | None,
    typer.Option(
        "--unlabeled-pixels",
        metavar="ignore|background|by-image",
        help="What no point, line, box or outline covers; ignored where all labels are points and lines.",
    ),
]
Boxes = Annotated[
    str | None,
    typer.Option("--boxes", metavar="fill|core", help="Boxes as labels: in full, or the inner fifth of each."),
]
PointRadius = Annotated[
    float | None, typer.Option("--point-radius", metavar="PX", help="Pixels around a labeled point; 2.")
]
LineWidth = Annotated[float | None, typer.Option("--line-width", metavar="PX", help="Pixels across a labeled line; 3.")]
Split = Annotated[str | None, typer.Option("--split", help="Which split of the dataset.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps")]
Data = Annotated[Path, typer.Argument(metavar="DATA", help="Folder or file of the dataset; its format is detected.")]
EightBit = Annotated[
    str | None,
    typer.Option(
        "--eight-bit",
        metavar="scaled|raw",
        help="How 8-bit images are read by a model of deeper ones: brought to 0…255 already, or in the same units.",
    ),
]
TrustExternal = Annotated[
    bool,
    typer.Option(
        "--trust-external", help="Build a saved model of another package (smp:…), with arguments out of the file."
    ),
]
JournalFolder = Annotated[
    Path | None,
    typer.Option("--journal", metavar="DIR", help="Also a row per image (shares, confidence, statistics) for monitor."),
]
KeepImages = Annotated[
    str, typer.Option("--keep-images", metavar="SHARE", help="Of the images, for the journal to keep, such as 1%.")
]
JournalMaxSize = Annotated[
    str, typer.Option("--journal-max-size", metavar="SIZE", help="Of the journal's folder; its oldest files go.")
]
Runtime = Annotated[
    str,
    typer.Option(
        "--runtime",
        metavar="NAME",
        help="usual, torch, onnxruntime, openvino; auto: the fastest that segwright benchmark has proven here, else "
        "the usual one.",
    ),
]
Model = Annotated[Path, typer.Argument(metavar="MODEL", help="A run folder, a bundle or an exported file.")]


def label_options(
    unlabeled_pixels: str | None, boxes: str | None, point_radius: float | None, line_width: float | None
) -> dict[str, Any]:
    """The rule for sparse labels as ``labels=`` takes it: what was given."""
    given = {
        "unlabeled_pixels": unlabeled_pixels,
        "boxes": boxes,
        "point_radius": point_radius,
        "line_width": line_width,
    }
    return {name: value for name, value in given.items() if value is not None}


def console() -> Console:
    """For results: stdout, as wide as the terminal, or wide enough for tables when piped."""
    if sys.stdout.isatty():
        return PlainConsole()
    return PlainConsole(width=None if "COLUMNS" in os.environ else 120)


def report_error(error: SegwrightError) -> None:
    """The error's text on stderr, without a traceback."""
    screen = PlainConsole(stderr=True, soft_wrap=True)
    screen.print(Text("error:", style="bold red"), end=" ")
    text = str(error)
    if error.where:  # a line break in a file's name begins no line of ours
        text = text.replace(error.where, visible(error.where))
    screen.print(text)


def check_json(path: Path | None, sources: Sequence[str] = ()) -> None:
    """Raise UsageError before any work if ``--json FILE`` cannot be written, or is one of ``sources``."""
    if path is None:
        return
    fix = "another file with --json"
    try:
        if any(Path(source).exists() and path.exists() and path.samefile(source) for source in sources):
            raise UsageError("the result would replace a source", where=path, fix=fix)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "a folder is there")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".writing-"):
            pass
    except OSError as error:
        raise UsageError(
            "the result cannot be written", found=error.strerror or str(error), where=path, fix=fix
        ) from error


def write_result(path: Path | None, result: Any) -> None:
    """``--json FILE``."""
    if path is not None:
        write_json(path, result)


def command_line() -> str:
    """The command as it was typed, for config, report and bundle."""
    return shlex.join(["segwright", *sys.argv[1:]])
