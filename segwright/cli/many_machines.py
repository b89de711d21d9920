"""The options of ``segwright predict --ray``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import typer

from segwright.cli.options import OptionGroup, refuse_alone
from segwright.core.errors import UsageError


@dataclass(frozen=True)
class Spread(OptionGroup):
    """Prediction on many processes or machines."""

    panel: ClassVar[str] = "Many machines"
    ray: Annotated[
        bool, typer.Option("--ray", help="Spread the images over processes or machines, with Ray; --out may be a URL.")
    ] = False
    address: Annotated[
        str | None,
        typer.Option(
            "--ray-address", metavar="HOST:PORT", help="A Ray cluster; auto: the one of this machine; local: a new one."
        ),
    ] = None
    workers: Annotated[int | None, typer.Option("--workers", metavar="N", help="Processes, all in all.")] = None
    worker_threads: Annotated[
        int | None, typer.Option("--worker-threads", metavar="N", help="Processors of each; 1 if left out.")
    ] = None
    block: Annotated[
        int | None, typer.Option("--block", metavar="N", help="Files that are recorded together; up to 32 if left out.")
    ] = None
    parquet: Annotated[
        bool, typer.Option("--parquet", help="Parquet files, a row per image, instead of files per image.")
    ] = False

    def arguments(self, journal: object) -> dict[str, Any] | None:
        """Those of :func:`segwright.predict_on_ray` beyond those of ``predict``; None without ``--ray``."""
        if not self.ray and self.address is None:
            given = {
                "--workers": self.workers, "--worker-threads": self.worker_threads, "--block": self.block,
                "--parquet": self.parquet or None,
            }  # fmt: skip
            refuse_alone("--ray", {name: value is not None for name, value in given.items()})
            return None
        if journal is not None:
            raise UsageError(
                "a journal is written by one machine", found=f"--journal {journal}",
                fix="the same command without --ray, on a sample of the images",
            )  # fmt: skip
        return {
            "address": self.address, "workers": self.workers, "worker_threads": self.worker_threads or 1,
            "block": self.block, "parquet": self.parquet,
        }  # fmt: skip
