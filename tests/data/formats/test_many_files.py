"""Datasets of very many files, of one name in folders of their own too: neither slow, nor taken for one another."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from trees import make_image, mask, write

from segwright.data.dataset import open_dataset
from segwright.data.formats.file_references import Reference, resolve_all
from segwright.data.formats.file_tree import Folder, Tree
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


@pytest.mark.parametrize("start", ["/home/me/", "C:/Users/me/", "s3://bucket/"])
def test_whole_paths_of_another_machine_are_found_by_name(tmp_path: Path, start: str) -> None:
    index = NameIndex(Tree(tmp_path), [Record("0", tmp_path / "siteA/images/x.png", None)])
    assert [record.id for record in index.find(f"{start}project/x.png") or []] == ["0"] and index.by_name_alone
    assert index.find("siteB/x.png") is None


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


class Scenes(Tree):
    """Listings of folders with an image each, without the disk."""

    def walk(self, relative: str = "", depth: int = 8) -> Iterator[tuple[str, Folder]]:
        for i in range(MANY):
            yield f"scene_{i:05d}", Folder(str(self.root / f"scene_{i:05d}"), (), ("image.png",))


def test_a_name_takes_no_longer_where_all_files_have_one_name(tmp_path: Path) -> None:
    tree = Scenes(tmp_path)
    started = time.monotonic()
    found = resolve_all(tree, [Reference(f"/home/x/scene_{i:05d}/IMAGE.png") for i in range(MANY)])
    assert found.paths == [tmp_path / f"scene_{i:05d}/image.png" for i in range(MANY)]
    lost = resolve_all(tree, [Reference(f"/home/x/lost_{i:05d}/image.png") for i in range(MANY)])
    assert not any(lost.paths) and len(lost.missing) == MANY and not lost.ambiguous
    unsure = resolve_all(tree, [Reference("/home/x/images/image.png") for _ in range(MANY)])
    assert not any(unsure.paths) and len(unsure.ambiguous) == MANY
    assert time.monotonic() - started < SECONDS


def _yolo(root: Path, count: int) -> None:
    for i in range(count):
        write(root / f"labels/{i}.txt", "0 0.1 0.1 0.5 0.5 0.1 0.5\n")
        (root / f"images/{i}.jpg").touch()
        (root / f"images/{i}.png").touch()


def _panoptic(root: Path, count: int) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i in range(count):
        (root / f"val2017/{i}.jpg").touch()
        (root / f"annotations/panoptic_val2017/{i}.png").touch()
        images.append({"id": i, "file_name": f"{i}.jpg", "height": 12, "width": 16})
        annotations.append({"image_id": i, "file_name": f"{i}.png", "segments_info": [{"id": 1, "category_id": 1}]})
    categories = [{"id": 1, "name": "a", "isthing": 1}]
    page = {"images": images, "annotations": annotations, "categories": categories}
    write(root / "annotations/panoptic_val2017.json", page)


def _voc_boxes(root: Path, count: int) -> None:
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>4</ymax></bndbox>"
    for i in range(count):
        (root / f"JPEGImages/{i}.jpg").touch()
        write(root / f"Annotations/{i}.xml", f"<annotation><object><name>a</name>{box}</object></annotation>")


@pytest.mark.parametrize(
    ("make", "few", "folders", "labels"),
    [
        (_yolo, 750, ("images",), None),
        (_panoptic, 750, ("val2017", "annotations/panoptic_val2017"), None),
        (_voc_boxes, 300, ("JPEGImages",), {"boxes": "fill"}),
    ],
)
def test_eight_times_the_files_take_eight_times_the_time(
    tmp_path: Path, make: Callable[[Path, int], None], few: int, folders: tuple[str, ...], labels: dict[str, str] | None
) -> None:
    seconds = []
    for count in (few, 8 * few):
        root = tmp_path / str(count)
        for folder in folders:
            (root / folder).mkdir(parents=True)
        make(root, count)
        started = time.process_time()
        open_dataset(root, labels=labels)
        seconds.append(time.process_time() - started)
    assert seconds[1] < 12 * seconds[0] + 0.5  # 8 times the files; of comparisons of each with each 64 times
