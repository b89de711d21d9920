"""The command that serves the label page: label."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segwright.cli.common import show_at_once
from segwright.cli.options import Loading
from segwright.core.errors import UsageError


def label(
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="A folder of images.")],
    loading: Loading,
    model: Annotated[
        Path | None,
        typer.Option("--model", metavar="MODEL", help="A run folder or bundle: its masks are shown and corrected."),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option("--classes", metavar="A,B,C|FILE", help="Class names. Default: those of the model."),
    ] = None,
    questions: Annotated[
        Path | None,
        typer.Option("--questions", metavar="FILE", help="A selection (segwright select): its questions in its order."),
    ] = None,
    train_every: Annotated[
        str,
        typer.Option("--train-every", metavar="N|never", help="Answers and strokes between two rounds of training."),
    ] = "50",
    train_minutes: Annotated[
        float, typer.Option("--train-minutes", metavar="MINUTES", help="Of one round, comparison included.")
    ] = 3.0,
    old: Annotated[
        Path | None,
        typer.Option("--with", metavar="OLD", help="The data that the model was trained on, replayed in each round."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="The label folder. Default: IMAGES-labels, beside the images."),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Address to listen on; 0.0.0.0: all.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Of the page; 0 takes a free one.")] = 8010,
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            metavar="TEXT",
            help="What others need to see the page. Default: made if they can reach the port.",
        ),
    ] = None,
) -> None:
    """Label images in the browser: answer questions about regions, paint, correct. Every stroke is saved at once."""
    from segwright import api

    api.label(
        images, model=model, classes=classes, questions=questions, train_every=_every(train_every),
        train_minutes=train_minutes, old=old, out=out, host=host, port=port, token=token,
        message=show_at_once, **loading.given(),
    )  # fmt: skip


def _every(text: str) -> int | None:
    """The number of --train-every; None for never."""
    if text == "never":
        return None
    if not (text.isascii() and text.isdigit()):
        raise UsageError("--train-every is a number of answers, or never", expected="such as 50", found=text[:40])
    return int(text)


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(label)
