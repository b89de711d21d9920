"""The prediction for one image: labels, confidence, and images of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segwright.core.deprecated import renamed_attribute
from segwright.core.errors import LabelError
from segwright.core.types import Float32Array, LabelSpace, UInt8Array, blend, row_strips
from segwright.imageio import write_mask
from segwright.inference.quality import Quality
from segwright.inference.thinned import ThinnedOutput


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image."""

    labels: UInt8Array  # (H, W) class indices
    confidence: Float32Array  # (H, W) in 0…1: the softmax probability of the label
    label_space: LabelSpace
    image: UInt8Array | None = None  # (H, W, C)
    probabilities: Float32Array | None = None  # (K, H, W), only on request
    thinned: ThinnedOutput | None = None  # for monitoring, from a predictor that is observed
    uncertainty: Float32Array | None = None  # (H, W) in 0…1, 0 is sure; only on request
    quality: Quality | None = None  # the estimate of the model's error model, only on request
    windows: Mapping[str, Any] | None = None  # how a large image was cut; None if it was predicted whole

    def __post_init__(self) -> None:
        if self.labels.dtype != np.uint8 or self.labels.ndim != 2:
            raise LabelError("labels are uint8 height×width", found=f"{self.labels.dtype} {self.labels.shape}")
        if self.confidence.shape != self.labels.shape:
            raise LabelError(
                "one confidence per pixel", expected=str(self.labels.shape), found=str(self.confidence.shape)
            )

    def color(self) -> UInt8Array:
        """H×W×3: every pixel in its class's color."""
        palette, result = self.label_space.palette(), np.empty((*self.labels.shape, 3), np.uint8)
        for rows in row_strips(self.labels):
            result[rows] = palette[self.labels[rows]]
        return result

    colour = renamed_attribute("colour", "color")

    def overlay(self, alpha: float = 0.5) -> UInt8Array:
        """H×W×3: the colors laid over the image; ``alpha`` 0 shows the image alone, 1 the colors alone."""
        colors = self.color()
        if self.image is None:
            return colors
        return blend(self.image, colors, alpha)

    def confidence_image(self) -> UInt8Array:
        """H×W×1: the confidence as gray, 255 is 1.0."""
        gray: UInt8Array = (self.confidence * 255 + 0.5).astype(np.uint8)
        return gray[..., None]

    def uncertainty_image(self) -> UInt8Array:
        """H×W×1: the uncertainty as gray, 255 is 1.0; LabelError if none was asked for."""
        if self.uncertainty is None:
            raise LabelError("the prediction has no uncertainty", fix='predict(image, uncertainty="entropy")')
        gray: UInt8Array = (self.uncertainty * 255 + 0.5).astype(np.uint8)
        return gray[..., None]

    def estimated_iou(self) -> tuple[float, float, float] | None:
        """The estimated mIoU and its interval, low and high; None without an estimate."""
        if self.quality is None:
            return None
        return self.quality.miou.value, self.quality.miou.low, self.quality.miou.high

    def shares(self) -> dict[str, float]:
        """Class name → its share of the pixels, in 0…1."""
        counts = np.zeros(256, np.int64)
        for rows in row_strips(self.labels):
            counts += np.bincount(self.labels[rows].ravel(), minlength=256)
        return {
            name: float(count) / self.labels.size for name, count in zip(self.label_space.names, counts, strict=False)
        }

    def save(self, path: str | Path) -> Path:
        """Write the labels as a palette PNG of class indices and return the path."""
        return write_mask(path, self.labels, self.label_space.palette())
