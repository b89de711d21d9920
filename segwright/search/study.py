"""The result of a search: its trials, the best one, and its comparison with the default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segwright.core.atomic_io import without_nan
from segwright.evaluation.sequences import BootstrapUnits
from segwright.metrics.bootstrap import PairedDifference


@dataclass(frozen=True)
class Trial:
    """One training of the search."""

    number: int
    state: str  # complete, pruned, failed
    miou: float | None  # of the best model on the validation images, for all trials the same ones where they have
    # some in common; of a pruned trial, up to there
    params: Mapping[str, Any]
    curve: Mapping[int, float]  # tenth of the time → best validation mIoU so far
    seconds: float
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "state": self.state,
            "val_miou": self.miou,
            "params": dict(self.params),
            "curve": {str(step): value for step, value in self.curve.items()},
            "seconds": self.seconds,
            "note": self.note,
        }


@dataclass(frozen=True)
class Study:
    """The result of a search."""

    folder: Path
    trials: tuple[Trial, ...]
    best: Trial
    sentence: str
    beats_default: bool | None  # None: not compared; the sentence has the reason
    trial_minutes: float
    final_minutes: float = 0.0  # of each of the two trainings that were compared
    default_miou: float | None = None  # on the images that both were scored on
    winner_miou: float | None = None
    compared_images: int | None = None
    difference: PairedDifference | None = None
    importance: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # on which images scores are compared, if they are of different ones
    stopped_by: str | None = None
    independent: BootstrapUnits | None = None  # what the interval of the difference draws

    @property
    def config(self) -> Path:
        """For ``segwright train --config``."""
        return self.folder / "best.yaml"

    def to_json(self) -> dict[str, Any]:
        d = self.difference
        tree = {
            "folder": str(self.folder),
            "config": str(self.config),
            "trials": [trial.to_json() for trial in self.trials],
            "best": self.best.to_json(),
            "trial_minutes": self.trial_minutes,
            "final_minutes": self.final_minutes,
            "beats_default": self.beats_default,
            "sentence": self.sentence,
            "comparison": None
            if d is None
            else {
                "minutes": self.final_minutes,
                "default_miou": self.default_miou,
                "winner_miou": self.winner_miou,
                "images": self.compared_images,
                "miou_difference": d.difference,
                "ci95": [d.low, d.high],
                **({} if self.independent is None else self.independent.to_json()),
                "share_above": d.share_above,
                "clear": d.clear,
            },
            "importance": dict(self.importance),
            "notes": list(self.notes),
            "stopped_by": self.stopped_by,
        }
        return dict(without_nan(tree))
