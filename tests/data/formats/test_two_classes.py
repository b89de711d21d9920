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


@pytest.mark.parametrize(("name", "text"), [
    ("classes.txt", "0|ground\n1|crop\n2|weed\n"),
    ("masks/class_mapping.csv", "class_name,class_color\nground,0\ncrop,1\nweed,2\n"),
    ("meta/gtruth_codes.tsv", "label\tGT_code\nweed\t2\nground\t0\ncrop\t1\n"),
    ("docs/classes.txt", "ground\ncrop\nweed\n"),
])  # fmt: skip
def test_lists_of_other_signs(tmp_path: Path, name: str, text: str) -> None:
    for i in range(6):
        make_image(tmp_path / f"images/{i}.jpg", size=(40, 50), seed=i)
        labels = np.zeros((40, 50), np.uint8)
        labels[8 + i : 30, 10:20], labels[5:20, 25:40] = 1, 2
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(labels).save(tmp_path / f"masks/{i}.png")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    data = open_dataset(tmp_path)
    found = data.all.read_mask(0)
    assert found is not None
    places = ((0, 0), (20, 15), (10, 30))
    assert [data.label_space.names[found[place]] for place in places] == ["ground", "crop", "weed"]


def test_a_list_of_other_files_aside_is_none(tmp_path: Path) -> None:
    binary(tmp_path, 1)
    for name, text in (("splits/labels.txt", "1\n2\n3\n"), ("code/config.json", '{"epochs": 0, "workers": 1}')):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert open_dataset(tmp_path).label_space.names == ("background", "foreground")


def test_a_list_of_fewer_names_than_colors_is_named(tmp_path: Path) -> None:
    """Three classes in the three channels overlap: seven colors, and the list was passed over in silence."""
    for i in range(6):
        make_image(tmp_path / f"images/{i}.jpg", size=(40, 50), seed=i)
        labels = np.zeros((40, 50, 3), np.uint8)
        labels[5 + i : 30, 5:30, 0], labels[10:36, 20:45, 1], labels[20:25, :, 2] = 255, 255, 255
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(labels).save(tmp_path / f"masks/{i}.png")
    (tmp_path / "classes.txt").write_text("cat\ndog\nshadow\n")
    [found] = [p for p in check_path(tmp_path, workers=0).warnings if p.kind == "class list not read"]
    assert "each channel may be a class" in found.message


def test_a_row_per_image_is_no_class_list(tmp_path: Path) -> None:
    """DAGM's Labels.txt of two folders contradicted each other as class lists."""
    for part, first in (("Train", 0), ("Test", 10)):
        rows = "1\n"
        for i in range(first, first + 4):
            make_image(tmp_path / f"{part}/{i:04d}.PNG", size=(40, 50), seed=i)
            labels = np.zeros((40, 50), np.uint8)
            labels[8 : 20 + i, 10:30] = 255
            (tmp_path / f"{part}/Label").mkdir(exist_ok=True)
            Image.fromarray(labels).save(tmp_path / f"{part}/Label/{i:04d}_label.PNG")
            rows += f"{i}\t1\t{i:04d}.PNG\t0\t{i:04d}_label.PNG\n"
        (tmp_path / f"{part}/Label/Labels.txt").write_text(rows)
    assert open_dataset(tmp_path).label_space.names == ("background", "foreground")
