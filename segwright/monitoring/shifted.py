"""Fitting the estimator of the accuracy: held-out images under corruptions, whose truth is known."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from segwright.augment.corruptions import CORRUPTIONS, corrupt
from segwright.core.errors import DataError
from segwright.core.types import UInt8Array
from segwright.data.dataset import Split
from segwright.data.records import evenly_spread
from segwright.evaluation.evaluate import match_label_spaces
from segwright.inference.attachments import Attachment
from segwright.inference.predictor import Predictor
from segwright.metrics.confusion import class_counts, count_pairs
from segwright.monitoring.estimate import Int64Array, fit_accuracy
from segwright.monitoring.observation import Observation, model_id, observe
from segwright.monitoring.reference import Reference

IMAGES = 8
SEVERITIES = (3, 1, 5)


def estimator_predictions(count: int) -> int:
    """How many images are predicted for a split of ``count`` images."""
    return min(count, IMAGES) * len(SEVERITIES) * len(CORRUPTIONS)


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
    table, _ = match_label_spaces(predictor.label_space, split.label_space)
    to_model = _model_indices(table)
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
            for kind in CORRUPTIONS:
                if seconds is not None and time.monotonic() - began > seconds:
                    break
                rows, counts = [], []
                for seed, (id, image, mask) in enumerate(loaded):
                    found = predictor.predict(corrupt(image, kind, severity, seed=seed))
                    rows.append(observe(found, id=id, model=name))
                    counts.append(class_counts(count_pairs(found.labels, mask, len(predictor.label_space))))
                    advance(1)
                if rows:
                    shifted.append((kind, rows, np.stack(counts)))
    finally:
        predictor.observed = was
    rows = [row for row, labeled in zip(reference.rows, reference.labeled, strict=True) if labeled]
    return fit_accuracy(rows, reference.counts[reference.labeled], shifted).to_attachment()


def _model_indices(table: UInt8Array | None) -> UInt8Array | None:
    """From the data's class index to the model's, of a table of the other direction."""
    if table is None:
        return None
    inverse = np.full(256, 255, np.uint8)
    for model_index, data_index in enumerate(table[:255].tolist()):
        if inverse[data_index] == 255:
            inverse[data_index] = model_index
    inverse[255] = 255
    return inverse
