"""Measured seconds of training steps and predictions on this machine, and the precision chosen from them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch

from segwright.core.types import Batch
from segwright.losses import create_loss
from segwright.training.config import Size, TrainConfig
from segwright.training.deterministic import deterministic_mode
from segwright.training.freezing import Freezing, is_frozen_throughout
from segwright.training.network import build_network
from segwright.training.optim.optimizers import create_optimizer
from segwright.training.planning.cpu import has_native_bf16
from segwright.training.planning.memory import available_bytes, is_out_of_memory
from segwright.training.train_step import TrainStep

IMAGE_PIXELS = 1_000_000  # of an image whose prediction is timed, at most
MAX_BYTES_PER_PIXEL = 8 << 10  # of a training batch, more than any network of usual width takes
SHORT_SECONDS = 240.0  # of a budget in which training has priority over measuring and scoring
BF16_SIZE, BF16_BATCH = (192, 256), 4  # of the steps that choose the precision
# bf16 has to win by this much: within it, fp32's exactness is preferred. Equal seeds are to give equal weights, so the
# choice must not depend on noise: a short step decides nothing, and all but long ones are timed twice.
_WORTHWHILE = 0.85
_TOO_SHORT, _LONG = 0.05, 2.0  # seconds of a step


class Timings(Protocol):
    """Seconds of training steps, for the planner."""

    def step(self, config: TrainConfig, size: Size, batch: int, precision: str) -> float:
        """Seconds of a training step of ``config``'s network with ``batch`` crops of ``size`` (height, width)."""
        ...


@dataclass(frozen=True)
class MeasuredTimings:
    """Times steps and predictions on this machine. Each is measured when it is first needed, and not before."""

    classes: int
    device: torch.device
    deterministic: bool = False
    repeats: int = 3

    @classmethod
    def of(cls, config: TrainConfig, classes: int, device: torch.device) -> MeasuredTimings:
        """Each step is timed three times; once if the minutes are few, since timing is part of them."""
        minutes = config.training.minutes
        repeats = 1 if minutes is not None and 60 * minutes < SHORT_SECONDS else 3
        return cls(classes, device, config.training.deterministic, repeats)

    def step(self, config: TrainConfig, size: Size, batch: int, precision: str) -> float:
        """As :meth:`Timings.step`."""
        with deterministic_mode(self.device, deterministic=self.deterministic):
            return time_step(config, self.classes, self.device, size, batch, precision, self.repeats)

    def image(self, config: TrainConfig, size: Size) -> float:
        """Seconds of predicting one image of ``size``."""
        return time_image(config, self.classes, self.device, size)

    def precision(self, config: TrainConfig, precision: str) -> float:
        """Seconds of a small training step in ``precision``, to choose one before the network is planned."""
        values: dict[str, Any] = {"training.lr": 1e-3, "training.weight_decay": 0.0, "training.optimizer": "adamw"}
        values |= {"training.freeze_encoder_fraction": 0.0, "training.unfreeze_fraction": 0.0}
        if config.model.name == "auto":
            asked = config.model.encoder not in ("auto", None)
            values["model.name"] = "unet" if asked else "leannet"  # as the plan does: LeanNet takes no encoder
        small = config.with_values(values)
        return time_step(small, self.classes, self.device, BF16_SIZE, BF16_BATCH, precision, self.repeats)


def time_image(config: TrainConfig, classes: int, device: torch.device, size: Size) -> float:
    """Seconds of predicting one image of ``size`` on ``device``; of a large image, a part is timed."""
    zoom: float = min(1.0, (IMAGE_PIXELS / (size[0] * size[1])) ** 0.5)
    part = (max(1, round(size[0] * zoom)), max(1, round(size[1] * zoom)))
    network = build_network(config.with_values({"model.weights": None}), classes).to(device).eval()
    pixels = torch.zeros((1, *part, network.in_channels), dtype=torch.uint8, device=device)
    with torch.inference_mode():
        once = seconds_per_step(lambda: network(pixels), repeats=2)
    return once * size[0] * size[1] / (part[0] * part[1])


def time_step(
    config: TrainConfig,
    classes: int,
    device: torch.device,
    size: Size,
    batch: int,
    precision: str,
    repeats: int = 3,
) -> float:
    """Seconds of a training step of ``config``'s network on random pixels."""
    model = build_network(config.with_values({"model.weights": None}), classes).train()
    model.native_logits = config.training.loss_at_native_stride
    for norm in filter(is_frozen_throughout, Freezing(model, config.training).all_norms):  # as it will be trained
        norm.eval()
    lr = config.training.lr if isinstance(config.training.lr, float) else 1e-3
    optimizer = create_optimizer(model.to(device), config.training, lr=lr, weight_decay=0.0)
    step = TrainStep(model, optimizer, device=device, precision=precision)
    criterion = create_loss("ce", classes=classes)
    rng = np.random.default_rng(0)
    # The plan is made before memory is measured: a batch that may not fit is timed with fewer images.
    timed = min(batch, max(2, available_bytes(device) // (MAX_BYTES_PER_PIXEL * size[0] * size[1])))
    while True:
        images = rng.integers(0, 256, (timed, *size, model.in_channels), np.uint8)
        masks = rng.integers(0, classes, (timed, *size), np.uint8)
        dummy = Batch(images, masks, tuple(f"dummy {i}" for i in range(timed)))
        # On random pixels a loss that is not finite means nothing.
        update = partial(step, [dummy], 0.0, criterion, config.training.aux_weight, check_finite=False)
        try:
            return seconds_per_step(update, repeats=repeats) * batch / timed
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or timed == 1:
                raise
        optimizer.zero_grad(set_to_none=True)
        timed //= 2


def seconds_per_step(step: Callable[[], object], *, repeats: int = 3, warmup: int = 1) -> float:
    """The fastest of ``repeats`` calls of ``step`` after ``warmup`` more: noise only ever adds time."""
    best = math.inf
    for call in range(warmup + repeats):
        started = time.perf_counter()
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if call >= warmup:
            best = min(best, time.perf_counter() - started)
    return best


def choose_precision(device: torch.device | str, probe: Callable[[str], float] | None = None) -> tuple[str, str]:
    """(fp32, bf16 or fp16; the reason) for training on ``device``.

    On a CPU, bf16 is chosen only if the CPU multiplies it natively **and** a timed step is faster with it:
    ``probe(precision)`` returns the seconds of a step (:func:`seconds_per_step`). Without a probe, a CPU gets fp32.
    """
    device = torch.device(device)
    if device.type == "cuda":
        if torch.cuda.get_device_capability(device)[0] >= 8:
            return "bf16", "the GPU computes bf16 natively"
        return "fp16", "the GPU has no native bf16"
    if device.type != "cpu":
        return "fp32", f"nothing faster is proven on {device.type}"
    if not has_native_bf16():
        return "fp32", "the CPU has no native bf16"
    if probe is None:
        return "fp32", "no step was timed"
    full = probe("fp32")
    if full < _TOO_SHORT:
        return "fp32", f"a step takes {full:.2f} s: there is little to gain"
    half = probe("bf16")
    if full < _LONG:
        full, half = min(full, probe("fp32")), min(half, probe("bf16"))
    if half < full * _WORTHWHILE:
        return "bf16", f"a step takes {half:.2f} s in bf16, {full:.2f} s in fp32"
    return "fp32", f"a step takes {full:.2f} s in fp32, {half:.2f} s in bf16: no gain"
