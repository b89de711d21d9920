"""WorkerPool: isolated from the folder they are started in, bounded in memory, time and answer, and not believed."""

from __future__ import annotations

import json
import os
import pickle
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from segwright.core.errors import DataError, ImageReadError, MissingExtraError
from segwright.imageio import messages, sandbox, write_image, write_mask
from segwright.imageio.limits import Limits
from segwright.imageio.sandbox import DecoderStartError, WorkerPool, map_isolated

LIBRARIES = ("pickle", "json", "cv2", "numpy", "tifffile", "PIL", "segwright", "sitecustomize", "queue")


@dataclass
class Inner:
    numbers: npt.NDArray[np.float32] | None = None


@dataclass
class Outer:
    name: str
    inner: list[Inner] = field(default_factory=list)
    pair: tuple[int, ...] = ()


def worker(_: object = None, seconds: float = 0) -> Callable[[Any], Any]:
    time.sleep(seconds)

    def work(item: Any) -> Any:
        kind, *rest = item if isinstance(item, tuple) else (item,)
        if kind == "kill":
            os.kill(os.getpid(), rest[0])
        if kind == "once" and not Path(rest[0]).exists():
            Path(rest[0]).touch()
            os.kill(os.getpid(), 9)
        if kind == "sleep":
            time.sleep(rest[0])
        if kind == "allocate":
            return int(np.ones(rest[0], np.uint8)[-1])
        if kind == "forge":
            for descriptor in range(3, 64):
                try:
                    os.write(descriptor, rest[0])
                except OSError:
                    continue
        if kind == "path":
            return {"path": sys.path, "folder": os.getcwd(), "flags": [sys.flags.isolated, sys.flags.safe_path]}
        if kind == "outer":
            return Outer("o", [Inner(np.arange(3, dtype=np.float32)), Inner()], (1, 2))
        if kind == "raise":
            raise rest[0]
        if kind == "zeros":
            return np.zeros(rest[0], np.uint8)
        return kind

    return work


