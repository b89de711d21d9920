"""Which mask belongs to which image: names within names, content, several candidates, split lists, arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from trees import colored, make_image, mask, write

from segwright.core.errors import FormatError, ImageReadError, LabelError
from segwright.data.dataset import Dataset, open_dataset


def kinds(data: Dataset) -> list[str]:
    return [problem.kind for problem in data.problems]


def pairs(data: Dataset) -> set[tuple[str, str | None]]:
    root = data.root
    return {
        (str(r.image_path.relative_to(root)), None if r.mask_path is None else str(r.mask_path.relative_to(root)))
        for r in data.records
        if r.image_path is not None
    }


LAYOUTS = [
    "original_images/{n}.jpg label_images_semantic/{n}.png",
    "leftImg/{n}.png gtFine/{n}.png",
    "my_photos/{n}.jpg masks_machine/{n}.png",
    "2_Ortho_RGB/top_{n}_RGB.png 5_Labels_all/top_{n}_label.png",
    "rgb-images-256/{n}.png annotated_masks_256/{n}.png",
    "drone_frames_2021/{n}.jpg semantic_annotations_v2/{n}.png",
    "data/train_imgs_512/{n}.jpg data/train_seg_512/{n}.png",
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_words_within_folder_names(tmp_path: Path, layout: str) -> None:
    image, label = layout.split()
    for i in range(4):
        make_image(tmp_path / image.format(n=f"{i:03d}"), seed=i)
        mask(tmp_path / label.format(n=f"{i:03d}"), [0, i % 3, 1])
    data = open_dataset(tmp_path)
    assert pairs(data) == {(image.format(n=f"{i:03d}"), label.format(n=f"{i:03d}")) for i in range(4)}
    assert data.problems == []


def test_content_tells_masks_from_photos(tmp_path: Path) -> None:
    for i in range(4):
        make_image(tmp_path / f"alpha/{i}.png", size=(40, 40), seed=i)
        mask(tmp_path / f"beta/{i}.png", [0, i % 3, 1], size=(40, 40))
    data = open_dataset(tmp_path)
    assert pairs(data) == {(f"alpha/{i}.png", f"beta/{i}.png") for i in range(4)}
    assert kinds(data) == ["masks guessed"] and "beta" in data.problems[0].message
    for i in range(4):  # two folders of photos: nothing tells
        make_image(tmp_path / f"beta/{i}.png", size=(40, 40), seed=i)
    with pytest.raises(FormatError, match=r"alpha/ \(4 files") as error:
        open_dataset(tmp_path)
    assert "--images" in str(error.value) and "image,mask" in str(error.value)


def test_several_raters_are_refused_with_the_choice(tmp_path: Path) -> None:
    for part, first in (("training", 21), ("test", 1)):
        for i in range(3):
            number = f"{first + i:02d}"
            make_image(tmp_path / f"{part}/images/{number}_{part}.jpg", seed=i)
            mask(tmp_path / f"{part}/1st_manual/{number}_manual1.png", [0, 255, 0, 255])
            mask(tmp_path / f"{part}/2nd_manual/{number}_manual2.png", [0, 255, 255])
    with pytest.raises(FormatError, match="several folders could be the masks") as error:
        open_dataset(tmp_path, "folder")
    text = str(error.value)
    assert "*/1st_manual/* (6 masks for 6 images: values 0, 255)" in text and "*/2nd_manual/*" in text
    assert "--images '*/images/*' --masks '*/1st_manual/*'" in text and "CSV" in text


def test_index_and_color_versions_of_the_same_masks(tmp_path: Path) -> None:
    colors = [(0, 0, 0), (200, 0, 0), (0, 200, 0)]
    for i in range(4):
        make_image(tmp_path / f"images/{i}.jpg", seed=i)
        mask(tmp_path / f"masks_machine/{i}.png", [0, 1, 2])
        colored(tmp_path / f"masks_human/{i}.png", colors)
    data = open_dataset(tmp_path)
    assert pairs(data) == {(f"images/{i}.jpg", f"masks_machine/{i}.png") for i in range(4)}
    assert any("masks_human" in note and "same regions" in note for note in data.notes)
    colored(tmp_path / "masks_human/0.png", colors[::-1][:2])
    with pytest.raises(FormatError, match="several folders"):
        open_dataset(tmp_path)


def test_instances_beside_classes(tmp_path: Path) -> None:
    for i in range(4):
        make_image(tmp_path / f"images/{i}.jpg", seed=i)
        mask(tmp_path / f"labels/{i}.png", [0, 1, 1, 2])
        mask(tmp_path / f"instances/{i}.png", [0, 1, 2, 3])
    data = open_dataset(tmp_path)
    assert pairs(data) == {(f"images/{i}.jpg", f"labels/{i}.png") for i in range(4)}
    assert any("instances" in note for note in data.notes)


def test_equal_names_in_two_sites(tmp_path: Path) -> None:
    for site, values in (("siteA", [0, 1]), ("siteB", [0, 2])):
        for i in range(3):
            make_image(tmp_path / f"{site}/images/{i}.png", seed=i)
            mask(tmp_path / f"{site}/masks/{i}.png", values)
    write(tmp_path / "train.txt", "siteA/0.png\nsiteA/images/1.png\nsiteA/2\n")
    write(tmp_path / "val.txt", "siteB/images/0.png\n/other/disk/siteB/images/1.png\nsiteB/masks/2.png\n")
    data = open_dataset(tmp_path)
    assert {name: set(split.ids) for name, split in data.splits.items()} == {
        "train": {"siteA/images/0", "siteA/images/1", "siteA/images/2"},
        "val": {"siteB/images/0", "siteB/images/1", "siteB/images/2"},
    }
    assert data.problems == []
    write(tmp_path / "val.txt", "siteB/images/0.png\n1.png\nsiteC/2.png\nsiteB/1.png\n")
    data = open_dataset(tmp_path)
    assert len(data.val) == 2 and set(kinds(data)) == {"ambiguous in a list", "listed but missing"}
    ambiguous = next(problem for problem in data.problems if problem.kind == "ambiguous in a list")
    assert ambiguous.files == ("1.png",), "a name alone that two sites have"


def test_lists_win_over_folders_and_lone_images_make_no_split(tmp_path: Path) -> None:
    for i in range(6):
        make_image(tmp_path / f"images/{i}.png", seed=i)
        mask(tmp_path / f"masks/{i}.png", [0, 1])
    make_image(tmp_path / "out/validation/epoch-1.jpg")
    data = open_dataset(tmp_path)
    assert data.given == {} and {"train", "val"} <= set(data.splits) and len(data.val) == 1
    write(tmp_path / "train.txt", "0\n1\n2\n3\n")
    write(tmp_path / "val.txt", "4\n5\n")
    assert {n: s.ids for n, s in open_dataset(tmp_path).splits.items()} == {
        "train": ("0", "1", "2", "3"), "val": ("4", "5"),
    }  # fmt: skip
    for split, names in (("train", "abc"), ("val", "de")):  # folders say something else than the lists
        for name in names:
            make_image(tmp_path / f"set/{split}/images/{name}.png")
            mask(tmp_path / f"set/{split}/masks/{name}.png", [0, 1])
    write(tmp_path / "set/train.txt", "a\nd\n")
    write(tmp_path / "set/val.txt", "b\nc\ne\n")
    assert open_dataset(tmp_path / "set").train.ids == ("a", "d")
    write(tmp_path / "set/val.txt", "x\ny\nz\n")
    data = open_dataset(tmp_path / "set")
    assert "list not read" in kinds(data)


def test_a_list_of_millions_of_lines_for_a_few_images_is_not_searched(tmp_path: Path) -> None:
    for i in range(6):
        make_image(tmp_path / f"images/{i}.png", seed=i)
        mask(tmp_path / f"masks/{i}.png", [0, 1])
    write(tmp_path / "val.txt", "4\n5\n")
    write(tmp_path / "train.txt", "".join(f"b{i}\n" for i in range(150_000)))
    found = next(problem for problem in open_dataset(tmp_path).problems if problem.kind == "list not read")
    assert "more lines than any list" in found.message and found.files == (str(tmp_path / "train.txt"),)


def test_a_list_of_another_site_is_not_matched(tmp_path: Path) -> None:
    for i in range(4):
        make_image(tmp_path / f"siteB/images/{i}.png", seed=i)
        mask(tmp_path / f"siteB/masks/{i}.png", [0, 1])
    write(tmp_path / "train.txt", "siteB/0.png\nsiteB/1.png\nsiteA/2.png\n/home/me/project/3.png\n")
    data = open_dataset(tmp_path)
    assert set(data.given["train"]) == {data.records[0], data.records[1], data.records[3]}
    assert set(kinds(data)) == {"listed but missing", "matched by name alone"}


def test_masks_as_arrays(tmp_path: Path) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    truth = mask(tmp_path / "unused.png", [0, 1, 2], size=(12, 16))
    (tmp_path / "unused.png").unlink()
    for i in range(3):
        for part in ("npy", "npz", "mat", "hover"):
            make_image(tmp_path / f"{part}/images/{i}.jpg", seed=i)
            (tmp_path / part / "truth").mkdir(exist_ok=True)
        np.save(tmp_path / f"npy/truth/{i}.npy", np.asfortranarray(truth.astype(np.int64)))
        np.savez_compressed(tmp_path / f"npz/truth/{i}.npz", mask=truth, weights=np.ones((3,)))
        inner = {"Segmentation": truth + 1, "Boundaries": truth > 1}
        scipy_io.savemat(tmp_path / f"mat/truth/{i}.mat", {"groundTruth": inner}, do_compression=bool(i))
        arrays = {"inst_map": truth.astype(np.int32) * 7, "type_map": truth.astype(float), "inst_type": np.ones((4, 1))}
        scipy_io.savemat(tmp_path / f"hover/truth/{i}.mat", arrays)
    for part, shift in (("npy", 0), ("npz", 0), ("mat", 1), ("hover", 0)):
        data = open_dataset(tmp_path / part)
        assert data.format == "folder" and np.array_equal(data.all.read_values(2), truth + shift), part
    scipy_io.savemat(tmp_path / "mat/truth/0.mat", {"a": truth, "b": truth})
    with pytest.raises(LabelError, match=r"which array is the mask is not certain(.|\n)*a \(12×16 uint8\), b"):
        open_dataset(tmp_path / "mat").all[0]
    (tmp_path / "mat/truth/0.mat").write_bytes(b"MATLAB 7.3 MAT-file, Platform" + b" " * 90 + b"\x89HDF\r\n")
    with pytest.raises(ImageReadError, match=r"version 7\.3"):
        open_dataset(tmp_path / "mat").all[0]


def test_hostile_arrays(tmp_path: Path) -> None:
    for i in range(3):
        make_image(tmp_path / f"images/{i}.jpg", seed=i)
        (tmp_path / "masks").mkdir(exist_ok=True)
        np.save(tmp_path / f"masks/{i}.npy", np.zeros((12, 16), np.uint8))
    data = open_dataset(tmp_path)
    np.save(tmp_path / "masks/0.npy", np.array([[{}] * 16] * 12, object), allow_pickle=True)
    with pytest.raises(ImageReadError, match="Python objects"):
        data.all[0]
    header = b"\x93NUMPY\x01\x00v\x00{'descr': '|u1', 'fortran_order': False, 'shape': (999999, 999999), }"
    (tmp_path / "masks/0.npy").write_bytes(header.ljust(127) + b"\n")
    with pytest.raises(ImageReadError, match="more memory than the limit"):
        data.all[0]
    (tmp_path / "masks/0.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00{'descr")
    with pytest.raises(ImageReadError, match="not a readable array"):
        data.all[0]
    np.save(tmp_path / "masks/0.npy", np.full((12, 16), 1.5))
    with pytest.raises(LabelError, match="no array is a label map"):
        data.all[0]


def test_two_published_trees_with_equal_names(tmp_path: Path) -> None:
    for site, values in (("a", [0, 1]), ("b", [0, 2])):
        make_image(tmp_path / f"voc/{site}/JPEGImages/1.jpg")
        mask(tmp_path / f"voc/{site}/SegmentationClass/1.png", values)
        write(tmp_path / f"voc/{site}/ImageSets/Segmentation/train.txt", "1\n")
        make_image(tmp_path / f"city/{site}/leftImg8bit/train/x/x_000000_000019_leftImg8bit.png")
        mask(tmp_path / f"city/{site}/gtFine/train/x/x_000000_000019_gtFine_labelIds.png", [7, 8 + values[1]])
        make_image(tmp_path / f"ade/{site}/images/training/ADE_train_00000001.jpg")
        mask(tmp_path / f"ade/{site}/annotations/training/ADE_train_00000001.png", values)
        make_image(tmp_path / f"camvid/{site}/raw/0001TP_006690.png")
        colored(tmp_path / f"camvid/{site}/labels/0001TP_006690_L.png", [(128, 128, 128), (64 * values[1], 0, 128)])
    for name, form in (("voc", "voc"), ("city", "cityscapes"), ("ade", "ade20k"), ("camvid", "camvid")):
        data = open_dataset(tmp_path / name)
        assert data.format == form and len(data) == 2 and len(set(data.all.ids)) == 2, name
        found = {(r.image_path.parts[len(tmp_path.parts) + 1], r.mask_path.parts[len(tmp_path.parts) + 1])
                 for r in data.records if r.image_path and r.mask_path}  # fmt: skip
        assert found == {("a", "a"), ("b", "b")}, name
        assert sum(map(len, data.given.values())) in (2, 0)


def test_lists_of_ids_and_of_other_headers(tmp_path: Path) -> None:
    for i in range(6):
        make_image(tmp_path / f"pics/s{i}.jpg", seed=i)
        mask(tmp_path / f"truth/m{i}.png", [0, 1, 2])
    lists = {
        "train.csv": "image,mask\n" + "".join(f"s{i},m{i}\n" for i in range(6)),
        "a.csv": ",Image Name,Mask Name\n" + "".join(f"{i},s{i}.jpg,m{i}.png\n" for i in range(6)),
        "b.csv": "img_file|seg_file\n" + "".join(f"pics/s{i}.jpg|truth/m{i}.png\n" for i in range(6)),
        "c.csv": "image;mask\r\n" + "".join(f"D:\\x\\pics\\s{i}.jpg;D:\\x\\truth\\m{i}.png\r\n" for i in range(6)),
    }
    for name, text in lists.items():
        (tmp_path / name).write_bytes(text.encode("utf-16" if name == "b.csv" else "utf-8-sig"))
        data = open_dataset(tmp_path)
        assert data.format == "pairs", name
        assert pairs(data) == {(f"pics/s{i}.jpg", f"truth/m{i}.png") for i in range(6)}, name
        (tmp_path / name).unlink()
    write(tmp_path / "train.csv", lists["train.csv"] + "s9,m9\n")
    data = open_dataset(tmp_path)
    assert any(p.kind == "listed but missing" and p.files == ("s9",) for p in data.problems)


def test_a_list_whose_images_are_half_copied(tmp_path: Path) -> None:
    rows = ["image,mask"]
    for cam in (1, 2):
        for i in range(3):
            mask(tmp_path / f"masks/cam{cam}/{i}.png", [0, cam])
            rows.append(f"images/cam{cam}/{i}.jpg,masks/cam{cam}/{i}.png")
            if cam == 2:
                make_image(tmp_path / f"images/cam{cam}/{i}.jpg", seed=i)
    write(tmp_path / "list.csv", "\n".join(rows))
    data = open_dataset(tmp_path)
    assert pairs(data) == {(f"images/cam2/{i}.jpg", f"masks/cam2/{i}.png") for i in range(3)}
    assert any("3" in p.message and p.severity != "note" for p in data.problems)


def test_other_peoples_tables_change_nothing(tmp_path: Path) -> None:
    for i in range(3):
        make_image(tmp_path / f"images/{i}.png", seed=i)
        mask(tmp_path / f"masks/{i}.png", [0, 1])
    before = open_dataset(tmp_path)
    write(tmp_path / "big.csv", "image,mask\n" + "x" * 200_000 + ",y\n")
    write(tmp_path / "quote.csv", 'a,b\n"unclosed,' + "z" * 200_000)
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00" * 101)
    write(tmp_path / "broken.yaml", "a: [b: {")
    write(tmp_path / "scores.tsv", "image\tscore\n0.png\t0.5\n")
    data = open_dataset(tmp_path)
    assert data.format == "folder" and data.problems == before.problems and data.notes == before.notes


@pytest.mark.parametrize("site", ["thermal", "pred"])
def test_a_site_with_masks_of_its_own_is_read_whatever_its_name(tmp_path: Path, site: str) -> None:
    for folder in ("day", site):
        for i in range(4):
            make_image(tmp_path / f"images/{folder}/{i}.jpg", seed=i + len(folder))
            mask(tmp_path / f"masks/{folder}/{i}.png", [0, 1, i % 3])
    data = open_dataset(tmp_path)
    assert data.format == "folder" and len(data) == 8 and not data.problems
    assert not any("not read" in note for note in data.notes)


def test_a_word_of_drawings_distinguishes_images(tmp_path: Path) -> None:
    for i in range(4):
        for camera in ("vis", "ir"):
            make_image(tmp_path / f"images/{i}_{camera}.jpg", seed=i + len(camera))
            mask(tmp_path / f"masks/{i}_{camera}.png", [0, 1, i % 3])
    data = open_dataset(tmp_path)
    assert pairs(data) == {(f"images/{i}_{c}.jpg", f"masks/{i}_{c}.png") for i in range(4) for c in ("vis", "ir")}
    assert not data.problems and not any("not read" in note for note in data.notes)


def test_what_is_read_is_not_named_as_unread(tmp_path: Path) -> None:
    for i in range(4):
        make_image(tmp_path / f"thermal/{i}.jpg", seed=i)
        mask(tmp_path / f"labels/{i}.png", [0, 1, i % 3])
    data = open_dataset(tmp_path)
    assert len(data) == 4 and not any("not read" in note for note in data.notes)
