"""The augmentation of a phase of training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from segwright.augment import presets
from segwright.data.check.fingerprint import Fingerprint
from segwright.training.config import Phase, TrainConfig


def phase_transform(config: TrainConfig, phase: Phase, fingerprint: Fingerprint) -> presets.TrainTransform:
    """Create the augmentation of a phase from a resolved config and the class frequencies."""
    augment = config.augment
    aware = augment.class_aware if isinstance(augment.class_aware, float | int) else 0.0
    rotation = augment.rotation if isinstance(augment.rotation, float | int) else 0.0
    pixels = np.asarray(fingerprint.class_pixels, np.float64)
    need = np.where(pixels > 0, 1 / np.sqrt(np.maximum(pixels / max(pixels.sum(), 1.0), 1e-9)), 0.0)
    strength = "medium" if augment.strength == "auto" else augment.strength
    return presets.training(
        size=phase.size,
        scale=phase.scale,
        rotation=float(rotation) if strength != "none" else 0.0,
        flip=0.5 if augment.flip else 0.0,
        flip_vertical=0.5 if augment.vertical_flip else 0.0,
        class_aware=float(aware),
        class_weights=tuple(float(n) for n in need) if need.any() else None,
        color=strength,
        pairs=flip_pairs(config, fingerprint.class_names),
    )


def flip_pairs(config: TrainConfig, names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Class indices that flips exchange in a run with this resolved config."""
    pairs = config.augment.flip_pairs
    if pairs == "auto":  # planned by a version without pairs: the run continues as it began
        return ()
    return tuple((names.index(one), names.index(other)) for one, other in pairs)
