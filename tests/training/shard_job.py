"""What test_shards.py runs in two processes: shards against one process, checkpoints handed both ways."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import Killed, kill_at, states, trainer
from torch import Tensor, nn

from segwright.core.errors import UsageError
from segwright.data.dataset import Dataset, open_dataset
from segwright.losses import create_loss
from segwright.training.callbacks.log import read_log
from segwright.training.checkpoint import load_checkpoint
from segwright.training.distributed.dtensors import local_tensor
from segwright.training.distributed.fsdp import blocks
from segwright.training.distributed.world import World, init_world, is_sharded
from segwright.training.trainer import Trainer

COMMON: dict[str, Any] = {
    "epochs": 1,
    "phases": [{"until": 1.0, "size": (64, 96), "scale": (0.7, 1.3), "batch": 4}],
    "freeze_bn": True,  # a batch norm's statistics are its own process's on a CPU
    "save_every_steps": 2,
    "clip": 0.5,
}
CASES: dict[str, dict[str, Any]] = {
    "adamw-ema": {"optimizer": "adamw", "ema": 0.8},
    "muon-swa": {"optimizer": "muon", "ema": None, "swa": 0.4},
    "sgd": {"optimizer": "sgd", "lr": 0.05, "ema": None},
}


def build(scenes: Dataset, folder: Path, world: World, **changed: Any) -> Trainer:
    classes = scenes.label_space.classes
    # Weights that make the processes' shares of a batch very unequal: the mean of their means would be another.
    loss = create_loss("ce(smoothing=0.05)", classes=classes, class_weights=[4.0**-i for i in range(classes)])
    run = trainer(scenes, folder, loss, world=world, **{**COMMON, **changed})
    for module in run.model.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d):
            module.p = 0.0
    return run


def killed(scenes: Dataset, folder: Path, world: World, **changed: Any) -> None:
    """A run that ends in its third step, with a checkpoint of its second."""
    run = build(scenes, folder, world, **changed)
    kill_at(run, 3)
    with pytest.raises(Killed):
        run.fit()


def losses(folder: Path) -> list[float]:
    return [record["loss"] for record in read_log(folder) if "loss" in record]


def close(one: list[Tensor], other: list[Tensor]) -> None:
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def compare(scenes: Dataset, folder: Path, world: World, changed: dict[str, Any]) -> None:
    """The same curve and the same weights."""
    alone = folder / f"alone{world.rank}"
    one = build(scenes, alone, World(), **changed)
    one.fit()
    run = build(scenes, folder / "shards", world, fsdp=True, **changed)
    assert is_sharded(run.model) and blocks(one.model), "sharded, in blocks and as a whole"
    held = sum(local_tensor(parameter).numel() for parameter in run.model.parameters())
    assert held < 0.7 * sum(parameter.numel() for parameter in one.model.parameters())
    before = [local_tensor(parameter).clone() for parameter in run.model.parameters()]
    run.fit_to_memory((64, 96))
    assert all(torch.equal(local_tensor(p), b) for p, b in zip(run.model.parameters(), before, strict=True))
    run.fit()
    if world.is_first:
        np.testing.assert_allclose(losses(folder / "shards"), losses(alone), rtol=1e-4)
    close(
        list(run.networks.evaluated_model().state_dict().values()),
        list(one.networks.evaluated_model().state_dict().values()),
    )
    assert run.last_validation is not None and one.last_validation is not None
    assert abs(run.last_validation.scores.pixel_accuracy - one.last_validation.scores.pixel_accuracy) < 0.005


def hand_over(scenes: Dataset, folder: Path, world: World, changed: dict[str, Any]) -> None:
    """Killed in shards, resumed alone; killed alone, resumed in shards: the weights of a run that was never killed."""
    one = build(scenes, folder / f"never{world.rank}", World(), **changed)
    one.fit()
    killed(scenes, folder / "to-one", world, fsdp=True, **changed)
    world.barrier()
    if world.is_first:
        found = load_checkpoint(folder / "to-one" / "checkpoints")
        assert found is not None and found.state["progress"]["step"] == 2
        shapes = {name: tensor.shape for name, tensor in one.model.state_dict().items()}
        assert all(found.tensors[f"model/{name}"].shape == shape for name, shape in shapes.items()), "whole"
        again = build(scenes, folder / "to-one", World(), **changed)
        again.fit(resume=True)
        close(states(again), states(one))
        killed(scenes, folder / "to-two", World(), **changed)
    world.barrier()
    sharded = build(scenes, folder / "to-two", world, fsdp=True, **changed)
    sharded.fit(resume=True)
    assert sharded.progress.step == one.progress.step
    close(
        list(sharded.networks.evaluated_model().state_dict().values()),
        list(one.networks.evaluated_model().state_dict().values()),
    )


def statistics(scenes: Dataset, folder: Path, world: World, shard: bool) -> None:
    """Statistics of the average that were measured anew are the same in every process, to the bit."""
    changed: dict[str, Any] = {"freeze_bn": False, "fsdp": shard, "norm_statistics": "measured", "ema": 0.8}
    run = build(scenes, folder, world, **changed)
    assert run.average is not None
    run.fit()
    found = {k: v for k, v in run.average.model.state_dict().items() if "running_" in k and not k.startswith("aux")}
    mine = [float(value) for tensor in found.values() for value in local_tensor(tensor)]
    assert mine == world.broadcast(mine) and len(mine) > 50
    assert mine != [float(value) for name in found for value in local_tensor(run.model.state_dict()[name])]


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    scenes = open_dataset(folder / "street")
    with init_world() as world:
        with pytest.raises(UsageError, match=r"torch\.compile"):
            build(scenes, folder, world, fsdp=True, compile=True)
        with pytest.raises(UsageError, match="not tried"):
            build(scenes, folder, world, fsdp=True, optimizer="rprop")
        for name, changed in CASES.items():
            compare(scenes, folder / name, world, changed)
            if world.is_first:
                print(f"{name}: as one process", flush=True)
        for shard in (False, True):
            statistics(scenes, folder / f"statistics-{shard}", world, shard)
        hand_over(scenes, folder / "resume", world, CASES["adamw-ema"])
        if world.is_first:
            print("handed over both ways", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
