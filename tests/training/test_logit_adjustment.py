"""Class scores shifted after training: the search against brute force, the layer that takes it, and when it is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import VALUES
from torch import nn

from segwright.core.types import LabelSpace
from segwright.data.dataset import Dataset, open_dataset
from segwright.demo.dataset import write_street_scenes
from segwright.evaluation.evaluate import Evaluation, evaluate
from segwright.evaluation.sequences import find_units
from segwright.inference.bundle import load_bundle
from segwright.inference.predictor import Predictor, load
from segwright.metrics.bootstrap import paired_difference
from segwright.metrics.confusion import ConfusionMatrix
from segwright.models.catalog import create_model
from segwright.models.leannet import LeanNet
from segwright.training import logit_adjustment, results
from segwright.training.config import TrainConfig
from segwright.training.logit_adjustment import (
    Gain,
    LogitAdjustment,
    find_class_bias,
    find_class_offsets,
    sample_scores,
)
from segwright.training.run import Run, run_training

FEW = "an interval takes 5 or more, and there are only"
STEPS = np.arange(
    -logit_adjustment.LARGEST, logit_adjustment.LARGEST + logit_adjustment.STEP / 2, logit_adjustment.STEP
)


@pytest.fixture(autouse=True)
def nothing_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows the shifts on held-out images changes confidences too; tests/training/test_held_out.py has it."""
    monkeypatch.setattr(results, "finish_on_held_out", lambda work: None)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(write_street_scenes(tmp_path_factory.mktemp("scenes"), train=12, val=4, test=0, size=(64, 96)))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """With enough validation images for an interval."""
    return open_dataset(write_street_scenes(tmp_path_factory.mktemp("many"), train=12, val=24, test=0, size=(64, 96)))


def miou(scores: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], class_offsets: np.ndarray[Any, Any]) -> float:
    """By the product's own metric; every class occurs in ``labels``."""
    confusion = ConfusionMatrix(len(scores))
    confusion.update((scores + class_offsets[:, None].astype(np.float32)).argmax(axis=0).astype(np.uint8), labels)
    return confusion.scores().miou


def doubtful(classes: int = 4, pixels: int = 600) -> tuple[Any, Any]:
    """Scores that lean towards the right class, and, all of them, too far towards class 1."""
    rng = np.random.default_rng(5)
    labels = rng.choice(classes, pixels, p=np.array([0.6, 0.1, 0.2, 0.1])).astype(np.int64)
    scores = rng.normal(size=(classes, pixels)).astype(np.float32)
    scores[labels, np.arange(pixels)] += 1.5
    scores[1] += 1.0
    return scores, labels


def test_every_step_of_a_shift_scores_as_if_it_were_tried() -> None:
    scores, labels = doubtful()
    class_offsets = np.array([0.3, 0.0, -0.2, 0.0])
    for label in range(4):
        found = logit_adjustment._scores_by_shift(scores, labels, class_offsets, label, STEPS)
        tried = [miou(scores, labels, np.where(np.arange(4) == label, step, class_offsets)) for step in STEPS]
        assert found == pytest.approx(tried, abs=1e-9)


def test_the_best_shifts_are_found() -> None:
    scores, labels = doubtful()
    class_offsets = find_class_offsets(scores, labels)
    gain = miou(scores, labels, class_offsets) - miou(scores, labels, np.zeros(4))
    assert gain > 0.02 and class_offsets[1] - np.delete(class_offsets, 1).mean() < -0.5, (
        "what speaks too loud is lowered"
    )
    for label in range(4):  # no other single shift is better by more than what is not worth it
        one = logit_adjustment._scores_by_shift(scores, labels, class_offsets, label, STEPS)
        assert one.max() <= miou(scores, labels, class_offsets) + logit_adjustment.LEAST_GAIN


def test_what_is_right_already_is_left_alone() -> None:
    labels = np.arange(300, dtype=np.int64) % 3
    scores = np.where(np.arange(3)[:, None] == labels, 1.0, 0.0).astype(np.float32)
    assert not find_class_offsets(scores, labels).any(), "of shifts that are as good, none"
    assert not find_class_offsets(scores[:, :0], labels[:0]).any(), "nothing to learn from"
    doubted, truth = doubtful()
    held = find_class_offsets(doubted, truth, np.array([True, False, True, True]))
    assert held[1] == 0 and held.any(), "a class that may not be shifted keeps its score"


