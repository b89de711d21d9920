"""The pooled confusion matrix: hand-worked, against brute force, against torchmetrics and against what others print."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segwright.core.errors import LabelError, UsageError
from segwright.metrics import confusion
from segwright.metrics.confusion import (
    ConfusionMatrix,
    class_counts,
    count_pairs,
    iou_per_class,
    scores,
)
from segwright.metrics.conventions import miou_by_convention


def brute_force(prediction: Any, target: Any, classes: int) -> Any:
    matrix = np.zeros((classes, classes), np.int64)
    for said, truth in zip(prediction.ravel().tolist(), target.ravel().tolist(), strict=True):
        if truth != 255:
            matrix[truth, said] += 1
    return matrix


def random_pair(rng: np.random.Generator, classes: int, shape: tuple[int, ...], ignored: float = 0.1) -> Any:
    target = rng.integers(0, classes, shape).astype(np.uint8)
    prediction = np.where(rng.random(shape) < 0.6, target, rng.integers(0, classes, shape)).astype(np.uint8)
    target[rng.random(shape) < ignored] = 255
    return prediction, target


def test_hand_worked() -> None:
    target = np.array([[0, 0, 0, 1], [1, 1, 255, 255]], np.uint8)
    prediction = np.array([[0, 0, 1, 1], [1, 0, 2, 0]], np.uint8)
    matrix = ConfusionMatrix(3)
    matrix.update(prediction, target)
    assert matrix.matrix.tolist() == [[2, 1, 0], [1, 2, 0], [0, 0, 0]]
    found = matrix.scores()
    assert found.iou[:2].tolist() == [2 / 4, 2 / 4]
    assert np.isnan(found.iou[2]) and np.isnan(found.dice[2]) and np.isnan(found.recall[2])  # class 2: only on void
    assert found.miou == 0.5
    assert found.pixel_accuracy == pytest.approx(4 / 6)
    assert found.mean_accuracy == pytest.approx(2 / 3)
    assert found.mean_dice == pytest.approx(2 / 3)
    assert found.fwiou == 0.5
    assert found.pixels.tolist() == [3, 3, 0]


def test_frequency_weighting_and_a_class_only_predicted() -> None:
    # truth: 6 of class 0, 2 of class 1; class 2 is predicted once and never true: IoU 0, counted in the mean
    found = scores([[5, 0, 1], [1, 1, 0], [0, 0, 0]])
    assert found.iou.tolist() == pytest.approx([5 / 7, 1 / 2, 0.0])
    assert found.miou == pytest.approx((5 / 7 + 1 / 2) / 3)
    assert found.fwiou == pytest.approx(6 / 8 * 5 / 7 + 2 / 8 * 1 / 2)
    assert found.mean_accuracy == pytest.approx((5 / 6 + 1 / 2) / 2)  # recall of class 2 is undefined
    assert found.precision.tolist() == pytest.approx([5 / 6, 1.0, 0.0])


@pytest.mark.parametrize("classes", [1, 2, 3, 12, 14, 15, 16, 17, 21, 150, 254, 255])
@pytest.mark.parametrize("shape", [(7,), (1, 1), (33, 31), (2, 97, 101)])
def test_equals_brute_force(classes: int, shape: tuple[int, ...]) -> None:
    prediction, target = random_pair(np.random.default_rng(classes), classes, shape)
    assert np.array_equal(count_pairs(prediction, target, classes), brute_force(prediction, target, classes))


@pytest.mark.parametrize("classes", [5, 15, 16, 255])
def test_runs_and_block_edges(classes: int) -> None:
    """Sizes around a block's end must not lose or invent a pixel."""
    rng = np.random.default_rng(1)
    for size in (4097, confusion.BLOCK - 1, confusion.BLOCK, confusion.BLOCK + 1, 2 * confusion.BLOCK + 1):
        target = np.repeat(rng.integers(0, classes, size // 50 + 1), 50)[:size].astype(np.uint8)
        prediction = np.repeat(rng.integers(0, classes, size // 37 + 1), 37)[:size].astype(np.uint8)
        counts = count_pairs(prediction, target, classes)
        assert counts.sum() == size
        assert np.array_equal(counts, brute_force(prediction, target, classes))


def test_the_block_size_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    prediction, target = random_pair(np.random.default_rng(2), 6, (1000,))
    whole = count_pairs(prediction, target, 6)
    monkeypatch.setattr(confusion, "BLOCK", 64)
    assert np.array_equal(count_pairs(prediction, target, 6), whole)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), classes=st.integers(1, 255), size=st.integers(0, 3000))
def test_properties(seed: int, classes: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    prediction, target = random_pair(rng, classes, (size,))
    counts = count_pairs(prediction, target, classes)
    assert counts.dtype == np.int64 and counts.sum() == (target != 255).sum()
    order = rng.permutation(size)
    assert np.array_equal(counts, count_pairs(prediction[order], target[order], classes))
    cut = size // 3
    merged = ConfusionMatrix(classes)
    merged.update(prediction[:cut], target[:cut])
    other = ConfusionMatrix(classes)
    other.update(prediction[cut:], target[cut:])
    merged.merge(other)
    assert np.array_equal(merged.matrix, counts)
    found = scores(counts)
    for values in (found.iou, found.dice, found.precision, found.recall):
        kept = values[~np.isnan(values)]
        assert ((kept >= 0) & (kept <= 1)).all()
    np.testing.assert_allclose(found.dice, 2 * found.iou / (1 + found.iou))  # Dice and IoU say the same
    perfect = scores(count_pairs(target % 255, target, classes))  # ignored pixels: any value
    if (target != 255).any():
        assert perfect.miou == perfect.pixel_accuracy == perfect.fwiou == 1.0
    else:
        assert np.isnan(perfect.miou)


@pytest.mark.parametrize("classes", [2, 12, 21])
def test_agrees_with_torchmetrics(classes: int) -> None:
    torchmetrics = pytest.importorskip("torchmetrics")
    prediction, target = random_pair(np.random.default_rng(3), classes, (4, 60, 80))
    p, t = torch.from_numpy(prediction), torch.from_numpy(target).long()
    options = {"num_classes": classes, "ignore_index": 255}
    theirs = torchmetrics.classification.MulticlassConfusionMatrix(**options)(p, t)
    ours = ConfusionMatrix(classes)
    ours.update(prediction, target)
    assert np.array_equal(ours.matrix, theirs.numpy())
    found = ours.scores()
    for name, values in (
        ("MulticlassJaccardIndex", found.iou),
        ("MulticlassF1Score", found.dice),
        ("MulticlassPrecision", found.precision),
        ("MulticlassRecall", found.recall),
    ):
        metric = getattr(torchmetrics.classification, name)(average=None, **options)
        np.testing.assert_allclose(metric(p, t).numpy(), values, rtol=1e-6)


def test_torch_tensors_and_wider_integers_are_taken() -> None:
    prediction, target = random_pair(np.random.default_rng(4), 7, (50,))
    expected = count_pairs(prediction, target, 7)
    assert np.array_equal(count_pairs(torch.from_numpy(prediction).long(), torch.from_numpy(target).int(), 7), expected)
    assert np.array_equal(count_pairs(prediction[::-1], target[::-1], 7), expected)  # not contiguous


@pytest.mark.parametrize("classes", [3, 20])
def test_values_of_no_class_are_refused(classes: int) -> None:
    good = np.zeros((4, 4), np.uint8)
    bad = good.copy()
    bad[1, 1] = classes
    with pytest.raises(LabelError, match="1 pixels"):
        count_pairs(bad, good, classes)
    with pytest.raises(LabelError, match="ground truth"):
        count_pairs(good, bad, classes)
    with pytest.raises(LabelError, match="-1"):
        count_pairs(good.astype(int) - 1, good, classes)
    with pytest.raises(LabelError, match="integers"):
        count_pairs(good.astype(float), good, classes)
    with pytest.raises(LabelError, match="differ in size"):
        count_pairs(good[:2], good, classes)


@pytest.mark.parametrize("classes", [3, 15, 16, 20])
def test_any_prediction_is_free_on_ignored_pixels(classes: int) -> None:
    target = np.array([0, 1, 255, 255], np.uint8)
    prediction = np.array([0, 1, 255, classes], np.uint8)
    counts = count_pairs(prediction, target, classes)
    assert counts.sum() == 2 and counts[0, 0] == counts[1, 1] == 1


def test_empty_and_all_ignored_are_nan_not_zero() -> None:
    matrix = ConfusionMatrix(4)
    assert np.isnan(matrix.scores().miou)
    matrix.update(np.zeros((3, 3), np.uint8), np.full((3, 3), 255, np.uint8))
    found = matrix.scores()
    assert all(np.isnan(v) for v in (found.miou, found.pixel_accuracy, found.mean_accuracy, found.fwiou))


def test_conventions_of_others() -> None:
    # two images, three classes; class 2 occurs nowhere
    first = np.array([[8, 0, 0], [0, 0, 0], [0, 0, 0]])
    second = np.array([[2, 2, 0], [0, 4, 0], [0, 0, 0]])
    matrices = class_counts(np.stack([first, second]))
    pooled0, pooled1 = 10 / 12, 4 / 6
    assert miou_by_convention(matrices) == pytest.approx((pooled0 + pooled1) / 2)
    assert np.isnan(miou_by_convention(matrices, "torchvision"))
    assert miou_by_convention(matrices, "semseg") == pytest.approx((pooled0 + pooled1) / 3)
    assert miou_by_convention(matrices, "cityscapes") == miou_by_convention(matrices, "mmseg")
    assert miou_by_convention(matrices, "smp") == pytest.approx((1 + 1 + 1 + 2 / 4 + 4 / 6 + 1) / 6)
    assert miou_by_convention(matrices, "per-image") == pytest.approx((1 + (2 / 4 + 4 / 6) / 2) / 2)
    with pytest.raises(UsageError, match="torchvision"):
        miou_by_convention(matrices, "coco")


def test_smp_conventions_are_smp_s_own() -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    rng = np.random.default_rng(5)
    prediction, target = random_pair(rng, 5, (3, 20, 20), ignored=0)
    target[0][target[0] == 2] = 1
    prediction[0][prediction[0] == 2] = 1
    stats = smp.metrics.get_stats(
        torch.from_numpy(prediction).long(), torch.from_numpy(target).long(), mode="multiclass", num_classes=5
    )
    matrices = class_counts(np.stack([count_pairs(p, t, 5) for p, t in zip(prediction, target, strict=True)]))
    for ours, theirs in (("smp", "macro-imagewise"), ("smp-micro-imagewise", "micro-imagewise")):
        assert miou_by_convention(matrices, ours) == pytest.approx(
            float(smp.metrics.iou_score(*stats, reduction=theirs, zero_division=1.0))
        )


def test_iou_of_many_matrices_at_once() -> None:
    matrices = np.random.default_rng(6).integers(0, 50, (4, 5, 3, 3))
    stacked = iou_per_class(class_counts(matrices))
    assert stacked.shape == (4, 5, 3)
    np.testing.assert_allclose(stacked[2, 3], scores(matrices[2, 3]).iou)


def test_matrices_that_do_not_fit() -> None:
    with pytest.raises(UsageError):
        ConfusionMatrix(3).merge(ConfusionMatrix(4))
    with pytest.raises(UsageError):
        ConfusionMatrix(256)
