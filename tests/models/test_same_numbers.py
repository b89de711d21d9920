"""Same weights, same numbers: our networks with the peers' state dicts give the peers' logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segwright.core.errors import WeightsError
from segwright.models.base import SegmentationModel
from segwright.models.catalog import create_model
from segwright.models.convert import load_converted
from segwright.models.encoders.timm import TimmEncoder
from segwright.models.segformer import SegFormer

CLOSE = 1e-4  # largest difference of a logit in fp32


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(7)


def calibrate(module: nn.Module, size: int = 64) -> nn.Module:
    """Random weights whose activations are of order one, batch norms away from 0 and 1.

    Without this a deep random network answers nearly a constant, and any two agree.
    """
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(part.weight, 0.6, 1.4)
            nn.init.uniform_(part.bias, -0.3, 0.3)
            part.momentum = 0.8  # seven tenths of the way to the batch's statistics: neither exact nor the start values
    module.train()
    with torch.no_grad():
        module(torch.randn(2, 3, size, size))
        module(torch.randn(2, 3, size, size))
    return module.eval()


def logits_at(ours: SegmentationModel, theirs: nn.Module, height: int, width: int) -> tuple[Tensor, Any]:
    """Both on the same pixels; the peer gets them normalized and padded as our model does it."""
    ours.eval()
    images = torch.randint(0, 256, (1, height, width, 3), dtype=torch.uint8)
    with torch.no_grad():
        return ours(images).logits, theirs(ours.pad(ours.normalize(images)))


def agree(ours: Tensor, theirs: Tensor) -> None:
    theirs = theirs[..., : ours.shape[-2], : ours.shape[-1]]
    assert theirs.std() > 0.01, "the comparison says nothing: the logits hardly vary"
    assert (ours - theirs).abs().max() <= CLOSE * max(1.0, float(theirs.std()))


TORCHVISION = ["deeplabv3_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"]
LARGE = ["fcn_resnet50", "fcn_resnet101", "deeplabv3_resnet101"]


@pytest.mark.parametrize("name", [*TORCHVISION, *(pytest.param(n, marks=pytest.mark.slow) for n in LARGE)])
def test_torchvision(name: str) -> None:
    torchvision = pytest.importorskip("torchvision")
    options = {} if name.startswith("lraspp") else {"aux_loss": True}
    theirs = calibrate(
        torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=5, **options)
    )
    ours = create_model(name, classes=5, weights=None)
    loaded = load_converted(ours, theirs.state_dict())
    assert loaded.origin == "torchvision" and not loaded.left_out and not loaded.adapted
    for height, width in ((65, 97), (33, 40)):
        logits, answer = logits_at(ours, theirs, height, width)
        agree(logits, answer["out"])
    if options:  # the auxiliary head too: its own input, its own weights
        x = torch.randn(1, 3, 65, 97)
        with torch.no_grad():
            feature = ours.encoder(x)[8 if "mobilenet" in name else 16]
            agree(ours.aux_head(feature), theirs.aux_classifier(theirs.backbone(x)["aux"]))


# Our arguments under which a network is segmentation_models_pytorch's, layer by layer (docs/models.md, "Same weights")
SMP: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "unet": ("Unet", {}, {}),
    "pspnet": (
        "PSPNet",
        {},
        {
            "encoder_depth": 3, "output_stride": 32, "dilate_first": False, "bin_channels": 32, "fuse_kernel": 1,
            "head_kernel": 3, "norm_of_one": False, "dropout": 0.2, "aux": False, "grid_aligned": False,
        },
    ),
    "deeplabv3": (
        "DeepLabV3", {}, {"output_stride": 8, "multi_grid": None, "head": "torchvision", "align_corners": True}
    ),
    "deeplabv3plus": (
        "DeepLabV3Plus",
        {},
        {"rates": (12, 24, 36), "depthwise_norm": False, "refine_before": True, "align_corners": True,
         "dilate_first": True},
    ),
    "upernet": ("UPerNet", {}, {"feature_norms": True, "align_corners": True, "channels": 256, "aux": False}),
}  # fmt: skip


@pytest.mark.parametrize("name", SMP)
def test_smp_with_resnet18(name: str) -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    kind, theirs_options, ours_options = SMP[name]
    theirs = calibrate(getattr(smp, kind)("resnet18", encoder_weights=None, classes=4, **theirs_options))
    if name == "deeplabv3":
        dilate_as_published(theirs)
    ours = create_model(name, classes=4, encoder="resnet18", weights=None, **ours_options)
    assert load_converted(ours, theirs.state_dict()).origin == "smp"
    for height, width in ((64, 96), (50, 70)):  # the second is padded
        agree(*logits_at(ours, theirs, height, width))


def dilate_as_published(theirs: nn.Module) -> None:
    """segmentation_models_pytorch dilates the first block of a stage by the stage's own factor, timm by that before."""
    layer3, layer4 = theirs.encoder.layer3, theirs.encoder.layer4
    for conv, dilation in ((layer3[0].conv1, 1), (layer4[0].conv1, 2)):
        conv.dilation = conv.padding = (dilation, dilation)


