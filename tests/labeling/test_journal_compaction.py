"""A journal made shorter: masks, authors, counts and answers stay; a kill leaves the former journal or the new one."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import segwright as sw
from segwright.core.errors import DataError, LabelError, OutputError
from segwright.core.types import LabelSpace
from segwright.data.formats import label_folder
from segwright.data.strokes import Stroke, labels_from_journal, parse_line, read_journal, read_strokes
from segwright.imageio import write_image
from segwright.labeling import journal_compaction
from segwright.labeling.store import LabelFolder, stroke_of_mask

SPACE = LabelSpace(("road", "sky", "car"))
SIZE = (24, 32)
NAMES = ("a.png", "sub/b.png")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in (*NAMES, "c.png"):
        write_image(tmp_path / "photos" / name, np.zeros((*SIZE, 3), np.uint8))
    return tmp_path / "photos"


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_compaction, "LAST", 10)


def opened(photos: Path) -> LabelFolder:
    return LabelFolder.open(photos.parent / "labels", photos, SPACE)


def some_stroke(rng: np.random.Generator, number: int) -> Stroke:
    """A rectangle of a random class, sometimes an eraser, an answer or a skip."""
    image, by = NAMES[int(rng.integers(2))], ("Anna", "Ben", "Zoë")[int(rng.integers(3))]
    if rng.random() < 0.1:
        return Stroke(id=uuid.uuid4().hex, image=image, by=by, kind="skip", question=f"s{number}")
    mask = np.zeros(SIZE, bool)
    y, x = int(rng.integers(0, 20)), int(rng.integers(0, 28))
    mask[y : y + int(rng.integers(1, 12)), x : x + int(rng.integers(1, 12))] = True
    label = int(rng.choice([0, 1, 2, 255]))
    kind = "eraser" if label == 255 else "answer" if rng.random() < 0.3 else "brush"
    question = f"q{number}" if kind == "answer" else None
    return stroke_of_mask(mask, id=uuid.uuid4().hex, image=image, by=by, kind=kind, label=label, clicks=2, seconds=0.5,
                          question=question)  # fmt: skip


def paint(store: LabelFolder, count: int, seed: int = 0) -> list[Stroke]:
    """Random strokes, of which every seventh is undone and every second of these done again."""
    rng, given = np.random.default_rng(seed), list[Stroke]()
    for number in range(count):
        given.append(some_stroke(rng, number))
        store.append(given[-1])
        if number % 7 == 3 and given[-1].kind != "skip":
            for kind in ("undo", "redo") if number % 2 else ("undo",):
                store.append(
                    Stroke(id=uuid.uuid4().hex, image=given[-1].image, by=given[-1].by, kind=kind, of=given[-1].id)
                )
    return given


def facts(store: LabelFolder) -> dict[str, Any]:
    """Everything about the labels that must not change."""
    store.compact()
    summary = store.summary()
    return {
        "counts": {key: value for key, value in summary.items() if key != "images"},
        "labels": {name: store.labels(name, SIZE).tolist() for name in NAMES},
        "authors": {
            name: [store._memory(name, SIZE).names[one] for one in store._memory(name, SIZE).authors.ravel()]
            for name in NAMES
        },
        "answered": {name: store.answered(name) for name in NAMES},
        "revisions": {name: store.revision(name) for name in NAMES},
        "conflicts": {name: store.conflicts(name) for name in NAMES},
    }


def masks(photos: Path) -> dict[str, Any]:
    return {sample.id: np.asarray(sample.mask).tolist() for sample in sw.open_dataset(photos.parent / "labels")}


def test_nothing_but_the_length_changes(photos: Path) -> None:
    with opened(photos) as store:
        paint(store, 60)
        before, length = facts(store), store.journal.length
        seen = masks(photos)
        assert not store.shorten(least=1 << 20)  # too short to be worth it
        assert store.shorten(least=0)
        assert store.journal.length < length and store.journal.generation == 1 and not store.behind()
        assert facts(store) == before and masks(photos) == seen
        assert not store.shorten(least=0)  # what came since is less than what was kept
        store.append(some_stroke(np.random.default_rng(9), 99))
        assert store.revision(NAMES[0]) + store.revision(NAMES[1]) == 1 + sum(before["revisions"].values())
        before = facts(store)
    with opened(photos) as store:  # read again from the disk
        assert facts(store) == before
        paint(store, 150, seed=1)  # and made shorter once more
        before = facts(store)
        assert store.shorten(least=0) and store.journal.generation == 2
        assert facts(store) == before
    assert masks(photos) and read_journal(photos.parent / "labels" / "strokes.jsonl").torn == 0


def test_what_was_folded_cannot_be_undone_and_says_so_and_the_last_strokes_can(photos: Path) -> None:
    with opened(photos) as store:
        given = [one for one in paint(store, 60) if one.kind != "skip"]
        store.shorten(least=0)
        before = store.labels(given[0].image, SIZE)
        with pytest.raises(LabelError, match="too old to be undone"):
            store.append(Stroke(id="u1", image=given[0].image, by=given[0].by, kind="undo", of=given[0].id))
        assert (store.labels(given[0].image, SIZE) == before).all()
        assert store.append(given[0]).repeated  # a page that did not hear of it sends it again
        assert (
            store.append(Stroke(id="u2", image=given[-1].image, by=given[-1].by, kind="undo", of=given[-1].id)).patch
            is not None
        )
        with pytest.raises(LabelError, match="nobody paints"):
            store.append(stroke_of_mask(np.ones(SIZE, bool), id="k", image="a.png", by="A", kind="kept", label=1))


def test_a_late_undo_keeps_the_stroke_that_it_is_about(photos: Path) -> None:
    with opened(photos) as store:
        given = [one for one in paint(store, 60) if one.kind != "skip"]
        store.append(Stroke(id="late", image=given[0].image, by=given[0].by, kind="undo", of=given[0].id))
        before = facts(store)
        assert not store.shorten(least=0)  # the undone stroke is the first one: everything stays
        assert facts(store) == before
        paint(store, 40, seed=2)
        before = facts(store)
        assert store.shorten(least=0)  # by now the undo is among the old ones itself
        assert facts(store) == before


def test_erased_images_and_torn_lines(photos: Path) -> None:
    with opened(photos) as store:
        paint(store, 30)
        for name in NAMES:
            store.append(stroke_of_mask(np.ones(SIZE, bool), id=name, image=name, by="A", kind="eraser", label=255))
    journal = photos.parent / "labels" / "strokes.jsonl"
    journal.write_bytes(journal.read_bytes() + b'{"id": "cut')
    with opened(photos) as store:
        for _ in range(12):
            mask = np.zeros(SIZE, bool)
            mask[0, 0] = True
            store.append(stroke_of_mask(mask, id=uuid.uuid4().hex, image="a.png", by="A", kind="brush", label=1))
        before = facts(store)
        assert before["counts"]["torn"] == 1
        assert store.shorten(least=0)
        assert facts(store) == before
        assert (store.labels("sub/b.png", SIZE) == 255).all() and store.labels("a.png", SIZE)[0, 0] == 1


def test_programs_that_do_not_know_it_refuse_the_folder(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(photos) as store:
        paint(store, 60)
        assert json.loads((store.folder / "label_folder.json").read_text())["version"] == 1
        store.shorten(least=0)
    monkeypatch.setattr(label_folder, "VERSIONS", (1,))
    with pytest.raises(sw.FormatError, match="another version"):
        sw.open_dataset(photos.parent / "labels")


def test_who_indexed_the_former_journal_is_told(photos: Path) -> None:
    with opened(photos) as store:
        paint(store, 60)
        path = store.journal_path
        index = read_journal(path)
        found = index.images["a.png"]
        assert labels_from_journal(path, found, index.generation).shape == SIZE
        store.shorten(least=0)
        with pytest.raises(DataError, match="made shorter"):
            labels_from_journal(path, found, index.generation)
        index = read_journal(path)
        assert list(read_strokes(path, index.images["a.png"].spans, index.generation))


def test_a_full_disk_leaves_the_former_journal(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(photos) as store:
        paint(store, 60)
        before, content = facts(store), store.journal_path.read_bytes()

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch, pytest.raises(OutputError, match=r"[Nn]o space"):
            patch.setattr(shutil, "copyfileobj", full)
            store.shorten(least=0)
        assert store.journal_path.read_bytes() == content and facts(store) == before
        store.append(some_stroke(np.random.default_rng(5), 5))
        assert store.shorten(least=0)


def test_a_session_ends_with_a_short_journal(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segwright.labeling.store.LONG_AT_END", 0)
    with opened(photos) as store:
        paint(store, 60)
        before, length = facts(store), store.journal.length
    with opened(photos) as store:
        assert store.journal.generation == 1 and store.journal.length < length and facts(store) == before


WRITER = """
import itertools, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import test_journal_compaction as own
from pathlib import Path
own.journal_compaction.LAST = 5
rng = np.random.default_rng(int(sys.argv[3]))
with own.opened(Path(sys.argv[2])) as store:
    for number in itertools.count():
        stroke = own.some_stroke(rng, number)
        print("sent", stroke.to_line().decode(), end="", flush=True)
        store.append(stroke)
        print("kept", stroke.id, flush=True)
        if number % 6 == 5:
            store.shorten(least=0)
