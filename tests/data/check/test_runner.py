"""The check finds each of the cases that datasets come with, says which files, and how to mend them.

The numbers are those of the list of cases to survive: files 1–11, masks 12–19.
"""

from __future__ import annotations

import io
import json
import os
import signal
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from segwright.core.errors import ImageReadError, UsageError
from segwright.core.types import LabelSpace
from segwright.data.check.aggregate import CheckAccumulator
from segwright.data.check.duplicates import BRIGHTNESS, NEAR_DUPLICATE, find_pairs, join_alike
from segwright.data.check.evidence import Evidence
from segwright.data.check.file_rules import pairing
from segwright.data.check.fingerprint import Fingerprint, FingerprintAccumulator, class_pixels, fingerprint
from segwright.data.check.runner import CheckResult, check_dataset, check_path
from segwright.data.dataset import open_dataset
from segwright.data.readers import FileReader
from segwright.data.records import Dataset, Reader, Record
from segwright.demo.dataset import write_street_scenes
from segwright.demo.street_scene import draw_street
from segwright.imageio import read_image, read_mask, write_bytes, write_image, write_mask

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"
SIZE = (64, 96)


@pytest.fixture(scope="module")
def scenes() -> list[tuple[np.ndarray, np.ndarray]]:
    return [draw_street(f"7/train/{index}", SIZE) for index in range(6)]


Tree = Callable[..., Path]


@pytest.fixture
def tree(tmp_path: Path, scenes: list[tuple[np.ndarray, np.ndarray]]) -> Path:
    """images/ and masks/ with four good pairs a … d and their class list."""
    names = ["sky", "building", "road", "pavement", "tree", "car", "person", "pole", "sign"]
    write_bytes(tmp_path / "classes.txt", "\n".join(names).encode())
    for name, (image, labels) in zip("abcd", scenes, strict=False):
        write_image(tmp_path / "images" / f"{name}.png", image)
        write_mask(tmp_path / "masks" / f"{name}.png", labels)
    return tmp_path


def check(root: Path) -> CheckResult:
    return check_path(root, workers=0)


def only(result: CheckResult, kind: str, severity: str) -> tuple[str, list[str]]:
    """The one finding of a kind: its message, and the names of its files."""
    found = [problem for problem in result.problems if problem.kind == kind]
    assert len(found) == 1, [(problem.severity, problem.kind, problem.message) for problem in result.problems]
    assert found[0].severity == severity
    assert found[0].fix
    return found[0].message, [Path(file).name for file in found[0].files]


