"""Folders that could be called by the class of the masks in them, which have two values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from segwright.data.dataset import open_dataset
from segwright.imageio import write_image

SIZE = (24, 32)


def pairs(root: Path, *folders: str, value: int = 255) -> Path:
    rng = np.random.default_rng(0)
    for number, folder in enumerate(folders):
        for image in range(3):
            write_image(root / folder / f"images/{number}{image}.png", rng.integers(0, 256, (*SIZE, 3), np.uint8))
            mask = np.zeros(SIZE, np.uint8)
            mask[4:9, 3 + image : 20] = value
            write_image(root / folder / f"masks/{number}{image}.png", mask)
    return root


def notes(root: Path) -> list[str]:
    return [note for note in open_dataset(root).notes if "one class" in note]


@pytest.mark.parametrize(
    "folders", [("cats", "dogs"), ("glas/benign", "glas/malignant"), ("hot spot", "short-circuit")]
)
def test_the_foreground_is_noted_to_be_one_class(tmp_path: Path, folders: tuple[str, str]) -> None:
    pairs(tmp_path, *folders)
    data = open_dataset(tmp_path)
    assert data.label_space.names == ("background", "foreground") and len(data.all) == 6
    assert f"the foreground in {', '.join(folders)} is one class" in notes(tmp_path)[0]


@pytest.mark.parametrize("folders", [("train", "val"), ("patient01", "patient02"), ("a",), ("2023", "2024")])
def test_splits_and_numbers_are_no_classes(tmp_path: Path, folders: tuple[str, ...]) -> None:
    assert not notes(pairs(tmp_path, *folders))


def test_a_list_of_classes_or_more_values_say_what_is_meant(tmp_path: Path) -> None:
    pairs(tmp_path / "a", "cats", "dogs")
    (tmp_path / "a/classes.txt").write_text("background\nanimal\n")
    assert not notes(tmp_path / "a")
    pairs(tmp_path / "b", "cats", value=1)
    pairs(tmp_path / "b", "dogs", value=2)
    assert open_dataset(tmp_path / "b").label_space.classes == 3 and not notes(tmp_path / "b")
