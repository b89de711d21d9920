"""Threads for one call or kept: the order of results, errors from a part, nothing left behind, forks."""

from __future__ import annotations

import itertools
import os
import threading

import pytest

from segwright.workers import Workers, over_threads, workers


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


def test_the_caller_takes_its_share_of_many_parts() -> None:
    """Two threads, eight parts: not one for the caller and seven for the other."""
    done: list[int] = []

    def part(i: int) -> None:
        done.append(threading.get_ident())
        threading.Event().wait(0.02)

    with workers(2) as team:
        team.run(part, [(i,) for i in range(8)])
    assert len(done) == 8 and 2 <= done.count(threading.get_ident()) <= 6


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


def test_kept_threads_are_used_again() -> None:
    over_threads(lambda i: i, [(1,), (2,), (3,)], 3)
    before = threading.active_count()
    for _ in range(20):
        assert over_threads(lambda i: i * i, [(1,), (2,), (3,)], 3) == [1, 4, 9]
    assert threading.active_count() == before
    with pytest.raises(ZeroDivisionError):
        over_threads(lambda i: 1 // i, [(1,), (0,)], 3)
    assert over_threads(lambda i: i, [(4,), (5,)], 2) == [4, 5], "another number of threads"
    assert threading.active_count() == before - 1


def test_kept_threads_serve_one_caller_at_a_time() -> None:
    """A part that itself asks for threads, or another thread that asks meanwhile, works alone instead of waiting."""
    inner = [(1,), (2,)]
    found = over_threads(lambda i: over_threads(lambda j: i * j, inner, 2), [(1,), (10,)], 2)
    assert found == [[1, 2], [10, 20]]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_starts_its_own() -> None:
    over_threads(lambda i: i, [(1,), (2,)], 2)
    child = os.fork()
    if child == 0:
        os._exit(0 if over_threads(lambda i: i + 1, [(1,), (2,)], 2) == [2, 3] else 1)
    for _ in range(200):
        finished, status = os.waitpid(child, os.WNOHANG)
        if finished:
            assert status == 0
            return
        threading.Event().wait(0.1)
    os.kill(child, 9)
    pytest.fail("the child waits for threads it does not have")
