"""Training between answers: what is held out, what is taken, and that no failure reaches a label."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from label_server import SPACE, Bands, LabelServer, write_photos
from slot_models import tiny_model

import segwright as sw
from segwright.core.errors import UsageError
from segwright.data.strokes import Stroke
from segwright.inference.lineage import Lineage, bundle_id, data_used, descended
from segwright.inference.predictor import Predictor
from segwright.labeling import between as between_module
from segwright.labeling.between import (
    Between,
    BetweenOptions,
    gain_line,
    held_out,
    read_rounds,
    read_sides,
    resumed_model,
    write_sides,
)
from segwright.labeling.child import ChildCommand, end_leftover
from segwright.labeling.questions import Question, Selection
from segwright.labeling.slot import Slot
from segwright.labeling.store import LabelFolder, stroke_of_mask

PATIENCE = 60.0
SIZE = (120, 160)


class FakeChild:
    """Stands for ``segwright refine`` and ``select``: writes what they write."""

    gain: float | None = 0.04
    code = 0
    calls: ClassVar[list[list[str]]] = []
    gate: threading.Event | None = None

    def __init__(self, arguments: Any, log: Path, *, threads: int | None = None) -> None:
        self.arguments = [str(one) for one in arguments]
        self.process = type("Process", (), {"pid": 0})
        FakeChild.calls.append(self.arguments)

    def value(self, option: str) -> Path:
        return Path(self.arguments[self.arguments.index(option) + 1])

    def wait(self) -> int:
        if FakeChild.gate is not None:
            FakeChild.gate.wait(PATIENCE)
        if self.code == 0 and self.arguments[0] == "refine":
            scores = {"images": 2, "miou": [0.5, 0.5 + (self.gain or 0)], "miou_difference": self.gain,
                      "ci95": [-0.01, 0.09], "clear": False, "interval_over": "images"}  # fmt: skip
            tree = {"candidate": str(self.value("--out") / "model"), "verdict": "", "new": scores}
            self.value("--json").write_text(json.dumps(tree))
        elif self.code == 0:
            mask = np.zeros(SIZE, bool)
            mask[90:100, 100:120] = True
            item = Question.of_mask("photo0.png", mask, kind="check", predicted=1)
            Selection((item,), (), Path(self.arguments[2])).save(self.value("--out"))
        return self.code

    def reason(self) -> str:
        return "ended by SIGKILL: most likely memory ran out"

    def stop(self) -> None:
        if FakeChild.gate is not None:
            FakeChild.gate.set()


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeChild]]:
    monkeypatch.setattr(between_module, "ChildCommand", FakeChild)
    FakeChild.gain, FakeChild.code, FakeChild.calls, FakeChild.gate = 0.04, 0, [], None
    yield FakeChild


def paint(store: LabelFolder, number: int, label: int = 1) -> None:
    mask = np.zeros(SIZE, bool)
    mask[10:20, 10:30] = True
    store.append(stroke_of_mask(
        mask, id=uuid.uuid4().hex, image=f"photo{number}.png", by="Anna", kind="brush", label=label, clicks=1
    ))  # fmt: skip


def with_trainer(photos: Path, **options: Any) -> LabelServer:
    def make(store: Any, images: Any, queue: Any) -> Between:
        return Between(
            store, images, queue, Path("base"), lambda path: Predictor(Bands(), SPACE), BetweenOptions(**options)
        )

    return LabelServer(photos, make_trainer=make)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_what_is_held_out_stays_held_out() -> None:
    names = [f"{number}" for number in range(20)]
    before: set[str] = set()
    for count in range(1, 21):
        train, held = held_out(names[:count])
        assert before <= set(held) and not set(train) & set(held) and len(train) + len(held) == count
        before = set(held)
    assert len(before) == 5


def test_the_share_that_is_held_out() -> None:
    names = [f"{number}" for number in range(20)]
    assert [len(held_out(names[:count])[1]) for count in (1, 2, 5, 6, 9, 10, 20)] == [0, 1, 1, 2, 2, 3, 5]
    known = {"0": True, "1": False, "2": False, "gone": True, "also gone": True}
    train, held = held_out(names[:10], known)
    assert held[0] == "0" and not {"1", "2"} & set(held) and len(held) == 3 and "gone" not in held + train
    assert held_out(names[:3], dict.fromkeys(names[:3], False)) == (names[:3], []), "what was trained on never moves"
    assert held_out(names[:4], dict.fromkeys(names[:3], False))[1] == ["3"]


class Sides:
    """Every image that was trained on, and every one that was held out, over all rounds of a server."""

    def __init__(self, fake: type[FakeChild]) -> None:
        self.fake = fake

    def check(self, least_held: int) -> None:
        trained: set[str] = set()
        held: set[str] = set()
        for call in self.fake.calls:
            if call[0] == "refine":
                data = sw.open_dataset(call[2])
                trained |= {record.id for record in data.train.records}
                held |= {record.id for record in data.val.records}
        assert not trained & held and len(held) >= least_held and trained


def a_round(trainer: Any) -> None:
    count = len(trainer.rounds)
    trainer.start_now()
    until(lambda: len(trainer.rounds) == count + 1 and trainer.phase == "waiting")


def test_no_image_changes_sides(tmp_path: Path, fake: type[FakeChild]) -> None:
    """A skip first, an image that is erased, a journal made shorter, more images, and a start of its own in between."""
    photos = write_photos(tmp_path / "photos", 12)
    with with_trainer(photos, every=None, select=False) as server:
        store, trainer = server.service.store, server.service.trainer
        store.append(Stroke(id="s", image="photo0.png", by="Anna", kind="skip", question="q"))
        for number in range(1, 8):
            paint(store, number)
        a_round(trainer)
        first = trainer.rounds[0]["held"]
        assert first == ["photo2.png", "photo6.png"]
        paint(store, 0)  # it comes first in the journal, and would move all others by one place
        a_round(trainer)
        mask = np.zeros(SIZE, bool)
        mask[10:20, 10:30] = True
        store.append(stroke_of_mask(mask, id="e", image="photo1.png", by="Anna", kind="eraser", label=255))
        for number in range(510):
            store.append(stroke_of_mask(
                mask, id=f"k{number}", image="photo7.png", by="Anna", kind="brush", label=number % 2
            ))  # fmt: skip
        assert store.shorten(least=0)
        a_round(trainer)
        for number in (8, 9, 10):
            paint(store, number)
        a_round(trainer)
        assert trainer.rounds[-1]["held"][:2] == first and len(trainer.rounds[-1]["held"]) == 3
    with with_trainer(photos, every=None, select=False) as server:
        paint(server.service.store, 11)
        paint(server.service.store, 1, label=2)  # erased before, and trained on before that
        a_round(server.service.trainer)
    Sides(fake).check(3)


def test_images_that_were_all_trained_on_hold_none_out(tmp_path: Path, fake: type[FakeChild]) -> None:
    photos = write_photos(tmp_path / "photos", 8)
    write_sides(photos.parent / "photos-labels", {f"photo{number}.png": False for number in range(7)})
    (photos.parent / "photos-labels").rename(tmp_path / "kept")
    with with_trainer(photos, every=1, select=False) as server:
        trainer = server.service.trainer
        assert isinstance(trainer, Between)
        trainer.sides = read_sides(tmp_path / "kept")
        for number in range(6):
            paint(server.service.store, number)
            trainer.on_answer()
        assert not fake.calls and "an image that was not trained on before" in trainer.state()["line"]
        with pytest.raises(UsageError, match="too few images") as refused:
            trainer.start_now()
        assert refused.value.found == "6 to train on, 0 held out"
        paint(server.service.store, 7)
        a_round(trainer)
        assert trainer.rounds[0]["held"] == ["photo7.png"]


def test_folders_of_earlier_versions_keep_what_they_held_out(tmp_path: Path) -> None:
    for number, held in ((1, ["b", "f"]), (2, ["a", "f"]), (3, ["a", "f"])):
        data = tmp_path / "rounds" / f"{number:03d}" / "data"
        data.mkdir(parents=True)
        (data / "labels.json").write_text(json.dumps({"images": {name: {"pixels": 1} for name in "abcdef"}}))
        rows = {"round": number, "parent": "x", "model": "y", "taken": number == 1, "held": held}
        done = [*read_rounds(tmp_path), rows]
        (tmp_path / "rounds" / "rounds.json").write_text(json.dumps({"rounds": done}))
    # Round 1 has trained on a, and its model was taken; rounds 2 and 3 left nothing behind.
    assert read_sides(tmp_path) == {"a": False, "f": True, "c": False, "d": False, "e": False}
    write_sides(tmp_path, {"a": True, "b": False})
    assert read_sides(tmp_path) == {"a": True, "b": False}
    (tmp_path / "rounds" / "split.json").write_text("{")
    with pytest.raises(UsageError, match="held-out images is damaged"):
        read_sides(tmp_path)
    assert read_sides(tmp_path / "new") == {}


def test_the_clicks_of_a_folder_count_once_over_its_rounds(tmp_path: Path, fake: type[FakeChild]) -> None:
    with with_trainer(write_photos(tmp_path / "photos", 8), every=None, select=False) as server:
        store, trainer = server.service.store, server.service.trainer
        line: Lineage | None = None
        for round in (1, 2, 3):
            for number in range(8):
                paint(store, number, label=round)
            a_round(trainer)
            data = Path([call for call in fake.calls if call[0] == "refine"][-1][2])
            made = descended([line] if line else [], "refine", [data_used("new", data, "", 6)])
            line = Lineage(replace(made.model, id=f"model {round}"), made.ancestors)
            assert line.clicks == 8 * round and line.model.clicks == 8 * round
        moved = server.folder.rename(tmp_path / "elsewhere")
        assert line is not None
        assert descended([line], "refine", [data_used("new", moved, "", 8)]).clicks == 24
        moved.rename(server.folder)


def test_a_round_trains_on_a_copy_and_its_model_is_taken(tmp_path: Path, fake: type[FakeChild]) -> None:
    with with_trainer(write_photos(tmp_path / "photos", 8), every=8, minutes=2.0) as server:
        store, trainer = server.service.store, server.service.trainer
        assert isinstance(trainer, Between) and "needs labels on 6 images" in trainer.state()["line"]
        with pytest.raises(UsageError, match="too few images"):
            trainer.start_now()
        for number in range(8):
            paint(store, number)
            trainer.on_answer()
        until(lambda: len(trainer.rounds) == 1 and trainer.phase == "waiting")
        state = trainer.state()
        assert "+4.0 points (95 % interval -1.0 to +9.0)" in state["gain_line"]
        assert "labels of 6 images; the labels of 2 (photo1.png, photo5.png) are held out" in state["note"]
        assert server.service.images.version == 1 and server.get("/api/state")["version"] == 1
        refine, select = fake.calls
        data = sw.open_dataset(refine[2])
        assert {record.id for record in data.val.records} == {"photo1", "photo5"} and len(data.train) == 6
        assert refine[:2] == ["refine", "base"] and select[1].endswith("rounds/001/run/model")
        asked = server.post("/api/questions", {"by": "Anna", "page": "p"})
        assert [one["box"] for one in asked["questions"]] == [[100, 90, 120, 100]], "the new selection"
        labels = json.loads((Path(refine[2]) / "labels.json").read_text())
        assert labels["clicks"] == 8 and set(labels["annotators"]) == {"Anna"}
    rows = read_rounds(server.folder)
    assert rows[0]["taken"] and rows[0]["held"] == ["photo1.png", "photo5.png"]


def test_a_candidate_that_is_worse_is_not_taken(tmp_path: Path, fake: type[FakeChild]) -> None:
    fake.gain = -0.02
    with with_trainer(write_photos(tmp_path / "photos", 8), every=8) as server:
        trainer = server.service.trainer
        assert isinstance(trainer, Between)
        for number in range(8):
            paint(server.service.store, number)
        trainer.start_now()
        until(lambda: len(trainer.rounds) == 1 and trainer.phase == "waiting")
        assert server.service.images.version == 0 and trainer.model == Path("base")
        assert "not better, so the model before stays" in trainer.state()["gain_line"]


def test_a_round_that_fails_is_shown_and_labels_go_on(tmp_path: Path, fake: type[FakeChild]) -> None:
    fake.code, fake.gate = -9, threading.Event()
    with with_trainer(write_photos(tmp_path / "photos", 8), every=8) as server:
        trainer = server.service.trainer
        assert isinstance(trainer, Between)
        for number in range(8):
            paint(server.service.store, number)
            trainer.on_answer()
        until(lambda: trainer.phase == "training" and bool(fake.calls))
        assert "Round 1: training for" in trainer.state()["line"]
        with pytest.raises(UsageError, match="runs already"):
            trainer.start_now()
        paint(server.service.store, 0, label=2)  # while it trains
        fake.gate.set()
        until(lambda: trainer.phase == "failed")
        line = trainer.state()["line"]
        assert "every label is kept" in line and "memory ran out" in line
        assert (server.service.store.labels("photo0.png", SIZE) == 2).sum() == 200
        fake.code, fake.gate = 0, None
        trainer.start_now()
        until(lambda: len(trainer.rounds) == 1)
        assert trainer.rounds[0]["round"] == 2, "a folder that was begun is not used again"


def test_the_page_ends_while_a_round_runs(tmp_path: Path, fake: type[FakeChild]) -> None:
    fake.code, fake.gate = -15, threading.Event()
    with with_trainer(write_photos(tmp_path / "photos", 8), every=8) as server:
        for number in range(8):
            paint(server.service.store, number)
        assert isinstance(server.service.trainer, Between)
        server.service.trainer.start_now()
        until(lambda: bool(fake.calls))
    assert len(sw.open_dataset(server.folder)) == 8


def test_the_model_of_the_last_round_is_taken_up_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(between_module, "is_bundle", lambda path: True)
    (tmp_path / "rounds").mkdir()
    rows = [
        {"round": 1, "parent": "base", "model": "one", "taken": True},
        {"round": 2, "parent": "one", "model": "two", "taken": False},
        {"round": 3, "parent": "one", "model": "three", "taken": True},
    ]
    (tmp_path / "rounds" / "rounds.json").write_text(json.dumps({"rounds": rows}))
    assert resumed_model(tmp_path, Path("base")) == Path("three")
    assert resumed_model(tmp_path, Path("other")) == Path("other"), "another model was given"
    rows.append({"round": 4, "parent": "other", "model": "four", "taken": True})
    (tmp_path / "rounds" / "rounds.json").write_text(json.dumps({"rounds": rows}))
    assert resumed_model(tmp_path, Path("other")) == Path("four"), "it has a round of its own by now"
    assert resumed_model(tmp_path, Path("base")) == Path("three"), "and the first model keeps those it had"
    (tmp_path / "rounds" / "rounds.json").write_text("{")
    assert resumed_model(tmp_path, Path("base")) == Path("base")


def test_a_slot_that_holds_another_version_is_another_model(tmp_path: Path) -> None:
    """A round goes on from the weights that it began with: the path of a slot stays while its version changes."""
    one, two = tiny_model(tmp_path / "one", 1), tiny_model(tmp_path / "two", 2)
    taken = tiny_model(tmp_path / "labels" / "rounds" / "001" / "run" / "model", 3)
    slot = tmp_path / "slot"
    sw.promote(one, slot, device="cpu")
    row = {"round": 1, "parent": str(slot), "parent_id": bundle_id(one), "model": str(taken), "taken": True}
    (tmp_path / "labels" / "rounds" / "rounds.json").write_text(json.dumps({"rounds": [row]}))
    assert resumed_model(tmp_path / "labels", slot) == taken
    assert resumed_model(tmp_path / "labels", one) == taken, "the same weights at another path"
    record = {"action": "promote", "why": "", "before": None}
    place = Slot(slot)
    place.switch(place.add(two, bundle_id(two), record), record)
    assert resumed_model(tmp_path / "labels", slot) == slot
    found = {"candidate": "c", "parent_id": "abc", "new": None}
    assert between_module.entry_of(found, number=1, parent="p", train=[], held=[])["parent_id"] == "abc"


def test_images_whose_labels_are_erased_or_undone_are_no_labeled_ones(tmp_path: Path, fake: type[FakeChild]) -> None:
    with with_trainer(write_photos(tmp_path / "photos", 8), every=None) as server:
        store, trainer = server.service.store, server.service.trainer
        assert isinstance(trainer, Between)
        for number in range(7):
            paint(store, number)
        whole = np.ones(SIZE, bool)
        store.append(stroke_of_mask(whole, id="e", image="photo0.png", by="Anna", kind="eraser", label=255, clicks=1))
        painted = store.strokes("photo1.png")[0].id
        store.append(Stroke(id="u", image="photo1.png", by="Anna", kind="undo", of=painted))
        store.compact()
        assert "needs labels on 6 images, 5 have some" in trainer.state()["line"]
        with pytest.raises(UsageError, match="too few images have labels"):
            trainer.start_now()
        paint(store, 7)
        trainer.start_now()
        until(lambda: bool(fake.calls))
        data = sw.open_dataset(fake.calls[0][2])
        assert len(data.train) + len(data.val) == 6


def test_a_label_folder_that_was_moved_takes_its_rounds_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(between_module, "is_bundle", lambda path: True)
    before, base = Path("/before/labels/rounds"), Path("/models/base")
    rows = [
        {"round": 1, "parent": str(base), "model": str(before / "001/run/model"), "taken": True},
        {"round": 2, "parent": str(before / "001/run/model"), "model": str(before / "002/run/model"), "taken": True},
    ]
    for number in ("001", "002"):
        (tmp_path / "rounds" / number / "run" / "model").mkdir(parents=True)
    (tmp_path / "rounds" / "rounds.json").write_text(json.dumps({"rounds": rows}))
    assert resumed_model(tmp_path, base) == tmp_path / "rounds" / "002" / "run" / "model"
    assert resumed_model(tmp_path, tmp_path / "elsewhere") == tmp_path / "elsewhere"


def test_a_gain_without_an_interval_is_shown_as_such() -> None:
    entry = {"round": 1, "miou": [0.5, 0.6], "miou_difference": 0.1, "ci95": [None, None], "taken": True}
    assert "no interval" in gain_line(entry)
    assert "no gain can be given" in gain_line({**entry, "miou_difference": None})


class Sleeper(ChildCommand):
    program = (sys.executable, "-c", "import sys, time; print('began', flush=True); time.sleep(600)")


def test_a_child_is_of_low_priority_and_its_end_is_explained(tmp_path: Path) -> None:
    child = Sleeper(["refine"], tmp_path / "log")
    until(lambda: "began" in (tmp_path / "log").read_text())
    if sys.platform == "linux":
        assert os.getpriority(os.PRIO_PROCESS, child.process.pid) == 19
        assert Path(f"/proc/{child.process.pid}/oom_score_adj").read_text().strip() == "1000"
    os.kill(child.process.pid, signal.SIGKILL)
    assert child.wait() == -9 and "SIGKILL: most likely memory ran out" in child.reason() and "began" in child.reason()
    other = Sleeper(["refine"], tmp_path / "log")
    other.stop()
    assert other.poll() is not None
    other.stop()  # once more has no effect


def test_what_a_killed_server_left_running_is_ended(tmp_path: Path) -> None:
    child = Sleeper([str(tmp_path / "rounds" / "001")], tmp_path / "log")
    (tmp_path / "pid").write_text(str(child.process.pid))
    end_leftover(tmp_path / "pid", "some other folder")
    assert child.poll() is None
    end_leftover(tmp_path / "pid", str(tmp_path / "rounds" / "001"))
    assert child.process.wait(PATIENCE) == -9
    for text in ("", "x", "999999999"):
        (tmp_path / "pid").write_text(text)
        end_leftover(tmp_path / "pid", "x")


@pytest.mark.parametrize("wrong", [{"every": 0}, {"minutes": 0.0}, {"minutes": 1e9}])
def test_options_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        BetweenOptions(**wrong)
