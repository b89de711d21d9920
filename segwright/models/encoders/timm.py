"""Encoders from timm: any of its hierarchical networks by name, and MobileNetV3 with torchvision's constants.

timm is imported where an encoder is built: with torchvision and torch's compiler, which come along, it takes longer to
import than torch does.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segwright.core.errors import ModelError, UsageError, WeightsError
from segwright.models.base import IMAGENET_MEAN, IMAGENET_STD
from segwright.models.encoders.base import STRIDES, Encoder
from segwright.models.encoders.pretrained import PACKAGED, named_as
from segwright.models.encoders.state_files import read_state_dict


class TimmEncoder(Encoder):
    """A network of timm, without its classifier.

    ``strides``: the stages wanted; later ones are cut away. Stages that the network does not have (stride 2 of a
    transformer) are simply absent from ``channels``. ``output_stride``: 8 or 16 replace later strides by dilation.
    ``dilate_first``: timm (as the published DeepLab code) gives the first block of a dilated stage the dilation of the
    stage before; torchvision's MobileNet and the PSPNet code give it the stage's own. ``multi_grid``: factors on the
    dilations of the last stage's blocks (DeepLab v3, section 3.1: 1, 2, 4); ResNets, MobileNets and EfficientNets only.
    ``weights_file``: a state dict of timm's. ``arguments`` go to ``timm.create_model``.
    """

    def __init__(
        self,
        name: str,
        *,
        in_channels: int = 3,
        strides: Sequence[int] = STRIDES,
        output_stride: int = 32,
        dilate_first: bool = False,
        multi_grid: Sequence[int] | None = None,
        weights_file: Path | None = None,
        **arguments: Any,
    ) -> None:
        if output_stride not in (8, 16, 32):
            raise UsageError("an output stride is 8, 16 or 32", found=str(output_stride))
        stages = _stages(name)
        wanted = {stride: index for stride, index in stages.items() if stride in strides}
        if not wanted:
            raise ModelError(
                "the encoder has no stage that the network needs",
                expected=f"strides {', '.join(map(str, strides))}",
                found=f"{name} has {', '.join(map(str, stages))}",
                fix="choose a hierarchical encoder, such as resnet34, mobilenetv2_100 or convnext_tiny",
            )
        if output_stride != 32:
            arguments["output_stride"] = output_stride
        model: Any = _build(name, in_channels, tuple(wanted.values()), weights_file, arguments)
        _cut_behind(model)
        infos = [model.feature_info.info[index] for index in wanted.values()]
        super().__init__(
            name=name,
            in_channels=in_channels,
            channels={stride: int(info["num_chs"]) for stride, info in zip(wanted, infos, strict=True)},
            reductions={stride: int(info["reduction"]) for stride, info in zip(wanted, infos, strict=True)},
            **_statistics(name),
        )
        _check_output_stride(self, output_stride)
        self.model = model
        self.channels_last_output = str(getattr(model, "output_fmt", "NCHW")).endswith("NHWC")
        if dilate_first:
            dilate_first_blocks(model)
        if multi_grid is not None:
            apply_multi_grid(model, multi_grid)

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        features = self.model(x)
        if self.channels_last_output:
            features = [feature.permute(0, 3, 1, 2) for feature in features]
        return dict(zip(self.channels, features, strict=True))


class TorchvisionMobileNetV3(Encoder):
    """MobileNetV3-Large as torchvision's segmentation networks use it: output stride 16, and features[8] early.

    timm's layers with torchvision's constants: batch norm eps 0.001 and momentum 0.01, the whole last stage dilated by
    2, and the stride-8 feature taken behind the *first* block of its stage instead of the last.
    """

    timm_name = "mobilenetv3_large_100"

    def __init__(
        self,
        name: str = "mobilenet_v3_large_torchvision",
        *,
        in_channels: int = 3,
        strides: Sequence[int] = (8, 16, 32),
        output_stride: int = 16,
        weights_file: Path | None = None,
    ) -> None:
        if output_stride != 16 or not set(strides) <= {8, 16, 32}:
            raise ModelError(
                f"{name} has output stride 16 and stages 8, 16, 32 only",
                found=f"{output_stride=}, {strides=}",
                fix="take the encoder mobilenetv3_large_100",
            )
        channels = {stride: width for stride, width in ((8, 40), (16, 112), (32, 960)) if stride in (*strides, 32)}
        super().__init__(
            name=name,
            in_channels=in_channels,
            channels=channels,
            reductions={stride: min(stride, 16) for stride in channels},
        )
        arguments = {"output_stride": 16, "bn_eps": 1e-3, "bn_momentum": 0.01}
        self.model: Any = _build(self.timm_name, in_channels, (4,), weights_file, arguments)
        dilate_first_blocks(self.model)

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        x = self.model.act1(self.model.bn1(self.model.conv_stem(x)))
        features = {}
        for index, stage in enumerate(self.model.blocks):
            for place, block in enumerate(stage):
                x = block(x)
                if (index, place) == (2, 0):
                    features[8] = x
            if index == 4:
                features[16] = x
        features[32] = x
        return {stride: features[stride] for stride in self.channels}


def dilate_first_blocks(model: nn.Module) -> None:
    """Give the first block of every dilated stage the dilation of the stage's other blocks."""
    for stage in _block_stages(model):
        dilations = [conv.dilation[0] for block in stage for conv in _spatial_convolutions(block)]
        for block in stage[:1] if dilations else ():
            for conv in _spatial_convolutions(block):
                _dilate(conv, dilations[-1])


