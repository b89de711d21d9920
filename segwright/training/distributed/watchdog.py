"""Processes that watch over each other, so that a dead one ends the job, and is named, within a minute.

Waiting for a dead process inside a collective can last as long as the collectives' own time limit, and that has to be
long: a save to a slow disk or an uneven validation is no death. So every process writes a counter into the job's store
(the one torchrun made) every two seconds from a thread of its own. The first process looks at all counters, the others
at the first one's and at what it found. A counter that stands still for ``SILENCE`` seconds is a death.
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

BEAT = 2.0  # seconds between two signs of life
SILENCE = 40.0  # seconds without one: dead. The rest of the minute is for ending the job
SUSPICIOUS = 3 * BEAT  # after a failed collective, silence this long already tells who it was
_GRACE = 5.0  # seconds that the main thread gets to end by its own error, before the process is ended from here
STOPPED = "stopped with an error"  # how the fate ends of one that has said itself what went wrong
_LEFT, _FAILED = b"left", b"failed"  # in place of a counter


class Heartbeat:
    """One process's sign of life, and its watch over the others."""

    def __init__(self, rank: int, size: int, store: Store, *, end: Callable[[str], None] | None = None) -> None:
        """``store``: a connection of its own, since the main thread may be waiting in another. ``end``: what happens
        on a death, given the line that names it; by default the line is printed and the process ends."""
        self.rank, self.size, self.store = rank, size, store
        self.end = end or _end
        self.names: dict[int, str] = {}
        self.seen: dict[int, tuple[bytes, float]] = {}
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Say who this is, learn who the others are, begin to beat."""
        self.store.set(f"who/{self.rank}", f"{socket.gethostname()} {os.getpid()}")
        self.store.set(f"beat/{self.rank}", "0")
        for rank in range(self.size):
            self.names[rank] = self.store.get(f"who/{rank}").decode()  # waits until it is there
        now = time.monotonic()
        self.seen = {rank: (b"", now) for rank in range(self.size) if rank != self.rank}
        self.thread.start()

    def stop(self, *, failed: bool = False) -> None:
        """Leave: nobody misses this process from now on; ``failed``: the others must not wait for it either."""
        self.stopped.set()
        self.thread.join(timeout=2 * BEAT)
        try:
            self.store.set(f"beat/{self.rank}", (_FAILED if failed else _LEFT).decode())
        except RuntimeError:
            return  # the store went first

    def describe(self, rank: int) -> str:
        """ "rank 1 (host node7, pid 4711)"."""
        host, pid = self.names[rank].split(" ")
        return f"rank {rank} (host {host}, pid {pid})"

    def gone(self, wait: float = 2 * SUSPICIOUS) -> list[str]:
        """Who is dead and how, after a collective failed: looked at for at most ``wait`` seconds."""
        end = time.monotonic() + wait
        while True:
            found = [fate for rank in self.seen if (fate := self._fate(rank, SUSPICIOUS))]
            if found or time.monotonic() > end:
                return found
            time.sleep(0.1)

    def _fate(self, rank: int, silence: float) -> str:
        """What became of a rank, with its name; nothing as long as it lives or when it left in peace."""
        host, pid = self.names[rank].split(" ")
        # The process first, the counter after it: one that leaves in peace says so before it goes.
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
        """A rank's counter and since when it stands."""
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
        """The line that names a death, or nothing."""
        for rank in self.seen if self.rank == 0 else (0,):
            fate = self._fate(rank, SILENCE)
            if fate:
                self.store.set("dead", f"{fate}: the job ends")
                break
        return self.store.get("dead").decode() if self.store.check(["dead"]) else ""


def job_store() -> Store:
    """A connection of one's own to the store that the launcher's environment names."""
    store = TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=False,
        timeout=timedelta(seconds=SILENCE),
        wait_for_workers=False,
    )
    # A restarted job finds the same store, with the counters of the processes that were.
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
    """The main thread may wait in a collective for ever: say it, give it a moment, end the process."""
    print(f"error: {visible(line, lines=True)}", file=sys.stderr, flush=True)
    time.sleep(_GRACE)
    os._exit(2)


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__
