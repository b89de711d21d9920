"""The augmentation of a phase of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from segwright.augment import presets
from segwright.augment.color import ColorJitter
from segwright.augment.paste import ClassPaste
from segwright.augment.warp import RandomAffineCrop, warp_image, warp_mask
from segwright.data.check.fingerprint import Fingerprint
from segwright.imageio import UInt8Array
from segwright.training.config import Phase, TrainConfig

BLUR = 0.3  # probability of a blur in the strong view of an unlabeled image


@dataclass(frozen=True)
class TwoViews:
    """One warp, two colorings: the view of an unlabeled image that the teacher labels, and the one that is trained on.

    Both have the same geometry, so that a pseudo-label lies where its pixel does. Called with an image (H, W, C) and a
    mask; returns (h, w, 2 C), the warped image and behind it the same with changed colors, and the warped mask.
    """

    warp: RandomAffineCrop
    color: ColorJitter

    def __call__(self, image: UInt8Array, mask: UInt8Array, rng: np.random.Generator) -> tuple[UInt8Array, UInt8Array]:
        matrix = self.warp.draw(mask, rng)
        weak = warp_image(image, matrix, self.warp.size)
        return np.concatenate([weak, self.color(weak, rng)], axis=2), warp_mask(mask, matrix, self.warp.size)


def unlabeled_transform(config: TrainConfig, phase: Phase) -> TwoViews:
    """The two views of a phase: warped as its labeled images are, though never around a rare class."""
    labeled = presets.training(
        size=phase.size,
        scale=phase.scale,
        rotation=_rotation(config),
        flip=0.5 if config.augment.flip else 0.0,
        flip_vertical=0.5 if config.augment.vertical_flip else 0.0,
    )
    color = presets.COLOR[config.unlabeled.strength]
    return TwoViews(labeled.warp, color if config.unlabeled.strength == "none" else replace(color, blur=BLUR))


def phase_transform(config: TrainConfig, phase: Phase, fingerprint: Fingerprint) -> presets.TrainTransform:
    """Create the augmentation of a phase from a resolved config and the class frequencies."""
    augment = config.augment
    aware = augment.class_aware if isinstance(augment.class_aware, float | int) else 0.0
    pixels = np.asarray(fingerprint.class_pixels, np.float64)
    need = np.where(pixels > 0, 1 / np.sqrt(np.maximum(pixels / max(pixels.sum(), 1.0), 1e-9)), 0.0)
    strength = "medium" if augment.strength == "auto" else augment.strength
    return presets.training(
        size=phase.size,
        scale=phase.scale,
        rotation=_rotation(config),
        flip=0.5 if augment.flip else 0.0,
        flip_vertical=0.5 if augment.vertical_flip else 0.0,
        class_aware=float(aware),
        class_weights=tuple(float(n) for n in need) if need.any() else None,
        color=strength,
        pairs=flip_pairs(config, fingerprint.class_names),
        sparse_labels=config.training.sparse_labels is True,
    )


def class_paste(config: TrainConfig) -> ClassPaste | None:
    """The pasting of classes in a run with this resolved config; None for none."""
    share = config.augment.paste
    if share == "auto":  # planned by a version without it: the run continues as it began
        return None
    return ClassPaste(float(share)) if share else None


def _rotation(config: TrainConfig) -> float:
    """Degrees; none where images are not varied at all."""
    rotation = config.augment.rotation if isinstance(config.augment.rotation, float | int) else 0.0
    return float(rotation) if config.augment.strength != "none" else 0.0


def flip_pairs(config: TrainConfig, names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Class indices that flips exchange in a run with this resolved config."""
    pairs = config.augment.flip_pairs
    if pairs == "auto":  # planned by a version without pairs: the run continues as it began
        return ()
    return tuple((names.index(one), names.index(other)) for one, other in pairs)
