"""Reads files of weights: tensors by name, out of whatever a trainer wrapped around them.

Nothing is unpickled: a ``.pth`` is read with ``weights_only=True`` or refused.
"""

from __future__ import annotations

import argparse
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segwright.core.errors import WeightsError

# What trainers save a network's weights under, the plain ones before their moving average
WRAPPERS = (
    "state_dict", "model", "model_state_dict", "model_state", "net", "network", "params", "weights", "module",
    "net_state_dict", "network_state_dict", "ema_state_dict", "state_dict_ema", "model_ema", "ema", "params_ema",
    "ema_model", "average_model",
)  # fmt: skip
PREFIXES = ("module.", "model.", "net.", "network.", "_orig_mod.", "ema_model.", "ema.", "averaged_model.")
# Entries of a checkpoint that hold tensors and are no weights
NO_WEIGHTS = (
    "optimizer", "optimizer_state_dict", "optimizer_states", "optim", "scheduler", "lr_scheduler", "lr_schedulers",
    "scaler", "amp", "hyper_parameters", "loops", "callbacks", "args", "config", "metrics", "rng_state",
)  # fmt: skip


@dataclass(frozen=True)
class WeightsFile:
    """What a file of weights holds."""

    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()  # what was unwrapped, stripped and left out
    meta: Mapping[str, Any] = field(default_factory=dict)  # mmsegmentation's entry: its config, classes, version


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """:func:`read_weights_file`'s tensors."""
    return read_weights_file(path).tensors


def read_weights_file(path: str | Path, *, key: str | None = None, prefix: str | None = None) -> WeightsFile:
    """Tensors by name from a ``.safetensors`` file, a ``.pth``/``.pt``/``.ckpt``/``.bin`` of plain tensors, or a folder
    with one (a saved model, or a run with its ``model/``).

    Wrappers (``{"state_dict": …}``, ``{"ema": …}``; see :data:`WRAPPERS`) and the prefixes that trainers put before
    every name (``module.``, ``model.``, ``_orig_mod.``; see :data:`PREFIXES`) are taken off. ``key`` names the wrapper
    where a file holds several, ``prefix`` the one whose tensors are wanted. WeightsError where the file is not
    whole, holds no tensors, or would have to run code.
    """
    path = Path(path)
    if path.is_dir():
        inside = [
            path / name
            for name in ("model.safetensors", "pytorch_model.bin", "model/model.safetensors")
            if (path / name).exists()
        ]
        if not inside:
            raise WeightsError("no weights in the folder", expected="model.safetensors", where=path)
        path = inside[0]
    if not path.is_file():
        raise WeightsError("no such weights file", where=path, fix="check the path")
    loaded = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    notes: list[str] = []
    meta = loaded.get("meta") if isinstance(loaded, Mapping) else None
    tensors = _unwrapped(loaded, path, key, notes)
    found = _without_prefixes(tensors, path, prefix, notes)
    return WeightsFile(found, tuple(notes), meta if isinstance(meta, Mapping) else {})


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    from segwright.core.unreadable import UNREADABLE

    try:
        return load_file(path)
    except UNREADABLE as error:
        raise WeightsError("not a whole safetensors file", found=str(error)[:300], where=path) from error


def _read_torch(path: Path) -> Any:
    """What torch.save wrote, tensors and plain values only: nothing of the file is run."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                size = sum(member.file_size for member in archive.infolist())
            if size > 2 * path.stat().st_size + 1_000_000:  # torch stores tensors uncompressed
                raise WeightsError("the file unpacks to more than a file of weights does", found=f"{size} bytes",
                                   where=path, fix="save it again with torch.save(model.state_dict())")  # fmt: skip
        # A Namespace of the trainer's arguments holds values only; it is common, and of no use here.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except WeightsError:
        raise
    except Exception as error:  # a damaged pickle trips over whatever it likes: index, type, struct, assertion errors
        raise WeightsError(
            "the file holds more than tensors, or is damaged; it is not unpickled",
            expected="a state dict of plain tensors",
            found=str(error).splitlines()[0][:200] if str(error) else type(error).__name__,
            where=path,
            fix="save it again as safetensors, or with torch.save(model.state_dict())",
        ) from error


def _unwrapped(loaded: Any, path: Path, key: str | None, notes: list[str]) -> dict[str, Tensor]:
    """The state dict inside what a trainer saved around it."""
    for _ in range(8):
        if not isinstance(loaded, Mapping):
            break
        inside = [name for name in loaded if isinstance(loaded[name], Mapping) and _holds_tensors(loaded[name])]
        if key is not None:
            if key not in loaded or not isinstance(loaded[key], Mapping):
                raise WeightsError("no such entry in the file", expected=", ".join(map(str, inside)) or "no entries",
                                   found=key, where=path)  # fmt: skip
            loaded, key = loaded[key], None
            continue
        if any(isinstance(value, Tensor) for value in loaded.values()):
            break
        known = [name for name in WRAPPERS if name in inside]
        if known:
            others = [str(name) for name in inside if name != known[0] and name not in NO_WEIGHTS]
            if others:
                notes.append(f"the weights under {known[0]!r} are taken; the file also holds {', '.join(others[:6])}")
            loaded = loaded[known[0]]
            continue
        parts = [name for name in inside if name not in NO_WEIGHTS]
        if not parts:
            break
        # Parts of a network saved one by one: {"encoder": {…}, "decoder": {…}}
        loaded = {f"{name}.{inner}": value for name in parts for inner, value in loaded[name].items()}
    tensors = {str(k): v for k, v in loaded.items() if isinstance(v, Tensor)} if isinstance(loaded, Mapping) else {}
    if not tensors:
        raise WeightsError("no tensors in the file", expected="a state dict", found=type(loaded).__name__, where=path)
    return tensors


def _holds_tensors(tree: Mapping[Any, Any], depth: int = 0) -> bool:
    return any(
        isinstance(value, Tensor) or (depth < 3 and isinstance(value, Mapping) and _holds_tensors(value, depth + 1))
        for value in tree.values()
    )


def _without_prefixes(
    tensors: dict[str, Tensor], path: Path, prefix: str | None, notes: list[str]
) -> dict[str, Tensor]:
    """Names without what a trainer put before them; what lies beside the network, as a loss's weights, is left out."""
    if prefix is not None:
        start = prefix if prefix.endswith(".") else f"{prefix}."
        kept = {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
        if not kept:
            first = sorted({name.split(".")[0] for name in tensors})
            raise WeightsError("no tensor has this prefix", expected=", ".join(first[:8]), found=prefix, where=path)
        return kept
    stripped = ""
    for _ in range(8):
        counts = {start: sum(name.startswith(start) for name in tensors) for start in PREFIXES}
        present = [start for start in PREFIXES if counts[start]]
        start = max(present, key=lambda one: counts[one], default="")
        rest = [name for name in tensors if not name.startswith(start)] if start else []
        twins = [one for one in present if one != start and counts[one] == counts[start]]
        if twins:
            raise WeightsError(
                "the file holds several networks",
                found=", ".join(f"{one}* ({counts[one]} tensors)" for one in (start, *twins)),
                where=path,
                fix=f"name one: --prefix {start.rstrip('.')} (prefix= in Python)",
            )
        # The network is what has the prefix; a few tensors beside it are the trainer's own.
        if not start or len(rest) * 4 > len(tensors):
            break
        if rest:
            notes.append(f"left out, beside the network: {', '.join(rest[:6])}{', …' if len(rest) > 6 else ''}")
        tensors = {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
        stripped += start
    if stripped:
        notes.append(f"names without their prefix {stripped}")
    return tensors
