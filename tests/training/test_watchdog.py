"""Processes that watch over each other: a death is named, whatever kind it is; a leave is none."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import torch.distributed as dist

from segwright.training.distributed import watchdog as module
from segwright.training.distributed.watchdog import Heartbeat


class Job:
    """Three ranks in one process, with what each of them said."""

    def __init__(self) -> None:
        self.store = dist.HashStore()
        self.said: dict[int, list[str]] = {rank: [] for rank in range(3)}
        self.ranks = [Heartbeat(rank, 3, self.store, end=self.said[rank].append) for rank in range(3)]
        threads = [threading.Thread(target=rank.start) for rank in self.ranks]  # each waits for the others
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def wait_for(self, rank: int, seconds: float = 20) -> str:
        end = time.monotonic() + seconds
        while not self.said[rank] and time.monotonic() < end:
            time.sleep(0.01)
        return self.said[rank][0] if self.said[rank] else ""


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Iterator[Job]:
    monkeypatch.setattr(module, "BEAT", 0.05)
    monkeypatch.setattr(module, "SILENCE", 3.0)
    found = Job()
    yield found
    for rank in found.ranks:
        rank.stop()


def test_silence_is_noticed_by_the_first_rank_and_told_to_all(job: Job) -> None:
    job.ranks[2].stopped.set()  # as a machine that is cut off: it says nothing any more
    line = job.wait_for(0)
    assert line == job.wait_for(1)
    name = f"rank 2 (host {socket.gethostname()}, pid {os.getpid()})"
    assert line == f"{name} has given no sign of life for 3 seconds: the job ends"


def test_the_first_rank_is_watched_as_well(job: Job) -> None:
    job.ranks[0].stop(failed=True)
    assert "rank 0 (host" in job.wait_for(1) and "stopped with an error" in job.said[1][0]


def test_a_killed_process_of_the_same_machine_is_noticed_at_once(job: Job) -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    assert all(rank.gone(wait=0) == [] for rank in job.ranks)
    job.ranks[0].names[1] = job.ranks[2].names[1] = f"{socket.gethostname()} {child.pid}"
    began = time.monotonic()
    assert job.wait_for(0) == f"rank 1 (host {socket.gethostname()}, pid {child.pid}) died: the job ends"
    assert time.monotonic() - began < 2.5, "before the silence is long enough"
    assert job.ranks[2].gone() == [f"rank 1 (host {socket.gethostname()}, pid {child.pid}) died"]


def test_who_leaves_in_peace_is_not_missed(job: Job) -> None:
    job.ranks[1].stop()
    job.ranks[2].names[1] = job.ranks[0].names[1] = f"{socket.gethostname()} {2**22 + 1}"  # no such process any more
    time.sleep(0.5)
    assert job.said == {0: [], 1: [], 2: []} and job.ranks[0].gone(wait=0) == []
