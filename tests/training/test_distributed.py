"""Two gloo processes on one CPU: the same loss curve as one process with the same effective batch; one writes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from test_fsdp import run_job
from test_train_step import LOSSES

from segwright.demo.dataset import write_street_scenes

SETTINGS = (
    "--model", "leannet", "--weights", "none", "--size", "64x96", "--batch", "4", "--epochs", "2", "--device", "cpu",
    "--loss", "ce(smoothing=0.05)", "--optimizer", "sgd", "--lr", "0.05",
    "--set", "model.arguments={widths: [4, 8, 8, 8, 8], decoder_channels: [4, 8, 8, 8], dropout: 0.0}",
    "--set", "training.class_weights=inverse",  # very unequal amounts on the two processes
    "--set", "training.loss_at_native_stride=true",
    "--set", "training.freeze_bn=true",  # a batch norm's statistics are its own process's on a CPU
)  # fmt: skip
TOLERANCE = 1e-3  # what the order of sums makes of it over six steps


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_street_scenes(tmp_path_factory.mktemp("street"), train=12, val=3, test=0, size=(64, 96))


def launch(processes: int, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable]
    if processes > 1 and "--nproc" not in arguments:
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return subprocess.Popen(
        [*command, "-m", "segwright", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def records(run: Path, key: str) -> list[float]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line[key] for line in lines if key in line]


def test_two_processes_learn_as_one(scenes: Path, tmp_path: Path) -> None:
    for processes in (1, 2):
        process = launch(processes, "train", scenes, *SETTINGS, "--out", tmp_path / f"run{processes}")
        output, _ = process.communicate(timeout=400)
        assert process.returncode == 0, output
        assert output.count("plan:") == 1, "one process speaks"
        assert re.search(r"^ 17%  epoch 1  step 1 .* [0-9]+ s left$", output, re.MULTILINE), output
    one, two = (np.array(records(tmp_path / f"run{n}", "loss")) for n in (1, 2))
    assert len(one) == len(two) == 6
    np.testing.assert_allclose(one, two, rtol=TOLERANCE)
    np.testing.assert_allclose(
        records(tmp_path / "run1", "val_pixel_accuracy"), records(tmp_path / "run2", "val_pixel_accuracy"), atol=0.03
    )


def test_processes_with_micro_batches_take_the_update_of_the_whole_batch_and_reduce_once(tmp_path: Path) -> None:
    """The gradients of all but the last micro-batch wait: each reduction costs as much as the whole update's."""
    expected = [f"{name}: the update of the whole batch, one reduction" for name in LOSSES]
    assert run_job("micro_batch_job.py", 2, tmp_path) == expected


def test_one_of_two_processes_checks_the_data(tmp_path: Path) -> None:
    broken = write_street_scenes(tmp_path / "street", train=6, val=3, test=0, size=(64, 96))
    mask = sorted((broken / "masks" / "train").iterdir())[0]
    mask.write_bytes(mask.read_bytes()[:-20])
    process = launch(2, "train", broken, *SETTINGS, "--out", tmp_path / "run", "--nproc", "2")
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 2, "as with one process, and no traceback of the launcher's"
    assert output.count("would spoil a training") == 1 and "Traceback" not in output, output
    assert mask.name in output and not (tmp_path / "run" / "log.jsonl").exists()

    process = launch(2, "train", broken, *SETTINGS, "--epochs", "1", "--skip-bad", "--out", tmp_path / "run")
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    assert output.count("left out:") == 1
    assert json.loads((tmp_path / "run" / "plan.json").read_text())["config"]["data"]["skip_bad"]
    assert len(records(tmp_path / "run", "loss")) == 1, "five images in batches of four: both processes leave one out"


@pytest.mark.slow
def test_a_dead_rank_ends_the_job_within_a_minute(scenes: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = [value if value != "2" else "200" for value in SETTINGS]
    process = launch(2, "train", scenes, *settings, "--out", run)
    end = time.monotonic() + 240
    while not (run / "log.jsonl").exists() or len(records(run, "loss")) < 2:
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.2)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
    victim = int(children.stdout.split()[-1])
    os.kill(victim, signal.SIGKILL)
    killed = time.monotonic()
    output, _ = process.communicate(timeout=120)
    seconds = time.monotonic() - killed
    assert process.returncode != 0 and seconds < 60
    line = next((line for line in output.splitlines() if line.startswith("error: ")), output)
    print(f"{seconds:.1f} seconds: {line}")
    assert re.search(rf"rank 1 \(host {re.escape(socket.gethostname())}, pid {victim}\) died", line)
    assert "--resume goes on" in output


@pytest.mark.slow
def test_a_silent_rank_ends_the_job_within_a_minute(scenes: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = [value if value != "2" else "2000" for value in SETTINGS]
    process = launch(2, "train", scenes, *settings, "--out", run)
    end = time.monotonic() + 240
    while not (run / "log.jsonl").exists() or len(records(run, "loss")) < 2:
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.2)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
    first, second = map(int, children.stdout.split())
    os.kill(second, signal.SIGSTOP)  # as a machine that is cut off: alive as far as anybody knows, and silent
    stopped = time.monotonic()
    try:
        while psutil.pid_exists(first) and psutil.Process(first).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() - stopped < 60
            time.sleep(0.2)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(second, signal.SIGKILL)
    output, _ = process.communicate(timeout=120)
    assert f"pid {second}) has given no sign of life for 40 seconds: the job ends" in output
