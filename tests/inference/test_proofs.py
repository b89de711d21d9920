"""Proofs of runtimes: kept by model and machine, never taken for another; and which runtime a command takes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import segwright as sw
from segwright.core.errors import UsageError
from segwright.core.types import LabelSpace
from segwright.exporting.onnx import trace
from segwright.inference import proofs
from segwright.inference.bundle import Bundle, load_bundle, save_bundle
from segwright.inference.onnx_runtime import OnnxRuntime
from segwright.inference.proofs import Measured, read_proof, save_proof
from segwright.inference.runtime_choice import choose_runtime
from segwright.models.catalog import create_model

ARGUMENTS = {"width": 4, "in_channels": 3}
FAST = Measured("onnxruntime", "fp32", 1.0, 5.0, 1.8)
FASTER_BUT_WRONG = Measured("openvino", "bf16", 0.98, 2.0, 4.0)
SLOW = Measured("openvino", "fp32", 1.0, 20.0, 0.5)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    torch.manual_seed(0)
    network = create_model("segnet_basic", classes=3, weights=None, **ARGUMENTS)
    names = LabelSpace(("road", "sky", "tree"))
    return save_bundle(tmp_path / "run" / "model", network, Bundle("segnet_basic", names, ARGUMENTS)).parent


@pytest.fixture
def converted(run: Path, tmp_path: Path) -> Path:
    trace(*load_bundle(run / "model"), tmp_path / "c.onnx")
    return tmp_path / "c.onnx"


def test_only_what_agrees_and_is_faster_is_proven(run: Path, converted: Path) -> None:
    save_proof(run, [FAST, FASTER_BUT_WRONG, SLOW], 6, "photos", converted)
    proof = read_proof(run)
    assert proof is not None and proof.images == 6 and proof.converted is not None
    assert proof.fastest() == FAST and proof.fastest("openvino") is None and proof.fastest("auto", "bf16") is None
    assert read_proof(run / "model") == proof, "the bundle in a run folder is the same model"


def test_a_proof_is_of_these_weights_this_machine_and_this_file(
    run: Path, converted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_proof(run, [FAST], 6, "photos", converted)
    assert path is not None
    true = proofs.machine()
    monkeypatch.setattr(proofs, "machine", lambda: {**true, "openvino": "0"})
    assert read_proof(run) is None
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(path.parents[3]))
    proof = read_proof(run)
    assert proof is not None and proof.converted is not None
    whole = proof.converted.read_bytes()
    proof.converted.write_bytes(whole[:-1])
    assert read_proof(run) is None, "a damaged conversion"
    proof.converted.write_bytes(whole)
    text = path.read_text()
    for wrong in ("", "[]", text[:-3], json.dumps({**json.loads(text), "measured": [{}]}), text.replace("1.8", '"x"')):
        path.write_text(wrong)
        assert read_proof(run) is None
    path.write_text(text)
    assert read_proof(run) == proof
    network, bundle = load_bundle(run / "model")
    with torch.no_grad():
        next(network.parameters()).add_(1)
    save_bundle(run / "model", network, bundle)
    assert read_proof(run) is None, "other weights"


def test_a_command_takes_the_proven_one_and_notes_it(run: Path, converted: Path, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 52, 3), np.uint8)
    usual = sw.load(run, runtime="auto")
    assert not isinstance(usual.runtime, OnnxRuntime) and not usual.notes
    with pytest.raises(UsageError, match="not proven"):
        sw.load(run, runtime="onnxruntime")
    save_proof(run, [FAST, FASTER_BUT_WRONG], 6, "photos", converted)
    found = sw.load(run, runtime="auto")
    assert isinstance(found.runtime, OnnxRuntime) and isinstance(
        sw.load(run, runtime="onnxruntime").runtime, OnnxRuntime
    )
    assert found.notes == [found.notes[0]] and "1.8 × as fast here" in found.notes[0] and "6 images" in found.notes[0]
    assert (found(image).labels == usual(image).labels).mean() > 0.999
    assert (found(image, probabilities=True).probabilities is not None) and found.bundle == usual.bundle
    for name, device, precision in (("usual", "auto", "auto"), ("torch", "auto", "auto"), ("auto", "cpu", "bf16")):
        assert choose_runtime(run, name, device, precision).runtime == "torch"
    with pytest.raises(UsageError, match="unknown runtime"):
        choose_runtime(run, "tensorrt")


def test_predict_notes_it_and_a_journal_takes_the_network(run: Path, converted: Path, tmp_path: Path) -> None:
    from segwright.imageio import write_image

    save_proof(run, [FAST], 6, "photos", converted)
    image = tmp_path / "a.png"
    write_image(image, np.random.default_rng(0).integers(0, 256, (40, 52, 3), np.uint8))
    done = sw.predict(run, image, out=tmp_path / "one")
    assert any("onnxruntime in fp32" in note for note in done.notes)
    done = sw.predict(run, image, out=tmp_path / "two", runtime="usual")
    assert not any("runtime" in note for note in done.notes)
    pytest.importorskip("pyarrow")
    done = sw.predict(run, image, out=tmp_path / "three", journal=tmp_path / "journal")
    assert not any("runtime" in note or "no features" in note for note in done.notes)


def test_an_exported_file_has_proofs_of_its_own(run: Path, converted: Path) -> None:
    assert choose_runtime(converted, "auto").runtime == "onnxruntime"
    assert choose_runtime(converted, "openvino").runtime == "openvino"
    save_proof(converted, [Measured("openvino", "bf16", 0.9995, 5.0, 3.0)], 6, "photos", None)
    found = choose_runtime(converted, "auto")
    assert (found.runtime, found.precision, found.file) == ("openvino", "bf16", None) and "3.0 ×" in found.note
    assert choose_runtime(converted, "auto", precision="fp32").runtime == "onnxruntime"
