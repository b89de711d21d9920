"""The search: the default first, laggards ended early, a kill survived, and an honest last sentence.

Trainings are replaced by a formula, so that the search itself is seen; tests/cli/test_tuning.py runs a real one.
"""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from segwright.core.errors import MissingExtraError, NonFiniteLossError, UsageError
from segwright.data.dataset import Dataset, open_dataset
from segwright.demo.dataset import write_street_scenes
from segwright.evaluation.sequences import find_units
from segwright.search import tune as module
from segwright.search.search_space import apply_params, architecture_label, architecture_values, default_params
from segwright.search.tune import Study, require_optuna, tune
from segwright.training.config import TrainConfig, load_config
from segwright.training.state import Progress

pytest.importorskip("optuna")
PHASES = [{"until": 1.0, "size": (64, 96), "scale": (0.7, 1.3), "batch": 4}]
PLANNED = {
    "model.name": "leannet", "model.encoder": None, "model.arguments": {"variant": "small"}, "model.in_channels": 3,
    "training.lr": 4e-3, "training.weight_decay": 0.02, "training.phases": PHASES, "training.size": (64, 96),
    "training.loss": "ce(smoothing=0.05)", "training.final_phase_loss": "0.5*jaccard",
    "augment.strength": "medium", "augment.class_aware": 0.4,
}  # fmt: skip
Formula = Callable[[TrainConfig], float]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(write_street_scenes(tmp_path_factory.mktemp("scenes"), train=6, val=3, test=0, size=(64, 96)))


def better_faster(config: TrainConfig) -> float:
    """Best at three times the planned rate."""
    return 0.6 - 0.2 * abs(math.log(float(config.training.lr) / 4e-3) - math.log(3))


class Trainings:
    """Stands for run_training: the score is a formula of the config; counts that pool to just that score."""

    def __init__(self, formula: Formula) -> None:
        self.formula = formula
        self.configs: list[TrainConfig] = []
        self.interrupt_at: int | None = None
        self.kill_at: int | None = None
        self.clock = 0.0

    def __call__(self, data: Any, config: TrainConfig, *, dry_run: bool = False, **given: Any) -> Any:
        if dry_run:
            return SimpleNamespace(plan=SimpleNamespace(config=config.with_values(PLANNED)))
        self.configs.append(config)
        score = self.formula(config)
        if not math.isfinite(score):
            raise NonFiniteLossError("the loss became nan at step 3")
        watch = given["on_validation"]
        seconds = float(config.training.minutes or 1) * 60
        for tenth in range(1, 10):
            self.clock += seconds / 9
            if self.kill_at == len(self.configs) and tenth == 5:
                os.kill(os.getpid(), signal.SIGKILL)
            progress = Progress(seconds=seconds * (tenth + 0.5) / 10, best_miou=score * tenth / 10)
            if watch is not None and watch(progress, SimpleNamespace()):
                return SimpleNamespace(stopped_by="on_validation", evaluation=None)
        if self.interrupt_at == len(self.configs):
            return SimpleNamespace(stopped_by="SIGINT", evaluation=None)
        union = 10_000
        counts = np.tile(np.array([[[round(score * union)] * 2, [union] * 2, [round(score * union)] * 2]]), (9, 1, 1))
        drawn = find_units([f"{place}x" for place in range(len(counts))])
        return SimpleNamespace(
            stopped_by=None, evaluation=SimpleNamespace(miou=score, counts=counts, independent=drawn)
        )


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    found = Trainings(better_faster)
    monkeypatch.setattr(module, "run_training", found)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: found.clock))
    monkeypatch.setattr(module, "check_dataset", lambda data: SimpleNamespace(warnings=()))
    return found


def search(scenes: Dataset, folder: Path, *, trainings: int = 12, resume: bool = False) -> Study:
    """``trainings``: the time, in whole trainings, the two of the comparison included."""
    return tune(scenes, TrainConfig(), folder, minutes=5.0 * trainings, trial_minutes=5.0, resume=resume)


def test_a_search_beats_the_default_and_says_so(scenes: Dataset, tmp_path: Path, trainings: Trainings) -> None:
    found = search(scenes, tmp_path / "a")
    first, best = found.trials[0], found.best
    assert first.params["lr"] == 1.0 and first.miou == pytest.approx(better_faster(trainings.configs[0]))
    assert trainings.configs[0].training.loss == "ce(smoothing=0.05)", "trial 0 is the plan"
    assert best.miou is not None and first.miou is not None and best.miou > first.miou
    assert found.beats_default is True and "beats the default" in found.sentence
    states = [trial.state for trial in found.trials]
    assert "pruned" not in states[:5] and "pruned" in states and len(states) > 10, "time saved is searched on"
    seeds = [config.training.seed for config in trainings.configs]
    assert seeds[-2:] == [1, 1] and set(seeds[:-2]) == {0}, "compared with another seed"
    assert {config.training.minutes for config in trainings.configs} == {5.0}, "at the same time"
    recipe = load_config(found.config)
    assert recipe.training.lr == pytest.approx(4e-3 * best.params["lr"])
    assert recipe.training.minutes is None and recipe.out is None and recipe.data.path == ""
    tree = json.loads((tmp_path / "a" / "tune.json").read_text())
    assert tree["comparison"]["clear"] is True and len(tree["trials"]) == len(found.trials)
    assert not list((tmp_path / "a").rglob("checkpoints"))
    page = (tmp_path / "a" / "study.html").read_text()
    assert (
        "beats the default" in page
        and "<svg" in page
        and "<script>alert" not in page
        and "http" not in page.split("<body>")[1]
    )


