"""Self-training against the same written out by hand: thresholds, pseudo-labels, the update, the order of images."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_runs import VALUES, Killed, kill_at, states, trainer
from test_train_step import Small, batch, build, frozen, weights
from torch import Tensor, nn

from segwright import api
from segwright.augment import presets
from segwright.core.errors import ConfigError, DataError, UsageError
from segwright.core.types import Batch, LabelSpace
from segwright.data.dataset import Dataset, open_dataset
from segwright.demo.dataset import write_street_scenes
from segwright.evaluation.evaluation import Evaluation
from segwright.imageio import read_image, write_image
from segwright.inference.bundle import read_bundle
from segwright.losses import create_loss
from segwright.training import results
from segwright.training.augmentation import TwoViews, unlabeled_transform
from segwright.training.callbacks.diagnostics import ACCEPTED_STEPS, LossMonitor
from segwright.training.callbacks.log import read_log
from segwright.training.components import UnlabeledData
from segwright.training.config import TrainConfig, UnlabeledConfig
from segwright.training.distributed.world import World
from segwright.training.judge import judge
from segwright.training.pseudo_loss import PseudoLoss
from segwright.training.self_training import BINS, LOOK_EVERY, PseudoBatch, PseudoLabels, SelfTraining, Thresholds
from segwright.training.state import Progress
from segwright.training.trainer import Trainer
from segwright.training.unlabeled import UnlabeledImages, UnlabeledStream, find_unlabeled, open_unlabeled

NARROW = {"widths": [4, 8, 8, 8, 8], "decoder_channels": [4, 8, 8, 8]}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_street_scenes(tmp_path_factory.mktemp("labeled"), train=8, val=6, test=2, size=(64, 96))


@pytest.fixture(scope="module")
def more(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images of another seed, without labels."""
    tree = write_street_scenes(tmp_path_factory.mktemp("more"), train=10, val=0, test=0, size=(64, 96), seed=7)
    shutil.rmtree(tree / "masks")
    return tree / "images"


# -- thresholds ----------------------------------------------------------------------------------------------------


def counted(right: dict[float, int], labeled: tuple[int, int] = (1, 1), free: tuple[int, int] = (1, 1)) -> np.ndarray:
    """The counts of an update on classes a and b: confidence → labeled pixels of class a that the teacher has right."""
    found = np.zeros((2, BINS + 3))
    for confidence, count in right.items():
        found[0, int(confidence * BINS)] += count
    found[:, BINS], found[:, BINS + 1] = labeled, free
    return found


def test_a_class_asks_for_the_confidence_of_its_right_pixels_between_floor_and_ceiling() -> None:
    def values(accept: float, floor: float = 0.0, ceiling: float = 1.0) -> list[float]:
        thresholds = Thresholds(2, UnlabeledConfig(accept=accept, floor=floor, ceiling=ceiling))
        assert thresholds.values().tolist() == [ceiling, ceiling]
        thresholds.update(counted({0.75: 4, 0.5: 4, 0.25: 2}))
        return [float(value) for value in thresholds.values()]

    assert values(0.4) == [0.75, 1.0], "four of ten; a class of which none was right has the ceiling"
    assert values(0.5) == [0.5, 1.0], "the fifth pixel lies in the bin at 0.5"
    assert values(0.8) == [0.5, 1.0]
    assert values(1.0) == [0.25, 1.0]
    assert values(1.0, floor=0.6) == [0.6, 1.0]
    assert values(0.4, ceiling=0.7) == [0.7, 0.7], "from the ceiling on every pixel counts"


