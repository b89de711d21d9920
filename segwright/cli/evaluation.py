"""Commands that judge models: evaluate, compare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from segwright.cli.common import check_json, command_line, console, write_result
from segwright.cli.options import (
    Data,
    Json,
    Loading,
    MatchClasses,
    OptionGroup,
    Reading,
    Running,
    SkipBad,
    SparseLabels,
    Split,
)
from segwright.cli.parameters import completing
from segwright.core.atomic_io import write_text
from segwright.core.counted import counted
from segwright.core.progress import literal

if TYPE_CHECKING:
    from segwright.evaluation.evaluation import Evaluation

CONVENTIONS = "torchvision, mmseg, smp, torchmetrics, cityscapes, voc, ultralytics, semseg, per-image"


def corruptions() -> list[str]:
    """The values of ``--corruption``, without a strength."""
    from segwright.augment.corruptions import CORRUPTIONS as KNOWN

    return ["all", *KNOWN]


@dataclass(frozen=True)
class Scoring(OptionGroup):
    """What is scored, and how."""

    panel: ClassVar[str] = "Scores"
    split: Split = None
    skip_bad: SkipBad = False
    match: MatchClasses = "names"
    raw_values: Annotated[
        bool, typer.Option("--raw-values", help="Masks hold the dataset's own file values, not class indices.")
    ] = False
    convention: Annotated[
        str,
        typer.Option(
            "--convention",
            metavar="TOOL",
            help=f"Also what another tool would print: {CONVENTIONS}.",
            autocompletion=completing(CONVENTIONS.split(", ")),
        ),
    ] = "pooled"
    probabilities: Annotated[
        bool,
        typer.Option("--probabilities", help="Also Brier score, log loss and classwise calibration error; slower."),
    ] = False
    slices: Annotated[
        str | None,
        typer.Option(
            "--slices",
            metavar="auto|FILE.csv",
            help="Also score parts of the data: by size, boundary, brightness, blur, classes alone and in pairs, and "
            "the columns of a CSV file with a column id.",
        ),
    ] = None
    uncertainty: Annotated[
        str | None,
        typer.Option(
            "--uncertainty",
            metavar="MEASURES",
            help="Also how well measures of uncertainty find the errors, such as entropy,margin,tta.",
        ),
    ] = None
    corruption: Annotated[
        list[str] | None,
        typer.Option(
            "--corruption",
            metavar="NAME[:STRENGTH]",
            help="Also score the images under a corruption: fog:5 (1 to 5; 3 if left out), all, all:5; may be "
            "repeated.",
            autocompletion=completing(corruptions),
        ),
    ] = None


@dataclass(frozen=True)
class Written(OptionGroup):
    """What an evaluation writes, beside the JSON."""

    panel: ClassVar[str] = "What is written"
    report: Annotated[Path | None, typer.Option("--report", metavar="FILE", help="Write a page to look at.")] = None
    report_images: Annotated[
        int | None, typer.Option("--report-images", metavar="N", help="Images that the page shows; 24 if left out.")
    ] = None
    label_errors: Annotated[
        Path | None,
        typer.Option("--label-errors", metavar="FOLDER", help="Also write likely label errors, as label-errors does."),
    ] = None


def evaluate(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="Run folder, bundle, exported file, or folder of masks.")
    ],
    data: Data,
    scoring: Scoring,
    written: Written,
    running: Running,
    reading: Reading,
    sparse: SparseLabels,
    fit_error_model: Annotated[
        bool,
        typer.Option(
            "--fit-error-model",
            help="Fit the error model on these images and keep it in the model: predict then estimates its quality.",
        ),
    ] = False,
    json: Json = None,
) -> None:
    """Score a model, or masks made by any tool, on a split that has masks."""
    from segwright import api

    check_json(json)
    arguments = {**scoring.given(), **written.given(), **running.given(), **reading.given()}
    found = api.evaluate(model, data, labels=sparse.rule(), command=command_line(), **arguments)
    _show(found, written)
    tree = found.to_json()
    if fit_error_model:
        tree["error_model"] = api.fit_error_model(
            model, data, split=found.split, match=scoring.match, device=running.device,
            postprocess=running.postprocess, tta=running.tta, eight_bit=running.eight_bit,
            trust_external=running.trust_external, **reading.given(),
        )  # fmt: skip
        lines = [_error_model_line(tree["error_model"]), *(f"note: {note}" for note in tree["error_model"]["notes"])]
        for line in lines:
            console().print(literal(line), soft_wrap=True)
    write_result(json, tree)
    if written.report is not None:
        console().print(literal(f"report: {written.report}"), soft_wrap=True)


def _show(found: Evaluation, written: Written) -> None:
    from segwright.evaluation.risk_coverage import UncertaintyTable
    from segwright.evaluation.terminal import render_evaluation

    render_evaluation(found, console())
    if written.label_errors is not None:
        console().print(literal(f"likely label errors: {written.label_errors}"), soft_wrap=True)
    table = found.parts.get("uncertainty")
    if isinstance(table, UncertaintyTable):
        for line in table.lines():
            console().print(literal(line), soft_wrap=True)


def _error_model_line(facts: Mapping[str, Any]) -> str:
    held_out = facts["held_out"]

    def between(figure: str, digits: int, scale: int = 1) -> str:
        low, high = held_out["intervals"][figure]
        return "" if isnan(low) else f" (95 %: {scale * low:.{digits}f} to {scale * high:.{digits}f})"

    return (
        f"error model of {counted(facts['images'], 'image')}, {counted(facts['regions'], 'region')}, judged "
        "on images left out: "
        f"wrong regions AUROC {held_out['auroc']:.3f}{between('auroc', 3)}, "
        f"IoU of regions R² {held_out['r_squared']:.3f}{between('r_squared', 3)}, "
        f"mIoU of an image within {100 * held_out['miou_error']:.1f} points on average{between('miou_error', 1, 100)}"
    )


@dataclass(frozen=True)
class Comparing(OptionGroup):
    """What of the models is compared."""

    panel: ClassVar[str] = "Comparison"
    split: Split = None
    match: MatchClasses = "names"
    speed: Annotated[bool, typer.Option("--speed/--no-speed", help="Also time the models in turn, on few images.")] = (
        True
    )
    disagreements: Annotated[
        int,
        typer.Option("--disagreements", metavar="N", min=0, help="Images per model that differ most from the first."),
    ] = 6


def compare(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL...", help="Two or more models.")],
    data: Annotated[Path, typer.Option("--data", metavar="DATA", help="What they are compared on.")],
    comparing: Comparing,
    loading: Loading,
    reading: Reading,
    html: Annotated[
        Path | None, typer.Option("--html", "--report", metavar="FILE", help="Write a page to look at.")
    ] = None,
    disagreement_images: Annotated[
        Path | None, typer.Option("--disagreement-images", metavar="FOLDER", help="Also write these as JPEG files.")
    ] = None,
    json: Json = None,
) -> None:
    """Compare models on the same images, with a confidence interval for the difference."""
    from segwright import api

    check_json(json)
    result = api.compare(models, data, **comparing.given(), **loading.given(), **reading.given())
    from segwright.evaluation.compare import comparison_page, render_comparison

    render_comparison(result, console())
    if html is not None:
        write_text(html, comparison_page(result, command=command_line()))
        console().print(literal(f"page: {html}"), soft_wrap=True)
    if disagreement_images is not None:
        from segwright.evaluation.disagreements import write_disagreements

        shown = write_disagreements(disagreement_images, result.disagreements)
        console().print(literal(f"{counted(len(shown), 'image')}: {disagreement_images}"), soft_wrap=True)
    write_result(json, result.to_json())


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(evaluate)
    app.command()(compare)
