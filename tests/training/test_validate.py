"""Validation: shares that add up exactly, and memory that runs out without ending the run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import trainer
from torch import Tensor

from segwright.core.errors import OutOfMemoryError
from segwright.core.types import IGNORE_INDEX, Sample
from segwright.data.dataset import Dataset, Split, open_dataset
from segwright.demo.dataset import write_street_scenes
from segwright.imageio import UInt8Array
from segwright.losses import create_loss
from segwright.metrics.confusion import ConfusionMatrix
from segwright.models.leannet import LeanNet
from segwright.training.callbacks.log import read_log
from segwright.training.checkpoint import load_checkpoint
from segwright.training.distributed.world import World
from segwright.training.validate import Limits, Validator

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(write_street_scenes(tmp_path_factory.mktemp("scenes"), train=4, val=5, test=1, size=(160, 256)))


@pytest.fixture(scope="module")
def model(scenes: Dataset) -> LeanNet:
    torch.manual_seed(0)
    return LeanNet(
        classes=scenes.label_space.classes,
        widths=(4, 8, 8, 8, 8),
        decoder_channels=(4, 8, 8, 8),
        depths=(0, 1, 1, 1, 1),
    ).eval()


@dataclass(frozen=True)
class Part(World):
    """One rank of several whose sums stay its own."""

    sums: list[Any] = field(default_factory=list)

    def sum(self, matrix: Any) -> Any:
        self.sums.append(matrix)
        return matrix

    def mean(self, value: float) -> float:
        self.sums.append(value)
        return value


def hungry(model: LeanNet, pixels: int, error: Callable[[], BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on a forward pass over more than ``pixels`` runs out of memory."""
    forward = LeanNet.forward_padded

    def limited(self: LeanNet, x: Tensor) -> Any:
        if x.shape[0] * x.shape[2] * x.shape[3] > pixels:
            raise error()
        return forward(self, x)

    monkeypatch.setattr(LeanNet, "forward_padded", limited)


@pytest.mark.parametrize("size", [2, 3])
def test_the_shares_of_all_ranks_add_up_exactly(scenes: Dataset, model: LeanNet, size: int) -> None:
    whole = Part()
    Validator(scenes.val, CPU, None, whole)(model)
    parts = [Part(rank, size) for rank in range(size)]
    validators = [Validator(scenes.val, CPU, None, part) for part in parts]
    lengths = [len(validator.indices) for validator in validators]
    assert sum(lengths) == 5 and max(lengths) - min(lengths) <= 1
    for validator in validators:
        validator(model)
    assert np.array_equal(sum(part.sums[0] for part in parts), whole.sums[0])
    assert sum(part.sums[1] for part in parts) == pytest.approx(whole.sums[1], rel=1e-6)
    assert sum(part.sums[2] for part in parts) == whole.sums[2]


def test_parts_count_alike_however_many_pixels_are_labeled(scenes: Dataset, model: LeanNet) -> None:
    """One image of five, almost all of it ignored, counts as much as the other four in what decides."""
    samples = [scenes.val[index] for index in range(len(scenes.val))]
    masks = np.stack([sample.mask for sample in samples if sample.mask is not None])
    masks[2, 8:] = IGNORE_INDEX
    split, lonely = Given(scenes.val, masks), scenes.val.records[2].id
    part_of = lambda id: "new" if id == lonely else "old"  # noqa: E731
    validator = Validator(split, CPU, None, part_of=part_of)  # type: ignore[arg-type]
    found = validator(model)
    of_parts = []
    for images in ((2,), (0, 1, 3, 4)):
        part = ConfusionMatrix(scenes.label_space.classes)
        for index in images:
            part.update(validator.predicted(model, [samples[index]])[0][0], masks[index])
        of_parts.append(part.scores().labeled_miou)
    assert found.decisive == pytest.approx(np.mean(of_parts)) and abs(of_parts[0] - of_parts[1]) > 0.001
    assert found.by_part == pytest.approx({"new": of_parts[0], "old": of_parts[1]})
    assert found.decisive != pytest.approx(found.scores.labeled_miou)
    whole = Validator(split, CPU, None)(model)  # type: ignore[arg-type]
    assert whole.decisive == whole.scores.labeled_miou == found.scores.labeled_miou and whole.by_part == {}
    masks[2] = IGNORE_INDEX
    nothing = Validator(Given(scenes.val, masks), CPU, None, part_of=part_of)(model)  # type: ignore[arg-type]
    assert nothing.decisive == pytest.approx(of_parts[1]), "a part without a label decides nothing"


