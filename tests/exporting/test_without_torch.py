"""An exported file predicts, evaluates and serves in a process in which torch cannot be imported."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch

import segwright as sw
from segwright.demo.dataset import write_street_scenes
from segwright.imageio import read_mask
from segwright.inference.bundle import Bundle, save_bundle
from segwright.models.catalog import create_model

# Runs the command line; whatever imports one of these ends the process with an error.
WITHOUT_TORCH = """
import sys

class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "timm", "onnxscript"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Forbidden())
from segwright.cli import main
main()
"""
ARGUMENTS = {"width": 4, "in_channels": 3}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An ONNX file with its logits, and the data that it was compared on."""
    folder = tmp_path_factory.mktemp("exported")
    data = write_street_scenes(folder / "street", train=2, val=2, test=0, size=(64, 96))
    labels = sw.open_dataset(data).label_space
    torch.manual_seed(0)
    network = create_model("segnet_basic", classes=labels.classes, weights=None, **ARGUMENTS)
    save_bundle(folder / "model", network, Bundle("segnet_basic", labels, ARGUMENTS))
    return sw.export(folder / "model", "onnx", folder / "m.onnx", data=data, with_logits=True).path, data


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", WITHOUT_TORCH, *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=300)


def test_predict_and_evaluate(exported: tuple[Path, Path], tmp_path: Path) -> None:
    file, data = exported
    done = command("predict", file, data / "images" / "val", "--out", tmp_path / "masks", "--json", tmp_path / "p.json",
                   "--tta", "flip", "--uncertainty", "entropy", "--journal", tmp_path / "journal")  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "p.json").read_text())["results"]
    predictor, split = sw.load(file, tta="flip"), sw.open_dataset(data).val
    expected = [predictor(split.read_image(i)).labels for i in range(len(split))]
    for row, labels in zip(rows, expected, strict=True):
        np.testing.assert_array_equal(read_mask(row["mask"]), labels)
    done = command("evaluate", file, data, "--split", "val", "--json", tmp_path / "e.json")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "e.json").read_text())["miou"] == pytest.approx(sw.evaluate(file, data).miou)


def test_help_and_what_needs_torch(exported: tuple[Path, Path], tmp_path: Path) -> None:
    assert "predict" in command("--help").stdout
    done = command("predict", exported[0].parent / "model", exported[1] / "images" / "val", "--out", tmp_path)
    assert done.returncode == 2 and "torch" in done.stderr and "pip install segwright" in done.stderr
    assert "Traceback" not in done.stderr


def test_serve(exported: tuple[Path, Path]) -> None:
    file, data = exported
    line = [sys.executable, "-u", "-c", WITHOUT_TORCH, "serve", str(file), "--port", "0"]
    image = next((data / "images" / "val").glob("*.png")).read_bytes()
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        assert server.stdout is not None
        try:
            text = ""
            while "http://" not in text:
                text = server.stdout.readline()
                assert text, "the service ended before it listened"
            url = "http://" + text.partition("http://")[2].split()[0].rstrip("/")
            request = urllib.request.Request(f"{url}/predict?as=json", image, {"Content-Type": "image/png"})
            with urllib.request.urlopen(request, timeout=60) as answer:
                found = json.load(answer)
            assert (found["height"], found["width"]) == (64, 96)
        finally:
            server.terminate()
        server.stdout.read()
    assert server.returncode == 0


def test_the_hook_forbids_torch() -> None:
    code = WITHOUT_TORCH.replace("from segwright.cli import main\nmain()", "import torch")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "No module named 'torch'" in done.stderr
