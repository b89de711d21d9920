"""The memory probe: right about what a step takes, ready with what fits, and gone without a trace."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import LARGE, states, trainer

from segwright import api
from segwright.core.errors import ModelError, OutOfMemoryError
from segwright.core.types import Batch
from segwright.data.dataset import Dataset, open_dataset
from segwright.demo.dataset import write_street_scenes
from segwright.training.config import TrainConfig
from segwright.training.network import build_network
from segwright.training.planning import memory_probe as module
from segwright.training.planning.memory_probe import MemoryReport, fitting_limits, micro_batches
from segwright.training.planning.timing import time_step
from segwright.training.train_step import TrainStep
from segwright.training.trainer import Trainer
from segwright.training.validate import Limits


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(write_street_scenes(tmp_path_factory.mktemp("scenes"), train=8, val=3, test=1, size=(64, 96)))


def with_memory(run: Trainer, available: float, monkeypatch: pytest.MonkeyPatch) -> MemoryReport:
    monkeypatch.setattr(module, "available_bytes", lambda device: int(available / module.USABLE_FRACTION))
    return run.fit_to_memory((64, 96))


def by_pixels(monkeypatch: pytest.MonkeyPatch) -> Callable[[torch.device, Callable[[], object]], int]:
    """Stands for ``peak_of``: 4 MiB, and 2 kB a pixel of the largest batch of the steps that the work took."""
    taken: list[int] = []
    update = TrainStep.__call__

    def counted(self: TrainStep, batches: list[Batch], *given: Any, **more: Any) -> Any:
        taken.extend(batch.images[..., 0].size for batch in batches)
        return update(self, batches, *given, **more)

    def peak(device: torch.device, work: Callable[[], object]) -> int:
        taken.clear()
        work()
        return (4 << 20) + 2000 * max(taken, default=0)

    monkeypatch.setattr(TrainStep, "__call__", counted)
    return peak


@pytest.mark.parametrize(
    "changed",
    [{}, {"optimizer": "adagrad", "precision": "bf16", "freeze_encoder_fraction": 0.0, "accumulate": 2}],
    ids=["muon", "adagrad-bf16"],
)
def test_a_probed_run_is_an_unprobed_run_bit_for_bit(scenes: Dataset, tmp_path: Path, changed: dict[str, Any]) -> None:
    plain, probed = (trainer(scenes, tmp_path / name, epochs=1, **changed) for name in ("plain", "probed"))
    torch.manual_seed(5)
    before, random = [state.clone() for state in states(probed)], torch.get_rng_state()
    optimizer = json.dumps(probed.optimizer.state_dict(), default=str)
    probed.fit_to_memory((64, 96))
    assert all(torch.equal(a, b) for a, b in zip(before, states(probed), strict=True))
    assert torch.equal(random, torch.get_rng_state())
    assert json.dumps(probed.optimizer.state_dict(), default=str) == optimizer
    for run in (plain, probed):
        torch.manual_seed(7)
        run.fit()
    assert all(torch.equal(a, b) for a, b in zip(states(plain), states(probed), strict=True))


FROZEN = [(0.0, 0.0), (0.3, 0.0), (0.5, 0.8), (1.0, 0.0)]  # (freeze_encoder_fraction, unfreeze_fraction)


@pytest.mark.parametrize(("freeze", "unfreeze"), FROZEN)
def test_norms_of_a_frozen_encoder_are_measured_as_they_are_trained(
    scenes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, freeze: float, unfreeze: float
) -> None:
    """In the last update of the run, in which least is frozen: by the memory probe and by the timing of a step."""
    values = {"model.name": "unet", "model.encoder": "test_resnet", "training.optimizer": "sgd", "training.lr": 0.01}
    values |= {"training.freeze_encoder_fraction": freeze, "training.unfreeze_fraction": unfreeze}
    config = TrainConfig().with_values(values)
    network = build_network(config.with_values({"model.weights": None}), scenes.label_space.classes)
    frozen = {"freeze_encoder_fraction": freeze, "unfreeze_fraction": unfreeze}
    run = trainer(scenes, tmp_path, components={"model": network}, **frozen, optimizer="sgd", lr=0.01, ema=None)
    seen: list[list[bool]] = []
    update = TrainStep.__call__

    def watched(self: TrainStep, *given: Any, **more: Any) -> Any:
        norms = [module for module in self.model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        seen.append([norm.training for norm in norms])
        return update(self, *given, **more)

    monkeypatch.setattr(TrainStep, "__call__", watched)
    run.freezing.set_mode(run.model, 1 - 1e-9)
    expected = [module.training for module in run.model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert any(expected) and all(expected) == (freeze + unfreeze <= 1 and freeze < 1)
    run.fit_to_memory((64, 96))
    assert seen and all(modes == expected for modes in seen), "the memory probe"
    seen.clear()
    time_step(config, scenes.label_space.classes, torch.device("cpu"), (64, 96), 2, "fp32", repeats=1)
    assert seen and all(modes == expected for modes in seen), "the timing"


def test_one_image_below_one_cell_is_measured_where_its_norms_never_train(scenes: Dataset, tmp_path: Path) -> None:
    values = {"model.name": "unet", "model.encoder": "test_resnet", "training.optimizer": "sgd", "training.lr": 0.01}
    phases = [{"until": 1.0, "size": (32, 32), "scale": (0.7, 1.3), "batch": 1}]
    for fraction in (1.0, 0.5):
        config = TrainConfig().with_values({**values, "training.freeze_encoder_fraction": fraction})
        network = build_network(config.with_values({"model.weights": None}), scenes.label_space.classes)
        settings: dict[str, Any] = {"freeze_encoder_fraction": fraction, "optimizer": "sgd", "lr": 0.01, "ema": None}
        run = trainer(scenes, tmp_path / str(fraction), components={"model": network}, phases=phases, **settings)

        def outcome(taken: bool = fraction == 1.0) -> AbstractContextManager[object]:
            return nullcontext() if taken else pytest.raises(ModelError, match="freeze_bn=true")

        with outcome():
            run.fit_to_memory((64, 96))
        with outcome():
            time_step(config, scenes.label_space.classes, torch.device("cpu"), (32, 32), 1, "fp32", repeats=1)


def test_what_is_predicted_is_what_a_step_takes(tmp_path: Path) -> None:
    """In a process of its own: what other tests have freed would make room while a step is measured."""
    done = subprocess.run(
        [sys.executable, Path(__file__).parent / "probe_job.py", tmp_path],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    predicted, tried = json.loads(done.stdout)
    assert predicted["how"].startswith("predicted from 2 images") and predicted["parts"] == 1
    assert tried["how"] == "tried"
    assert predicted["peak_bytes"] == pytest.approx(tried["peak_bytes"], rel=0.4)


def test_a_small_image_may_reassure_and_not_alarm(
    scenes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that pads every image, as FCN-32s does by 100 pixels, on a machine too slow for patience."""
    run = trainer(scenes, tmp_path, phases=LARGE)
    monkeypatch.setattr(module, "MAX_SECONDS_PER_TRIAL", 0.0)
    monkeypatch.setattr(module, "peak_of", lambda device, work: (work(), 1 << 30)[1])  # the same at every size
    found = with_memory(run, 24 << 30, monkeypatch).training
    assert (found.how, found.micro_batches) == ("predicted from 2 images", 1)
    assert "of 32×32" in with_memory(run, 1 << 40, monkeypatch).training.how, "with plenty, the smallest is enough"


