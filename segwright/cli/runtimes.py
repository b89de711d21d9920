"""The command that compares the runtimes of a model: benchmark."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from segwright.cli.common import check_json, console, write_result
from segwright.cli.options import Json, Model, TrustExternal
from segwright.core.progress import literal

if TYPE_CHECKING:
    from segwright.exporting.benchmark import Benchmark


def benchmark(
    model: Model,
    data: Annotated[Path | None, typer.Option("--data", metavar="DATA", help="Real images to run on.")] = None,
    size: Annotated[str | None, typer.Option("--size", metavar="HxW", help="Of the timed image; its own.")] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, metavar="N", help="Images of a run, for throughput.")] = 4,
    seconds: Annotated[float, typer.Option("--seconds", help="Of timing one image.")] = 20.0,
    memory: Annotated[
        bool, typer.Option("--memory/--no-memory", help="Also the memory of each, in a process of its own.")
    ] = True,
    keep: Annotated[
        bool, typer.Option("--keep/--no-keep", help="Keep the result for --runtime auto, in the user's cache.")
    ] = True,
    trust_external: TrustExternal = False,
    json: Json = None,
) -> None:
    """Compare the runtimes of a model on this machine: latency, throughput, memory, agreement."""
    from segwright import api

    check_json(json)
    found = api.benchmark(
        model, data=data, size=size, batch=batch, seconds=seconds, memory=memory, keep=keep,
        trust_external=trust_external,
    )  # fmt: skip
    screen = console()
    screen.print(_table(found))
    for one in found.runtimes:
        if one.problem:
            screen.print(literal(f"{one.name}: {one.problem}"), soft_wrap=True)
    cpu = f"{found.machine['cpu']}, {found.machine['cores']} cores"
    screen.print(literal(f"{found.size}, batches of {found.batch}, {found.turns} turns; {cpu}"), soft_wrap=True)
    screen.print(literal(f"labels compared on {found.source}"), soft_wrap=True)
    if found.proof is not None:
        screen.print(literal(f"--runtime auto takes {found.fastest} here; proof: {found.proof}"), soft_wrap=True)
    write_result(json, found.to_json())


def _table(found: Benchmark) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("runtime", no_wrap=True)
    for title in ("ms, median", "ms, p95", "× as fast", "images/s", "memory MB", "labels equal"):
        table.add_column(title, justify="right")  # a title of two words may take two lines
    for one in found.runtimes:
        if one.problem:
            continue
        memory = "" if math.isnan(one.memory_mb) else f"{one.memory_mb:.0f}"
        table.add_row(
            f"{one.name}{' *' if one.name == found.fastest else ''}", f"{one.latency_ms:.1f}",
            f"{one.latency_p95_ms:.1f}", f"{one.speedup:.2f}", f"{one.images_per_second:.1f}", memory,
            f"{one.agreement:.3%}",
        )  # fmt: skip
    return table


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(benchmark)
