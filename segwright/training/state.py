"""What a run continues from: :class:`Progress`, :class:`TrainState`, and both written to and read from a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from segwright.core.atomic_io import write_text
from segwright.core.errors import CheckpointError
from segwright.models.base import SegmentationModel
from segwright.training.checkpoint import (
    Checkpoint,
    flatten_optimizer,
    load_checkpoint,
    model_tensors,
    optimizer_targets,
    restore_model,
    restore_optimizer,
    save_checkpoint,
    save_shards,
)
from segwright.training.distributed.world import World, is_sharded
from segwright.training.optim.optimizers import AveragedWeights
from segwright.training.optim.schedule import Plateau

MICRO_BATCHES_FILE = "micro-batches"  # beside the checkpoints: written by a rank that ran out of memory
_FORMER_FILE = "batch-parts"  # its name until 0.1
_FORMER_NAMES = {"num_micro_batches": "split_batch"}  # fields of Progress in checkpoints of 0.1


@dataclass
class Progress:
    """The position and the counters of a run. Every checkpoint holds them; only the trainer writes them."""

    step: int = 0  # updates taken
    epoch: int = 0
    position: int = 0  # samples of this epoch that were consumed, over all ranks
    samples: int = 0  # samples consumed in all
    seconds: float = 0.0  # of training and validation, over all sittings
    best_miou: float = -1.0  # see Validation.decisive
    best_step: int = 0
    waited: int = 0  # validations since the best
    validated_epoch: int = 0
    unlabeled_epoch: int = 0
    unlabeled_position: int = 0  # unlabeled images of that epoch that were consumed, over all ranks
    num_micro_batches: int = 1  # a batch is split into at least this many micro-batches, for lack of memory

    def record_validation(self, miou: float) -> bool:
        """Count a validation; returns whether it is the best so far. NaN (no labeled pixel) counts as neither."""
        better = miou > self.best_miou
        if miou == miou:
            self.waited = 0 if better else self.waited + 1
        if better:
            self.best_miou, self.best_step = miou, self.step
        return better


class Counters(Protocol):
    """Statistics that a checkpoint holds as JSON."""

    def state(self) -> dict[str, Any]: ...

    def load(self, state: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True)
class TrainState:
    """The objects whose contents a checkpoint holds, besides the random generators."""

    model: SegmentationModel
    optimizer: torch.optim.Optimizer
    average: AveragedWeights | None
    scaler: torch.amp.GradScaler
    plateau: Plateau
    progress: Progress
    device: torch.device
    world: World
    thresholds: Counters | None = None  # of self-training

    @property
    def sharded(self) -> bool:
        """Whether each rank holds only its shards of the network."""
        return is_sharded(self.model)


def save_state(state: TrainState, folder: Path, run: Mapping[str, Any], message: Callable[[str], None]) -> None:
    """Write a checkpoint into ``folder`` (``checkpoints/`` of a run); a full disk is reported and the run continues.

    ``run``: a JSON-able record of the run. Rank 0 writes; with a sharded network every rank writes its own shards and
    has to call this.
    """
    if not state.world.is_first and not state.sharded:
        return
    tensors = model_tensors(state.model, "model")
    if state.average is not None:
        tensors |= model_tensors(state.average.model, "average")
    optimizer_tensors, optimizer_rest = flatten_optimizer(state.optimizer)
    tensors |= optimizer_tensors
    tensors["rng/cpu"] = torch.get_rng_state()
    if state.device.type == "cuda":
        tensors["rng/cuda"] = torch.cuda.get_rng_state(state.device)
    description = {
        "progress": asdict(state.progress),
        "optimizer": optimizer_rest,
        "average": state.average.state() if state.average else None,
        "plateau": state.plateau.state() if state.plateau.best > -math.inf else None,
        "scaler": state.scaler.state_dict() if state.scaler.is_enabled() else None,
        "thresholds": state.thresholds.state() if state.thresholds else None,
        "run": dict(run),
    }
    step = state.progress.step
    try:
        if state.sharded:
            save_shards(folder, step, tensors, description, state.world)
        else:
            save_checkpoint(folder, step, tensors, description)
    except OSError as error:
        message(
            f"warning: the checkpoint of step {step} could not be written ({error}); "
            "the one before is whole, training goes on"
        )


def restore_state(state: TrainState, folder: Path, message: Callable[[str], None]) -> None:
    """Fill ``state`` in place from the newest intact checkpoint in ``folder``; CheckpointError if there is none."""
    found = _find_on_rank0(state.world, folder) if state.sharded else load_checkpoint(folder)
    if found is None:
        raise CheckpointError(
            "nothing to resume from",
            expected="a checkpoint",
            where=folder,
            fix="start the run without --resume",
        )
    for line in found.skipped:
        message(f"warning: a damaged checkpoint was passed over: {line}")
    averaged = state.average is not None and bool(found.state.get("average"))
    if state.sharded:
        found = replace(found, tensors=_read_shards(state, found, averaged))
    else:
        restore_model(state.model, found.tensors, "model")
        if state.average is not None and averaged:
            restore_model(state.average.model, found.tensors, "average")
    if state.average is not None and averaged:
        state.average.load(found.state["average"])
    restore_optimizer(state.optimizer, found.tensors, found.state["optimizer"])
    if found.state.get("plateau"):
        state.plateau.load(found.state["plateau"])
    if state.thresholds is not None and found.state.get("thresholds"):
        state.thresholds.load(found.state["thresholds"])
    if found.state.get("scaler"):
        state.scaler.load_state_dict(found.state["scaler"])
    _restore_progress(state.progress, found.state["progress"], requested_micro_batches(folder))
    torch.set_rng_state(found.tensors["rng/cpu"])
    if "rng/cuda" in found.tensors and state.device.type == "cuda":
        torch.cuda.set_rng_state(found.tensors["rng/cuda"], state.device)


def _restore_progress(progress: Progress, stored: Mapping[str, Any], requested: int) -> None:
    """Position and counters. Of this sitting's micro-batches, the stored and the requested ones, the most are kept."""
    fitting = progress.num_micro_batches
    for field in fields(progress):
        value = stored.get(field.name, stored.get(_FORMER_NAMES.get(field.name, "")))
        if value is not None:
            setattr(progress, field.name, value)
    progress.num_micro_batches = max(fitting, int(progress.num_micro_batches), requested)


