"""Commands that make models: demo, train."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from segwright.cli.common import command_line, console, stop_code, write_result
from segwright.cli.launch import launch, launched, without_option
from segwright.cli.options import (
    Config,
    Data,
    Device,
    Json,
    Network,
    OptionGroup,
    Reading,
    Resume,
    Settings,
    SkipBad,
    SparseLabels,
)
from segwright.cli.parameters import one_of
from segwright.cli.tables import folds_table
from segwright.core.errors import UsageError
from segwright.core.progress import is_main_process, literal


@dataclass(frozen=True)
class ModelOptions(OptionGroup):
    """The network and its weights."""

    panel: ClassVar[str] = "Network"
    model: Network = "auto"
    encoder: Annotated[
        str | None, typer.Option("--encoder", metavar="NAME", help="A timm encoder; planned if left out.")
    ] = None
    weights: Annotated[
        str | None, typer.Option("--weights", metavar="WHICH", help="auto, none, imagenet, torchvision:…, or a file.")
    ] = None


@dataclass(frozen=True)
class TrainingOptions(OptionGroup):
    """Length and recipe of the training."""

    panel: ClassVar[str] = "Training, planned if left out"
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.", min=1)] = None
    minutes: Annotated[float | None, typer.Option(help="Wall-clock budget; the run ends on time.")] = None
    size: Annotated[str | None, typer.Option(metavar="HxW", help="Training crop, height x width.")] = None
    batch: Annotated[int | None, typer.Option(help="Images per step.", min=1)] = None
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None
    loss: Annotated[
        str | None, typer.Option("--loss", metavar="SUM", help="ce, dice, ce+dice, 0.5*ce+0.5*lovasz, …")
    ] = None
    optimizer: Annotated[str | None, typer.Option("--optimizer", metavar="NAME", help="adamw, adam, sgd, muon, …")] = (
        None
    )
    schedule: Annotated[
        str | None, one_of("--schedule", choices="cosine|poly|step|plateau|one-cycle|constant", help="Of the rate.")
    ] = None
    seed: Annotated[int | None, typer.Option(help="Of order, augmentation and initial weights.", min=0)] = None
    precision: Annotated[
        str | None, one_of("--precision", choices="auto|fp32|bf16|fp16", help="Of the computation.")
    ] = None
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Equal seeds give equal weights, on a GPU as well; slower.")
    ] = False


def train(
    data: Data,
    network: ModelOptions,
    recipe: TrainingOptions,
    reading: Reading,
    sparse: SparseLabels,
    out: Annotated[Path | None, typer.Option("--out", metavar="FOLDER", help="Run folder.")] = None,
    resume: Resume = False,
    init_from: Annotated[
        Path | None, typer.Option("--init-from", metavar="MODEL", help="Fine-tune a saved model.")
    ] = None,
    unlabeled: Annotated[
        str | None,
        typer.Option("--unlabeled", metavar="DIR", help="Images to use without labels: self-training on them."),
    ] = None,
    device: Device = "auto",
    skip_bad: SkipBad = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and how long it will take; stop.")] = False,
    nproc: Annotated[
        int | None, typer.Option("--nproc", metavar="N", help="N processes on this machine, one per GPU.", min=1)
    ] = None,
    folds: Annotated[
        int | None, typer.Option("--folds", metavar="K", help="Cross-validation: K runs, mean and spread.", min=2)
    ] = None,
    config: Config = None,
    settings: Settings = None,
    json: Json = None,
) -> None:
    """Train a segmentation model. Everything left out is planned from the data and the machine."""
    from segwright.training.planning.cpu import prepare_cpu

    prepare_cpu()  # before torch is loaded
    if folds is not None and ((nproc or 1) > 1 or launched()):
        raise UsageError("--folds trains in one process", fix="one fold per job: --set data.fold=0 --set data.folds=5")
    if nproc is not None and nproc > 1 and not launched():
        raise typer.Exit(launch(nproc, without_option(sys.argv[1:], "--nproc")))
    from segwright.training.config import parse_overrides

    values = _given(network, recipe) | reading.settings("data") | sparse.settings("data")
    other = {"training.device": None if device == "auto" else device, "unlabeled.path": unlabeled}
    values |= {"data.skip_bad": True} if skip_bad else {}
    values |= {key: value for key, value in other.items() if value is not None} | parse_overrides(settings or [])
    files: dict[str, Any] = {"config": config, "out": out, "resume": resume, "init_from": init_from}
    if folds is not None and not dry_run:
        _cross_validate(data, values, folds, files, json)
        return
    if folds is not None:
        values |= {"data.fold": 0, "data.folds": folds}
    _train_once(data, values, dry_run, files, json)


def _given(network: ModelOptions, recipe: TrainingOptions) -> dict[str, Any]:
    """The settings that were given; a switch that is off is left to the plan."""
    values = network.settings("model") | recipe.settings("training")
    name = values.pop("model.model")
    return {key: value for key, value in values.items() if value is not False} | (
        {} if name == "auto" else {"model.name": name}
    )


def _train_once(data: Path, values: dict[str, Any], dry_run: bool, files: dict[str, Any], json: Path | None) -> None:
    from segwright import api

    run = api.train(data, settings=values, dry_run=dry_run, command=command_line(), started=process_start(), **files)
    if is_main_process():
        write_result(json, run.to_json())
    if run.stopped_by in ("SIGINT", "SIGTERM"):
        if is_main_process():
            steps = run.progress.step if run.progress else 0
            print(
                f"stopped after step {steps}; everything is saved, and the same command goes on with", file=sys.stderr
            )
            print(f"  --resume --out {shlex.quote(str(run.folder))}", file=sys.stderr)
        raise typer.Exit(stop_code(run.stopped_by))


def _cross_validate(data: Path, values: dict[str, Any], folds: int, files: dict[str, Any], json: Path | None) -> None:
    from segwright import api

    found = api.cross_validate(data, values, folds, command=command_line(), **files)
    summary = found.summary()
    screen = console()
    screen.print(folds_table(summary))
    screen.print(found.sentence(), markup=False, soft_wrap=True)
    if summary["model"] is not None:
        screen.print(
            literal(f"model: {summary['model']}  (the folds' models as one: the mean of their probabilities)"),
            soft_wrap=True,
        )
    screen.print(literal(f"report: {found.folder / 'report.html'}"), soft_wrap=True)
    write_result(json, summary)
    if found.stopped_by is not None:
        raise typer.Exit(stop_code(found.stopped_by))


def process_start() -> float:
    """When this process began, by ``time.monotonic()``: --minutes is of the whole of it, imports included."""
    import psutil

    since = float(time.time() - psutil.Process().create_time())
    return time.monotonic() - max(since, 0.0)


def demo(
    context: typer.Context,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where everything goes.")] = Path(
        "segwright-demo"
    ),
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open the report in a browser.")] = False,
    json: Json = None,
) -> None:
    """Run the full workflow in two minutes on generated street scenes: check, train, evaluate, predict."""
    from segwright.training.planning.cpu import prepare_cpu

    prepare_cpu()
    from segwright.cli.demo import run_demo

    root = context.find_root().command

    def command(arguments: Sequence[str]) -> None:
        run_command(root, arguments)

    write_result(json, run_demo(out, open_report=not no_open, console=console(), command=command))


def run_command(root: Any, arguments: Sequence[str]) -> None:
    """Run another command of the command ``root``. What ends that one early, such as Ctrl-C, ends this one as well."""
    code = root.main(args=list(arguments), prog_name="segwright", standalone_mode=False)
    if code:  # an exit code comes back instead of being raised
        raise typer.Exit(code)


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(demo)
    app.command()(train)
