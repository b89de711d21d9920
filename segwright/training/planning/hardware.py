"""The hardware that a plan is made for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from segwright.kernels.threads import processors
from segwright.training.config import TrainConfig
from segwright.training.planning.cpu import has_native_bf16
from segwright.training.planning.memory import available_bytes
from segwright.training.planning.timing import MeasuredTimings, choose_precision


@dataclass(frozen=True)
class Hardware:
    """Device, CPU cores and memory, with the precision that suits them."""

    device: str
    cores: int
    memory_bytes: int
    precision: str = "fp32"
    precision_reason: str = "the CPU has no native bf16"

    @property
    def is_gpu(self) -> bool:
        return self.device.startswith("cuda")


def detect_hardware(config: TrainConfig, device: torch.device, timings: MeasuredTimings) -> Hardware:
    """This machine's hardware. On a CPU with native bf16, steps are timed to choose the precision."""
    asked = config.training.precision
    if asked != "auto":
        precision, reason = str(asked), "as asked"
    elif config.training.deterministic and device.type == "cpu":
        precision, reason = "fp32", "--deterministic: no timing may decide"
    else:
        timed = device.type == "cpu" and has_native_bf16()
        precision, reason = choose_precision(device, partial(timings.precision, config) if timed else None)
    return Hardware(str(device), processors(), available_bytes(device), precision, reason)
