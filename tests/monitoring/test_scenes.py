"""What counts as one: frames of a scene are alike, and a few scenes say little of what the next one may look like."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from monitoring.streams import CLASSES, row, rows
from scipy import stats

from segwright.monitoring.columns import Columns, columns_of, scenes_of
from segwright.monitoring.detect import Baseline, detect
from segwright.monitoring.drift import compare_columns, stream_evidence
from segwright.monitoring.monitor import examine
from segwright.monitoring.observation import Observation
from segwright.monitoring.scenes import Blocks, block_means, blocks_of, distinct, joint_time


def columns(some: list[Observation]) -> Columns:
    return columns_of(some, CLASSES)


def test_the_length_of_a_scene_is_found() -> None:
    alone = detect(columns(rows(120, 1)), columns(rows(120, 2))).blocks
    assert alone.reference <= 3 and alone.stream <= 3 and alone.ranked
    video = detect(columns(rows(400, 3, scene=10)), columns(rows(200, 4, scene=10))).blocks
    assert 5 <= video.reference <= 22 and 3 <= video.stream <= 22
    mixed = detect(columns(rows(400, 3, scene=10)), columns(rows(200, 4))).blocks
    assert mixed.reference >= 5 and mixed.stream <= 2, "a stream of single images is not a video"


def test_embeddings_alone_show_that_neighbors_are_alike() -> None:
    random = np.random.default_rng(5)
    alike = np.repeat(random.standard_normal((30, 12)), 8, axis=0) + 0.3 * random.standard_normal((240, 12))
    assert 5 <= joint_time(alike) <= 10
    assert joint_time(random.standard_normal((240, 12))) < 1.5
    assert joint_time(np.zeros((50, 3))) == joint_time(np.zeros((50, 0))) == 1


def test_few_scenes_cause_few_alarms() -> None:
    """A reference of six scenes of ten images, streams of new scenes: frame by frame, each new one is a change."""
    random = np.random.default_rng(12)
    by_scene = by_image = images = 0
    for _ in range(60):
        scores = np.repeat(random.standard_normal((26, 3)), 10, axis=0) + 0.3 * random.standard_normal((260, 3))
        reference, stream = scores[:60], scores[60:]
        by_scene += len(stream_evidence(reference, stream, block=10, rate=1e-3).alarms)
        by_image += len(stream_evidence(reference, stream, block=1, rate=1e-3).alarms)
        images += len(stream)
    assert by_scene / images <= 1e-3 < by_image / images


def test_windows_of_few_scenes_differ_rarely() -> None:
    moved = windows = 0
    for seed in range(8):
        base = Baseline(columns(rows(60, 100 + seed, scene=10)))
        found = detect(base, columns(rows(200, 1000 + seed, scene=10)))
        moved += sum("statistics" in window.moved for window in found.windows)
        windows += len(found.windows)
    assert windows == 48 and moved <= 4, "16 windows, each with three looks"


def test_few_scenes_find_a_change_within_two() -> None:
    reference = rows(60, 6, scene=10)
    for seed in range(3):
        random = np.random.default_rng(seed)
        stream = rows(20, 50 + seed, scene=10) + [row(20 + k, random, brightness=0.5, doubt=0.5) for k in range(30)]
        found = examine(stream, reference, CLASSES)
        # Blocks are cut anywhere: the change begins within one, and two whole ones follow.
        assert found.alarm and 20 <= found.alarms[0].index < 48
        assert found.tails == "t" and found.reference_block > 3 and found.reference_blocks < 30
        assert any("scenes of" in note and "Student's t" in note for note in found.notes)


def test_an_alarm_does_not_wait_for_the_end_of_a_block() -> None:
    random = np.random.default_rng(7)
    reference = random.standard_normal((100, 1))
    stream = np.concatenate([random.standard_normal((20, 1)), np.full((7, 1), 60.0)])
    found = stream_evidence(reference, stream, block=20, rate=1e-3)
    assert len(found.alarms) == 1 and 20 <= found.ends[found.alarms[0][0]] < 27
    assert found.values[found.alarms[0][0]] >= found.threshold
    calm = stream_evidence(reference, stream[:20], block=20, rate=1e-3)
    assert not calm.alarms and calm.ends.tolist() == [19]


def test_one_block_alone_is_judged_by_the_spread_of_blocks() -> None:
    """Welch's test of the means of blocks, by hand; an image that comes again and again is one."""
    reference, found = columns(rows(60, 8, scene=10)), columns(rows(40, 9, scene=10, brightness=0.3))
    blocks = Blocks(10, 10, 6, 10)
    a = [reference.values[k : k + 10, 0].mean() for k in range(0, 60, 10)]
    b = [found.values[k : k + 10, 0].mean() for k in range(0, 40, 10)]
    expected = stats.ttest_ind(a, b, equal_var=False).pvalue
    assert compare_columns(reference, found, blocks=blocks).p_values[0] == pytest.approx(expected, rel=1e-6)
    again = found.take(np.tile(np.arange(40), 5))
    assert compare_columns(reference, again, blocks=blocks).p_values[0] == pytest.approx(expected, rel=1e-6)
    assert distinct(again).sum() == 40
    less = compare_columns(reference, found, blocks=Blocks(5, 10, 12, 30)).p_values[0]
    whole = compare_columns(reference, found, blocks=Blocks(5, 10, 12, 5)).p_values[0]
    assert less > whole, "blocks that are alike count less"


def test_means_of_blocks_leave_out_what_is_not_finite() -> None:
    values = np.array([[1.0, np.nan], [3.0, np.nan], [5.0, 2.0]])
    means, within = block_means(values, blocks_of(np.zeros(3, np.intp), 2))
    assert means[:, 0].tolist() == [2, 5] and np.isnan(means[0, 1]) and means[1, 1] == 2
    assert within == pytest.approx([0.5, 0.0])


def test_names_that_differ_for_every_image_name_no_scenes() -> None:
    random = np.random.default_rng(10)
    some = [replace(one, id=f"{random.bytes(6).hex()}") for one in rows(40, 11, scene=10)]
    assert set(scenes_of(some).tolist()) == {0}
    assert scenes_of([replace(one, id=f"{'ab'[k % 2]}_{k}") for k, one in enumerate(some)]).max() >= 1
    tagged = [replace(one, tags={"scene": f"{k}"}) for k, one in enumerate(some)]
    assert scenes_of(tagged).max() == 39
