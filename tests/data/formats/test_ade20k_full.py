"""ADE20K's full release: classes in two channels, names in JSON, more classes than a label space holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trees import make_image, mask, write

from segwright.core.errors import LabelError
from segwright.data.dataset import open_dataset
from segwright.imageio import write_image


def coded(path: Path, numbers: list[int], size: tuple[int, int] = (12, 16)) -> None:
    """Class numbers in stripes, two instances of each."""
    values = np.array(numbers)[np.arange(size[1]) * len(numbers) // size[1]][None].repeat(size[0], axis=0)
    instance = np.where(values > 0, (np.arange(size[0]) // 6)[:, None] + 1, 0)
    write_image(path, np.dstack([values // 256 * 10, values % 256, instance]).astype(np.uint8))


def release(root: Path, numbers: list[int], names: dict[int, str] | None = None) -> None:
    for part, short in (("training", "train"), ("validation", "val")):
        for i in range(3):
            base = root / f"ADE20K_2021_17_01/images/ADE/{part}/urban/street/ADE_{short}_{i:08d}"
            make_image(base.with_suffix(".jpg"), seed=i)
            coded(base.with_name(f"{base.name}_seg.png"), numbers)
            mask(base.with_name(f"{base.name}_parts_1.png"), [0, 1])
            mask(base / f"instance_000_{base.name}.png", [0, 255])
            objects = [{"name": n, "name_ndx": k, "parts": {"part_level": 0}} for k, n in (names or {}).items()]
            objects += [{"name": "wheel", "name_ndx": 2978, "parts": {"part_level": 1}}] if names else []
            write(base.with_suffix(".json"), {"annotation": {"filename": base.name, "object": objects}})


def row(data: Any) -> list[str]:
    found = next(m for m in map(data.all.read_mask, range(len(data))) if m is not None)
    names = data.label_space.names
    return list(dict.fromkeys("ignored" if v == 255 else names[v] for v in found[0].tolist()))


def test_classes_are_numbers_of_two_channels_named_by_the_json(tmp_path: Path) -> None:
    release(tmp_path, [0, 401, 976, 2684], {401: "building, edifice", 976: "door", 2684: "sky"})
    data = open_dataset(tmp_path)
    assert data.format == "ade20k_full" and row(data) == ["ignored", "building", "door", "sky"]
    assert data.label_space.names == ("building", "door", "sky")
    assert {name: len(records) for name, records in data.given.items()} == {"train": 3, "val": 3}
    assert any("masks of parts (6), masks per instance (6)" in note for note in data.notes) and not data.problems


def test_without_descriptions_classes_are_numbers(tmp_path: Path) -> None:
    release(tmp_path, [0, 401, 976])
    assert row(open_dataset(tmp_path)) == ["ignored", "class 401", "class 976"]


def test_a_class_list_chooses_classes_and_the_rest_is_ignored(tmp_path: Path) -> None:
    release(tmp_path, [0, 401, 976, 2684])
    write(tmp_path / "classes.csv", "id,name\n2684,sky\n401,building\n")
    data = open_dataset(tmp_path)
    assert row(data) == ["ignored", "building", "sky"]
    assert data.label_space.names == ("sky", "building")
    assert any("all others are ignored" in note for note in data.notes)


def test_more_classes_than_a_label_space_holds_are_refused(tmp_path: Path) -> None:
    release(tmp_path, [1], {number: f"name {number}" for number in range(1, 300)})
    with pytest.raises(LabelError, match=r"299 classes[\s\S]*classes\.csv"):
        open_dataset(tmp_path)


def test_a_mask_that_was_made_gray_is_an_error(tmp_path: Path) -> None:
    release(tmp_path, [0, 401], {401: "building"})
    for path in tmp_path.rglob("ADE_train_00000000_seg.png"):
        mask(path, [0, 1])
    data = open_dataset(tmp_path)
    number = next(i for i, r in enumerate(data.records) if r.id == "ADE_train_00000000")
    with pytest.raises(LabelError, match="holds colors"):
        data.all.read_mask(number)
