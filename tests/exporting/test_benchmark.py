"""`segwright benchmark`: every runtime in turn, what it found as JSON, and its proof for --runtime auto."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import segwright as sw
from segwright.cli import app
from segwright.core.errors import UsageError
from segwright.core.types import Float32Array, LabelSpace, Sample, UInt8Array
from segwright.exporting import benchmark as module
from segwright.exporting.onnx import trace
from segwright.inference.bundle import Bundle, save_bundle
from segwright.inference.proofs import read_proof
from segwright.models.catalog import create_model

ARGUMENTS = {"width": 4, "in_channels": 3}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("file")
    torch.manual_seed(0)
    network = create_model("segnet_basic", classes=3, weights=None, **ARGUMENTS).eval()
    bundle = Bundle("segnet_basic", LabelSpace(("road", "sky", "tree")), ARGUMENTS)
    save_bundle(folder / "run" / "model", network, bundle)
    trace(network, bundle, folder / "m.onnx")
    return folder / "m.onnx"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_the_command(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "benchmark",
        file,
        "--seconds",
        "0.1",
        "--batch",
        "2",
        "--size",
        "40x56",
        "--json",
        tmp_path / "b.json",
    ]
    app([str(argument) for argument in arguments], standalone_mode=False)
    text, tree = capsys.readouterr().out, json.loads((tmp_path / "b.json").read_text())
    assert (
        "…" not in text
        and "equal" in text
        and "--runtime auto takes" in text
        and tree["size"] == "40×56"
        and tree["batch"] == 2
    )
    rows = {f"{row['runtime']} {row['precision']}": row for row in tree["runtimes"]}
    first = tree["runtimes"][0]
    assert (first["runtime"], first["agreement"], first["speedup"]) == ("onnxruntime", 1.0, 1.0)
    assert 20 < first["memory_mb"] < 2000 and first["latency_p95_ms"] >= first["latency_ms"] > 0
    other = rows["openvino fp32"]
    assert other["problem"] or other["agreement"] >= 0.999
    assert tree["machine"]["cores"] and read_proof(file) is not None


class Clock:
    """Time that passes only when a runtime runs."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    monotonic = perf_counter


class Slow:
    """A runtime of a fixed time and answer."""

    classes, in_channels = 3, 3

    def __init__(self, clock: Clock, seconds: float, label: int) -> None:
        self.clock, self.seconds, self.label = clock, seconds, label

    def labels(self, images: UInt8Array) -> tuple[UInt8Array, Float32Array]:
        self.clock.now += self.seconds * len(images)
        found = np.zeros(images.shape[:3], np.uint8)
        found[:, 0] = self.label
        return found, np.ones(images.shape[:3], np.float32)

    def logits(self, images: UInt8Array) -> Float32Array:
        raise NotImplementedError


def test_the_fastest_that_agrees_wins(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    runtimes = {
        "torch fp32": Slow(clock, 6.0, 0),
        "onnxruntime fp32": Slow(clock, 2.0, 0),
        "openvino bf16": Slow(clock, 0.5, 1),
    }
    opened = module._Opened(runtimes, {"openvino fp32": "not installed"}, {}, None)  # type: ignore[arg-type]
    monkeypatch.setattr(module, "_open_all", lambda *arguments: opened)
    found = module.benchmark(file, samples=[Sample("a", np.zeros((20, 30, 3), np.uint8))], seconds=0.05, batch=2)
    assert found.fastest == "onnxruntime fp32"
    figures = {one.name: one for one in found.runtimes}
    assert figures["onnxruntime fp32"].speedup == pytest.approx(3) and figures["openvino bf16"].agreement < 0.99
    assert figures["onnxruntime fp32"].latency_ms == pytest.approx(2000)
    assert figures["torch fp32"].images_per_second == pytest.approx(1 / 6)
    assert figures["openvino fp32"].problem == "not installed" and math.isnan(figures["openvino fp32"].latency_ms)
    proof = read_proof(file)
    assert proof is not None and [one.runtime for one in proof.measured] == ["onnxruntime", "openvino"]
    with pytest.raises(UsageError):
        module.benchmark(file, samples=[], batch=0)


def test_nothing_is_kept_unless_wanted(file: Path) -> None:
    run = file.parent / "run"
    found = sw.benchmark(run, seconds=0.05, batch=1, size="32x40", memory=False, keep=False)
    assert found.proof is None and read_proof(run) is None
    assert [one.name for one in found.runtimes][:3] == ["torch fp32", "torch bf16", "onnxruntime fp32"]
