"""Arrays that travel with a saved model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from segwright.core.errors import BundleError, UsageError
from segwright.core.types import LabelSpace
from segwright.inference.attachments import Attachment
from segwright.inference.bundle import Bundle, load_bundle, read_attachment, read_attachments, save_bundle
from segwright.models.catalog import create_model

LABELS = LabelSpace(("a", "b"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    network = create_model("segnet_basic", classes=2, weights=None, width=4).eval()
    made = Attachment({"means": np.arange(6, dtype=np.float32).reshape(2, 3)}, {"images": 7, "undefined": float("nan")})
    return save_bundle(tmp_path / "model", network, Bundle("segnet_basic", LABELS, {"width": 4}), {"reference": made})


def test_an_attachment_comes_back_as_it_was(folder: Path) -> None:
    found = read_attachment(folder, "reference")
    assert found is not None and found.description == {"images": 7, "undefined": None}
    assert np.array_equal(found.arrays["means"], np.arange(6, dtype=np.float32).reshape(2, 3))
    assert list(read_attachments(folder)) == ["reference"] and read_attachment(folder, "other") is None
    assert load_bundle(folder)[1].architecture == "segnet_basic"


def test_a_model_saved_again_without_attachments_has_none(folder: Path) -> None:
    network, bundle = load_bundle(folder)
    save_bundle(folder, network, bundle, read_attachments(folder))
    assert list(read_attachments(folder)) == ["reference"]
    save_bundle(folder, network, bundle)
    assert read_attachments(folder) == {}


def test_an_altered_attachment_is_found(folder: Path) -> None:
    path = folder / "attachment-reference.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match="altered"):
        read_attachment(folder, "reference")


@pytest.mark.parametrize("name", ["../x", "", "A", "a/b", "a" * 60])
def test_names_stay_in_the_folder(folder: Path, name: str) -> None:
    with pytest.raises(UsageError):
        read_attachment(folder, name)


def test_a_file_of_another_kind_is_a_typed_error(folder: Path) -> None:
    path = folder / "attachment-reference.safetensors"
    path.write_bytes(b"\x80\x04pickle")
    (folder / "SHA256SUMS").unlink()
    with pytest.raises(BundleError):
        read_attachment(folder, "reference")
