"""What parts of a batch do not share is said, where there are parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import VALUES, trainer

from segwright.data.dataset import Dataset, open_dataset
from segwright.demo.dataset import write_street_scenes
from segwright.losses import create_loss
from segwright.training.config import TrainConfig
from segwright.training.distributed.world import World
from segwright.training.run import run_training


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(write_street_scenes(tmp_path_factory.mktemp("scenes"), train=8, val=2, test=0, size=(64, 96)))


def sentence(scenes: Dataset, folder: Path, final: str, *, world: World | None = None, **changed: Any) -> str:
    criterion = create_loss(final, classes=scenes.label_space.classes)
    run = trainer(scenes, folder, components={"final_criterion": criterion}, **changed)
    run.world = world or World()
    return run.decomposition_note()


def test_overlap_losses_and_batch_norms_are_named_where_there_are_parts(scenes: Dataset, tmp_path: Path) -> None:
    late = "ce+0.5*jaccard+0.1*lovasz"
    assert sentence(scenes, tmp_path, late) == "", "one process, batches whole"
    said = sentence(scenes, tmp_path, late, accumulate=2)
    assert said.startswith("an update takes 2 parts of 4 images; its gradient is that of the whole batch, except")
    assert "for the loss jaccard and the loss lovasz and batch norms, which see" in said
    said = sentence(scenes, tmp_path, "ce+dice", world=World(0, 2), accumulate=2)
    assert said.startswith("an update is taken by 2 processes in 2 parts each of 2 images; its gradient")
    assert "the loss dice and batch norms" in said
    said = sentence(scenes, tmp_path, "lovasz(per_image=true)", world=World(1, 4))
    assert (
        said.startswith("an update is taken by 4 processes of 1 image;") and "except for batch norms, which see" in said
    )


def test_what_decomposes_is_exact(scenes: Dataset, tmp_path: Path) -> None:
    said = sentence(scenes, tmp_path, "ce", accumulate=2, freeze_bn=True)
    assert said == "an update takes 2 parts of 4 images; its gradient is that of the whole batch"


def test_synchronized_norms_see_the_processes_and_not_the_parts(scenes: Dataset, tmp_path: Path) -> None:
    run = trainer(scenes, tmp_path, sync_bn=True)
    run.world, run.device = World(0, 2), torch.device("cuda")
    assert run.decomposition_note().endswith("its gradient is that of the whole batch")
    run.progress.num_micro_batches = 2
    assert "batch norms (of all processes together)" in run.decomposition_note()


def test_train_says_it_and_writes_it_down(scenes: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    narrow = {"widths": [4, 8, 8, 8, 8], "decoder_channels": [4, 8, 8, 8]}
    values = {**VALUES, "training.accumulate": 2, "training.epochs": 1, "training.final_phase_loss": "0.5*jaccard"}
    values |= {
        "model.name": "leannet",
        "model.arguments": narrow,
        "training.device": "cpu",
        "out": str(tmp_path / "run"),
    }
    config = TrainConfig().with_values(values)
    planned = run_training(scenes, config, dry_run=True)
    assert "an update takes 2 parts of 4 images" in capsys.readouterr().err
    assert "jaccard and batch norms" in planned.to_json()["plan"]["in_parts"]
    run = run_training(scenes, config)
    assert json.loads((run.folder / "plan.json").read_text())["in_parts"] == planned.in_parts
