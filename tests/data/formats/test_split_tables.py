"""Splits that a table states: a CSV with a column of splits, a JSON of names per split."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from trees import make_image, mask, write

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
