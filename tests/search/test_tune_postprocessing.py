"""Tuning: a chain that helps is kept with an honest gain; one that does not is not."""

from __future__ import annotations

import itertools
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from segwright.core.errors import DataError, LabelError, PostprocessError, UsageError
from segwright.core.types import LabelSpace
from segwright.evaluation.crf_figure import FigureRow, crf_figure
from segwright.imageio import read_image
from segwright.inference.prediction import Prediction
from segwright.search.tune_postprocessing import _spread, drawn_together, tune_post

SPACE = LabelSpace(("ground", "thing", "other"))


@dataclass
class Images:
    """Discs on a ground; the network sees them through noise of the given kind."""

    count: int
    masks: bool = True
    label_space: LabelSpace = SPACE

    def __len__(self) -> int:
        return self.count

    def truth(self, index: int) -> np.ndarray:
        mask = np.zeros((48, 64), np.uint8)
        rng = np.random.default_rng(index)
        for label in (1, 2):
            center = (int(rng.integers(8, 56)), int(rng.integers(8, 40)))
            cv2.circle(mask, center, int(rng.integers(5, 12)), label, -1)
        return mask

    def read_image(self, index: int) -> np.ndarray:
        noise = np.random.default_rng(index).integers(0, 10, (48, 64, 3))
        return (np.array([[60, 60, 60], [200, 80, 40], [40, 90, 200]])[self.truth(index)] + noise).astype(np.uint8)

    def read_mask(self, index: int) -> np.ndarray | None:
        return self.truth(index) if self.masks else None


@dataclass
class Network:
    """The truth with speckles (``speckles``: the share of pixels that are wrong)."""

    images: Images
    speckles: float
    label_space: LabelSpace = SPACE

    def predict(self, image: np.ndarray, *, probabilities: bool = False) -> Prediction:
        index = next(i for i in range(len(self.images)) if np.array_equal(image, self.images.read_image(i)))
        truth = self.images.truth(index)
        rng = np.random.default_rng(1000 + index)
        wrong = rng.random(truth.shape) < self.speckles
        labels = np.where(wrong, rng.integers(0, 3, truth.shape), truth).astype(np.uint8)
        p = np.full((3, *truth.shape), 0.2, np.float32)
        np.put_along_axis(p, labels[None].astype(np.int64), 0.6, axis=0)
        return Prediction(labels, p.max(axis=0), SPACE, image, p if probabilities else None)


def test_a_chain_that_helps_is_kept() -> None:
    images = Images(12)
    result = tune_post(Network(images, 0.15), images, minutes=5)
    assert result.kept and result.low > 0 and result.gain > 0.03
    assert result.low <= result.gain <= result.high
    assert result.pipeline in result.summary and result.milliseconds > 0
    assert result.search_images + result.confirm_images == 12
    assert result.tuned_miou - result.baseline_miou == pytest.approx(result.gain)
    assert json.loads(json.dumps(result.to_json()))["kept"] is True
    assert max(t.miou for t in result.trials) > next(t.miou for t in result.trials if not t.pipeline)


def test_a_class_that_no_mask_holds_is_not_scored() -> None:
    """A network that is right but for a pixel of a class without truth: the pooled mean IoU would be 0.75."""
    space = LabelSpace((*SPACE.names, "ghost"))

    class Haunted(Network):
        def predict(self, image: np.ndarray, *, probabilities: bool = False) -> Prediction:
            found = super().predict(image)
            labels = found.labels.copy()
            labels[0, 0] = 3
            p = np.full((4, *labels.shape), 0.1, np.float32)
            np.put_along_axis(p, labels[None].astype(np.int64), 0.7, axis=0)
            return Prediction(labels, p.max(axis=0), space, image, p if probabilities else None)

    images = Images(6, label_space=space)
    result = tune_post(Haunted(images, 0.0, space), images, minutes=5)
    assert next(trial.miou for trial in result.trials if not trial.pipeline) > 0.99 and result.baseline_miou > 0.99


def test_classes_are_matched_by_name() -> None:
    """The data's classes in another order than the model's: the scores are those of equal orders."""
    shuffled = LabelSpace(("other", "ground", "thing"))

    class Shuffled(Images):
        def read_mask(self, index: int) -> np.ndarray | None:
            return np.array([1, 2, 0], np.uint8)[self.truth(index)]

    images = Images(8)
    known = tune_post(Network(images, 0.15), images, minutes=5)
    found = tune_post(Network(images, 0.15), Shuffled(8, label_space=shuffled), minutes=5)
    assert found.baseline_miou == known.baseline_miou and found.gain == known.gain > 0.03
    assert "classes matched by name" in found.summary.lower()
    with pytest.raises(LabelError, match="not the data's"):
        tune_post(Network(images, 0.15), Images(8, label_space=LabelSpace(("ground", "thing", "sky"))))


def test_a_perfect_network_keeps_nothing() -> None:
    images = Images(6)
    result = tune_post(Network(images, 0.0), images, minutes=5)
    assert not result.kept and "nothing is kept" in result.summary.lower()
    assert result.pipeline == ""


def test_the_cache_is_bounded_and_removed(tmp_path: object) -> None:
    images = Images(12)
    result = tune_post(Network(images, 0.1), images, minutes=5, cache_bytes=48 * 64 * 3 * 2 * 6, folder=str(tmp_path))
    assert result.search_images + result.confirm_images == 6
    assert "6 of 12 images were used: the cache" in result.summary
    assert list(tmp_path.iterdir()) == []  # type: ignore[attr-defined]


