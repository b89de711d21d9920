"""The command that segments images: predict."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from segwright.cli.common import check_json, console, write_result
from segwright.cli.many_machines import Spread
from segwright.cli.options import Journal, Json, OptionGroup, Running, refuse_alone
from segwright.cli.parameters import one_of


@dataclass(frozen=True)
class Outputs(OptionGroup):
    """What is written for an image."""

    panel: ClassVar[str] = "What is written"
    out: Annotated[
        str, typer.Option("--out", metavar="FOLDER|URL", help="Where masks and overlays go, such as s3://bucket/masks.")
    ] = "predictions"
    mask_format: Annotated[
        str,
        one_of(
            "--mask-format",
            choices="palette|index|values|npy",
            help="palette: PNG of class indices with the classes' colors (OpenCV reads the colors); index: plain gray "
            "PNG; values: what the data's own masks hold; npy.",
        ),
    ] = "palette"
    overlay: Annotated[bool, typer.Option("--overlay/--no-overlay", help="Also write the image in colors.")] = True
    confidence: Annotated[bool, typer.Option("--confidence", help="Also write the confidence as a gray PNG.")] = False
    probabilities: Annotated[
        str | None, one_of("--probabilities", choices="npz|npy", help="Also all probabilities, float16 K×H×W.")
    ] = None
    polygons: Annotated[
        list[str] | None,
        one_of("--polygons", choices="geojson|coco|labelme", help="Also polygons; may be repeated."),
    ] = None
    simplify: Annotated[
        float,
        typer.Option("--simplify", metavar="PIXELS", help="How far an edge of a polygon may move to save corners."),
    ] = 0.0
    areas: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Also a table: pixels, share and area per class.")
    ] = None
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that no prediction wrote; never a source.")
    ] = False
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue a run that was stopped or killed: finished images are left out.")
    ] = False


@dataclass(frozen=True)
class Videos(OptionGroup):
    """Videos, cameras and streams."""

    panel: ClassVar[str] = "Videos and cameras"
    video: Annotated[
        bool, typer.Option("--video", help="For a video: one overlay video instead of files per frame.")
    ] = False
    frames: Annotated[
        int | None, typer.Option("--frames", metavar="N", help="End a video, a camera or a stream after N frames.")
    ] = None


@dataclass(frozen=True)
class Doubt(OptionGroup):
    """How unsure the model is."""

    panel: ClassVar[str] = "Uncertainty and quality"
    uncertainty: Annotated[
        str | None,
        typer.Option(
            "--uncertainty",
            metavar="MEASURE",
            help="Also how unsure each pixel is, as a gray PNG: confidence, entropy, margin, tta(VIEWS), dropout(N), "
            "ensemble, …",
        ),
    ] = None
    uncertainty_format: Annotated[
        str, one_of("--uncertainty-format", choices="png|npy", help="npy: float32 height×width in 0…1.")
    ] = "png"
    quality: Annotated[
        bool | None,
        typer.Option(
            "--quality/--no-quality",
            help="Estimate mIoU and IoU per class with intervals, and list doubtful regions, if the model has an error "
            "model; on with --json.",
        ),
    ] = None


def predict(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A run folder, a bundle or an exported file.")],
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Images, folders, globs, tars, videos, GeoTIFFs, a camera's number, rtsp://…, URLs, or - for "
            "standard input.",
        ),
    ],
    outputs: Outputs,
    running: Running,
    videos: Videos,
    doubt: Doubt,
    journal: Journal,
    spread: Spread,
    json: Json = None,
) -> None:
    """Segment images: a mask and an overlay for each.

    A mask is a PNG of class indices with a palette; a GeoTIFF gives a GeoTIFF. Exit code 1 if an image failed.
    """
    from segwright import api
    from segwright.cli.tables import print_prediction

    check_json(json, sources)
    if not outputs.polygons:
        refuse_alone("--polygons", {"--simplify": outputs.simplify != 0})
    if doubt.uncertainty is None:
        refuse_alone("--uncertainty", {"--uncertainty-format": doubt.uncertainty_format != "png"})
    journaling, spreading = journal.given(), spread.arguments(journal.journal)
    arguments = {**outputs.given(), **running.given(), **videos.given(), **doubt.given()}
    arguments |= journaling if spreading is None else spreading
    arguments["polygons"] = outputs.polygons or ()
    arguments["quality"] = json is not None if doubt.quality is None else doubt.quality
    result: dict[str, Any] = {}
    try:
        predicting = api.predict if spreading is None else api.predict_on_ray
        predicting(model, sources[0] if len(sources) == 1 else sources, result=result, **arguments)
    except BaseException as error:  # Ctrl-C too: what was done is still reported
        if result:
            if isinstance(error, KeyboardInterrupt):
                result["stopped"] = "interrupted"
                print_prediction(result, console())
            write_result(json, result)
        raise
    print_prediction(result, console())
    write_result(json, result)
    if "stopped" in result:
        raise typer.Exit(2)
    if result["failed"]:
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(predict)
