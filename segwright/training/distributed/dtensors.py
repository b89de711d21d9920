"""Tensors in shards (DTensor) and plain ones alike, for code that saves, restores and updates both.

Nothing here loads ``torch.distributed.tensor``: who trains in one process does not wait for its import.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def is_shard(tensor: Tensor) -> bool:
    """Whether this process holds only its share of ``tensor``."""
    return hasattr(tensor, "full_tensor")


def own(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor, sharing its memory, without its history: all of it, or its shard."""
    data: Any = tensor.data
    local: Tensor = data.to_local() if is_shard(data) else data
    return local


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor in shards, gathered by all processes, who must all ask; any other tensor as it is."""
    sharded: Any = tensor
    full: Tensor = sharded.full_tensor() if is_shard(tensor) else tensor
    return full


def laid_out(full: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, the same on every process, in the memory format or the shards of ``like``; its own dtype."""
    if not is_shard(like):
        return torch.empty_like(like, dtype=full.dtype).copy_(full)
    from torch.distributed.tensor import distribute_tensor

    sharded: Any = like
    # Without a source rank nothing is sent: each process cuts its own share.
    share: Tensor = distribute_tensor(full.to(like.device), sharded.device_mesh, sharded.placements, src_data_rank=None)
    return share
