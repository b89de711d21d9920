"""A small thread pool for compiled kernels, which release the interpreter's lock; and how many cores there are.

An executor of the standard library costs some 60 microseconds per task, more than many kernels take. Here a task is
handed over by one queue and its result by another.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

Result = tuple[int, Any, BaseException | None]  # its place among the results, the value, the error
Task = tuple[int, Callable[..., Any], tuple[Any, ...], SimpleQueue[Result]]  # place, function, arguments, results


class ThreadPool:
    """``threads`` threads that run one function on several parts; the caller's thread is one of them."""

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        self._started: list[threading.Thread] = []

    def run(self, function: Callable[..., Any], parts: Sequence[tuple[Any, ...]]) -> list[Any]:
        """``function(*part)`` for every part, the results in order. What a part raises is raised here, after all."""
        if len(parts) == 1 or not self._started:
            return [function(*part) for part in parts]
        queue: SimpleQueue[Result] = SimpleQueue()  # of this call alone: one that was interrupted leaves nothing behind
        try:
            for place, part in enumerate(parts[1:], 1):
                self._tasks.put((place, function, part, queue))
            results = [_call(0, function, parts[0])]
            with suppress(Empty):
                while (task := self._tasks.get_nowait()) is not None:
                    results.append(_call(*task[:3]))
            results += [queue.get() for _ in range(len(parts) - len(results))]
        except BaseException:  # Ctrl-C while waiting
            with suppress(Empty):
                while self._tasks.get_nowait() is not None:
                    pass
            raise
        for _, _, error in results:
            if error is not None:
                raise error
        return [result for _, result, _ in sorted(results, key=lambda found: found[0])]

    def ranges(self, start: int, stop: int, *, smallest: int = 2048) -> list[tuple[int, int]]:
        """start…stop divided into as many ranges as threads, but not into ranges too small to be worth a thread."""
        parts = max(1, min(self.threads, (stop - start) // smallest))
        return [(start + first, start + last) for first, last in split_range(stop - start, parts)]

    def start(self) -> None:
        for _ in range(self.threads - 1):
            thread = threading.Thread(target=self._work, name="segwright-kernels", daemon=True)
            thread.start()
            self._started.append(thread)

    def stop(self) -> None:
        for _ in self._started:
            self._tasks.put(None)
        while self._started:
            self._started.pop().join()

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            task[3].put(_call(*task[:3]))


def processors() -> int:
    """Cores that this process may use: a container or taskset can grant fewer than the machine has.

    The smaller of the affinity and the CPU time that control groups grant (``docker --cpus``, Kubernetes limits),
    rounded up: with half a core granted, one thread.
    """
    if hasattr(os, "sched_getaffinity"):  # not on every system
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    granted = _granted()
    return count if granted is None else max(1, min(count, math.ceil(granted - 0.01)))


def cpu_quota(root: Path, own: str) -> float | None:
    """Cores that the control groups grant: the least of all groups from this process's own to the root.

    ``root``: where control groups are mounted. ``own``: the text of /proc/self/cgroup. Version 2: ``cpu.max``; version
    1: ``cpu.cfs_quota_us`` and ``cpu.cfs_period_us``. None where nothing is limited.
    """
    found = []
    for line in own.splitlines():
        _, controllers, name = [*line.split(":", 2), "", ""][:3]
        if controllers == "":
            mounts, read = [root, root / "unified"], _version_2
        elif "cpu" in controllers.split(","):
            mounts, read = [root / controllers, root / "cpu", root / "cpu,cpuacct"], _version_1
        else:
            continue
        # In a container the group's name is the host's, and its own group is what is mounted: the root counts as well.
        parts = [part for part in name.split("/") if part not in ("", ".", "..")]
        groups = ["/".join(parts[:depth]) for depth in range(len(parts), -1, -1)]
        found += [quota for mount in mounts for group in groups if (quota := read(mount / group)) is not None]
    return min(found, default=None)


def _version_2(group: Path) -> float | None:
    try:
        quota, period = (group / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _version_1(group: Path) -> float | None:
    try:
        quota = int((group / "cpu.cfs_quota_us").read_text())
        return None if quota <= 0 else quota / int((group / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError, ZeroDivisionError):
        return None


@functools.cache
def _granted() -> float | None:
    """:func:`cpu_quota` of this process, looked up once: a loader needs it for every batch."""
    try:
        own = Path("/proc/self/cgroup").read_text()
    except (OSError, ValueError):
        return None
    return cpu_quota(Path("/sys/fs/cgroup"), own)


def split_range(count: int, parts: int) -> list[tuple[int, int]]:
    """0…count divided into ``parts`` ranges (first, last + 1) that differ by one at most."""
    edges = [count * part // parts for part in range(parts + 1)]
    return list(itertools.pairwise(edges))


def _call(place: int, function: Callable[..., Any], part: tuple[Any, ...]) -> Result:
    try:
        return place, function(*part), None
    except BaseException as error:  # handed to the caller's thread: a worker that died would be waited for forever
        return place, None, error


@contextmanager
def thread_pool(threads: int) -> Iterator[ThreadPool]:
    """Threads for one call."""
    pool = ThreadPool(threads)
    try:
        pool.start()
        yield pool
    finally:
        pool.stop()


_shared: ThreadPool | None = None
_shared_lock = threading.Lock()


def parallel_map(function: Callable[..., Any], parts: Sequence[tuple[Any, ...]], threads: int) -> list[Any]:
    """``function(*part)`` for every part over ``threads`` threads that are kept for the next call.

    For what is called hundreds of times in a training step, where starting threads would cost as much as the work.
    While one caller uses them another works by itself. A forked process starts its own.
    """
    if threads < 2 or len(parts) < 2 or not _shared_lock.acquire(blocking=False):
        return [function(*part) for part in parts]
    try:
        return _shared_pool(threads).run(function, parts)
    finally:
        _shared_lock.release()


def _shared_pool(threads: int) -> ThreadPool:
    global _shared
    if _shared is None or _shared.threads != threads:
        if _shared is not None:
            _shared.stop()
        _shared = ThreadPool(threads)
        _shared.start()
    return _shared


def _reset_after_fork() -> None:
    """After a fork: the child has the parent's books, and none of its threads."""
    global _shared, _shared_lock
    _shared, _shared_lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)
