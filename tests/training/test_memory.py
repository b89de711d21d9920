"""Memory measured against what was taken, limits that count, and what running out looks like."""

from __future__ import annotations

import mmap
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from segwright.data.loading import cache
from segwright.training.planning import memory
from segwright.training.planning.memory import available_bytes, gib, is_out_of_memory, peak_of

CPU = torch.device("cpu")
SIZE = 48 << 20


def take() -> None:
    """48 MiB, and less after it; from the system itself: an allocator may keep the first block beside the second.

    Each is held for a while: a thread that watches is not always awake on a busy machine.
    """
    for size in (SIZE, SIZE // 4):
        with mmap.mmap(-1, size) as block:
            for _ in range(size >> 20):
                block.write(bytes(1 << 20))
            time.sleep(0.3)


@pytest.mark.parametrize("marked", [True, False], ids=["high-water mark", "watched"])
def test_a_peak_is_what_was_taken_at_most(marked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not marked:
        monkeypatch.setattr(memory, "_reset_mark", lambda: False)
    elif not memory._reset_mark():
        pytest.skip("the system keeps no high-water mark that can be set back")
    peak_of(CPU, take)  # whatever happens once
    assert peak_of(CPU, take) == pytest.approx(SIZE, rel=0.2)
    assert peak_of(CPU, lambda: None) < SIZE // 8


def test_a_limit_on_the_address_space_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = psutil.Process().memory_info().vms
    monkeypatch.setattr(memory, "_address_space", lambda: taken + SIZE)
    assert 0 < available_bytes(CPU) <= SIZE
    monkeypatch.setattr(memory, "_address_space", lambda: None)
    assert available_bytes(CPU) <= psutil.virtual_memory().total


@pytest.mark.parametrize(
    "names",
    [
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ],
    ids=["cgroup v2", "cgroup v1"],
)
def test_the_limit_of_a_control_group_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, str, str]
) -> None:
    (tmp_path / names[0]).write_text(f"{100 << 20}\n")
    (tmp_path / names[1]).write_text(f"{80 << 20}\n")
    (tmp_path / "memory.stat").write_text(f"anon 5\n{names[2]} {30 << 20}\n")
    monkeypatch.setattr(cache, "control_groups", lambda: [tmp_path / "absent", tmp_path])
    assert available_bytes(CPU) == 50 << 20, "the limit, less what is used, page cache given back"
    (tmp_path / names[0]).write_text("max\n" if names[0] == "memory.max" else f"{2**63}\n")
    assert available_bytes(CPU) > 100 << 20


def test_the_groups_above_this_process_are_known() -> None:
    assert cache.control_groups()[0] == Path("/sys/fs/cgroup")


def test_what_running_out_of_memory_looks_like() -> None:
    for error in (MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("not enough memory: you")):
        assert is_out_of_memory(error)
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value), str(caught.value)
    with pytest.raises(MemoryError) as numpys:
        np.empty(1 << 60, np.uint8)
    assert is_out_of_memory(numpys.value)
    assert not is_out_of_memory(RuntimeError("shapes differ")) and not is_out_of_memory(ValueError("out of memory"))


def test_bytes_for_people() -> None:
    assert (gib(3 << 30), gib(5 << 20)) == ("3.0 GiB", "5 MiB")
