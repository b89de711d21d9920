"""DeepLab-LargeFOV and ParseNet: where they look, and that they are what was released."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fixed_weights import (
    PRIOR_ENTROPY,
    TINY,
    arithmetic_weights,
    assert_golden,
    convolution,
    grid_centers,
    lesson_loss,
    linearize,
    make_image,
)
from torch import Tensor
from torchvision.models import vgg16

from segwright.models.base import count_parameters
from segwright.models.deeplab_v1 import DeepLabV1
from segwright.models.parsenet import L2Norm, ParseNet


def tiny(**arguments: object) -> DeepLabV1:
    return DeepLabV1(classes=3, widths=TINY, fc_channels=8, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(("classes", "expected"), [(21, 20_505_429), (11, 20_495_179)])
def test_parameters(classes: int, expected: int) -> None:
    with torch.device("meta"):
        assert count_parameters(DeepLabV1(classes=classes)) == expected


def test_parameters_of_parsenet() -> None:
    with torch.device("meta"):
        assert count_parameters(ParseNet(classes=21)) == 20_528_981


def fc7(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """deploy.prototxt of LargeFOV up to fc7."""
    for level, count in enumerate((2, 2, 3, 3, 3), 1):
        hole = 2 if level == 5 else 1
        for i in range(1, count + 1):
            x = F.relu(convolution(state, f"trunk.conv{level}_{i}", x, padding=hole, dilation=hole))
        x = F.max_pool2d(x, 3, 2 if level <= 3 else 1, padding=1, ceil_mode=True)
    x = F.avg_pool2d(x, 3, 1, padding=1)
    x = F.relu(convolution(state, "head.fc6", x, padding=12, dilation=12))
    return F.relu(convolution(state, "head.fc7", x))


def test_logits_are_those_of_the_released_network() -> None:
    model = arithmetic_weights(tiny())
    assert isinstance(model, DeepLabV1)
    images = make_image(41, 57)  # 8k + 1: nothing is padded
    with torch.no_grad():
        x = convolution(model.state_dict(), "fc8", fc7(model.state_dict(), model.normalize(images)))
        assert x.shape == (1, 3, 6, 8)
        torch.testing.assert_close(model.scores(model.normalize(images)), x, atol=1e-5, rtol=1e-4)
        expected = F.interpolate(x, size=(41, 57), mode="bilinear", align_corners=True)
        torch.testing.assert_close(model(images).logits, expected, atol=1e-5, rtol=1e-4)
        # the scores of the grid are the logits of every eighth pixel
        torch.testing.assert_close(model(images).logits[..., ::8, ::8], x, atol=1e-5, rtol=1e-4)


def test_receptive_field_and_alignment() -> None:
    """One score sees 435 pixels, as the layer table says, centered on its own."""
    model = DeepLabV1(classes=1, in_channels=1, widths=(1,) * 5, fc_channels=1)
    linearize(model)
    size = 801
    x = torch.full((1, 1, size, 9), 0.5, requires_grad=True)
    logits = model(x).logits
    center = 400
    (gradient,) = torch.autograd.grad(logits[0, 0, center, 0], x, retain_graph=True)
    seen = torch.nonzero(gradient.abs().sum((0, 1, 3))).flatten()
    field = 1
    steps = 1
    table = [(3, 1, 1)] * 2 + [(3, 2, 1)] + [(3, 1, 1)] * 2 + [(3, 2, 1)] + [(3, 1, 1)] * 3 + [(3, 2, 1)]
    table += [(3, 1, 1)] * 3 + [(3, 1, 1)] + [(3, 1, 2)] * 3 + [(3, 1, 1)] + [(3, 1, 1)] + [(3, 1, 12)]
    for kernel, stride, dilation in table:
        field += (kernel - 1) * dilation * steps
        steps *= stride
    assert steps == 8
    assert int(seen[-1] - seen[0]) + 1 == field == 435
    assert int(seen[0] + seen[-1]) == 2 * center
    rows = [397, 400, 403]
    assert grid_centers(model, (size, 9), rows) == pytest.approx(rows, abs=0.02)


@pytest.mark.parametrize("kind", [DeepLabV1, ParseNet])
def test_sides_are_padded_to_8k_plus_1_by_edge_values(kind: type[DeepLabV1]) -> None:
    model = kind(classes=3, widths=TINY, fc_channels=8)
    x = torch.rand(1, 3, 10, 17)
    padded = model.pad(x)
    assert padded.shape[-2:] == (17, 17)
    assert torch.equal(padded[..., :10, :], x) and torch.equal(padded[..., 10:, :], x[..., 9:, :].expand(1, 3, 7, 17))


def test_start_of_the_classifier() -> None:
    torch.manual_seed(0)
    model = DeepLabV1(classes=21, widths=TINY)
    assert float(model.fc8.weight.std()) == pytest.approx(0.01, rel=0.05)
    assert float(model.fc8.bias.abs().max()) == 0
    assert model.head.drop6.p == model.head.drop7.p == 0.5


def test_torchvision_weights_are_thinned() -> None:
    state = vgg16(weights=None).state_dict()
    model = DeepLabV1(classes=2)
    assert model.load_pretrained(state)[-2:] == ["fc6", "fc7"]
    fc6 = state["classifier.0.weight"].reshape(4096, 512, 7, 7)
    torch.testing.assert_close(model.head.fc6.weight, fc6[::4][:, :, [0, 3, 6]][..., [0, 3, 6]])
    torch.testing.assert_close(model.head.fc7.weight[:, :, 0, 0], state["classifier.3.weight"][::4, ::4])
    torch.testing.assert_close(model.trunk.conv5_3.weight, state["features.28.weight"])
    # feature-only weights have no classifier worth taking
    features = {**state, "classifier.0.weight": torch.full_like(state["classifier.0.weight"], float("nan"))}
    assert len(model.load_pretrained(features)) == 13


def test_l2_norm_is_the_formula() -> None:
    norm = L2Norm(5, scale=10.0)
    with torch.no_grad():
        norm.scale.copy_(torch.arange(1.0, 6.0))
    x = torch.randn(2, 5, 3, 4)
    expected = torch.empty_like(x)
    for n in range(2):
        for i in range(3):
            for j in range(4):
                v = x[n, :, i, j]
                expected[n, :, i, j] = torch.arange(1.0, 6.0) * v / v.dot(v).sqrt()
    torch.testing.assert_close(norm(x), expected)
    assert torch.all(L2Norm(3).scale == 10) and L2Norm(3).scale.requires_grad
    zero = torch.zeros(1, 5, 1, 1, requires_grad=True)
    norm(zero).sum().backward()
    assert torch.isfinite(zero.grad).all()
    assert torch.isfinite(norm((x * 2e3).half())).all()


def test_parsenet_adds_the_whole_image() -> None:
    assert torch.all(ParseNet(classes=3, widths=TINY, fc_channels=8).pool6_norm.scale == 10)
    model = ParseNet(classes=3, widths=TINY, fc_channels=8, scale=5.0)
    assert float(model.fc7_norm.scale[0]) == float(model.pool6_norm.scale[0]) == 5.0
    arithmetic_weights(model)
    images = make_image(41, 57)
    with torch.no_grad():
        local = fc7(model.state_dict(), model.normalize(images))
        whole = local.mean((2, 3), keepdim=True)
        parts = []
        for x, norm in ((local, model.fc7_norm), (whole.expand_as(local), model.pool6_norm)):
            parts.append(norm.scale[None, :, None, None] * x / x.pow(2).sum(1, keepdim=True).sqrt().clamp(min=1e-9))
        expected = convolution(model.state_dict(), "fc8", torch.cat(parts, 1))
        torch.testing.assert_close(model.scores(model.normalize(images)), expected, atol=1e-4, rtol=1e-3)
        # every pixel reaches every logit, across 800 pixels
        far = make_image(9, 801)
        changed = far.clone()
        changed[:, :, -40:] = 255
        assert (model(far).logits - model(changed).logits)[..., :20].abs().max() > 1e-5


def test_golden_logits() -> None:
    v1, parse = arithmetic_weights(tiny()), arithmetic_weights(ParseNet(classes=3, widths=TINY, fc_channels=8))
    assert isinstance(v1, DeepLabV1) and isinstance(parse, ParseNet)
    assert_golden(v1, GOLDEN["deeplabv1"])
    assert_golden(parse, GOLDEN["parsenet"])


@pytest.mark.parametrize("kind", [DeepLabV1, ParseNet])
def test_it_learns_from_scratch(kind: type[DeepLabV1]) -> None:
    torch.manual_seed(0)
    model = kind(classes=3, widths=(8, 12, 16, 16, 16), fc_channels=32, dropout=0.1, dilation=2)
    assert lesson_loss(model, rate=3e-3, steps=30) < 0.5 * PRIOR_ENTROPY


GOLDEN: dict[str, list[float]] = {
    "deeplabv1": [-0.2750119, 0.743672, 3.5539, -0.6439626, 0.7470141, 1.65489],
    "parsenet": [-0.1062046, -0.01576346, 0.1004033, -0.09884085, -0.01301688, 0.0674155],
}
