"""What every exported graph has in common: its input, its outputs, and the description inside."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from segwright.inference.description import Bundle
from segwright.inference.lineage import KEY as LINEAGE
from segwright.inference.torch_runtime import argmax_with_confidence
from segwright.models.base import SegmentationModel


class ExportedGraph(nn.Module):
    """The traced module: raw pixels to labels (uint8), confidence and, unless left out, logits."""

    def __init__(self, model: SegmentationModel, *, with_logits: bool = True) -> None:
        super().__init__()
        self.model = model
        self.with_logits = with_logits

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """uint8 (N, H, W, C) → labels (N, H, W), confidence (N, H, W), logits (N, K, H, W)."""
        logits = self.model(images).logits
        labels, confidence = argmax_with_confidence(logits)
        return (labels.to(torch.uint8), confidence, logits)[: 3 if self.with_logits else 2]


def example_images(network: SegmentationModel) -> Tensor:
    """What the tracer sees. Sides are unequal and odd: equal ones would become one symbol."""
    return torch.randint(0, 255, (2, 97, 131, network.in_channels), dtype=torch.uint8)


def describe(bundle: Bundle) -> dict[str, Any]:
    """The metadata of an exported file: the bundle's description without most of the training record."""
    short = replace(bundle, training={k: v for k, v in bundle.training.items() if k in ("data", "command", LINEAGE)})
    return short.to_json()
