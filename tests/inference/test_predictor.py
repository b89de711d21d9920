"""Predictors: large images in windows, with views and chains; the same chain everywhere; answers that are none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from segwright import api
from segwright.core.errors import ModelError, PostprocessError
from segwright.core.types import Float32Array, LabelSpace
from segwright.demo.dataset import write_street_scenes
from segwright.imageio import UInt8Array, read_mask
from segwright.inference.bundle import Bundle, load_bundle, save_bundle
from segwright.inference.prediction import Prediction
from segwright.inference.predictor import Predictor, load
from segwright.inference.sliding_window import sliding_windows
from segwright.inference.window_run import UNKNOWN, Windowing
from segwright.models.catalog import create_model

SPACE = LabelSpace(("ground", "thing", "other"))


class Colors:
    """A network that looks at the colors within four pixels: red, green, blue are its three classes."""

    classes, in_channels = 3, 3

    def __init__(self) -> None:
        self.largest = 0  # pixels of the largest image it was asked for

    def logits(self, images: UInt8Array) -> Float32Array:
        self.largest = max(self.largest, images.shape[1] * images.shape[2])
        seen = [cv2.blur(image.astype(np.float32), (9, 9)) for image in images]
        return np.stack(seen).transpose(0, 3, 1, 2) / 16

    def labels(self, images: UInt8Array) -> tuple[UInt8Array, Float32Array]:
        logits = self.logits(images)
        power = np.exp(logits - logits.max(axis=1, keepdims=True))
        return logits.argmax(axis=1).astype(np.uint8), (power.max(axis=1) / power.sum(axis=1)).astype(np.float32)


def scene(height: int = 230, width: int = 320) -> UInt8Array:
    """Soft colors with sharp discs and noise, so that a CRF and steps on regions have something to do."""
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.normal(128, 500, (height, width, 3)).astype(np.float32), (0, 0), 12)
    for _ in range(25):
        center = (int(rng.integers(width)), int(rng.integers(height)))
        color = [float(value) for value in rng.integers(60, 200, 3)]
        cv2.circle(image, center, int(rng.integers(2, 25)), color, -1)
    return np.clip(image + rng.normal(0, 12, image.shape), 0, 255).astype(np.uint8)


def both(post: str | None, tta: str | None = None, window: int = 128) -> tuple[Prediction, Prediction, Colors]:
    """(whole, in windows) of one image, and the network that saw the windows."""
    image = scene()
    whole = Predictor(Colors(), SPACE, post=post, tta=tta).predict(image)
    network = Colors()
    small = Predictor(network, SPACE, post=post, tta=tta)
    small.window = window
    return whole, small.predict(image), network


@pytest.mark.parametrize(
    ("post", "tta"),
    [
        (None, None), (None, "flip"), ("min-area(40)>fill-holes(30)>close(3)", None), ("min-area(0.5%)", None),
        ("smooth(7)>open(3)", "flip,vflip"),
    ],
)  # fmt: skip
def test_windows_change_nothing_where_the_network_looks_less_far_than_their_margin(
    post: str | None, tta: str | None
) -> None:
    """Views that keep the pixel grid, and every step on regions: exactly the whole image's answer."""
    whole, windowed, network = both(post, tta)
    assert np.array_equal(whole.labels, windowed.labels)
    np.testing.assert_allclose(whole.confidence, windowed.confidence, atol=1e-5)
    assert network.largest <= 128 * 128, "never more than a window at a time"
    if post:
        assert (Predictor(Colors(), SPACE).predict(scene()).labels != whole.labels).any(), "the chain had work to do"


@pytest.mark.parametrize(
    ("post", "share"),
    [("crf(w1=4,sa=12,sb=8,w2=3,sg=2,iterations=5)", 0.005), ("crf(w1=4,sa=12,sb=8,iterations=5)>min-area(30)", 0.01)],
)
def test_seams_of_a_crf_in_windows_do_not_show(post: str, share: float) -> None:
    """Fewer than one label in two hundred differs, and no more of them at the windows' edges than elsewhere. With
    min-area one in a hundred: a component that is just above the limit here and just below it there goes as a whole."""
    whole, windowed, network = both(post)
    wrong = whole.labels != windowed.labels
    assert wrong.mean() < share
    assert np.abs(whole.confidence - windowed.confidence).mean() < 0.01
    predictor = Predictor(Colors(), SPACE, post=post)
    predictor.window = 128
    steps = np.abs(np.diff(np.abs(whole.confidence - windowed.confidence), axis=1)).mean(axis=0)
    seams = {part.core_left - 1 for part in sliding_windows(230, 320, 128, predictor.windowing().margin)} - {-1}
    assert len(seams) >= 3
    assert steps[sorted(seams)].mean() < 3 * steps.mean() + 1e-4, "a seam would be a step in the difference"
    assert network.largest <= 128 * 128


