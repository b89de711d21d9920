"""Checkpoints that are whole or not there, without pickle: tensors in safetensors, the rest in JSON, sums over both.

``checkpoints/step-00000120/`` holds ``state.safetensors``, ``state.json`` and ``SHA256SUMS``. A new one is written
beside, synced and renamed before an old one goes, so a kill or a full disk at any instant leaves a whole one behind.
Of a network in shards each process writes a file of its own in the place of ``state.safetensors``
(:mod:`segwright.training.distributed.sharded_checkpoint`); either kind is read by one process and by many.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from segwright.core.atomic_io import verify_checksums, write_checksums, write_folder, write_json
from segwright.core.errors import CheckpointError
from segwright.core.unreadable import UNREADABLE
from segwright.training.distributed.dtensors import distribute_like, is_dtensor

if TYPE_CHECKING:
    from segwright.training.distributed.world import World

WHOLE = "state.safetensors"
KEEP = 2  # the newest and the one before, in case the newest is damaged later


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read."""

    path: Path
    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]
    skipped: tuple[str, ...] = ()  # newer ones that are not whole, with the reason


def save_checkpoint(folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
    """Write ``folder/step-…``, then remove all but the newest two. On OSError (a full disk) the old ones stay."""
    path = _place(folder, step)
    with write_folder(path) as beside:
        try:
            save_file(_apart(tensors), str(beside / WHOLE))
        except SafetensorError as error:  # safetensors reports a full disk as its own error
            raise OSError(str(error)) from error
        _describe(beside, state)
    _keep_newest(folder)
    return path


def save_shards(folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], world: World) -> None:
    """:func:`save_checkpoint` of a sharded network: every rank has to call this and writes its own shards.

    OSError on rank 0 if anything cannot be written; the other ranks continue.
    """
    from segwright.training.distributed.sharded_checkpoint import write_shards

    if not world.is_first:
        place = world.broadcast_from_rank0(str, str, str)
        if place:
            with suppress(OSError):  # which rank 0 has, too
                write_shards(Path(place), tensors, world.control_group())
        return
    with ExitStack() as stack:
        try:
            beside = stack.enter_context(write_folder(_place(folder, step)))
        except BaseException:
            world.broadcast_from_rank0(str, str, str)  # the other ranks wait for a folder: there is none
            raise
        world.broadcast_from_rank0(lambda: str(beside.absolute()), str, str)
        write_shards(beside, tensors, world.control_group())
        _describe(beside, state)
    _keep_newest(folder)


def _place(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}"


def _describe(beside: Path, state: Mapping[str, Any]) -> None:
    write_json(beside / "state.json", dict(state))
    write_checksums(beside)


