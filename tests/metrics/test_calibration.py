"""Calibration: hand-worked, against torchmetrics, and the same whatever the order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from segwright.core.errors import LabelError, UsageError
from segwright.metrics.calibration import Calibration


def sample(seed: int, classes: int = 4, shape: tuple[int, int] = (30, 40)) -> Any:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(classes, *shape)).astype(np.float32) * 2
    p = np.exp(logits) / np.exp(logits).sum(0)
    target = p.argmax(0).astype(np.uint8)
    target[rng.random(shape) < 0.4] = 1
    target[:4] = 255
    return p.astype(np.float32), target


def test_hand_worked() -> None:
    metric = Calibration(bins=2)
    confidence = np.array([[0.4, 0.4, 0.9, 0.7, 0.6]], np.float32)
    labels = np.array([[0, 1, 1, 1, 0]], np.uint8)
    target = np.array([[0, 0, 1, 0, 255]], np.uint8)
    metric.update(confidence, labels, target)
    found = metric.reliability()
    assert found.pixels.tolist() == [2, 2]
    assert found.accuracy.tolist() == [0.5, 0.5]
    assert found.confidence.tolist() == pytest.approx([0.4, 0.8])
    assert metric.ece() == pytest.approx(0.5 * 0.1 + 0.5 * 0.3)
    assert np.isnan(metric.brier())


def test_agrees_with_torchmetrics_and_the_brier_definition() -> None:
    torch = pytest.importorskip("torch")
    torchmetrics = pytest.importorskip("torchmetrics")
    metric, brier = Calibration(bins=15), []
    theirs = torchmetrics.classification.MulticlassCalibrationError(num_classes=4, n_bins=15, ignore_index=255)
    for seed in range(3):
        p, target = sample(seed)
        metric.update(p.max(0), p.argmax(0).astype(np.uint8), target, p)
        theirs.update(torch.from_numpy(p)[None], torch.from_numpy(target).long()[None])
        valid = target != 255
        onehot = np.eye(4)[target[valid]]
        brier.append(((p[:, valid].T - onehot) ** 2).sum(1))
    assert metric.ece() == pytest.approx(float(theirs.compute()), abs=1e-5)
    assert metric.brier() == pytest.approx(float(np.concatenate(brier).mean()), rel=1e-6)


def test_merge_is_the_whole() -> None:
    whole, one, two = Calibration(), Calibration(), Calibration()
    for seed, part in ((0, one), (1, two)):
        p, target = sample(seed)
        for metric in (whole, part):
            metric.update(p.max(0), p.argmax(0).astype(np.uint8), target, p)
    one.merge(two)
    assert one.ece() == pytest.approx(whole.ece()) and one.brier() == pytest.approx(whole.brier())


def test_nothing_and_nonsense() -> None:
    metric = Calibration()
    assert np.isnan(metric.ece())
    square = np.zeros((2, 2), np.uint8)
    metric.update(np.ones((2, 2), np.float32), square, np.full((2, 2), 255, np.uint8))
    assert np.isnan(metric.ece()) and np.isnan(metric.reliability().accuracy).all()
    for bad in (1.5, -0.1, np.nan):
        with pytest.raises(LabelError):
            metric.update(np.full((2, 2), bad, np.float32), square, square)
    with pytest.raises(LabelError):
        metric.update(np.ones((2, 3), np.float32), square, square)
    with pytest.raises(UsageError):
        Calibration(bins=0)
    with pytest.raises(UsageError):
        metric.merge(Calibration(bins=3))


def test_log_loss_and_classwise_error_are_their_definitions() -> None:
    metric, losses, gaps = Calibration(bins=10), [], np.zeros((4, 10))
    for seed in range(3):
        p, target = sample(seed)
        found = metric.update(p.max(0), p.argmax(0).astype(np.uint8), target, p)
        valid = target != 255
        mine = [-np.log(float(p[t, y, x])) for (y, x), t in np.ndenumerate(target) if t != 255]
        assert found.nll == pytest.approx(sum(mine)) and found.probability_pixels == found.pixels == valid.sum()
        losses += mine
        for k in range(4):
            for value, truth in zip(p[k][valid].tolist(), (target[valid] == k).tolist(), strict=True):
                gaps[k, min(max(int(np.ceil(value * 10)) - 1, 0), 9)] += truth - value
    assert metric.nll() == pytest.approx(float(np.mean(losses)))
    expected = np.abs(gaps).sum(axis=1) / len(losses)
    np.testing.assert_allclose(metric.class_ece(), expected, rtol=1e-5)
    assert metric.classwise_ece() == pytest.approx(float(expected.mean()), rel=1e-5)


def test_a_probability_of_zero_is_a_finite_loss() -> None:
    metric = Calibration()
    p = np.zeros((2, 1, 2), np.float32)
    p[0] = 1
    metric.update(p.max(0), p.argmax(0).astype(np.uint8), np.array([[0, 1]], np.uint8), p)
    assert np.isfinite(metric.nll()) and metric.nll() > 40
    assert (
        np.isnan(Calibration().nll()) and np.isnan(Calibration().classwise_ece()) and Calibration().class_ece() is None
    )
