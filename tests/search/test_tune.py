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
from settled_fork import settled_fork

from segwright.core.errors import DataError, MissingExtraError, NonFiniteLossError, TrainingError, UsageError
from segwright.data.dataset import Dataset, open_dataset
from segwright.demo.dataset import write_street_scenes
from segwright.evaluation.sequences import find_units
from segwright.metrics.confusion import iou_per_class, nanmean
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
    return open_dataset(write_street_scenes(tmp_path_factory.mktemp("scenes"), train=6, val=9, test=0, size=(64, 96)))


def better_faster(config: TrainConfig) -> float:
    """Best at three times the planned rate."""
    return 0.6 - 0.2 * abs(math.log(float(config.training.lr) / 4e-3) - math.log(3))


class Trainings:
    """Stands for run_training: the score is a formula of the config; counts that pool to just that score."""

    def __init__(self, formula: Formula) -> None:
        self.formula = formula
        self.stray = (
            False  # whether other trials than the default predict a pixel each of two classes that no image holds
        )
        self.configs: list[TrainConfig] = []
        self.interrupt_at: int | None = None
        self.kill_at: int | None = None
        self.no_score: Callable[[int], bool] = lambda number: False  # of the training, from 1
        self.scored: Callable[[int], list[int]] = lambda number: list(range(9))  # images
        self.easier: set[int] = set()  # images that add 0.3 to any score
        self.clock = 0.0

    def __call__(self, data: Any, config: TrainConfig, *, dry_run: bool = False, **given: Any) -> Any:
        if dry_run:
            return SimpleNamespace(plan=SimpleNamespace(config=config.with_values(PLANNED)))
        self.configs.append(config)
        Path(str(config.out)).mkdir(parents=True, exist_ok=True)
        (Path(str(config.out)) / "plan.json").write_text("{}")
        assert len(self.configs) < 100, "the search does not end"
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
        if self.no_score(len(self.configs)):
            return SimpleNamespace(stopped_by=None, evaluation=None, no_score="scoring ran out of memory")
        stray = self.stray and config.training.lr != 4e-3
        found = self.evaluation(score, self.scored(len(self.configs)), stray=stray)
        return SimpleNamespace(stopped_by=None, evaluation=found)

    def evaluation(self, score: float, images: list[int], *, stray: bool = False) -> Any:
        union = 10_000
        hits = [round((score + 0.3 * (place in self.easier)) * union) for place in images]
        counts = np.array([[[hit] * 2, [union] * 2, [hit] * 2] for hit in hits])
        absent = [0, 0, int(stray)]  # hits, truth, prediction
        counts = np.concatenate([counts, np.tile(np.array(absent)[None, :, None], (len(counts), 1, 2))], axis=2)
        ids = [f"{place}x" for place in images]
        miou = nanmean(iou_per_class(counts.sum(axis=0)))
        return SimpleNamespace(miou=miou, counts=counts, ids=ids, independent=find_units(ids))


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


def test_a_class_that_no_image_holds_decides_nothing(scenes: Dataset, tmp_path: Path, trainings: Trainings) -> None:
    trainings.stray = True
    found = search(scenes, tmp_path / "a")
    assert found.best.number != 0 and found.beats_default is True
    assert found.default_miou == pytest.approx(better_faster(trainings.configs[0]), abs=1e-4)
    assert found.winner_miou is not None and found.winner_miou == pytest.approx(found.best.miou, abs=1e-4)


def test_a_search_beats_the_default_and_says_so(scenes: Dataset, tmp_path: Path, trainings: Trainings) -> None:
    found = search(scenes, tmp_path / "a")
    first, best = found.trials[0], found.best
    assert first.params["lr"] == 1.0 and first.miou == pytest.approx(better_faster(trainings.configs[0]), abs=1e-4)
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
    (tmp_path / "run" / "model").mkdir(parents=True)
    with pytest.raises(UsageError, match="holds a run already"):
        search(scenes, tmp_path / "run")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "study.html").write_text("mine")
    with pytest.raises(UsageError, match="of no run"):
        search(scenes, tmp_path / "mine")
    lost = trainings.configs[1]
    again = search(scenes, tmp_path / "d", resume=True)
    assert trainings.configs[2].training.lr == lost.training.lr, "the lost trial is taken again"
    assert again.stopped_by is None and len(again.trials) > len(found.trials)
    assert [trial.number for trial in again.trials] == list(range(len(again.trials)))


def test_a_search_survives_sigkill(scenes: Dataset, tmp_path: Path, trainings: Trainings) -> None:
    trainings.kill_at = 3
    child = settled_fork()
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
    assert "for 20 min with" in tree["sentence"] and tree["comparison"]["minutes"] == 20.0
    assert tree["comparison"]["winner_miou"] > tree["comparison"]["default_miou"]
    with pytest.raises(UsageError, match="does not hold a search"):
        tune(scenes, TrainConfig(), tmp_path / "g", minutes=30, trial_minutes=5, final_minutes=20)


