"""The convolution of an upsampled map and a finer one, against upsampling, concatenating and convolving."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from segwright import kernels
from segwright.kernels.upsampled_conv import UpsampleConcatConvForm, applies, conv_of_upsampled
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
@pytest.mark.parametrize("training", [False, True])
def test_a_patched_block_computes_the_same(skip_channels: int, training: bool) -> None:
    torch.manual_seed(0)
    block = UNetBlock(4, skip_channels, 6, interpolation="nearest").train(training)
    patched = kernels.patch(copy.deepcopy(block))
    assert isinstance(patched, UpsampleConcatConvForm)
    x = torch.randn(2, 4, 9, 7)
    skip = torch.randn(2, skip_channels, 18, 14) if skip_channels else None
    assert applies(x, skip)
    expected = block(x, skip)
    torch.testing.assert_close(patched(x, skip), expected, atol=1e-5, rtol=1e-5)
    patched.load_state_dict(block.state_dict())
    with kernels.disabled():
        assert torch.equal(patched.eval()(x, skip), block.eval()(x, skip))


def test_where_it_does_not_apply() -> None:
    x, skip = torch.zeros(1, 2, 5, 5), torch.zeros(1, 2, 9, 9)
    assert applies(x, None)
    assert not applies(x, skip)  # 9 is not twice 5
    assert not applies(x.double(), None)
    assert not applies(torch.zeros(1, 64, 2, 2), None)  # more weights than pixels
    with kernels.disabled():
        assert not applies(x, None)
    block = UNetBlock(2, 0, 2, interpolation="bilinear").eval()
    image = torch.randn(1, 2, 5, 5)
    assert torch.equal(kernels.patch(copy.deepcopy(block))(image, None), block(image, None))
