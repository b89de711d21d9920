"""Every figure and its interval: against drawing images one by one and computing the figure again."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from segwright.core.types import LabelSpace
from segwright.evaluation.evaluate import evaluate
from segwright.evaluation.evaluation import Evaluation, summary
from segwright.evaluation.intervals import ImageSums, find_intervals
from segwright.evaluation.sequences import units_of
from segwright.inference.prediction import Prediction
from segwright.metrics.bootstrap import miou_interval, resampled_sums
from segwright.metrics.boundary import BFScore, BoundaryIoU, TrimapCurve
from segwright.metrics.calibration import Calibration
from segwright.metrics.class_differences import class_differences
from segwright.metrics.confusion import ConfusionMatrix
from segwright.metrics.conventions import CONVENTIONS

CLASSES, COUNT = 3, 14


class Data:
    """A split and its predictor in memory: blocks of classes, predictions that are wrong here and there."""

    def __init__(self, count: int = COUNT, classes: int = CLASSES, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.name, self.label_space = "val", LabelSpace(tuple(f"class {i}" for i in range(classes)))
        self.ids = [f"shot{rng.integers(10**9)}" for _ in range(count)]
        self.masks, self.probabilities = [], []
        for i in range(count):
            mask = np.repeat(np.repeat(rng.integers(0, classes, (3, 4)), 8, 0), 7, 1).astype(np.uint8)
            logits = rng.normal(size=(classes, *mask.shape)) + 2.5 * (1 - i / count) * np.eye(classes)[mask].transpose(
                2, 0, 1
            )
            p = np.exp(logits) / np.exp(logits).sum(axis=0)
            mask[: i % 3] = 255
            self.masks.append(mask)
            self.probabilities.append(p.astype(np.float32))

    def __len__(self) -> int:
        return len(self.ids)

    def read_image(self, index: int) -> Any:
        image = np.random.default_rng(index).integers(0, 256, (*self.masks[index].shape, 3), dtype=np.uint8)
        image[0, 0] = index
        return image

    def read_mask(self, index: int) -> Any:
        return self.masks[index]

    def predict(self, image: Any, *, probabilities: bool = False) -> Prediction:
        p = self.probabilities[int(image[0, 0, 0])]
        labels = p.argmax(axis=0).astype(np.uint8)
        return Prediction(labels, p.max(axis=0), self.label_space, image, p if probabilities else None)


def recomputed(data: Data, indices: Any) -> tuple[dict[str, float], dict[str, Any]]:
    """The figures of some images (each as often as it is named), by the metrics' own classes."""
    matrix, boundary, bf = ConfusionMatrix(CLASSES), BoundaryIoU(CLASSES), BFScore(CLASSES)
    curve, calibration = TrimapCurve(CLASSES), Calibration()
    for index in indices:
        p, mask = data.probabilities[index], data.masks[index]
        labels = p.argmax(axis=0).astype(np.uint8)
        for metric in (matrix, boundary, bf, curve):
            metric.update(labels, mask)
        calibration.update(p.max(axis=0), labels, mask, p)
    s = matrix.scores()
    figures = {
        "miou": s.miou,
        "pixel_accuracy": s.pixel_accuracy,
        "mean_accuracy": s.mean_accuracy,
        "fwiou": s.fwiou,
        "mean_dice": s.mean_dice,
        "mean_precision": float(np.nanmean(s.precision)),
        "boundary_iou": boundary.mean(),
        "bf_score": bf.mean(),
        **{f"trimap_miou_{w}": value for w, value in zip(curve.widths, curve.means(), strict=True)},
        "ece": calibration.ece(),
        "classwise_ece": calibration.classwise_ece(),
        "brier": calibration.brier(),
        "nll": calibration.nll(),
    }
    per_class = {
        "iou": s.iou, "dice": s.dice, "precision": s.precision, "recall": s.recall,
        "boundary_iou": boundary.per_class(), "bf_score": bf.per_class(), "class_ece": calibration.class_ece(),
    }  # fmt: skip
    return figures, per_class


@pytest.fixture(scope="module")
def data() -> Data:
    return Data()


@pytest.fixture(scope="module")
def found(data: Data) -> Evaluation:
    return evaluate(data, data, probabilities=True)


def test_figures_are_those_of_the_metrics(data: Data, found: Evaluation) -> None:
    figures, per_class = recomputed(data, range(COUNT))
    assert list(found.figures) == list(figures)
    for name, value in figures.items():
        assert found.figures[name] == pytest.approx(value), name
    for name, values in per_class.items():
        assert [row[name] for row in found.per_class] == pytest.approx(list(values)), name
    assert summary(found)["bf_score"] == pytest.approx(figures["bf_score"])


