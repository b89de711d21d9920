"""Temperature scaling: the number that is found, whether it is kept, and that only confidences change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from torch import nn

from segwright.core.errors import LabelError
from segwright.core.types import LabelSpace
from segwright.data.records import Sample
from segwright.evaluation.evaluate import evaluate
from segwright.evaluation.sequences import units_of
from segwright.evaluation.temperature import (
    SampledPixels,
    find_scale,
    find_temperature,
    fit_temperature,
    judge_temperature,
    split_units,
)
from segwright.exporting.export import export
from segwright.inference.bundle import Bundle, save_bundle
from segwright.inference.predictor import Predictor, load
from segwright.models.base import SegmentationModel, SegOutput
from segwright.models.catalog import create_model

NAMES = ("a", "b", "c", "d")


class Linear(SegmentationModel):
    """Class scores are a linear function of the colors."""

    def __init__(self, scale: float = 1.0, classes: int = 4) -> None:
        super().__init__(classes=classes, size_divisor=1)
        self.head = nn.Conv2d(3, classes, 1)
        generator = torch.Generator().manual_seed(0)
        self.head.weight.data = scale * torch.randn(classes, 3, 1, 1, generator=generator)
        self.head.bias.data = scale * torch.randn(classes, generator=generator) * 0.1  # type: ignore[union-attr]

    def classifier_layers(self) -> Any:
        return {"logits": (self.head,)}

    def forward_padded(self, x: Any) -> SegOutput:
        return SegOutput(self.head(x), {})


class Squared(Linear):
    """Its scores do not grow as its weights."""

    def forward_padded(self, x: Any) -> SegOutput:
        return SegOutput(self.head(x) ** 2, {})


class Normed(Linear):
    """Its weights have a fixed norm."""

    def forward_padded(self, x: Any) -> SegOutput:
        return SegOutput(nn.functional.conv2d(x, self.head.weight / self.head.weight.norm(), self.head.bias), {})


class Undeclared(Linear):
    def classifier_layers(self) -> Any:
        return {}


class Held:
    """Images of noise, whose labels are drawn from the network's probabilities at a true temperature."""

    def __init__(self, network: SegmentationModel, truth: float, count: int = 12, ids: Any = None) -> None:
        rng = np.random.default_rng(1)
        self.name, self.label_space = "val", LabelSpace(NAMES[: network.classes])
        self.ids = list(ids) if ids is not None else [f"shot{rng.integers(10**9)}" for _ in range(count)]
        self.images = rng.integers(0, 256, (len(self.ids), 40, 50, 3), dtype=np.uint8)
        self.masks = []
        with torch.inference_mode():
            for image in self.images:
                p = softmax(network.eval()(torch.from_numpy(image[None])).logits.numpy()[0] / truth, axis=0)
                drawn = (p.cumsum(axis=0) < rng.random(p.shape[1:])).sum(axis=0)
                mask = np.minimum(drawn, network.classes - 1).astype(np.uint8)
                mask[:3] = 255
                self.masks.append(mask)

    def __len__(self) -> int:
        return len(self.ids)

    def read_image(self, index: int) -> Any:
        return self.images[index]

    def read_mask(self, index: int) -> Any:
        return self.masks[index]


def predictor_of(network: SegmentationModel) -> Predictor:
    return Predictor.from_model(network, LabelSpace(NAMES[: network.classes]), "cpu")


def state_of(network: nn.Module) -> dict[str, Any]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("truth", [0.4, 1.0, 2.5])
def test_the_least_log_loss_is_found(truth: float) -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(5, 20_000)).astype(np.float32) * 3
    p = softmax(scores / truth, axis=0)
    labels = (p.cumsum(axis=0) < rng.random(p.shape[1])).sum(axis=0).clip(0, 4)
    found, at_limit = find_temperature(scores, labels)

    def loss(temperature: float) -> float:
        return float(-np.take_along_axis(log_softmax(scores / temperature, axis=0), labels[None], axis=0).mean())

    best = minimize_scalar(loss, bounds=(0.1, 10), method="bounded", options={"xatol": 1e-6}).x
    assert not at_limit and found == pytest.approx(best, abs=2e-3) and found == pytest.approx(truth, rel=0.05)
    again, _ = find_temperature(log_softmax(scores, axis=0).astype(np.float32), labels)  # log probabilities: the same
    assert again == pytest.approx(found, abs=1e-3)


def test_limits_are_told() -> None:
    scores = np.eye(3, dtype=np.float32)[:, [0, 1, 2, 0]]
    assert find_temperature(scores, np.array([0, 1, 2, 0])) == (0.1, True)  # all right: never sure enough
    assert find_temperature(scores, np.array([1, 2, 0, 1])) == (10.0, True)  # all wrong: never doubtful enough


@pytest.mark.parametrize("truth", [0.5, 2.0])
def test_a_temperature_that_helps_is_kept(truth: float) -> None:
    network = Linear()
    split, predictor = Held(network, truth), predictor_of(network)
    before = [predictor.predict(image, probabilities=True) for image in split.images[:3]]
    plain = evaluate(predictor, split, probabilities=True)
    lines: list[str] = []
    found = fit_temperature(predictor, network, split, message=lines.append)
    assert found.kept and found.temperature == pytest.approx(truth, rel=0.1) and not found.why
    assert found.before is not None and found.after is not None
    assert found.after.nll < found.before.nll and found.after.ece < found.before.ece
    assert found.nll_difference_ci95[1] < 0 and found.over == "images" and found.count == 12
    assert len(lines) == 1 and "kept" in lines[0] and "log loss" in lines[0]
    for prediction in before:
        after = predictor.predict(prediction.image, probabilities=True)
        assert np.array_equal(after.labels, prediction.labels)
        scaled = softmax(np.log(prediction.probabilities) / found.temperature, axis=0)
        np.testing.assert_allclose(after.probabilities, scaled, atol=1e-5)
    scored = evaluate(predictor, split, probabilities=True)
    assert np.array_equal(scored.matrix, plain.matrix)
    assert scored.figures["nll"] < plain.figures["nll"] and scored.figures["ece"] < plain.figures["ece"]
    assert found.before.nll == pytest.approx(plain.figures["nll"], rel=1e-4)  # small images: every pixel is sampled
    tree = found.to_json()
    assert tree["kept"] is True and tree["temperature"] == found.temperature and tree["after"]["ece"] < 0.05


