"""Commands that look for better settings: tune, lr-range."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from segwright.cli.common import command_line, console, stop_code, write_result
from segwright.cli.options import Config, Data, Device, Json, Network, Reading, Resume, Settings, SkipBad
from segwright.core.progress import visible


def tune(
    data: Data,
    minutes: Annotated[float, typer.Option(help="Wall-clock budget of the whole search.", min=0.01)],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where the search is kept.")],
    reading: Reading,
    trial_minutes: Annotated[
        float | None,
        typer.Option("--trial-minutes", help="Training time of a trial; a twelfth of --minutes if left out."),
    ] = None,
    final_minutes: Annotated[
        float | None,
        typer.Option("--final-minutes", help="Training time of each of the two final runs; as a trial if left out."),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", metavar="NAME", help="Keep to this network; auto searches several.")
    ] = "auto",
    architectures: Annotated[
        str | None, typer.Option(metavar="A,B,…", help="Networks to try: leannet:small,unet:resnet18,…")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the trainings and of the search.", min=0)] = None,
    device: Device = "auto",
    skip_bad: SkipBad = False,
    resume: Resume = False,
    config: Config = None,
    settings: Settings = None,
    json: Json = None,
) -> None:
    """Search for better settings than the planned ones (Optuna), and compare the best with the plan."""
    from segwright.training.planning.cpu import prepare_cpu

    prepare_cpu()  # before torch is loaded
    from segwright import api

    values = _values(model, device, reading, settings, skip_bad=skip_bad)
    if seed is not None:
        values = {"training.seed": seed} | values
    found = api.tune(
        data,
        out,
        minutes=minutes,
        trial_minutes=trial_minutes,
        final_minutes=final_minutes,
        architectures=[name.strip() for name in architectures.split(",")] if architectures else (),
        config=config,
        values=values,
        resume=resume,
        message=lambda line: print(visible(line, lines=True), file=sys.stderr, flush=True),
    )
    from segwright.cli.tables import trials_table

    screen = console()
    screen.print(trials_table([trial.to_json() for trial in found.trials]))
    for note in found.notes:
        screen.print(f"note: {note}", markup=False, soft_wrap=True)
    screen.print(found.sentence, markup=False, soft_wrap=True)
    screen.print(f"settings: {found.config}\npage: {found.folder / 'study.html'}", markup=False, soft_wrap=True)
    write_result(json, found.to_json())
    if found.stopped_by is not None:
        raise typer.Exit(stop_code(found.stopped_by))


def lr_range(
    data: Data,
    reading: Reading,
    model: Network = "auto",
    low: Annotated[float, typer.Option(help="The rate of the first step.")] = 1e-5,
    high: Annotated[float, typer.Option(help="The rate of the last step.")] = 1.0,
    steps: Annotated[int, typer.Option(help="How many steps.", min=10)] = 100,
    init_from: Annotated[
        Path | None, typer.Option("--init-from", metavar="MODEL", help="Begin with a saved model.")
    ] = None,
    device: Device = "auto",
    skip_bad: SkipBad = False,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The page with the curve.")] = Path(
        "lr-range.html"
    ),
    config: Config = None,
    settings: Settings = None,
    json: Json = None,
) -> None:
    """Plot the loss while the learning rate rises, and suggest a rate. Nothing is kept."""
    from segwright.training.planning.cpu import prepare_cpu

    prepare_cpu()  # before torch is loaded
    from segwright import api
    from segwright.search.lr_range import write_range_page

    values = _values(model, device, reading, settings, skip_bad=skip_bad)
    found = api.lr_range(data, values=values, config=config, init_from=init_from, low=low, high=high, steps=steps)
    write_range_page(out, found, command=command_line())
    console().print(f"{found.sentence()}\npage: {out}", markup=False, soft_wrap=True)
    write_result(json, found.to_json())


def _values(model: str, device: str, reading: Reading, settings: list[str] | None, *, skip_bad: bool) -> dict[str, Any]:
    """The settings that were given; what --set gives counts."""
    from segwright.training.config import parse_overrides

    values = reading.settings("data")
    if skip_bad:
        values["data.skip_bad"] = True
    if model != "auto":
        values["model.name"] = model
    if device != "auto":
        values["training.device"] = device
    return values | parse_overrides(settings or [])


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(tune)
    app.command("lr-range")(lr_range)
