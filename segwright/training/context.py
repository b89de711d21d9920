"""Where and with what a run takes place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from segwright.training.callbacks.log import Display
from segwright.training.distributed.world import World


@dataclass(frozen=True)
class RunContext:
    """Folder, device, process group and display of a run; the same for all its phases."""

    folder: Path
    device: torch.device  # of this process
    world: World
    display: Display
    command: str  # that started the run, for the model's record
    started: float  # by time.monotonic(): when the minutes began to count
