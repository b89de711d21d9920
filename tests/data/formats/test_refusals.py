"""What is not read is named, with what to export instead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from trees import make_image, mask, write

from segwright.core.errors import FormatError
from segwright.data.dataset import open_dataset
from segwright.data.formats import refusals
from segwright.data.formats.file_tree import Tree

IMAGES = ("images/a.jpg", "images/b.jpg")

TEXTS: list[tuple[str, str, Any]] = [
    (
        "Labelbox",
        "export.ndjson",
        '{"data_row": {"id": "1", "external_id": "a.jpg"}, "projects": {"p": {"labels": []}}}',
    ),
    ("Labelbox", "export.json", [{"ID": "1", "Labeled Data": "https://x/a.jpg", "External ID": "a.jpg", "Label": {}}]),
    ("Scale AI", "tasks.json", [{"task_id": "5f", "type": "segmentannotation", "response": {"annotations": {}}}]),
    ("SageMaker", "output.manifest", '{"source-ref": "s3://b/a.jpg", "boxes": {"annotations": []}}\n'),
    (
        "Segments.ai",
        "release.json",
        {"name": "v1", "dataset": {"task_type": "segmentation-bitmap", "samples": [{"name": "a.jpg"}]}},
    ),
    (
        "Datumaro",
        "annotations/default.json",
        {"info": {}, "categories": {"label": {"labels": []}}, "items": [{"id": "a", "annotations": []}]},
    ),
    ("FiftyOne", "samples.json", {"samples": [{"_id": "1", "filepath": "data/a.jpg", "_media_type": "image"}]}),
    ("Image Annotator 3", "via3.json", {"project": {"pid": "x"}, "config": {}, "file": {}, "metadata": {}, "view": {}}),
    ("SuperAnnotate", "a.jpg.json", {"metadata": {"name": "a.jpg"}, "instances": [{"className": "car", "points": []}]}),
    (
        "boxes",
        "labels/a.xml",
        "<annotation><object><name>car</name><bndbox><xmin>1</xmin></bndbox></object></annotation>",
    ),
    ("Create ML", "_annotations.createml.json", [{"image": "a.jpg", "annotations": [{"coordinates": {"x": 1}}]}]),
    ("Kili", "kili.json", [{"externalId": "a", "jsonResponse": {}}]),
]


@pytest.mark.parametrize(("word", "name", "data"), TEXTS, ids=[f"{word}-{name}" for word, name, _ in TEXTS])
@pytest.mark.parametrize("alone", [False, True])
def test_annotation_files_of_other_tools_are_named(
    tmp_path: Path, word: str, name: str, data: Any, alone: bool
) -> None:
    for image in IMAGES:
        make_image(tmp_path / image)
    path = write(tmp_path / name, data)
    with pytest.raises(FormatError) as caught:
        open_dataset(path if alone else tmp_path)
    assert word.lower() in str(caught.value).lower() and caught.value.fix


@pytest.mark.parametrize(
    ("word", "names"),
    [
        ("NIfTI", ("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")),
        ("DICOM", ("scan/0001.dcm", "scan/0002.dcm")),
        ("TFRecord", ("train-00000-of-00010.tfrecord",)),
        ("TFRecord", ("train.tfrecord-00000-of-00010",)),
        ("LMDB", ("train/data.mdb", "train/lock.mdb")),
        ("HDF5", ("data.h5",)),
        ("videos", ("drive.mp4",)),
        ("pickled", ("masks.pkl",)),
        ("layered", ("a.psd",)),
    ],
)
def test_files_that_are_no_images_are_named(tmp_path: Path, word: str, names: tuple[str, ...]) -> None:
    for name in names:
        write(tmp_path / name, "x")
    for place in (tmp_path, tmp_path / names[0]):
        with pytest.raises(FormatError, match=word):
            open_dataset(place)


def test_dicom_without_endings_is_told_by_its_first_bytes(tmp_path: Path) -> None:
    for i in range(2):
        (tmp_path / f"IM{i}").write_bytes(bytes(128) + b"DICM" + bytes(200))
    with pytest.raises(FormatError, match="DICOM"):
        open_dataset(tmp_path)


def test_label_studios_masks_without_their_json(tmp_path: Path) -> None:
    make_image(tmp_path / "street.jpg")
    for task in (1, 2):
        mask(tmp_path / f"task-{task}-annotation-{task}-by-1-tag-Road-0.png", [0, 255])
    found = refusals.hint(Tree(tmp_path))
    assert found is not None and "Label Studio" in str(found) and "2 tasks, labels Road" in str(found)


@pytest.mark.parametrize("split", [True, False])
def test_folders_of_a_classification_set_are_named(tmp_path: Path, split: bool) -> None:
    for name in ("cat", "dog"):
        for i in range(3):
            make_image(tmp_path / (f"train/{name}/{i}.jpg" if split else f"{name}/{i}.jpg"), seed=i)
    with pytest.raises(FormatError, match="image classification"):
        open_dataset(tmp_path)


def test_folders_of_which_one_could_hold_the_masks_are_no_classes(tmp_path: Path) -> None:
    for name in ("alpha", "beta"):
        for i in range(3):
            make_image(tmp_path / f"{name}/{i}.png", seed=i)
    assert refusals.class_folders(Tree(tmp_path)) is None


def test_what_is_read_is_not_refused(tmp_path: Path) -> None:
    for i in range(3):
        make_image(tmp_path / f"images/{i}.jpg", seed=i)
        mask(tmp_path / f"masks/{i}.png", [0, 1])
    write(tmp_path / "preview.mp4", "x")
    write(tmp_path / "export.json", json.dumps([{"task_id": "1", "response": {}}]))
    assert open_dataset(tmp_path).format == "folder"


def test_an_empty_folder_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no dataset recognized") as caught:
        open_dataset(tmp_path)
    assert "segwright datasets" in str(caught.value) and len(str(caught.value).splitlines()) == 4
