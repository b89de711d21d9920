"""The area under the ROC curve against its definition, pair by pair."""

from __future__ import annotations

import numpy as np
import pytest

from segwright.metrics.ranking import auroc, auroc_of_draws


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_auroc_is_the_share_of_pairs_in_order(levels: int) -> None:
    rng = np.random.default_rng(levels)
    scores, events = rng.integers(0, levels, 200) / levels, rng.random(200) < 0.3
    higher = scores[events][:, None] - scores[~events][None]
    assert auroc(scores, events) == pytest.approx(((higher > 0) + 0.5 * (higher == 0)).mean(), abs=1e-12)


def test_weights_are_cases_that_are_repeated() -> None:
    rng = np.random.default_rng(0)
    scores, events = rng.integers(0, 7, 60) / 7, rng.random(60) < 0.4
    weights = rng.integers(0, 4, (20, 60)).astype(np.float64)
    expected = [auroc(np.repeat(scores, row.astype(int)), np.repeat(events, row.astype(int))) for row in weights]
    assert auroc_of_draws(scores, events, weights) == pytest.approx(expected, abs=1e-12)
    assert np.isnan(auroc_of_draws([0.1, 0.2], [True, True], np.ones((3, 2)))).all()
    assert np.isnan(auroc_of_draws([], [], np.ones((3, 0)))).all()


def test_it_is_undefined_without_both_kinds_and_with_nan() -> None:
    assert np.isnan(auroc([0.1, 0.2], [True, True])) and np.isnan(auroc([], []))
    assert np.isnan(auroc([0.1, float("nan")], [True, False]))