def test_statistics_follow_the_updates_and_survive_a_checkpoint() -> None:
    thresholds = Thresholds(2, UnlabeledConfig(accept=0.5, floor=0, ceiling=1, momentum=0.75 ** (1 / LOOK_EVERY)))
    assert thresholds.looks(1) and np.isnan(thresholds.shift())
    thresholds.update(counted({0.25: 12}))
    assert thresholds.values()[0] == 0.25 and not thresholds.looks(1) and thresholds.looks(LOOK_EVERY)
    thresholds.update(counted({}, labeled=(0, 0)))  # no look at labeled images
    assert thresholds.values()[0] == 0.25
    thresholds.update(counted({0.75: 8}))  # 0.75 · 3 = 2.25 pixels at 0.25, 2 at 0.75
    assert thresholds.values()[0] == 0.25
    thresholds.update(counted({0.75: 4}))  # 1.69 at 0.25, 2.5 at 0.75
    assert thresholds.values()[0] == 0.75
    again = Thresholds(2, thresholds.config)
    again.load(json.loads(json.dumps(thresholds.state())))
    assert np.array_equal(again.right, thresholds.right) and np.array_equal(again.shares, thresholds.shares)
    again.load({"right": [[1.0]], "shares": [[1.0], [1.0]]})  # of a run with other classes
    assert np.array_equal(again.right, thresholds.right)


def test_the_shift_of_classes_is_what_would_have_to_move() -> None:
    thresholds = Thresholds(2, UnlabeledConfig())
    thresholds.update(counted({0.75: 1}, labeled=(30, 10), free=(50, 150)))
    assert thresholds.shift() == pytest.approx(0.5), "three quarters are a among labeled pixels, one quarter here"


# -- pseudo-labels -------------------------------------------------------------------------------------------------


class Sure:
    """A teacher of two classes: 1 where the red value v is above 127, with confidence (v % 128) / 127."""

    def __call__(self, images: Tensor) -> Any:
        value = images[..., 0].double()
        confidence = ((value % 128) / 127).clamp(0.51, 0.999)
        logit = torch.log(confidence / (1 - confidence))
        one = torch.where(value > 127, logit, -logit)
        return SimpleNamespace(logits=torch.stack([torch.zeros_like(one), one], dim=1).float())


def teacher(mix: str = "none", **changed: Any) -> SelfTraining:
    config = UnlabeledConfig(**{"start": 0.0, "ramp": 0.0, "mix": mix, "floor": 0.8, "ceiling": 0.8, **changed})
    loss = create_loss("ce", classes=2)
    return SelfTraining(Sure(), loss, config, device=torch.device("cpu"), dtype=None, seed=3)  # type: ignore[arg-type]


def two_views(count: int, height: int = 6, width: int = 8) -> Batch:
    """Weak and strong views; the strong one holds 255 − weak, so that what was pasted can be told."""
    weak = np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)
    images = np.concatenate([weak, 255 - weak], axis=3)
    return Batch(images, np.zeros((count, height, width), np.uint8), tuple(map(str, range(count))))


def labeled(run: SelfTraining, item: Batch, images: int = 99, first: int = 0, index: int = 0) -> PseudoLabels:
    known = Batch(
        item.images[..., :3].repeat(images, 0)[:images], item.masks.repeat(images, 0)[:images], ("x",) * images
    )
    return run.pseudo_labels(item, [known], progress=1.0, index=index, first=first)


def test_a_pseudo_label_is_the_teachers_where_it_is_confident_and_nothing_is_known() -> None:
    item = two_views(2)
    item.masks[0, :2] = 1  # labeled
    item.masks[0, 2] = 255  # beyond the image's edge
    found = labeled(teacher(), item)
    (part,) = found.parts
    red = item.images[..., 0].astype(int)
    free = item.masks == 0
    confident = np.clip((red % 128) / 127, 0.51, 0.999) >= 0.8
    expected = (red > 127).astype(np.int64)
    assert np.array_equal(part.candidates.numpy(), np.where(free, expected, 255))
    assert np.array_equal(part.targets.numpy(), np.where(free & confident, expected, 255))
    assert np.array_equal(part.images.numpy(), item.images[..., 3:]), "trained on the strong view"
    for label in (0, 1):
        assert found.counts[label, -2] == (free & (expected == label)).sum()
        assert found.counts[label, -1] == (free & confident & (expected == label)).sum()