def _keep_newest(folder: Path) -> None:
    for old in checkpoints(folder)[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """In host memory, contiguous, without shared storage: a tensor with two names is saved once for each."""
    seen: set[int] = set()
    found = {}
    for name, tensor in tensors.items():
        host = tensor.detach().cpu().contiguous()
        memory = host.untyped_storage().data_ptr()
        found[name] = host.clone() if memory in seen else host
        seen.add(memory)
    return found


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in ``folder``, oldest first, intact or not."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def load_checkpoint(folder: Path, *, tensors: bool = True) -> Checkpoint | None:
    """The newest intact checkpoint; None if there never was one; CheckpointError if all are damaged.

    Without ``tensors`` they are left on the disk, for processes that each read a share.
    """
    skipped: list[str] = []
    for path in reversed(checkpoints(folder)):
        try:
            wrong = verify_checksums(path)
            if not wrong:
                found = _tensors(path) if tensors else _complete(path)
                state = _checked(json.loads((path / "state.json").read_text(encoding="utf-8")))
                return Checkpoint(path, found, state, tuple(skipped))
        except (*UNREADABLE, CheckpointError) as error:
            wrong = [str(error)]
        skipped.append(f"{path.name}: {'; '.join(wrong[:3])}")
    if skipped:
        raise CheckpointError(
            "no checkpoint is whole",
            found=" | ".join(skipped),
            where=folder,
            fix="start again with another --out; the saved model, if there is one, can be continued with --init-from",
        )
    return None


def _tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint, whole, in host memory."""
    if (path / WHOLE).exists():
        return load_file(str(path / WHOLE))
    from segwright.training.distributed.sharded_checkpoint import read_whole

    return read_whole(path)


def _complete(path: Path) -> dict[str, Tensor]:
    """No tensors; CheckpointError if shards are missing."""
    if not (path / WHOLE).exists():
        from segwright.training.distributed.sharded_checkpoint import described

        described(path)
    return {}


def newest_state(folder: Path) -> Mapping[str, Any] | None:
    """The description in the newest intact checkpoint, without tensors; None if there is none."""
    for path in reversed(checkpoints(folder)):
        try:
            if not verify_checksums(path):
                return _checked(json.loads((path / "state.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError):
            continue
    return None


def clear_leftovers(folder: Path) -> None:
    """Remove what a killed run left half-written, and restore what it was about to replace.

    Only the process that holds the run folder may call this: it is the one that writes there.
    """
    for entry in folder.glob(".step-*.old-*"):
        whole_one = folder / entry.name[1:].split(".old-")[0]
        if whole_one.exists():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.rename(whole_one)
    for entry in folder.glob(".step-*.writing-*"):
        shutil.rmtree(entry, ignore_errors=True)


def _checked(state: Any) -> dict[str, Any]:
    """The description of a checkpoint; ValueError for any other JSON."""
    progress: Any = state.get("progress") if isinstance(state, dict) else None
    numbers = isinstance(progress, dict) and all(
        isinstance(value, int | float) or value is None for value in progress.values()
    )
    if not numbers or "step" not in progress or not isinstance(state.get("optimizer"), dict):
        raise ValueError("state.json does not describe a checkpoint")
    found: dict[str, Any] = state
    return found


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors by name, JSON-able rest) of an optimizer's state; of a sharded network, the tensors are DTensors."""
    tensors: dict[str, Tensor] = {}
    rest: dict[str, Any] = {}
    for index, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{index}/{key}"] = value
            else:
                rest[f"{index}/{key}"] = value
    return tensors, rest


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
    """Restore a flattened state; momentum buffers take the memory format of their parameter."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer/"):
            _, index, key = name.split("/", 2)
            parameter = parameters[int(index)]
            if not is_dtensor(tensor) and tensor.shape == parameter.shape and tensor.ndim > 0:
                tensor = distribute_like(tensor, parameter)
            state.setdefault(int(index), {})[key] = tensor
    for name, value in rest.items():
        index, key = name.split("/", 1)
        state.setdefault(int(index), {})[key] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def model_tensors(model: nn.Module, prefix: str) -> dict[str, Tensor]:
    """The state dict under a prefix, with the tensors of ``model`` themselves (DTensors if it is sharded)."""
    return {f"{prefix}/{name}": tensor for name, tensor in model.state_dict().items()}


def optimizer_targets(
    optimizer: torch.optim.Optimizer, stored: Mapping[str, tuple[torch.Size, torch.dtype]]
) -> dict[str, Tensor]:
    """Tensors to read an optimizer's state into, by name; sharded like their parameter if they have its shape.

    CheckpointError if ``stored`` (name → shape and dtype) is of another number of parameters.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    targets: dict[str, Tensor] = {}
    for name, (shape, dtype) in stored.items():
        index = name.split("/", 2)[1]
        if not index.isdecimal() or int(index) >= len(parameters):
            raise CheckpointError("the checkpoint does not fit the optimizer", found=name[:100])
        parameter = parameters[int(index)]
        like = shape == parameter.shape and len(shape) > 0
        targets[name] = torch.zeros_like(parameter, dtype=dtype) if like else torch.zeros(shape, dtype=dtype)
    return targets


def restore_model(model: nn.Module, tensors: Mapping[str, Tensor], prefix: str) -> None:
    """Copy the tensors under a prefix into ``model``; CheckpointError if they do not fit."""
    found = {name.removeprefix(f"{prefix}/"): t for name, t in tensors.items() if name.startswith(f"{prefix}/")}
    try:
        model.load_state_dict(found, strict=True)
    except RuntimeError as error:
        raise CheckpointError("the checkpoint does not fit the network", found=str(error)[:300]) from error
