"""SegNet and SegNet-Basic: index unpooling at odd sizes, against brute force and torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fixed_weights import PRIOR_ENTROPY, TINY, arithmetic_weights, assert_golden, lesson_loss, make_image
from torch import Tensor
from torchvision.models import vgg16, vgg16_bn

from segwright.core.errors import WeightsError
from segwright.models.base import count_parameters
from segwright.models.segnet import SegNet, SegNetBasic, pool_with_places, unpool


@pytest.mark.parametrize(
    ("classes", "bias", "expected"), [(11, True, 29_449_355), (21, True, 29_455_125), (11, False, 29_441_419)]
)
def test_parameters(classes: int, bias: bool, expected: int) -> None:
    with torch.device("meta"):
        assert count_parameters(SegNet(classes=classes, bias=bias)) == expected


def test_parameters_of_the_basic_form() -> None:
    # 7×7×64 with bias: one from 3 channels, seven from 64; eight BNs; 1×1 classifier
    by_hand = (3 * 49 + 1) * 64 + 7 * (64 * 49 + 1) * 64 + 8 * 128 + (64 + 1) * 11
    with torch.device("meta"):
        assert count_parameters(SegNetBasic(classes=11)) == by_hand == 1_416_587


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (5, 7), (6, 3), (45, 60)])
def test_unpooling_by_brute_force(size: tuple[int, int]) -> None:
    height, width = size
    x = (make_image(height, width, channels=2).permute(0, 3, 1, 2) * 37 % 251).float() + torch.rand(1, 2, height, width)
    values, places = pool_with_places(x)
    assert values.shape[-2:] == (-(-height // 2), -(-width // 2))  # rounds up: 45×60 → 23×30
    expected = torch.zeros_like(x)
    for channel in range(2):
        for i in range(values.shape[2]):
            for j in range(values.shape[3]):
                window = x[0, channel, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
                at = int(window.argmax())
                row, column = 2 * i + at // window.shape[1], 2 * j + at % window.shape[1]
                expected[0, channel, row, column] = window.max()
    assert torch.equal(unpool(values, places, size), expected)
    assert torch.equal(unpool(values, places, size), F.max_unpool2d(values, places, 2, 2, output_size=size))


def test_gradients_go_through_the_places() -> None:
    x = torch.rand(1, 1, 5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: unpool(*pool_with_places(t), (5, 3)), x)


def released(model: SegNet, x: Tensor) -> Tensor:
    """segnet_train.prototxt restated: conv-BN-ReLU, masks, Upsample by the masks, a last convolution alone."""

    def block(x: Tensor, level: torch.nn.Module) -> Tensor:
        for layer in level.children():
            x = F.conv2d(x, layer.conv.weight, layer.conv.bias, padding=1)
            bn = layer.bn
            x = F.relu(F.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias))
        return x

    kept = []
    for level in model.encoder:
        x = block(x, level)
        size = x.shape
        x, places = F.max_pool2d(x, 2, 2, ceil_mode=True, return_indices=True)
        kept.append((places, size))
    for level in model.decoder:
        places, size = kept.pop()
        x = block(F.max_unpool2d(x, places, 2, 2, output_size=size), level)
    return F.conv2d(x, model.classifier.weight, model.classifier.bias, padding=1)


@pytest.mark.parametrize("size", [(1, 1), (45, 61)])
def test_logits_are_those_of_the_released_network(size: tuple[int, int]) -> None:
    model = arithmetic_weights(SegNet(classes=3, widths=TINY))
    assert isinstance(model, SegNet)
    widths = [[layer.conv.out_channels for layer in level.children()] for level in model.decoder]
    assert widths == [[7, 7, 6], [6, 6, 5], [5, 5, 4], [4, 3], [3]]
    with torch.no_grad():
        images = make_image(*size)
        torch.testing.assert_close(model(images).logits, released(model, model.normalize(images)), atol=1e-5, rtol=1e-4)


def released_basic(model: SegNetBasic, x: Tensor) -> Tensor:
    """segnet_basic_train.prototxt restated: LRN, four 7×7 with BN, ReLU and pool, four 7×7 with BN alone, a 1×1."""

    def block(x: Tensor, layer: torch.nn.Module, *, relu: bool) -> Tensor:
        bn = layer.bn
        x = F.conv2d(x, layer.conv.weight, layer.conv.bias, padding=3)
        x = F.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias)
        return F.relu(x) if relu else x

    x = F.local_response_norm(x, 5, alpha=1e-4, beta=0.75)
    kept = []
    for layer in model.encoder:
        x = block(x, layer, relu=True)
        size = x.shape
        x, places = F.max_pool2d(x, 2, 2, ceil_mode=True, return_indices=True)
        kept.append((places, size))
    for layer in model.decoder:
        places, size = kept.pop()
        x = block(F.max_unpool2d(x, places, 2, 2, output_size=size), layer, relu=False)
    return F.conv2d(x, model.classifier.weight, model.classifier.bias)


@pytest.mark.parametrize("size", [(1, 1), (45, 61)])
def test_logits_of_the_basic_form_are_those_of_the_released_network(size: tuple[int, int]) -> None:
    model = arithmetic_weights(SegNetBasic(classes=3, width=4))
    assert isinstance(model, SegNetBasic)
    convolutions = [layer.conv for layer in (*model.encoder, *model.decoder)]
    assert len(convolutions) == 8 and all(conv.kernel_size == (7, 7) for conv in convolutions)
    with torch.no_grad():
        images = make_image(*size)
        expected = released_basic(model, model.normalize(images))
        torch.testing.assert_close(model(images).logits, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("model", [SegNet(classes=4), SegNetBasic(classes=4)], ids=["segnet", "segnet_basic"])
def test_weights_start_as_msra_and_biases_at_zero(model: torch.nn.Module) -> None:
    for conv in (module for module in model.modules() if isinstance(module, torch.nn.Conv2d)):
        fan_in, count = conv.weight[0].numel(), conv.weight.numel()
        assert float(conv.weight.detach().std()) == pytest.approx((2 / fan_in) ** 0.5, rel=5 / count**0.5)
        assert conv.bias is not None and not conv.bias.any()


def test_bn_starts_a_hair_above_zero() -> None:
    model = SegNet(classes=2, widths=TINY)
    bns = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert len(bns) == 25 and all(torch.all(bn.bias == 0.001) and torch.all(bn.weight == 1) for bn in bns)


def test_basic_normalizes_raw_pixels_locally() -> None:
    """Caffe's LRN: x ÷ (1 + α/5 · Σ x²)^0.75 over five neighboring channels, on BGR in 0…255."""
    model = SegNetBasic(classes=2, width=2)
    raw = model.normalize(torch.tensor([200, 100, 50], dtype=torch.uint8).reshape(1, 1, 1, 3))
    torch.testing.assert_close(raw.flatten(), torch.tensor([50.0, 100.0, 200.0]))
    expected = raw / (1 + 1e-4 / 5 * (50.0**2 + 100**2 + 200**2)) ** 0.75
    torch.testing.assert_close(model.first(raw), expected)
    assert [level.relu for level in model.encoder] == [True] * 4
    assert [level.relu for level in model.decoder] == [False] * 4  # the released decoder has none


