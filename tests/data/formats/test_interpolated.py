"""Masks of class indices that were resized by interpolation: pixels of classes that are not there, along every edge."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trees import make_image

from segwright.data.check.runner import check_path

SIZE = (120, 160)


def write(root: Path, values: tuple[int, ...], how: Image.Resampling, factor: int = 2) -> None:
    """Six pairs: rectangles of these values on 0, made at half the size and enlarged."""
    for i in range(6):
        make_image(root / f"images/{i}.jpg", size=SIZE, seed=i)
        small = np.zeros((SIZE[0] // factor, SIZE[1] // factor), np.uint8)
        width = small.shape[1] // len(values)
        for place, value in enumerate(values):
            small[5 + i : 40, place * width + 3 : (place + 1) * width - 3] = value
        (root / "masks").mkdir(exist_ok=True)
        Image.fromarray(small).resize(SIZE[::-1], how).save(root / f"masks/{i}.png")


def warned(root: Path) -> bool:
    return any(
        p.kind == "anti-aliased masks" and "interpolation" in p.message for p in check_path(root, workers=0).warnings
    )


@pytest.mark.parametrize("how", [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS])
@pytest.mark.parametrize("values", [(2, 4), (1, 2, 3, 4), (3, 7, 11)])
def test_masks_resized_by_interpolation_are_a_warning(
    tmp_path: Path, values: tuple[int, ...], how: Image.Resampling
) -> None:
    write(tmp_path, values, how)
    (tmp_path / "classes.txt").write_text("".join(f"class{chr(97 + i)}\n" for i in range(14)))
    assert warned(tmp_path)


@pytest.mark.parametrize("values", [(2, 4), (1, 2, 3, 4), (3, 7, 11)])
def test_masks_resized_by_the_nearest_neighbor_are_none(tmp_path: Path, values: tuple[int, ...]) -> None:
    write(tmp_path, values, Image.Resampling.NEAREST)
    assert not warned(tmp_path)


def test_an_outline_of_one_pixel_is_a_class(tmp_path: Path) -> None:
    """Cells: 0 around, 1 their outline, 2 inside."""
    for i in range(6):
        make_image(tmp_path / f"images/{i}.png", size=SIZE, seed=i)
        labels = np.zeros(SIZE, np.uint8)
        for x in (10, 60, 110):
            labels[10 + i : 90, x : x + 40] = 1
            labels[11 + i : 89, x + 1 : x + 39] = 2
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(labels).save(tmp_path / f"masks/{i}.png")
    assert not warned(tmp_path)


def test_rings_within_one_another_are_classes(tmp_path: Path) -> None:
    for i in range(6):
        make_image(tmp_path / f"images/{i}.png", size=SIZE, seed=i)
        rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
        distance = np.hypot(rows - 60, columns - 70 - i)
        labels = np.clip(5 - distance // 11, 0, 4).astype(np.uint8)
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(labels).save(tmp_path / f"masks/{i}.png")
    assert not warned(tmp_path)
