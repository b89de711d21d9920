"""Checkpoints of a network in shards: every process writes and reads its own share, and nothing is put together.

By torch.distributed.checkpoint, into the folder and under the names of any other checkpoint, with its storage in
safetensors: a file for each process, and in its header where each piece lies in its tensor. (Its usual storage keeps a
pickle, ``.metadata``, which must not be read from a folder that others may have written.) A process reads the pieces
that overlap its share, whatever number of processes wrote them, and as well from the one file of a single process. On
its device it holds its shards alone, in host memory a copy of these.

Imported only where a network is in shards, or a checkpoint is: torch.distributed.checkpoint takes a second to load.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from segwright.core.atomic_io import write_json
from segwright.core.errors import CheckpointError
from segwright.core.unreadable import UNREADABLE

INDEX = "shards.json"  # name → shape of every tensor, beside the files of the processes

_UNREADABLE = (*UNREADABLE, IndexError, AssertionError)  # the last two are among torch's checks


def write_shards(folder: Path, tensors: Mapping[str, Tensor], group: dist.ProcessGroup | None) -> None:
    """Write this process's shards of ``tensors`` into ``folder``; all processes of ``group`` have to call.

    Tensors that are no shards are the first process's, which writes ``INDEX``, too. OSError, on all of them, where one
    cannot write; on the first where files of others do not arrive.
    """
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        save(
            dict(tensors),
            storage_writer=writer,
            planner=DefaultSavePlanner(dedup_save_to_lowest_rank=True),
            process_group=group,
        )
    except CheckpointException as error:
        raise _cause(error, OSError) from error
    if dist.get_rank() == 0:
        write_json(folder / INDEX, {name: list(tensor.shape) for name, tensor in tensors.items()})
        try:
            described(folder)
        except CheckpointError as error:
            raise OSError(f"{error.message}: does the run folder lie on a disk that all processes share?") from error


def described(folder: Path) -> dict[str, TensorStorageMetadata]:
    """Name → shape, dtype and pieces of every tensor in ``folder``, from the headers alone.

    CheckpointError where a header cannot be read, or pieces are missing: of ``INDEX``, since the last piece of a tensor
    would not be missed by the others.
    """
    try:
        found = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
        tensors = {name: one for name, one in found.items() if isinstance(one, TensorStorageMetadata)}
        index = folder / INDEX
        shapes = json.loads(index.read_text(encoding="utf-8")) if index.exists() else None
        lost = [] if shapes is None else _lost({name: torch.Size(shape) for name, shape in shapes.items()}, tensors)
    except _UNREADABLE as error:
        raise CheckpointError("a checkpoint in shards cannot be read", found=_short(error), where=folder) from error
    if lost:
        raise CheckpointError(
            "a checkpoint lacks some of its shards",
            expected="the files of all processes that wrote it",
            found=f"not all of {', '.join(lost[:3])}{', …' if len(lost) > 3 else ''}",
            where=folder,
        )
    return tensors


def _lost(shapes: Mapping[str, torch.Size], tensors: Mapping[str, TensorStorageMetadata]) -> list[str]:
    """The tensors whose pieces are not all there, or are none that were written."""

    def whole(name: str) -> bool:
        found = tensors.get(name)
        return (
            found is not None
            and found.size == shapes[name]
            and sum(math.prod(chunk.sizes) for chunk in found.chunks) == math.prod(found.size)
        )

    return sorted([name for name in shapes if not whole(name)] + [name for name in tensors if name not in shapes])


def read_shards(
    folder: Path, targets: Mapping[str, Tensor], group: dist.ProcessGroup | None = None, *, alone: bool = False
) -> None:
    """Fill ``targets`` in place, shards with their share, from the checkpoint in ``folder``.

    All processes of ``group`` have to call, unless ``alone``; ``folder`` was looked at by :func:`described` before.
    CheckpointError where a tensor is missing or of another shape.
    """
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            load(
                dict(targets),
                storage_reader=HuggingFaceStorageReader(str(folder)),
                process_group=group,
                no_dist=alone,
            )
    except CheckpointException as error:
        found = _cause(error, CheckpointError)
        raise CheckpointError("the checkpoint does not fit the network", found=_short(found), where=folder) from error
    except _UNREADABLE as error:
        raise CheckpointError("the checkpoint does not fit the network", found=_short(error), where=folder) from error


def read_whole(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint in shards, put together in host memory: for a single process that goes on with it."""
    tensors = {name: torch.empty(found.size, dtype=found.properties.dtype) for name, found in described(folder).items()}
    read_shards(folder, tensors, alone=True)
    return tensors


def _cause(error: CheckpointException, kind: type[Exception]) -> Exception:
    """What failed on the processes as one error: ``kind`` where files are at fault, else what the first one raised."""
    failures = {rank: wrapped[0] for rank, wrapped in error.failures.items()}
    rank, first = min(failures.items())
    files = all(isinstance(one, OSError | SafetensorError) for one in failures.values())
    if files or kind is CheckpointError:
        return kind(f"process {rank}: {_short(first)}")
    return first if isinstance(first, Exception) else RuntimeError(_short(first))


def _short(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
