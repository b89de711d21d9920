"""Checkpoints and configs of mmsegmentation: its names and arithmetic, written here in plain torch, give our logits."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typer.testing import CliRunner

from segwright import api
from segwright.cli import app
from segwright.core.errors import ConfigError, SegwrightError, UsageError, WeightsError
from segwright.inference.bundle import load_bundle
from segwright.inference.mmseg_config import read_mmseg_config
from segwright.models.base import SegmentationModel
from segwright.models.catalog import create_model
from segwright.models.convert import load_converted

NAMES = ["road", "car", "sky"]


class ConvModule(nn.Module):
    """mmcv's: ``conv``, ``bn``, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, dilation: int = 1, groups: int = 1) -> None:
        super().__init__()
        padding = dilation * (kernel // 2)
        self.conv = nn.Conv2d(inputs, outputs, kernel, 1, padding, dilation, groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Separable(nn.Module):
    """mmcv's DepthwiseSeparableConvModule."""

    def __init__(self, inputs: int, outputs: int, dilation: int = 1) -> None:
        super().__init__()
        self.depthwise_conv = ConvModule(inputs, inputs, 3, dilation, inputs)
        self.pointwise_conv = ConvModule(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise_conv(self.depthwise_conv(x))


class Bottleneck(nn.Module):
    """mmseg's, style ``pytorch``: the stride lies in the 3×3."""

    def __init__(self, inputs: int, planes: int, stride: int, dilation: int, down: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, planes, 1, bias=False), nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3, self.bn3 = nn.Conv2d(planes, planes * 4, 1, bias=False), nn.BatchNorm2d(planes * 4)
        self.downsample = None
        if down:
            conv = nn.Conv2d(inputs, planes * 4, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(planes * 4))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(out)))))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class ResNet50(nn.Module):
    """mmseg's ResNetV1c, or ResNet without ``deep``; ``contract``: the first block has half of a stage's dilation."""

    def __init__(self, strides: Iterable[int], dilations: Iterable[int], deep: bool, contract: bool) -> None:
        super().__init__()
        if deep:
            parts: list[nn.Module] = []
            for inputs, outputs, stride in ((3, 32, 2), (32, 32, 1), (32, 64, 1)):
                parts += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
            self.stem = nn.Sequential(*parts)
        else:
            self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.deep, inputs = deep, 64
        for number, (blocks, stride, dilation) in enumerate(zip((3, 4, 6, 3), strides, dilations, strict=True)):
            planes, layer = 64 * 2**number, []
            for block in range(blocks):
                first = block == 0
                one = dilation // 2 if first and dilation > 1 and contract else dilation
                layer.append(Bottleneck(inputs, planes, stride if first else 1, one, first))
                inputs = planes * 4
            setattr(self, f"layer{number + 1}", nn.Sequential(*layer))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.max_pool2d(self.stem(x) if self.deep else F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        return [x := getattr(self, f"layer{number}")(x) for number in range(1, 5)]


def resized(x: Tensor, like: Tensor, corners: bool = False) -> Tensor:
    size = like.shape[2:]
    return F.interpolate(x, size=size, mode="bilinear", align_corners=corners)


class Head(nn.Module):
    """The heads of mmseg by their type: 16 channels, the attributes' names as published."""

    def __init__(self, kind: str, corners: bool = False) -> None:
        super().__init__()
        self.kind, self.corners, wide = kind, corners, 16
        last = [nn.Sequential(nn.AdaptiveAvgPool2d(n), ConvModule(2048, wide)) for n in (1, 2, 3, 6)]
        if kind in ("PSPHead", "UPerHead"):
            self.psp_modules = nn.ModuleList(last)
            self.bottleneck = ConvModule(2048 + 4 * wide, wide, 3)
        if kind == "UPerHead":
            self.lateral_convs = nn.ModuleList(ConvModule(inputs, wide) for inputs in (256, 512, 1024))
            self.fpn_convs = nn.ModuleList(ConvModule(wide, wide, 3) for _ in range(3))
            self.fpn_bottleneck = ConvModule(4 * wide, wide, 3)
        if "ASPP" in kind:
            self.image_pool = last[0]
            convolution = Separable if kind.startswith("Depthwise") else (lambda i, o, d: ConvModule(i, o, 3, d))
            rates = [convolution(2048, wide, dilation) for dilation in (12, 24, 36)]
            self.aspp_modules = nn.ModuleList([ConvModule(2048, wide), *rates])
            self.bottleneck = ConvModule(5 * wide, wide, 3)
        if kind.startswith("Depthwise"):
            self.c1_bottleneck = ConvModule(256, 8)
            self.sep_bottleneck = nn.Sequential(Separable(wide + 8, wide), Separable(wide, wide))
        self.conv_seg = nn.Conv2d(wide, len(NAMES), 1)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = features[-1]
        if self.kind in ("PSPHead", "UPerHead"):
            x = self.bottleneck(torch.cat([x, *(resized(part(x), x, self.corners) for part in self.psp_modules)], 1))
        if self.kind == "UPerHead":
            levels = [conv(feature) for conv, feature in zip(self.lateral_convs, features, strict=False)] + [x]
            for level in (3, 2, 1):
                levels[level - 1] = levels[level - 1] + resized(levels[level], levels[level - 1])
            outs = [conv(level) for conv, level in zip(self.fpn_convs, levels, strict=False)] + [levels[3]]
            x = self.fpn_bottleneck(torch.cat([outs[0], *(resized(out, outs[0]) for out in outs[1:])], 1))
        if "ASPP" in self.kind:
            views = [resized(self.image_pool(x), x), *(module(x) for module in self.aspp_modules)]
            x = self.bottleneck(torch.cat(views, 1))
        if self.kind.startswith("Depthwise"):
            fine = self.c1_bottleneck(features[0])
            x = self.sep_bottleneck(torch.cat([resized(x, fine, self.corners), fine], 1))
        return self.conv_seg(x)


class Auxiliary(nn.Module):
    """mmseg's FCNHead with one convolution, which only training uses."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.Sequential(ConvModule(1024, 256, 3))
        self.conv_seg = nn.Conv2d(256, len(NAMES), 1)


class EncoderDecoder(nn.Module):
    def __init__(self, kind: str, strides: Any, dilations: Any, *, deep: bool, contract: bool, corners: bool) -> None:
        super().__init__()
        self.backbone = ResNet50(strides, dilations, deep, contract)
        self.decode_head, self.auxiliary_head = Head(kind, corners), Auxiliary()
        self.corners = corners

    def forward(self, x: Tensor) -> Tensor:
        return resized(self.decode_head(self.backbone(x)), x, self.corners)


BASE = """
norm_cfg = dict(type='SyncBN', requires_grad=True)
data_preprocessor = dict(type='SegDataPreProcessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
                         bgr_to_rgb=True, pad_val=0, seg_pad_val=255)
model = dict(
    type='EncoderDecoder', data_preprocessor=data_preprocessor, pretrained='open-mmlab://resnet50_v1c',
    backbone=dict(type='ResNetV1c', depth=50, num_stages=4, out_indices=(0, 1, 2, 3), dilations=(1, 1, 2, 4),
                  strides=(1, 2, 1, 1), norm_cfg=norm_cfg, norm_eval=False, style='pytorch', contract_dilation=True),
    decode_head=dict(type='PSPHead', in_channels=2048, in_index=3, channels=512, pool_scales=(1, 2, 3, 6),
                     dropout_ratio=0.1, num_classes=19, norm_cfg=norm_cfg, align_corners=False,
                     loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)),
    auxiliary_head=dict(type='FCNHead', in_channels=1024, in_index=2, channels=256, num_convs=1, concat_input=False,
                        dropout_ratio=0.1, num_classes=19, norm_cfg=norm_cfg, align_corners=False,
                        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=0.4)),
    train_cfg=dict(), test_cfg=dict(mode='whole'))
