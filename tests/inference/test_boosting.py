"""Boosted trees in arrays: they learn, come back as they were, and refuse what is damaged."""

from __future__ import annotations

import numpy as np
import pytest

from segwright.core.errors import BundleError, UsageError
from segwright.inference.boosting import BoostedTrees, fit_trees
from segwright.metrics.ranking import auroc, r_squared


def table(count: int = 1500, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    rows = rng.normal(0, 1, (count, 6)).astype(np.float32)
    return rows, rows[:, 0] * rows[:, 1] + np.sin(2 * rows[:, 2])  # no single column tells it


def test_trees_learn_what_no_line_can() -> None:
    (rows, wanted), (fresh, truth) = table(), table(seed=1)
    values = fit_trees(rows, wanted, "squares", column_share=1.0)
    chances = fit_trees(rows, wanted > 0.5, "logistic", column_share=1.0)
    assert r_squared(truth, values(fresh)) > 0.8
    assert auroc(chances(fresh), truth > 0.5) > 0.93
    found = chances(fresh)
    assert 0 <= found.min() <= found.max() <= 1
    high = found > 0.8
    assert (truth > 0.5)[high].mean() > 0.75  # a probability, not only an order


def test_one_tree_is_what_its_arrays_say() -> None:
    rows, wanted = table(300)
    trees = fit_trees(rows, wanted, "squares", trees=3, depth=3)
    for row, value in zip(rows[:40], trees(rows[:40]), strict=True):
        total = trees.start
        for columns, cuts, leaves in zip(trees.columns, trees.cuts, trees.leaves, strict=True):
            node = 0
            while node < len(columns):
                node = 2 * node + (2 if row[columns[node]] > cuts[node] else 1)
            total += leaves[node - len(columns)]
        assert value == pytest.approx(total, abs=1e-6)


def test_the_same_arguments_give_the_same_trees_and_arrays_come_back() -> None:
    rows, wanted = table(400)
    first, second = (fit_trees(rows, wanted > 0, "logistic", trees=20) for _ in range(2))
    assert np.array_equal(first(rows), second(rows))
    back = BoostedTrees.from_arrays(first.arrays("x"), "x", 6)
    assert back.loss == "logistic" and np.array_equal(back(rows), first(rows))


def test_a_constant_column_and_a_constant_target_do_no_harm() -> None:
    rows = np.zeros((50, 2), np.float32)
    assert np.allclose(fit_trees(rows, np.full(50, 0.25), "squares", trees=5)(rows), 0.25)
    assert fit_trees(rows, np.ones(50), "logistic", trees=5)(rows).min() > 0.9


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        (np.zeros((0, 3)), np.zeros(0)),
        (np.zeros((5, 3)), np.zeros(4)),
        (np.full((5, 3), np.nan), np.zeros(5)),
        (np.zeros((5, 3)), np.full(5, np.inf)),
    ],
)
def test_bad_tables_are_refused(rows: np.ndarray, wanted: np.ndarray) -> None:
    with pytest.raises(UsageError):
        fit_trees(rows.astype(np.float32), wanted, "squares")


def test_damaged_arrays_are_refused() -> None:
    rows, wanted = table(200)
    arrays = fit_trees(rows, wanted, "squares", trees=4).arrays("x")
    damages = {
        "x.columns": [arrays["x.columns"] + 6, arrays["x.columns"][:, :-1], arrays["x.columns"].astype(np.float32)],
        "x.cuts": [arrays["x.cuts"] * np.float32("nan"), arrays["x.cuts"][:-1]],
        "x.leaves": [arrays["x.leaves"][:, :-1], arrays["x.leaves"] + np.float32("inf")],
        "x.start": [np.zeros(1), np.array([np.nan, 0])],
    }
    for name, wrong in damages.items():
        for one in wrong:
            with np.errstate(invalid="ignore"), pytest.raises(BundleError):
                BoostedTrees.from_arrays({**arrays, name: one}, "x", 6)
        with pytest.raises(BundleError, match="lacks"):
            BoostedTrees.from_arrays({k: v for k, v in arrays.items() if k != name}, "x", 6)
