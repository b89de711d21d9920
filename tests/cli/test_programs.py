"""What docs/programs.md says about driving the command from programs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

import segwright.cli as command
from segwright.cli import app, common
from segwright.core import errors
from segwright.core.types import LabelSpace
from segwright.inference.bundle import Bundle, save_bundle
from segwright.models.catalog import create_model

ROOT = Path(__file__).resolve().parents[2]
DOCS = (ROOT / "docs" / "programs.md").read_text(encoding="utf-8")


@pytest.fixture()
def photos(tmp_path: Path) -> Path:
    """A small sound dataset."""
    random = np.random.default_rng(0)
    for part in ("images", "masks"):
        (tmp_path / "photos" / part).mkdir(parents=True)
    for number in range(6):
        image = random.integers(0, 255, (32, 32, 3), np.uint8)
        mask = np.zeros((32, 32), np.uint8)
        mask[:, number + 8 :] = 1
        cv2.imwrite(str(tmp_path / "photos" / "images" / f"{number}.png"), image)
        cv2.imwrite(str(tmp_path / "photos" / "masks" / f"{number}.png"), mask)
    return tmp_path / "photos"


def segwright(*arguments: object, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "segwright", *map(str, arguments)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_results_on_stdout_errors_on_stderr_json_in_a_file(photos: Path, tmp_path: Path) -> None:
    done = segwright("check", photos, "--json", "found.json", folder=tmp_path)
    assert done.returncode == 0 and "\x1b" not in done.stdout + done.stderr and done.stdout
    assert json.loads((tmp_path / "found.json").read_text())["images"] == 6
    (photos / "masks" / "0.png").write_bytes(b"no image")
    assert segwright("check", photos, folder=tmp_path).returncode == 1
    wrong = segwright("check", "fotos", "--json", "found.json", folder=tmp_path, SEGWRIGHT_ERRORS="json")
    assert wrong.returncode == 2 and wrong.stdout == ""
    error = json.loads(wrong.stderr.splitlines()[-1])["error"]
    assert hasattr(errors, error["type"]) and error["where"] == "fotos"
    assert error["there"] == "photos/, found.json (in the current folder)"
    assert json.loads((tmp_path / "found.json").read_text())["images"] == 6  # that of the run before


@pytest.mark.skipif(os.name == "nt", reason="no FIFO")
def test_json_goes_to_stdout_or_a_pipe_and_replaces_neither(photos: Path, tmp_path: Path) -> None:
    for there in ("-", "/dev/stdout"):
        done = segwright("check", photos, "--json", there, folder=tmp_path)
        assert json.loads(done.stdout)["images"] == 6 and "6" in done.stderr and done.returncode == 0
        wrong = segwright("check", "fotos", "--json", there, folder=tmp_path)
        assert wrong.returncode == 2 and wrong.stdout == ""
    assert {path.name for path in tmp_path.iterdir()} == {"photos"}
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE, text=True)
    try:
        assert segwright("check", photos, "--json", pipe, folder=tmp_path).returncode == 0
        assert json.loads(reader.communicate(timeout=60)[0])["images"] == 6 and pipe.is_fifo()
    finally:
        reader.kill()


def test_a_missing_path_leads_to_what_is_there(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["segwright", "check", str(photos / "imgaes")])
    monkeypatch.delenv(common.ERRORS, raising=False)
    common.report_error(errors.FormatError("no such file or folder", where=str(photos / "imgaes")))
    assert f"  there: images/, masks/ (in {photos})" in capsys.readouterr().err


def test_the_error_in_the_docs_has_the_keys_that_errors_have(capsys: pytest.CaptureFixture[str]) -> None:
    match = re.search(r"^{\"error\".*}$", DOCS, re.M)
    assert match is not None
    os.environ[common.ERRORS] = "json"
    try:
        common.report_error(errors.FormatError("no such file or folder", where="fotos", fix="check the path"))
    finally:
        del os.environ[common.ERRORS]
    told, shown = json.loads(match[0])["error"], json.loads(capsys.readouterr().err)["error"]
    assert told.keys() == shown.keys() and told["type"] == shown["type"]


def test_the_docs_name_every_key_of_help_json() -> None:
    tree = json.loads(CliRunner().invoke(app, ["--help-json"]).stdout)

    def keys(node: Any) -> set[str]:
        if isinstance(node, list):
            return set().union(*map(keys, node))
        if not isinstance(node, dict):
            return set()
        return node.keys() | set().union(*(keys(value) for key, value in node.items() if key != "exit_codes"))

    assert keys(tree) == {key for key in keys(tree) if f"`{key}`" in DOCS}


def test_the_exit_codes_of_the_docs_are_those_of_help_json() -> None:
    tree = json.loads(CliRunner().invoke(app, ["--help-json"]).stdout)
    rows = re.findall(r"^\| ([0-9, ]+) \|", DOCS, re.M)
    assert [code for row in rows for code in row.split(", ")] == list(tree["exit_codes"])


def test_a_torchvision_for_another_torch_is_said_in_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(command, "app", broken)
    monkeypatch.setattr(sys, "argv", ["segwright", "models"])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "torchvision was built for another torch" in said and metadata.version("torchvision") in said

    def other() -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(command, "app", other)
    with pytest.raises(RuntimeError, match="something else"):
        command.main()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_prediction_reports_what_it_has(
    photos: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    arguments = {"width": 4, "in_channels": 3}
    network = create_model("segnet_basic", classes=2, weights=None, **arguments)
    save_bundle(tmp_path / "model", network, Bundle("segnet_basic", LabelSpace(("a", "b")), arguments))
    many = tmp_path / "many"
    many.mkdir()
    for copy in range(3000):
        os.link(photos / "images" / "0.png", many / f"{copy}.png")
    start = (
        sys.executable,
        "-P",
        "-m",
        "segwright",
        "predict",
        "model",
        "many",
        "--out",
        "out",
        "--json",
        "found.json",
    )
    process = subprocess.Popen(
        [*start, "--no-overlay"], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    end = time.monotonic() + 120
    while not (tmp_path / "out" / "1.png").exists() and time.monotonic() < end:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == code and errors.splitlines()[-1] == "stopped" and "Traceback" not in errors
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["stopped"] == "interrupted" and 0 < found["images"] < 3000
