"""Where a new network starts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from segwright.core.errors import ModelError
from segwright.data.records import nested_spread
from segwright.models.catalog import create_model
from segwright.models.external import wrap
from segwright.training.build import _spread_over_parts
from segwright.training.config import TrainConfig
from segwright.training.network import MIN_FREQUENCY, init_head_bias
from segwright.training.planning.timing import time_step


@pytest.mark.parametrize("name", ["leannet", "unet", "deeplabv3plus", "segformer", "ddrnet", "upernet", "pspnet"])
def test_a_new_network_says_how_frequent_each_class_is(name: str) -> None:
    torch.manual_seed(0)
    arguments = {} if name in ("leannet", "ddrnet", "segformer") else {"encoder": "resnet18"}
    model = create_model(name, classes=3, weights=None, **arguments)
    init_head_bias(model, (70, 20, 10), None)
    bias = model.head.get_parameter([key for key, _ in model.head.named_parameters() if key.endswith("bias")][-1])
    torch.testing.assert_close(bias.softmax(0), torch.tensor([0.7, 0.2, 0.1]))
    assert bias.mean().item() == pytest.approx(0, abs=1e-6)
    if getattr(model, "aux_head", None) is not None:
        biases = [value for key, value in model.aux_head.named_parameters() if key.endswith("bias")]
        torch.testing.assert_close(biases[-1], bias)


def test_frequencies_count_as_the_loss_weighs_them_and_what_is_absent_can_be_learnt() -> None:
    model = create_model("leannet", classes=3, weights=None)
    init_head_bias(model, (900, 100, 0), (1.0, 9.0, 4.0))
    start = model.head.bias.softmax(0)
    assert start[0].item() == pytest.approx(start[1].item(), rel=1e-3)
    assert (start[2] / start[0]).item() == pytest.approx(MIN_FREQUENCY / 0.5, rel=1e-3)


def test_of_few_validated_images_every_part_has_its_share() -> None:
    ids = [*(f"new/{i}" for i in range(10)), *(f"old/{i}" for i in range(200))]
    split = SimpleNamespace(records=[SimpleNamespace(id=name) for name in ids])
    part_of = lambda id: id.partition("/")[0]  # noqa: E731
    kept = _spread_over_parts(split, 8, part_of)  # type: ignore[arg-type]
    assert [part_of(ids[i]) for i in kept] == ["new"] * 4 + ["old"] * 4
    many = _spread_over_parts(split, 50, part_of)  # type: ignore[arg-type]
    assert many[:10] == list(range(10)) and len(many) == 50
    assert _spread_over_parts(split, 8, None) == nested_spread(210, 8)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["lraspp", "segnet_basic", "deeplabv2_vgg"])
def test_scores_that_are_summed_say_it_once(name: str) -> None:
    arguments = {"widths": (4, 4, 4, 8, 8), "fc_channels": 8} if name == "deeplabv2_vgg" else {}
    model = create_model(name, classes=3, weights=None, **arguments)
    layers = model.classifier_layers()["logits"]
    init_head_bias(model, (70, 20, 10), None)
    torch.testing.assert_close(layers[-1].bias.softmax(0), torch.tensor([0.7, 0.2, 0.1]))
    assert all(layer.bias.abs().max() < 0.5 for layer in layers[:-1])


def test_a_network_that_declares_no_classifier_stays_as_it_is() -> None:
    model = wrap(nn.Conv2d(3, 3, 1), classes=3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    init_head_bias(model, (1, 2, 3), None)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_step_is_timed_as_it_will_be_trained() -> None:
    """One image a batch, below a pooling of the whole image, trains with frozen batch norms, and is timed so."""
    values = {"model.name": "pspnet", "model.encoder": "resnet18", "training.optimizer": "sgd"}
    config = TrainConfig().with_values({**values, "training.freeze_bn": True})
    assert time_step(config, 2, torch.device("cpu"), (32, 32), 1, "fp32") > 0
    with pytest.raises(ModelError, match="freeze_bn=true"):
        time_step(config.with_values({"training.freeze_bn": False}), 2, torch.device("cpu"), (32, 32), 1, "fp32")
