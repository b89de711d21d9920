"""The whole road through the command line: check, train, evaluate, predict, export; kills on the way."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from segwright.cli import main
from segwright.demo.dataset import write_street_scenes
from segwright.imageio import read_mask, write_image, write_mask

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
TINY = ("--model", "leannet", "--weights", "none", "--size", "64x96", "--batch", "4", "--seed", "3", "--device", "cpu")
FULL = ("--set", "training.precision=fp32")  # else a timed step decides, and two runs may differ
NARROW = ("--set", "model.arguments={widths: [4, 8, 8, 8, 8], decoder_channels: [4, 8, 8, 8]}")


@dataclass
class Done:
    """What a command printed."""

    stdout: str
    stderr: str


def segwright(*arguments: object, expect: int = 0) -> Done:
    """Run a command through the command's own entry point, in this process: importing torch anew takes seconds."""
    out, err = io.StringIO(), io.StringIO()
    argv, sys.argv = sys.argv, ["segwright", *map(str, arguments)]
    code: object = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as leaving:
        code = leaving.code or 0
    finally:
        sys.argv = argv
    assert code == expect, f"exit code {code}\n{out.getvalue()}\n{err.getvalue()}"
    return Done(out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_street_scenes(tmp_path_factory.mktemp("street"), train=12, val=4, test=3, size=(64, 96))


@pytest.fixture(scope="module")
def run(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "first"
    segwright("train", scenes, *TINY, *FULL, *NARROW, "--epochs", 2, "--out", out)
    return out


def test_help_needs_no_torch() -> None:
    code = "import sys; from segwright.cli import main; sys.argv = ['segwright', '--help']\n"
    code += "try: main()\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for command in ("demo", "check", "train", "evaluate", "predict", "models", "datasets", "export", "convert"):
        assert command in done.stdout


def test_what_needs_no_encoder_waits_for_none() -> None:
    """timm brings torchvision and torch's compiler along: longer to import than torch."""
    code = "import sys, segwright.models.catalog, segwright.inference.predictor\n"
    code += "assert not {'timm', 'torchvision'} & set(sys.modules), 'imported without need'"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_run_folder_holds_what_it_should(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert names >= {"config.yaml", "plan.json", "log.jsonl", "metrics.csv", "checkpoints", "model", "report.html"}
    plan = json.loads((run / "plan.json").read_text())
    assert all(decision["reason"] for decision in plan["decisions"])
    first = json.loads((run / "log.jsonl").read_text().splitlines()[0])
    assert set(first) == {"step", "epoch", "loss", "main_loss", "lr", "images_per_second", "time"}
    assert (run.parent / "latest").resolve() == run.resolve()
    assert "segwright train" in (run / "report.html").read_text()


def test_check_says_what_it_found_and_exits_with_1_on_errors(scenes: Path, tmp_path: Path) -> None:
    segwright("check", scenes, "--json", tmp_path / "check.json")
    found = json.loads((tmp_path / "check.json").read_text())
    assert {"format", "images", "splits", "classes", "problems"} <= set(found)
    assert found["images"] == 19 and found["splits"] == {"train": 12, "val": 4, "test": 3}
    bad = tmp_path / "bad"
    shutil.copytree(scenes, bad)
    (bad / "images" / "train" / "street_0000.png").write_bytes(b"")
    done = segwright("check", bad, expect=1)
    assert "street_0000.png" in done.stdout


def test_train_refuses_what_the_check_finds_or_leaves_it_out(scenes: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(scenes, bad)
    victim = bad / "images" / "train" / "street_0001.png"
    victim.write_bytes(victim.read_bytes()[:200])
    done = segwright("train", bad, *TINY, *NARROW, "--epochs", 1, "--out", tmp_path / "run", expect=2)
    assert "street_0001.png" in done.stderr and "--skip-bad" in done.stderr
    assert not (tmp_path / "run" / "log.jsonl").exists(), "refused before the first step"
    done = segwright("train", bad, *TINY, *NARROW, "--epochs", 1, "--skip-bad", "--out", tmp_path / "run")
    assert "left out" in done.stderr and "street_0001.png" in done.stderr


def test_evaluate_writes_every_key(run: Path, scenes: Path, tmp_path: Path) -> None:
    page, options = tmp_path / "report.html", ("--corruption", "fog:5", "--corruption", "contrast")
    done = segwright(
        "evaluate", run, scenes, "--split", "test", "--json", tmp_path / "e.json", *options, "--report", page
    )
    found = json.loads((tmp_path / "e.json").read_text())
    corrupted = found["corruptions"]["corruptions"]
    assert [(one["corruption"], one["strength"]) for one in corrupted] == [("fog", 5), ("contrast", 3)]
    assert found["corruptions"]["clean"]["miou"] == found["miou"]
    assert "fog:5" in done.stdout and "contrast:3" in page.read_text()
    keys = (
        "images miou miou_ci95 pixel_accuracy mean_accuracy fwiou mean_dice boundary_iou convention per_class per_image"
    )
    assert set(keys.split()) <= set(found)
    assert set(found["per_class"][0]) >= {"name", "iou", "dice", "precision", "recall", "pixels"}
    assert [set(row) for row in found["per_image"]] == [{"id", "miou"}] * 3
    assert "road" in done.stdout


def test_masks_of_any_tool_are_scored(scenes: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    for path in (scenes / "masks" / "test").glob("*.png"):
        labels = np.asarray(read_mask(path), np.uint8)
        write_mask(masks / path.name, np.where(labels == 255, 0, labels).astype(np.uint8))
    segwright("evaluate", masks, scenes, "--split", "test", "--json", tmp_path / "e.json")
    assert json.loads((tmp_path / "e.json").read_text())["miou"] == 1.0


def test_predict_writes_masks_for_a_folder_and_names_what_fails(run: Path, scenes: Path, tmp_path: Path) -> None:
    images = tmp_path / ("a long name that no line of a terminal holds " * 4).strip()  # a path is printed in one piece
    shutil.copytree(scenes / "images" / "test", images)
    write_image(images / "odd.png", np.zeros((33, 7, 3), np.uint8))
    segwright("predict", run, images, "--out", tmp_path / "out", "--json", tmp_path / "p.json")
    found = json.loads((tmp_path / "p.json").read_text())
    assert found["images"] == 4 and found["failed"] == []
    assert read_mask(tmp_path / "out" / "odd.png").shape == (33, 7)
    (images / "broken.png").write_bytes(b"no image")
    done = segwright("predict", run, images, "--out", tmp_path / "again", expect=1)
    assert str(images / "broken.png") in done.stdout and (tmp_path / "again" / "odd.png").exists()


def test_wrong_usage_exits_with_2_and_says_what_to_do(scenes: Path, run: Path, tmp_path: Path) -> None:
    cases: list[tuple[tuple[object, ...], str]] = [
        (("train", tmp_path / "nowhere"), "nowhere"),
        (("train", scenes, "--epochs", 1, "--minutes", 2), "not both"),
        (("train", scenes, "--set", "training.speed=3"), "no setting"),
        (("train", scenes, "--model", "resnet"), "unknown network"),
        (("train", scenes, *TINY, *NARROW, "--epochs", 1, "--out", run), "holds a run already"),
        (("train", scenes, "--resume"), "--out"),
        (("evaluate", tmp_path, scenes), "has no masks"),
        (("evaluate", tmp_path, scenes, "--corruption", "fog"), "need a model"),
        (("evaluate", tmp_path, scenes, "--corruption", "mist:3"), "unknown corruption"),
        (("predict", run, "nowhere://example.org/x.jpg"), "no such kind of URL"),
    ]
    for arguments, message in cases:
        done = segwright(*arguments, expect=2)
        assert message in done.stderr, done.stderr
        assert "Traceback" not in done.stderr


def start(arguments: tuple[object, ...]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "segwright", *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < end
        time.sleep(0.02)


def weights(folder: Path) -> dict[str, Any]:
    return {name: tensor.numpy() for name, tensor in load_file(folder / "last" / "model.safetensors").items()}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_and_resumed_equals_never_killed(
    scenes: Path, run: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "run"
    arguments = ("train", scenes, *TINY, *FULL, *NARROW, "--epochs", 2, "--out", out)
    arguments = (*arguments, "--set", "training.save_every_steps=1")
    process = start(arguments)
    wait_for(lambda: (out / "checkpoints" / "step-00000002").is_dir(), process)
    os.kill(process.pid, number)
    process.communicate()
    assert process.returncode == (143 if number == signal.SIGTERM else -number)
    segwright(*arguments, "--resume", "--set", "training.workers=2")
    expected, found = weights(run), weights(out)
    assert all(np.array_equal(expected[name], found[name]) for name in expected)
    logs = [
        [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines() if '"loss"' in line]
        for folder in (run, out)
    ]
    assert logs[0] == logs[1]


def test_equal_seeds_give_equal_weights(scenes: Path, tmp_path: Path) -> None:
    """With --deterministic nothing that is timed decides either: the precision is not chosen by a timed step."""
    folders = [tmp_path / "a", tmp_path / "b", tmp_path / "other"]
    for folder, seed in zip(folders, (3, 3, 4), strict=True):
        done = segwright(
            "train", scenes, *TINY, *NARROW, "--seed", seed, "--epochs", 1, "--deterministic", "--out", folder
        )
        assert "fp32  (--deterministic: no timing may decide)" in done.stderr
    one, same, other = map(weights, folders)
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert not all(np.array_equal(one[name], other[name]) for name in one)
    by_the_clock = segwright(
        "train", scenes, *TINY, *NARROW, "--minutes", 0.05, "--deterministic", "--out", tmp_path / "clock"
    )
    assert "--deterministic goes with --epochs" in by_the_clock.stderr


def test_export_agrees_and_is_taken_like_a_bundle(run: Path, scenes: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    segwright("export", run, "--to", "onnx", "--out", path, "--json", tmp_path / "x.json")
    found = json.loads((tmp_path / "x.json").read_text())
    assert set(found) == {"path", "format", "precision", "parity", "latency_ms"}
    assert set(found["parity"]) >= {"max_abs_logit", "argmax_agreement", "miou_delta", "sizes"}
    assert found["parity"]["argmax_agreement"] > 0.999 and len(found["parity"]["sizes"]) >= 3
    for model in (run, path):
        segwright("evaluate", model, scenes, "--split", "test", "--json", tmp_path / f"{model.name}.json")
    ours, theirs = (json.loads((tmp_path / f"{model.name}.json").read_text())["miou"] for model in (run, path))
    assert ours == pytest.approx(theirs, abs=1e-3)
    segwright("predict", path, scenes / "images" / "test", "--out", tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.png"))) == 3


@pytest.mark.parametrize(
    ("name", "format", "classes", "images"), [("camvid", "camvid", 11, 468), ("membrane", "folder", 2, 25)]
)
def test_real_folders_are_recognized_without_a_flag(
    name: str, format: str, classes: int, images: int, tmp_path: Path
) -> None:
    if not (SHARED / name).is_dir():
        pytest.skip("the shared datasets are not beside the project")
    segwright("check", SHARED / name, "--json", tmp_path / "check.json")
    found = json.loads((tmp_path / "check.json").read_text())
    assert (found["format"], len(found["classes"]), found["images"]) == (format, classes, images)
