"""The estimated mIoU: near the truth on streams whose truth is known, wider where less is known, and kept whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from monitoring.streams import CLASSES, rows

from segwright.core.errors import BundleError, DataError
from segwright.inference.attachments import Attachment, load_attachment, write_attachment
from segwright.monitoring.estimate import STATISTICS, AccuracyModel, Regression, fit_accuracy
from segwright.monitoring.observation import Observation
from segwright.monitoring.shifted import estimator_predictions, make_accuracy

PIXELS = 4800


def truth_of(some: list[Observation], seed: int, *, boast: float = 0.1) -> np.ndarray:
    """Counts as if a pixel were right with the model's confidence less ``boast`` times its doubt below 0.9."""
    random = np.random.default_rng(seed)
    found = np.zeros((len(some), 3, len(CLASSES)), np.int64)
    for place, one in enumerate(some):
        right = np.clip(one.mean_confidence - 3 * boast * max(0, 0.9 - one.mean_confidence), 0.02, 1)
        predicted = np.round(one.shares * PIXELS).astype(np.int64)
        hits = random.binomial(predicted, right)
        missed = (predicted - hits).sum() * np.array([0.5, 0.25, 0.25])
        found[place] = hits, hits + missed.astype(np.int64), predicted
    return found


def miou(counts: np.ndarray) -> float:
    total = counts.sum(axis=0)
    return float((total[0] / (total[1] + total[2] - total[0])).mean())


@pytest.fixture(scope="module")
def fitted() -> AccuracyModel:
    clean = rows(90, 1)
    shifted = []
    for kind in range(6):
        for strength in (0.1, 0.3, 0.5):
            some = rows(10, 10 * kind + int(10 * strength), doubt=strength + 0.02 * kind, road=-0.3 * kind)
            shifted.append((f"kind {kind}", some, truth_of(some, kind)))
    return fit_accuracy(clean, truth_of(clean, 99), shifted)


@pytest.mark.parametrize("doubt", [0.0, 0.05, 0.2, 0.4])
def test_near_the_truth(fitted: AccuracyModel, doubt: float) -> None:
    some = rows(60, 200, doubt=doubt)
    truth = miou(truth_of(some, 300))
    found = fitted.estimate(some)
    assert abs(found.miou - truth) < 0.03 and found.method == "regression"
    assert found.low <= truth <= found.high and found.images == 60 and set(found.others) == {"soft", "atc", "doc"}
    if doubt >= 0.2:  # a network that is too sure of itself: its own confidence is further off
        assert abs(found.others["doc"] - truth) > abs(found.miou - truth)


def test_the_interval_holds_in_distribution(fitted: AccuracyModel) -> None:
    inside = []
    for seed in range(40):
        some = rows(20, 1000 + seed)
        found = fitted.estimate(some)
        inside.append(found.low <= miou(truth_of(some, 2000 + seed)) <= found.high)
    assert np.mean(inside) >= 0.8


def test_wider_where_nothing_was_alike(fitted: AccuracyModel) -> None:
    near, far = fitted.estimate(rows(40, 5)), fitted.estimate(rows(40, 5, doubt=0.65))
    assert far.high - far.low > near.high - near.low


def test_the_regression_is_atc_unless_the_images_have_moved() -> None:
    """Fitted on images that have moved and where ATC is far too high: of images that have not, ATC is believed."""
    random = np.random.default_rng(0)
    count, kinds = 200, len(STATISTICS)
    moved = np.where(random.random((count, 1)) < 0.3, 0, random.uniform(1, 5, (count, 1))) * random.normal(
        1, 0.2, (count, kinds)
    )
    worse = np.sqrt((moved**2).mean(axis=1)) / 5
    atc = 0.7 - 0.2 * worse + random.normal(0, 0.03, count)
    features = np.concatenate([np.stack([atc + 0.05, atc, atc, atc + 0.2, 0.5 - atc / 2], axis=1), moved], axis=1)
    center = features[worse == 0, :5].mean(axis=0)
    model = Regression(features, atc - 0.4 * worse, center)
    unmoved = np.array([[0.55, 0.5, 0.5, 0.7, 0.25, *[0.0] * kinds]])
    assert abs(model(unmoved)[0] - 0.5) < 0.05
    assert model(np.concatenate([unmoved[:, :5], np.full((1, kinds), 4.0)], axis=1))[0] < 0.3
    far = np.array([[0.35, 0.3, 0.3, 0.5, 0.35, *[0.5] * kinds]])
    assert abs(model(far)[0] - 0.3) < 0.15


