"""The process group: this process's rank, and the collectives of the trainer.

Launched by ``torchrun``, every process reads RANK, WORLD_SIZE and LOCAL_RANK. In a single process all calls are free.
"""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor, nn

from segwright.core.errors import DeadProcessError, UsageError
from segwright.training.config import TrainingConfig
from segwright.training.distributed.dtensors import is_dtensor
from segwright.training.distributed.watchdog import STOPPED, Heartbeat, job_store

T = TypeVar("T")

# Of a collective. The heartbeat detects a dead process within a minute; this limit covers the longest legitimate wait:
# rank 0 writes files while the others wait, or validation takes longer on one rank.
TIMEOUT = timedelta(minutes=30)
SETUP_TIMEOUT = timedelta(days=2)  # of rank 0's work before the first step: it reads the whole dataset
_BROKEN = ("connection closed", "connection reset", "connection refused", "broken pipe", "timed out", "remote process")
_PLACE = re.compile(r"^\[.*?\] ")  # the source location with which gloo prefixes its messages


@dataclass(frozen=True)
class World:
    """This process's place in the process group."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, the only process that writes files and logs."""
        return self.rank == 0

    def broadcast(self, values: list[float]) -> list[float]:
        """Rank 0's numbers, on every rank."""
        if self.size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.broadcast(tensor, 0, group=_cpu_group())
        return [float(value) for value in tensor]

    def broadcast_from_rank0(
        self, work: Callable[[], T], to_json: Callable[[T], Any], from_json: Callable[[Any], T]
    ) -> T:
        """Run ``work()`` on rank 0 and return its result on every rank, transferred as JSON.

        The other ranks wait, for up to ``SETUP_TIMEOUT``; the heartbeat detects a process that dies meanwhile.
        """
        if self.size == 1:
            return work()
        group = _setup_group()  # created by all ranks before one starts to work
        if self.is_first:
            result = work()
            data = torch.frombuffer(bytearray(json.dumps(to_json(result)).encode()), dtype=torch.uint8)
            dist.broadcast(torch.tensor([len(data)]), 0, group=group)
            dist.broadcast(data, 0, group=group)
            return result
        length = torch.zeros(1, dtype=torch.int64)
        dist.broadcast(length, 0, group=group)
        data = torch.empty(int(length), dtype=torch.uint8)
        dist.broadcast(data, 0, group=group)
        return from_json(json.loads(data.numpy().tobytes()))

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is set on any rank."""
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

    def total(self, tensor: Tensor) -> Tensor:
        """Sum a tensor on the gradients' device over the ranks, in place; the host does not wait for the result."""
        if self.size > 1:
            dist.all_reduce(tensor, dist.ReduceOp.SUM)
        return tensor

    def mean(self, value: float) -> float:
        """The mean over the ranks."""
        if self.size == 1:
            return value
        tensor = torch.tensor([value], dtype=torch.float64)
        dist.all_reduce(tensor, dist.ReduceOp.SUM, group=_cpu_group())
        return float(tensor.item()) / self.size

    def control_group(self) -> dist.ProcessGroup | None:
        """The group for messages between CPUs; None is the default group if its backend is gloo."""
        return _cpu_group()

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier(group=_cpu_group())


_GROUPS: dict[timedelta, dist.ProcessGroup] = {}


def _cpu_group() -> dist.ProcessGroup | None:
    """Control messages go over gloo even where gradients go over NCCL: no GPU stream waits for them."""
    return None if dist.get_backend() == "gloo" else _gloo(TIMEOUT)


def _setup_group() -> dist.ProcessGroup:
    """The group on which ranks wait while rank 0 works alone."""
    return _gloo(SETUP_TIMEOUT)


def _gloo(timeout: timedelta) -> dist.ProcessGroup:
    if timeout not in _GROUPS:
        group = dist.new_group(backend="gloo", timeout=timeout)
        assert isinstance(group, dist.ProcessGroup)  # an int stands for "not a member", and every rank is one
        _GROUPS[timeout] = group
    return _GROUPS[timeout]


@contextmanager
def init_world(device_type: str = "cpu") -> Iterator[World]:
    """Join the process group of ``torchrun``'s environment for the duration of the block; without it, a world of one.

    DeadProcessError names the rank, the host and the process if another one died.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    rank, local_rank = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    backend = "nccl" if device_type == "cuda" else "gloo"
    if device_type == "cuda":
        torch.cuda.set_device(local_rank)
    dist.init_process_group(backend, timeout=TIMEOUT)
    heartbeat = Heartbeat(rank, size, job_store())
    heartbeat.start()
    failed = True
    try:
        yield World(rank, size, local_rank)
        failed = False
    except RuntimeError as error:
        if not _is_broken(error):
            raise
        with suppress(ValueError):  # the launcher, too, has noticed, and sends SIGTERM: the name comes first
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        gone = heartbeat.gone()
        if not gone:
            raise
        raise DeadProcessError(
            f"{' and '.join(gone)}: the job ends",
            found=f"seen by rank {rank}: {_PLACE.sub('', str(error).splitlines()[0])[:160]}",
            fix=("its own message has the reason; " if all(fate.endswith(STOPPED) for fate in gone) else "")
            + "the last checkpoint is whole: the same command with --resume goes on, with any number of processes",
        ) from error
    finally:
        heartbeat.stop(failed=failed)
        dist.destroy_process_group()
        _GROUPS.clear()


def _is_broken(error: RuntimeError) -> bool:
    """Whether a collective failed because of another process."""
    return isinstance(error, dist.DistError) or any(sign in str(error).lower() for sign in _BROKEN)


def own_device(device: torch.device, world: World) -> torch.device:
    """The device of this process: with several processes on GPUs, the GPU of its local rank."""
    return torch.device("cuda", world.local_rank) if world.size > 1 and device.type == "cuda" else device


def to_device(network: nn.Module, config: TrainingConfig, device: torch.device, world: World) -> nn.Module:
    """Move a network to its device before the optimizer is created: in channels-last memory, or sharded (FSDP).

    With ``sync_bn`` on GPUs, batch norms become SyncBatchNorm; torch has none for CPUs. UsageError for sharding
    together with torch.compile.
    """
    model = network.to(device)
    if world.size > 1 and config.sync_bn and device.type == "cuda":
        model = synchronized(model)
    if not config.fsdp or world.size == 1:
        return model.to(memory_format=torch.channels_last)
    if config.compile is True:
        raise UsageError(
            "sharding and torch.compile cannot be combined",
            found="training.fsdp=true and training.compile=true",
            fix="leave one of them out",
        )
    from segwright.training.distributed.fsdp import shard

    return shard(model, device, world.size)


def synchronized(network: nn.Module) -> nn.Module:
    """Convert batch norms to SyncBatchNorm, with timm's converter: torch's drops the activation inside timm's norms."""
    from timm.layers.norm_act import convert_sync_batchnorm

    model: nn.Module = convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return model


def is_sharded(network: nn.Module) -> bool:
    """Whether this process holds only its shards of the network's weights (FSDP)."""
    return any(is_dtensor(parameter) for parameter in network.parameters())


def parallelize(
    network: nn.Module, config: TrainingConfig, device: torch.device, world: World
) -> Callable[[Tensor], Any]:
    """Wrap a network for training: DistributedDataParallel for several processes, compiled if configured."""
    model = network
    if world.size > 1 and not is_sharded(network):
        ids = [device.index] if device.type == "cuda" else None
        model = nn.parallel.DistributedDataParallel(model, device_ids=ids)
    if config.compile is True:
        model.compile()
    return model
