"""Everything this project measures on a GPU, in one command of under ten minutes.

    python benchmarks/pack_camvid.py ../shared/data/camvid .gpu/camvid        # once, to send the data along
    python benchmarks/gpu.py --data .gpu/camvid --minutes 9 --out gpu
    python benchmarks/gpu.py --rehearse --seconds 120 --out rehearsal         # without a GPU: tiny, on a pretended one

``OUT/gpu.md`` and ``OUT/gpu.json`` are rewritten after every section, so that a run that is killed leaves a report.
Every section is a process with a time limit: one that fails or hangs is recorded, and the others go on.

| section | what it answers |
|---|---|
| tests | do the tests of the code for GPUs pass on this one? |
| deterministic | do equal seeds give bit-equal weights? |
| feeding | how much of the step's speed is left when it is fed from files? |
| crf | the dense CRF: time and labels against the CPU's |
| graphs | what replaying a CUDA graph gains |
| camvid | what torch.compile gains; CamVid from random weights, on val and on a drive left out |
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
# Share of the time that a section may take, from when it is started; camvid takes what is left.
SHARES = {"tests": 0.16, "deterministic": 0.05, "feeding": 0.08, "crf": 0.04, "graphs": 0.035}
PREPARATION, COMPILATION = 0.2, 0.15
MOST_PREPARATION, MOST_COMPILATION, MOST_TESTS = 100.0, 75.0, 90.0  # seconds, however long the run
LEAST_PREPARATION, LEAST_COMPILATION, LEAST_TESTS = 45.0, 25.0, 25.0  # seconds, however short
LEAST = {"deterministic": 16.0, "feeding": 8.0, "crf": 6.0, "graphs": 6.0}  # seconds of a section
LAST = 4.0  # seconds kept for the last report
QUIET = ("deterministic", "crf", "graphs", "feeding")  # in this order, once nothing else is running
_OUTCOME = re.compile(
    r"(PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\s+(tests/\S+)|(tests/\S+?)\s+(PASSED|FAILED|ERROR|SKIPPED)"
)


@dataclass
class Section:
    """A section's process, its log and its findings."""

    name: str
    file: Path
    process: subprocess.Popen[str] | None = None
    log: IO[str] | None = None
    began: float = field(default_factory=time.monotonic)
    note: str = ""

    def found(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self.file.read_text())
        except (OSError, ValueError):
            found = {}
        return {**found, **({"note": self.note} if self.note else {})}

    def ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def prepared(self) -> bool:
        return "prepared_seconds" in self.found()

    def go(self, seconds: float) -> None:
        assert self.process is not None and self.process.stdin is not None
        self.began = time.monotonic()
        try:
            self.process.stdin.write(f"{seconds}\n")
            self.process.stdin.close()
        except OSError as error:
            self.note = f"ended before it was started ({error})"

    def kill(self, why: str) -> None:
        """End the process and all that it started."""
        if not self.ended():
            assert self.process is not None
            self.note = why
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class Run:
    """The sections in order, within ``options.seconds``."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.began = time.monotonic()
        self.out: Path = options.out
        self.out.mkdir(parents=True, exist_ok=True)
        self.sections: dict[str, Section] = {}

    def left(self) -> float:
        return float(self.options.seconds) - (time.monotonic() - self.began)

    def message(self, line: str) -> None:
        print(f"[{time.monotonic() - self.began:6.1f} s, {self.left():5.1f} s left] {line}", flush=True)

    def start(self, name: str, command: list[str], **environment: str) -> Section:
        section = Section(name, self.out / f"{name}.json")
        section.file.unlink(missing_ok=True)
        section.log = (self.out / f"{name}.log").open("w")
        section.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=section.log, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": _python_path(), "PYTHONUNBUFFERED": "1", **environment},
        )  # fmt: skip
        self.sections[name] = section
        return section

    def start_section(self, name: str, *more: str) -> Section:
        command = [sys.executable, str(HERE / "gpu_sections.py"), name, "--data", str(self.options.data)]
        command += ["--out", str((self.out / f"{name}.json").resolve()), *more]
        return self.start(name, command + (["--rehearse"] if self.options.rehearse else []))

    def wait(self, section: Section, seconds: float) -> None:
        """Until the section ends, or is killed after ``seconds``; the report is written either way."""
        ending = min(time.monotonic() + seconds, self.began + self.options.seconds - LAST)
        self.follow([section], ending)
        section.kill(f"stopped after {time.monotonic() - section.began:.0f} s: its time was over")
        if section.name == "tests":
            _read_tests(section, self.out / "tests.log")
        self.message(f"{section.name}: {section.note or 'done'}")
        self.write()

    def follow(self, sections: list[Section], ending: float) -> None:
        shown = {section.name: 0 for section in sections}
        while time.monotonic() < ending and not all(section.ended() for section in sections):
            time.sleep(0.25)
            for section in sections:
                text = (self.out / f"{section.name}.log").read_text(errors="replace")
                lines = [line for line in text[shown[section.name] :].splitlines() if line.startswith("[")]
                shown[section.name] = len(text)
                print("".join(f"    {line[:160]}\n" for line in lines[-3:]), end="", flush=True)

    def all(self) -> None:
        seconds = float(self.options.seconds)
        compilation = min(MOST_COMPILATION, max(LEAST_COMPILATION, COMPILATION * seconds))
        preparation = min(MOST_PREPARATION, max(LEAST_PREPARATION, PREPARATION * seconds))
        self.message(f"{seconds:.0f} seconds; compilation gets {compilation:.0f}, preparation {preparation:.0f}")
        chosen = self.options.sections
        if "camvid" in chosen:  # first: it compiles while the tests run
            self.start_section("camvid", "--compile-seconds", str(compilation))
        if "tests" in chosen:
            self.start("tests", _pytest(self.options.rehearse))
        for name in (name for name in QUIET if name in chosen):
            self.start_section(name)
        if "tests" in chosen:
            limit = min(MOST_TESTS, max(LEAST_TESTS, SHARES["tests"] * seconds))
            self.wait(self.sections["tests"], limit - (time.monotonic() - self.began))
        camvid = self.sections.get("camvid")
        while camvid and not camvid.prepared() and not camvid.ended() and self.elapsed() < preparation:
            time.sleep(0.2)
        if camvid and not camvid.prepared():
            before = camvid.found()
            camvid.kill("not prepared in time")
            self.message(f"camvid: not prepared, started again without compiling ({before.get('error', 'too slow')})")
            camvid = self.start_section("camvid", "--no-compile")
            camvid.note = f"with torch.compile it was not prepared in time: {before.get('error', 'too slow')}"
        for name in (name for name in QUIET if name in chosen):
            self.quiet(self.sections[name], max(LEAST[name], SHARES[name] * seconds), preparation)
        if camvid:
            while not camvid.prepared() and not camvid.ended() and self.left() > LAST + 5:
                time.sleep(0.2)
            given = self.left() - LAST - 2
            self.message(f"camvid: {given:.0f} s")
            camvid.go(given)
            self.wait(camvid, given + 2)

    def elapsed(self) -> float:
        return time.monotonic() - self.began

    def quiet(self, section: Section, seconds: float, preparation: float) -> None:
        """Run a prepared section alone."""
        while not section.prepared() and not section.ended() and self.elapsed() < preparation:
            time.sleep(0.2)
        if section.ended() or not section.prepared():
            section.kill("not prepared in time")
            self.message(f"{section.name}: {section.found().get('error', section.note)}")
            self.write()
            return
        self.message(f"{section.name}: {seconds:.0f} s")
        section.go(seconds)
        self.wait(section, seconds * 1.5 + 2)

    def write(self) -> None:
        """Both reports, from what every section has found so far."""
        found = {name: section.found() for name, section in self.sections.items()}
        device = next((one["device"] for one in found.values() if "device" in one), "no device found")
        about = {
            "device": device,
            "machine": f"{os.cpu_count()} cores, Python {platform.python_version()}, {_versions()}",
            "seconds": round(self.elapsed(), 1),
            "rehearsal": bool(self.options.rehearse),
        }
        for name, text in (
            ("gpu.json", json.dumps({**about, "sections": found}, indent=1)),
            ("gpu.md", _page(about, found)),
        ):
            partial = self.out / f"{name}.partial"
            partial.write_text(text)
            os.replace(partial, self.out / name)


def _python_path() -> str:
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def _versions() -> str:
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for name in ("torch", "numpy", "numba", "timm"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"no {name}")
    return ", ".join(found)


def gpu_tests(root: Path = ROOT) -> list[str]:
    """The test files under ``root`` in which a test or a fixture takes the fixture ``gpu``."""
    found = []
    for path in sorted((root / "tests").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if path.name.startswith("test_") and "gpu" in text and any(map(_takes_gpu, ast.walk(ast.parse(text)))):
            found.append(path.relative_to(root).as_posix())
    return found


def _takes_gpu(node: ast.AST) -> bool:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return any(argument.arg == "gpu" for argument in (*node.args.args, *node.args.kwonlyargs))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        by_name = node.func.attr in ("usefixtures", "getfixturevalue")
        return by_name and any(isinstance(given, ast.Constant) and given.value == "gpu" for given in node.args)
    return False


def _pytest(rehearse: bool) -> list[str]:
    kind = "pretended" if rehearse else "real"
    files = gpu_tests()
    if rehearse:  # one file: that the tests are found, run and read
        files = files[:1]
    command = [sys.executable, "-m", "pytest", "-vv", "-p", "no:cacheprovider", "--tb=line", "-k", kind, *files]
    if importlib.util.find_spec("xdist") and not rehearse and (os.cpu_count() or 1) >= 8:
        command += ["-n", "6"]
    return command


def _read_tests(section: Section, log: Path) -> None:
    """The outcome of every test, from the lines of the log: whole also of a run that was stopped."""
    text = log.read_text(errors="replace")
    outcomes = {m[1] or m[2]: m[0] or m[3] for m in _OUTCOME.findall(text)}
    counts: dict[str, int] = {}
    for outcome in outcomes.values():
        counts[outcome] = counts.get(outcome, 0) + 1
    wrong = [name for name, outcome in outcomes.items() if outcome in ("FAILED", "ERROR")]
    lines = [line for line in text.splitlines() if "Warning: " not in line]
    reasons = [line for line in lines if re.match(r"(E  |/\S+:\d+: |FAILED |ERROR )", line)]
    found: dict[str, Any] = {"outcomes": counts, "failed": wrong, "seconds": round(time.monotonic() - section.began, 1)}
    if wrong or not outcomes:
        found["reasons"] = reasons[-20:] or text.splitlines()[-15:]
    section.file.write_text(json.dumps(found, indent=1))


def _page(about: dict[str, Any], found: dict[str, dict[str, Any]]) -> str:
    lines = [f"# On {about['device']}", "", f"{about['machine']}; {about['seconds']:.0f} seconds in all.", ""]
    if about["rehearsal"]:
        lines += ["A rehearsal on a pretended device with tiny networks: no figure here means anything.", ""]
    for name, values in found.items():
        state = "" if values.get("finished") or name == "tests" else " (not finished)"
        lines += [f"## {name}{state}", ""]
        for key, value in values.items():
            if key not in ("finished", "device", "traceback"):
                lines += _shown(key, value)
        if "traceback" in values:
            lines += ["", "```", str(values["traceback"])[-1500:], "```"]
        lines.append("")
    return "\n".join(lines)


def _shown(key: str, value: Any) -> list[str]:
    if isinstance(value, dict):
        return [f"- {key}:", *(f"  - {inner}: {_flat(one)}" for inner, one in value.items())]
    if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        return [f"- {key}:", *(f"  - `{one[:300]}`" for one in value)]
    return [f"- {key}: {_flat(value)}"]


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {one}" for key, one in value.items())
    return ", ".join(str(one) for one in value) if isinstance(value, list) else str(value)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / ".gpu" / "camvid", help="CamVid, packed or as published")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--seconds", type=float, help="instead of minutes")
    parser.add_argument("--out", type=Path, default=Path("gpu"))
    parser.add_argument("--rehearse", action="store_true", help="tiny, on made-up data and a device that is pretended")
    everything = ("tests", *QUIET, "camvid")
    parser.add_argument("--sections", type=lambda text: text.split(","), default=list(everything))
    options = parser.parse_args()
    options.seconds = options.seconds or options.minutes * 60
    unknown = sorted(set(options.sections) - set(everything))
    if unknown:
        parser.error(f"unknown sections: {', '.join(unknown)}; there are {', '.join(everything)}")
    options.data, options.out = options.data.resolve(), options.out.resolve()
    with tempfile.TemporaryDirectory() as folder:
        if options.rehearse:
            sys.path.insert(0, str(ROOT))
            from gpu_camvid import rehearsal_data

            options.data = rehearsal_data(Path(folder))
        run = Run(options)
        try:
            run.all()
        finally:
            for section in run.sections.values():
                section.kill("the run ended")
            run.write()
    print((options.out / "gpu.md").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
