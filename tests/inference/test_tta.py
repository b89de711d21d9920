"""Test-time augmentation: a network that only looks at colors must give the same answer from every view."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from segwright.core.errors import PostprocessError
from segwright.inference.tta import View, parse_tta


def smooth_image(height: int = 60, width: int = 80) -> np.ndarray:
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (height, width, 3)).astype(np.float32), (0, 0), 9)
    return ((image - image.min()) / np.ptp(image) * 255).astype(np.uint8)


def pointwise(images: np.ndarray) -> np.ndarray:
    """Logits that follow each pixel's own color: any view, brought back, must agree."""
    return images.transpose(0, 3, 1, 2).astype(np.float32) / 64


def probabilities(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    "text", ["1", "flip", "vflip", "flip,vflip", "rotate(90,180,270)", "shift(7)", "shift(-3,5),flip"]
)
def test_exact_views_change_nothing(text: str) -> None:
    images = smooth_image()[None]
    answer = parse_tta(text)(pointwise, images)
    assert np.abs(answer - probabilities(pointwise(images))).max() < 1e-3


@pytest.mark.parametrize("text", ["flip,0.75,1,1.25", "rotate(10)", "rotate(-20,45),flip,0.5"])
def test_interpolated_views_change_little(text: str) -> None:
    images = np.stack([smooth_image(), smooth_image()[::-1]])
    answer = parse_tta(text)(pointwise, images)
    assert answer.shape == (2, 3, 60, 80)
    assert np.abs(answer - probabilities(pointwise(images))).mean() < 0.02
    assert np.allclose(answer.sum(axis=1), 1, atol=1e-5)


def test_logits_are_averaged_before_the_softmax() -> None:
    calls = iter([np.full((1, 2, 4, 4), 0, np.float32), np.zeros((1, 2, 4, 4), np.float32)])

    def network(images: np.ndarray) -> np.ndarray:
        logits = next(calls)
        logits[:, 1] = 3.0
        return logits

    answer = parse_tta("flip")(network, np.zeros((1, 4, 4, 3), np.uint8))
    assert np.allclose(answer[:, 1], 1 / (1 + np.exp(-3)), atol=1e-6)


def test_an_asymmetric_network_becomes_symmetric() -> None:
    def leaning(images: np.ndarray) -> np.ndarray:
        ramp = np.linspace(0, 1, images.shape[2], dtype=np.float32)
        return np.stack([np.broadcast_to(ramp, images.shape[:3]), np.zeros(images.shape[:3], np.float32)], axis=1)

    answer = parse_tta("flip")(leaning, np.zeros((1, 8, 12, 3), np.uint8))
    assert np.ptp(answer[:, 0]) < 1e-6


def test_views_are_the_product() -> None:
    assert len(parse_tta("flip,0.75,1,1.25").views) == 6
    assert parse_tta("0.5").views == (View(0.5),)
    assert parse_tta("rot90,rot270").views == parse_tta("rotate(90,270)").views
    assert len(parse_tta("flip,vflip,rotate(90),shift(4),1,2").views) == 32


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("flop,1", 0, "did you mean flip"),
        ("flip,9", 5, "out of range"),
        ("flip 1", 5, "does not belong"),
        ("rotate", 0, "takes numbers"),
        ("rot45", 0, "did you mean rot"),
        ("rot90(1)", 0, "no arguments"),
        ("hflip", 0, "did you mean flip"),
        ("scale(0.5)", 0, "a bare number"),
        ("flip,,1", 5, "a view is missing"),
        ("flip;1", 4, "views are joined by ','"),
        ("rotate(x)", 7, "does not fit"),
        ("shift(1.5)", 6, "does not fit"),
        ("flip(1)", 0, "no arguments"),
        ("", 0, "nothing here"),
    ],
)
def test_mistakes_are_pointed_at(text: str, place: int, words: str) -> None:
    with pytest.raises(PostprocessError, match=words) as caught:
        parse_tta(text)
    assert str(caught.value).splitlines()[2] == "  " + " " * place + "^"


def test_too_many_views() -> None:
    with pytest.raises(PostprocessError, match="too many views"):
        parse_tta("flip,vflip,rotate(10,20,30,40),1,2,3,0.5")


def test_tiny_images() -> None:
    answer = parse_tta("flip,0.5,2,rotate(30),shift(3)")(pointwise, np.full((1, 1, 1, 3), 100, np.uint8))
    assert np.allclose(answer, 1 / 3, atol=1e-4)
