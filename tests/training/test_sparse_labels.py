"""Training on points and strokes: no crop without a label, no label lost, the gradient of the labeled pixels."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import segwright as sw
from segwright.augment import presets
from segwright.augment.warp import RandomAffineCrop, affine, keep_labels, warp_mask
from segwright.core.types import SPARSE, Batch
from segwright.data.check.runner import check_dataset
from segwright.data.dataset import open_dataset
from segwright.demo.dataset import write_street_scenes
from segwright.imageio import read_mask, write_mask
from segwright.losses import create_loss
from segwright.training.config import TrainConfig
from segwright.training.logit_adjustment import _grid
from segwright.training.optim.optimizers import create_optimizer
from segwright.training.planning.checked_data import DataFacts, check
from segwright.training.targets import subsample_targets
from segwright.training.train_step import TrainStep
from tests.training.small_runs import trainer
from tests.training.test_plan import CPU, FOUND, plan
from tests.training.test_train_step import Small

VOID = 255


def clicks(mask: np.ndarray, count: int, seed: int) -> np.ndarray:
    """``count`` pixels of a mask at random, the rest ignored."""
    rng = np.random.default_rng(seed)
    places = rng.choice(np.flatnonzero(mask != VOID), count, replace=False)
    kept = np.full(mask.size, VOID, np.uint8)
    kept[places] = mask.ravel()[places]
    return kept.reshape(mask.shape)


def sparse_scenes(
    out: Path, count: int, *, parts: tuple[str, ...] = ("train",), train: int = 12, val: int = 4,
    size: tuple[int, int] = (64, 96),
) -> Path:  # fmt: skip
    """Generated scenes with ``count`` labeled pixels in each image of some splits."""
    write_street_scenes(out, train=train, val=val, test=0, size=size)
    for number, path in enumerate(sorted(path for part in parts for path in (out / "masks" / part).iterdir())):
        write_mask(path, clicks(read_mask(path), count, number))
    return out


# --- crops


def test_no_labeled_pixel_is_lost_and_none_is_invented() -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        mask = np.full((60, 80), VOID, np.uint8)
        mask.ravel()[rng.choice(mask.size, 30, replace=False)] = rng.integers(0, 5, 30)
        scale = float(rng.uniform(0.3, 2.5))
        matrix = affine(
            mask.shape, (32, 48), scale=scale, rotation=float(rng.uniform(-9, 9)), flip=bool(rng.integers(2))
        )
        warped = warp_mask(mask, matrix, (32, 48))
        kept = keep_labels(mask, warped, matrix)
        assert np.array_equal(kept[warped != VOID], warped[warped != VOID])
        inverse = cv2.invertAffineTransform(matrix)
        y, x = np.nonzero(mask != VOID)
        u, v = np.rint(inverse @ np.stack([x, y, np.ones_like(x)])).astype(int)
        inside = (u >= 0) & (v >= 0) & (u < 48) & (v < 32)
        assert (kept[v[inside], u[inside]] != VOID).all(), "a click is gone"
        for row, column in np.argwhere((kept != VOID) & (warped == VOID)).tolist():
            near = (u == column) & (v == row)
            assert kept[row, column] in mask[y[near], x[near]]


def test_every_crop_holds_the_one_labeled_pixel() -> None:
    mask = np.full((90, 120), VOID, np.uint8)
    mask[80, 7] = 3
    image = np.zeros((90, 120, 3), np.uint8)
    transform = presets.training(size=(32, 48), scale=(0.34, 2.0), rotation=20.0, sparse_labels=True)
    for seed in range(150):
        _, crop = transform(image, mask, np.random.default_rng(seed))
        assert (crop == 3).any() and set(np.unique(crop).tolist()) <= {3, VOID}
    lost = replace(transform, warp=replace(transform.warp, find_labels=False))
    assert any((lost(image, mask, np.random.default_rng(seed))[1] == VOID).all() for seed in range(150))


def test_the_settings_reach_the_crops() -> None:
    assert isinstance(presets.training(size=(32, 32)).warp, RandomAffineCrop)
    assert not presets.training(size=(32, 32)).warp.find_labels


# --- targets at a coarser stride


def test_a_cell_takes_a_labeled_pixel_if_there_is_one() -> None:
    rng = np.random.default_rng(0)
    for shape, stride in (((2, 16, 24), 4), ((1, 17, 23), 2), ((3, 9, 9), 8)):
        masks = torch.from_numpy(np.where(rng.random(shape) < 0.1, rng.integers(0, 7, shape), VOID))
        logits = torch.zeros((shape[0], 7, -(-shape[1] // stride), -(-shape[2] // stride)))
        for index in range(5):
            plain = subsample_targets(logits, masks, (0, index))[1]
            _, found = subsample_targets(logits, masks, (0, index), labeled_first=True)
            assert found.shape == logits.shape[:1] + logits.shape[2:]
            for n, row, column in np.ndindex(*found.shape):
                cell = masks[n, row * stride : (row + 1) * stride, column * stride : (column + 1) * stride]
                labeled = cell[cell != VOID].tolist()
                assert found[n, row, column].item() in (labeled or [VOID])
                if row < plain.shape[1] and column < plain.shape[2] and plain[n, row, column] != VOID:
                    assert found[n, row, column] == plain[n, row, column], "the drawn pixel goes first"


# --- the loss


def gradients(model: Small, batches: list[Batch], criterion: torch.nn.Module) -> list[torch.Tensor]:
    """Of the update that a step takes: plain SGD with a rate of 1 moves the weights by the gradient."""
    before = [p.detach().clone() for p in model.parameters()]
    step = TrainStep(model, torch.optim.SGD(model.parameters(), lr=1.0), sparse_labels=True)
    result = step(batches, 0.0, criterion, 0.0)
    assert np.isfinite(result.loss)
    return [old - new.detach() for old, new in zip(before, model.parameters(), strict=True)]


def random_batch(seed: int, labeled: int) -> tuple[Batch, np.ndarray]:
    """Two images with ``labeled`` labeled pixels, and the whole masks that these are of."""
    rng = np.random.default_rng(seed)
    whole = rng.integers(0, 3, (2, 16, 12), dtype=np.uint8)
    masks = clicks(whole, labeled, seed) if labeled else np.full_like(whole, VOID)
    return Batch(rng.integers(0, 256, (2, 16, 12, 3), dtype=np.uint8), masks, (f"{seed}a", f"{seed}b")), whole


@pytest.mark.parametrize("counts", [(9,), (1, 40), (3, 0, 17)])
def test_the_gradient_is_that_of_the_whole_masks_loss_at_the_labeled_pixels(counts: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = Small().eval()  # without batch statistics, which differ from micro-batch to micro-batch
    model.train(True)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    twin = copy.deepcopy(model)
    pairs = [random_batch(seed, count) for seed, count in enumerate(counts)]
    weights = torch.tensor([1.0, 2.0, 0.5])
    criterion = create_loss("ce", classes=3, class_weights=weights)
    found = gradients(model, [batch for batch, _ in pairs], criterion)

    total, weight = torch.zeros(()), torch.zeros(())
    for batch, whole in pairs:  # the loss of the whole mask at every pixel, of which the labeled ones are taken
        logits = twin(torch.from_numpy(batch.images)).logits
        each = F.cross_entropy(logits, torch.from_numpy(whole).long(), weight=weights, reduction="none")
        labeled = torch.from_numpy(batch.masks != VOID)
        total = total + each[labeled].sum()
        weight = weight + weights[torch.from_numpy(whole).long()][labeled].sum()
    (total / weight).backward()
    for expected, got in zip(twin.parameters(), found, strict=True):
        want = torch.zeros_like(got) if expected.grad is None else expected.grad
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("text", ["ce(smoothing=0.05)", "ce+dice", "lovasz", "focal", "ohem", "ce+0.5*jaccard"])
@pytest.mark.parametrize("labeled", [0, 1])
def test_hardly_any_label_is_no_reason_for_nan(text: str, labeled: int) -> None:
    model = Small()
    batch, _ = random_batch(0, labeled)
    for parameter in gradients(model, [batch], create_loss(text, classes=3)):
        assert torch.isfinite(parameter).all()


def test_muon_takes_an_update_without_a_label(tmp_path: Path) -> None:
    data = open_dataset(sparse_scenes(tmp_path / "scenes", 20))
    run = trainer(data, tmp_path / "run")
    images = np.zeros((4, 64, 96, 3), np.uint8)
    optimizer = create_optimizer(run.model, run.config)
    step = TrainStep(run.model, optimizer, clip=5.0)
    for _ in range(3):
        result = step([Batch(images, np.full((4, 64, 96), VOID, np.uint8), tuple("abcd"))], 0.0,
                      create_loss("ce", classes=data.label_space.classes), 0.3)  # fmt: skip
        assert result.loss == 0
    assert all(torch.isfinite(p).all() for p in run.model.parameters())


# --- the plan


def sparse(**changed: object) -> object:
    return replace(FOUND, ignored_pixels=1_000_000_000, labeled_share=(0.001, 0.01, 0.02), sparse_images=300,
                   images_pixels=(9_950_000, 9_950_000, 6_000_000), **changed)  # fmt: skip


def test_the_plan_of_sparse_labels_and_its_reasons() -> None:
    found = plan(found=sparse())  # type: ignore[arg-type]
    config = found.config
    assert config.training.sparse_labels is True and config.augment.class_aware == 0.4
    assert config.training.final_phase_loss is None and config.augment.paste == 0.0
    reasons = {entry.setting: entry.reason for entry in found.entries}
    assert "0.99 % of the pixels are labeled" in reasons["training.sparse_labels"]
    whole = plan().config
    assert whole.training.sparse_labels is False and whole.augment.class_aware == 0.4
    assert whole.training.final_phase_loss == "0.5*jaccard"
    asked = plan({"training.sparse_labels": False, "augment.class_aware": 0.2}, found=sparse()).config  # type: ignore[arg-type]
    assert asked.training.sparse_labels is False and asked.augment.class_aware == 0.2
    some = plan(found=replace(FOUND, sparse_images=30))
    assert some.config.training.sparse_labels is True and some.config.training.final_phase_loss == "0.5*jaccard"
    assert any("30 of 300 masks" in entry.reason for entry in some.entries)
    assert plan(found=replace(FOUND, sparse_images=3)).config.training.sparse_labels is False


def test_class_weights_come_from_labeled_pixels() -> None:
    rare = sparse(class_pixels=(6_000_000, 3_900_000, 50_000))
    weights = plan({"training.class_weights": "median"}, found=rare).class_weights  # type: ignore[arg-type]
    assert weights is not None
    frequency = np.array([6_000_000 / 9_950_000, 3_900_000 / 9_950_000, 50_000 / 6_000_000])
    assert np.allclose(weights, np.median(frequency) / frequency, rtol=1e-5)


def test_what_is_pasted_into_unlabeled_images_by_plan() -> None:
    """Half of the classes of a labeled image; of points and strokes that would be specks."""
    unlabeled = {"unlabeled.path": "more", "training.ema": 0.99}
    assert plan(unlabeled).config.unlabeled.mix == "labeled"
    assert plan(unlabeled, found=sparse()).config.unlabeled.mix == "cutmix"  # type: ignore[arg-type]
    assert plan({**unlabeled, "unlabeled.mix": "none"}).config.unlabeled.mix == "none"


def test_sparse_validation_labels_do_not_confirm_class_offsets() -> None:
    from segwright.training.planning.plan import make_plan

    never: Callable[[str, str | None], bool] = lambda name, encoder: False  # noqa: E731
    for val_sparse in (False, True):
        facts = DataFacts(FOUND, 300, 60, val_sparse=val_sparse)
        made = make_plan(TrainConfig(), facts, CPU, pretrained=never, normalized=lambda config: True)
        assert made.config.training.logit_adjustment is not val_sparse
        asked = TrainConfig().with_values({"training.logit_adjustment": True})
        assert make_plan(
            asked, facts, CPU, pretrained=never, normalized=lambda c: True
        ).config.training.logit_adjustment


def test_offsets_are_searched_on_labeled_pixels() -> None:
    mask = np.full((100, 100), VOID, np.uint8)
    mask.ravel()[::997] = 1
    grid = _grid(mask, 3, 50, 4)
    assert (mask.ravel()[grid] == 1).all() and len(grid) == 11
    assert len(_grid(np.zeros((100, 100), np.uint8), 3, 50, 4)) == 50


# --- the run


def test_images_without_a_labeled_pixel_are_left_out(tmp_path: Path) -> None:
    out = sparse_scenes(tmp_path, 30)
    empty = sorted((out / "masks/train").iterdir())[:3]
    for path in empty:
        write_mask(path, np.full((64, 96), VOID, np.uint8))
    lines: list[str] = []
    checked = check(open_dataset(out), TrainConfig(), message=lines.append)
    assert len(checked.train) == 9 and any("3 of 12 training images have no labeled pixel" in line for line in lines)
    assert checked.fingerprint.sparse and not checked.val_sparse and checked.fingerprint.all_ignored == 3


def test_a_run_on_clicks(tmp_path: Path) -> None:
    out = sparse_scenes(tmp_path / "scenes", 30, parts=("train", "val"))
    run = sw.train(out, epochs=1, size=(32, 48), batch=4, device="cpu", out=tmp_path / "run")
    assert run.evaluation is not None and np.isfinite(run.evaluation.miou)
    assert run.plan.config.training.sparse_labels is True and run.plan.config.training.logit_adjustment is False
    assert run.evaluation.boundary is None and "strokes" in run.evaluation.not_computed["boundary_iou"]
    assert not (tmp_path / "run/model/error_model.json").exists()


@pytest.mark.slow
def test_one_per_cent_of_the_pixels_nearly_does_it(tmp_path: Path) -> None:
    """The same scenes, epochs and seed: whole masks, and 61 random pixels of each (1 %)."""
    scores = {}
    for name, count in (("whole", 0), ("sparse", 61)):
        out = tmp_path / name
        write_street_scenes(out, train=120, val=30, test=0, size=(64, 96))
        if count:
            sparse_scenes(out, count, train=120, val=30)
        run = sw.train(out, epochs=30, device="cpu", out=tmp_path / f"run-{name}", seed=0)
        assert run.evaluation is not None
        scores[name] = run.evaluation.miou
    print(scores)
    assert scores["sparse"] > 0.85 * scores["whole"] and scores["sparse"] > 0.4


def test_a_check_of_clicks_lists_what_it_does_not_check(tmp_path: Path) -> None:
    data = open_dataset(sparse_scenes(tmp_path, 61))
    result = check_dataset(data, workers=0)
    note = next(problem for problem in result.problems if problem.kind == "partial labels")
    assert note.severity == "note" and "train: 0.99 % of the pixels" in note.message and "label shift" in note.message
    kinds = {problem.kind for problem in result.problems}
    assert not kinds & {"label shift", "hardly any pixels", "stray value", "suspicious masks"}
    labels = result.to_json()["labels"]
    assert labels["sparse"] and labels["partial"] and len(labels["images"]) == 16
    assert sorted(set(labels["images"].values()))[0] == pytest.approx(61 / (64 * 96), abs=1e-5)
    assert labels["per_image"]["median"] < SPARSE and "label shift" in labels["not_checked"]
    whole = check_dataset(
        open_dataset(write_street_scenes(tmp_path / "w", train=4, val=2, test=0, size=(64, 96))), workers=0
    )
    assert not whole.to_json()["labels"]["partial"] and whole.to_json()["labels"]["images"] == {}
