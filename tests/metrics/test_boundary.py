"""Boundary scores: hand-worked, and against the definitions written out."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from scipy import ndimage

from segwright.core.errors import LabelError, UsageError
from segwright.metrics import boundary as boundary_module
from segwright.metrics.boundary import (
    BFScore,
    BoundaryIoU,
    TrimapCurve,
    TrimapIoU,
    _differs_nearby,
    band_width,
    boundary_band,
    class_bands,
    outline,
    trimap,
)


def blobs(seed: int, classes: int = 3, shape: tuple[int, int] = (48, 61), ignored: bool = True) -> Any:
    rng = np.random.default_rng(seed)
    noise = np.stack([ndimage.gaussian_filter(rng.normal(size=shape), 4) for _ in range(classes)])
    target = noise.argmax(0).astype(np.uint8)
    moved = noise + 0.3 * np.stack([ndimage.gaussian_filter(rng.normal(size=shape), 3) for _ in range(classes)])
    prediction = moved.argmax(0).astype(np.uint8)
    if ignored:
        target[:5, 10:30] = 255
    return prediction, target


def reference_band(region: Any, ratio: float) -> Any:
    """The published mask_to_boundary, step by step."""
    height, width = region.shape
    dilation = max(1, round(ratio * np.sqrt(height**2 + width**2)))
    padded = cv2.copyMakeBorder(region.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=int(dilation))[1:-1, 1:-1]
    return region.astype(np.uint8) - eroded


@pytest.mark.parametrize("ratio", [0.001, 0.02, 0.1, 0.4])
def test_band_is_the_published_one(ratio: float) -> None:
    for seed in range(4):
        _, target = blobs(seed)
        for value in (0, 1, 2):
            region = target == value
            band = boundary_band(region, band_width(*target.shape, ratio))
            assert np.array_equal(band.astype(np.uint8), reference_band(region, ratio))


def test_boundary_iou_against_the_definition() -> None:
    metric = BoundaryIoU(3)
    inter, union = np.zeros(3), np.zeros(3)
    for seed in range(3):
        prediction, target = blobs(seed)
        metric.update(prediction, target)
        for k in range(3):
            void = target == 255  # a region goes on into it, and is then cut to what is labeled
            said = reference_band((prediction == k) | void, 0.02) * (~void)
            truth = reference_band((target == k) | void, 0.02) * (~void)
            inter[k] += (said & truth).sum()
            union[k] += (said | truth).sum()
    np.testing.assert_allclose(metric.per_class(), inter / union)
    assert metric.mean() == pytest.approx(float((inter / union).mean()))


def test_boundary_iou_sees_what_iou_does_not() -> None:
    target = np.zeros((200, 200), np.uint8)
    target[50:150, 50:150] = 1
    shifted = np.roll(target, 3, axis=1)
    metric = BoundaryIoU(2)
    metric.update(shifted, target)
    region = (target & shifted).sum() / (target | shifted).sum()
    assert region > 0.94 and metric.per_class()[1] < 0.75
    perfect = BoundaryIoU(4)
    perfect.update(target, target)
    assert perfect.per_class()[:2].tolist() == [1, 1] and np.isnan(perfect.per_class()[2:]).all()
    assert perfect.mean() == 1


def test_a_border_with_void_is_none() -> None:
    """A class beside void alone: nobody knows where it ends, and both sides would share that border by construction."""
    target = np.zeros((100, 100), np.uint8)
    target[:, 40:60] = 255
    target[:, 60:] = 1
    assert not boundary_band(target == 0, 2, target == 255)[5:-5, 10:].any()  # columns 10 to 39: inside
    assert boundary_band(target == 0, 2)[5:-5, 38:40].all()  # without: the two columns beside void
    assert not outline(target == 0, target == 255).any() and outline(target == 0)[:, 39].all()
    # The prediction puts a border inside the left class and none anywhere else: no credit for the border with void.
    prediction = np.zeros_like(target)
    prediction[:, :20] = 1
    prediction[:, 60:] = 1
    score = BFScore(2)
    score.update(prediction, target)
    assert score.mean() == 0
    boundary = BoundaryIoU(2)
    boundary.update(prediction, target)
    inside = np.s_[10:-10, 10:-10]
    truth = boundary_band(target == 0, 3, target == 255)
    assert not truth[inside].any()


def test_merged_counts_are_the_whole() -> None:
    whole, left, right = BoundaryIoU(3), BoundaryIoU(3), BoundaryIoU(3)
    for seed, part in ((0, left), (1, right)):
        part.update(*blobs(seed))
        whole.update(*blobs(seed))
    left.merge(right)
    np.testing.assert_array_equal(left.per_class(), whole.per_class())


def brute_bf(prediction: Any, target: Any, classes: int, tolerance: float) -> float:
    """Every border pixel against every other."""
    reach = tolerance * np.hypot(*target.shape)
    values = []
    for k in range(classes):
        said, truth = (prediction == k) & (target != 255), target == k
        if not said.any() and not truth.any():
            continue
        edges = []
        for region in (said, truth):
            points = []
            for y, x in np.argwhere(region):
                around = (region | (target == 255))[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
                if not around.all():
                    points.append((y, x))
            edges.append(np.array(points).reshape(-1, 2))
        if not len(edges[0]) and not len(edges[1]):
            values.append(float(said.any() == truth.any()))
            continue
        if not len(edges[0]) or not len(edges[1]):
            values.append(0.0)
            continue
        far = np.hypot(*(edges[0][:, None] - edges[1][None]).transpose(2, 0, 1))
        precision, recall = (far.min(1) <= reach).mean(), (far.min(0) <= reach).mean()
        values.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    return float(np.mean(values))


@pytest.mark.parametrize("tolerance", [0.0075, 0.03])
def test_bf_score_is_brute_force(tolerance: float) -> None:
    metric = BFScore(4, tolerance=tolerance)
    expected = []
    for seed in range(3):
        prediction, target = blobs(seed, shape=(30, 37))
        metric.update(prediction, target)
        expected.append(brute_bf(prediction, target, 4, tolerance))
    assert metric.mean() == pytest.approx(float(np.mean(expected)))
    assert np.isnan(metric.per_class()[3])


def test_bf_score_of_special_cases() -> None:
    full = np.zeros((20, 20), np.uint8)
    metric = BFScore(2)
    metric.update(full, full)
    assert metric.mean() == 1
    metric.update(np.ones_like(full), full)
    assert metric.images[-1] == 0
    metric.update(full, np.full_like(full, 255))
    assert len(metric.images) == 2  # nothing to score
    assert not outline(np.ones((4, 4), bool)).any()


def test_trimap_is_the_distance_to_a_border() -> None:
    target = np.zeros((20, 30), np.uint8)
    target[:, 15:] = 1
    target[:3] = 255
    for width in (1, 2, 5):
        band = trimap(target, width)
        assert np.array_equal(np.flatnonzero(band[10]), np.arange(15 - width, 15 + width))
        assert not band[:3].any()
    assert not trimap(np.zeros((9, 9), np.uint8), 3).any()
    prediction = np.zeros((20, 30), np.uint8)
    prediction[:, 16:] = 1  # one column off
    metric = TrimapIoU(2, width=2)
    metric.update(prediction, target)
    assert metric.mean() == pytest.approx((2 / 3 + 1 / 2) / 2)  # columns 13 to 16: truth 0 0 1 1, said 0 0 0 1


def test_what_does_not_fit() -> None:
    for metric in (BoundaryIoU(2), BFScore(2), TrimapIoU(2)):
        with pytest.raises(LabelError):
            metric.update(np.zeros((3, 4), np.uint8), np.zeros((4, 3), np.uint8))
    for build in (lambda: BoundaryIoU(0), lambda: BFScore(2, tolerance=0), lambda: TrimapIoU(2, width=0)):
        with pytest.raises(UsageError):
            build()


def test_all_classes_at_once_are_each_class_alone() -> None:
    """Bands and outlines of label maps against those of each region, with void, stripes and single pixels."""
    rng = np.random.default_rng(0)
    for seed in range(6):
        _, target = blobs(seed, classes=5)
        target[rng.random(target.shape) < 0.02] = rng.integers(0, 5)
        target[rng.random(target.shape) < 0.05] = 255
        for erosions in (1, 2, 7, 60):
            alone = np.zeros(target.shape, bool)
            for k in range(5):
                alone |= boundary_band(target == k, erosions, target == 255)
            assert np.array_equal(class_bands(target, erosions), alone)
        alone = np.zeros(target.shape, bool)
        for k in range(5):
            alone |= outline(target == k, target == 255)
        assert np.array_equal(_differs_nearby(target, 1), alone)


@pytest.mark.parametrize("tolerance", [0.2, 0.6])
def test_bf_score_with_a_wide_tolerance_is_brute_force(tolerance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = []
    for largest in (24, 3):  # disks; distances
        monkeypatch.setattr(boundary_module, "LARGEST_DISK", largest)
        metric = BFScore(4, tolerance=tolerance)
        for seed in range(3):
            prediction, target = blobs(seed, shape=(30, 37))
            found = metric.update(prediction, target)
            expected.append(brute_bf(prediction, target, 4, tolerance))
            assert found[0, found[1] > 0].mean() == pytest.approx(expected[-1])
    assert metric.mean() == pytest.approx(float(np.mean(expected[:3])))


def test_what_an_image_adds_is_returned() -> None:
    boundary, bf, curve = BoundaryIoU(3), BFScore(3), TrimapCurve(3)
    added = [[metric.update(*blobs(seed)) for metric in (boundary, bf, curve)] for seed in range(3)]
    sums = [np.sum(values, axis=0) for values in zip(*added, strict=True)]
    assert np.array_equal(np.stack([boundary.intersection, boundary.union]), sums[0])
    np.testing.assert_allclose(np.stack([bf.class_sum, bf.class_count]), sums[1])
    assert np.array_equal(curve.counts, sums[2])


def test_the_curve_is_the_trimap_of_each_width() -> None:
    widths = (1, 2, 4, 9, 30)
    curve, alone = TrimapCurve(3, widths=widths), [TrimapIoU(3, width=width) for width in widths]
    for seed in range(3):
        for metric in (curve, *alone):
            metric.update(*blobs(seed))
    assert curve.means() == pytest.approx([metric.mean() for metric in alone])
    flat = TrimapCurve(2)
    flat.update(np.zeros((9, 9), np.uint8), np.zeros((9, 9), np.uint8))
    assert np.isnan(flat.means()).all()
    for wrong in ((), (0, 3), (3, 1), (2, 2)):
        with pytest.raises(UsageError):
            TrimapCurve(2, widths=wrong)
    target = np.zeros((9, 9), np.uint8)
    target[:, 5:] = 1
    with pytest.raises(LabelError, match="no class"):
        TrimapCurve(2).update(np.full((9, 9), 7, np.uint8), target)
