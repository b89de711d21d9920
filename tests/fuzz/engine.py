"""Runs a target's inputs in a process that may be lost, within bounds of time and memory, and counts the outcomes.

python tests/fuzz/engine.py --inputs 1000 [--target data-coco …] [--seed 0] [--first 0] [--jobs 2] [--json out.json]
python tests/fuzz/engine.py --target data-coco --seed 0 --only 17        the one input again, with its traceback
"""

# ruff: noqa: E501 (a table's line and a command's)

from __future__ import annotations

import argparse
import contextlib
import json
import mmap
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
SECONDS = 10.0  # that one input may take, in the time of the process and, four times that, by the clock
MEMORY = 1 << 30  # bytes of address space that the inputs of a process may add
START_SECONDS = 180.0
STATE = struct.Struct("<qqqd")  # the input under work, how many were read, how many refused, when it began


@dataclass
class Finding:
    """An input that was neither read nor refused."""

    target: str
    seed: int
    index: int
    what: str  # the exception's type, HANG or CRASH
    where: str = ""
    message: str = ""


@dataclass
class Count:
    """What became of a target's inputs."""

    target: str
    seed: int = 0
    inputs: int = 0
    read: int = 0
    refused: int = 0
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)


def generator(target: str, seed: int, index: int) -> random.Random:
    return random.Random(f"{target}/{seed}/{index}")


def run(target: str, seed: int, first: int, count: int, *, seconds: float | None = None, scratch: Path | None = None,
        seconds_each: float = SECONDS) -> Count:  # fmt: skip
    """Inputs ``first`` … of a target, ``count`` at most, for ``seconds`` at most."""
    began = time.monotonic()
    total = Count(target, seed)
    index, end = first, first + count
    while index < end and (seconds is None or time.monotonic() - began < seconds):
        left = None if seconds is None else max(0.1, seconds - (time.monotonic() - began))
        part, index = _one_process(target, seed, index, end, left, scratch, seconds_each)
        total.inputs += part.inputs
        total.read += part.read
        total.refused += part.refused
        total.findings += part.findings
        if len(total.findings) >= 200:
            break
    total.seconds = time.monotonic() - began
    return total