@pytest.mark.parametrize("mix", ["cutmix", "classmix"])
def test_pixels_and_their_labels_are_pasted_together_whatever_the_parts(mix: str) -> None:
    item = two_views(4)
    whole = labeled(teacher(mix), item, index=5)
    (part,) = whole.parts
    plain = labeled(teacher(), item).parts[0]
    pasted = (part.images != plain.images).any(-1)
    assert pasted.flatten(1).any(1).all(), "every image has a part of another"
    for place in range(4):
        other = place ^ 1
        for mixed, source in ((part.images, plain.images), (part.targets, plain.targets)):
            here = pasted[place]
            assert torch.equal(mixed[place][here], source[other][here])
            assert torch.equal(mixed[place][~here], source[place][~here])
    halves = [
        labeled(teacher(mix), Batch(item.images[a : a + 2], item.masks[a : a + 2], item.ids[:2]), 1, first=a, index=5)
        for a in (0, 2)  # two processes, micro-batches of one image
    ]
    for name in ("images", "targets", "candidates"):
        joined = torch.cat([getattr(one, name) for half in halves for one in half.parts])
        assert torch.equal(joined, getattr(part, name)), name
    assert torch.equal(sum(half.counts[:, -2:] for half in halves), whole.counts[:, -2:])
    other_step = labeled(teacher(mix), item, index=6).parts[0]
    assert not torch.equal(other_step.images, part.images)


def test_half_of_the_classes_of_a_labeled_image_are_pasted_with_their_true_labels() -> None:
    item = two_views(4)
    rng = np.random.default_rng(1)
    truth = rng.choice(np.array([0, 1, 255], np.uint8), (4, 6, 8))
    truth[3] = 255  # nothing to paste
    known = Batch(rng.integers(0, 256, (4, 6, 8, 3), np.uint8), truth, tuple("abcd"))

    def pieces(*bounds: tuple[int, int], micro: int) -> list[Any]:
        found = []
        for a, b in bounds:  # what a process has of the update
            parts = [
                Batch(known.images[i : i + micro], truth[i : i + micro], known.ids[i : i + micro])
                for i in range(a, b, micro)
            ]
            own = Batch(item.images[a:b], item.masks[a:b], item.ids[a:b])
            found += teacher("labeled").pseudo_labels(own, parts, progress=1.0, index=5, first=a).parts
        return found

    (part,) = pieces((0, 4), micro=4)
    plain = labeled(teacher(), item).parts[0]
    pasted = (part.images != plain.images).any(-1)
    for place in range(4):
        here = pasted[place].numpy()
        assert np.array_equal(part.images[place].numpy()[here], known.images[place][here])
        for name in ("targets", "candidates"):
            mixed, alone = getattr(part, name)[place].numpy(), getattr(plain, name)[place].numpy()
            assert np.array_equal(mixed[here], truth[place][here]) and np.array_equal(mixed[~here], alone[~here])
        classes = set(truth[place][here].tolist())
        assert len(classes) == (1 if place < 3 else 0), "one of two, and never what has no label"
        assert all(here[truth[place] == label].all() for label in classes), "the whole of it"
    for divided in (pieces((0, 4), micro=1), pieces((0, 2), (2, 4), micro=1)):
        for name in ("images", "targets", "candidates"):
            assert torch.equal(torch.cat([getattr(one, name) for one in divided]), getattr(part, name)), name


def test_the_weight_rises_after_the_start() -> None:
    run = teacher(weight=2.0, start=0.2, ramp=0.4)
    assert [round(run.weight(p), 6) for p in (0.0, 0.19, 0.2, 0.3, 0.6, 1.0)] == [0, 0, 0, 0.5, 2, 2]
    assert teacher(weight=2.0, start=0.2, ramp=0.0).weight(0.2) == 2.0


def test_two_views_have_one_geometry() -> None:
    transform = unlabeled_transform(
        TrainConfig().with_values({"augment.rotation": 30, "unlabeled.strength": "none"}),
        SimpleNamespace(size=(32, 48), scale=(0.5, 2.0)),  # type: ignore[arg-type]
    )
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    both, mask = transform(image, np.zeros((40, 60), np.uint8), np.random.default_rng(1))
    assert both.shape == (32, 48, 6) and set(np.unique(mask)) <= {0, 255}
    assert np.array_equal(both[..., :3], both[..., 3:])
    strong = TwoViews(transform.warp, presets.COLOR["strong"])
    other, _ = strong(image, np.zeros((40, 60), np.uint8), np.random.default_rng(1))
    assert np.array_equal(other[..., :3], both[..., :3]) and not np.array_equal(other[..., 3:], both[..., 3:])


