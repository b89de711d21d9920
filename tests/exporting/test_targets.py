"""Every target is run before it is put in place, answers as the original at odd sizes, and describes itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from test_contract import SMALL

import segwright as sw
from segwright.core import atomic_io
from segwright.core.errors import BundleError, ExportError, OutputError, UsageError
from segwright.core.types import Float32Array, UInt8Array
from segwright.demo.dataset import write_street_scenes
from segwright.exporting.triton import check_configuration
from segwright.inference.bundle import Bundle, save_bundle
from segwright.inference.exported import ExportedRuntime
from segwright.inference.exported_files import find_exported, open_exported
from segwright.models.catalog import CATALOG, create_model

TARGETS = {"onnx": "m.onnx", "openvino": "m.openvino", "torch": "m.pt2", "triton": "m.triton"}
ARGUMENTS = {"width": 4, "in_channels": 3}


def saved(folder: Path, data: Path) -> Path:
    labels = sw.open_dataset(data).label_space
    torch.manual_seed(0)
    network = create_model("segnet_basic", classes=labels.classes, weights=None, **ARGUMENTS)
    return save_bundle(folder / "model", network, Bundle("segnet_basic", labels, ARGUMENTS)).parent


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run folder, and its data."""
    folder = tmp_path_factory.mktemp("run")
    data = write_street_scenes(folder / "street", train=2, val=2, test=0, size=(64, 96))
    return saved(folder, data), data


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_is_the_same_network(run: tuple[Path, Path], tmp_path: Path, target: str) -> None:
    if target == "openvino":
        pytest.importorskip("openvino")
    folder, data = run
    path = tmp_path / TARGETS[target]
    result = sw.export(folder, target, path, data=data)
    assert result.path == path and result.format == target and result.parity.argmax_agreement >= 0.999
    assert set(result.to_json()) == {"path", "format", "precision", "parity", "latency_ms"}
    assert "63×93" in result.parity.sizes and "2×64×96" in result.parity.sizes
    found, original = sw.load(path, trust_external=True), sw.load(folder)
    assert isinstance(found.runtime, ExportedRuntime) and found.runtime.outputs == ["labels", "confidence"]
    assert found.label_space == original.label_space and found.runtime.weights_id
    rng = np.random.default_rng(0)
    tiny = (1, 1) if target in ("onnx", "triton") else (17, 24)  # OpenVINO and torch.export have a smallest size
    for size in (tiny, (37, 101), (128, 40)):
        image = rng.integers(0, 256, (*size, 3), np.uint8)
        ours, theirs = original(image), found(image)
        assert (ours.labels == theirs.labels).mean() >= 0.999
        # Where two values of a pooling window are equal up to rounding, the pixel comes from another place.
        assert (np.abs(ours.confidence - theirs.confidence) < 1e-3).mean() >= 0.99
    again = sw.export(folder, target, path, data=data)  # an earlier export is replaced
    assert again.path == path
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []


