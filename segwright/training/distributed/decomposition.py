"""What an update of several parts does not take from the whole batch: said where a run has parts or processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segwright.losses.pixels import SegmentationLoss
from segwright.training.freezing import BatchNorm

if TYPE_CHECKING:
    from segwright.training.trainer import Trainer


def parts_sentence(trainer: Trainer) -> str:
    """One line for people; empty where one process takes every batch whole.

    Losses whose mean decomposes have the gradient of the whole batch. Overlaps of a batch and the statistics of batch
    norms are of what one process sees at a time (of all processes, where norms are synchronized).
    """
    phase = trainer.phases[-1]
    processes = trainer.world.size
    images, split = trainer._parts(phase)
    parts = split * trainer.config.accumulate
    if processes * parts == 1:
        return ""
    losses: dict[str, None] = {}
    for criterion in (trainer.parts.criterion, trainer.parts.late_criterion):
        if isinstance(criterion, SegmentationLoss):
            losses.update(dict.fromkeys(criterion.per_part()))
    alone = [f"the loss {name}" for name in losses]
    alone += _norms(trainer, parts)
    where = f"{processes} processes" if processes > 1 else ""
    pieces = f"{parts} parts{' each' if where else ''}" if parts > 1 else ""
    said = (
        f"an update is taken by {' in '.join(filter(None, (where, pieces)))}" if where else f"an update takes {pieces}"
    )
    said += f" of {images} image{'' if images == 1 else 's'}; its gradient is that of the whole batch"
    if not alone:
        return said
    return f"{said}, except for {' and '.join(alone)}, which see one part at a time (docs/training.md)"


def _norms(trainer: Trainer, parts: int) -> list[str]:
    if trainer.config.freeze_bn or not any(isinstance(m, BatchNorm) for m in trainer.model.modules()):
        return []
    synchronized = trainer.world.size > 1 and trainer.config.sync_bn and trainer.device.type == "cuda"
    if synchronized:  # over the processes, but not over the parts of each
        return ["batch norms (of all processes together)"] if parts > 1 else []
    return ["batch norms"]
