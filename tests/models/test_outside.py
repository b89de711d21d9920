"""Networks of other libraries by name: every kind they have, at sizes of no one's liking, in eval and in training."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from segwright.models.base import SegmentationModel
from segwright.models.catalog import create_model


def answers(model: SegmentationModel) -> None:
    images = torch.randint(0, 256, (2, 45, 70, 3), dtype=torch.uint8)
    with torch.no_grad():
        output = model.eval()(images)
    assert output.logits.shape == (2, 3, 45, 70) and torch.isfinite(output.logits).all() and output.aux == {}
    output = model.train()(images)
    torch.stack([x.mean() for x in (output.logits, *output.aux.values())]).sum().backward()
    assert [p for p in model.parameters() if p.requires_grad and p.grad is not None]


def torchvision_names() -> list[str]:
    torchvision = pytest.importorskip("torchvision")
    return list(torchvision.models.list_models(module=torchvision.models.segmentation))


@pytest.mark.parametrize("name", torchvision_names())
def test_every_segmentation_network_of_torchvision(name: str) -> None:
    """On the meta device: shapes, and the OrderedDict with its auxiliary logits."""
    options = {} if name.startswith("lraspp") else {"aux_loss": True}
    with torch.device("meta"):
        model = create_model(f"torchvision:{name}", classes=3, weights=None, **options)
        images = torch.empty(2, 45, 70, 3, dtype=torch.uint8)
        assert model.eval()(images).logits.shape == (2, 3, 45, 70)
        output = model.train()(images)
    assert set(output.aux) == ({"aux"} if options else set())
    assert all(aux.shape == (2, 3, 45, 70) for aux in output.aux.values())


SMP = ("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "PAN", "DeepLabV3", "DeepLabV3Plus", "UPerNet",
       "Segformer")  # fmt: skip


@pytest.mark.parametrize("name", SMP)
def test_every_convolutional_network_of_smp(name: str) -> None:
    pytest.importorskip("segmentation_models_pytorch")
    answers(create_model(f"smp:{name}", classes=3, weights=None, encoder_name="resnet18"))


TRANSFORMERS: dict[str, dict[str, Any]] = {
    "mobilenet_v2": {"depth_multiplier": 0.35},
    "mobilevit": {
        "hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 32, 64], "aspp_out_channels": 16,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_semantic_segmentation_of_transformers(name: str) -> None:
    pytest.importorskip("transformers")
    answers(create_model(f"transformers:{name}", classes=3, weights=None, **TRANSFORMERS[name]))
