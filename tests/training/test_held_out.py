"""The steps after a training: in order, within the time, once, and never at the cost of the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import VALUES

import segwright as sw
from segwright.core.errors import DataError
from segwright.data.dataset import Dataset, Split, open_dataset
from segwright.demo.dataset import write_street_scenes
from segwright.inference.attachments import Attachment
from segwright.inference.bundle import load_bundle, read_attachment, read_attachments
from segwright.inference.predictor import Predictor, load
from segwright.models.catalog import create_model
from segwright.monitoring.estimate import NAME as ACCURACY
from segwright.monitoring.estimate import AccuracyModel
from segwright.monitoring.observation import model_id
from segwright.monitoring.shifted import KINDS
from segwright.training import held_out, results
from segwright.training.config import TrainConfig
from segwright.training.held_out import STEPS, HeldOutWork, Step, finish_on_held_out
from segwright.training.run import Run, run_training

NARROW = {"widths": [4, 8, 8, 8, 8], "decoder_channels": [4, 8, 8, 8], "depths": [0, 1, 1, 1, 1]}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(write_street_scenes(tmp_path_factory.mktemp("scenes"), train=8, val=4, test=0, size=(64, 96)))


def trained(scenes: Dataset, folder: Path, *, resume: bool = False, **changed: Any) -> Run:
    values = {
        **VALUES, "model.name": "leannet", "model.arguments": NARROW, "training.device": "cpu", "out": str(folder),
        **{f"training.{key}": value for key, value in changed.items()},
    }  # fmt: skip
    return run_training(scenes, TrainConfig().with_values(values), resume=resume)


def work(scenes: Dataset, **changed: Any) -> HeldOutWork:
    torch.manual_seed(0)
    network = create_model("leannet", classes=len(scenes.label_space), weights=None, **NARROW).eval()
    assert scenes.val is not None
    base = HeldOutWork(
        Predictor.from_model(network, scenes.label_space, "cpu"), network, scenes.val, {}, {}, lambda line: None
    )
    return replace(base, **changed)


def test_a_training_leaves_a_reference_of_the_saved_weights(
    scenes: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(scenes, tmp_path / "run")
    training = load_bundle(run.model)[1].training
    assert "temperature" in training and set(training["temperature"]) >= {"kept", "temperature"}
    found = sw.read_reference(run.model)
    assert found is not None and len(found) == 4 and found.split == "val"
    assert found.model == model_id(load(run.model, device="cpu"))
    assert found.fingerprint and "reference" in load_bundle(run.model)[1].training["held_out"]
    assert "from held-out images: " in capsys.readouterr().err
    before = read_attachment(run.model, "reference")
    again = trained(scenes, tmp_path / "run", resume=True)  # has nothing to do
    after = read_attachment(again.model, "reference")
    assert before is not None and after is not None and before.description["made"] == after.description["made"]


def test_a_failure_is_a_warning_and_the_others_are_done(scenes: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []

    def fail(_: HeldOutWork, val: Split) -> None:
        raise DataError("too little", found="3 images")

    broken = Step(
        name="first step", run=fail, is_done=lambda _: False, predictions=1.0, least=1, most=10, later="make it later"
    )
    monkeypatch.setattr(held_out, "STEPS", (broken, *STEPS))
    one = work(scenes, message=lines.append)
    finish_on_held_out(one)
    assert [line for line in lines if line.startswith("warning: no first step: too little")]
    assert set(one.attachments) >= {"reference"} and "first step" not in one.seconds


def test_a_step_that_there_is_no_time_for_is_left_out_with_a_message(scenes: Dataset) -> None:
    lines: list[str] = []
    short = work(scenes, message=lines.append, left=lambda: 5.0, pace=10.0)
    finish_on_held_out(short)
    assert not short.attachments and len(lines) == sum(not step.is_done(short) for step in STEPS)
    assert all(line.startswith("time is short: no ") for line in lines)
    enough = work(scenes, left=lambda: 500.0, pace=0.1)
    finish_on_held_out(enough)
    assert "reference" in enough.attachments


def test_the_estimator_of_accuracy_needs_some_images(scenes: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    few = work(scenes)
    finish_on_held_out(few)
    assert ACCURACY not in few.attachments
    monkeypatch.setattr(held_out, "LEAST_IMAGES", 4)
    enough = work(scenes)
    finish_on_held_out(enough)
    assert AccuracyModel.from_attachment(enough.attachments[ACCURACY]).kinds == tuple(sorted(KINDS))
    assert "estimator of accuracy" in enough.seconds


def test_with_less_time_each_step_takes_fewer_images(scenes: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, int] = {}

    def note(name: str) -> Any:
        return lambda work, val: seen.__setitem__(name, len(val))

    steps = tuple(
        Step(
            name=name,
            run=note(name),
            is_done=lambda _, name=name: name in seen,  # type: ignore[misc]
            predictions=2.0,
            least=2,
            most=most,
            later="",
        )
        for name, most in (("one", 100), ("two", 2), ("three", 100))
    )
    monkeypatch.setattr(held_out, "STEPS", steps)
    finish_on_held_out(work(scenes, left=lambda: held_out.END_SECONDS + 18.5, pace=1.0))
    assert seen == {"one": 3, "two": 2, "three": 4}, "what one step does not use is there for the next"


def test_time_for_scoring_again_is_kept_back_once_confidences_have_changed(
    scenes: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last step takes all the time that there is: none would be left to score what is saved."""
    seen: dict[str, float | None] = {}

    def first(one: HeldOutWork, val: Split) -> None:
        seen["before"] = one.time_left()
        one.recalibrated = True

    def last(one: HeldOutWork, val: Split) -> None:
        seen["after"] = one.time_left()

    def step(name: str, run: Any) -> Step:
        return Step(name=name, run=run, is_done=lambda _: False, predictions=1.0, least=1, most=100, later="")

    monkeypatch.setattr(held_out, "STEPS", (step("one", first), step("two", last)))
    finish_on_held_out(work(scenes, left=lambda: 60.0, pace=0.1, scoring=40.0))
    assert seen == {"before": 60.0, "after": 20.0}
    assert work(scenes, scoring=40.0, recalibrated=True).time_left() is None


