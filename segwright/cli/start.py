"""What ``segwright`` alone shows: what can be done, and what comes next with what is here."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.text import Text

from segwright.core.version import __version__

LATEST = Path("runs/latest")
FIRST = {
    "segwright demo": "everything at work, in two minutes",
    "segwright check FOLDER": "is my data sound? images and masks",
    "segwright train FOLDER --minutes 20": "train; the rest is planned",
    "segwright label IMAGES --classes A,B": "no masks yet: label in the browser",
    "segwright predict MODEL IMAGE": "segment an image, a folder, a video",
}
NEXT = {
    "segwright evaluate runs/latest FOLDER": "how good is it? with intervals",
    "segwright predict runs/latest IMAGE": "segment an image, a folder, a video",
    "segwright export runs/latest": "a verified file for other runtimes",
    "segwright serve runs/latest": "over HTTP, with a page to try it",
    "segwright select runs/latest IMAGES": "which images to label next",
}
MORE = {
    "segwright --help": "all commands, by task",
    "segwright COMMAND --help": "options and examples of a command",
    "segwright --install-completion": "complete names by the Tab key",
}


def greet(screen: Console) -> None:
    """Print the first steps; with a run in the current folder, what can be done with its model."""
    screen.print(
        Text.assemble(("segwright", "bold"), f" {__version__}: from a folder of images to a segmentation model")
    )
    _list(screen, "First steps", FIRST)
    if (LATEST / "model").is_dir():
        _list(screen, f"Your last training, {LATEST}", NEXT)
    _list(screen, "More", MORE)


def _list(screen: Console, title: str, rows: dict[str, str]) -> None:
    screen.print(Text(f"\n{title}", style="bold"))
    for command, what in rows.items():
        screen.print(Text.assemble("  ", (command.ljust(40), "cyan"), what), soft_wrap=True)
