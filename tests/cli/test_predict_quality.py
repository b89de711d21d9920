"""``evaluate --fit-error-model`` and ``predict --uncertainty --json`` on a small trained model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

import segwright as sw
from segwright import api
from segwright.cli import app
from segwright.core.errors import SegwrightError, UsageError
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
    assert out.count("no estimated mIoU: no error model in this bundle") == 1

    told = command("evaluate", place / "run", place / "streets", "--split", "val", "--device", "cpu",
                   "--fit-error-model", "--json", place / "e.json")  # fmt: skip
    facts = json.loads((place / "e.json").read_text())["error_model"]
    assert facts["images"] == 14 and facts["interval_over"] in ("images", "blocks") and "error model of 14" in told

    told = command("predict", place / "run", images, "--out", place / "p1", "--json", place / "1.json",
                   "--device", "cpu", "--uncertainty", "margin")  # fmt: skip
    after = json.loads((place / "1.json").read_text())["results"]
    lowest = min(after, key=lambda one: one["quality"]["estimated_miou"]["iou"])
    worst = f"{lowest['file']} {100 * lowest['quality']['estimated_miou']['iou']:.0f} %"
    assert "in the mean of 3 images; lowest: " + worst in told
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


@pytest.mark.parametrize(
    ("start", "option", "value", "needed"),
    [
        (("predict", "model", "image.png"), "--uncertainty-format", "npy", "--uncertainty"),
        (("predict", "model", "image.png"), "--simplify", "2", "--polygons"),
        (("predict", "model", "image.png"), "--keep-images", "5%", "--journal"),
        (("predict", "model", "image.png"), "--block", "8", "--ray"),
        (("serve", "model"), "--retention", "2w", "--journal"),
        (("serve", "model"), "--journal-max-size", "2GB", "--journal"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(
    start: tuple[str, ...], option: str, value: str, needed: str
) -> None:
    with pytest.raises(UsageError, match=f"options of {needed} without it") as caught:
        app([*start, option, value], standalone_mode=False)
    assert caught.value.found == option and caught.value.fix == f"add {needed}"


def test_images_of_the_training_are_noted(place: Path, tmp_path: Path) -> None:
    """Scores, comparisons and what is fitted on images that the model was trained on have a note, others none."""
    data, other = place / "streets", tmp_path / "other"
    shutil.copytree(place / "run" / "model", other)  # without the record of its run
    told = "the model was trained on 6 of these 6 images"
    shown = command("evaluate", place / "run", data, "--split", "train", "--device", "cpu", "--json", tmp_path / "t")
    assert f"note: {told}: these figures do not hold" in shown
    assert any(told in note for note in json.loads((tmp_path / "t").read_text())["notes"])
    for model, split in ((place / "run", "val"), (other, "train")):
        assert "trained on" not in command("evaluate", model, data, "--split", split, "--device", "cpu")
    for models in ((place / "run", other), (other, place / "run")):
        found = api.compare(models, data, split="train", device="cpu", speed=False)
        assert [note for note in found.notes if told in note] == [
            f"{place / 'run'}: {told}: it has an advantage over models that were not"
        ]
    assert not any("trained on" in note for note in api.compare([place / "run", other], data, speed=False).notes)
    run = tmp_path / "run"
    shutil.copytree(place / "run", run)
    shown = command("reference", run, data, "--split", "train", "--device", "cpu", "--json", tmp_path / "r")
    assert f"note: {told}" in shown and told in json.loads((tmp_path / "r").read_text())["notes"][0]
    assert told in sw.read_reference(run).notes[0]
    assert sw.make_reference(run, data, split="val", device="cpu").notes == ()
    assert "The model was trained on 6 of these 6" in api.tune_postprocessing(run, data, split="train").summary
    facts = api.fit_error_model(run, data, split="all", device="cpu")
    assert any("trained on 6 of these 23 images: the estimates are too good" in note for note in facts["notes"])


def test_an_error_model_is_fitted_with_the_views_and_the_post_processing_that_were_asked_for(
    place: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(place / "run", run)
    asked = ["--device", "cpu", "--postprocess", "min-area(20)", "--tta", "flip"]
    command("evaluate", run, place / "streets", "--split", "val", "--fit-error-model", *asked)
    image = next((place / "streets" / "images" / "test").glob("*.png"))
    command("predict", run, image, "--out", tmp_path / "as-fitted", "--json", tmp_path / "as-fitted.json", *asked)
    command("predict", run, image, "--out", tmp_path / "plain", "--json", tmp_path / "plain.json", "--device", "cpu",
            "--postprocess", "none")  # fmt: skip
    assert "was fitted with" not in (tmp_path / "as-fitted.json").read_text()
    assert "the error model was fitted with" in (tmp_path / "plain.json").read_text()


def test_the_model_of_a_cross_validation_has_seen_what_its_folds_have(place: Path, tmp_path: Path) -> None:
    """Its record is in the folders of the folds; the validation images of each are training images of the others."""
    shutil.copytree(place / "run" / "model", tmp_path / "model")
    known = json.loads((place / "run" / "data.json").read_text())
    images = [*known["train"].items(), *known["val"].items()]
    for fold in range(2):
        (tmp_path / f"fold-{fold}").mkdir()
        prints = {"train": dict(images[1 - fold :: 2]), "val": dict(images[fold::2])}
        (tmp_path / f"fold-{fold}" / "data.json").write_text(json.dumps(prints))
    for model in (tmp_path, tmp_path / "model"):
        shown = command("evaluate", model, place / "streets", "--split", "val", "--device", "cpu")
        assert "the model was trained on 14 of these 14 images" in shown


def test_an_exported_file_keeps_no_error_model(place: Path) -> None:
    with pytest.raises(SegwrightError, match="run folder or a bundle"):
        api.fit_error_model(place / "run" / "model" / "model.json", place / "streets")
