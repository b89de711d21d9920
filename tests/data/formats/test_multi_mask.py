"""Several masks an image: a folder an image, a folder a class, names that end in a class."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from trees import make_image, mask, write

from segwright.core.errors import FormatError, LabelError
from segwright.data.convert import convert
from segwright.data.dataset import open_dataset
from segwright.imageio import write_image, write_mask

SIZE = (12, 16)


def part(path: Path, rows: slice, columns: slice, value: int = 255) -> np.ndarray:
    """A mask file that is ``value`` in a rectangle; returns the rectangle."""
    region = np.zeros(SIZE, np.uint8)
    region[rows, columns] = value
    write_mask(path, region)
    return region > 0


def drawn(folder: Path) -> dict[str, np.ndarray]:
    data = pickle.loads(pickle.dumps(open_dataset(folder)))
    assert data.format == "layers"
    return {sample.id: sample.mask for sample in data}


@pytest.mark.parametrize(
    ("image", "layer"),
    [
        ("images/{i}.jpg", "masks/{i}/{c}.png"),
        ("images/{i}.jpg", "masks/{c}/{i}.png"),
        ("images/{i}.jpg", "masks/{i}_{c}.png"),
        ("images/{i}.jpg", "masks/{c}/{i}_mask.png"),
        ("{i}.jpg", "{i}_{c}.png"),
        ("{i}.png", "{i} {c} mask.png"),
        ("train/images/{i}.jpg", "train/masks/{i}/{c}_1.png"),
        ("{i}/images/{i}.png", "{i}/masks/{c}.png"),
    ],
)
def test_layouts_with_classes(tmp_path: Path, image: str, layer: str) -> None:
    for number, name in enumerate(("shot_1", "shot_2", "shot_3")):
        make_image(tmp_path / image.format(i=name), size=SIZE, seed=number)
        part(tmp_path / layer.format(i=name, c="road"), slice(4, 12), slice(None))
        part(tmp_path / layer.format(i=name, c="car"), slice(5, 8), slice(number, number + 4), value=1)
    data = open_dataset(tmp_path)
    assert data.format == "layers" and data.label_space.names == ("background", "car", "road")
    assert not data.problems and any("the smaller is on top" in note for note in data.notes)
    masks = list(drawn(tmp_path).values())
    for number, found in enumerate(masks):
        expected = np.zeros(SIZE, np.uint8)
        expected[4:] = 2
        expected[5:8, number : number + 4] = 1
        assert np.array_equal(found, expected)
    if image.startswith("train"):
        assert len(data.given["train"]) == 3


def test_objects_of_one_class(tmp_path: Path) -> None:
    """Names that never come back (hashes, numbers): objects, as in the nuclei of the Data Science Bowl."""
    for number, name in enumerate(("a1", "b2", "c3", "d4")):
        make_image(tmp_path / f"stage1_train/{name}/images/{name}.png", size=SIZE, seed=number)
        for place in range(3):
            file = f"{hash((number, place)) & (2**128 - 1):032x}.png"
            part(tmp_path / f"stage1_train/{name}/masks/{file}", slice(0, 4), slice(5 * place, 5 * place + 3))
    data = open_dataset(tmp_path)
    assert data.label_space.names == ("background", "object") and any("distinguish no classes" in n for n in data.notes)
    assert all((found > 0).sum() == 36 for found in drawn(tmp_path).values())


def test_numbered_masks_beside_the_images(tmp_path: Path) -> None:
    """BUSI's names: one mask as a rule, a second where there are two tumours."""
    for number in range(1, 5):
        make_image(tmp_path / f"benign/benign ({number}).png", size=SIZE, seed=number)
        part(tmp_path / f"benign/benign ({number})_mask.png", slice(0, 4), slice(0, 4))
    part(tmp_path / "benign/benign (2)_mask_1.png", slice(6, 9), slice(6, 9))
    found = drawn(tmp_path)
    assert [(mask > 0).sum() for mask in found.values()] == [16, 25, 16, 16]


def test_one_mask_an_image_stays_a_folder(tmp_path: Path) -> None:
    for number in range(3):
        make_image(tmp_path / f"images/x_{number}.jpg", size=SIZE)
        part(tmp_path / f"masks/x_{number}.png", slice(0, 4), slice(0, 4))
    part(tmp_path / "masks/alone.png", slice(0, 4), slice(0, 4))
    assert open_dataset(tmp_path).format == "folder"
    (tmp_path / "masks/alone.png").unlink()
    for number in range(3):  # a second person's masks are no second class
        part(tmp_path / f"masks/x_{number}_2nd_rater.png", slice(0, 4), slice(0, 5))
    with pytest.raises(FormatError, match="several people"):
        open_dataset(tmp_path)


def test_layers_of_several_classes_are_refused(tmp_path: Path) -> None:
    for name in ("shot1", "shot2"):
        make_image(tmp_path / f"images/{name}.jpg", size=SIZE)
        for version in ("old", "new"):
            mask(tmp_path / f"masks/{name}/{version}.png", [0, 1, 2])
    with pytest.raises(FormatError, match="several masks per image") as caught:
        open_dataset(tmp_path)
    assert "old.png" in str(caught.value) and "masks/road/x.png" in (caught.value.fix or "")


def test_a_layer_that_does_not_fit(tmp_path: Path) -> None:
    for name in ("x", "y"):
        make_image(tmp_path / f"images/{name}.jpg", size=SIZE)
        for label in ("car", "road"):
            part(tmp_path / f"masks/{name}_{label}.png", slice(0, 4), slice(0, 4))
    make_image(tmp_path / "images/bare.jpg", size=SIZE)
    data = open_dataset(tmp_path)
    assert [path.name for path in data.unpaired_images] == ["bare.jpg"] and data.all.read_mask(0) is None
    place = data.all.ids.index("x")
    mask(tmp_path / "masks/x_car.png", [0, 100, 200])
    with pytest.raises(LabelError, match=r"x_car\.png.*more than one class"):
        data.all.read_mask(place)
    mask(tmp_path / "masks/x_car.png", [0, 1], size=(6, 8))
    with pytest.raises(LabelError, match=r"x_car\.png.*differ in size"):
        data.all.read_mask(place)
    colors = np.zeros((*SIZE, 3), np.uint8)
    colors[:3] = (255, 255, 255)
    write_image(tmp_path / "masks/x_car.png", colors)
    assert (data.all.read_mask(place) == 1).sum() == 3 * 16 - 12, "white on black, saved in color"


def test_layers_become_one_mask(tmp_path: Path) -> None:
    for number, name in enumerate(("x", "y")):
        make_image(tmp_path / f"in/images/{name}.jpg", size=SIZE, seed=number)
        for label, rows in (("car", slice(0, 4)), ("road", slice(4, 9))):
            part(tmp_path / f"in/masks/{label}/{name}.png", rows, slice(None))
    (tmp_path / "in/classes.txt").write_text("road\ncar\n")
    data = open_dataset(tmp_path / "in")
    assert data.label_space.names == ("background", "road", "car"), "in the order of the list"
    convert(data, "folder", tmp_path / "out")
    again = open_dataset(tmp_path / "out")
    assert again.format == "folder" and again.label_space.names == data.label_space.names
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(data, again, strict=True))


def test_annotations_for_detection_alone(tmp_path: Path) -> None:
    make_image(tmp_path / "VOC2012/JPEGImages/x.jpg", size=SIZE)
    write(tmp_path / "VOC2012/Annotations/x.xml", "<annotation/>")
    with pytest.raises(FormatError, match="boxes, not masks"):
        open_dataset(tmp_path)
