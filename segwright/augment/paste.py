"""Classes of one crop pasted into another, with their labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from segwright.core.errors import UsageError
from segwright.core.types import IGNORE_INDEX
from segwright.imageio import UInt8Array


@dataclass(frozen=True)
class ClassPaste:
    """What the loader calls for ``share`` (0…1) of the samples: see :func:`paste_classes`."""

    share: float

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise UsageError("augmentation: paste out of range", expected="a fraction, 0 to 1", found=str(self.share))

    def __call__(
        self, image: UInt8Array, mask: UInt8Array, other: UInt8Array, other_mask: UInt8Array, rng: np.random.Generator
    ) -> tuple[UInt8Array, UInt8Array]:
        return paste_classes(image, mask, other, other_mask, rng)


def paste_classes(
    image: UInt8Array, mask: UInt8Array, other: UInt8Array, other_mask: UInt8Array, rng: np.random.Generator
) -> tuple[UInt8Array, UInt8Array]:
    """``image`` (H, W, C) and ``mask`` (H, W) with half of the classes of another crop of the same size.

    The pixels of the classes, drawn at random (rounded down, at least one), are taken with their labels from ``other``
    and ``other_mask``; ignored pixels (255) are never taken. The arguments are left as they are.

    What surrounds an object then varies more than in any one street, so that the network relies less on it. The mix of
    labeled images is ClassMix (Olsson et al. 2021) with true labels, and of kin with copy-paste of instances
    (Ghiasi et al. 2021).

    >>> image, mask = np.zeros((1, 3, 3), np.uint8), np.zeros((1, 3), np.uint8)
    >>> other, labels = np.full((1, 3, 3), 9, np.uint8), np.array([[1, 1, 255]], np.uint8)
    >>> paste_classes(image, mask, other, labels, np.random.default_rng(0))[1].tolist()
    [[1, 1, 0]]
    """
    shown = np.flatnonzero(np.bincount(other_mask.ravel(), minlength=256))
    shown = shown[shown != IGNORE_INDEX]
    if not len(shown):
        return image, mask
    taken = np.zeros(256, bool)
    taken[rng.choice(shown, max(1, len(shown) // 2), replace=False)] = True
    region = taken[other_mask]
    return np.where(region[..., None], other, image), np.where(region, other_mask, mask)
