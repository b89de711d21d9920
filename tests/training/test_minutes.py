"""A run by the clock keeps its minutes where the data check is long, and states what it did not do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from segwright.data.dataset import open_dataset
from segwright.demo.dataset import write_street_scenes
from segwright.training.clock import RunClock
from segwright.training.config import TrainConfig
from segwright.training.planning.budget import CHECK_FRACTION, TimeBudget, check_seconds
from segwright.training.resume import StoredRun
from segwright.training.run import _seconds_to_check, run_training

MINUTES = 0.3
START = 25.0  # seconds that a process takes to start, to compile and to end on a machine as busy as can be
SLOW = """
import sys, time
from segwright.data.check import dataset_scan
reports = dataset_scan._reports
def slowed(*given):
    for one in reports(*given):
        time.sleep(0.6)
        yield one
dataset_scan._reports = slowed
from segwright.cli import main
sys.argv[0] = "segwright"
main()
"""
SETTINGS = (
    "--model", "leannet", "--weights", "none", "--size", "64x96", "--batch", "4", "--device", "cpu",
    "--set", "model.arguments={widths: [4, 8, 8, 8, 8], decoder_channels: [4, 8, 8, 8], dropout: 0.0}",
)  # fmt: skip


def test_a_long_check_leaves_the_minutes_as_they_are(tmp_path: Path) -> None:
    """Examining all 160 images would take 96 seconds; the command has 18."""
    scenes = write_street_scenes(tmp_path / "street", train=130, val=30, test=0, size=(64, 96))
    run, began = tmp_path / "run", time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", SLOW, "train", scenes, *SETTINGS, "--minutes", str(MINUTES), "--out", run],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=200,
        check=False,
    )
    seconds = time.monotonic() - began
    assert done.returncode == 0, done.stdout + done.stderr
    assert seconds < 60 * MINUTES * 1.05 + START, f"{seconds:.1f} s"
    note = json.loads((run / "plan.json").read_text())["short_of_time"][0]
    examined, of = note.split(" images examined")[0].split(" of ")
    assert 8 <= int(examined) < 16 and of == "160", "a fifth of the minutes, and one on its way"
    assert note in done.stdout + done.stderr and f"{note[1:]}." in (run / "report.html").read_text()
    assert (run / "model" / "model.json").exists()


def test_the_check_gets_a_share_of_what_is_left() -> None:
    now = time.monotonic()
    assert check_seconds(None, now) is None
    assert check_seconds(1.0, now - 10) == pytest.approx(CHECK_FRACTION * 50, abs=0.1)
    assert check_seconds(1.0, now - 10, earlier=40.0) == pytest.approx(CHECK_FRACTION * 10, abs=0.1)
    assert check_seconds(1.0, now - 90) == 0.0


def test_a_resumed_run_has_the_rest_of_its_own_minutes() -> None:
    now, given = time.monotonic(), TrainConfig()
    plan = {"config": {"training": {"minutes": 2.0}}}
    stored = StoredRun(Path("run"), {"plan": plan}, seconds=70.0)
    assert _seconds_to_check(given, stored, now) == pytest.approx(CHECK_FRACTION * 50, abs=0.1)
    longer, by_epochs = ({"training.minutes": 3.0}, {"training.epochs": 3})
    assert _seconds_to_check(given.with_values(longer), stored, now) == pytest.approx(CHECK_FRACTION * 110, abs=0.1)
    assert _seconds_to_check(given.with_values(by_epochs), stored, now) is None
    assert _seconds_to_check(given, StoredRun(Path("run"), {}), now) is None


def test_minutes_that_are_over_before_the_training_are_stated() -> None:
    now = time.monotonic()
    assert TimeBudget(60.0, now - 20, reserve=10.0).shortage() == ""
    assert "nearly over" in TimeBudget(60.0, now - 55, reserve=10.0).shortage()
    over = TimeBudget(60.0, now - 75, reserve=10.0).shortage()
    assert over.startswith("the minutes are over before the training begins") and "75 of 60 s" in over


def test_time_that_is_gone_is_not_kept_for_scoring() -> None:
    now = time.monotonic()
    for passed, reserve in ((20, 10.0), (55, 4.0), (75, 0.0)):
        clock = RunClock(TimeBudget(60.0, now - passed, reserve=10.0), epochs=None, samples=8)
        clock.deduct_preparation()
        assert clock.reserve == pytest.approx(reserve, abs=0.5)
        assert clock.training_seconds == pytest.approx(max(50 - passed, 1), abs=0.5)


def test_a_run_whose_minutes_are_over_says_so_in_plan_and_report(tmp_path: Path) -> None:
    scenes = open_dataset(write_street_scenes(tmp_path / "street", train=6, val=2, test=0, size=(64, 96)))
    small = {"widths": [4, 8, 8, 8, 8], "decoder_channels": [4, 8, 8, 8]}
    values = {"model.name": "leannet", "model.weights": None, "model.arguments": small, "training.minutes": 0.5}
    values |= {"training.device": "cpu", "training.optimizer": "sgd", "training.lr": 0.01, "out": str(tmp_path / "run")}
    phases = [{"until": 1.0, "size": (64, 96), "scale": (0.7, 1.3), "batch": 2}]
    config = TrainConfig().with_values({**values, "training.phases": phases})
    run = run_training(scenes, config, started=time.monotonic() - 100)
    *_, over = run.short_of_time
    assert over.startswith("the minutes are over before the training begins")
    assert json.loads((tmp_path / "run" / "plan.json").read_text())["short_of_time"] == list(run.short_of_time)
    assert over[1:] in (tmp_path / "run" / "report.html").read_text()
    assert run.progress is not None and run.progress.step > 0
    assert run.progress.seconds < 4, "the time that is kept for scoring is gone, too, and is not trained in"
