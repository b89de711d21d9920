"""The scores of a search's trials on the same images.

A trial has a limit of minutes, and is scored on as many validation images as remain affordable. Trials that were scored
on different images are compared on those that all of them were scored on, from the counts beside each trial.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from segwright.core.atomic_io import atomic_file
from segwright.core.counted import counted
from segwright.core.errors import OutputError
from segwright.evaluation.evaluation import Evaluation
from segwright.metrics.confusion import Int64Array, labeled_miou

FILE = "scored.npz"  # in the trial's folder
LEAST_COMMON = 4  # images


@dataclass(frozen=True)
class TrialScores:
    """The mIoU of trials by their numbers, on ``images`` common images; empty if each has its own score."""

    miou: Mapping[int, float] = field(default_factory=dict)
    note: str = ""  # what the scores are of, if not of the same images anyway


def keep_scored(folder: Path, evaluation: Evaluation) -> bool:
    """Write the ids and counts (N, 3, K) of the scored images; False if that is impossible."""
    try:
        with atomic_file(folder / FILE) as beside, beside.open("wb") as file:
            np.savez_compressed(file, ids=np.array(evaluation.ids, np.str_), counts=evaluation.counts)
    except OutputError:
        return False
    return True


def compare_trials(folders: Mapping[int, Path]) -> TrialScores:
    """The scores of the trials in ``folders``, by number, on the images that all of them were scored on."""
    found = {number: _scored(folder) for number, folder in folders.items()}
    known = {number: scored for number, scored in found.items() if scored}
    if len(known) < len(found):
        unknown = ", ".join(str(number) for number in found if number not in known)
        return TrialScores(note=f"the images that trials were scored on are not recorded for all (missing: {unknown})")
    sets = [set(scored) for scored in known.values()]
    common = sorted(set.intersection(*sets)) if sets else []
    if all(len(one) == len(common) for one in sets):
        return TrialScores()
    low, high = min(map(len, sets)), max(map(len, sets))
    numbers = str(low) if low == high else f"{low} to {high}"
    note = f"trials were scored on different validation images ({numbers} each, as time allowed)"
    if len(common) < LEAST_COMMON:
        few = f"only {counted(len(common), 'image', 'is')} common" if common else "none is common"
        return TrialScores(note=f"{note}, of which {few}: their scores do not compare well")
    miou = {number: _pooled([scored[name] for name in common]) for number, scored in known.items()}
    return TrialScores(miou, f"{note}: they are compared on the {len(common)} that are common to all")


def _scored(folder: Path) -> dict[str, Int64Array] | None:
    """Counts (3, K) by id; None where they are not to be had, as in searches of earlier versions."""
    try:
        with np.load(folder / FILE, allow_pickle=False) as file:
            return dict(zip(file["ids"].tolist(), np.asarray(file["counts"], np.int64), strict=True))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def _pooled(counts: list[Int64Array]) -> float:
    return labeled_miou(np.asarray(counts))
