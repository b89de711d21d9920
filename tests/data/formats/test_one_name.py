"""Datasets whose files all have one name, in folders of their own: neither slow, nor taken for one another."""

from __future__ import annotations

import time
from pathlib import Path

from trees import make_image, mask, write

from segwright.data.dataset import open_dataset
from segwright.data.formats.file_tree import Tree
from segwright.data.formats.name_index import NameIndex
from segwright.data.formats.name_matching import NamedFile
from segwright.data.records import Record

MANY = 3000
SECONDS = 20.0  # the work is done in a tenth of a second; with one comparison per pair of files it took minutes


def scenes(root: Path, count: int) -> list[Record]:
    folders = [root / f"data/scene_{i:05d}/images" for i in range(count)]
    return [Record(str(i), folder / "image.png", folder / "mask.png") for i, folder in enumerate(folders)]


def test_a_line_takes_no_longer_where_all_files_have_one_name(tmp_path: Path) -> None:
    index = NameIndex(Tree(tmp_path), scenes(tmp_path, MANY))
    started = time.monotonic()
    for form in ("data/scene_{:05d}/images/image.png", "x/scene_{:05d}/images/image", "data/scene_{:05d}/image.png"):
        for number in (*range(0, MANY, 3), MANY - 1):
            [record] = index.find(form.format(number)) or []
            assert record.id == str(number)
    for number in range(0, MANY, 3):
        assert index.find(f"lost_{number}/images/image.png") is None
        assert index.find("image.png") == "several"
    assert time.monotonic() - started < SECONDS
    assert index.by_name_alone == {}


def test_the_file_of_a_whole_path_comes_before_longer_paths(tmp_path: Path) -> None:
    paths = [tmp_path / "a/x.png", tmp_path / "b/a/x.png"]
    index = NameIndex(Tree(tmp_path), [Record(str(i), path, None) for i, path in enumerate(paths)])
    assert [[r.id for r in index.find(line) or []] for line in ("a/x.png", "b/a/x.png", "a/x")] == [["0"], ["1"], ["0"]]


def test_comments_of_a_long_list(tmp_path: Path) -> None:
    index = NameIndex(Tree(tmp_path), scenes(tmp_path, 3))
    lines = [f"//server/share/{i}.png" for i in range(20_000)]
    started = time.monotonic()
    assert index.without_comments(lines) == lines  # addresses, for all lines begin so
    assert index.without_comments(["; a", "//b", "# c", "data/scene_00001"]) == ["data/scene_00001"]
    assert time.monotonic() - started < SECONDS / 4


def test_files_of_one_name_have_hashes_of_their_own() -> None:
    files = [NamedFile(f"s{i}", "image.png", f"/data/s{i}", None, f"s{i}", None) for i in range(1000)]
    assert len(set(map(hash, files))) > 990


def test_names_encoded_again_and_again_are_no_crash(tmp_path: Path) -> None:
    for i in range(4):
        make_image(tmp_path / f"images/my {i}.jpg", seed=i)
        mask(tmp_path / f"masks/my {i}.png", [0, 1])
    write(tmp_path / "train.txt", "my%20" + "0\nmy%25201\nmy 2\n" + "%" + "25" * 3000 + "\n")
    write(tmp_path / "val.txt", "my 3\n")
    data = open_dataset(tmp_path)
    assert [record.id for record in data.given["train"]] == ["my 0", "my 1", "my 2"]
    assert [problem.kind for problem in data.problems] == ["listed but missing"]
