"""A network in shards over two gloo processes learns what one process learns, and hands its checkpoints over."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from segwright.data.synthetic import write_street_scenes


def test_two_processes_in_shards_learn_as_one_and_resume_as_one(tmp_path: Path) -> None:
    write_street_scenes(tmp_path / "street", train=16, val=3, test=0, size=(64, 96))
    job = Path(__file__).parent / "shard_job.py"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, str(job), str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == [
        "adamw-ema: as one process",
        "muon-swa: as one process",
        "sgd: as one process",
        "handed over both ways",
    ]
