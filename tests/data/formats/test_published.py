"""The published datasets of files: recognized without a flag, read with their own conventions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from trees import SHARED, colored, make_image, mask, write

from segwright.core.errors import DataError, FormatError, LabelError, UsageError
from segwright.data.dataset import detect_format, open_dataset
from segwright.data.formats import FORMATS
from segwright.data.formats import camvid as camvid_format
from segwright.data.formats.voc import voc_colors
from segwright.imageio import write_image, write_mask


def values(dataset: object, identity: str) -> list[int]:
    """The classes of a record's first row, stripe by stripe."""
    record = next(r for r in dataset.records if r.id == identity)
    row = dataset.reader.mask(record)[0].tolist()
    return [value for i, value in enumerate(row) if i == 0 or value != row[i - 1]]


def voc_tree(base: Path) -> None:
    for i, name in enumerate(("2007_000032", "2007_000039", "2011_000003")):
        make_image(base / "JPEGImages" / f"{name}.jpg", seed=i)
        mask(base / "SegmentationClass" / f"{name}.png", [0, 15, 255, 20])
    make_image(base / "JPEGImages" / "2008_000001.jpg")  # no segmentation, as most of VOC
    lists = base / "ImageSets" / "Segmentation"
    write(lists / "train.txt", "2007_000032\n2007_000039\n")
    write(lists / "val.txt", "2011_000003\n")
    write(lists / "trainval.txt", "2007_000032\n2007_000039\n2011_000003\n")


@pytest.mark.parametrize("base", ["", "VOC2012", "VOCdevkit/VOC2012"])
def test_voc(tmp_path: Path, base: str) -> None:
    voc_tree(tmp_path / base)
    data = open_dataset(tmp_path)
    assert data.format == "voc" and len(data.label_space) == 21 and data.problems == []
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 2, "val": 1, "trainval": 3}
    assert values(data, "2007_000032") == [0, 15, 255, 20]
    assert data.label_space.names[15] == "person" and data.label_space.colors[15] == (192, 128, 128)
    assert len(data) == 3 and data.train.ids == ("2007_000032", "2007_000039")


def test_voc_colors_as_rgb(tmp_path: Path) -> None:
    make_image(tmp_path / "JPEGImages/x.jpg")
    colored(tmp_path / "SegmentationClass/x.png", [(0, 0, 0), (128, 0, 0), (224, 224, 192), (0, 64, 128)])
    data = open_dataset(tmp_path)
    assert values(data, "x") == [0, 1, 255, 20]


def test_voc_with_sbd(tmp_path: Path) -> None:
    voc_tree(tmp_path)
    make_image(tmp_path / "JPEGImages/2010_000009.jpg")
    mask(tmp_path / "SegmentationClassAug/2010_000009.png", [0, 3])
    mask(tmp_path / "SegmentationClassAug/2007_000032.png", [0, 15])
    write(tmp_path / "ImageSets/Segmentation/trainaug.txt",
          "/JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png\n2010_000009\n")  # fmt: skip
    data = open_dataset(tmp_path)
    assert data.splits["trainaug"].ids == ("2007_000032", "2010_000009")
    assert values(data, "2010_000009") == [0, 3]
    assert values(data, "2007_000032") == [0, 15, 255, 20], "the original mask, with its border, wins"


def test_sbd(tmp_path: Path) -> None:
    savemat = pytest.importorskip("scipy.io").savemat
    base = tmp_path / "benchmark_RELEASE/dataset"
    labels = np.zeros((12, 16), np.uint8)
    labels[:, 8:] = 7
    for name in ("2008_000002", "2008_000003"):
        make_image(base / "img" / f"{name}.jpg")
        (base / "cls").mkdir(exist_ok=True)
        savemat(base / "cls" / f"{name}.mat", {"GTcls": {"Segmentation": labels, "CategoriesPresent": [7]}})
    write(base / "train.txt", "2008_000002\n")
    write(base / "val.txt", "2008_000003\n")
    data = open_dataset(tmp_path)
    assert data.format == "sbd" and {k: len(v) for k, v in data.splits.items()} == {"train": 1, "val": 1}
    assert values(data, "2008_000002") == [0, 7]
    (base / "cls/2008_000003.mat").write_bytes(b"junk")
    with pytest.raises(LabelError, match=r"2008_000003\.mat"):
        data.val[0]


