"""The commands that serve models over HTTP: serve, api-key."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import typer
from rich.table import Table

from segwright.cli.common import console, show_at_once
from segwright.cli.options import Journal, OptionGroup, Running
from segwright.cli.parameters import one_of
from segwright.core.errors import UsageError
from segwright.core.progress import PlainConsole, literal

Models = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL...",
        help="Run folders, bundles, exported files or slots; NAME=PATH gives a name. The first answers /predict.",
    ),
]


@dataclass(frozen=True)
class Limits(OptionGroup):
    """What the service accepts."""

    panel: ClassVar[str] = "Limits"
    max_concurrent_requests: Annotated[
        int,
        typer.Option("--max-concurrent-requests", min=1, metavar="N", help="More get 503 with Retry-After."),
    ] = 32
    batch: Annotated[
        int | None,
        typer.Option("--batch", min=1, metavar="N", help="Images of one size per run: 8 on a GPU, 1 on a CPU."),
    ] = None
    window: Annotated[
        int | None,
        typer.Option("--window", metavar="PX", help="Side of the windows of large images; smaller: others wait less."),
    ] = None
    max_megabytes: Annotated[float, typer.Option("--max-megabytes", help="Largest request body.")] = 32.0
    max_megapixels: Annotated[float, typer.Option("--max-megapixels", help="Largest image.")] = 32.0
    upload_timeout: Annotated[
        float, typer.Option("--upload-timeout", metavar="SECONDS", help="Time to receive an image.")
    ] = 30.0
    predict_timeout: Annotated[
        float, typer.Option("--predict-timeout", metavar="SECONDS", help="Time of the network for one image.")
    ] = 120.0
    models_memory: Annotated[
        str | None,
        typer.Option("--models-memory", metavar="SIZE", help="Of the files of all loaded models, such as 2GB."),
    ] = None


@dataclass(frozen=True)
class Access(OptionGroup):
    """Who may use the service, and how it is encrypted."""

    panel: ClassVar[str] = "Access"
    api_keys: Annotated[
        Path | None,
        typer.Option("--api-keys", metavar="FILE", help="Every request needs a key of this file: segwright api-key."),
    ] = None
    tls_cert: Annotated[
        Path | None, typer.Option("--tls-cert", metavar="FILE", help="Certificate and chain as PEM, for HTTPS.")
    ] = None
    tls_key: Annotated[Path | None, typer.Option("--tls-key", metavar="FILE", help="Its private key as PEM.")] = None


@dataclass(frozen=True)
class LabelStudio(OptionGroup):
    """The service as a backend of Label Studio."""

    panel: ClassVar[str] = "Label Studio"
    label_studio: Annotated[
        str | None,
        typer.Option("--label-studio", metavar="URL", help="Pre-label for this Label Studio, under /label-studio."),
    ] = None
    label_studio_key_file: Annotated[
        Path | None,
        typer.Option(
            "--label-studio-key-file", metavar="FILE", help="An API key of it; without: LABEL_STUDIO_API_KEY is read."
        ),
    ] = None
    label_studio_labels: Annotated[
        str, typer.Option("--label-studio-labels", metavar="class=Label,…", help="Labels that differ from the classes.")
    ] = ""
    label_folder: Annotated[
        Path | None,
        typer.Option(
            "--label-folder",
            metavar="DIR",
            help="Where annotations of Label Studio become masks; needs --api-keys or a loopback --host.",
        ),
    ] = None


def serve(
    models: Models,
    running: Running,
    limits: Limits,
    access: Access,
    journal: Journal,
    label_studio: LabelStudio,
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Address to listen on; 0.0.0.0: all.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="0 takes a free one.")] = 8000,
    precision: Annotated[
        str,
        one_of("--precision", choices="auto|fp32|bf16|fp16", help="auto: fp32, or what the runtime is proven in."),
    ] = "auto",
    watch: Annotated[bool, typer.Option("--watch", help="Reload a model when its files change.")] = False,
) -> None:
    """Serve models over HTTP, with a page to try them.

    SIGHUP reloads the models, SIGUSR2 restarts the service without losing a request, Ctrl-C stops.
    """
    from segwright import api

    groups = running.given() | limits.given() | access.given() | journal.given() | label_studio.given()
    api.serve(models, host=host, port=port, precision=precision, watch=watch, message=show_at_once, **groups)


def api_key(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Of whoever gets the key; without it the keys are listed.")
    ] = None,
    file: Annotated[Path, typer.Option("--file", metavar="FILE", help="The file of keys.")] = Path("api-keys.json"),
    requests_per_minute: Annotated[
        float | None, typer.Option("--requests-per-minute", metavar="N", help="Images per minute; more get 429.")
    ] = None,
    max_concurrent: Annotated[
        int | None, typer.Option("--max-concurrent", metavar="N", help="Images at a time; more get 429.")
    ] = None,
    models: Annotated[
        str | None, typer.Option("--models", metavar="NAME,…", help="The models that the key is for; all if left out.")
    ] = None,
    may_reload: Annotated[bool, typer.Option("--may-reload", help="The key may reload models.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the key of this name.")] = False,
) -> None:
    """Make an API key for serve --api-keys FILE, list the keys, or remove one. The file has only their hashes."""
    from segwright.serving.packages import require_packages

    require_packages()
    from segwright.serving.keys import read_keys, remove_key

    screen = console()
    if name is None:
        if remove:
            raise UsageError("no key to remove", expected="segwright api-key NAME --remove", found="no name")
        table = Table("name", "created", "per minute", "at a time", "models", "reloads", box=None)
        for key in read_keys(file):
            limits = ("" if value is None else f"{value:g}" for value in (key.requests_per_minute, key.max_concurrent))
            names = "all" if key.models is None else ", ".join(key.models)
            table.add_row(key.name, key.created, *limits, literal(names), "yes" if key.may_reload else "")
        screen.print(table)
        return
    if remove:
        screen.print(f"Removed: {remove_key(file, name).name}", markup=False)
        return
    from segwright import api

    chosen = None if models is None else [part.strip() for part in models.split(",") if part.strip()]
    secret = api.create_api_key(
        file, name, requests_per_minute=requests_per_minute, max_concurrent=max_concurrent, models=chosen,
        may_reload=may_reload,
    )  # fmt: skip
    console_error = PlainConsole(stderr=True, soft_wrap=True)
    console_error.print(f"The key of {name}, shown only now; {file} has its hash:", markup=False)
    screen.print(secret, markup=False, soft_wrap=True, highlight=False)


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(serve)
    app.command("api-key")(api_key)
