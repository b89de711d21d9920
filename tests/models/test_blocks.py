"""Parts that several networks share."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from segwright.models.blocks import conv_of_upsampled
from segwright.models.unet import UNetBlock


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 3), (7, 8)])
def test_convolution_of_the_upsampled_is_the_plain_one(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, *size, dtype=torch.double, requires_grad=True)
    weight = torch.randn(6, 5, 3, 3, dtype=torch.double, requires_grad=True)
    plain = F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), weight, padding=1)
    folded = conv_of_upsampled(x, weight)
    torch.testing.assert_close(folded, plain)
    upstream = torch.randn_like(plain)
    for ours, theirs in zip(
        torch.autograd.grad(folded, (x, weight), upstream),
        torch.autograd.grad(plain, (x, weight), upstream),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("skip_channels", [0, 3])
def test_a_block_answers_the_same_folded_or_not(skip_channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    block = UNetBlock(4, skip_channels, 6, interpolation="nearest").eval()
    x = torch.randn(2, 4, 9, 7)
    skip = torch.randn(2, skip_channels, 18, 14) if skip_channels else None
    assert block._folds(x, skip)
    folded = block(x, skip)
    monkeypatch.setattr(UNetBlock, "_folds", lambda *_: False)
    torch.testing.assert_close(folded, block(x, skip), atol=1e-5, rtol=1e-5)


def test_blocks_that_cannot_fold_do_not() -> None:
    x, skip = torch.zeros(1, 2, 5, 5), torch.zeros(1, 2, 9, 9)
    assert not UNetBlock(2, 2, 2, interpolation="nearest")._folds(x, skip)  # 9 is not twice 5
    assert not UNetBlock(2, 0, 2, interpolation="bilinear")._folds(x, None)
    assert not UNetBlock(64, 0, 2, interpolation="nearest")._folds(
        torch.zeros(1, 64, 2, 2), None
    )  # more weights than pixels
