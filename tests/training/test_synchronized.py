"""Batch norms over several processes: the same network, activation and all."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from segwright.models.catalog import create_model
from segwright.training.distributed.world import synchronized


@pytest.mark.parametrize(
    ("name", "encoder"), [("unet", "mobilenetv2_100"), ("unet", "resnet18"), ("leannet", None), ("ddrnet", None)]
)
def test_it_predicts_the_same(name: str, encoder: str | None) -> None:
    torch.manual_seed(0)
    plain = create_model(name, classes=3, encoder=encoder, weights=None)
    plain.train()(torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8))  # statistics that are not 0 and 1
    plain.eval()
    other = synchronized(copy.deepcopy(plain)).eval()
    assert not any(isinstance(part, nn.BatchNorm2d) for part in other.modules())
    assert any(isinstance(part, nn.SyncBatchNorm) for part in other.modules())
    assert list(other.state_dict()) == list(plain.state_dict())
    images = torch.randint(0, 256, (1, 64, 96, 3), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.allclose(plain(images).logits, other(images).logits, atol=1e-5)
