"""int8 is written if it is worth it, and refused with both figures if not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import segwright as sw
from segwright.core.errors import ExportError, UsageError
from segwright.core.types import Sample
from segwright.demo.dataset import write_street_scenes
from segwright.exporting import quantize
from segwright.exporting.onnx import trace
from segwright.exporting.quantize import Quantization, QuantizationData, Quantizer, check_quantization
from segwright.inference.bundle import Bundle, load_bundle, save_bundle
from segwright.inference.exported_files import find_exported, open_exported
from segwright.metrics.bootstrap import PairedDifference
from segwright.models.catalog import create_model

ARGUMENTS = {"encoder": "test_resnet", "encoder_depth": 2, "decoder_channels": [8, 8], "in_channels": 3}
GOOD = Quantization(PairedDifference(-0.001, -0.002, 0.0005, 0.1), 0.99, 1.6,
                    {"onnxruntime fp32": 8.0, "onnxruntime int8": 5.0}, 9, ("head",), 101)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("run")
    data = write_street_scenes(folder / "street", train=4, val=3, test=0, size=(64, 96))
    labels = sw.open_dataset(data).label_space
    torch.manual_seed(0)
    network = create_model("unet", classes=labels.classes, weights=None, **ARGUMENTS)
    return save_bundle(folder / "model", network, Bundle("unet", labels, ARGUMENTS)).parent, data


@pytest.fixture(scope="module")
def quantizer(run: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Quantizer:
    folder = tmp_path_factory.mktemp("quantized")
    network, bundle = load_bundle(run[0] / "model")
    trace(network, bundle, folder / "whole.onnx")
    images = [sample.image for sample in sw.open_dataset(run[1]).train]
    return Quantizer(folder / "whole.onnx", folder, images)


def test_weights_are_int8_per_channel_and_activations_uint8(quantizer: Quantizer) -> None:
    model = onnx.load(str(quantizer.quantize()))
    tensors = {one.name: one for one in model.graph.initializer}
    makers = {output: node for node in model.graph.node for output in node.output}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == len(quantizer.layers) > 5
    for node in convolutions:
        weight = makers[node.input[1]]
        assert weight.op_type == "DequantizeLinear"
        assert tensors[weight.input[0]].data_type == onnx.TensorProto.INT8
        assert list(tensors[weight.input[1]].dims) == [tensors[weight.input[0]].dims[0]], "a scale per output channel"
        activation = makers[node.input[0]]
        assert activation.op_type == "DequantizeLinear"
        assert tensors[activation.input[2]].data_type == onnx.TensorProto.UINT8
    assert not any(node.op_type == "BatchNormalization" for node in model.graph.node), "folded into the convolutions"


def test_excluded_layers_stay_float(quantizer: Quantizer) -> None:
    kept = quantizer.layers[0]
    model = onnx.load(str(quantizer.quantize([kept])))
    makers = {output: node for node in model.graph.node for output in node.output}
    (node,) = [node for node in model.graph.node if node.name == kept]
    assert node.input[1] not in makers, "its weight is a tensor"


def test_the_order_of_sensitivity_begins_with_the_worst(quantizer: Quantizer, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def alone(excluded: Any = (), only: str | None = None) -> Path:
        path = quantizer.folder / f"only-{len(calls)}"
        path.touch()
        calls.append(only or "")
        return path

    worst = quantizer.layers[2]

    def logits(file: Path, images: Any) -> Any:
        layer = calls[int(file.name.partition("-")[2])] if file.name.startswith("only-") else ""
        return np.full((1, 2, 4, 4), 5.0 if layer == worst else 0.0 if not layer else 0.1, np.float32)

    monkeypatch.setattr(quantizer, "quantize", alone)
    monkeypatch.setattr(quantize, "_logits", logits)
    assert quantizer.sensitivity()[0] == worst and sorted(calls) == sorted(quantizer.layers)


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (replace(GOOD, loss=PairedDifference(-0.004, -0.006, -0.002, 0.0)), "loses too much; nothing"),
        (replace(GOOD, speedup=1.05), "not faster enough"),
        (replace(GOOD, speedup=float("nan")), "not faster enough"),
        (
            replace(GOOD, loss=PairedDifference(float("nan"), 0, 0, 0.0), speedup=0.5),
            "loses too much and is not faster",
        ),
    ],
)
def test_a_refusal_has_both_figures(found: Quantization, why: str, tmp_path: Path) -> None:
    check_quantization(GOOD, tmp_path)
    with pytest.raises(ExportError, match=why) as caught:
        check_quantization(found, tmp_path)
    text = str(caught.value)
    assert "mIoU points (95 % interval" in text and "× as fast" in text and "onnxruntime int8 5 ms" in text


def test_layers_that_cost_too_much_stay_in_float(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The network loses a point per layer of the first three in int8: those three are left out, in few steps."""
    layers = [f"layer {number}" for number in range(12)]

    class Fake:
        def __init__(self) -> None:
            self.layers, self.tried = layers, []  # type: ignore[var-annotated]

        def quantize(self, excluded: tuple[str, ...]) -> Path:
            self.tried.append(excluded)
            return tmp_path / str(len(excluded))

        def sensitivity(self) -> list[str]:
            return layers

    def counts(runtime: Path, judged: Any, channels: int) -> Any:
        wrong = 0 if runtime.name == "whole" else 10 * max(0, 3 - int(runtime.name))
        one = np.array([[900 - wrong, 100], [900, 100], [900 - wrong, 100 + wrong]])
        return np.stack([one, one]), [np.zeros((2, 2), np.uint8)] * 2

    monkeypatch.setattr(quantize, "OnnxRuntime", lambda file, device: file)
    monkeypatch.setattr(quantize, "_counts", counts)
    monkeypatch.setattr(quantize, "compare_speed", lambda *a: (2.0, {"onnxruntime fp32": 2.0, "onnxruntime int8": 1.0}))
    fake = Fake()
    sample = Sample("a", np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8))
    data = QuantizationData([sample], [sample, replace(sample, id="b")], "here")
    _, found = quantize._choose(fake, tmp_path / "whole", data, 3)  # type: ignore[arg-type]
    assert [len(one) for one in fake.tried] == [0, 1, 2, 4]
    assert found.float_layers == tuple(layers[:4]) and found.layers == 8 and found.loss.difference == 0


