"""Verbs about data sets: check, convert, datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segwright.cli.common import Data, Format, Json, console, write_result

datasets_app = typer.Typer(help="Data sets: the formats that are read, and downloads.", no_args_is_help=False)


def check(
    data: Data,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page to look at.")] = None,
    format: Format = None,
    json: Json = None,
) -> None:
    """Look through a data set and say what would go wrong, with the fix. Exit code 1 when something would."""
    from segwright import api

    result = api.check(data, format=format, html=html)
    from segwright.data.check_text import render_check

    render_check(result, console())
    write_result(json, result.to_json())
    if html is not None:
        console().print(f"page: {html}")
    if result.exit_code:
        raise typer.Exit(1)


def convert(
    data: Data,
    to: Annotated[str, typer.Option("--to", help="voc, coco, folder, webdataset, labelme, cvat, hf")],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where the new data set goes.")],
    format: Format = None,
    json: Json = None,
) -> None:
    """Write a data set in another format."""
    from segwright import api

    result = api.convert(data, to, out, format=format)
    console().print(f"{result['pictures']} pictures written as {to}: {out}")
    write_result(json, result)


def register(app: typer.Typer) -> None:
    """Add this module's verbs."""
    app.command()(check)
    app.command()(convert)
    app.add_typer(datasets_app, name="datasets")
