"""tune, lr-range, --folds and --nproc on the command line, with real trainings of a tiny network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from segwright.cli.launch import without_option
from segwright.cli.training import run_command
from segwright.demo.dataset import write_street_scenes

TINY = ("--model", "leannet", "--device", "cpu", "--seed", "3")
NETWORK = ("--set", "model.arguments={widths: [4, 8, 8, 8, 8], decoder_channels: [4, 8, 8, 8]}",
           "--set", "training.size=64x96", "--set", "training.batch=4", "--set", "model.weights=none")  # fmt: skip


def segwright(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "segwright", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_street_scenes(tmp_path_factory.mktemp("street"), train=12, val=3, test=0, size=(64, 96))


@pytest.mark.parametrize("name", ["lr-range", "tune", "train"])
def test_a_refused_dataset_names_an_option_that_the_command_has(scenes: Path, tmp_path: Path, name: str) -> None:
    bad = Path(shutil.copytree(scenes, tmp_path / "bad"))
    next(bad.glob("images/train/*")).write_bytes(b"")
    command = [sys.executable, "-m", "segwright", "--errors", "text", name, str(bad), "--out", str(tmp_path / "out")]
    command += [] if name == "lr-range" else ["--minutes", "0.1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "--skip-bad" in done.stderr, done.stderr
    if name == "lr-range":
        done = subprocess.run([*command, "--skip-bad", "--steps", "10"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_an_option_is_taken_out_in_both_spellings() -> None:
    arguments = ["train", "data", "--nproc", "2", "--out", "x"]
    assert without_option(arguments, "--nproc") == ["train", "data", "--out", "x"]
    assert without_option(["train", "--nproc=4", "data"], "--nproc") == ["train", "data"]


def test_what_ends_a_command_of_the_demo_ends_the_demo() -> None:
    app = typer.Typer()

    @app.command()
    def train() -> None:
        raise typer.Exit(130)

    @app.command()
    def check() -> None:
        return

    root = typer.main.get_command(app)
    run_command(root, ["check"])
    with pytest.raises(typer.Exit) as caught:
        run_command(root, ["train"])
    assert caught.value.exit_code == 130


def test_a_run_of_one_process_goes_on_with_two(scenes: Path, tmp_path: Path) -> None:
    run, result = tmp_path / "run", tmp_path / "result.json"
    segwright("train", scenes, *TINY, *NETWORK, "--epochs", 1, "--out", run)
    done = segwright(
        "train", scenes, *TINY, *NETWORK, "--epochs", 2, "--out", run, "--resume", "--nproc", 2, "--json", result
    )
    assert done.stderr.count("changed on resuming") == 1, "one process speaks"
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]
    found = json.loads(result.read_text())
    assert found["finished"] and found["samples"] == 24 and found["val_miou"] is not None


@pytest.mark.slow
def test_folds_are_trained_and_summed_up(scenes: Path, tmp_path: Path) -> None:
    out, result = tmp_path / "cv", tmp_path / "folds.json"
    done = segwright("train", scenes, *TINY, *NETWORK, "--epochs", 1, "--folds", 2, "--out", out, "--json", result)
    found = json.loads(result.read_text())
    assert found["finished"] and sum(fold["images"] for fold in found["folds"]) == 15
    assert "2 folds: val mIoU" in done.stdout and (out / "fold-1" / "model" / "model.json").exists()


@pytest.mark.slow
def test_a_search_runs_on_real_trainings_and_its_config_trains(scenes: Path, tmp_path: Path) -> None:
    out, result = tmp_path / "search", tmp_path / "tune.json"
    options = ("--minutes", 1.5, "--trial-minutes", 0.25, "--out", out, "--json", result)
    segwright("tune", scenes, *TINY, *NETWORK, *options)
    found = json.loads(result.read_text())
    assert found["trials"][0]["params"]["lr"] == 1.0 and found["sentence"]
    assert (out / "study.html").exists()
    segwright("train", scenes, "--config", out / "best.yaml", "--epochs", 1, "--out", tmp_path / "run")


@pytest.mark.slow
def test_the_range_test_suggests_a_rate(scenes: Path, tmp_path: Path) -> None:
    page, result = tmp_path / "range.html", tmp_path / "range.json"
    options = ("--steps", 20, "--out", page, "--json", result, "--set", "training.optimizer=sgd")
    done = segwright("lr-range", scenes, "--model", "leannet", "--device", "cpu", *NETWORK, *options)
    assert "suggested --lr" in done.stdout and "<svg" in page.read_text()
    assert json.loads(result.read_text())["suggestion"] > 0
