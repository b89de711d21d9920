"""Winograd's convolution against torch's."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segwright import kernels
from segwright.kernels.winograd import Winograd, WinogradForm, applies


def random_map(*shape: int) -> Tensor:
    return torch.randn(*shape).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(
    ("n", "c", "o", "height", "width"),
    [
        (1, 16, 16, 4, 4),
        (2, 16, 32, 1, 1),
        (2, 32, 16, 9, 10),
        (1, 48, 16, 6, 23),
        (3, 16, 48, 17, 8),
        (1, 16, 16, 3, 40),
    ],
)
def test_it_is_a_convolution(n: int, c: int, o: int, height: int, width: int, threads: int) -> None:
    torch.manual_seed(0)
    x, weight, slope = random_map(n, c, height, width), torch.randn(o, c, 3, 3), random_map(n, o, height, width)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        a, w = x.clone().requires_grad_(), weight.clone().requires_grad_()
        ours = Winograd.apply(a, w)
        found = (ours, *torch.autograd.grad(ours, (a, w), slope))
    finally:
        torch.set_num_threads(before)
    b, v = x.double().requires_grad_(), weight.double().requires_grad_()
    exact = F.conv2d(b, v, padding=1)
    for mine, other in zip(found, (exact, *torch.autograd.grad(exact, (b, v), slope.double())), strict=True):
        assert (mine.double() - other).abs().max() <= 3e-5 * other.abs().max()


def test_a_gradient_in_another_layout() -> None:
    """What flows back through a transpose or an expansion is not channels-last."""
    torch.manual_seed(0)
    x, weight = random_map(2, 16, 8, 8).requires_grad_(), torch.randn(16, 16, 3, 3)
    ours = torch.autograd.grad(Winograd.apply(x, weight).sum(), x)[0]
    theirs = torch.autograd.grad(F.conv2d(x, weight, padding=1).sum(), x)[0]
    assert torch.allclose(ours, theirs, atol=1e-3)


@pytest.mark.parametrize("bias", [False, True])
def test_a_network_takes_it_in_training_only(bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(96, 112, 3, padding=1, bias=bias), nn.ReLU(), nn.Conv2d(112, 16, 3, padding=1))
    plain = plain.to(memory_format=torch.channels_last)
    quick = copy.deepcopy(plain)
    kernels.patch(quick)
    assert list(quick.state_dict()) == list(plain.state_dict())
    assert [isinstance(part, WinogradForm) for part in quick] == [True, False, False]
    calls = []
    real = Winograd.apply
    monkeypatch.setattr(Winograd, "apply", lambda *values: calls.append(1) or real(*values))
    x = random_map(2, 96, 24, 24)
    quick(x).square().mean().backward()
    plain(x).square().mean().backward()
    assert len(calls) == 1
    for a, b in zip(quick.parameters(), plain.parameters(), strict=True):
        assert a.grad is not None and b.grad is not None
        assert torch.allclose(a.grad, b.grad, atol=1e-5 * float(b.grad.abs().max()) + 1e-7, rtol=1e-3)
    quick.eval()
    with torch.no_grad():
        assert torch.equal(quick(x), plain(x))
    assert len(calls) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"stride": 2}, {"padding": 0}, {"dilation": 2, "padding": 2}, {"groups": 2}, {"padding_mode": "reflect"},
        {"kernel_size": 1, "padding": 0}, {"in_channels": 64}, {"out_channels": 100},
    ],
    ids=str,
)  # fmt: skip
def test_other_convolutions_stay_torch_s(change: dict[str, object]) -> None:
    conv = nn.Conv2d(**{"in_channels": 96, "out_channels": 96, "kernel_size": 3, "padding": 1, **change})  # type: ignore[arg-type]
    kernels.patch(conv)
    assert type(conv) is nn.Conv2d


def test_what_does_not_suit() -> None:
    x, weight = random_map(2, 96, 24, 24), torch.randn(96, 96, 3, 3)
    assert applies(x, weight)
    assert not applies(x.contiguous(), weight)
    assert not applies(x.bfloat16(), weight)
    assert not applies(x[:, :, :5, :5].contiguous(memory_format=torch.channels_last), weight)
    assert not applies(random_map(16, 96, 5, 5), weight), "more than half of the tiles' pixels would be border"
    with torch.autocast("cpu", torch.bfloat16):
        assert not applies(x, weight)
