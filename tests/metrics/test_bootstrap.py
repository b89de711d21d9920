"""Bootstrap intervals: deterministic, equal to resampling written out, and of the right width."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from segwright.core.errors import UsageError
from segwright.metrics import bootstrap
from segwright.metrics.bootstrap import miou_interval, paired_difference
from segwright.metrics.class_differences import class_differences
from segwright.metrics.confusion import class_counts, labeled_miou, predicted_alone, scores


def make_images(seed: int, count: int, quality: float = 0.8, spread: float = 0.15, classes: int = 3) -> Any:
    rng = np.random.default_rng(seed)
    matrices = []
    for _ in range(count):
        right = np.clip(quality + spread * rng.normal(), 0.05, 1)
        truth = rng.multinomial(1000, np.ones(classes) / classes)
        matrix = np.zeros((classes, classes), np.int64)
        for k in range(classes):
            wrong = (1 - right) / (classes - 1)
            matrix[k] = rng.multinomial(truth[k], [right if j == k else wrong for j in range(classes)])
        matrices.append(matrix)
    return np.stack(matrices)


def test_equals_resampling_written_out() -> None:
    matrices = make_images(0, 12)
    values = []
    for drawn in bootstrap._draw(12, 300, 7):
        for row in drawn.astype(int):
            values.append(scores((matrices * row[:, None, None]).sum(0)).miou)
    expected = np.quantile(values, [0.025, 0.975])
    assert len(values) == 300
    assert miou_interval(class_counts(matrices), draws=300, seed=7) == pytest.approx(tuple(expected))


def test_deterministic_and_around_the_score(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = class_counts(make_images(1, 40))
    low, high = miou_interval(counts)
    assert (low, high) == miou_interval(counts) != miou_interval(counts, seed=1)
    assert low < scores(make_images(1, 40).sum(0)).miou < high
    few, many = class_counts(make_images(2, 10)), class_counts(make_images(2, 250))
    assert np.subtract(*miou_interval(many)) > np.subtract(*miou_interval(few))  # narrower: less negative
    narrow = miou_interval(counts, level=0.5)
    assert low < narrow[0] < narrow[1] < high
    monkeypatch.setattr(bootstrap, "BLOCK_CELLS", 100)
    assert miou_interval(counts) == pytest.approx((low, high), abs=0.02)


def test_covers_the_truth_about_as_often_as_it_says() -> None:
    truth = scores(make_images(99, 4000).sum(0)).miou
    hits = 0
    for seed in range(60):
        low, high = miou_interval(class_counts(make_images(seed, 40)), draws=300)
        hits += low <= truth <= high
    assert hits >= 50  # 95 % of 60 is 57; the percentile bootstrap is a little short


def test_pairs_see_what_separate_intervals_do_not() -> None:
    base = make_images(3, 40, spread=0.25)
    better = base.copy()
    for matrix in better:  # a tenth of every image's errors mended
        mended = matrix // 10
        np.fill_diagonal(mended, 0)
        matrix -= mended
        matrix[np.diag_indices(3)] += mended.sum(1)
    a, b = class_counts(base), class_counts(better)
    found = paired_difference(a, b)
    assert found.clear and found.low > 0 and found.share_above == 1
    assert miou_interval(a)[1] > miou_interval(b)[0]  # apart, the two overlap
    assert found.difference == pytest.approx(scores(better.sum(0)).miou - scores(base.sum(0)).miou)
    back = paired_difference(b, a)
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low))
    same = paired_difference(a, a)
    assert not same.clear and same.difference == 0 and same.share_above == 0.5


def test_a_class_without_truth_decides_nothing() -> None:
    """Each image: 90 pixels of road, 10 of car, no bike. Before: all of road right, one of car taken for road. After:
    that one is taken for bike. Road goes from 90/91 to 1, car stays 9/10, and bike is no class of these images."""
    before = np.array([[[90, 9, 0], [90, 10, 0], [91, 9, 0]]] * 6)  # hits, truth, prediction
    after = np.array([[[90, 9, 0], [90, 10, 0], [90, 9, 1]]] * 6)
    found = paired_difference(before, after)
    assert found.miou_a == pytest.approx((90 / 91 + 0.9) / 2) and found.miou_b == pytest.approx(0.95)
    assert found.difference == pytest.approx((1 - 90 / 91) / 2)
    assert (found.low, found.high) == pytest.approx((found.difference,) * 2) and found.clear
    assert labeled_miou(after) == pytest.approx(0.95) and predicted_alone(after).tolist() == [2]
    pooled = paired_difference(before, after, absent=True)
    assert pooled.difference == pytest.approx((1 + 0.9 + 0) / 3 - (90 / 91 + 0.9) / 2)
    matrix = np.array([[540, 0, 0], [0, 54, 6], [0, 0, 0]])
    assert scores(matrix).labeled_miou == pytest.approx(0.95) and scores(matrix).miou == pytest.approx(1.9 / 3)
    rows = class_differences(after, after, groups=range(6))
    assert rows[0].difference == 0 and np.isnan(rows[2].difference) and np.isnan(rows[2].low)


def test_a_draw_is_scored_over_its_own_classes() -> None:
    """Bike is in the first image alone. In a draw without it a pixel that is called bike is no class of its own."""
    before = np.array([[[50, 40], [50, 50], [60, 40]], *[[[100, 0], [100, 0], [100, 0]]] * 5])
    after = np.array([[[50, 40], [50, 50], [60, 40]], *[[[99, 0], [100, 0], [99, 1]]] * 5])
    found = paired_difference(before, after, seed=3)
    values = []
    for drawn in bootstrap._draw(6, bootstrap.DRAWS, 3):
        for row in drawn.astype(int):
            a, b = ((counts * row[:, None, None]).sum(0) for counts in (before, after))
            there = a[1] > 0
            values.append(np.subtract(*((c[0] / (c[1] + c[2] - c[0] + ~there))[there].mean() for c in (b, a))))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])))
    assert found.low > -0.05


def test_groups_are_drawn_whole() -> None:
    base = make_images(4, 5, spread=0.3)
    copies = np.repeat(base, 10, axis=0)  # ten frames of each scene: fifty images, five independent ones
    alone = miou_interval(class_counts(copies))
    grouped = miou_interval(class_counts(copies), groups=[i // 10 for i in range(50)])
    assert grouped == pytest.approx(miou_interval(class_counts(base)))
    assert grouped[1] - grouped[0] > 2 * (alone[1] - alone[0])
    with pytest.raises(UsageError):
        miou_interval(class_counts(copies), groups=[1, 2])


def test_too_little_gives_nan() -> None:
    one = class_counts(make_images(5, 1))
    assert np.isnan(miou_interval(one)).all()
    empty = np.zeros((3, 3, 4), np.int64)
    assert np.isnan(miou_interval(empty)).all()
    assert np.isnan(paired_difference(one, one).low)
    with pytest.raises(UsageError):
        miou_interval(np.zeros((4, 5, 5)))
    with pytest.raises(UsageError):
        paired_difference(one, class_counts(make_images(5, 2)))
