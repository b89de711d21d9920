"""Datasets with two oddities at once, which were read wrong in silence or refused without need."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from trees import make_image, mask, write

from segwright.core.errors import LabelError
from segwright.data.dataset import open_dataset
from segwright.data.records import Dataset
from segwright.imageio import write_mask

BOX = [2, 2, 10, 2, 10, 8, 2, 8]


def pairs(data: Dataset) -> dict[str, str]:
    return {r.image_path.stem: r.mask_path.stem for r in data.records if r.image_path and r.mask_path}


def coco(root: Path, names: list[str]) -> None:
    images = [{"id": i, "file_name": name, "height": 12, "width": 16} for i, name in enumerate(names)]
    objects = [
        {
            "id": i,
            "image_id": i,
            "category_id": 1,
            "segmentation": [BOX],
            "bbox": [2, 2, 8, 6],
            "area": 48,
            "iscrowd": 0,
        }
        for i in range(len(names))
    ]
    write(root / "coco.json", {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "cat"}]})


@pytest.mark.parametrize("folder", ["", "images/"])
def test_one_coco_json_of_images_in_folders_of_splits(tmp_path: Path, folder: str) -> None:
    names = ["train/0.jpg", "train/1.jpg", "val/0.jpg"]
    for i, name in enumerate(names):
        make_image(tmp_path / folder / name, seed=i)
    coco(tmp_path, names)
    given = open_dataset(tmp_path).given
    folders = {split: [r.image_path.parent.name for r in found if r.image_path] for split, found in given.items()}
    assert folders == {"train": ["train", "train"], "val": ["val"]}


def test_one_image_outside_the_folders_of_splits_leaves_them_alone(tmp_path: Path) -> None:
    names = ["train/0.jpg", "val/1.jpg", "2.jpg"]
    for i, name in enumerate(names):
        make_image(tmp_path / name, seed=i)
    coco(tmp_path, names)
    assert not open_dataset(tmp_path).given


@pytest.mark.parametrize("comment", ["#a/3.jpg b/m3.png", "# a/3.jpg b/m3.png", "# image mask\n# a/3.jpg b/m3.png"])
def test_pairs_taken_out_of_a_list_with_a_hash(tmp_path: Path, comment: str) -> None:
    for i in range(4):
        make_image(tmp_path / f"a/{i}.jpg", seed=i)
        mask(tmp_path / f"b/m{i}.png", [0, 1, 2])
    write(tmp_path / "pairs.txt", f"{comment}\n" + "".join(f"a/{i}.jpg b/m{i}.png\n" for i in range(3)))
    data = open_dataset(tmp_path)
    assert pairs(data) == {"0": "m0", "1": "m1", "2": "m2"}
    [found] = data.problems
    assert (found.kind, found.severity) == ("images not listed", "note") and found.files == (str(tmp_path / "a/3.jpg"),)


def test_pairs_whose_names_begin_with_a_hash(tmp_path: Path) -> None:
    for i in range(3):
        make_image(tmp_path / f"#a/{i}.jpg", seed=i)
        mask(tmp_path / f"b/m{i}.png", [0, 1, 2])
    write(tmp_path / "pairs.csv", "#image,mask\n" + "".join(f"#a/{i}.jpg,b/m{i}.png\n" for i in range(3)))
    assert pairs(open_dataset(tmp_path)) == {"0": "m0", "1": "m1", "2": "m2"}


@pytest.mark.parametrize("form", ["object", "columns", "splits", "lists"])
def test_pairs_that_contradict_the_numbers_in_the_names(tmp_path: Path, form: str) -> None:
    for i in range(4):
        make_image(tmp_path / f"a/{i}.jpg", seed=i)
        mask(tmp_path / f"b/m{i}.png", [0, 1, 2])
    images, masks = [f"a/{i}.jpg" for i in range(4)], [f"b/m{3 - i}.png" for i in range(4)]
    if form == "object":
        write(tmp_path / "pairs.json", dict(zip(images, masks, strict=True)))
    elif form == "columns":
        write(tmp_path / "pairs.json", {"images": images, "masks": masks})
    elif form == "splits":
        parts = {"train": {"images": images[:3], "masks": masks[:3]}, "val": {"images": images[3:], "masks": masks[3:]}}
        write(tmp_path / "pairs.json", parts)
    else:
        write(tmp_path / "all_images.txt", "\n".join(images))
        write(tmp_path / "all_masks.txt", "\n".join(masks))
    data = open_dataset(tmp_path)
    assert pairs(data) == {str(i): f"m{3 - i}" for i in range(4)}
    assert sorted(data.given) == (["train", "val"] if form == "splits" else [])


def test_two_lists_of_the_same_names_in_another_order_are_a_warning(tmp_path: Path) -> None:
    for i in range(4):
        make_image(tmp_path / f"images/{i}.jpg", seed=i)
        mask(tmp_path / f"masks/{i}.png", [0, 1, 2])
    write(tmp_path / "images.txt", "".join(f"images/{i}.jpg\n" for i in range(4)))
    write(tmp_path / "masks.txt", "".join(f"masks/{3 - i}.png\n" for i in range(4)))
    data = open_dataset(tmp_path)
    assert pairs(data) == {str(i): str(3 - i) for i in range(4)}
    assert ["another order" in p.message for p in data.problems] == [True]


TRAIN_IDS = "id,name,trainId\n0,void,255\n1,sky,0\n2,road,1\n3,car,2\n"


def test_a_void_first_and_masks_of_train_ids(tmp_path: Path) -> None:
    write(tmp_path / "classes.csv", TRAIN_IDS)
    for i in range(4):
        make_image(tmp_path / f"images/{i}.jpg", seed=i)
        mask(tmp_path / f"masks/{i}.png", [0, 1, 2, 255])
    data = open_dataset(tmp_path)
    found = data.all.read_mask(0)
    assert found is not None
    names = [data.label_space.names[value] if value < 255 else "" for value in found[0, ::4]]
    assert names == ["sky", "road", "car", ""]


def test_masks_that_could_be_ids_and_train_ids_are_a_warning(tmp_path: Path) -> None:
    write(tmp_path / "classes.csv", TRAIN_IDS)
    for i in range(4):
        make_image(tmp_path / f"images/{i}.jpg", seed=i)
        mask(tmp_path / f"masks/{i}.png", [0, 1, 2])
    warned = [p for p in open_dataset(tmp_path).problems if p.severity == "warning"]
    assert ["trainId" in p.message for p in warned] == [True]


def test_masks_that_were_spread_over_16_bits_in_part(tmp_path: Path) -> None:
    for i in range(4):
        make_image(tmp_path / f"images/{i}.jpg", seed=i)
        labels = mask(tmp_path / f"masks/{i}.png", [0, 1, 2])
        if i % 2:
            write_mask(tmp_path / f"masks/{i}.png", labels.astype(np.uint16) * 257)
    with pytest.raises(LabelError, match="times 257"):
        open_dataset(tmp_path)
    write(tmp_path / "classes.csv", "id,name\n0,sky\n1,cat\n2,dog\n257,cow\n514,hen\n")
    assert len(open_dataset(tmp_path).label_space.names) == 5


def test_masks_in_png_and_in_arrays(tmp_path: Path) -> None:
    for i in range(4):
        split = "train" if i < 2 else "val"
        make_image(tmp_path / f"{split}/images/{i}.jpg", seed=i)
        labels = mask(tmp_path / f"{split}/masks/{i}.png", [0, 1, 2])
        if split == "val":
            (tmp_path / f"{split}/masks/{i}.png").unlink()
            np.save(tmp_path / f"{split}/masks/{i}.npy", labels)
        np.save(tmp_path / f"{split}/{i}.npy", labels)  # of something else, in no folder of masks
    data = open_dataset(tmp_path)
    assert pairs(data) == {str(i): str(i) for i in range(4)} and not data.problems
    for i in range(4):
        found = data.all.read_mask(i)
        assert found is not None and np.unique(found).tolist() == [0, 1, 2]


def test_labelme_files_beside_masks_of_the_same_images(tmp_path: Path) -> None:
    shape = {"label": "cat", "points": [[2, 2], [9, 2], [9, 8]], "shape_type": "polygon"}
    for i in range(3):
        make_image(tmp_path / f"images/{i}.jpg", seed=i)
        mask(tmp_path / f"masks/{i}.png", [0, 1])
        facts = {"imagePath": f"{i}.jpg", "imageData": None, "imageHeight": 12, "imageWidth": 16}
        write(tmp_path / f"images/{i}.json", {"version": "5.0.1", "flags": {}, "shapes": [shape], **facts})
    data = open_dataset(tmp_path)
    assert data.format == "labelme" and len(data.records) == 3
    assert [p.kind for p in data.problems] == ["masks guessed"] and "3 files in masks" in data.problems[0].message
    assert open_dataset(tmp_path, format="folder").format == "folder"


@pytest.mark.parametrize("text", ["", "# nothing yet\n"])
def test_a_list_that_names_no_image(tmp_path: Path, text: str) -> None:
    for i in range(4):
        make_image(tmp_path / f"images/{i}.jpg", seed=i)
        mask(tmp_path / f"masks/{i}.png", [0, 1, 2])
    write(tmp_path / "train.txt", "".join(f"{i}\n" for i in range(4)))
    write(tmp_path / "val.txt", text)
    write(tmp_path / "test.txt", "")
    assert [p.message for p in open_dataset(tmp_path).problems] == ["val.txt names no image: there is no split val"]


def test_a_class_list_among_the_labels_of_yolo_that_differs_from_the_yaml(tmp_path: Path) -> None:
    for i in range(2):
        make_image(tmp_path / f"train/images/{i}.jpg", seed=i)
        write(tmp_path / f"train/labels/{i}.txt", f"{i} 0.1 0.1 0.6 0.1 0.6 0.6\n")
    write(tmp_path / "data.yaml", "names: [cat, dog]\n")
    write(tmp_path / "train/labels/classes.txt", "cat\ndog\n")
    assert not open_dataset(tmp_path).problems
    write(tmp_path / "train/labels/classes.txt", "dog\ncat\n")
    message = "data.yaml calls class 0 cat, train/labels/classes.txt dog: data.yaml is used"
    assert [p.message for p in open_dataset(tmp_path).problems] == [message]


def six(root: Path) -> None:
    for i in range(6):
        make_image(root / f"images/{i}.jpg", seed=i)
        mask(root / f"masks/{i}.png", [0, 1, 2])


def splits(data: Dataset) -> dict[str, list[str]]:
    return {split: [r.image_path.stem for r in found if r.image_path] for split, found in data.given.items()}


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("0,1,2\n", "4, 5"),
        ("images/0.jpg, images/1.jpg, images/2.jpg", "images/4.jpg,images/5.jpg"),
        ("['0.jpg', '1.jpg', '2.jpg']\n", '["4.jpg", "5.jpg"]\n'),
        ('"0.jpg"\n"1.jpg"\n"2.jpg"\n', "'4'\n'5'\n"),
        ("// train\n0\n1\n2\n//3\n", "; val\n4\n5\n"),
        ("images/0.jpg\n;images/3.jpg\nimages/1.jpg\nimages/2.jpg\n", "//images/3.jpg\nimages/4.jpg\nimages/5.jpg\n"),
        ("//server/share/0.jpg\n//server/share/1.jpg\n//server/share/2.jpg\n", "4\n5\n"),
    ],
)
def test_lists_in_one_line_with_quotes_and_with_comments(tmp_path: Path, train: str, val: str) -> None:
    six(tmp_path)
    write(tmp_path / "train.txt", train)
    write(tmp_path / "val.txt", val)
    data = open_dataset(tmp_path)
    assert splits(data) == {"train": ["0", "1", "2"], "val": ["4", "5"]}
    assert not [p for p in data.problems if p.severity != "note"]


@pytest.mark.parametrize("name", ["Oslo, {}", "site, block, {}"])
def test_a_list_of_one_name_with_commas(tmp_path: Path, name: str) -> None:
    for i in range(4):
        make_image(tmp_path / f"images/{name.format(i)}.jpg", seed=i)
        mask(tmp_path / f"masks/{name.format(i)}.png", [0, 1])
    write(tmp_path / "train.txt", "".join(f"{name.format(i)}\n" for i in range(3)))
    write(tmp_path / "val.txt", f"{name.format(3)}\n")
    assert splits(open_dataset(tmp_path))["val"] == [name.format(3)]


@pytest.mark.parametrize("name", ["exclude.txt", "bad_images.txt"])
def test_a_list_that_takes_images_out_is_a_warning(tmp_path: Path, name: str) -> None:
    six(tmp_path)
    write(tmp_path / name, "3.jpg\n4.jpg\n")
    assert [p.message for p in open_dataset(tmp_path).problems] == [
        f"{name} names 2 images, which are read all the same"
    ]
    write(tmp_path / name, "somebody's notes\n")
    assert not open_dataset(tmp_path).problems


def test_tables_of_splits_with_comments_and_in_another_language(tmp_path: Path) -> None:
    six(tmp_path)
    rows = "".join(f"{i}.jpg,{'train' if i < 4 else 'val'}\n" for i in range(6))
    for head in ("# by hand\nname,split\n", "# name,split\n"):
        write(tmp_path / "split.csv", head + rows)
        data = open_dataset(tmp_path)
        assert splits(data) == {"train": ["0", "1", "2", "3"], "val": ["4", "5"]} and not data.problems
    write(tmp_path / "split.csv", "Datei;Teil\n" + "".join(f"{i}.jpg;Lernen\n" for i in range(6)))
    assert ["split.csv is not used" in p.message for p in open_dataset(tmp_path).problems] == [True]


def test_splits_that_a_coco_json_states_for_each_image(tmp_path: Path) -> None:
    names = [f"{i}.jpg" for i in range(3)]
    for i, name in enumerate(names):
        make_image(tmp_path / name, seed=i)
    coco(tmp_path, names)
    data = json.loads((tmp_path / "coco.json").read_text())
    for image, split in zip(data["images"], ["train", "train", "val"], strict=True):
        image["split"] = split
    write(tmp_path / "coco.json", data)
    assert splits(open_dataset(tmp_path)) == {"train": ["0", "1"], "val": ["2"]}


def test_previews_in_a_json_are_no_masks(tmp_path: Path) -> None:
    six(tmp_path)
    for i in range(6):
        make_image(tmp_path / f"thumbs/{i}.png", seed=i)
    write(tmp_path / "thumbs.json", {f"{i}.jpg": f"thumbs/{i}.png" for i in range(6)})
    data = open_dataset(tmp_path)
    assert data.format == "folder" and pairs(data) == {str(i): str(i) for i in range(6)}


def test_a_drawing_of_a_mask_beside_it(tmp_path: Path) -> None:
    for i in range(4):
        make_image(tmp_path / f"{i}.jpg", seed=i)
        mask(tmp_path / f"{i}_mask.png", [0, 1, 2])
        make_image(tmp_path / f"{i}_mask_vis.png", seed=i)
    data = open_dataset(tmp_path)
    assert pairs(data) == {str(i): f"{i}_mask" for i in range(4)} and not data.problems


@pytest.mark.parametrize(("address", "severity"), [("/data/upload/3/{}.jpg", "note"), ("/photos/3/{}.jpg", "warning")])
def test_uploads_of_label_studio_are_expected_elsewhere(tmp_path: Path, address: str, severity: str) -> None:
    outline = {"points": [[10, 10], [60, 10], [60, 60]], "polygonlabels": ["cat"]}
    shape = {"type": "polygonlabels", "original_width": 16, "original_height": 12, "value": outline}
    facts = {"id": "a", "from_name": "label", "to_name": "image", "image_rotation": 0}
    for i in range(2):
        make_image(tmp_path / f"images/{i}.jpg", seed=i)
    tasks = [
        {"id": i, "data": {"image": address.format(i)}, "annotations": [{"id": i, "result": [{**shape, **facts}]}]}
        for i in range(2)
    ]
    write(tmp_path / "project.json", tasks)
    problems = open_dataset(tmp_path).problems
    assert [(p.kind, p.severity) for p in problems] == [("file found by a looser match", severity)]
