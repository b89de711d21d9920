"""A run goes on from what it wrote, whatever of it is damaged, and says what is not as it was."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import trainer

from segwright.core import types
from segwright.core.errors import CheckpointError, UsageError
from segwright.core.left_right import Sides
from segwright.data.dataset import open_dataset
from segwright.demo.dataset import write_street_scenes
from segwright.imageio import write_image
from segwright.inference.bundle import load_bundle
from segwright.training import results
from segwright.training.callbacks.log import RunLog, read_log
from segwright.training.checkpoint import checkpoints, clear_leftovers, load_checkpoint
from segwright.training.config import TrainConfig
from segwright.training.distributed.world import World
from segwright.training.planning.budget import TimeBudget, held_out_seconds
from segwright.training.planning.draft import Plan
from segwright.training.run import Run, run_training

VALUES: dict[str, Any] = {
    "model.name": "leannet", "training.size": (64, 96), "training.batch": 4, "training.device": "cpu",
    "training.epochs": 2, "training.save_every_steps": 1, "training.trackers": (),
    "training.precision": "fp32",  # else a timed step decides, and two runs may differ
    "model.arguments": {"widths": [4, 8, 8, 8, 8], "decoder_channels": [4, 8, 8, 8]},
}  # fmt: skip


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_street_scenes(tmp_path_factory.mktemp("street"), train=8, val=2, test=0, size=(64, 96))


@pytest.fixture(scope="module")
def stopped(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that ended after its first validation."""
    folder = tmp_path_factory.mktemp("run") / "run"
    run(scenes, folder, on_validation=lambda progress, found: True)
    return folder


def run(scenes: Path, folder: Path, **more: Any) -> Run:
    values = {**VALUES, **more.pop("values", {}), "out": str(folder)}
    return run_training(open_dataset(scenes), TrainConfig().with_values(values), **more)


def copied(stopped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "run"))


DAMAGE = {
    "sums that are no UTF-8": ("checkpoints/*/SHA256SUMS", b"\xff\xfe\x00"),
    "tensors cut": ("checkpoints/*/state.safetensors", b"\x00\x01"),
    "a log cut within a letter": (
        "log.jsonl",
        b'{"step": 1, "loss": 0.5}\n7\n[1]\n{"step": "x"}\n{"step": 2, "note": "\xc3',
    ),
    "a torn table": ("metrics.csv", b'step,epoch\n1,"\x00\n2,3,4,5\n\xff'),
    "no plan": ("plan.json", None),
    "a plan of another kind": ("plan.json", b"[]"),
    "a config that is none": ("config.yaml", b"- 1\n: {"),
    "a print of another kind": ("data.json", b'{"train": 3}'),
    "a model that is none": ("model/model.json", b"{"),
    "model sums that are no UTF-8": ("model/SHA256SUMS", b"\xff\xfe\x00"),
}


@pytest.mark.parametrize("name", list(DAMAGE))
def test_any_file_may_be_the_damaged_one(
    name: str, scenes: Path, stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(stopped, tmp_path)
    pattern, content = DAMAGE[name]
    victim = sorted(folder.glob(pattern))[-1]  # of the newest checkpoint; the one before is whole
    victim.unlink() if content is None else victim.write_bytes(content)
    found = run(scenes, folder, resume=True)
    assert found.progress is not None and found.progress.epoch == 2 and found.stopped_by is None
    said = capsys.readouterr().err
    assert ("passed over" in said) is (pattern.startswith("checkpoints")), said
    assert [r["step"] for r in read_log(folder) if "loss" in r][-1] == 4


def test_a_checkpoint_of_another_kind_is_passed_over(tmp_path: Path, stopped: Path) -> None:
    folder = copied(stopped, tmp_path) / "checkpoints"
    newest = checkpoints(folder)[-1]
    from segwright.core.atomic_io import write_checksums

    for text in ("[1]", "{}", '{"progress": {"step": "one"}, "optimizer": {}}', '{"progress": 3}'):
        (newest / "state.json").write_text(text)
        write_checksums(newest)
        found = load_checkpoint(folder)
        assert found is not None and found.path != newest and "does not describe" in found.skipped[0]
    for path in checkpoints(folder):
        (path / "SHA256SUMS").write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match="no checkpoint is whole"):
        load_checkpoint(folder)


