"""Run by test_probe.py in a process of its own: what a step is predicted to take, and what it takes, as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from small_runs import LARGE, trainer

from segwright.data.dataset import open_dataset
from segwright.demo.dataset import write_street_scenes
from segwright.training.planning import memory_probe
from segwright.training.trainer import Trainer


def main() -> None:
    folder = Path(sys.argv[1])
    scenes = open_dataset(write_street_scenes(folder / "scenes", train=8, val=3, test=1, size=(64, 96)))
    run = trainer(scenes, folder / "run", wide=True, phases=LARGE)
    memory_probe.MAX_SECONDS_PER_TRIAL = float("inf")  # on a slow machine as well, up to the full size
    predicted = probed(run, 64 << 30)
    tried = probed(run, 1.2 * predicted.peak_bytes)  # near what was predicted: the whole step is tried
    print(json.dumps([predicted.to_json(), tried.to_json()]))


def probed(run: Trainer, available: float) -> memory_probe.MemoryEstimate:
    memory_probe.available_bytes = lambda device: int(available / memory_probe.USABLE_FRACTION)
    return run.fit_to_memory((64, 96)).training


if __name__ == "__main__":
    main()
