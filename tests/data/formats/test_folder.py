"""Plain folders: the layouts, what mask values are taken to mean, class lists, deep and many-banded images."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from trees import colored, make_image, mask, write

from segwright.core.errors import DataError, FormatError, ImageReadError, LabelError, UsageError
from segwright.data.dataset import open_dataset
from segwright.data.formats import FORMATS
from segwright.data.formats.file_tree import Tree
from segwright.data.formats.mask_histogram import spread_order
from segwright.data.formats.name_matching import describe_folder
from segwright.data.formats.stem_keys import words
from segwright.data.label_maps import read_class_list
from segwright.data.records import ValueRange
from segwright.imageio import write_image, write_mask

LAYOUTS = {  # image, mask; {s} a split, {n} a name
    "images/{n}.png masks/{n}.png": False,
    "img/{n}.jpg label/{n}.png": False,
    "image/{n}.png label/{n}.png": False,
    "IMAGES/{n}.JPG Masks/{n}.PNG": False,
    "x/{n}.png y/{n}.png": False,
    "input/{n}.png target/{n}.png": False,
    "{n}.jpg {n}_mask.png": False,
    "{n}.png {n}_L.png": False,
    "{n}_sat.jpg {n}_mask.png": False,
    "{n}.jpg {n}.png": False,
    "images/{n}.jpg masks/{n}_mask.png": False,
    "images/{n}.jpg masks/mask_{n}.png": False,
    "images/{n}_training.png 1st_manual/{n}_manual1.png": False,
    "images/scene/{n}.png masks/scene/{n}.png": False,
    "scene/images/{n}.png scene/masks/{n}.png": False,
    "images/{n}.jpg masks/{n}.jpg.png": False,
    "{s}/{n}.png {s}annot/{n}.png": True,
    "{s}/images/{n}.png {s}/masks/{n}.png": True,
    "images/{s}/{n}.jpg masks/{s}/{n}.png": True,
    "img_dir/{s}/{n}.jpg ann_dir/{s}/{n}.png": True,
    "{s}_images/{n}.jpg {s}_masks/{n}.png": True,
    "x_{s}/{n}.jpg y_{s}/{n}.png": True,
    "{s}/{n}.jpg {s}/{n}_mask.png": True,
    "images/{s}/{n}.jpg labels/{n}.png": True,
}


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_layouts(tmp_path: Path, layout: str) -> None:
    image, label = layout.split()
    for i, (split, name) in enumerate(itertools.product(("train", "val"), ("a1", "b 2", "ü.3"))):
        name = f"{name}{split[0]}"
        make_image(tmp_path / image.format(s=split, n=name), seed=i)
        mask(tmp_path / label.format(s=split, n=name), [0, i % 3])
    data = open_dataset(tmp_path)
    assert data.format == "folder" and len(data) == 6 and data.problems == []
    assert all(r.mask_path is not None for r in data.records) and len(set(data.all.ids)) == 6
    for record in data.records:
        assert record.image_path is not None and record.mask_path is not None
        key = next(n for n in ("a1t", "a1v", "b 2t", "b 2v", "ü.3t", "ü.3v") if n in record.image_path.name)
        assert key in record.mask_path.name, "the right mask"
    if LAYOUTS[layout]:
        assert {name: len(split) for name, split in data.splits.items()} == {"train": 3, "val": 3}


def test_folder_names() -> None:
    assert describe_folder("train") == (None, "train", "")
    assert describe_folder("trainannot") == ("mask", "train", "")
    assert describe_folder("labelsTr") == ("mask", "train", "") and describe_folder("imagesTs") == ("image", "test", "")
    assert describe_folder("validation/ground_truth/scene 1") == ("mask", "val", "scene 1")
    assert describe_folder("training/image_2") == ("image", "train", "")
    assert describe_folder("tree/texture") == (None, None, "tree/texture")
    assert words("img_012") == words("mask_012") == words("012.label") and words("img_012") != words("img_12")


def test_nnunet_channels(tmp_path: Path) -> None:
    for i in range(2):
        make_image(tmp_path / f"imagesTr/case_{i:03d}_0000.png", seed=i)
        mask(tmp_path / f"labelsTr/case_{i:03d}.png", [0, 1, 2])
    assert all(r.mask_path for r in open_dataset(tmp_path).records)


def test_lists_name_the_splits(tmp_path: Path) -> None:
    for i in range(6):
        make_image(tmp_path / f"images/{i}.png", seed=i)
        mask(tmp_path / f"masks/{i}.png", [0, 1])
    write(tmp_path / "train.txt", "images/0.png\n1\n/else/where/2.png masks/2.png\n3.png\n")
    write(tmp_path / "val.txt", "4\n5\n")
    assert {n: s.ids for n, s in open_dataset(tmp_path).splits.items()} == {
        "train": ("0", "1", "2", "3"), "val": ("4", "5"),
    }  # fmt: skip


def test_pairing_problems(tmp_path: Path) -> None:
    for name in ("a", "b", "lonely"):
        make_image(tmp_path / f"images/{name}.png")
    for name in ("a", "b", "orphan"):
        mask(tmp_path / f"masks/{name}.png", [0, 1])
    data = open_dataset(tmp_path)
    assert [p.name for p in data.unpaired_images] == ["lonely.png"]
    assert [p.name for p in data.unpaired_masks] == ["orphan.png"]
    assert {p.kind for p in data.problems} == {"image without mask", "mask without image"}
    assert len(data) == 3 and {s.id for s in data if s.mask is None} == {"lonely"}


def test_images_without_any_mask(tmp_path: Path) -> None:
    make_image(tmp_path / "images/a.png")
    with pytest.raises(FormatError):
        open_dataset(tmp_path)


def test_colliding_names(tmp_path: Path) -> None:
    make_image(tmp_path / "images/a.png")
    make_image(tmp_path / "images/a.jpg")
    make_image(tmp_path / "images/b.png")
    for name in ("a", "b"):
        mask(tmp_path / f"masks/{name}.png", [0, 1])
    data = open_dataset(tmp_path)
    assert [p.kind for p in data.problems] == ["names collide"] and len(data.problems[0].files) == 3
    assert len(set(data.all.ids)) == 3
    with pytest.raises(LabelError, match=r"a\.jpg") as error:
        list(data)
    assert "not certain" in str(error.value)


def test_names_that_collide_by_case(tmp_path: Path) -> None:
    make_image(tmp_path / "images/A.png")
    make_image(tmp_path / "images/a.png")
    mask(tmp_path / "masks/a.png", [0, 1])
    mask(tmp_path / "masks/A.png", [0, 1])
    data = open_dataset(tmp_path)
    assert set(data.all.ids) == {"A", "a"} and all(sample.mask is not None for sample in data)
    assert [p.kind for p in data.problems] == ["names collide"], "said, for other systems cannot hold both"


@pytest.mark.parametrize(
    ("values", "names", "mapping", "note"),
    [
        ([0, 255], ("background", "foreground"), {0: 0, 255: 1}, "255 is foreground"),
        ([0, 1], ("background", "foreground"), {0: 0, 1: 1, 255: 255}, "class indices 0 to 1"),
        ([0, 1, 2, 255], ("class 0", "class 1", "class 2"), {0: 0, 1: 1, 2: 2, 255: 255}, "255 is ignored"),
        (
            [0, 85, 170, 255],
            ("value 0", "value 85", "value 170", "value 255"),
            {0: 0, 85: 1, 170: 2, 255: 3},
            "gray lev",
        ),
        (  # 255 in a sixteenth of the pixels, and in a quarter
            [*[7] * 5, *[11] * 5, *[33] * 5, 255],
            ("value 7", "value 11", "value 33"),
            {7: 0, 11: 1, 33: 2, 255: 255},
            "255 is ignored",
        ),
        (
            [7, 11, 33, 255],
            ("value 7", "value 11", "value 33", "value 255"),
            {7: 0, 11: 1, 33: 2, 255: 3},
            "255, 25 % of the pixels, is a class as well",
        ),
        ([0, 128], ("background", "foreground"), {0: 0, 128: 1, 255: 255}, "each value a class"),
    ],
)
def test_what_values_mean(
    tmp_path: Path, values: list[int], names: tuple[str, ...], mapping: dict[int, int], note: str
) -> None:
    make_image(tmp_path / "images/a.png")
    labels = mask(tmp_path / "masks/a.png", values)
    data = open_dataset(tmp_path)
    assert data.label_space.names == names and dict(data.label_space.mapping) == mapping
    assert any(note in line for line in data.notes), data.notes
    assert np.array_equal(data.all.read_mask(0), np.vectorize(mapping.get)(labels))
    assert np.array_equal(data.all.read_values(0), labels)


def test_sixteen_bit_ids(tmp_path: Path) -> None:
    import cv2

    make_image(tmp_path / "images/a.png")
    labels = np.zeros((12, 16), np.uint16)
    labels[:, 5:], labels[:, 9:] = 1000, 40000
    (tmp_path / "masks").mkdir()
    cv2.imwrite(str(tmp_path / "masks/a.png"), labels)
    data = open_dataset(tmp_path)
    assert dict(data.label_space.mapping) == {0: 0, 1000: 1, 40000: 2, 255: 255}
    assert data.all.read_mask(0)[0].tolist() == [0] * 5 + [1] * 4 + [2] * 7
    cv2.imwrite(str(tmp_path / "masks/a.png"), np.arange(192, dtype=np.uint16).reshape(12, 16) * 100)
    with pytest.raises(LabelError, match="too many values"):
        open_dataset(tmp_path)


def test_palette_and_gray_rgb(tmp_path: Path) -> None:
    make_image(tmp_path / "images/a.png")
    labels = np.repeat(np.arange(4, dtype=np.uint8), 4)[None].repeat(12, 0)
    write_mask(tmp_path / "masks/a.png", labels, np.random.default_rng(0).integers(0, 256, (256, 3), dtype=np.uint8))
    assert np.array_equal(open_dataset(tmp_path).all.read_mask(0), labels), "a palette's colors do not matter"
    write_image(tmp_path / "masks/a.png", np.repeat(labels[..., None], 3, axis=2))
    data = open_dataset(tmp_path)
    assert np.array_equal(data.all.read_mask(0), labels)
    assert any("gray saved as RGB" in note for note in data.notes)


def test_colors_found_and_named(tmp_path: Path) -> None:
    colors = [(0, 0, 0), (255, 0, 0), (0, 128, 0)]
    make_image(tmp_path / "images/a.png")
    stripes = colored(tmp_path / "masks/a.png", colors)
    data = open_dataset(tmp_path)
    order = [data.label_space.colors.index(color) for color in colors]
    assert np.array_equal(data.all.read_mask(0), np.array(order)[stripes])
    assert data.label_space.names == ("#000000", "#008000", "#ff0000")
    write(tmp_path / "classes.csv", "name,r,g,b\nvoid,0,0,0\ncar,255,0,0\ntree,0,128,0\n")
    data = open_dataset(tmp_path)
    assert data.label_space.names == ("car", "tree") and data.label_space.colors == tuple(colors[1:])
    assert np.array_equal(data.all.read_mask(0), np.array([255, 0, 1])[stripes])
    colored(tmp_path / "masks/a.png", [*colors, (9, 9, 10)])
    data = open_dataset(tmp_path)
    assert any("#09090a" in note for note in data.notes)
    assert data.all.read_values(0).min() == -1
    with pytest.raises(LabelError, match="a color of no class"):
        data.all.read_mask(0)


def test_jpeg_masks(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    make_image(tmp_path / "images/a.png", size=(64, 64))
    labels = np.zeros((64, 64, 3), np.uint8)
    labels[20:45, 15:50] = 255
    write_image(tmp_path / "masks/a.jpg", labels, quality=80)
    data = open_dataset(tmp_path)
    assert [p.kind for p in data.problems] == ["anti-aliased masks"] and len(data.label_space) == 2
    assert (data.all.read_mask(0) != labels[..., 0] // 255).mean() < 0.002
    write_image(tmp_path / "masks/a.jpg", rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    with pytest.raises(LabelError, match="too many colors"):
        open_dataset(tmp_path)


def test_a_mask_of_another_coding(tmp_path: Path) -> None:
    for name in "abcdefgh":
        make_image(tmp_path / f"images/{name}.png")
        mask(tmp_path / f"masks/{name}.png", [0, 1])
    data = open_dataset(tmp_path)
    colored(tmp_path / "masks/h.png", [(1, 2, 3), (4, 5, 6)])
    with pytest.raises(LabelError, match=r"h\.png: the mask is color-coded"):
        data.all[7]
    mask(tmp_path / "masks/h.png", [0, 9])
    with pytest.raises(LabelError, match=r"9 in 96 pixels \(50 %\)"):
        data.all[7]
    (tmp_path / "masks/h.png").write_bytes(b"")
    with pytest.raises(ImageReadError, match=r"h\.png"):
        data.all[7]
    assert data.all[0].mask is not None, "the others read on"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("classes.txt", "sky\nroad # 2\n", [(0, "sky", None), (1, "road # 2", None)]),
        ("classes.txt", "# comment\n3 sky\n7: road\n", [(3, "sky", None), (7, "road", None)]),
        ("labels.txt", "__ignore__\n_background_\ncat\n",
         [(255, "__ignore__", None), (0, "_background_", None), (1, "cat", None)]),
        ("label_colors.txt", "64 128 64\tAnimal\n0 0 0\t\tVoid\n",
         [(0, "Animal", (64, 128, 64)), (1, "Void", (0, 0, 0))]),
        ("labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncar:250,50,83::\n",
         [(0, "background", (0, 0, 0)), (1, "car", (250, 50, 83))]),
        ("class_dict.csv", "name,r,g,b\nroad,128,64,128\n", [(0, "road", (128, 64, 128))]),
        ("classes.csv", "id;name;color\n4;a b;#ff0010\n", [(4, "a b", (255, 0, 16))]),
        ("classes.json", '["a", "b"]', [(0, "a", None), (1, "b", None)]),
        ("classes.json", '{"5": "a", "0": "b"}', [(5, "a", None), (0, "b", None)]),
        ("classes.json", '{"a": 3}', [(3, "a", None)]),
        ("classes.json", '{"classes": [{"name": "a", "id": 2, "color": [1, 2, 3]}]}', [(2, "a", (1, 2, 3))]),
    ],
)  # fmt: skip
def test_class_lists(tmp_path: Path, name: str, text: str, expected: list[tuple[int, str, object]]) -> None:
    found = read_class_list(write(tmp_path / name, text))
    assert [(e.value, e.name, e.color) for e in found.entries] == expected


@pytest.mark.parametrize(
    ("name", "text"),
    [("classes.json", "{"), ("classes.json", '{"a": "b"}'), ("classes.txt", ""), ("classes.csv", "id,name\nx,a\n"),
     ("classes.json", "[" * 5000), ("classes.csv", "id,name\n1,a\n1,b\n")],
)  # fmt: skip
def test_broken_class_lists(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(LabelError, match=name.replace(".", r"\.")):
        read_class_list(write(tmp_path / name, text))


def test_class_list_decides(tmp_path: Path) -> None:
    make_image(tmp_path / "images/a.png")
    mask(tmp_path / "masks/a.png", [0, 2, 255])
    write(tmp_path / "classes.txt", "sky\nroad\ntree\ncar\n")
    data = open_dataset(tmp_path)
    assert data.label_space.names == ("sky", "road", "tree", "car") and data.all.read_mask(0).max() == 255
    mask(tmp_path / "masks/a.png", [0, 255])
    write(tmp_path / "classes.txt", "nothing\ncell\n")
    assert dict(open_dataset(tmp_path).label_space.mapping) == {0: 0, 255: 1}
    mask(tmp_path / "masks/a.png", [0, 5])
    data = open_dataset(tmp_path)
    assert any("does not name: 5" in note for note in data.notes)
    with pytest.raises(LabelError):
        data.all[0]


def test_relabeled(tmp_path: Path) -> None:
    from segwright.core.types import LabelSpace

    make_image(tmp_path / "images/a.png")
    mask(tmp_path / "masks/a.png", [0, 1, 2])
    data = open_dataset(tmp_path)
    merged = data.with_label_space(LabelSpace(("thing", "rest"), mapping={0: 1, 1: 0, 2: 0, 255: 255}))
    assert set(np.unique(merged.all.read_mask(0))) == {0, 1} and merged.all.read_mask(0)[0, 0] == 1
    assert len(data.label_space) == 3 and data.all.read_mask(0).max() == 2, "the original stays"


def tiff_tree(root: Path, array: np.ndarray, suffix: str = ".tif") -> None:
    laid = "contig" if array.ndim == 3 and array.shape[2] > 1 else None
    for i in range(3):
        (root / "images").mkdir(exist_ok=True)
        shifted = (array + i * np.asarray(array.max() / 10)).astype(array.dtype)
        tifffile.imwrite(root / f"images/{i}{suffix}", shifted, photometric="minisblack", planarconfig=laid)
        mask(root / f"masks/{i}.png", [0, 1], size=array.shape[:2])


def test_deep_images_share_one_range(tmp_path: Path) -> None:
    ramp = np.arange(12 * 16, dtype=np.uint16).reshape(12, 16) * 20
    tiff_tree(tmp_path, ramp)
    data = open_dataset(tmp_path)
    assert data.value_range is not None and any("becomes 255" in note for note in data.notes)
    first, last = data.all[0].image, data.all[2].image
    assert first.shape == (12, 16, 3) and last.astype(int).mean() > first.astype(int).mean() + 10, "not each by itself"
    fixed = data.with_value_range(ValueRange.of(0, 65535))
    assert fixed.all[0].image.max() == round(191 * 20 / 65535 * 255)
    assert ValueRange.from_json(data.value_range.to_json()) == data.value_range


def test_bands_and_floats(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "seven").mkdir()
    tiff_tree(tmp_path / "seven", rng.random((12, 16, 7)).astype(np.float32) * 0.5)
    data = open_dataset(tmp_path / "seven")
    assert data.all[0].image.shape == (12, 16, 7) and data.value_range == ValueRange.of(0, 1)
    (tmp_path / "four").mkdir()
    tiff_tree(tmp_path / "four", rng.integers(0, 200, (12, 16, 4), dtype=np.uint8))
    assert open_dataset(tmp_path / "four").all[0].image.shape == (12, 16, 4)
    (tmp_path / "nan").mkdir()
    holes = rng.random((12, 16, 1)).astype(np.float32) * 100
    holes[:3] = np.nan
    tiff_tree(tmp_path / "nan", np.nan_to_num(holes))
    tifffile.imwrite(tmp_path / "nan/images/0.tif", holes[..., 0])
    assert (open_dataset(tmp_path / "nan").all[0].image[:3] == 0).all()


def test_geotiff_pairs_ignore_no_data(tmp_path: Path) -> None:
    scene = np.full((12, 16, 4), 500, np.uint16)
    scene[:, :4] = 0
    scene[5, 5, 0] = 0  # one band alone is no hole
    labels = np.ones((12, 16), np.uint8)
    labels[:, 8:] = 0
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    tifffile.imwrite(tmp_path / "images/a.tif", scene, extratags=[(42113, "s", 0, "0", True)], planarconfig="contig")
    tifffile.imwrite(tmp_path / "masks/a.tif", labels)
    data = open_dataset(tmp_path)
    assert data.format == "geotiff" and data.all[0].image.shape == (12, 16, 4)
    assert data.all[0].mask[0].tolist() == [255] * 4 + [1] * 4 + [0] * 8 and data.all[0].mask[5, 5] == 1


def test_value_range() -> None:
    assert ValueRange.of(10, 20).apply(np.array([[[0.0], [10], [15], [20], [99], [np.nan]]])).ravel().tolist() == [
        0, 0, 128, 255, 255, 0,
    ]  # fmt: skip
    two = ValueRange.of((0, 100), (1, 200)).apply(np.array([[[1.0, 100.0]]]))
    assert two.tolist() == [[[255, 0]]]
    for low, high in ((1, 1), (2, 1), (float("nan"), 1)):
        with pytest.raises(UsageError):
            ValueRange.of(low, high)
    with pytest.raises(DataError):
        ValueRange.of((0, 0), (1, 1)).apply(np.zeros((1, 1, 3)))


def test_spread_covers_every_index_once() -> None:
    for count in (1, 2, 7, 64, 1000):
        order = spread_order(count)
        assert sorted(order) == list(range(count))
        assert count < 8 or max(np.diff(sorted(order[: count // 4]))) <= 8


def test_odd_entries_do_not_disturb(tmp_path: Path) -> None:
    make_image(tmp_path / "images/a.png")
    mask(tmp_path / "masks/a.png", [0, 1])
    for extra in (".DS_Store", "Thumbs.db", "images/.hidden.png", "__MACOSX/images/._a.png", "masks/readme.txt"):
        write(tmp_path / extra, "x")
    (tmp_path / "images/loop").symlink_to(tmp_path, target_is_directory=True)
    assert Tree(tmp_path).summary()
    data = open_dataset(tmp_path)
    assert data.all.ids[0].endswith("a") and data.all[0].mask is not None


def test_a_hundred_thousand_files_open_quickly(tmp_path: Path) -> None:
    """Names alone: only the mask sample and the headers of a few images are opened."""
    count = 20_000  # 40,000 files; the share of 100,000 is in the bound
    make_image(tmp_path / "images/0.png")
    mask(tmp_path / "masks/0.png", [0, 1])
    image, label = (tmp_path / "images/0.png"), (tmp_path / "masks/0.png")
    for i in range(1, count):
        (tmp_path / f"images/{i}.png").hardlink_to(image)
        (tmp_path / f"masks/{i}.png").hardlink_to(label)
    tree = Tree(tmp_path)
    started = time.process_time()
    assert all(FORMATS[name].detect(tree) is None for name in FORMATS if name != "folder")
    assert FORMATS["folder"].detect(tree)
    assert time.process_time() - started < 15, "names are paired in seconds"


def test_a_class_list_that_is_a_pipe_or_a_device(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "classes.txt")
    for path in (tmp_path / "classes.txt", Path("/dev/zero"), tmp_path):
        with pytest.raises(DataError, match=r"not a regular file|cannot be opened"):
            read_class_list(path)