def apply_multi_grid(model: nn.Module, factors: Sequence[int]) -> None:
    """Multiply the dilations of the last stage's blocks by ``factors``, one per block (DeepLab v3, section 3.1)."""
    stage = _block_stages(model)[-1]
    if len(factors) < len(stage):
        raise ModelError(
            "one multi-grid factor per block of the last stage", expected=str(len(stage)), found=str(tuple(factors))
        )
    base = max(conv.dilation[0] for conv in _spatial_convolutions(stage[-1]))
    for block, factor in zip(stage, factors, strict=False):  # a ResNet-18 has two of the three blocks
        for conv in _spatial_convolutions(block):
            _dilate(conv, base * factor)


def _block_stages(model: nn.Module) -> list[list[nn.Module]]:
    """The stages of a ResNet (layer1…layer4) or of a MobileNet or EfficientNet (blocks), as lists of blocks."""
    layers = [getattr(model, f"layer{i}", None) for i in range(1, 5)]
    stages = [layer for layer in layers if layer is not None] or list(getattr(model, "blocks", ()))
    if not stages:
        raise ModelError(
            "dilations can be set in ResNets, MobileNets and EfficientNets only", found=type(model).__name__
        )
    return [list(stage.children()) for stage in stages]


def _spatial_convolutions(block: nn.Module) -> list[nn.Conv2d]:
    return [part for part in block.modules() if isinstance(part, nn.Conv2d) and part.kernel_size[0] > 1]


def _dilate(conv: nn.Conv2d, dilation: int) -> None:
    conv.dilation = (dilation, dilation)
    conv.padding = (dilation * (conv.kernel_size[0] // 2), dilation * (conv.kernel_size[1] // 2))


def _stages(name: str) -> dict[int, int]:
    """Stride → index of timm's feature, the last one of a stride, for the network as published."""
    import timm

    if not timm.is_model(name):
        near = timm.list_models(f"*{name[:6]}*")[:8]
        raise UsageError(
            "unknown encoder", expected="a name from timm.list_models()", found=name, fix=f"near it: {', '.join(near)}"
        )
    try:
        with torch.device("meta"):
            probe: Any = timm.create_model(name, features_only=True)
    except Exception as error:  # timm raises whatever comes: AssertionError, RuntimeError, TypeError, AttributeError
        raise ModelError("timm offers no features of this network", found=f"{name}: {error}") from error
    return {int(info["reduction"]): index for index, info in enumerate(probe.feature_info.info)}


@contextmanager
def _without_note_of_the_head() -> Iterator[None]:
    """timm warns that the weights hold a classifier's head as well: an encoder has none, and nothing is wrong."""
    builder = logging.getLogger("timm.models._builder")
    quiet = lambda record: not str(record.msg).startswith("Unexpected keys")  # noqa: E731
    builder.addFilter(quiet)
    try:
        yield
    finally:
        builder.removeFilter(quiet)


def _build(
    name: str, in_channels: int, indices: tuple[int, ...], weights_file: Path | None, arguments: dict[str, Any]
) -> nn.Module:
    import timm

    if weights_file is not None and weights_file.suffix == ".pth" and name in PACKAGED:
        source: dict[str, Any] = {"state_dict": _packaged_state(name, weights_file)}
        arguments = {**arguments, "pretrained": True, "pretrained_cfg_overlay": source}
    elif weights_file is not None:
        arguments = {**arguments, "pretrained": True, "pretrained_cfg_overlay": {"file": str(weights_file)}}
    try:
        with _without_note_of_the_head():
            model: nn.Module = timm.create_model(
                name, features_only=True, in_chans=in_channels, out_indices=indices, **arguments
            )
    except (TypeError, AssertionError) as error:
        if "output_stride" in arguments:
            raise _no_output_stride(name, arguments["output_stride"]) from error
        raise ModelError("timm cannot build the encoder so", found=f"{name} {arguments}: {error}") from error
    except RuntimeError as error:
        if weights_file is None:
            raise
        raise WeightsError("the encoder's weights do not fit it", where=weights_file, found=str(error)) from error
    return model


def _packaged_state(name: str, file: Path) -> dict[str, Tensor]:
    """The weights of a package under timm's names."""
    import timm

    with torch.device("meta"):
        names = timm.create_model(name).state_dict()
    return named_as(read_state_dict(file), names, file)


def _cut_behind(model: Any) -> None:
    """Drop the blocks behind the last feature: they would be computed, and never get a gradient."""
    blocks = getattr(model, "blocks", None)
    last = model.feature_info.module_name(model.feature_info.out_indices[-1])
    if isinstance(blocks, nn.Sequential) and last.startswith("blocks."):
        model.blocks = blocks[: int(last.split(".")[1]) + 1]


def _statistics(name: str) -> dict[str, tuple[float, ...]]:
    import timm

    config = timm.models.get_pretrained_cfg(name)
    return {"mean": IMAGENET_MEAN, "std": IMAGENET_STD} if config is None else {"mean": config.mean, "std": config.std}


def _check_output_stride(encoder: Encoder, output_stride: int) -> None:
    if encoder.output_stride > output_stride:
        raise _no_output_stride(encoder.name, output_stride)


def _no_output_stride(name: str, output_stride: int) -> ModelError:
    return ModelError(
        f"{name} cannot be dilated to output stride {output_stride}",
        expected="a network whose strides can be replaced by dilation: ResNets, MobileNets, EfficientNets, ConvNeXt",
        found=name,
        fix="leave output_stride at 32, or choose such an encoder",
    )
