"""nnU-Net's raw data and Roboflow's masks: their class lists, channels in files of their own, lists that disagree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trees import make_image, mask, write

from segwright.core.errors import DataError, FormatError, LabelError
from segwright.data.dataset import open_dataset


def nnunet(root: Path, labels: Any, channels: int = 0, values: list[int] | None = None) -> None:
    for i in range(3):
        if channels:
            for c in range(channels):
                mask(root / f"imagesTr/case_{i:03d}_{c:04d}.png", [10 * c, 10 * c + i])
        else:
            make_image(root / f"imagesTr/case_{i:03d}_0000.png", seed=i)
        mask(root / f"labelsTr/case_{i:03d}.png", values or [0, 1, 2])
        for c in range(max(channels, 1)):
            mask(root / f"imagesTs/test_{i:03d}_{c:04d}.png", [1, 2])
    write(
        root / "dataset.json", {"channel_names": {"0": "R"}, "labels": labels, "numTraining": 3, "file_ending": ".png"}
    )


@pytest.mark.parametrize(
    "labels",
    [{"background": 0, "dust": 1, "road": 2, "sky": 3}, {"0": "background", "1": "dust", "2": "road", "3": "sky"}],
)
def test_nnunets_labels_in_both_versions(tmp_path: Path, labels: Any) -> None:
    nnunet(tmp_path, labels)
    data = open_dataset(tmp_path)
    assert data.format == "nnunet" and data.label_space.names == ("background", "dust", "road", "sky")
    assert {name: len(records) for name, records in data.given.items()} == {"train": 3, "test": 3}
    assert data.records[0].mask_path == tmp_path / "labelsTr/case_000.png" and not data.problems


def test_channels_in_files_of_their_own_are_bands(tmp_path: Path) -> None:
    nnunet(tmp_path, {"background": 0, "a": 1, "b": 2}, channels=2)
    data = open_dataset(tmp_path)
    image = data.given["train"][2]
    pixels = data.reader.image(image)
    assert pixels.shape == (12, 16, 2) and pixels[0, 15].tolist() == [2, 12]
    assert [r.labeled for r in data.given["test"]] == [False] * 3 and not data.problems
    (tmp_path / "imagesTr/case_001_0001.png").unlink()
    with pytest.raises(FormatError, match="different numbers of channels"):
        open_dataset(tmp_path)


def test_a_colored_channel_file_is_an_error(tmp_path: Path) -> None:
    nnunet(tmp_path, {"background": 0, "a": 1, "b": 2}, channels=2)
    make_image(tmp_path / "imagesTr/case_000_0001.png")
    data = open_dataset(tmp_path)
    with pytest.raises(DataError, match="holds colors"):
        data.reader.image(data.given["train"][0])


def test_regions_and_the_ignore_label(tmp_path: Path) -> None:
    nnunet(tmp_path, {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}, values=[0, 1, 2, 3])
    data = open_dataset(tmp_path)
    assert data.label_space.names == ("background", "class 1", "core")
    found = data.reader.mask(data.given["train"][0])
    assert found is not None and np.unique(found).tolist() == [0, 1, 2, 255]
    assert any("whole is 1, 2" in note for note in data.notes)


@pytest.mark.parametrize("labels", [{"background": 0, "a": "x"}, {"background": 0, "a": 0}, [1, 2], {}])
def test_labels_that_are_none_are_named(tmp_path: Path, labels: Any) -> None:
    nnunet(tmp_path, labels)
    with pytest.raises(LabelError, match=r"dataset\.json"):
        open_dataset(tmp_path)


def roboflow(root: Path, lists: dict[str, str]) -> None:
    for part, text in lists.items():
        for i in range(3):
            make_image(root / f"{part}/{part}_{i}_jpg.rf.0a.jpg", seed=i)
            mask(root / f"{part}/{part}_{i}_jpg.rf.0a_mask.png", [0, 1, 2])
        write(root / part / "_classes.csv", f"Pixel Value, Class\n{text}")


def test_roboflows_masks_have_the_classes_of_their_list(tmp_path: Path) -> None:
    listed = "0, background\n1, crack\n2, hole\n3, patch\n"
    roboflow(tmp_path, dict.fromkeys(("train", "valid", "test"), listed))
    data = open_dataset(tmp_path)
    assert data.format == "roboflow_masks" and data.label_space.names == ("background", "crack", "hole", "patch")
    assert {name: len(records) for name, records in data.given.items()} == {"train": 3, "val": 3, "test": 3}
    assert open_dataset(tmp_path / "train").label_space.names[3] == "patch"


def test_roboflows_parts_whose_lists_differ_are_refused(tmp_path: Path) -> None:
    roboflow(tmp_path, {"train": "0, background\n1, crack\n2, hole\n", "valid": "0, background\n1, hole\n2, crack\n"})
    with pytest.raises(FormatError, match=r"value 1 is crack in .* and hole in"):
        open_dataset(tmp_path)
