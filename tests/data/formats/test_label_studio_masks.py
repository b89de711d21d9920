"""Label Studio's masks as PNG: the JSON tells the task's image, the names tell the label."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trees import make_image, mask, write

from segwright.core.errors import FormatError, LabelError
from segwright.data.dataset import open_dataset


def export(root: Path, minimal: bool = False, prefix: bool = True) -> None:
    tasks: list[dict[str, Any]] = []
    for task in (11, 12, 13):
        make_image(root / f"images/street{task}.jpg", seed=task)
        address = f"/data/upload/1/{'abcdef12-' if prefix else ''}street{task}.jpg"
        tasks.append({"id": task, "image": address} if minimal else {"id": task, "data": {"image": address}})
    write(root / "project-1.json", tasks)
    mask(root / "task-11-annotation-5-by-1-tag-Road-0.png", [0, 255])
    mask(root / "task-11-annotation-5-by-1-tag-Car-0.png", [0, 0, 0, 255])
    mask(root / "task-12-annotation-6-by-a@b.c-tag-Traffic light-0.png", [255, 0])


@pytest.mark.parametrize(("minimal", "prefix"), [(False, True), (True, False)])
def test_masks_go_to_the_images_of_their_tasks(tmp_path: Path, minimal: bool, prefix: bool) -> None:
    export(tmp_path, minimal, prefix)
    data = open_dataset(tmp_path)
    assert data.format == "label_studio_masks"
    assert data.label_space.names == ("background", "Car", "Road", "Traffic light")
    first, second, third = (data.all.read_mask(i) for i in range(3))
    assert first is not None and first[0, [0, 8, 15]].tolist() == [0, 2, 1]
    assert second is not None and second[0, [0, 15]].tolist() == [3, 0]
    assert third is None and [r.id for r in data.records] == ["street11", "street12", "street13"]


def test_of_several_annotations_the_newest_is_read_and_that_is_said(tmp_path: Path) -> None:
    export(tmp_path)
    mask(tmp_path / "task-11-annotation-9-by-2-tag-Road-0.png", [255])
    data = open_dataset(tmp_path)
    found = data.all.read_mask(0)
    assert found is not None and found[0, 0] == 2 and not (found == 1).any()
    assert "several masks per image" in {p.kind for p in data.problems}


def test_several_images_per_task_need_the_labeling_configuration(tmp_path: Path) -> None:
    export(tmp_path)
    tasks = json.loads((tmp_path / "project-1.json").read_text())
    for task in tasks:
        task["data"] = {
            "depth": "/data/upload/1/depth.jpg",
            **task["data"],
            "file": task["data"]["image"].split("-")[-1],
        }
    write(tmp_path / "project-1.json", tasks)
    with pytest.raises(LabelError, match="several images"):
        open_dataset(tmp_path)
    images = '<Image name="i" value="$image"/><Image name="d" value="$depth"/>'
    write(tmp_path / "config.xml", f'<View>{images}<BrushLabels name="b" toName="i"/></View>')
    assert [r.id for r in open_dataset(tmp_path).records] == ["street11", "street12", "street13"]


def test_a_mask_of_another_size_and_missing_images_are_errors(tmp_path: Path) -> None:
    export(tmp_path)
    mask(tmp_path / "task-11-annotation-5-by-1-tag-Road-0.png", [0, 255], size=(11, 16))
    with pytest.raises(LabelError, match="differs in size"):
        open_dataset(tmp_path).all.read_mask(0)
    for path in (tmp_path / "images").iterdir():
        path.unlink()
    with pytest.raises(FormatError, match="none of their tasks' images"):
        open_dataset(tmp_path)


def test_two_tasks_of_one_image_are_refused(tmp_path: Path) -> None:
    export(tmp_path)
    write(tmp_path / "project-1.json", [{"id": i, "data": {"image": "street11.jpg"}} for i in (11, 12)])
    with pytest.raises(FormatError, match="two tasks are one image"):
        open_dataset(tmp_path)


def test_objects_are_counted(tmp_path: Path) -> None:
    export(tmp_path)
    mask(tmp_path / "task-12-annotation-6-by-1-tag-Road-1.png", [0, 0])
    data = open_dataset(tmp_path)
    found = data.reader.object_counts(data.records[1])
    assert found is not None and (found[2].listed, found[2].drawn) == (1, 0)
    assert np.asarray(data.all.read_mask(1)).max() == 3
