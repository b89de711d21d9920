"""The one command for a GPU: its reports, and the whole of it rehearsed on a pretended device."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from segwright.data.dataset import open_dataset

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_outcomes_are_read_from_the_log_of_a_run_that_was_stopped(tmp_path: Path) -> None:
    from gpu import Section, _page, _read_tests

    log = tmp_path / "tests.log"
    log.write_text(
        "tests/a/test_a.py::test_one[real] PASSED [ 10%]\n"
        "[gw1] [ 20%] FAILED tests/a/test_a.py::test_two[real] \n"
        "[gw0] [ 30%] SKIPPED tests/b/test_b.py::test_three[real] \n"
        "tests/b/test_b.py::test_four[real] "
    )
    section = Section("tests", tmp_path / "tests.json")
    _read_tests(section, log)
    found = section.found()
    assert found["outcomes"] == {"PASSED": 1, "FAILED": 1, "SKIPPED": 1}
    assert found["failed"] == ["tests/a/test_a.py::test_two[real]"]
    about = {"device": "a GPU", "machine": "8 cores", "seconds": 3.0, "rehearsal": False}
    page = _page(about, {"tests": found, "crf": {"error": "broken", "traceback": "line 1"}})
    assert "# On a GPU" in page and "FAILED: 1" in page and "## crf (not finished)" in page and "line 1" in page


def test_every_file_with_a_test_for_gpus_is_run(tmp_path: Path) -> None:
    """What pytest itself would hand the fixture to, wherever the file lies."""
    from gpu import _pytest, gpu_tests

    written = {
        "a/test_argument.py": "def test_x(tmp_path, gpu): ...",
        "b/c/test_keyword.py": "class TestX:\n    def test_x(self, *, gpu): ...",
        "test_mark.py": "import pytest\n@pytest.mark.usefixtures('gpu')\ndef test_x(): ...",
        "test_request.py": "def test_x(request): request.getfixturevalue('gpu')",
        "test_of_a_fixture.py": "import pytest\n@pytest.fixture\ndef network(gpu): ...",
        "test_none.py": "gpu = 'a GPU'\ndef test_x(tmp_path): print(gpu)",
        "conftest.py": "def gpu(): ...",
    }
    for name, text in written.items():
        (tmp_path / "tests" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tests" / name).write_text(text)
    lacking = {"test_none.py", "conftest.py"}
    assert gpu_tests(tmp_path) == sorted(f"tests/{name}" for name in written if name not in lacking)

    own = Path(__file__).resolve().parent
    shown = {
        path.relative_to(own.parent).as_posix()
        for path in own.rglob("test_*.py")
        if "gpu: torch.device" in path.read_text(encoding="utf-8") and path != Path(__file__).resolve()
    }
    assert len(shown) >= 7 and set(gpu_tests()) == shown
    assert shown < set(_pytest(rehearse=False)), "they are in the command"


def test_a_section_over_its_time_is_ended_with_its_children(tmp_path: Path) -> None:
    from gpu import Section

    nested = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    process = subprocess.Popen([sys.executable, "-c", nested], start_new_session=True, text=True)
    section = Section("hangs", tmp_path / "hangs.json", process)
    began = time.monotonic()
    section.kill("its time was over")
    assert section.ended() and time.monotonic() - began < 10 and section.found() == {"note": "its time was over"}


def test_camvid_is_packed(tmp_path: Path) -> None:
    from gpu_camvid import rehearsal_data
    from pack_camvid import pack

    source = rehearsal_data(tmp_path / "camvid")
    count, size, error = pack(source, tmp_path / "packed", 95)
    assert count == 15 and size > 0 and 0 < error < 10
    here, there = open_dataset(source), open_dataset(tmp_path / "packed")
    assert there.format == "camvid" and there.train.ids == here.train.ids and len(there.val) == 3
    for a, b in zip(here.train, there.train, strict=True):
        assert a.mask is not None and b.mask is not None and np.array_equal(a.mask, b.mask)
    assert cv2.imread(str(next((tmp_path / "packed" / "val").iterdir()))) is not None


@pytest.mark.slow
def test_rehearsal(tmp_path: Path) -> None:
    """Every section prepares itself, runs and reports on the pretended device."""
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--rehearse", "--seconds", "240", "--out", str(tmp_path)]
    subprocess.run(command, check=True, timeout=300)
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert report["rehearsal"] and report["device"] == "pretended"
    assert set(report["sections"]) == {"tests", "deterministic", "crf", "graphs", "feeding", "camvid"}
    assert not {name: found["error"] for name, found in report["sections"].items() if "error" in found}
    assert report["sections"]["tests"]["outcomes"] == {"PASSED": 1}
    assert report["sections"]["deterministic"]["deterministic: bit-equal weights"] is True
    assert "val: averaged weights" in report["sections"]["camvid"] and (tmp_path / "camvid_val.jpg").exists()
