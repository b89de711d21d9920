"""Cross-validation: one run a fold, and what their scores say together.

Every labelled picture outside the test split is scored by exactly one model, which has not seen it. The pooled score
over all of them has an interval from images, or from sequences where frames come from video; the spread over the folds
also holds the luck of the training.

The folder holds ``fold-0/`` …, ``folds.json``, ``report.html`` and ``model/``: the folds' models as one (an ensemble).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segwright.config import TrainConfig
from segwright.console import stderr_console
from segwright.data.dataset import Dataset
from segwright.data.inspect import inspect_dataset
from segwright.errors import UsageError
from segwright.evaluation.independent import Independent, drawn_from
from segwright.files import exclusive, without_nan, write_json
from segwright.inference.bundle import is_bundle
from segwright.inference.ensemble import save_ensemble
from segwright.metrics.confusion import iou_per_class, nanmean
from segwright.metrics.intervals import miou_interval
from segwright.models.ensemble import MOST_MEMBERS
from segwright.training.checkpoint import checkpoints
from segwright.training.crossval_page import write_folds_page
from segwright.training.folder import default_folder, point_latest
from segwright.training.run import refuse_errors, run_training, warning_lines


@dataclass(frozen=True)
class Fold:
    """One run of a cross-validation."""

    number: int
    folder: Path
    miou: float
    ci95: tuple[float, float]
    counts: np.ndarray[Any, np.dtype[np.int64]]  # (pictures, 3, K): intersection, truth, prediction
    ids: tuple[str, ...] = ()  # of the pictures; empty in folders of earlier versions, as are the sequences
    sequences: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "fold": self.number,
            "folder": str(self.folder),
            "pictures": len(self.counts),
            "val_miou": self.miou,
            "val_miou_ci95": list(self.ci95),
            **drawn_from(*self.named()).to_json(),
        }

    def named(self) -> tuple[list[str], list[str]]:
        """Id and sequence of each picture."""
        ids = list(self.ids) or [f"fold {self.number}: {place}" for place in range(len(self.counts))]
        return ids, list(self.sequences) or ids


@dataclass(frozen=True)
class CrossValidation:
    """The folds that were trained, and their summary."""

    folder: Path
    names: tuple[str, ...]
    folds: tuple[Fold, ...]
    wanted: int
    stopped_by: str | None = None

    @property
    def model(self) -> Path:
        """The folds' models as one, once all are trained."""
        return self.folder / "model"

    @property
    def mean(self) -> float:
        return float(np.mean([fold.miou for fold in self.folds])) if self.folds else float("nan")

    @property
    def spread(self) -> float:
        """The standard deviation over the folds (n − 1)."""
        return float(np.std([fold.miou for fold in self.folds], ddof=1)) if len(self.folds) > 1 else float("nan")

    def independent(self) -> Independent:
        """What the interval of the pooled score draws: a sequence that lies in several folds is one."""
        named = [fold.named() for fold in self.folds]
        return drawn_from([i for ids, _ in named for i in ids], [s for _, sequences in named for s in sequences])

    def summary(self) -> dict[str, Any]:
        """For ``folds.json``: mean, spread, the score pooled over every picture, and the same by class."""
        counts = np.concatenate([fold.counts for fold in self.folds]) if self.folds else np.zeros((0, 3, 0), np.int64)
        by_class = np.array([iou_per_class(fold.counts.sum(axis=0)) for fold in self.folds])
        classes = {}
        for index, name in enumerate(self.names):
            found = by_class[:, index][np.isfinite(by_class[:, index])] if len(by_class) else np.zeros(0)
            classes[name] = {
                "mean": float(found.mean()) if len(found) else None,
                "spread": float(found.std(ddof=1)) if len(found) > 1 else None,
            }
        scores = [fold.miou for fold in self.folds]
        over = self.independent()
        tree = {
            "folder": str(self.folder),
            "model": str(self.model) if is_bundle(self.model) else None,
            "folds": [fold.to_json() for fold in self.folds],
            "finished": len(self.folds) == self.wanted,
            "stopped_by": self.stopped_by,
            "val_miou_mean": self.mean,
            "val_miou_spread": self.spread,
            "val_miou_range": [min(scores), max(scores)] if scores else None,
            "pooled_miou": nanmean(iou_per_class(counts.sum(axis=0))) if self.folds else None,
            "pooled_miou_ci95": list(miou_interval(counts, groups=over.groups)) if self.folds else None,
            **over.to_json(),
            "interval_note": over.note,
            "per_class_iou": classes,
        }
        return dict(without_nan(tree))

    def sentence(self) -> str:
        if len(self.folds) < self.wanted:
            return (
                f"{len(self.folds)} of {self.wanted} folds are trained (stopped by {self.stopped_by}); --resume goes on"
            )
        found = self.summary()
        low, high = found["pooled_miou_ci95"]
        over = self.independent()
        note = f"; {over.note}" if over.note else ""
        span = "" if low is None else f" (95 %: {low:.3f} to {high:.3f} over {over}{note})"
        return (
            f"{self.wanted} folds: val mIoU {self.mean:.3f} ± {self.spread:.3f} over the folds, "
            f"{found['pooled_miou']:.3f} pooled over every picture{span}"
        )