def test_no_calibration_error_of_a_model_that_is_not_the_saved_one(
    scenes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If the time does not suffice to score again after a temperature, the figure of before stands nowhere."""
    score_best = results.RunOutputs._score_best

    def late(self: Any, val: Split, adjust: bool = True, *_: Any) -> Any:
        return score_best(self, val, adjust, lambda: 0.0, 0.1)

    def recalibrate(one: HeldOutWork) -> None:
        one.recalibrated = True

    monkeypatch.setattr(results.RunOutputs, "_score_best", late)
    monkeypatch.setattr(results, "finish_on_held_out", recalibrate)
    run = trained(scenes, tmp_path / "run")
    assert run.evaluation is not None and run.evaluation.calibration is None
    assert "time is short" in run.evaluation.not_computed["ece"] and "ece" not in run.evaluation.figures
    assert all(one.doubt is None for one in run.evaluation.examples), "confidences of before"
    assert "val_ece" not in load_bundle(run.model)[1].metrics
    assert "no calibration error in the report: time is short" in capsys.readouterr().err
    assert "0 is perfect" not in (run.folder / "report.html").read_text()


def test_a_step_is_done_once_for_the_same_weights(scenes: Dataset) -> None:
    old = Attachment({"a": np.zeros(1)}, {})
    kept = work(scenes, attachments={"reference": old})
    finish_on_held_out(kept)
    assert kept.attachments["reference"] is old
    other = work(scenes, attachments={"reference": old}, weights_changed=True)
    finish_on_held_out(other)
    assert other.attachments["reference"] is not old


def test_a_kill_between_the_steps_leaves_the_model_whole(
    scenes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def kill(_: HeldOutWork) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(results, "finish_on_held_out", kill)
        with pytest.raises(Killed):
            trained(scenes, tmp_path / "run")
    model = tmp_path / "run" / "model"
    load(model, device="cpu")
    assert not read_attachments(model)
    run = trained(scenes, tmp_path / "run", resume=True)
    assert "reference" in read_attachments(run.model)


def test_a_run_that_could_not_be_scored_states_why(
    scenes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hungry(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("segwright.training.results.evaluate", hungry)
    found = trained(scenes, tmp_path / "run")
    assert found.evaluation is None and found.stopped_by is None and (found.model / "model.json").exists()
    assert found.no_score == "scoring ran out of memory"