def test_a_margin_too_narrow_would_show() -> None:
    """What the test above guards: with windows cut hard, the CRF's labels do differ along the seams."""
    image, text = scene(), "crf(w1=4,sa=12,sb=8,w2=3,sg=2,iterations=5)"
    whole = Predictor(Colors(), SPACE, post=text).predict(image)
    narrow = Predictor(Colors(), SPACE, post=text)
    narrow.window = 128
    narrow.windowing = lambda: Windowing(128, 0, 0, UNKNOWN, False)  # type: ignore[method-assign]
    wrong = (whole.labels != narrow.predict(image).labels).mean()
    assert wrong > 0.005


def test_probabilities_of_a_large_image_come_in_windows_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segwright.inference.window_run.DEFAULT_MARGIN", 16)
    image, network = scene(), Colors()
    predictor = Predictor(network, SPACE)
    expected = predictor.predict(image, probabilities=True).probabilities
    network.largest, predictor.window = 0, 128
    found = predictor.predict(image, probabilities=True).probabilities
    assert found is not None and expected is not None
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert network.largest <= 128 * 128


def test_progress_counts_every_window() -> None:
    done: list[int] = []
    predictor = Predictor(Colors(), SPACE, post="crf(w1=4,sa=12,sb=8,iterations=1)")
    predictor.window = 128
    predictor.predict(scene(), advance=done.append)
    assert sum(done) == predictor.window_count(scene()) > 8
    assert predictor.window_count(scene(100, 100)) == 1


class Broken(Colors):
    """A network whose weights are no numbers in one corner of the image."""

    def logits(self, images: UInt8Array) -> Float32Array:
        logits = super().logits(images)
        logits[:, :, 0, 0] = np.nan
        return logits


@pytest.mark.parametrize("path", ["street.jpg", Path("street.jpg")])
def test_a_path_in_place_of_an_array_is_named_as_that(path: str | Path) -> None:
    predictor = Predictor(Broken(), SPACE)
    with pytest.raises(ModelError, match="predictor\\(PATH\\)"):
        predictor.predict(path)  # type: ignore[arg-type]


@pytest.mark.parametrize("post", [None, "close(3)", "crf"])
@pytest.mark.parametrize("tta", [None, "flip"])
@pytest.mark.parametrize("window", [64, 1536])
def test_a_network_that_answers_nan_is_an_error(post: str | None, tta: str | None, window: int) -> None:
    predictor = Predictor(Broken(), SPACE, post=post, tta=tta)
    predictor.window = window
    with pytest.raises((ModelError, PostprocessError), match="NaN"):
        predictor.predict(scene(80, 90))


@pytest.mark.parametrize(
    "post", [None, "crf", "crf>min-area(10%)>superpixels>smooth(5)>open(3)>close(3)>fill-holes(9)"]
)
@pytest.mark.parametrize("tta", [None, "flip,0.5,2,rotate(90,30),shift(3)"])
def test_images_of_one_pixel_and_of_one_color_are_answered(post: str | None, tta: str | None) -> None:
    predictor = Predictor(Colors(), SPACE, post=post, tta=tta)
    for image in (np.full((1, 1, 3), (10, 200, 30), np.uint8), np.full((40, 50, 3), (10, 200, 30), np.uint8)):
        found = predictor.predict(image, probabilities=True)
        assert (found.labels == 1).all() and found.labels.shape == image.shape[:2]
        assert found.probabilities is not None and np.allclose(found.probabilities.sum(axis=0), 1, atol=1e-4)


class Single(Colors):
    classes = 1

    def logits(self, images: UInt8Array) -> Float32Array:
        return super().logits(images)[:, :1]