def test_minutes_bound_the_whole_and_what_was_left_out_is_said() -> None:
    images = Images(12)
    result = tune_post(Network(images, 0.1), images, minutes=0)
    assert result.search_images + result.confirm_images == 4
    assert "4 of 12 images were used: the time was too short" in result.summary
    assert "after 0 pipelines" in result.summary and not result.kept

    class Slow(Network):
        def predict(self, image: np.ndarray, *, probabilities: bool = False) -> Prediction:
            time.sleep(0.2)
            return super().predict(image, probabilities=probabilities)

    many = Images(60)
    started = time.monotonic()
    result = tune_post(Slow(many, 0.15), many, minutes=0.05)  # the pass alone would take 12 seconds
    assert time.monotonic() - started < 10
    assert 4 <= result.search_images + result.confirm_images < 20


def test_images_left_out_for_time_are_spread_evenly() -> None:
    assert sorted(_spread(11)) == list(range(11))
    for first in (4, 8, 16):
        chosen = sorted(_spread(100)[:first])
        assert max(b - a for a, b in itertools.pairwise([0, *chosen, 99])) <= 2 * 100 / first


def test_frames_of_few_sequences_are_drawn_in_runs() -> None:
    def sizes(groups: list[object]) -> list[int]:
        return [len(list(run)) for _, run in itertools.groupby(groups)]

    assert drawn_together(None, [3, 4, 8]) == [3, 4, 8], "nothing known: every image by itself"
    scenes = [f"s{i // 2}" for i in range(20)]
    assert drawn_together(scenes, range(20)) == scenes, "ten sequences: whole ones"
    assert sizes(drawn_together(["one"] * 27, range(27))) == [3] * 9, "one sequence: runs of the cube root"
    assert sizes(drawn_together(["a"] * 4 + ["b"] * 5, range(9))) == [2, 2, 2, 2, 1], "a run ends with its sequence"
    assert sizes(drawn_together(["a"] * 8, [0, 1, 2, 10, 11, 12, 20, 21])) == [2, 1, 2, 1, 2], "and with its block"


def test_one_sequence_can_still_prove_a_gain_and_few_images_cannot() -> None:
    images = Images(24)
    result = tune_post(Network(images, 0.15), images, minutes=5, groups=["film"] * 24)
    assert result.kept and 0 < result.low <= result.gain
    few = Images(6)
    result = tune_post(Network(few, 0.15), few, minutes=5)
    assert not result.kept and result.gain > 0 and math.isnan(result.low)
    assert "too few images to tell it from chance" in result.summary
    assert result.to_json()["gain_ci95"] is None


def test_a_gain_whose_interval_includes_none_is_not_kept() -> None:
    """Half of the images gain from smoothing, the others are made of stripes that it destroys."""

    class Striped(Images):
        def truth(self, index: int) -> np.ndarray:
            if index % 2:
                return super().truth(index)
            mask = np.zeros((48, 64), np.uint8)
            mask[::3] = 1
            return mask

    images = Striped(16)
    result = tune_post(Network(images, 0.06), images, minutes=5, pipelines=["smooth(9)"])
    assert "smooth(9)" in [trial.pipeline for trial in result.trials], "a chain of the caller's is tried first"
    assert result.kept == (result.low > 0)
    if not result.kept:
        assert "othing is kept" in result.summary or "No chain" in result.summary


def test_a_mistake_in_a_given_chain_is_said_before_the_network_runs() -> None:
    class Never(Network):
        def predict(self, image: np.ndarray, *, probabilities: bool = False) -> Prediction:
            raise AssertionError("the network ran")

    images = Images(6)
    with pytest.raises(PostprocessError, match="did you mean close"):
        tune_post(Never(images, 0.1), images, pipelines=["clos(3)"])


def test_without_masks_it_says_what_is_missing() -> None:
    images = Images(6, masks=False)
    with pytest.raises(DataError, match="too few images with masks"):
        tune_post(Network(images, 0.1), images)


def test_the_figure(tmp_path: object) -> None:
    images = Images(2)
    rows = []
    for i in range(2):
        found = Network(images, 0.1).predict(images.read_image(i), probabilities=True).probabilities
        assert found is not None
        rows.append(FigureRow(images.read_image(i), found, images.truth(i)))
    path = crf_figure(rows, SPACE, f"{tmp_path}/figure.png", width=100)
    figure = read_image(path)
    assert figure.shape[1] == 2 * 14 + 6 * 100 + 5 * 8
    assert figure.shape[0] > 2 * 75
    column = figure[:, 14:114].reshape(-1, 3).astype(int)  # the images themselves stand in the first column
    assert (np.abs(column - [65, 65, 65]).max(axis=1) < 12).sum() > 2 * 75 * 100 * 0.4


def test_the_figure_shows_what_is_asked_for_and_says_what_cannot_be_shown(tmp_path: Path) -> None:
    images = Images(1)
    found = Network(images, 0.1).predict(images.read_image(0), probabilities=True).probabilities
    assert found is not None
    plain = FigureRow(images.read_image(0), found)
    gray = FigureRow(images.read_image(0)[..., :1], found, images.truth(0))
    small = read_image(crf_figure([plain], SPACE, tmp_path / "a.png", width=64))
    more = read_image(
        crf_figure([gray], SPACE, tmp_path / "b.jpg", width=64, probability_of="thing", iterations=(1, 2, 3, 4))
    )
    assert more.shape[0] > small.shape[0] + 48 and more.shape[1] == small.shape[1] + 2 * (64 + 8), "truth, 4 iterations"
    with pytest.raises(UsageError, match="unknown class"):
        crf_figure([plain], SPACE, tmp_path / "c.png", probability_of="pony")
    for rows, iterations in (([], (1,)), ([plain], ()), ([plain], (0, 1))):
        with pytest.raises(PostprocessError, match="a figure needs"):
            crf_figure(rows, SPACE, tmp_path / "c.png", iterations=iterations)
    assert not (tmp_path / "c.png").exists()
