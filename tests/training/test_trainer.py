"""The loop: resumed is uninterrupted, bit for bit; signals, NaN and lost memory lose nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import Killed, kill_at, states, trainer
from torch import Tensor

from segwright.core.errors import NonFiniteLossError, OutOfMemoryError
from segwright.core.types import Batch
from segwright.data.dataset import Dataset, open_dataset
from segwright.demo.dataset import write_street_scenes
from segwright.imageio import write_image
from segwright.losses import create_loss
from segwright.metrics.confusion import scores
from segwright.training.callbacks.log import read_log
from segwright.training.checkpoint import checkpoints, load_checkpoint
from segwright.training.config import TrainConfig
from segwright.training.planning.budget import TimeBudget
from segwright.training.run import planned_trainer
from segwright.training.validate import Validation


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(write_street_scenes(tmp_path_factory.mktemp("scenes"), train=16, val=3, test=1, size=(64, 96)))


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"optimizer": "adamw", "schedule": "poly", "accumulate": 2, "ema": None},
        {"optimizer": "sgd", "schedule": "plateau", "swa": 0.5, "precision": "bf16"},
        {"optimizer": "sgd", "swa": 0.5, "norm_statistics": "measured"},
        {"optimizer": "adamw", "schedule": "one-cycle", "accumulate": 2, "precision": "fp16"},
        {"schedule": "step", "precision": "bf16"},
        {"optimizer": "rmsprop", "schedule": "constant", "precision": "fp16", "ema": None},
    ],
    ids=[
        "muon-cosine-ema",
        "adamw-poly-accumulate",
        "sgd-plateau-swa-bf16",
        "sgd-swa-measured",
        "adamw-one-cycle-ema-accumulate-fp16",
        "muon-step-ema-bf16",
        "rmsprop-constant-fp16",
    ],
)
def test_resumed_is_uninterrupted_bit_for_bit(scenes: Dataset, tmp_path: Path, changed: dict[str, Any]) -> None:
    whole = trainer(scenes, tmp_path / "whole", **changed)
    whole.fit()
    killed = trainer(scenes, tmp_path / "killed", **changed)
    kill_at(killed, whole.progress.step - 1)  # in the middle of the last epoch, after a checkpoint and some steps
    with pytest.raises(Killed):
        killed.fit()
    again = trainer(scenes, tmp_path / "killed", **{**changed, "workers": 2})
    again.fit(resume=True)
    assert again.progress.step == whole.progress.step
    assert all(torch.equal(a, b) for a, b in zip(states(whole), states(again), strict=True))
    logs = [[r["loss"] for r in read_log(tmp_path / name) if "loss" in r] for name in ("whole", "killed")]
    assert logs[0] == logs[1]
    assert len(logs[0]) == whole.progress.step


def test_from_any_step(scenes: Dataset, tmp_path: Path) -> None:
    """Killed after each step in turn, a checkpoint at every one: the first and the last of an epoch, and between."""
    changed = {"save_every_steps": 1}
    whole = trainer(scenes, tmp_path / "whole", **changed)
    whole.fit()
    assert whole.progress.epoch >= 2 and whole.progress.step >= 4
    for step in range(1, whole.progress.step):
        killed = trainer(scenes, tmp_path / f"killed-{step}", **changed)
        kill_at(killed, step)
        with pytest.raises(Killed):
            killed.fit()
        again = trainer(scenes, tmp_path / f"killed-{step}", **changed)
        again.fit(resume=True)
        assert again.progress.step == whole.progress.step, f"killed after step {step}"
        assert all(torch.equal(a, b) for a, b in zip(states(whole), states(again), strict=True)), f"after step {step}"


@pytest.mark.parametrize("which", [1, 2])
def test_killed_between_an_epochs_last_step_and_its_checkpoint(scenes: Dataset, tmp_path: Path, which: int) -> None:
    """The validation was logged and is taken again: one line of it stays, of the same epoch."""
    whole = trainer(scenes, tmp_path / "whole", save_every_steps=1)
    whole.fit()
    killed = trainer(scenes, tmp_path / "killed", save_every_steps=1)
    validate = killed.validate

    def validated() -> None:
        validate()
        if killed.progress.epoch == which:
            raise Killed

    killed.validate = validated  # type: ignore[assignment, method-assign]
    killed._validate_or_save = validated  # type: ignore[method-assign]  # a kill saves nothing more
    with pytest.raises(Killed):
        killed.fit()
    again = trainer(scenes, tmp_path / "killed", save_every_steps=1)
    again.fit(resume=True)
    logs = [
        [(r["step"], r["epoch"], r.get("loss"), r.get("val_miou")) for r in read_log(tmp_path / name)]
        for name in ("whole", "killed")
    ]
    assert logs[0] == logs[1]
    assert (again.progress.epoch, again.progress.position) == (whole.progress.epoch, whole.progress.position)


def test_a_corrupt_newest_checkpoint_costs_only_the_steps_since_the_one_before(scenes: Dataset, tmp_path: Path) -> None:
    whole = trainer(scenes, tmp_path / "whole")
    whole.fit()
    killed = trainer(scenes, tmp_path / "killed", save_every_steps=1)
    kill_at(killed, 4)
    with pytest.raises(Killed):
        killed.fit()
    newest = checkpoints(tmp_path / "killed" / "checkpoints")[-1] / "state.safetensors"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 0xFF
    newest.write_bytes(data)
    again = trainer(scenes, tmp_path / "killed")
    said: list[str] = []
    again.components.display.message = said.append  # type: ignore[method-assign]
    again.restore()
    assert again.progress.step == 3
    assert any("damaged checkpoint was passed over: step-00000004" in line for line in said)
    again.fit()
    assert all(torch.equal(a, b) for a, b in zip(states(whole), states(again), strict=True))


def test_the_log_has_a_line_a_step_and_the_run_its_files(scenes: Dataset, tmp_path: Path) -> None:
    run = trainer(scenes, tmp_path)
    run.fit()
    steps = [record for record in read_log(tmp_path) if "loss" in record]
    assert [record["step"] for record in steps] == list(range(1, run.progress.step + 1))
    assert set(steps[0]) == {"step", "epoch", "loss", "main_loss", "lr", "images_per_second", "time"}
    validations = [record for record in read_log(tmp_path) if "val_miou" in record]
    assert [record["epoch"] for record in validations] == [1, 2]
    assert all(0 <= record["loader_share"] <= 1 and record["memory_bytes"] > 0 for record in validations)
    assert "loader_share" in (tmp_path / "metrics.csv").read_text().splitlines()[0]
    assert (tmp_path / "metrics.csv").read_text().count("\n") == 3
    assert len(list((tmp_path / "validation").glob("*.jpg"))) == 6


SIGNALED = """
import os, signal, sys
from pathlib import Path
from small_runs import trainer
from segwright.data.dataset import open_dataset

handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
run = trainer(open_dataset(sys.argv[1]), Path(sys.argv[2]))
take = run.train_step

def taken(*arguments):
    take(*arguments)
    if run.progress.step == 2:
        os.kill(os.getpid(), int(sys.argv[3]))

run.train_step = taken
result = run.fit()
assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
print(result.stopped_by, result.finished, run.progress.step)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_between_two_steps_with_everything_saved(
    scenes: Dataset, tmp_path: Path, number: signal.Signals
) -> None:
    """In a process of its own: a signal that is not handled would end the tests."""
    command = [sys.executable, "-c", SIGNALED, str(scenes.root), str(tmp_path), str(int(number))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1].split() == [number.name, "False", "2"]
    found = load_checkpoint(tmp_path / "checkpoints")
    assert found is not None and found.state["progress"]["step"] == 2


def test_a_loss_that_is_not_finite_names_step_rate_and_samples(scenes: Dataset, tmp_path: Path) -> None:
    calls = []
    honest = create_loss("ce", classes=scenes.label_space.classes)

    def poisoned(logits: Tensor, target: Tensor) -> Tensor:
        if logits.requires_grad:  # a validation measures by the criterion, too
            calls.append(1)
        return honest(logits, target) * (float("nan") if len(calls) > 8 else 1.0)

    run = trainer(scenes, tmp_path, poisoned)
    with pytest.raises(NonFiniteLossError, match=r"step 5.*\n.*\n.*learning rate .* samples street") as caught:
        run.fit()
    assert str(tmp_path) in str(caught.value)
    found = load_checkpoint(tmp_path / "checkpoints")
    assert found is not None and found.state["progress"]["step"] == 3
    assert all(tensor.isfinite().all() for tensor in found.tensors.values() if tensor.is_floating_point())


