"""The figures of predicted regions against loops over pixels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from segwright.core.errors import ModelError
from segwright.inference.region_features import dispersion, feature_names, find_regions, region_features

CLASSES = 4


def prediction(height: int = 30, width: int = 41, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (K, H, W) of soft blobs and their labels."""
    rng = np.random.default_rng(seed)
    logits = np.stack([ndimage.gaussian_filter(rng.normal(0, 30, (height, width)), 2.5) for _ in range(CLASSES)])
    power = np.exp(logits)
    probabilities = (power / power.sum(axis=0)).astype(np.float32)
    return probabilities, probabilities.argmax(axis=0).astype(np.uint8)


def neighbors(y: int, x: int, shape: tuple[int, ...]) -> list[tuple[int, int]]:
    return [
        (y + a, x + b)
        for a in (-1, 0, 1)
        for b in (-1, 0, 1)
        if (a or b) and 0 <= y + a < shape[0] and 0 <= x + b < shape[1]
    ]


def test_regions_are_the_8_connected_components() -> None:
    _, labels = prediction()
    found = find_regions(labels)
    for kind in range(CLASSES):
        numbers, count = ndimage.label(labels == kind, np.ones((3, 3)))
        assert (found.classes == kind).sum() == count
        for one in range(1, count + 1):
            assert len(np.unique(found.numbers[numbers == one])) == 1
    assert found.areas.sum() == labels.size
    assert np.array_equal(found.areas, np.bincount(found.numbers.ravel()))
    for number, (left, top, width, height) in enumerate(found.boxes):
        rows, columns = np.nonzero(found.numbers == number)
        assert (left, top) == (columns.min(), rows.min())
        assert (width, height) == (np.ptp(columns) + 1, np.ptp(rows) + 1)


def test_the_boundary_has_a_neighbor_of_another_class_and_the_edge_is_none() -> None:
    _, labels = prediction()
    found = find_regions(labels)
    for y, x in np.ndindex(*labels.shape):
        other = any(labels[at] != labels[y, x] for at in neighbors(y, x, labels.shape))
        assert found.boundary[y, x] == other
    assert not find_regions(np.zeros((5, 6), np.uint8)).boundary.any()


def test_means_over_region_inside_and_boundary_equal_loops() -> None:
    probabilities, labels = prediction()
    regions = find_regions(labels)
    rows, names = region_features(probabilities, regions), feature_names(CLASSES)
    assert rows.shape == (len(regions), len(names)) and np.isfinite(rows).all()
    ordered = np.sort(probabilities, axis=0)
    maps = {
        "entropy": -(probabilities * np.log(probabilities)).sum(axis=0) / np.log(CLASSES),
        "margin": 1 - ordered[-1] + ordered[-2],
        "variation": 1 - ordered[-1],
    }
    for number in range(len(regions)):
        mine = regions.numbers == number
        inside, rim = mine & ~regions.boundary, mine & regions.boundary
        for name, plane in maps.items():
            values = dict(zip(names, rows[number], strict=True))
            assert values[name] == pytest.approx(plane[mine].mean(), rel=1e-4)
            assert values[f"{name}_boundary"] == pytest.approx(plane[rim].mean(), rel=1e-4)
            assert values[f"{name}_inside"] == pytest.approx(plane[inside].mean() if inside.any() else 0, rel=1e-4)
            relative = plane[mine].mean() * mine.sum() / rim.sum()
            assert values[f"{name}_relative"] == pytest.approx(relative, rel=1e-4)
            assert values[f"{name}_spread"] == pytest.approx(plane[mine].std(), rel=1e-2, abs=1e-4)
        assert values["variation_highest"] == pytest.approx(maps["variation"][mine].max(), rel=1e-5)
        assert values["log_size"] == pytest.approx(np.log(mine.sum()), rel=1e-5)
        for kind in range(CLASSES):
            assert values[f"probability_{kind}"] == pytest.approx(probabilities[kind][mine].mean(), rel=1e-4)


def test_the_neighborhood_counts_pairs_of_pixels_side_by_side() -> None:
    probabilities, labels = prediction(seed=3)
    regions = find_regions(labels)
    rows, names = region_features(probabilities, regions), feature_names(CLASSES)
    for number in range(len(regions)):
        beside = []
        for y, x in zip(*np.nonzero(regions.numbers == number), strict=True):
            for at in ((y, x - 1), (y, x + 1), (y - 1, x), (y + 1, x)):
                if all(0 <= a < b for a, b in zip(at, labels.shape, strict=True)) and regions.numbers[at] != number:
                    beside.append(at)
        values = dict(zip(names, rows[number], strict=True))
        kind = regions.classes[number]
        assert values["neighbor_own"] == pytest.approx(np.mean([probabilities[kind][at] for at in beside]), rel=1e-4)
        shares = np.bincount([labels[at] for at in beside], minlength=CLASSES) / len(beside)
        assert np.allclose([values[f"around_{k}"] for k in range(CLASSES)], shares, atol=1e-6)
        assert values["neighbors"] == (shares > 0).sum()


def test_what_a_class_probably_covers_around_a_region() -> None:
    probabilities, labels = prediction(seed=5)
    regions = find_regions(labels)
    rows, names = region_features(probabilities, regions), feature_names(CLASSES)
    seen = 0
    for number, kind in enumerate(regions.classes):
        mine, own = regions.numbers == number, labels == kind
        parts, _ = ndimage.label(own | (probabilities[kind] >= 0.2), np.ones((3, 3)))
        soft = parts == parts[mine][0]
        missed = probabilities[kind][soft & ~own].sum()
        covered, pieces = (soft & own).sum(), len(np.unique(regions.numbers[soft & own]))
        values = dict(zip(names, rows[number], strict=True))
        seen += pieces > 1
        assert values["soft_missed"] == pytest.approx(missed / mine.sum(), rel=1e-4, abs=1e-6)
        assert values["soft_log_missed"] == pytest.approx(np.log1p(missed), rel=1e-4, abs=1e-6)
        assert values["soft_share"] == pytest.approx(mine.sum() / covered, rel=1e-5)
        assert values["soft_regions"] == pytest.approx(np.log(pieces), abs=1e-6)
        assert values["soft_spill"] == pytest.approx(np.log(soft.sum() / covered), rel=1e-4, abs=1e-6)
        found = probabilities[kind][soft & own].sum() / (covered + missed)
        assert values["soft_found"] == pytest.approx(found, rel=1e-4)
        expected = probabilities[kind][mine].sum() / (mine.sum() + missed)
        assert values["soft_iou"] == pytest.approx(expected, rel=1e-4)
    assert seen, "some regions share a soft component"


@pytest.mark.parametrize(
    "labels", [np.zeros((1, 1), np.uint8), np.full((4, 5), 255, np.uint8), np.eye(6, dtype=np.uint8)]
)
def test_strange_label_maps_give_finite_figures(labels: np.ndarray) -> None:
    probabilities = np.full((3, *labels.shape), 1 / 3, np.float32)
    assert np.isfinite(region_features(probabilities, find_regions(labels))).all()


def test_one_class_has_no_uncertainty() -> None:
    assert all(not plane.any() for plane in dispersion(np.ones((1, 3, 4), np.float32)).values())


def test_other_sizes_are_refused() -> None:
    probabilities, labels = prediction()
    with pytest.raises(ModelError, match="differ in size"):
        region_features(probabilities[:, 1:], find_regions(labels))
