"""Label Studio's brush coding: the bytes of its own encoder, every pixel back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segwright.core.errors import LabelError
from segwright.data.annotations.rle import decode_label_studio, encode_label_studio


def reference(mask: np.ndarray[tuple[int, int], np.dtype[np.bool_]]) -> list[int]:
    """The published coding (rle-pack), run by run, as Label Studio's converter writes it."""
    values = np.repeat(mask.ravel().astype(np.uint8) * 255, 4).tolist()
    bits = f"{len(values):032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    at = 0
    while at < len(values):
        end = at
        while end < len(values) and values[end] == values[at]:
            end += 1
        left = end - at
        while left:
            now = min(left, 1 << 16)
            which = next(k for k, size in enumerate((3, 4, 8, 16)) if now <= 1 << size)
            width = (3, 4, 8, 16)[which]
            bits += f"1{which:02b}{now - 1:0{width}b}{values[at]:08b}"
            left -= now
        at = end
    bits += "0" * (8 - len(bits) % 8)
    return [int(bits[k : k + 8], 2) for k in range(0, len(bits), 8)]


masks = st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1), st.floats(0, 1)).map(
    lambda given: np.random.default_rng(given[2]).random(given[:2]) < given[3]
)


@settings(max_examples=150, deadline=None)
@given(masks)
def test_the_bytes_are_those_of_the_reference_and_every_pixel_comes_back(mask: np.ndarray) -> None:  # type: ignore[type-arg]
    found = encode_label_studio(mask)
    assert found == reference(mask)
    np.testing.assert_array_equal(decode_label_studio(found, *mask.shape), mask)


def test_bytes_of_label_studio_sdk_2_1_2() -> None:
    """Written by ``label_studio_sdk.converter.brush.mask2rle``."""
    assert encode_label_studio(np.array([[1, 0], [1, 1]])) == [0, 0, 0, 16, 57, 27, 252, 127, 241, 128, 79, 254]


@pytest.mark.parametrize("side", [127, 128, 129, 300])  # 4·128² = 65,536 is the longest run
def test_runs_longer_than_the_longest(side: int) -> None:
    for mask in (np.ones((side, side), bool), np.zeros((side, side), bool)):
        mask[-1, -1] = not mask[0, 0]
        found = encode_label_studio(mask)
        assert found == reference(mask)
        np.testing.assert_array_equal(decode_label_studio(found, side, side), mask)


def test_a_mask_without_pixels_is_refused() -> None:
    with pytest.raises(LabelError, match="does not fit"):
        encode_label_studio(np.zeros((0, 5), bool))
