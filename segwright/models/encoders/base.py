"""The contract of encoders: features by stride.

A stage is called by the stride it has in the network as published (2, 4, 8, 16, 32), and keeps that name when dilation
makes it finer: with ``output_stride=8`` a ResNet's ``features[32]`` lies at stride 8, and ``reductions[32]`` is 8.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from segwright.core.errors import ModelError
from segwright.models.base import IMAGENET_MEAN, IMAGENET_STD

STRIDES = (2, 4, 8, 16, 32)


class Encoder(nn.Module):
    """Base of every encoder: (N, C, H, W) normalized → {stride: (N, channels[stride], H / reductions[stride], …)}.

    ``mean`` and ``std`` are those its pretrained weights were trained with, for images scaled to 0…1.
    """

    def __init__(
        self,
        *,
        name: str,
        in_channels: int,
        channels: dict[int, int],
        reductions: dict[int, int] | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.name = name
        self.in_channels = in_channels
        self.channels = channels
        self.reductions = {stride: stride for stride in channels} if reductions is None else reductions
        self.mean = tuple(mean)
        self.std = tuple(std)

    @property
    def output_stride(self) -> int:
        """The coarsest stride that really occurs, dilation counted."""
        return max(self.reductions.values())

    def parameter_names_up_to(self, stride: int) -> set[str]:
        """The names of the parameters that ``features[stride]`` depends on, found by its gradients on the meta device:
        right whatever a network's parts are called."""
        probe = copy.deepcopy(self).to("meta").eval()
        for parameter in probe.parameters():
            parameter.requires_grad_(True)
        features = probe(torch.zeros(1, self.in_channels, 64, 64, device="meta"))
        names, parameters = zip(*probe.named_parameters(), strict=True)
        gradients = torch.autograd.grad(features[stride].sum(), parameters, allow_unused=True)
        return {name for name, gradient in zip(names, gradients, strict=True) if gradient is not None}


def require_strides(encoder: Encoder, strides: Sequence[int], network: str) -> None:
    """ModelError where the encoder lacks a stage that the network cannot do without."""
    missing = [stride for stride in strides if stride not in encoder.channels]
    if missing:
        raise ModelError(
            f"{network} needs features that {encoder.name} does not have",
            expected=f"strides {', '.join(map(str, strides))}",
            found=f"strides {', '.join(map(str, encoder.channels))}",
            fix="choose another encoder, such as resnet34 or mobilenetv2_100",
        )
