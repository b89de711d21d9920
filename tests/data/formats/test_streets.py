"""Published sets of streets: Mapillary Vistas, BDD100K, KITTI semantics, CARLA, SYNTHIA, fastai's CamVid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from trees import make_image, mask, write

from segwright.core.errors import FormatError, LabelError
from segwright.data.dataset import open_dataset

HEIGHT, WIDTH = 12, 16


def named(data: Any) -> list[str]:
    """The class names of the first mask's first row, in their order, each once; "ignored" for 255."""
    got = next(m for m in map(data.all.read_mask, range(len(data))) if m is not None)
    names = [*data.label_space.names]
    return list(dict.fromkeys("ignored" if v == 255 else names[v] for v in got[0].tolist()))


def deep(path: Path, first: list[int], rest: int = 7) -> None:
    """16 bits, three channels, the first of which (red) holds the class."""
    columns = np.array(first)[np.arange(WIDTH) * len(first) // WIDTH]
    red = np.repeat(columns[None], HEIGHT, axis=0).astype(np.uint16)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.dstack([np.full_like(red, 0), np.full_like(red, rest), red]))


def vistas(root: Path, version: str, config: bool = True, folder: str | None = None) -> None:
    for part, count in (("training", 5), ("validation", 2)):
        for i in range(count):
            make_image(root / f"{part}/images/{part}{i}.jpg", seed=i)
            for kind in ("labels", "instances", "panoptic"):
                mask(root / f"{part}/{folder or f'v{version}'}/{kind}/{part}{i}.png", [0, 1, 2])
    if config:
        entries = [
            {"color": [i, 0, 0], "readable": name, "name": f"x--{name.lower()}", "evaluate": name != "Unlabeled"}
            for i, name in enumerate(("Bird", "Curb", "Unlabeled"))
        ]
        write(root / f"config_v{version}.json", {"labels": entries, "version": version})


@pytest.mark.parametrize("version", ["1.2", "2.0"])
def test_vistas_is_named_by_its_config(tmp_path: Path, version: str) -> None:
    vistas(tmp_path, version)
    data = open_dataset(tmp_path)
    assert data.format == f"mapillary_{version}"
    assert data.label_space.names == ("Bird", "Curb")
    assert named(data) == ["Bird", "Curb", "ignored"]
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 5, "val": 2}
    assert any("not read: instances (7), panoptic ids (7)" in note for note in data.notes)


def test_of_both_versions_of_vistas_one_is_read_and_the_other_named(tmp_path: Path) -> None:
    vistas(tmp_path, "1.2")
    vistas(tmp_path, "2.0")
    data = open_dataset(tmp_path)
    assert data.format == "mapillary_2.0" and any("--format mapillary_1.2" in note for note in data.notes)
    assert open_dataset(tmp_path, "mapillary_1.2").records[0].mask_path == (
        tmp_path / "training/v1.2/labels/training0.png"
    )


def test_vistas_without_its_config(tmp_path: Path) -> None:
    vistas(tmp_path / "a", "1.2", config=False)
    data = open_dataset(tmp_path / "a")
    assert data.label_space.names[:3] == ("Bird", "Ground Animal", "Curb") and len(data.label_space) == 65
    vistas(tmp_path / "b", "2.0", config=False)
    with pytest.raises(FormatError, match=r"config_v2\.0\.json"):
        open_dataset(tmp_path / "b")


