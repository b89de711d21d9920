"""Trainings that are killed at random moments and resumed, against uninterrupted ones, bit for bit.

A driver with one thread has torch imported and forks a process per training, which then runs the command line; the
first kills go through a process of the command itself. Moments are drawn from a seed: by the clock, after a step,
within a write (a file or folder that is being written was seen), after the last step, and in a run that had finished.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch: many short trainings run side by side

import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as a script
from settled_fork import settled_fork

from segwright.core.atomic_io import verify_checksums
from segwright.demo.dataset import write_street_scenes
from segwright.training import run as _imported_before_the_forks  # noqa: F401
from segwright.training.callbacks.log import read_log

LEAN = ("--model", "leannet", "--set", "model.arguments={widths: [4, 8, 8, 8, 8], decoder_channels: [4, 8, 8, 8]}")
RECIPES: dict[str, tuple[str, ...]] = {
    "muon, EMA, cosine, oversampling, crops on rare classes, 1 worker": (
        *LEAN, "--optimizer", "muon", "--batch", "4", "--epochs", "4", "--set", "training.ema=0.9",
        "--set", "training.repeat_rare=1.0", "--set", "augment.class_aware=0.6", "--set", "training.workers=1",
    ),
    "AdamW, SWA, one-cycle, accumulation, 0 workers": (
        *LEAN, "--optimizer", "adamw", "--batch", "2", "--epochs", "4", "--schedule", "one-cycle",
        "--set", "training.accumulate=2", "--set", "training.ema=null", "--set", "training.swa=0.5",
        "--set", "training.workers=0",
    ),
    "AdamW, no average, plateau that divides, 2 workers": (
        *LEAN, "--optimizer", "adamw", "--batch", "6", "--epochs", "9", "--schedule", "plateau", "--lr", "1e-6",
        "--set", "training.ema=null", "--set", "training.workers=2",
    ),
    "muon, bf16, EMA, poly, accumulation, 2 workers": (
        *LEAN, "--optimizer", "muon", "--batch", "2", "--epochs", "4", "--schedule", "poly",
        "--set", "training.precision=bf16", "--set", "training.accumulate=3", "--set", "training.workers=2",
    ),
    "U-Net on a ResNet, AdamW, EMA, encoder released in stages, one-cycle, accumulation, 1 worker": (
        "--model", "unet", "--encoder", "test_resnet", "--weights", "none",
        "--set", "model.arguments={encoder_depth: 2, decoder_channels: [8, 8]}", "--optimizer", "adamw",
        "--batch", "2", "--epochs", "4", "--schedule", "one-cycle", "--set", "training.accumulate=2",
        "--set", "training.freeze_encoder_fraction=0.2", "--set", "training.unfreeze_fraction=0.4",
        "--set", "training.ema=0.9", "--set", "training.workers=1",
    ),
    "SGD, fp16 with loss scaling, EMA then SWA, step, dropout, 2 workers": (
        *LEAN[:-1], LEAN[-1][:-1] + ", dropout: 0.3}", "--optimizer", "sgd", "--lr", "0.02", "--batch", "4",
        "--epochs", "4", "--schedule", "step", "--set", "training.precision=fp16", "--set", "training.swa=0.6",
        "--set", "training.ema=0.8", "--set", "training.workers=2",
    ),
}  # fmt: skip
COMMON = (
    "--seed", "0", "--device", "cpu", "--size", "64x96", "--set", "training.save_every_steps=2",
    "--set", "training.trackers=[]", "--set", "training.precision=fp32",
)  # fmt: skip
MEASURED = ("images_per_second", "time", "val_seconds", "loader_share", "memory_bytes")  # not equal in any two runs
LONGEST = 600.0  # seconds of a sitting: a training that hangs is a failure
KILLS_A_RUN = 5  # then the run is left to finish


@dataclass
class Result:
    """What a number of kills gave."""

    kills: int = 0
    runs: int = 0
    late: int = 0  # the training had ended before its moment came
    where: Counter[str] = field(default_factory=Counter)
    recipes: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "where": dict(self.where), "recipes": dict(self.recipes)}

    def add(self, other: Result) -> None:
        self.kills, self.runs, self.late = self.kills + other.kills, self.runs + other.runs, self.late + other.late
        self.where += other.where
        self.recipes += other.recipes
        self.differences += other.differences


@dataclass
class Training:
    """One training's process, of the command line ``arguments``; its output is appended to ``output``."""

    arguments: Sequence[str]
    output: Path
    command: bool = False  # a process of the command itself, not a fork
    modules: Path | None = None  # the fork writes the names of what it imported there
    pid: int = 0
    code: int | None = None

    def __enter__(self) -> Training:
        if self.command:
            with open(self.output, "ab") as file:
                line = [sys.executable, "-m", "segwright", *self.arguments]
                self.pid = subprocess.Popen(line, stdout=file, stderr=file, start_new_session=True).pid
        else:
            self.pid = settled_fork()
            if self.pid == 0:
                self._child()
        return self

    def __exit__(self, *_: object) -> None:
        if self.running():
            self.kill()

    def running(self) -> bool:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code is None

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _child(self) -> None:
        code = 70
        try:
            os.setsid()
            file = os.open(self.output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(file, 1)
            os.dup2(file, 2)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)
            sys.argv = ["segwright", *self.arguments]
            from segwright.cli import main

            try:
                main()
            finally:
                if self.modules is not None:
                    self.modules.write_text(json.dumps(list(sys.modules)))
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)


