"""What a trainer is assembled from, created outside of it, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from segwright.augment.paste import ClassPaste
from segwright.augment.presets import TrainTransform as TrainingTransform
from segwright.data.dataset import Split
from segwright.data.loading.loader import Transform
from segwright.losses.base import SegmentationLoss
from segwright.models.base import SegmentationModel
from segwright.training.callbacks.log import Display
from segwright.training.config import Phase, TrainConfig
from segwright.training.distributed.world import World
from segwright.training.planning.budget import TimeBudget
from segwright.training.state import Progress
from segwright.training.train_step import Criterion
from segwright.training.unlabeled import UnlabeledImages
from segwright.training.validate import PartOf, Validation

SaveModel = Callable[[SegmentationModel, Progress, Validation], None]
OnValidation = Callable[[Progress, Validation], bool]


def save_nothing(model: SegmentationModel, progress: Progress, validation: Validation) -> None:
    """The default of :attr:`TrainerComponents.save_model`."""


@dataclass(frozen=True)
class UnlabeledData:
    """What self-training needs besides the labeled data."""

    images: UnlabeledImages
    transforms: Mapping[Phase, Transform]  # two views of an image
    criterion: SegmentationLoss  # on pseudo-labels


@dataclass(frozen=True)
class TrainerComponents:
    """Network, losses, data and destination of a training."""

    model: SegmentationModel
    criterion: Criterion
    final_criterion: Criterion  # of the last phase
    train: Split
    val: Split | None
    config: TrainConfig  # resolved: without "auto"
    transforms: Mapping[Phase, TrainingTransform]
    folder: Path  # of the run
    device: torch.device
    save_model: SaveModel = save_nothing  # called with every best model so far
    sample_weights: npt.NDArray[np.float64] | None = None  # how often each training image is drawn
    val_part_of: PartOf | None = None  # the part of the validation split that an image is of; parts count alike
    paste: ClassPaste | None = None  # of classes of one training crop into another
    world: World = field(default_factory=World)
    display: Display = field(default_factory=Display)
    budget: TimeBudget | None = None  # if minutes end the run
    on_validation: OnValidation | None = None  # called on every rank; True ends the run
    unlabeled: UnlabeledData | None = None  # self-training, if there is any
    record: Mapping[str, Any] = field(default_factory=dict)  # JSON-able description of the run, in every checkpoint


@dataclass(frozen=True)
class FitResult:
    """How a training ended."""

    progress: Progress
    finished: bool
    stopped_by: str | None = None  # "SIGINT", "SIGTERM", "early stopping", "on_validation" or None
    last_validation: Validation | None = None
