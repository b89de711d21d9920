"""Saved models of strangers: nothing out of the file reaches the network, other packages or much memory; readers beside
a training neither fail nor harm it; every error is typed."""

from __future__ import annotations

import errno
import json
import resource
import socket
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors
import torch
from onnx import TensorProto, helper, numpy_helper

from segwright import api
from segwright.core.atomic_io import write_checksums
from segwright.core.errors import (
    BundleError,
    BundleWriteError,
    CheckpointError,
    ModelError,
    SegwrightError,
    WeightsError,
)
from segwright.core.types import LabelSpace
from segwright.inference import bundle as bundle_module
from segwright.inference.bundle import Bundle, load_bundle, read_bundle, save_bundle
from segwright.inference.lineage import bundle_id
from segwright.inference.predictor import load
from segwright.models.catalog import create_model
from segwright.models.encoders.state_files import read_state_dict
from segwright.training.checkpoint import load_checkpoint, save_checkpoint

LABELS = LabelSpace(("road", "sky", "tree"))
ARGUMENTS = {"width": 4}


def saved(folder: Path, width: int = 4) -> Path:
    torch.manual_seed(0)
    network = create_model("segnet_basic", classes=3, weights=None, width=width).eval()
    return save_bundle(folder, network, Bundle("segnet_basic", LABELS, {"width": width}))


def edited(folder: Path, **changes: Any) -> Path:
    tree = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**tree, **changes}))
    write_checksums(folder)
    return folder


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every attempt to reach a host is noted and refused."""
    tried: list[object] = []

    def refuse(*arguments: object, **_: object) -> None:
        tried.append(arguments)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("builtins.input", refuse)
    return tried


REACHING: list[tuple[str, dict[str, Any]]] = [
    ("smp:Unet", {"encoder_name": "resnet18", "encoder_weights": "imagenet"}),
    ("smp:Unet", {"encoder_name": "tu-hf_hub:someone/model"}),
    ("transformers:segformer", {"attn_implementation": "someone/kernel"}),
    ("transformers:bert", {"auto_map": {"AutoModelForSemanticSegmentation": "someone/repo--module.Class"}}),
    ("transformers:upernet", {"backbone": "someone/backbone", "use_pretrained_backbone": True}),
    ("torchvision:fcn_resnet50", {"weights_backbone": "DEFAULT"}),
    ("unet", {"encoder": "hf_hub:someone/model"}),
    ("unet", {"encoder": "hf-hub:someone/model"}),
    ("unet", {"encoder": "local-dir:whatever"}),
    ("ensemble", {"members": [{"architecture": "smp:Unet", "arguments": {"encoder_weights": "imagenet"}}]}),
]


@pytest.mark.parametrize(("architecture", "arguments"), REACHING, ids=lambda value: str(value)[:50])
def test_a_saved_model_reaches_no_host_and_no_other_package(
    tmp_path: Path, no_network: list[object], architecture: str, arguments: dict[str, Any]
) -> None:
    folder = edited(saved(tmp_path / "model"), architecture=architecture, arguments=arguments)
    with pytest.raises(BundleError, match="trust-external"):
        load(folder)
    assert not no_network
    if architecture != "transformers:upernet":  # minutes of random weights
        with pytest.raises(SegwrightError):  # trusted, it still fetches nothing
            load(folder, trust_external=True)
        assert not no_network


def test_a_trusted_model_of_another_package_loads(tmp_path: Path, no_network: list[object]) -> None:
    network = create_model("smp:Unet", classes=3, weights=None, encoder_name="resnet18").eval()
    arguments = {"encoder_name": "resnet18", "encoder_weights": "imagenet", "in_channels": 3}
    folder = save_bundle(tmp_path / "model", network, Bundle("smp:Unet", LABELS, arguments))
    again, _ = load_bundle(folder, trust_external=True)
    image = torch.randint(0, 256, (1, 32, 64, 3), dtype=torch.uint8)
    assert torch.equal(again(image).logits, network(image).logits) and not no_network


BROKEN: dict[str, dict[str, Any]] = {
    "width a billion": {"arguments": {"width": 10**9}},
    "width 60000": {"arguments": {"width": 60_000}},
    "width 9000": {"arguments": {"width": 9000}},
    "width 0": {"arguments": {"width": 0}},
    "width text": {"arguments": {"width": "x"}},
    "width nan": {"arguments": {"width": float("nan")}},
    "version infinite": {"version": float("inf")},
    "preprocessing list": {"preprocessing": [1]},
    "range text": {"preprocessing": {"value_range": "x"}},
    "range infinite": {"preprocessing": {"value_range": {"low": [0], "high": [float("inf")]}}},
    "mapping 70000": {"label_space": {"names": ["a", "b", "c"], "mapping": {"70000": 0}}},
    "color 300": {"label_space": {"names": ["a", "b", "c"], "colors": [[300, 0, 0]] * 3}},
    "metrics list": {"metrics": [1]},
    "chain long": {"postprocess": ">".join(["crf(iterations=1000)"] * 50)},
    "chain list": {"postprocess": [1]},
    "deep": {"training": json.loads("[" * 900 + "]" * 900)},
}


@pytest.mark.parametrize("changes", BROKEN.values(), ids=BROKEN.keys())
def test_a_description_out_of_bounds_is_a_typed_error_without_memory(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = edited(saved(tmp_path / "model"), **changes)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    try:
        load(folder)
        assert "training" in changes, "only what nobody looks at may pass"
    except SegwrightError:
        pass
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, "kilobytes"
    assert time.process_time() - began < 20


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("SHA256SUMS", b"\xff\xfe\xfa"),
        ("SHA256SUMS", b"00  a\0b\n"),
        ("SHA256SUMS", b"x" * 2_000_000),
        ("model.json", b"[" + b"{}," * 2_000_000 + b"{}]"),
        ("model.json", b"[" * 100_000),
        ("model.json", b"\xff"),
        ("model.json", b"[]"),
        ("model.safetensors", b"\xff" * 8 + b"{}"),
    ],
)
def test_damaged_files_are_typed_errors(tmp_path: Path, name: str, content: bytes) -> None:
    folder = saved(tmp_path / "model")
    (folder / name).write_bytes(content)
    if name != "SHA256SUMS":
        write_checksums(folder)
    with pytest.raises(BundleError):
        load(folder)


def test_readers_beside_a_training_that_saves_neither_fail_nor_harm_it(tmp_path: Path) -> None:
    folder, stop = saved(tmp_path / "model", width=16), threading.Event()
    network = create_model("segnet_basic", classes=3, weights=None, width=16).eval()
    failed: list[BaseException] = []
    saves = reads = 0

    def training() -> None:
        nonlocal saves
        while not stop.is_set():
            try:
                save_bundle(folder, network, Bundle("segnet_basic", LABELS, {"width": 16}))
                saves += 1
                stop.wait(0.05)  # a training validates between two saves; without a pause reading may take longer
            except BaseException as error:
                failed.append(error)
                return

    thread = threading.Thread(target=training)
    thread.start()
    try:
        end = time.monotonic() + 4
        while time.monotonic() < end or reads < 5:
            assert read_bundle(folder).architecture == "segnet_basic"
            load_bundle(folder)
            reads += 1
    finally:
        stop.set()
        thread.join()
    assert not failed and saves > 5 and reads >= 5


def test_a_folder_that_is_replaced_between_the_two_openings_of_its_weights_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch opens the file a second time, to map it, and has an error of its own for a file that has gone."""
    folder, tries = saved(tmp_path / "model"), []
    real = bundle_module.load_file

    def load_file(path: str) -> Any:
        tries.append(path)
        if len(tries) == 1:
            saved(folder)
            raise RuntimeError(f"unable to open file <{path}> in read-only mode: No such file or directory (2)")
        return real(path)

    monkeypatch.setattr(bundle_module, "load_file", load_file)
    assert load_bundle(folder)[1].architecture == "segnet_basic" and len(tries) == 2


