"""Published medical and material sets: DRIVE, CHASE_DB1, ISIC, CoNSeP, CrackForest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat
from trees import make_image, mask, write

from segwright.core.errors import FormatError, LabelError
from segwright.data.dataset import open_dataset


def named(data: Any) -> list[str]:
    got = next(m for m in map(data.all.read_mask, range(len(data))) if m is not None)
    names = [*data.label_space.names]
    return list(dict.fromkeys("ignored" if v == 255 else names[v] for v in got[0].tolist()))


def drive(root: Path) -> None:
    for part, first in (("training", 21), ("test", 1)):
        for n in (f"{first + i:02d}" for i in range(3)):
            make_image(root / f"{part}/images/{n}_{part}.png", seed=int(n))
            mask(root / f"{part}/mask/{n}_{part}_mask.png", [0, 255, 0])
            mask(root / f"{part}/1st_manual/{n}_manual1.png", [255, 0, 255, 0])
            if part == "test":
                mask(root / f"{part}/2nd_manual/{n}_manual2.png", [0, 255])


def test_drive_reads_the_first_observer_and_never_the_field_of_view(tmp_path: Path) -> None:
    drive(tmp_path)
    data = open_dataset(tmp_path)
    assert data.format == "drive"
    assert {r.mask_path.parent.name for r in data.records if r.mask_path} == {"1st_manual"}
    assert {name: len(records) for name, records in data.given.items()} == {"train": 3, "test": 3}
    assert any("second observer" in note and "field of view (6)" in note for note in data.notes)


def test_drive_as_its_test_part_was_published_for_a_time(tmp_path: Path) -> None:
    drive(tmp_path)
    for folder in ("test/1st_manual", "test/2nd_manual"):
        for path in (tmp_path / folder).iterdir():
            path.unlink()
    data = open_dataset(tmp_path)
    assert [r.mask_path for r in data.given["test"]] == [None, None, None] and not data.problems


def chase(root: Path, observers: tuple[str, ...]) -> None:
    for i in range(1, 3):
        for eye in "LR":
            make_image(root / f"Image_{i:02d}{eye}.jpg", seed=i)
            for who in observers:
                mask(root / f"Image_{i:02d}{eye}_{who}.png", [0, 255])


def test_chase_with_two_observers_is_refused_with_both(tmp_path: Path) -> None:
    chase(tmp_path, ("1stHO", "2ndHO"))
    with pytest.raises(FormatError) as caught:
        open_dataset(tmp_path)
    for word in ("several masks per image", "1stHO.png (4)", "2ndHO.png (4)", "--masks"):
        assert word in str(caught.value)
    data = open_dataset(tmp_path, images="*.jpg", masks="*_2ndHO.png")
    assert len(data) == 4 and all(r.mask_path and r.mask_path.stem.endswith("2ndHO") for r in data.records)


@pytest.mark.parametrize("who", ["1stHO", "2ndHO"])
def test_chase_with_one_observer_opens(tmp_path: Path, who: str) -> None:
    chase(tmp_path, (who,))
    data = open_dataset(tmp_path)
    assert data.format == "chase_db1" and len(data) == 4 and named(data) == ["background", "foreground"]


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("ISIC2018_Task1-2_{}_Input", "ISIC2018_Task1_{}_GroundTruth"),
        ("ISIC-2017_{}_Data", "ISIC-2017_{}_Part1_GroundTruth"),
        ("ISBI2016_ISIC_Part1_{}_Data", "ISBI2016_ISIC_Part1_{}_GroundTruth"),
    ],
)
def test_isic(tmp_path: Path, images: str, masks: str) -> None:
    for part, first in (("Training", 0), ("Validation", 10), ("Test", 20)):
        for i in range(first, first + 3):
            make_image(tmp_path / f"{images.format(part)}/ISIC_{i:07d}.jpg", seed=i)
            mask(tmp_path / f"{images.format(part)}/ISIC_{i:07d}_superpixels.png", [1, 2, 3])
            mask(tmp_path / f"{masks.format(part)}/ISIC_{i:07d}_segmentation.png", [0, 255])
            mask(tmp_path / f"ISIC2018_Task2_{part}_GroundTruth_v3/ISIC_{i:07d}_attribute_globules.png", [0, 255])
    data = open_dataset(tmp_path)
    assert data.format == "isic" and named(data) == ["background", "foreground"]
    assert {name: len(records) for name, records in data.given.items()} == {"train": 3, "val": 3, "test": 3}
    assert any("superpixels (9)" in note and "attributes" in note for note in data.notes)


def consep(root: Path, classes: list[int]) -> None:
    for part in ("Train", "Test"):
        for i in range(1, 4):
            make_image(root / f"{part}/Images/{part.lower()}_{i}.png", seed=i)
            make_image(root / f"{part}/Overlay/{part.lower()}_{i}.png", seed=i)
            values = np.array(classes, float)[np.arange(16) * len(classes) // 16][None].repeat(12, axis=0)
            path = root / f"{part}/Labels/{part.lower()}_{i}.mat"
            path.parent.mkdir(parents=True, exist_ok=True)
            savemat(path, {"inst_map": values * 3, "type_map": values, "inst_type": [[1.0]]})


def test_consep_reads_the_types_of_nuclei(tmp_path: Path) -> None:
    consep(tmp_path, [0, 2, 7])
    data = open_dataset(tmp_path)
    assert data.format == "consep" and named(data) == ["background", "inflammatory", "endothelial"]
    assert {name: len(records) for name, records in data.given.items()} == {"train": 3, "test": 3}


def test_nuclei_without_types(tmp_path: Path) -> None:
    consep(tmp_path, [0, 2])
    for path in tmp_path.rglob("*.mat"):
        savemat(path, {"inst_map": np.repeat(np.arange(16.0)[None], 12, axis=0)})
    assert named(open_dataset(tmp_path)) == ["background", "nucleus"]


def test_a_damaged_matlab_file_is_named(tmp_path: Path) -> None:
    consep(tmp_path, [0, 2])
    write(tmp_path / "Test/Labels/test_1.mat", "no MATLAB")
    savemat(tmp_path / "Test/Labels/test_2.mat", {"type_map": np.full((12, 16), 0.5)})
    data = open_dataset(tmp_path)
    by_id = {record.id: i for i, record in enumerate(data.records)}
    with pytest.raises(LabelError, match=r"test_1\.mat"):
        data.all.read_mask(by_id["test_1"])
    with pytest.raises(LabelError, match="whole numbers"):
        data.all.read_mask(by_id["test_2"])


def test_crackforest(tmp_path: Path) -> None:
    for i in range(1, 4):
        make_image(tmp_path / f"image/{i:03d}.jpg", seed=i)
        values = np.ones((12, 16), np.uint8)
        values[:, 8:] = 2
        (tmp_path / "groundTruth").mkdir(exist_ok=True)
        savemat(tmp_path / f"groundTruth/{i:03d}.mat", {"groundTruth": {"Segmentation": values, "Boundaries": values}})
    data = open_dataset(tmp_path)
    assert data.format == "crackforest" and named(data) == ["background", "crack"]
    savemat(tmp_path / "groundTruth/001.mat", {"groundTruth": {"Boundaries": values}})
    with pytest.raises(LabelError, match=r"groundTruth\.Segmentation"):
        open_dataset(tmp_path).all.read_mask(0)


def test_other_matlab_masks_in_folders_of_these_names_are_left_to_other_formats(tmp_path: Path) -> None:
    for folders in (("Images", "Labels"), ("image", "groundTruth")):
        root = tmp_path / folders[0]
        for i in range(1, 4):
            make_image(root / f"{folders[0]}/{i:03d}.jpg", seed=i)
            (root / folders[1]).mkdir(exist_ok=True)
            savemat(root / f"{folders[1]}/{i:03d}.mat", {"mask": np.eye(12, 16, dtype=np.uint8)})
        try:
            assert open_dataset(root).format not in ("consep", "crackforest")
        except FormatError as error:
            assert "CrackForest" not in error.message and "CoNSeP" not in error.message
