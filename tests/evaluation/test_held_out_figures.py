"""The figures of an error model on held-out images: their intervals against drawing units one by one."""

from __future__ import annotations

import numpy as np
import pytest

from segwright.cli.evaluation import _error_model_line
from segwright.evaluation.held_out_figures import DRAWS, RegionTruth, held_out_figures
from segwright.inference.region_features import feature_names
from segwright.metrics.bootstrap import drawn_counts
from segwright.metrics.ranking import auroc, r_squared

IMAGES, UNITS = 24, 8


def regions() -> RegionTruth:
    """Regions of 24 images, three of each unit; the error model is better on some units than on others."""
    rng = np.random.default_rng(0)
    owner = np.repeat(np.arange(IMAGES), rng.integers(3, 9, IMAGES))
    units = owner // 3
    adjusted = np.where(rng.random(len(owner)) < 0.3, 0.0, rng.random(len(owner)))
    noise = 0.1 + 0.12 * units
    wrong = np.round(np.clip((adjusted == 0) + noise * rng.normal(size=len(owner)), 0, 1), 1)
    iou = np.clip(adjusted + noise * rng.normal(size=len(owner)), 0, 1)
    adjusted[::17] = np.nan
    rows = np.ones((len(owner), len(feature_names(0))), np.float32)
    rows[::5, feature_names(0).index("log_inside")] = 0
    return RegionTruth(rows, adjusted, wrong, iou, units)


def test_intervals_are_those_of_drawn_units() -> None:
    found, rng = regions(), np.random.default_rng(1)
    errors, units = rng.random(IMAGES), np.arange(IMAGES) // 3
    figures = held_out_figures(found, (errors, units), (errors[:9], units[:9]))
    drawn = np.concatenate(list(drawn_counts(UNITS, draws=DRAWS)))[:, found.units]
    for ending, chosen in (("", found.inside), ("_all_regions", found.known)):
        ranks, fits, shares = [], [], []
        for weights in drawn:
            taken = np.repeat(np.flatnonzero(chosen), weights[chosen].astype(int))
            bad = found.adjusted[taken] == 0
            ranks.append(auroc(found.wrong[taken], bad))
            fits.append(r_squared(found.adjusted[taken], found.iou[taken]))
            shares.append(bad.mean())
        for name, values in ((f"auroc{ending}", ranks), (f"r_squared{ending}", fits)):
            low, high = figures["intervals"][name]
            assert (low, high) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975]))), name
            assert low < figures[name] < high, name
    assert figures["auroc"] != figures["auroc_all_regions"]
    inside = found.inside
    assert figures["share_wrong"] == (found.adjusted[inside] == 0).mean()
    again = [errors[np.repeat(np.arange(IMAGES), w.astype(int)[np.arange(IMAGES) // 3])].mean()
             for w in np.concatenate(list(drawn_counts(UNITS, draws=DRAWS)))]  # fmt: skip
    assert figures["intervals"]["miou_error"] == pytest.approx(list(np.quantile(again, [0.025, 0.975])))
    assert set(figures["intervals"]) == set(figures) - {"intervals"}


def test_one_unit_and_no_region_have_no_interval() -> None:
    found = regions()
    one = RegionTruth(found.rows, found.adjusted, found.wrong, found.iou, np.zeros_like(found.units))
    figures = held_out_figures(one, (np.ones(3), np.zeros(3, int)), (np.ones(3), np.zeros(3, int)))
    assert all(np.isnan(pair).all() for pair in figures["intervals"].values()) and figures["auroc"] > 0.8
    nothing = RegionTruth(found.rows[:0], *(np.zeros(0),) * 3, found.units[:0])
    empty = held_out_figures(nothing, (np.ones(3), np.arange(3)), (np.ones(3), np.arange(3)))
    assert np.isnan(empty["auroc"]) and np.isnan(empty["intervals"]["r_squared"]).all()


def test_the_command_shows_the_intervals() -> None:
    rng = np.random.default_rng(1)
    errors, units = rng.random(IMAGES), np.arange(IMAGES) // 3
    held_out = held_out_figures(regions(), (errors, units), (errors, units))
    facts = {"images": 24, "regions": 100, "held_out": held_out}
    low, high = held_out["intervals"]["auroc"]
    line = _error_model_line(facts)
    assert f"(95 %: {low:.3f} to {high:.3f})" in line and line.count("95 %") == 3
    held_out["intervals"] = {name: [float("nan")] * 2 for name in held_out["intervals"]}
    assert "95 %" not in _error_model_line(facts)
