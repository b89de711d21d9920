"""The command select."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from segwright.cli.common import check_json, console, write_result
from segwright.cli.options import Json, Loading, OptionGroup
from segwright.cli.parameters import one_of
from segwright.core.counted import counted
from segwright.core.errors import UsageError
from segwright.core.progress import literal

if TYPE_CHECKING:
    from segwright.labeling.questions import Selection
    from segwright.labeling.task_files import Tasks

SHOWN = 12  # images on the screen
NO_MODEL = "none"
TOOLS = ("cvat", "label-studio", "labelme")  # of segwright.labeling.task_files, which imports torch


@dataclass(frozen=True)
class Choosing(OptionGroup):
    """Which images, and how many."""

    panel: ClassVar[str] = "Images"
    count: Annotated[int, typer.Option("--count", min=1, help="How many images to choose.")] = 100
    disagreement: Annotated[
        str, one_of("--disagreement", choices="auto|margin|views|dropout|ensemble", help="How it is measured.")
    ] = "auto"
    random_share: Annotated[
        float, typer.Option("--random-share", min=0, max=1, help="Of the images, drawn at random as the control.")
    ] = 0.15
    labels: Annotated[
        Path | None,
        typer.Option("--labels", metavar="FOLDER", help="What is labeled so far: a label folder, or masks with 255."),
    ] = None
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the random share.")] = 0


@dataclass(frozen=True)
class Asking(OptionGroup):
    """What is asked about an image."""

    panel: ClassVar[str] = "Questions"
    clicks: Annotated[int, typer.Option("--clicks", min=0, help="Questions per image.")] = 10
    questions: Annotated[
        str,
        one_of(
            "--questions",
            choices="auto|check|class",
            help="Is the prediction right, or which class is it; auto checks what is predicted with 0.8 or more.",
        ),
    ] = "auto"
    units: Annotated[
        str, one_of("--units", choices="superpixels|merged|segments", help="What a question is about.")
    ] = "superpixels"
    unit_size: Annotated[
        int, typer.Option("--unit-size", help="Side of a superpixel in pixels, if the image's shorter side is 256.")
    ] = 22
    unit_count: Annotated[int, typer.Option("--unit-count", help="Merged units per image.")] = 80
    draw: Annotated[
        str, one_of("--draw", choices="proportional|best", help="Regions: in proportion to their value, or the best.")
    ] = "proportional"


@dataclass(frozen=True)
class Files(OptionGroup):
    """What is written."""

    panel: ClassVar[str] = "What is written"
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The selection, for segwright label.")] = Path(
        "selection.json"
    )
    sheet: Annotated[
        Path | None,
        typer.Option("--sheet", metavar="FILE", help="A page (.html) or image (.png) of it; beside --out if left out."),
    ] = None
    to: Annotated[
        str | None,
        one_of("--to", choices="|".join(TOOLS), help="Also write pre-labels that this tool imports."),
    ] = None
    tasks: Annotated[
        Path | None, typer.Option("--tasks", metavar="FOLDER", help="Where they go; beside --out if left out.")
    ] = None


def select(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A run folder, a bundle, an .onnx file, or none.")],
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGES...",
            help="Images, folders, globs, or a journal that keeps images; further models may come before them.",
        ),
    ],
    choosing: Choosing,
    asking: Asking,
    files: Files,
    loading: Loading,
    json: Json = None,
) -> None:
    """Choose the images to label, and the regions of them to ask about. Writes a selection and a page that shows it."""
    from segwright import api

    check_json(json)
    to, out = files.to, files.out
    if to is not None and (to not in TOOLS or model == NO_MODEL):
        raise UsageError(
            "pre-labels need a tool and a model", expected=", ".join(TOOLS), found=f"{to}, model {model}"[:200]
        )
    models, sources = _models_first(model, images)
    page = out.with_suffix(".html") if files.sheet is None else files.sheet
    chosen = {**choosing.given(), **asking.given(), **loading.given()}
    found = api.select(models or None, sources, out=out, sheet=page, **chosen)
    written = None
    if to is not None:
        place = out.with_name(f"{out.stem}-{to}") if files.tasks is None else files.tasks
        written = api.write_tasks(found, to, place, model=models[0], **loading.given())
    _show(found, out)
    for line in (f"selection: {out}", f"page: {page}", *_next(written, found, out, models)):
        console().print(literal(line), soft_wrap=True)
    write_result(json, found.to_json())


def _show(found: Selection, out: Path) -> None:
    screen = console()
    for image in found.images[:SHOWN]:
        why = "random" if image.random else f"score {image.score:.3f}"
        alike = len(image.stands_for)
        copies = f", stands for {alike} near-duplicate{'s' if alike > 1 else ''}" if alike else ""
        screen.print(literal(f"{image.image}  ({why}{copies})"), soft_wrap=True)
    if len(found.images) > SHOWN:
        screen.print(literal(f"… and {len(found.images) - SHOWN} more"))
    checks = sum(item.kind == "check" for item in found.items)
    screen.print(
        literal(
            f"{len(found.images)} of {counted(found.considered, 'image')}, {counted(len(found.items), 'question')} "
            f"({checks} whether the prediction is right, {len(found.items) - checks} for the class)"
        ),
        soft_wrap=True,
    )
    for note in found.notes:
        screen.print(literal(f"note: {note}"), soft_wrap=True)
    for file, error in found.failed[:5]:
        why = error.splitlines()[0].removeprefix(f"{file}: ")
        screen.print(literal(f"not used: {file}: {why}"), soft_wrap=True)
    if len(found.failed) > 5:
        screen.print(literal(f"not used: {len(found.failed) - 5} more, see {out}"), soft_wrap=True)


def _next(written: Tasks | None, found: Selection, out: Path, models: Sequence[str | Path]) -> list[str]:
    """What to do with the selection, or with the files that were written for another tool."""
    if written is None:
        shown = f"--model {shlex.quote(str(models[0]))}" if models else "--classes road,sky,car"
        return [f"next: segwright label {shlex.quote(str(found.root))} {shown} --questions {shlex.quote(str(out))}"]
    from segwright.labeling.task_files import next_steps

    notes = [f"note: {note}" for note in written.notes]
    failed = [f"not pre-labeled: {file}: {why}" for file, why in written.failed[:5]]
    return [*notes, *failed, *(f"{what}: {command}" for what, command in next_steps(written, found).items())]


def _models_first(model: str, rest: list[str]) -> tuple[list[str], list[str]]:
    """The models, and the sources of images that come after them; "none" is no model."""
    from segwright.inference.bundle import is_bundle

    models = [] if model == NO_MODEL else [model]
    sources = list(rest)
    while sources and models:
        path = Path(sources[0])
        if not (path.suffix.lower() == ".onnx" or is_bundle(path) or is_bundle(path / "model")):
            break
        models.append(sources.pop(0))
    if not sources:
        raise UsageError(
            "no images to select from", expected="MODEL IMAGES", found=f"models alone: {', '.join(models)}"[:300],
            fix="give the images after the models",
        )  # fmt: skip
    return models, sources


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(select)