def test_a_broken_config_of_vistas_is_named(tmp_path: Path) -> None:
    vistas(tmp_path, "1.2")
    write(tmp_path / "config_v1.2.json", {"labels": [{"readable": "Bird"}]})
    with pytest.raises(LabelError, match="class list of Mapillary Vistas"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("older", [False, True])
def test_bdd100k(tmp_path: Path, older: bool) -> None:
    images, masks, ending = ("seg/images", "seg/labels", "_train_id") if older else (
        "images/10k", "labels/sem_seg/masks", ""
    )  # fmt: skip
    for part in ("train", "val", "test"):
        for i in range(3):
            make_image(tmp_path / f"bdd100k/{images}/{part}/{part}{i}.jpg", seed=i)
            if part != "test":
                mask(tmp_path / f"bdd100k/{masks}/{part}/{part}{i}{ending}.png", [0, 13, 255])
                mask(tmp_path / f"bdd100k/labels/sem_seg/colormaps/{part}/{part}{i}.png", [0, 1])
    data = open_dataset(tmp_path)
    assert data.format == "bdd100k" and named(data) == ["road", "car", "ignored"]
    assert {name: len(records) for name, records in data.given.items()} == {"train": 3, "val": 3, "test": 3}
    assert not data.problems  # the test part has no masks, as published


def test_drivable_areas_are_a_format_of_their_own(tmp_path: Path) -> None:
    for i in range(3):
        make_image(tmp_path / f"images/100k/train/{i}.jpg", seed=i)
        mask(tmp_path / f"labels/drivable/masks/train/{i}.png", [0, 1, 2])
    data = open_dataset(tmp_path)
    assert data.format == "bdd100k_drivable" and named(data) == ["direct", "alternative", "background"]


def kitti(root: Path) -> None:
    for i in range(3):
        for part in ("training", "testing"):
            make_image(root / f"{part}/image_2/{i:06d}_10.png", seed=i)
        mask(root / f"training/semantic/{i:06d}_10.png", [7, 26, 1])
        mask(root / f"training/semantic_rgb/{i:06d}_10.png", [1, 2, 3])
        mask(root / f"training/instance/{i:06d}_10.png", [1, 2, 3])


def test_kitti_semantics_reads_the_label_ids(tmp_path: Path) -> None:
    kitti(tmp_path)
    data = open_dataset(tmp_path)
    assert data.format == "kitti_semantics" and named(data) == ["road", "car", "ignored"]
    assert {name: len(records) for name, records in data.given.items()} == {"train": 3, "test": 3}
    assert open_dataset(tmp_path / "training").format == "kitti_semantics"


def test_two_copies_of_a_published_set_are_refused(tmp_path: Path) -> None:
    kitti(tmp_path / "a")
    kitti(tmp_path / "b")
    with pytest.raises(FormatError, match="two files claim one place"):
        open_dataset(tmp_path)


def red(path: Path, values: list[int]) -> None:
    columns = np.array(values)[np.arange(WIDTH) * len(values) // WIDTH]
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[..., 2] = columns[None]
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels)


def test_carla_keeps_the_class_in_the_red_channel(tmp_path: Path) -> None:
    for place in ("dataA", "dataB"):
        for i in range(3):
            make_image(tmp_path / f"{place}/CameraRGB/{i}.png", seed=i)
            red(tmp_path / f"{place}/CameraSeg/{i}.png", [0, 7, 10])
    data = open_dataset(tmp_path)
    assert data.format == "carla" and len(data) == 6 and named(data) == ["none", "road", "vehicle"]
    assert any("before 0.9.10" in note for note in data.notes)
    for i in range(3):
        red(tmp_path / f"dataA/CameraSeg/{i}.png", [0, 7, 24])
    assert named(open_dataset(tmp_path)) == ["class 0", "class 7", "class 24"]  # which version counts so is not known


def test_synthia_keeps_class_and_instance_in_two_channels(tmp_path: Path) -> None:
    for i in range(3):
        make_image(tmp_path / f"RAND_CITYSCAPES/RGB/{i:07d}.png", seed=i)
        deep(tmp_path / f"RAND_CITYSCAPES/GT/LABELS/{i:07d}.png", [0, 3, 8], rest=100 + i)
        make_image(tmp_path / f"RAND_CITYSCAPES/GT/COLOR/{i:07d}.png", seed=i)
    data = open_dataset(tmp_path)
    assert data.format == "synthia" and named(data) == ["ignored", "road", "car"]


def test_synthia_sequences_stay_apart(tmp_path: Path) -> None:
    for i, sequence in enumerate(("SEQS-01", "SEQS-02")):
        for side in ("Omni_F", "Omni_R"):
            make_image(tmp_path / f"{sequence}/RGB/Stereo_Left/{side}/000001.png", seed=i)
            deep(tmp_path / f"{sequence}/GT/LABELS/Stereo_Left/{side}/000001.png", [3])
    data = open_dataset(tmp_path)
    assert len(data) == 4
    for record in data.records:
        assert str(record.mask_path) == str(record.image_path).replace("/RGB/", "/GT/LABELS/")


def test_fastai_camvid(tmp_path: Path) -> None:
    for i in range(5):
        make_image(tmp_path / f"images/0001TP_{i:06d}.png", seed=i)
        mask(tmp_path / f"labels/0001TP_{i:06d}_P.png", [0, 1, 2])
    write(tmp_path / "codes.txt", "Animal\nVoid\nRoad\n")
    write(tmp_path / "valid.txt", "0001TP_000003.png\n0001TP_000004.png\nnot_here.png\n")
    data = open_dataset(tmp_path)
    assert data.format == "camvid_fastai" and named(data) == ["Animal", "ignored", "Road"]
    assert [record.id for record in data.given["val"]] == ["0001TP_000003", "0001TP_000004"]
    assert any("1 of its images are not here" in note for note in data.notes)
