"""Journals: what is written is read again, whatever happens to the process, the disk, the clock and the files."""

from __future__ import annotations

import errno
import gc
import logging
import os
import shutil
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from journals import SPACE, observation

from segwright.core.errors import DataError, OutputError, UsageError
from segwright.core.types import LabelSpace
from segwright.monitoring import journal_writer
from segwright.monitoring.journal import is_journal, read_journal
from segwright.monitoring.journal_files import Header, Row, encode_row, header_line, write_parquet
from segwright.monitoring.journal_writer import JournalWriter, chosen, prune
from segwright.monitoring.observation import Observation


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_writer, "RETRY_SECONDS", 0.02)
    monkeypatch.setattr(journal_writer, "SYNC_SECONDS", 0.05)


def wait_for(condition: Callable[[], object], seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)


def same(one: Observation, other: Observation) -> bool:
    for each in fields(Observation):
        a, b = getattr(one, each.name), getattr(other, each.name)
        if each.name in ("id", "model", "tags"):
            if a != b:
                return False
        elif not np.allclose(a, b, atol=1e-6, rtol=1e-6, equal_nan=True):
            return False
    return True


def write(folder: Path, count: int, first: int = 0, **options: object) -> JournalWriter:
    with JournalWriter(folder, label_space=SPACE, model="m", **options) as writer:  # type: ignore[arg-type]
        for number in range(first, first + count):
            assert writer.add(observation(number))
    return writer


def test_rows_are_read_as_written_from_lines_and_from_parquet(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, label_space=SPACE, model="m", rotate_rows=7, settings={"postprocess": "crf"})
    for number in range(20):
        writer.add(observation(number))
    wait_for(lambda: writer.written == 20)
    before = read_journal(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".jsonl", ".parquet"}
    writer.close()
    assert {path.suffix for path in tmp_path.iterdir()} == {".parquet"}
    for journal in (before, read_journal(tmp_path)):
        assert [row.id for row in journal.rows] == [f"image {number}" for number in range(20)]
        assert all(same(row, observation(number)) for number, row in enumerate(journal.rows))
        assert journal.label_space.names == SPACE.names and not journal.skipped
        assert journal.models == {"0123456789abcdef": 20} and journal.names == ("m",)
        assert journal.settings == ({"postprocess": "crf"},)
    assert (writer.lost, writer.trouble) == (0, "")


def test_undefined_figures_and_empty_embeddings_stay_what_they_are(tmp_path: Path) -> None:
    odd = observation(
        1, embedding=np.zeros(0, np.float32), entropy=float("nan"), expected_shares=np.full(3, np.nan, np.float32)
    )
    with JournalWriter(tmp_path, label_space=SPACE) as writer:
        writer.add(odd)
    (row,) = read_journal(tmp_path).rows
    assert same(row, odd)


def test_other_tools_read_the_files(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    write(tmp_path, 5)
    (path,) = tmp_path.glob("*.parquet")
    table = pq.read_table(path)
    assert table["id"].to_pylist() == [f"image {k}" for k in range(5)]
    assert len(table["shares"][0].as_py()) == 3
    assert table["time"][0].as_py().isoformat() == "2023-11-14T22:13:20+00:00"


def test_a_file_becomes_parquet_with_age(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, label_space=SPACE, rotate_seconds=0.1)
    writer.add(observation())
    wait_for(lambda: list(tmp_path.glob("*.parquet")))
    writer.close()
    assert len(read_journal(tmp_path)) == 1


KILLED = """
import sys, time
sys.path.insert(0, sys.argv[2])
from journals import SPACE, observation
from segwright.monitoring.journal_writer import JournalWriter
writer = JournalWriter(sys.argv[1], label_space=SPACE, rotate_rows=40, queue=100)
number = 0
while True:
    if writer.add(observation(number)):
        number += 1
    if number % 50 == 0:
        time.sleep(0.02)
        print(writer.written, flush=True)
"""


def test_what_was_written_survives_a_kill(tmp_path: Path) -> None:
    script, folder = tmp_path / "killed.py", tmp_path / "journal"
    script.write_text(KILLED)
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder), str(Path(__file__).parent)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    written = 0
    for line in process.stdout:
        written = int(line)
        if written > 150:
            break
    process.kill()
    process.wait()
    journal = read_journal(folder)
    assert len(journal) >= written
    assert all(same(row, observation(number)) for number, row in enumerate(journal.rows))
    assert list(folder.glob("*.jsonl")), "the killed writer left its lines"
    more = write(folder, 3, first=1000)  # another writer adopts them
    assert more.written == 3 and not list(folder.glob("*.jsonl"))
    assert len(read_journal(folder)) == len(journal) + 3


