"""The run folder: its default name, the refusal of a second run in it, and the ``latest`` link to it."""

from __future__ import annotations

import os
import shutil
from datetime import datetime
from pathlib import Path

from segwright.core.errors import UsageError
from segwright.data.dataset import Dataset
from segwright.training.checkpoint import checkpoints
from segwright.training.config import TrainConfig

# What a run, a cross-validation and a search write by fixed names, beside the weights.
WRITTEN = (
    "config.yaml", "plan.json", "log.jsonl", "metrics.csv", "report.html", "folds.json",
    "tune.json", "study.html", "best.yaml",
)  # fmt: skip


def refuse_occupied_folder(folder: Path, data: Dataset) -> None:
    """UsageError if ``folder`` is that of the dataset, or holds files that a run would replace and none wrote.

    Call it before the folder is locked: the lock's file is the mark of a run's folder.
    """
    if folder.resolve() == data.root.resolve():
        raise UsageError(
            "the run folder is the dataset's own folder, and a run would become part of the dataset",
            where=folder,
            fix="another folder with --out",
        )
    if (folder / ".lock").exists() or checkpoints(folder / "checkpoints") or (folder / "model").exists():
        return
    if found := [name for name in WRITTEN if (folder / name).exists()]:
        raise UsageError(
            "the folder holds files that are of no run and would be replaced",
            found=", ".join(found),
            where=folder,
            fix="another folder with --out, or move them away",
        )


def refuse_second_run(folder: Path) -> None:
    """UsageError if ``folder`` holds a run already: finished work is not overwritten."""
    if checkpoints(folder / "checkpoints") or (folder / "model").exists():
        raise UsageError(
            "the folder holds a run already",
            where=folder,
            fix="--resume to continue it, or another folder with --out",
        )
    for name, kind in (("study.db", "a search"), ("fold-0", "a cross-validation")):
        if (folder / name).exists():
            raise UsageError(f"the folder holds {kind} already", where=folder, fix="another folder with --out")


def refuse_to_begin_again(folder: Path) -> None:
    """UsageError if ``folder`` holds a finished model and no checkpoint: beginning again would replace the model."""
    if (folder / "model").exists() and (folder / "report.html").exists():
        raise UsageError(
            "the folder holds a finished run without a checkpoint to continue from",
            expected=f"{folder / 'checkpoints'}",
            where=folder,
            fix=f"another --out, and --init-from {folder} to begin with the weights of this run",
        )


def remove_begun(folder: Path) -> None:
    """Remove a run that was stopped before anything was worth keeping; UsageError if ``folder`` holds anything else."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if names and not {".lock", "plan.json"} & set(names):
        raise UsageError(
            "the folder holds files that are of no run and would be removed",
            found=", ".join(names[:6]) + (", …" if len(names) > 6 else ""),
            where=folder,
            fix="another folder with --out, or move them away",
        )
    shutil.rmtree(folder, ignore_errors=True)


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
