"""Whether unlabeled images helped: the same training with and without them, compared on the validation images.

The baseline is trained first, in ``labeled-only/`` of the run folder, with the same plan, seed and number of updates;
with ``--minutes`` each of the two gets half of the time. Neither model is exchanged for the other: the verdict, with
its paired interval, is a message, a sentence of the report, and ``training.self_training`` in ``model.json``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from segwright.core.counted import counted
from segwright.core.errors import UsageError
from segwright.data.dataset import Dataset
from segwright.evaluation.evaluate import Evaluation
from segwright.evaluation.pairing import pair_evaluations
from segwright.evaluation.sequences import BootstrapUnits
from segwright.metrics.bootstrap import PairedDifference
from segwright.training.callbacks.log import Display
from segwright.training.checkpoint import checkpoints
from segwright.training.config import TrainConfig

FOLDER = "labeled-only"  # of the baseline, in the run folder


@dataclass(frozen=True)
class Judgment:
    """Mean IoU with and without unlabeled images, on the same validation images."""

    without: float
    with_unlabeled: float
    difference: PairedDifference
    over: BootstrapUnits
    common: int | None = None  # images that both models were scored on, if one was scored on others as well

    @property
    def helped(self) -> bool:
        """Whether the gain is beyond chance."""
        return self.difference.clear and self.difference.difference > 0

    def sentence(self) -> str:
        d = self.difference
        figures = (
            f"mean IoU {self.without:.3f} without the unlabeled images, {self.with_unlabeled:.3f} with them "
            f"({100 * d.difference:+.2f} points"
        )
        figures += ")" if np.isnan(d.low) else f", 95 %: {100 * d.low:+.2f} to {100 * d.high:+.2f} over {self.over})"
        if self.common is not None:
            figures += f", on {counted(self.common, 'image')} that both were scored on"
        if self.helped:
            return f"the unlabeled images helped: {figures}"
        if d.few or np.isnan(d.low):
            return f"whether the unlabeled images helped is open, since there are too few {self.over.over}: {figures}"
        if d.clear:
            return f"the unlabeled images did harm: {figures}; the model without them is in {FOLDER}/model"
        return f"the unlabeled images made no difference beyond chance: {figures}; the other model is in {FOLDER}/model"

    def to_json(self) -> dict[str, Any]:
        d = self.difference
        return {
            "val_miou_without": self.without,
            "val_miou_with": self.with_unlabeled,
            "difference": d.difference,
            "difference_ci95": [d.low, d.high],
            **self.over.to_json(),
            "helped": self.helped,
            "sentence": self.sentence(),
        }


def judge(with_unlabeled: Evaluation, without: Evaluation) -> Judgment | None:
    """Compare two evaluations on the images that both scored; None if there is none."""
    paired = pair_evaluations(without, with_unlabeled)
    if paired is None:
        return None
    common = None if paired.whole else len(paired.ids)
    difference = paired.difference()
    return Judgment(difference.miou_a, difference.miou_b, difference, paired.over, common)


def train_judged(
    train: Callable[..., Any],
    data: Dataset,
    config: TrainConfig,
    folder: Path,
    *,
    resume: bool = False,
    started: float | None = None,
    **given: Any,
) -> Any:
    """The run of ``train`` (:func:`segwright.training.run.run_training`) with its verdict; the baseline comes first.

    UsageError with several processes, and without unlabeled images.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(
            "unlabeled.judge trains in one process",
            fix="two runs, with and without --unlabeled, and `segwright compare WITHOUT WITH DATA`",
        )
    if not config.unlabeled.active and not resume:
        raise UsageError("unlabeled.judge compares with and without unlabeled images", fix="--unlabeled DIR")
    minutes = config.training.minutes
    if minutes is not None:
        config = config.with_values({"training.minutes": minutes / 2})
    alone = config.with_values(
        {"unlabeled.path": None, "unlabeled.own": "none", "unlabeled.judge": False, "out": str(folder / FOLDER)}
    )
    started = time.monotonic() if started is None else started
    again = resume and bool(checkpoints(folder / FOLDER / "checkpoints"))
    Display().message(f"two trainings: first without the unlabeled images, in {folder / FOLDER}, then with them")
    baseline = train(data, alone, resume=again, started=started, **given)
    if baseline.stopped_by is not None and baseline.stopped_by != "early stopping":
        return replace(baseline, folder=folder)
    again = resume and bool(checkpoints(folder / "checkpoints"))
    config = config.with_values({"out": str(folder)})
    return train(data, config, resume=again, baseline=baseline.evaluation, **given)
