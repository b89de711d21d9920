"""Training on a GPU, where there is one and on a pretended one: the whole run, and what it promises there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pretend_cuda import DEVICE, NO_FIXED_ORDER
from small_runs import Killed, kill_at, states, trainer
from torch import Tensor

import segwright as sw
from segwright.core.errors import UsageError
from segwright.core.types import Batch
from segwright.data.dataset import Dataset, open_dataset
from segwright.demo.dataset import write_street_scenes
from segwright.losses import create_loss
from segwright.losses.catalog import LOSSES
from segwright.models.leannet import LeanNet
from segwright.training.config import TrainConfig
from segwright.training.deterministic import deterministic_mode
from segwright.training.distributed.world import World, own_device
from segwright.training.optim.optimizers import OPTIMIZERS, create_optimizer
from segwright.training.train_step import TrainStep

SMALL = {
    "model.name": "leannet",
    "model.arguments": {
        "widths": [4, 8, 8, 8, 8], "decoder_channels": [4, 8, 8, 8], "depths": [0, 1, 1, 1, 1],
    },
}  # fmt: skip
EVERY_LOSS = [*LOSSES, "lovasz(per_image=true)"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(write_street_scenes(tmp_path_factory.mktemp("scenes"), train=16, val=3, test=1, size=(64, 96)))


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)


def test_the_road_from_images_to_a_model_that_a_cpu_loads(scenes: Dataset, gpu: torch.device, tmp_path: Path) -> None:
    """Plan, memory probe, training in bf16, validation, adjustment, report; then a prediction on either device."""
    run = sw.train(scenes, epochs=2, device="cuda", out=tmp_path / "run", settings=SMALL)
    assert run.plan.config.training.precision == "bf16" and run.memory is not None
    assert run.memory.training.how == "tried" and run.memory.device.startswith("cuda")
    assert (tmp_path / "run" / "report.html").exists()
    image = scenes.test[0].image
    there = sw.load(tmp_path / "run", device="cuda").predict(image)
    here = sw.load(tmp_path / "run", device="cpu").predict(image)
    assert (there.labels == here.labels).mean() > 0.98
    evaluated = sw.evaluate(tmp_path / "run", scenes.val, device="cuda").miou
    assert evaluated == pytest.approx(sw.evaluate(tmp_path / "run", scenes.val, device="cpu").miou, abs=0.02)


@pytest.mark.parametrize(
    "changed",
    [
        {"precision": "bf16"},
        {"optimizer": "adamw", "schedule": "poly", "accumulate": 2, "ema": None, "precision": "fp16"},
        {"optimizer": "sgd", "schedule": "plateau", "swa": 0.5, "freeze_bn": True},
    ],
    ids=["muon-ema-bf16", "adamw-accumulate-fp16", "sgd-swa-frozen-norms"],
)
def test_killed_and_resumed(scenes: Dataset, gpu: torch.device, tmp_path: Path, changed: dict[str, Any]) -> None:
    """What a checkpoint brings back is what was: weights, averages, optimizer, generators, loss scale."""
    killed = trainer(scenes, tmp_path / "killed", device=gpu, **changed)
    kill_at(killed, 3)  # right after a checkpoint
    torch.cuda.manual_seed(5)
    with pytest.raises(Killed):
        killed.fit()
    drawn = torch.cuda.get_rng_state(gpu)
    again = trainer(scenes, tmp_path / "killed", device=gpu, **changed)
    again.restore()
    assert again.progress.step == 3
    assert all(tensor.device == gpu for tensor in states(again))
    assert all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(states(killed), states(again), strict=True))
    assert torch.equal(torch.cuda.get_rng_state(gpu), drawn)
    assert again.update.scaler.state_dict() == killed.update.scaler.state_dict()
    assert again.fit(resume=True).finished


def test_out_of_memory_halves_the_batch(scenes: Dataset, gpu: torch.device, tmp_path: Path) -> None:
    honest = create_loss("ce", classes=scenes.label_space.classes)

    def hungry(logits: Tensor, target: Tensor) -> Tensor:
        if len(logits) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return honest(logits, target)

    run = trainer(scenes, tmp_path, hungry, device=gpu)
    assert run.fit().finished and run.progress.num_micro_batches == 4


def _criterion_and_gradient(name: str, device: torch.device) -> tuple[float, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 24, 20, generator=generator)
    target = torch.randint(0, 4, (2, 24, 20), generator=generator)
    target[:, :3] = 255
    criterion = create_loss(name, classes=4, class_weights=[0.5, 2.0, 1.0, 0.25]).to(device)
    scores = logits.to(device).requires_grad_()
    loss = criterion(scores, target.to(device))
    loss.backward()
    assert scores.grad is not None and loss.device == device
    return float(loss.detach()), scores.grad.cpu()


@pytest.mark.parametrize("name", EVERY_LOSS)
def test_losses_are_those_of_the_cpu(name: str, gpu: torch.device) -> None:
    (here, expected), (there, found) = (_criterion_and_gradient(name, d) for d in (torch.device("cpu"), gpu))
    assert there == pytest.approx(here, rel=1e-4)
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", EVERY_LOSS)
def test_losses_add_in_a_fixed_order_where_equal_weights_are_asked_for(name: str, asked: set[str]) -> None:
    with deterministic_mode(DEVICE, deterministic=True):
        _criterion_and_gradient(name, DEVICE)
    assert not asked & NO_FIXED_ORDER


@pytest.mark.parametrize("name", ["muon", *sorted(OPTIMIZERS)])
def test_optimizers_take_the_steps_of_the_cpu(name: str, gpu: torch.device) -> None:
    weights = []
    for device in (torch.device("cpu"), gpu):
        torch.manual_seed(0)
        model = LeanNet(classes=3, widths=(4, 8, 8, 8, 8), decoder_channels=(4, 8, 8, 8), depths=(0, 1, 1, 1, 1))
        model = model.to(device).to(memory_format=torch.channels_last)
        config = TrainConfig().with_values({"training.optimizer": name, "training.precision": "fp32"}).training
        optimizer = create_optimizer(model, config, lr=1e-3, weight_decay=0.01)
        step = TrainStep(model, optimizer, device=device)
        criterion = create_loss("ce", classes=3).to(device)
        rng = np.random.default_rng(0)
        for _ in range(2):
            images = rng.integers(0, 256, (2, 32, 32, 3), np.uint8)
            masks = rng.integers(0, 3, (2, 32, 32), np.uint8)
            step([Batch(images, masks, ("a", "b"))], 0.0, criterion, 0.4)
        weights.append([p.detach().cpu() for p in model.parameters()])
    # Where a gradient is all but nothing, Adam's and its kin's first steps are its sign alone: a few may differ.
    off = [(a - b).abs().max() > 1e-3 for a, b in zip(*weights, strict=True)]
    assert sum(map(bool, off)) <= len(off) // 10


# -- equal seeds, equal weights --------------------------------------------------------------------------------------


def test_equal_seeds_give_equal_weights(scenes: Dataset, gpu: torch.device, tmp_path: Path) -> None:
    weights = []
    for name in ("a", "b"):
        sw.train(scenes, epochs=2, device="cuda", deterministic=True, out=tmp_path / name, settings=SMALL)
        weights.append((tmp_path / name / "model" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_a_deterministic_run_adds_in_a_fixed_order(scenes: Dataset, asked: set[str], tmp_path: Path) -> None:
    """Network, loss, optimizer, averages, validation, checkpoints, adjustment: the plan's own, from end to end."""
    sw.train(scenes, epochs=1, device="cuda", deterministic=True, out=tmp_path, settings=SMALL)
    assert "convolution_backward" in asked
    assert not asked & NO_FIXED_ORDER