# -- the update ----------------------------------------------------------------------------------------------------

CLASS_WEIGHTS = (0.1, 1.0, 7.0)


def pseudo(sizes: tuple[int, ...], weight: float = 0.7) -> PseudoLabels:
    """Four unlabeled images in parts; one has no accepted pixel, one no candidate."""
    item = batch(9, 4)
    images = torch.from_numpy(item.images)
    candidates = torch.from_numpy(item.masks).long()
    accepted = torch.rand(candidates.shape, generator=torch.Generator().manual_seed(0)) < 0.6
    targets = torch.where(accepted, candidates, 255)
    targets[1], candidates[2], targets[2] = 255, 255, 255
    pieces = zip(images.split(sizes), targets.split(sizes), candidates.split(sizes), strict=True)
    parts = [PseudoBatch(*piece) for piece in pieces]
    loss = create_loss("ce", classes=3, class_weights=CLASS_WEIGHTS)
    return PseudoLabels(
        parts,
        loss,
        weight,
        torch.full((3, BINS + 3), 4) - torch.nn.functional.one_hot(torch.tensor(BINS + 2), BINS + 3),
    )  # type: ignore[arg-type]


def test_an_update_adds_the_accepted_pixels_over_all_unlabeled_ones() -> None:
    step = frozen(aux_weight=0.25)
    step.criterion = create_loss("ce", classes=3)
    model = copy.deepcopy(step.model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    item, found = batch(0), pseudo((4,))
    taken = step.take([item], unlabeled=found)
    (part,) = found.parts
    by_class = torch.tensor([*CLASS_WEIGHTS, *[0.0] * 253])  # 255: nothing

    def of_head(logits: Tensor) -> Tensor:
        values = F.cross_entropy(logits, part.targets, ignore_index=255, reduction="none")
        return (values * by_class[part.targets]).sum() / by_class[part.candidates].sum()

    output, other = model(torch.from_numpy(item.images)), model(part.images)
    target = torch.from_numpy(item.masks).long()
    labels = sum(
        w * F.cross_entropy(head, target, ignore_index=255)
        for w, head in ((1, output.logits), (0.25, output.aux["aux"]))
    )
    unlabeled = of_head(other.logits) + 0.25 * of_head(other.aux["aux"])
    (labels + 0.7 * unlabeled).backward()
    optimizer.step()
    assert taken.loss == pytest.approx(float(labels.detach()), rel=1e-5), "the loss in the log is that of the labels"
    assert taken.unlabeled is not None
    assert taken.unlabeled.loss == pytest.approx(float(unlabeled.detach()), rel=1e-5)
    assert taken.unlabeled.accepted == pytest.approx(3 / 4), "by the teacher's counts"
    for ours, theirs in zip(step.model.state_dict().values(), model.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("sizes", [(2, 2), (1, 1, 1, 1), (3, 1)])
def test_parts_of_unlabeled_images_take_the_update_of_the_whole(sizes: tuple[int, ...]) -> None:
    whole, parts = frozen(), frozen()
    for step in (whole, parts):
        step.criterion = create_loss("ce(smoothing=0.05)", classes=3, class_weights=CLASS_WEIGHTS)
    item = batch(0, 4)
    pieces = [Batch(item.images[i : i + 2], item.masks[i : i + 2], item.ids[i : i + 2]) for i in (0, 2)]
    for index in range(3):
        one = whole.take([item], index=index, unlabeled=pseudo((4,)))
        other = parts.take(pieces, index=index, unlabeled=pseudo(sizes))
        assert one.unlabeled is not None and other.unlabeled is not None
        assert other.loss == pytest.approx(one.loss, rel=1e-5)
        assert other.unlabeled.loss == pytest.approx(one.unlabeled.loss, rel=1e-5)
    for a, b in zip(weights(whole), weights(parts), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_processes_share_one_normalizer() -> None:
    """Two processes with two images each: their gradients, averaged as DDP does, are that of the whole."""
    model = Small()
    model.body[1].eval()

    def gradient(labels: list[PseudoLabels]) -> tuple[list[Tensor], float]:
        packed: list[list[Tensor]] = []
        for one in labels:  # what every process puts into the collectives
            probe = PseudoLoss(one, SimpleNamespace(size=1, total=lambda t: t), (0, 0))  # type: ignore[arg-type]
            loss = sum(probe.micro_batch(n, heads(part.images)) for n, part in enumerate(one.parts))
            packed.append([torch.cat([probe.totals, probe.counts.flatten()]), probe.loss])
            del loss
        model.zero_grad()
        total = 0.0
        for one in labels:
            sums = iter([sum(p[0] for p in packed)])
            world = SimpleNamespace(size=len(labels), total=lambda t, sums=sums: next(sums, t))
            run = PseudoLoss(one, world, (0, 0))  # type: ignore[arg-type]
            for number, part in enumerate(one.parts):
                (run.micro_batch(number, heads(part.images)) / len(labels)).backward()
            total += float(run.loss)
        return [p.grad.clone() for p in model.parameters() if p.grad is not None], total

    def heads(images: Tensor) -> list[tuple[float, Tensor]]:
        output = model(images)
        return [(1.0, output.logits), (0.4, output.aux["aux"])]

    found = pseudo((2, 2))
    halves = [PseudoLabels([part], found.criterion, found.weight, found.counts) for part in found.parts]
    (alone, one), (together, other) = gradient([pseudo((4,))]), gradient(halves)
    assert one == pytest.approx(other, rel=1e-5)
    for a, b in zip(alone, together, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def test_nothing_accepted_moves_nothing() -> None:
    step, other = frozen(), frozen()
    found = pseudo((2, 2))
    for part in found.parts:
        part.targets.fill_(255)
    taken = step.take([batch(0)], unlabeled=found)
    other.take([batch(0)])
    assert taken.unlabeled is not None and taken.unlabeled.loss == 0.0
    for a, b in zip(weights(step), weights(other), strict=True):
        torch.testing.assert_close(a, b)


# -- order and resuming --------------------------------------------------------------------------------------------


def images_of(where: Path, data: Dataset) -> UnlabeledImages:
    return UnlabeledImages((open_unlabeled(str(where), data)[0],))


def with_unlabeled(scenes: Path, more: Path, folder: Path, **changed: Any) -> Trainer:
    data = open_dataset(scenes)
    values = {**VALUES, **{f"training.{key}": value for key, value in changed.items()}}
    values |= {"unlabeled.path": str(more), "unlabeled.start": 0.2, "unlabeled.ramp": 0.2, "unlabeled.floor": 0.0}
    config = TrainConfig().with_values(values)
    transforms = {phase: unlabeled_transform(config, phase) for phase in config.training.phases}
    loss = create_loss("ce", classes=data.label_space.classes)
    unlabeled = UnlabeledData(images_of(more, data), transforms, loss)
    assert isinstance(loss, nn.Module)
    return trainer(data, folder, components={"config": config, "unlabeled": unlabeled}, **changed)


def test_the_order_of_unlabeled_images_is_arithmetic(scenes: Path, more: Path) -> None:
    data = open_dataset(scenes)
    config = TrainConfig().with_values(VALUES)
    transforms = {phase: unlabeled_transform(config, phase) for phase in config.training.phases}
    first, second = config.training.phases

    def stream(workers: int, rank: int = 0, size: int = 1) -> UnlabeledStream:
        world = World(rank, size)
        images = images_of(more, data)
        return UnlabeledStream(
            images, transforms, seed=1, ratio=1.0, world=world, workers=workers, cache="none", pin=False
        )

    def taken(run: UnlabeledStream, count: int, progress: Progress, labeled: int = 4) -> list[Batch]:
        found = []
        for number in range(count):
            phase = first if number < 3 else second
            item, progress.unlabeled_epoch, progress.unlabeled_position = run.take(phase, labeled, progress)
            found.append(item)
        run.close()
        return found

    whole = taken(stream(0), 7, Progress())
    assert [len(item) for item in whole] == [4] * 7
    seen = [name for item in whole[:2] for name in item.ids]
    assert len(set(seen)) == 8, "an epoch shows none twice"
    for left, right in zip(taken(stream(3), 7, Progress()), whole, strict=True):
        assert left.ids == right.ids and np.array_equal(left.images, right.images)
    progress = Progress()
    taken(stream(1), 5, progress)
    (left,) = taken(stream(2), 1, copy.copy(progress))  # in the first phase
    item, *_ = stream(0).take(second, 4, progress)  # in the second
    assert item.ids == left.ids == whole[5].ids and np.array_equal(item.images, whole[5].images)
    ranks = [taken(stream(0, rank, 2), 3, Progress(), labeled=2) for rank in (0, 1)]
    for one, a, b in zip(whole, *ranks, strict=False):
        assert one.ids == a.ids + b.ids
    assert {stream(0).count(n) for n in (1, 2)} == {2} and stream(0).count(5) in (4, 6), "pairs are never divided"


def test_a_run_that_is_killed_goes_on_bit_for_bit(scenes: Path, more: Path, tmp_path: Path) -> None:
    once = with_unlabeled(scenes, more, tmp_path / "once")
    once.fit()
    log = read_log(tmp_path / "once")
    assert [r["unlabeled_weight"] for r in log if "unlabeled_weight" in r][-1] == 1.0
    assert all(0 <= r["accepted"] <= 1 for r in log if "accepted" in r)
    steps = [r for r in log if "loss" in r]
    assert "accepted" not in steps[0] and "accepted" in steps[-1], "at first labels alone"
    killed = with_unlabeled(scenes, more, tmp_path / "twice", save_every_steps=1)
    kill_at(killed, 2)
    with pytest.raises(Killed):
        killed.fit()
    assert killed.progress.unlabeled_position > 0
    again = with_unlabeled(scenes, more, tmp_path / "twice", workers=3)
    again.fit(resume=True)
    assert again.self_training is not None and once.self_training is not None
    assert again.self_training.thresholds.state() == once.self_training.thresholds.state()
    assert again.progress.unlabeled_position == once.progress.unlabeled_position
    assert all(torch.equal(a, b) for a, b in zip(states(once), states(again), strict=True))


def test_running_out_of_memory_repeats_the_same_update(scenes: Path, more: Path, tmp_path: Path) -> None:
    once = with_unlabeled(scenes, more, tmp_path / "once")
    once.fit()
    short = with_unlabeled(scenes, more, tmp_path / "short")
    take, failures = short.update, iter([False, True])

    def taken(*given: Any, **named: Any) -> Any:
        if next(failures, False):
            raise RuntimeError("CUDA out of memory")
        return take(*given, **named)

    short.update = taken  # type: ignore[assignment]
    short.update.dtype = None  # type: ignore[attr-defined]
    short.update.weights_changing = False  # type: ignore[attr-defined]
    short.fit()
    assert short.progress.num_micro_batches == 2
    assert short.progress.unlabeled_position == once.progress.unlabeled_position


# -- what is used, and what is left out ----------------------------------------------------------------------------


def found(where: Path | None, scenes: Path, own: str = "none") -> UnlabeledImages:
    data = open_dataset(scenes)
    config = TrainConfig().with_values({"unlabeled.path": None if where is None else str(where), "unlabeled.own": own})
    return find_unlabeled(data, data.train, data.splits.get("val"), config, World())


def test_images_of_the_validation_data_and_broken_ones_are_left_out_and_named(
    scenes: Path, more: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(more / "train", tmp_path / "pool"))
    held_out = sorted((scenes / "images" / "val").iterdir())
    shutil.copy(held_out[0], folder / "copy.png")
    shutil.copy(next((scenes / "images" / "test").iterdir()), folder / "tested.png")
    near = read_image(held_out[1]).astype(int) + np.random.default_rng(0).integers(-3, 4, (64, 96, 3))
    write_image(folder / "near.png", np.clip(near, 0, 255).astype(np.uint8))
    shutil.copy(folder / "near.png", folder / "near-again.png")
    shutil.copy(next((scenes / "images" / "train").iterdir()), folder / "known.png")
    whole = (folder / "copy.png").read_bytes()
    (folder / "broken.png").write_bytes(whole[: len(whole) // 2])
    images = found(folder, scenes)
    ids = {record.id.removeprefix("unlabeled/") for split in images.splits for record in split.records}
    assert ids == {path.stem for path in (more / "train").iterdir()}
    assert images.left_out == {
        "truncated file": 1,
        "copies of validation or test images": 2,
        "nearly the same as validation or test images": 2,
        "copies of labeled training images": 1,
    }
    text = "\n".join(images.lines)
    assert "16 unlabeled images in" in text and "near-again" in text and "broken" in text and "tested" in text


def test_a_dataset_gives_its_images_and_never_its_masks(scenes: Path, tmp_path: Path) -> None:
    other = write_street_scenes(tmp_path / "other", train=3, val=2, test=0, size=(64, 96), seed=5)
    images = found(other, scenes)
    assert len(images) == 5 and "the masks of 5 images are not used" in "\n".join(images.lines)
    assert {images[i].image.shape for i in range(5)} == {(64, 96, 3)}
    assert all(not images[i].mask.any() for i in range(5))  # type: ignore[union-attr]


def test_unlabeled_parts_of_the_dataset_itself(scenes: Path, tmp_path: Path) -> None:
    tree = Path(shutil.copytree(scenes, tmp_path / "scenes"))
    masks = sorted((tree / "masks" / "train").iterdir())
    for path in masks[:3]:
        path.unlink()
    with pytest.raises(DataError, match="3 images have no mask"):
        api.train(tree, model="leannet", dry_run=True, weights=None, device="cpu")
    images = found(None, tree, "images")
    assert len(images) == 3 and images.partial is None
    both = found(None, tree, "pixels")
    assert len(both) == 3 + len(open_dataset(tree).train)
    sample = both[len(both) - 1]
    train = open_dataset(tree).train
    truth = train[len(train) - 1]
    assert sample.mask is not None and truth.mask is not None
    assert np.array_equal(sample.mask == 0, truth.mask == 255)
    plan = api.train(
        tree, model="leannet", dry_run=True, weights=None, device="cpu", settings={"unlabeled.own": "images"}
    )
    assert any(d.setting == "unlabeled.images" and d.value == 3 for d in plan.plan.entries)


def test_wrong_input_is_refused(scenes: Path, more: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(where: Path | None = more, **settings: Any) -> None:
        values = {f"{key.replace('__', '.')}": value for key, value in settings.items()}
        run = tmp_path / "run"
        api.train(
            scenes, unlabeled=where, model="leannet", weights=None, device="cpu", epochs=1, out=run, settings=values
        )

    with pytest.raises(DataError, match="no unlabeled images") as caught:
        train(tmp_path / "nowhere")
    assert "--unlabeled" in str(caught.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no unlabeled images"):
        train(tmp_path / "empty")
    with pytest.raises(DataError, match="no usable unlabeled image"):
        train(scenes / "images" / "val")
    with pytest.raises(DataError, match="no usable unlabeled image"):
        train(None, unlabeled__own="images")
    with pytest.raises(UsageError, match="averaged weights"):
        train(training__ema=None)
    with pytest.raises(UsageError, match="sharding"):
        train(training__fsdp=True)
    with pytest.raises(UsageError, match="with and without unlabeled images"):
        train(None, unlabeled__judge=True)
    with pytest.raises(UsageError, match="for `train` alone"):
        api.cross_validate(scenes, {"unlabeled.path": str(more), "unlabeled.judge": True}, 2)
    for key, value in (("ratio", 0), ("weight", -1), ("start", 1), ("accept", 0), ("mix", "all"), ("floor", 0.99)):
        with pytest.raises(ConfigError, match="unlabeled"):
            TrainConfig().with_values({f"unlabeled.{key}": value})
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="one process"):
        train(unlabeled__judge=True)
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").rglob("*.safetensors"))


def test_images_of_another_kind_are_reported_late_and_once() -> None:
    def reported(accepted: float, shift: float, fraction: float) -> list[str]:
        monitor = LossMonitor(("a", "b"))
        return [line for _ in range(2 * ACCEPTED_STEPS) for line in monitor.unlabeled(accepted, shift, fraction)]

    assert reported(0.05, 0.9, 0.4) == [], "an early teacher is unsure of everything"
    (line,) = reported(0.05, 0.1, 0.6)
    assert "only 5% of their pixels" in line and "classes" not in line
    (line,) = reported(0.97, 0.9, 0.6)
    assert "90% of their predicted classes" in line and "pixels" not in line
    assert reported(0.8, 0.2, 0.9) == reported(float("nan"), float("nan"), 0.9) == []


# -- the whole -----------------------------------------------------------------------------------------------------


def test_a_run_says_whether_unlabeled_images_helped(
    scenes: Path, more: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "finish_on_held_out", lambda work: None)  # some seconds, and not what is tested here
    values = {
        "training.size": (64, 96), "training.batch": 4, "training.precision": "fp32", "training.trackers": (),
        "model.arguments": NARROW, "unlabeled.judge": True, "unlabeled.floor": 0.1, "training.logit_adjustment": False,
    }  # fmt: skip
    given: dict[str, Any] = {"model": "leannet", "weights": None, "device": "cpu", "settings": values}
    folder = tmp_path / "run"
    run = api.train(scenes, unlabeled=more, epochs=2, out=folder, **given)
    noted = read_bundle(folder / "model").training["self_training"]
    assert noted["images"] == 10 and noted["left_out"] == {} and 0 < noted["accepted"] <= 1
    judged = noted["judged"]
    alone = json.loads((folder / "labeled-only" / "model" / "model.json").read_text())
    assert judged["val_miou_without"] == pytest.approx(alone["metrics"]["val_miou"])
    assert run.evaluation is not None and judged["val_miou_with"] == pytest.approx(run.evaluation.miou)
    assert judged["difference"] == pytest.approx(judged["val_miou_with"] - judged["val_miou_without"])
    text = capsys.readouterr().err
    assert judged["sentence"] in " ".join(text.split()) or judged["sentence"] in text
    report = (folder / "report.html").read_text()
    assert "10 unlabeled images" in report and "Unlabeled pixels that count" in report
    assert "self_training" not in alone["training"]
    again = api.train(scenes, out=folder, resume=True)  # the folder alone is enough
    assert again.evaluation is not None and again.evaluation.miou == pytest.approx(run.evaluation.miou)
    assert read_bundle(folder / "model").training["self_training"]["judged"]["helped"] == judged["helped"]


def test_recolored_images_leave_no_trace_in_the_statistics_of_batch_norms() -> None:
    """Their colors are none that the network will see."""
    labels_alone, trained = build(), build()
    labels_alone.take([batch(0)])
    trained.take([batch(0)], unlabeled=pseudo((2, 2)))
    for name in ("running_mean", "running_var"):
        assert torch.equal(getattr(trained.model.body[1], name), getattr(labels_alone.model.body[1], name)), name
    assert not torch.equal(trained.model.head.weight, labels_alone.model.head.weight), "the labels count"


def test_a_class_that_no_image_holds_does_not_judge() -> None:
    """Per image: road 90/91 → 90/90, car 9/10 in both; with the unlabeled images one pixel is called sky, which no mask
    holds."""
    space, ids = LabelSpace(("road", "car", "sky")), [f"image {i}x" for i in range(6)]

    def scored(counts: list[list[int]]) -> Evaluation:
        return Evaluation(space, "val", np.zeros((3, 3), np.int64), ids, np.array([counts] * 6))

    found = judge(scored([[90, 9, 0], [90, 10, 0], [90, 9, 1]]), scored([[90, 9, 0], [90, 10, 0], [91, 9, 0]]))
    assert found is not None and found.helped
    assert found.without == pytest.approx((90 / 91 + 0.9) / 2) and found.with_unlabeled == pytest.approx(0.95)
