"""Folders beside images and masks that are neither, and errors that name the globs of a whole tree."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trees import make_image

from segwright.core.errors import FormatError
from segwright.data.check.runner import check_path
from segwright.data.dataset import open_dataset

SIZE = (40, 50)


def labels(path: Path, seed: int, *values: int) -> None:
    """Rectangles of these values on 0."""
    found = np.zeros(SIZE, np.uint8)
    for place, value in enumerate(values):
        found[4 + seed : 30, 4 + 16 * place : 16 + 16 * place] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(found).save(path)


@pytest.mark.parametrize("name", ["weights", "heatmaps", "leaf_visibility", "superpixels", "elevation"])
@pytest.mark.parametrize("place", ["{}", "{}/train", "train/{}"])
def test_a_folder_of_other_maps_is_no_folder_of_images(tmp_path: Path, name: str, place: str) -> None:
    for i in range(5):
        make_image(tmp_path / place.format("images") / f"{i}.png", size=SIZE, seed=i)
        labels(tmp_path / place.format("masks") / f"{i}.png", i, 1, 2)
        make_image(tmp_path / place.format(name) / f"{i}.png", size=SIZE, seed=50 + i)
    data = open_dataset(tmp_path)
    assert len(data.all.records) == 5 and all(record.mask_path for record in data.all.records)
    assert any("is not read" in note and name in note for note in data.notes)
    assert not check_path(tmp_path, workers=0).warnings


def test_a_folder_of_its_own_images_stays(tmp_path: Path) -> None:
    """Others than images/, by their names or because they are a split."""
    for folder, first in (("images", 0), ("extra", 20), ("test", 0)):
        for i in range(first, first + 4):
            make_image(tmp_path / folder / f"{i}.png", size=SIZE, seed=i + len(folder))
    for i in range(4):
        labels(tmp_path / f"masks/{i}.png", i, 1, 2)
    data = open_dataset(tmp_path)
    assert len(data.all.records) == 12 and sum(record.labeled for record in data.all.records) == 4


def test_a_folder_without_a_class_among_folders_of_classes_is_a_warning(tmp_path: Path) -> None:
    """Agriculture-Vision's masks/ is the valid area, labels/ holds a folder per class."""
    for i in range(4):
        make_image(tmp_path / f"images/{i}.png", size=SIZE, seed=i)
        labels(tmp_path / f"masks/{i}.png", 0, 255, 255, 255)
        labels(tmp_path / f"labels/water/{i}.png", i, 255)
        labels(tmp_path / f"labels/weeds/{i}.png", i, 0, 255)
    found = [p for p in check_path(tmp_path, workers=0).warnings if p.kind == "masks guessed"]
    assert len(found) == 1 and "masks name no class" in found[0].message


def chosen(error: FormatError) -> tuple[str, list[str]]:
    """The globs of the command in an error."""
    words = shlex.split(re.sub(r"; or write.*", "", error.fix or "").partition("segwright check ")[2])
    return words[words.index("--images") + 1], [words[i + 1] for i, word in enumerate(words) if word == "--masks"]


@pytest.mark.parametrize(("image", "truth"), [
    ("set/P{p}/P{p}_photo/P{p}.png", "set/P{p}/P{p}_lesion/P{p}_lesion.png"),
    ("drive_{p}/clip{p}/f{i}.png", "lanes_w16/drive_{p}/clip{p}/f{i}.png"),
    ("set_rgb/S{p}/clone/rgb/Cam_0/rgb_{i:03}.png", "set_classSeg/S{p}/clone/classSeg/Cam_0/classgt_{i:03}.png"),
    ("clear/fog{p}/x{i}{p}_rgb_anon.png", "truth/fog{p}/x{i}{p}_gt_labelIds.png"),
])  # fmt: skip
def test_globs_of_an_error_pair_the_whole_tree(tmp_path: Path, image: str, truth: str) -> None:
    """A command for the first patient, scene or drive alone would read a part of the data."""
    pairs = {(image.format(p=p, i=i), truth.format(p=p, i=i)) for p in (2, 4, 7) for i in range(2)}
    for i, (one, other) in enumerate(sorted(pairs)):
        make_image(tmp_path / one, size=SIZE, seed=i)
        labels(tmp_path / other, i % 8, 1, 2)
    try:
        data = open_dataset(tmp_path)
    except FormatError as error:
        images, masks = chosen(error)
        data = open_dataset(tmp_path, images=images, masks=masks[0])
    found = {(str(r.image_path), str(r.mask_path)) for r in data.all.records}
    assert found == {(str(tmp_path / one), str(tmp_path / other)) for one, other in pairs}


