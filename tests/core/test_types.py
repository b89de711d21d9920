"""Label spaces refuse at construction what would fail, or mean something else, at the first mask."""

from __future__ import annotations

import pytest

from segwright.core.errors import LabelError
from segwright.core.types import LabelSpace


@pytest.mark.parametrize("value", [-1, 65536, 10**12])
def test_a_value_that_no_mask_can_hold_is_refused(value: int) -> None:
    with pytest.raises(LabelError, match=f"0 to 65535(.|\n)*{value}"):
        LabelSpace(("road", "car"), mapping={0: 0, value: 1})


def test_the_largest_value_of_a_mask_is_taken() -> None:
    assert LabelSpace(("road", "car"), mapping={0: 0, 65535: 1}).lookup()[[0, 65535, 65534]].tolist() == [0, 1, -1]


@pytest.mark.parametrize("level", [-1, 256])
def test_a_color_beyond_8_bits_is_refused(level: int) -> None:
    with pytest.raises(LabelError, match="0 to 255"):
        LabelSpace(("road", "car"), colors=((0, 0, 0), (0, level, 0)))
