"""Class lists as tools and people write them: every form names the same three classes."""

from __future__ import annotations

from pathlib import Path

import pytest
from trees import colored, make_image, mask, write

from segwright.core.errors import FormatError, LabelError
from segwright.data.dataset import open_dataset
from segwright.data.label_lines import plain_lines, xml_objects
from segwright.data.label_maps import read_class_list

COLORS = [(0, 0, 0), (220, 20, 60), (0, 130, 200)]
SNAP = """################
# ITK-SnAP Label Description File
# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL
    0     0    0    0        0  0  0    "sky"
    1   220   20   60        1  1  1    "bare road"
    2     0  130  200        1  1  1    "car"
"""
LUT = "#No. Label Name: R G B A\n0 sky 0 0 0 0\n1 bare-road 220 20 60 0\n2 car 0 130 200 0\n"
XML = """<classes>
<class name="sky" color="0,0,0"/><class name="bare road" color="220,20,60"/><class name="car" color="0,130,200"/>
</classes>"""
WITH_COLORS = {
    "classes.txt": '"sky" 0 0 0\n"bare road" 220 20 60\n"car" 0 130 200\n',
    "colors.txt": "sky: (0, 0, 0)\nbare road: (220, 20, 60)\ncar: (0, 130, 200)\n",
    "labels.txt": SNAP,
    "labels.label": SNAP,
    "LUT.txt": LUT,
    "classes.toml": '[sky]\ncolor = [0, 0, 0]\n["bare road"]\ncolor = [220, 20, 60]\n[car]\ncolor = [0, 130, 200]\n',
    "classes.xml": XML,
}
BY_NUMBER = {
    "classes.txt": "- sky\n- bare road\n- car\n",
    "names.txt": "sky, bare road, car\n",
    "class_names.txt": "['sky', 'bare road', 'car']\n",
    "labels.txt": "sky=0\nbare road=1\ncar=2\n",
    "codes.txt": "car 2\nbare road 1\nsky 0\n",
    "classes.csv": "sky,0\nbare road,1\ncar,2\n",
    "labels.csv": "My classes,,\nid,name,note\n0,sky,x\n1,bare road,y\n2,car,z\n",
    "objectInfo3.txt": "Idx\tRatio\tTrain\tVal\tName\n0\t0.1\t1\t1\tsky\n1\t0.1\t1\t1\tbare road\n2\t0.3\t2\t2\tcar\n",
    "style.qml": '<qgis><a value="0" label="sky" color="#000000"/><a value="1" label="bare road"/>'
    '<a value="2" label="car"/></qgis>',
}


def spaced(names: tuple[str, ...]) -> list[str]:
    return sorted(name.replace("-", " ") for name in names)


@pytest.mark.parametrize("name", WITH_COLORS)
def test_lists_with_colors(tmp_path: Path, name: str) -> None:
    for n in range(3):
        make_image(tmp_path / f"images/{n}.png", seed=n)
        rows = colored(tmp_path / f"masks/{n}.png", COLORS)
    write(tmp_path / name, WITH_COLORS[name])
    data = open_dataset(tmp_path)
    assert spaced(data.label_space.names) == ["bare road", "car", "sky"]
    labels = data.all.read_mask(0)
    assert labels is not None and data.label_space.names[labels[rows == 0][0]] == "sky"
    assert data.label_space.names[labels[rows == 2][0]] == "car"


@pytest.mark.parametrize("name", BY_NUMBER)
def test_lists_with_numbers(tmp_path: Path, name: str) -> None:
    for n in range(3):
        make_image(tmp_path / f"images/{n}.png", seed=n)
        values = mask(tmp_path / f"masks/{n}.png", [0, 1, 2])
    write(tmp_path / name, BY_NUMBER[name])
    data = open_dataset(tmp_path)
    labels = data.all.read_mask(0)
    assert labels is not None and [data.label_space.names[labels[values == v][0]] for v in range(3)] == [
        "sky", "bare road", "car"
    ]  # fmt: skip
    assert not data.given, "a table of classes states no splits"


def test_numbers_that_belong_to_names_stay() -> None:
    assert plain_lines("lane 1\nlane 2\nlane 3\n") == ["lane 1", "lane 2", "lane 3"]
    assert plain_lines("route 66\nroad 7\n") == ["route 66", "road 7"]
    assert plain_lines("#ff0000 car\n# a comment\n#### more\n") == ["car 255 0 0"]
    assert plain_lines("car (old)\nman's hat\n") == ["car (old)", "man's hat"]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("id name\n1 sky\n0 road\n", ["1 sky", "0 road"]),
        ("name, id\nsky, 1\nroad, 0\n", ["1 sky", "0 road"]),
        ("class r g b\nsky 1 2 3\nroad 4 5 6\n", ["sky 1 2 3", "road 4 5 6"]),
        ("class name\nclass label\n", ["class name", "class label"]),  # no numbers: names
        ("1=sky\n0 = bare road\n", ["1 sky", "0 bare road"]),
        ("class 1: sky\nclass 0: road\n", ["1 sky", "0 road"]),
        ("sky #ff0000\nbare road #00FF10\n", ["sky 255 0 0", "bare road 0 255 16"]),
        ("1 #ff0000 sky\n0 #00ff10 road\n", ["1 sky 255 0 0", "0 road 0 255 16"]),
        ("0 9 8 7 sky\n1 255 0 0 road\n", ["0 sky 9 8 7", "1 road 255 0 0"]),
        ("9 8 7 255 sky\n255 0 0 255 road\n", ["sky 9 8 7", "road 255 0 0"]),
        ("7 9 8 7 sky\n11 255 0 3 road\n", ["7 sky 9 8 7", "11 road 255 0 3"]),
    ],
)
def test_headers_and_numbers_before_the_name(text: str, lines: list[str]) -> None:
    assert plain_lines(text) == lines


