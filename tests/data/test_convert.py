"""Any format into any other: every pixel, id, split and class stays as it was."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

from segwright.core.errors import OutputError, UsageError
from segwright.data.convert import WRITERS, convert, lossy_aspects
from segwright.data.dataset import Dataset, open_dataset
from segwright.data.formats.writing import safe_names, split_names
from segwright.imageio import write_image, write_mask

CLASSES = "id,name,r,g,b\n0,grass & <hills>,0,160,0\n1,water,0,0,200\n2,Ürban,90,90,90\n255,ignore,0,0,0\n"


def make_source(root: Path, *, background: bool, splits: bool) -> Dataset:
    """Eight images with blobs, holes, ignored pixels, odd names; one without a mask in the test part."""
    rng = np.random.default_rng(3)
    text = CLASSES.replace("grass & <hills>", "background") if background else CLASSES
    root.mkdir(parents=True)
    (root / "classes.csv").write_text(text, encoding="utf-8")
    for i, name in enumerate(["a", "b 2", "ü-3", "x_0004", "x_0005", "no mask", "k.7", "8"]):
        split = ("train", "train", "train", "train", "val", "test", "val", "train")[i] if splits else ""
        height, width = 17 + i, 23 - i
        write_image(root / "images" / split / f"{name}.png", rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        if name == "no mask":
            continue
        mask = np.kron(rng.integers(0, 3, (5, 5)), np.ones((6, 6), np.int64))[:height, :width].astype(np.uint8)
        mask[4:9, 4:9] = 2
        mask[5:7, 5:7] = 255
        mask[0, 0] = 0
        if name == "8":
            mask[:] = 255  # everything ignored
        write_mask(root / "masks" / split / f"{name}.png", mask)
    return open_dataset(root)


def contents(dataset: Dataset) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    return {s.id: (s.image, s.mask) for s in dataset}


def check_same(before: Dataset, after: Dataset, *, unlabeled: str) -> None:
    assert after.label_space.names == before.label_space.names
    assert after.label_space.colors == before.label_space.colors
    old, new = contents(before), contents(after)
    names = dict(zip(old, safe_names(list(old)), strict=True))
    if unlabeled == "left out":
        names = {identity: name for identity, name in names.items() if old[identity][1] is not None}
    assert set(new) == set(names.values())
    for identity, name in names.items():
        assert np.array_equal(old[identity][0], new[name][0]), identity
        mask = old[identity][1]
        if mask is None and unlabeled != "none":
            background = "background" in after.label_space.names
            fill = 0 if background and unlabeled == "background" else 255
            mask = np.full(old[identity][0].shape[:2], fill, np.uint8)
        if mask is None:
            assert new[name][1] is None
        else:
            assert new[name][1] is not None and np.array_equal(mask, new[name][1]), identity
    kept = {split: {names[r.id] for r in records if r.id in names} for split, records in before.given.items()}
    assert {split: {r.id for r in records} for split, records in after.given.items()} == {
        split: records for split, records in kept.items() if records
    }


# What an image without a mask becomes: coco and cvat cannot say "not annotated", labelme has no JSON for it.
UNLABELED = {"coco": "ignored", "cvat": "background", "labelme": "left out"}


TRUE_PROBLEMS = {"image without mask", "no objects"}  # the source has such images


@pytest.mark.parametrize("background", [False, True], ids=["", "background"])
@pytest.mark.parametrize("to", list(WRITERS))
def test_every_format_keeps_every_pixel(tmp_path: Path, to: str, background: bool) -> None:
    if to == "hf":
        pytest.importorskip("pyarrow")
    source = make_source(tmp_path / "source", background=background, splits=True)
    out = convert(source, to, tmp_path / "out")
    again = open_dataset(out)
    assert again.format == to and {problem.kind for problem in again.problems} <= TRUE_PROBLEMS
    check_same(source, again, unlabeled=UNLABELED.get(to, "none"))


@pytest.mark.parametrize("to", list(WRITERS))
@pytest.mark.parametrize("start", list(WRITERS))
def test_every_pair_of_formats(tmp_path: Path, start: str, to: str) -> None:
    if "hf" in (start, to):
        pytest.importorskip("pyarrow")
    source = make_source(tmp_path / "source", background=True, splits=False)
    first = open_dataset(convert(source, start, tmp_path / "first"))
    second = open_dataset(convert(first, to, tmp_path / "second"))
    assert second.format == to
    assert {problem.kind for data in (first, second) for problem in data.problems} <= TRUE_PROBLEMS
    check_same(first, second, unlabeled=UNLABELED.get(to, "none"))


def test_bytes_of_images_are_copied(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", background=False, splits=False)
    convert(source, "voc", tmp_path / "out")
    assert (tmp_path / "out/JPEGImages/a.png").read_bytes() == (tmp_path / "source/images/a.png").read_bytes()


def test_shards_are_reproducible(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", background=False, splits=True)
    one, two = convert(source, "webdataset", tmp_path / "one"), convert(source, "webdataset", tmp_path / "two")
    assert sorted(p.name for p in one.iterdir()) == [
        "classes.csv", "test-000000.tar", "train-000000.tar", "val-000000.tar",
    ]  # fmt: skip
    assert all(path.read_bytes() == (two / path.name).read_bytes() for path in one.iterdir())


def test_a_failed_conversion_leaves_nothing(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", background=False, splits=False)
    path = next(record.mask_path for record in source.records if record.id == "x_0004")
    assert path is not None
    path.write_bytes(b"broken")
    with pytest.raises(Exception, match="x_0004"):
        convert(source, "coco", tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source"]


def test_wrong_targets_are_refused(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", background=False, splits=False)
    with pytest.raises(UsageError, match="voc"):
        convert(source, "tfrecord", tmp_path / "out")
    with pytest.raises(UsageError, match="not empty"):
        convert(source, "voc", tmp_path / "source")
    (tmp_path / "file").write_text("dear")
    with pytest.raises(UsageError, match="a file is in place of the new folder"):
        convert(source, "voc", tmp_path / "file")


def test_safe_names() -> None:
    names = safe_names(["a/b", "a_b", "A_B", "x.tar.gz", "..", "n" * 400, "ü", "\x00"])
    assert len({name.casefold() for name in names}) == len(names)
    assert all(name and "/" not in name and "." not in name and len(name.encode()) < 200 for name in names)
    assert names[0] == "a_b" and names[6] == "ü"


def test_coco_is_what_pycocotools_reads(tmp_path: Path) -> None:
    tools = pytest.importorskip("pycocotools.coco")
    source = make_source(tmp_path / "source", background=False, splits=False)
    out = convert(source, "coco", tmp_path / "out")
    coco = tools.COCO(str(out / "annotations/instances_all.json"))
    masks = {s.id: s.mask for s in source}
    for image in coco.loadImgs(coco.getImgIds()):
        mask = masks.get(Path(image["file_name"]).stem.replace("k_7", "k.7"))
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=image["id"])):
            assert np.array_equal(coco.annToMask(annotation), mask == annotation["category_id"] - 1)
            assert annotation["area"] == int((mask == annotation["category_id"] - 1).sum())


def test_what_is_lost_is_said_before_writing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make_source(tmp_path / "in", background=True, splits=True)
    assert [line.partition(" ")[0] for line in lossy_aspects(source, "folder")] == ["1"], "a name with a dot"
    assert any("1 image without a mask become ignored" in line for line in lossy_aspects(source, "coco"))
    assert any("1 image without a mask become background" in line for line in lossy_aspects(source, "cvat"))
    assert any("without JSON" in line for line in lossy_aspects(source, "labelme"))
    convert(source, "coco", tmp_path / "coco")
    assert "become ignored all over" in capsys.readouterr().err
    again = open_dataset(tmp_path / "coco")
    assert any("single objects are not kept apart" in line for line in lossy_aspects(again, "folder"))
    doubled = replace(source, given={**source.given, "trainval": source.records}, split_maker=None)
    assert any("8 images are in several splits" in line for line in lossy_aspects(doubled, "folder"))
    assert not any("several splits" in line for line in lossy_aspects(doubled, "voc"))


def test_deep_images_stay_deep_where_files_are_copied(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in "ab":
        for folder in ("images", "masks"):
            (tmp_path / "in" / folder).mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(tmp_path / f"in/images/{name}.tif", rng.integers(0, 4000, (12, 16, 5)).astype(np.uint16),
                         planarconfig="contig", photometric="minisblack")  # fmt: skip
        write_mask(tmp_path / f"in/masks/{name}.png", rng.integers(0, 2, (12, 16)).astype(np.uint8))
    source = open_dataset(tmp_path / "in")
    for to in WRITERS:
        said = any("8-bit colors" in line for line in lossy_aspects(source, to))
        assert said == (to in ("webdataset", "hf")), to
        if said:
            continue
        after = open_dataset(convert(source, to, tmp_path / to))
        for one, other in zip(source, after, strict=True):
            assert np.array_equal(one.image, other.image) and np.array_equal(one.mask, other.mask), to
        raw = [data.reader.read_bands(data.records[0]) for data in (source, after)]
        assert np.array_equal(*raw) and raw[0].dtype == np.uint16 and after.value_range == source.value_range, to


HOSTILE_SPLITS = ("../../escaped", "/tmp/absolute", "..", "a/b", "C:\\x", "nul\0", "\x1b[2J", "")


@pytest.mark.parametrize("to", list(WRITERS))
def test_names_of_splits_and_classes_stay_inside_the_folder(
    tmp_path: Path, to: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever a list calls a split, files go nowhere but into --out; and no two splits become one."""
    if to == "hf":
        pytest.importorskip("pyarrow")
    source = make_source(tmp_path / "deep" / "er" / "source", background=True, splits=False)
    labeled = [record for record in source.records if record.labeled]
    source.given = {name: [labeled[i % len(labeled)]] for i, name in enumerate(HOSTILE_SPLITS[: len(labeled)])}
    before = set(tmp_path.rglob("*"))
    existed = Path("/tmp/absolute").exists()
    out = convert(source, to, tmp_path / "deep" / "er" / "out")
    new = set(tmp_path.rglob("*")) - before
    assert new and all(path == out or out in path.parents for path in new)
    assert Path("/tmp/absolute").exists() == existed
    assert not any("\x1b" in str(path) for path in new)
    assert len(split_names(source)) == len(set(split_names(source).values())) == len(source.given)
    assert "splits are renamed" in capsys.readouterr().err
    if to not in ("voc", "labelme", "folder"):
        assert len(open_dataset(out)) == len(source.records)


