"""Published sets from the air: ISPRS Potsdam and Vaihingen, iSAID, Semantic Drone, Dubai."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from trees import colored, make_image, mask, write

from segwright.core.errors import FormatError, LabelError
from segwright.data.dataset import open_dataset

ISPRS = [(255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0)]
ORDER = ["impervious surface", "building", "low vegetation", "tree", "car", "clutter"]


def named(data: Any) -> list[str]:
    got = next(m for m in map(data.all.read_mask, range(len(data))) if m is not None)
    names = [*data.label_space.names]
    return list(dict.fromkeys("ignored" if v == 255 else names[v] for v in got[0].tolist()))


def tif(path: Path, colors: list[tuple[int, int, int]] | None = None, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    if colors is None:
        pixels = rng.integers(0, 256, (12, 24, 3), np.uint8)
    else:
        pixels = np.array(colors, np.uint8)[np.arange(24) * len(colors) // 24][None].repeat(12, axis=0)
    tifffile.imwrite(path, pixels)


def potsdam(root: Path) -> None:
    for i, tile in enumerate(("2_10", "2_11", "7_12", "3_13")):
        for kind in ("RGB", "IRRG"):
            tif(root / f"{2 if kind == 'RGB' else 3}_Ortho_{kind}/top_potsdam_{tile}_{kind}.tif", seed=i)
        tif(root / f"5_Labels_all/top_potsdam_{tile}_label.tif", ISPRS)
        tif(root / f"5_Labels_all_noBoundary/top_potsdam_{tile}_label_noBoundary.tif", [*ISPRS, (0, 0, 0)])


def test_potsdam_reads_the_rgb_tiles_and_names_what_it_leaves(tmp_path: Path) -> None:
    potsdam(tmp_path)
    data = open_dataset(tmp_path)
    assert data.format == "isprs_potsdam" and named(data) == ORDER
    assert {r.image_path.parent.name for r in data.records if r.image_path} == {"2_Ortho_RGB"}
    assert {name: len(records) for name, records in data.given.items()} == {"train": 3, "test": 1}
    assert any("IRRG (4)" in note and "noBoundary) (4)" in note for note in data.notes)


def test_the_eroded_masks_alone_have_ignored_outlines(tmp_path: Path) -> None:
    potsdam(tmp_path)
    for path in (tmp_path / "5_Labels_all").iterdir():
        path.unlink()
    assert named(open_dataset(tmp_path)) == [*ORDER, "ignored"]


def test_vaihingen_pairs_the_same_names_in_two_folders(tmp_path: Path) -> None:
    eroded = "ISPRS_semantic_labeling_Vaihingen_ground_truth_eroded_COMPLETE"
    for area in (1, 2, 30):
        tif(tmp_path / f"top/top_mosaic_09cm_area{area}.tif", seed=area)
        tif(tmp_path / f"gts_for_participants/top_mosaic_09cm_area{area}.tif", ISPRS)
        tif(tmp_path / f"{eroded}/top_mosaic_09cm_area{area}_noBoundary.tif", [*ISPRS, (0, 0, 0)])
    data = open_dataset(tmp_path)
    assert data.format == "isprs_vaihingen" and len(data) == 3 and named(data) == ORDER
    assert all(r.mask_path and r.mask_path.parent.name == "gts_for_participants" for r in data.records)
    assert {name: len(records) for name, records in data.given.items()} == {"train": 2, "test": 1}


def test_a_color_that_isprs_does_not_name_is_an_error_on_reading(tmp_path: Path) -> None:
    potsdam(tmp_path)
    tif(tmp_path / "5_Labels_all/top_potsdam_2_10_label.tif", [*ISPRS, (255, 252, 0)])
    data = open_dataset(tmp_path)
    with pytest.raises(LabelError, match="a color of no class"):
        data.all.read_mask(0)


@pytest.mark.parametrize("apart", [False, True])
def test_isaid_reads_the_colors_and_not_the_instances(tmp_path: Path, apart: bool) -> None:
    for part, first in (("train", 0), ("val", 10)):
        for i in range(first, first + 3):
            masks = f"{part}/Semantic_masks/images" if apart else f"{part}/images"
            make_image(tmp_path / f"{part}/images/P{i:04d}.png", seed=i)
            colored(tmp_path / f"{masks}/P{i:04d}_instance_color_RGB.png", [(0, 0, 0), (0, 0, 63), (0, 127, 255)])
            colored(tmp_path / f"{masks}/P{i:04d}_instance_id_RGB.png", [(0, 0, 0), (1, 0, 0), (2, 0, 0)])
    data = open_dataset(tmp_path)
    assert data.format == "isaid" and named(data) == ["background", "ship", "plane"]
    assert {name: len(records) for name, records in data.given.items()} == {"train": 3, "val": 3}
    assert not data.problems and any("instance ids (6)" in note for note in data.notes)


def test_isaid_cut_and_reduced_to_indices(tmp_path: Path) -> None:
    for i in range(3):
        name = f"P000{i}_0_896_0_896"
        make_image(tmp_path / f"img_dir/train/{name}.png", seed=i)
        mask(tmp_path / f"ann_dir/train/{name}_instance_color_RGB.png", [0, 1, 14])
    assert named(open_dataset(tmp_path)) == ["background", "ship", "plane"]


DUBAI = [(0x3C, 0x10, 0x98), (0x6E, 0xC1, 0xE4), (0x9B, 0x9B, 0x9B)]


def dubai(root: Path, colors: list[tuple[int, int, int]]) -> None:
    for tile in (1, 2):
        for i in range(1, 4):
            base = root / f"Semantic segmentation dataset/Tile {tile}"
            make_image(base / f"images/image_part_{i:03d}.jpg", seed=10 * tile + i)
            colored(base / f"masks/image_part_{i:03d}.png", colors)
    entries = [("Building", "#D0021B"), ("Road", "#DE597F"), ("Unlabeled", "#9B9B9B")]
    listed = {"classes": [{"title": n, "shape": "polygon", "color": c} for n, c in entries], "tags": []}
    write(root / "Semantic segmentation dataset/classes.json", listed)


def test_dubai_by_the_colors_that_its_masks_really_hold(tmp_path: Path) -> None:
    dubai(tmp_path, DUBAI)
    data = open_dataset(tmp_path)
    assert data.format == "dubai_aerial" and len(data) == 6 and named(data) == ["Building", "Road", "ignored"]
    assert any("are not used" in note for note in data.notes)


def test_dubai_with_a_class_list_that_fits(tmp_path: Path) -> None:
    dubai(tmp_path, [(0xD0, 0x02, 0x1B), (0xDE, 0x59, 0x7F)])
    data = open_dataset(tmp_path)
    assert named(data) == ["Building", "Road"]


def test_dubai_with_colors_that_nothing_names(tmp_path: Path) -> None:
    dubai(tmp_path, [(1, 2, 3), (4, 5, 6)])
    with pytest.raises(LabelError, match="#010203"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("form", ["indices", "colors", "both"])
def test_semantic_drone(tmp_path: Path, form: str) -> None:
    base = tmp_path / "dataset/semantic_drone_dataset"
    for i in range(3):
        make_image(base / f"original_images/{i:03d}.jpg", seed=i)
        if form != "colors":
            mask(base / f"label_images_semantic/{i:03d}.png", [0, 1, 2])
        if form != "indices":
            colored(tmp_path / f"RGB_color_image_masks/RGB_color_image_masks/{i:03d}.png",
                     [(0, 0, 0), (128, 64, 128), (130, 76, 0)])  # fmt: skip
    rows = "unlabeled, 0, 0, 0\npaved-area, 128, 64, 128\ndirt, 130, 76, 0\n"
    write(tmp_path / "class_dict_seg.csv", f"name, r, g, b\n{rows}")
    data = open_dataset(tmp_path)
    assert data.format == "semantic_drone" and named(data) == ["ignored", "paved-area", "dirt"]


def test_two_copies_of_potsdam_are_refused(tmp_path: Path) -> None:
    potsdam(tmp_path / "one")
    potsdam(tmp_path / "two")
    with pytest.raises(FormatError, match="two files claim one place"):
        open_dataset(tmp_path)
