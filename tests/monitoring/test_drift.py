"""The tests behind the alarms: known values, and the rate of false alarms on streams without drift."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from segwright.core.errors import UsageError
from segwright.monitoring.drift import (
    adjusted_p,
    blocks_of,
    calibrators,
    correlation_time,
    mmd_p,
    stream_evidence,
    two_sample_p,
)


def test_corrections_by_hand() -> None:
    p = [0.01, 0.04, 0.03, np.nan, 0.005]
    assert adjusted_p(p)[[0, 1, 2, 4]] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert adjusted_p(p, "bh")[[0, 1, 2, 4]] == pytest.approx([0.02, 0.04, 0.04, 0.02])
    assert np.isnan(adjusted_p(p)[3]) and not len(adjusted_p([]))
    with pytest.raises(UsageError):
        adjusted_p(p, "none")


def test_kolmogorov_smirnov_as_scipy() -> None:
    random = np.random.default_rng(0)
    for shift in (0.0, 0.3, 1.0):
        a, b = random.standard_normal(80), random.standard_normal(60) + shift
        assert two_sample_p(a, b) == pytest.approx(stats.ks_2samp(a, b).pvalue, rel=0.25, abs=0.01)
    assert two_sample_p(np.ones(5), np.ones(9)) == 1
    assert two_sample_p(np.ones(30), np.zeros(30)) < 1e-6
    assert np.isnan(two_sample_p(np.full(5, np.nan), np.ones(5)))


def test_correlation_time_of_an_autoregression() -> None:
    random = np.random.default_rng(1)
    noise = random.standard_normal(20_000)
    series = np.empty_like(noise)
    series[0] = noise[0]
    for place in range(1, len(noise)):
        series[place] = 0.8 * series[place - 1] + noise[place]
    assert correlation_time(series) == pytest.approx(9, rel=0.25)  # (1 + 0.8) / (1 − 0.8)
    assert correlation_time(noise) == pytest.approx(1, abs=0.2) and correlation_time(np.ones(50)) == 1


def test_the_mean_of_a_bet_is_at_most_1() -> None:
    grid = (np.arange(200_000) + 0.5) / 200_000
    assert (calibrators(grid).mean(axis=0) <= 1.001).all()


def test_embeddings_of_scenes_are_permuted_whole() -> None:
    """12 and 8 scenes of 10 alike images: whole scenes are as rare as the level says, single images are almost always
    significant. 600 repeats: three standard errors are 2.7 points at .05 and 3.7 at .1."""
    random = np.random.default_rng(2)
    by_block, by_image = [], []
    for repeat in range(600):
        scenes = np.repeat(random.standard_normal((20, 6)), 10, axis=0) + 0.1 * random.standard_normal((200, 6))
        a, b = scenes[:120], scenes[120:]
        one = np.zeros(len(scenes), np.intp)
        by_block.append(mmd_p(a, b, blocks_of(one[:120], 10), blocks_of(one[120:], 10), permutations=99))
        if repeat < 60:
            by_image.append(mmd_p(a, b, np.arange(120), np.arange(80), permutations=99))
    found = np.array(by_block)
    assert 0.01 <= np.mean(found <= 0.05) <= 0.077 and 0.05 <= np.mean(found <= 0.1) <= 0.137
    assert 0.4 <= np.mean(found <= 0.5) <= 0.56 and np.mean(np.array(by_image) <= 0.1) > 0.9


def test_scenes_that_moved_are_found() -> None:
    random = np.random.default_rng(3)
    found = []
    for _ in range(100):
        scenes = np.repeat(random.standard_normal((20, 6)), 10, axis=0) + 0.1 * random.standard_normal((200, 6))
        scenes[120:] += 1.5
        one = np.zeros(200, np.intp)
        blocks = blocks_of(one[:120], 10), blocks_of(one[120:], 10)
        found.append(mmd_p(scenes[:120], scenes[120:], *blocks, permutations=199))
    assert np.mean(np.array(found) <= 0.05) >= 0.95


def test_embeddings_that_moved_and_odd_ones() -> None:
    random = np.random.default_rng(3)
    a, b = random.standard_normal((12, 64)), random.standard_normal((30, 64)) + 1
    assert mmd_p(a, b, np.arange(12), np.arange(30)) < 0.01
    assert mmd_p(a, random.standard_normal((30, 64)), np.arange(12), np.arange(30)) > 0.01
    assert np.isnan(mmd_p(a, np.full((3, 64), np.nan), np.arange(12), np.arange(3)))
    assert np.isnan(mmd_p(a, np.ones((30, 64)), np.arange(12), np.arange(30)))  # one image again and again


@pytest.mark.parametrize(("scene", "block"), [(1, 1), (4, 4)])
def test_false_alarms_are_rarer_than_the_rate(scene: int, block: int) -> None:
    random = np.random.default_rng(4)
    alarms = images = 0
    for _ in range(150):
        scores = np.repeat(random.standard_normal((100, 2)), scene, axis=0)
        reference, stream = scores[: 40 * scene], scores[40 * scene :]
        alarms += len(stream_evidence(reference, stream, block=block, rate=0.005).alarms)
        images += len(stream)
    assert alarms / images <= 0.005


def test_a_change_is_found_and_placed() -> None:
    random = np.random.default_rng(5)
    stream = np.concatenate([random.standard_normal(200), random.standard_normal(50) + 4])[:, None]
    found = stream_evidence(random.standard_normal((150, 1)), stream, block=1, rate=1e-3)
    block, since, leading = found.alarms[0]
    assert 200 <= found.ends[block] < 215 and 190 <= since <= 205 and leading == 0
    assert found.values[block] >= found.threshold == pytest.approx(1000)


def test_scores_that_are_not_finite_are_no_evidence() -> None:
    reference = np.random.default_rng(6).standard_normal((100, 1))
    found = stream_evidence(reference, np.full((50, 1), np.nan), block=2, rate=1e-3)
    assert not found.alarms and np.isfinite(found.values).all()
    with pytest.raises(UsageError):
        stream_evidence(reference, reference, block=0, rate=1e-3)