def test_intervals_are_those_of_drawn_images(data: Data, found: Evaluation) -> None:
    """The same draws as the evaluation's, each computed again from its images."""
    terms = {"images": np.eye(COUNT)}
    drawn = np.concatenate([block["images"] for block in resampled_sums(terms)])[:300].astype(int)
    again = [recomputed(data, np.repeat(np.arange(COUNT), counts)) for counts in drawn]
    part = find_intervals_of(found, 300)
    for name in found.figures:
        values = np.array([figures[name] for figures, _ in again])
        low, high = np.quantile(values, [0.025, 0.975])
        if name in ("ece", "classwise_ece"):
            excess = max(0.0, values.mean() - found.figures[name])
            low, high = max(0.0, low - excess), max(0.0, high - excess)
        assert part.headline[name] == pytest.approx((low, high)), name
        assert found.interval(name) == pytest.approx((low, high), abs=0.35 * (high - low)), name
    for name in ("iou", "recall", "boundary_iou", "bf_score"):
        values = np.array([per_class[name] for _, per_class in again])
        np.testing.assert_allclose(part.per_class[name], np.quantile(values, [0.025, 0.975], axis=0).T)


def test_intervals_of_the_bins_are_those_of_drawn_images(data: Data, found: Evaluation) -> None:
    terms = {"images": np.eye(COUNT)}
    drawn = np.concatenate([block["images"] for block in resampled_sums(terms)])[:300].astype(int)
    again = []
    for counts in drawn:
        calibration = Calibration()
        for index in np.repeat(np.arange(COUNT), counts):
            p = data.probabilities[index]
            calibration.update(p.max(axis=0), p.argmax(axis=0).astype(np.uint8), data.masks[index])
        again.append(calibration.reliability())
    part = find_intervals_of(found, 300)
    rows = found.to_json()["calibration"]["reliability"]
    for name in ("confidence", "accuracy"):
        values = np.array([getattr(one, name) for one in again])
        for place, row in enumerate(rows):
            if row["pixels"]:
                low, high = np.nanquantile(values[:, place], [0.025, 0.975])
                assert part.per_bin[name][place] == pytest.approx((low, high)), (name, place)
                assert row[f"{name}_ci95"][0] <= row[name] <= row[f"{name}_ci95"][1], (name, place)
            else:
                assert row[f"{name}_ci95"] == [None, None]
    assert any(row["accuracy_ci95"][0] is not None for row in rows)


def test_a_class_in_one_unit_has_no_interval() -> None:
    """Its IoU is the same in all draws that hold it: an interval of no width, which holds nothing of other units."""
    hits = np.array([[9, 3], [8, 0], [7, 0], [6, 0], [5, 0], [9, 0]])
    truth = np.array([[10, 4], [10, 0], [10, 0], [10, 0], [10, 0], [10, 0]])
    predicted = truth + np.array([[0, 0], [0, 2], [0, 0], [0, 0], [0, 0], [0, 0]])
    counts = np.stack([hits, truth, predicted], axis=1)
    found = find_intervals(counts, ImageSums(), range(6))
    assert np.isnan(found.per_class["recall"][1]).all(), "of one image"
    low, high = found.per_class["precision"][1]
    assert low < high, "of two"
    assert all(np.isfinite(found.per_class[name][0]).all() for name in found.per_class)
    joined = find_intervals(counts, ImageSums(), ["a", "a", "b", "b", "c", "c"])
    assert np.isnan(joined.per_class["iou"][1]).all() and np.isfinite(joined.headline["miou"]).all()
    rows = class_differences(counts, counts, groups=["a", "a", "b", "b", "c", "c"])
    assert np.isnan(rows[1].low) and not np.isnan(rows[1].difference) and not np.isnan(rows[0].low)


def test_every_convention_has_an_interval(found: Evaluation) -> None:
    tree = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert set(tree["conventions_ci95"]) == set(tree["conventions"]) == set(CONVENTIONS)
    for name, value in tree["conventions"].items():
        low, high = tree["conventions_ci95"][name]
        assert low is None if value is None else low < value < high, name
        expected = found.printed_by(name).figures[0]
        assert found.convention_intervals()[name] == pytest.approx(expected.ci95, nan_ok=True), name
    assert tree["conventions_ci95"]["pooled"] == tree["miou_ci95"]


def find_intervals_of(found: Evaluation, draws: int) -> Any:
    from segwright.evaluation import intervals
    from segwright.metrics import bootstrap

    with pytest.MonkeyPatch.context() as patch:
        first = lambda terms, *, groups, seed: bootstrap.resampled_sums(terms, draws=draws, seed=seed)  # noqa: E731
        patch.setattr(intervals, "resampled_sums", first)
        return find_intervals(found.counts, found.sums, found.independent.groups)


