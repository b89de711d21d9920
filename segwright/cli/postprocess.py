"""Commands about post-processing: tune-post, plot-crf."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segwright.cli.common import check_json, console, write_result
from segwright.cli.options import Data, Json, Loading, Model, Reading, Split, Tta
from segwright.core.errors import UsageError
from segwright.core.progress import literal


def tune_post(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A run folder or a bundle.")],
    data: Data,
    loading: Loading,
    reading: Reading,
    split: Split = None,
    minutes: Annotated[float, typer.Option(min=0, help="Wall-clock budget.")] = 10.0,
    tta: Tta = None,
    pipeline: Annotated[
        list[str] | None,
        typer.Option("--pipeline", metavar="PIPELINE", help="A pipeline to start from; may be repeated."),
    ] = None,
    keep: Annotated[bool, typer.Option("--save/--no-save", help="Save a winner into the model.")] = True,
    json: Json = None,
) -> None:
    """Search post-processing on validation data. It is kept only if it raises the score beyond chance."""
    from segwright import api

    check_json(json)
    result = api.tune_postprocessing(
        model, data, split=split, keep=keep, minutes=minutes, tta=tta, pipelines=pipeline or (), **loading.given(),
        **reading.given(),
    )  # fmt: skip
    from segwright.cli.tables import tuning_table

    screen = console()
    screen.print(tuning_table(result.trials, result.baseline_miou))
    screen.print(result.summary, markup=False, soft_wrap=True)
    if result.kept and not keep:
        screen.print("The model stays as it was, because of --no-save.")
    write_result(json, result.to_json())


def plot_crf(
    model: Model,
    data: Data,
    loading: Loading,
    reading: Reading,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the figure goes: .png or .jpg.")] = Path(
        "crf-figure.png"
    ),
    split: Split = None,
    crf: Annotated[
        str | None, typer.Option("--crf", metavar="STEP", help="Such as crf(deeplab-v1); else the model's own.")
    ] = None,
    count: Annotated[int, typer.Option("--count", min=1, help="Number of images, spread over the split.")] = 3,
    ids: Annotated[
        list[str] | None, typer.Option("--id", metavar="NAME", help="An image's name; may be repeated.")
    ] = None,
    iterations: Annotated[
        str, typer.Option("--iterations", metavar="N,N,…", help="Iterations after which labels are shown.")
    ] = "1,2,10",
    probability_of: Annotated[
        str | None,
        typer.Option("--show-probability", metavar="CLASS", help="Also show the probability of this class."),
    ] = None,
    width: Annotated[int, typer.Option("--width", help="Panel width in pixels.")] = 320,
) -> None:
    """Draw the papers' figure of a CRF: image, network, labels after 1, 2 and 10 iterations, ground truth."""
    from segwright import api

    try:
        steps = tuple(int(part) for part in iterations.split(","))
    except ValueError:
        raise UsageError("iterations are whole numbers", expected="such as 1,2,10", found=iterations) from None
    path = api.plot_crf(
        model, data, out, split=split, crf=crf, count=count, ids=ids or (), iterations=steps,
        probability_of=probability_of, width=width, **loading.given(), **reading.given(),
    )  # fmt: skip
    console().print(literal(f"figure: {path}"), soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("tune-post")(tune_post)
    app.command("plot-crf")(plot_crf)
