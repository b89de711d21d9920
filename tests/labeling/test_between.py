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
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from label_server import SPACE, Bands, LabelServer, write_photos

import segwright as sw
from segwright.core.errors import UsageError
from segwright.inference.predictor import Predictor
from segwright.labeling import between as between_module
from segwright.labeling.between import Between, BetweenOptions, gain_line, held_out, read_rounds, resumed_model
from segwright.labeling.child import ChildCommand, end_leftover
from segwright.labeling.questions import Question, Selection
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
    (tmp_path / "rounds" / "rounds.json").write_text("{")
    assert resumed_model(tmp_path, Path("base")) == Path("base")


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
