"""Instance and batch norm side by side: the short way against torch's two norms."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from segwright.models.leannet import LeanNet
from segwright.models.norms import InstanceBatchNorm, _Together


def beside(norm: InstanceBatchNorm, x: Tensor) -> Tensor:
    """What torch's own modules say."""
    return torch.cat([norm.instance(x[:, : norm.first]), norm.batch(x[:, norm.first :])], dim=1)


@pytest.mark.parametrize("shape", [(3, 8, 5, 7), (2, 5, 9, 4), (1, 6, 3, 3), (2, 4, 1, 6)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_it_is_two_norms(shape: tuple[int, int, int, int], layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    ours = InstanceBatchNorm(shape[1], momentum=0.05)
    for parameter in ours.parameters():
        nn.init.normal_(parameter)
    theirs = copy.deepcopy(ours)
    x = (torch.randn(shape) * 2 + 1).contiguous(memory_format=layout)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    weights = torch.randn(shape)
    for _ in range(2):  # running statistics move twice
        (torch.relu_(ours(a)) * weights).sum().backward()  # in place, as networks do
        (torch.relu(beside(theirs, b)) * weights).sum().backward()
    assert a.grad is not None and b.grad is not None
    assert torch.allclose(ours(x), beside(theirs, x), atol=1e-5)
    assert torch.allclose(a.grad, b.grad, atol=1e-4)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert mine.grad is not None and other.grad is not None
        assert torch.allclose(mine.grad, other.grad, atol=1e-4)
    for (name, mine), (_, other) in zip(ours.named_buffers(), theirs.named_buffers(), strict=True):
        assert torch.allclose(mine, other, atol=1e-5), name
    ours.eval(), theirs.eval()
    assert torch.allclose(ours(x), beside(theirs, x), atol=1e-6)


def test_its_gradients_by_differences() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 6, 4, 5, dtype=torch.double, requires_grad=True)
    weight, bias = (torch.rand(6, dtype=torch.double, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda *values: _Together.apply(*values, 3, 1e-5)[0], (x, weight, bias))


def test_one_colour_gives_numbers() -> None:
    norm = InstanceBatchNorm(4)
    x = torch.full((2, 4, 8, 8), 37.3, requires_grad=True)
    out = norm(x)
    out.sum().backward()
    assert x.grad is not None and torch.isfinite(out).all() and torch.isfinite(x.grad).all()


def test_freezing_the_batch_norm_keeps_its_statistics() -> None:
    norm = InstanceBatchNorm(4)
    norm.batch.eval()
    norm(torch.randn(2, 4, 8, 8) + 5)
    assert norm.batch.running_mean is not None and norm.batch.running_mean.abs().max() == 0


def test_leannet_forgets_the_light_in_half_of_its_early_channels() -> None:
    """Another exposure changes what the instance half says by nothing, and what batch norm says by much."""
    torch.manual_seed(0)
    net = LeanNet(classes=3).eval()
    dim = torch.rand(1, 12, 32, 32)
    features, brighter = net.stem[:2](dim), net.stem[:2](dim * 1.7)
    half = net.stem[1].first
    assert torch.allclose(features[:, :half], brighter[:, :half], atol=1e-2)
    assert (features[:, half:] - brighter[:, half:]).abs().mean() > 0.05
    instances = [name for name, part in net.named_modules() if isinstance(part, InstanceBatchNorm)]
    assert instances == ["stem.1", "stage2.0.1", "stage2.1.conv1.1", "stage3.0.conv1.1", "stage3.1.conv1.1"]
    without = LeanNet(classes=3, instance_norm=False)
    assert not any(isinstance(part, InstanceBatchNorm) for part in without.modules())
