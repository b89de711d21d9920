"""Scores of masks with few labeled pixels: what they are, and what is not computed from them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from segwright.evaluation.evaluate import BORDER_FIGURES, evaluate
from segwright.evaluation.label_errors import LabelErrorCollector
from segwright.evaluation.slices import SliceCollector
from segwright.evaluation.terminal import render_evaluation
from segwright.metrics.confusion import ConfusionMatrix
from tests.evaluation.test_evaluate import Images, Knows

VOID = 255


def case(share: float, seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """(masks of which a share is labeled, predictions that are right in two thirds of the pixels) of eight images."""
    rng = np.random.default_rng(seed)
    masks, predictions = [], []
    for _ in range(8):
        truth = np.repeat(np.repeat(rng.integers(0, 3, (6, 8)), 10, axis=0), 10, axis=1).astype(np.uint8)
        wrong = rng.random(truth.shape) < 1 / 3
        predictions.append(np.where(wrong, (truth + 1) % 3, truth).astype(np.uint8))
        masks.append(np.where(rng.random(truth.shape) < share, truth, VOID).astype(np.uint8))
    return masks, predictions


def test_scores_are_those_of_the_labeled_pixels_and_borders_are_not_computed() -> None:
    masks, predictions = case(0.01)
    found = evaluate(Knows(predictions), Images(masks))
    matrix = ConfusionMatrix(3)
    for mask, prediction in zip(masks, predictions, strict=True):
        matrix.update(prediction, mask)
    assert np.array_equal(found.matrix, matrix.matrix) and found.matrix.sum() == sum((m != VOID).sum() for m in masks)
    assert found.miou == pytest.approx(0.5, abs=0.12) and found.miou_ci95[0] < found.miou < found.miou_ci95[1]
    assert found.boundary is None and all("strokes" in found.not_computed[name] for name in BORDER_FIGURES)
    tree = found.to_json()
    assert tree["boundary_iou"] is None and "sparse labels" in tree["notes"][0]
    assert tree["bf_score"] is None if "bf_score" in tree else True
    stream = io.StringIO()
    render_evaluation(found, Console(file=stream, width=100))
    assert "note: sparse labels" in stream.getvalue()


def test_whole_masks_keep_their_borders() -> None:
    masks, predictions = case(0.9)
    found = evaluate(Knows(predictions), Images(masks))
    assert found.boundary is not None and not found.not_computed.get("boundary_iou")
    assert not any("sparse" in note for note in found.notes)


def test_slices_by_regions_are_left_out() -> None:
    masks, predictions = case(0.02)
    collector = SliceCollector(Images(masks).label_space)
    found = evaluate(Knows(predictions), Images(masks), collectors=[collector])
    slices = collector.result(found.independent)
    assert not {"object size", "boundary distance"} & {one.by for one in slices.slices}
    assert any("sparse labels" in note for note in slices.notes)


def test_a_wrong_click_is_found() -> None:
    masks, _ = case(0.01)
    truth = [np.where(mask == VOID, 0, mask).astype(np.uint8) for mask in masks]
    y, x = np.argwhere(masks[0] == 1)[0]
    truth[0][y, x] = 2  # the model is right everywhere, and the click is not
    collector = LabelErrorCollector(Images(masks).label_space)
    evaluate(Knows(truth, confidence=0.9), Images(masks), collectors=[collector])
    best = collector.result().regions[0]
    assert (best.id, best.given, best.suggested, best.pixels) == ("shot_0", 1, 2, 1) and best.box[:2] == (x, y)
