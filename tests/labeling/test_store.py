"""The label folder: what is acknowledged is on the disk, whatever ends the process, and opens as a dataset."""

from __future__ import annotations

import errno
import json
import os
import random
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
from segwright.core.errors import FormatError, LabelError, OutputError, UsageError
from segwright.core.types import LabelSpace
from segwright.data.strokes import Stroke, encode_labels, parse_line, read_journal
from segwright.imageio import write_image
from segwright.labeling.store import LabelFolder, stroke_of_mask

SPACE = LabelSpace(("road", "sky", "car"))
SIZE = (24, 32)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("a.png", "sub/b.png", "sub/c.png"):
        write_image(tmp_path / "photos" / name, rng.integers(0, 256, (*SIZE, 3), np.uint8))
    return tmp_path / "photos"


def opened(photos: Path) -> LabelFolder:
    return LabelFolder.open(photos.parent / "labels", photos, SPACE)


def box_stroke(image: str, box: tuple[int, int, int, int], label: int, by: str = "Anna", **rest: Any) -> Stroke:
    mask = np.zeros(SIZE, bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    kind = rest.pop("kind", "eraser" if label == 255 else "brush")
    return stroke_of_mask(mask, id=uuid.uuid4().hex, image=image, by=by, kind=kind, label=label, clicks=1, **rest)


def revert(kind: str, stroke: Stroke) -> Stroke:
    return Stroke(id=uuid.uuid4().hex, image=stroke.image, by=stroke.by, kind=kind, of=stroke.id)


def test_the_mask_is_what_the_strokes_give(photos: Path) -> None:
    with opened(photos) as store:
        expected = np.full(SIZE, 255, np.uint8)
        for box, label in (((0, 0, 20, 20), 0), ((4, 4, 32, 8), 1), ((6, 5, 9, 20), 255)):
            store.append(box_stroke("a.png", box, label))
            expected[box[1] : box[3], box[0] : box[2]] = label
        assert (store.labels("a.png", SIZE) == expected).all()
        assert (store.labels("sub/b.png", SIZE) == 255).all()
        assert store.compact() == 1 and store.compact() == 0
    data = sw.open_dataset(photos.parent / "labels")
    assert data.format == "label_folder" and data.label_space.names == SPACE.names
    assert [sample.id for sample in data] == ["a"] and (data.all[0].mask == expected).all()
    assert (data.all[0].image == sw.open_dataset(photos.parent / "labels").all[0].image).all()


def test_counts_are_those_of_the_strokes(photos: Path) -> None:
    with opened(photos) as store:
        store.append(box_stroke("a.png", (0, 0, 4, 4), 0, seconds=1.5, kind="answer", question="q1"))
        store.append(box_stroke("sub/b.png", (0, 0, 4, 4), 2, by="Ben", seconds=2.5))
        store.append(Stroke(id="s", image="a.png", by="Ben", kind="skip", question="q2"))
        assert set(store.answered("a.png")) == {"q1", "q2"}
    found = json.loads((photos.parent / "labels" / "labels.json").read_text())
    assert {key: found[key] for key in ("clicks", "answers", "skips", "strokes", "seconds")} == {
        "clicks": 2, "answers": 1, "skips": 1, "strokes": 2, "seconds": 4.0,
    }  # fmt: skip
    assert found["annotators"] == {"Anna": 1, "Ben": 2} and found["images"]["a.png"]["pixels"] == 16


def test_undo_and_redo_give_the_mask_before_and_after(photos: Path) -> None:
    with opened(photos) as store:
        first, second = box_stroke("a.png", (0, 0, 20, 20), 0), box_stroke("a.png", (4, 4, 30, 10), 1)
        third = box_stroke("a.png", (5, 5, 31, 11), 2)
        for stroke in (first, second, third):
            store.append(stroke)
        full = store.labels("a.png", SIZE)
        ack = store.append(revert("undo", second))
        assert ack.patch is not None and ack.patch[0] == second.box
        now = store.labels("a.png", SIZE)
        left, top, right, bottom = second.box
        assert (ack.patch[1] == now[top:bottom, left:right]).all()
        assert now[4, 29] == 255 and now[6, 6] == 2 and now[4, 4] == 0
        store.append(revert("redo", second))
        assert (store.labels("a.png", SIZE) == full).all()
        with pytest.raises(LabelError, match="no such stroke"):
            store.append(Stroke(id="x", image="a.png", by="Anna", kind="undo", of="nothing"))
    with opened(photos) as store:
        assert (store.labels("a.png", SIZE) == full).all()


def test_only_ones_own_strokes_of_the_image_are_undone(photos: Path) -> None:
    with opened(photos) as store:
        mine = box_stroke("a.png", (0, 0, 9, 9), 0)
        other = box_stroke("sub/b.png", (0, 0, 9, 9), 1, by="Ben")
        for stroke in (mine, other):
            store.append(stroke)
        before = store.labels("a.png", SIZE), store.labels("sub/b.png", SIZE), store.revision("a.png")
        for kind in ("undo", "redo"):
            with pytest.raises(LabelError, match="no such stroke to undo"):
                store.append(Stroke(id="u", image="a.png", by="Ben", kind=kind, of=other.id))
            with pytest.raises(LabelError, match="another person's") as refused:
                store.append(Stroke(id="u", image="a.png", by="Ben", kind=kind, of=mine.id))
            assert refused.value.found == "one of Anna" and "paint over it" in (refused.value.fix or "")
        undo = revert("undo", mine)
        store.append(undo)
        with pytest.raises(LabelError, match="no such stroke"):  # an undo is no stroke that can be undone
            store.append(Stroke(id="v", image="a.png", by="Anna", kind="undo", of=undo.id))
        store.append(revert("redo", mine))
        assert (store.labels("a.png", SIZE) == before[0]).all() and store.revision("a.png") == before[2] + 2
        assert (store.labels("sub/b.png", SIZE) == before[1]).all()
    with opened(photos) as store:  # read again, the journal knows them as well
        with pytest.raises(LabelError, match="another person's"):
            store.append(Stroke(id="u", image="a.png", by="Ben", kind="undo", of=mine.id))
        assert store.append(revert("undo", mine)).patch is not None


def test_a_stroke_sent_twice_is_one(photos: Path) -> None:
    with opened(photos) as store:
        stroke = box_stroke("a.png", (0, 0, 4, 4), 1)
        assert not store.append(stroke).repeated and store.append(stroke).repeated
        assert store.summary()["clicks"] == 1
    with opened(photos) as store:
        assert store.append(stroke).repeated and store.summary()["clicks"] == 1


def test_a_conflict_is_counted_and_named(photos: Path) -> None:
    with opened(photos) as store:
        store.append(box_stroke("a.png", (0, 0, 10, 10), 0))
        assert store.append(box_stroke("a.png", (0, 0, 4, 4), 0, by="Ben")).conflict == {}, "the same class"
        assert store.append(box_stroke("a.png", (5, 5, 12, 12), 1, by="Ben")).conflict == {"Anna": 25}
        assert store.labels("a.png", SIZE)[6, 6] == 1, "the last stroke holds"
    with opened(photos) as store:
        assert [(one["by"], one["over"], one["pixels"]) for one in store.conflicts("a.png")] == [("Ben", "Anna", 25)]
        assert store.summary()["conflicts"] == 1


@pytest.mark.parametrize("cut", [1, 7, 60])
def test_a_line_that_was_cut_short_is_counted_and_the_rest_holds(photos: Path, cut: int) -> None:
    with opened(photos) as store:
        for label in (0, 1):
            store.append(box_stroke("a.png", (label, 0, 8, 8), label))
    journal = photos.parent / "labels" / "strokes.jsonl"
    journal.write_bytes(journal.read_bytes()[:-cut])
    (photos.parent / "labels" / "labels.json").unlink()
    mask = sw.open_dataset(photos.parent / "labels").all[0].mask  # read without the writer
    assert mask is not None and (mask == 1).sum() == (56 if cut == 1 else 0)
    with opened(photos) as store:
        whole = cut == 1  # only the end of the line is missing
        assert store.journal.torn == 1 - whole and (store.labels("a.png", SIZE) == 1).sum() == 56 * whole
        store.append(box_stroke("a.png", (0, 0, 2, 2), 2))
    with opened(photos) as store:
        assert store.journal.torn == 1 - whole and (store.labels("a.png", SIZE) == 2).sum() == 4


def test_a_full_disk_loses_nothing_that_was_acknowledged(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(photos) as store:
        store.append(box_stroke("a.png", (0, 0, 4, 4), 0))
        real, lost = store._file, box_stroke("a.png", (8, 8, 12, 12), 1)

        class Full:
            """Takes half a line, then there is no space."""

            closed = False

            def write(self, line: bytes) -> int:
                if len(line) < 40:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return int(real.write(line[: len(line) // 2]))

            def fileno(self) -> int:
                return int(real.fileno())

        monkeypatch.setattr(store, "_file", Full())
        with pytest.raises(OutputError, match="free some space"):
            store.append(lost)
        monkeypatch.setattr(store, "_file", real)
        assert (store.labels("a.png", SIZE) == 1).sum() == 0 and store.journal.torn == 0
        store.append(lost)  # the page sends it again
    with opened(photos) as store:
        assert (store.labels("a.png", SIZE) == 1).sum() == 16 and store.journal.torn == 0


def test_masks_that_are_behind_are_read_from_the_journal_and_written_at_the_next_start(photos: Path) -> None:
    store = opened(photos)
    store.append(box_stroke("a.png", (0, 0, 4, 4), 0))
    store.compact()
    store.append(box_stroke("a.png", (8, 8, 12, 12), 1))
    store.append(box_stroke("sub/b.png", (8, 8, 12, 12), 2))
    data = sw.open_dataset(photos.parent / "labels")  # as after a kill
    assert [(sample.mask != 255).sum() for sample in data if sample.mask is not None] == [32, 16]
    assert any("2 masks are behind" in note for note in data.notes)
    store.close()
    assert (photos.parent / "labels" / "masks" / "sub" / "b.png").is_file()
    assert not any("are behind" in note for note in sw.open_dataset(photos.parent / "labels").notes)


def test_one_process_at_a_time(photos: Path) -> None:
    with opened(photos), pytest.raises(UsageError, match="another run uses this folder"):
        opened(photos)


def test_other_images_or_classes_are_refused(photos: Path, tmp_path: Path) -> None:
    opened(photos).close()
    with pytest.raises(UsageError, match="other classes"):
        LabelFolder.open(tmp_path / "labels", photos, LabelSpace(("road", "sky")))
    (tmp_path / "others").mkdir()
    with pytest.raises(UsageError, match="other images"):
        LabelFolder.open(tmp_path / "labels", tmp_path / "others", SPACE)
    with pytest.raises(UsageError, match="holds something else"):
        LabelFolder.open(photos, photos, SPACE)


def test_classes_that_a_later_model_adds_are_added(photos: Path) -> None:
    folder, longer = photos.parent / "labels", LabelSpace((*SPACE.names, "bike"))
    with opened(photos) as store:
        store.append(box_stroke("a.png", (0, 0, 4, 4), 0))
    with LabelFolder.open(folder, photos, longer) as store:
        store.append(box_stroke("a.png", (8, 8, 12, 12), longer.classes - 1))
    data = sw.open_dataset(folder)
    assert data.label_space.names == longer.names
    (sample,) = data
    assert sample.mask is not None and np.unique(sample.mask).tolist() == [0, longer.classes - 1, 255]
    with pytest.raises(UsageError, match="other classes"):  # labels of the last class would mean nothing
        opened(photos)


def test_images_of_one_stem_have_two_masks(photos: Path) -> None:
    rng = np.random.default_rng(1)
    write_image(photos / "a.jpg", rng.integers(0, 256, (*SIZE, 3), np.uint8))
    with opened(photos) as store:
        store.append(box_stroke("a.png", (0, 0, 4, 4), 0))
        store.append(box_stroke("a.jpg", (0, 0, 8, 8), 1))
    masks = sorted(path.name for path in (photos.parent / "labels" / "masks").iterdir())
    assert masks == ["a.jpg.png", "a.png"]
    data = sw.open_dataset(photos.parent / "labels")
    assert {sample.image_path.name: int((sample.mask != 255).sum()) for sample in data} == {"a.png": 16, "a.jpg": 64}


def test_a_folder_from_elsewhere_reads_nothing_outside_of_its_images(photos: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "secret.png", np.zeros((*SIZE, 3), np.uint8))
    (photos / "link.png").symlink_to(tmp_path / "secret.png")
    with opened(photos) as store:
        store.append(box_stroke("a.png", (0, 0, 4, 4), 0))
        store.append(box_stroke("link.png", (0, 0, 4, 4), 0))
        with pytest.raises(LabelError, match="leaves the folder"):
            store.append(box_stroke("../secret.png", (0, 0, 4, 4), 0))
    journal = tmp_path / "labels" / "strokes.jsonl"
    lines = journal.read_text().splitlines()
    with journal.open("a") as file:
        for name in ("../secret.png", str(tmp_path / "secret.png"), "..\\secret.png", "x/../../secret.png"):
            file.write(json.dumps({**json.loads(lines[0]), "id": name[:40], "image": name}) + "\n")
    counts = json.loads((tmp_path / "labels" / "labels.json").read_text())
    counts["images"]["../secret.png"] = counts["images"]["a.png"]
    (tmp_path / "labels" / "labels.json").write_text(json.dumps(counts))
    data = sw.open_dataset(tmp_path / "labels")
    assert [record.image_path for record in data.records] == [photos / "a.png"]
    assert len([one for one in data.problems if one.kind == "path leaves the folder"]) == 2
    assert any("4 lines" in note for note in data.notes)


def test_a_damaged_description_is_a_typed_error(photos: Path, tmp_path: Path) -> None:
    opened(photos).close()
    with pytest.raises(FormatError, match="nothing is labeled yet"):
        sw.open_dataset(tmp_path / "labels")
    file = tmp_path / "labels" / "label_folder.json"
    whole = json.loads(file.read_text())
    for damage in ({"classes": 3}, {"images": None}, {"classes": [{"name": "x"}]}, {"version": 9}):
        file.write_text(json.dumps({**whole, **damage}))
        with pytest.raises(FormatError):
            sw.open_dataset(tmp_path / "labels", format="label_folder")


@pytest.mark.parametrize(
    "change",
    [
        {"runs": "3 4"}, {"runs": "-1 17"}, {"box": [0, 0, 99, 4]}, {"box": [4, 0, 0, 4]}, {"class": 300},
        {"class": 255}, {"kind": "magic"}, {"by": ""}, {"by": "x" * 81}, {"by": "a\nb"}, {"seconds": "nan"},
        {"clicks": -1}, {"box": [0.5, 0, 4, 4]}, {"size": [0, 0]}, {"runs": None}, {"image": ""}, {"id": None, "by": 0},
    ],
)  # fmt: skip
def test_lines_that_are_no_strokes(change: dict[str, Any]) -> None:
    good = box_stroke("a.png", (0, 0, 4, 4), 1)
    assert parse_line(good.to_line()) == good
    tree = {**json.loads(good.to_line()), **change}
    if change == {"id": None, "by": 0}:
        del tree["id"]
    assert parse_line(json.dumps(tree).encode()) is None


def test_labels_travel_as_runs() -> None:
    rng = np.random.default_rng(3)
    for labels in (rng.integers(0, 4, (9, 11), np.uint8), np.full((5000, 4000), 7, np.uint8)):
        runs = np.frombuffer(encode_labels(labels), "<u4")
        assert (np.repeat((runs & 255).astype(np.uint8), runs >> 8) == labels.ravel()).all()


WRITER = """
import sys, uuid
import numpy as np
from pathlib import Path
from segwright.core.types import LabelSpace
from segwright.labeling.store import LabelFolder, stroke_of_mask
photos, seed = Path(sys.argv[1]), int(sys.argv[2])
rng = np.random.default_rng(seed)
store = LabelFolder.open(photos.parent / "labels", photos, LabelSpace(("road", "sky", "car")))
print("open", flush=True)
mine = []
for step in range(100_000):
    image = ("a.png", "sub/b.png", "sub/c.png")[int(rng.integers(3))]
    mask = rng.random((24, 32)) < 0.2
    mask[0, 0] = True
    stroke = stroke_of_mask(mask, id=uuid.uuid4().hex, image=image, by="Anna", kind="brush", label=int(rng.integers(3)))
    print("sent", stroke.to_line().decode(), end="", flush=True)
    store.append(stroke)
    print("kept", stroke.id, flush=True)
    if step % 7 == 0:
        store.compact()
"""


def test_every_acknowledged_stroke_survives_kills_at_any_instant(photos: Path) -> None:
    """A process that writes and compacts is killed at random; what it acknowledged is there, in order, and no more."""
    rng = random.Random(5)
    sent: dict[str, Stroke] = {}
    kept: list[str] = []
    for seed in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WRITER), str(photos), str(seed)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None and process.stdout.readline() == "open\n"
        lines = [process.stdout.readline() for _ in range(2 * rng.randrange(3, 12))]
        time.sleep(rng.uniform(0, 0.02))
        process.send_signal(signal.SIGKILL)
        for line in [*lines, *process.stdout.read().splitlines(keepends=True)]:
            if line.startswith("sent ") and line.endswith("\n"):
                stroke = parse_line(line[5:].encode())
                assert stroke is not None
                sent[stroke.id] = stroke
            elif line.startswith("kept ") and line.endswith("\n"):
                kept.append(line.split()[1])
        process.wait()
        journal = read_journal(photos.parent / "labels" / "strokes.jsonl")
        assert set(kept) <= journal.ids and len(journal.ids - set(kept)) <= seed + 1, "at most the one on its way"
    assert len(kept) > 20
    from_files = {sample.id: sample.mask for sample in sw.open_dataset(photos.parent / "labels")}
    with opened(photos) as store:
        for image in ("a.png", "sub/b.png", "sub/c.png"):
            written = [one.id for one in store.strokes(image)]
            expected = np.full(SIZE, 255, np.uint8)
            for one in written:
                expected[sent[one].inner][sent[one].patch()] = sent[one].label
            assert (store.labels(image, SIZE) == expected).all()
            assert (from_files[Path(image).stem] == expected).all(), "a reader without the writer sees the same"
            order = [one for one in kept if sent[one].image == image]
            assert [one for one in written if one in set(kept)] == order
    masks = sw.open_dataset(photos.parent / "labels")
    assert not any("are behind" in note for note in masks.notes)
    assert not list((photos.parent / "labels").rglob("*.writing-*")), "what the kills left is cleared"
