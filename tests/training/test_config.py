"""Configs are closed, frozen, and say what does not fit."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from segwright.core.errors import ConfigError
from segwright.training import config as config_module
from segwright.training.config import TrainConfig, build, load_config, parse_overrides, parse_size


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
        ({"training.schedule": "sawtooth"}, "one of 'cosine', 'poly'"),
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


def _fields(kind: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, info in kind.model_fields.items():
        nested = info.annotation
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            yield from _fields(nested, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", info


def test_every_field_has_a_default_and_a_line_of_documentation() -> None:
    for key, info in _fields(TrainConfig):
        assert info.description, key
        assert not info.is_required(), key


NUMBERS = [key for key, info in _fields(TrainConfig) if re.search(r"\b(int|float)\b", str(info.annotation))]


@pytest.mark.parametrize("key", [key for key in NUMBERS if key != "training.class_weights"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 1e300])
def test_a_number_out_of_range_is_refused_with_its_key(key: str, value: float) -> None:
    if key == "training.size":
        return
    with pytest.raises(ConfigError) as caught:
        TrainConfig().with_values({key: value})
    assert f"the setting {key} does not fit" in str(caught.value) and f"fix: {key} is: " in str(caught.value)


def test_an_unknown_key_is_shown_as_it_was_written() -> None:
    for key in ("my-key", "float"):
        with pytest.raises(ConfigError, match=f"the setting training.{key} does not fit"):
            build(TrainConfig, {"training": {key: 1}})


@pytest.mark.parametrize("weights", [[1, "abc"], [1, -1], [0, 0], [float("nan"), 1], []])
def test_class_weights_that_are_none_are_refused(weights: list[object]) -> None:
    with pytest.raises(ConfigError, match="one number per class"):
        TrainConfig().with_values({"training.class_weights": weights})


@pytest.mark.parametrize("values", [{"training.batch": 0}, {"training.lr": 0}, {"training.ema": 1.0}])
def test_limits_that_are_not_included(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        TrainConfig().with_values(values)


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x]\n" + "".join(f"b{i}: &b{i} [*a, *a]\n" for i in range(3)),
        "training: " + "[" * 40 + "]" * 40,
        "training: {lr: " + "9" * 5000 + "}",
        "training: {epochs: 2024-01-01}",
        "out: " + "x" * (1 << 21),
        "training: {class_weights: [" + "1e400, " * 10 + "]}",
    ],
    ids=["aliases", "depth", "digits", "date", "length", "infinite"],
)
def test_hostile_yaml_is_refused_at_once(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    began = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "config.yaml")
    assert time.monotonic() - began < 20 and len(str(caught.value)) < 2000


def test_a_config_from_a_pipe_is_read_and_one_without_end_is_not(tmp_path: Path) -> None:
    handle, end = os.pipe()
    os.write(end, b"training:\n  seed: 7\n")
    os.close(end)
    try:
        assert load_config(f"/dev/fd/{handle}").training.seed == 7
    finally:
        os.close(handle)
    with pytest.raises(ConfigError, match="too large"):
        load_config("/dev/zero")


@pytest.mark.parametrize(("old", "new"), list(config_module.RENAMED.items()))
def test_a_former_name_of_a_setting_works_and_is_reported(
    old: str, new: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a config file, with --set, and in the plans and configs that earlier versions stored."""
    value = {"final_phase_loss": "dice", "prior_bias_init": False, "aux_decay": True, "fsdp": True}.get(new, 0.25)
    value = True if new == "loss_at_native_stride" else value
    for way in ("file", "override", "stored"):
        monkeypatch.setattr(config_module, "_warned", set())
        if way == "file":
            (tmp_path / "config.yaml").write_text(f"training:\n  {old}: {value}\n")
            found = load_config(tmp_path / "config.yaml")
        elif way == "override":
            found = TrainConfig().with_values(parse_overrides([f"training.{old}={value}"]))
        else:
            tree = TrainConfig().model_dump(mode="json")
            del tree["training"][new]
            tree["training"][old] = value
            found = build(TrainConfig, tree)
        assert getattr(found.training, new) == value and old not in found.model_dump()["training"], way
        line = f"warning: training.{old} is now training.{new}; the old name works until the next release"
        assert capsys.readouterr().err.splitlines() == [line], way
    with pytest.raises(ConfigError, match="the same setting"):
        build(TrainConfig, {"training": {old: value, new: value}})