def test_what_is_set_for_it_and_put_back(gpu: torch.device) -> None:
    backend = torch.backends.cudnn
    with deterministic_mode(gpu, deterministic=True):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8" and not backend.benchmark
    assert not torch.are_deterministic_algorithms_enabled()
    with deterministic_mode(gpu, deterministic=False):
        assert backend.benchmark
    assert not backend.benchmark
    with deterministic_mode(torch.device("cpu"), deterministic=False):
        assert not backend.benchmark


def test_a_kernel_that_is_missing_is_named() -> None:
    with (
        pytest.raises(UsageError, match=r"(?s)max_unpooling2d_forward_out on cuda:0.*without --deterministic"),
        deterministic_mode(DEVICE, deterministic=True),
    ):
        raise RuntimeError("max_unpooling2d_forward_out does not have a deterministic implementation, but you set …")
    with pytest.raises(RuntimeError, match="something else"), deterministic_mode(DEVICE, deterministic=True):
        raise RuntimeError("something else")


def test_of_several_processes_each_has_a_gpu_of_its_own() -> None:
    assert own_device(torch.device("cuda"), World(3, 8, local_rank=3)) == torch.device("cuda", 3)
    assert own_device(torch.device("cuda", 1), World()) == torch.device("cuda", 1)
    assert own_device(torch.device("cpu"), World(1, 2, local_rank=1)) == torch.device("cpu")