def cross_validate(
    data: Dataset,
    config: TrainConfig,
    folds: int,
    *,
    resume: bool = False,
    start: str | Path | None = None,
    command: str = "",
) -> CrossValidation:
    """Train ``folds`` runs into ``OUT/fold-0`` …; a budget in minutes is that of each. With ``resume``, folds that are
    finished stay and one that was stopped goes on. UsageError for fewer than two folds or a folder in use."""
    if folds < 2:
        raise UsageError("cross-validation takes two folds or more", found=str(folds))
    folder = Path(config.out) if config.out else default_folder(data, config)
    done: list[Fold] = []
    stopped_by = None
    with exclusive(folder):
        if (folder / "fold-0").exists() and not resume:
            raise UsageError("the folder holds runs already", where=folder, fix="--resume, or another --out")
        checked = inspect_dataset(data)
        for line in warning_lines(checked):
            stderr_console().print(line, soft_wrap=True)
        refuse_errors(checked, data, skip_bad=config.data.skip_bad)
        for number in range(folds):
            place = folder / f"fold-{number}"
            if resume and (kept := _kept(place, number, folds)) is not None:
                done.append(kept)
                continue
            stderr_console().print(f"fold {number + 1} of {folds}", highlight=False)
            values = {"data.fold": number, "data.folds": folds, "out": str(place)}
            if not checkpoints(place / "checkpoints"):
                shutil.rmtree(place, ignore_errors=True)  # begun, and stopped before anything was worth keeping
            run = run_training(
                data, config.with_values(values), resume=resume, start=start, command=command, checked=checked
            )
            if run.evaluation is None:
                stopped_by = run.stopped_by or "no score"
                break
            e = run.evaluation
            fold = Fold(
                number,
                place,
                e.miou,
                e.miou_ci95,
                np.asarray(e.counts, np.int64),
                tuple(e.ids),
                e.independent.sequences,
            )
            pictures = {"counts": fold.counts.tolist(), "ids": list(fold.ids), "sequences": list(fold.sequences)}
            write_json(place / "fold.json", {**fold.to_json(), "folds": folds, **pictures})
            done.append(fold)
        found = CrossValidation(folder, data.label_space.names, tuple(done), folds, stopped_by)
        _conclude(found, command)
    return found


def _conclude(found: CrossValidation, command: str) -> None:
    """Write what the folds came to: the ensemble where all are trained, the figures, the page."""
    folder = found.folder
    if len(found.folds) == found.wanted <= MOST_MEMBERS:
        scores = {key: value for key, value in found.summary().items() if key.startswith(("val_", "pooled_"))}
        models = [fold.folder for fold in found.folds]
        save_ensemble(models, found.model, metrics={"cross_validation": scores}, command=command)
        point_latest(folder)
    if (folder / "latest").is_symlink():  # every fold's run leaves one; among equals none is the latest
        (folder / "latest").unlink()
    write_json(folder / "folds.json", found.summary())
    if found.folds:
        write_folds_page(folder / "report.html", found, command=command)


def _kept(place: Path, number: int, folds: int) -> Fold | None:
    """A fold that an earlier sitting finished; UsageError where it was cut for another number of folds."""
    path = place / "fold.json"
    if not path.exists():
        return None
    tree: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if tree["folds"] != folds:
        raise UsageError(
            "the folder was begun with another number of folds", expected=str(tree["folds"]), found=str(folds)
        )
    interval: Sequence[Any] = [float("nan") if value is None else float(value) for value in tree["val_miou_ci95"]]
    counts = np.asarray(tree["counts"], np.int64)
    ids, sequences = tuple(tree.get("ids", ())), tuple(tree.get("sequences", ()))
    return Fold(number, place, float(tree["val_miou"]), (interval[0], interval[1]), counts, ids, sequences)
