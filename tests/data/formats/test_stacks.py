"""TIFF stacks: pages of image and mask paired."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from segwright.core.errors import ImageReadError, LabelError
from segwright.data.dataset import open_dataset

PAGES = 6


def page(seed: int, deep: bool = False) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 60_000 if deep else 256, (16, 20)).astype(np.uint16 if deep else np.uint8)


def label(seed: int) -> np.ndarray:
    found = np.zeros((16, 20), np.uint8)
    found[:, : 4 + seed % 10] = 255
    return found


def stack(path: Path, pages: list[np.ndarray], compression: str | None = "tiff_adobe_deflate") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *rest = [Image.fromarray(one) for one in pages]
    first.save(path, save_all=True, append_images=rest, compression=compression)


@pytest.mark.parametrize("compression", ["tiff_adobe_deflate", None, "tiff_lzw"])
def test_isbi(tmp_path: Path, compression: str | None) -> None:
    stack(tmp_path / "train-volume.tif", [page(i) for i in range(PAGES)], compression)
    stack(tmp_path / "train-labels.tif", [label(i) for i in range(PAGES)], compression)
    stack(tmp_path / "test-volume.tif", [page(90 + i) for i in range(PAGES)], compression)
    data = open_dataset(tmp_path)
    assert {name: len(part) for name, part in data.given.items()} == {"train": PAGES, "test": PAGES}
    for i, sample in enumerate(data.given["train"]):
        assert np.array_equal(data.reader.image(sample)[..., 0], page(i))
        assert np.array_equal(data.reader.values(sample), label(i))
    assert not any(record.labeled for record in data.given["test"]) and len(set(data.all.ids)) == 2 * PAGES


def test_stacks_in_folders_of_sixteen_bits_and_of_colors(tmp_path: Path) -> None:
    for k in range(2):
        stack(tmp_path / f"a/images/cell{k}.tif", [page(20 * k + i, deep=True) for i in range(PAGES)], None)
        stack(tmp_path / f"a/masks/cell{k}.tif", [label(20 * k + i) for i in range(PAGES)])
        colors = [np.dstack([page(20 * k + i + j) for j in range(3)]) for i in range(PAGES)]
        stack(tmp_path / f"b/images/cell{k}.tif", colors)
        stack(tmp_path / f"b/masks/cell{k}.tif", [label(20 * k + i) for i in range(PAGES)])
    data = open_dataset(tmp_path / "a")
    assert len(data) == 2 * PAGES and data.value_range is not None
    means = [sample.image.mean() for sample in data]
    assert 80 < np.mean(means) < 170 and data.all[3].image.shape == (16, 20, 3)
    assert np.array_equal(data.all.read_values(PAGES + 1), label(21))
    data = open_dataset(tmp_path / "b")
    assert np.array_equal(data.all[2].image, np.dstack([page(2 + j) for j in range(3)]))


def test_stacks_that_do_not_fit(tmp_path: Path) -> None:
    stack(tmp_path / "a/images/x.tif", [page(i) for i in range(PAGES)])
    stack(tmp_path / "a/masks/x.tif", [label(i) for i in range(PAGES - 1)])
    with pytest.raises(LabelError, match="different length"):
        open_dataset(tmp_path / "a")
    for i in range(2):
        (tmp_path / "b/images").mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(
            tmp_path / f"b/images/{i}.tif", np.stack([page(i), page(i + 1), page(i + 2), page(3), page(4)])
        )
        stack(tmp_path / f"b/masks/{i}.tif", [label(i)])
    with pytest.raises(ImageReadError, match="several pages"):
        open_dataset(tmp_path / "b").all[0]
