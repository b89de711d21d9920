"""DeepLab v2: parallel dilated branches, summed, over a stride-8 trunk; several input scales fused by maximum.

Chen et al., DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, Atrous Convolution, and Fully Connected
CRFs (PAMI 2017). Two released forms:

- ResNet-101 (``deeplabv2``): layer3 and layer4 with stride 1 and dilation 2 and 4, four biased 3×3 convolutions of
  dilation 6, 12, 18, 24 **straight to the classes**, summed; scales 1, 0.75 and 0.5; batch normalization frozen.
- VGG16 (``deeplabv2_vgg``): v1's trunk without the average pool, four branches fc6 → fc7 → fc8, summed.

Differences: the stem pool has padding 1 (torchvision) where Caffe's has none, so that scores lie on pixels 0, 8, 16…;
strides are in a block's 3×3 (torchvision's weights) where Caffe's are in its first 1×1. Frozen batch normalization
needs statistics worth keeping: from scratch it trains (``freeze_norm=None`` freezes as soon as weights are loaded).
The dense CRF that completes the paper's system is ``segwright.postprocess.crf``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

import torch
from torch import Tensor, nn

from segwright.core.errors import ModelError, WeightsError
from segwright.models.base import SegmentationModel, SegOutput, resize
from segwright.models.deeplab_v1 import LargeFOVHead, OddSizeModel, dilated_vgg16, gaussian_classifier
from segwright.models.encoders.vgg import (
    VGG16_WIDTHS,
    InputScale,
    adapt_input_channels,
    load_vgg16_classifier,
    load_vgg16_trunk,
    required,
)

DILATIONS = (6, 12, 18, 24)
SCALES = (1.0, 0.75, 0.5)
RESNET101_LAYERS = (3, 4, 23, 3)


class ParallelSum(nn.Module):
    """The pyramid of v2: all branches take the same feature, and their logits are added."""

    def __init__(self, branches: Sequence[nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        first, *others = self.branches
        total: Tensor = first(x)
        for branch in others:
            total = total + branch(x)
        return total


class DilatedResNet(nn.Module):
    """torchvision's bottleneck ResNet without its classifier, at stride 8: (N, C, H, W) → (N, 2048, H/8, W/8).

    Parameter names are torchvision's. ``released``: the first block of layer3 and layer4 is dilated as the others are
    (2 and 4), as DeepLab's release has it; otherwise as torchvision converts a stride (1 and 2).
    """

    channels = 2048

    def __init__(
        self, *, in_channels: int = 3, layers: Sequence[int] = RESNET101_LAYERS, released: bool = True
    ) -> None:
        from torchvision.models.resnet import Bottleneck, ResNet  # here: it takes longer to import than torch does

        super().__init__()
        net = ResNet(Bottleneck, list(layers), replace_stride_with_dilation=[False, True, True])
        if in_channels != 3:
            net.conv1 = nn.Conv2d(in_channels, 64, 7, 2, 3, bias=False)
            nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
        if released:
            for layer, dilation in ((net.layer3, 2), (net.layer4, 4)):
                layer[0].conv2.dilation = layer[0].conv2.padding = (dilation, dilation)
        self.conv1, self.bn1, self.maxpool = net.conv1, net.bn1, net.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = net.layer1, net.layer2, net.layer3, net.layer4

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))  # type: ignore[no-any-return]


class DeepLabV2(OddSizeModel):
    """Trunk → branches at every scale → maximum. ``scales`` must begin with 1.

    In training mode with several scales, ``aux`` has each scale's own logits (``scale_1``, ``scale_0.75``, …): the
    loss is the sum over them and the maximum, each with weight 1 (``recipes.AUX_WEIGHTS``).
    """

    def __init__(
        self,
        *,
        trunk: nn.Module,
        branches: ParallelSum,
        classes: int,
        in_channels: int = 3,
        input_scale: InputScale = "imagenet",
        scales: Sequence[float] = SCALES,
        freeze_norm: bool | None = None,
    ) -> None:
        if not scales or scales[0] != 1 or any(not 0 < scale <= 1 for scale in scales):
            raise ModelError(
                "scales begin with 1 and are at most 1", expected="such as 1, 0.75, 0.5", found=str(scales)
            )
        # on sides of 32k + 1 the grids of all three published scales fall onto pixels (321 = 32·10 + 1)
        divisor = 8 if len(scales) == 1 else 32
        super().__init__(
            classes=classes, in_channels=in_channels, input_scale=input_scale, stride=8, size_divisor=divisor
        )
        self.scales = tuple(float(scale) for scale in scales)
        self.trunk = trunk
        self.branches = branches
        self.freeze_norm = freeze_norm
        self._set_norm()

    def scores(self, x: Tensor) -> Tensor:
        """Normalized (N, C, 8a + 1, 8b + 1) → summed logits of one scale, (N, K, a + 1, b + 1)."""
        features = self.trunk(x)
        return self.branches(features[-1] if isinstance(features, list) else features)  # type: ignore[no-any-return]

    def encoder_modules(self) -> Sequence[nn.Module]:
        return (self.trunk,)

    def forward_padded(self, x: Tensor) -> SegOutput:
        height, width = x.shape[-2:]
        scored = [self.scores(x)]
        for scale in self.scales[1:]:
            # whole numbers only: a traced graph with free sizes cannot round
            part = Fraction(scale).limit_denominator(64)
            smaller = tuple((side - 1) * part.numerator // part.denominator + 1 for side in (height, width))
            scored.append(self.scores(resize(x, (smaller[0], smaller[1]), align_corners=True)))
        fused = scored[0]
        grid = (fused.shape[-2], fused.shape[-1])
        for score in scored[1:]:
            fused = torch.maximum(fused, resize(score, grid, align_corners=True))
        aux = {}
        if self.training and len(scored) > 1:
            aux = {
                f"scale_{scale:g}": resize(score, (height, width), align_corners=True)
                for scale, score in zip(self.scales, scored, strict=True)
            }
        return SegOutput(resize(fused, (height, width), align_corners=True), aux)

    def train(self, mode: bool = True) -> DeepLabV2:
        """Frozen batch normalization stays in eval mode whatever the rest does."""
        super().train(mode)
        self._set_norm()
        return self

    def _set_norm(self) -> None:
        if not self.freeze_norm:
            return
        for module in self.trunk.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):  # SyncBatchNorm, too
                module.eval()
                for parameter in module.parameters():
                    parameter.requires_grad_(False)


class DeepLabV2ResNet(DeepLabV2):
    """The ResNet-101 form. Parameters at N=21: 44,048,532. Pixels: torchvision's."""

    pretrained_trunk = "resnet101"

    def __init__(
        self,
        *,
        classes: int,
        in_channels: int = 3,
        input_scale: InputScale = "imagenet",
        scales: Sequence[float] = SCALES,
        dilations: Sequence[int] = DILATIONS,
        freeze_norm: bool | None = None,
        layers: Sequence[int] = RESNET101_LAYERS,
        released: bool = True,
    ) -> None:
        trunk = DilatedResNet(in_channels=in_channels, layers=layers, released=released)
        super().__init__(
            trunk=trunk,
            branches=ParallelSum([gaussian_classifier(trunk.channels, classes, 3, rate) for rate in dilations]),
            classes=classes,
            in_channels=in_channels,
            input_scale=input_scale,
            scales=scales,
            freeze_norm=freeze_norm,
        )

    def classifier_layers(self) -> Mapping[str, Sequence[nn.Module]]:
        return {"logits": tuple(self.branches.branches)}

    def load_pretrained(self, state: Mapping[str, Tensor], *, trained_on: InputScale = "imagenet") -> list[str]:
        """torchvision's ResNet of the same depth; batch norms are frozen then, unless ``freeze_norm`` is False."""
        self.require_input_scale(trained_on)
        taken = {name: value for name, value in state.items() if not name.startswith("fc.")}
        first = required(state, "conv1.weight")
        taken["conv1.weight"] = adapt_input_channels(first.flip(1) if self.bgr else first, self.in_channels)
        try:
            self.trunk.load_state_dict(taken)
        except RuntimeError as error:
            raise WeightsError(
                "these weights are not of the trunk's depth",
                expected="the state dict of torchvision's resnet101",
                found=str(error).splitlines()[1].strip() if "\n" in str(error) else str(error),
            ) from error
        self.on_weights_loaded()
        return list(taken)

    def on_weights_loaded(self) -> None:
        """Batch normalization is frozen from here on, unless ``freeze_norm`` is False."""
        self.freeze_norm = True if self.freeze_norm is None else self.freeze_norm
        self._set_norm()

    def resolved_arguments(self) -> dict[str, object]:
        return {} if self.freeze_norm is None else {"freeze_norm": self.freeze_norm}


