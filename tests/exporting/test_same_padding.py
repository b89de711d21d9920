"""Convolutions padded as TensorFlow's: by numbers while a graph is traced, with the same results."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from segwright import kernels
from segwright.exporting.same_padding import constant_padding
from segwright.models.catalog import create_model
from segwright.models.ensemble import Ensemble

LITE0 = "tf_efficientnet_lite0"


def padded_by_numbers(network: nn.Module) -> int:
    return sum("forward" in vars(module) for module in network.modules())


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("unet", {}), ("unet", {"encoder_depth": 3}), ("unet", {"output_stride": 8}), ("deeplabv3plus", {})],
)
@pytest.mark.parametrize("patched", [True, False])
def test_results_stay_the_same(name: str, arguments: dict[str, Any], patched: bool) -> None:
    torch.manual_seed(0)
    network = create_model(name, encoder=LITE0, classes=3, weights=None, **arguments).eval()
    if patched:
        kernels.patch(network)
    for height, width in ((97, 131), (64, 96), (1, 33)):
        images = torch.randint(0, 255, (2, height, width, 3), dtype=torch.uint8)
        with torch.inference_mode():
            before = network(images).logits
            with constant_padding(network):
                assert padded_by_numbers(network)
                now = network(images).logits
        assert not padded_by_numbers(network)
        torch.testing.assert_close(now, before)


def test_only_what_is_padded_to_whole_strides() -> None:
    lite = create_model("unet", encoder=LITE0, classes=3, weights=None)
    others = create_model("unet", encoder="mobilenetv2_100", classes=3, weights=None)
    with constant_padding(Ensemble(members=[lite, others])):
        assert padded_by_numbers(lite) and not padded_by_numbers(others)
    with pytest.raises(RuntimeError), constant_padding(lite):
        raise RuntimeError
    assert not padded_by_numbers(lite), "also behind an error"
    for name in ("fcn", "pspnet"):  # of images as they are, and of multiples plus one
        network = create_model(name, encoder=LITE0, classes=3, weights=None)
        with constant_padding(network):
            assert not padded_by_numbers(network)
