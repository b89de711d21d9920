"""Strided depthwise convolutions in bf16, against torch's in fp32."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from segwright.models import depthwise
from segwright.models.quicken import quicken


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "size"),
    [(3, 2, 1, 1, (9, 12)), (5, 2, 2, 1, (8, 7)), (3, 2, 2, 2, (11, 8))],
)
@pytest.mark.parametrize("bias", [False, True])
def test_gradients_are_those_of_fp32(
    kernel: int, stride: int, padding: int, dilation: int, size: tuple[int, int], bias: bool
) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(8, 8, kernel, stride, padding, dilation, groups=8, bias=bias)
    with torch.no_grad():  # what bf16 holds exactly, so that only sums are rounded
        for parameter in plain.parameters():
            parameter.copy_(parameter.bfloat16())
    quick = nn.Sequential(copy.deepcopy(plain))
    quicken(quick)
    assert type(quick[0]) is depthwise.Conv2d
    x = torch.randn(2, 8, *size).bfloat16().float().contiguous(memory_format=torch.channels_last)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected = plain(a)
    with torch.autocast("cpu", torch.bfloat16):
        out = quick(b)
    assert out.dtype == torch.bfloat16
    slope = torch.randn_like(expected).bfloat16()
    expected.backward(slope.float())
    out.backward(slope)
    torch.testing.assert_close(out.float(), expected, rtol=1e-2, atol=1e-2)
    assert a.grad is not None and b.grad is not None
    torch.testing.assert_close(b.grad, a.grad, rtol=1e-2, atol=1e-3)
    for ours, theirs in zip(quick.parameters(), plain.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=2e-2, atol=5e-2)


def test_it_is_taken_in_bf16_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = depthwise.Strided.apply
    monkeypatch.setattr(depthwise.Strided, "apply", lambda *values: calls.append(1) or real(*values))
    net = nn.Sequential(
        nn.Conv2d(8, 8, 3, 2, 1, groups=8), nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.Conv2d(8, 8, 3, 2, 1)
    )
    quicken(net)
    assert [type(module) is depthwise.Conv2d for module in net] == [True, False, False]
    x = torch.randn(1, 8, 16, 16, requires_grad=True)
    net(x)
    with torch.autocast("cpu", torch.bfloat16):
        net.eval()(x)
        net.train()(x.detach())
        assert not calls
        net(x)
    assert calls == [1]
