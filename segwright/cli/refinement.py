"""The commands that keep a model good: refine, promote, lineage."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segwright.cli.common import check_json, command_line, console, report_error, stop_code, write_result
from segwright.cli.options import Device, Json, Reading, Resume, Settings, SkipBad, TrustExternal
from segwright.cli.training import process_start
from segwright.core.errors import PromotionRefusedError, UsageError
from segwright.core.progress import literal

if TYPE_CHECKING:
    from segwright.labeling.paired_scores import PairedScores

SavedModel = Annotated[Path, typer.Argument(metavar="MODEL", help="A run folder, a bundle or a slot.")]


def refine(
    model: SavedModel,
    new: Annotated[Path, typer.Argument(metavar="NEW", help="Newly labeled images: a label folder or any dataset.")],
    reading: Reading,
    old: Annotated[
        Path | None,
        typer.Option("--with", metavar="OLD", help="The old data: replayed, and checked for what is forgotten."),
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="Wall-clock budget of all of it.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the images of NEW and OLD.", min=1)] = None,
    replay: Annotated[float, typer.Option("--replay", metavar="SHARE", help="Of the drawn images that are old.")] = 0.5,
    rename: Annotated[
        list[str] | None,
        typer.Option("--rename", metavar="OLD=NEW", help="A class of the data, and the model's name; repeatable."),
    ] = None,
    append_classes: Annotated[
        bool, typer.Option("--append-classes", help="Further classes of NEW are new ones, though it lacks others.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of order, augmentation and intervals.", min=0)] = 0,
    device: Device = "auto",
    skip_bad: SkipBad = False,
    resume: Resume = False,
    out: Annotated[Path | None, typer.Option("--out", metavar="FOLDER", help="Run folder of the candidate.")] = None,
    settings: Settings = None,
    trust_external: TrustExternal = False,
    json: Json = None,
) -> None:
    """Fine-tune a model on new labels with replay of old data, and compare the candidate with it on both."""
    from segwright.training.planning.cpu import prepare_cpu

    prepare_cpu()  # before torch is loaded
    check_json(json)
    from segwright import api
    from segwright.training.config import parse_overrides

    found = api.refine(
        model, new, old=old, minutes=minutes, epochs=epochs, out=out, seed=seed, replay=replay, rename=rename or (),
        append_classes=append_classes, resume=resume, device=device, **reading.given(),
        settings=({"data.skip_bad": True} if skip_bad else {}) | parse_overrides(settings or []),
        trust_external=trust_external, command=command_line(), started=process_start(),
    )  # fmt: skip
    screen = console()
    for one in (found.new, found.old):
        if one is not None:
            _show(one)
    screen.print(literal(found.verdict()), soft_wrap=True)
    write_result(json, found.to_json())
    if not found.id:
        print(f"  --resume --out {shlex.quote(str(found.folder))}", file=sys.stderr)
        raise typer.Exit(stop_code(found.run.stopped_by, 130))
    screen.print(literal(f"candidate: {found.model}"), soft_wrap=True)
    command = f"segwright promote {shlex.quote(str(found.model))} SLOT"
    if found.better:
        screen.print(literal(f"into service: {command}"), soft_wrap=True)
    else:
        why = "; ".join(found.against())
        screen.print(literal(f"not ready for service: {why}; {command} refuses it"), soft_wrap=True)


def _show(one: PairedScores) -> None:
    from rich.table import Table

    from segwright.evaluation.compare import absent_note

    table = Table(f"{one.data} images, IoU", title=None)
    for header in ("before", "candidate", "difference", "95 %"):
        table.add_column(header, justify="right")
    for row in one.cells():
        table.add_row(literal(row[0]), *row[1:])
    table.caption = "* clear of chance, Holm-adjusted for the number of classes"
    console().print(table)
    if note := absent_note(one.absent):
        console().print(literal(f"note: {note}"), soft_wrap=True)


def promote(
    candidate: Annotated[
        Path, typer.Argument(metavar="CANDIDATE", help="What refine made; with --back or --history, the slot.")
    ],
    slot: Annotated[
        Path | None, typer.Argument(metavar="SLOT", help="The folder that `serve SLOT` takes its model from.")
    ] = None,
    better_on: Annotated[
        list[str] | None,
        typer.Option("--better-on", metavar="DATA|new|old", help="Where it has to be better: new; repeatable."),
    ] = None,
    max_class_drop: Annotated[
        str, typer.Option("--max-class-drop", metavar="POINTS", help="Of IoU that no class may fall by; none.")
    ] = "3",
    back: Annotated[bool, typer.Option("--back", help="Put the version before into service again.")] = False,
    history: Annotated[bool, typer.Option("--history", help="Show what was in service when, and why.")] = False,
    why: Annotated[str, typer.Option("--why", metavar="TEXT", help="A reason for the history.")] = "",
    keep: Annotated[int, typer.Option("--keep", metavar="N", min=2, help="Versions that the slot keeps.")] = 5,
    split: Annotated[str | None, typer.Option("--split", help="Of the data of --better-on.")] = None,
    device: Device = "auto",
    trust_external: TrustExternal = False,
    json: Json = None,
) -> None:
    """Put a candidate into service if it is better where asked and no class falls; --back returns to the one before.

    Exit code 1 if a condition does not hold. A running `serve SLOT` takes the new version over by itself.
    """
    check_json(json)
    if history:
        _show_history(candidate, json)
        return
    if (slot is None) != back:
        raise UsageError(
            "promote CANDIDATE SLOT, or promote SLOT --back", found="no slot" if slot is None else "--back with both"
        )
    from segwright import api

    screen = console()
    try:
        done = api.promote(
            None if slot is None else candidate, candidate if slot is None else slot,
            better_on=better_on or "new", max_class_drop=_points(max_class_drop), back=back, why=why, keep=keep,
            split=split, device=device, trust_external=trust_external,
        )  # fmt: skip
    except PromotionRefusedError as error:
        report_error(error)
        write_result(json, {"action": "refused", "slot": str(slot), "why": str(error), "found": error.found})
        raise typer.Exit(1) from None
    for one in done.figures:
        _show(one)
    for note in done.notes:
        screen.print(literal(f"note: {note}"), soft_wrap=True)
    screen.print(literal(f"in service: {done.version} in {done.slot} ({done.why})"), soft_wrap=True)
    if done.before is not None and not back:
        screen.print(literal(f"back to {done.before}: segwright promote {shlex.quote(str(done.slot))} --back"),
                     soft_wrap=True)  # fmt: skip
    write_result(json, done.to_json())


def _points(text: str) -> float | None:
    if text.lower() == "none":
        return None
    try:
        return float(text)
    except ValueError as error:
        raise UsageError("points of IoU", expected="a number, or none", found=text) from error


def _show_history(place: Path, json: Path | None) -> None:
    from segwright.labeling.slot import existing_slot

    slot = existing_slot(place)
    entries, current = slot.history(), slot.current()
    for entry in entries:
        mark = "*" if entry is entries[-1] else " "
        text = f"{mark} {entry.get('time', '')}  {entry['action']:7}  {entry['version']}  {entry.get('who', '')}"
        console().print(literal(f"{text}  {entry.get('why', '')}"), soft_wrap=True)
    console().print(literal(f"in service: {current or 'nothing'}"), soft_wrap=True)
    write_result(json, {"slot": str(place), "current": current, "versions": slot.versions(), "history": entries})


def lineage(model: SavedModel, json: Json = None) -> None:
    """Show where a model came from: its parents, the data of each training, the clicks spent."""
    from segwright import api

    check_json(json)
    found = api.read_lineage(model)
    screen = console()
    for line in found.lines():
        screen.print(literal(line), soft_wrap=True)
    write_result(json, found.to_json())


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(refine)
    app.command()(promote)
    app.command()(lineage)
