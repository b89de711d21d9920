"""COCO outlines that are not in pixels: percent, shares, exchanged axes, other places than the boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from trees import make_image, write

from segwright.core.errors import LabelError
from segwright.data.dataset import open_dataset

HEIGHT, WIDTH = 260, 320


def coco(root: Path, change: Any, *, boxes: bool = True) -> None:
    found: dict[str, Any] = {"images": [], "categories": [{"id": 1, "name": "cat"}], "annotations": []}
    for n in range(4):
        make_image(root / f"images/{n}.png", size=(HEIGHT, WIDTH), seed=n)
        found["images"].append({"id": n, "file_name": f"{n}.png", "height": HEIGHT, "width": WIDTH})
        for left, top in ((20 + n, 30), (180, 150 + n)):
            corners = [(left, top), (left + 90, top), (left + 90, top + 60), (left, top + 60)]
            one = {"id": len(found["annotations"]), "image_id": n, "category_id": 1, "iscrowd": 0, "area": 5400}
            one["segmentation"] = [[value for x, y in corners for value in change(x, y)]]
            found["annotations"].append(one | ({"bbox": [left, top, 90, 60]} if boxes else {}))
    write(root / "coco.json", found)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x, y: (100 * x / WIDTH, 100 * y / HEIGHT), "in percent"),
        (lambda x, y: (x / WIDTH, y / HEIGHT), "in shares"),
        (lambda x, y: (y, x), "x and y exchanged"),
    ],
)
def test_outlines_in_other_units_than_their_boxes_are_refused(tmp_path: Path, change: Any, said: str) -> None:
    coco(tmp_path, change)
    with pytest.raises(LabelError, match=said):
        open_dataset(tmp_path)


def test_outlines_elsewhere_than_their_boxes_are_a_warning(tmp_path: Path) -> None:
    coco(tmp_path, lambda x, y: (x / 2, y / 2))
    [found] = [problem for problem in open_dataset(tmp_path).problems if problem.kind == "outlines in doubt"]
    assert found.severity == "warning" and "8 of 8 objects" in found.message


def test_percent_without_boxes_are_a_warning_and_pixels_none(tmp_path: Path) -> None:
    coco(tmp_path / "percent", lambda x, y: (100 * x / WIDTH, 100 * y / HEIGHT), boxes=False)
    [found] = open_dataset(tmp_path / "percent").problems
    assert found.kind == "outlines in doubt" and "in percent?" in found.message
    for boxes in (True, False):
        coco(tmp_path / f"pixels{boxes}", lambda x, y: (x, y), boxes=boxes)
        assert not open_dataset(tmp_path / f"pixels{boxes}").problems
