"""The networks of a training: the one that trains, its average, and a whole copy to score a sharded one with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch

from segwright.models.base import SegmentationModel
from segwright.training.config import TrainingConfig
from segwright.training.distributed.world import World, to_device
from segwright.training.optim.optimizers import AveragedWeights


@dataclass(frozen=True)
class TrainedNetworks:
    """The network in training, its averaged weights, and a whole copy if it is sharded."""

    model: SegmentationModel
    average: AveragedWeights | None
    whole: SegmentationModel | None  # on the CPU; filled by gather()
    device: torch.device

    @property
    def sharded(self) -> bool:
        return self.whole is not None

    def evaluated_model(self) -> SegmentationModel:
        """The weights that are validated and saved; of a sharded network, as they were gathered last."""
        if self.whole is not None:
            return self.whole
        return self.model if self.average is None else cast(SegmentationModel, self.average.model)

    @contextmanager
    def scored_model(self) -> Iterator[SegmentationModel]:
        """:meth:`evaluated_model` on the device, for the duration of the block."""
        model = self.evaluated_model()
        try:
            yield model.to(self.device) if self.sharded else model
        finally:
            if self.sharded:
                model.cpu()

    def gather(self) -> None:
        """Update :meth:`evaluated_model` from the shards of a sharded network; all ranks have to call this."""
        if self.whole is not None:
            from segwright.training.distributed.fsdp import gather

            gather(self.model if self.average is None else self.average.model, self.whole)


def prepare_networks(
    model: SegmentationModel, config: TrainingConfig, device: torch.device, world: World
) -> TrainedNetworks:
    """Move a network to its device, or shard it, and create its average.

    Before the optimizer is created: its buffers take the layout of their parameters.
    """
    decay = config.ema if isinstance(config.ema, float) else None
    averaged = bool(decay or config.swa)
    if not config.fsdp or world.size == 1:
        plain = cast(SegmentationModel, to_device(model, config, device, world))
        average = AveragedWeights(plain, decay or 0.0, config.swa) if averaged else None
        return TrainedNetworks(plain, average, None, device)
    from segwright.training.distributed.fsdp import full_copy

    whole, second = full_copy(model), full_copy(model)  # a sharded network cannot be copied
    second_sharded = to_device(second, config, device, world) if averaged else None
    first = cast(SegmentationModel, to_device(model, config, device, world))
    average = AveragedWeights(first, decay or 0.0, config.swa, start=second_sharded) if averaged else None
    return TrainedNetworks(first, average, whole, device)
