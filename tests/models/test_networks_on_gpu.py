"""Every network of the catalog on a GPU, real or pretended: the CPU's answers, gradients everywhere, a fixed order."""

from __future__ import annotations

import pytest
import torch
from pretend_cuda import DEVICE, NO_FIXED_ORDER
from test_contract import CLASSES, HEAVY, SMALL, make_images, small

from segwright.losses import create_loss
from segwright.models.base import SegmentationModel
from segwright.training.deterministic import deterministic_mode

LIGHT = [name for name in SMALL if name not in HEAVY]
OURS = [name for name in LIGHT if ":" not in name]  # torch itself refuses what the others do in no fixed order
LOSS = "ce+dice"


def _network(name: str) -> SegmentationModel:
    torch.manual_seed(3)
    model = small(name).train()
    for module in model.modules():
        if "drop" in type(module).__name__.lower():  # dropout, stochastic depth: the two devices draw differently
            module.eval()
    return model


def _gradients(model: SegmentationModel, device: torch.device) -> dict[str, torch.Tensor]:
    target = torch.randint(0, CLASSES, (2, 64, 64), generator=torch.Generator().manual_seed(0)).to(device)
    criterion = create_loss(LOSS, classes=CLASSES).to(device)
    output = model(make_images(2, 64, 64).to(device))
    sum(criterion(logits, target) for logits in (output.logits, *output.aux.values())).backward()
    return {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", LIGHT)
def test_gradients_and_answers_are_those_of_the_cpu(name: str, gpu: torch.device) -> None:
    here, there = _network(name), _network(name).to(gpu).to(memory_format=torch.channels_last)
    expected, found = _gradients(here, torch.device("cpu")), _gradients(there, gpu)
    assert expected.keys() == found.keys()
    total = sum(float(g.norm()) for g in expected.values())
    assert total > 0
    # A GPU sums in another order and, in convolutions, with shorter mantissas (TF32).
    assert sum(float((expected[n] - found[n]).norm()) for n in expected) < 0.02 * total
    here.eval(), there.eval()
    with torch.inference_mode():
        logits = there(make_images(1, 33, 65).to(gpu)).logits
        assert logits.device == gpu
        assert torch.allclose(logits.cpu(), here(make_images(1, 33, 65)).logits, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("name", OURS)
def test_nothing_is_added_in_no_fixed_order_where_equal_weights_are_asked_for(
    name: str, asked: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _network(name).to(DEVICE)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # put back afterwards
    with deterministic_mode(DEVICE, deterministic=True):
        _gradients(model, DEVICE)
    assert "convolution_backward" in asked
    assert not asked & NO_FIXED_ORDER


def test_without_it_the_fast_forms_are_taken(asked: set[str]) -> None:
    _gradients(_network("pspnet").to(DEVICE), DEVICE)
    assert asked & NO_FIXED_ORDER == {"_adaptive_avg_pool2d_backward", "upsample_bilinear2d_backward"}
