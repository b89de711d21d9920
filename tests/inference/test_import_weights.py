"""Weights trained elsewhere: whatever the trainer wrapped around them they load, or the error names what is amiss."""

from __future__ import annotations

import argparse
import contextlib
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from segwright import api
from segwright.core.errors import SegwrightError, UsageError, WeightsError
from segwright.inference.predictor import load
from segwright.models.catalog import create_model
from segwright.models.encoders.state_files import read_weights_file

smp = pytest.importorskip("segmentation_models_pytorch")
CLASSES = "a,b,c"


@pytest.fixture(scope="module")
def theirs() -> Any:
    torch.manual_seed(0)
    network = smp.Unet("resnet18", encoder_weights=None, classes=3, decoder_channels=(32, 16, 16, 8, 8)).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return network


def before(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def wrapped(state: dict[str, Tensor]) -> dict[str, Any]:
    lightning = {**before(state, "model."), "std": torch.ones(1, 3, 1, 1), "criterion.weight": torch.ones(3)}
    return {
        "plain": state,
        "module": before(state, "module."),
        "nested": before(state, "module._orig_mod.model."),
        "unknown prefix": before(state, "segmentor."),
        "state_dict": {"state_dict": state, "epoch": 3},
        "lightning": {"state_dict": lightning, "hyper_parameters": {"lr": 0.1}, "optimizer_states": [], "loops": {}},
        "compiled": before(state, "_orig_mod."),
        "ema": {"ema": state, "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}},
        "twice": {"checkpoint": 1, "model": {"state_dict": before(state, "net.")}},
        "both": {"state_dict_ema": {name: tensor * 0 for name, tensor in state.items()}, "state_dict": state},
        "reference": {"model": state, "args": argparse.Namespace(lr=0.1), "epoch": 1},
        "parts": {part: {name.removeprefix(f"{part}."): tensor for name, tensor in state.items()
                         if name.startswith(f"{part}.")} for part in ("encoder", "decoder", "segmentation_head")},
    }  # fmt: skip


@pytest.mark.parametrize("kind", wrapped({}))
def test_wrappers_and_prefixes(theirs: Any, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "w.ckpt"
    torch.save(wrapped(theirs.state_dict())[kind], path)
    ours = create_model("unet", classes=3, encoder="resnet18", weights=path, decoder_channels=(32, 16, 16, 8, 8)).eval()
    images = torch.randint(0, 256, (1, 64, 96, 3), dtype=torch.uint8)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = theirs(((images / 255 - mean) / std).permute(0, 3, 1, 2))
        assert torch.allclose(ours(images).logits, expected, atol=1e-4)
    notes = read_weights_file(path).notes
    if kind == "lightning":
        assert any("criterion.weight" in note for note in notes), "what is left out is named"
    if kind == "both":
        assert any("state_dict_ema" in note for note in notes)


def test_several_networks_in_a_file_are_told_apart(theirs: Any, tmp_path: Path) -> None:
    state = theirs.state_dict()
    torch.save(
        {**before(state, "model."), **before({k: v * 0 for k, v in state.items()}, "ema_model.")}, tmp_path / "w"
    )
    with pytest.raises(WeightsError, match="--prefix"):
        read_weights_file(tmp_path / "w")
    chosen = read_weights_file(tmp_path / "w", prefix="model").tensors
    assert all(torch.equal(chosen[name], tensor) for name, tensor in state.items())
    torch.save({"student": state, "teacher": {}, "x": {"y": state}}, tmp_path / "w")
    assert set(read_weights_file(tmp_path / "w", key="student").tensors) == set(state)
    with pytest.raises(WeightsError, match="student"):
        read_weights_file(tmp_path / "w", key="pupil")


def test_a_bundle_of_foreign_weights_predicts_and_keeps_its_normalization(theirs: Any, tmp_path: Path) -> None:
    torch.save({"state_dict": before(theirs.state_dict(), "model.")}, tmp_path / "w.ckpt")
    found = api.import_weights(
        tmp_path / "w.ckpt", tmp_path / "out", model="unet", encoder="resnet18", classes=CLASSES, normalization="half",
        arguments={"decoder_channels": [32, 16, 16, 8, 8]},
    )  # fmt: skip
    assert found.tensors >= len([k for k in theirs.state_dict() if "num_batches" not in k]) and found.layout == "smp"
    predictor = load(tmp_path / "out")
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    with torch.no_grad():
        logits = theirs(((torch.from_numpy(image[None]) / 255 - 0.5) / 0.5).permute(0, 3, 1, 2))
    assert (predictor(image).labels == logits[0].argmax(dim=0).numpy()).mean() > 0.999
    assert predictor.label_space.names == ("a", "b", "c")
    joined = api.ensemble([tmp_path / "out", twin(theirs, tmp_path)], tmp_path / "joined")
    mean = load(joined).runtime.model.members[0].mean  # type: ignore[attr-defined]
    assert mean.flatten().tolist() == [0.5, 0.5, 0.5], "members of an ensemble keep theirs"


def twin(theirs: Any, folder: Path) -> Path:
    state = {name: tensor * 1.01 for name, tensor in theirs.state_dict().items() if tensor.is_floating_point()}
    torch.save(state, folder / "twin.pth")
    options = {"decoder_channels": [32, 16, 16, 8, 8]}
    api.import_weights(
        folder / "twin.pth", folder / "twin", model="unet", encoder="resnet18", classes=CLASSES, arguments=options
    )
    return folder / "twin"


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"classes": "a,b"}, "another number of classes"),
        ({"classes": "a,,b"}, "names"),
        ({"encoder": "resnet34"}, "do not fit"),
        ({"normalization": "vgg"}, "unknown normalization"),
        ({"normalization": "0.5/0"}, "positive std"),
        ({"normalization": {"mean": [0.1, 0.2], "std": [1.0]}}, "per channel"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_written(
    theirs: Any, tmp_path: Path, changes: dict[str, Any], match: str
) -> None:
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    given: dict[str, Any] = {"model": "unet", "encoder": "resnet18", "classes": CLASSES,
                             "arguments": {"decoder_channels": [32, 16, 16, 8, 8]}, **changes}  # fmt: skip
    with pytest.raises(SegwrightError, match=match):
        api.import_weights(tmp_path / "w.pth", tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()


def test_an_encoder_alone_and_an_occupied_folder_are_refused(theirs: Any, tmp_path: Path) -> None:
    encoder = {k: v for k, v in theirs.state_dict().items() if k.startswith("encoder.")}
    torch.save({k.removeprefix("encoder."): v for k, v in encoder.items()}, tmp_path / "e.pth")
    with pytest.raises(WeightsError, match="only an encoder"):
        api.import_weights(tmp_path / "e.pth", tmp_path / "out", model="unet", encoder="resnet18", classes=CLASSES)
    with pytest.raises(UsageError, match="exists and is not empty"):
        api.import_weights(tmp_path / "e.pth", tmp_path, model="unet", encoder="resnet18", classes=CLASSES)


def packed() -> bytes:
    """A zip of the names that torch.save uses, compressed: one megabyte that unpacks to a hundred."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w/data/0", bytes(100_000_000))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80",
        b"\x80\x02}q\x00.",
        b"PK\x03\x04",
        b"\x80\x02" + b"(" * 5000 + b".",
        b"x" * 300,
        b"\x80\x04\x8a\xff",
    ],
)
def test_damaged_files_are_typed_errors(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(WeightsError):
        read_weights_file(tmp_path / "w.pth")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_every_cut_and_many_flips_of_a_file_are_typed_errors(tmp_path: Path) -> None:
    for new in (True, False):
        buffer = io.BytesIO()
        torch.save({"a.weight": torch.ones(3, 4)}, buffer, _use_new_zipfile_serialization=new)
        whole, path = buffer.getvalue(), tmp_path / "w.pth"
        rng = np.random.default_rng(0)
        for _ in range(150):
            data = bytearray(whole)
            data[int(rng.integers(len(data)))] ^= int(rng.integers(1, 256))
            path.write_bytes(data[: int(rng.integers(len(data))) if rng.random() < 0.3 else None])
            with contextlib.suppress(WeightsError):
                read_weights_file(path)


def test_a_file_that_unpacks_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(packed())
    with pytest.raises(WeightsError, match="unpacks"):
        read_weights_file(tmp_path / "w.pth")
