"""The record of an image: what its numbers mean, and that it is the same however the image was predicted."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy.special import softmax
from test_contract import SMALL

from segwright import kernels
from segwright.core.errors import UsageError
from segwright.core.types import LabelSpace
from segwright.imageio import UInt8Array
from segwright.inference.predictor import Predictor
from segwright.inference.sliding_window import sliding_windows
from segwright.inference.thinned import MOST_PIXELS, Grid
from segwright.inference.torch_runtime import TorchRuntime
from segwright.kernels.components import count_components, count_components_plain
from segwright.models.catalog import create_model
from segwright.models.external import wrap
from segwright.monitoring.observation import (
    CONFIDENCE_BINS,
    EMBEDDING_SIZE,
    IMAGE_STATISTICS,
    QUANTILES,
    SCALARS,
    VECTORS,
    Observation,
    embed,
    from_arrays,
    image_statistics,
    model_id,
    observe,
    to_arrays,
)

SPACE = LabelSpace(("ground", "thing", "other"))


def small(name: str = "leannet", classes: int = 3, **arguments: object) -> Predictor:
    torch.manual_seed(0)
    network = create_model(name, classes=classes, weights=None, **{**SMALL.get(name, {}), **arguments})
    space = LabelSpace(tuple(f"class {k}" for k in range(classes)))
    predictor = Predictor(TorchRuntime(network, "cpu"), space)
    predictor.observed = True
    return predictor


def scene(height: int = 150, width: int = 210, seed: int = 0) -> UInt8Array:
    rng = np.random.default_rng(seed)
    image = cv2.GaussianBlur(rng.normal(128, 500, (height, width, 3)).astype(np.float32), (0, 0), 9)
    return np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8)


def record(predictor: Predictor, image: UInt8Array) -> Observation:
    return observe(predictor.predict(image), id="one", model="m", time=0.0)


def assert_same(one: Observation, other: Observation, tolerance: float = 1e-4) -> None:
    for name in (*SCALARS, *VECTORS):
        np.testing.assert_allclose(
            getattr(one, name), getattr(other, name), atol=tolerance, rtol=tolerance, err_msg=name, equal_nan=True
        )


def test_the_figures_are_those_of_the_grid() -> None:
    predictor, image = small(), scene()
    found = record(predictor, image)
    grid = Grid.of(*image.shape[:2])
    logits = predictor.runtime.logits(image[None])[0][:, *grid.slices]
    probabilities = softmax(logits.astype(np.float64), axis=0)
    labels, confidence = logits.argmax(axis=0), probabilities.max(axis=0)
    shares = np.array([(labels == k).mean() for k in range(3)])
    assert found.shares == pytest.approx(shares, abs=1e-6)
    assert found.expected_shares == pytest.approx(probabilities.mean(axis=(1, 2)), abs=1e-5)
    hits = [np.where(labels == k, confidence, 0).mean() for k in range(3)]
    assert found.expected_hits == pytest.approx(hits, abs=1e-5)
    assert found.mean_confidence == pytest.approx(confidence.mean(), abs=1e-5)
    assert found.confidence == pytest.approx(np.quantile(confidence, QUANTILES), abs=2e-3)
    entropy = -(probabilities * np.log(probabilities)).sum(axis=0) / np.log(3)
    assert found.entropy == pytest.approx(entropy.mean(), abs=1e-5)
    assert found.entropy_quantiles == pytest.approx(np.quantile(entropy, QUANTILES), abs=2e-3)
    assert found.confidence_histogram.shape == (3, CONFIDENCE_BINS)
    assert found.confidence_histogram.sum(axis=1) == pytest.approx(shares, abs=1e-6)
    inside = (labels == 1) & (confidence >= 0.35) & (confidence < 0.4)
    assert found.confidence_histogram[1, 7] == pytest.approx(inside.mean(), abs=1e-3)
    assert list(found.components) == list(count_components_plain(labels.astype(np.uint8), 3))
    assert (found.height, found.width) == image.shape[:2]


@pytest.mark.parametrize("size", [(1, 1), (1, 70_000), (360, 480), (353, 481), (3000, 2000), (40_000, 3)])
def test_a_grid_is_within_the_image_and_bounded(size: tuple[int, int]) -> None:
    grid = Grid.of(*size)
    rows, columns = grid.slices
    assert (len(range(*rows.indices(size[0]))), len(range(*columns.indices(size[1])))) == grid.shape
    assert 1 <= grid.size <= MOST_PIXELS
    assert grid.step == 1 or Grid(*size, grid.step - 1).size > MOST_PIXELS or grid.size > MOST_PIXELS / 4
    seen = np.zeros(grid.shape, int)
    whole = np.arange(size[0] * size[1]).reshape(size)
    for part in sliding_windows(*size, 900, 60):
        place, inner = grid.part(part)
        assert np.array_equal(whole[part.window][inner], whole[grid.slices][place])
        seen[place] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize("name", [name for name in SMALL if name != "torchvision:fcn_resnet50"])
def test_every_network_is_observed(name: str) -> None:
    predictor = small(name)
    image = scene(70, 100)
    one = record(predictor, image)
    assert 0 < one.embedding.size <= EMBEDDING_SIZE and np.isfinite(one.embedding).all()
    assert one.shares.sum() == pytest.approx(1.0, abs=1e-5)
    batch = predictor.predict_batch([image, scene(70, 100, 1), scene(70, 100, 2)])
    assert_same(one, observe(batch[0], id="one", model="m", time=0.0))
    different = observe(batch[1], id="two", model="m", time=0.0)
    distance = np.linalg.norm(one.embedding - different.embedding) / np.linalg.norm(one.embedding)
    assert distance > 1e-3, "features of another image"
    predictor.observed = False
    plain = predictor.predict(image)
    assert plain.thinned is None
    predictor.observed = True
    assert np.array_equal(plain.labels, predictor.predict(image).labels), "observing changes no prediction"


def test_a_record_is_the_same_with_probabilities_and_post_processing_and_in_windows() -> None:
    image = scene(300, 420)
    predictor = small("segnet_basic")
    expected = record(predictor, image)
    with_probabilities = observe(predictor.predict(image, probabilities=True), id="one", model="m", time=0.0)
    assert_same(expected, with_probabilities)
    processed = Predictor(predictor.runtime, predictor.label_space, post="min-area(50)")
    processed.observed = True
    assert_same(expected, record(processed, image))
    windows = Predictor(predictor.runtime, predictor.label_space)
    windows.observed, windows.window = True, 256
    assert windows.window_count(image) > 1
    found = record(windows, image)
    assert found.shares == pytest.approx(expected.shares, abs=0.05), "a window's network sees another surrounding"
    assert found.statistics == pytest.approx(expected.statistics)


def test_a_raster_read_in_windows_has_a_record() -> None:
    image, predictor = scene(300, 420), small("segnet_basic")
    predictor.window = 200
    whole = record(predictor, image)
    predictor.predict_windows(300, 420, lambda part: image[part.window], lambda part, labels, confidence: None)
    output = predictor.predict_windows(300, 420, lambda part: image[part.window], lambda *_: None)
    assert output is not None
    from segwright.monitoring.observation import observe_output

    found = observe_output(output, id="one", model="m", time=0.0, classes=3)
    assert found.shares == pytest.approx(whole.shares) and found.embedding == pytest.approx(whole.embedding, abs=1e-6)
    assert found.statistics[:6] == pytest.approx(whole.statistics[:6], abs=1e-6)
    assert found.statistics[6] == pytest.approx(whole.statistics[6], abs=0.5), "other tiles, about the same sharpness"


def test_a_network_without_declared_features_has_an_empty_embedding() -> None:
    network = wrap(torch.nn.Conv2d(3, 3, 1), classes=3)
    predictor = Predictor(TorchRuntime(network, "cpu"), SPACE)
    predictor.observed = True
    assert record(predictor, scene()).embedding.size == 0


def test_a_runtime_without_logits_has_no_soft_figures() -> None:
    class LabelsOnly:
        classes, in_channels = 3, 3

        def labels(self, images: UInt8Array) -> tuple[UInt8Array, np.ndarray]:
            return np.ones(images.shape[:3], np.uint8), np.full(images.shape[:3], 0.9, np.float32)

        def labels_and_scores(self, images: UInt8Array, rows: slice, columns: slice) -> object:
            return *self.labels(images), None

    predictor = Predictor(LabelsOnly(), SPACE)  # type: ignore[arg-type]
    predictor.observed = True
    found = record(predictor, scene())
    assert np.isnan(found.entropy) and np.isnan(found.expected_shares).all()
    assert found.shares[1] == 1 and found.expected_hits[1] == pytest.approx(0.9)
    assert found.embedding.size == 0


def test_image_statistics_tell_what_they_name() -> None:
    def of(image: UInt8Array) -> dict[str, float]:
        return dict(zip(IMAGE_STATISTICS, image_statistics(image, (image,)).tolist(), strict=True))

    base = scene()
    plain, dark, blurred = of(base), of(base // 50), of(cv2.GaussianBlur(base, (0, 0), 3))
    assert plain["brightness"] == pytest.approx(base.mean() / 255, abs=1e-5)
    assert plain["contrast"] == pytest.approx(base.mean(axis=2).std() / 255, abs=1e-4)
    assert plain["red"] == pytest.approx(base[..., 0].mean() / 255, abs=1e-5)
    spread = (base.max(axis=2).astype(float) - base.min(axis=2)).mean() / 255
    assert plain["saturation"] == pytest.approx(spread, abs=1e-5)
    assert dark["dark"] > 0.9 > plain["dark"] and of(255 - base // 60)["bright"] > 0.9
    assert blurred["sharpness"] < plain["sharpness"] - 1
    rng = np.random.default_rng(0)
    flat = np.full((200, 300, 3), 128.0)
    noisy = np.clip(np.repeat((flat[..., :1] + rng.normal(0, 10, (200, 300, 1))), 3, 2), 0, 255).astype(np.uint8)
    assert of(noisy)["noise"] == pytest.approx(10 / 255, rel=0.03), "Immerkær's estimate of a known deviation"
    gray = of(base[..., :1])
    assert gray["saturation"] == 0 and gray["red"] == gray["green"] == gray["blue"] == pytest.approx(gray["brightness"])
    for shape in ((1, 1, 3), (2, 5, 1), (30, 40, 7)):
        assert np.isfinite(list(of(rng.integers(0, 256, shape).astype(np.uint8)).values())).all()


def test_an_embedding_keeps_distances() -> None:
    rng = np.random.default_rng(0)
    features = rng.random((40, 512)).astype(np.float32)
    small = np.stack([embed(row) for row in features])
    assert small.shape == (40, EMBEDDING_SIZE)
    scaled = features / np.sqrt(512)
    ratios = [
        np.linalg.norm(small[i] - small[j]) / np.linalg.norm(scaled[i] - scaled[j])
        for i in range(40) for j in range(i)
    ]  # fmt: skip
    assert np.mean(ratios) == pytest.approx(1, abs=0.05) and np.std(ratios) < 0.15
    assert embed(features[0, :10]) == pytest.approx(features[0, :10] / np.sqrt(10))
    # fixed for all machines and versions: a reference made today is compared with a journal of next year
    assert embed(np.ones(100, np.float32))[:3] == pytest.approx([EXPECTED[0], EXPECTED[1], EXPECTED[2]], abs=1e-5)


EXPECTED = (0.188188, -0.174772, 0.051665)


def test_components_are_counted_as_by_opencv() -> None:
    rng = np.random.default_rng(0)
    for shape, values in (((1, 1), 3), ((1, 40), 3), ((37, 53), 2), ((90, 120), 5)):
        labels = rng.integers(0, values, shape).astype(np.uint8)
        labels[rng.random(shape) < 0.1] = 255
        assert list(count_components(labels, values)) == list(count_components_plain(labels, values))
        with kernels.disabled():
            assert list(count_components(labels, values)) == list(count_components_plain(labels, values))
    spiral = np.zeros((7, 7), np.uint8)
    spiral[1::2, :-1], spiral[3::4, 0], spiral[3::4, -1] = 1, 0, 1
    assert list(count_components(spiral, 2)) == list(count_components_plain(spiral, 2))


def test_records_become_arrays_and_back() -> None:
    predictor = small()
    rows = [record(predictor, scene(seed=k)) for k in range(3)]
    arrays = to_arrays(rows)
    assert arrays["shares"].shape == (3, 3) and arrays["time"].dtype == np.float64
    for one, other in zip(rows, from_arrays(arrays, [r.id for r in rows], [r.model for r in rows]), strict=True):
        assert_same(one, other, 1e-7)
    other = record(small(classes=4), scene())
    with pytest.raises(UsageError, match="label spaces"):
        to_arrays([*rows, other])


def test_ids_and_tags_are_bounded_text() -> None:
    prediction = small().predict(scene())
    found = observe(prediction, id="a/../b\n\x1b[31m" + "x" * 999, model="m", tags={"scene\0": "é" * 999})
    assert len(found.id) == 200 and found.id.isprintable()
    assert all(key.isprintable() and len(value) == 200 for key, value in found.tags.items())
    predictor = small()
    predictor.observed = False
    with pytest.raises(UsageError, match="nothing to observe"):
        observe(predictor.predict(scene()), id="x", model="m")


def test_the_model_id_is_that_of_the_weights(tmp_path: Path) -> None:
    one, other = small(), small()
    assert model_id(one) == model_id(other) and len(model_id(one)) == 16
    with torch.no_grad():
        next(iter(other.runtime.model.parameters())).add_(1e-3)  # type: ignore[attr-defined]
    assert model_id(one) != model_id(other)