def test_one_that_does_not_help_is_not_kept_and_no_bit_changes() -> None:
    network = Linear()
    before = state_of(network)
    found = fit_temperature(predictor_of(network), network, Held(network, 1.0))
    assert not found.kept and found.why and same(before, state_of(network))
    assert found.before is not None and found.temperature == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    ("network", "why"),
    [
        (Squared(), "evenly"),
        (Normed(), "evenly"),
        (Undeclared(), "declares no layers"),
        (Linear(classes=1), "one class"),
    ],
)
def test_networks_whose_scores_cannot_be_scaled(network: SegmentationModel, why: str) -> None:
    before = state_of(network)
    found = fit_temperature(predictor_of(network), network, Held(network, 2.0))
    assert not found.kept and why in found.why and found.before is None and same(before, state_of(network))


def test_too_few_units_decide_nothing() -> None:
    network = Linear()
    for ids, why in (
        (["one"], "too few"),
        (["one", "two", "three"], "3 images"),
        ([f"drive{s}_{i:04}" for s in "ab" for i in range(5)], "2 sequences"),
    ):
        before = state_of(network)
        found = fit_temperature(predictor_of(network), network, Held(network, 3.0, ids=ids))
        assert not found.kept and why in found.why and same(before, state_of(network))


def test_halves_keep_sequences_whole_and_blocks_together() -> None:
    ids = [f"{s}_{i:03}" for s, n in (("a", 6), ("b", 3), ("c", 3), ("d", 2)) for i in range(n)]
    half = split_units(units_of(ids, [name[0] for name in ids]))
    assert all(len({h for h, name in zip(half, ids, strict=True) if name[0] == s}) == 1 for s in "abcd")
    assert abs(2 * sum(half) - len(half)) <= 2
    one = [f"a_{i:03}" for i in range(27)]
    half = split_units(units_of(one, ["a"] * 27))
    assert half == sorted(half) and 9 <= sum(half) <= 18
    assert split_units(units_of(["x", "y", "z"], ["x", "y", "z"])) == [0, 1, 0]


def test_samples_of_another_pass_give_the_same() -> None:
    network = Linear()
    split, predictor = Held(network, 2.0), predictor_of(network)
    collected = SampledPixels(4, len(split))
    evaluate(predictor, split, collectors=[collected])
    direct = fit_temperature(predictor, Linear(), split)
    assert judge_temperature(collected).temperature == pytest.approx(direct.temperature, abs=1e-3)
    assert fit_temperature(predictor, network, split, sampled=collected).kept
    with pytest.raises(LabelError, match="K×H×W"):
        collected.add(0, "x", None, np.zeros((4, 4), np.uint8), probabilities=np.zeros((4, 4, 5), np.float32))
    count = len(collected.ids)
    collected.add(0, "void", None, np.full((4, 4), 255, np.uint8), probabilities=np.zeros((4, 4, 4), np.float32))
    assert len(collected.ids) == count


@pytest.mark.parametrize("name", ["leannet", "ddrnet", "segformer", "lraspp", "unet", "fcn8s"])
def test_networks_of_the_catalog_scale(name: str) -> None:
    network = create_model(name, classes=3, weights=None).eval()
    for layer in network.classifier_layers()["logits"]:  # FCN's begin at zero
        nn.init.normal_(layer.weight, std=0.1)  # type: ignore[arg-type]
    before = state_of(network)
    weights = find_scale(network)
    assert weights is not None and same(before, state_of(network)) and not network.training


def test_an_export_has_the_temperature(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    network = create_model("leannet", classes=3, weights=None).eval()
    nn.init.normal_(network.classifier_layers()["logits"][0].weight, std=1.0)  # type: ignore[arg-type]
    split = Held(network, 0.3, count=8)
    space = LabelSpace(NAMES[:3])
    bundle = Bundle(architecture=network.architecture, label_space=space, arguments=network.arguments)
    plain = predictor_of(network).predict(split.images[0], probabilities=True)
    found = fit_temperature(predictor_of(network), network, split)
    assert found.kept
    save_bundle(tmp_path / "model", network, replace(bundle, training={"temperature": found.to_json()}))
    samples = [Sample(id=split.ids[i], image=split.images[i], mask=split.masks[i]) for i in range(2)]
    path = Path(export(tmp_path / "model", "onnx", tmp_path / "model.onnx", samples=samples, with_logits=True).path)
    exported = load(path, device="cpu")
    answer = exported.predict(split.images[0], probabilities=True)
    scaled = softmax(np.log(plain.probabilities) / found.temperature, axis=0)
    np.testing.assert_allclose(answer.probabilities, scaled, atol=1e-3)
    assert np.array_equal(answer.labels, plain.labels)
    saved = evaluate(load(tmp_path / "model", device="cpu"), split)
    assert saved.temperature == found.temperature == saved.to_json()["calibration"]["temperature"]
    assert evaluate(predictor_of(network), split).to_json()["calibration"]["temperature"] is None