@pytest.mark.parametrize(
    "name", ["leannet", "unet", "unet2015", "fcn32s", "fcn8s", "segnet_basic", "deeplabv2_vgg", "pspnet", "segformer"]
)
def test_the_last_layer_shifts_every_pixel_alike(name: str) -> None:
    model = create_model(name, classes=3, weights=None)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    bias = find_class_bias(model)
    assert bias is not None and model.training
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items()), "nothing is left behind"
    pixels = torch.randint(0, 256, (1, 102, 131, 3), dtype=torch.uint8)
    model.eval()
    with torch.inference_mode():
        plain = model(pixels).logits
        logit_adjustment.add_class_offsets(bias, np.array([0.5, -1.0, 0.25]))
        moved = model(pixels).logits - plain
    uneven = (moved - torch.tensor([0.5, -1.0, 0.25])[:, None, None]).abs()[..., 16:-16, 16:-16]
    assert uneven.max() < 2e-3, "but for the border, where FCN-32s's transposed convolution fades out"


def test_a_network_without_such_a_layer_stays() -> None:
    model = create_model("unet", classes=3, weights=None)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.bias = None
    assert find_class_bias(model) is None


def test_pixels_are_taken_from_all_over_and_what_is_ignored_is_not(
    scenes: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logit_adjustment, "PIXELS", 4000)
    predictor = Predictor.from_model(LeanNet(classes=scenes.label_space.classes), scenes.label_space, "cpu")
    scores, labels, shown = sample_scores(predictor, scenes.train)
    assert scores.shape == (scenes.label_space.classes, len(labels)) and 2000 < len(labels) <= 4000 + len(scenes.train)
    assert labels.max() < scenes.label_space.classes and np.exp(scores).sum(axis=0) == pytest.approx(1, abs=1e-3)
    masks = [sample.mask for sample in scenes.train if sample.mask is not None]
    true = np.sum([np.isin(np.arange(scenes.label_space.classes), mask) for mask in masks], axis=0)
    assert (shown <= true).all() and (shown >= true - 2).all(), "as many as show a class, but for a few pixels"


def trained(scenes: Dataset, folder: Path, *, resume: bool = False, **changed: Any) -> Run:
    narrow = {"widths": [4, 8, 8, 8, 8], "decoder_channels": [4, 8, 8, 8]}
    values = {
        **VALUES,
        "model.name": "leannet",
        "model.arguments": narrow,
        "training.device": "cpu",
        "out": str(folder),
    }
    values.update({f"training.{key}": value for key, value in changed.items()})
    return run_training(scenes, TrainConfig().with_values(values), resume=resume)


