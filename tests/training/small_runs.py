"""Runs of a few seconds for the tests: a narrow network on made-up street scenes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segwright.augment import presets
from segwright.data.dataset import Dataset
from segwright.losses import create_loss
from segwright.models.leannet import LeanNet
from segwright.training.callbacks.log import Display
from segwright.training.components import TrainerComponents
from segwright.training.config import TrainConfig
from segwright.training.distributed.world import World
from segwright.training.trainer import Trainer

PHASES = [
    {"until": 0.5, "size": (64, 96), "scale": (0.5, 1.0), "batch": 6},
    {"until": 1.0, "size": (64, 96), "scale": (0.7, 1.3), "batch": 4},
]
LARGE = [{"until": 1.0, "size": (160, 160), "scale": (0.7, 1.3), "batch": 8}]
VALUES: dict[str, Any] = {
    "training.epochs": 2,
    "training.phases": PHASES,
    "training.optimizer": "muon",
    "training.lr": 4e-3,
    "training.encoder_lr_factor": 1.0,
    "training.weight_decay": 0.02,
    "training.warmup": 0.05,
    "training.ema": 0.9,
    "training.validate_every": 1,
    "training.precision": "fp32",
    "training.compile": False,
    "training.workers": 1,
    "training.cache": True,
    "training.loss_at_native_stride": True,
    "training.accumulate": 1,
    "training.save_every_steps": 3,
}


def trainer(
    scenes: Dataset,
    folder: Path,
    criterion: Callable[..., Any] | None = None,
    *,
    wide: bool = False,
    world: World | None = None,
    device: str | torch.device = "cpu",
    components: Mapping[str, Any] | None = None,
    **changed: Any,
) -> Trainer:
    """``wide``: a network whose activations can be told from noise; ``components``: other components of the trainer;
    further keywords are training settings."""
    config = TrainConfig().with_values({**VALUES, **{f"training.{key}": value for key, value in changed.items()}})
    torch.manual_seed(0)
    model = LeanNet(
        classes=scenes.label_space.classes,
        widths=(16, 32, 32, 32, 32) if wide else (4, 8, 8, 8, 8),
        decoder_channels=(16, 32, 32, 32) if wide else (4, 8, 8, 8),
        depths=(0, 1, 1, 1, 1),
    )
    loss = criterion or create_loss("ce(smoothing=0.05)", classes=scenes.label_space.classes)
    given: dict[str, Any] = {
        "model": model,
        "criterion": loss,
        "final_criterion": loss,
        "train": scenes.train,
        "val": scenes.val,
        "config": config,
        "transforms": {
            phase: presets.training(size=phase.size, scale=phase.scale, class_aware=0.3)
            for phase in config.training.phases
        },
        "folder": folder,
        "device": torch.device(device),
        "world": world or World(),
        "display": Display(show=False),
    }
    return Trainer(TrainerComponents(**{**given, **(components or {})}))


class Killed(Exception):
    """Stands for a kill between two steps."""


def kill_at(run: Trainer, step: int) -> None:
    take = run.train_step

    def taken(*arguments: Any) -> None:
        take(*arguments)
        if run.progress.step >= step:
            raise Killed

    run.train_step = taken  # type: ignore[method-assign]


def states(run: Trainer) -> list[Tensor]:
    tensors = list(run.model.state_dict().values())
    if run.average is not None:
        tensors += run.average.model.state_dict().values()
    return tensors