class Planted:
    """What runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (self.path,))


def plant(folder: Path, evidence: Path) -> None:
    """Modules under the names of libraries, which leave a file where they are run."""
    for name in LIBRARIES:
        text = f"open({str(evidence / name)!r}, 'w').close()\nraise ImportError('planted')\n"
        (folder / f"{name}.py").write_text(text)


def small_set(folder: Path) -> None:
    rng = np.random.default_rng(1)
    for i in range(4):
        write_image(folder / f"images/{i}.png", rng.integers(0, 255, (24, 32, 3), dtype=np.uint8))
        write_mask(folder / f"masks/{i}.png", rng.integers(0, 3, (24, 32), dtype=np.uint8))


@pytest.mark.parametrize("command", ["segwright", "module"])
def test_python_files_beside_the_data_are_not_run(command: str, tmp_path: Path) -> None:
    data, evidence = tmp_path / "data", tmp_path / "evidence"
    data.mkdir()
    evidence.mkdir()
    small_set(data)
    if command == "segwright":
        plant(data, evidence)
        start = [str(Path(sys.executable).with_name("segwright"))]
    else:  # the interpreter itself takes what it loads before us from the current folder; ours and the children do not
        (data / "cv2.py").write_text(f"open({str(evidence / 'cv2')!r}, 'w').close()\n")
        start = [sys.executable, "-m", "segwright"]
    arguments = [*start, "check", ".", "--json", str(tmp_path / "found.json")]
    done = subprocess.run(arguments, cwd=data, capture_output=True, text=True, timeout=100, check=False)
    assert not list(evidence.iterdir()), "code of the data's folder was run"
    assert done.returncode in (0, 1), done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["images"] == 4
    assert not [problem for problem in found["problems"] if problem["severity"] == "error"]


def test_children_are_isolated_from_where_they_are_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    plant(tmp_path, tmp_path)
    with WorkerPool[Any, Any](worker, count=1) as pool:
        found = pool.one("path").get()
    assert found["flags"] == [1, True]
    assert "" not in found["path"] and str(tmp_path) not in found["path"]
    assert found["folder"] == str(tmp_path), "relative paths mean what they mean to the parent"
    assert not [name for name in LIBRARIES if (tmp_path / name).exists()]


def test_memory_beyond_the_limit_is_an_error_of_the_item() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    with WorkerPool[Any, Any](worker, count=1, limits=Limits(max_memory=300 << 20)) as pool:
        assert pool.one(("allocate", 100 << 20)).result == 1
        assert isinstance(pool.one(("allocate", 3 << 30)).error, MemoryError)
        assert pool.one("next").result == "next", "the child lives on"
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert peak <= max(before, 1 << 20), f"{peak} KiB"


def test_the_start_has_a_clock_of_its_own() -> None:
    with WorkerPool[Any, Any](worker, None, 1.5, count=1, timeout=0.5) as pool:
        assert pool.one("first").result == "first"
        began = time.monotonic()
        assert pool.one(("sleep", 60)).crash == "no answer within 0.5 s"
        assert time.monotonic() - began < 5
        assert pool.one("after").result == "after"


def test_an_answer_is_parsed_and_never_executed(tmp_path: Path) -> None:
    planted = pickle.dumps(Planted(tmp_path / "run"))
    endless = messages.MAGIC + (2**32 - 1).to_bytes(4, "little")
    forged = json.dumps([["c", "Popen", {"args": "true"}], []]).encode()
    unknown = messages.MAGIC + len(forged).to_bytes(4, "little") + forged
    huge = json.dumps([["a", 0], [["|u1", [2**40]]]]).encode()
    with WorkerPool[Any, Any](worker, count=1, timeout=20) as pool:
        for answer in (
            len(planted).to_bytes(8, "little") + planted,
            endless,
            unknown,
            messages.MAGIC + len(huge).to_bytes(4, "little") + huge,
            b"talk" * 100,
        ):
            assert "cannot be read" in str(pool.one(("forge", answer)).crash), answer[:40]
        assert pool.one("next").result == "next"
    assert not (tmp_path / "run").exists()


def test_answers_are_bounded() -> None:
    with WorkerPool[Any, Any](worker, count=1, max_answer=1000) as pool:
        assert pool.one(("zeros", 1000)).get().shape == (1000,)
        assert "larger than the limit" in str(pool.one(("zeros", 1001)).crash)


def test_values_and_errors_travel() -> None:
    with WorkerPool[Any, Any](worker, count=1, result=Outer) as pool:
        outer = pool.one("outer").get()
        assert outer.name == "o" and outer.pair == (1, 2)
        assert np.array_equal(outer.inner[0].numbers, [0, 1, 2]) and outer.inner[1].numbers is None
        error = ImageReadError("m", expected="e", found="f", where="w", fix="x", reason="pages")
        found = pool.one(("raise", error)).error
        assert isinstance(found, ImageReadError) and found.reason == "pages" and str(found) == str(error)
        extra = pool.one(("raise", MissingExtraError("m", fix="pip"))).error
        assert isinstance(extra, MissingExtraError) and extra.fix == "pip"
        assert isinstance(pool.one(("raise", OverflowError("o"))).error, OverflowError)
        assert "SystemError" in str(pool.one(("raise", SystemError("s"))).error)
    with WorkerPool[Any, Any](worker, count=1) as pool:
        assert pool.one("outer").crash, "a class that nobody named is not made"


def test_a_death_in_a_batch_costs_one_item() -> None:
    items: list[Any] = ["a", "b", ("kill", 11), "c", ("raise", DataError("d")), "e"]
    with WorkerPool[Any, Any](worker, count=1) as pool:
        outcomes = list(pool.in_order(items, batch=6))
    assert [one.item for one in outcomes] == items
    assert [one.result for one in outcomes] == ["a", "b", None, "c", None, "e"]
    assert outcomes[2].crash == "killed by signal 11" and not outcomes[2].interrupted


def test_a_child_ended_by_somebody_else_is_not_held_against_the_file(tmp_path: Path) -> None:
    with WorkerPool[Any, Any](worker, count=1) as pool:
        assert pool.one(("once", str(tmp_path / "once"))).result == "once"
        always = pool.one(("kill", 9))
        assert always.crash == "killed by signal 9" and always.interrupted


def test_closing_stops_what_is_at_work() -> None:
    pool = WorkerPool[Any, Any](worker, count=1)
    pool.one("warm")
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(pool.one(("sleep", 60))))
    thread.start()
    time.sleep(0.5)
    began = time.monotonic()
    pool.close()
    thread.join(10)
    assert time.monotonic() - began < 10 and found and found[0].crash


def test_a_start_that_fails_is_not_the_files_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_BOOT", "raise SystemExit('no')")
    with WorkerPool[Any, Any](worker, count=1) as pool, pytest.raises(DecoderStartError, match="does not start"):
        pool.one("a")


def test_shared_children_end_when_they_are_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = sandbox._ProcessPool(0.5)
    monkeypatch.setattr(sandbox, "_shared", lambda: pool)
    assert [one.get() for one in map_isolated(str.upper, list("abcdef"), batch=2)] == list("ABCDEF")
    waiting = list(pool._waiting)
    assert waiting
    for _ in range(100):
        if all(child.process.poll() is not None for child in waiting):
            break
        time.sleep(0.1)
    assert all(child.process.poll() is not None for child in waiting)
    assert [one.get() for one in map_isolated(str.upper, ["x"])] == ["X"], "new ones start"
    pool.close()


def test_processes_of_several_devices_run_nothing_of_the_current_folder(tmp_path: Path) -> None:
    code = "import sys; from segwright.cli.launch import launch; sys.exit(launch(2, ['--version']))"
    plant(tmp_path, tmp_path)
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False
    )
    assert not [name for name in LIBRARIES if (tmp_path / name).exists()]
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 2


def test_opening_a_dataset_decodes_nothing_in_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2
    import tifffile
    from PIL import Image

    import segwright

    rng = np.random.default_rng(2)
    for i in range(3):
        (tmp_path / "images").mkdir(exist_ok=True)
        tifffile.imwrite(tmp_path / f"images/{i}.tif", rng.integers(0, 60000, (24, 32), dtype=np.uint16))
        write_mask(tmp_path / f"masks/{i}.png", rng.integers(0, 3, (24, 32), dtype=np.uint8))

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("decoded in this process")

    monkeypatch.setattr(cv2, "imdecode", refuse)
    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", refuse)
    monkeypatch.setattr(Image.Image, "load", refuse)
    dataset = segwright.open_dataset(tmp_path)
    assert len(dataset.label_space) == 3 and any("uint16" in note for note in dataset.notes)


def test_a_working_directory_that_was_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert [one.get() for one in map_isolated(str.upper, ["x"])] == ["X"]
    monkeypatch.chdir(tmp_path)
