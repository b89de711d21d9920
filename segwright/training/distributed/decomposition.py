"""Report the parts of a training that depend on how a batch is split into micro-batches and over processes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import nn

from segwright.core.counted import counted
from segwright.losses.base import SegmentationLoss
from segwright.training.config import TrainingConfig
from segwright.training.distributed.world import World
from segwright.training.freezing import BatchNorm, is_frozen_throughout

BatchNorms = Literal["none", "local", "synchronized"]  # none: absent or frozen; synchronized: over the processes


def describe_decomposition(
    criteria: Iterable[object], images: int, micro_batches: int, processes: int, batch_norms: BatchNorms
) -> str:
    """One line on an update in ``micro_batches`` of ``images`` per process; empty if one process takes batches whole.

    The gradient of losses whose mean decomposes is that of the whole batch. Overlap losses of a batch and batch-norm
    statistics are computed from one micro-batch of a process (of all processes, if norms are synchronized).
    """
    if processes * micro_batches == 1:
        return ""
    losses: dict[str, None] = {}
    for criterion in criteria:
        if isinstance(criterion, SegmentationLoss):
            losses.update(dict.fromkeys(criterion.per_part()))
    alone = [f"the loss {name}" for name in losses]
    if batch_norms == "local":
        alone.append("batch norms")
    elif batch_norms == "synchronized" and micro_batches > 1:  # over the processes, but not over the micro-batches
        alone.append("batch norms (of all processes together)")
    where = f"{processes} processes" if processes > 1 else ""
    pieces = f"{micro_batches} parts{' each' if where else ''}" if micro_batches > 1 else ""
    text = (
        f"an update is taken by {' in '.join(filter(None, (where, pieces)))}" if where else f"an update takes {pieces}"
    )
    text += f" of {counted(images, 'image')}; its gradient is that of the whole batch"
    if not alone:
        return text
    return f"{text}, except for {' and '.join(alone)}, which see one part at a time (docs/training.md)"


def batch_norm_scope(model: nn.Module, config: TrainingConfig, world: World, device: torch.device) -> BatchNorms:
    """What the batch norms of ``model`` are computed from, once :class:`Freezing` has marked those that never train."""
    norms = [module for module in model.modules() if isinstance(module, BatchNorm)]
    if config.freeze_bn or all(map(is_frozen_throughout, norms)):
        return "none"
    return "synchronized" if world.size > 1 and config.sync_bn and device.type == "cuda" else "local"
