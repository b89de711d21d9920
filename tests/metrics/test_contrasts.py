"""A part of the data against the rest: common classes only, an interval that holds, Holm's correction."""

from __future__ import annotations

import math

import numpy as np
import pytest

from segwright.core.errors import UsageError
from segwright.metrics import contrasts
from segwright.metrics.contrasts import contrast, holm


def counts(rng: np.random.Generator, images: int, quality: float, classes: int = 3) -> np.ndarray:
    """(N, 3, K) with IoU near ``quality`` in each class."""
    truth = rng.integers(500, 1500, (images, classes))
    hit = (truth * np.clip(rng.normal(quality, 0.05, (images, classes)), 0, 1)).astype(np.int64)
    return np.stack([hit, truth, hit], axis=1)


def split_parts(whole: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    chosen = inside[:, None, None]
    return np.where(chosen, whole, 0), np.where(chosen, 0, whole)


def test_a_worse_part_is_found_with_its_difference() -> None:
    rng = np.random.default_rng(0)
    whole = np.concatenate([counts(rng, 20, 0.5), counts(rng, 40, 0.8)])
    part, rest = split_parts(whole, np.arange(60) < 20)
    found = contrast(part, rest, groups=range(60))
    assert found.miou == pytest.approx(0.5, abs=0.02) and found.rest == pytest.approx(0.8, abs=0.02)
    assert found.difference_low < found.difference < found.difference_high < 0
    assert found.low < found.miou < found.high and found.p < 1e-6
    assert (found.units, found.rest_units, found.classes) == (20, 40, 3) and not found.few


def test_parts_that_differ_by_chance_are_rarely_called_different() -> None:
    rng = np.random.default_rng(1)
    ps = []
    for _ in range(120):
        part, rest = split_parts(counts(rng, 40, 0.7), np.arange(40) < 13)
        ps.append(contrast(part, rest, groups=range(40), draws=300).p)
    assert np.mean(np.array(ps) < 0.05) < 0.12


def test_only_classes_of_both_sides_are_compared() -> None:
    rng = np.random.default_rng(2)
    whole = counts(rng, 30, 0.8)
    whole[:15, :, 2] = 0  # the part has no third class, in which the rest is bad
    whole[15:, 0, 2] = 0
    part, rest = split_parts(whole, np.arange(30) < 15)
    found = contrast(part, rest, groups=range(30))
    assert found.classes == 2 and abs(found.difference) < 0.05 and found.rest == pytest.approx(0.8, abs=0.03)


def test_units_are_drawn_whole() -> None:
    """Ten copies of each image are no more evidence than one."""
    rng = np.random.default_rng(3)
    part, rest = split_parts(counts(rng, 30, 0.7), np.arange(30) < 10)
    once = contrast(part, rest, groups=range(30))
    copies = contrast(np.repeat(part, 10, 0), np.repeat(rest, 10, 0), groups=np.repeat(np.arange(30), 10).tolist())
    assert copies.difference_high - copies.difference_low == pytest.approx(
        once.difference_high - once.difference_low, rel=0.1
    )
    assert copies.units == 10


def test_many_units_are_joined_without_a_change_of_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    part, rest = split_parts(counts(rng, 900, 0.7), np.arange(900) < 300)
    all_units = contrast(part, rest, groups=range(900))
    monkeypatch.setattr(contrasts, "MOST_UNITS", 150)
    joined = contrast(part, rest, groups=range(900))
    assert joined.difference == all_units.difference
    assert joined.difference_high - joined.difference_low == pytest.approx(
        all_units.difference_high - all_units.difference_low, rel=0.25
    )


def test_few_units_and_one_image_give_no_verdict() -> None:
    rng = np.random.default_rng(5)
    part, rest = split_parts(np.concatenate([counts(rng, 3, 0.2), counts(rng, 30, 0.9)]), np.arange(33) < 3)
    assert contrast(part, rest, groups=range(33)).few
    assert contrast(rest, part, groups=range(33)).few  # neither if the rest is small
    one = contrast(part[:1], rest[:1], groups=[0])
    assert math.isnan(one.low) and math.isnan(one.p) and one.few


def test_equal_parts_have_no_difference_and_p_of_one() -> None:
    part = np.tile(np.array([[[5], [10], [5]]]), (10, 1, 1))
    found = contrast(part, part, groups=range(10))
    assert found.difference == 0 and found.p == 1


def test_counts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="same images"):
        contrast(np.zeros((2, 3, 1), int), np.zeros((3, 3, 1), int), groups=[0, 1])
    with pytest.raises(UsageError, match="same images"):
        contrast(np.zeros((2, 3, 1), int), np.zeros((2, 3, 1), int), groups=[0])


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, float("nan"), 0.9])[0] == 1.0 and math.isnan(holm([0.5, float("nan"), 0.9])[1])
    assert holm([]) == []
