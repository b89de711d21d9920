"""Checkpoints survive corruption, a full disk and kills between two writes."""

from __future__ import annotations

import contextlib
import errno
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from small_runs import trainer

from segwright.core.errors import CheckpointError
from segwright.data.dataset import open_dataset
from segwright.demo.dataset import write_street_scenes
from segwright.training import checkpoint as module
from segwright.training.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from segwright.training.optim.muon import Muon


def save(folder: Path, step: int, size: int = 10) -> Path:
    state = {"step": step, "progress": {"step": step}, "optimizer": {}}  # the least that describes a checkpoint
    return save_checkpoint(folder, step, {"weight": torch.full((size,), float(step))}, state)


def test_the_newest_two_are_kept_and_the_newest_is_read(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000002", "step-00000003"]
    found = load_checkpoint(tmp_path)
    assert found is not None and found.state["step"] == 3 and found.tensors["weight"][0] == 3
    assert load_checkpoint(tmp_path / "nothing") is None


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_newest_falls_back_to_the_one_before(tmp_path: Path, damage: str) -> None:
    save(tmp_path, 1)
    newest = save(tmp_path, 2) / "state.safetensors"
    data = bytearray(newest.read_bytes())
    if damage == "remove":
        newest.unlink()
    else:
        data[-1] ^= 0xFF
        newest.write_bytes(data if damage == "flip" else data[: len(data) // 2])
    found = load_checkpoint(tmp_path)
    assert found is not None and found.state["step"] == 1
    assert "step-00000002" in found.skipped[0]


def test_all_damaged_is_an_error_that_says_so(tmp_path: Path) -> None:
    (save(tmp_path, 1) / "state.json").write_text("{}")
    with pytest.raises(CheckpointError, match="altered"):
        load_checkpoint(tmp_path)


def test_an_error_while_writing_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "write_json", full)
    with pytest.raises(OSError, match="No space"):
        save(tmp_path, 2)
    found = load_checkpoint(tmp_path)
    assert found is not None and found.state["step"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001"]


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of one megabyte; skipped where it may not be mounted."""
    folder = Path(tempfile.mkdtemp())
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        shutil.rmtree(folder)
        pytest.skip("a small file system cannot be mounted here (needs root)")
    yield folder
    subprocess.run(["umount", str(folder)], check=False)
    shutil.rmtree(folder, ignore_errors=True)


def test_a_full_disk_leaves_the_old_one(small_disk: Path) -> None:
    save(small_disk, 1, size=100_000)  # 400 kB: a second one fits, a third beside them does not
    save(small_disk, 2, size=100_000)
    with pytest.raises(OSError):
        save(small_disk, 3, size=100_000)
    found = load_checkpoint(small_disk)
    assert found is not None and found.state["step"] == 2


def test_a_run_on_a_disk_that_fills_up_goes_on(small_disk: Path, tmp_path: Path) -> None:
    scenes = open_dataset(write_street_scenes(tmp_path / "street", train=8, val=2, test=0, size=(64, 96)))
    run = trainer(scenes, small_disk / "run", epochs=3, save_every_steps=1)
    said: list[str] = []
    run.components.display.message = said.append  # type: ignore[method-assign]
    save = run.save

    def fill_after_the_first() -> None:
        save()
        if run.progress.step == 1:
            with contextlib.suppress(OSError), open(small_disk / "filler", "wb") as file:
                while True:
                    file.write(bytes(1 << 12))
                    file.flush()

    run.save = fill_after_the_first  # type: ignore[method-assign]
    assert run.fit().finished and run.progress.step > 2
    assert any("could not be written" in line and "training goes on" in line for line in said)
    found = load_checkpoint(small_disk / "run" / "checkpoints")
    assert found is not None and found.state["progress"]["step"] == 1


KILLED = """
import sys, torch
from pathlib import Path
from segwright.training.checkpoint import save_checkpoint
step = 0
while True:
    step += 1
    state = {"step": step, "progress": {"step": step}, "optimizer": {}}
    save_checkpoint(Path(sys.argv[1]), step, {"w": torch.full((200_000,), float(step))}, state)
    print(step, flush=True)
"""


def test_a_kill_at_any_moment_of_a_save_leaves_a_whole_one(tmp_path: Path) -> None:
    for kill_after in (2, 5):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        last = 0
        for line in process.stdout:
            last = int(line)
            if last >= kill_after:
                break
        process.kill()
        process.wait()
        found = load_checkpoint(tmp_path)
        assert found is not None and found.state["step"] >= last
        assert torch.equal(found.tensors["w"], torch.full((200_000,), float(found.state["step"])))
        for path in checkpoints(tmp_path):
            shutil.rmtree(path)


def test_an_optimizers_state_comes_back_bit_for_bit() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    groups = [{"params": [layer.weight], "use_muon": True, "lr": 0.1}, {"params": [layer.bias], "lr": 0.1}]
    for make in (lambda: Muon([dict(g) for g in groups]), lambda: torch.optim.AdamW(layer.parameters(), fused=True)):
        optimizer = make()
        for _ in range(3):
            layer(torch.randn(1, 3, 8, 8)).sum().backward()
            optimizer.step()
        tensors, rest = module.flatten_optimizer(optimizer)
        again = make()
        module.restore_optimizer(again, {k: v.clone() for k, v in tensors.items()}, rest)
        for parameter in layer.parameters():
            for key, value in optimizer.state[parameter].items():
                restored = again.state[parameter][key]
                assert torch.equal(value, restored), key
                assert value.stride() == restored.stride()


def test_tensors_that_share_memory_are_saved_once_for_each_name(tmp_path: Path) -> None:
    """Tied weights, and views of one buffer; the network's own tensors are not copied before they are written."""
    shared = torch.arange(6.0)
    layer = torch.nn.Linear(2, 3)
    tensors = module.model_tensors(layer, "model")
    assert tensors["model/weight"].data_ptr() == layer.weight.data_ptr()
    tensors |= {"a": shared, "b": shared, "bf16": shared[:3], "turned": shared.reshape(2, 3).t()}
    save_checkpoint(tmp_path, 1, tensors, {"progress": {"step": 1}, "optimizer": {}})
    found = load_checkpoint(tmp_path)
    assert found is not None and found.tensors.keys() == tensors.keys()
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in tensors.items())
