"""State dicts with names, shapes or kinds of tensors that no conversion expects are refused as weights, never raw."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from segwright.core.errors import WeightsError
from segwright.models.base import SegmentationModel
from segwright.models.catalog import create_model
from segwright.models.convert import load_converted

Make = Callable[[dict[str, Tensor]], dict[str, Tensor]]
ODD: dict[str, Make] = {
    "a stage without a number": lambda own: {"decode_head.a": torch.zeros(1), "segformer.x": torch.zeros(1)},
    "40,000 letters": lambda own: {"decode_head." + "a." * 20_000: torch.zeros(1), "segformer.x": torch.zeros(1)},
    "only a key without its value": lambda own: {"decode_head.a": torch.zeros(1),
                                                 "segformer.stages.0.blocks.0.attention.k_proj.weight": torch.zeros(1)},
    "scalars": lambda own: {name: torch.zeros(()) for name in own},
    "four dimensions everywhere": lambda own: {name: torch.zeros(1, 1, 1, 1) for name in own},
    "five dimensions": lambda own: {name: torch.zeros(1, 1, 1, 1, 1) for name in own},
    "empty": lambda own: {name: torch.zeros(0) for name in own},
    "sparse": lambda own: {name: tensor.to_sparse() for name, tensor in own.items()},
    "without storage": lambda own: {name: tensor.to("meta") for name, tensor in own.items()},
    "smp's names without layers": lambda own: {"segmentation_head": torch.zeros(1), "encoder": torch.zeros(1)},
    "torchvision's names": lambda own: {"backbone.x": torch.zeros(1), "classifier": torch.zeros(1)},
    "one empty name": lambda own: {"": torch.zeros(1)},
    "dots": lambda own: {".": torch.zeros(1), "..": torch.zeros(1), "...": torch.zeros(1)},
    "nothing": lambda own: {},
}  # fmt: skip


@pytest.fixture(scope="module", params=["segformer", "segnet_basic"])
def model(request: pytest.FixtureRequest) -> SegmentationModel:
    small = {"segnet_basic": {"width": 4}, "segformer": {}}[request.param]
    return create_model(request.param, classes=3, weights=None, **small)


@pytest.mark.parametrize("name", ODD)
def test_strange_state_dicts_are_refused(model: SegmentationModel, name: str) -> None:
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(WeightsError):
        load_converted(model, ODD[name](model.state_dict()))
    after = model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before), "the model stays as it was"
