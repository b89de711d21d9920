"""The command that puts a model into service: serve."""

from __future__ import annotations

from typing import Annotated

import typer

from segwright.cli.common import Device, EightBit, Model, TrustExternal, console
from segwright.cli.models import Post, Tta


def serve(
    model: Model,
    host: Annotated[str, typer.Option("--host", help="Address to listen on; 0.0.0.0: every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="0 takes a free one.")] = 8000,
    device: Device = "auto",
    precision: Annotated[str, typer.Option("--precision", help="fp32, bf16, fp16")] = "fp32",
    post: Post = None,
    tta: Tta = None,
    trust_external: TrustExternal = False,
    queue: Annotated[int, typer.Option("--queue", min=1, help="Requests taken at a time; more are told to wait.")] = 32,
    batch: Annotated[
        int | None, typer.Option("--batch", min=1, help="Images of one size run together: 8 on a GPU, 1 on a CPU.")
    ] = None,
    max_megabytes: Annotated[float, typer.Option("--max-megabytes", help="Largest body.")] = 32.0,
    max_megapixels: Annotated[float, typer.Option("--max-megapixels", help="Largest image.")] = 32.0,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", help="How long a client may take to send an image.")
    ] = 30.0,
    predict_timeout: Annotated[
        float, typer.Option("--predict-timeout", metavar="SECONDS", help="How long the network may take for one image.")
    ] = 120.0,
    eight_bit: EightBit = None,
    watch: Annotated[bool, typer.Option("--watch", help="Load the model anew when its files change.")] = False,
) -> None:
    """Answer images over HTTP, with a page to try it on. SIGHUP loads the model anew, Ctrl-C ends."""
    from segwright import api

    screen = console()

    def say(line: str) -> None:
        screen.print(line, markup=False, soft_wrap=True)
        screen.file.flush()  # whoever waits for the URL reads a pipe

    api.serve(
        model, host=host, port=port, device=device, precision=precision, post=post, tta=tta,
        trust_external=trust_external, queue=queue, batch=batch,
        max_megabytes=max_megabytes, max_megapixels=max_megapixels, timeout=timeout, predict_timeout=predict_timeout,
        eight_bit=eight_bit, watch=watch, say=say,
    )  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(serve)