def test_smp_with_an_encoder_of_timm() -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    theirs = calibrate(smp.Unet("tu-mobilenetv3_small_050", encoder_weights=None, classes=3))
    ours = create_model("unet", classes=3, encoder="mobilenetv3_small_050", weights=None)
    load_converted(ours, theirs.state_dict())
    agree(*logits_at(ours, theirs, 64, 64))


def test_smp_with_vgg_differs_in_the_encoder_only() -> None:
    """timm's VGG gives the feature before each pool where theirs gives it behind: the center block is the same."""
    smp = pytest.importorskip("segmentation_models_pytorch")
    theirs = smp.Unet("vgg11_bn", encoder_weights=None, classes=3)
    ours = create_model("unet", classes=3, encoder="vgg11_bn", weights=None)
    shapes = [tuple(p.shape) for p in ours.decoder.center.parameters()]
    assert shapes == [tuple(p.shape) for p in theirs.decoder.center.parameters()] != []


def test_smp_segformer_on_mit_b0() -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    theirs = calibrate(smp.Segformer("mit_b0", encoder_weights=None, classes=4))
    ours = create_model("segformer", classes=4, weights=None, align_corners=True)
    assert load_converted(ours, theirs.state_dict()).origin == "smp"
    for height, width in ((64, 96), (50, 70)):
        agree(*logits_at(ours, theirs, height, width))


def test_smp_segformer_takes_stride_2_of_a_resnet_as_well() -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    theirs = calibrate(smp.Segformer("resnet18", encoder_weights=None, classes=4))
    ours = SegFormer(encoder=TimmEncoder("resnet18"), classes=4, align_corners=True)
    load_converted(ours, theirs.state_dict())
    agree(*logits_at(ours, theirs, 64, 64))


def test_transformers_segformer() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.SegformerConfig(num_labels=4)  # its defaults are B0
    theirs = transformers.SegformerForSemanticSegmentation(config)
    ours = create_model("segformer", classes=4, weights=None)
    for part in theirs.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_var, 0.5, 2.0)
    theirs.eval()
    nn.init.normal_(theirs.decode_head.classifier.weight, 0, 0.5)
    assert load_converted(ours, theirs.state_dict()).origin == "transformers"
    ours.eval()
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        coarse = theirs(x).logits  # at a quarter; the rest is the same bilinear step
        expected = torch.nn.functional.interpolate(coarse, size=(64, 96), mode="bilinear", align_corners=False)
        agree(ours.forward_padded(x).logits, expected)


def test_another_number_of_classes_is_said_and_the_rest_is_taken() -> None:
    source = create_model("lraspp", classes=21, weights=None)
    target = create_model("lraspp", classes=3, weights=None)
    loaded = load_converted(target, source.state_dict())
    assert set(loaded.left_out) == {"head.weight", "head.bias", "low_head.weight", "low_head.bias"}
    assert torch.equal(target.gate.weight, source.gate.weight)


def test_first_convolution_is_adapted_not_thrown_away() -> None:
    source = create_model("unet", classes=3, encoder="resnet18", weights=None)
    first = source.encoder.model.conv1.weight
    for channels in (1, 2, 5):
        target = create_model("unet", classes=3, encoder="resnet18", weights=None, in_channels=channels)
        loaded = load_converted(target, source.state_dict())
        assert loaded.adapted == ("encoder.model.conv1.weight",)
        adapted = target.encoder.model.conv1.weight
        # A gray image spread over the channels gives what the original gives for gray.
        if channels in (1, 5):
            total = adapted.sum(1) if channels == 1 else adapted[:, :3].sum(1)
            assert torch.allclose(total * (1 if channels == 1 else 5 / 3), first.sum(1), atol=1e-5)


def test_weights_of_another_network_are_refused_and_change_nothing() -> None:
    model = create_model("lraspp", classes=3, weights=None)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    other = create_model("unet", classes=3, encoder="resnet18", weights=None)
    with pytest.raises(WeightsError, match="do not fit"):
        load_converted(model, other.state_dict())
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