def test_a_resumed_run_exchanges_the_classes_that_it_began_with(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left and right of the names: in the masks of mirrored crops, in the plan, in the saved model, over a resume."""
    other = Path(shutil.copytree(scenes, tmp_path / "sided"))
    names = (other / "classes.txt").read_text().splitlines()
    for index, name in ((0, "left_half"), (2, "right_half")):
        names[index] = names[index].replace(names[index].split()[0], name)
    (other / "classes.txt").write_text("\n".join(names) + "\n")
    listed = open_dataset(other).label_space
    assert listed.pairs == (("left_half", "right_half"),)
    whole = run(other, tmp_path / "whole")
    assert whole.plan.config.augment.flip_pairs == listed.pairs
    assert load_bundle(tmp_path / "whole" / "model")[1].label_space.pairs == listed.pairs
    run(other, tmp_path / "parts", on_validation=lambda progress, found: True)
    # Another rule for names must not change a run that goes on.
    monkeypatch.setattr(types, "find_sides", lambda names: Sides())
    again = run(other, tmp_path / "parts", resume=True)
    assert again.plan.config.augment.flip_pairs == listed.pairs
    one, two = (load_checkpoint(tmp_path / name / "checkpoints") for name in ("whole", "parts"))
    assert one is not None and two is not None
    assert all(torch.equal(tensor, two.tensors[name]) for name, tensor in one.tensors.items())
    monkeypatch.undo()
    off = run(other, tmp_path / "off", values={"augment.flip_pairs": "none"})
    assert load_bundle(off.model)[1].label_space.pairs == ()
    none = load_checkpoint(tmp_path / "off" / "checkpoints")
    assert none is not None and not torch.equal(one.tensors["model/head.weight"], none.tensors["model/head.weight"])


def test_other_classes_are_refused_by_name(scenes: Path, stopped: Path, tmp_path: Path) -> None:
    folder = copied(stopped, tmp_path)
    other = Path(shutil.copytree(scenes, tmp_path / "other"))
    names = (other / "classes.txt").read_text().splitlines()
    (other / "classes.txt").write_text("\n".join([names[0].replace(names[0].split()[-1], "sea"), *names[1:]]) + "\n")
    assert open_dataset(other).label_space.names != open_dataset(scenes).label_space.names
    with pytest.raises(UsageError, match="other classes") as caught:
        run(other, folder, resume=True)
    assert "--init-from" in str(caught.value) and "sea" in str(caught.value)


def test_data_that_changed_is_said(
    scenes: Path, stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, data = copied(stopped, tmp_path), Path(shutil.copytree(scenes, tmp_path / "data"))
    images, masks = (sorted((data / kind / "train").iterdir()) for kind in ("images", "masks"))
    sample = open_dataset(data).train[0]
    write_image(images[0], 255 - sample.image)
    masks[1].write_bytes(masks[2].read_bytes())
    for source in (images[3], masks[3]):
        source.with_name(f"zz{source.suffix}").write_bytes(source.read_bytes())
    for victim in (images[4], masks[4]):
        victim.unlink()
    run(data, folder, resume=True, values={"data.skip_bad": True})
    said = capsys.readouterr().err
    assert "the data changed since the run stopped" in said
    assert "1 images with other pixels" in said and "1 images with another mask" in said
    assert "1 images more (" in said and "1 images less (" in said and "zz" in said


def test_unchanged_data_elsewhere_is_not_called_changed(
    scenes: Path, stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(Path(shutil.copytree(scenes, tmp_path / "moved")), copied(stopped, tmp_path), resume=True)
    assert "changed since" not in capsys.readouterr().err


def test_a_full_disk_at_any_write_lets_the_training_go_on(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors import SafetensorError

    from segwright.training import run as run_module
    from segwright.training import state
    from segwright.training.callbacks import log

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    def full_tensors(*_: Any, **__: Any) -> Any:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    for module, name, fault in (
        (results, "save_bundle", full_tensors), (results, "write_report", full), (state, "save_checkpoint", full),
        (run_module, "write_text", full), (run_module, "write_json", full), (log.RunLog, "_cut", full),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, fault)
    found = run(scenes, tmp_path / "run", values={"training.epochs": 1})
    assert found.progress is not None and found.progress.step == 2 and found.stopped_by is None
    said = capsys.readouterr().err
    for what in ("the model could not", "checkpoint of step 1 could not", "config and plan could not", "log cannot"):
        assert what in said, said


def test_a_validation_without_labels_leaves_the_last_weights_as_the_model(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Path(shutil.copytree(scenes, tmp_path / "data"))
    for mask in (data / "masks" / "val").iterdir():
        write_image(mask, np.full((64, 96), 255, np.uint8))
    found = run(data, tmp_path / "run", values={"training.early_stopping": 1})
    assert found.stopped_by is None and (found.model / "model.safetensors").exists()
    said = capsys.readouterr().err
    assert "the model is that of the last step: no validation gave a score" in said and f"model: {found.model}" in said


def test_early_stopping_is_said_and_resuming_adds_nothing(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {"training.epochs": 30, "training.early_stopping": 1, "training.lr": 1e-9, "training.muon_lr": 1e-9,
              "training.ema": None, "training.logit_adjustment": False}  # fmt: skip
    first = run(scenes, tmp_path / "run", values=values)
    assert first.stopped_by == "early stopping" and "early stopping: no better" in capsys.readouterr().err
    again = run(scenes, tmp_path / "run", resume=True)
    assert again.progress is not None and first.progress is not None
    assert again.progress.step == first.progress.step and again.stopped_by == "early stopping"


def test_leftovers_of_a_kill_are_cleared(tmp_path: Path) -> None:
    for name in (".step-00000003.writing-ab", ".step-00000001.old-cd", ".step-00000002.old-ef", "step-00000002"):
        (tmp_path / name).mkdir()
    clear_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000002"]


def test_a_log_that_cannot_be_written_is_silent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    log = RunLog(tmp_path / "file" / "below")
    log.write({"step": 1})
    log.close()
    assert "log cannot be written" in capsys.readouterr().err
    assert json.dumps(read_log(tmp_path)) == "[]"


def test_minutes_are_kept_where_scoring_would_take_longer(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An image that takes long to predict: fewer are scored, class scores stay, and both are said."""
    found = results.RunOutputs.__new__(results.RunOutputs)
    said: list[str] = []
    data = open_dataset(scenes)
    config = TrainConfig().with_values({**VALUES, "training.logit_adjustment": True})
    context = SimpleNamespace(display=SimpleNamespace(message=said.append))
    checked = SimpleNamespace(train=data.train)
    for name, value in (("context", context), ("checked", checked), ("plan", Plan(config, (), None, None))):
        object.__setattr__(found, name, value)
    many = data.train
    assert len(found._affordable(many, None, 1.0)) == len(found._affordable(many, 1000.0, 1.0)) == 8 and not said
    # Of 10 seconds 2.5 are kept for the reference, and an image takes 1.4.
    assert len(found._affordable(many, 14.0, 1.0)) == 5 and "5 of 8 validation images" in said[-1]
    assert len(found._affordable(many, -3.0, 1.0)) == results.LEAST_SCORED
    assert found._time_to_adjust(8, None, 9.0) and found._time_to_adjust(8, 1000.0, 1.0)
    assert not found._time_to_adjust(8, 20.0, 1.0) and "class scores are not adjusted" in said[-1]


def test_what_is_kept_back_for_scoring_follows_what_a_validation_took(scenes: Path, tmp_path: Path) -> None:
    budget = TimeBudget(100.0, time.monotonic(), reserve=10.0)
    run = trainer(open_dataset(scenes), tmp_path, components={"budget": budget})

    def reserved(seconds: float) -> float:
        run.clock.validation_seconds = seconds
        run.clock.update_reserve(8, 1, World(), adjusts=False)
        return run.clock.reserve

    held_out = held_out_seconds(run.clock.training_seconds + run.clock.reserve, 1, 5.0)
    assert held_out == pytest.approx(5.0, abs=0.1), "a twentieth for what is made of held-out images"
    assert reserved(5.0) == pytest.approx(4.0 + 2.6 * 5.0 + held_out)
    assert run.clock.training_seconds + run.clock.reserve == pytest.approx(100.0, abs=10.0), "less what building took"
    assert reserved(5000.0) == pytest.approx(25.0, abs=0.5), "of a short time a quarter: the scoring is cut to it"
    budget = TimeBudget(1000.0, time.monotonic(), reserve=100.0)
    run = trainer(open_dataset(scenes), tmp_path, components={"budget": budget})
    assert reserved(5000.0) == pytest.approx(400.0, abs=0.5), "at most a share: the scoring is cut to what is left"


def test_a_finished_model_without_checkpoints_is_not_replaced(scenes: Path, stopped: Path, tmp_path: Path) -> None:
    folder = copied(stopped, tmp_path)
    shutil.rmtree(folder / "checkpoints")
    (folder / "report.html").write_text("finished")
    before = (folder / "model" / "SHA256SUMS").read_bytes()
    with pytest.raises(UsageError, match="without a checkpoint") as caught:
        run(scenes, folder, resume=True)
    assert f"--init-from {folder}" in str(caught.value.fix)
    assert (folder / "model" / "SHA256SUMS").read_bytes() == before


def test_a_run_leaves_other_folders_alone(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the dataset's own folder"):
        run(scenes, scenes)
    assert not (scenes / ".lock").exists() and not (scenes / "model").exists()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "report.html").write_text("mine")
    for resume in (False, True):
        with pytest.raises(UsageError, match="of no run") as caught:
            run(scenes, mine, resume=resume)
        assert caught.value.found == "report.html" and (mine / "report.html").read_text() == "mine"
    for name, kind in (("study.db", "a search"), ("fold-0", "a cross-validation")):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / name).touch()
        with pytest.raises(UsageError, match=f"holds {kind} already"):
            run(scenes, tmp_path / kind)