@pytest.mark.parametrize("name", ["ce", "ce(smoothing=0.05)", "0.5*ce+focal"])
def test_the_loss_is_the_trainings(scenes: Dataset, model: LeanNet, name: str) -> None:
    """With its class weights, smoothing and ignored pixels: in batches and shares, that of all images at once."""
    classes = scenes.label_space.classes
    criterion = create_loss(name, classes=classes, class_weights=[0.2 + k for k in range(classes)])
    samples = [scenes.val[index] for index in range(len(scenes.val))]
    masks = np.stack([sample.mask for sample in samples if sample.mask is not None])
    masks[0, :100] = IGNORE_INDEX
    masks[2] = IGNORE_INDEX
    split = Given(scenes.val, masks)
    with torch.inference_mode():
        logits = model(torch.from_numpy(np.stack([sample.image for sample in samples]))).logits
        expected = float(criterion(logits, torch.from_numpy(masks).long()))
    validator = Validator(split, CPU, None, limits=Limits(pixels=2 * 160 * 256))  # type: ignore[arg-type]
    assert validator(model, criterion).loss == pytest.approx(expected, rel=1e-5)
    shares = [Part(rank, 6) for rank in range(6)]  # the last has no image
    for share in shares:
        validator = Validator(split, CPU, None, share)  # type: ignore[arg-type]
        validator(model, criterion)
    sums = np.array([share.sums[1:] for share in shares], np.float64).sum(axis=0).reshape(-1, 2)
    assert (sums[:, 0] / sums[:, 1]).sum() == pytest.approx(expected, rel=1e-5)


class Given:
    """A split with other masks."""

    def __init__(self, split: Split, masks: UInt8Array) -> None:
        self.split, self.masks = split, masks
        self.label_space = split.label_space
        self.records = split.records

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> Sample:
        return replace(self.split[index], mask=self.masks[index])


def test_a_validation_is_by_the_criterion_of_its_phase(scenes: Dataset, tmp_path: Path) -> None:
    phases = [{"until": 0.5, "size": (64, 96), "batch": 4}, {"until": 1.0, "size": (64, 96), "batch": 4}]
    classes = scenes.label_space.classes
    criteria = {
        "criterion": create_loss("0*focal+ce", classes=classes),
        "final_criterion": create_loss("1000*ce", classes=classes),
    }
    trainer(scenes, tmp_path, components=criteria, epochs=4, phases=phases, validate_every=1).fit()
    lines = read_log(tmp_path)
    found = [line["val_loss"] for line in lines if "val_loss" in line]
    steps = [line for line in lines if "main_loss" in line]
    assert [value > 100 for value in found] == [False, True, True, True], found
    assert [line["main_loss"] > 100 for line in steps] == [False, False, True, True]
    assert all(line["main_loss"] < line["loss"] for line in steps), "without the auxiliary head"


@pytest.mark.parametrize(
    "error",
    [MemoryError, lambda: RuntimeError("DefaultCPUAllocator: not enough memory"), lambda: torch.OutOfMemoryError("x")],
)
def test_out_of_memory_takes_fewer_images_with_the_same_result(
    scenes: Dataset, model: LeanNet, error: Callable[[], BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    before = Validator(scenes.val, CPU, None)(model)
    hungry(model, 2 * 160 * 256, error, monkeypatch)
    validator = Validator(scenes.val, CPU, None, message=lines.append)
    found = validator(model)
    assert found.predicted_pixels == before.predicted_pixels and found.scores.miou == before.scores.miou
    assert found.loss == pytest.approx(before.loss, rel=1e-6)
    assert lines == ["out of memory in validation: from now on 2 of 160×256 at a time"]
    assert validator.limits.window is None and validator.limits.pixels == 2 * 160 * 256


def test_an_image_that_does_not_fit_is_seen_in_windows(
    scenes: Dataset, model: LeanNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Validator(scenes.val, CPU, None)(model)
    hungry(model, 128 * 128, MemoryError, monkeypatch)
    lines: list[str] = []
    found = Validator(scenes.val, CPU, None, message=lines.append)(model)
    assert lines[-1] == "out of memory in validation: from now on in windows of 128×128"
    assert sum(found.predicted_pixels) == sum(before.predicted_pixels), "every labeled pixel once"
    assert found.loss == pytest.approx(before.loss, rel=0.05)
    hungry(model, 32 * 32, MemoryError, monkeypatch)
    with pytest.raises(OutOfMemoryError, match="validation does not fit"):
        Validator(scenes.val, CPU, None)(model)


def test_an_error_that_is_no_want_of_memory_passes_through(
    scenes: Dataset, model: LeanNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    hungry(model, 0, lambda: RuntimeError("shapes differ"), monkeypatch)
    with pytest.raises(RuntimeError, match="shapes differ"):
        Validator(scenes.val, CPU, None)(model)


def test_a_validation_that_fails_loses_no_training(
    scenes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"epochs": 1, "save_every_steps": None}
    run = trainer(scenes, tmp_path, **settings)
    assert run.validator is not None
    monkeypatch.setattr(run.validator, "predicted", lambda *_: (_ for _ in ()).throw(OutOfMemoryError("no room")))
    with pytest.raises(OutOfMemoryError):
        run.fit()
    found = load_checkpoint(tmp_path / "checkpoints")
    assert found is not None and found.state["progress"]["step"] == run.progress.step > 0
    again = trainer(scenes, tmp_path, **settings)
    result = again.fit(resume=True)
    assert result.finished and result.last_validation is not None and result.progress.step == run.progress.step
    assert [r["epoch"] for r in read_log(tmp_path) if "val_miou" in r] == [1]
