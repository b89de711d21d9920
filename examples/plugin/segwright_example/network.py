"""Ladder: a small network of strided convolutions, each brought back to stride 2 and added."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from segwright.models.base import SegmentationModel, SegOutput, resize
from segwright.models.catalog import Entry


class Ladder(SegmentationModel):
    """``steps`` halvings from ``width`` channels on. Any size goes in: sides are padded to the stride."""

    def __init__(self, *, classes: int, in_channels: int = 3, width: int = 16, steps: int = 4) -> None:
        super().__init__(classes=classes, in_channels=in_channels, stride=2**steps)
        self.logits_stride = 2
        widths = [in_channels, *(width * 2**step for step in range(steps))]
        self.down = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in pairwise(widths)
        )
        self.side = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in widths[1:])
        self.head = nn.Conv2d(width, classes, 3, 1, 1)

    def forward_padded(self, x: Tensor) -> SegOutput:
        """``x``: normalized (N, C, H, W), sides multiples of the stride; logits at (H, W)."""
        size, features = (x.shape[-2], x.shape[-1]), []
        for down in self.down:
            x = down(x)
            features.append(x)
        finest = (features[0].shape[-2], features[0].shape[-1])
        steps = [resize(side(f), finest) for side, f in zip(self.side, features, strict=True)]
        return SegOutput(resize(self.head(torch.relu(torch.stack(steps).sum(0))), size), {})

    def encoder_modules(self) -> Sequence[nn.Module]:
        return (self.down,)

    def classifier_layers(self) -> Mapping[str, Sequence[nn.Module]]:
        return {"logits": (self.head,)}


LADDER = Entry(Ladder, "strided convolutions and a sum of all steps: an example", "none", "trains from scratch")