def test_settings_that_do_not_train_are_a_lesson_not_an_end(
    scenes: Dataset, tmp_path: Path, trainings: Trainings
) -> None:
    trainings.formula = lambda config: float("nan") if config.training.lr > 8e-3 else 0.4
    found = search(scenes, tmp_path / "e", trainings=8)
    assert any("nan" in trial.note for trial in found.trials) and found.stopped_by is None


def test_the_two_are_compared_on_the_images_that_both_were_scored_on(
    scenes: Dataset, tmp_path: Path, trainings: Trainings
) -> None:
    """The winner was slower to score; what it was scored on is easy, which helps neither."""
    trainings.easier = {1, 3, 5, 7}
    trainings.scored = lambda number: [1, 3, 5, 7, 8, 0] if trainings.configs[-1].training.seed == 1 and (
        trainings.configs[-1].training.lr != 4e-3
    ) else list(range(9))  # fmt: skip
    found = search(scenes, tmp_path / "a", trainings=7)
    assert found.beats_default is True and "compared on 6 of 9 validation images" in found.sentence
    tree = json.loads((tmp_path / "a" / "tune.json").read_text())["comparison"]
    default, winner = (better_faster(config) + 0.3 * 4 / 6 for config in trainings.configs[-2:])
    assert (tree["default_miou"], tree["winner_miou"], tree["images"]) == pytest.approx((default, winner, 6), abs=1e-3)
    assert tree["interval_count"] == 6 and "6 of 9" in (tmp_path / "a" / "study.html").read_text()


