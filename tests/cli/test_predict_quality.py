"""``evaluate --fit-error-model`` and ``predict --uncertainty --json`` on a small trained model."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from segwright import api
from segwright.cli import app
from segwright.core.errors import SegwrightError
from segwright.demo.dataset import write_street_scenes
from segwright.inference.bundle import load_bundle, save_bundle


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quality")
    write_street_scenes(folder / "streets", train=6, val=14, test=3, size=(96, 128))
    api.train(
        folder / "streets",
        model="leannet",
        epochs=2,
        out=folder / "run",
        size=(64, 96),
        batch=4,
        device="cpu",
        workers=1,
    )
    # As a model of before there were error models
    network, bundle = load_bundle(folder / "run" / "model")
    save_bundle(folder / "run" / "model", network, bundle)
    return folder


def command(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_from_held_out_images_to_the_estimate_of_a_prediction(place: Path) -> None:
    images = place / "streets" / "images" / "test"
    out = command(
        "predict", place / "run", images, "--out", place / "p0", "--json", place / "0.json", "--device", "cpu"
    )
    before = json.loads((place / "0.json").read_text())["results"]
    assert all("no error model in this bundle" in str(one["quality"]) for one in before), out

    told = command("evaluate", place / "run", place / "streets", "--split", "val", "--device", "cpu",
                   "--fit-error-model", "--json", place / "e.json")  # fmt: skip
    facts = json.loads((place / "e.json").read_text())["error_model"]
    assert facts["images"] == 14 and facts["interval_over"] in ("images", "blocks") and "error model of 14" in told

    command("predict", place / "run", images, "--out", place / "p1", "--json", place / "1.json", "--device", "cpu",
            "--uncertainty", "margin")  # fmt: skip
    after = json.loads((place / "1.json").read_text())["results"]
    for old, new in zip(before, after, strict=True):
        assert old["shares"] == new["shares"]  # nothing of the prediction changes
        quality = new["quality"]
        assert 0 <= quality["estimated_miou"]["iou"] <= 1 and quality["regions_in_all"] > 0
        assert set(quality["per_class"]) == set(new["shares"])
        assert {"class", "box", "area", "probability_wrong", "expected_iou"} == set(quality["regions"][0])
        written = cv2.imread(new["uncertainty"], cv2.IMREAD_UNCHANGED)
        assert written.shape == (96, 128) and new["mean_uncertainty"] == pytest.approx(written.mean() / 255, abs=0.003)

    single = next(images.glob("*.png"))
    shown = command("predict", place / "run", single, "--out", place / "p2", "--device", "cpu", "--quality",
                    "--uncertainty", "tta(flip,1)", "--uncertainty-format", "npy")  # fmt: skip
    assert "estimated mIoU" in shown and "uncertainty:" in shown
    saved = np.load(next((place / "p2").glob("*.uncertainty.npy")))
    assert saved.dtype == np.float32 and saved.shape == (96, 128)


def test_an_evaluation_tells_how_well_uncertainty_finds_errors(place: Path) -> None:
    shown = command("evaluate", place / "run", place / "streets", "--split", "test", "--device", "cpu",
                    "--uncertainty", "entropy,tta(flip,1)", "--json", place / "u.json")  # fmt: skip
    found = json.loads((place / "u.json").read_text())["uncertainty"]
    assert set(found) == {"entropy", "tta(flip,1)"} and "AUROC" in shown
    for one in found.values():
        assert 0 <= one["aurc"] <= 1 and 0 <= one["auroc"] <= 1 and len(one["risk"]) == len(one["coverage"])
        low, high = one["intervals"]["auroc"]
        assert low <= one["auroc"] <= high
    with pytest.raises(SegwrightError, match="no ensemble"):
        command("evaluate", place / "run", place / "streets", "--device", "cpu", "--uncertainty", "ensemble")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--uncertainty", "entropie"), "unknown measure"),
        (("--uncertainty", "ensemble"), "no ensemble"),
        (("--uncertainty", "entropy", "--uncertainty-format", "tiff"), "unknown format of uncertainty"),
    ],
)
def test_a_measure_that_cannot_be_had_is_refused_before_any_work(
    place: Path, options: tuple[str, ...], problem: str
) -> None:
    out = place / "refused"
    with pytest.raises(SegwrightError, match=problem):
        command(
            "predict", place / "run", place / "streets" / "images" / "test", "--out", out, "--device", "cpu", *options
        )
    assert not list(out.glob("*.png"))


def test_an_exported_file_keeps_no_error_model(place: Path) -> None:
    with pytest.raises(SegwrightError, match="run folder or a bundle"):
        api.fit_error_model(place / "run" / "model" / "model.json", place / "streets")
