"""The range test: on a made-up curve the right rates are read, and on a real network it runs, learns and stops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from segwright.augment import presets
from segwright.core.errors import UsageError
from segwright.data.dataset import open_dataset
from segwright.demo.dataset import write_street_scenes
from segwright.losses import create_loss
from segwright.models.leannet import LeanNet
from segwright.search.lr_range import range_page, range_test, read_curve
from segwright.training.callbacks.log import Display
from segwright.training.components import TrainerComponents
from segwright.training.config import TrainConfig
from segwright.training.trainer import Trainer

VALUES = {
    "training.epochs": 1,
    "training.phases": [{"until": 1.0, "size": (64, 96), "scale": (0.7, 1.3), "batch": 4}],
    "training.optimizer": "sgd", "training.lr": 0.02, "training.encoder_lr_factor": 1.0, "training.weight_decay": 0.0,
    "training.warmup": 0.0, "training.ema": None, "training.validate_every": 1, "training.precision": "fp32",
    "training.compile": False, "training.workers": 1, "training.cache": True,
}  # fmt: skip


def test_the_curve_is_read_where_it_falls_fastest_and_where_it_is_lowest() -> None:
    rates = np.logspace(-5, 0, 101)
    x = np.log10(rates)
    # flat, a fall centered on 1e-3, and a rise from 1e-1 on
    losses = 2 - 1 / (1 + np.exp(-4 * (x + 3))) + np.maximum(0, x + 1) ** 2
    steepest, lowest = read_curve(rates.tolist(), losses.tolist())
    assert np.log10(steepest) == pytest.approx(-3, abs=0.1) and np.log10(lowest) == pytest.approx(-1, abs=0.3)


def test_the_first_losses_have_no_slope() -> None:
    """Their mean is of one loss, then of two: it jumps, and would be taken for the steepest fall."""
    rates = np.logspace(-5, 0, 101)
    x = np.log10(rates)
    losses = 2 - 1 / (1 + np.exp(-4 * (x + 3))) + np.maximum(0, x + 1) ** 2
    losses[0] += 0.5
    steepest, _ = read_curve(rates.tolist(), losses.tolist())
    assert np.log10(steepest) == pytest.approx(-3, abs=0.1)
    assert read_curve([1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 1.0, 2.0]) == (2.0, 3.0), "short curves are read as well"


def test_a_network_falls_then_runs_away(tmp_path: Path) -> None:
    scenes = open_dataset(write_street_scenes(tmp_path / "s", train=8, val=1, test=0, size=(64, 96)))
    config = TrainConfig().with_values(VALUES)
    classes = scenes.label_space.classes
    torch.manual_seed(0)
    model = LeanNet(classes=classes, widths=(4, 8, 8, 8, 8), decoder_channels=(4, 8, 8, 8), depths=(0, 1, 1, 1, 1))
    loss = create_loss("ce", classes=classes)
    phase = config.training.phases[0]
    trainer = Trainer(
        TrainerComponents(
            model=model,
            criterion=loss,
            final_criterion=loss,
            train=scenes.train,
            val=None,
            config=config,
            transforms={phase: presets.training(size=phase.size, scale=phase.scale)},
            folder=tmp_path / "never",
            device=torch.device("cpu"),
            display=Display(show=False),
        )
    )
    with pytest.raises(UsageError, match="low to high"):
        range_test(trainer, low=1.0, high=0.1)
    found = range_test(trainer, low=1e-4, high=1e4, steps=40)
    assert found.diverged and len(found.rates) < 40, "a rate of thousands runs away, and the test ends there"
    assert found.rates == tuple(sorted(found.rates)) and found.rates[0] == pytest.approx(1e-4)
    assert found.rates[0] <= found.steepest <= found.lowest < found.rates[-1]
    assert min(found.smoothed) < found.smoothed[0]
    page = range_page(found, command="segwright lr-range DATA")
    assert "suggested --lr" in page and "<svg" in page
    assert not (tmp_path / "never").exists(), "nothing is written"
