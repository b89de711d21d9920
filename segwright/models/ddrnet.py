"""DDRNet: two branches, one that stays at stride 8 and one that goes to 64, exchanging on the way. For CPUs and real
time.

Hong et al. 2021, Deep Dual-resolution Networks (arXiv 2101.06085). Built from the paper: sections 3.2 (the two
branches and their bilateral fusions), 3.3 (DAPPM, the context module) and 3.4 (heads at stride 8). The pooling
windows of the DAPPM are 5/2, 9/4, 17/8 and the whole (figure 5). Differences: no ImageNet weights are used, and
convolutions before a batch norm have no bias.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segwright.models.base import SegmentationModel, SegOutput, resize

POOLS = ((5, 2), (9, 4), (17, 8))  # window and step of the DAPPM's averages


class ConvNorm(nn.Sequential):
    """Convolution and batch norm, without an activation."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(out_channels),
        )


class Residual(nn.Module):
    """A ResNet block: two 3×3, or 1×1, 3×3, 1×1 with ``expansion`` 2. ``last`` leaves out the final ReLU."""

    def __init__(
        self, in_channels: int, channels: int, *, stride: int = 1, expansion: int = 1, last: bool = False
    ) -> None:
        super().__init__()
        out_channels = channels * expansion
        if expansion == 1:
            steps = [ConvNorm(in_channels, channels, 3, stride), nn.ReLU(inplace=True), ConvNorm(channels, channels)]
        else:
            steps = [
                ConvNorm(in_channels, channels, 1), nn.ReLU(inplace=True),
                ConvNorm(channels, channels, 3, stride), nn.ReLU(inplace=True),
                ConvNorm(channels, out_channels, 1),
            ]  # fmt: skip
        self.steps = nn.Sequential(*steps)
        plain = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if plain else ConvNorm(in_channels, out_channels, 1, stride)
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.steps(x) + self.shortcut(x)
        return out if self.last else F.relu(out)


def stage(in_channels: int, channels: int, blocks: int, *, stride: int) -> nn.Sequential:
    """``blocks`` residual blocks, the last without ReLU: its output is added to before it is rectified."""
    first = Residual(in_channels, channels, stride=stride, last=blocks == 1)
    rest = [Residual(channels, channels, last=index == blocks - 1) for index in range(1, blocks)]
    return nn.Sequential(first, *rest)


