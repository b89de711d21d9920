"""Figures of error detection against loops over pixels and all orders of ties."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from segwright.core.errors import LabelError, UsageError
from segwright.metrics.ranking import auroc, r_squared
from segwright.metrics.risk_coverage import BINS, COARSE_BINS, RiskCoverage, bins_of


def brute_aurc(scores: np.ndarray, wrong: np.ndarray) -> float:
    """The mean over all orders of tied pixels."""
    groups = [np.flatnonzero(scores == value) for value in np.unique(scores)]
    totals = []
    for orders in itertools.product(*(itertools.permutations(group) for group in groups)):
        order = np.concatenate([np.array(one) for one in orders])
        totals.append((wrong[order].cumsum() / np.arange(1, len(order) + 1)).mean())
    return float(np.mean(totals))


def brute_aupr(scores: np.ndarray, wrong: np.ndarray) -> float:
    total, recall = 0.0, 0.0
    for value in sorted(set(scores.tolist()), reverse=True):
        taken = scores >= value
        fresh = wrong[taken].sum() / wrong.sum()
        total += (fresh - recall) * wrong[taken].mean()
        recall = fresh
    return float(total)


def counted(scores: np.ndarray, wrong: np.ndarray) -> RiskCoverage:
    found = RiskCoverage()
    truth = np.zeros((1, len(scores)), np.uint8)
    found.update(scores.astype(np.float32)[None], wrong.astype(np.uint8)[None], truth)
    return found


@pytest.mark.parametrize("seed", range(6))
def test_the_figures_equal_brute_force_with_ties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.choice([0.0, 0.125, 0.5, 1.0], 9)
    wrong = rng.random(9) < 0.2 + 0.5 * scores
    wrong[0], wrong[1] = True, False
    result = counted(scores, wrong).result()
    assert result.figures["aurc"] == pytest.approx(brute_aurc(scores, wrong), abs=1e-12)
    best = brute_aurc(wrong.astype(float), wrong)
    assert result.figures["excess_aurc"] == pytest.approx(brute_aurc(scores, wrong) - best, abs=1e-12)
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[wrong] for b in scores[~wrong]]
    assert result.figures["auroc"] == pytest.approx(np.mean(pairs), abs=1e-12)
    assert result.figures["aupr"] == pytest.approx(brute_aupr(scores, wrong), abs=1e-12)
    assert result.error_rate == pytest.approx(wrong.mean())


def test_many_pixels_equal_sorting_up_to_the_bins() -> None:
    rng = np.random.default_rng(1)
    scores = rng.beta(0.3, 2, 60_000).astype(np.float32)
    wrong = rng.random(60_000) < scores
    result = counted(scores, wrong).result()
    order = np.argsort(scores, kind="stable")
    risk = wrong[order].cumsum() / np.arange(1, len(order) + 1)
    assert result.figures["aurc"] == pytest.approx(risk.mean(), abs=1e-5)
    assert result.figures["auroc"] == pytest.approx(auroc(scores, wrong), abs=1e-5)
    for coverage, value in zip(result.coverage[10::10], result.risk[10::10], strict=True):
        assert value == pytest.approx(risk[round(coverage * len(order)) - 1], abs=2e-3)


def test_bins_keep_the_order_and_are_fine_near_zero() -> None:
    values = np.sort(np.concatenate([np.random.default_rng(0).random(2000), [0, 1, 1e-30, 1e-7]])).astype(np.float32)
    found = bins_of(values)
    assert (np.diff(found) >= 0).all() and found.min() == 0 and found.max() == BINS - 1
    assert bins_of(np.array([1e-5], np.float32)) != bins_of(np.array([1.01e-5], np.float32))
    assert COARSE_BINS < 600


def test_a_perfect_and_a_useless_uncertainty() -> None:
    wrong = np.arange(1000) % 10 == 0
    perfect = counted(np.where(wrong, 0.9, 0.1), wrong).result().figures
    assert perfect["excess_aurc"] == pytest.approx(0, abs=1e-9) and perfect["auroc"] == perfect["aupr"] == 1
    useless = counted(np.full(1000, 0.5), wrong).result().figures
    assert useless["aurc"] == pytest.approx(0.1) and useless["auroc"] == 0.5 and useless["aupr"] == pytest.approx(0.1)


def test_intervals_draw_whole_groups() -> None:
    rng = np.random.default_rng(2)
    found, groups = RiskCoverage(), []
    for group in range(12):
        quality = rng.uniform(0.2, 1)
        for _ in range(3):
            scores = rng.random((20, 20)).astype(np.float32)
            wrong = rng.random((20, 20)) < 0.3 * (quality * scores + (1 - quality) * rng.random((20, 20)))
            found.update(scores, wrong.astype(np.uint8), np.zeros((20, 20), np.uint8))
            groups.append(group)
    alone, together = found.result(), found.result(groups)
    for name, value in alone.figures.items():
        low, high = together.intervals[name]
        assert 0 <= low <= value <= high <= 1
    assert np.subtract(*together.intervals["auroc"]) < np.subtract(*alone.intervals["auroc"])  # wider: low − high
    assert found.result(groups).intervals == together.intervals


def test_the_curve_has_an_interval_at_each_point() -> None:
    rng = np.random.default_rng(4)
    found, images = RiskCoverage(), []
    for place in range(9):
        scores = rng.random(900).astype(np.float32)
        wrong = rng.random(900) < (0.1 + 0.05 * place) * scores
        found.update(scores[None], wrong.astype(np.uint8)[None], np.zeros((1, 900), np.uint8))
        images.append((scores, wrong))
    result = found.result()
    curves, rates = [], []
    for _ in range(400):
        drawn = rng.integers(0, 9, 9)
        scores, wrong = (np.concatenate([images[i][part] for i in drawn]) for part in (0, 1))
        wrong = wrong[np.argsort(scores)]
        curves.append((wrong.cumsum() / np.arange(1, len(wrong) + 1))[[len(wrong) * at // 100 - 1 for at in (50, 80)]])
        rates.append(wrong.mean())
    low, high = np.quantile(curves, [0.025, 0.975], axis=0)
    assert result.risk_ci95[:, [50, 80]] == pytest.approx(np.stack([low, high]), abs=0.012)
    assert result.intervals["error_rate"] == pytest.approx(tuple(np.quantile(rates, [0.025, 0.975])), abs=0.012)
    assert (result.risk_ci95[0] <= result.risk + 1e-12).all() and (result.risk <= result.risk_ci95[1] + 1e-12).all()
    assert result.risk_ci95[:, -1] == pytest.approx(result.intervals["error_rate"])
    assert set(result.to_json()) >= {"risk_low", "risk_high"}
    one = RiskCoverage()
    one.update(images[0][0][None], images[0][1].astype(np.uint8)[None], np.zeros((1, 900), np.uint8))
    assert np.isnan(one.result().risk_ci95).all() and np.isnan(one.result().intervals["error_rate"][0])


def test_ignored_pixels_do_not_count_and_undefined_figures_are_nan() -> None:
    found = RiskCoverage()
    truth = np.array([[255, 0]], np.uint8)
    found.update(np.array([[0.9, 0.1]], np.float32), np.zeros((1, 2), np.uint8), truth)
    result = found.result()
    assert found.counts.sum() == 1 and result.error_rate == 0
    assert np.isnan(result.figures["auroc"]) and np.isnan(result.figures["aupr"]) and result.figures["aurc"] == 0
    assert np.isnan(RiskCoverage().result().figures["aurc"])


def test_bad_input_is_refused() -> None:
    found, plane = RiskCoverage(), np.zeros((2, 2), np.uint8)
    with pytest.raises(LabelError, match="size"):
        found.update(np.zeros((2, 3), np.float32), plane, plane)
    for wrong in (1.5, -0.5, float("nan")):
        with pytest.raises(LabelError, match="0…1"):
            found.update(np.full((2, 2), wrong, np.float32), plane, plane)
    with pytest.raises(UsageError, match="group"):
        found.result(["a"])


def test_ranking_figures() -> None:
    assert auroc([0.1, 0.4, 0.4, 0.9], [0, 1, 0, 1]) == pytest.approx(0.875)
    assert np.isnan(auroc([1, 2], [1, 1])) and np.isnan(r_squared([1, 1], [0, 1]))
    assert r_squared([0, 1, 2], [0, 1, 2]) == 1 and r_squared([0, 1, 2], [1, 1, 1]) == 0
