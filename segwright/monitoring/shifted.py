"""Fitting the estimator of the accuracy: held-out images under corruptions, whose truth is known."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from segwright.augment.corruptions import CORRUPTIONS, corrupt
from segwright.core.errors import DataError, UsageError
from segwright.core.types import UInt8Array
from segwright.data.dataset import Split
from segwright.data.records import evenly_spread
from segwright.evaluation.evaluate import match_label_spaces, to_model_indices
from segwright.inference.attachments import Attachment
from segwright.inference.predictor import Predictor
from segwright.metrics.confusion import class_counts, count_pairs
from segwright.monitoring.estimate import Int64Array, fit_accuracy
from segwright.monitoring.observation import Observation, model_id, observe
from segwright.monitoring.reference import Reference

IMAGES = 8
LEAST_IMAGES = 12  # of a split, for an estimator at the end of a training
SEVERITIES = (3, 1, 5)
# Changes that a camera meets beside the corruptions: another hour, another distance, another light.
SCENES = ("darkness", "distance", "light")
KINDS = (*CORRUPTIONS, *SCENES)


def estimator_predictions(count: int) -> int:
    """How many images are predicted for a split of ``count`` images."""
    return min(count, IMAGES) * len(SEVERITIES) * len(KINDS)


def shift(
    image: UInt8Array, mask: UInt8Array, kind: str, severity: int, *, seed: int = 0
) -> tuple[UInt8Array, UInt8Array]:
    """An image (H, W, C) and its label mask (H, W) under one of KINDS, 1…5. What moves pixels moves labels."""
    if kind in CORRUPTIONS:
        return corrupt(image, kind, severity, seed=seed), mask
    level = severity - 1
    if kind == "darkness":  # less light, and the noise of a sensor that amplifies it
        light, power = (0.7, 0.55, 0.4, 0.3, 0.2)[level], (1.1, 1.2, 1.3, 1.4, 1.5)[level]
        values = light * (image.astype(np.float32) / 255) ** power
        noise = np.random.default_rng(seed).standard_normal(image.shape, np.float32) * np.float32(0.004 * severity)
        return np.clip(np.rint((values + noise) * 255), 0, 255).astype(np.uint8), mask
    if kind == "light":  # a warm or a cold one
        strength = (0.08, 0.15, 0.22, 0.3, 0.4)[level] * (1 if seed % 2 else -1)
        ramp = np.linspace(1 + strength, 1 - strength, image.shape[2], dtype=np.float32)
        return np.clip(np.rint(image * ramp), 0, 255).astype(np.uint8), mask
    if kind != "distance":
        raise UsageError("unknown kind of shift", expected=", ".join(KINDS), found=kind[:60])
    height, width = mask.shape  # a part of the image, from near
    share = (0.85, 0.72, 0.6, 0.5, 0.4)[level]
    rows, columns = max(1, round(height * share)), max(1, round(width * share))
    random = np.random.default_rng(seed)
    top, left = int(random.integers(0, height - rows + 1)), int(random.integers(0, width - columns + 1))
    part = np.ascontiguousarray(image[top : top + rows, left : left + columns])
    bands = [cv2.resize(part[..., band], (width, height), interpolation=cv2.INTER_LINEAR)
             for band in range(part.shape[2])]  # fmt: skip
    labels = cv2.resize(mask[top : top + rows, left : left + columns], (width, height), interpolation=cv2.INTER_NEAREST)
    return np.stack(bands, axis=-1), np.asarray(labels, np.uint8)


def make_accuracy(
    predictor: Predictor,
    split: Split,
    reference: Reference,
    *,
    images: int = IMAGES,
    severities: Sequence[int] = SEVERITIES,
    seconds: float | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> Attachment:
    """The estimator as an attachment, under :data:`segwright.monitoring.estimate.NAME`.

    ``images`` of the split, evenly chosen, are predicted under every corruption and strength, one strength after the
    other; after ``seconds`` no further one is begun, and the estimator is made of what there is (without any, its
    intervals are wide). ``advance`` is called after every image. DataError if the reference has no labeled image.
    """
    if not reference.labeled.any():
        raise DataError("the reference has no labeled image", where=split.name, fix="name a split with labels")
    to_model = to_model_indices(match_label_spaces(predictor.label_space, split.label_space)[0])
    began = time.monotonic()
    loaded: list[tuple[str, UInt8Array, UInt8Array]] = []
    for index in evenly_spread(len(split), images):
        try:
            image, mask = split.read_image(index), split.read_mask(index)
        except DataError:
            continue
        if mask is not None:
            loaded.append((split.ids[index], image, mask if to_model is None else to_model[mask]))
    shifted: list[tuple[str, list[Observation], Int64Array]] = []
    was, predictor.observed = predictor.observed, True
    try:
        name = model_id(predictor)
        for severity in severities:
            for kind in KINDS:
                if seconds is not None and time.monotonic() - began > seconds:
                    break
                rows, counts = [], []
                for seed, (id, image, labels) in enumerate(loaded):
                    changed, mask = shift(image, labels, kind, severity, seed=seed)
                    found = predictor.predict(changed)
                    rows.append(observe(found, id=id, model=name))
                    counts.append(class_counts(count_pairs(found.labels, mask, len(predictor.label_space))))
                    advance(1)
                if rows:
                    shifted.append((kind, rows, np.stack(counts)))
    finally:
        predictor.observed = was
    rows = [row for row, labeled in zip(reference.rows, reference.labeled, strict=True) if labeled]
    return fit_accuracy(rows, reference.counts[reference.labeled], shifted).to_attachment()
