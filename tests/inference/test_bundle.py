"""Saved models: what was saved is what is loaded, and nothing else."""

from __future__ import annotations

import json
import pickle
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from segwright.core.atomic_io import write_checksums
from segwright.core.errors import BundleError, SegwrightError, UsageError
from segwright.core.types import LabelSpace
from segwright.inference.bundle import Bundle, load_bundle, save_bundle
from segwright.inference.predictor import Predictor, find_bundle, load
from segwright.models.base import SegmentationModel
from segwright.models.catalog import create_model

LABELS = LabelSpace(("road", "sky", "tree"))
ARGUMENTS = {"widths": [4, 8, 8, 8, 8], "decoder_channels": [4, 8, 8, 8], "in_channels": 3}


@pytest.fixture(scope="module")
def network() -> SegmentationModel:
    torch.manual_seed(0)
    return create_model("leannet", classes=3, weights=None, **ARGUMENTS).eval()


@pytest.fixture
def folder(tmp_path: Path, network: SegmentationModel) -> Path:
    return save_bundle(tmp_path / "model", network, Bundle("leannet", LABELS, ARGUMENTS, metrics={"val_miou": 0.5}))


def test_what_was_saved_is_what_is_loaded(folder: Path, network: SegmentationModel) -> None:
    again, bundle = load_bundle(folder)
    image = torch.randint(0, 256, (1, 40, 50, 3), dtype=torch.uint8)
    assert torch.equal(again(image).logits, network(image).logits)
    assert bundle.label_space == LABELS and bundle.metrics == {"val_miou": 0.5}
    assert not again.training
    assert sorted(path.name for path in folder.iterdir()) == ["SHA256SUMS", "model.json", "model.safetensors"]


def test_a_run_folder_means_its_model(folder: Path) -> None:
    assert find_bundle(folder.parent) == folder
    with pytest.raises(BundleError, match="segwright train"):
        find_bundle(folder.parent / "nowhere")


@pytest.mark.parametrize("name", ["model.safetensors", "model.json"])
def test_an_altered_file_is_found(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(BundleError, match=f"{name} was altered"):
        load_bundle(folder)


def edit(folder: Path, **changes: object) -> None:
    tree = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**tree, **changes}))
    write_checksums(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": "os.system"},
        {"architecture": "../x"},
        {"architecture": ["leannet"]},
        {"arguments": {"__class__": "evil"}},
        {"arguments": {"variant": "huge"}},
        {"version": 99},
        {"format": "other"},
        {"label_space": {"names": []}},
        {"label_space": {"names": ["a", "b"]}},
        {"label_space": 3},
    ],
    ids=str,
)
def test_a_description_that_lies_is_a_typed_error(folder: Path, changes: dict[str, object]) -> None:
    edit(folder, **changes)
    with pytest.raises((BundleError, UsageError, SegwrightError)):
        load_bundle(folder)


def header(length: int, body: bytes) -> bytes:
    return struct.pack("<Q", length) + body


@pytest.mark.parametrize(
    "payload",
    [
        pickle.dumps({"weight": 1}),
        header(2**62, b"{}"),
        header(40, json.dumps({"w": {"dtype": "F32", "shape": [9], "data_offsets": [0, 9999]}}).encode()),
        b"",
    ],
    ids=["pickle", "header overflow", "offsets outside", "empty"],
)
def test_weights_of_another_kind_are_refused(folder: Path, payload: bytes) -> None:
    (folder / "model.safetensors").write_bytes(payload)
    write_checksums(folder)
    with pytest.raises(BundleError, match="weights"):
        load_bundle(folder)


def test_a_predictor_takes_what_people_have(folder: Path) -> None:
    predictor = load(folder)
    rng = np.random.default_rng(0)
    color = rng.integers(0, 256, (37, 51, 3), np.uint8)
    found = predictor(color)
    assert found.labels.shape == (37, 51) and found.confidence.max() <= 1
    assert predictor(color[..., 0]).labels.shape == (37, 51)
    assert predictor(np.dstack([color, color[..., :1]])).labels.tolist() == found.labels.tolist()
    assert predictor(color[:1, :1]).labels.shape == (1, 1)
    probabilities = predictor(color, probabilities=True).probabilities
    assert probabilities is not None
    np.testing.assert_allclose(probabilities.sum(axis=0), 1, atol=1e-5)
    np.testing.assert_array_equal(probabilities.argmax(axis=0), found.labels)
    with pytest.raises(SegwrightError, match="uint8"):
        predictor(color.astype(np.float32))  # type: ignore[arg-type]


def test_a_batch_answers_like_its_images_alone(folder: Path) -> None:
    predictor = load(folder)
    images = list(np.random.default_rng(0).integers(0, 256, (3, 32, 64, 3), np.uint8))
    together, alone = predictor.predict_batch(images), [predictor.predict(image) for image in images]
    for a, b in zip(together, alone, strict=True):
        assert (a.labels != b.labels).mean() < 1e-3
        np.testing.assert_allclose(a.confidence, b.confidence, atol=1e-4)


def test_network_and_label_space_must_agree(network: SegmentationModel) -> None:
    with pytest.raises(SegwrightError, match="2 classes"):
        Predictor.from_model(network, LabelSpace(("a", "b")))


def test_a_bundle_of_version_1_means_what_it_meant(tmp_path: Path) -> None:
    arguments = {"encoder": "test_resnet", "bin_channels": 8, "channels": 16, "in_channels": 3}
    torch.manual_seed(0)
    former = create_model("pspnet", classes=3, weights=None, grid_aligned=False, **arguments).eval()
    folder = save_bundle(
        tmp_path / "model", former, Bundle("pspnet", LABELS, arguments, postprocess="crf(deeplab-v1)>min-area(8)")
    )
    tree = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**tree, "version": 1}))
    write_checksums(folder, "SHA256SUMS")
    again, bundle = load_bundle(folder)
    image = torch.randint(0, 256, (1, 40, 50, 3), dtype=torch.uint8)
    assert torch.equal(again(image).logits, former(image).logits)
    assert bundle.postprocess == "crf(deeplab-v1-symmetric)>min-area(8)"
    today, _ = load_bundle(save_bundle(tmp_path / "today", former, Bundle("pspnet", LABELS, arguments)))
    assert not torch.equal(today(image).logits, former(image).logits)  # padded to 8k + 1


def test_an_argument_saved_under_its_former_name_is_read(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = create_model("segnet_basic", classes=3, weights=None, width=4, input_scale="caffe").eval()
    folder = save_bundle(
        tmp_path / "model", network, Bundle("segnet_basic", LABELS, {"width": 4, "input_scale": "caffe"})
    )
    description = json.loads((folder / "model.json").read_text())
    description["arguments"]["pixels"] = description["arguments"].pop("input_scale")
    (folder / "model.json").write_text(json.dumps(description))
    write_checksums(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # the reader of an old file has nothing to rename
        again, bundle = load_bundle(folder)
    assert bundle.arguments["input_scale"] == "caffe" and torch.equal(again.mean, network.mean)
    with pytest.warns(DeprecationWarning, match="input_scale"):
        create_model("segnet_basic", classes=3, weights=None, width=4, pixels="caffe")
