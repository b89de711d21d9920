"""Trackers get the log's records; one that fails is dropped and the run goes on."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from segwright.core.errors import MissingExtraError, UsageError
from segwright.training.callbacks import trackers
from segwright.training.callbacks.log import RunLog, read_log
from segwright.training.callbacks.trackers import Trackers, check_trackers, figures

STEP = {"step": 3, "epoch": 0, "loss": 0.5, "lr": 1e-3, "images_per_second": 9.0, "time": 2.0}
VALIDATION = {"step": 3, "epoch": 1, "val_miou": 0.4, "val_iou": {"car": 0.3, "pole": float("nan")}}


class Fake:
    """A tracker that keeps what it gets, and fails from ``fail_at`` on."""

    def __init__(self, fail_at: int = 99) -> None:
        self.records: list[tuple[dict[str, float], int]] = []
        self.fail_at = fail_at
        self.closed = False
        self.run_id: str | None = None

    def write(self, figures: Mapping[str, float], step: int) -> None:
        if len(self.records) >= self.fail_at:
            raise ConnectionError("the server is gone")
        self.records.append((dict(figures), step))

    def close(self) -> None:
        self.closed = True


def test_figures_are_flat_finite_and_named() -> None:
    assert figures(STEP) == {"loss": 0.5, "lr": 1e-3, "images_per_second": 9.0}
    assert figures(VALIDATION) == {"val_miou": 0.4, "val_iou/car": 0.3}


def test_the_log_feeds_them_and_a_failing_one_is_dropped_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = Fake(), Fake(fail_at=1)
    monkeypatch.setitem(trackers.TRACKERS, "mlflow", ("json", lambda *_: good))
    monkeypatch.setitem(trackers.TRACKERS, "wandb", ("json", lambda *_: bad))
    said: list[str] = []
    log = RunLog(tmp_path, trackers=Trackers(("mlflow", "wandb"), tmp_path, {"lr": 1}, said.append))
    for _ in range(3):
        log.write(STEP)
    log.validation(VALIDATION)
    log.close()
    assert len(good.records) == 4 and good.closed and good.records[-1][0]["val_iou/car"] == 0.3
    assert len(said) == 1 and "wandb is left out from now on (the server is gone)" in said[0]
    assert len(read_log(tmp_path)) == 4


def test_one_that_cannot_begin_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(trackers.TRACKERS, "wandb", ("json", lambda *_: 1 / 0))
    said: list[str] = []
    assert Trackers(("wandb",), tmp_path, {}, said.append).active == {} and "training goes on" in said[0]


def test_a_resumed_run_continues_the_trackers_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the id that was noted at the last sitting; a run that is not resumed begins new ones."""
    begun: list[tuple[str, str | None]] = []
    calls: list[Any] = []

    def start_run(*, run_id: str | None, run_name: str) -> SimpleNamespace:
        begun.append(("mlflow", run_id))
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id or f"m{len(begun)}"))

    def init(*, id: str | None = None, resume: str | None = None, **_: Any) -> SimpleNamespace:
        assert (id is None) is (resume is None)
        begun.append(("wandb", id))
        return SimpleNamespace(id=id or f"w{len(begun)}")

    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(start_run=start_run, log_params=calls.append))
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    names = ("mlflow", "wandb")
    Trackers(names, tmp_path, {"lr": 1}, pytest.fail)
    Trackers(names, tmp_path, {"lr": 2}, pytest.fail, resume=True)
    Trackers(names, tmp_path, {"lr": 3}, pytest.fail)
    assert [run_id for _, run_id in begun] == [None, None, "m1", "w2", None, None]
    assert calls == [{"lr": "1"}, {"lr": "3"}]
    (tmp_path / trackers.RUN_IDS_FILE).write_text("[1")
    Trackers(names, tmp_path, {}, pytest.fail, resume=True)
    assert [run_id for _, run_id in begun[-2:]] == [None, None]


def test_a_missing_package_and_an_unknown_name_are_said_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(trackers.TRACKERS, "mlflow", ("no_such_package", Fake))
    with pytest.raises(MissingExtraError, match="needs the package no_such_package"):
        check_trackers(("mlflow",))
    with pytest.raises(UsageError, match="tensorboard, mlflow, wandb"):
        check_trackers(("excel",))


def test_tensorboard_writes_its_files(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    found = Trackers(("tensorboard",), tmp_path, {}, pytest.fail)
    found.write(STEP)
    found.close()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Scalars("loss")[0].value == 0.5 and events.Scalars("loss")[0].step == 3
