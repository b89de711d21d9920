"""Compiled kernels on disk: never the machine code of other types, of an older source, or damaged."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba")

from segwright.core.errors import OutputError
from segwright.kernels.compiled_files import CompiledFiles

HELPER = "from segwright.kernels.jit import jit\n\n@jit\ndef part(x):\n    return x * {factor}\n"
KERNEL = """
from helper import part
from segwright.kernels.jit import jit

@jit
def total(x):
    s = x[0] * 0
    for i in range(x.size):
        s += part(x[i])
    return s
"""
CALL = """
import sys
import numpy as np
from kernel import total
for kind in sys.argv[1:]:
    print(total(np.arange(5).astype(kind)), end=" ")
print(sum(total.stats.cache_hits.values()), sum(total.stats.cache_misses.values()))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "helper.py").write_text(HELPER.format(factor=1))
    (tmp_path / "kernel.py").write_text(KERNEL)
    return tmp_path


def called(folder: Path, *kinds: str) -> list[float]:
    """The sums of 0…4 of the types by a process of its own, then how many were loaded and compiled."""
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(folder), root)), "NUMBA_CACHE_DIR": ""}
    done = subprocess.run(
        [sys.executable, "-c", CALL, *kinds], capture_output=True, text=True, env=environment, timeout=300, check=True
    )
    return [float(word) for word in done.stdout.split()]


def kept(folder: Path) -> list[Path]:
    return sorted((folder / "__pycache__").glob("kernel.total*"))


def test_what_was_compiled_is_loaded_by_the_next_process(folder: Path) -> None:
    assert called(folder, "int64") == [10, 0, 1]
    assert called(folder, "float64", "int64") == [10, 10, 1, 1]
    assert called(folder, "int64", "float64") == [10, 10, 2, 0]
    assert len(kept(folder)) == 2


def test_machine_code_of_other_types_is_not_run(folder: Path) -> None:
    called(folder, "int64", "float64")
    one, other = kept(folder)
    content = one.read_bytes(), other.read_bytes()
    one.write_bytes(content[1])
    other.write_bytes(content[0])
    assert called(folder, "int64", "float64") == [10, 10, 0, 2]
    assert called(folder, "int64", "float64") == [10, 10, 2, 0], "and it is replaced"


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_damaged_machine_code_is_not_run(folder: Path, damage: str) -> None:
    called(folder, "int64")
    (path,) = kept(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes({"flip": bytes(content), "cut": path.read_bytes()[:-100], "empty": b""}[damage])
    assert called(folder, "int64") == [10, 0, 1]


def test_a_kernel_follows_those_that_it_calls(folder: Path) -> None:
    called(folder, "int64", "float64")
    (folder / "helper.py").write_text(HELPER.format(factor=100))
    assert called(folder, "int64") == [1000, 0, 1]
    assert len(kept(folder)) == 1, "what an older source gave is removed"


def test_two_versions_that_are_made_at_once_have_two_files(tmp_path: Path) -> None:
    """Two processes, each of which looked before the other wrote."""
    files = [CompiledFiles(str(tmp_path), "kernel.total-5.py311", "source") for _ in range(2)]
    assert files[0].load(("int64",)) is None and files[1].load(("float64",)) is None
    files[0].save(("int64",), b"whole numbers")
    files[1].save(("float64",), b"fractions")
    for one in files:
        assert (one.load(("int64",)), one.load(("float64",))) == (b"whole numbers", b"fractions")
    files[0].flush()
    assert not list(tmp_path.iterdir())


def test_files_of_other_kernels_stay(tmp_path: Path) -> None:
    for name in ("kernel.total-5.py311.1.nbc", "kernel.total-5.py311.nbi", "kernel.total-50.py311.1.nbc", "mine.txt"):
        (tmp_path / name).write_bytes(b"")
    CompiledFiles(str(tmp_path), "kernel.total-5.py311", "source").save("key", b"code")
    names = {path.name for path in tmp_path.iterdir()}
    assert {"kernel.total-50.py311.1.nbc", "mine.txt"} <= names and len(names) == 3


def test_a_full_disk_costs_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes, *, sync: bool) -> None:
        raise OutputError("no space", found="a full disk", where=path)

    monkeypatch.setattr("segwright.kernels.compiled_files.write_bytes", full)
    files = CompiledFiles(str(tmp_path), "kernel.total-5.py311", "source")
    files.save("key", b"code")
    assert files.load("key") is None and not list(tmp_path.iterdir())
    gone = CompiledFiles(str(tmp_path / "gone"), "kernel.total-5.py311", "source")
    gone.flush()
    assert gone.load("key") is None