def test_statistics_that_are_not_finite_have_not_moved(fitted: AccuracyModel) -> None:
    some = rows(40, 9)
    unknown = [replace(one, statistics=np.full_like(one.statistics, np.nan)) for one in some]
    assert abs(fitted.estimate(unknown).miou - fitted.estimate(some).miou) < 0.02


def test_without_corrupted_images_it_is_noted() -> None:
    clean = rows(60, 6)
    found = fit_accuracy(clean, truth_of(clean, 7)).estimate(rows(40, 8))
    assert found.method == "atc" and any("no corrupted images" in note for note in found.notes)
    assert found.high - found.low > 0.1


def test_rows_that_are_not_finite_are_left_out_and_counted(fitted: AccuracyModel) -> None:
    some = rows(40, 9)
    broken = [replace(one, mean_confidence=float("nan")) for one in some[:5]] + some[5:]
    found = fitted.estimate(broken)
    assert found.images == 35 and any("5 images without finite figures" in note for note in found.notes)
    with pytest.raises(DataError, match="no row"):
        fitted.estimate(broken[:5])


def test_kept_in_a_saved_model(fitted: AccuracyModel, tmp_path: Path) -> None:
    write_attachment(tmp_path, "accuracy", fitted.to_attachment())
    read = load_attachment(tmp_path, "accuracy")
    assert read is not None
    some = rows(30, 10)
    assert AccuracyModel.from_attachment(read).estimate(some) == fitted.estimate(some)


@pytest.mark.parametrize(
    "change", [{"miou": np.zeros(3)}, {"features": np.zeros((4, 2))}, {"hits": np.full(3, np.nan)}]
)
def test_a_damaged_one_is_an_error(fitted: AccuracyModel, change: dict[str, np.ndarray]) -> None:
    whole = fitted.to_attachment()
    with pytest.raises(BundleError, match="damaged"):
        AccuracyModel.from_attachment(Attachment({**whole.arrays, **change}, whole.description))
    with pytest.raises(BundleError, match="newer"):
        AccuracyModel.from_attachment(Attachment(whole.arrays, {**whole.description, "version": 9}))
    with pytest.raises(BundleError):
        AccuracyModel.from_attachment(Attachment({}, whole.description))


def test_no_labeled_pixel_is_an_error() -> None:
    some = rows(20, 11)
    with pytest.raises(DataError, match="no labeled pixel"):
        fit_accuracy(some, np.zeros((20, 3, 3), np.int64))


def test_made_from_a_network_and_its_split(tmp_path: Path) -> None:
    import torch

    from segwright.data.dataset import open_dataset
    from segwright.demo.dataset import write_street_scenes
    from segwright.inference.predictor import Predictor
    from segwright.models.catalog import create_model
    from segwright.monitoring.reference import make_reference, parse_reference

    write_street_scenes(tmp_path / "streets", train=3, val=4, test=1, size=(64, 96))
    data = open_dataset(tmp_path / "streets")
    torch.manual_seed(0)
    network = create_model("leannet", classes=data.label_space.classes, weights=None)
    predictor = Predictor.from_model(network, data.label_space, "cpu")
    reference = parse_reference(make_reference(predictor, data.splits["val"]))
    seen: list[int] = []
    made = make_accuracy(predictor, data.splits["val"], reference, images=2, severities=(3,), advance=seen.append)
    model = AccuracyModel.from_attachment(made)
    assert len(seen) == 2 * 18 and len(model.kinds) == 18 and len(model.miou) > 30
    assert 0 <= model.estimate(reference.rows).miou <= 1 and not predictor.observed
    none = AccuracyModel.from_attachment(make_accuracy(predictor, data.splits["val"], reference, seconds=-1))
    assert none.kinds == () and estimator_predictions(100) == 8 * 54