"""


def test_every_acknowledged_stroke_survives_kills_while_the_journal_is_made_shorter(photos: Path) -> None:
    rng, sent, kept = random.Random(3), dict[str, Stroke](), set[str]()
    for turn in range(4):
        arguments = [str(Path(__file__).parent), str(photos), str(turn)]
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WRITER), *arguments], stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(Path(sw.__file__).parents[1])},
        )  # fmt: skip
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2 * rng.randrange(14, 40))]
        time.sleep(rng.uniform(0, 0.02))
        process.send_signal(signal.SIGKILL)
        for line in [*lines, *process.stdout.read().splitlines(keepends=True)]:
            stroke = parse_line(line[5:].encode()) if line.startswith("sent ") and line.endswith("\n") else None
            if stroke is not None:
                sent[stroke.id] = stroke
            elif line.startswith("kept ") and line.endswith("\n"):
                kept.add(line.split()[1])
        process.wait()
        journal = read_journal(photos.parent / "labels" / "strokes.jsonl")
        there = {one for one in journal.ids if not one.startswith("kept-")}
        assert kept <= there and len(there - kept) <= turn + 1, "at most the one on its way"
    assert journal.generation > 0 and journal.torn == 0 and len(kept) > 40
    from_files = masks(photos)
    with opened(photos) as store:
        assert store.summary()["clicks"] == sum(sent[one].clicks for one in there)
        for name in NAMES:
            expected = np.full(SIZE, 255, np.uint8)
            for one in sent.values():
                if one.id in there and one.image == name and one.runs:
                    expected[one.inner][one.patch()] = one.label
            assert (store.labels(name, SIZE) == expected).all()
            assert from_files.get(Path(name).stem, expected.tolist()) == expected.tolist()
    assert not list((photos.parent / "labels").rglob("*.writing-*"))
