"""A dataset on a device, and batches of it."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import torch

from segwright.augment import presets
from segwright.augment.device import paste_classes
from segwright.core.errors import DataError
from segwright.data.dataset import Dataset, Split, open_dataset
from segwright.demo.dataset import write_street_scenes
from segwright.training.device_data import DeviceData

SIZE = (64, 96)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(write_street_scenes(tmp_path_factory.mktemp("scenes"), train=7, val=2, test=1, size=SIZE))


def test_it_holds_the_split(scenes: Dataset) -> None:
    data = DeviceData.of(scenes.train, "cpu", threads=2)
    assert len(data) == 7 and data.ids == scenes.train.ids
    for index, sample in enumerate(scenes.train):
        assert (data.images[index].numpy() == sample.image).all()
        assert sample.mask is not None and (data.masks[index].numpy() == sample.mask).all()
    part = data.subset([5, 1])
    assert part.ids == (data.ids[5], data.ids[1]) and torch.equal(part.masks[1], data.masks[1])


def test_every_image_comes_equally_often(scenes: Dataset) -> None:
    data = DeviceData.of(scenes.train, "cpu")
    same = presets.training(size=SIZE, scale=(1, 1), rotation=0, aspect=1, flip=0, color="none")
    seen: Counter[int] = Counter()
    for images, masks in islice(data.batches(same, classes=scenes.label_space.classes, batch=3), 7):
        assert images.shape == (3, *SIZE, 3) and masks.dtype == torch.int64
        for image in images:
            seen[next(i for i in range(7) if torch.equal(data.images[i], image))] += 1
    assert sorted(seen.values()) == [3] * 7


@pytest.mark.parametrize("batch", [2, 16])
def test_equal_seeds_give_equal_batches(scenes: Dataset, gpu: torch.device, batch: int) -> None:
    data = DeviceData.of(scenes.train, gpu)
    transform = presets.training(size=(24, 24), class_aware=0.5)
    runs = [
        [(i.cpu(), m.cpu()) for i, m in islice(data.batches(transform, classes=8, batch=batch, seed=seed), 6)]
        for seed in (1, 1, 2)
    ]
    for (a, b), (c, d) in zip(runs[0], runs[1], strict=True):
        assert torch.equal(a, c) and torch.equal(b, d)
    assert not all(torch.equal(a[0], c[0]) for a, c in zip(runs[0], runs[2], strict=True))


def test_pasted_classes_are_those_of_the_next_crop(gpu: torch.device) -> None:
    """Against the definition, pixel by pixel: half of the classes, rounded down, at least one, never ignored pixels."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.randint(0, 5, (6, 8, 10), generator=generator).to(torch.uint8)
    masks[torch.rand(masks.shape, generator=generator) < 0.2] = 255
    masks[2] = 255  # nothing to take
    masks[3] = 4  # one class
    images = torch.randint(0, 256, (6, 8, 10, 3), generator=generator).to(torch.uint8)
    draws = torch.rand((6, 6), generator=generator)
    found, labels = (one.cpu() for one in paste_classes(images.to(gpu), masks.to(gpu), draws.to(gpu), 0.7))
    pasted = 0
    for place in range(6):
        other, other_mask = images[(place + 1) % 6], masks[(place + 1) % 6]
        shown = [label for label in range(5) if bool((other_mask == label).any())]
        number = max(1, len(shown) // 2) if shown and draws[place, 5] < 0.7 else 0
        taken = sorted(shown, key=lambda label: float(draws[place, label]))[:number]
        region = torch.isin(other_mask, torch.tensor(taken, dtype=torch.uint8))
        assert torch.equal(labels[place], torch.where(region, other_mask, masks[place]))
        assert torch.equal(found[place], torch.where(region[..., None], other, images[place]))
        pasted += int(number > 0)
    assert 2 <= pasted < 6 and labels.dtype == torch.uint8


def test_a_share_of_the_batches_is_pasted(scenes: Dataset) -> None:
    data = DeviceData.of(scenes.train, "cpu")
    same = presets.training(size=SIZE, scale=(1, 1), rotation=0, aspect=1, flip=0, color="none")
    changed = 0
    for images, masks in islice(data.batches(same, classes=scenes.label_space.classes, batch=7, paste=0.5), 8):
        assert masks.dtype == torch.int64
        changed += sum(not any(torch.equal(one, image) for one in data.images) for image in images)
    assert 14 <= changed <= 42


def test_images_of_several_sizes_are_refused(scenes: Dataset, tmp_path: Path) -> None:
    other = open_dataset(write_street_scenes(tmp_path, train=1, val=1, test=1, size=(64, 128)))
    both = Split("both", [*scenes.train.records, *other.train.records], scenes.train.reader)
    with pytest.raises(DataError, match="of one size"):
        DeviceData.of(both, "cpu")