def _one_process(
    target: str, seed: int, first: int, end: int, seconds: float | None, scratch: Path | None, seconds_each: float
) -> tuple[Count, int]:
    """What one process did, and the index at which the next begins."""
    base = scratch or (Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None)
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=base))
    found = Count(target, seed)
    state_file, said = folder / "state", folder / "said"
    state_file.write_bytes(STATE.pack(-1, 0, 0, 0.0))
    (folder / "work").mkdir()
    command = [sys.executable, "-P", str(HERE / "engine.py"), "--worker", str(folder), target]
    command += [str(seed), str(first), str(end), str(seconds or 0)]
    try:
        with open(state_file, "r+b") as file, open(folder / "errors", "wb") as errors:
            state = mmap.mmap(file.fileno(), STATE.size)
            child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True)
            hung, at, since, cpu = "", -2, time.monotonic(), 0.0
            while child.poll() is None:
                time.sleep(0.05)
                index = STATE.unpack(state[:])[0]
                if index != at:
                    at, since, cpu = index, time.monotonic(), _cpu(child.pid)
                used, passed = _cpu(child.pid) - cpu, time.monotonic() - since
                if at == -1:
                    hung = "START" if passed > START_SECONDS else ""
                elif used > seconds_each or passed > 4 * seconds_each:
                    hung = "HANG"
                if hung:
                    _end(child)
            _end(child)
            index, found.read, found.refused, _ = STATE.unpack(state[:])
            state.close()
        if said.exists():
            found.findings += [Finding(target, seed, **json.loads(line)) for line in said.read_text().splitlines()]
        if hung or child.returncode != 0:
            text = (folder / "errors").read_text(errors="replace")[-400:]
            if index < 0:
                raise RuntimeError(f"{target} does not start: {text}")
            found.findings.append(Finding(target, seed, index, hung or f"CRASH {child.returncode}", message=text))
        following = index + 1
        found.inputs = max(0, following - first)
        return found, following
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _cpu(pid: int) -> float:
    """Seconds of processor time that a process has used; the clock where that is not told."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return time.monotonic()


def _end(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError):
        os.killpg(child.pid, 9)
    child.wait()


def _worker(folder: Path, name: str, seed: int, first: int, end: int, seconds: float) -> None:
    from targets import TARGETS

    from segwright.core.errors import SegwrightError

    until = time.monotonic() + seconds if seconds else float("inf")
    work = folder / "work"
    feed = TARGETS[name](work)
    with contextlib.suppress(SegwrightError):
        feed(generator(name, -1, -1))  # loads what is loaded late, before memory is bounded
    _bound_memory()
    read = refused = 0
    with open(folder / "state", "r+b") as file, open(folder / "said", "w") as said:
        state = mmap.mmap(file.fileno(), STATE.size)
        until = max(until, time.monotonic() + min(seconds, 2.0)) if seconds else until
        for index in range(first, end):
            state[:] = STATE.pack(index, read, refused, time.monotonic())
            try:
                feed(generator(name, seed, index))
                read += 1
            except SegwrightError:
                refused += 1
            except BaseException as error:
                where = [f for f in traceback.extract_tb(error.__traceback__) if "/segwright/" in f.filename]
                line = f"{where[-1].filename.split('/segwright/')[-1]}:{where[-1].lineno}" if where else ""
                told = {"index": index, "what": type(error).__name__, "where": line, "message": str(error)[:300]}
                print(json.dumps(told), file=said, flush=True)
            state[:] = STATE.pack(index, read, refused, time.monotonic())
            if time.monotonic() > until:
                break
    os._exit(0)  # threads of servers and pools are of no concern


def _bound_memory() -> None:
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, OSError, ValueError):
        return


def table(counts: Sequence[Count]) -> str:
    """Markdown: target, inputs, read, refused, findings, inputs a second."""
    lines = ["| target | inputs | read | refused | findings | per second |", "|---|---:|---:|---:|---:|---:|"]
    lines += [
        f"| {c.target} | {c.inputs:,} | {c.read:,} | {c.refused:,} | {len(c.findings)} | {c.inputs / max(c.seconds, 1):.0f} |"
        for c in counts
    ]
    whole = [sum(c.inputs for c in counts), sum(c.read for c in counts), sum(c.refused for c in counts)]
    lines.append(
        "| **all** | " + " | ".join(f"{n:,}" for n in whole) + f" | {sum(len(c.findings) for c in counts)} | |"
    )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    sys.path.insert(0, str(HERE))
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["--worker"]:
        folder, name, *numbers = given[1:]
        _worker(Path(folder), name, int(numbers[0]), int(numbers[1]), int(numbers[2]), float(numbers[3]))
        return 0
    from targets import TARGETS

    parser = argparse.ArgumentParser(description="Fuzz the readers of segwright.")
    parser.add_argument("--target", nargs="+", default=list(TARGETS), choices=list(TARGETS), metavar="TARGET")
    parser.add_argument("--inputs", type=int, default=1000, help="per target")
    parser.add_argument("--seconds", type=float, help="per target, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="index of the first input: where an earlier run ended")
    parser.add_argument("--only", type=int, help="one input, in this process")
    parser.add_argument(
        "--jobs", type=int, default=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    )
    parser.add_argument(
        "--json", type=Path, help="a file for the counts and findings; counts that stand there are added to"
    )
    chosen = parser.parse_args(given)
    if chosen.only is not None:
        with tempfile.TemporaryDirectory() as folder:
            for name in chosen.target:
                TARGETS[name](Path(folder))(generator(name, chosen.seed, chosen.only))
                print(f"{name} {chosen.seed}/{chosen.only}: read")
        return 0
    counts: list[Count] = []
    with ThreadPoolExecutor(max(1, chosen.jobs)) as pool:
        jobs = [
            pool.submit(run, n, chosen.seed, chosen.first, chosen.inputs, seconds=chosen.seconds) for n in chosen.target
        ]
        for job in jobs:
            one = job.result()
            counts.append(one)
            print(
                f"{one.target:20} {one.inputs:8,} inputs {one.seconds:6.1f} s  {len(one.findings)} findings", flush=True
            )
            kinds = Counter((f.what, f.where) for f in one.findings)
            for (what, where), number in kinds.most_common():
                first = next(f for f in one.findings if (f.what, f.where) == (what, where))
                print(f"    {number} × {what} at {where} (--only {first.index}): {first.message[:160]!r}", flush=True)
            if chosen.json is not None:
                earlier = json.loads(chosen.json.read_text()) if chosen.json.exists() else []
                chosen.json.write_text(json.dumps([*earlier, asdict(one)], indent=1))
    print(table(counts))
    return 1 if any(c.findings for c in counts) else 0


if __name__ == "__main__":
    sys.exit(main())