def test_an_xml_of_images_is_no_class_list(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no elements"):
        xml_objects('<annotations><image id="0" name="a.jpg"/><image id="1" name="b.jpg"/></annotations>')
    with pytest.raises(LabelError):
        read_class_list(write(tmp_path / "labels.json", {"a.jpg12": {"filename": "a.jpg"}, "b.jpg3": {"regions": []}}))


def test_lists_of_the_same_names_and_other_values_are_refused(tmp_path: Path) -> None:
    make_image(tmp_path / "images/0.png")
    mask(tmp_path / "masks/0.png", [0, 1, 2])
    write(tmp_path / "classes.txt", "sky\nroad\ncar\n")
    write(tmp_path / "labels.json", {"0": "car", "1": "sky", "2": "road"})
    with pytest.raises(LabelError, match="contradict") as caught:
        open_dataset(tmp_path)
    assert "classes.txt" in str(caught.value.found) and "labels.json" in str(caught.value.found)
    write(tmp_path / "labels.json", {"0": "sky", "1": "road", "2": "car"})
    assert open_dataset(tmp_path).label_space.names == ("sky", "road", "car")


def test_a_class_list_of_a_kind_that_is_not_read_is_named(tmp_path: Path) -> None:
    make_image(tmp_path / "images/0.png")
    mask(tmp_path / "masks/0.png", [0, 1, 2])
    write(tmp_path / "class_colors.py", "COLORS = {}\n")
    [found] = [problem for problem in open_dataset(tmp_path).problems if problem.kind == "class list not read"]
    assert found.severity == "warning" and "class_colors.py" in found.message


def test_a_suffix_of_few_valued_files_tells_the_masks(tmp_path: Path) -> None:
    for n in range(4):
        make_image(tmp_path / f"raw/s{n}.png", size=(40, 40), seed=n)
        mask(tmp_path / f"raw/s{n}_L0.png", [0, 1, 2], size=(40, 40))
    data = open_dataset(tmp_path)
    assert len(data.records) == 4 and all("_L0" in str(record.mask_path) for record in data.records)
    assert [problem.kind for problem in data.problems] == ["masks guessed"]
    write(tmp_path / "set.json", {"dataset": {"task_type": "segmentation-bitmap", "samples": []}})
    with pytest.raises(FormatError, match=r"Segments\.ai"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("train", "line"), [("train.txt", "images/my%20photo%20{}.png"), ("lists/train_list.txt", "my photo {}")]
)
def test_split_lists_with_percent_signs_and_in_lists(tmp_path: Path, train: str, line: str) -> None:
    for n in range(4):
        make_image(tmp_path / f"images/my photo {n}.png", seed=n)
        mask(tmp_path / f"masks/my photo {n}.png", [0, 1])
    write(tmp_path / train, "".join(f"{line.format(n)}\n" for n in range(3)))
    write(tmp_path / train.replace("train", "val"), f"{line.format(3)}\n")
    data = open_dataset(tmp_path)
    assert {split: len(found) for split, found in data.given.items()} == {"train": 3, "val": 1} and not data.problems


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.csv", "name,color\nsky,black\nroad,#dc143cff\ncar,'rgb(0,130,200)'\n".replace("'", '"')),
        ("classes.json", '{"ontology": {"classes": [{"name": "sky", "color": "#000"}, '
         '{"name": "road", "color": "#DC143C"}, {"name": "car", "color": [0, 130, 200, 255]}]}}'),
    ],
)  # fmt: skip
def test_colors_in_other_spellings(tmp_path: Path, name: str, text: str) -> None:
    entries = read_class_list(write(tmp_path / name, text)).entries
    assert [(entry.name, entry.color) for entry in entries] == list(zip(["sky", "road", "car"], COLORS, strict=True))


def test_masks_of_train_ids_are_read_by_that_column(tmp_path: Path) -> None:
    make_image(tmp_path / "images/0.png")
    values = mask(tmp_path / "masks/0.png", [0, 1, 2])
    write(tmp_path / "classes.csv", "name,id,trainId\nego,1,255\ncar,26,2\nroad,7,1\nplate,-1,-1\nsky,11,0\n")
    data = open_dataset(tmp_path)
    labels = data.all.read_mask(0)
    assert labels is not None and [data.label_space.names[labels[values == v][0]] for v in range(3)] == [
        "sky", "road", "car"
    ]  # fmt: skip
    assert any("trainId" in problem.message for problem in data.problems)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name,r,g,b\nsky,0,0,0\nroad,220,20,60\ncar,0,130,200\ndog,220,20,60\n", "#dc143c to road, dog: read as road"),
        ("sky\nroad\nroad\n", "names road more than once"),
    ],
)
def test_a_color_or_a_name_that_comes_twice_is_a_warning(tmp_path: Path, text: str, said: str) -> None:
    make_image(tmp_path / "images/0.png")
    if "," in text:
        colored(tmp_path / "masks/0.png", COLORS)
    else:
        mask(tmp_path / "masks/0.png", [0, 1, 2])
    write(tmp_path / ("classes.csv" if "," in text else "classes.txt"), text)
    assert any(said in problem.message for problem in open_dataset(tmp_path).problems)
