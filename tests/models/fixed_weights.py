"""For the tests of the classical networks: weights by arithmetic (no random generator decides), and a tiny lesson."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from segwright.models.base import SegmentationModel

TINY = (3, 4, 5, 6, 7)  # widths that differ, so that a mixed-up level cannot pass


def arithmetic_weights(model: nn.Module) -> nn.Module:
    """Every trainable parameter and BN statistic from a sine, scaled by its fan-in; eval mode."""
    with torch.no_grad():
        frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
        for order, (name, value) in enumerate(model.state_dict().items()):
            if name in frozen or not value.is_floating_point():
                continue
            wave = torch.sin(torch.arange(value.numel(), dtype=torch.float64) * 0.7310 + order).reshape(value.shape)
            if name.endswith("running_var"):
                value.copy_(1 + 0.3 * wave)
            elif value.ndim == 1:
                bn_scale = name.endswith("weight")
                value.copy_((1.0 if bn_scale else 0.0) + 0.2 * wave)
            else:
                value.copy_(wave * (4 / math.prod(value.shape[1:])) ** 0.5)
    return model.eval()


def make_image(height: int, width: int, *, batch: int = 1, channels: int = 3) -> Tensor:
    """uint8 (N, H, W, C), different everywhere."""
    count = batch * height * width * channels
    numbers = (torch.arange(count, dtype=torch.int64) * 7919 + 13) % 251
    return numbers.to(torch.uint8).reshape(batch, height, width, channels)


def golden(model: SegmentationModel, height: int = 37, width: int = 41) -> list[float]:
    """Five logits and their mean magnitude: what the tests keep."""
    with torch.no_grad():
        logits = model(make_image(height, width)).logits.double()
    assert logits.shape[-2:] == (height, width)
    places = ((0, 0), (0, width - 1), (height // 2, width // 2), (height - 1, 3), (height - 1, width - 1))
    values = [logits[0, i % logits.shape[1], y, x].item() for i, (y, x) in enumerate(places)]
    return [*values, logits.abs().mean().item()]


def assert_golden(model: SegmentationModel, expected: list[float]) -> None:
    assert golden(model) == pytest.approx(expected, rel=1e-3, abs=1e-5)


def lesson() -> tuple[Tensor, Tensor]:
    """Two 48×48 images of three classes: uint8 (2, 48, 48, 3) and targets (2, 48, 48)."""
    target = torch.zeros(2, 48, 48, dtype=torch.long)
    target[0, 24:] = 1
    target[1, :, :24] = 1
    target[1, :, 24:] = 2
    colors = torch.tensor([[220, 40, 60], [30, 180, 90], [70, 60, 230]])
    noise = make_image(48, 48, batch=2).long() % 40 - 20
    return (colors[target] + noise).clamp(0, 255).to(torch.uint8), target


PRIOR_ENTROPY = -(0.25 * math.log(0.25) * 2 + 0.5 * math.log(0.5))  # of the lesson's classes: 1.0397


def lesson_loss(model: SegmentationModel, *, rate: float, steps: int) -> float:
    """Mean cross-entropy in eval mode after ``steps`` of AdamW (decay 1e-4, gradient clipped to 1)."""
    torch.manual_seed(0)
    images, target = lesson()
    loss_of: Callable[[Tensor, Tensor], Tensor] = nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate, weight_decay=1e-4)
    model.train()
    for _ in range(steps):
        output = model(images)
        loss = loss_of(output.logits, target) + sum(loss_of(aux, target) for aux in output.aux.values())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        for _ in range(30):  # batch norms' running statistics lag behind weights that moved this fast
            model(images)
    model.eval()
    with torch.no_grad():
        return float(loss_of(model(images).logits, target))


def grid_centers(model: SegmentationModel, size: tuple[int, int], rows: list[int]) -> list[float]:
    """For output pixels (row, width // 2): the centroid, over input rows, of |d logit ÷ d input|."""
    x = torch.full((1, model.in_channels, *size), 0.5).requires_grad_()
    logits = model(x).logits
    centers = []
    for row in rows:
        (gradient,) = torch.autograd.grad(logits[0, 0, row, size[1] // 2], x, retain_graph=True)
        weight = gradient.abs().sum((0, 1, 3)).double()
        centers.append(float((weight * torch.arange(size[0])).sum() / weight.sum()))
    return centers


def linearize(model: nn.Module) -> None:
    """Positive constant weights, average in place of maximum pools: the network becomes a symmetric blur, so that a
    gradient shows where it looks and not what it likes."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.MaxPool2d):
                pool = nn.AvgPool2d(
                    child.kernel_size, child.stride, child.padding, child.ceil_mode, count_include_pad=True
                )
                setattr(parent, name, pool)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.requires_grad:
                continue
            parameter.fill_(1 / math.prod(parameter.shape[1:]) if parameter.ndim == 4 else 0.5)
    model.eval()


def convolution(state: dict[str, Tensor], name: str, x: Tensor, **arguments: int) -> Tensor:
    """The convolution ``name`` of a state dict, as a function."""
    return nn.functional.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], **arguments)