def test_out_of_memory_halves_the_batch_and_keeps_the_effective_one(scenes: Dataset, tmp_path: Path) -> None:
    honest = create_loss("ce", classes=scenes.label_space.classes)

    def hungry(logits: Tensor, target: Tensor) -> Tensor:
        if len(logits) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return honest(logits, target)

    run = trainer(scenes, tmp_path, hungry)
    result = run.fit()
    assert result.finished and run.progress.num_micro_batches == 4
    assert run.progress.samples >= 24
    with pytest.raises(OutOfMemoryError, match="not even one image"):
        trainer(scenes, tmp_path / "hopeless", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("x"))).fit()


def test_an_update_is_not_repeated_from_weights_that_have_changed_in_part(
    scenes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory may run out in the optimizer, too, between one weight and the next."""
    run = trainer(scenes, tmp_path, optimizer="sgd", lr=0.01)
    step, taken = run.optimizer.step, []

    def hungry(*arguments: Any, **more: Any) -> Any:
        taken.append(run.progress.step)
        if run.progress.step == 1:
            raise torch.OutOfMemoryError("out of memory")
        return step(*arguments, **more)

    monkeypatch.setattr(run.optimizer, "step", hungry)
    with pytest.raises(OutOfMemoryError, match="while the weights were being updated"):
        run.fit()
    assert taken == [0, 1] and run.progress.num_micro_batches == 1


@pytest.mark.parametrize("batch", [8, 12, 20])  # 16 images: none left over, 4, and fewer than a batch
def test_an_epoch_in_micro_batches_has_the_losses_of_one_in_whole_batches(
    scenes: Dataset, tmp_path: Path, batch: int
) -> None:
    phases = [{"until": 1.0, "size": (64, 96), "scale": (0.7, 1.3), "batch": batch}]

    def losses(parts: int) -> list[float]:
        run = trainer(
            scenes, tmp_path / str(parts), phases=phases, optimizer="sgd", lr=0.01, freeze_bn=True, validate_every=99
        )
        run.progress.num_micro_batches = parts
        assert run.fit().finished and run.progress.num_micro_batches == parts
        lines = (tmp_path / str(parts) / "log.jsonl").read_text().splitlines()
        return [record["loss"] for record in map(json.loads, lines) if "loss" in record]

    whole, divided = losses(1), losses(4)
    assert len(whole) == len(divided) == 2 * max(1, 16 // batch)
    np.testing.assert_allclose(divided, whole, rtol=1e-3)


def test_a_disk_that_fills_up_does_not_end_the_run(
    scenes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import segwright.training.state as state

    save = state.save_checkpoint
    calls: list[int] = []

    def sometimes(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        return save(*arguments)

    monkeypatch.setattr(state, "save_checkpoint", sometimes)
    assert trainer(scenes, tmp_path).fit().finished
    assert len(calls) > 2 and len(checkpoints(tmp_path / "checkpoints")) == 1


def test_minutes_end_the_run_on_time(scenes: Dataset, tmp_path: Path) -> None:
    budget = TimeBudget(4.0, time.monotonic(), reserve=2.0)
    run = trainer(scenes, tmp_path, components={"budget": budget}, epochs=None, minutes=1.0)
    result = run.fit()
    # Up to 40 % is kept back for the scoring, by what validations took.
    assert result.finished and 0.6 * 2.0 <= result.progress.seconds < 20
    rates = [record["lr"] for record in read_log(tmp_path) if "lr" in record]
    assert rates[-1] < max(rates)


def test_early_stopping_ends_after_validations_without_gain(scenes: Dataset, tmp_path: Path) -> None:
    run = trainer(scenes, tmp_path, epochs=40, lr=1e-9, muon_lr=1e-9, ema=None, early_stopping=2)
    result = run.fit()
    assert result.stopped_by == "early stopping" and result.progress.epoch < 40


def test_a_class_that_no_image_holds_does_not_choose_the_model(scenes: Dataset, tmp_path: Path) -> None:
    """First 80 of 100 pixels of two classes are right; then 98, and one is called a third, which the images lack."""
    run = trainer(scenes, tmp_path)
    matrices = []
    for right, stray in ((80, 0), (98, 1)):
        matrix = np.zeros((scenes.label_space.classes,) * 2, np.int64)
        matrix[:2, :2] = [[right, 100 - right - stray], [100 - right, right]]
        matrix[0, 2] = stray
        matrices.append(matrix)
    found = iter([scores(matrix) for matrix in matrices])
    run.validator = lambda *_: Validation(one := next(found), one.labeled_miou, 1.0, (0,) * len(matrix), ())  # type: ignore[assignment]
    for step in (1, 2):
        run.progress.step = step
        run.validate()
    assert scores(matrices[1]).miou < scores(matrices[0]).miou
    assert run.progress.best_step == 2 and run.progress.best_miou == pytest.approx((97 / 102 + 98 / 101) / 2, abs=0.02)


def test_sample_weights_choose_what_is_seen(scenes: Dataset, tmp_path: Path) -> None:
    weights = np.zeros(len(scenes.train))
    weights[3] = 1.0
    run = trainer(scenes, tmp_path, components={"sample_weights": weights})
    seen: set[str] = set()
    take = run.train_step

    def taken(batches: list[Batch], *arguments: Any) -> None:
        seen.update(name for batch in batches for name in batch.ids)
        take(batches, *arguments)

    run.train_step = taken  # type: ignore[method-assign]
    run.fit()
    assert seen == {scenes.train.ids[3]}


def test_images_of_rare_classes_come_more_often_where_asked_for(scenes: Dataset, tmp_path: Path) -> None:
    """From the setting to the batches; the first image alone is made to show a class that no other shows."""
    labels = [np.full_like(sample.mask, 1 if index else 0) for index, sample in enumerate(scenes.train)]
    folder = tmp_path / "pairs"
    for index, (sample, mask) in enumerate(zip(scenes.train, labels, strict=True)):
        for split in ("train", "val"):
            for kind, pixels in (("images", sample.image), ("masks", mask)):
                (folder / kind / split).mkdir(parents=True, exist_ok=True)
                write_image(folder / kind / split / f"{split}{index:02}.png", pixels)
    values = {
        "model.name": "leannet", "model.weights": None, "training.epochs": 8, "training.size": (64, 96),
        "training.batch": 2, "data.skip_bad": True,
        "model.arguments": {"widths": [4, 8, 8, 8, 8], "decoder_channels": [4, 8, 8, 8]}, "training.device": "cpu",
    }  # fmt: skip
    counts = []
    for share in (0.0, 1.0):
        config = TrainConfig().with_values({**values, "training.repeat_rare": share})
        run = planned_trainer(open_dataset(folder), config)
        seen: Counter[str] = Counter()
        for epoch in range(4):
            seen.update(name for update in run.updates(run.phases[-1], epoch) for batch in update for name in batch.ids)
        counts.append(next(count for name, count in seen.items() if "00" in name))
        assert sum(seen.values()) == 4 * 16
    assert counts == [4, pytest.approx(4 * 16 * 4 / 19, abs=1)]  # √(1 ÷ 1/16) = 4 times as often as each of the others
