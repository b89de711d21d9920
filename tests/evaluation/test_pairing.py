"""Two evaluations of unequal images: paired by id, over the units of what is common; judge takes no other way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from segwright.core.types import LabelSpace
from segwright.evaluation.evaluation import Evaluation
from segwright.evaluation.pairing import pair_evaluations, too_few
from segwright.evaluation.sequences import find_units
from segwright.labeling.paired_scores import pair
from segwright.training.judge import judge

SPACE = LabelSpace(("road", "sky"))


def scored(shares: dict[str, float], groups: Sequence[object] | None = None) -> Evaluation:
    """Each image's IoU, by its id."""
    counts = np.array([[[round(1000 * share)] * 2, [1000] * 2, [round(1000 * share)] * 2] for share in shares.values()])
    return Evaluation(
        SPACE,
        "val",
        np.diag(counts[:, 0].sum(axis=0)),
        list(shares),
        counts,
        drawn=find_units(list(shares), groups=groups),
    )


LETTERS = "qwertyuiop"


def test_images_are_paired_by_id_and_not_by_place() -> None:
    first = scored({name: 0.1 * place for place, name in enumerate(LETTERS)})
    second = scored({name: 0.1 * LETTERS.index(name) + 0.05 for name in "poiuy"})
    found = pair_evaluations(first, second)
    assert found is not None and found.ids == tuple("yuiop") and found.scored == (10, 5) and not found.whole
    difference = found.difference()
    assert (difference.miou_a, difference.miou_b) == pytest.approx((0.7, 0.75)) and found.over.count == 5
    d = found.difference()
    assert (d.difference, d.low, d.high) == pytest.approx((0.05, 0.05, 0.05)) and d.clear
    assert pair_evaluations(first, scored({"x": 0.5, "z": 0.5})) is None


def test_units_of_the_common_images_are_those_that_were_found_on_more() -> None:
    ids = [f"f{place}" for place in range(12)]
    first = scored(dict.fromkeys(ids, 0.5), groups=[place // 2 for place in range(12)])
    second = scored(dict.fromkeys(ids[::3], 0.5))
    found = pair_evaluations(second, first)
    assert found is not None and found.over.sequences == ("0", "1", "3", "4")
    drives = scored(dict.fromkeys(ids, 0.5), groups=["a"] * 6 + ["b"] * 6)
    found = pair_evaluations(second, drives)
    assert found is not None and (found.over.over, found.over.count) == ("sequences", 2)
    part = pair_evaluations(first, scored(dict.fromkeys([*ids[:7], "other"], 0.5)))
    assert part is not None and (part.over.over, part.over.count) == ("sequences", 4)
    assert part.over.note == "only 4 sequences: the interval is rough", "of those that are left"
    whole = pair_evaluations(first, first)
    assert whole is not None and whole.whole and whole.over == first.independent
    assert pair("new", first, scored(dict.fromkeys([*ids[:7], "other"], 0.5))).over == part.over


def test_a_sequence_that_either_evaluation_shows_counts() -> None:
    """Beside images of another kind, thumbnails may not show the frames of a video, which they show alone."""
    ids = [f"f{place}" for place in range(12)]
    alone = scored(dict.fromkeys(ids, 0.5), groups=["a"] * 12)
    mixed = scored(dict.fromkeys(["x", "y", *ids], 0.5))
    for found in (pair_evaluations(alone, mixed), pair_evaluations(mixed, alone)):
        assert found is not None and found.over.over == "blocks" and found.over.count < 12


def test_few_are_few_only_where_there_could_be_more() -> None:
    found = pair_evaluations(scored(dict.fromkeys(LETTERS, 0.5)), scored(dict.fromkeys("qwe", 0.5)))
    assert too_few(None, 3) and too_few(found, 10) and not too_few(found, 3)
    frames = scored(
        dict.fromkeys([f"f{place}" for place in range(12)], 0.5), groups=[place // 3 for place in range(12)]
    )
    found = pair_evaluations(frames, frames)
    assert too_few(found, 100) and not too_few(found, 12), "twelve frames of four scenes are four units"


def test_the_judge_states_on_which_images_it_judges() -> None:
    without = scored(dict.fromkeys(LETTERS, 0.5))
    found = judge(scored(dict.fromkeys("qwertyz", 0.6)), without)
    assert found is not None and found.helped and found.common == 6
    assert found.sentence().endswith("over 6 images), on 6 images that both were scored on")
    whole = judge(scored(dict.fromkeys(LETTERS, 0.6)), without)
    assert whole is not None and "both were" not in whole.sentence()
    assert judge(scored({"z": 0.6}), without) is None
