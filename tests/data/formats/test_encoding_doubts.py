"""Values that do not mean what they seem to: mixed codings, numbers of objects, blurred colors, lists off by one."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from trees import colored, make_image, mask, write

from segwright.core.errors import LabelError
from segwright.data.dataset import open_dataset
from segwright.data.formats.encoding_doubts import count_objects
from segwright.imageio import write_image, write_mask

SIZE = (40, 60)


def images(root: Path, count: int, size: tuple[int, int] = (12, 16)) -> None:
    for n in range(count):
        make_image(root / f"images/{n}.png", size=size, seed=n)


@pytest.mark.parametrize("ones", [1, 3])
def test_masks_of_0_1_among_masks_of_0_255_are_refused(tmp_path: Path, ones: int) -> None:
    """255 would be ignored, and with it the objects of half the set."""
    images(tmp_path, 4)
    for n in range(4):
        mask(tmp_path / f"masks/{n}.png", [0, 1 if n < ones else 255, 0])
    with pytest.raises(LabelError, match="255 the foreground") as caught:
        open_dataset(tmp_path)
    assert "classes.csv" in str(caught.value.fix)
    write(tmp_path / "classes.csv", "id,name\n0,background\n1,foreground\n255,foreground\n")
    labels = [open_dataset(tmp_path).all.read_mask(n) for n in range(4)]
    assert all(found is not None and set(found.ravel().tolist()) == {0, 1} for found in labels)


def test_255_beside_1_in_one_mask_stays_ignored(tmp_path: Path) -> None:
    images(tmp_path, 3)
    for n in range(3):
        mask(tmp_path / f"masks/{n}.png", [0, 1, 255] if n else [0, 255])
    assert open_dataset(tmp_path).label_space.names == ("background", "foreground")


def objects(n: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    labels = np.zeros(size, np.uint8)
    for i in range(4 + n % 3):
        labels[3 + 9 * (i // 4) : 10 + 9 * (i // 4), 4 + 13 * (i % 4) : 14 + 13 * (i % 4)] = i + 1
    return labels


def test_numbers_of_objects_are_refused(tmp_path: Path) -> None:
    images(tmp_path, 5, SIZE)
    (tmp_path / "masks").mkdir()
    for n in range(5):
        write_mask(tmp_path / f"masks/{n}.png", objects(n))
    with pytest.raises(LabelError, match="number objects") as caught:
        open_dataset(tmp_path)
    assert "mask > 0" in str(caught.value.fix)
    write(tmp_path / "classes.csv", "id,name\n0,ground\n" + "".join(f"{i},class{i}\n" for i in range(1, 7)))
    assert len(open_dataset(tmp_path).label_space.names) == 7


def test_classes_of_several_regions_are_no_objects(tmp_path: Path) -> None:
    images(tmp_path, 5, SIZE)
    (tmp_path / "masks").mkdir()
    for n in range(5):
        labels = objects(n)
        labels[30:34, 5:9], labels[36:39, 30:33] = 1, 2
        write_mask(tmp_path / f"masks/{n}.png", labels)
    assert len(open_dataset(tmp_path).label_space.names) == 7
    assert count_objects(labels, [0, 1, 2, 3, 4, 5]) == (5, 3)
    assert count_objects(labels * 2, [0, 2, 4, 6, 8, 10]) is None


def test_soft_masks_of_hair_are_cut_at_the_middle(tmp_path: Path) -> None:
    images(tmp_path, 3, SIZE)
    (tmp_path / "masks").mkdir()
    for n in range(3):
        sharp = np.zeros(SIZE, np.uint8)
        sharp[8:30, 10 + n : 45] = 255
        write_mask(tmp_path / f"masks/{n}.png", cv2.GaussianBlur(sharp, (0, 0), 3))
    data = open_dataset(tmp_path)
    assert len(data.label_space.names) == 2 and any(p.kind == "anti-aliased masks" for p in data.problems)


def test_color_masks_with_blurred_edges_are_refused(tmp_path: Path) -> None:
    """Each color of an edge would be a class."""
    size = (90, 120)
    images(tmp_path, 3, size)
    (tmp_path / "masks").mkdir()
    for n in range(3):
        sharp = np.zeros((*size, 3), np.uint8)
        sharp[5:70, 5:50], sharp[18:75, 60 + n : 110] = (255, 0, 0), (0, 0, 255)
        write_image(tmp_path / f"masks/{n}.png", cv2.GaussianBlur(sharp, (0, 0), 0.6))
    with pytest.raises(LabelError, match="blurred edges") as caught:
        open_dataset(tmp_path)
    assert "#0000ff" in str(caught.value)


def test_many_true_colors_stay_classes(tmp_path: Path) -> None:
    images(tmp_path, 3)
    palette = [(0, 0, 0), (128, 64, 128), (244, 35, 232), (70, 70, 70), (190, 153, 153), (250, 170, 30), (0, 0, 142)]
    for n in range(3):
        colored(tmp_path / f"masks/{n}.png", palette)
    assert len(open_dataset(tmp_path).label_space.names) == len(palette)


@pytest.mark.parametrize("values", [[1, 2, 3], [0, 1, 2, 3]])
def test_a_list_that_may_count_from_1_is_refused_with_both_readings(tmp_path: Path, values: list[int]) -> None:
    """Read from 0, every class of the images without the last one would be the next."""
    images(tmp_path, 4)
    for n in range(4):
        mask(tmp_path / f"masks/{n}.png", values if n == 0 else values[:-1])
    write(tmp_path / "classes.txt", "sky\nroad\ncar\n")
    with pytest.raises(LabelError, match="is sky the value 0 or 1") as caught:
        open_dataset(tmp_path)
    assert "'1 sky'" in str(caught.value.fix)
    write(tmp_path / "classes.txt", ("0 background\n" if 0 in values else "") + "1 sky\n2 road\n3 car\n")
    data = open_dataset(tmp_path)
    labels = data.all.read_mask(0)
    assert labels is not None and data.label_space.names[labels[0, -1]] == "car"


def test_a_list_that_starts_with_background_counts_from_0(tmp_path: Path) -> None:
    images(tmp_path, 3)
    for n in range(3):
        mask(tmp_path / f"masks/{n}.png", [0, 1, 2])
    write(tmp_path / "classes.txt", "background\nroad\n")
    data = open_dataset(tmp_path)
    with pytest.raises(LabelError, match="outside the classes"):
        data.all.read_mask(0)


def test_even_gray_levels_take_the_names_in_order(tmp_path: Path) -> None:
    images(tmp_path, 3)
    for n in range(3):
        mask(tmp_path / f"masks/{n}.png", [0, 127, 255])
    write(tmp_path / "classes.txt", "ground\nliver\ntumor\n")
    data = open_dataset(tmp_path)
    labels = data.all.read_mask(0)
    assert labels is not None and [data.label_space.names[v] for v in labels[0, [0, 8, 15]]] == [
        "ground",
        "liver",
        "tumor",
    ]
    assert any(problem.kind == "masks guessed" for problem in data.problems)


def test_a_list_in_the_order_of_opencv_is_refused(tmp_path: Path) -> None:
    images(tmp_path, 3)
    for n in range(3):
        colored(tmp_path / f"masks/{n}.png", [(0, 0, 0), (200, 10, 40)])
    write(tmp_path / "class_dict.csv", "name,r,g,b\nground,0,0,0\ncat,40,10,200\n")
    with pytest.raises(LabelError, match="red and blue exchanged"):
        open_dataset(tmp_path)


def deep(path: Path, values: list[int]) -> None:
    """The values in vertical stripes, as a PNG of 16 bits."""
    columns = np.array(values)[np.arange(16) * len(values) // 16]
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.repeat(columns[None], 12, axis=0).astype(np.uint16))


@pytest.mark.parametrize(
    ("values", "code"),
    [([7, 8, 26000, 26001], 1000), ([0, 1001, 1002, 2001], 1000), ([0, 1792, 6657, 6658], 256)],
)
def test_a_class_and_the_number_of_an_object_in_one_value_are_refused(
    tmp_path: Path, values: list[int], code: int
) -> None:
    images(tmp_path, 4)
    for n in range(4):
        deep(tmp_path / f"masks/{n}.png", values)
    with pytest.raises(LabelError, match=f"class × {code}") as caught:
        open_dataset(tmp_path)
    assert f"mask // {code}" in str(caught.value.fix)
    write(tmp_path / "classes.csv", "id,name\n" + "".join(f"{value},c{value}\n" for value in values))
    assert open_dataset(tmp_path).label_space.names == tuple(f"c{value}" for value in values)


@pytest.mark.parametrize("values", [[111, 112, 311, 312, 313], [1010, 1020, 2010, 2020], [0, 1000, 2000]])
def test_codes_of_classes_in_levels_stay_classes(tmp_path: Path, values: list[int]) -> None:
    images(tmp_path, 4)
    for n in range(4):
        deep(tmp_path / f"masks/{n}.png", values)
    assert open_dataset(tmp_path).label_space.names == tuple(f"value {value}" for value in values)


def test_65535_beside_small_ids_is_ignored_and_reported(tmp_path: Path) -> None:
    images(tmp_path, 4)
    for n in range(4):
        deep(tmp_path / f"masks/{n}.png", [0, 1, 1, 2, 2, 65535])
    data = open_dataset(tmp_path)
    labels = data.all.read_mask(0)
    assert data.label_space.names == ("class 0", "class 1", "class 2") and labels is not None
    assert sorted(set(labels.ravel().tolist())) == [0, 1, 2, 255]
    assert [(p.severity, p.kind) for p in data.problems] == [("note", "ignored by a guess")]
    assert "65535" in data.problems[0].message
    for n in range(4):  # two values alone are background and foreground
        deep(tmp_path / f"masks/{n}.png", [0, 65535])
    assert open_dataset(tmp_path).label_space.names == ("background", "foreground")


def test_a_foreground_of_128_in_some_masks_and_255_in_others_is_refused(tmp_path: Path) -> None:
    images(tmp_path, 4)
    for n in range(4):
        mask(tmp_path / f"masks/{n}.png", [0, 255 if n % 2 else 128])
    with pytest.raises(LabelError, match="one foreground, or several") as caught:
        open_dataset(tmp_path)
    assert caught.value.found == "128 in 2 masks, 255 in 2 masks" and "classes.csv" in str(caught.value.fix)
    mask(tmp_path / "masks/0.png", [0, 128, 255])  # together in one mask they are classes
    assert not open_dataset(tmp_path).problems


def test_few_objects_per_mask_are_objects_where_their_number_varies(tmp_path: Path) -> None:
    images(tmp_path, 6, SIZE)
    for n in range(6):
        labels = np.zeros(SIZE, np.uint8)
        for i in range(2 + n % 3):
            labels[5:20, 4 + 13 * i : 14 + 13 * i] = i + 1
        write_mask(tmp_path / f"masks/{n}.png", labels)
    with pytest.raises(LabelError, match="number objects"):
        open_dataset(tmp_path)


def test_the_cell_tracking_challenge_is_known_by_its_names(tmp_path: Path) -> None:
    for n in range(4):
        image = Image.open(make_image(tmp_path / "image.png", size=SIZE, seed=n))
        labels = Image.fromarray(mask(tmp_path / "mask.png", [0, 1, 0, 2, 0, 3], size=SIZE))
        for found, name in ((image, f"01/t{n:03d}.tif"), (labels, f"01_GT/SEG/man_seg{n:03d}.tif")):
            (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
            found.save(tmp_path / "data" / name)
    with pytest.raises(LabelError, match="Cell Tracking"):
        open_dataset(tmp_path / "data")


def test_colors_of_objects_are_no_classes(tmp_path: Path) -> None:
    """Panoptic PNGs without their JSON: a color of its own for each object."""
    rng = np.random.default_rng(0)
    images(tmp_path, 5, SIZE)
    for n in range(5):
        colored(tmp_path / f"masks/{n}.png", [(0, 0, 0), *map(tuple, rng.integers(1, 256, (4, 3)).tolist())], size=SIZE)
    with pytest.raises(LabelError, match="colors of the masks number objects") as caught:
        open_dataset(tmp_path)
    assert "segments_info" in str(caught.value.fix)
    for n in range(5):  # the same colors in several masks are classes
        colored(tmp_path / f"masks/{n}.png", [(0, 0, 0), (9, 99, 199), (200, 3 + n, 7), (90, 0, 90)], size=SIZE)
    assert len(open_dataset(tmp_path).label_space.names) == 8
