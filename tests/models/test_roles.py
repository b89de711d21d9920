"""Every network declares its encoder and its classifier layers, and what asks for them touches nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from segwright.core.errors import UsageError, WeightsError
from segwright.models.base import SegmentationModel
from segwright.models.catalog import CATALOG, create_model
from segwright.models.convert import load_converted
from segwright.models.external import wrap
from segwright.training.config import TrainingConfig
from segwright.training.optim.optimizers import create_optimizer

ONE_PIECE = {"unet2015", "segnet_basic", "fc_densenet56", "fc_densenet67", "fc_densenet103", "ddrnet", "leannet"}
OUTSIDE = ["torchvision:fcn_resnet50", "torchvision:lraspp_mobilenet_v3_large", "smp:Unet", "transformers:segformer"]


def named(model: nn.Module, chosen: set[int]) -> set[str]:
    return {name for name, parameter in model.named_parameters() if id(parameter) in chosen}


@pytest.mark.parametrize("name", [*CATALOG, *OUTSIDE])
def test_every_network_declares_its_roles(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name, classes=7, weights=None)
    encoder = named(model, {id(parameter) for parameter in model.encoder_parameters()})
    assert bool(encoder) is (name not in ONE_PIECE)
    layers = model.classifier_layers()
    assert layers["logits"], "the class scores come from somewhere"
    for layer in (layer for group in layers.values() for layer in group):
        assert layer.weight.shape[0] == 7
        assert not named(model, {id(parameter) for parameter in layer.parameters()}) & encoder
    assert {id(layer) for group in layers.values() for layer in group} <= {id(m) for m in model.modules()}
    wide = [n for n, m in model.named_modules() if getattr(m, "out_channels", None) == 7 and hasattr(m, "weight")]
    declared = {id(layer) for group in layers.values() for layer in group}
    missing = [n for n in wide if id(model.get_submodule(n)) not in declared]
    assert not missing, "with a number of classes that is no width, all layers of that width are declared"


@pytest.mark.parametrize("name", ["fcn8s", "deeplabv1", "deeplabv2_vgg", "segnet", "lraspp", "unet", "ddrnet"])
def test_rates_per_part_follow_the_declaration(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name, classes=7, weights=None)
    config = TrainingConfig(optimizer="sgd", head_lr_factor=10.0)
    optimizer = create_optimizer(model, config, lr=1.0, weight_decay=0.0, encoder_lr_factor=0.1)
    rates = {id(p): group["base_lr"] for group in optimizer.param_groups for p in group["params"]}
    encoder = {id(parameter) for parameter in model.encoder_parameters()}
    head = {id(p) for group in model.classifier_layers().values() for layer in group for p in layer.parameters()}
    for parameter in model.parameters():
        if parameter.requires_grad:
            expected = 0.1 if id(parameter) in encoder else 10.0 if id(parameter) in head else 1.0
            assert rates[id(parameter)] == pytest.approx(expected)


def test_a_network_that_declares_no_classifier_is_refused_where_one_is_needed() -> None:
    model = wrap(nn.Conv2d(3, 2, 1), classes=2)
    config = TrainingConfig(optimizer="sgd", head_lr_factor=10.0)
    with pytest.raises(UsageError, match="declares no classifier layers"):
        create_optimizer(model, config, lr=1.0, weight_decay=0.0)


class Gated(SegmentationModel):
    """A hidden layer as wide as there are classes, on which no other layer's shape depends."""

    def __init__(self, *, classes: int, width: int) -> None:
        super().__init__(classes=classes, stride=1)
        self.gate, self.head = nn.Conv2d(3, width, 1), nn.Conv2d(3, classes, 1)

    def classifier_layers(self) -> dict[str, tuple[nn.Module, ...]]:
        return {"logits": (self.head,)}


def test_weights_leave_out_the_layers_that_are_declared_and_no_others() -> None:
    """A classifier for other classes may begin anew; a hidden layer of another width is another network."""
    model = Gated(classes=16, width=16)
    found = load_converted(model, Gated(classes=11, width=16).state_dict())
    assert set(found.left_out) == {"head.weight", "head.bias"} and not model.has_trained_classifier
    with pytest.raises(WeightsError, match=r"gate\.weight"):
        load_converted(model, Gated(classes=16, width=8).state_dict())


def test_the_declaration_of_a_base_network_is_empty() -> None:
    model = SegmentationModel(classes=2)
    assert not model.encoder_parameters() and not model.classifier_layers() and not model.scale_free_layers()
