"""Maps of uncertainty: their formulas, their windows, and networks that cannot give them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy.special import softmax

from segwright.core.errors import LabelError, ModelError, PostprocessError, UsageError
from segwright.core.types import Float32Array, LabelSpace
from segwright.imageio import UInt8Array
from segwright.inference.predictor import Predictor
from segwright.inference.torch_runtime import TorchRuntime
from segwright.inference.tta import parse_tta
from segwright.inference.uncertainty import MEASURES, Moments, parse_measure, parse_measures
from segwright.models.catalog import create_model
from segwright.models.ensemble import Ensemble

SPACE = LabelSpace(("ground", "thing", "other"))


class Soft:
    """A network whose classes are the three colors; it sees a place only where the image is bright on the left."""

    classes, in_channels = 3, 3

    def __init__(self) -> None:
        self.largest = 0

    def logits(self, images: UInt8Array) -> Float32Array:
        self.largest = max(self.largest, images.shape[1] * images.shape[2])
        ramp = np.linspace(0, 1, images.shape[2], dtype=np.float32)[:, None]
        return np.ascontiguousarray(np.moveaxis(images.astype(np.float32) / 40 * (0.5 + ramp), -1, 1))

    def labels(self, images: UInt8Array) -> tuple[UInt8Array, Float32Array]:
        p = softmax(self.logits(images), axis=1)
        return p.argmax(axis=1).astype(np.uint8), p.max(axis=1).astype(np.float32)


def image(height: int = 48, width: int = 64, seed: int = 0) -> UInt8Array:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def brute(samples: Sequence[Float32Array]) -> tuple[np.ndarray, np.ndarray]:
    """(variance, mutual information over log K) of samples (K, H, W)."""
    stack = np.stack(samples).astype(np.float64)
    mean = stack.mean(axis=0)
    entropy = -(stack * np.log(stack + 1e-30)).sum(axis=1).mean(axis=0)
    total = -(mean * np.log(mean + 1e-30)).sum(axis=0)
    return stack.var(axis=0).sum(axis=0), (total - entropy) / np.log(len(mean))


def test_the_measures_of_probabilities_are_their_formulas() -> None:
    predictor = Predictor(Soft(), SPACE)
    pixels = image()
    found = {name: predictor.predict(pixels, uncertainty=name) for name in ("confidence", "entropy", "margin")}
    p = softmax(Soft().logits(pixels[None])[0], axis=0).astype(np.float64)
    ordered = np.sort(p, axis=0)
    wanted = {
        "confidence": 1 - ordered[-1],
        "entropy": -(p * np.log(p)).sum(axis=0) / np.log(3),
        "margin": 1 - ordered[-1] + ordered[-2],
    }
    for name, prediction in found.items():
        assert prediction.uncertainty is not None and prediction.uncertainty.dtype == np.float32
        assert np.allclose(prediction.uncertainty, wanted[name], atol=1e-5)
        assert prediction.probabilities is None  # was not asked for
    assert np.array_equal(found["entropy"].labels, predictor.predict(pixels).labels)


def test_views_that_disagree_are_uncertain() -> None:
    pixels, views = image(), "flip,1"
    samples = [p for p, _ in parse_tta(views).each(Soft().logits, pixels)]
    variance, information = brute(samples)
    predictor = Predictor(Soft(), SPACE)
    one = predictor.predict(pixels, uncertainty=f"tta({views})").uncertainty
    other = predictor.predict(pixels, uncertainty=f"tta-information({views})").uncertainty
    assert one is not None and other is not None
    assert np.allclose(one, variance, atol=1e-5) and np.allclose(other, information, atol=1e-5)
    assert variance.max() > 0.03


def test_views_that_agree_are_certain() -> None:
    class Colors(Soft):
        def logits(self, images: UInt8Array) -> Float32Array:
            return np.ascontiguousarray(np.moveaxis(images.astype(np.float32) / 40, -1, 1))

    found = Predictor(Colors(), SPACE).predict(image(), uncertainty="tta(flip,vflip)").uncertainty
    assert found is not None and found.max() < 1e-5


def test_a_pixel_outside_a_view_is_weighed_by_the_others() -> None:
    moments = Moments(2, (1, 2))
    moments.add(np.array([[[0.9, 0.9]], [[0.1, 0.1]]], np.float32))
    moments.add(np.array([[[0.1, 0.1]], [[0.9, 0.9]]], np.float32), np.array([[1, 0]], np.float32))
    variance = moments.variance()
    assert variance[0, 0] == pytest.approx(2 * 0.16, abs=1e-6) and variance[0, 1] == pytest.approx(0, abs=1e-6)
    assert moments.information()[0, 1] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("measure", ["entropy", "tta(flip,vflip)"])
def test_large_images_go_through_windows(measure: str) -> None:
    pixels = np.tile(image(32, 32), (6, 8, 1))
    network = Soft()
    predictor = Predictor(network, SPACE)
    predictor.window = 128
    found = predictor.predict(pixels, uncertainty=measure)
    assert network.largest <= 128 * 128
    assert found.uncertainty is not None and found.uncertainty.shape == pixels.shape[:2]
    assert np.isfinite(found.uncertainty).all() and 0 <= found.uncertainty.min() <= found.uncertainty.max() <= 1


def test_the_map_of_windows_is_the_map_of_the_whole() -> None:
    class Colors(Soft):
        def logits(self, images: UInt8Array) -> Float32Array:
            self.largest = max(self.largest, images.shape[1] * images.shape[2])
            return np.ascontiguousarray(np.moveaxis(images.astype(np.float32) / 40, -1, 1))

    pixels = image(150, 210)
    whole, parts = Predictor(Colors(), SPACE), Predictor(Colors(), SPACE)
    parts.window = 100
    one, other = (p.predict(pixels, uncertainty="entropy").uncertainty for p in (whole, parts))
    assert one is not None and other is not None and np.allclose(one, other, atol=1e-6)


def dropout_network() -> Predictor:
    torch.manual_seed(0)
    network = create_model("fc_densenet56", classes=3, weights=None)
    return Predictor(TorchRuntime(network, "cpu"), SPACE)


def test_dropout_is_the_information_of_its_passes_and_leaves_the_network_as_it_was() -> None:
    predictor, pixels = dropout_network(), image(32, 32)
    before = predictor.predict(pixels, probabilities=True).probabilities
    state = torch.random.get_rng_state()
    first = predictor.predict(pixels, uncertainty="dropout(4)").uncertainty
    again = predictor.predict(pixels, uncertainty="dropout(4)").uncertainty
    variance = predictor.predict(pixels, uncertainty="dropout-variance(4)").uncertainty
    after = predictor.predict(pixels, probabilities=True).probabilities
    assert first is not None and again is not None and variance is not None and before is not None
    assert np.array_equal(first, again) and first.max() > 1e-4 and variance.max() > 1e-4
    assert after is not None and np.array_equal(before, after)
    assert torch.equal(state, torch.random.get_rng_state())


def test_members_that_disagree_are_uncertain() -> None:
    torch.manual_seed(1)
    members = [create_model("segnet_basic", classes=3, weights=None, width=4) for _ in range(3)]
    pixels = image(32, 32)
    alone = [TorchRuntime(member, "cpu") for member in members]
    variance, information = brute([softmax(one.logits(pixels[None])[0], axis=0) for one in alone])
    predictor = Predictor(TorchRuntime(Ensemble(members=members), "cpu"), SPACE)
    one = predictor.predict(pixels, uncertainty="ensemble").uncertainty
    other = predictor.predict(pixels, uncertainty="ensemble-variance").uncertainty
    assert one is not None and other is not None
    assert np.allclose(one, information, atol=1e-4) and np.allclose(other, variance, atol=1e-4)


def test_networks_that_cannot_say_what_to_do_instead() -> None:
    network = create_model("segnet_basic", classes=3, weights=None, width=4)
    predictor = Predictor(TorchRuntime(network, "cpu"), SPACE)
    with pytest.raises(ModelError, match="no dropout layer") as no_dropout:
        predictor.predict(image(), uncertainty="dropout")
    assert "tta" in str(no_dropout.value.fix)
    with pytest.raises(ModelError, match="no ensemble") as no_members:
        predictor.predict(image(), uncertainty="ensemble")
    assert "segwright export A B --to bundle" in str(no_members.value.fix)
    with pytest.raises(ModelError, match="exported file"):
        Predictor(Soft(), SPACE).predict(image(), uncertainty="dropout")


def test_texts_come_back() -> None:
    for name in MEASURES:
        measure = parse_measure(name)
        assert parse_measure(str(measure)) == measure
    assert parse_measure("dropout(20)").passes == 20
    assert [one.name for one in parse_measures("entropy, tta(flip,0.75,1), margin")] == ["entropy", "tta", "margin"]


@pytest.mark.parametrize(
    "text",
    ["", "entropie", "entropy(3)", "dropout(1)", "dropout(201)", "dropout(x)", "tta(1)", "ensemble(2)", "tta(flip"],
)
def test_unknown_measures_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_measure(text)


def test_unknown_views_show_their_place() -> None:
    with pytest.raises(PostprocessError, match="spin"):
        parse_measure("tta(spin,1)")
    with pytest.raises(UsageError, match="twice"):
        parse_measures("entropy,entropy")


def test_an_image_of_the_map_needs_the_map() -> None:
    found = Predictor(Soft(), SPACE).predict(image())
    with pytest.raises(LabelError, match="no uncertainty"):
        found.uncertainty_image()
