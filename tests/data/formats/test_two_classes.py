"""Masks of two values and a list of two classes: which of the two names is black."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trees import make_image

from segwright.data.check.runner import check_path
from segwright.data.dataset import open_dataset

ROAD_FIRST = "name,r,g,b\nroad,255,255,255\nbackground,0,0,0\n"


def binary(root: Path, high: int, how: str = "L") -> None:
    """Six pairs: a rectangle of ``high`` on 0."""
    for i in range(6):
        make_image(root / f"images/{i}.jpg", size=(40, 50), seed=i)
        labels = np.zeros((40, 50), np.uint8)
        labels[8 + i : 30, 10:30] = high
        (root / "masks").mkdir(exist_ok=True)
        Image.fromarray(labels).convert(how).save(root / f"masks/{i}.png")


def zero_of(root: Path) -> str:
    """The name that the pixel in the corner, 0 in the file, is read as."""
    data = open_dataset(root)
    labels = data.all.read_mask(0)
    assert labels is not None and labels[0, 0] != labels[20, 20]
    return data.label_space.names[labels[0, 0]]


@pytest.mark.parametrize("how", ["L", "RGB", "P"])
def test_the_color_of_a_list_states_which_class_is_black(tmp_path: Path, how: str) -> None:
    """DeepGlobe's roads: the order of the names would exchange the two classes in every mask."""
    binary(tmp_path, 255, how)
    (tmp_path / "class_dict.csv").write_text(ROAD_FIRST)
    assert zero_of(tmp_path) == "background"
    assert not check_path(tmp_path, workers=0).warnings


def test_numbers_of_a_list_state_which_class_is_black(tmp_path: Path) -> None:
    binary(tmp_path, 255)
    (tmp_path / "classes.csv").write_text("id,name\n1,sky\n0,land\n")
    assert zero_of(tmp_path) == "land"


def test_a_background_behind_the_other_name_is_black_with_a_warning(tmp_path: Path) -> None:
    binary(tmp_path, 255)
    (tmp_path / "classes.txt").write_text("crack\nbackground\n")
    assert zero_of(tmp_path) == "background"
    [found] = [p for p in check_path(tmp_path, workers=0).warnings if p.kind == "masks guessed"]
    assert "against the order of the list" in found.message


def test_the_order_of_two_names_counts_where_nothing_else_does(tmp_path: Path) -> None:
    binary(tmp_path, 255)
    (tmp_path / "classes.txt").write_text("land\nsea\n")
    assert zero_of(tmp_path) == "land"


def test_indices_and_a_list_that_ends_in_the_background_are_a_warning(tmp_path: Path) -> None:
    binary(tmp_path, 1)
    (tmp_path / "class_dict.csv").write_text(ROAD_FIRST)
    assert zero_of(tmp_path) == "road"
    [found] = [p for p in check_path(tmp_path, workers=0).warnings if p.kind == "masks guessed"]
    assert "0 is road, and 1 is background" in found.message
