"""A segwright command in a child process of the lowest priority, which the system ends first if memory runs out."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

STOP_SECONDS = 10.0
TAIL = 1500  # characters of the log
OUT_OF_MEMORY_FIRST = "1000"  # of Linux: the process that is ended before any other


class ChildCommand:
    """``segwright ARGUMENTS`` with its output in a log file; it and what it starts are a group of processes."""

    program: tuple[str, ...] = (sys.executable, "-P", "-m", "segwright")

    def __init__(self, arguments: Sequence[object], log: Path, *, threads: int | None = None) -> None:
        self.log = log
        environment = {**os.environ, "PYTHONSAFEPATH": "1", "COLUMNS": "200"}
        if threads is not None:
            environment["OMP_NUM_THREADS"] = str(threads)
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as output:
            self.process = subprocess.Popen(
                [*self.program, *map(str, arguments)],
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment,
                start_new_session=True,
            )  # fmt: skip
        self._yield_to_others()

    def _yield_to_others(self) -> None:
        pid = self.process.pid
        with contextlib.suppress(psutil.Error, OSError):
            found = psutil.Process(pid)
            found.nice(19 if os.name == "posix" else psutil.IDLE_PRIORITY_CLASS)  # type: ignore[attr-defined,unused-ignore]
        # A session of its own is an autogroup of its own on Linux, within which alone niceness counts.
        for name, value in (("autogroup", "19"), ("oom_score_adj", OUT_OF_MEMORY_FIRST)):
            with contextlib.suppress(OSError):
                Path(f"/proc/{pid}/{name}").write_text(value)

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        return self.process.poll()

    def wait(self) -> int:
        """Wait for the end; returns the exit code."""
        return self.process.wait()

    def reason(self) -> str:
        """Why it ended, in words, with the end of its log."""
        code = self.process.returncode
        if code is not None and code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
            why = f"ended by {name}" + (": most likely memory ran out" if name == "SIGKILL" else "")
        else:
            why = f"exit code {code}"
        with contextlib.suppress(OSError):
            text = self.log.read_text(encoding="utf-8", errors="replace")[-TAIL:].strip()
            return f"{why}\n{text}" if text else why
        return why

    def stop(self) -> None:
        """End the process and what it started, at the latest by SIGKILL."""
        if self.process.poll() is not None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(OSError):
                os.killpg(self.process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)
                return


def end_leftover(pid_file: Path, marker: str) -> None:
    """End the process that a killed server left behind, if it is that one: its command line has ``marker``."""
    try:
        found = psutil.Process(int(pid_file.read_text()))
        if marker in " ".join(found.cmdline()):
            found.kill()
    except (OSError, ValueError, psutil.Error):
        return
