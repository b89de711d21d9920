"""``--nproc N``: the same command again as N processes of one machine, under torch's own launcher."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from segwright.core.errors import UsageError
from segwright.kernels.threads import processors


def launched() -> bool:
    """Whether this process is one that a launcher started."""
    return "WORLD_SIZE" in os.environ


def launch(devices: int, arguments: Sequence[str]) -> int:
    """Run ``segwright`` with ``arguments`` (without ``--nproc``) in ``devices`` processes; returns the exit code."""
    if devices < 1:
        raise UsageError("--nproc takes a number of processes", expected="1 or more", found=str(devices))
    environment = dict(os.environ)
    # Left alone, the launcher gives every process one thread, however many cores there are.
    environment.setdefault("OMP_NUM_THREADS", str(max(1, processors() // devices)))
    # Nor do they look for modules in the current folder, which holds data: the launcher's own -P, and this for its own.
    environment["PYTHONSAFEPATH"] = "1"
    environment["PYTHONPATH"] = os.pathsep.join(_search_path(environment.get("PYTHONPATH", "")))
    command = [sys.executable, "-P", "-m", "segwright.training.distributed.launcher", str(devices), *arguments]
    process = subprocess.Popen(command, env=environment)
    asked: list[int] = []

    def forward(number: int, _frame: object) -> None:
        # A Ctrl-C reaches every process of the terminal by itself; what is sent to this one alone must be handed on.
        asked.append(number)
        if number == signal.SIGTERM:
            process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 128 + asked[0] if asked and code != 0 else code


def _search_path(given: str) -> list[str]:
    """PYTHONPATH of the processes: what was given without the current folder, and a checkout of this package."""
    here = Path.cwd().resolve()
    package = Path(__file__).resolve().parent.parent.parent
    kept = [entry for entry in given.split(os.pathsep) if entry and Path(entry).resolve() != here]
    installed = Path(sysconfig.get_path("purelib")).resolve()
    return kept if package == installed or package in map(Path.resolve, map(Path, kept)) else [*kept, str(package)]


def without_option(arguments: Sequence[str], name: str) -> list[str]:
    """The arguments without ``name VALUE`` and ``name=VALUE``."""
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if skip:
            skip = False
        elif argument == name:
            skip = True
        elif not argument.startswith(f"{name}="):
            kept.append(argument)
    return kept
