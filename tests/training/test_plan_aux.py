"""The plan weighs auxiliary losses as a network's authors do, unless it is asked otherwise."""

from __future__ import annotations

import pytest
from test_plan import plan


@pytest.mark.parametrize(
    ("name", "asked", "expected"),
    [
        ("deeplabv2", None, 1.0),
        ("fcn_resnet50", None, 0.5),
        ("pspnet", None, 0.4),
        ("deeplabv2", 0.2, 0.2),
        ("leannet", None, 0.3),
        ("leannet", 0.1, 0.1),
    ],
)
def test_auxiliary_weights(name: str, asked: float | None, expected: float) -> None:
    found = plan({"model.name": name, **({} if asked is None else {"training.aux_weight": asked})})
    assert found.config.training.aux_weight == expected