@pytest.mark.parametrize("target", ["openvino", "triton", "torch"])
def test_an_export_that_differs_is_not_written(
    run: tuple[Path, Path], tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if target == "openvino":
        pytest.importorskip("openvino")
    true = ExportedRuntime.labels

    def shifted(self: ExportedRuntime, images: UInt8Array) -> tuple[UInt8Array, Float32Array]:
        labels, confidence = true(self, images)
        labels[:, 0] = (labels[:, 0] + 1) % self.classes
        return labels, confidence

    monkeypatch.setattr(ExportedRuntime, "labels", shifted)
    with pytest.raises(ExportError, match="differs from the original"):
        sw.export(run[0], target, tmp_path / ("x.pt2" if target == "torch" else "x"), data=run[1])
    assert list(tmp_path.iterdir()) == []


def test_the_configuration_fits_the_published_schema(run: tuple[Path, Path], tmp_path: Path) -> None:
    path = sw.export(run[0], "triton", tmp_path / "street scenes", data=run[1]).path
    text = (path / "street_scenes" / "config.pbtxt").read_text()
    config = check_configuration(text, path)
    assert (config.name, config.backend, config.max_batch_size) == ("street_scenes", "onnxruntime", 8)
    ports = [(port.name, port.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[port.data_type].name,
              list(port.dims)) for port in (*config.input, *config.output)]  # fmt: skip
    assert ports == [
        ("images", "TYPE_UINT8", [-1, -1, 3]),
        ("labels", "TYPE_UINT8", [-1, -1]),
        ("confidence", "TYPE_FP32", [-1, -1]),
    ]
    names = json.loads(config.parameters["classes"].string_value)
    assert tuple(names) == sw.load(run[0]).label_space.names
    with pytest.raises(ExportError, match=r"none of Triton's"):
        check_configuration(text.replace("max_batch_size", "max_batch"), path)
    # Triton adds the batch: the file's own dimensions are one more
    graph = onnx.load(str(path / "street_scenes" / "1" / "model.onnx")).graph
    assert len(graph.input[0].type.tensor_type.shape.dim) == len(config.input[0].dims) + 1


def test_what_a_path_is(run: tuple[Path, Path], tmp_path: Path) -> None:
    assert find_exported(run[0]) is None and find_exported(tmp_path) is None
    path = sw.export(run[0], "triton", tmp_path / "t", data=run[1]).path
    for place in (path, path / "t"):
        found = find_exported(place)
        assert found is not None and found.file == path / "t" / "1" / "model.onnx"
    found = find_exported(tmp_path / "no.onnx")
    assert found is not None and found.runtimes == ("onnxruntime", "openvino")
    with pytest.raises(BundleError, match="no such exported file"):
        open_exported(found)
    with pytest.raises(UsageError, match="cannot run the exported file"):
        open_exported(found, runtime="torch")


def test_a_program_of_torch_holds_pickles_and_is_opened_only_if_trusted(tmp_path: Path) -> None:
    (tmp_path / "m.pt2").write_bytes(b"")
    with pytest.raises(BundleError, match="pickles"):
        sw.load(tmp_path / "m.pt2")
    with pytest.raises(BundleError, match="torch cannot load"):
        sw.load(tmp_path / "m.pt2", trust_external=True)


def test_nothing_else_is_written_over(run: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"dear")
    for target in ("openvino", "triton"):
        for place in (tmp_path / "photos", tmp_path / "photos" / "a.jpg", run[0]):
            with pytest.raises(UsageError, match="is not an earlier export"):
                sw.export(run[0], target, place, data=run[1])
    for target in ("onnx", "torch"):
        with pytest.raises(UsageError, match="is not an earlier export"):
            sw.export(run[0], target, tmp_path / "photos", data=run[1])
        for place in (tmp_path / "photos" / "a.jpg", tmp_path / "model"):
            with pytest.raises(UsageError, match=r"does not end in \.") as caught:
                sw.export(run[0], target, place, data=run[1])
            assert str(caught.value.fix).startswith(f"--out {place}.")
    assert (tmp_path / "photos" / "a.jpg").read_bytes() == b"dear"


@pytest.mark.parametrize("target", ["bundle", "onnx"])
def test_a_folder_that_cannot_be_written_to_is_named_by_the_output(
    run: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    def refused(dir: Path) -> None:
        raise PermissionError(13, "Permission denied", f"{dir}/tmp123")

    monkeypatch.setattr(atomic_io.tempfile, "TemporaryFile", refused)
    out = tmp_path / "street.onnx"
    with pytest.raises(OutputError, match="cannot be written") as caught:
        sw.export(run[0], target, out, data=run[1])
    assert str(caught.value.where) == str(out)


@pytest.mark.parametrize("target", ["bundle", "triton"])
def test_files_of_the_user_in_an_earlier_export_stay(run: tuple[Path, Path], tmp_path: Path, target: str) -> None:
    out = tmp_path / "street"
    for _ in range(2):
        sw.export(run[0], target, out, data=run[1])
    (out / "notes.txt").write_text("dear")
    with pytest.raises(UsageError, match="is not an earlier export") as caught:
        sw.export(run[0], target, out, data=run[1])
    assert "notes.txt is not listed" in str(caught.value.found) and (out / "notes.txt").read_text() == "dear"


def test_the_model_of_another_training_is_not_replaced(run: tuple[Path, Path], tmp_path: Path) -> None:
    other = saved(tmp_path / "other", run[1])
    before = (other / "model" / "model.json").read_bytes()
    with pytest.raises(UsageError, match="is not an earlier export") as caught:
        sw.export(run[0], "bundle", other / "model", data=run[1])
    assert caught.value.found == "a model that is no export"
    assert (other / "model" / "model.json").read_bytes() == before


def test_one_file_for_onnxruntime_and_openvino(run: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    path = sw.export(run[0], "onnx", tmp_path / "m.onnx", data=run[1]).path
    exported = find_exported(path)
    assert exported is not None
    image = np.random.default_rng(0).integers(0, 256, (2, 45, 67, 3), np.uint8)
    one, two = (open_exported(exported, runtime=name) for name in exported.runtimes)
    assert one.weights_id == two.weights_id and one.bundle == two.bundle
    np.testing.assert_array_equal(one.labels(image)[0], two.labels(image)[0])
    with pytest.raises(UsageError, match="own precision"):
        open_exported(exported, runtime="onnxruntime", precision="bf16")
    with pytest.raises(UsageError, match="CPU only"):
        open_exported(exported, runtime="openvino", device="cuda")


@pytest.mark.slow  # a few of them are exported in the fast run: see above and tests/models/test_contract.py
@pytest.mark.parametrize("name", CATALOG)
def test_every_network_of_the_catalog_exports(run: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    """To ONNX, and that file runs in OpenVINO."""
    labels = sw.open_dataset(run[1]).label_space
    torch.manual_seed(0)
    network = create_model(name, classes=labels.classes, weights=None, **SMALL[name]).eval()
    folder = save_bundle(tmp_path / "model", network, Bundle(name, labels, {**SMALL[name], "in_channels": 3}))
    result = sw.export(folder, "onnx", tmp_path / "m.onnx", data=run[1])
    assert result.parity.argmax_agreement >= 0.999
    image = np.random.default_rng(0).integers(0, 256, (65, 70, 3), np.uint8)
    found = sw.load(tmp_path / "m.onnx", device="cpu")(image)
    assert found.labels.shape == (65, 70)
    pytest.importorskip("openvino")
    other = sw.load(tmp_path / "m.onnx", device="cpu", runtime="openvino")(image)
    assert (found.labels == other.labels).mean() >= 0.999
