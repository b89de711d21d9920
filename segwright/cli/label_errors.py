"""The command label-errors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segwright.cli.common import check_json, console, write_result
from segwright.cli.options import Data, Json, Loading, MatchClasses, Model, Reading, SkipBad, Split
from segwright.cli.parameters import one_of
from segwright.core.counted import counted
from segwright.core.progress import literal

SHOWN = 20  # rows on the screen


def label_errors(
    model: Model,
    data: Data,
    loading: Loading,
    reading: Reading,
    split: Split = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many regions to list.")] = 50,
    out: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", help="Where the list (JSON, CSV) and the images go.")
    ] = Path("label-errors"),
    scoring: Annotated[
        str,
        one_of(
            "--scoring",
            choices="confident_joint|margin|self_confidence|adjusted_margin",
            help="What regions are ranked by.",
        ),
    ] = "confident_joint",
    skip_bad: SkipBad = False,
    match: MatchClasses = "names",
    json: Json = None,
) -> None:
    """Rank the regions of label masks that are likely wrong, with an image of each. Use images the model never saw."""
    from segwright import api

    check_json(json)
    found = api.find_label_errors(
        model, data, split=split, limit=limit, scoring=scoring, out=out, skip_bad=skip_bad, match=match,
        **loading.given(), **reading.given(),
    )  # fmt: skip
    from segwright.evaluation.label_errors import label_errors_table

    screen = console()
    screen.print(label_errors_table(found, SHOWN))
    shown = min(len(found.regions), limit)
    screen.print(
        literal(
            f"{counted(found.found, 'region')} in {counted(len(found.images), 'image')} of split "
            f"{found.split}; {shown} listed"
        ),
        soft_wrap=True,
    )
    for note in found.notes:
        screen.print(literal(f"note: {note}"), soft_wrap=True)
    screen.print(literal(f"list and images: {out}"), soft_wrap=True)
    write_result(json, found.to_json())


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("label-errors")(label_errors)
