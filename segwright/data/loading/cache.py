"""Decoded images kept in memory, shared by every worker thread.

Decoding a 480×360 PNG and its mask costs about three times its augmentation, so whatever fits is decoded once. The
cache fills as the first epoch goes. Where not everything fits, what came first stays: an epoch visits every sample
once, and replacing the oldest entry would drop each sample just before its next turn.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import psutil

from segwright.core.errors import UsageError
from segwright.core.types import Sample

DEFAULT_SHARE = 0.5  # of the memory that is free when the loader is made
_CHECK_EVERY = 64 << 20  # bytes stored between two looks at what is really left
_RESERVE = 0.1  # of the machine's memory is never taken


class DecodedCache:
    """At most ``limit`` bytes of decoded samples by index. Safe to use from several threads."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.stored = 0
        self.full = limit <= 0
        self._samples: dict[int, Sample] = {}
        self._lock = threading.Lock()
        self._next_check = _CHECK_EVERY

    def __len__(self) -> int:
        return len(self._samples)

    def get(self, index: int, read: Callable[[int], Sample]) -> Sample:
        """The sample, from memory or through ``read``; its arrays are shared and must not be written to."""
        sample = self._samples.get(index)
        if sample is not None:
            return sample
        sample = read(index)
        if not self.full:
            self._store(index, sample)
        return sample

    def _store(self, index: int, sample: Sample) -> None:
        size = sample.image.nbytes + (0 if sample.mask is None else sample.mask.nbytes)
        with self._lock:
            if self.full or index in self._samples:
                return
            if self.stored + size > self.limit:
                self.full = True
                return
            # A write by accident would poison every later epoch: make it an error at once.
            sample.image.flags.writeable = False
            if sample.mask is not None:
                sample.mask.flags.writeable = False
            self._samples[index] = sample
            self.stored += size
            if self.stored >= self._next_check:
                self._next_check = self.stored + _CHECK_EVERY
                # Others share the machine: stop growing when memory got scarce since the limit was set.
                self.full = available_memory() < _RESERVE * psutil.virtual_memory().total

    def clear(self) -> None:
        with self._lock:
            self._samples.clear()
            self.stored, self.full = 0, self.limit <= 0
            self._next_check = _CHECK_EVERY


def cache_limit(cache: str | int | float | bool) -> int:
    """Bytes for the setting: "auto" (half of what is free), False or 0 (none), a share in 0…1, or bytes.

    Processes of one machine (``LOCAL_WORLD_SIZE``, as torchrun sets it) divide it among themselves.
    """
    processes = max(int(os.environ.get("LOCAL_WORLD_SIZE", "1") or 1), 1)
    if cache is True or cache == "auto":
        return int(available_memory() * DEFAULT_SHARE) // processes
    if cache is False or cache == 0 or cache == "none":
        return 0
    if isinstance(cache, str) or cache < 0:
        raise UsageError(
            "unknown cache setting", expected="auto, none, a share between 0 and 1, or bytes", found=str(cache)
        )
    if cache < 1:
        return int(available_memory() * float(cache)) // processes
    return int(cache)


def available_memory() -> int:
    """Bytes that this process may still take: the machine's, or its control group's where that is less."""
    available = int(psutil.virtual_memory().available)
    # In a container or a batch job the group's limit counts, which psutil does not see; page cache is given back.
    for folder in control_groups():
        for limit_file, used_file, cached_key in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            try:
                limit = int((folder / limit_file).read_text())
                used = int((folder / used_file).read_text())
                lines = (folder / "memory.stat").read_text().splitlines()
                cached = next((int(line.split()[1]) for line in lines if line.startswith(cached_key + " ")), 0)
            except (OSError, ValueError):
                continue  # no such group, or no limit ("max")
            available = min(available, max(limit - used + cached, 0))
    return available


def control_groups() -> list[Path]:
    """The folders of this process's memory control group and of those above it, of either version of the interface.

    A container sees its own as the root; a batch system such as Slurm sets the limit on a group further down.
    """
    folders = [Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory")]
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return folders  # not Linux
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = Path("/sys/fs/cgroup/memory") if controllers else Path("/sys/fs/cgroup")
        parts = Path(group).parts[1:]
        folders += [root.joinpath(*parts[:depth]) for depth in range(1, len(parts) + 1)]
    return folders