class Activated(nn.Sequential):
    """Batch norm, ReLU, convolution: the DAPPM's and the heads' order."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, *, bias: bool = False) -> None:
        super().__init__(
            nn.BatchNorm2d(in_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=bias),
        )


class DAPPM(nn.Module):
    """Context at stride 64: averages of growing windows, each added to the one before and convolved (section 3.3)."""

    def __init__(self, in_channels: int, channels: int, out_channels: int) -> None:
        super().__init__()
        self.scales = nn.ModuleList(Activated(in_channels, channels, 1) for _ in range(len(POOLS) + 2))
        self.steps = nn.ModuleList(Activated(channels, channels, 3) for _ in range(len(POOLS) + 1))
        self.compress = Activated(channels * (len(POOLS) + 2), out_channels, 1)
        self.shortcut = Activated(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        size = (x.shape[-2], x.shape[-1])
        pooled = [F.avg_pool2d(x, window, step, padding=window // 2) for window, step in POOLS]
        pooled.append(x.mean((2, 3), keepdim=True))
        views = [self.scales[0](x)]
        for scale, step, average in zip(list(self.scales)[1:], self.steps, pooled, strict=True):
            views.append(step(resize(scale(average), size) + views[-1]))
        out: Tensor = self.compress(torch.cat(views, dim=1)) + self.shortcut(x)
        return out


class Head(nn.Sequential):
    """Batch norm, ReLU, 3×3; batch norm, ReLU, 1×1 to the classes."""

    def __init__(self, in_channels: int, channels: int, classes: int) -> None:
        super().__init__(Activated(in_channels, channels, 3), Activated(channels, classes, 1, bias=True))

    @property
    def classifier(self) -> nn.Conv2d:
        """The convolution to the classes."""
        last = list(self.modules())[-1]
        assert isinstance(last, nn.Conv2d)
        return last


class DDRNet(SegmentationModel):
    """DDRNet. ``width`` 32 is the paper's 23-slim, 64 its 23; ``blocks``: of the four stages (2, 2, 2, 2 for both).

    ``aux``: a head on the fine branch after the first exchange, in training only (weight 0.4 in the paper). With
    ``native_logits`` set, training logits come at half the input's size and those of ``aux`` at stride 8.
    """

    def __init__(
        self,
        *,
        classes: int,
        in_channels: int = 3,
        width: int = 32,
        blocks: Sequence[int] = (2, 2, 2, 2),
        context_channels: int = 128,
        head_channels: int = 64,
        aux: bool = True,
    ) -> None:
        # Two cells at stride 64 at least: with one, an exported DAPPM would be tied to that case.
        super().__init__(classes=classes, in_channels=in_channels, stride=8, size_divisor=64, minimum_size=128)
        fine = 2 * width  # channels of the branch that stays at stride 8
        entry = [ConvNorm(in_channels, width, 3, 2), nn.ReLU(inplace=True)]
        entry += [ConvNorm(width, width, 3, 2), nn.ReLU(inplace=True)]
        self.stem = nn.Sequential(
            *entry,
            stage(width, width, blocks[0], stride=1), nn.ReLU(inplace=True),
            stage(width, 2 * width, blocks[1], stride=2), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.coarse3 = stage(2 * width, 4 * width, blocks[2], stride=2)
        self.coarse4 = stage(4 * width, 8 * width, blocks[3], stride=2)
        self.coarse5 = Residual(8 * width, 8 * width, stride=2, expansion=2, last=True)
        self.fine3 = stage(fine, fine, 2, stride=1)
        self.fine4 = stage(fine, fine, 2, stride=1)
        self.fine5 = Residual(fine, fine, expansion=2, last=True)
        self.down3 = ConvNorm(fine, 4 * width, 3, 2)
        self.down4 = nn.Sequential(
            ConvNorm(fine, 4 * width, 3, 2), nn.ReLU(inplace=True), ConvNorm(4 * width, 8 * width, 3, 2)
        )
        self.up3 = ConvNorm(4 * width, fine, 1)
        self.up4 = ConvNorm(8 * width, fine, 1)
        self.context = DAPPM(16 * width, context_channels, 2 * fine)
        self.head = Head(2 * fine, head_channels, classes)
        self.aux_head = Head(fine, head_channels, classes) if aux else None
        self._initialize()

    def _initialize(self) -> None:
        """As the authors' code: He's normal initialization by fan-out for every convolution, norms at one and zero."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def feature_modules(self) -> Sequence[nn.Module]:
        return (self.coarse5,)

    def classifier_layers(self) -> Mapping[str, Sequence[nn.Module]]:
        found: dict[str, Sequence[nn.Module]] = {"logits": (self.head.classifier,)}
        if self.aux_head is not None:
            found["aux"] = (self.aux_head.classifier,)
        return found

    def forward_padded(self, x: Tensor) -> SegOutput:
        size = (x.shape[-2], x.shape[-1])
        shared = self.stem(x)  # (N, 2·width, H/8, W/8), rectified
        fine_size = (shared.shape[-2], shared.shape[-1])
        coarse, fine = self.coarse3(shared), self.fine3(shared)
        coarse, fine = coarse + self.down3(F.relu(fine)), fine + resize(self.up3(F.relu(coarse)), fine_size)
        auxiliary = fine
        coarse, fine = self.coarse4(F.relu(coarse)), self.fine4(F.relu(fine))
        coarse, fine = coarse + self.down4(F.relu(fine)), fine + resize(self.up4(F.relu(coarse)), fine_size)
        context = self.context(self.coarse5(F.relu(coarse)))
        logits = self.head(self.fine5(F.relu(fine)) + resize(context, fine_size))
        aux = {"aux": self.aux_head(auxiliary)} if self.aux_head is not None and self.training else {}
        if self.training and self.native_logits:
            return SegOutput(resize(logits, (size[0] // 2, size[1] // 2)), aux)
        return SegOutput(resize(logits, size), {name: resize(value, size) for name, value in aux.items()})