def test_golden_logits() -> None:
    for name, model in (("segnet", SegNet(classes=3, widths=TINY)), ("segnet_basic", SegNetBasic(classes=3, width=4))):
        fixed = arithmetic_weights(model)
        assert isinstance(fixed, SegNet | SegNetBasic)
        assert_golden(fixed, GOLDEN[name])


@pytest.mark.parametrize("bias", [True, False])
def test_the_encoder_takes_torchvision_weights(bias: bool) -> None:
    torch.manual_seed(0)
    peer = vgg16_bn(weights=None, num_classes=1)
    for module in peer.features:
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
        if isinstance(module, torch.nn.Conv2d):
            module.bias.data.uniform_(-0.1, 0.1)
    model = SegNet(classes=2, bias=bias).eval()
    assert len(model.load_pretrained(peer.eval().state_dict())) == 13
    x = torch.rand(1, 3, 64, 32)  # even all the way: rounding up and down agree
    with torch.no_grad():
        y = x
        for level in model.encoder:
            y, _ = pool_with_places(level(y))
        torch.testing.assert_close(y, peer.features(x), atol=1e-5, rtol=1e-4)


def test_plain_vgg16_weights_and_wrong_ones() -> None:
    model = SegNet(classes=2)
    state = {k: v for k, v in vgg16(weights=None, num_classes=1).state_dict().items() if k.startswith("features")}
    model.load_pretrained(state)
    torch.testing.assert_close(model.encoder[4][2].conv.weight, state["features.28.weight"])
    with pytest.raises(WeightsError, match="lack a layer"):
        model.load_pretrained({})
    with pytest.raises(WeightsError, match="no pretrained trunk"):
        SegNetBasic(classes=2, width=2).load_pretrained(state)


@pytest.mark.parametrize("name", ["segnet", "segnet_basic"])
def test_it_learns_from_scratch(name: str) -> None:
    torch.manual_seed(0)
    model = SegNet(classes=3, widths=(8, 8, 12, 12, 16)) if name == "segnet" else SegNetBasic(classes=3, width=12)
    assert lesson_loss(model, rate=3e-3, steps=60) < 0.7 * PRIOR_ENTROPY


GOLDEN: dict[str, list[float]] = {
    "segnet": [-0.3035683, -0.2641613, -2.837977, 3.326029, 6.530306, 1.885405],
    "segnet_basic": [0.7765441, -0.212089, 0.2756659, 0.8907308, -0.3768329, 0.5819028],
}