def lines_file(folder: Path, rows: list[Observation], writer: str = "0" * 12, space: LabelSpace = SPACE) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"current-{writer}-1.jsonl"
    header = Header(writer, space, "m", "1")
    path.write_bytes(header_line(header) + b"".join(encode_row(Row(k, row)) for k, row in enumerate(rows)))
    return path


def test_a_cut_line_and_damaged_lines_are_left_out_and_counted(tmp_path: Path) -> None:
    path = lines_file(tmp_path, [observation(k) for k in range(6)])
    content = path.read_bytes().splitlines(keepends=True)
    content[2] = content[2][:60] + b"#" + content[2][61:]
    content[4] = b"\n"
    path.write_bytes(b"".join(content)[:-40])
    journal = read_journal(tmp_path)
    assert [row.id for row in journal.rows] == ["image 0", "image 2", "image 4"]
    assert [(found.reason, found.rows) for found in journal.skipped] == [
        ("damaged", 2), ("the last line is incomplete", 1),
    ]  # fmt: skip


def test_a_file_cut_at_any_byte_is_an_answer_or_a_typed_error(tmp_path: Path) -> None:
    whole = lines_file(tmp_path, [observation(k) for k in range(2)]).read_bytes()
    path = next(tmp_path.glob("*.jsonl"))
    for length in range(0, len(whole), 37):
        path.write_bytes(whole[:length])
        try:
            rows = read_journal(tmp_path).rows
        except DataError:
            continue
        assert all(same(row, observation(k)) for k, row in enumerate(rows))


def test_damaged_parquet_is_left_out_and_named(tmp_path: Path) -> None:
    write(tmp_path, 9, rotate_rows=3)
    first, second, third = sorted(tmp_path.glob("*.parquet"))
    second.write_bytes(second.read_bytes()[:-100])
    third.write_bytes(b"")
    journal = read_journal(tmp_path)
    assert [row.id for row in journal.rows] == ["image 0", "image 1", "image 2"]
    assert sorted(found.where for found in journal.skipped) == [second.name, third.name]
    first.unlink()
    with pytest.raises(DataError, match="nothing of the journal can be read"):
        read_journal(tmp_path)


def test_bytes_that_flip_in_parquet_are_an_answer_or_a_typed_error(tmp_path: Path) -> None:
    write(tmp_path, 4)
    (path,) = tmp_path.glob("*.parquet")
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(60):
        broken = bytearray(whole)
        for place in rng.integers(0, len(whole), 3):
            broken[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(broken))
        try:
            read_journal(tmp_path)
        except DataError:
            continue


def test_foreign_parquet_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / f"journal-20240101T000000-{'0' * 12}-1.parquet"
    pq.write_table(pa.table({"id": ["a"]}), path)
    with pytest.raises(DataError, match="nothing of the journal"):
        read_journal(tmp_path)
    write_parquet(path, Header("0" * 12, SPACE), [Row(0, observation())])
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["shares"]), path)
    with pytest.raises(DataError, match="nothing of the journal"):
        read_journal(path)
    lists = pa.array([[0.1, 0.2]], pa.list_(pa.float32()))
    pq.write_table(table.set_column(table.schema.get_field_index("shares"), "shares", lists), path)
    journal = read_journal(path)
    assert not journal.rows and journal.skipped[0].rows == 1