def test_the_two_are_scored_again_where_they_have_too_few_images_in_common(
    scenes: Dataset, tmp_path: Path, trainings: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    final = [0]

    def scored(number: int) -> list[int]:
        final[0] += trainings.configs[-1].training.seed
        return list(range(9)) if not final[0] else [0, 1, 2, 3, 4] if final[0] == 1 else [3, 4, 5, 6, 7, 8]

    def again(predictor: Any, split: Any, **given: Any) -> Any:
        return trainings.evaluation(better_faster(trainings.configs[-2 if predictor == "final-default" else -1]), [
            split.ids.index(name) for name in split.ids
        ])  # fmt: skip

    trainings.scored = scored
    monkeypatch.setattr(module, "load", lambda folder, **given: folder.name)
    monkeypatch.setattr(module, "evaluate", again)
    found = search(scenes, tmp_path / "a", trainings=7)
    assert found.beats_default is True and found.compared_images == 9 and "compared on" not in found.sentence

    def fails(*given: Any, **more: Any) -> Any:
        raise DataError("an image cannot be read")

    final[0] = 0
    monkeypatch.setattr(module, "evaluate", fails)
    found = search(scenes, tmp_path / "b", trainings=7)
    assert found.beats_default is None and "too few images were common" in found.sentence
    tree = json.loads((tmp_path / "b" / "tune.json").read_text())
    assert tree["comparison"] is None and tree["trials"] and tree["stopped_by"] == "no score"
    assert (tmp_path / "b" / "study.html").exists() and load_config(found.config).training.lr != 4e-3


@pytest.mark.parametrize("ends", ["error", "no score", "crash", "SIGINT"])
def test_what_ends_the_comparison_loses_no_trial(
    ends: str, scenes: Dataset, tmp_path: Path, trainings: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def formula(config: TrainConfig) -> float:
        if config.training.seed == 1 and ends != "no score":
            if ends == "error":
                raise NonFiniteLossError("the loss became nan at step 3")
            if ends == "crash":
                raise RuntimeError("a bug")
            trainings.interrupt_at = len(trainings.configs)
        return better_faster(config)

    trainings.formula = formula
    trainings.no_score = lambda number: ends == "no score" and trainings.configs[-1].training.seed == 1
    if ends == "crash":
        with pytest.raises(RuntimeError, match="a bug"):
            search(scenes, tmp_path / "a", trainings=7)
    else:
        found = search(scenes, tmp_path / "a", trainings=7)
        words = {"error": "the default failed (the loss became nan", "no score": "the default had no score",
                 "SIGINT": "stopped by SIGINT before"}  # fmt: skip
        assert found.beats_default is None and words[ends] in found.sentence and found.stopped_by is not None
        assert [config.training.seed for config in trainings.configs].count(1) == 1, "the winner is not trained then"
    tree = json.loads((tmp_path / "a" / "tune.json").read_text())
    assert len(tree["trials"]) >= 5 and tree["comparison"] is None and "--resume" in tree["sentence"]
    assert (tmp_path / "a" / "study.html").exists() and load_config(tmp_path / "a" / "best.yaml").training.lr != 4e-3
    trainings.formula, trainings.interrupt_at, trainings.no_score = better_faster, None, lambda number: False
    assert search(scenes, tmp_path / "a", trainings=7, resume=True).beats_default is True


def test_a_search_that_goes_on_trains_its_new_winner(
    scenes: Dataset, tmp_path: Path, trainings: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "load", lambda folder, **given: folder.name)
    monkeypatch.setattr(module, "evaluate", lambda *given, **more: trainings.evaluation(0.4, list(range(9))))
    trainings.formula = lambda config: 0.4 if config.training.lr == 4e-3 else 0.5
    first = search(scenes, tmp_path / "a", trainings=5)
    trainings.formula = better_faster
    found = search(scenes, tmp_path / "a", trainings=12, resume=True)
    assert found.best.number != first.best.number
    assert trainings.configs[-1].training.lr == pytest.approx(4e-3 * found.best.params["lr"])
    assert [config.training.seed for config in trainings.configs].count(1) == 3, "the default is scored again only"


def test_trials_of_different_images_are_compared_on_the_common_ones(
    scenes: Dataset, tmp_path: Path, trainings: Trainings
) -> None:
    """The third was scored on few images, most of them easy: its score is the highest, and it is not the best."""
    trainings.easier = {0, 1, 2, 3}
    lines: list[str] = []

    def formula(config: TrainConfig) -> float:
        return 0.35 if len(trainings.configs) == 3 else 0.38 if config.training.lr == 4e-3 else 0.4

    trainings.formula = formula
    trainings.scored = lambda number: list(range(5)) if number == 3 else list(range(9))
    found = tune(scenes, TrainConfig(), tmp_path / "a", minutes=35, trial_minutes=5.0, message=lines.append)
    assert max(float(line.split()[2]) for line in lines if line.startswith("  val mIoU")) == pytest.approx(0.59)
    assert "  val mIoU 0.590 on 5 of 9 images" in lines and found.best.number == 1
    assert [found.trials[n].miou for n in (0, 1, 2)] == pytest.approx([0.62, 0.64, 0.59], abs=1e-3)
    note = "trials were scored on different validation images (5 to 9 each, as time allowed): they are compared on "
    assert found.notes and found.notes[0].startswith(note)
    assert json.loads((tmp_path / "a" / "tune.json").read_text())["notes"] == list(found.notes)
    assert note in (tmp_path / "a" / "study.html").read_text()


def test_trials_without_common_images_are_said_to_compare_badly(
    scenes: Dataset, tmp_path: Path, trainings: Trainings
) -> None:
    trainings.scored = lambda number: [0, 1] if number == 1 else list(range(2, 9)) if number == 2 else list(range(9))
    found = search(scenes, tmp_path / "a", trainings=5)
    assert "none is common: their scores do not compare well" in found.notes[0]
    trainings.scored = lambda number: list(range(9))
    trainings.configs.clear()
    assert search(scenes, tmp_path / "b", trainings=5).notes == ()
    for path in (tmp_path / "b").rglob("scored.npz"):
        path.write_bytes(b"PK")
    (tmp_path / "b" / "tune.json").unlink()
    assert "not recorded for all" in search(scenes, tmp_path / "b", trainings=5, resume=True).notes[0]


def test_a_trial_without_a_score_has_failed_and_the_search_goes_on(
    scenes: Dataset, tmp_path: Path, trainings: Trainings
) -> None:
    trainings.no_score = lambda number: number in (2, 4)
    found = search(scenes, tmp_path / "a", trainings=7)
    assert [trial.number for trial in found.trials if trial.state == "failed"] == [1, 3]
    assert (
        found.trials[1].note == "no score (scoring ran out of memory)"
        and found.stopped_by is None
        and found.beats_default is not None
    )
    numbers = len(found.trials)
    again = search(scenes, tmp_path / "a", trainings=8, resume=True)
    assert all(trial.params != found.trials[1].params for trial in again.trials[numbers:]), "it is not taken again"


@pytest.mark.parametrize("nan", [False, True])
def test_a_default_without_a_score_ends_the_search(
    nan: bool, scenes: Dataset, tmp_path: Path, trainings: Trainings
) -> None:
    if nan:
        trainings.formula = lambda config: float("nan")
    trainings.no_score = lambda number: True
    with pytest.raises(TrainingError, match="nan" if nan else "the default has no score"):
        search(scenes, tmp_path / "a", trainings=7)
    assert len(trainings.configs) == 1
    with pytest.raises(TrainingError):
        search(scenes, tmp_path / "a", trainings=7, resume=True)
    assert [config.training.lr for config in trainings.configs] == [4e-3, 4e-3], "the default is taken again"
    trainings.formula, trainings.no_score = better_faster, lambda number: False
    assert search(scenes, tmp_path / "a", trainings=7, resume=True).beats_default is not None
    assert trainings.configs[2].training.lr == 4e-3


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