def test_what_does_not_fit_is_taken_in_parts_with_the_same_effective_batch(
    scenes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(scenes, tmp_path, wide=True, phases=LARGE, epochs=1)
    monkeypatch.setattr(module, "MAX_SECONDS_PER_TRIAL", float("inf"))  # on a slow machine as well, up to the full size
    monkeypatch.setattr(module, "peak_of", by_pixels(monkeypatch))
    whole = with_memory(run, 64 << 30, monkeypatch).training.peak_bytes
    found = with_memory(run, 0.4 * whole, monkeypatch)
    assert found.training.micro_batches >= 2 and found.training.images * found.training.micro_batches == 8
    assert found.training.peak_bytes <= 0.4 * whole
    assert "its effective size stays" in found.sentence()
    sizes: list[list[int]] = []
    take = run.train_step

    def taken(batches: list[Batch], *arguments: Any) -> None:
        sizes.append([len(batch) for batch in batches])
        take(batches, *arguments)

    run.train_step = taken  # type: ignore[method-assign]
    run.fit()
    assert sizes == [[found.training.images] * found.training.micro_batches]
    with pytest.raises(OutOfMemoryError, match="not even one image"):
        with_memory(trainer(scenes, tmp_path / "x", wide=True, phases=LARGE), whole / 100, monkeypatch)


def test_decoded_images_are_kept_in_what_is_left(
    scenes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(scenes, tmp_path)
    found = with_memory(run, 1 << 28, monkeypatch)
    assert run.validator is not None
    left = (1 << 28) - found.training.peak_bytes
    assert 0 < found.images_bytes == run.loader.cache.limit < left
    assert (
        0 < run.validator.limits.cache_bytes < left
        and run.validator.limits.cache_bytes + run.loader.cache.limit <= left
    )


def test_validation_takes_fewer_images_then_windows() -> None:
    limits = fitting_limits(Limits(), (1000, 1000), 2.5e6)
    assert limits == Limits() and limits.pixels == 1_400_000 and limits.window is None
    limits = fitting_limits(limits, (1000, 1000), 1.2e6)
    assert limits.pixels == 1_200_000 and limits.window is None
    limits = fitting_limits(limits, (1000, 1000), 0.5e6)
    assert limits.window == 704 and limits.window**2 <= 0.5e6


def test_batches_are_divided_evenly() -> None:
    assert [micro_batches(12, parts) for parts in (1, 2, 4, 5, 8, 99)] == [
        (12, 1),
        (6, 2),
        (3, 4),
        (2, 6),
        (1, 12),
        (1, 12),
    ]
    assert micro_batches(7, 2) == (1, 7)


def test_it_is_said_and_written_down(
    scenes: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {
        "model.name": "leannet",
        "model.weights": None,
        "model.arguments": {"widths": [4, 8, 8, 8, 8], "decoder_channels": [4, 8, 8, 8]},
        "training.size": (64, 96),
        "training.batch": 4,
        "training.epochs": 1,
        "training.device": "cpu",
    }
    planned = api.train(scenes, settings=values, out=tmp_path / "run", dry_run=True)
    assert "memory: " in capsys.readouterr().err and planned.memory is not None
    assert not (tmp_path / "run").exists()
    api.train(scenes, settings=values, out=tmp_path / "run")
    assert capsys.readouterr().err.count("memory: ") == 1
    found = json.loads((tmp_path / "run" / "plan.json").read_text())["memory"]
    assert found["training"]["size"] == [64, 96] and found["training"]["images"] == 4
    assert found["training"]["peak_bytes"] > 0 and found["validation"]["peak_bytes"] > 0
    assert found["seconds"] > 0
