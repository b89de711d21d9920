"""A heartbeat among the processes of a job: a dead process ends the job, with its name, within a minute.

Waiting in a collective for a dead process can last as long as the collective's timeout, which has to be long because of
saves to slow disks and uneven validations. So every process increments a counter in the job's store (torchrun's) every
two seconds from a thread of its own. Rank 0 reads all counters, the others read rank 0's and its verdict. A process
whose counter has not changed for ``SILENCE`` seconds is considered dead.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta

import psutil
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from segwright.core.progress import visible

BEAT = 2.0  # seconds between heartbeats
SILENCE = 40.0  # seconds without one: dead. The rest of the minute is for ending the job
SUSPICIOUS = 3 * BEAT  # after a failed collective, silence this long already identifies the dead process
_GRACE = 5.0  # seconds that the main thread gets to end by its own error, before the process is ended from here
STOPPED = "stopped with an error"  # the verdict on a process that printed its own error
_LEFT, _FAILED = b"left", b"failed"  # in place of a counter


class Heartbeat:
    """The heartbeat of one process, and its watch over the others."""

    def __init__(self, rank: int, size: int, store: Store, *, end: Callable[[str], None] | None = None) -> None:
        """``store``: a connection of its own, since the main thread may block in another. ``end``: called with the line
        that names a dead process; by default the line is printed and this process ends."""
        self.rank, self.size, self.store = rank, size, store
        self.end = end or _end
        self.names: dict[int, str] = {}
        self.seen: dict[int, tuple[bytes, float]] = {}
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Publish this process's host and pid, read those of the others, and start the thread."""
        self.store.set(f"who/{self.rank}", f"{socket.gethostname()} {os.getpid()}")
        self.store.set(f"beat/{self.rank}", "0")
        for rank in range(self.size):
            self.names[rank] = self.store.get(f"who/{rank}").decode()  # waits until it is there
        now = time.monotonic()
        self.seen = {rank: (b"", now) for rank in range(self.size) if rank != self.rank}
        self.thread.start()

    def stop(self, *, failed: bool = False) -> None:
        """Leave: the others no longer expect heartbeats. ``failed``: they must not wait for this process either."""
        self.stopped.set()
        self.thread.join(timeout=2 * BEAT)
        try:
            self.store.set(f"beat/{self.rank}", (_FAILED if failed else _LEFT).decode())
        except RuntimeError:
            return  # the store is gone already

    def describe(self, rank: int) -> str:
        """ "rank 1 (host node7, pid 4711)"."""
        host, pid = self.names[rank].split(" ")
        return f"rank {rank} (host {host}, pid {pid})"

    def gone(self, wait: float = 2 * SUSPICIOUS) -> list[str]:
        """The dead processes with their verdicts, after a collective failed; looked up for at most ``wait`` seconds."""
        end = time.monotonic() + wait
        while True:
            found = [fate for rank in self.seen if (fate := self._fate(rank, SUSPICIOUS))]
            if found or time.monotonic() > end:
                return found
            time.sleep(0.1)

    def _fate(self, rank: int, silence: float) -> str:
        """The verdict on a rank, with its name; empty while it runs or if it left regularly."""
        host, pid = self.names[rank].split(" ")
        # Look up the process before the counter: one that leaves regularly writes that before it ends.
        ended = host == socket.gethostname() and not _runs(int(pid))
        counter, since = self._look(rank)
        if counter == _LEFT:
            return ""
        if counter == _FAILED:
            return f"{self.describe(rank)} {STOPPED}"
        if ended:
            return f"{self.describe(rank)} died"
        if time.monotonic() - since > silence:
            return f"{self.describe(rank)} has given no sign of life for {silence:.0f} seconds"
        return ""

    def _look(self, rank: int) -> tuple[bytes, float]:
        """A rank's counter, and since when it has not changed."""
        counter = self.store.get(f"beat/{rank}")
        if counter != self.seen[rank][0]:
            self.seen[rank] = (counter, time.monotonic())
        return self.seen[rank]

    def _run(self) -> None:
        beat = 0
        while not self.stopped.wait(BEAT):
            beat += 1
            try:
                self.store.set(f"beat/{self.rank}", str(beat))
                line = self._watch()
            except RuntimeError as error:
                if not self.stopped.is_set():
                    self.end(f"the job's store does not answer any more: its host is gone ({_first_line(error)})")
                return
            if line and not self.stopped.is_set():
                self.end(line)
                return

    def _watch(self) -> str:
        """The line that names a dead process, or an empty one."""
        for rank in self.seen if self.rank == 0 else (0,):
            fate = self._fate(rank, SILENCE)
            if fate:
                self.store.set("dead", f"{fate}: the job ends")
                break
        return self.store.get("dead").decode() if self.store.check(["dead"]) else ""


def job_store() -> Store:
    """A separate connection to the store that the launcher's environment names."""
    store = TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=False,
        timeout=timedelta(seconds=SILENCE),
        wait_for_workers=False,
    )
    # A restarted job has the same store, with the counters of the previous attempt.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return PrefixStore(f"segwright/{os.environ.get('TORCHELASTIC_RUN_ID', '')}/{attempt}", store)


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def _end(line: str) -> None:
    """Print the line, wait a moment for the main thread to end by itself, then end the process."""
    print(f"error: {visible(line, lines=True)}", file=sys.stderr, flush=True)
    time.sleep(_GRACE)
    os._exit(2)


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__
