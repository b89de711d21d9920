"""Everything that a run continues from: collected for a checkpoint, and put back from one."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from segwright.core.atomic_io import write_text
from segwright.core.errors import CheckpointError
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

if TYPE_CHECKING:
    from segwright.training.trainer import Trainer

PARTS = "batch-parts"  # beside the checkpoints: written by a process of several that ran out of memory


def save_state(trainer: Trainer) -> None:
    """Write a checkpoint. A full disk is said, and the run goes on with the last one that is whole.

    The first process writes; of a network in shards every one writes its own, and has to call.
    """
    if not trainer.world.is_first and not trainer.sharded:
        return
    tensors = model_tensors(trainer.model, "model")
    if trainer.average is not None:
        tensors |= model_tensors(trainer.average.model, "average")
    state, rest = flatten_optimizer(trainer.optimizer)
    tensors |= state
    tensors["rng/cpu"] = torch.get_rng_state()
    if trainer.device.type == "cuda":
        tensors["rng/cuda"] = torch.cuda.get_rng_state(trainer.device)
    scaler = trainer.take_step.scaler
    description = {
        "progress": asdict(trainer.progress),
        "optimizer": rest,
        "average": trainer.average.state() if trainer.average else None,
        "plateau": trainer.plateau.state() if trainer.config.schedule == "plateau" else None,
        "scaler": scaler.state_dict() if scaler.is_enabled() else None,
        "run": dict(trainer.parts.record),
    }
    folder, step = trainer.parts.folder / "checkpoints", trainer.progress.step
    try:
        if trainer.sharded:
            save_shards(folder, step, tensors, description, trainer.world)
        else:
            save_checkpoint(folder, step, tensors, description)
    except OSError as error:
        trainer.parts.display.say(
            f"warning: the checkpoint of step {step} could not be written ({error}); "
            "the one before is whole, training goes on"
        )


def restore_state(trainer: Trainer) -> None:
    """Continue from the newest whole checkpoint; CheckpointError where there is none."""
    folder = trainer.parts.folder / "checkpoints"
    found = _shared(trainer) if trainer.sharded else load_checkpoint(folder)
    if found is None:
        raise CheckpointError(
            "nothing to resume from",
            expected="a checkpoint",
            where=folder,
            fix="start the run without --resume",
        )
    for line in found.skipped:
        trainer.parts.display.say(f"warning: a damaged checkpoint was passed over: {line}")
    averaged = trainer.average is not None and bool(found.state.get("average"))
    if trainer.sharded:
        found = replace(found, tensors=_read_shards(trainer, found, averaged))
    else:
        restore_model(trainer.model, found.tensors, "model")
        if trainer.average is not None and averaged:
            restore_model(trainer.average.model, found.tensors, "average")
    if trainer.average is not None and averaged:
        trainer.average.load(found.state["average"])
    restore_optimizer(trainer.optimizer, found.tensors, found.state["optimizer"])
    if found.state.get("plateau"):
        trainer.plateau.load(found.state["plateau"])
    if found.state.get("scaler"):
        trainer.take_step.scaler.load_state_dict(found.state["scaler"])
    _restore_progress(trainer, found.state["progress"])
    _restore_random(trainer, found.tensors)


def _shared(trainer: Trainer) -> Checkpoint | None:
    """The newest whole checkpoint, without its tensors: looked for by the first process, the same on all.

    CheckpointError on all of them where none is whole.
    """
    folder = trainer.parts.folder / "checkpoints"

    def look() -> dict[str, Any] | None:
        try:
            found = load_checkpoint(folder, tensors=False)
        except CheckpointError as error:
            return {"damaged": error.found}
        return None if found is None else {"name": found.path.name, "state": found.state, "skipped": found.skipped}

    told = trainer.world.told(look, lambda found: found, lambda found: found)
    if told is None:
        return None
    if "damaged" in told:
        raise CheckpointError("no checkpoint is whole", found=told["damaged"], where=folder)
    return Checkpoint(folder / told["name"], {}, told["state"], tuple(told["skipped"]))


def _read_shards(trainer: Trainer, found: Checkpoint, averaged: bool) -> dict[str, Tensor]:
    """Fill the shards of network and average in place; gives those of the optimizer's state, and what is small.

    CheckpointError where the checkpoint is of another network.
    """
    from segwright.training.distributed.sharded_checkpoint import described, read_shards

    stored = described(found.path)
    targets = model_tensors(trainer.model, "model")
    if trainer.average is not None and averaged:
        targets |= model_tensors(trainer.average.model, "average")
    prefixes = ("model/", "average/") if averaged else ("model/",)
    odd = sorted(set(targets).symmetric_difference(name for name in stored if name.startswith(prefixes)))
    if odd:
        raise CheckpointError("the checkpoint does not fit the network", found=", ".join(odd[:6]), where=found.path)
    shapes = {name: (one.size, one.properties.dtype) for name, one in stored.items()}
    rest = optimizer_targets(trainer.optimizer, {n: s for n, s in shapes.items() if n.startswith("optimizer/")})
    rest |= {name: torch.zeros(size, dtype=dtype) for name, (size, dtype) in shapes.items() if name.startswith("rng/")}
    read_shards(found.path, {**targets, **rest}, trainer.world.control_group())
    return rest


def ask_for_parts(folder: Path, parts: int) -> None:
    """Leave word that the next sitting of the run has to take its batches in at least ``parts`` parts."""
    with suppress(OSError):  # a full disk: the next sitting finds it out again
        write_text(folder / "checkpoints" / PARTS, str(parts))


def asked_parts(folder: Path) -> int:
    """What :func:`ask_for_parts` left, else 1."""
    try:
        return max(int((folder / "checkpoints" / PARTS).read_text(encoding="ascii")), 1)
    except (OSError, ValueError):
        return 1


def _restore_progress(trainer: Trainer, stored: dict[str, Any]) -> None:
    """Position and counters; batches stay in as many parts as the memory of this sitting asks for."""
    for one in fields(trainer.progress):
        if one.name != "split_batch" and stored.get(one.name) is not None:
            setattr(trainer.progress, one.name, stored[one.name])
    parts = (trainer.progress.split_batch, int(stored.get("split_batch", 1)), asked_parts(trainer.parts.folder))
    trainer.progress.split_batch = max(parts)


def _restore_random(trainer: Trainer, tensors: Any) -> None:
    state: Tensor = tensors["rng/cpu"]
    torch.set_rng_state(state)
    if "rng/cuda" in tensors and trainer.device.type == "cuda":
        torch.cuda.set_rng_state(tensors["rng/cuda"], trainer.device)