def test_no_journal_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such journal"):
        read_journal(tmp_path / "missing")
    with pytest.raises(DataError, match="no journal here"):
        read_journal(tmp_path)
    (tmp_path / "current-0-1.jsonl").write_text("{}")
    (tmp_path / "notes.txt").write_text("mine")
    assert not is_journal(tmp_path)
    newer = header_line(Header("0" * 12, SPACE)).replace(b'"version": 1', b'"version": 9')
    (tmp_path / f"current-{'0' * 12}-1.jsonl").write_bytes(newer)
    with pytest.raises(DataError, match="newer version"):
        read_journal(tmp_path)


def test_rows_keep_the_order_of_arrival_when_the_clock_jumps(tmp_path: Path) -> None:
    times = [1000.0, 1001.0, 9000.0, 1002.0, 1003.0]
    lines_file(tmp_path, [observation(k, time=t) for k, t in enumerate(times)])
    journal = read_journal(tmp_path)
    assert [row.time for row in journal.rows] == times
    assert journal.clock_jumps == 1 and any("clock" in note for note in journal.notes)


def test_several_writers_are_merged_by_time(tmp_path: Path) -> None:
    lines_file(tmp_path, [observation(k, time=100.0 + 2 * k) for k in range(3)], "0" * 12)
    lines_file(tmp_path, [observation(k, time=101.0 + 2 * k) for k in range(3)], "1" * 12)
    assert [row.time for row in read_journal(tmp_path).rows] == [100, 101, 102, 103, 104, 105]


def test_rows_that_are_there_twice_count_once(tmp_path: Path) -> None:
    rows = [observation(k) for k in range(4)]
    path = lines_file(tmp_path, rows)  # killed between the Parquet file's rename and the removal of the lines
    header = Header("0" * 12, SPACE, "m", "1")
    write_parquet(tmp_path / f"journal-20240101T000000-{'0' * 12}-1.parquet", header, list(map(Row, range(4), rows)))
    assert path.exists()
    journal = read_journal(tmp_path)
    assert len(journal) == 4 and journal.duplicates == 4


def test_models_and_label_spaces_that_differ_are_stated(tmp_path: Path) -> None:
    other = LabelSpace(("road", "sky"))
    lines_file(tmp_path, [observation(k, classes=2, time=10.0 + k) for k in range(2)], "1" * 12, other)
    rows = [observation(k, model="a" * 16 if k < 2 else "b" * 16) for k in range(5)]
    lines_file(tmp_path, rows, "0" * 12)
    journal = read_journal(tmp_path)
    assert len(journal) == 5 and journal.label_space.names == SPACE.names
    assert journal.models == {"a" * 16: 2, "b" * 16: 3} and any("2 models" in note for note in journal.notes)
    assert [found.rows for found in journal.skipped] == [2] and "road, sky" in journal.skipped[0].reason
    assert journal.label_spaces == (SPACE.names, ("road", "sky"))
    assert len(read_journal(tmp_path, classes=("road", "sky"))) == 2
    assert len(read_journal(tmp_path, model="b" * 16)) == 3
    assert len(read_journal(tmp_path, since=1_700_000_003.0)) == 2
    with pytest.raises(DataError, match="no records of these classes"):
        read_journal(tmp_path, classes=("a", "b"))


def test_a_model_that_is_replaced_begins_another_file(tmp_path: Path) -> None:
    other = LabelSpace(("road", "sky"))
    with JournalWriter(tmp_path, label_space=SPACE, model="first") as writer:
        writer.add(observation(0))
        writer.add(observation(1, classes=2, time=1_800_000_000.0), header=writer.header(other, "second"))
    assert len(list(tmp_path.glob("*.parquet"))) == 2
    journal = read_journal(tmp_path)
    assert journal.label_space.names == ("road", "sky") and journal.names == ("second",)


def test_only_the_newest_rows_are_read_and_the_others_counted(tmp_path: Path) -> None:
    write(tmp_path, 30, rotate_rows=10)
    journal = read_journal(tmp_path, max_rows=15)
    assert [row.id for row in journal.rows] == [f"image {k}" for k in range(15, 30)]
    assert journal.skipped
    with pytest.raises(UsageError):
        read_journal(tmp_path, max_rows=0)


