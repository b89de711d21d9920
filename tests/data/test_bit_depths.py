"""Datasets in which 8-bit images lie among deeper ones: said with counts and names, and read by one rule."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from trees import mask

from segwright.data.check.runner import check_path
from segwright.data.dataset import open_dataset
from segwright.imageio import write_image

SIZE = (40, 48)
SCENE = np.random.default_rng(0).integers(20, 236, (*SIZE, 3), np.uint8)


def mixed(root: Path, deep: int, narrow: int, factor: int = 9, offset: int = 1800) -> Path:
    """images/ and masks/: deep0.png … hold ``SCENE`` · factor + offset, narrow0.png … the scene in 8 bits."""
    (root / "images").mkdir(parents=True)
    for number in range(deep):
        values = np.roll(SCENE, 5 * number, axis=1).astype(np.uint16) * factor + offset
        cv2.imwrite(str(root / f"images/deep{number}.png"), values[..., ::-1])
        mask(root / f"masks/deep{number}.png", [0, 1, 2], size=SIZE)
    for number in range(narrow):
        write_image(root / f"images/narrow{number}.png", np.roll(SCENE, 7 * number, axis=0))
        mask(root / f"masks/narrow{number}.png", [0, 1, 2], size=SIZE)
    return root


@pytest.mark.parametrize(
    ("deep", "narrow", "named", "how"),
    [
        (6, 2, {"narrow0.png", "narrow1.png"}, "kept as already on that scale"),
        (2, 6, {"deep0.png", "deep1.png"}, "stretched from its own lowest"),
    ],
)
def test_mixed_depths_are_a_warning_that_names_the_fewer(
    tmp_path: Path, deep: int, narrow: int, named: set[str], how: str
) -> None:
    result = check_path(mixed(tmp_path, deep, narrow), workers=0)
    [found] = [problem for problem in result.problems if problem.kind == "mixed bit depth"]
    assert found.severity == "warning" and {Path(file).name for file in found.files} == named
    assert f"{narrow} images have 8 bits, {deep} more" in found.message and how in found.message
    assert all(name in found.message for name in named) and found.fix


@pytest.mark.parametrize(("deep", "narrow"), [(4, 0), (0, 4)])
def test_one_depth_is_no_finding(tmp_path: Path, deep: int, narrow: int) -> None:
    result = check_path(mixed(tmp_path, deep, narrow), workers=0)
    assert not [problem for problem in result.problems if problem.kind == "mixed bit depth"]


def test_deep_files_of_8_bit_values_put_all_images_on_one_scale(tmp_path: Path) -> None:
    """The range lies within 0…255: the 8-bit images hold the same units, and go through it like the others."""
    root = mixed(tmp_path, 6, 1, factor=1, offset=0)
    data = open_dataset(root)
    shown = {record.image_path.name: data.all.read_image(i) for i, record in enumerate(data.records)
             if record.image_path}  # fmt: skip
    assert np.array_equal(shown["deep0.png"], shown["narrow0.png"])
    [found] = [problem for problem in check_path(root, workers=0).problems if problem.kind == "mixed bit depth"]
    assert "the 8-bit ones too" in found.message


def test_training_shows_the_warning(tmp_path: Path) -> None:
    from segwright.training.run import warning_lines

    lines = warning_lines(check_path(mixed(tmp_path, 4, 2), workers=0))
    assert any("mixed bit depth" in line and "narrow0.png" in line for line in lines)
