"""Configs are closed, frozen, and say what does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from segwright.config import TrainConfig, load_config, parse_overrides, parse_size
from segwright.errors import ConfigError


def test_yaml_round_trip(tmp_path: Path) -> None:
    config = TrainConfig().with_values(
        {"training.lr": 1e-3, "training.size": "352x480", "model.arguments": {"variant": "large"}, "training.ema": None}
    )
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    again = load_config(tmp_path / "config.yaml")
    assert again == config
    assert again.training.size == (352, 480)
    assert TrainConfig().training.lr == "auto", "a new object: the default stays"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"training.learning_rate": 1}, "no setting 'training.learning_rate'"),
        ({"trainning.lr": 1}, "no section 'trainning'"),
        ({"training.lr": "fast"}, "training.lr"),
        ({"training.schedule": "sawtooth"}, "one of cosine, poly"),
        ({"training.epochs": 3, "training.minutes": 2}, "epochs or minutes, not both"),
        ({"training.size": "352-480"}, "height x width"),
        ({"augment.strength": "brutal"}, "augment.strength"),
        ({"training.epochs": 0}, "training.epochs"),
    ],
)
def test_what_does_not_fit_is_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainConfig().with_values(values)


def test_overrides_are_read_as_yaml() -> None:
    found = parse_overrides(["training.lr=1e-3", "training.cache=false", "model.encoder=none", "training.batch=4"])
    assert found == {"training.lr": 1e-3, "training.cache": False, "model.encoder": "none", "training.batch": 4}
    assert TrainConfig().with_values(found).model.encoder is None
    with pytest.raises(ConfigError, match=r"section\.key=value"):
        parse_overrides(["lr=3"])


def test_yaml_tags_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("training: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(ConfigError, match="cannot read"):
        load_config(path)


def test_sizes() -> None:
    assert parse_size("352x480") == (352, 480)
    assert parse_size("256") == (256, 256)
    with pytest.raises(ConfigError):
        parse_size("1x2x3")