def test_it_is_kept_where_the_interval_of_the_gain_is_above_zero(
    many: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    longer: dict[str, Any] = {"epochs": 25, "validate_every": 25, "save_every_steps": 100}
    plain = trained(many, tmp_path / "plain", logit_adjustment=False, **longer)
    assert plain.evaluation is not None and "logit_adjustment" not in load_bundle(plain.model)[1].training
    capsys.readouterr()
    moved = trained(many, tmp_path / "moved", **longer)
    assert moved.plan.config.training.logit_adjustment is True and moved.evaluation is not None
    bundle = load_bundle(moved.model)[1]
    noted = bundle.training["logit_adjustment"]
    # Both by one predictor: the plain run's final scoring, not the validation during training.
    assert noted["kept"] and noted["val_miou"] == [plain.evaluation.miou, moved.evaluation.miou]
    paired = paired_difference(plain.evaluation.counts, moved.evaluation.counts, groups=plain.evaluation.drawn.groups)
    assert noted["difference_ci95"] == [paired.low, paired.high] and paired.low > 0
    assert noted["interval_over"] == "images" and noted["interval_count"] == 24
    said = capsys.readouterr().err
    assert "class scores shifted" in said and "over 24 images" in said
    assert ", kept\n" in said and "not kept" not in said
    assert bundle.metrics["val_miou"] == moved.evaluation.miou
    page = (moved.folder / "report.html").read_text()
    assert f"went from {100 * plain.evaluation.miou:.1f} to {100 * moved.evaluation.miou:.1f}" in page
    served = evaluate(load(moved.model, device="cpu"), many.val)
    assert served.miou == pytest.approx(moved.evaluation.miou)

    assert served.calibration is not None and plain.evaluation.calibration is not None
    assert bundle.metrics["val_ece"] == pytest.approx(served.calibration.ece()), "of the scores that are served"
    assert noted["val_ece"] == [plain.evaluation.calibration.ece(), bundle.metrics["val_ece"]]
    assert noted["val_ece"][0] != pytest.approx(noted["val_ece"][1], abs=1e-4)

    before = (moved.model / "model.safetensors").read_bytes()
    monkeypatch.setattr(results, "LogitAdjustment", None)  # killed before its end: the finish finds it done
    again = trained(many, tmp_path / "moved", resume=True, **longer)
    assert again.evaluation is not None and again.evaluation.miou == moved.evaluation.miou
    assert (again.model / "model.safetensors").read_bytes() == before
    assert load_bundle(again.model)[1].training["logit_adjustment"] == noted


def test_it_is_taken_back_where_validation_falls(
    scenes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = trained(scenes, tmp_path / "plain", logit_adjustment=False)
    one_class = np.eye(scenes.label_space.classes)[4] * 50
    monkeypatch.setattr(logit_adjustment, "find_class_offsets", lambda *given: one_class)
    kept = trained(scenes, tmp_path / "kept")
    weights = [(found.model / "model.safetensors").read_bytes() for found in (plain, kept)]
    assert weights[0] == weights[1] and "not kept" in capsys.readouterr().err
    assert plain.evaluation is not None and kept.evaluation is not None
    assert kept.evaluation.miou == plain.evaluation.miou
    assert load_bundle(kept.model)[1].training["logit_adjustment"]["kept"] is False


def test_too_few_images_for_an_interval_keep_no_shift(
    scenes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logit_adjustment, "find_class_offsets", lambda *given: np.full(scenes.label_space.classes, 0.5))
    found = trained(scenes, tmp_path / "run", epochs=1)
    noted = load_bundle(found.model)[1].training["logit_adjustment"]
    assert noted["kept"] is False and noted["why_not"] == f"{FEW} 4 images"
    assert f"not kept: {FEW} 4 images" in capsys.readouterr().err
    assert f"{FEW} 4 images" in (found.folder / "report.html").read_text()


def evaluations(right: Any, *, ids: list[str], groups: list[str] | None = None) -> Evaluation:
    """Of images of 100 pixels in two classes, of which ``right`` (N,) in each are right."""
    counts = np.array([[[r, r], [50, 50], [50, 50]] for r in right], np.int64)
    space = LabelSpace(("a", "b"), ((0, 0, 0), (9, 9, 9)))
    matrix = np.array([[1, 0], [0, 1]], np.int64)
    drawn = find_units(ids, groups=groups or ids)
    return Evaluation(space, "val", matrix, ids, counts, None, None, 0.0, [], [], drawn=drawn)


@pytest.mark.parametrize(
    ("before", "after", "groups", "why_not"),
    [
        ([30] * 12, [33] * 12, None, ""),
        ([30] * 12, [28] * 12, None, "the interval of the difference is not above zero"),
        ([30] * 12, [30] * 11 + [50], None, "the interval of the difference is not above zero"),  # one image's luck
        ([30] * 4, [40] * 4, None, f"{FEW} 4 images"),
        ([30], [40], None, f"{FEW} 1 image"),
        ([30] * 12, [40] * 12, ["x"] * 6 + ["y"] * 6, f"{FEW} 2 sequences"),
        # Most images gain, and all of those are frames of one drive.
        (
            [30] * 26,
            [36] * 20 + [29] * 6,
            ["x"] * 20 + ["y"] * 2 + list("bcde"),
            "the interval of the difference is not above zero",
        ),
    ],
)
def test_the_gain_is_judged_over_what_is_independent(
    before: list[int], after: list[int], groups: list[str] | None, why_not: str
) -> None:
    ids = [f"image {i}" for i in range(len(before))]
    gain = Gain(evaluations(before, ids=ids, groups=groups), evaluations(after, ids=ids, groups=groups))
    assert gain.why_not == why_not and gain.kept == (not why_not)
    assert (", kept" in str(gain)) == gain.kept and (f"not kept: {why_not}" in str(gain)) != gain.kept
    assert json.loads(json.dumps(gain.to_json(), allow_nan=False))["kept"] == gain.kept


def test_offsets_that_help_the_many_and_harm_the_few_are_not_kept() -> None:
    ids = [f"{'new' if i < 2 else 'old'}/{i}" for i in range(62)]
    before = evaluations([30] * 62, ids=ids)
    for few, kept in ((29, True), (22, False)):
        after = evaluations([few] * 2 + [33] * 60, ids=ids)
        gain = Gain(before, after, lambda name: name.partition("/")[0])
        assert gain.difference.low > 0 and gain.kept == kept
        assert gain.why_not == ("" if kept else "the mean over the parts of the validation images falls")


def test_one_class_has_no_border_to_move(scenes: Dataset) -> None:
    model = LeanNet(classes=1)
    found = LogitAdjustment(None, model, scenes.train)  # type: ignore[arg-type]  # nothing is asked of it
    assert found.class_offsets is None and found.to_json() == {} and "no layer" in found.why_not
    found.undo()


def test_no_shift_is_said_as_well(
    scenes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logit_adjustment, "find_class_offsets", lambda *given: np.zeros(scenes.label_space.classes))
    found = trained(scenes, tmp_path / "run", epochs=1)
    said = capsys.readouterr().err
    assert "class scores stay as they are: no shift raises" in said
    assert "logit_adjustment" not in load_bundle(found.model)[1].training
