"""tune-post and plot-crf through the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from segwright import api
from segwright.cli import app
from segwright.core.errors import SegwrightError
from segwright.demo.dataset import write_street_scenes
from segwright.imageio import read_image
from segwright.inference.bundle import Bundle, load_bundle, save_bundle
from segwright.models.catalog import create_model

ARGUMENTS = {"widths": [4, 8, 8, 8, 8], "decoder_channels": [4, 8, 8, 8], "in_channels": 3}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(a saved model of random weights, data)"""
    folder = tmp_path_factory.mktemp("post")
    data = write_street_scenes(folder / "street", train=1, val=5, test=1, size=(64, 80))
    space = api.open_dataset(data).label_space
    torch.manual_seed(1)
    network = create_model("leannet", classes=space.classes, weights=None, **ARGUMENTS).eval()
    return save_bundle(folder / "run" / "model", network, Bundle("leannet", space, ARGUMENTS)), data


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_figure_by_the_command_line(places: tuple[Path, Path], tmp_path: Path) -> None:
    model, data = places
    done = run(
        "plot-crf", model, data, "--split", "val", "--count", 2, "--width", 60, "--iterations", "1,3",
        "--show-probability", "road", "--out", tmp_path / "figure.png",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    figure = read_image(tmp_path / "figure.png")
    assert figure.shape[1] == 2 * 14 + 5 * 60 + 4 * 8, "image, network, two of the CRF, ground truth"
    names = list(api.open_dataset(data).val.ids)
    path = api.plot_crf(model, data, tmp_path / "one.png", split="val", ids=names[1:2], crf="crf(sa=20)", width=60)
    assert read_image(path).shape[0] < figure.shape[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--iterations", "1,two"), "whole numbers"),
        (("--crf", "close(3)"), "one CRF"),
        (("--crf", "crf>close(3)"), "one CRF"),
        (("--crf", "crf(deeplab)"), "did you mean"),
        (("--id", "pony"), "no such image"),
        (("--show-probability", "pony"), "unknown class"),
    ],
)
def test_what_the_figure_cannot_show_is_said(
    places: tuple[Path, Path], tmp_path: Path, arguments: tuple[str, str], words: str
) -> None:
    model, data = places
    done = run("plot-crf", model, data, "--width", 60, "--out", tmp_path / "x.png", *arguments)
    assert isinstance(done.exception, SegwrightError) and words in str(done.exception)
    assert not (tmp_path / "x.png").exists()


def test_every_command_that_runs_a_model_takes_the_reading_of_8_bit_images() -> None:
    for name in ("evaluate", "predict", "compare", "serve", "tune-post", "plot-crf"):
        text = run(name, "--help").output
        assert "--eight-bit" in text and "--trust-external" in text, name


def test_the_figure_of_8_bit_images_under_a_deep_model(places: tuple[Path, Path], tmp_path: Path) -> None:
    """Both readings are asked for, and each is drawn from the values that it stands for."""
    model, data = places
    network, bundle = load_bundle(model)
    ranged = replace(bundle, preprocessing={**bundle.preprocessing, "value_range": {"low": [1000], "high": [1510]}})
    deep = save_bundle(tmp_path / "deep" / "model", network, ranged)
    arguments = ("plot-crf", deep, data, "--split", "val", "--count", 1, "--width", 60, "--iterations", "1")
    refused = run(*arguments, "--out", tmp_path / "none.png")
    assert isinstance(refused.exception, SegwrightError) and "--eight-bit" in str(refused.exception)
    for reading in ("scaled", "raw"):
        done = run(*arguments, "--eight-bit", reading, "--out", tmp_path / f"{reading}.png")
        assert done.exit_code == 0, done.output
    scaled, raw = (read_image(tmp_path / f"{reading}.png") for reading in ("scaled", "raw"))
    assert scaled[20:40, 20:60].mean() > 20 and not np.array_equal(scaled, raw)


@pytest.mark.parametrize("kept", [True, False])
def test_a_winner_that_is_not_saved_is_named_as_that(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    model, data = places
    found = api.tune_postprocessing(model, data, split="val", keep=False, minutes=0.01)
    monkeypatch.setattr(api, "tune_postprocessing", lambda *_, **__: replace(found, kept=kept))
    shown = run("tune-post", model, data, "--no-save").output
    assert ("because of --no-save" in shown) == kept
    assert "because of --no-save" not in run("tune-post", model, data).output


def test_tune_post_by_the_command_line(places: tuple[Path, Path], tmp_path: Path) -> None:
    model, data = places
    before = (model / "model.json").read_text()
    done = run(
        "tune-post",
        model,
        data,
        "--minutes",
        0.01,
        "--tta",
        "flip",
        "--pipeline",
        "close(3)",
        "--json",
        tmp_path / "t.json",
    )
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "t.json").read_text())
    assert found["kept"] is False and "othing is kept" in done.output, "five images prove nothing"
    assert "test-time views flip" in " ".join(found["notes"])
    assert (model / "model.json").read_text() == before
    exported = tmp_path / "model.onnx"
    exported.write_bytes(b"any")
    done = run("tune-post", exported, data)
    assert isinstance(done.exception, SegwrightError) and "tuned before the export" in str(done.exception)
