"""Commands about models: models, evaluate, predict, compare, export."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from segwright.cli.common import (
    Boxes,
    Data,
    Device,
    EightBit,
    Format,
    Images,
    JournalFolder,
    JournalMaxSize,
    Json,
    KeepImages,
    LineWidth,
    Masks,
    Model,
    PointRadius,
    Runtime,
    Split,
    TrustExternal,
    UnlabeledPixels,
    check_json,
    command_line,
    console,
    label_options,
    write_result,
)
from segwright.core.atomic_io import write_text
from segwright.core.errors import UsageError
from segwright.core.progress import literal

Post = Annotated[
    str | None,
    typer.Option(
        "--postprocess", metavar="PIPELINE", help="Post-processing in place of the saved one; none: no post-processing."
    ),
]
Tta = Annotated[str | None, typer.Option("--tta", metavar="VIEWS", help="Test-time views, such as flip,0.75,1,1.25.")]


def models(
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure FLOPs, memory in training and latency on this machine.")
    ] = False,
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Only these.")] = None,
    size: Annotated[str, typer.Option(metavar="HxW", help="Image size for --measure.")] = "352x480",
    json: Json = None,
) -> None:
    """List the networks: parameters, stride, paper, license of the weights, when to use which."""
    from segwright import api

    rows = api.list_models(names or (), measure=measure, size=size)
    from segwright.cli.tables import print_models

    print_models([row.to_json() for row in rows], console(), size if measure else None)
    write_result(json, [row.to_json() for row in rows])


def evaluate(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="Run folder, bundle, exported file, or folder of masks.")
    ],
    data: Data,
    split: Split = None,
    device: Device = "auto",
    runtime: Runtime = "auto",
    post: Post = None,
    tta: Tta = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave unusable files out, and list them.")] = False,
    match: Annotated[
        str,
        typer.Option(
            "--match-classes",
            metavar="names|index",
            help="Bring the model's classes to the data's by names, or by index.",
        ),
    ] = "names",
    raw_values: Annotated[
        bool, typer.Option("--raw-values", help="Masks hold the dataset's own file values, not class indices.")
    ] = False,
    convention: Annotated[
        str,
        typer.Option(
            "--convention",
            metavar="TOOL",
            help="Also what another tool would print: torchvision, mmseg, smp, torchmetrics, cityscapes, voc, "
            "ultralytics.",
        ),
    ] = "pooled",
    probabilities: Annotated[
        bool,
        typer.Option("--probabilities", help="Also Brier score, log loss and classwise calibration error; slower."),
    ] = False,
    eight_bit: EightBit = None,
    trust_external: TrustExternal = False,
    slices: Annotated[
        str | None,
        typer.Option(
            "--slices",
            metavar="auto|FILE.csv",
            help="Also score parts of the data: by size, boundary, brightness, blur, classes, and the columns of a CSV "
            "file with a column id.",
        ),
    ] = None,
    label_errors: Annotated[
        Path | None,
        typer.Option("--label-errors", metavar="FOLDER", help="Also write likely label errors, as label-errors does."),
    ] = None,
    uncertainty: Annotated[
        str | None,
        typer.Option(
            "--uncertainty",
            metavar="MEASURES",
            help="Also how well measures of uncertainty find the errors, such as entropy,margin,tta.",
        ),
    ] = None,
    fit_error_model: Annotated[
        bool,
        typer.Option(
            "--fit-error-model",
            help="Fit the error model on these images and keep it in the model: predict then estimates its quality.",
        ),
    ] = False,
    report: Annotated[Path | None, typer.Option("--report", metavar="FILE", help="Write a page to look at.")] = None,
    report_images: Annotated[
        int | None, typer.Option("--report-images", metavar="N", help="Images that the page shows; 24 if left out.")
    ] = None,
    format: Format = None,
    images: Images = None,
    masks: Masks = None,
    unlabeled_pixels: UnlabeledPixels = None,
    boxes: Boxes = None,
    point_radius: PointRadius = None,
    line_width: LineWidth = None,
    json: Json = None,
) -> None:
    """Score a model, or masks made by any tool, on a split that has masks."""
    from segwright import api

    check_json(json)
    found = api.evaluate(
        model,
        data,
        split=split,
        device=device,
        postprocess=post,
        tta=tta,
        format=format,
        images=images,
        masks=masks,
        labels=label_options(unlabeled_pixels, boxes, point_radius, line_width),
        skip_bad=skip_bad,
        match=match,
        raw_values=raw_values,
        convention=convention,
        probabilities=probabilities,
        slices=slices,
        label_errors=label_errors,
        uncertainty=uncertainty,
        report=report,
        report_images=report_images,
        command=command_line(),
        eight_bit=eight_bit,
        trust_external=trust_external,
        runtime=runtime,
    )
    from segwright.evaluation.terminal import render_evaluation

    render_evaluation(found, console())
    if label_errors is not None:
        console().print(literal(f"likely label errors: {label_errors}"), soft_wrap=True)
    tree = found.to_json()
    if "uncertainty" in found.parts:
        from segwright.evaluation.risk_coverage import UncertaintyTable

        table = found.parts["uncertainty"]
        assert isinstance(table, UncertaintyTable)
        for line in table.lines():
            console().print(literal(line), soft_wrap=True)
    if fit_error_model:
        tree["error_model"] = api.fit_error_model(
            model, data, split=found.split, device=device, format=format, images=images, masks=masks, match=match,
            eight_bit=eight_bit, trust_external=trust_external,
        )  # fmt: skip
        console().print(literal(_error_model_line(tree["error_model"])), soft_wrap=True)
    write_result(json, tree)
    if report is not None:
        console().print(f"report: {report}", soft_wrap=True)


def _error_model_line(facts: Mapping[str, Any]) -> str:
    held_out = facts["held_out"]
    return (
        f"error model of {facts['images']} images, {facts['regions']} regions, judged on images left out: "
        f"wrong regions AUROC {held_out['auroc']:.3f}, IoU of regions R² {held_out['r_squared']:.3f}, mIoU of an "
        f"image within {100 * held_out['miou_error']:.1f} points on average"
    )


def predict(
    model: Model,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Images, folders, globs, tars, videos, GeoTIFFs, a camera's number, rtsp://…, URLs, or - for "
            "standard input.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where masks and overlays go.")] = Path(
        "predictions"
    ),
    device: Device = "auto",
    runtime: Runtime = "auto",
    post: Post = None,
    tta: Tta = None,
    mask_format: Annotated[
        str,
        typer.Option(
            "--mask-format",
            help="palette: PNG of class indices with the classes' colors (OpenCV reads the colors); index: plain gray "
            "PNG; values: what the data's own masks hold; npy.",
        ),
    ] = "palette",
    confidence: Annotated[bool, typer.Option("--confidence", help="Also write the confidence as a gray PNG.")] = False,
    overlay: Annotated[bool, typer.Option("--overlay/--no-overlay", help="Also write the image in colors.")] = True,
    probabilities: Annotated[
        str | None, typer.Option("--probabilities", metavar="npz|npy", help="Also all probabilities, float16 K×H×W.")
    ] = None,
    polygons: Annotated[
        list[str] | None,
        typer.Option("--polygons", metavar="geojson|coco|labelme", help="Also polygons; may be repeated."),
    ] = None,
    simplify: Annotated[
        float,
        typer.Option("--simplify", metavar="PIXELS", help="How far an edge of a polygon may move to save corners."),
    ] = 0.0,
    areas: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Also a table: pixels, share and area per class.")
    ] = None,
    video: Annotated[
        bool, typer.Option("--video", help="For a video: one overlay video instead of files per frame.")
    ] = False,
    uncertainty: Annotated[
        str | None,
        typer.Option(
            "--uncertainty",
            metavar="MEASURE",
            help="Also how unsure each pixel is, as a gray PNG: confidence, entropy, margin, tta(VIEWS), dropout(N), "
            "ensemble, …",
        ),
    ] = None,
    uncertainty_format: Annotated[
        str, typer.Option("--uncertainty-format", metavar="png|npy", help="npy: float32 height×width in 0…1.")
    ] = "png",
    quality: Annotated[
        bool | None,
        typer.Option(
            "--quality/--no-quality",
            help="Estimate mIoU and IoU per class with intervals, and list doubtful regions, if the model has an error "
            "model; on with --json.",
        ),
    ] = None,
    eight_bit: EightBit = None,
    trust_external: TrustExternal = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that no prediction wrote; never a source.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue a run that was stopped or killed: finished images are left out.")
    ] = False,
    frames: Annotated[
        int | None, typer.Option("--frames", metavar="N", help="End a video, a camera or a stream after N frames.")
    ] = None,
    journal: JournalFolder = None,
    keep_images: KeepImages = "0%",
    journal_max_size: JournalMaxSize = "1GB",
    json: Json = None,
) -> None:
    """Segment images: a mask (class indices, palette PNG; a GeoTIFF for one) and an overlay for each."""
    from segwright import api
    from segwright.cli.tables import print_prediction

    check_json(json, sources)
    result: dict[str, Any] = {}
    try:
        api.predict(
            model, sources[0] if len(sources) == 1 else sources, out=out, device=device, postprocess=post, tta=tta,
            confidence=confidence, overlay=overlay, mask_format=mask_format, probabilities=probabilities,
            polygons=polygons or (), simplify=simplify, areas=areas, video=video, eight_bit=eight_bit,
            overwrite=overwrite, trust_external=trust_external, runtime=runtime, uncertainty=uncertainty,
            uncertainty_format=uncertainty_format,
            quality=json is not None if quality is None else quality,
            resume=resume, frames=frames, journal=journal, keep_images=keep_images,
            journal_max_size=journal_max_size, result=result,
        )  # fmt: skip
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


def compare(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL...", help="Two or more models.")],
    data: Annotated[Path, typer.Option("--data", metavar="DATA", help="What they are compared on.")],
    split: Split = None,
    device: Device = "auto",
    html: Annotated[
        Path | None, typer.Option("--html", "--report", metavar="FILE", help="Write a page to look at.")
    ] = None,
    speed: Annotated[
        bool, typer.Option("--speed/--no-speed", help="Also time the models in turn, on few images.")
    ] = True,
    disagreements: Annotated[
        int,
        typer.Option("--disagreements", metavar="N", min=0, help="Images per model that differ most from the first."),
    ] = 6,
    disagreement_images: Annotated[
        Path | None, typer.Option("--disagreement-images", metavar="FOLDER", help="Also write these as JPEG files.")
    ] = None,
    match: Annotated[
        str, typer.Option("--match-classes", metavar="names|index", help="As for segwright evaluate.")
    ] = "names",
    eight_bit: EightBit = None,
    trust_external: TrustExternal = False,
    format: Format = None,
    images: Images = None,
    masks: Masks = None,
    json: Json = None,
) -> None:
    """Compare models on the same images, with a confidence interval for the difference."""
    from segwright import api

    check_json(json)
    result = api.compare(
        models,
        data,
        split=split,
        device=device,
        format=format,
        images=images,
        masks=masks,
        match=match,
        speed=speed,
        disagreements=disagreements,
        eight_bit=eight_bit,
        trust_external=trust_external,
    )
    from segwright.evaluation.compare import comparison_page, render_comparison

    render_comparison(result, console())
    if html is not None:
        write_text(html, comparison_page(result, command=command_line()))
        console().print(f"page: {html}", soft_wrap=True)
    if disagreement_images is not None:
        from segwright.evaluation.disagreements import write_disagreements

        written = write_disagreements(disagreement_images, result.disagreements)
        console().print(literal(f"{len(written)} images: {disagreement_images}"), soft_wrap=True)
    write_result(json, result.to_json())


def export(
    models: Annotated[
        list[Path], typer.Argument(metavar="MODEL...", help="A run folder or bundle; several become one, their mean.")
    ],
    to: Annotated[
        str, typer.Option("--to", metavar="FORMAT", help="onnx, openvino, torch (.pt2), triton, or bundle.")
    ] = "onnx",
    out: Annotated[Path | None, typer.Option("--out", metavar="PATH", help="The exported file or folder.")] = None,
    data: Annotated[Path | None, typer.Option("--data", metavar="DATA", help="Real images for the check.")] = None,
    precision: Annotated[
        str, typer.Option("--precision", help="fp32, or int8: refused if it loses too much or is not faster here.")
    ] = "fp32",
    logits: Annotated[bool, typer.Option("--logits", help="Also output per-class logits.")] = False,
    trust_external: TrustExternal = False,
    json: Json = None,
) -> None:
    """Export a model, or several as one ensemble, verified against the original on real images at several sizes."""
    from segwright import api

    check_json(json)
    result = api.export(
        models, to=to, out=out, data=data, precision=precision, with_logits=logits, command=command_line(),
        trust_external=trust_external,
    )  # fmt: skip
    parity = result.parity
    screen = console()
    kind = result.format if len(models) == 1 else f"{result.format} of {len(models)} models"
    screen.print(f"{result.path}  ({kind}, {result.precision}, {result.latency_ms:.0f} ms per image)", soft_wrap=True)
    screen.print(
        f"checked on {parity.source}: largest logit difference {parity.max_abs_logit:.2g}, "
        f"{parity.argmax_agreement:.3%} of the labels equal, mIoU difference {parity.miou_delta:+.4f}",
        soft_wrap=True,
    )
    screen.print(f"sizes: {', '.join(parity.sizes)}")
    if result.remark:
        screen.print(f"{result.precision}: {result.remark}", soft_wrap=True)
    if result.not_included:
        names = " and ".join(name.replace("-", " ") for name in result.not_included)
        screen.print(
            f"note: the file is without the model's {names}; monitoring takes them from the model itself",
            soft_wrap=True,
        )
    write_result(json, result.to_json())


def import_weights(
    weights: Annotated[Path, typer.Argument(metavar="WEIGHTS", help=".pth, .ckpt, .safetensors, or a folder of one.")],
    model: Annotated[str, typer.Option("--model", help="The network, as in segwright models, or smp:NAME.")],
    classes: Annotated[str, typer.Option("--classes", metavar="A,B,C|FILE", help="In the order of the outputs.")],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where the saved model goes.")],
    encoder: Annotated[str | None, typer.Option("--encoder", help="The network's encoder.")] = None,
    in_channels: Annotated[int, typer.Option("--in-channels", min=1, help="Channels of its images.")] = 3,
    normalization: Annotated[
        str | None,
        typer.Option(
            "--normalization",
            metavar="imagenet|none|half|raw|MEAN/STD",
            help="Of pixels in 0 to 1, as in training; none: 0…1 as it is, half: -1…1, raw: 0…255.",
        ),
    ] = None,
    key: Annotated[str | None, typer.Option("--key", help="The entry of the file, where it holds several.")] = None,
    prefix: Annotated[str | None, typer.Option("--prefix", help="What the wanted names begin with.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Arguments of the network; may be repeated.")
    ] = None,
    json: Json = None,
) -> None:
    """Make a saved model of weights that were trained elsewhere: to evaluate, export and serve."""
    import yaml

    from segwright import api

    check_json(json)
    arguments = {}
    for text in settings or ():
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError("an argument is KEY=VALUE", found=text)
        try:
            arguments[name.removeprefix("model.arguments.")] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UsageError("the value of an argument cannot be read", found=text) from error
    found = api.import_weights(
        weights, out, model=model, classes=classes, encoder=encoder, in_channels=in_channels,
        normalization=normalization, key=key, prefix=prefix, arguments=arguments, command=command_line(),
    )  # fmt: skip
    screen = console()
    screen.print(
        literal(f"{found.path}: {found.tensors} tensors in {found.layout}'s layout, every one of the network"),
        soft_wrap=True,
    )
    for note in found.notes:
        screen.print(literal(f"note: {note}"), soft_wrap=True)
    write_result(json, found.to_json())


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(models)
    app.command()(evaluate)
    app.command()(predict)
    app.command()(compare)
    app.command()(export)
    app.command("import")(import_weights)