def test_names_that_are_no_unicode_and_classes_with_control_characters(tmp_path: Path) -> None:
    assert safe_names(["a\udcff", "b\x9b", "\udcff"]) == ["a", "b", "image"]
    source = make_source(tmp_path / "source", background=True, splits=False)
    space = replace(source.label_space, names=("background", "x\x1b[2J\n", "z"))
    for to in ("cvat", "coco", "labelme", "folder", "voc"):
        again = open_dataset(convert(source.with_label_space(space), to, tmp_path / to))
        assert again.label_space.names == ("background", "x\\x1b[2J\\n", "z"), to


def test_an_output_is_never_part_of_the_input(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", background=True, splits=False)
    for out in (tmp_path / "source" / "new", tmp_path / "source" / "a" / ".." / "new"):
        with pytest.raises(UsageError, match="inside the dataset"):
            convert(source, "voc", out)
    for out in (tmp_path / "source", tmp_path / "source" / "images"):
        with pytest.raises(UsageError):
            convert(source, "voc", out)
    assert not (tmp_path / "source" / "new").exists() and len(open_dataset(tmp_path / "source")) == 8


def test_what_cannot_be_written_is_a_typed_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_source(tmp_path / "source", background=True, splits=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="a file exists in place of a folder"):
        convert(source, "voc", tmp_path / "file" / "out")

    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr("segwright.data.formats.voc.write_bytes", full)
    with pytest.raises(OutputError, match="free some space") as told:
        convert(source, "voc", tmp_path / "out")
    assert told.value.where == str(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("source", "file")] == []