class VGGBranch(nn.Module):
    """fc6 (3×3, dilated) → fc7 → fc8 of one branch of the VGG form."""

    def __init__(self, in_channels: int, classes: int, *, fc_channels: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.head = LargeFOVHead(in_channels, fc_channels=fc_channels, dilation=dilation, dropout=dropout)
        self.fc8 = gaussian_classifier(fc_channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc8(self.head(x))  # type: ignore[no-any-return]


class DeepLabV2VGG(DeepLabV2):
    """The VGG16 form. Parameters at N=21: 37,877,652. One scale by default."""

    pretrained_trunk = "vgg16"

    def __init__(
        self,
        *,
        classes: int,
        in_channels: int = 3,
        input_scale: InputScale = "imagenet",
        scales: Sequence[float] = (1.0,),
        dilations: Sequence[int] = DILATIONS,
        dropout: float = 0.5,
        widths: Sequence[int] = VGG16_WIDTHS,
        fc_channels: int = 1024,
    ) -> None:
        branches = [
            VGGBranch(widths[4], classes, fc_channels=fc_channels, dilation=rate, dropout=dropout) for rate in dilations
        ]
        super().__init__(
            trunk=dilated_vgg16(in_channels=in_channels, widths=widths),
            branches=ParallelSum(branches),
            classes=classes,
            in_channels=in_channels,
            input_scale=input_scale,
            scales=scales,
        )

    def classifier_layers(self) -> Mapping[str, Sequence[nn.Module]]:
        return {"logits": tuple(branch.get_submodule("fc8") for branch in self.branches.branches)}

    def load_pretrained(self, state: Mapping[str, Tensor], *, trained_on: InputScale = "imagenet") -> list[str]:
        """VGG16's convolutions, and its fully connected layers thinned into every branch's fc6 and fc7."""
        self.require_input_scale(trained_on)
        loaded = load_vgg16_trunk(self.trunk, state, bgr=self.bgr)
        for index, branch in enumerate(self.branches.branches):
            assert isinstance(branch, VGGBranch)
            names = load_vgg16_classifier(branch.head.fc6, branch.head.fc7, state)
            loaded += [f"branches.{index}.{name}" for name in names]
        return loaded


MODELS: dict[str, Callable[..., SegmentationModel]] = {"deeplabv2": DeepLabV2ResNet, "deeplabv2_vgg": DeepLabV2VGG}
