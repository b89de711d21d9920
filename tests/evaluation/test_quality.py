"""The error model: its targets against loops over pixels, what it learns, its intervals, too little data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.special import softmax

from segwright.core.errors import BundleError, DataError, LabelError, ModelError, UsageError
from segwright.core.types import Float32Array, LabelSpace
from segwright.evaluation.quality import (
    ErrorModelFitter,
    adjusted_iou,
    fit_error_model,
    folds_of,
    group_weights,
    interval_groups,
)
from segwright.imageio import UInt8Array
from segwright.inference.bundle import Bundle, read_attachment, save_bundle
from segwright.inference.predictor import Predictor, load
from segwright.inference.quality import (
    ATTACHMENT,
    ErrorModel,
    image_figures,
    parse_error_model,
    thinning,
    weighted_quantile,
)
from segwright.inference.region_features import find_regions
from segwright.models.catalog import create_model

SPACE = LabelSpace(("ground", "disc", "box"))
IGNORED = 255


class Discs:
    """A network that sees the discs and boxes of :func:`scene`, and weak ones where the third color has some."""

    classes, in_channels = 3, 3

    def logits(self, images: UInt8Array) -> Float32Array:
        seen = np.stack([cv2.GaussianBlur(image, (5, 5), 1.2) for image in images]).astype(np.float32) / 32
        ghosts = seen[..., 2]
        planes = np.stack([np.full_like(ghosts, 2.0), seen[..., 0] + ghosts * 0.6, seen[..., 1]], axis=1)
        return np.ascontiguousarray(planes)

    def labels(self, images: UInt8Array) -> tuple[UInt8Array, Float32Array]:
        p = softmax(self.logits(images), axis=1)
        return p.argmax(axis=1).astype(np.uint8), p.max(axis=1).astype(np.float32)


def scene(seed: int, height: int = 72, width: int = 96) -> tuple[UInt8Array, UInt8Array]:
    """(image, truth): discs and boxes in the first two colors, ghosts, which are nothing, in the third."""
    rng = np.random.default_rng(seed)
    image, truth = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.uint8)
    for kind in rng.permutation([0, 0, 0, 1, 1, 2, 2, 2]):
        y, x, size = int(rng.integers(6, height - 6)), int(rng.integers(6, width - 6)), int(rng.integers(3, 9))
        layer, mark = np.zeros((height, width), np.uint8), np.zeros((height, width), np.uint8)
        if kind == 1:
            cv2.rectangle(mark, (x - size, y - size), (x + size, y + size), 1, -1)
        else:
            cv2.circle(mark, (x, y), size, 1, -1)
        layer[mark > 0] = int(rng.integers(120, 220))
        image[..., kind] = np.maximum(image[..., kind], layer)
        if kind < 2:
            truth[mark > 0] = kind + 1
    truth[:2] = IGNORED
    return image, truth


class Scenes:
    """A split of scenes in memory."""

    def __init__(
        self, count: int, first: int = 0, names: Sequence[str] | None = None, space: LabelSpace = SPACE
    ) -> None:
        self.name, self.label_space, self.first = "val", space, first
        rng = np.random.default_rng(first)
        self.ids = list(names) if names else [f"img{int(n)}" for n in rng.permutation(10_000)[:count]]
        self.swap: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def read_image(self, index: int) -> UInt8Array:
        return scene(self.first + index)[0]

    def read_mask(self, index: int) -> UInt8Array | None:
        truth = scene(self.first + index)[1]
        table = np.arange(256, dtype=np.uint8)
        for old, new in self.swap.items():
            table[old] = new
        return table[truth]


@pytest.fixture(scope="module")
def model() -> ErrorModel:
    attachment = fit_error_model(Predictor(Discs(), SPACE), Scenes(60))
    return parse_error_model(attachment, 3)


def test_the_adjusted_iou_equals_loops_over_regions() -> None:
    rng = np.random.default_rng(4)
    soft = [ndimage.gaussian_filter(rng.normal(0, 1, (3, 40, 50)), (0, 2.2, 2.2)) for _ in range(2)]
    labels, truth = (one.argmax(axis=0).astype(np.uint8) for one in soft)
    truth[10:14] = IGNORED
    regions = find_regions(labels)
    found, area = adjusted_iou(regions, labels, truth)
    eight, valid = np.ones((3, 3)), truth != IGNORED
    for number, kind in enumerate(regions.classes):
        mine = (regions.numbers == number) & valid
        parts, _ = ndimage.label(truth == kind, eight)
        met = np.isin(parts, np.unique(parts[mine & (truth == kind)])) & (truth == kind)
        others = (labels == kind) & ~(regions.numbers == number)
        union = (mine | (met & ~others)).sum()
        if not mine.any():
            assert np.isnan(found[number])
        else:
            assert found[number] == pytest.approx((mine & met).sum() / union)
        assert area[number] == mine.sum()


def test_two_regions_over_one_truth_are_not_blamed_for_each_other() -> None:
    truth = np.zeros((8, 20), np.uint8)
    truth[2:6, 2:18] = 1
    labels = truth.copy()
    labels[2:6, 9:11] = 0  # a gap parts it in two
    regions = find_regions(labels)
    found, _ = adjusted_iou(regions, labels, truth)
    mine = np.flatnonzero(regions.classes == 1)
    assert len(mine) == 2 and np.allclose(found[mine], 28 / (28 + 8))  # the other half is no part of the union


def test_wrong_regions_are_found_on_fresh_images(model: ErrorModel) -> None:
    held_out = model.description["held_out"]
    assert held_out["auroc"] > 0.9 and held_out["r_squared"] > 0.6
    predictor = Predictor(Discs(), SPACE)
    predictor.error_model = model
    wrong, right, errors = [], [], []
    for seed in range(500, 530):
        image, truth = scene(seed)
        found = predictor.predict(image, quality=True)
        assert found.quality is not None and found.probabilities is None
        regions = find_regions(found.labels)
        adjusted, _ = adjusted_iou(regions, found.labels, truth)
        by_box = {
            (int(k), *map(int, box)): value
            for k, box, value in zip(regions.classes, regions.boxes, adjusted, strict=True)
        }
        for region in found.quality.regions:
            value = by_box[(SPACE.names.index(region.class_name), *region.box)]
            if np.isfinite(value):
                (wrong if value == 0 else right).append(region.wrong)
                errors.append(abs(region.iou - value))
        chances = [region.wrong for region in found.quality.regions]
        assert chances == sorted(chances, reverse=True)
    assert np.mean(wrong) > np.mean(right) + 0.5 and np.mean(errors) < 0.2


def test_intervals_hold_what_they_claim_on_fresh_images(model: ErrorModel) -> None:
    predictor = Predictor(Discs(), SPACE)
    predictor.error_model = model
    inside, class_inside = [], []
    for seed in range(1000, 1120):
        image, truth = scene(seed)
        quality = predictor.predict(image, quality=True).quality
        assert quality is not None
        labels = predictor.predict(image).labels
        valid = truth != IGNORED
        iou = {}
        for kind, name in enumerate(SPACE.names):
            union = (((labels == kind) | (truth == kind)) & valid).sum()
            if union:
                iou[name] = ((labels == kind) & (truth == kind) & valid).sum() / union
        inside.append(quality.miou.low <= np.mean(list(iou.values())) <= quality.miou.high)
        for name, interval in quality.per_class.items():
            class_inside.append(interval.low <= iou.get(name, 0) <= interval.high)
    assert 0.82 <= np.mean(inside) <= 1 and 0.82 <= np.mean(class_inside) <= 1  # 90 % claimed, 120 images
    assert quality.over == "images"


def test_an_image_unlike_the_fit_is_marked_and_its_interval_is_wider(model: ErrorModel) -> None:
    predictor = Predictor(Discs(), SPACE)
    predictor.error_model = model
    usual = predictor.predict(scene(7)[0], quality=True).quality
    strange = predictor.predict(np.full((72, 96, 3), 64, np.uint8), quality=True).quality
    assert usual is not None and strange is not None
    assert not usual.extrapolates and strange.extrapolates and strange.distance > 1.2
    assert "unlike" in strange.sentence() and "unlike" not in usual.sentence()


def test_the_model_comes_back_and_json_is_plain(model: ErrorModel) -> None:
    back = parse_error_model(model.attachment(), 3)
    p = softmax(Discs().logits(scene(3)[0][None])[0], axis=0).astype(np.float32)
    labels = p.argmax(axis=0).astype(np.uint8)
    one, other = model(p, labels, SPACE), back(p, labels, SPACE)
    assert one.to_json() == other.to_json()
    tree = one.to_json(most=2)
    assert set(tree["per_class"]) <= set(SPACE.names) and len(tree["regions"]) == 2
    assert tree["estimated_miou"]["low"] <= tree["estimated_miou"]["iou"] <= tree["estimated_miou"]["high"]
    assert tree["regions"][0]["probability_wrong"] >= tree["regions"][1]["probability_wrong"]
    assert "estimated mIoU" in tree["summary"]


def test_a_class_predicted_only_on_ignored_pixels_is_no_target_and_no_score() -> None:
    space = LabelSpace((*SPACE.names, "void"))
    fitter, scored = ErrorModelFitter(space), []
    for seed in range(24):
        image, truth = scene(seed)
        planes = np.concatenate([Discs().logits(image[None])[0], np.full((1, *truth.shape), -9, np.float32)])
        planes[3, 0] = 9.0  # a line of ignored pixels
        p = softmax(planes, axis=0).astype(np.float32)
        labels = p.argmax(axis=0).astype(np.uint8)
        fitter.add(f"img{seed}", p, labels, truth, image)
        scored += np.unique(labels[truth != IGNORED]).tolist()
    assert all(3 in image.figures.present for image in fitter.images)
    model = fitter.fit()
    assert sorted(model.class_score_kinds.tolist()) == sorted(scored) and 3 not in scored
    assert len(model.class_scores) == len(model.class_score_weights) == len(model.class_own_weights) == len(scored)
    assert model.class_mean[3] == pytest.approx(np.average(model.class_mean[:3], weights=np.bincount(scored)))
    quality = model(p, labels, space)  # its interval is that of all classes
    assert quality.per_class["void"].high >= quality.per_class["void"].low


def test_sequences_too_few_for_the_level_give_blocks_and_a_note() -> None:
    names = [f"drive{n // 20}_{n:04d}" for n in range(60)]
    fitted = fit_error_model(Predictor(Discs(), SPACE), Scenes(60, names=names), groups=[n[:6] for n in names])
    assert fitted.description["interval_over"] == "blocks"
    assert "not for other ones" in str(fitted.description["notes"])


def test_too_few_for_any_interval_say_so() -> None:
    names = [f"drive{n // 3}_{n:04d}" for n in range(12)]
    fitted = fit_error_model(
        Predictor(Discs(), SPACE), Scenes(12, names=names), groups=["a"] * 6 + ["b"] * 6, level=0.95
    )
    quality = parse_error_model(fitted, 3)
    p = softmax(Discs().logits(scene(3)[0][None])[0], axis=0).astype(np.float32)
    found = quality(p, p.argmax(axis=0).astype(np.uint8), SPACE)
    assert np.isnan(found.miou.low) and "too little held-out data" in found.miou.note and "19" in found.miou.note
    tree = found.to_json()
    assert tree["estimated_miou"]["low"] is None and "without an interval" in tree["summary"]


def test_groups_weigh_equally_and_the_quantile_is_the_split_conformal_one() -> None:
    weights = group_weights(["a"] * 10 + ["b"])
    assert weights[:10].sum() == pytest.approx(1 / 3) and weights[10] == pytest.approx(1 / 3)
    scores = np.arange(1.0, 100)  # each its own group: the ceil(0.9 · 100)-th smallest
    assert weighted_quantile(scores, group_weights([str(n) for n in range(99)]), 0.9) == 90
    assert weighted_quantile(scores[:8], group_weights([str(n) for n in range(8)]), 0.9) == np.inf
    assert weighted_quantile(scores[:9], group_weights([str(n) for n in range(9)]), 0.9) == 9


def test_folds_leave_out_whole_sequences_or_long_runs() -> None:
    names = [f"a_{n:03d}" for n in range(40)]
    folds = folds_of(names, ["a"] * 40)
    assert np.array_equal(folds, np.repeat(np.arange(4), 10))
    assert np.array_equal(folds_of(names, names), np.repeat(np.arange(4), 10))
    sequences = ["x"] * 10 + ["y"] * 20 + ["z"] * 10
    folds = folds_of(names, sequences)
    for name in "xyz":
        assert len({int(f) for f, s in zip(folds, sequences, strict=True) if s == name}) == 1
    assert len(set(folds.tolist())) == 3
    groups, over = interval_groups(names, sequences, 0.9)
    assert over == "blocks" and len(set(groups)) == 5 + 7 + 5
    assert interval_groups(names, sequences, 0.7)[1] == "sequences"
    assert interval_groups(names, names, 0.9)[1] == "images"


def test_a_model_saved_with_it_estimates_and_one_without_does_not_fail(tmp_path: Path, model: ErrorModel) -> None:
    torch.manual_seed(0)
    network = create_model("segnet_basic", classes=3, weights=None, width=4).eval()
    bundle = Bundle("segnet_basic", SPACE, {"width": 4})
    fitted = replace(model, description={**model.description, "tta": "flip"}).attachment()
    with_it = save_bundle(tmp_path / "with", network, bundle, {ATTACHMENT: fitted})
    without = save_bundle(tmp_path / "without", network, bundle)
    image = scene(1)[0]
    found = load(with_it, device="cpu")(image, quality=True).quality
    assert found is not None and any("flip" in note for note in found.notes)
    assert load(without, device="cpu")(image, quality=True).quality is None


def test_large_images_are_thinned_out(model: ErrorModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segwright.inference.quality.MOST_PIXELS", 5000)
    image = np.tile(scene(2)[0], (2, 3, 1))
    assert thinning(*image.shape[:2]) == 3
    whole, parts = Predictor(Discs(), SPACE), Predictor(Discs(), SPACE)
    whole.error_model = parts.error_model = model
    parts.window = 100
    one, other = (p.predict(image, quality=True).quality for p in (whole, parts))
    assert one is not None and other is not None
    assert one.miou.value == pytest.approx(other.miou.value, abs=0.05)
    assert sum(region.area for region in other.regions) == pytest.approx(image.shape[0] * image.shape[1], rel=0.05)
    assert max(region.box[0] + region.box[2] for region in other.regions) >= image.shape[1] - 3


def test_classes_are_matched_by_name() -> None:
    swapped = Scenes(20, space=LabelSpace(("box", "ground", "disc")))
    swapped.swap = {0: 1, 1: 2, 2: 0}
    one = fit_error_model(Predictor(Discs(), SPACE), swapped)
    other = fit_error_model(Predictor(Discs(), SPACE), Scenes(20))
    assert one.description["held_out"] == other.description["held_out"]
    with pytest.raises(LabelError, match="classes"):
        fit_error_model(Predictor(Discs(), SPACE), Scenes(20, space=LabelSpace(("a", "b"))))


def test_too_little_data_and_bad_arguments_are_errors() -> None:
    predictor = Predictor(Discs(), SPACE)
    with pytest.raises(DataError, match="too little held-out data"):
        fit_error_model(predictor, Scenes(5))
    with pytest.raises(UsageError, match="level"):
        fit_error_model(predictor, Scenes(20), level=90)
    with pytest.raises(UsageError, match="groups"):
        fit_error_model(predictor, Scenes(20), groups=["a"])
    fitter = ErrorModelFitter(SPACE)
    image, truth = scene(0)
    with pytest.raises(LabelError, match="size"):
        fitter.add("a", np.zeros((3, 5, 5), np.float32), truth, truth, image)
    with pytest.raises(LabelError, match="size"):
        fitter.add("a", None, truth, truth, image)
    p = np.full((3, *truth.shape), 1 / 3, np.float32)
    fitter.add("b", p, np.zeros_like(truth), np.full_like(truth, IGNORED), image)
    assert not fitter.images  # nothing to learn from an image of ignored pixels


def test_a_damaged_or_foreign_error_model_is_refused(model: ErrorModel) -> None:
    fitted = model.attachment()
    with pytest.raises(BundleError, match="does not fit"):
        parse_error_model(fitted, 4)
    damages: dict[str, Any] = {
        "image_mean": fitted.arrays["image_mean"] * np.nan,
        "image_scale": fitted.arrays["image_scale"] * 0,
        "image_weights": fitted.arrays["image_weights"][:-1],
        "class_own_weights": fitted.arrays["class_own_weights"][:-1],
        "limit": np.zeros(0),
    }
    for name, wrong in damages.items():
        with pytest.raises(BundleError):
            parse_error_model(replace(fitted, arrays={**fitted.arrays, name: wrong}), 3)
    for level in (2, "high", True, None):
        with pytest.raises(BundleError):
            parse_error_model(replace(fitted, description={**fitted.description, "level": level}), 3)
    with pytest.raises(ModelError, match="another model"):
        model(np.zeros((4, 5, 5), np.float32), np.zeros((5, 5), np.uint8), SPACE)


def test_the_attachment_holds_arrays_only(tmp_path: Path, model: ErrorModel) -> None:
    network = create_model("segnet_basic", classes=3, weights=None, width=4).eval()
    folder = save_bundle(
        tmp_path / "m", network, Bundle("segnet_basic", SPACE, {"width": 4}), {ATTACHMENT: model.attachment()}
    )
    found = read_attachment(folder, ATTACHMENT)
    assert found is not None and all(array.dtype.kind in "fi" for array in found.arrays.values())
    assert sum(array.nbytes for array in found.arrays.values()) < 2_000_000


def test_an_error_model_of_an_earlier_version_is_left_out_and_named(tmp_path: Path, model: ErrorModel) -> None:
    """Its features are others; the network is as usable as before."""
    network = create_model("segnet_basic", classes=3, weights=None, width=4).eval()
    fitted = model.attachment()
    earlier = replace(fitted, description={**fitted.description, "version": 2})
    made = Bundle("segnet_basic", SPACE, {"width": 4})
    predictor = load(save_bundle(tmp_path / "earlier", network, made, {ATTACHMENT: earlier}), device="cpu")
    assert predictor.error_model is None and any("--fit-error-model" in note for note in predictor.notes)
    assert predictor.predict(scene(3)[0]).labels.shape == scene(3)[1].shape
    predictor = load(save_bundle(tmp_path / "now", network, made, {ATTACHMENT: fitted}), device="cpu")
    assert predictor.error_model is not None and not predictor.notes


def test_the_expected_iou_is_a_product_and_a_linear_part(model: ErrorModel) -> None:
    p = softmax(Discs().logits(scene(3)[0][None])[0], axis=0).astype(np.float32)
    rows = image_figures(p, p.argmax(axis=0).astype(np.uint8)).rows
    right, wrong, linear = model.iou.right(rows), model.wrong.trees(rows), model.iou.linear(rows)
    np.testing.assert_allclose(model.iou(rows), (2 * (1 - wrong) * right + linear) / 3)
    assert right.min() > 0 and right.max() < 1, "trees on the scale of log-odds stay between 0 and 1"
