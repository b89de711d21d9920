"""FC-DenseNet (the One Hundred Layers Tiramisu): dense blocks down and up, only the new features going up.

Jégou et al., The One Hundred Layers Tiramisu: Fully Convolutional DenseNets for Semantic Segmentation (CVPRW 2017),
built to the authors' ``FC-DenseNet.py`` and ``layers.py``: a layer is BN – ReLU – 3×3 – dropout 0.2, its output joins
the stack; a transition down is BN – ReLU – 1×1 – dropout – 2×2 max pool; a transition up is a 3×3/2 transposed
convolution of the block's **new** features alone, without padding, center-cropped to the skip. Convolutions have a
bias and start He-uniform. It was made to be trained from scratch.

Statistics at test: the release evaluates with those of the batch at hand (``batch_norm_use_averages=False``; its
running averages are never updated). ``test_statistics="batch"`` does so too. The default ``"running"`` takes the
averages of training, as every other network: with the batch's own an image's labels depend on the images beside it.

Difference: images smaller than 32 pixels are padded by their edge values (five pools that round down need that many).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segwright.core.errors import ModelError
from segwright.models.base import SegmentationModel, SegOutput, crop

LAYERS_56 = (4,) * 11
LAYERS_67 = (5,) * 11
LAYERS_103 = (4, 5, 7, 10, 12, 15, 12, 10, 7, 5, 4)


class BatchStatisticsNorm(nn.BatchNorm2d):
    """Batch norm by the statistics of the batch at hand, in eval mode too; written out so that it exports."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return super().forward(x)
        mean = x.mean((0, 2, 3), keepdim=True)
        centered = x - mean
        scale = self.weight.view(1, -1, 1, 1) * torch.rsqrt(
            (centered * centered).mean((0, 2, 3), keepdim=True) + self.eps
        )
        return centered * scale + self.bias.view(1, -1, 1, 1)


class DenseLayer(nn.Module):
    """BN – ReLU – convolution that keeps the size – dropout."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int = 3, dropout: float) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.conv(torch.relu(self.bn(x))))  # type: ignore[no-any-return]


class DenseBlock(nn.Module):
    """``layers`` dense layers; returns the whole stack and the new features alone."""

    def __init__(self, inputs: int, *, layers: int, growth: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            DenseLayer(inputs + index * growth, growth, dropout=dropout) for index in range(layers)
        )
        self.stacked = inputs + layers * growth
        self.grown = layers * growth

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        new: list[Tensor] = []
        for layer in self.layers:
            feature = layer(x)
            new.append(feature)
            x = torch.cat([x, feature], 1)
        return x, torch.cat(new, 1)


class FCDenseNet(SegmentationModel):
    """``layers`` names the layers of every dense block: going down, the bottleneck, going up. ``test_statistics``: of
    batch norm in eval mode, the running averages or, as released, those of the batch.

    FC-DenseNet103 at N=11: 9,322,091 parameters.
    """

    def __init__(
        self,
        *,
        classes: int,
        in_channels: int = 3,
        layers: Sequence[int] = LAYERS_103,
        growth: int = 16,
        first_width: int = 48,
        dropout: float = 0.2,
        test_statistics: Literal["running", "batch"] = "running",
    ) -> None:
        if test_statistics not in ("running", "batch"):
            raise ModelError("unknown test_statistics", expected="running or batch", found=str(test_statistics))
        if len(layers) % 2 == 0:
            raise ModelError("as many dense blocks up as down, and one between", found=f"{len(layers)} blocks")
        pools = len(layers) // 2
        super().__init__(
            classes=classes, in_channels=in_channels, stride=2**pools, size_divisor=1, minimum_size=2**pools
        )
        self.logits_stride = 1
        make = partial(DenseBlock, growth=growth, dropout=dropout)
        self.first = nn.Conv2d(in_channels, first_width, 3, padding=1)
        self.down, self.transitions_down = nn.ModuleList(), nn.ModuleList()
        channels, skips = first_width, []
        for count in layers[:pools]:
            block = make(channels, layers=count)
            channels = block.stacked
            skips.append(channels)
            self.down.append(block)
            self.transitions_down.append(DenseLayer(channels, channels, kernel=1, dropout=dropout))
        block = self.bottleneck = make(channels, layers=layers[pools])
        self.transitions_up, self.up = nn.ModuleList(), nn.ModuleList()
        for count in layers[pools + 1 :]:
            self.transitions_up.append(nn.ConvTranspose2d(block.grown, block.grown, 3, 2))
            block = make(block.grown + skips.pop(), layers=count)
            self.up.append(block)
        self.head = nn.Conv2d(block.stacked, classes, 1)
        if test_statistics == "batch":
            for module in self.modules():
                if isinstance(module, DenseLayer):
                    module.bn = BatchStatisticsNorm(module.bn.num_features)
        self._initialize()

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def feature_modules(self) -> Sequence[nn.Module]:
        return (self.bottleneck,)

    def classifier_layers(self) -> Mapping[str, Sequence[nn.Module]]:
        return {"logits": (self.head,)}

    def forward_padded(self, x: Tensor) -> SegOutput:
        x = self.first(x)
        skips = []
        for block, transition in zip(self.down, self.transitions_down, strict=True):
            x, _ = block(x)
            skips.append(x)
            x = F.max_pool2d(transition(x), 2)
        x, new = self.bottleneck(x)
        for transition, block in zip(self.transitions_up, self.up, strict=True):
            skip = skips.pop()
            height, width = skip.shape[-2:]
            # 2h + 1 rows for a skip of 2h or 2h + 1: the center crop of the release starts at row 0 in both cases
            x, new = block(torch.cat([crop(transition(new), height, width), skip], 1))
        return SegOutput(self.head(x), {})


MODELS: dict[str, Callable[..., SegmentationModel]] = {
    "fc_densenet56": partial(FCDenseNet, layers=LAYERS_56, growth=12),
    "fc_densenet67": partial(FCDenseNet, layers=LAYERS_67, growth=16),
    "fc_densenet103": FCDenseNet,
}
