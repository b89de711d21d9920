"""DeepLab v2: summed branches, maximum over scales, the dilated trunk against torchvision's, frozen BN."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from fixed_weights import PRIOR_ENTROPY, TINY, arithmetic_weights, assert_golden, convolution, lesson_loss, make_image
from torch import nn
from torchvision.models import resnet101
from torchvision.models.resnet import Bottleneck, ResNet

from segwright.core.errors import ModelError, WeightsError
from segwright.core.types import LabelSpace
from segwright.inference.bundle import Bundle, load_bundle, save_bundle
from segwright.models.base import count_parameters
from segwright.models.catalog import CATALOG, create_model
from segwright.models.deeplab_v2 import DeepLabV2ResNet, DeepLabV2VGG, DilatedResNet
from segwright.models.recipes import AUX_WEIGHTS
from segwright.training.distributed.world import synchronized
from segwright.training.finetune import transfer_weights


def tiny(**arguments: object) -> DeepLabV2VGG:
    return DeepLabV2VGG(classes=3, widths=TINY, fc_channels=8, **arguments)  # type: ignore[arg-type]


def small_resnet(**arguments: object) -> DeepLabV2ResNet:
    return DeepLabV2ResNet(classes=3, layers=(1, 1, 2, 1), **arguments)  # type: ignore[arg-type]


def test_parameters() -> None:
    with torch.device("meta"):
        assert count_parameters(DeepLabV2ResNet(classes=21)) == 44_048_532
        assert count_parameters(DeepLabV2VGG(classes=21)) == 37_877_652


def test_branches_are_summed() -> None:
    model = arithmetic_weights(tiny())
    assert isinstance(model, DeepLabV2VGG)
    state = model.state_dict()
    x = model.normalize(make_image(33, 65))
    with torch.no_grad():
        features = model.trunk(x)[-1]
        total = torch.zeros(1, 3, 5, 9)
        for index, rate in enumerate((6, 12, 18, 24)):
            name = f"branches.branches.{index}"
            y = F.relu(convolution(state, f"{name}.head.fc6", features, padding=rate, dilation=rate))
            total = total + convolution(state, f"{name}.fc8", F.relu(convolution(state, f"{name}.head.fc7", y)))
        torch.testing.assert_close(model.scores(x), total, atol=1e-5, rtol=1e-4)


def test_resnet_branches_go_straight_to_the_classes() -> None:
    model = arithmetic_weights(small_resnet(scales=(1.0,)))
    assert isinstance(model, DeepLabV2ResNet)
    state = model.state_dict()
    features = torch.sin(torch.arange(2048 * 35.0)).reshape(1, 2048, 5, 7)
    with torch.no_grad():
        total = sum(
            convolution(state, f"branches.branches.{i}", features, padding=rate, dilation=rate)
            for i, rate in enumerate((6, 12, 18, 24))
        )
        torch.testing.assert_close(model.branches(features), total, atol=1e-4, rtol=1e-4)


def test_scales_are_fused_by_maximum() -> None:
    model = arithmetic_weights(tiny(scales=(1.0, 0.75, 0.5), dropout=0.0))
    assert isinstance(model, DeepLabV2VGG)
    images = make_image(65, 33)  # 32k + 1
    with torch.no_grad():
        x = model.normalize(images)
        one = model.scores(x)
        smaller = [
            model.scores(F.interpolate(x, size=size, mode="bilinear", align_corners=True))
            for size in ((49, 25), (33, 17))
        ]
        resized = [F.interpolate(y, size=one.shape[-2:], mode="bilinear", align_corners=True) for y in smaller]
        fused = torch.stack([one, *resized]).amax(0)
        expected = F.interpolate(fused, size=(65, 33), mode="bilinear", align_corners=True)
        output = model(images)
        torch.testing.assert_close(output.logits, expected, atol=1e-5, rtol=1e-4)
        assert output.aux == {}
        assert not torch.allclose(fused, one)
        model.train()
        trained = model(images)
    assert list(trained.aux) == ["scale_1", "scale_0.75", "scale_0.5"]
    assert all(aux.shape == trained.logits.shape for aux in trained.aux.values())
    full = F.interpolate(one, size=(65, 33), mode="bilinear", align_corners=True)
    torch.testing.assert_close(trained.aux["scale_1"], full, atol=1e-5, rtol=1e-4)


def test_trunk_agrees_with_torchvision() -> None:
    torch.manual_seed(0)
    peer = ResNet(Bottleneck, [1, 1, 2, 1], replace_stride_with_dilation=[False, True, True]).eval()
    state = {name: value for name, value in peer.state_dict().items() if not name.startswith("fc.")}
    ours, released = (DilatedResNet(layers=(1, 1, 2, 1), released=flag).eval() for flag in (False, True))
    ours.load_state_dict(state)
    released.load_state_dict(state)
    x = torch.rand(1, 3, 65, 49)
    with torch.no_grad():
        y = peer.maxpool(peer.relu(peer.bn1(peer.conv1(x))))
        y = peer.layer4(peer.layer3(peer.layer2(peer.layer1(y))))
        torch.testing.assert_close(ours(x), y, atol=1e-5, rtol=1e-4)
        # the release dilates the first blocks as well: torchvision's, told so, agrees with it
        for layer, dilation in ((peer.layer3, 2), (peer.layer4, 4)):
            layer[0].conv2.dilation = layer[0].conv2.padding = (dilation, dilation)
        y = peer.maxpool(peer.relu(peer.bn1(peer.conv1(x))))
        y = peer.layer4(peer.layer3(peer.layer2(peer.layer1(y))))
        torch.testing.assert_close(released(x), y, atol=1e-5, rtol=1e-4)
    assert y.shape == (1, 2048, 9, 7)


def test_names_are_torchvisions_at_full_depth() -> None:
    with torch.device("meta"):
        peer = {name for name in resnet101().state_dict() if not name.startswith("fc.")}
        assert set(DilatedResNet().state_dict()) == peer


def test_loading_freezes_bn_unless_configured_otherwise() -> None:
    state = ResNet(Bottleneck, [1, 1, 2, 1]).state_dict()
    model = small_resnet()
    assert any(module.training for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    model.load_pretrained(state)
    model.train()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and not any(norm.training or norm.weight.requires_grad for norm in norms)
    assert model.training and model.branches.training
    before = model.trunk.bn1.running_mean.clone()
    model(make_image(1, 1))  # one image of one pixel: no statistics are taken
    assert torch.equal(model.trunk.bn1.running_mean, before)
    free = small_resnet(freeze_norm=False)
    free.load_pretrained(state)
    assert free.trunk.bn1.training
    with pytest.raises(WeightsError, match="depth"):
        DeepLabV2ResNet(classes=2, layers=(1, 1, 1, 1)).load_pretrained(state)


def frozen(model: nn.Module) -> bool:
    """Whether every batch norm keeps its statistics and its parameters in training."""
    model.train()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    return not any(norm.training or norm.weight.requires_grad or norm.bias.requires_grad for norm in norms)


def test_frozen_bn_stays_so_when_it_is_synchronized_over_processes() -> None:
    model = small_resnet()
    model.load_pretrained(ResNet(Bottleneck, [1, 1, 2, 1]).state_dict())
    joined = synchronized(model).train()
    norms = [module for module in joined.modules() if isinstance(module, nn.SyncBatchNorm)]
    assert norms and not any(norm.training or norm.weight.requires_grad for norm in norms)


LAYERS = {"layers": [1, 1, 1, 1], "scales": [1.0]}


def test_frozen_bn_is_remembered_in_the_saved_model(tmp_path: Path) -> None:
    labels = LabelSpace(("a", "b", "c"))
    state = ResNet(Bottleneck, [1, 1, 1, 1]).state_dict()
    for given, expected in ((None, True), (False, False)):
        model = create_model("deeplabv2", classes=3, weights=None, **LAYERS, freeze_norm=given)
        assert isinstance(model, DeepLabV2ResNet)
        model.load_pretrained(state)
        save_bundle(tmp_path / "model", model, Bundle("deeplabv2", labels, LAYERS))
        again, bundle = load_bundle(tmp_path / "model")
        assert bundle.arguments["freeze_norm"] is expected and frozen(again) is expected
    untrained = create_model("deeplabv2", classes=3, weights=None, **LAYERS)
    save_bundle(tmp_path / "model", untrained, Bundle("deeplabv2", labels, LAYERS))
    again, bundle = load_bundle(tmp_path / "model")
    assert "freeze_norm" not in bundle.arguments and not frozen(again)


def test_weights_of_any_origin_freeze_bn(tmp_path: Path) -> None:
    trained = create_model("deeplabv2", classes=3, weights=None, **LAYERS)
    torch.save(trained.state_dict(), tmp_path / "trained.pth")
    taken = create_model("deeplabv2", classes=3, weights=tmp_path / "trained.pth", **LAYERS)
    assert frozen(taken) and taken.arguments["freeze_norm"] is True
    told = create_model("deeplabv2", classes=3, weights=tmp_path / "trained.pth", **LAYERS, freeze_norm=False)
    assert not frozen(told)
    labels = LabelSpace(("a", "b", "c"))
    tuned = create_model("deeplabv2", classes=3, weights=None, **LAYERS)
    transfer_weights(trained, labels, tuned, labels)
    assert frozen(tuned)
    torch.save(tiny().state_dict(), tmp_path / "vgg.pth")  # nothing to freeze: nothing to remember
    small = {"widths": TINY, "fc_channels": 8}
    assert "freeze_norm" not in create_model(
        "deeplabv2_vgg", classes=3, weights=tmp_path / "vgg.pth", **small
    ).arguments  # fmt: skip


def test_every_scale_counts_as_much_as_their_maximum() -> None:
    assert AUX_WEIGHTS["deeplabv2"] == AUX_WEIGHTS["deeplabv2_vgg"] == 1.0
    assert set(AUX_WEIGHTS) <= set(CATALOG)


@pytest.mark.parametrize("channels", [1, 4])
def test_resnet_weights_fit_any_number_of_channels(channels: int) -> None:
    state = ResNet(Bottleneck, [1, 1, 2, 1]).state_dict()
    model = small_resnet(in_channels=channels)
    model.load_pretrained(state)
    first = state["conv1.weight"]
    expected = first.sum(1, keepdim=True) if channels == 1 else first[:, [0, 1, 2, 0]] * 3 / 4
    torch.testing.assert_close(model.trunk.conv1.weight.detach(), expected)


def test_sides_are_padded_so_that_every_scale_falls_on_pixels() -> None:
    for scales, sides in (((1.0,), (33, 41)), ((1.0, 0.75, 0.5), (33, 65))):
        assert tiny(scales=scales).pad(torch.zeros(1, 3, 33, 40)).shape[-2:] == sides  # 8k + 1, and 32k + 1
    assert small_resnet().pad(torch.zeros(1, 3, 33, 40)).shape[-2:] == (33, 65)


def test_scales_must_begin_with_one() -> None:
    with pytest.raises(ModelError, match="begin with 1"):
        tiny(scales=(0.5, 1.0))


def test_golden_logits() -> None:
    vgg = arithmetic_weights(tiny(scales=(1.0, 0.75, 0.5)))
    resnet = arithmetic_weights(DeepLabV2ResNet(classes=3, layers=(1, 1, 1, 1)))
    assert isinstance(vgg, DeepLabV2VGG) and isinstance(resnet, DeepLabV2ResNet)
    assert_golden(vgg, GOLDEN["deeplabv2_vgg"])
    assert_golden(resnet, GOLDEN["deeplabv2"])


def test_vgg_form_learns_from_scratch() -> None:
    torch.manual_seed(0)
    model = DeepLabV2VGG(classes=3, widths=(8, 12, 16, 16, 16), fc_channels=32, dropout=0.1, dilations=(1, 2))
    assert lesson_loss(model, rate=3e-3, steps=30) < 0.5 * PRIOR_ENTROPY


@pytest.mark.slow
def test_resnet_form_learns_from_scratch() -> None:
    torch.manual_seed(0)
    model = DeepLabV2ResNet(classes=3, layers=(1, 1, 1, 1), scales=(1.0, 0.5), dilations=(1, 2))
    assert lesson_loss(model, rate=1e-3, steps=8) < 0.8 * PRIOR_ENTROPY


GOLDEN: dict[str, list[float]] = {
    "deeplabv2_vgg": [14.94755, 32.29486, 48.05828, 32.65488, 66.7099, 41.41933],
    "deeplabv2": [7.765111, 2.780999, 0.9242553, 5.340582, 3.460661, 3.25374],
}