@pytest.mark.parametrize("error", [RuntimeError("unable to mmap"), MemoryError("no memory"), OSError("gone")])
def test_whatever_torch_raises_of_a_weights_file_is_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    folder = saved(tmp_path / "model")
    checkpoints = tmp_path / "checkpoints"
    save_checkpoint(checkpoints, 1, {"weight": torch.zeros(2)}, {})

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(bundle_module, "load_file", fail)
    monkeypatch.setattr("safetensors.torch.load_file", fail)
    monkeypatch.setattr("segwright.training.checkpoint.load_file", fail)
    with pytest.raises(BundleError, match="cannot be read"):
        load_bundle(folder)
    with pytest.raises(BundleError, match="cannot be read"):
        bundle_id(folder)
    with pytest.raises(WeightsError, match="not a whole safetensors file"):
        read_state_dict(folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="no checkpoint is whole"):
        load_checkpoint(checkpoints)


def test_a_save_that_was_killed_between_its_renames_is_read_and_not_repaired(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model")
    writing = tmp_path / ".model.writing-abc"
    writing.mkdir()
    (writing / "model.safetensors").write_bytes(b"half")
    folder.rename(tmp_path / ".model.old-abc")
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    assert load(tmp_path).label_space == LABELS, "a run folder, too"
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "error",
    [safetensors.SafetensorError("I/O error: No space left on device"), OSError(errno.ENOSPC, "No space left")],
)
def test_a_full_disk_while_saving_is_an_error_that_a_training_can_catch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    folder = saved(tmp_path / "model")

    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("segwright.inference.bundle.save_file", full)
    with pytest.raises(OSError, match="No space left") as caught:
        saved(folder)
    assert isinstance(caught.value, BundleWriteError) and isinstance(caught.value, SegwrightError)
    monkeypatch.undo()
    assert load(folder).label_space == LABELS, "what stood there is whole"


