"""A network in shards over two gloo processes learns what one process learns, and hands its checkpoints over."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from segwright.demo.dataset import write_street_scenes


def run_job(name: str, processes: int, folder: Path) -> list[str]:
    job = Path(__file__).parent / name
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    done = subprocess.run(
        [*launcher, str(job), str(folder)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_two_processes_in_shards_learn_as_one_and_resume_as_one(tmp_path: Path) -> None:
    write_street_scenes(tmp_path / "street", train=16, val=3, test=0, size=(64, 96))
    assert run_job("shard_job.py", 2, tmp_path) == [
        "adamw-ema: as one process",
        "muon-swa: as one process",
        "sgd: as one process",
        "handed over both ways",
    ]


def test_each_process_writes_and_reads_its_own_shards(tmp_path: Path) -> None:
    write_street_scenes(tmp_path / "street", train=16, val=3, test=0, size=(64, 96))
    assert run_job("shard_files_job.py", 2, tmp_path) == ["its own shares", "damage passed over"]
    assert run_job("shard_files_job.py", 3, tmp_path) == ["two to three"]


def test_processes_that_begin_in_different_seconds_have_one_run_folder(tmp_path: Path) -> None:
    """Its name has the time; each process wrote its shards to a folder of its own otherwise."""
    write_street_scenes(tmp_path / "street", train=8, val=2, test=0, size=(64, 96))
    said = [line for line in run_job("folder_job.py", 2, tmp_path) if line.startswith("runs/")]
    assert said == ["runs/20260102-030405-street-leannet"] * 2
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["20260102-030405-street-leannet", "latest"]
    assert list((tmp_path / "runs").glob("*/checkpoints/step-*"))
