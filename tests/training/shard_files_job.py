"""What test_shards.py runs in two processes, then in three: checkpoints of which each writes and reads its own part."""

from __future__ import annotations

import pickle
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from shard_job import CASES, build, killed
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from segwright.core.atomic_io import write_checksums
from segwright.core.errors import CheckpointError
from segwright.data.dataset import Dataset, open_dataset
from segwright.training.checkpoint import checkpoints, flatten_optimizer, load_checkpoint, model_tensors
from segwright.training.distributed import sharded_checkpoint
from segwright.training.distributed.dtensors import is_dtensor, local_tensor
from segwright.training.distributed.world import World, init_world
from segwright.training.trainer import Trainer


class Largest(TorchDispatchMode):
    """The most elements of a tensor of numbers (not of the random generator's bytes) that an operation gives here."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        tensors = [
            local_tensor(leaf) for leaf in tree_leaves(found) if isinstance(leaf, Tensor) and leaf.is_floating_point()
        ]
        self.elements = max([self.elements, *(tensor.numel() for tensor in tensors)])
        return found


def held(run: Trainer) -> dict[str, Tensor]:
    assert run.average is not None
    networks = model_tensors(run.model, "model") | model_tensors(run.average.model, "average")
    return networks | flatten_optimizer(run.optimizer)[0]


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(local_tensor(tensor).cpu(), local_tensor(other[name]).cpu()) for name, tensor in one.items())


@contextmanager
def watched(tensors: dict[str, Tensor], writers: int) -> Iterator[None]:
    """Nothing larger than the largest shard appears, of this process or of a file's that is mapped into host memory;
    nothing is gathered, and no file is unpickled. ``writers``: how many processes wrote, or write, the files."""
    pieces = [
        -(-tensor.shape[0] // writers) * (tensor.numel() // tensor.shape[0])
        for tensor in tensors.values()
        if tensor.ndim
    ]
    bound = max(*pieces, *(local_tensor(tensor).numel() for tensor in tensors.values()))
    assert bound < 0.7 * max(tensor.numel() for tensor in tensors.values()), "else the test could see nothing"

    def refuse(*arguments: Any, **named: Any) -> Any:
        raise AssertionError("gathered, or unpickled from a file")

    with pytest.MonkeyPatch.context() as patch, Largest() as largest:
        patch.setattr(DTensor, "full_tensor", refuse)
        patch.setattr(pickle, "load", refuse)
        patch.setattr(torch, "load", refuse)
        yield
    assert 0 < largest.elements <= bound, f"{largest.elements} elements where the largest shard has {bound}"


def check_shares(scenes: Dataset, folder: Path, world: World, changed: dict[str, Any]) -> None:
    """Killed in shards and resumed in shards: equal to the bit, in memory for a share alone."""
    never = build(scenes, folder / "never", world, fsdp=True, **changed)
    never.fit()
    killed(scenes, folder / "killed", world, fsdp=True, **changed)
    world.barrier()
    again = build(scenes, folder / "killed", world, fsdp=True, **changed)
    with watched(held(never), world.size):
        again.restore()
    assert again.progress.step == 2
    again = build(scenes, folder / "killed", world, fsdp=True, **changed)
    again.fit(resume=True)
    same(held(again), held(never))
    with watched(held(never), world.size):
        again.save()
    world.barrier()
    newest = checkpoints(folder / "killed" / "checkpoints")[-1]
    files = sorted(newest.iterdir())
    shards = [file for file in files if file.suffix == ".safetensors"]
    assert len(shards) == world.size and [file.name for file in files if file not in shards] == [
        "SHA256SUMS",
        "shards.json",
        "state.json",
    ]
    cut = {name for name, tensor in held(again).items() if is_dtensor(tensor)}
    sizes = [sum(tensor.numel() for name, tensor in load_file(file).items() if name in cut) for file in shards]
    assert max(sizes) < 0.7 * sum(sizes), "each holds its own share"
    world.barrier()


def check_damage(scenes: Dataset, folder: Path, world: World, changed: dict[str, Any]) -> None:
    """A damaged shard is passed over by all processes; a disk that is full for one of them stops none."""
    place = folder / "killed" / "checkpoints"
    before = checkpoints(place)
    run = build(scenes, folder / "killed", world, fsdp=True, **changed)
    run.restore()
    with pytest.MonkeyPatch.context() as patch:
        if not world.is_first:

            def full(*_: Any, **__: Any) -> None:
                raise OSError(28, "No space left on device")

            patch.setattr(sharded_checkpoint.HuggingFaceStorageWriter, "write_data", full)
        run.progress.step += 1
        run.save()
    world.barrier()
    assert checkpoints(place) == before and load_checkpoint(place, tensors=False) is not None
    assert not list(place.glob(".step*"))
    world.barrier()
    if world.is_first:
        victim = sorted(before[-1].glob("*.safetensors"))[-1]
        data = bytearray(victim.read_bytes())
        data[-5] ^= 1
        victim.write_bytes(data)
    world.barrier()
    run = build(scenes, folder / "killed", world, fsdp=True, **changed)
    run.restore()
    assert run.progress.step == int(before[-2].name.removeprefix("step-"))
    world.barrier()
    if world.is_first:  # a shard is gone, and its line in the sums with it
        sorted(before[-2].glob("*.safetensors"))[-1].unlink()
        write_checksums(before[-2])
        with pytest.raises(CheckpointError, match="no checkpoint is whole") as caught:
            load_checkpoint(place)
        assert "lacks some of its shards" in str(caught.value)
    world.barrier()
    with pytest.raises(CheckpointError, match="shards"):
        build(scenes, folder / "killed", world, fsdp=True, **changed).restore()
    other = build(scenes, folder / "kept", world, fsdp=True, **changed)
    other.model.register_buffer("odd", torch.zeros(1))
    with pytest.raises(CheckpointError, match="does not fit the network") as refused:
        other.restore()
    assert "model/odd" in str(refused.value)


def check_more_processes(scenes: Dataset, folder: Path, world: World, changed: dict[str, Any]) -> None:
    """Two wrote it, three go on: the very values, read in shares and written in shares."""
    found = load_checkpoint(folder / "kept" / "checkpoints")
    assert found is not None
    run = build(scenes, folder / "kept", world, fsdp=True, **changed)
    run.restore()
    tensors = held(run)
    assert all(is_dtensor(tensors[name]) for name in ("model/head.weight", "average/head.weight"))
    again = build(scenes, folder / "kept", world, fsdp=True, **changed)
    with watched(tensors, 2):
        again.restore()
    for name, tensor in tensors.items():
        whole: Any = tensor
        assert torch.equal((whole.full_tensor() if is_dtensor(tensor) else tensor).cpu(), found.tensors[name]), name
    run.progress.step += 1
    run.save()
    world.barrier()
    saved = load_checkpoint(folder / "kept" / "checkpoints")
    assert saved is not None and saved.path != found.path and len(list(saved.path.glob("*.safetensors"))) == 3
    assert all(torch.equal(tensor, found.tensors[name]) for name, tensor in saved.tensors.items())
    assert saved.tensors.keys() == found.tensors.keys()


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    scenes = open_dataset(folder / "street")
    changed = CASES["muon-swa"]
    with init_world() as world:
        if world.size == 2:
            check_shares(scenes, folder, world, changed)
            if world.is_first:
                shutil.copytree(folder / "killed", folder / "kept")
                print("its own shares", flush=True)
            world.barrier()
            check_damage(scenes, folder, world, changed)
        else:
            check_more_processes(scenes, folder, world, changed)
        if world.is_first:
            print("damage passed over" if world.size == 2 else "two to three", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
