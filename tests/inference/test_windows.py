"""A large image in windows: inside the receptive field as the whole, else blended, and the difference is counted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from brightest import SPACE, Brightest
from torch import Tensor, nn

from segwright.core.types import Float32Array, LabelSpace
from segwright.imageio import UInt8Array
from segwright.inference.blending import Blender, cut
from segwright.inference.predictor import Predictor
from segwright.inference.reach import receptive_radius
from segwright.inference.sliding_window import sliding_windows
from segwright.inference.window_run import UNKNOWN, Windowing
from segwright.models.base import SegmentationModel, SegOutput
from segwright.models.catalog import create_model


class Small(SegmentationModel):
    """Two convolutions at stride 2; ``pool`` adds the mean of the image."""

    def __init__(self, dilation: int = 1, pool: bool = False) -> None:
        super().__init__(classes=3, in_channels=3, stride=2)
        self.one = nn.Conv2d(3, 8, 3, padding=1, stride=2)
        self.two = nn.Conv2d(8, 3, 3, padding=dilation, dilation=dilation)
        self.pool = pool

    def forward_padded(self, x: Tensor) -> SegOutput:
        deep = self.two(torch.relu(self.one(x)))
        if self.pool:
            deep = deep + 3 * deep.mean(dim=(2, 3), keepdim=True)
        return SegOutput(nn.functional.interpolate(deep, scale_factor=2, mode="nearest"), {})


def noise(height: int, width: int) -> UInt8Array:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(("dilation", "radius"), [(1, 4), (5, 12), (20, 42)])
def test_the_receptive_radius_is_measured(dilation: int, radius: int) -> None:
    found = receptive_radius(Small(dilation))
    assert found is not None and radius - 2 <= found <= radius + 2


@pytest.mark.parametrize("name", ["pspnet", "lraspp"])
def test_networks_that_see_the_whole_image_have_none(name: str) -> None:
    torch.manual_seed(0)
    assert receptive_radius(create_model(name, classes=3, weights=None).eval()) is None


def test_inside_the_receptive_field_windows_are_the_whole_image() -> None:
    torch.manual_seed(0)
    model = Predictor.from_model(Small(20).eval(), SPACE, "cpu")
    image = noise(301, 457)  # no multiple of the stride
    whole = model.predict(image)
    assert whole.windows is None
    model.window = 256
    parts = model.predict(image)
    assert parts.windows is not None and parts.windows["equal_to_whole_image"] and parts.windows["margin"] == 64
    assert (parts.labels == whole.labels).all()
    np.testing.assert_allclose(parts.confidence, whole.confidence, atol=1e-6)
    assert not model.notes


def test_a_network_with_pooling_is_named_and_its_difference_counted() -> None:
    torch.manual_seed(0)
    model = Predictor.from_model(Small(1, pool=True).eval(), SPACE, "cpu")
    model.window = 128
    image = noise(300, 420)
    image[:, 200:] //= 3  # windows with other means
    found = model.predict(image)
    assert found.windows is not None and found.windows["receptive_radius"] == "whole image"
    assert 0 < found.windows["labels_differ"] < 1 and not found.windows["equal_to_whole_image"]
    assert any("the whole image" in note and "% of the labels differ" in note for note in model.notes)
    full = model.predict(image, probabilities=True)
    assert full.probabilities is not None and (full.probabilities.argmax(axis=0) == full.labels).all()
    np.testing.assert_allclose(full.probabilities.sum(axis=0), 1, atol=1e-5)
    assert (full.labels == found.labels).all()


class Tilted(Brightest):
    """Windows that disagree: each adds a constant of its own. Probabilities show a step at every border."""

    receptive_radius = None

    def logits(self, images: UInt8Array) -> Float32Array:
        found = super().logits(images) / 100
        found[:, 0] += float(images[0, 0, 0, 0] % 7)
        return found


def test_no_seam_shows() -> None:
    """The largest step between neighboring pixels at a border is that of the ramp, not that of the windows."""
    image = np.full((300, 420, 3), 100, np.uint8)
    image[..., 0] += np.arange(420, dtype=np.uint8) // 16 % 7
    image[..., 0] += (np.arange(300, dtype=np.uint8) // 16 % 5)[:, None]
    model = Predictor(Tilted(), SPACE)
    model.window = 128
    found = model.predict(image, probabilities=True).probabilities
    assert found is not None
    steps = max(np.abs(np.diff(found, axis=1)).max(), np.abs(np.diff(found, axis=2)).max())
    parts = list(sliding_windows(300, 420, 128, 32))
    hard = np.empty_like(found)
    for part in parts:
        hard[:, *part.core] = model.probabilities(image[part.window])[:, *part.core_in_window]
    seam = max(np.abs(np.diff(hard, axis=1)).max(), np.abs(np.diff(hard, axis=2)).max())
    assert seam > 0.3 and steps < seam / 5


@pytest.mark.parametrize("tta", [None, "flip"])
def test_probabilities_are_those_of_a_prediction_in_windows(tta: str | None) -> None:
    """Temperature, class offsets and questions are found on the numbers that a prediction has."""
    torch.manual_seed(0)
    image = noise(300, 420)
    image[:, 200:] //= 3
    for runtime in (Tilted(), Predictor.from_model(Small(1, pool=True).eval(), SPACE, "cpu").runtime):
        model = Predictor(runtime, SPACE, tta=tta)
        model.window = 128
        done: list[int] = []
        found = model.probabilities(image, done.append)
        assert sum(done) == model.window_count(image) > 9
        np.testing.assert_array_equal(found, model.predict(image, probabilities=True).probabilities)
        shaped = Predictor(runtime, SPACE, tta=tta, post="min-area(30)")
        shaped.window = 128
        np.testing.assert_array_equal(shaped.probabilities(image), found, err_msg="before post-processing")


def test_probabilities_in_smaller_windows_where_memory_runs_out() -> None:
    class Narrow(Tilted):
        def logits(self, images: UInt8Array) -> Float32Array:
            if images[0, ..., 0].size > 200 * 200:
                raise RuntimeError("not enough memory: you tried to allocate 9 bytes")
            return super().logits(images)

    image = noise(300, 420)
    model, expected = Predictor(Narrow(), SPACE), Predictor(Tilted(), SPACE)
    found = model.probabilities(image)
    expected.window = model.window
    assert model.window <= 200 and any("out of memory" in note for note in model.notes)
    np.testing.assert_array_equal(found, expected.probabilities(image))


@pytest.mark.parametrize("size", [(100, 100), (97, 301), (260, 64), (301, 333)])
def test_weights_add_up_to_one_everywhere(size: tuple[int, int]) -> None:
    parts = list(sliding_windows(*size, 96, 24, 6))
    blender = Blender(*size, 2, 6)
    seen = np.zeros(size, int)
    for part in parts:
        shape = (part.bottom - part.top, part.right - part.left)
        marginals = np.full((2, *shape), 0.5, np.float32)
        marginals[0] = 0.75
        labels, confidence = np.zeros(shape, np.uint8), np.full(shape, 0.75, np.float32)
        blender.add(part, labels, confidence, cut(blender.strips(part), marginals), marginals)
        np.testing.assert_allclose(marginals[0], 0.75, atol=1e-6)
        np.testing.assert_allclose(confidence, 0.75, atol=1e-6)
        seen[part.core] += 1
    assert (seen == 1).all() and blender.differ == 0


def test_a_resumed_run_is_blended_as_the_whole_one() -> None:
    torch.manual_seed(0)
    model = Predictor.from_model(Small(1, pool=True).eval(), SPACE, "cpu")
    model.window = 128
    image = noise(300, 420)
    expected = model.predict(image).labels
    for finished in (0, 1, 5, 9, 13):
        left, order = expected.copy(), list[int]()

        def done(part: object, finished: int = finished, order: list[int] = order) -> bool:
            order.append(1)
            return len(order) <= finished

        first = model.windowing().parts(300, 420, 3)
        for part in first[finished:]:
            left[part.core] = 77
        model.predict_windows(
            300, 420, lambda part: image[part.window],
            lambda part, labels, sure, left=left: left.__setitem__(part.core, labels[part.core_in_window]), done=done,
        )  # fmt: skip
        assert (left == expected).all()


def test_the_margin_is_what_the_network_needs() -> None:
    assert Windowing.of(1536, 40, 0, False) == Windowing(1536, 64, 0, 40, True)
    assert Windowing.of(1536, 500, 0, False) == Windowing(1536, 192, 32, 500, False)
    assert Windowing.of(1536, UNKNOWN, 0, False).blend == 0
    assert not Windowing.of(1536, 40, 30, False).exact and Windowing.of(1536, 40, 30, False).margin == 96
    assert not Windowing.of(1536, 40, 0, True).exact
    space = LabelSpace(tuple(f"c{i}" for i in range(150)))
    assert Windowing.of(1536, None, 0, False).half(60_000, len(space)) == 4