@dataclass
class Runs:
    """The runs of one recipe on ``data``, in folders below ``folder``; ``steps`` and ``seconds`` of a whole one."""

    name: str
    data: Path
    folder: Path
    rng: random.Random
    steps: int = 0
    seconds: float = 0.0
    end_seconds: float = 1.0  # from the last step to the process's end

    @property
    def whole(self) -> Path:
        return self.folder / "whole"

    def arguments(self, run: Path, *, resume: bool) -> list[str]:
        more = ["--resume"] if resume else []
        return ["train", str(self.data), "--out", str(run), *COMMON, *RECIPES[self.name], *more]

    def uninterrupted(self) -> None:
        """Train once without a kill; its seconds say when others are killed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        with Training(self.arguments(self.whole, resume=False), self.folder / "whole.txt") as training:
            last_step = _wait(training, lambda: False, watched=self.whole)
        if training.code != 0:
            raise RuntimeError(f"{self.name}: exit code {training.code}: {(self.folder / 'whole.txt').read_text()}")
        self.steps = len(_losses(self.whole))
        self.seconds, self.end_seconds = time.monotonic() - started, time.monotonic() - last_step

    def killed(self, number: int, kills: int, *, commands: int = 0, until: float = float("inf")) -> Result:
        """One run, killed up to ``kills`` times (the first ``commands`` of them in the command's own process) and left
        to finish, compared with the uninterrupted one."""
        run, found = self.folder / f"run-{number}", Result(runs=1)
        output = run.with_suffix(".txt")
        finished, resume = False, False
        while found.kills < kills and found.late < 2 * kills and time.monotonic() < until:
            kind, reached = self._moment(run, finished)
            before = _survivors(run)
            with Training(self.arguments(run, resume=resume), output, found.kills < commands) as training:
                _wait(training, reached)
                if training.running():
                    training.kill()
            resume = True
            if training.code == -signal.SIGKILL:
                found.kills += 1
                found.recipes[self.name] += 1
                found.where[_where(run, kind, finished)] += 1
                found.differences += [f"{self.name}, run {number}: {lost}" for lost in _lost(before, run)]
            elif training.code == 0:
                found.late += 1
                finished = True
            else:
                found.differences.append(f"{self.name}, run {number}: exit code {training.code}:\n{_tail(output)}")
                return found
        with Training(self.arguments(run, resume=resume), output) as training:
            _wait(training, lambda: False)
        if training.code != 0:
            found.differences.append(f"{self.name}, run {number}: exit code {training.code}:\n{_tail(output)}")
            return found
        unlike = list(differences(self.whole, run))
        found.differences += [f"{self.name}, run {number}: {line}" for line in unlike]
        if not unlike:
            shutil.rmtree(run)
        return found

    def _moment(self, run: Path, finished: bool) -> tuple[str, Callable[[], bool]]:
        """(the kind of moment, whether it has come), drawn anew for every sitting, which begins now."""
        rng, started = self.rng, time.monotonic()
        kind = "clock" if finished else rng.choice(["clock", "step", "step", "write", "write", "end"])
        if kind == "clock":
            due = started + rng.uniform(0.0, 1.1) * self.seconds
            return kind, lambda: time.monotonic() > due
        seen: list[float] = []
        delay = rng.uniform(0.0, 0.3)
        at = _step(run) + rng.randint(1, 4)
        if kind == "end":
            delay, at = rng.uniform(0.0, 1.0) * self.end_seconds, self.steps
        if kind == "write":
            delay = rng.choice([0.0, rng.uniform(0.0, 0.004), rng.uniform(0.0, 0.02)])
            left, known = rng.randint(1, 8), set(_written(run))

            def writing() -> bool:
                nonlocal left
                new = set(_written(run)) - known
                known.update(new)
                left -= len(new)
                return left <= 0

            return kind, _after(writing, delay, seen)
        return kind, _after(lambda: _step(run) >= at, delay, seen)


def _after(event: Callable[[], bool], delay: float, seen: list[float]) -> Callable[[], bool]:
    """Whether ``delay`` seconds have passed since ``event`` was first seen."""

    def passed() -> bool:
        if not seen:
            if not event():
                return False
            seen.append(time.monotonic())
        return time.monotonic() >= seen[0] + delay

    return passed


def _wait(training: Training, reached: Callable[[], bool], watched: Path | None = None) -> float:
    """Until the training ends or the moment has come; the time at which ``watched`` last logged a line more."""
    end = time.monotonic() + LONGEST
    lines, at = -1, time.monotonic()
    while training.running() and not reached():
        if time.monotonic() > end:
            if not training.command:  # what each of its threads waits for
                os.kill(training.pid, signal.SIGUSR1)
                time.sleep(1.0)
            raise RuntimeError(f"no end after {LONGEST:.0f} seconds:\n{_tail(training.output)}")
        if watched is not None and (found := len(_losses(watched))) != lines:
            lines, at = found, time.monotonic()
        time.sleep(0.0005 if watched is None else 0.02)
    return at


def _losses(run: Path) -> list[dict[str, Any]]:
    return [record for record in read_log(run) if "loss" in record]


def _step(run: Path) -> int:
    """The last step in the log."""
    return max((int(record["step"]) for record in _losses(run)), default=0)


def _written(run: Path) -> Iterator[str]:
    """Hidden files and folders: what is being written, or replaced."""
    for folder in (run, run / "checkpoints"):
        try:
            with os.scandir(folder) as entries:
                yield from (entry.path for entry in entries if entry.name.startswith(".") and entry.name != ".lock")
        except FileNotFoundError:
            continue


def _where(run: Path, kind: str, finished: bool) -> str:
    """Where a kill fell, as the folder shows it."""
    if finished:
        return "in a run that had finished"
    if any(".writing-" in name or ".old-" in name for name in _written(run)):
        return "within a write"
    return {"clock": "by the clock", "step": "after a step", "write": "just after a write", "end": "at the end"}[kind]


def _survivors(run: Path) -> dict[str, int]:
    """Whole results by name, with the newest step; of a folder that a kill left moved aside, too."""
    found: dict[str, int] = {}
    for name, folder, pattern in (("checkpoints", run / "checkpoints", "step-*"), ("model", run, "model")):
        for path in (*folder.glob(pattern), *folder.glob(f".{pattern}.old-*")):
            if path.is_dir() and not verify_checksums(path):
                step = int(path.name.lstrip(".").split("-")[1].split(".")[0]) if name == "checkpoints" else 0
                found[name] = max(found.get(name, 0), step)
    return found


def _lost(before: dict[str, int], run: Path) -> list[str]:
    now = _survivors(run)
    return [f"lost by a kill: {name} of step {step}" for name, step in before.items() if now.get(name, -1) < step]


def _tail(output: Path) -> str:
    return output.read_text(errors="replace")[-6000:] if output.exists() else ""


def differences(whole: Path, run: Path) -> Iterator[str]:
    """What of a resumed run is not as of the uninterrupted one: weights, checkpoint, losses, scores."""
    newest = max(path.name for path in (whole / "checkpoints").glob("step-*"))
    files = ("model/model.safetensors", "last/model.safetensors", f"checkpoints/{newest}/state.safetensors")
    for name in files:
        if not (run / name).exists():
            yield f"{name} is missing"
            continue
        ours, theirs = load_file(str(whole / name)), load_file(str(run / name))
        unlike = [key for key in ours if key not in theirs or not same(ours[key], theirs[key])]
        if unlike or ours.keys() != theirs.keys():
            yield f"{name}: {len(unlike)} of {len(ours)} tensors differ, such as {unlike[:3]}"
    for name in ("model", "last"):
        ours, theirs = (json.loads((folder / name / "model.json").read_text()) for folder in (whole, run))
        for key in ("metrics", "licenses"):
            if ours.get(key) != theirs.get(key):
                yield f"{name}/model.json: {key} {ours.get(key)} and {theirs.get(key)}"
        adjusted = [bundle.get("training", {}).get("logit_adjustment") for bundle in (ours, theirs)]
        if adjusted[0] != adjusted[1]:
            yield f"{name}/model.json: adjustment {adjusted[0]} and {adjusted[1]}"
    logs = [
        [{key: value for key, value in record.items() if key not in MEASURED} for record in read_log(folder)]
        for folder in (whole, run)
    ]
    for ours, theirs in zip(*logs, strict=False):
        if ours != theirs:
            yield f"log.jsonl: {ours} and {theirs}"
            break
    if len(logs[0]) != len(logs[1]):
        yield f"log.jsonl: {len(logs[0])} lines and {len(logs[1])}"
    if any(True for _ in _written(run)):
        yield f"left behind: {sorted(_written(run))}"


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal to the bit, not-a-number included."""
    return a.dtype == b.dtype and a.shape == b.shape and a.numpy(force=True).tobytes() == b.numpy(force=True).tobytes()


def work(folder: Path, names: Sequence[str], kills: int, seed: int, commands: int, until: float, label: str) -> Result:
    """``kills`` kills over the recipes in turn, or as many as there is time for."""
    total = Result()
    data = write_street_scenes(folder / f"scenes-{label}", train=12, val=2, test=0, size=(64, 96))
    runs = [Runs(name, data, folder / f"{label}-{n}", random.Random(f"{seed}/{name}")) for n, name in enumerate(names)]
    number = 0
    while total.kills < kills and total.late < 2 * kills and time.monotonic() < until:
        recipe = runs[number % len(runs)]
        if not recipe.steps:
            recipe.uninterrupted()
        wanted = min(recipe.rng.randint(2, KILLS_A_RUN), kills - total.kills)
        found = recipe.killed(number, wanted, commands=max(commands - total.kills, 0), until=until)
        total.add(found)
        number += 1
        print(f"{recipe.name}: {found.kills} kills, {len(found.differences)} differences", file=sys.stderr, flush=True)
    return total


def import_ahead(folder: Path) -> None:
    """Import what a training imports, once for all forks; a fork trains to find out what that is."""
    data = write_street_scenes(folder / "ahead", train=4, val=1, test=0, size=(64, 96))
    line = ["train", str(data), "--out", str(folder / "ahead-run"), *COMMON, *LEAN, "--batch", "4", "--epochs", "1"]
    with Training(line, folder / "ahead.txt", modules=folder / "modules.json") as training:
        _wait(training, lambda: False)
    for name in json.loads((folder / "modules.json").read_text()):
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: 0 where every run came out as the uninterrupted one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--commands", type=int, default=4, help="kills of a process of the command itself, per job")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time")
    parser.add_argument("--recipes", type=int, default=len(RECIPES), help="the first so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=600.0, help="no kill after so long")
    parser.add_argument("--folder", type=Path, help="kept; else a temporary one")
    parser.add_argument("--json", type=Path, help="the result as a file")
    asked = parser.parse_args(arguments)
    started = time.monotonic()
    names, jobs = list(RECIPES)[: asked.recipes], max(1, min(asked.jobs, asked.recipes, asked.kills))
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="kills-"))
    folder.mkdir(parents=True, exist_ok=True)
    import_ahead(folder)
    workers = []
    for job in range(jobs):
        share = asked.kills // jobs + (job < asked.kills % jobs)
        pid = settled_fork()
        if pid == 0:
            try:
                until = started + 60 * asked.minutes
                result = work(folder, names[job::jobs], share, asked.seed, asked.commands, until, str(job))
            except Exception:
                result = Result(differences=[traceback.format_exc()])
            (folder / f"result-{job}.json").write_text(json.dumps(result.to_json()))
            os._exit(0)
        workers.append(pid)
    total = Result()
    for job, pid in enumerate(workers):
        os.waitpid(pid, 0)
        found = json.loads((folder / f"result-{job}.json").read_text())
        total.add(Result(**{**found, "where": Counter(found["where"]), "recipes": Counter(found["recipes"])}))
    lines = [f"{count:5d}  {name}" for part in (total.where, total.recipes) for name, count in part.most_common()]
    print("\n".join(lines))
    for line in total.differences:
        print(f"DIFFERENCE {line}")
    print(
        f"{total.kills} kills in {total.runs} runs, {len(total.differences)} differences; "
        f"{(time.monotonic() - started) / 60:.1f} minutes"
    )
    if asked.json:
        asked.json.write_text(json.dumps(total.to_json(), indent=1))
    if asked.folder is None and not total.differences:
        shutil.rmtree(folder)
    return 1 if total.differences or total.kills < asked.kills else 0


if __name__ == "__main__":
    sys.exit(main())
