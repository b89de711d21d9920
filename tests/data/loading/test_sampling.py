"""Oversampling: the factors by hand, and what the order makes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from segwright.core.errors import ImageReadError, UsageError
from segwright.data.dataset import open_dataset
from segwright.data.loading.loader import epoch_order
from segwright.data.loading.sampling import classes_shown, describe, repeat_factors
from segwright.demo.dataset import write_street_scenes

SHOWN = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 0], [1, 1, 1], *[[1, 0, 0]] * 12], bool)  # 16, 2 and 1 of 16 images


def test_factors_by_hand() -> None:
    found = repeat_factors(SHOWN, 0.25)
    # Classes in 16/16, 2/16 and 1/16 of the images ask for 1, √(0.25 / 0.125) = √2 and √(0.25 / 0.0625) = 2.
    assert np.allclose(found, [1, 2**0.5, 1, 2, *[1] * 12])
    assert (repeat_factors(SHOWN, 0.0) == 1).all() and (repeat_factors(SHOWN, 0.0625) == 1).all()
    assert np.allclose(repeat_factors(SHOWN, 1.0)[:4], [1, 8**0.5, 1, 4])


def test_nothing_shown_and_nothing_there() -> None:
    assert (repeat_factors(np.zeros((3, 2), bool), 0.5) == 1).all()
    assert repeat_factors(np.zeros((0, 2), bool), 0.5).shape == (0,)
    with pytest.raises(UsageError, match="share of the images"):
        repeat_factors(SHOWN, 1.5)


def test_images_come_as_often_as_their_factors_say() -> None:
    factors = repeat_factors(SHOWN, 1.0)
    counts = np.zeros(16)
    for epoch in range(400):
        order = epoch_order(16, seed=0, epoch=epoch, weights=factors)
        assert len(order) == 16
        counts += np.bincount(order, minlength=16)
    assert np.allclose(counts / 400, 16 * factors / factors.sum(), rtol=0.08)


def test_classes_are_read_from_the_masks(tmp_path: Path) -> None:
    data = open_dataset(write_street_scenes(tmp_path / "scenes", train=6, val=2, test=1, size=(64, 96)))
    told: list[int] = []
    found = classes_shown(data.train, told.append)
    assert sum(told) == 6 and found.shape == (6, data.label_space.classes)
    for index, sample in enumerate(data.train):
        assert sample.mask is not None
        assert set(np.flatnonzero(found[index])) == set(np.unique(sample.mask)) - {255}


def test_masks_are_decoded_in_other_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = open_dataset(write_street_scenes(tmp_path / "scenes", train=6, val=2, test=1, size=(64, 96)))

    def here(*_: object, **__: object) -> None:
        raise AssertionError("a mask is decoded in this process")

    monkeypatch.setattr(type(data.train.reader), "mask", here)
    assert classes_shown(data.train).any()
    broken = data.train.records[2].mask_path
    assert broken is not None
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(ImageReadError, match=broken.name):
        classes_shown(data.train)


def test_it_is_said() -> None:
    assert describe(repeat_factors(SHOWN, 0.25)) == "oversampling: 2 of 16 images come up to 2.0 times as often"
    assert "every image comes once" in describe(repeat_factors(SHOWN, 0.01))
