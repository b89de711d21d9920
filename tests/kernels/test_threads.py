"""Threads for one call or kept: the order of results, errors from a part, nothing left behind, forks."""

from __future__ import annotations

import itertools
import os
import threading
from pathlib import Path

import pytest
from settled_fork import settled_fork

from segwright.kernels import threads as module
from segwright.kernels.threads import ThreadPool, cpu_quota, parallel_map, processors, thread_pool


def test_results_come_in_the_order_of_the_parts() -> None:
    with thread_pool(3) as pool:
        for count in (1, 2, 3, 7):
            assert pool.run(lambda i: i * i, [(i,) for i in range(count)]) == [i * i for i in range(count)]
    assert ThreadPool().run(lambda i: i + 1, [(1,), (2,)]) == [2, 3], "no threads: the caller does it all"


@pytest.mark.parametrize("bad", [0, 1, 3])
def test_an_error_in_any_part_reaches_the_caller_and_the_threads_live_on(bad: int) -> None:
    def fail(i: int) -> int:
        if i == bad:
            raise ValueError(f"part {i}")
        return i

    with thread_pool(3) as pool:
        with pytest.raises(ValueError, match=f"part {bad}"):
            pool.run(fail, [(i,) for i in range(4)])
        assert pool.run(fail, [(7,), (8,), (9,)]) == [7, 8, 9], "no result of the failed run is left in the queue"


def test_the_caller_takes_its_share_of_many_parts() -> None:
    """Two threads, eight parts: not one for the caller and seven for the other."""
    done: list[int] = []

    def part(i: int) -> None:
        done.append(threading.get_ident())
        threading.Event().wait(0.02)

    with thread_pool(2) as pool:
        pool.run(part, [(i,) for i in range(8)])
    assert len(done) == 8 and 2 <= done.count(threading.get_ident()) <= 6


def test_no_thread_is_left_behind() -> None:
    before = threading.active_count()
    with pytest.raises(KeyError), thread_pool(4):
        raise KeyError("inside")
    assert threading.active_count() == before


def test_parts_cover_the_range_and_are_worth_a_thread() -> None:
    with thread_pool(4) as pool:
        assert pool.ranges(0, 100) == [(0, 100)]
        cut = pool.ranges(5, 10_005)
        assert cut[0][0] == 5 and cut[-1][1] == 10_005 and len(cut) == 4
        assert all(a[1] == b[0] for a, b in itertools.pairwise(cut))


def test_kept_threads_are_used_again() -> None:
    parallel_map(lambda i: i, [(1,), (2,), (3,)], 3)
    before = threading.active_count()
    for _ in range(20):
        assert parallel_map(lambda i: i * i, [(1,), (2,), (3,)], 3) == [1, 4, 9]
    assert threading.active_count() == before
    with pytest.raises(ZeroDivisionError):
        parallel_map(lambda i: 1 // i, [(1,), (0,)], 3)
    assert parallel_map(lambda i: i, [(4,), (5,)], 2) == [4, 5], "another number of threads"
    assert threading.active_count() == before - 1


def test_kept_threads_serve_one_caller_at_a_time() -> None:
    """A part that itself asks for threads, or another thread that asks meanwhile, works alone instead of waiting."""
    inner = [(1,), (2,)]
    found = parallel_map(lambda i: parallel_map(lambda j: i * j, inner, 2), [(1,), (10,)], 2)
    assert found == [[1, 2], [10, 20]]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_starts_its_own() -> None:
    parallel_map(lambda i: i, [(1,), (2,)], 2)
    child = settled_fork()
    if child == 0:
        os._exit(0 if parallel_map(lambda i: i + 1, [(1,), (2,)], 2) == [2, 3] else 1)
    for _ in range(200):
        finished, status = os.waitpid(child, os.WNOHANG)
        if finished:
            assert status == 0
            return
        threading.Event().wait(0.1)
    os.kill(child, 9)
    pytest.fail("the child waits for threads it does not have")


def control_group(path: Path, **files: str) -> None:
    path.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (path / name.replace("__", ".")).write_text(text)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ({"a/b": "200000 100000", "a": "max 100000"}, 2.0),
        ({"a/b": "max 100000", "a": "150000 100000"}, 1.5),
        ({"a/b": "400000 100000", "a": "50000 100000"}, 0.5),
        ({"": "300000 100000"}, 3.0),
        ({"a/b": "max 100000"}, None),
        ({"a/b": "nonsense", "a": "1 0"}, None),
        ({}, None),
    ],
)
def test_quotas_of_nested_control_groups_version_2(
    texts: dict[str, str], expected: float | None, tmp_path: Path
) -> None:
    for name, text in texts.items():
        control_group(tmp_path / name, cpu__max=text + "\n")
    assert cpu_quota(tmp_path, "0::/a/b\n") == expected


def test_quotas_of_control_groups_version_1(tmp_path: Path) -> None:
    own = "5:memory:/x\n4:cpu,cpuacct:/docker/abc\n0::/\n"
    control_group(tmp_path / "cpu,cpuacct", cpu__cfs_quota_us="-1\n", cpu__cfs_period_us="100000\n")
    assert cpu_quota(tmp_path, own) is None
    control_group(tmp_path / "cpu,cpuacct/docker", cpu__cfs_quota_us="250000\n", cpu__cfs_period_us="100000\n")
    assert cpu_quota(tmp_path, own) == 2.5
    control_group(tmp_path / "cpu,cpuacct/docker/abc", cpu__cfs_quota_us="50000\n", cpu__cfs_period_us="100000\n")
    assert cpu_quota(tmp_path, own) == 0.5
    (tmp_path / "cpu").mkdir()
    control_group(tmp_path / "cpu", cpu__cfs_quota_us="20000\n", cpu__cfs_period_us="100000\n")
    assert cpu_quota(tmp_path, "3:cpu:/host/name/that/is/not/mounted\n") == 0.2, "the container's own group is mounted"


def test_processors_are_the_smaller_of_affinity_and_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for granted, expected in ((None, 8), (0.5, 1), (1.0, 1), (2.5, 3), (64.0, 8)):
        monkeypatch.setattr(module, "_granted", lambda granted=granted: granted)
        assert processors() == expected
