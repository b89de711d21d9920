"""Muon against its definition, and AdamW beside it against torch's."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from timm.optim import muon as timm_muon
from timm.optim.muon import zeropower_via_newtonschulz
from torch import nn

from segwright.models.base import SegmentationModel, SegOutput
from segwright.models.catalog import create_model
from segwright.training.config import TrainingConfig
from segwright.training.optim import muon
from segwright.training.optim.muon import QUINTIC, Muon, _small_steps, _steps, muon_parameters, orthogonalize
from segwright.training.optim.optimizers import create_optimizer


def test_five_steps_come_close_to_the_polar_factor() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(24, 60, dtype=torch.float64)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    found = orthogonalize(matrix, iterations=5)
    exact = u @ v
    cosine = (found * exact).sum() / (found.norm() * exact.norm())
    assert cosine > 0.98
    assert torch.isclose(found.norm(), torch.tensor(24.0, dtype=torch.float64).sqrt())
    singular = torch.linalg.svdvals(orthogonalize(matrix, iterations=3))
    assert singular.max() / singular.min() < torch.linalg.svdvals(matrix).max() / torch.linalg.svdvals(matrix).min()


def test_tall_and_wide_matrices_give_transposed_answers() -> None:
    matrix = torch.randn(8, 30, generator=torch.Generator().manual_seed(1))
    wide, tall = orthogonalize(matrix), orthogonalize(matrix.T)
    torch.testing.assert_close(wide / wide.norm(), (tall / tall.norm()).T)


def test_steps_on_the_small_side_are_the_same_steps() -> None:
    """Also of nearly singular matrices; and several at once as each alone."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(3, 16, 144, generator=generator) @ torch.diag(torch.logspace(0, -5, 144))
    x = x / x.norm(dim=(-2, -1), keepdim=True)
    plain = zeropower_via_newtonschulz(x, 5, list(QUINTIC), dtype=torch.float32)
    torch.testing.assert_close(_small_steps(x, QUINTIC), plain, atol=1e-4, rtol=1e-3)
    together = orthogonalize(x)
    for matrix, found in zip(x, together, strict=True):
        torch.testing.assert_close(orthogonalize(matrix), found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(12, 20), (3, 16, 16), (2, 8, 72)])
def test_plain_steps_are_timms(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(3))
    theirs = zeropower_via_newtonschulz(x, 3, list(QUINTIC[-3:]), dtype=dtype)
    torch.testing.assert_close(_steps(x.to(dtype), QUINTIC[-3:]), theirs)


def test_the_coefficients_are_those_that_timm_lists_as_quintic() -> None:
    """And not Polar Express's, which are another schedule."""
    listed = {name: [tuple(row) for row in rows] for name, rows in timm_muon._COEFFICIENTS.items()}
    assert list(QUINTIC) == listed["quintic"] != listed["polar_express"]


def test_a_training_starts_without_timm() -> None:
    """It takes as long to import as torch, with torchvision and torch's compiler; only its networks need it."""
    code = "import sys, segwright.training.trainer; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"timm", "torchvision", "torch._dynamo"} & set(done.stdout.split())


def test_kernels_keep_their_norm_and_turn_by_the_rate() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 9, 3, bias=False)
    before = layer.weight.detach().clone()
    optimizer = Muon([{"params": [layer.weight], "lr": 0.1, "use_muon": True}])
    assert torch.equal(layer.weight, before), "pretrained statistics fit the kernel as it came"
    layer(torch.randn(2, 4, 8, 8)).square().mean().backward()
    optimizer.step()
    assert torch.isclose(layer.weight.norm(), before.norm())
    turned = torch.arccos((before * layer.weight).sum() / before.norm() ** 2)
    assert 0.03 < turned < 0.2  # a rate of 0.1 turns by about 0.1, less the part along the kernel


def test_kernels_in_shards_are_gathered_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = [nn.Parameter(torch.zeros(4, 3, 3, 3)) for _ in range(3)]
    assert [len(group) for group in muon._group_by_shape(kernels)] == [3]
    monkeypatch.setattr(muon, "is_dtensor", lambda tensor: True)
    assert [len(group) for group in muon._group_by_shape(kernels)] == [1, 1, 1]


def test_adamw_beside_it_is_torchs() -> None:
    torch.manual_seed(0)
    ours = nn.Linear(5, 3)
    theirs = copy.deepcopy(ours)
    mine = Muon([{"params": list(ours.parameters()), "lr": 1e-2, "weight_decay": 0.1}])
    reference = torch.optim.AdamW(theirs.parameters(), lr=1e-2, weight_decay=0.1)
    for step in range(5):
        x = torch.randn(7, 5, generator=torch.Generator().manual_seed(step))
        for model, optimizer in ((ours, mine), (theirs, reference)):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_hidden_kernels_leave_out_first_depthwise_and_biased() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, groups=8, bias=False),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 1, bias=False),
        nn.Sigmoid(),
        nn.Conv2d(8, 2, 1),
    )
    assert muon_parameters(model) == [model[2].weight], "the gate has no bias, and its scale matters all the same"


@pytest.mark.parametrize(
    ("name", "left_out"),
    [
        ("lraspp", {"gate"}),
        ("unet", set()),
        ("leannet", set()),
        ("ddrnet", {"context.compress.2", "context.steps.0.2"}),
    ],
)
def test_a_kernel_is_turned_only_where_its_scale_does_not_matter(name: str, left_out: set[str]) -> None:
    with torch.device("meta"):
        model = create_model(name, classes=2, weights=None)
    turned = {id(kernel) for kernel in muon_parameters(model)}
    convolutions = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d)][1:]
    dense = {n for n, m in convolutions if m.bias is None and m.groups == 1}
    assert left_out <= {n for n, m in convolutions if id(m.weight) not in turned}
    assert name in ("ddrnet", "lraspp") or {n for n, m in convolutions if id(m.weight) in turned} == dense


class Preactivated(SegmentationModel):
    """The output of ``inner`` goes into a norm, and with ``shortcut`` past it as well."""

    def __init__(self, *, shortcut: bool) -> None:
        super().__init__(classes=3, stride=1)
        self.first, self.inner = nn.Conv2d(3, 8, 1, bias=False), nn.Conv2d(8, 8, 1, bias=False)
        self.norm, self.head = nn.BatchNorm2d(8), nn.Conv2d(8, 3, 1)
        self.shortcut = shortcut

    def forward_padded(self, x: torch.Tensor) -> SegOutput:
        x = self.inner(self.first(x))
        return SegOutput(self.head(self.norm(x) + x if self.shortcut else self.norm(x)), {})


def test_a_kernel_whose_output_also_goes_past_the_norm_is_not_turned() -> None:
    assert len(muon_parameters(Preactivated(shortcut=False))) == 1
    assert not muon_parameters(Preactivated(shortcut=True))


def test_rates_of_the_parts_hold_beside_muon() -> None:
    model = create_model("unet", classes=2, encoder="resnet18", weights=None)
    config = TrainingConfig(optimizer="muon", head_lr_factor=10.0, muon_lr=0.06)
    optimizer = create_optimizer(model, config, lr=1e-3, weight_decay=0.0, encoder_lr_factor=0.5)
    rates = {group["name"].removesuffix(", no decay"): group["base_lr"] for group in optimizer.param_groups}
    assert rates == pytest.approx(
        {"encoder": 5e-4, "body": 1e-3, "head": 1e-2, "encoder kernels": 0.03, "kernels": 0.06}
    )
    trained = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(trained) == sorted(id(parameter) for parameter in model.parameters() if parameter.requires_grad)
