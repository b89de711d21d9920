"""Splits that a table states: a CSV with a column of splits, a JSON of names per split."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from trees import make_image, mask, write

from segwright.core.errors import FormatError
from segwright.data.dataset import open_dataset
from segwright.data.records import Dataset


def six(root: Path) -> None:
    for i in range(6):
        make_image(root / f"images/s{i}.jpg", seed=i)
        mask(root / f"masks/s{i}.png", [0, 1, 2])


def parts(data: Dataset) -> dict[str, list[str]]:
    return {split: sorted(record.id for record in records) for split, records in data.given.items()}


FIRST, LAST = [f"s{i}" for i in range(4)], ["s4", "s5"]


def _rows(train: str, other: str, form: str) -> str:
    return "".join(form.format(i=i, split=train if i < 4 else other) for i in range(6))


@pytest.mark.parametrize(
    ("name", "text", "second"),
    [
        ("split.csv", "filename,subset\n" + _rows("training", "validation", "s{i}.jpg,{split}\n"), "val"),
        ("meta.csv", "\ufeffpatient;id;Fold\r\n" + _rows("Train", "Test", "p{i};s{i};{split}\r\n"), "test"),
        ("data.csv", "name,is_valid\n" + _rows("False", "True", "images\\s{i}.jpg,{split}\n"), "val"),
        ("onehot.csv", "id,train,test\n" + _rows("1,0", "0,1", "s{i},{split}\n"), "test"),
        ("columns.csv", "train,val\ns0,s4\ns1,s5\ns2,\ns3,\n", "val"),
        ("split.txt", _rows("trn", "tst", "s{i}.jpg {split}\n"), "test"),
        ("splits/split.json", json.dumps({"train": FIRST, "validation": LAST}), "val"),
        ("splits.json", json.dumps({"splits": {"train_files": FIRST, "val_files": LAST}}), "val"),
        ("gaps.json", json.dumps({"train": [*FIRST, "", " ,"], "val": [*LAST, None]}), "val"),
        ("splits.yaml", "train: [s0, s1, s2, s3]\nval:\n  - s4\n  - s5\n", "val"),
        ("parts.json", json.dumps({f"s{i}.jpg": "train" if i < 4 else "dev" for i in range(6)}), "val"),
        ("list.jsonl", _rows("train", "test", '{{"n": {i}, "file": "s{i}.jpg", "split": "{split}"}}\n'), "test"),
    ],
)  # fmt: skip
def test_a_table_states_the_splits(tmp_path: Path, name: str, text: str, second: str) -> None:
    six(tmp_path)
    write(tmp_path / name, text)
    data = open_dataset(tmp_path)
    assert data.format == "folder" and not data.problems
    assert parts(data) == {"train": FIRST, second: LAST}


@pytest.mark.parametrize(
    ("used", "others", "named"),
    [
        ("train.txt", ["train.lst", "training.txt"], ("train.lst", "training.txt")),
        ("folds/train_0.txt", ["folds/train_1.txt"], ("train_1.txt",)),
        ("train.txt", ["splits/train.txt"], ("splits",)),
    ],
)
def test_lists_that_state_other_splits_are_a_warning(
    tmp_path: Path, used: str, others: list[str], named: tuple[str, ...]
) -> None:
    six(tmp_path)
    for name in (used, *others):
        write(tmp_path / name, "s0\ns1\n" if name == used else "s2\ns3\n")
    write((tmp_path / used).with_name(Path(used).name.replace("train", "val")), "s4\ns5\n")
    data = open_dataset(tmp_path)
    assert parts(data) == {"train": ["s0", "s1"], "val": LAST}
    [found] = data.problems
    assert found.kind == "several split lists" and found.severity == "warning"
    assert found.files == named
    for name in others:  # equal lists are none
        write(tmp_path / name, "s1\n\ns0.jpg\n")
    if "splits/train.txt" in others:
        write(tmp_path / "splits/val.txt", "s4\ns5\n")
    assert not open_dataset(tmp_path).problems


@pytest.mark.parametrize(
    ("ending", "form"),
    [("csv", "id\n{}\n"), ("csv", "{}\n"), ("json", '["{}"]'), ("json", '[{{"n": 1, "file": "{}.jpg"}}]')],
)
def test_a_table_per_split(tmp_path: Path, ending: str, form: str) -> None:
    six(tmp_path)
    between = "\n" if ending == "csv" else '.jpg"}, {"n": 1, "file": "' if "file" in form else '", "'
    write(tmp_path / f"train.{ending}", form.format(between.join(FIRST)))
    assert not open_dataset(tmp_path).given  # one of them alone may be any table
    write(tmp_path / f"test.{ending}", form.format(between.join(LAST)))
    data = open_dataset(tmp_path)
    assert parts(data) == {"train": FIRST, "test": LAST} and not data.problems


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.csv", "filename,label\n" + _rows("cat", "dog", "s{i}.jpg,{split}\n")),
        ("labels.csv", "id,label\n" + _rows("cat", "dog", "{i},{split}\n")),
        ("metadata.csv", "id,category,age\n" + _rows("urban", "urban", "{i},{split},3\n")),
        ("patients.csv", "id,name\n" + _rows("Ann", "Bob", "{i},{split} {i}\n")),
    ],
)
def test_a_table_of_images_is_no_class_list(tmp_path: Path, name: str, text: str) -> None:
    """The class of image 2 was the class of the value 2, and values of one name were merged."""
    for i in range(6):
        make_image(tmp_path / f"images/{'s' if '.jpg' in text else ''}{i}.jpg", seed=i)
        mask(tmp_path / f"masks/{'s' if '.jpg' in text else ''}{i}.png", [0, 1, 2])
    write(tmp_path / name, text)
    assert open_dataset(tmp_path).label_space.names == ("class 0", "class 1", "class 2")
    write(tmp_path / "classes.csv", "id,name\n0,sky\n1,road\n2,road\n")
    assert open_dataset(tmp_path).label_space.names == ("sky", "road")


def test_lists_win_over_a_table(tmp_path: Path) -> None:
    six(tmp_path)
    write(tmp_path / "split.csv", "filename,subset\n" + _rows("train", "val", "s{i}.jpg,{split}\n"))
    write(tmp_path / "train.txt", "s0\ns1\n")
    assert parts(open_dataset(tmp_path)) == {"train": ["s0", "s1"]}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("folds.csv", "id,fold\n" + "".join(f"s{i},{i % 3}\n" for i in range(6)), "fold holds numbers"),
        ("t.csv", "id,is_train\n" + _rows("1", "0", "s{i},{split}\n"), "not whether the others"),
        ("folds.json", json.dumps([{"train": FIRST, "val": LAST}, {"train": LAST, "val": FIRST}]), "2 divisions"),
        ("split.csv", "id,split\na,train\nb,train\nc,val\n", "0 of its 3 entries"),
    ],
)
def test_a_table_of_splits_that_is_not_read_is_named(tmp_path: Path, name: str, text: str, said: str) -> None:
    six(tmp_path)
    write(tmp_path / name, text)
    data = open_dataset(tmp_path)
    assert not data.given
    assert [p.kind for p in data.problems] == ["list not read"] and said in data.problems[0].message


def test_tables_that_differ_and_names_that_are_missing(tmp_path: Path) -> None:
    six(tmp_path)
    write(tmp_path / "a.csv", "id,split\ns0,train\ns1,train\ns2,val\ns9,val\n")
    write(tmp_path / "b.csv", "id,split\ns0,val\ns1,train\n")
    data = open_dataset(tmp_path)
    assert parts(data) == {"train": ["s0", "s1"], "val": ["s2"]}
    assert {problem.kind for problem in data.problems} == {"listed but missing", "several split lists"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.csv", "id,name\n0,road\n1,train\n2,sky\n"),
        ("results.csv", "id,score\ns0,0.5\ns1,0.1\n"),
        ("settings.json", '{"train": {"epochs": 3}, "val": 0.2}'),
        ("labels.json", '{"train": 1, "road": 0, "sky": 2}'),
        ("notes.csv", "name,remark\ns0,train station\ns1,test\n"),
    ],
)
def test_other_tables_are_no_splits(tmp_path: Path, name: str, text: str) -> None:
    six(tmp_path)
    write(tmp_path / name, text)
    data = open_dataset(tmp_path)
    assert not data.given and not data.problems


def test_a_table_splits_annotations_too(tmp_path: Path) -> None:
    for i in range(3):
        make_image(tmp_path / f"x{i}.jpg", seed=i)
        shape = {"label": "cat", "points": [[1, 1], [9, 1], [9, 9]], "shape_type": "polygon"}
        write(tmp_path / f"x{i}.json", {"shapes": [shape], "imagePath": f"x{i}.jpg", "imageHeight": 12,
                                        "imageWidth": 16})  # fmt: skip
    write(tmp_path / "split.csv", "image,split\nx0.jpg,train\nx1.jpg,train\nx2.jpg,test\n")
    assert parts(open_dataset(tmp_path)) == {"train": ["x0", "x1"], "test": ["x2"]}


@pytest.mark.parametrize("name", ["my photo {}", "Oslo, {}"])
def test_lists_of_names_with_spaces_and_commas(tmp_path: Path, name: str) -> None:
    for i in range(4):
        make_image(tmp_path / f"images/{name.format(i)}.jpg", seed=i)
        mask(tmp_path / f"masks/{name.format(i)}.png", [0, 1])
    write(tmp_path / "train.txt", "".join(f"{name.format(i)}.jpg\n" for i in range(3)))
    write(tmp_path / "val.txt", f"images/{name.format(3)}.jpg\n")
    data = open_dataset(tmp_path)
    assert not data.problems
    assert parts(data) == {"train": [name.format(i) for i in range(3)], "val": [name.format(3)]}


COMMENTED = "# training\n#s3\n# images/s3.jpg\n"


@pytest.mark.parametrize("voc", [False, True])
def test_comments_in_lists_and_images_taken_out_with_a_hash(tmp_path: Path, voc: bool) -> None:
    for i in range(6):
        make_image(tmp_path / f"{'JPEGImages' if voc else 'images'}/s{i}.jpg", seed=i)
        mask(tmp_path / f"{'SegmentationClass' if voc else 'masks'}/s{i}.png", [0, 1, 2])
    lists = tmp_path / ("ImageSets/Segmentation" if voc else "")
    write(lists / "train.txt", COMMENTED + "s0\ns1\ns2\n")
    write(lists / "val.txt", "# two images\ns4\ns5\n")
    data = open_dataset(tmp_path)
    assert not [p for p in data.problems if p.kind != "classes guessed"]
    assert parts(data) == {"train": ["s0", "s1", "s2"], "val": ["s4", "s5"]}


def test_names_that_begin_with_a_hash_are_no_comments(tmp_path: Path) -> None:
    for i in range(4):
        make_image(tmp_path / f"images/#{i}.jpg", seed=i)
        mask(tmp_path / f"masks/#{i}.png", [0, 1])
    write(tmp_path / "train.txt", "#0\n#1.jpg\n#2\n")
    write(tmp_path / "val.txt", "#3\n")
    assert parts(open_dataset(tmp_path)) == {"train": ["#0", "#1", "#2"], "val": ["#3"]}


@pytest.mark.parametrize("base", ["", "coco/"])
def test_names_and_lists_of_a_yolo_yaml_of_any_name(tmp_path: Path, base: str) -> None:
    for i in range(4):
        make_image(tmp_path / f"{base}images/{i}.jpg", seed=i)
        write(tmp_path / f"{base}labels/{i}.txt", "1 0.1 0.1 0.9 0.1 0.9 0.9\n")
    text = "train: autosplit_train.txt\nval: lists/autosplit_val.txt\nnames: {0: cat, 1: dog}\n"
    write(tmp_path / f"{base}pets.yaml", text)
    write(tmp_path / f"{base}autosplit_train.txt", "".join(f"./images/{i}.jpg\n" for i in range(3)))
    write(tmp_path / f"{base}autosplit_val.txt", "./images/3.jpg\n")
    data = open_dataset(tmp_path)
    assert data.format == "yolo" and data.label_space.names == ("background", "cat", "dog")
    assert parts(data) == {"train": ["0", "1", "2"], "val": ["3"]}


def test_a_table_of_classes_per_image_is_no_list_of_pairs(tmp_path: Path) -> None:
    """label 1 of a classification was the mask 1.png of another image."""
    for i in range(6):
        make_image(tmp_path / f"images/{i}.jpg", seed=i)
        mask(tmp_path / f"masks/{i}.png", [0, 1, 2])
    write(tmp_path / "train.csv", "image,label\n" + "".join(f"{i}.jpg,{i % 2}\n" for i in range(6)))
    data = open_dataset(tmp_path)
    assert data.format == "folder"
    assert all(r.mask_path and r.image_path and r.mask_path.stem == r.image_path.stem for r in data.records)
    write(tmp_path / "train.csv", "image,mask\n" + "".join(f"{i},{i}\n" for i in range(6)))
    assert open_dataset(tmp_path).format == "pairs"


def test_run_lengths_by_image_name(tmp_path: Path) -> None:
    make_image(tmp_path / "imgs/a.png")
    write(tmp_path / "train.csv", "image_name,rle\na.png,1 5 20 7\n")
    with pytest.raises(FormatError, match="order of pixels is not known"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.txt", "0 background\n1 train\n"),
        ("names.txt", "0 background\n1 train\n2 test\n"),
        ("labels.json", json.dumps({"0": "train"})),
        ("classes.csv", "id,name\n0,train\n1,test\n"),
    ],
)
def test_a_class_called_train_is_no_split(tmp_path: Path, name: str, text: str) -> None:
    for i in range(6):
        make_image(tmp_path / f"images/{i}.jpg", seed=i)
        mask(tmp_path / f"masks/{i}.png", [0, 1])
    write(tmp_path / name, text)
    data = open_dataset(tmp_path)
    assert not data.given and not [problem for problem in data.problems if "list" in problem.message]


def test_a_table_below_very_many_comments(tmp_path: Path) -> None:
    six(tmp_path)
    write(
        tmp_path / "split.csv",
        "# made by a tool\n" * 150_000 + "# name,split\n" + _rows("train", "val", "s{i},{split}\n"),
    )
    started = time.monotonic()
    assert parts(open_dataset(tmp_path)) == {"train": FIRST, "val": LAST}
    assert time.monotonic() - started < 10  # half a minute where each comment is taken off by a copy of the others