def test_a_folder_keeps_to_its_size(tmp_path: Path) -> None:
    write(tmp_path, 60, rotate_rows=3)
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    removed = prune(tmp_path, size // 2, 1e9)
    assert 8 <= removed <= 13 and sum(path.stat().st_size for path in tmp_path.iterdir()) <= size // 2
    assert read_journal(tmp_path).rows[-1].id == "image 59", "the oldest go"
    (tmp_path / "mine.parquet").write_bytes(b"x" * 10)
    prune(tmp_path, 0, 1e9)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.parquet"], "no file of others"


def test_a_queue_that_is_full_loses_rows_and_counts_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost: list[int] = []
    writer = JournalWriter(tmp_path, label_space=SPACE, queue=3, on_lost=lost.append)
    monkeypatch.setattr(writer, "_take", lambda: time.sleep(0.05) or [])
    results = [writer.add(observation(k)) for k in range(10)]
    assert results == [True] * 3 + [False] * 7
    assert writer.lost == sum(lost) == 7
    monkeypatch.undo()
    writer.close()
    assert writer.written == 3


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_loses_counted_rows_and_writing_starts_again(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = JournalWriter(small_disk / "journal", label_space=SPACE, queue=50)
    for k in range(20):
        writer.add(observation(k))
    wait_for(lambda: writer.written == 20)
    filler = small_disk / "filler"
    with open(filler, "wb", buffering=0) as file, pytest.raises(OSError):
        while True:
            file.write(b"0" * 4096)
    with caplog.at_level(logging.WARNING, "segwright.journal"):
        added = 20
        while writer.lost < 30:  # never raises, never blocks
            began = time.monotonic()
            writer.add(observation(added))
            assert time.monotonic() - began < 0.5
            added += 1
            time.sleep(0.001)
        assert writer.trouble
        filler.unlink()
        wait_for(lambda: writer.written + writer.lost == added)
        wait_for(lambda: not writer.trouble)
    writer.close()
    assert len([r for r in caplog.records if "cannot be written" in r.message]) == 1, "one line per trouble"
    assert len([r for r in caplog.records if "written again" in r.message]) == 1
    journal = read_journal(small_disk / "journal")
    assert len(journal) == writer.written == added - writer.lost
    assert not [found for found in journal.skipped if found.rows], "no half line is left behind"


def test_a_removed_folder_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    writer = JournalWriter(folder, label_space=SPACE)
    writer.add(observation(0))
    wait_for(lambda: writer.written == 1)
    shutil.rmtree(folder)
    writer.add(observation(1))
    wait_for(lambda: writer.written == 2)
    writer.close()
    assert [row.id for row in read_journal(folder).rows] == ["image 1"]


def test_an_error_of_any_kind_stays_in_the_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    writer = JournalWriter(tmp_path, label_space=SPACE)
    with monkeypatch.context() as patch:
        patch.setattr(journal_writer.os, "write", refuse)
        assert writer.add(observation(0))
        wait_for(lambda: "Read-only" in writer.trouble)
    wait_for(lambda: writer.written == 1)
    writer.close()
    assert len(read_journal(tmp_path)) == 1 and writer.lost == 0


def test_a_folder_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError):
        JournalWriter(tmp_path / "file", label_space=SPACE)
    for wrong in ({"keep_images": 1.5}, {"max_bytes": 10}, {"rotate_rows": 0}, {"queue": 0}):
        with pytest.raises(UsageError):
            JournalWriter(tmp_path, label_space=SPACE, **wrong)  # type: ignore[arg-type]


def test_two_writers_share_a_folder(tmp_path: Path) -> None:
    writers = [JournalWriter(tmp_path, label_space=SPACE, rotate_rows=5) for _ in range(2)]
    for k in range(20):
        writers[k % 2].add(observation(k))
    for writer in writers:
        writer.close()
    assert sorted(row.time for row in read_journal(tmp_path).rows) == [observation(k).time for k in range(20)]


def test_only_the_asked_share_of_images_is_kept_and_the_same_everywhere(tmp_path: Path) -> None:
    image = np.full((8, 9, 3), 100, np.uint8)
    names = [f"image {k}" for k in range(400)]
    kept = [name for name in names if chosen(name, 0.1)]
    assert 20 < len(kept) < 65 and not [name for name in names if chosen(name, 0.0)]
    assert all(chosen(name, 1.0) for name in names)
    with JournalWriter(tmp_path / "none", label_space=SPACE) as writer:
        writer.add(observation(0), image)
    assert not (tmp_path / "none" / "images").exists()
    folder = tmp_path / "some"
    with JournalWriter(folder, label_space=SPACE, keep_images=0.1) as writer:
        for number, name in enumerate(names):
            writer.add(observation(number, id=name), image)
            if name in kept:
                wait_for(lambda: writer.written == number + 1)  # noqa: B023
    tagged = {row.id: row.tags["image"] for row in read_journal(folder).rows if "image" in row.tags}
    assert sorted(tagged) == sorted(kept) and writer.kept_images == len(kept)
    assert all((folder / place).is_file() for place in tagged.values())


def test_kept_images_go_with_age_and_size(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8)
    writer = JournalWriter(tmp_path, label_space=SPACE, keep_images=1.0)
    for k in range(6):
        writer.add(observation(k), image)
        wait_for(lambda: writer.written == k + 1)  # noqa: B023
    writer.close()
    images = sorted((tmp_path / "images").iterdir())
    assert len(images) == 6
    os.utime(images[0], (1.0, 1.0))
    prune(tmp_path, 10**9, 3600.0)
    assert sorted((tmp_path / "images").iterdir()) == images[1:]
    prune(tmp_path, 2 * 3 * images[1].stat().st_size, 3600.0)
    assert len(list((tmp_path / "images").iterdir())) <= 3
    assert len(read_journal(tmp_path)) == 6


def test_many_kept_images_never_pass_the_size_between_two_looks(tmp_path: Path) -> None:
    """The folder is looked at once a minute; a fast service would write more than its size within one."""
    image = np.random.default_rng(1).integers(0, 256, (200, 200, 3), np.uint8)
    largest = 0
    with JournalWriter(tmp_path, label_space=SPACE, keep_images=1.0, max_bytes=1_000_000) as writer:
        for k in range(60):
            writer.add(observation(k), image)
            wait_for(lambda: writer.written == k + 1)  # noqa: B023
            largest = max(largest, sum(path.stat().st_size for path in (tmp_path / "images").iterdir()))
    assert writer.kept_images == 60 and writer.lost == 0
    assert 300_000 < largest < 600_000, "at most half of the folder, and a sixteenth until the next look"


def test_memory_and_folder_stay_as_they_are_over_many_rows(tmp_path: Path) -> None:
    """An accelerated night: files are rotated, and the oldest go. The longer run is benchmarks/journal.py --soak."""
    some = [observation(k, classes=11) for k in range(20)]
    memory, largest = [], 0
    writer = JournalWriter(tmp_path, label_space=LabelSpace(tuple("abcdefghijk")), max_bytes=1_000_000, rotate_rows=25)
    tracemalloc.start()
    try:
        for number in range(1, 2501):
            writer.add(replace(some[number % 20], id=f"image {number}"))
            if number % 100 == 0:
                wait_for(lambda: writer.written == number)  # noqa: B023
            if number % 500 == 0:
                read_journal(tmp_path, max_rows=100)
                gc.collect()
                memory.append(tracemalloc.get_traced_memory()[0])
                largest = max(largest, sum(path.stat().st_size for path in tmp_path.iterdir()))
    finally:
        tracemalloc.stop()
        writer.close()
    assert writer.written == 2500 and writer.lost == 0
    assert writer.removed_files > 0 and largest <= 1_000_000
    assert memory[-1] - memory[1] < 200_000, "1,500 rows have some 3 MB"


def test_ids_never_become_paths(tmp_path: Path) -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    folder = tmp_path / "journal"
    with JournalWriter(folder, label_space=SPACE, keep_images=1.0) as writer:
        writer.add(replace(observation(), id="../../evil"), image)
    assert {path.name for path in tmp_path.iterdir()} == {"journal"}
    assert len(list((folder / "images").iterdir())) == 1