def test_an_error_names_every_kind_of_mask_that_pairs(tmp_path: Path) -> None:
    for i in range(4):
        make_image(tmp_path / f"rgb_anon/fog/a{i}_rgb_anon.png", size=SIZE, seed=i)
        for ending in ("invGray", "labelIds", "labelColor"):
            labels(tmp_path / f"gt/fog/a{i}_gt_{ending}.png", i, 1, 2)
    with pytest.raises(FormatError) as raised:
        open_dataset(tmp_path)
    images, masks = chosen(raised.value)
    assert images == "rgb_anon/fog/*_rgb_anon.png"
    assert {mask.rpartition("_")[2] for mask in masks} == {"labelIds.png", "labelColor.png", "invGray.png"}


def test_masks_of_several_kinds_in_one_folder_are_refused(tmp_path: Path) -> None:
    """The Pixel Annotation Tool's: the markers, the classes and their colors. Two of three were images."""
    for i in range(5):
        make_image(tmp_path / f"IMG_{i}.jpg", size=SIZE, seed=i)
        for place, kind in enumerate(("mask", "watershed_mask", "color_mask")):
            labels(tmp_path / f"IMG_{i}_{kind}.png", i, 1 + place, 2)
    with pytest.raises(FormatError, match=r"color_mask, mask, watershed_mask"):
        open_dataset(tmp_path)
    data = open_dataset(tmp_path, images="*.jpg", masks="*_watershed_mask.png")
    assert len(data.all.records) == 5 and all(record.labeled for record in data.all.records)


@pytest.mark.parametrize("folder", ["all", "top/images", "Imgs"])
def test_a_mask_with_the_name_of_its_photo(tmp_path: Path, folder: str) -> None:
    """MSRA10K; a folder that is called images is none of photos alone."""
    for i in range(5):
        make_image(tmp_path / folder / f"p{i}.jpg", size=SIZE, seed=i)
        labels(tmp_path / folder / f"p{i}.png", i, 255)
    assert all(record.labeled for record in open_dataset(tmp_path).all.records)


def test_photos_in_two_endings_are_no_masks(tmp_path: Path) -> None:
    for i in range(5):
        make_image(tmp_path / f"images/p{i}.jpg", size=SIZE, seed=i)
        make_image(tmp_path / f"images/p{i}.png", size=SIZE, seed=i)
    with pytest.raises(FormatError):
        open_dataset(tmp_path)


def test_copies_of_masks_under_a_second_name_are_left_out(tmp_path: Path) -> None:
    for i in range(5):
        make_image(tmp_path / f"images/{i}.png", size=SIZE, seed=i)
        labels(tmp_path / f"masks/{i}.png", i, 1, 2)
    for name, first in (("2 - Copy", 2), ("3 (1)", 3), ("4_copy", 4)):
        (tmp_path / f"masks/{name}.png").write_bytes((tmp_path / f"masks/{first}.png").read_bytes())
    data = open_dataset(tmp_path)
    assert len(data.all.records) == 5 and all(record.labeled for record in data.all.records)
    assert sum("is a copy of" in note for note in data.notes) == 3
    labels(tmp_path / "masks/2 - Copy.png", 7, 1)
    assert any("2 - Copy.png" in " ".join(p.files) for p in check_path(tmp_path, workers=0).problems)


def test_numbers_in_brackets_are_names(tmp_path: Path) -> None:
    for i in range(5):
        make_image(tmp_path / f"images/a ({i}).png", size=SIZE, seed=i)
        labels(tmp_path / f"masks/a ({i}).png", 0, 1, 2)
    labels(tmp_path / "masks/a.png", 0, 1, 2)
    assert len([record for record in open_dataset(tmp_path).all.records if record.labeled]) == 5


def test_the_choice_of_two_numberings_is_the_same_in_every_process(tmp_path: Path) -> None:
    """It followed the order of a set of names: CropAndWeed's 2 or 9 classes, by chance."""
    for i in range(5):
        make_image(tmp_path / f"images/{i}.png", size=SIZE, seed=i)
        labels(tmp_path / f"labelIds/CropOrWeed2/{i}.png", i, 1, 2)
        labels(tmp_path / f"labelIds/CropsOrWeed9/{i}.png", i, 3, 8)
    code = f"import segwright; print(segwright.open_dataset({str(tmp_path)!r}).notes)"
    found = set()
    for seed in (5, 6, 9, 10):  # two orders of a set of strings
        environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
        found.add(subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True).stdout)
    assert len(found) == 1