def test_cityscapes(tmp_path: Path) -> None:
    for split, city in (("train", "aachen"), ("val", "frankfurt"), ("test", "berlin")):
        name = f"{city}_000000_000019"
        make_image(tmp_path / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png")
        folder = tmp_path / "gtFine" / split / city
        mask(folder / f"{name}_gtFine_labelIds.png", [7, 0, 33, 23])
        mask(folder / f"{name}_gtFine_instanceIds.png", [7, 0, 33, 23])
        colored(folder / f"{name}_gtFine_color.png", [(128, 64, 128), (0, 0, 0)])
        write(folder / f"{name}_gtFine_polygons.json", {"objects": []})
    data = open_dataset(tmp_path)
    assert data.format == "cityscapes" and len(data.label_space) == 19 and data.problems == []
    assert values(data, "aachen_000000_000019") == [0, 255, 18, 10]
    assert data.test[0].mask is None, "the published test masks are dummies"
    assert "road  <- 7" in data.label_space.describe()[0]


def test_cityscapes_train_ids_and_coarse(tmp_path: Path) -> None:
    make_image(tmp_path / "leftImg8bit/train/ulm/ulm_000000_000019_leftImg8bit.png")
    mask(tmp_path / "gtFine/train/ulm/ulm_000000_000019_gtFine_labelTrainIds.png", [0, 255, 18])
    assert values(open_dataset(tmp_path), "ulm_000000_000019") == [0, 255, 18]
    make_image(tmp_path / "leftImg8bit/train_extra/bonn/bonn_000000_000019_leftImg8bit.png")
    mask(tmp_path / "gtCoarse/train_extra/bonn/bonn_000000_000019_gtCoarse_labelIds.png", [7, 4])
    assert values(open_dataset(tmp_path), "bonn_000000_000019") == [0, 255]


def test_ade20k(tmp_path: Path) -> None:
    base = tmp_path / "ADEChallengeData2016"
    for split, name in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001")):
        make_image(base / "images" / split / f"{name}.jpg")
        mask(base / "annotations" / split / f"{name}.png", [0, 1, 150])
    write(base / "objectInfo150.txt", "Idx\tRatio\n")
    data = open_dataset(tmp_path)
    assert data.format == "ade20k" and len(data.label_space) == 150 and data.label_space.names[149] == "flag"
    assert values(data, "ADE_train_00000001") == [255, 0, 149]
    assert set(data.splits) == {"train", "val"}


def test_kitti_road(tmp_path: Path) -> None:
    base = tmp_path / "data_road"
    for kind in ("um", "umm", "uu"):
        for i in range(2):
            make_image(base / f"training/image_2/{kind}_{i:06d}.png", seed=i)
            colored(base / f"training/gt_image_2/{kind}_road_{i:06d}.png", [(255, 0, 0), (255, 0, 255), (0, 0, 0)])
        make_image(base / f"testing/image_2/{kind}_000000.png")
    colored(base / "training/gt_image_2/um_lane_000000.png", [(255, 0, 0), (255, 0, 255)])
    data = open_dataset(tmp_path)
    assert data.format == "kitti_road" and data.label_space.names == ("background", "road")
    assert values(data, "um_000000") == [0, 1, 255]
    assert len(data) == 9 and len(set(data.all.ids)) == 9 and data.problems == []
    assert len(data.test) == 3 and data.test[0].mask is None
    assert len(data.train) + len(data.val) == 6, "val is taken from train, and said"
    assert any("taken from train" in note for note in data.notes)


def test_camvid_index(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        make_image(tmp_path / split / f"0001TP_00669{len(split)}.png")
        mask(tmp_path / f"{split}annot" / f"0001TP_00669{len(split)}.png", [0, 10, 11])
        write(tmp_path / f"{split}.txt", f"/SegNet/CamVid/{split}/x.png /SegNet/CamVid/{split}annot/x.png\n")
    data = open_dataset(tmp_path)
    assert data.format == "camvid" and len(data.label_space) == 11
    assert values(data, data.train.ids[0]) == [0, 10, 255]
    assert set(data.splits) == {"train", "val", "test"}


def test_camvid_colors(tmp_path: Path) -> None:
    table = [color for color, _ in camvid_format.COLORS.values()]
    for i in range(4):
        name = f"0016E5_{i:05d}"
        make_image(tmp_path / "701_StillsRaw_full" / f"{name}.png", size=(4, 64), seed=i)
        colored(tmp_path / "LabeledApproved_full" / f"{name}_L.png", table, size=(4, 64))
    data = open_dataset(tmp_path)
    assert data.format == "camvid" and len(camvid_format.COLORS) == 32 and len(set(table)) == 32
    names = [group for _, group in camvid_format.COLORS.values()]
    expected = [255 if name is None else list(camvid_format.CLASSES).index(name) for name in names]
    read = data.reader.mask(data.records[0])[0, ::2].tolist()
    assert read == expected
    mapping = dict(zip(camvid_format.COLORS, names, strict=True))
    assert (mapping["Truck_Bus"], mapping["LaneMkgsDriv"], mapping["Void"]) == ("car", "road", None)


@pytest.mark.skipif(not (SHARED / "camvid").exists(), reason="shared data not here")
def test_camvid_as_shared() -> None:
    data = open_dataset(SHARED / "camvid")
    assert data.format == "camvid" and len(data.train) == 367 and len(data.val) == 101 and data.problems == []
    sample = data.val[0]
    assert sample.image.shape == (360, 480, 3) and sample.mask is not None and sample.mask.max() == 255


@pytest.mark.skipif(not (SHARED / "membrane").exists(), reason="shared data not here")
def test_membrane_as_shared() -> None:
    data = open_dataset(SHARED / "membrane")
    assert data.format == "folder" and len(data) == 25 and data.all.ids[:3] == ("0", "1", "2")
    assert data.label_space.names == ("background", "foreground") and data.label_space.mapping == {0: 0, 255: 1}
    assert any("255 is foreground" in note for note in data.notes)
    assert set(np.unique(data.all[0].mask)) == {0, 1}


@pytest.mark.skipif(not (SHARED / "voc3").exists(), reason="shared data not here")
def test_one_truth_in_three_formats() -> None:
    """voc3 holds the same three images as VOC masks, labelme polygons and COCO polygons.

    VOC's masks were drawn from the labelme shapes by Pillow; ours are the same up to a pixel (Pillow's rounding has
    changed since). COCO's polygons are traced by another rule (pixel centers, no outline), which differs in 0.3 to
    0.7 % of the pixels, all in lines of under 4 px along the polygons' edges; and its JSON lacks what VOC ignores.
    """
    data = {name: open_dataset(SHARED / "voc3" / name) for name in ("voc", "labelme", "coco")}
    assert {name: d.format for name, d in data.items()} == {"voc": "voc", "labelme": "labelme", "coco": "coco"}
    assert len({d.label_space.names for d in data.values()}) == 1
    masks = {name: {s.id: s.mask for s in d} for name, d in data.items()}
    import cv2

    for identity, voc in masks["voc"].items():
        labelme, coco = masks["labelme"][identity], masks["coco"][identity]
        assert (voc != labelme).sum() <= 1
        counted = voc != 255
        differs = (voc != coco) & counted
        assert differs.sum() / counted.sum() < 0.007
        wide = cv2.erode(differs.astype(np.uint8), np.ones((4, 4), np.uint8))
        assert not wide.any(), "only lines differ: edges, and the slit between two polygons that share one"


def test_voc_palette() -> None:
    assert voc_colors()[:4] == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0))
    assert len(set(voc_colors(256))) == 256


