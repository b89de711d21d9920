"""One reading of the data serves splits, folds, the check and oversampling."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from counting import count_decodes, decodes, without_splits

from segwright.data.check.dataset_scan import existing_scan, scan_dataset
from segwright.data.check.runner import check_dataset
from segwright.data.dataset import Split
from segwright.data.grouping import content, thumbnail
from segwright.data.loading.sampling import classes_shown
from segwright.data.splits import folds


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
