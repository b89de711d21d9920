"""The command that makes the reference of a saved model: reference."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segwright.cli.common import check_json, console, write_result
from segwright.cli.options import Data, Json, Loading, Reading, Split
from segwright.core.counted import counted
from segwright.core.progress import literal


def reference(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Run folder or bundle; the reference goes into it.")],
    data: Data,
    loading: Loading,
    reading: Reading,
    split: Split = None,
    max_images: Annotated[
        int, typer.Option("--max-images", min=2, metavar="N", help="More images are chosen from evenly.")
    ] = 2_000,
    thumbnails: Annotated[
        bool, typer.Option("--thumbnails", help="Also keep images of at most 64 pixels per side in the model.")
    ] = False,
    json: Json = None,
) -> None:
    """Make the reference that monitoring compares a journal with, from held-out images (val, else test)."""
    from segwright import api

    check_json(json)
    made = api.make_reference(
        model, data, split=split, max_images=max_images, thumbnails=thumbnails, **loading.given(), **reading.given()
    )  # fmt: skip
    count = len(set(made.scenes))
    scenes = counted(count, "scene")
    screen = console()
    labeled = int(made.labeled.sum())
    screen.print(literal(f"reference: {counted(len(made), 'image')} of {made.split} ({scenes}), {labeled} labeled"))
    screen.print(literal(f"model: {model}"), soft_wrap=True)
    for note in made.notes:
        screen.print(literal(f"note: {note}"), soft_wrap=True)
    write_result(json, made.to_json())


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(reference)
