"""One reading of the data serves splits, folds, the check and oversampling."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from counting import count_decodes, decodes, without_splits

from segwright.data.check.dataset_scan import _while_time_is_left, existing_scan, scan_dataset
from segwright.data.check.runner import CheckResult, check_dataset
from segwright.data.dataset import Split, open_dataset
from segwright.data.grouping import content, thumbnail
from segwright.data.loading.sampling import classes_shown
from segwright.data.records import Record
from segwright.data.splits import folds
from segwright.demo.dataset import write_street_scenes
from segwright.imageio import write_mask


@pytest.mark.parametrize("workers", [0, 2])
def test_everything_before_training_decodes_each_file_once(tmp_path: Path, workers: int) -> None:
    data = without_splits(tmp_path / "scenes")
    count_decodes(data, tmp_path / "log")
    if workers == 0:
        check_dataset(data, workers=0)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 10, "val": 2}
    result = check_dataset(data, workers=workers)
    folds(data, 3)
    shown = classes_shown(data.train, scan=existing_scan(data))
    check_dataset(data, workers=workers)
    expected = {f"{what} {record.id}" for record in data.records for what in ("image", "mask")}
    found = decodes(tmp_path / "log")
    assert set(found) == expected and set(found.values()) == {1}
    assert result.fingerprint is not None and result.images == 12
    assert (shown == classes_shown(data.train)).all(), "as from the masks themselves"


def test_a_changed_file_or_another_split_is_read_again(tmp_path: Path) -> None:
    data = without_splits(tmp_path / "scenes", 4)
    first = scan_dataset(data, workers=0)
    assert scan_dataset(data, workers=0) is first
    path = data.records[0].image_path
    assert path is not None
    os.utime(path, (1, 1))
    second = scan_dataset(data, workers=0)
    assert second is not first
    path.unlink()
    assert check_dataset(data, workers=0).errors
    data.given = {"train": data.records[:2], "test": data.records[2:]}
    assert set(scan_dataset(data, workers=0).by_split) == {"train", "test"}
    assert existing_scan(data.with_label_space(data.label_space)) is None, "other labels, other numbers"


def test_the_content_of_a_split_is_that_of_its_images(tmp_path: Path) -> None:
    data = without_splits(tmp_path / "scenes", 6)
    broken = data.records[2].mask_path
    assert broken is not None
    broken.write_bytes(broken.read_bytes()[:50])
    part = Split("some", [data.records[i] for i in (4, 2, 0)], data.reader)
    scan = scan_dataset(data, workers=0)
    for found in (content(part, scan), content(part)):
        for row in (0, 2):
            thumb, gray = thumbnail(part.read_image(row))
            assert np.allclose(found.thumbnails[row], thumb, atol=1e-6) and found.gray[row] == pytest.approx(gray)
            mask = part.read_mask(row)
            assert mask is not None
            classes = len(data.label_space)
            assert found.pixels[row].tolist() == np.bincount(mask.ravel(), minlength=256)[:classes].tolist()
        assert not found.thumbnails[1].any() and np.isnan(found.gray[1]) and not found.pixels[1].any()


def test_a_split_with_other_records_is_read_by_itself(tmp_path: Path) -> None:
    data = without_splits(tmp_path / "scenes", 6)
    data.given = {"train": data.records[:3]}
    scan = scan_dataset(data, workers=0)
    assert scan.rows(data.all) is None and content(data.all, scan).gray.shape == (6,)
    count_decodes(data, tmp_path / "log")
    shown = classes_shown(Split("all", data.records, data.reader), scan=scan)
    assert shown.shape[0] == 6 and sum(decodes(tmp_path / "log").values()) == 6


def test_without_time_some_images_of_every_split_are_read(tmp_path: Path) -> None:
    """The rest is counted, not judged, and the next caller with time reads all of it."""
    root = write_street_scenes(tmp_path / "scenes", train=30, val=10, test=6, size=(64, 64))
    for path in (root / "masks" / "test").iterdir():
        path.unlink()
    data = open_dataset(root)
    count_decodes(data, tmp_path / "log")
    scan = scan_dataset(data, workers=0, seconds=0.0)
    assert existing_scan(data) is None
    read = {line.removeprefix("image ") for line in decodes(tmp_path / "log") if line.startswith("image ")}
    assert read == {record.id for record, seen in zip(scan.records, scan.examined, strict=True) if seen}
    assert {name: found.examined for name, found in scan.by_split.items()} == {"train": 4, "val": 4, "test": 4}
    assert {name: found.images for name, found in scan.by_split.items()} == {"train": 30, "val": 10, "test": 6}

    result = check_dataset(data, workers=0, seconds=0.0)
    (note,) = [note for note in result.notes if "examined" in note]
    assert note.startswith("12 of 46 images examined") and note == result.sample_note() and result.examined == 12
    assert (result.images, result.splits) == (46, {"train": 30, "val": 10, "test": 6})
    assert not result.errors, "images of test have no mask, examined or not, and that is no error"
    again = CheckResult.from_json(json.loads(json.dumps(result.to_json())), data)
    assert again.sample_note() == note and again.examined == 12

    whole = check_dataset(data, workers=0, seconds=60.0)
    assert whole.examined is None and not whole.sample_note() and existing_scan(data) is not None
    assert check_dataset(data, workers=0, seconds=0.0).examined is None, "what is known is used"


def test_what_the_others_may_show_is_not_concluded_from_some(tmp_path: Path) -> None:
    root = write_street_scenes(tmp_path / "scenes", train=40, val=8, test=0, size=(64, 64))
    for path in (root / "masks" / "train").iterdir():
        write_mask(path, np.zeros((64, 64), np.uint8))
    whole = check_dataset(open_dataset(root), workers=0)
    assert {"one class only"} <= {problem.kind for problem in whole.errors}
    some = check_dataset(open_dataset(root), workers=0, seconds=0.0)
    found = {problem.kind: problem for problem in some.problems}
    assert found["one class only"].severity == "warning" and "in the images examined" in found["one class only"].message
    assert not {"class without pixels", "class in one split only", "stray value", "hardly any pixels"} & set(found)


@pytest.mark.parametrize("count", [10, 100, 367])
def test_however_far_the_reading_comes_it_is_spread(count: int) -> None:
    records = [Record(str(i), None) for i in range(count)]
    member = [("train",) if i < 0.8 * count else ("val",) for i in range(count)]
    order = [int(record.id) for record in _while_time_is_left(records, member, math.inf)]
    assert sorted(order) == list(range(count))
    for examined in range(10, count, 9):
        taken = np.sort(order[:examined])
        gaps = np.diff([-1, *taken, count])
        assert gaps.max() <= 3 * count / examined + 1
        assert abs(np.mean(taken % 2) - 0.5) < 0.15 + 2 / examined, "not every other camera alone"