def test_written_or_refused_as_a_whole(run: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, data = run
    monkeypatch.setattr(quantize, "MAX_LOSS", 1.0)
    monkeypatch.setattr(quantize, "MIN_SPEEDUP", 1e6)
    with pytest.raises(ExportError, match="not faster enough"):
        sw.export(folder, "onnx", tmp_path / "m.onnx", data=data, precision="int8")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(quantize, "MIN_SPEEDUP", 0.0)
    result = sw.export(folder, "onnx", tmp_path / "m.onnx", data=data, precision="int8")
    assert result.precision == "int8" and "× as fast" in result.remark
    assert set(result.to_json()) == {"path", "format", "precision", "parity", "latency_ms"}
    kept = json.loads((tmp_path / "m.parity.json").read_text())["int8"]
    assert kept["layers"] > 5 and len(kept["miou_difference_ci95"]) == 2
    exported = find_exported(result.path)
    assert exported is not None
    image = sw.open_dataset(data).val.read_image(0)[None]
    answers = [open_exported(exported, runtime=name).labels(image)[0] for name in exported.runtimes]
    assert (answers[0] == answers[-1]).mean() > 0.97  # integers are equal, the float rest rounds elsewhere
    assert sw.load(result.path).label_space == sw.load(folder).label_space


def test_what_int8_needs(run: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="one ONNX file"):
        sw.export(run[0], "triton", tmp_path / "x", data=run[1], precision="int8")
    with pytest.raises(UsageError, match="unknown precision"):
        sw.export(run[0], "onnx", tmp_path / "x.onnx", data=run[1], precision="int4")
    with pytest.raises(UsageError, match="judged by its mIoU"):
        sw.export(run[0], "onnx", tmp_path / "x.onnx", precision="int8")
    assert list(tmp_path.iterdir()) == []