def jpeg(image: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, data: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_good_data_has_no_findings(tree: Path) -> None:
    result = check(tree)
    assert {problem.kind for problem in result.problems} == {"ignored by a guess"}, "the class list does not name 255"
    assert result.exit_code == 0
    assert result.images == 4
    assert result.splits == {"all": 4}


def test_cases_1_to_7_broken_files_all_at_once(
    tree: Path, scenes: list[tuple[np.ndarray, np.ndarray]], capfd: pytest.CaptureFixture[str]
) -> None:
    image, labels = scenes[4]
    whole = jpeg(image, quality=90)
    start = whole.index(b"\xff\xda")
    frame = whole.index(b"\xff\xc0") + 5
    raw = b"".join(b"\0" + row.tobytes() for row in image)
    files = {
        "c1.jpg": (whole[: len(whole) // 2], "truncated file"),
        "c2.jpg": (whole[: len(whole) // 2].rstrip(b"\xff") + b"\xff\xd9", "truncated file"),
        "c3.png": (png(96, 64, zlib.compress(raw[: len(raw) // 3])), "truncated file"),
        "c4.png": (png(100_000, 100_000, zlib.compress(bytes(1000))), "bomb-sized file"),
        "c5.jpg": (
            whole[:frame] + b"\xff\xdc\xff\xdc" + whole[frame + 4 : start + 20] + b"\xff\xd9",
            "bomb-sized file",
        ),
        "c6a.png": (b"SIMPLE  =                    T" + b" " * 2850, "disguised file"),
        "c6b.png": (b"8BPS\0\1" + bytes(300), "disguised file"),
        "c7.png": (b"", "empty file"),
    }
    for name, (data, _) in files.items():
        write_bytes(tree / "images" / name, data)
        write_mask(tree / "masks" / f"{Path(name).stem}.png", labels)
    buffer = io.BytesIO()
    Image.fromarray(image).quantize(32).save(buffer, "GIF")
    write_bytes(tree / "images" / "c6c.png", buffer.getvalue())
    write_mask(tree / "masks" / "c6c.png", labels)
    result = check_path(tree, workers=1)  # in a child, as the command does
    printed = capfd.readouterr().err
    assert "libpng" not in printed and "JPEG" not in printed  # what libraries print there stays there
    assert result.exit_code == 1
    for kind in ("truncated file", "bomb-sized file", "empty file"):
        _, names = only(result, kind, "error")
        assert sorted(names) == sorted(name for name, (_, expected) in files.items() if expected == kind)
    disguised = {problem.severity: problem for problem in result.problems if problem.kind == "disguised file"}
    assert {Path(file).name for file in disguised["error"].files} == {"c6a.png", "c6b.png"}
    assert "FITS" in disguised["error"].message
    assert [Path(file).name for file in disguised["warning"].files] == ["c6c.png"]
    assert "GIF" in disguised["warning"].message


@pytest.mark.parametrize("orientation", range(2, 9))
def test_case_8_exif_orientation_of_the_image_alone(
    orientation: int, tree: Path, scenes: list[tuple[np.ndarray, np.ndarray]]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    write_bytes(tree / "images" / "turned.jpg", jpeg(scenes[4][0], exif=exif))
    write_mask(tree / "masks" / "turned.png", scenes[4][1])
    message, _ = only(check(tree), "EXIF orientation", "error" if orientation >= 5 else "warning")
    assert str(orientation) in message


def test_case_9_odd_kinds_of_images_are_read_and_said(tree: Path) -> None:
    image = read_image(tree / "images" / "a.png")
    write_image(tree / "images" / "a.png", np.dstack([image, image[..., 0]]))  # alpha
    cv2.imwrite(str(tree / "images" / "b.png"), image.astype(np.uint16) * 200)
    buffer = io.BytesIO()
    Image.fromarray(image).convert("CMYK").save(buffer, "JPEG")
    (tree / "images" / "c.png").unlink()
    write_bytes(tree / "images" / "c.jpg", buffer.getvalue())
    write_image(tree / "images" / "d.png", np.repeat(image[..., :1], 3, axis=2))
    result = check(tree)
    assert result.exit_code == 0
    [kinds] = [problem for problem in result.problems if problem.kind == "kinds of images"]
    for word in ("RGBA", "CMYK", "16 bit"):
        assert word in kinds.message
    assert only_files(result, "gray saved as RGB") == ["d.png"]


def only_files(result: CheckResult, kind: str) -> list[str]:
    [found] = [problem for problem in result.problems if problem.kind == kind]
    return [Path(file).name for file in found.files]


def test_case_10_odd_names_are_read(tree: Path) -> None:
    for name in ("straße 日本", "x" * 180, " lead"):
        for folder in ("images", "masks"):
            write_bytes(tree / folder / f"{name}.png", (tree / folder / "a.png").read_bytes())
    result = check(tree)
    assert result.exit_code == 0
    assert result.images == 7
    names = only_files(result, "odd names")
    assert len(names) == 2  # the long one and the one that begins with a space; unicode is in order


def test_case_11_names_that_collide(tree: Path) -> None:
    image = read_image(tree / "images" / "b.png")
    write_bytes(tree / "images" / "a.jpg", jpeg(image))
    result = check(tree)
    assert result.exit_code == 1
    files = [Path(file).name for p in result.problems if p.kind == "colliding names" for file in p.files]
    assert {"a.png", "a.jpg"} <= set(files)


def test_case_12_codings_of_masks(tree: Path) -> None:
    labels = read_mask(tree / "masks" / "a.png")
    write_mask(tree / "masks" / "a.png", labels, np.arange(768, dtype=np.uint8).reshape(256, 3))  # a palette
    write_image(tree / "masks" / "b.png", np.repeat(read_mask(tree / "masks" / "b.png")[..., None], 3, axis=2))
    result = check(tree)
    assert result.exit_code == 0
    message, _ = only(result, "mixed mask codings", "warning")
    assert "palette" in message and "RGB" in message


def test_case_12_zero_and_255(tree: Path) -> None:
    (tree / "classes.txt").unlink()
    for name in "abcd":
        labels = read_mask(tree / "masks" / f"{name}.png")
        write_mask(tree / "masks" / f"{name}.png", np.where(labels == 2, 255, 0).astype(np.uint8))
    result = check(tree)
    assert result.exit_code == 0
    message, _ = only(result, "0/255 masks", "note")
    assert "foreground" in message


def test_case_13_sixteen_bit_ids(tree: Path) -> None:
    (tree / "classes.txt").unlink()
    for name in "abcd":
        labels = read_mask(tree / "masks" / f"{name}.png").astype(np.uint16)
        cv2.imwrite(
            str(tree / "masks" / f"{name}.png"), np.where(labels == 255, 0, labels * 1000 + 1000).astype(np.uint16)
        )
    result = check(tree)
    assert result.exit_code == 0
    assert result.fingerprint is not None
    assert sum(result.fingerprint.class_pixels) == 4 * SIZE[0] * SIZE[1]


def test_case_14_values_outside_the_classes(tree: Path) -> None:
    labels = read_mask(tree / "masks" / "b.png")
    labels[10:20, 30:50] = 77
    write_mask(tree / "masks" / "b.png", labels)
    result = check(tree)
    assert result.exit_code == 1
    message, names = only(result, "values outside the classes", "error")
    assert names == ["b.png"]
    assert "77" in message and "3.26 %" in message and "rows 10 to 20, columns 30 to 50" in message


def test_case_15_size_differs(tree: Path) -> None:
    write_mask(tree / "masks" / "c.png", read_mask(tree / "masks" / "c.png")[:-3])
    result = check(tree)
    message, names = only(result, "size differs", "error")
    assert names == ["c.png"]
    assert "64×96" in message and "61×96" in message


def test_case_16_a_class_with_no_pixel(tree: Path) -> None:
    with (tree / "classes.txt").open("a") as file:
        file.write("\nunicorn")
    message, _ = only(check(tree), "class without pixels", "warning")
    assert "unicorn" in message


def test_case_17_all_ignored(tree: Path) -> None:
    write_mask(tree / "masks" / "d.png", np.full(SIZE, 255, np.uint8))
    _, names = only(check(tree), "all ignored", "warning")
    assert names == ["d.png"]


def test_case_18_jpeg_masks(tree: Path) -> None:
    for name in "abcd":
        labels = read_mask(tree / "masks" / f"{name}.png")
        (tree / "masks" / f"{name}.png").unlink()
        write_bytes(tree / "masks" / f"{name}.jpg", jpeg(np.where(labels == 255, 0, labels * 25).astype(np.uint8)))
    (tree / "classes.txt").unlink()
    result = check(tree)
    assert result.exit_code == 1
    kinds = {problem.kind for problem in result.errors}
    assert kinds & {"JPEG masks", "anti-aliased masks", "cannot be opened"}


def test_case_18_anti_aliased_edges(tree: Path) -> None:
    labels = read_mask(tree / "masks" / "a.png")
    gray = np.where(labels == 255, 0, labels * 20).astype(np.uint8)
    smooth = cv2.GaussianBlur(gray, (3, 3), 0.6)
    lines = [f"{20 * value} {name}" for value, name in enumerate((tree / "classes.txt").read_text().split())]
    write_bytes(tree / "classes.txt", "\n".join(lines).encode())
    for name in "bcd":
        labels = read_mask(tree / "masks" / f"{name}.png")
        write_mask(tree / "masks" / f"{name}.png", np.where(labels == 255, 0, labels * 20).astype(np.uint8))
    write_mask(tree / "masks" / "a.png", smooth)
    _, names = only(check(tree), "anti-aliased masks", "error")
    assert names == ["a.png"]


def split_tree(root: Path, scenes: list[tuple[np.ndarray, np.ndarray]], places: dict[str, list[int]]) -> Path:
    write_bytes(root / "classes.txt", b"sky\nbuilding\nroad\npavement\ntree\ncar\nperson\npole\nsign")
    for split, indices in places.items():
        for index in indices:
            write_image(root / "images" / split / f"{split}{index}.png", scenes[index][0])
            write_mask(root / "masks" / split / f"{split}{index}.png", scenes[index][1])
    return root


def test_case_19_the_same_image_in_train_and_val(tmp_path: Path, scenes: list[tuple[np.ndarray, np.ndarray]]) -> None:
    root = split_tree(tmp_path, scenes, {"train": [0, 1, 2], "val": [2, 3]})
    result = check(root)
    assert result.exit_code == 1
    _, names = only(result, "shared between splits", "error")
    assert sorted(names) == ["train2.png", "val2.png"]


def test_case_19_near_duplicates(tmp_path: Path, scenes: list[tuple[np.ndarray, np.ndarray]]) -> None:
    root = split_tree(tmp_path, scenes, {"train": [0, 1, 2], "val": [3]})
    image = cv2.resize(scenes[1][0], (144, 96), interpolation=cv2.INTER_AREA)
    write_bytes(root / "images" / "val" / "copy.jpg", jpeg(image, quality=60))
    labels = cv2.resize(scenes[1][1], (144, 96), interpolation=cv2.INTER_NEAREST)
    write_mask(root / "masks" / "val" / "copy.png", labels)
    result = check(root)
    _, names = only(result, "near-duplicates between splits", "warning")
    assert sorted(names) == ["copy.jpg", "train1.png"]


def test_pairing(tree: Path) -> None:
    (tree / "masks" / "a.png").unlink()
    (tree / "images" / "b.png").unlink()
    result = check(tree)
    assert result.exit_code == 1
    assert only(result, "image without mask", "error")[1] == ["a.png"]
    assert only(result, "mask without image", "error")[1] == ["b.png"]


def test_a_class_in_one_split_and_shifted_labels(tmp_path: Path, scenes: list[tuple[np.ndarray, np.ndarray]]) -> None:
    changed = [(image, np.where(labels == 5, 2, labels).astype(np.uint8)) for image, labels in scenes]
    root = split_tree(tmp_path, changed, {"train": [0, 1, 2, 3]})
    split_tree(root, scenes, {"val": [4, 5]})
    message, _ = only(check(root), "class in one split only", "warning")
    assert "car" in message and "cannot be learned" in message


def test_label_shift(tmp_path: Path) -> None:
    scenes = [draw_street(f"9/train/{index}", SIZE) for index in range(16)]
    half = [
        (image, np.where(labels == 1, 4, labels).astype(np.uint8)) if index >= 8 else (image, labels)
        for index, (image, labels) in enumerate(scenes)
    ]
    root = split_tree(tmp_path, half, {"train": list(range(8)), "val": list(range(8, 16))})
    message, _ = only(check(root), "label shift", "warning")
    assert "building" in message and "tree" in message


@dataclass
class Deadly(Reader):
    """A reader whose decoder dies of one image."""

    inner: Any
    label_space: Any

    def image(self, record: Any) -> Any:
        if record.id == "b":
            os.kill(os.getpid(), signal.SIGKILL)
        return self.inner.image(record)

    def values(self, record: Any) -> Any:
        return self.inner.values(record)

    def mask(self, record: Any) -> Any:
        return self.inner.mask(record)


def test_a_file_that_kills_the_decoder_does_not_kill_the_check(tree: Path) -> None:
    data = open_dataset(tree)
    data.reader = Deadly(data.reader, data.label_space)
    result = check_dataset(data, workers=1)
    message, names = only(result, "kills the decoder", "error")
    assert names == ["b.png"] and "signal 9" in message
    assert result.fingerprint is not None and result.fingerprint.examined == 3


def test_blank_images(tree: Path) -> None:
    write_image(tree / "images" / "a.png", np.full((*SIZE, 3), 90, np.uint8))
    assert only(check(tree), "blank images", "warning")[1] == ["a.png"]


def test_a_mask_that_contradicts_the_rest_comes_first(tmp_path: Path) -> None:
    root = write_street_scenes(tmp_path, train=14, val=0, test=0, size=SIZE, seed=3)
    path = sorted((root / "masks" / "train").iterdir())[5]
    labels = read_mask(path)
    exchanged = labels.copy()
    exchanged[labels == 0], exchanged[labels == 2] = 2, 0  # sky and road
    write_mask(path, exchanged)
    result = check(root)
    assert result.exit_code == 0
    assert only_files(result, "suspicious masks")[0] == path.name
    assert {result.outliers[0].label, result.outliers[0].looks_like} == {0, 2}


def test_nothing_to_open_is_a_finding(tmp_path: Path) -> None:
    for root in (tmp_path / "nowhere", tmp_path):
        result = check(root)
        assert result.exit_code == 1
        assert result.problems[0].kind == "cannot be opened"
        assert result.problems[0].fix
        json.dumps(result.to_json())


def test_json_has_the_agreed_keys(tree: Path) -> None:
    result = check(tree)
    data = json.loads(json.dumps(result.to_json()))
    assert {"format", "images", "splits", "classes", "problems", "fingerprint"} <= set(data)
    assert set(data["classes"][0]) == {"id", "name", "pixels", "images"}
    counts = np.bincount(
        np.concatenate([read_mask(path).ravel() for path in sorted((tree / "masks").iterdir())]), minlength=256
    )
    assert [one["pixels"] for one in data["classes"]] == counts[:9].tolist()
    assert result.fingerprint is not None
    assert Fingerprint.from_json(data["fingerprint"]) == result.fingerprint
    assert result.dataset is not None
    again = CheckResult.from_json(data, result.dataset)
    assert again.to_json() == result.to_json() and again.root == result.root
    assert (again.by_split, again.problems) == (result.by_split, result.problems)


def test_the_fingerprint_by_hand(tree: Path) -> None:
    split = open_dataset(tree).all
    found = fingerprint(split)
    images = np.concatenate([split.read_image(i).reshape(-1, 3) for i in range(4)]).astype(np.float64)
    assert found.mean == pytest.approx(images.mean(axis=0), abs=1e-3)
    assert found.std == pytest.approx(images.std(axis=0), abs=1e-3)
    masks = [split.read_mask(i) for i in range(4)]
    seen = np.array([[(mask == k).any() for k in range(9)] for mask in masks], int)
    assert found.class_images == tuple(seen.sum(axis=0))
    assert np.array_equal(found.cooccurrence, seen.T @ seen)
    assert found.same_size and found.height == (64, 64, 64) and found.channels == 3
    assert class_pixels(split).tolist() == [*found.class_pixels, found.ignored_pixels]
    [road] = [scale for name, scale in zip(found.class_names, found.scales, strict=True) if name == "road"]
    assert road is not None and road.high > 30
    assert 0.01 < found.boundary_density < 0.2
    assert fingerprint(split, max_images=2).examined == 2
    assert replace(found, examined=0) != found


@pytest.mark.parametrize("name", ["camvid", "membrane"])
def test_real_data_has_no_errors(name: str) -> None:
    root = SHARED / name
    if not root.is_dir():
        pytest.skip("../shared/data is absent")
    data = open_dataset(root)
    if name == "camvid":  # a part of it: the whole is the benchmark's
        data.given = {split: tuple(records)[::12] for split, records in data.given.items()}
    result = check_dataset(data)
    assert result.errors == ()


def test_copies_of_copies_do_not_multiply() -> None:
    """A thousand equal images are a thousand pairs, not half a million; every other split still meets them."""
    count = 3000
    rng = np.random.default_rng(0)
    thumbs = rng.normal(size=(count, 256)).astype(np.float32)
    thumbs -= thumbs.mean(axis=1, keepdims=True)
    thumbs /= np.linalg.norm(thumbs, axis=1, keepdims=True)
    hashes = rng.integers(0, 2**63, count).astype(np.uint64)
    crcs = rng.integers(0, 2**32, count).astype(np.uint32)
    thumbs[:1000], hashes[:1000], crcs[:1000] = thumbs[0], hashes[0], crcs[0]
    parts = np.zeros(count, np.int64)
    parts[900:] = 1
    pairs = find_pairs(hashes, crcs, thumbs.astype(np.float16), parts)
    assert len(pairs) == 899 + 99 + 1 and all(pair.exact for pair in pairs)
    assert [(pair.first, pair.second) for pair in pairs if parts[pair.first] != parts[pair.second]] == [(0, 900)]
    assert len(find_pairs(hashes, crcs, thumbs.astype(np.float16))) == 999
    assert find_pairs(hashes[:0], crcs[:0], thumbs[:0].astype(np.float16)) == []


def alike_frames(count: int, seed: int = 0) -> np.ndarray:
    """Thumbnails of a fixed camera's frames: all correlate with all."""
    rng = np.random.default_rng(seed)
    thumbs = rng.normal(size=256) + rng.normal(0, 0.05, (count, 256))
    thumbs -= thumbs.mean(axis=1, keepdims=True)
    return (thumbs / np.linalg.norm(thumbs, axis=1, keepdims=True)).astype(np.float32)


def peak_megabytes(work: Callable[[], object]) -> float:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


def test_frames_that_are_all_alike_take_little_memory() -> None:
    """8,000 of them are 32 million pairs; each is named with the one it is most like."""
    count = 8000
    thumbs, parts = alike_frames(count), np.arange(count, dtype=np.int64) % 2
    hashes = np.random.default_rng(1).integers(0, 2**63, count).astype(np.uint64)
    gray = np.full(count, 100, np.float32)
    pairs: list[Any] = []
    small = thumbs.astype(np.float16)
    assert peak_megabytes(lambda: pairs.extend(find_pairs(hashes, hashes.astype(np.uint32), small, parts, gray))) < 120
    assert count / 2 <= len(pairs) <= 2 * count
    assert {i for pair in pairs for i in (pair.first, pair.second)} == set(range(count))
    assert all(parts[pair.first] != parts[pair.second] for pair in pairs)
    joined: list[Any] = []
    assert peak_megabytes(lambda: joined.extend(join_alike(thumbs, gray, np.arange(count)))) < 200
    assert len(np.unique(joined[0])) == 1 and joined[1] == count * (count - 1) // 2


def test_what_the_check_calls_alike_the_splits_keep_together() -> None:
    """One definition: pairs by brute force, of the check and of the splits are the same."""
    rng = np.random.default_rng(3)
    base = alike_frames(1, 5)[0]
    thumbs = np.concatenate([alike_frames(40, seed) for seed in range(5)] + [base + rng.normal(0, 0.02, (60, 256))])
    thumbs = thumbs[rng.permutation(len(thumbs))]
    thumbs -= thumbs.mean(axis=1, keepdims=True)
    thumbs = (thumbs / np.linalg.norm(thumbs, axis=1, keepdims=True)).astype(np.float16).astype(np.float32)
    gray = rng.uniform(80, 120, len(thumbs)).astype(np.float32)
    alike = (thumbs @ thumbs.T >= NEAR_DUPLICATE) & (np.abs(gray[:, None] - gray) < BRIGHTNESS)
    hashes = rng.integers(0, 2**63, len(thumbs)).astype(np.uint64)
    parts = np.arange(len(thumbs), dtype=np.int64)  # every image a part: each is named if any other is like it
    pairs = find_pairs(hashes, np.arange(len(thumbs), dtype=np.uint32), thumbs.astype(np.float16), parts, gray)
    assert all(alike[pair.first, pair.second] for pair in pairs)
    assert {i for p in pairs for i in (p.first, p.second)} == set(np.flatnonzero(alike.sum(axis=1) > 1).tolist())
    groups, joined = join_alike(thumbs, gray, parts)
    assert joined == np.triu(alike, 1).sum()
    assert all(groups[pair.first] == groups[pair.second] for pair in pairs)
    np.fill_diagonal(alike, True)
    reach = np.linalg.matrix_power(alike.astype(float), 64) > 0
    assert np.array_equal(groups[:, None] == groups, reach)


def test_parts_that_share_images_are_not_compared() -> None:
    thumbs = alike_frames(6).astype(np.float16)
    numbers = np.arange(6)
    parts = np.array([0, 0, 1, 1, 2, 2])
    hashes, crcs = numbers.astype(np.uint64), numbers.astype(np.uint32)
    found = find_pairs(hashes, crcs, thumbs, parts, together=[(0, 1), (1, 0), (0, 2), (2, 0)])
    assert found and all({parts[p.first], parts[p.second]} == {1, 2} for p in found)


def test_trainval_joins_and_is_no_side_of_its_own(tmp_path: Path, scenes: list[tuple[np.ndarray, np.ndarray]]) -> None:
    root = split_tree(tmp_path, scenes, {"train": [0, 1, 2, 3]})
    for name in ("a", "b"):
        write_image(root / "images" / "train" / f"{name}.png", scenes[0][0])
        write_mask(root / "masks" / "train" / f"{name}.png", scenes[0][1])
    data = open_dataset(root)
    records = list(data.records)
    data.given = {"train": records[:2], "val": records[2:], "trainval": records}
    assert {p.kind for p in check_dataset(data, workers=0).errors} == {"shared between splits"}
    data.given = {"train": records[:2], "trainval": records}
    assert not check_dataset(data, workers=0).errors


@pytest.mark.parametrize(
    ("reason", "kind"),
    [("truncated", "truncated file"), ("unknown_format", "disguised file"), ("too_large", "bomb-sized file"),
     ("empty", "empty file"), ("corrupt", "unreadable file"), ("pages", "unreadable file")],
)  # fmt: skip
def test_the_reason_of_an_error_makes_the_kind_and_not_its_words(tree: Path, reason: Any, kind: str) -> None:
    class Failing(Deadly):
        def image(self, record: Any) -> Any:
            if record.id == "b":
                raise ImageReadError("words that nobody matched", where=record.image_path, reason=reason)
            return self.inner.image(record)

    data = open_dataset(tree)
    data.reader = Failing(data.reader, data.label_space)
    only(check_dataset(data, workers=0), kind, "error")


@pytest.mark.parametrize("error", [OSError("gone"), ValueError("odd"), MemoryError(), UsageError("unfit")])
def test_other_errors_of_reading_have_one_kind(tree: Path, error: Exception, tmp_path: Path) -> None:
    class Failing(Deadly):
        def image(self, record: Any) -> Any:
            if record.id == "b":
                raise error
            return self.inner.image(record)

    data = open_dataset(tree)
    data.reader = Failing(data.reader, data.label_space)
    only(check_dataset(data, workers=0), "unreadable file", "error")


def test_judging_takes_time_that_grows_with_the_files_not_with_their_square(tmp_path: Path) -> None:
    """A large test split without masks beside a labeled train."""
    count = 20_000
    records = [Record(f"{i}", Path(f"/x/{i}.png"), Path(f"/y/{i}.png") if i < 100 else None) for i in range(count)]
    data = Dataset(tmp_path, "folder", FileReader(LabelSpace(("a", "b"))), tuple(records))
    member = [["train"] if i < 120 else ["test"] for i in range(count)]
    totals = CheckAccumulator(("a", "b"), count)
    totals.unlabeled = list(range(100, count))
    nothing = FingerprintAccumulator(("a", "b")).fingerprint()
    evidence = Evidence(data, records, member, totals, nothing, {})
    began = time.process_time()
    problems = pairing(evidence)
    assert time.process_time() - began < 2
    assert {(p.kind, len(p.files)) for p in problems} == {("image without mask", 20), ("split without masks", 0)}


def test_pairs_of_very_many_images_are_proposed_by_their_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segwright.data.check.duplicates.EXHAUSTIVE", 50)
    rng = np.random.default_rng(4)
    thumbs = rng.normal(size=(200, 256))
    thumbs[100:] = thumbs[:100] + rng.normal(0, 0.02, (100, 256))
    thumbs[7] = 0  # a flat one
    thumbs -= thumbs.mean(axis=1, keepdims=True)
    thumbs /= np.linalg.norm(thumbs, axis=1, keepdims=True).clip(1e-9)
    hashes = rng.integers(0, 2**63, 200).astype(np.uint64)
    hashes[100:] = hashes[:100] ^ np.uint64(5)
    numbers = np.arange(200)
    gray = np.full(200, 100, np.float32)
    gray[30] = 10
    pairs = find_pairs(hashes, numbers.astype(np.uint32), thumbs.astype(np.float16), numbers // 100, gray)
    assert [(pair.first, pair.second) for pair in pairs] == [(i, i + 100) for i in range(100) if i not in (7, 30)]
