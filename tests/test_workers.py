"""Threads for one call: the order of results, errors from a part, nothing left behind."""

from __future__ import annotations

import itertools
import threading

import pytest

from segwright.workers import Workers, workers


def test_results_come_in_the_order_of_the_parts() -> None:
    with workers(3) as team:
        for count in (1, 2, 3, 7):
            assert team.run(lambda i: i * i, [(i,) for i in range(count)]) == [i * i for i in range(count)]
    assert Workers().run(lambda i: i + 1, [(1,), (2,)]) == [2, 3], "no threads: the caller does it all"


@pytest.mark.parametrize("bad", [0, 1, 3])
def test_an_error_in_any_part_reaches_the_caller_and_the_threads_live_on(bad: int) -> None:
    def fail(i: int) -> int:
        if i == bad:
            raise ValueError(f"part {i}")
        return i

    with workers(3) as team:
        with pytest.raises(ValueError, match=f"part {bad}"):
            team.run(fail, [(i,) for i in range(4)])
        assert team.run(fail, [(7,), (8,), (9,)]) == [7, 8, 9], "no answer of the failed run is left in the queue"


def test_no_thread_is_left_behind() -> None:
    before = threading.active_count()
    with pytest.raises(KeyError), workers(4):
        raise KeyError("inside")
    assert threading.active_count() == before


def test_parts_cover_the_range_and_are_worth_a_thread() -> None:
    with workers(4) as team:
        assert team.ranges(0, 100) == [(0, 100)]
        cut = team.ranges(5, 10_005)
        assert cut[0][0] == 5 and cut[-1][1] == 10_005 and len(cut) == 4
        assert all(a[1] == b[0] for a, b in itertools.pairwise(cut))
