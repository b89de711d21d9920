"""Commands about datasets: check, convert, datasets."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from segwright.cli.command import App
from segwright.cli.common import console, refuse_missing, report_error, write_result
from segwright.cli.options import Data, Json, Reading, SparseLabels
from segwright.cli.parameters import completing, one_of
from segwright.core.atomic_io import check_output, refuse_data_file
from segwright.core.counted import counted
from segwright.core.progress import literal

CHECK_PAGE, CHECK_JSON = b"<!doctype html", b'"problems": ['  # in every result of an earlier check

datasets_app = App(help="Datasets: the formats that are read, and downloads.", invoke_without_command=True)


def check(
    data: Data,
    reading: Reading,
    sparse: SparseLabels,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page to look at.")] = None,
    json: Json = None,
) -> None:
    """Check a dataset for what would spoil a training, each with its fix. Exit code 1 if there is an error."""
    from segwright import api

    refuse_missing(data)
    for path, holds in ((html, CHECK_PAGE), (json, CHECK_JSON)):
        if path is not None:
            check_output(path)
            refuse_data_file(path, data, holds)
    result = api.check(data, **reading.given(), labels=sparse.rule(), html=html)
    from segwright.data.check.report_text import render_check

    render_check(result, console())
    write_result(json, result.to_json())
    if html is not None:
        console().print(literal(f"page: {html}"), soft_wrap=True)
    if result.exit_code:
        raise typer.Exit(1)


def convert(
    data: Data,
    to: Annotated[
        str,
        one_of("--to", choices="voc|coco|folder|webdataset|labelme|cvat|label_studio|hf", help="The format to write."),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where the new dataset goes.")],
    reading: Reading,
    sparse: SparseLabels,
    json: Json = None,
) -> None:
    """Write a dataset in another format."""
    from segwright import api

    if json is not None:
        check_output(json)
    result = api.convert(data, to, out, **reading.given(), labels=sparse.rule())
    console().print(literal(f"{counted(result.images, 'image')} written as {to}: {out}"), soft_wrap=True)
    write_result(json, result.to_json())


def _downloads() -> list[str]:
    from segwright.data.download.catalog import CATALOG

    return list(CATALOG)


@datasets_app.callback()
def datasets(context: typer.Context, json: Json = None) -> None:
    """List the formats that are detected, and the datasets that can be downloaded."""
    if context.invoked_subcommand is not None:
        return
    from segwright.cli.tables import downloads_table, formats_table
    from segwright.core.errors import PluginError
    from segwright.core.plugins import plugin_names
    from segwright.data.download.catalog import CATALOG
    from segwright.data.formats import FORMATS, format_by_name

    known = list(FORMATS.values())
    for name in plugin_names("formats"):
        try:
            known.append(format_by_name(name))
        except PluginError as error:
            report_error(error)
    screen = console(piped=80)
    screen.print(Text("Formats, detected from the files", style="bold"))
    screen.print(formats_table(known))
    screen.print(Text("\nDownloads: segwright datasets download NAME", style="bold"))
    screen.print(downloads_table(list(CATALOG.values())))
    formats = [{"name": f.name, "title": f.title, "looks_for": f.layout} for f in known]
    downloads = [
        {"name": d.name, "title": d.title, "bytes": d.bytes, "license": d.license, "homepage": d.homepage}
        for d in CATALOG.values()
    ]
    write_result(json, {"formats": formats, "downloads": downloads})


@datasets_app.command("download")
def download(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="A name that `segwright datasets` lists.", autocompletion=completing(_downloads)
        ),
    ],
    out: Annotated[Path | None, typer.Option("--out", metavar="FOLDER", help="Where it goes; ./NAME.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Accept the license without a prompt.")] = False,
) -> None:
    """Download a dataset: resumed if interrupted, verified, unpacked safely; the license is shown first."""
    from segwright.data.download.fetch import get as fetch

    folder = fetch(name, out or Path(name), yes=yes)
    screen = console()
    screen.print(literal(folder), soft_wrap=True)
    screen.print(literal(f"next: segwright check {shlex.quote(str(folder))}"), soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(check)
    app.command()(convert)
    app.add_typer(datasets_app, name="datasets")