# -- exported files --------------------------------------------------------------------------------------------------


def onnx_file(path: Path, nodes: list[Any], initializers: list[Any] = (), name: str = "images") -> Path:  # type: ignore[assignment]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.UINT8, ["n", "h", "w", 3])],
        [
            helper.make_tensor_value_info("labels", TensorProto.UINT8, None),
            helper.make_tensor_value_info("confidence", TensorProto.FLOAT, None),
        ],
        list(initializers),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    entry = model.metadata_props.add()
    entry.key, entry.value = "segwright", json.dumps(Bundle("segnet_basic", LABELS, ARGUMENTS).to_json())
    onnx.save(model, str(path))
    return path


def constant(name: str, value: Any) -> Any:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))


@pytest.mark.parametrize(
    ("labels", "match"),
    [(np.full((1, 2, 2), 1, np.uint8), "not labels"), (np.full((1, 16, 24), 9, np.uint8), "labels below 3")],
)
def test_answers_of_another_size_or_class_are_refused(tmp_path: Path, labels: Any, match: str) -> None:
    nodes = [constant("labels", labels), constant("confidence", np.ones(labels.shape, np.float32))]
    predictor = load(onnx_file(tmp_path / "m.onnx", nodes))
    with pytest.raises(ModelError, match=match):
        predictor(np.zeros((16, 24, 3), np.uint8))


def test_an_error_while_running_is_typed(tmp_path: Path) -> None:
    nodes = [
        constant("shape", np.array([7, 7, 7], np.int64)),
        helper.make_node("Reshape", ["images", "shape"], ["labels"]),
        helper.make_node("Cast", ["labels"], ["confidence"], to=TensorProto.FLOAT),
    ]
    predictor = load(onnx_file(tmp_path / "m.onnx", nodes))
    with pytest.raises(ModelError, match="onnxruntime"):
        predictor(np.zeros((16, 24, 3), np.uint8))


def test_loops_foreign_inputs_and_hidden_external_data_are_refused(tmp_path: Path) -> None:
    good = [helper.make_node("Identity", ["images"], ["labels"]),
            helper.make_node("Cast", ["images"], ["confidence"], to=TensorProto.FLOAT)]  # fmt: skip
    other = [helper.make_node("Identity", ["pixels"], ["labels"]),
             helper.make_node("Cast", ["pixels"], ["confidence"], to=TensorProto.FLOAT)]  # fmt: skip
    with pytest.raises(BundleError, match="images"):
        load(onnx_file(tmp_path / "input.onnx", other, name="pixels"))
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["c2"]), helper.make_node("Identity", ["x"], ["x2"])],
        "body",
        [value("i", TensorProto.INT64, []), value("c", TensorProto.BOOL, []), value("x", TensorProto.UINT8, None)],
        [value("c2", TensorProto.BOOL, []), value("x2", TensorProto.UINT8, None)],
    )
    endless = helper.make_node("Loop", ["", "t", "images"], ["labels"], body=body)
    loop = [constant("t", np.array(True)), endless, good[1]]
    with pytest.raises(BundleError, match="loops"):
        load(onnx_file(tmp_path / "loop.onnx", loop))
    (tmp_path / "secret").write_bytes(bytes(400))
    tensor = numpy_helper.from_array(np.zeros(100, np.float32))
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "../secret"), ("offset", "0"), ("length", "400")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    (tmp_path / "in").mkdir()
    hidden = [helper.make_node("Constant", [], ["unused"], value=tensor), *good]
    with pytest.raises(BundleError, match="leaves"):
        load(onnx_file(tmp_path / "in" / "external.onnx", hidden))


@pytest.mark.parametrize("metadata", ["nope", "[]", "{}", "[" * 100_000, '{"format": 3}'])
def test_metadata_that_is_none_is_a_typed_error(tmp_path: Path, metadata: str) -> None:
    path = onnx_file(tmp_path / "m.onnx", [helper.make_node("Identity", ["images"], ["labels"]),
                     helper.make_node("Cast", ["images"], ["confidence"], to=TensorProto.FLOAT)])  # fmt: skip
    model = onnx.load(str(path))
    model.metadata_props[0].value = metadata
    onnx.save(model, str(path))
    with pytest.raises(BundleError):
        load(path)


def test_a_model_given_twice_is_no_comparison(tmp_path: Path) -> None:
    saved(tmp_path / "run" / "model")
    with pytest.raises(SegwrightError, match="twice"):
        api.compare([tmp_path / "run", tmp_path / "run" / "model"], tmp_path)
