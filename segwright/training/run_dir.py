"""The run folder: its default name, the refusal of a second run in it, and the ``latest`` link to it."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

from segwright.core.errors import UsageError
from segwright.data.dataset import Dataset
from segwright.training.checkpoint import checkpoints
from segwright.training.config import TrainConfig


def refuse_second_run(folder: Path) -> None:
    """UsageError if ``folder`` holds a run already: finished work is not overwritten."""
    if checkpoints(folder / "checkpoints") or (folder / "model").exists():
        raise UsageError(
            "the folder holds a run already",
            where=folder,
            fix="--resume to continue it, or another folder with --out",
        )


def default_folder(data: Dataset, config: TrainConfig) -> Path:
    """``runs/<date>-<data>-<model>``."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    name = config.model.name if config.model.name != "auto" else "model"
    return Path("runs") / f"{stamp}-{data.root.resolve().stem}-{name}"


def point_latest(folder: Path) -> None:
    """Link ``latest``, beside the run folder, to it; a no-op where links cannot be made."""
    link = folder.parent / "latest"
    if folder.name == "latest":
        return
    try:
        beside = folder.parent / f".latest-{os.getpid()}"
        beside.unlink(missing_ok=True)
        beside.symlink_to(folder.name, target_is_directory=True)
        if link.is_symlink() or not link.exists():
            os.replace(beside, link)
        else:
            beside.unlink()
    except OSError:
        return
