"""From names in annotations to files: what is found, what is missing, what is refused, what the walk passes over."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from segwright.core.errors import DataError, FormatError
from segwright.data import text_files
from segwright.data.formats.file_references import Reference, Resolution, resolve_all
from segwright.data.formats.file_tree import Tree
from segwright.data.formats.name_parts import spellings, split_of


def lay(root: Path, *names: str) -> Tree:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return Tree(root)


def ask(tree: Tree, *asked: tuple[str, str, str | None]) -> tuple[list[str | None], Resolution]:
    """(name, annotation, split) to paths relative to the root."""
    found = resolve_all(tree, [Reference(name, tree.root / source, split) for name, source, split in asked])
    return [None if path is None else path.relative_to(tree.root).as_posix() for path in found.paths], found


@pytest.mark.parametrize(
    ("files", "annotation", "split", "name", "expected"),
    [
        ("images/train/x.jpg images/val/x.jpg", "annotations/train.json", "train", "x.jpg", "images/train/x.jpg"),
        ("train/images/x.jpg val/images/x.jpg", "annotations/val.json", "val", "x.jpg", "val/images/x.jpg"),
        ("train2017/x.jpg val2017/x.jpg", "annotations/instances_val2017.json", "val", "x.jpg", "val2017/x.jpg"),
        ("train/x.jpg valid/x.jpg", "valid/_annotations.coco.json", "val", "x.jpg", "valid/x.jpg"),
        ("a/images/x.jpg b/images/x.jpg", "b/annotations/all.json", None, "x.jpg", "b/images/x.jpg"),
        ("JPEGImages/x.jpg", "all.json", "train", "x.jpg", "JPEGImages/x.jpg"),
        ("images/cam1/x.jpg images/cam2/x.jpg", "all.json", None, "cam2/x.jpg", "images/cam2/x.jpg"),
        ("images/cam1/x.jpg images/cam2/x.jpg", "all.json", None, "cam2\\x.jpg", "images/cam2/x.jpg"),
        ("images/x.jpg", "annotations/all.json", None, "../images/x.jpg", "images/x.jpg"),
        ("train/x.jpg val/x.jpg", "train.json", "train", "val/x.jpg", "val/x.jpg"),
        ("train.json/x.jpg all/x.jpg b.jpg", "all.json", None, "x.jpg", "all/x.jpg"),
        ("images/Stra\u00dfe \u00fc.jpg", "all.json", None, "Stra\u00dfe u\u0308.jpg", "images/Stra\u00dfe \u00fc.jpg"),
        ("images/u\u0308.jpg", "all.json", None, "\u00fc.jpg", "images/u\u0308.jpg"),
        ("images/my photo.jpg", "all.json", None, "my%20photo.jpg", "images/my photo.jpg"),
        ("images/50%20.jpg images/50 .jpg", "all.json", None, "50%20.jpg", "images/50%20.jpg"),
        ("images/x.jpg", "all.json", None, "https://host/bucket/images/x.jpg?token=a/b.png", "images/x.jpg"),
        ("images/x.jpg", "all.json", None, "s3://bucket/x.jpg", "images/x.jpg"),
        ("cam/x y.jpg", "all.json", None, "/data/local-files/?d=cam%2Fx%20y.jpg", "cam/x y.jpg"),
        ("images/x.jpg", "all.json", None, "C:\\Users\\me\\project\\images\\x.jpg", "images/x.jpg"),
        ("images/x.jpg", "all.json", None, "file:///C:/project/images/x.jpg", "images/x.jpg"),
        ("images/x.jpg", "all.json", None, "/home/me/photos/x.jpg", "images/x.jpg"),
        ("photos/x.jpg", "export/annotations/all.json", None, "x.jpg", "photos/x.jpg"),
        ("deep/er/x.jpg", "all.json", None, "x.jpg", "deep/er/x.jpg"),
        ("images/IMG_1.JPG", "all.json", None, "img_1.jpg", "images/IMG_1.JPG"),
    ],
)  # fmt: skip
def test_a_name_finds_its_file(
    tmp_path: Path, files: str, annotation: str, split: str | None, name: str, expected: str
) -> None:
    names = files.split(" ") if "y.jpg" not in files and "photo" not in files and "\u00dfe" not in files else [files]
    tree = lay(tmp_path, *(["images/50%20.jpg", "images/50 .jpg"] if "50%20" in files else names))
    assert ask(tree, (name, annotation, split))[0] == [expected]


@pytest.mark.parametrize(
    ("files", "annotation", "split", "name"),
    [
        ("train/x.jpg val/y.jpg", "annotations/val.json", "val", "x.jpg"),  # the other split's
        ("images/train/x.jpg", "annotations/test.json", "test", "x.jpg"),
        ("cam2/x.jpg", "all.json", None, "cam1/x.jpg"),
        ("cam1/y.jpg x.jpg", "all.json", None, "cam1/x.jpg"),  # the folder is there, the file is not in it
        ("siteA/images/y.jpg siteB/images/x.jpg", "siteA/annotations/all.json", None, "x.jpg"),
        ("a/x.jpg b/x.jpg", "all.json", None, "x.jpg"),  # two that fit alike
        ("images/train/x.jpg images/val/x.jpg", "all.json", None, "x.jpg"),
        ("images/x.jpg", "all.json", None, ""),
        ("images/x.jpg", "all.json", None, "http://[bad/y.jpg"),
        ("images/x.jpg", "all.json", None, "x.png"),
        ("images/x.jpg", "all.json", None, "a\0b"),
    ],
)
def test_a_missing_file_is_not_replaced(
    tmp_path: Path, files: str, annotation: str, split: str | None, name: str
) -> None:
    paths, found = ask(lay(tmp_path, *files.split()), (name, annotation, split))
    assert paths == [None]
    assert [problem.severity for problem in found.problems] == ["error"]
    assert found.problems[0].kind in ("image missing", "image ambiguous")


def test_a_looser_match_is_reported_and_takes_no_file_of_another_entry(tmp_path: Path) -> None:
    tree = lay(tmp_path, "images/cam2/000.jpg", "images/cam2/001.jpg")
    asked = [(f"cam{cam}/{i:03d}.jpg", "all.json", None) for cam in (1, 2) for i in (0, 1)]
    paths, found = ask(tree, *asked)
    assert paths == [None, None, "images/cam2/000.jpg", "images/cam2/001.jpg"]
    assert len(found.problems) == 1, found.problems
    problem = found.problems[0]
    assert problem.kind == "image missing" and "2 files" in problem.message and "cam1/000.jpg" in problem.files
    assert "images/cam2" in problem.message, "where files of that name lie that are others'"
    paths, found = ask(
        lay(tmp_path / "flat", "000.jpg"), ("cam1/000.jpg", "a.json", None), ("cam2/000.jpg", "a.json", None)
    )
    assert paths == [None, None], "two entries for one file"
    assert found.problems[0].kind == "image ambiguous"
    paths, found = ask(lay(tmp_path / "one", "000.jpg"), ("cam1/000.jpg", "a.json", None))
    assert paths == ["000.jpg"]
    assert [(p.severity, p.kind) for p in found.problems] == [("warning", "file found by a looser match")]
    assert "cam1/000.jpg → 000.jpg" in found.problems[0].message
    paths, found = ask(tree, ("cam2/000.jpg", "all.json", None), ("cam3/001.jpg", "all.json", None))
    assert paths[1] is None, "other names of the list fit with their folders"


def test_files_that_several_entries_name(tmp_path: Path) -> None:
    tree = lay(tmp_path, "images/x.jpg", "images/y.jpg")
    _, found = ask(tree, ("x.jpg", "a.json", None), ("y.jpg", "a.json", None), ("x.jpg", "b.json", None))
    assert found.shared == {tmp_path / "images/x.jpg": [0, 2]} and not found.problems


def test_an_annotation_file_as_the_root(tmp_path: Path) -> None:
    lay(tmp_path, "annotations/val.json", "val/x.jpg", "train/x.jpg")
    tree = Tree(tmp_path / "annotations/val.json")
    assert resolve_all(tree, [Reference("x.jpg", tree.root, "val")]).paths == [tmp_path / "val/x.jpg"]


def test_splits_by_folder_names() -> None:
    names = {"train2017": "train", "images_val": "val", "imagesTr": "train", "trainannot": "train", "valid": "val",
             "TestImages": "test", "valve": None, "contest": None, "trainval": None, "a/train/b": "train",
             "VOCdevkit": None, "instances_minival2014": "val"}  # fmt: skip
    assert {name: split_of(name) for name in names} == names


def test_spellings_are_literal_first() -> None:
    assert [s.path for s in spellings("a%20b.jpg")] == ["a%20b.jpg", "a b.jpg"]
    assert spellings("./a/../b/x.jpg")[0].path == "b/x.jpg"
    assert all(s.absolute for s in spellings("D:\\x\\y.jpg"))


def test_links_are_recognized(tmp_path: Path) -> None:
    lay(tmp_path / "data", "images/x.jpg", "raw/a/y.jpg")
    lay(tmp_path / "disk", "z.jpg")
    for i in range(10):
        os.symlink(".", tmp_path / f"data/l{i}")
    os.symlink("..", tmp_path / "data/images/up")
    os.symlink("images", tmp_path / "data/alias")
    os.symlink("/", tmp_path / "data/all")
    os.symlink(tmp_path / "disk", tmp_path / "data/one")
    os.symlink(tmp_path / "disk", tmp_path / "data/two")
    os.symlink("nothing", tmp_path / "data/images/gone.jpg")
    (tmp_path / "data/train").mkdir()
    os.symlink("../raw/a", tmp_path / "data/train/images")
    tree = Tree(tmp_path / "data")
    found = [f"{relative}/{name}" for relative, listing in tree.walk() for name in listing.files]
    assert found == ["images/gone.jpg", "images/x.jpg", "one/z.jpg", "raw/a/y.jpg", "train/images/y.jpg"]
    [problem] = tree.problems()
    assert problem.severity == "note" and problem.message.startswith("14 links")


def test_special_files_are_neither_listed_nor_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = lay(tmp_path, "images/x.jpg")
    os.mkfifo(tmp_path / "train.txt")
    os.symlink("/dev/zero", tmp_path / "list.json")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)  # the path of a socket is short
        server.bind("socket.jpg")
    assert [listing.files for _, listing in tree.walk()] == [(), ("x.jpg",)]
    [problem] = tree.problems()
    assert problem.kind == "special file" and problem.severity == "warning" and len(problem.files) == 3
    for name in ("train.txt", "list.json", "images"):
        with pytest.raises(DataError, match=r"not a regular file|cannot be opened"):
            text_files.read_bytes(tmp_path / name)
        assert text_files.read_ends(tmp_path / name) == ""
    with pytest.raises(FormatError, match="neither a file nor a folder"):
        Tree(tmp_path / "train.txt")


def test_run_folders_are_passed_over(tmp_path: Path) -> None:
    run = ("runs/1/config.yaml", "runs/1/log.jsonl", "runs/1/worst/a.png")
    bundle = ("mine/model/model.json", "mine/model/model.safetensors", "mine/model/b.png")
    tree = lay(tmp_path, "images/x.jpg", *run, *bundle, "run/config.yaml")
    assert [relative for relative, _ in tree.walk()] == ["", "images", "mine", "run"]
    assert [problem.kind for problem in tree.problems()] == ["run folder"]


def test_a_flood_of_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = lay(tmp_path, *(f"{i}/x.jpg" for i in range(20)))
    monkeypatch.setattr("segwright.data.formats.file_tree.MAX_FOLDERS", 10)
    with pytest.raises(DataError, match="more files than the limit"):
        list(tree.walk())


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
def test_unicode_encodings_are_read(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes('{"name": "Straße 道路"}'.encode(encoding))
    assert text_files.read_json(path) == {"name": "Straße 道路"}
    assert text_files.read_text(path) == text_files.read_ends(path) == '{"name": "Straße 道路"}'


def test_a_legacy_encoding_is_refused_with_its_readings(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes('{"label": "道路", "n": 1}'.encode("gb18030"))
    with pytest.raises(FormatError, match="not encoded in UTF-8") as caught:
        text_files.read_json(path)
    assert "'道路' as gb18030" in str(caught.value) and "iconv -f" in str(caught.value)


def test_bounds_of_text_files(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"[" * 200_000)
    with pytest.raises(FormatError, match="not a JSON file"):
        text_files.read_json(path)
    with pytest.raises(DataError, match="larger than the limit"):
        text_files.read_text(path, limit=1000)
    with pytest.raises(DataError, match="cannot be opened"):
        text_files.read_text(tmp_path / "none.txt")