@pytest.mark.parametrize("post", [None, "crf>min-area(10)>smooth(3)"])
def test_one_class_is_answered(post: str | None) -> None:
    found = Predictor(Single(), LabelSpace(("all",)), post=post, tta="flip").predict(scene(40, 50))
    assert (found.labels == 0).all() and np.allclose(found.confidence, 1)


ARGUMENTS = {"widths": [4, 8, 8, 8, 8], "decoder_channels": [4, 8, 8, 8], "in_channels": 3}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(a bundle with a chain saved in it, a dataset of its classes)."""
    folder = tmp_path_factory.mktemp("tuned")
    data = write_street_scenes(folder / "street", train=4, val=6, test=2, size=(64, 80))
    space = api.open_dataset(data).label_space
    torch.manual_seed(1)
    network = create_model("leannet", classes=space.classes, weights=None, **ARGUMENTS).eval()
    with torch.no_grad():  # untrained networks hardly look at the image: these weights make this one decided
        for parameter in network.parameters():
            parameter.mul_(2.0 if parameter.ndim == 4 else 1.0)
    bundle = Bundle("leannet", space, ARGUMENTS, postprocess="crf(w1=6,sa=20,sb=20)>min-area(20)")
    return save_bundle(folder / "run" / "model", network, bundle), data


def test_predict_evaluate_and_exports_apply_the_saved_chain(tuned: tuple[Path, Path], tmp_path: Path) -> None:
    folder, data = tuned
    bare, chained = load(folder, post="none"), load(folder)
    split = api.open_dataset(data).val
    images = [split.read_image(i) for i in range(len(split))]
    expected = [chained(image).labels for image in images]
    alone = [bare(image).labels for image in images]
    assert any((a != e).any() for a, e in zip(alone, expected, strict=True)), "the chain changes labels here"
    assert str(chained.pipeline) == "crf(w1=6,sa=20,sb=20,w2=3,sg=3)>min-area(20)" and bare.pipeline is None
    models = {"bundle": folder}
    for form in ("bundle", "onnx", "openvino"):  # the other forms hold the same description: tests/exporting
        result = api.export(folder, form, tmp_path / f"model.{form}", data=data)
        models[form] = result.path
    for name, model in models.items():
        predictor = load(model, trust_external=True)
        assert str(predictor.pipeline) == str(chained.pipeline), name
        for image, labels in zip(images, expected, strict=True):
            assert (predictor(image).labels == labels).mean() > 0.999, name
        with_chain = api.evaluate(model, data, split="val", trust_external=True).miou
        without = api.evaluate(model, data, split="val", postprocess="none", trust_external=True).miou
        assert with_chain == pytest.approx(api.evaluate(chained, data, split="val").miou, abs=1e-3), name
        assert without == pytest.approx(api.evaluate(bare, data, split="val").miou, abs=1e-3), name
        assert abs(with_chain - without) > 1e-4, name
        written = api.predict(model, data / "images" / "val", out=tmp_path / name, overlay=False, trust_external=True)
        for row, labels in zip(written.results, expected, strict=True):
            assert (np.asarray(read_mask(row.mask)) == labels).mean() > 0.999, name
        assert load(model, post="none", trust_external=True).pipeline is None


def test_a_winner_goes_into_the_bundle_with_its_gain_and_cost(
    tuned: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from segwright.search import tune_postprocessing

    folder, data = tuned
    network, bundle = load_bundle(folder)
    copy = save_bundle(tmp_path / "model", network, replace(bundle, postprocess=None))
    result = tune_postprocessing.PostprocessingStudy("close(3)", True, 0.02, 0.01, 0.03, 7.5, 0.4, 0.42, 3, 3)
    monkeypatch.setattr(tune_postprocessing, "tune_post", lambda *a, **k: result)
    api.tune_postprocessing(copy, data)
    saved = json.loads((copy / "model.json").read_text())
    assert saved["postprocess"] == "close(3)"
    found = saved["metrics"]["postprocess"]
    assert (found["gain"], found["gain_ci95"], found["milliseconds"]) == (0.02, [0.01, 0.03], 7.5)
    assert str(load(copy).pipeline) == "close(3)"
    monkeypatch.setattr(
        tune_postprocessing, "tune_post", lambda *a, **k: replace(result, pipeline="open(3)", kept=False)
    )
    assert "Nothing is kept" in api.tune_postprocessing(copy, data).summary
    assert json.loads((copy / "model.json").read_text())["postprocess"] == "close(3)", "what was proven stays"
