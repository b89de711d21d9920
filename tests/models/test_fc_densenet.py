"""FC-DenseNet against a restatement of the authors' FC-DenseNet.py."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fixed_weights import PRIOR_ENTROPY, arithmetic_weights, assert_golden, lesson_loss, make_image
from torch import Tensor

from segwright.core.errors import ModelError
from segwright.models.base import count_parameters
from segwright.models.fc_densenet import MODELS, DenseLayer, FCDenseNet


def tiny() -> FCDenseNet:
    return FCDenseNet(classes=3, layers=(1, 2, 3, 2, 1), growth=3, first_width=4)


def by_hand(layers: tuple[int, ...], growth: int, classes: int) -> int:
    """Parameters counted from the authors' loops: BN 2 a channel, convolutions with bias."""
    total, channels, skips = (27 + 1) * 48, 48, []
    pools = len(layers) // 2

    def block(channels: int, count: int) -> tuple[int, int]:
        weights = 0
        for _ in range(count):
            weights += 2 * channels + (9 * channels + 1) * growth
            channels += growth
        return weights, channels

    for count in layers[:pools]:
        weights, channels = block(channels, count)
        total += weights + 2 * channels + (channels + 1) * channels
        skips.append(channels)
    weights, channels = block(channels, layers[pools])
    total += weights
    new = growth * layers[pools]
    for count in layers[pools + 1 :]:
        total += (9 * new + 1) * new
        weights, channels = block(new + skips.pop(), count)
        total += weights
        new = growth * count
    return total + (channels + 1) * classes


def test_parameters() -> None:
    # 9,322,091 is CamVid's eleven classes, void not predicted, as in the authors' configuration; a twelfth output
    # adds 256 weights and a bias.
    expected = {("fc_densenet103", 11): 9_322_091, ("fc_densenet103", 12): 9_322_348}
    expected |= {("fc_densenet56", 11): 1_376_795, ("fc_densenet67", 11): 3_463_243}
    shapes = {
        "fc_densenet56": ((4,) * 11, 12),
        "fc_densenet67": ((5,) * 11, 16),
        "fc_densenet103": ((4, 5, 7, 10, 12, 15, 12, 10, 7, 5, 4), 16),
    }
    with torch.device("meta"):
        for (name, classes), count in expected.items():
            assert count_parameters(MODELS[name](classes=classes)) == by_hand(*shapes[name], classes) == count, name


def test_the_name_counts_the_convolutions() -> None:
    with torch.device("meta"):
        for name in ("fc_densenet56", "fc_densenet67", "fc_densenet103"):
            kinds = torch.nn.Conv2d | torch.nn.ConvTranspose2d
            count = sum(isinstance(module, kinds) for module in MODELS[name](classes=11).modules())
            assert count == int(name.removeprefix("fc_densenet"))


def authors(model: FCDenseNet, x: Tensor) -> Tensor:
    """Stack, skip, upsample the new features only; Lasagne's 'center' crop."""

    def layer(x: Tensor, part: DenseLayer) -> Tensor:
        bn, conv = part.bn, part.conv
        x = F.relu(F.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias))
        return F.conv2d(x, conv.weight, conv.bias, padding=conv.weight.shape[-1] // 2)

    stack = F.conv2d(x, model.first.weight, model.first.bias, padding=1)
    skips = []
    for block, transition in zip(model.down, model.transitions_down, strict=True):
        for part in block.layers:
            stack = torch.cat([stack, layer(stack, part)], 1)
        skips.append(stack)
        stack = F.max_pool2d(layer(stack, transition), 2)
    for index, block in enumerate([model.bottleneck, *model.up]):
        if index:
            transition, skip = model.transitions_up[index - 1], skips.pop()
            raised = F.conv_transpose2d(torch.cat(new, 1), transition.weight, transition.bias, stride=2)  # noqa: F821
            top, left = ((raised.shape[i] - skip.shape[i]) // 2 for i in (2, 3))
            raised = raised[:, :, top : top + skip.shape[2], left : left + skip.shape[3]]
            stack = torch.cat([raised, skip], 1)
        new = []
        for part in block.layers:
            new.append(layer(stack, part))
            stack = torch.cat([stack, new[-1]], 1)
    return F.conv2d(stack, model.head.weight, model.head.bias)


@pytest.mark.parametrize("size", [(16, 20), (21, 27)])
def test_logits_are_those_of_the_authors_loops(size: tuple[int, int]) -> None:
    model = arithmetic_weights(tiny())
    assert isinstance(model, FCDenseNet)
    images = make_image(*size)
    with torch.no_grad():
        torch.testing.assert_close(model(images).logits, authors(model, model.normalize(images)), atol=1e-4, rtol=1e-4)


def test_the_statistics_of_the_batch_at_test_as_released() -> None:
    """The authors' evaluation has batch_norm_use_averages=False."""
    model = arithmetic_weights(
        FCDenseNet(classes=3, layers=(1, 2, 3, 2, 1), growth=3, first_width=4, test_statistics="batch")
    )
    assert isinstance(model, FCDenseNet)
    images = torch.cat([make_image(24, 28), make_image(24, 28).flip(2)])
    with torch.no_grad():
        tested = model.eval()(images).logits
        for part in model.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        torch.testing.assert_close(tested, model.train()(images).logits, atol=1e-4, rtol=1e-4)
    with pytest.raises(ModelError, match="test_statistics"):
        FCDenseNet(classes=3, test_statistics="none")  # type: ignore[arg-type]


def test_small_images_are_padded() -> None:
    model = arithmetic_weights(MODELS["fc_densenet56"](classes=2, layers=(1,) * 11, growth=2, first_width=2))
    with torch.no_grad():
        for size in ((1, 1), (31, 33), (5, 64)):
            assert model(make_image(*size)).logits.shape[-2:] == size


def test_golden_logits() -> None:
    model = arithmetic_weights(tiny())
    assert isinstance(model, FCDenseNet)
    assert_golden(model, GOLDEN)


def test_initialization_and_dropout() -> None:
    torch.manual_seed(0)
    model = MODELS["fc_densenet56"](classes=2)
    assert isinstance(model, FCDenseNet)
    conv = model.transitions_down[4].conv
    bound = (6 / conv.in_channels) ** 0.5
    assert 0.98 * bound < float(conv.weight.abs().max()) <= bound
    assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.2}
    with pytest.raises(ModelError, match="between"):
        FCDenseNet(classes=2, layers=(1, 1))


def test_it_learns_from_scratch() -> None:
    torch.manual_seed(0)
    model = FCDenseNet(classes=3, layers=(2, 2, 2, 2, 2), growth=6, first_width=8)
    assert lesson_loss(model, rate=5e-3, steps=25) < 0.5 * PRIOR_ENTROPY


GOLDEN: list[float] = [2.266022, -1.076083, 10.77904, -1.922981, -2.454358, 2.379752]
