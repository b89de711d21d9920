"""Masks that read as something else: levels blurred by JPEG, numbers of objects, other paddings of numbers."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from trees import make_image, mask

from segwright.core.errors import FormatError, LabelError
from segwright.data.check.runner import check_path
from segwright.data.dataset import open_dataset

SIZE = (60, 80)


def levels(path: Path, values: tuple[int, ...], seed: int, **how: int) -> None:
    """Rectangles of these values on 0."""
    labels = np.zeros(SIZE, np.uint8)
    for place, value in enumerate(values):
        labels[6 + seed : 44, 8 + 24 * place : 28 + 24 * place] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels).save(path, **how)


@pytest.mark.parametrize("values", [(127, 254), (85, 255), (100, 200, 255)])
def test_blurred_masks_of_several_levels_are_refused(tmp_path: Path, values: tuple[int, ...]) -> None:
    """By one threshold the level between would become background or foreground."""
    for i in range(4):
        make_image(tmp_path / f"images/{i}.png", size=SIZE, seed=i)
        levels(tmp_path / f"masks/{i}.jpg", values, i, quality=85)
    with pytest.raises(LabelError, match=r"blurred edges|values outside|levels"):
        open_dataset(tmp_path)


def test_blurred_masks_of_two_levels_open_with_a_warning(tmp_path: Path) -> None:
    for i in range(4):
        make_image(tmp_path / f"images/{i}.png", size=SIZE, seed=i)
        levels(tmp_path / f"masks/{i}.jpg", (255, 255), i, quality=70)
    result = check_path(tmp_path, workers=0)
    assert result.exit_code == 0 and any(p.kind == "anti-aliased masks" for p in result.warnings)


def test_numbers_of_objects_are_a_warning(tmp_path: Path) -> None:
    for i in range(5):
        make_image(tmp_path / f"images/{i}.png", size=SIZE, seed=i)
        labels = np.zeros(SIZE, np.uint16)
        labels[5:30, 5:30], labels[35:50, 20:60] = 1000 + 37 * i, 2000 + 37 * i
        (tmp_path / "masks").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / f"masks/{i}.png"), labels)
    [found] = [p for p in check_path(tmp_path, workers=0).problems if p.kind == "values of single masks"]
    assert found.severity == "warning" and "10 of 11 values" in found.message and "instances" in (found.fix or "")


def test_other_paddings_of_numbers_pair(tmp_path: Path) -> None:
    for i in range(12):
        make_image(tmp_path / f"images/img{i}.jpg", size=SIZE, seed=i)
        mask(tmp_path / f"masks/mask{i:03d}.png", [0, 1, 2], size=SIZE)
    data = open_dataset(tmp_path)
    pairs = {(r.image_path.name, r.mask_path.name) for r in data.records if r.image_path and r.mask_path}
    assert pairs == {(f"img{i}.jpg", f"mask{i:03d}.png") for i in range(12)}
    assert len(open_dataset(tmp_path, images="images/*", masks="masks/*").records) == 12


def test_a_flat_folder_of_two_endings_is_refused_with_the_globs(tmp_path: Path) -> None:
    for i in range(4):
        make_image(tmp_path / f"a{i}_left8.png", size=SIZE, seed=i)
        mask(tmp_path / f"a{i}_fine_numbers.png", [0, 1, 2], size=SIZE)
    with pytest.raises(FormatError, match=r"4 files such as a0_left8\.png") as caught:
        open_dataset(tmp_path)
    assert "'*_left8.png'" in (caught.value.fix or "") and "'*_fine_numbers.png'" in (caught.value.fix or "")
    data = open_dataset(tmp_path, images="*_left8.png", masks="*_fine_numbers.png")
    assert len(data.records) == 4 and not data.unpaired_images


def test_photos_in_a_folder_called_labels(tmp_path: Path) -> None:
    for i in range(4):
        make_image(tmp_path / f"labels/{i}.jpg", size=(40, 50), seed=i)
        mask(tmp_path / f"labels_gt/{i}.png", [0, 1, 2], size=(40, 50))
    make_image(tmp_path / "labels/4.jpg", size=(40, 50), seed=4)
    data = open_dataset(tmp_path)
    assert [r.mask_path and r.mask_path.parent.name for r in data.records] == ["labels_gt"] * 4 + [None]
    assert {r.image_path and r.image_path.parent.name for r in data.records} == {"labels"}
    guess = next(p for p in data.problems if p.kind == "masks guessed")
    assert "labels_gt/* for the masks" in guess.message