def test_a_search_that_finds_nothing_says_so(scenes: Dataset, tmp_path: Path, trainings: Trainings) -> None:
    trainings.formula = lambda config: 0.5 if config.training.lr == 4e-3 else 0.1
    found = search(scenes, tmp_path / "b", trainings=6)
    assert found.best.number == 0 and found.beats_default is False
    assert "did not beat the default" in found.sentence
    assert load_config(found.config).training.lr == 4e-3


def test_luck_with_one_seed_is_not_taken_for_a_gain(scenes: Dataset, tmp_path: Path, trainings: Trainings) -> None:
    trainings.formula = lambda config: 0.5 if config.training.lr == 4e-3 else 0.7 - 0.3 * config.training.seed
    found = search(scenes, tmp_path / "c", trainings=6)
    assert found.best.number > 0 and found.beats_default is False
    assert "did not beat the default" in found.sentence and "default's settings" in found.sentence
    assert load_config(found.config).training.lr == 4e-3


def test_an_interrupted_search_goes_on_with_the_trial_it_lost(
    scenes: Dataset, tmp_path: Path, trainings: Trainings
) -> None:
    trainings.interrupt_at = 2
    found = search(scenes, tmp_path / "d")
    assert found.stopped_by == "SIGINT" and found.beats_default is None and "--resume" in found.sentence
    with pytest.raises(UsageError, match="holds a search already"):
        search(scenes, tmp_path / "d")
    lost = trainings.configs[1]
    again = search(scenes, tmp_path / "d", resume=True)
    assert trainings.configs[2].training.lr == lost.training.lr, "the lost trial is taken again"
    assert again.stopped_by is None and len(again.trials) > len(found.trials)
    assert [trial.number for trial in again.trials] == list(range(len(again.trials)))


def test_a_search_survives_sigkill(scenes: Dataset, tmp_path: Path, trainings: Trainings) -> None:
    trainings.kill_at = 3
    child = os.fork()
    if child == 0:
        search(scenes, tmp_path / "k")
        os._exit(0)  # not reached: it is killed in the middle of the third trial
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not (tmp_path / "k" / "tune.json").exists()
    trainings.kill_at = None
    found = search(scenes, tmp_path / "k", resume=True)
    states = {trial.number: trial.state for trial in found.trials}
    assert states[0] == states[1] == "complete" and states[2] == "failed"
    assert found.trials[3].params == found.trials[2].params, "the trial that was cut off is taken again"
    assert trainings.configs[0].training.lr == pytest.approx(4e-3 * found.trials[2].params["lr"])
    assert found.beats_default is True and found.stopped_by is None


def test_default_and_winner_are_compared_at_the_same_final_time(
    scenes: Dataset, tmp_path: Path, trainings: Trainings
) -> None:
    found = tune(scenes, TrainConfig(), tmp_path / "f", minutes=80.0, trial_minutes=5.0, final_minutes=20.0)
    minutes = [config.training.minutes for config in trainings.configs]
    assert minutes[-2:] == [20.0, 20.0] and set(minutes[:-2]) == {5.0}
    assert trainings.clock <= 80 * 60 * 1.05
    default, winner = trainings.configs[-2:]
    assert default.training.lr == 4e-3 and winner.training.lr == pytest.approx(4e-3 * found.best.params["lr"])
    tree = json.loads((tmp_path / "f" / "tune.json").read_text())
    assert tree["beats_default"] is True and "beats the default" in tree["sentence"]
    assert "for 20 minutes" in tree["sentence"] and tree["comparison"]["minutes"] == 20.0
    assert tree["comparison"]["winner_miou"] > tree["comparison"]["default_miou"]
    with pytest.raises(UsageError, match="does not hold a search"):
        tune(scenes, TrainConfig(), tmp_path / "g", minutes=30, trial_minutes=5, final_minutes=20)


def test_settings_that_do_not_train_are_a_lesson_not_an_end(
    scenes: Dataset, tmp_path: Path, trainings: Trainings
) -> None:
    trainings.formula = lambda config: float("nan") if config.training.lr > 8e-3 else 0.4
    found = search(scenes, tmp_path / "e", trainings=8)
    assert any("nan" in trial.note for trial in found.trials) and found.stopped_by is None


def test_a_time_that_holds_no_search_is_refused(scenes: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not hold a search"):
        tune(scenes, TrainConfig(), tmp_path, minutes=10, trial_minutes=5)


def test_parameters_become_a_config_and_the_default_ones_the_plan() -> None:
    base = TrainConfig().with_values(PLANNED)
    label = architecture_label(base)
    assert label == "leannet:small" and base.with_values(architecture_values(label)) == base
    plain = default_params(base, label)
    assert apply_params(base, plain) == base
    changed = apply_params(base, {**plain, "lr": 2.0, "crop": 1.25, "zoom": 2.0, "loss": "ce+dice"})
    phase = changed.training.phases[0]
    assert changed.training.lr == 8e-3 and changed.training.muon_lr == 0.12 and phase.size == (64, 128)
    assert phase.scale[0] == pytest.approx(0.7 * (0.7 / 1.3) ** 0.5) and changed.training.final_phase_loss is None


def test_without_optuna_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r"segwright\[tune\]"):
        require_optuna()
