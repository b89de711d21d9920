"""One process or many: who this process is, and the few things that processes must agree on.

Launched by ``torchrun``, every process reads RANK, WORLD_SIZE and LOCAL_RANK. Alone, every call here is free.
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
from segwright.training.distributed.dtensors import is_shard
from segwright.training.distributed.watchdog import STOPPED, Heartbeat, job_store

T = TypeVar("T")

# Of a collective. A death is noticed by the heartbeat within a minute; this has to bear the longest lawful wait: the
# first process writes while the others wait for it, or a validation is uneven.
TIMEOUT = timedelta(minutes=30)
PATIENCE = timedelta(days=2)  # with the first process's work before the first step: it reads the whole dataset
_BROKEN = ("connection closed", "connection reset", "connection refused", "broken pipe", "timed out", "remote process")
_PLACE = re.compile(r"^\[.*?\] ")  # in gloo's source, which it puts before what it says


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

    def told(self, work: Callable[[], T], to_json: Callable[[T], Any], from_json: Callable[[Any], T]) -> T:
        """What ``work()`` gives on the first rank, on every rank. The others wait for it, for hours if need be: a death
        in the meantime is the heartbeat's to notice."""
        if self.size == 1:
            return work()
        group = _patient_group()  # made by all of them before one goes off to work
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

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over the ranks of a tensor on the device of the gradients; the host does not wait for it."""
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
        """For messages between CPUs: None is the default group, where that is gloo's already."""
        return _cpu_group()

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier(group=_cpu_group())


_GROUPS: dict[timedelta, dist.ProcessGroup] = {}


def _cpu_group() -> dist.ProcessGroup | None:
    """Control messages go over gloo even where gradients go over NCCL: no GPU stream waits for them."""
    return None if dist.get_backend() == "gloo" else _gloo(TIMEOUT)


def _patient_group() -> dist.ProcessGroup:
    """For waiting while one process works alone."""
    return _gloo(PATIENCE)


def _gloo(timeout: timedelta) -> dist.ProcessGroup:
    if timeout not in _GROUPS:
        group = dist.new_group(backend="gloo", timeout=timeout)
        assert isinstance(group, dist.ProcessGroup)  # an int stands for "not a member", and every rank is one
        _GROUPS[timeout] = group
    return _GROUPS[timeout]


@contextmanager
def world(device_type: str = "cpu") -> Iterator[World]:
    """The process group of ``torchrun``'s environment, joined and left again; a world of one without it.

    DeadProcessError names the rank, its host and its process, where another one died.
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
            fix=("its own message says why; " if all(fate.endswith(STOPPED) for fate in gone) else "")
            + "the last checkpoint is whole: the same command with --resume goes on, with any number of processes",
        ) from error
    finally:
        heartbeat.stop(failed=failed)
        dist.destroy_process_group()
        _GROUPS.clear()


def _is_broken(error: RuntimeError) -> bool:
    """Whether a collective failed because of another process."""
    return isinstance(error, dist.DistError) or any(sign in str(error).lower() for sign in _BROKEN)


def own_device(device: torch.device, peers: World) -> torch.device:
    """The device of this process: of several processes with GPUs, each has the one of its number on the machine."""
    return torch.device("cuda", peers.local_rank) if peers.size > 1 and device.type == "cuda" else device


def placed(network: nn.Module, config: TrainingConfig, device: torch.device, peers: World) -> nn.Module:
    """The network on its device, before an optimizer is made: in channels-last memory, or in shards.

    Batch norms see all processes where ``sync_bn`` asks for it and the device is a GPU: torch has none for CPUs.
    UsageError where shards are asked for together with what they do not go with.
    """
    model = network.to(device)
    if peers.size > 1 and config.sync_bn and device.type == "cuda":
        model = synchronized(model)
    if not config.shard or peers.size == 1:
        return model.to(memory_format=torch.channels_last)
    if config.compile is True:
        raise UsageError(
            "shards and torch.compile are not put together",
            found="training.shard=true and training.compile=true",
            fix="leave one of them out",
        )
    from segwright.training.distributed.fsdp import shard

    return shard(model, device, peers.size)


def synchronized(network: nn.Module) -> nn.Module:
    """The network with batch norms that see the batches of all processes. By timm's converter: torch's would drop the
    activation that timm's norms have inside."""
    from timm.layers.norm_act import convert_sync_batchnorm

    model: nn.Module = convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return model


def is_sharded(network: nn.Module) -> bool:
    """Whether this process holds only its shards of the network's weights."""
    return any(is_shard(parameter) for parameter in network.parameters())


def wrapped(network: nn.Module, config: TrainingConfig, device: torch.device, peers: World) -> Callable[[Tensor], Any]:
    """The network as it is called in training: compiled, or over many processes, or as it is."""
    model = network
    if peers.size > 1 and not is_sharded(network):
        ids = [device.index] if device.type == "cuda" else None
        model = nn.parallel.DistributedDataParallel(model, device_ids=ids)
    if config.compile is True:
        model.compile()
    return model
