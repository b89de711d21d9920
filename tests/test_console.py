"""Lines for people: broken between words, what goes on hanging under what it belongs to."""

from __future__ import annotations

import pytest

from segwright.console import wrapped

PLAN = "  optimizer       muon  (convolution kernels by their momentum made orthogonal: most learnt in few steps)"


def test_a_plan_hangs_under_its_values() -> None:
    first, second = wrapped(PLAN, 80).split("\n")
    assert (
        len(first) <= 80
        and len(second) - len(second.lstrip()) == PLAN.index("muon")
        and second.strip().endswith("few steps)")
    )
    assert (first + " " + second.strip()) == PLAN, "nothing is lost"


def test_a_sentence_hangs_under_itself() -> None:
    text = "warning: pole is never predicted after 4 epochs: try --loss ce+dice, or a longer training"
    assert wrapped(text, 60) == (
        "warning: pole is never predicted after 4 epochs: try --loss\n  ce+dice, or a longer training"
    )


@pytest.mark.parametrize("text", ["short", "", "model: /a/" + "b" * 100, "/a/" + "b" * 100])
def test_short_lines_and_paths_stay_whole(text: str) -> None:
    assert wrapped(text, 80) == text
