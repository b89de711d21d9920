"""Run by test_fsdp.py in several processes: a training without --out, which they begin in different seconds."""

from __future__ import annotations

import os
import sys
from datetime import datetime, timedelta
from pathlib import Path

from small_runs import VALUES

from segwright.data.dataset import open_dataset
from segwright.training import run_dir
from segwright.training.config import TrainConfig
from segwright.training.run import run_training

RANK = int(os.environ["RANK"])


class Later(datetime):
    """The clock of a process that is a minute behind for every rank."""

    @classmethod
    def now(cls, tz: object = None) -> datetime:
        return datetime(2026, 1, 2, 3, 4, 5) + timedelta(minutes=RANK)


def main() -> None:
    scenes = open_dataset(Path(sys.argv[1]) / "street")
    os.chdir(sys.argv[1])
    run_dir.datetime = Later  # type: ignore[attr-defined]
    values = {**VALUES, "model.name": "leannet", "training.epochs": 1, "training.fsdp": True, "training.device": "cpu"}
    found = run_training(scenes, TrainConfig().with_values(values))
    print(found.folder, flush=True)


if __name__ == "__main__":
    main()
