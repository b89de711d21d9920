"""Depthwise convolutions by the short ways, against torch's own in fp32 and against sums written out."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

from segwright import kernels
from segwright.kernels import depthwise, timm_layers

SHAPES = [  # kernel, stride, padding, dilation, height and width
    (3, 2, 1, 1, (9, 12)),
    (5, 2, 2, 1, (8, 7)),
    (3, 2, 2, 2, (11, 8)),
    (5, 1, 2, 1, (7, 9)),
    (7, 1, 3, 1, (5, 4)),
    (5, 3, 0, 1, (11, 13)),
    (5, 1, 6, 2, (3, 2)),
]


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation", "size"), SHAPES)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("half", [False, True])
def test_gradients_are_those_of_torch_in_fp32(
    kernel: int, stride: int, padding: int, dilation: int, size: tuple[int, int], bias: bool, half: bool
) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(8, 8, kernel, stride, padding, dilation, groups=8, bias=bias)
    with torch.no_grad():  # what bf16 holds exactly, so that only sums are rounded
        for parameter in plain.parameters():
            parameter.copy_(parameter.bfloat16())
    quick = nn.Sequential(copy.deepcopy(plain))
    kernels.patch(quick)
    assert isinstance(quick[0], depthwise.DepthwiseForm)
    x = channels_last(torch.randn(2, 8, *size).bfloat16().float())
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected = plain(a)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        out = quick(b)
    assert out.dtype == (torch.bfloat16 if half else torch.float32)
    slope = torch.randn_like(expected).bfloat16()
    expected.backward(slope.float())
    out.backward(slope.to(out.dtype))
    loose, tight = {"rtol": 2e-2, "atol": 5e-2}, {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(out.float(), expected, **(loose if half else tight))
    assert a.grad is not None and b.grad is not None
    torch.testing.assert_close(b.grad, a.grad, **({"rtol": 1e-2, "atol": 1e-2} if half else tight))
    for ours, theirs in zip(quick.parameters(), plain.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None
        torch.testing.assert_close(ours.grad, theirs.grad, **(loose if half else tight))


@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation", "size"), SHAPES)
def test_kernels_are_the_sums_written_out(
    kernel: int, stride: int, padding: int, dilation: int, size: tuple[int, int]
) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 3, *size)).astype(np.float32)
    weight = rng.standard_normal((3, 1, kernel, kernel)).astype(np.float32)
    height, width = ((n + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1 for n in size)
    slope = rng.standard_normal((2, 3, height, width)).astype(np.float32)
    of_x, of_weight = np.zeros_like(x, np.float64), np.zeros_like(weight, np.float64)
    for n, c, h, w, i, j in np.ndindex(2, 3, height, width, kernel, kernel):
        row, column = h * stride + i * dilation - padding, w * stride + j * dilation - padding
        if 0 <= row < size[0] and 0 <= column < size[1]:
            of_x[n, c, row, column] += slope[n, c, h, w] * weight[c, 0, i, j]
            of_weight[c, 0, i, j] += slope[n, c, h, w] * x[n, c, row, column]
    geometry = ((kernel, kernel), (stride, stride), (padding, padding), (dilation, dilation))
    images, slopes = (channels_last(torch.from_numpy(values)) for values in (x, slope))
    found = depthwise.input_gradient(images, torch.from_numpy(weight), slopes, *geometry)
    np.testing.assert_allclose(found.numpy(), of_x, rtol=1e-4, atol=1e-4)
    found = depthwise.weight_gradient(images, slopes, *geometry)
    np.testing.assert_allclose(found.numpy(), of_weight, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [(8, 12), (9, 7)])
def test_padding_as_tensorflow_does(kernel: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    plain = Conv2dSame(8, 8, kernel, 2, groups=8, bias=False)
    quick = nn.Sequential(copy.deepcopy(plain))
    kernels.patch(quick)
    assert isinstance(quick[0], timm_layers.DepthwiseSameForm)
    x = channels_last(torch.randn(2, 8, *size))
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = quick(b)
    expected = plain(a)
    slope = torch.randn_like(expected).bfloat16()
    expected.backward(slope.float())
    out.backward(slope)
    assert a.grad is not None and b.grad is not None
    torch.testing.assert_close(out.float(), expected, rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(b.grad, a.grad, rtol=3e-2, atol=3e-2)
    torch.testing.assert_close(quick[0].weight.grad, plain.weight.grad, rtol=3e-2, atol=1e-1)
    torch.testing.assert_close(quick.eval()(x), plain(x))


def test_threads_change_no_bit() -> None:
    torch.manual_seed(0)
    x, slope = channels_last(torch.randn(5, 8, 9, 11)), channels_last(torch.randn(5, 8, 9, 11))
    geometry = ((5, 5), (1, 1), (2, 2), (1, 1))
    threads, found = torch.get_num_threads(), []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        found.append(depthwise.weight_gradient(x, slope, *geometry))
    torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_it_is_taken_where_it_is_the_short_way_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = depthwise.Depthwise.apply
    monkeypatch.setattr(depthwise.Depthwise, "apply", lambda *values: calls.append(1) or real(*values))
    net = nn.Sequential(
        nn.Conv2d(8, 8, 3, 2, 1, groups=8),
        nn.Conv2d(8, 8, 3, 1, 1, groups=8),
        nn.Conv2d(8, 8, 3, 2, 1),
        nn.Conv2d(8, 8, 5, 1, 2, groups=8),
    )
    kernels.patch(net)
    assert [isinstance(module, depthwise.DepthwiseForm) for module in net] == [True, False, False, True]
    x = torch.randn(1, 8, 16, 16, requires_grad=True)
    net.eval()(x)
    net[0].train()(x)
    net[3].train()(x.detach())
    assert not calls, "eval, a short kernel in fp32, nothing to learn below"
    net.train()(x)
    assert calls == [1], "the wide kernel, in fp32 too"
    with torch.autocast("cpu", torch.bfloat16):
        net(x)
    assert calls == [1, 1, 1]
