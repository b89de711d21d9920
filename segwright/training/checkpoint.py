"""Checkpoints that are whole or not there, without pickle: tensors in safetensors, the rest in JSON, sums over both.

``checkpoints/step-00000120/`` holds ``state.safetensors``, ``state.json`` and ``SHA256SUMS``. A new one is written
beside, synced and renamed before an old one goes, so a kill or a full disk at any instant leaves a whole one behind.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from segwright.errors import CheckpointError
from segwright.files import write_folder, write_json, write_sums, wrong_sums
from segwright.training.dtensors import is_shard, laid_out, whole

KEEP = 2  # the newest and the one before, in case the newest is damaged later


@dataclass(frozen=True)
class Checkpoint:
    """What was read back."""

    path: Path
    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]
    skipped: tuple[str, ...] = ()  # newer ones that are not whole, with the reason


def save_checkpoint(folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
    """Write ``folder/step-…``, then remove all but the newest two. OSError (a full disk) leaves the old ones."""
    path = folder / f"step-{step:08d}"
    with write_folder(path) as beside:
        contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        try:
            save_file(contiguous, str(beside / "state.safetensors"))
        except SafetensorError as error:  # safetensors reports a full disk as its own error
            raise OSError(str(error)) from error
        write_json(beside / "state.json", dict(state))
        write_sums(beside)
    for old in checkpoints(folder)[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return path


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints that stand in ``folder``, oldest first, whole or not."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint; None where there never was one; CheckpointError where all are damaged."""
    skipped: list[str] = []
    for path in reversed(checkpoints(folder)):
        try:
            wrong = wrong_sums(path)
            if not wrong:
                tensors = load_file(str(path / "state.safetensors"))
                state = _checked(json.loads((path / "state.json").read_text(encoding="utf-8")))
                return Checkpoint(path, tensors, state, tuple(skipped))
        except (OSError, ValueError, RecursionError, SafetensorError) as error:
            wrong = [str(error)]
        skipped.append(f"{path.name}: {'; '.join(wrong[:3])}")
    if skipped:
        raise CheckpointError(
            "no checkpoint is whole",
            found=" | ".join(skipped),
            where=folder,
            fix="start again with another --out; the saved model, if there is one, can be continued with --from",
        )
    return None


def newest_state(folder: Path) -> Mapping[str, Any] | None:
    """The description in the newest checkpoint that is whole, without its tensors; None where none is."""
    for path in reversed(checkpoints(folder)):
        try:
            if not wrong_sums(path):
                return _checked(json.loads((path / "state.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError):
            continue
    return None


def clear_leftovers(folder: Path) -> None:
    """Remove what a killed run left half-written, and put back what it was about to replace.

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
    """The description of a checkpoint; ValueError where it is of another kind."""
    progress: Any = state.get("progress") if isinstance(state, dict) else None
    numbers = isinstance(progress, dict) and all(
        isinstance(value, int | float) or value is None for value in progress.values()
    )
    if not numbers or "step" not in progress or not isinstance(state.get("optimizer"), dict):
        raise ValueError("state.json does not describe a checkpoint")
    found: dict[str, Any] = state
    return found


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors by name, JSON-able rest) of an optimizer's state."""
    tensors: dict[str, Tensor] = {}
    rest: dict[str, Any] = {}
    for index, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{index}/{key}"] = whole(value)
            else:
                rest[f"{index}/{key}"] = value
    return tensors, rest


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
    """Put a flattened state back; momentum buffers take their parameter's memory format, as they had it."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer/"):
            _, index, key = name.split("/", 2)
            parameter = parameters[int(index)]
            if tensor.shape == parameter.shape and tensor.ndim > 0:
                tensor = laid_out(tensor, parameter)
            state.setdefault(int(index), {})[key] = tensor
    for name, value in rest.items():
        index, key = name.split("/", 1)
        state.setdefault(int(index), {})[key] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def model_tensors(model: nn.Module, prefix: str) -> dict[str, Tensor]:
    """The state dict under a prefix, whole; a tensor that appears under two names is saved once for each.

    Of a network in shards every process must ask for it.
    """
    return {f"{prefix}/{name}": whole(tensor).clone() for name, tensor in model.state_dict().items()}


def restore_model(model: nn.Module, tensors: Mapping[str, Tensor], prefix: str) -> None:
    """Copy the tensors under a prefix into ``model``; CheckpointError where they do not fit."""
    found = {name.removeprefix(f"{prefix}/"): t for name, t in tensors.items() if name.startswith(f"{prefix}/")}
    for name, target in model.state_dict().items():
        if is_shard(target) and name in found and found[name].shape == target.shape:
            found[name] = laid_out(found[name], target)
    try:
        model.load_state_dict(found, strict=True)
    except RuntimeError as error:
        raise CheckpointError("the checkpoint does not fit the network", found=str(error)[:300]) from error
