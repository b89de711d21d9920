"""Fine-tuning keeps what fits, matches classes by name, and says what it began anew."""

from __future__ import annotations

import pytest
import torch

from segwright.errors import WeightsError
from segwright.models.leannet import LeanNet
from segwright.training.finetune import transfer_weights
from segwright.types import LabelSpace


def network(classes: int, **changed: object) -> LeanNet:
    arguments = {"widths": (4, 8, 8, 8, 8), "decoder_channels": (4, 8, 8, 8), **changed}
    return LeanNet(classes=classes, **arguments)  # type: ignore[arg-type]


def test_classes_are_matched_by_name() -> None:
    source, target = network(3), network(3)
    fresh = target.head.weight.detach().clone()
    lines = transfer_weights(source, LabelSpace(("a", "b", "c")), target, LabelSpace(("c", "new", "a")))
    assert torch.equal(target.head.weight[0], source.head.weight[2])
    assert torch.equal(target.head.weight[2], source.head.weight[0])
    assert torch.equal(target.head.weight[1], fresh[1])
    assert torch.equal(target.stem[0].weight, source.stem[0].weight)
    assert "matched by class name (c, a)" in lines[1]


def test_another_number_of_classes_keeps_the_rest() -> None:
    source, target = network(2), network(4)
    transfer_weights(source, LabelSpace(("a", "b")), target, LabelSpace(("x", "b", "y", "z")))
    assert torch.equal(target.head.weight[1], source.head.weight[1])
    assert torch.equal(target.fuse1.conv[0].weight, source.fuse1.conv[0].weight)


def test_another_network_is_refused() -> None:
    with pytest.raises(WeightsError, match="another network"):
        transfer_weights(network(2), LabelSpace(("a", "b")), network(2, widths=(6, 6, 6, 6, 6)), LabelSpace(("a", "b")))
