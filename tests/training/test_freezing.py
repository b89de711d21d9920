"""Frozen means untouched, whatever the optimizer; stages are released the deepest first, each with its batch norms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from segwright.core.errors import UsageError
from segwright.core.types import Batch
from segwright.losses import create_loss
from segwright.models.base import SegmentationModel
from segwright.models.catalog import create_model
from segwright.models.leannet import LeanNet
from segwright.training.config import TrainConfig
from segwright.training.freezing import GradualUnfreezing, encoder_stages
from segwright.training.optim.optimizers import create_optimizer
from segwright.training.train_step import TrainStep


@pytest.fixture(scope="module")
def unet() -> SegmentationModel:
    return create_model("unet", classes=3, encoder="mobilenetv3_small_050", weights=None)


def test_stages_cover_every_parameter_once_the_deepest_first(unet: SegmentationModel) -> None:
    stages = encoder_stages(unet.encoder)
    names = [name for name, _ in unet.encoder.named_parameters()]
    assert sorted(name for stage in stages for name in stage) == sorted(names)
    assert len(stages) >= 4 and any("conv_stem" in name for name in stages[-1])


def test_stages_are_released_over_the_share(unet: SegmentationModel) -> None:
    freezing = GradualUnfreezing(unet, 0.1, 0.5)
    count = len(encoder_stages(unet.encoder))
    resting = [freezing.frozen_stages(share) for share in np.linspace(0, 1, 101)]
    assert resting[0] == resting[9] == count and resting[10] == count - 1 and resting[-1] == 0
    assert resting == sorted(resting, reverse=True) and set(resting) == set(range(count + 1))
    assert resting[60] == 0 and GradualUnfreezing(unet, 0.3, 0.0).frozen_stages(0.3) == 0


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_what_rests_is_untouched_and_what_is_released_learns(unet: SegmentationModel, optimizer: str) -> None:
    freezing = GradualUnfreezing(unet, 0.1, 0.5)
    config = TrainConfig().with_values({"training.optimizer": optimizer}).training
    step = TrainStep(unet, create_optimizer(unet, config, lr=1e-2, weight_decay=0.1))
    rng = np.random.default_rng(0)
    images, masks = rng.integers(0, 256, (2, 64, 64, 3), np.uint8), rng.integers(0, 3, (2, 64, 64), np.uint8)
    unet.train()
    stages = encoder_stages(unet.encoder)
    resting = len(stages) - 1  # the deepest is released
    frozen, criterion = freezing.frozen_parameters[resting], create_loss("ce", classes=3)
    for norm in freezing.frozen_norms[resting]:
        norm.eval()
    before = {name: tensor.clone() for name, tensor in unet.encoder.state_dict().items()}
    for _ in range(2):
        step([Batch(images, masks, ("a", "b"))], 0.0, criterion, 0.4, frozen=frozen)
    changed = {name for name, t in unet.encoder.named_parameters() if not torch.equal(t, before[name])}
    assert changed and changed <= stages[0], "only the deepest stage moves"
    shallow = next(name for name, m in unet.encoder.named_modules() if isinstance(m, nn.BatchNorm2d))
    key = f"{shallow}.running_mean"
    assert torch.equal(unet.encoder.state_dict()[key], before[key]), "its statistics rest as well"


def test_a_network_without_an_encoder_is_refused() -> None:
    lean = LeanNet(classes=2, widths=(4, 8, 8, 8, 8), decoder_channels=(4, 8, 8, 8))
    with pytest.raises(UsageError, match="no encoder to freeze"):
        GradualUnfreezing(lean, 0.2, 0.0)
    assert GradualUnfreezing(lean, 0.0, 0.0).frozen_stages(0.0) == 0
