"""One process or many: who this process is, and the few things that processes must agree on.

Launched by ``torchrun``, every process reads RANK, WORLD_SIZE and LOCAL_RANK. Alone, every call here is free.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor, nn

from segwright.config import TrainingConfig

TIMEOUT = timedelta(seconds=60)  # a dead rank ends the job within a minute


@dataclass(frozen=True)
class World:
    """This process among its peers."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """The one process that writes files and speaks."""
        return self.rank == 0

    def broadcast(self, values: list[float]) -> list[float]:
        """The first rank's numbers, on every rank."""
        if self.size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.broadcast(tensor, 0, group=_cpu_group())
        return [float(value) for value in tensor]

    def broadcast_text(self, text: str) -> str:
        """The first rank's text, on every rank."""
        if self.size == 1:
            return text
        data = torch.tensor(list(text.encode()), dtype=torch.uint8)
        length = int(self.broadcast([float(len(data))])[0])
        if not self.is_first:
            data = torch.empty(length, dtype=torch.uint8)
        dist.broadcast(data, 0, group=_cpu_group())
        return bytes(data.tolist()).decode()

    def any(self, flag: bool) -> bool:
        """Whether any rank says yes."""
        if self.size == 1:
            return flag
        tensor = torch.tensor([int(flag)])
        dist.all_reduce(tensor, dist.ReduceOp.MAX, group=_cpu_group())
        return bool(tensor.item())

    def sum(self, matrix: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The exact integer sum over the ranks."""
        if self.size == 1:
            return matrix
        tensor = torch.from_numpy(matrix.copy())
        dist.all_reduce(tensor, dist.ReduceOp.SUM, group=_cpu_group())
        return tensor.numpy()

    def mean(self, value: float) -> float:
        """The mean over the ranks."""
        if self.size == 1:
            return value
        tensor = torch.tensor([value], dtype=torch.float64)
        dist.all_reduce(tensor, dist.ReduceOp.SUM, group=_cpu_group())
        return float(tensor.item()) / self.size

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier(group=_cpu_group())


_CPU_GROUP: list[dist.ProcessGroup] = []


def _cpu_group() -> dist.ProcessGroup | None:
    """Control messages go over gloo even where gradients go over NCCL: no GPU stream waits for them."""
    if dist.get_backend() == "gloo":
        return None
    if not _CPU_GROUP:
        group = dist.new_group(backend="gloo", timeout=TIMEOUT)
        assert isinstance(group, dist.ProcessGroup)  # an int stands for "not a member", and every rank is one
        _CPU_GROUP.append(group)
    return _CPU_GROUP[0]


@contextmanager
def world(device_type: str = "cpu") -> Iterator[World]:
    """The process group of ``torchrun``'s environment, joined and left again; a world of one without it."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    rank, local_rank = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    backend = "nccl" if device_type == "cuda" else "gloo"
    if device_type == "cuda":
        torch.cuda.set_device(local_rank)
    dist.init_process_group(backend, timeout=TIMEOUT)
    try:
        yield World(rank, size, local_rank)
    finally:
        dist.destroy_process_group()
        _CPU_GROUP.clear()


def wrapped(network: nn.Module, config: TrainingConfig, device: torch.device, peers: World) -> Callable[[Tensor], Any]:
    """The network as it is called in training: compiled, or over many processes, or as it is."""
    model = network
    if peers.size > 1:
        if config.sync_bn and device.type == "cuda":  # torch has no SyncBatchNorm on a CPU
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        ids = [device.index] if device.type == "cuda" else None
        model = nn.parallel.DistributedDataParallel(model, device_ids=ids)
    if config.compile is True:
        model.compile()
    return model
