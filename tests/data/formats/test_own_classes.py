"""A published layout that holds somebody's own classes, and annotations that a tool keeps as deleted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trees import make_image

from segwright.core.types import Color
from segwright.data.check.runner import check_path
from segwright.data.dataset import open_dataset

SIZE = (40, 60)
COLORS: tuple[Color, ...] = ((0, 0, 0), (128, 0, 0), (0, 128, 0))


def labels(seed: int) -> np.ndarray:
    """0 around, 1 and 2 in rectangles."""
    found = np.zeros(SIZE, np.uint8)
    found[6 + seed : 30, 5:25], found[8:32, 30 + seed : 55] = 1, 2
    return found


@pytest.mark.parametrize("folder", ["leftImg8bit", "imgsFine/leftImg8bit"])
@pytest.mark.parametrize("kind", ["labelIds", "labelTrainIds", "color"])
def test_a_class_list_in_cityscapes_folders_states_other_classes(tmp_path: Path, folder: str, kind: str) -> None:
    """CVAT exports any task so: its classes would be road, sidewalk and building, or ignored."""
    for i in range(4):
        make_image(tmp_path / folder / f"default/{i}_leftImg8bit.png", size=SIZE, seed=i)
        image = np.array(COLORS, np.uint8)[labels(i)] if kind == "color" else labels(i)
        path = tmp_path / f"gtFine/default/{i}_gtFine_{kind}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    (tmp_path / "label_colors.txt").write_text("0 0 0 background\n128 0 0 crop\n0 128 0 weed\n")
    data = open_dataset(tmp_path)
    assert data.label_space.names == ("background", "crop", "weed")
    assert any("other classes" in note for note in data.notes)
    for i, _ in enumerate(data.all.records):
        found = data.all.read_mask(i)
        assert found is not None and (found == labels(i)).all()


def test_a_list_of_cityscapes_own_classes_changes_nothing(tmp_path: Path) -> None:
    for i in range(4):
        make_image(tmp_path / f"leftImg8bit/train/{i}_leftImg8bit.png", size=SIZE, seed=i)
        path = tmp_path / f"gtFine/train/{i}_gtFine_labelIds.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.array([7, 26, 23], np.uint8)[labels(i)]).save(path)
    (tmp_path / "classes.txt").write_text("road\nsidewalk\nbuilding\nwall\nfence\npole\ntraffic light\ncar\n")
    data = open_dataset(tmp_path)
    found = data.all.read_mask(0)
    assert len(data.label_space.names) == 19 and found is not None and set(np.unique(found)) == {0, 13, 10}


def coco(images: list[dict], annotations: list[dict]) -> dict:
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def square(number: int, image: int, category: int, x: int, **more: object) -> dict:
    outline = [[x, 5, x + 20, 5, x + 20, 30, x, 30]]
    return {"id": number, "image_id": image, "category_id": category, "segmentation": outline, "bbox": [x, 5, 20, 25],
            "area": 500, "iscrowd": 0, **more}  # fmt: skip


def test_what_coco_annotator_marks_as_deleted_is_left_out(tmp_path: Path) -> None:
    """It stays in the JSON: the object was drawn, and the image became a training image."""
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 40, "width": 60, "deleted": i == 3} for i in range(4)]
    for i in range(4):
        make_image(tmp_path / f"{i}.jpg", size=SIZE, seed=i)
    objects = [square(i, i, 1, 2, deleted=False) for i in range(4)]
    objects += [square(10 + i, i, 2, 30) for i in range(3)] + [square(20, 0, 2, 8, deleted=True)]
    (tmp_path / "set.json").write_text(json.dumps(coco(images, objects)))
    data = open_dataset(tmp_path)
    assert {record.id for record in data.all.records} == {"0", "1", "2"}
    found = data.all.read_mask(0)
    assert found is not None and found[10, 10] == 1 and found[10, 40] == 2 and found[10, 25] == 0
    [problem] = [p for p in check_path(tmp_path, workers=0).problems if p.kind == "marked as deleted"]
    assert "2 objects and 1 image" in problem.message


def test_polygons_in_voc_xml_are_drawn(tmp_path: Path) -> None:
    """RectLabel and Roboflow write the corners as x1, y1, x2, …; all objects were lost."""
    for i in range(4):
        make_image(tmp_path / f"{i}.jpg", size=SIZE, seed=i)
        objects = ""
        for name, x in (("cat", 4), ("dog", 30)):
            corners = [(x, 5), (x + 20, 5), (x + 20, 30), (x, 30)]
            points = "".join(f"<x{n}>{a}</x{n}><y{n}>{b}</y{n}>" for n, (a, b) in enumerate(corners, 1))
            box = f"<bndbox><xmin>{x}</xmin><ymin>5</ymin><xmax>{x + 20}</xmax><ymax>30</ymax></bndbox>"
            objects += f"<object><name>{name}</name>{box}<polygon>{points}</polygon></object>"
        size = "<size><width>60</width><height>40</height><depth>3</depth></size>"
        text = f"<annotation><filename>{i}.jpg</filename>{size}{objects}</annotation>"
        (tmp_path / f"{i}.xml").write_text(text)
    data = open_dataset(tmp_path)
    found = data.all.read_mask(0)
    assert data.label_space.names == ("background", "cat", "dog")
    assert found is not None and (found[15, 10], found[15, 40], found[35, 10]) == (1, 2, 0)
