"""What test_distributed.py runs in two processes: updates over processes and micro-batches against the whole batch."""

import sys
from typing import Any

import pytest
import torch
import torch.distributed as dist
from test_train_step import LOSSES, Small, Step, divided, frozen, uneven, weights
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from segwright.losses import create_loss
from segwright.training.config import TrainingConfig
from segwright.training.distributed.world import World, init_world, parallelize, to_device
from segwright.training.train_step import TrainStep

SIZES = ((1, 3), (2, 2))  # of the micro-batches of each process; the batch of eight has very unequal labels


class Reductions:
    """Counts how often DDP reduces the gradients: a reduction ends with its last bucket.

    DDP compares the hook's annotations with the types themselves, so this file does not postpone them.
    """

    def __init__(self) -> None:
        self.count = 0

    def hook(self, group: Any, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        self.count += bucket.is_last()
        return allreduce_hook(group, bucket)


def divided_step(world: World) -> tuple[Step, Reductions]:
    """The step of :func:`frozen` on this process's share, through the trainer's own DDP."""
    torch.manual_seed(0)
    model = Small()
    config, device = TrainingConfig(), torch.device("cpu")
    forward = parallelize(to_device(model, config, device, world), config, device, world)
    reductions = Reductions()
    forward.register_comm_hook(None, reductions.hook)  # type: ignore[attr-defined]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    step = Step(TrainStep(model, optimizer, forward=forward, world=world))
    forward.train()  # type: ignore[attr-defined]
    step.model.body[1].eval()
    return step, reductions


def compare(world: World, name: str, weighted: bool) -> None:
    whole, (parts, reductions) = frozen(), divided_step(world)
    for step in (whole, parts):
        step.criterion = create_loss(name, classes=3, class_weights=(0.1, 1.0, 7.0) if weighted else None)
    item = uneven(8)
    own = divided(item, 4, 4)[world.rank]
    for index in range(3):
        one = whole.take([item], index=index)
        found = parts.take(divided(own, *SIZES[world.rank]), index=index)
        assert found.loss == pytest.approx(one.loss, rel=1e-5), (name, weighted)
        assert found.main_loss == pytest.approx(one.main_loss, rel=1e-5), (name, weighted)
        assert reductions.count == index + 1, f"{reductions.count} reductions in {index + 1} updates"
    for a, b in zip(weights(whole), weights(parts), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def main() -> None:
    torch.set_num_threads(1)
    with init_world() as world:
        for name in LOSSES:
            for weighted in (False, True):
                compare(world, name, weighted)
            if world.is_first:
                print(f"{name}: the update of the whole batch, one reduction", flush=True)


if __name__ == "__main__":
    sys.exit(main())