"""
PLAIN = "dilations=(1, 1, 1, 1), strides=(1, 2, 2, 2)"
HEADS = {
    "PSPHead": "decode_head=dict(channels=16, num_classes=3, align_corners=True)",
    "UPerHead": f"backbone=dict({PLAIN}), decode_head=dict(_delete_=True, type='UPerHead', "
    "in_channels=[256, 512, 1024, 2048], in_index=[0, 1, 2, 3], pool_scales=(1, 2, 3, 6), channels=16, "
    "num_classes=3, norm_cfg=dict(type='BN'), align_corners=False)",
    "ASPPHead": "backbone=dict(type='ResNet', contract_dilation=False), decode_head=dict(_delete_=True, "
    "type='ASPPHead', in_channels=2048, in_index=3, channels=16, dilations=(1, 12, 24, 36), num_classes=3, "
    "norm_cfg=dict(type='BN'), align_corners=False)",
    "DepthwiseSeparableASPPHead": "decode_head=dict(_delete_=True, type='DepthwiseSeparableASPPHead', "
    "in_channels=2048, in_index=3, channels=16, dilations=(1, 12, 24, 36), c1_in_channels=256, c1_channels=8, "
    "num_classes=3, norm_cfg=dict(type='BN'), align_corners=False)",
}


def config_of(folder: Path, head: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "base.py").write_text(BASE, encoding="utf-8")
    path = folder / "mine.py"
    path.write_text(f"_base_ = ['./base.py']\nmodel = dict({head})\n", encoding="utf-8")
    return path


def network(kind: str) -> EncoderDecoder:
    torch.manual_seed(3)
    dilated = kind != "UPerHead"
    plan = ((1, 2, 1, 1), (1, 1, 2, 4)) if dilated else ((1, 2, 2, 2), (1, 1, 1, 1))
    plain = kind == "ASPPHead"
    theirs = EncoderDecoder(kind, *plan, deep=not plain, contract=not plain, corners=kind == "PSPHead")
    for part in theirs.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.6, 1.4)
            nn.init.uniform_(part.bias, -0.3, 0.3)
            part.momentum = 1.0  # one batch brings the activations to order one
    with torch.no_grad():
        theirs.train()(torch.randn(2, 3, 32, 32))
    return theirs.eval()


PUBLISHED = {  # names as in the published checkpoints
    "PSPHead": {"backbone.stem.0.weight", "backbone.stem.7.running_var", "backbone.layer4.0.downsample.1.bias",
                "decode_head.psp_modules.3.1.bn.weight", "decode_head.bottleneck.conv.weight",
                "decode_head.conv_seg.bias", "auxiliary_head.convs.0.conv.weight"},
    "UPerHead": {"decode_head.lateral_convs.2.bn.weight", "decode_head.fpn_convs.0.conv.weight",
                 "decode_head.fpn_bottleneck.bn.bias"},
    "ASPPHead": {"backbone.conv1.weight", "decode_head.image_pool.1.conv.weight",
                 "decode_head.aspp_modules.3.conv.weight"},
    "DepthwiseSeparableASPPHead": {"decode_head.aspp_modules.1.depthwise_conv.conv.weight",
                                   "decode_head.c1_bottleneck.conv.weight",
                                   "decode_head.sep_bottleneck.1.pointwise_conv.bn.weight"},
}  # fmt: skip


def agree(ours: SegmentationModel, theirs: EncoderDecoder) -> None:
    """Equal logits, also at sizes that no stride divides: mmsegmentation does not pad them."""
    for height, width in ((48, 64), (41, 51)):
        images = torch.randint(0, 256, (1, height, width, 3), dtype=torch.uint8)
        mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
        with torch.no_grad():
            expected = theirs(((images - mean) / std).permute(0, 3, 1, 2))
            logits = ours.eval()(images).logits
        assert expected.std() > 0.01
        assert (logits - expected).abs().max() <= 1e-4 * max(1.0, float(expected.std()))


@pytest.mark.parametrize("kind", [*list(HEADS)[:2], pytest.param("ASPPHead", marks=pytest.mark.slow), list(HEADS)[3]])
def test_weights_and_a_config_give_the_same_logits(kind: str, tmp_path: Path) -> None:
    theirs = network(kind)
    assert PUBLISHED[kind] <= set(theirs.state_dict())
    found = read_mmseg_config(config_of(tmp_path / "configs", HEADS[kind]))
    options = {"classes": found.classes, "encoder": found.encoder, "normalization": found.normalization}
    ours = create_model(found.model, weights=None, **options, **found.arguments)
    loaded = load_converted(ours, theirs.state_dict())
    assert loaded.origin == "mmseg" and not loaded.left_out and not loaded.adapted
    agree(ours, theirs)


def test_a_checkpoint_becomes_a_saved_model(tmp_path: Path) -> None:
    theirs = network("PSPHead")
    state = theirs.state_dict()
    flat = BASE.replace("channels=512", "channels=16").replace("num_classes=19", "num_classes=3")
    flat = flat.replace("align_corners=False", "align_corners=True")
    meta = {"mmseg_version": "1.2.2", "cfg": flat, "dataset_meta": {"classes": tuple(NAMES), "palette": [[0, 0, 0]]}}
    torch.save({"meta": meta, "state_dict": state}, tmp_path / "best.pth")
    result = CliRunner().invoke(app, ["import", str(tmp_path / "best.pth"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "mmseg's layout" in result.output
    ours, bundle = load_bundle(tmp_path / "out")
    assert bundle.label_space.names == tuple(NAMES)
    agree(ours, theirs)
    torch.save({"state_dict": state}, tmp_path / "bare.pth")
    for given, match in (({}, "--config CONFIG.py"), ({"model": "pspnet"}, "imported by its config")):
        with pytest.raises(UsageError, match=match):
            api.import_weights(tmp_path / "bare.pth", tmp_path / "other", classes=NAMES, **given)


@pytest.mark.parametrize(
    ("head", "match"),
    [
        ("decode_head=dict(type='FCNHead', num_convs=2)", "FCNHead"),
        ("decode_head=dict(type='SegformerHead')", "SegformerHead"),
        ("backbone=dict(type='ResNetV1d')", "ResNetV1d"),
        ("backbone=dict(style='caffe')", "caffe"),
        ("backbone=dict(type='ResNet', depth=18)", "where stages are dilated"),
        ("backbone=dict(dcn=dict(type='DCNv2'))", "DCNv2"),
        ("backbone=dict(strides=(1, 1, 1, 1))", "output stride"),
        ("decode_head=dict(norm_cfg=dict(type='GN'))", "GN"),
        ("decode_head=dict(surprise=3)", "surprise = absent"),
        ("data_preprocessor=dict(bgr_to_rgb=False)", "RGB"),
        ("type='CascadeEncoderDecoder'", "Cascade"),
    ],
)
def test_other_arithmetic_is_refused_by_name(head: str, match: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=match):
        read_mmseg_config(config_of(tmp_path, head))


def test_a_config_is_not_run(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    for text, kind in (
        (f"open({str(trap)!r}, 'w')\nmodel = dict(backbone=__import__('os').getcwd())", ConfigError),
        ("with read_base():\n    from .base import *", ConfigError),
        ("model = dict(", ConfigError),
        ("_base_ = './config.py'", ConfigError),
        ("_base_ = './absent.py'", ConfigError),
        ("x = 1", SegwrightError),
    ):
        (tmp_path / "config.py").write_text(text, encoding="utf-8")
        with pytest.raises(kind):
            read_mmseg_config(tmp_path / "config.py")
    assert not trap.exists()


def test_a_dilated_basic_block_is_refused() -> None:
    ours = create_model("pspnet", classes=3, encoder="resnet18", weights=None)
    with pytest.raises(WeightsError, match="dilat"):
        load_converted(ours, {"backbone.conv1.weight": torch.zeros(1), "decode_head.conv_seg.weight": torch.zeros(1)})
