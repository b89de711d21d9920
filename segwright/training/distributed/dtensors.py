"""DTensors (sharded tensors) and plain tensors alike, for code that saves, restores and updates both.

``torch.distributed.tensor`` is not imported here: training in one process does not need it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def is_dtensor(tensor: Tensor) -> bool:
    """Whether ``tensor`` is sharded: this process holds only a part of it."""
    return hasattr(tensor, "full_tensor")


def local_tensor(tensor: Tensor) -> Tensor:
    """The part that this process holds, sharing its memory, without autograd history; of a plain tensor all of it."""
    data: Any = tensor.data
    local: Tensor = data.to_local() if is_dtensor(data) else data
    return local


def full_tensor(tensor: Tensor) -> Tensor:
    """The whole of a sharded tensor, gathered in a collective that all ranks must call; a plain tensor unchanged."""
    sharded: Any = tensor
    full: Tensor = sharded.full_tensor() if is_dtensor(tensor) else tensor
    return full


def distribute_like(full: Tensor, like: Tensor) -> Tensor:
    """Lay out a whole tensor, equal on every rank, in the memory format or the shards of ``like``; dtype is kept."""
    if not is_dtensor(like):
        return torch.empty_like(like, dtype=full.dtype).copy_(full)
    from torch.distributed.tensor import distribute_tensor

    sharded: Any = like
    # Without a source rank nothing is sent: each process cuts its own shard.
    shard: Tensor = distribute_tensor(full.to(like.device), sharded.device_mesh, sharded.placements, src_data_rank=None)
    return shard
