"""The command that serves a model over HTTP: serve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segwright.cli.common import (
    Device,
    EightBit,
    JournalFolder,
    JournalMaxSize,
    KeepImages,
    Model,
    Runtime,
    TrustExternal,
    console,
)
from segwright.cli.models import Post, Tta


def serve(
    model: Model,
    host: Annotated[str, typer.Option("--host", help="Address to listen on; 0.0.0.0: all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="0 takes a free one.")] = 8000,
    device: Device = "auto",
    runtime: Runtime = "auto",
    precision: Annotated[
        str, typer.Option("--precision", help="fp32, bf16, fp16; auto: fp32, or what the runtime is proven in.")
    ] = "auto",
    post: Post = None,
    tta: Tta = None,
    trust_external: TrustExternal = False,
    max_concurrent_requests: Annotated[
        int,
        typer.Option("--max-concurrent-requests", min=1, metavar="N", help="More get 503 with Retry-After."),
    ] = 32,
    batch: Annotated[
        int | None,
        typer.Option("--batch", min=1, metavar="N", help="Images of one size per run: 8 on a GPU, 1 on a CPU."),
    ] = None,
    max_megabytes: Annotated[float, typer.Option("--max-megabytes", help="Largest request body.")] = 32.0,
    max_megapixels: Annotated[float, typer.Option("--max-megapixels", help="Largest image.")] = 32.0,
    upload_timeout: Annotated[
        float, typer.Option("--upload-timeout", metavar="SECONDS", help="Time to receive an image.")
    ] = 30.0,
    predict_timeout: Annotated[
        float, typer.Option("--predict-timeout", metavar="SECONDS", help="Time of the network for one image.")
    ] = 120.0,
    eight_bit: EightBit = None,
    watch: Annotated[bool, typer.Option("--watch", help="Reload the model when its files change.")] = False,
    journal: JournalFolder = None,
    keep_images: KeepImages = "0%",
    journal_max_size: JournalMaxSize = "1GB",
    label_studio: Annotated[
        str | None,
        typer.Option("--label-studio", metavar="URL", help="Pre-label for this Label Studio, under /label-studio."),
    ] = None,
    label_studio_key_file: Annotated[
        Path | None,
        typer.Option(
            "--label-studio-key-file", metavar="FILE", help="An API key of it; without: LABEL_STUDIO_API_KEY is read."
        ),
    ] = None,
    label_studio_labels: Annotated[
        str, typer.Option("--label-studio-labels", metavar="class=Label,…", help="Labels that differ from the classes.")
    ] = "",
    label_folder: Annotated[
        Path | None,
        typer.Option("--label-folder", metavar="DIR", help="Where annotations of Label Studio become masks."),
    ] = None,
) -> None:
    """Serve a model over HTTP, with a page to try it. SIGHUP reloads the model, Ctrl-C stops."""
    from segwright import api

    screen = console()

    def message(line: str) -> None:
        screen.print(line, markup=False, soft_wrap=True)
        screen.file.flush()  # a program that waits for the URL reads a pipe

    api.serve(
        model, host=host, port=port, device=device, precision=precision, postprocess=post, tta=tta,
        trust_external=trust_external, runtime=runtime, max_concurrent_requests=max_concurrent_requests, batch=batch,
        max_megabytes=max_megabytes, max_megapixels=max_megapixels, upload_timeout=upload_timeout,
        predict_timeout=predict_timeout, eight_bit=eight_bit, watch=watch, journal=journal,
        keep_images=keep_images, journal_max_size=journal_max_size, label_studio=label_studio,
        label_studio_key_file=label_studio_key_file, label_studio_labels=label_studio_labels,
        label_folder=label_folder, message=message,
    )  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(serve)