def test_every_figure_has_an_interval_in_json(found: Evaluation) -> None:
    tree = json.loads(json.dumps(found.to_json(), allow_nan=False))
    for name, value in found.figures.items():
        low, high = tree["intervals"][name]
        assert low <= value <= high, name
        assert tree[name] == pytest.approx(value)
    for row in tree["per_class"]:
        for name in ("iou", "dice", "precision", "recall", "boundary_iou", "bf_score", "class_ece"):
            low, high = row[f"{name}_ci95"]
            assert low <= high and row[name] is not None
    assert tree["intervals"]["miou"] == tree["miou_ci95"] == list(found.miou_ci95)
    assert not tree["not_computed"] and tree["ignored_pixels"] == sum(int((m == 255).sum()) for m in Data().masks)
    calibration = tree["calibration"]
    assert calibration["nll"] == tree["nll"] and calibration["temperature"] is None
    assert (
        len(calibration["reliability"]) == 15
        and sum(b["pixels"] for b in calibration["reliability"]) == found.matrix.sum()
    )
    gaps = [abs(b["accuracy"] - b["confidence"]) * b["pixels"] for b in calibration["reliability"] if b["pixels"]]
    assert sum(gaps) / found.matrix.sum() == pytest.approx(tree["ece"])


def test_what_is_not_computed_is_named() -> None:
    data = Data(5)
    plain = evaluate(data, data)
    assert (
        set(plain.not_computed) == {"brier", "nll", "classwise_ece"} and "--probabilities" in plain.not_computed["nll"]
    )
    assert "nll" not in plain.figures and plain.to_json()["calibration"]["nll"] is None
    bare = evaluate(data, data, boundary=False)
    assert {"boundary_iou", "bf_score", "trimap_miou"} <= set(bare.not_computed) and "bf_score" not in bare.figures
    assert math.isnan(bare.interval("bf_score")[0])


def test_sequences_are_drawn_whole() -> None:
    """Images that err alike within a sequence give a wider interval, for every figure."""
    data = Data(12)
    for i in range(0, 12, 3):
        for j in range(1, 3):
            data.masks[i + j], data.probabilities[i + j] = data.masks[i], data.probabilities[i]
    alone, together = (evaluate(data, data, groups=g) for g in ([*range(12)], [i // 3 for i in range(12)]))
    for name in ("miou", "boundary_iou", "bf_score", "trimap_miou_3", "nll"):
        if name in alone.figures:
            narrow, wide = (high - low for low, high in (alone.interval(name), together.interval(name)))
            assert wide > 1.2 * narrow, name


def test_one_unit_has_no_interval_and_absent_classes_none() -> None:
    data = Data(1)
    one = evaluate(data, data)
    assert all(math.isnan(bound) for interval in one.intervals.headline.values() for bound in interval)
    counts = np.zeros((6, 3, 4), np.int64)
    counts[:, :, :2] = np.random.default_rng(0).integers(5, 9, (6, 3, 2))
    counts[:, 0] = np.minimum(counts[:, 0], counts[:, 1:].min(axis=1))
    found = find_intervals(counts, ImageSums(), units_of(list("abcdef"), list("abcdef")).groups)
    assert np.isnan(found.per_class["iou"][2:]).all() and not np.isnan(found.per_class["iou"][:2]).any()
    assert found.headline["miou"] == miou_interval(counts, groups=list("abcdef"))


def test_calibration_intervals_are_not_pushed_up() -> None:
    """Bins that are right on average have a calibration error near 0, of which every draw is above."""
    rng = np.random.default_rng(0)
    sums = Calibration(bins=10)
    each = []
    for _ in range(40):
        sure = rng.uniform(0.5, 1, (6, 6)).astype(np.float32)
        truth = (rng.random((6, 6)) > sure).astype(np.uint8)
        each.append(sums.update(sure, np.zeros((6, 6), np.uint8), truth))
    counts = np.full((40, 3, 2), 9, np.int64)
    found = find_intervals(counts, ImageSums(calibration=each), list(range(40)))
    low, high = found.headline["ece"]
    assert low <= sums.ece() <= high


def test_all_figures_in_80_columns(found: Evaluation, tmp_path: Any) -> None:
    from rich.console import Console

    from segwright.evaluation.terminal import render_evaluation

    found.convention = "torchmetrics"
    found.__dict__.pop("convention_result", None)
    with (tmp_path / "out.txt").open("w") as file:
        render_evaluation(found, Console(file=file, width=80))
    lines = (tmp_path / "out.txt").read_text().splitlines()
    figures = [line for line in lines if not line.startswith(("torchmetrics:", "  ", "note:"))]
    assert max(map(len, figures)) <= 80
    text = "\n".join(lines)
    for words in (
        "BF score",
        "log loss",
        "Brier score",
        "classwise",
        "within 3 px",
        "MulticlassJaccardIndex",
        "not computed",
    ):
        assert words in text, words
