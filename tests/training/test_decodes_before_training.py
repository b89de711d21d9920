"""Before the first step of a training every file of the dataset is decoded once, whatever needs its content."""

from __future__ import annotations

from pathlib import Path

import pytest
from counting import count_decodes, decodes, without_splits

from segwright.training.config import TrainConfig
from segwright.training.run import run_training
from segwright.training.trainer import Trainer


class Started(Exception):
    pass


def test_training_decodes_each_file_once_before_its_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = without_splits(tmp_path / "scenes")
    count_decodes(data, tmp_path / "log")

    def fit(*_: object, **__: object) -> None:
        raise Started

    monkeypatch.setattr(Trainer, "fit", fit)
    config = TrainConfig().with_values(
        {
            "model.name": "leannet",
            "training.epochs": 1,
            "training.batch": 2,
            "training.repeat_rare": 0.5,
            "training.device": "cpu",
            "out": str(tmp_path / "run"),
        }
    )
    with pytest.raises(Started):
        run_training(data, config)
    found = decodes(tmp_path / "log")
    expected = {f"{what} {record.id}" for record in data.records for what in ("image", "mask")}
    assert set(found) == expected and set(found.values()) == {1}