def test_problems_are_recorded_and_the_rest_opens(tmp_path: Path) -> None:
    voc_tree(tmp_path)
    write(tmp_path / "ImageSets/Segmentation/val.txt", "2011_000003\n2012_999999\n")
    mask(tmp_path / "SegmentationClass/2009_000001.png", [0, 1])
    data = open_dataset(tmp_path)
    assert {problem.kind for problem in data.problems} == {"listed but missing", "mask without image"}
    assert data.unpaired_masks[0].name == "2009_000001.png"
    write_mask(tmp_path / "SegmentationClass/2011_000003.png", np.full((12, 16), 77, np.uint8))
    with pytest.raises(LabelError, match=r"2011_000003\.png(.|\n)*77"):
        open_dataset(tmp_path, format="voc").val[0]


def test_nothing_recognized(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no such file"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(FormatError, match="an empty folder") as error:
        open_dataset(tmp_path)
    assert f"one of {len(FORMATS)} layouts" in str(error.value) and "segwright datasets" in str(error.value)
    write(tmp_path / "readme.md", "x")
    make_image(tmp_path / "lonely.png")
    with pytest.raises(FormatError, match=r"1 × \.png"):
        open_dataset(tmp_path)
    with pytest.raises(UsageError, match="unknown data format"):
        open_dataset(tmp_path, format="tfrecord")


@pytest.mark.parametrize("name", list(FORMATS))
def test_a_named_format_that_does_not_fit(tmp_path: Path, name: str) -> None:
    make_image(tmp_path / "lonely.png")
    with pytest.raises(DataError):
        open_dataset(tmp_path, format=name)


def test_format_overrides_what_is_recognized(tmp_path: Path) -> None:
    make_image(tmp_path / "train/0001TP_1.png")
    mask(tmp_path / "trainannot/0001TP_1.png", [0, 1])
    assert detect_format(tmp_path)[0].name == "camvid"
    data = open_dataset(tmp_path, format="folder")
    assert data.format == "folder" and len(data.label_space) == 2


def test_absent_splits_are_said(tmp_path: Path) -> None:
    voc_tree(tmp_path)
    with pytest.raises(DataError, match="trainval"):
        _ = open_dataset(tmp_path).test


def test_sizes_that_differ(tmp_path: Path) -> None:
    voc_tree(tmp_path)
    write_image(tmp_path / "JPEGImages/2011_000003.jpg", np.zeros((5, 5, 3), np.uint8))
    with pytest.raises(LabelError, match="differ in size"):
        open_dataset(tmp_path).val[0]
