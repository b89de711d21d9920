"""Exports far from the data, of any number of channels; networks of one channel take color images as gray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segwright import api
from segwright.core.errors import ExportError
from segwright.core.types import Float32Array, LabelSpace, Sample
from segwright.exporting.parity import Parity, check_parity, compare
from segwright.imageio import UInt8Array, write_image, write_mask
from segwright.inference.bundle import Bundle, save_bundle
from segwright.inference.pixels import fit_channels
from segwright.inference.predictor import load
from segwright.models.catalog import create_model

LABELS = LabelSpace(("road", "sky", "tree"))


def saved(folder: Path, channels: int) -> Path:
    torch.manual_seed(0)
    arguments: dict[str, Any] = {"width": 4, "in_channels": channels}
    network = create_model("segnet_basic", classes=3, weights=None, **arguments).eval()
    return save_bundle(
        folder, network, Bundle("segnet_basic", LABELS, arguments, training={"data": "/no/longer/there"})
    )


@pytest.mark.parametrize("channels", [1, 3, 12])
def test_a_model_is_exported_where_its_data_has_gone(tmp_path: Path, channels: int) -> None:
    folder = saved(tmp_path / "model", channels)
    found = api.export(folder, "bundle", tmp_path / "out")
    assert found.parity.argmax_agreement == 1 and "/no/longer/there" in found.parity.source
    image = np.random.default_rng(0).integers(0, 256, (40, 48, channels), np.uint8)
    assert (load(tmp_path / "out")(image).labels == load(folder)(image).labels).all()


def test_one_channel_takes_color_as_gray(tmp_path: Path) -> None:
    network = create_model("segnet_basic", classes=3, weights=None, width=4, in_channels=1).eval()
    color = np.random.default_rng(0).integers(0, 256, (1, 40, 48, 3), np.uint8)
    gray = fit_channels(color[0], 1)[None]
    with torch.inference_mode():
        a, b = (network(torch.from_numpy(pixels)).logits for pixels in (color, gray))
    assert torch.allclose(a, b, atol=1e-3)


def test_a_network_of_one_channel_is_trained_predicts_and_is_exported(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(6):
        mask = np.kron(rng.integers(0, 2, (4, 6)), np.ones((8, 8))).astype(np.uint8)
        image = np.clip(mask * 150 + 50 + rng.normal(0, 10, mask.shape), 0, 255).astype(np.uint8)
        write_image(tmp_path / "data" / "images" / f"{i}.png", image[..., None])
        write_mask(tmp_path / "data" / "masks" / f"{i}.png", mask)
    (tmp_path / "data" / "classes.txt").write_text("ground\nthing\n")
    settings = {"model.in_channels": 1, "model.arguments": {"width": 4}, "training.size": "32x32"}
    run = api.train(tmp_path / "data", model="segnet_basic", weights="none", epochs=1, batch=2, device="cpu",
                    out=tmp_path / "run", settings=settings)  # fmt: skip
    assert run is not None
    predictor = load(tmp_path / "run")
    assert predictor.runtime.in_channels == 1
    found = api.predict(predictor, tmp_path / "data" / "images", out=tmp_path / "masks")
    assert found.images == 6
    assert api.evaluate(tmp_path / "run", tmp_path / "data").images > 0
    assert api.export(tmp_path / "run", "onnx", tmp_path / "m.onnx").parity.argmax_agreement > 0.999


class Numbers:
    """A runtime that answers one value."""

    classes, in_channels = 2, 3

    def __init__(self, value: float) -> None:
        self.value = value

    def logits(self, images: UInt8Array) -> Float32Array:
        found = np.zeros((len(images), 2, *images.shape[1:3]), np.float32)
        found[:, 0, 0, 0] = self.value
        return found

    def labels(self, images: UInt8Array) -> tuple[UInt8Array, Float32Array]:
        return np.zeros(images.shape[:3], np.uint8), np.ones(images.shape[:3], np.float32)


def test_an_export_that_answers_nan_does_not_agree(tmp_path: Path) -> None:
    samples = [Sample("a", np.zeros((40, 80, 3), np.uint8))]
    parity = compare(Numbers(0.0), Numbers(float("nan")), samples)
    with pytest.raises(ExportError):
        check_parity(parity, tmp_path)
    with pytest.raises(ExportError):
        check_parity(Parity(float("nan"), 1.0, 0.0, ()), tmp_path)
