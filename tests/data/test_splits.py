"""Splits where the files name none: deterministic, balanced, sequences and near-duplicates on one side."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest
from trees import SHARED

from segwright.core.errors import UsageError
from segwright.data import grouping, splits
from segwright.data.dataset import Dataset, open_dataset
from segwright.data.records import evenly_spread, nested_spread
from segwright.data.splits import folds, make_splits, sequence_of, split_records
from segwright.imageio import write_image, write_mask

SIZE = 40


def scene(seed: int) -> np.ndarray:
    """A smooth image unlike that of any other seed."""
    rng = np.random.default_rng(seed)
    return cv2.resize(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8), (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)


def build(root: Path, images: dict[str, np.ndarray], labels: dict[str, int] | None = None, folder: str = "") -> Path:
    """Images by name; in each mask one square of the class that ``labels`` says, else 1."""
    for name, image in images.items():
        write_image(root / "images" / folder / f"{name}.png", image)
        mask = np.zeros((SIZE, SIZE), np.uint8)
        mask[5:15, 5:15] = (labels or {}).get(name, 1)
        write_mask(root / "masks" / folder / f"{name}.png", mask)
    return root


def names(parts: dict[str, splits.Split]) -> dict[str, set[str]]:
    return {name: set(split.ids) for name, split in parts.items()}


@pytest.mark.parametrize(
    ("identity", "sequence"),
    [
        ("0001TP_006690", "0001TP"), ("Seq05VD_f00000", "Seq05VD"), ("aachen_000000_000019", "aachen_000000"),
        ("scene1/frame_0004", "scene1/"), ("15", ""), ("street", "street"), ("2007_000032", "2007"),
        ("um_000001", "um"), ("video-3.0012", "video-3"), ("a12b", "a12b"),
    ],
)  # fmt: skip
def test_sequence_of(identity: str, sequence: str) -> None:
    assert sequence_of(identity) == sequence


def test_few_images_are_one_split(tmp_path: Path) -> None:
    data = open_dataset(build(tmp_path, {name: scene(i) for i, name in enumerate("abcd")}))
    assert set(data.splits) == {"all"} and len(data.train) == 4


def test_made_splits_are_whole_and_deterministic(tmp_path: Path) -> None:
    images = {f"{'abcdefghijklmnopqrst'[i]}x": scene(i) for i in range(20)}
    root = build(tmp_path, images)
    first, second = open_dataset(root), open_dataset(root)
    assert names(first.splits) == names(second.splits) and set(first.splits) == {"train", "val"}
    assert len(first.train) == 16 and not set(first.train.ids) & set(first.val.ids)
    assert any("made here (train 16, val 4)" in note for note in first.notes)
    other = make_splits(first, {"train": 0.5, "val": 0.25, "test": 0.25}, seed=1)
    assert {n: len(s) for n, s in other.items()} == {"train": 10, "val": 5, "test": 5}
    digest = hashlib.sha256(" ".join(sorted(first.val.ids)).encode()).hexdigest()
    assert digest == hashlib.sha256(" ".join(sorted(second.val.ids)).encode()).hexdigest()


def test_rare_classes_reach_both_sides(tmp_path: Path) -> None:
    images = {f"p{chr(97 + i)}": scene(i) for i in range(26)}
    labels = {name: 3 if i in (3, 17) else 2 if i % 5 == 0 else 1 for i, name in enumerate(images)}
    data = open_dataset(build(tmp_path, images, labels))
    held = {label: sum(labels[name] == label for name in data.val.ids) for label in (1, 2, 3)}
    assert held[3] == 1 and held[2] >= 1 and 4 <= len(data.val) <= 6


def video(seed: int, length: int) -> list[np.ndarray]:
    """A scene that drifts: every frame moved a little, with some noise."""
    wide = cv2.resize(scene(seed), (SIZE * 3, SIZE), interpolation=cv2.INTER_CUBIC)
    rng = np.random.default_rng(seed)
    return [
        np.clip(wide[:, i : i + SIZE].astype(int) + rng.integers(-4, 5, (SIZE, SIZE, 3)), 0, 255).astype(np.uint8)
        for i in range(length)
    ]


def test_sequences_stay_together(tmp_path: Path) -> None:
    images = {f"cam{s}_{i:04d}": frame for s in range(6) for i, frame in enumerate(video(s, 6))}
    data = open_dataset(build(tmp_path, images))
    sides = {name: split for split in ("train", "val") for name in (sequence_of(i) for i in data.splits[split].ids)}
    assert len(sides) == 6 and all(
        {sequence_of(i) for i in data.train.ids}.isdisjoint({sequence_of(i) for i in data.val.ids}) for _ in "x"
    )
    assert any("6 sequences by name" in note for note in data.notes)


def test_one_long_video_is_cut_into_runs(tmp_path: Path) -> None:
    wide = np.concatenate([scene(s) for s in range(8)], axis=1)
    frames = [np.ascontiguousarray(wide[:, i : i + SIZE]) for i in range(0, wide.shape[1] - SIZE, 4)]
    data = open_dataset(build(tmp_path, {f"frame_{i:03d}": f for i, f in enumerate(frames)}))
    held = sorted(int(i[-3:]) for i in data.val.ids)
    seams = sum(b - a > 1 for a, b in itertools.pairwise(held)) + 1
    assert 0.1 < len(held) / len(frames) < 0.35 and seams <= 4, "a few stretches of the video, not single frames"


def test_names_with_years_are_no_sequences(tmp_path: Path) -> None:
    """2007_000032: the images say that these are strangers under one name."""
    images = {f"20{7 + i % 2:02d}_{i:06d}": scene(100 + i) for i in range(30)}
    data = open_dataset(build(tmp_path, images))
    assert len(data.val) == 6
    assert {sequence_of(i) for i in data.val.ids} == {"2007", "2008"} == {sequence_of(i) for i in data.train.ids}
    assert not any("sequences" in note for note in data.notes)


def test_near_duplicates_stay_together(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = {}
    for i in range(24):
        one = scene(200 + i)
        noise = rng.integers(-6, 7, one.shape)
        first, second = ("ab", "zq")[i % 2]
        images[f"{first}{chr(97 + i)}x"] = one
        images[f"{second}{chr(97 + i)}y"] = np.clip(one.astype(int) + noise + 3, 0, 255).astype(np.uint8)
    data = open_dataset(build(tmp_path, images))
    val = {i[1] for i in data.val.ids}
    assert val.isdisjoint({i[1] for i in data.train.ids}), "an image and its recoded copy are on one side"
    assert any("24 pairs of near-duplicates" in note for note in data.notes)


def test_images_that_are_all_alike_do_not_become_one_group() -> None:
    rng = np.random.default_rng(0)
    base = grouping.thumbnail(scene(0))[0]
    thumbs = base + rng.normal(0, 0.006, (60, base.size)).astype(np.float32)
    thumbs /= np.linalg.norm(thumbs, axis=1, keepdims=True)
    found = grouping.Content(thumbs.astype(np.float32), np.full(60, 99.0, np.float32), np.ones((60, 2), np.int64))

    class Named:
        ids = tuple(f"{chr(97 + i % 26)}{chr(97 + i // 26)}x" for i in range(60))

        def __len__(self) -> int:
            return 60

    groups = grouping.group(Named(), found)  # type: ignore[arg-type]
    assert np.bincount(groups.of).max() <= 0.25 * 60


def test_val_is_taken_from_a_given_train(tmp_path: Path) -> None:
    root = build(tmp_path, {f"a{chr(97 + i)}": scene(i) for i in range(10)}, folder="train")
    build(root, {f"t{chr(97 + i)}": scene(50 + i) for i in range(4)}, folder="test")
    data = open_dataset(root)
    assert {n: len(s) for n, s in data.splits.items()} == {"train": 8, "val": 2, "test": 4}
    assert all(i.startswith("t") for i in data.test.ids)


def test_given_splits_are_left_alone(tmp_path: Path) -> None:
    root = build(tmp_path, {f"a{chr(97 + i)}": scene(i) for i in range(10)}, folder="train")
    build(root, {"ba": scene(50)}, folder="val")
    assert {n: len(s) for n, s in open_dataset(root).splits.items()} == {"train": 10, "val": 1}


def test_unreadable_and_unlabeled_images(tmp_path: Path) -> None:
    root = build(tmp_path, {f"a{chr(97 + i)}": scene(i) for i in range(12)})
    (root / "images/ab.png").write_bytes(b"broken")
    write_image(root / "images/zz.png", scene(99))
    data = open_dataset(root)
    assert {n: len(s) for n, s in data.splits.items()} == {"train": 10, "val": 2, "unlabeled": 1}


def test_folds(tmp_path: Path) -> None:
    images = {f"cam{s}_{i:04d}": frame for s in range(8) for i, frame in enumerate(video(s, 3))}
    data = open_dataset(build(tmp_path, images))
    pairs = folds(data, 4)
    held = [i for _, val in pairs for i in val.ids]
    assert sorted(held) == sorted(data.all.ids), "every image in exactly one val"
    for train, val in pairs:
        assert set(train.ids) | set(val.ids) == set(data.all.ids) and train.name == "train"
        assert {sequence_of(i) for i in train.ids}.isdisjoint({sequence_of(i) for i in val.ids})
        assert len(val) == 6
    with pytest.raises(UsageError):
        folds(data, 1)
    with pytest.raises(UsageError):
        folds(data, 25)


def test_fractions_are_checked(tmp_path: Path) -> None:
    data = open_dataset(build(tmp_path, {f"a{chr(97 + i)}": scene(i) for i in range(6)}))
    for wrong in ({"train": 0.8}, {"train": 1.2, "val": -0.2}, {}):
        with pytest.raises(UsageError):
            split_records(data.all, wrong)


def test_many_images_are_dealt_out_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "MOST_TO_COMPARE", 20)
    root = build(tmp_path, {f"s{s}_{i:03d}": scene(s) for s in range(40) for i in range(2)})
    monkeypatch.setattr(splits, "scan_dataset", lambda dataset: pytest.fail("no image is read"))
    data = open_dataset(root)
    assert 0.05 < len(data.val) / 80 < 0.4
    assert {sequence_of(i) for i in data.val.ids}.isdisjoint({sequence_of(i) for i in data.train.ids})


@pytest.mark.skipif(not (SHARED / "membrane").exists(), reason="shared data not here")
def test_membrane_is_split() -> None:
    data: Dataset = open_dataset(SHARED / "membrane")
    assert {n: len(s) for n, s in data.splits.items()} == {"train": 20, "val": 5}


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "camvid").exists(), reason="shared data not here")
def test_camvid_sequences_are_found_again() -> None:
    """Without its splits, CamVid's three drives are kept whole, and the one of a fifth of the images is held out."""
    parts, notes = split_records(open_dataset(SHARED / "camvid").all)
    assert {sequence_of(i) for i in parts["val"].ids} == {"0006R0"} and len(parts["val"]) == 101
    assert notes == ["3 sequences by name (neighbors look alike) kept together"]


def test_places_are_spread_evenly_from_the_first_to_the_last() -> None:
    assert evenly_spread(11, 3) == [0, 5, 10]
    assert evenly_spread(2, 5) == [0, 1] and evenly_spread(9, 1) == [0] and evenly_spread(0, 4) == []
    assert len(evenly_spread(1000, 128)) == 128


def test_places_of_fewer_are_some_of_those_of_more() -> None:
    assert nested_spread(9, 9) == nested_spread(9, 20) == list(range(9))
    assert nested_spread(0, 4) == [] and nested_spread(1, 3) == [0] and nested_spread(8, 4) == [0, 2, 4, 6]
    for count in (7, 64, 100):
        found = [set(nested_spread(count, at_most)) for at_most in range(count + 1)]
        assert [len(one) for one in found] == list(range(count + 1))
        assert all(less < more for less, more in itertools.pairwise(found))
    assert max(np.diff(nested_spread(1000, 128))) <= 8, "spread over the whole"