def _find_on_rank0(world: World, folder: Path) -> Checkpoint | None:
    """The newest intact checkpoint without its tensors, looked up by rank 0 for all; CheckpointError on all of them."""

    def look() -> dict[str, Any] | None:
        try:
            found = load_checkpoint(folder, tensors=False)
        except CheckpointError as error:
            return {"damaged": error.found}
        return None if found is None else {"name": found.path.name, "state": found.state, "skipped": found.skipped}

    found = world.broadcast_from_rank0(look, lambda found: found, lambda found: found)
    if found is None:
        return None
    if "damaged" in found:
        raise CheckpointError("no checkpoint is whole", found=found["damaged"], where=folder)
    return Checkpoint(folder / found["name"], {}, found["state"], tuple(found["skipped"]))


def _read_shards(state: TrainState, found: Checkpoint, averaged: bool) -> dict[str, Tensor]:
    """Fill the shards of network and average in place; returns the optimizer's tensors and the small ones.

    CheckpointError if the checkpoint belongs to another network.
    """
    from segwright.training.distributed.sharded_checkpoint import described, read_shards

    stored = described(found.path)
    targets = model_tensors(state.model, "model")
    if state.average is not None and averaged:
        targets |= model_tensors(state.average.model, "average")
    prefixes = ("model/", "average/") if averaged else ("model/",)
    odd = sorted(set(targets).symmetric_difference(name for name in stored if name.startswith(prefixes)))
    if odd:
        raise CheckpointError("the checkpoint does not fit the network", found=", ".join(odd[:6]), where=found.path)
    shapes = {name: (one.size, one.properties.dtype) for name, one in stored.items()}
    rest = optimizer_targets(state.optimizer, {n: s for n, s in shapes.items() if n.startswith("optimizer/")})
    rest |= {name: torch.zeros(size, dtype=dtype) for name, (size, dtype) in shapes.items() if name.startswith("rng/")}
    read_shards(found.path, {**targets, **rest}, state.world.control_group())
    return rest


def request_micro_batches(folder: Path, count: int) -> None:
    """Record, beside the checkpoints in ``folder``, that the next sitting has to split batches ``count``-fold."""
    with suppress(OSError):  # a full disk: the next sitting runs out of memory once more and tries again
        write_text(folder / MICRO_BATCHES_FILE, str(count))


def requested_micro_batches(folder: Path) -> int:
    """The count recorded by :func:`request_micro_batches`, else 1."""
    for name in (MICRO_BATCHES_FILE, _FORMER_FILE):
        with suppress(OSError, ValueError):
            return max(int((folder / name).read_text(encoding="ascii")), 1)
    return 1
