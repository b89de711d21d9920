"""Tuning: a chain that helps is kept with an honest gain; one that does not is not."""

from __future__ import annotations

import json
from dataclasses import dataclass

import cv2
import numpy as np
import pytest

from segwright.errors import DataError
from segwright.evaluation.crf_figure import FigureRow, crf_figure
from segwright.evaluation.tune_post import tune_post
from segwright.images import read_image
from segwright.types import LabelSpace, Prediction

SPACE = LabelSpace(("ground", "thing", "other"))


@dataclass
class Pictures:
    """Discs on a ground; the network sees them through noise of the given kind."""

    count: int
    masks: bool = True

    def __len__(self) -> int:
        return self.count

    def truth(self, index: int) -> np.ndarray:
        mask = np.zeros((48, 64), np.uint8)
        rng = np.random.default_rng(index)
        for label in (1, 2):
            centre = (int(rng.integers(8, 56)), int(rng.integers(8, 40)))
            cv2.circle(mask, centre, int(rng.integers(5, 12)), label, -1)
        return mask

    def read_image(self, index: int) -> np.ndarray:
        noise = np.random.default_rng(index).integers(0, 10, (48, 64, 3))
        return (np.array([[60, 60, 60], [200, 80, 40], [40, 90, 200]])[self.truth(index)] + noise).astype(np.uint8)

    def read_mask(self, index: int) -> np.ndarray | None:
        return self.truth(index) if self.masks else None


@dataclass
class Network:
    """The truth with speckles (``speckles``: the share of pixels that are wrong)."""

    pictures: Pictures
    speckles: float
    label_space: LabelSpace = SPACE

    def predict(self, image: np.ndarray, *, probabilities: bool = False) -> Prediction:
        index = next(i for i in range(len(self.pictures)) if np.array_equal(image, self.pictures.read_image(i)))
        truth = self.pictures.truth(index)
        rng = np.random.default_rng(1000 + index)
        wrong = rng.random(truth.shape) < self.speckles
        labels = np.where(wrong, rng.integers(0, 3, truth.shape), truth).astype(np.uint8)
        p = np.full((3, *truth.shape), 0.2, np.float32)
        np.put_along_axis(p, labels[None].astype(np.int64), 0.6, axis=0)
        return Prediction(labels, p.max(axis=0), SPACE, image, p if probabilities else None)


def test_a_chain_that_helps_is_kept() -> None:
    pictures = Pictures(12)
    result = tune_post(Network(pictures, 0.15), pictures, minutes=0.1)
    assert result.kept and result.low > 0 and result.gain > 0.03
    assert result.low <= result.gain <= result.high
    assert result.chain in result.summary and result.milliseconds > 0
    assert result.search_pictures + result.confirm_pictures == 12
    assert result.tuned_miou - result.baseline_miou == pytest.approx(result.gain)
    assert json.loads(json.dumps(result.to_json()))["kept"] is True
    assert max(t.miou for t in result.trials) > next(t.miou for t in result.trials if not t.chain)


def test_a_perfect_network_keeps_nothing() -> None:
    pictures = Pictures(6)
    result = tune_post(Network(pictures, 0.0), pictures, minutes=0.05)
    assert not result.kept and "nothing is kept" in result.summary.lower()
    assert result.chain == ""


def test_the_cache_is_bounded_and_removed(tmp_path: object) -> None:
    pictures = Pictures(12)
    result = tune_post(
        Network(pictures, 0.1), pictures, minutes=0, cache_bytes=48 * 64 * 3 * 2 * 6, folder=str(tmp_path)
    )
    assert result.search_pictures + result.confirm_pictures == 6
    assert "6 of 12 pictures" in result.summary
    assert "after 0 chains" in result.summary
    assert list(tmp_path.iterdir()) == []  # type: ignore[attr-defined]


def test_without_masks_it_says_what_is_missing() -> None:
    pictures = Pictures(6, masks=False)
    with pytest.raises(DataError, match="too few pictures with masks"):
        tune_post(Network(pictures, 0.1), pictures)


def test_the_figure(tmp_path: object) -> None:
    pictures = Pictures(2)
    rows = []
    for i in range(2):
        found = Network(pictures, 0.1).predict(pictures.read_image(i), probabilities=True).probabilities
        assert found is not None
        rows.append(FigureRow(pictures.read_image(i), found, pictures.truth(i)))
    path = crf_figure(rows, SPACE, f"{tmp_path}/figure.png", width=100)
    figure = read_image(path)
    assert figure.shape == (22 + 2 * (75 + 4), 6 * 100 + 5 * 4, 3)
