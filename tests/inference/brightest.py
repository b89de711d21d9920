"""A network whose answer is known, and images for it."""

from __future__ import annotations

import numpy as np

from segwright.core.types import Float32Array, LabelSpace
from segwright.imageio import UInt8Array

SPACE = LabelSpace(("ground", "thing", "other"))


class Brightest:
    """A network whose class is the brightest channel of a pixel."""

    classes, in_channels = 3, 3

    def logits(self, images: UInt8Array) -> Float32Array:
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2)).astype(np.float32) / 16

    def labels(self, images: UInt8Array) -> tuple[UInt8Array, Float32Array]:
        logits = self.logits(images)
        power = np.exp(logits - logits.max(axis=1, keepdims=True))
        return logits.argmax(axis=1).astype(np.uint8), (power.max(axis=1) / power.sum(axis=1)).astype(np.float32)


def scene(seed: int, height: int = 40, width: int = 56) -> UInt8Array:
    """Blocks of the three colors."""
    blocks = np.random.default_rng(seed).integers(0, 3, (height // 8, width // 8))
    return (np.eye(3)[np.kron(blocks, np.ones((8, 8), int))] * 150 + 50).astype(np.uint8)


def truth(image: UInt8Array) -> UInt8Array:
    return image.argmax(axis=2).astype(np.uint8)
