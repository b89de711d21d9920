"""The short way through batch norm, instance norm and activation, against torch's modules."""

from __future__ import annotations

import copy
from typing import TypeVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segwright import kernels
from segwright.kernels import batch_norm
from segwright.kernels.batch_norm import NONE, RELU, RELU6, NormAct, norm_act
from segwright.models.blocks import InstanceBatchNorm
from segwright.models.catalog import create_model
from segwright.models.leannet import LeanNet


def beside(norm: InstanceBatchNorm, x: Tensor) -> Tensor:
    """What torch's own modules say."""
    return torch.cat([norm.instance(x[:, : norm.first]), norm.batch(x[:, norm.first :])], dim=1)


@pytest.fixture(params=["short", "torch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Small maps by the kernels, too; or none."""
    monkeypatch.setattr(batch_norm, "MIN_VALUES", 0 if request.param == "short" else 10**12)
    monkeypatch.setattr(batch_norm, "MIN_VALUES_THREADED", 0)
    return str(request.param)


Norm = TypeVar("Norm", bound=nn.Module)


def twins(norm: Norm) -> tuple[Norm, Norm]:
    """The norm with parameters at random, twice."""
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    return norm, copy.deepcopy(norm)


def inputs(shape: tuple[int, ...], layout: torch.memory_format) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A map, two copies of it that want gradients, and weights for its results."""
    x = (torch.randn(shape) * 2 + 1).contiguous(memory_format=layout)
    return x, x.clone().requires_grad_(), x.clone().requires_grad_(), torch.randn(shape)


def agree(ours: nn.Module, theirs: nn.Module, mine: Tensor, other: Tensor, x: Tensor, y: Tensor) -> None:
    """Outputs, gradients of the inputs and of the parameters, and running statistics."""
    assert torch.allclose(mine, other, atol=1e-5)
    for a, b in zip((x, *ours.parameters()), (y, *theirs.parameters()), strict=True):
        assert a.grad is not None and b.grad is not None
        assert torch.allclose(a.grad, b.grad, atol=2e-4)
    for (name, a), (_, b) in zip(ours.named_buffers(), theirs.named_buffers(), strict=True):
        assert torch.allclose(a, b, atol=1e-5), name


SHAPES = [(3, 8, 6, 8), (2, 5, 9, 4), (1, 6, 16, 3), (2, 4, 4, 6), (2, 64, 3, 1), (2, 24, 15, 9), (3, 16, 11, 13)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("clamp_range", [NONE, RELU, RELU6])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.usefixtures("way")
def test_it_is_torch_s_batch_norm_and_activation(
    shape: tuple[int, int, int, int], layout: torch.memory_format, clamp_range: tuple[float, float], threads: int
) -> None:
    torch.manual_seed(0)
    ours, theirs = twins(nn.BatchNorm2d(shape[1], momentum=0.05))
    x, a, b, weights = inputs(shape, layout)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for _ in range(2):  # running statistics move twice
            mine, other = norm_act(ours, a, clamp_range), F.hardtanh(theirs(b), *clamp_range)
            (mine * weights).sum().backward()
            (other * weights).sum().backward()
    finally:
        torch.set_num_threads(before)
    agree(ours, theirs, mine, other, a, b)
    ours.eval(), theirs.eval()
    assert torch.allclose(norm_act(ours, x, clamp_range), F.hardtanh(theirs(x), *clamp_range), atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 8, 6, 8), (2, 5, 9, 4), (1, 6, 16, 3), (2, 4, 4, 6), (2, 24, 15, 9)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.usefixtures("way")
def test_instance_and_batch_norm_side_by_side(shape: tuple[int, int, int, int], layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    ours, theirs = twins(InstanceBatchNorm(shape[1], momentum=0.05))
    kernels.patch(ours)
    x, a, b, weights = inputs(shape, layout)
    for _ in range(2):
        mine, other = ours(a), beside(theirs, b)
        (torch.relu_(mine) * weights).sum().backward()  # in place, as networks do
        (torch.relu_(other) * weights).sum().backward()
    agree(ours, theirs, mine, other, a, b)
    ours.eval(), theirs.eval()
    assert torch.allclose(ours(x), beside(theirs, x), atol=1e-6)


@pytest.mark.parametrize("clamp_range", [NONE, RELU, RELU6])
@pytest.mark.parametrize("own", [False, True])
def test_maps_in_bf16_are_normalized_in_fp32(
    clamp_range: tuple[float, float], own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The values and gradients of fp32 on the same numbers, rounded to bf16 once."""
    monkeypatch.setattr(batch_norm, "MIN_VALUES", 0)
    torch.manual_seed(0)
    ours, theirs = twins(InstanceBatchNorm(16) if own else nn.BatchNorm2d(16))
    x = (torch.randn(2, 16, 12, 8) * 2 + 1).bfloat16().contiguous(memory_format=torch.channels_last)
    a, b = x.clone().requires_grad_(), x.float().requires_grad_()
    mine, other = norm_act(ours, a, clamp_range), norm_act(theirs, b, clamp_range)
    assert mine.dtype == torch.bfloat16 and type(mine.grad_fn).__name__ == "NormActBackward"
    assert torch.equal(mine, other.bfloat16())
    slope = torch.randn(mine.shape).bfloat16()
    mine.backward(slope)
    other.backward(slope.float())
    assert a.grad is not None and b.grad is not None
    torch.testing.assert_close(a.grad, b.grad.bfloat16(), rtol=2**-7, atol=1e-5)
    for (name, p), (_, q) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert p.grad is not None and q.grad is not None
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-4, msg=name)
    for (name, p), (_, q) in zip(ours.named_buffers(), theirs.named_buffers(), strict=True):
        assert torch.allclose(p, q, atol=1e-5), name


def test_the_kernels_are_used_where_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the tests above compare torch with torch."""
    calls = []
    monkeypatch.setattr(batch_norm, "MIN_VALUES", 0)
    real = NormAct.apply
    monkeypatch.setattr(NormAct, "apply", lambda *values: calls.append(1) or real(*values))
    x = torch.randn(2, 16, 8, 8).contiguous(memory_format=torch.channels_last)
    norm = nn.BatchNorm2d(16)
    norm_act(norm, x, RELU)
    assert len(calls) == 1
    norm_act(norm, x.contiguous(), RELU)
    norm_act(nn.BatchNorm2d(16, momentum=None), x, RELU)
    norm_act(nn.BatchNorm2d(16, affine=False), x, RELU)
    norm_act(nn.BatchNorm2d(16, track_running_stats=False), x, RELU)
    norm_act(nn.BatchNorm2d(16).eval(), x, RELU)
    norm_act(nn.Identity(), x.clone(), RELU)
    assert len(calls) == 1
    kernels.patch(InstanceBatchNorm(16))(x)
    assert len(calls) == 2
    kernels.patch(nn.BatchNorm2d(16))(x)
    kernels.patch(nn.Sequential(nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16), nn.ReLU()))(x)
    assert len(calls) == 4


@pytest.mark.parametrize("own", [0, 3])
@pytest.mark.parametrize("clamp_range", [NONE, (-0.5, 0.8)])
def test_gradients_by_differences(own: int, clamp_range: tuple[float, float]) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 6, 4, 4, dtype=torch.double).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight, bias = (torch.rand(6, dtype=torch.double, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(
        lambda *values: NormAct.apply(*values, own, 1e-5, clamp_range)[0], (x, weight, bias), check_batched_grad=False
    )


def test_sums_lose_nothing_on_large_maps() -> None:
    """A mean far from zero over many pixels: within rounding of what double precision says."""
    torch.manual_seed(0)
    x = (torch.randn(2, 16, 200, 200) * 0.1 + 30).contiguous(memory_format=torch.channels_last)
    norm = nn.BatchNorm2d(16)
    ours = norm_act(norm, x, NONE).detach()
    exact = (x.double() - x.double().mean((0, 2, 3), keepdim=True)) / (
        x.double().var((0, 2, 3), unbiased=False, keepdim=True) + norm.eps
    ).sqrt()
    assert float((ours - exact).abs().max()) < 1e-3
    assert norm.running_var is not None
    assert torch.allclose(norm.running_var.double(), 0.9 + 0.1 * x.double().var((0, 2, 3)), rtol=1e-5)


def test_what_is_not_a_number_stays_so() -> None:
    x = torch.randn(1, 16, 96, 96).contiguous(memory_format=torch.channels_last)
    x[0, 3, 50, 50] = float("nan")
    out = norm_act(nn.BatchNorm2d(16), x, RELU)
    assert torch.isnan(out[:, 3]).all() and torch.isfinite(out[:, :3]).all()


def test_a_patched_network_learns_the_same() -> None:
    """Encoders of timm (batch norms with and without an activation inside) and our blocks, one step each way."""
    for encoder in ("mobilenetv2_100", "resnet18", "efficientnet_b0"):
        torch.manual_seed(0)
        plain = create_model("unet", classes=3, encoder=encoder, weights=None)
        plain = plain.to(memory_format=torch.channels_last).train()
        quick = copy.deepcopy(plain)
        kernels.patch(quick)
        keys = list(plain.state_dict())
        assert list(quick.state_dict()) == keys
        images = torch.randint(0, 256, (2, 96, 128, 3), dtype=torch.uint8)
        losses = []
        for net, limit in ((plain, 10**12), (quick, 0)):
            torch.manual_seed(1)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(batch_norm, "MIN_VALUES", limit)
                loss = net(images).logits.square().mean()
                loss.backward()
            losses.append(float(loss.detach()))
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)
        for (name, a), (_, b) in zip(plain.named_buffers(), quick.named_buffers(), strict=True):
            assert torch.allclose(a.float(), b.float(), rtol=1e-3, atol=1e-4), name
        plain.eval(), quick.eval()
        quick.load_state_dict(plain.state_dict())
        with torch.no_grad():
            expected = plain(images).logits
            torch.testing.assert_close(quick(images).logits, expected, rtol=1e-4, atol=1e-4)
            with kernels.disabled():
                assert torch.equal(quick(images).logits, expected)


def test_a_patched_network_compiles_without_a_break(monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is traced it goes torch's way."""
    monkeypatch.setattr(batch_norm, "MIN_VALUES", 0)
    torch.manual_seed(0)
    net = create_model("unet", classes=3, encoder="mobilenetv2_100", weights=None)
    net = net.to(memory_format=torch.channels_last).train()
    kernels.patch(net)
    images = torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8)
    expected = copy.deepcopy(net)(images).logits
    torch._dynamo.reset()
    found = torch.compile(net, backend="eager", fullgraph=True)(images).logits
    assert torch.allclose(found, expected, atol=1e-3)


def test_one_color_gives_numbers() -> None:
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
    conv, norm, _ = net.stem
    features, brighter = norm(conv(dim)), norm(conv(dim * 1.7))
    half = norm.first
    assert torch.allclose(features[:, :half], brighter[:, :half], atol=1e-2)
    assert (features[:, half:] - brighter[:, half:]).abs().mean() > 0.05
    instances = [name for name, part in net.named_modules() if isinstance(part, InstanceBatchNorm)]
    assert instances == ["stem.1", "stage2.0.1", "stage2.1.conv1.1", "stage3.0.conv1.1", "stage3.1.conv1.1"]
    without = LeanNet(classes=3, instance_norm=False)
    assert not any(isinstance(part, InstanceBatchNorm) for part in without.modules())
