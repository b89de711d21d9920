"""Published sets of faces and forests: CelebAMask-HQ, LFW part labels, Freiburg Forest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from trees import colored, make_image

from segwright.core.errors import FormatError, LabelError
from segwright.data.dataset import open_dataset
from segwright.imageio import write_image


def named(data: Any, index: int = 0, row: int = 0) -> list[str]:
    got = data.all.read_mask(index)
    names = [*data.label_space.names]
    return list(dict.fromkeys("ignored" if v == 255 else names[v] for v in got[row].tolist()))


def part(path: Path, left: int, right: int, size: tuple[int, int] = (12, 16)) -> None:
    """White between two columns, saved as RGB as the set's masks are."""
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[:, left:right] = 255
    write_image(path, pixels)


def celeba(root: Path, parts: dict[str, tuple[int, int]]) -> None:
    for n in (0, 1, 2000):
        make_image(root / f"CelebAMask-HQ/CelebA-HQ-img/{n}.jpg", size=(24, 32), seed=n)
        for name, (left, right) in parts.items():
            part(root / f"CelebAMask-HQ/CelebAMask-HQ-mask-anno/{n // 2000}/{n:05d}_{name}.png", left, right)


def test_celebamask_draws_its_parts_in_order_at_the_images_size(tmp_path: Path) -> None:
    celeba(tmp_path, {"hair": (8, 12), "skin": (2, 10), "l_eye": (3, 5)})
    data = open_dataset(tmp_path)
    assert data.format == "celebamask_hq" and [r.id for r in data.records] == ["0", "1", "2000"]
    assert data.label_space.index("hair") == 13 and len(data.label_space) == 19
    mask = data.all.read_mask(2)
    assert mask is not None and mask.shape == (24, 32)
    assert named(data, 2) == ["background", "skin", "l_eye", "hair"]
    assert (mask[:, 16:24] == 13).all()  # hair is drawn after skin


def test_an_image_of_celeba_without_masks_and_a_part_of_another_name(tmp_path: Path) -> None:
    celeba(tmp_path, {"hair": (8, 12), "skin": (2, 10), "wing": (1, 2)})
    make_image(tmp_path / "CelebAMask-HQ/CelebA-HQ-img/5.jpg", size=(24, 32))
    data = open_dataset(tmp_path)
    kinds = {problem.kind: problem.message for problem in data.problems}
    assert "wing (3)" in kinds["objects lost"] and "image without mask" in kinds


def test_a_mask_of_an_odd_size_is_an_error(tmp_path: Path) -> None:
    celeba(tmp_path, {"hair": (8, 12), "skin": (2, 10)})
    part(tmp_path / "CelebAMask-HQ/CelebAMask-HQ-mask-anno/0/00000_skin.png", 1, 4, size=(11, 16))
    with pytest.raises(LabelError, match="neither of its image's size"):
        open_dataset(tmp_path).all.read_mask(0)


def test_two_copies_of_celeba_are_refused(tmp_path: Path) -> None:
    celeba(tmp_path / "a", {"hair": (8, 12), "skin": (2, 10)})
    celeba(tmp_path / "b", {"hair": (8, 12), "skin": (2, 10)})
    with pytest.raises(FormatError, match="two images of one number"):
        open_dataset(tmp_path)


def test_lfw_parts_by_color(tmp_path: Path) -> None:
    for name in ("Ann_Lee", "Bo_Ek"):
        for i in (1, 2):
            make_image(tmp_path / f"lfw_funneled/{name}/{name}_{i:04d}.jpg", seed=i)
        pixels = np.zeros((12, 16, 3), np.uint8)
        pixels[:, :5], pixels[:, 5:10], pixels[:, 10:] = (0, 0, 255), (255, 0, 0), (0, 255, 0)
        (tmp_path / "parts_lfw_funneled_gt_images").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / f"parts_lfw_funneled_gt_images/{name}_0001.ppm")
    data = open_dataset(tmp_path)
    assert data.format == "lfw_parts" and len(data) == 2 and named(data) == ["background", "hair", "face"]
    assert any("the 2 with part labels are used" in note for note in data.notes) and not data.problems


def test_freiburg_forest(tmp_path: Path) -> None:
    colors = [(170, 170, 170), (0, 255, 0), (102, 102, 51), (0, 60, 0), (0, 120, 255), (0, 0, 0)]
    for split, number in (("train", "b1-09517"), ("train", "b29-12"), ("test", "b7-3")):
        make_image(tmp_path / f"{split}/rgb/{number}_Clipped.jpg")
        make_image(tmp_path / f"{split}/nir_color/{number}.jpg")
        colored(tmp_path / f"{split}/GT_color/{number}_mask.png", colors)
    data = open_dataset(tmp_path)
    assert data.format == "freiburg_forest" and not data.problems
    assert named(data) == ["trail", "grass", "vegetation", "tree", "sky", "obstacle"]
    assert {name: len(records) for name, records in data.given.items()} == {"train": 2, "test": 1}
    assert any("other modalities (3)" in note for note in data.notes)
