"""Cross-validation: one run per fold, and their joint scores.

Every labeled image outside the test split is scored by exactly one model, which has not seen it. The pooled score
over all of them has an interval from images, or from sequences where frames come from video; the spread over the folds
also includes the variance of the training.

The folder holds ``fold-0/`` …, ``folds.json``, ``report.html`` and ``model/``: the ensemble of the folds' models.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segwright.core.atomic_io import lock_folder, write_json
from segwright.core.errors import UsageError
from segwright.core.progress import stderr_console
from segwright.data.check.runner import check_dataset
from segwright.data.dataset import Dataset
from segwright.inference.ensemble import save_ensemble
from segwright.models.ensemble import MOST_MEMBERS
from segwright.search.cross_validation_page import write_folds_page
from segwright.search.folds import NO_SCORE, CrossValidation, Fold, no_score
from segwright.training.checkpoint import checkpoints
from segwright.training.config import TrainConfig
from segwright.training.run import refuse_errors, run_training, warning_lines
from segwright.training.run_dir import (
    default_folder,
    point_latest,
    refuse_occupied_folder,
    refuse_second_run,
    remove_begun,
)


def cross_validate(
    data: Dataset,
    config: TrainConfig,
    folds: int,
    *,
    resume: bool = False,
    init_from: str | Path | None = None,
    command: str = "",
) -> CrossValidation:
    """Train ``folds`` runs into ``OUT/fold-0`` …; a budget in minutes is that of each. With ``resume``, finished folds
    are kept and a stopped one continues. UsageError for fewer than two folds or a folder in use."""
    if folds < 2:
        raise UsageError("cross-validation takes two folds or more", found=str(folds))
    folder = Path(config.out) if config.out else default_folder(data, config)
    done: list[Fold] = []
    stopped_by = None
    refuse_occupied_folder(folder, data)
    with lock_folder(folder):
        if not (folder / "fold-0").exists():
            refuse_second_run(folder)
        elif not resume:
            raise UsageError("the folder holds runs already", where=folder, fix="--resume, or another --out")
        places = [folder / f"fold-{number}" for number in range(folds)]
        before = [_kept(place, number, folds) if resume else None for number, place in enumerate(places)]
        for place, kept in zip(places, before, strict=True):
            if kept is None and not checkpoints(place / "checkpoints"):
                remove_begun(place)
        checked = check_dataset(data)
        for line in warning_lines(checked):
            stderr_console().print(line, soft_wrap=True)
        refuse_errors(checked, data, skip_bad=config.data.skip_bad)
        for number, (place, kept) in enumerate(zip(places, before, strict=True)):
            if kept is not None:
                done.append(kept)
                continue
            stderr_console().print(f"fold {number + 1} of {folds}", highlight=False)
            values = {"data.fold": number, "data.folds": folds, "out": str(place)}
            run = run_training(
                data, config.with_values(values), resume=resume, init_from=init_from, command=command, checked=checked
            )
            if run.evaluation is None:
                stopped_by = run.stopped_by if run.stopped_by in ("SIGINT", "SIGTERM") else NO_SCORE
                if stopped_by != NO_SCORE or not done:
                    break
                stderr_console().print(
                    f"warning: fold {number + 1} has {no_score(run)}; the others follow", highlight=False
                )
                continue
            e = run.evaluation
            fold = Fold(
                number,
                place,
                e.miou,
                e.miou_ci95,
                np.asarray(e.counts, np.int64),
                tuple(e.ids),
                e.independent.sequences,
                run.val_images,
            )
            images = {"counts": fold.counts.tolist(), "ids": list(fold.ids), "sequences": list(fold.sequences)}
            write_json(place / "fold.json", {**fold.to_json(), "folds": folds, **images})
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
    if (folder / "latest").is_symlink():  # every fold's run creates one; none of them is the latest
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
    return Fold(
        number,
        place,
        float(tree["val_miou"]),
        (interval[0], interval[1]),
        counts,
        ids,
        sequences,
        tree.get("val_images"),
    )
