"""Exports that differ from their format: names left out, other endings, counts that do not fit, numbered labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from trees import make_image, mask, write

from segwright.core.errors import FormatError, LabelError
from segwright.data.check.runner import check_path
from segwright.data.dataset import open_dataset
from segwright.imageio import write_mask


def coco(root: Path, name: str = "{}.png", **change: Any) -> None:
    found: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    for n in range(3):
        make_image(root / f"images/{n}.png", size=(40, 40), seed=n)
        found["images"].append({"id": n, "file_name": name.format(n), "height": 40, "width": 40})
        outline = [[5, 5, 20, 5, 20, 20, 5, 20]]
        found["annotations"].append({"id": n, "image_id": n, "category_id": 1, "segmentation": outline})
    write(root / "coco.json", found | change)


def test_a_category_without_a_name_is_its_supercategory_and_no_stuff(tmp_path: Path) -> None:
    coco(tmp_path, categories=[{"id": 1, "supercategory": "cat"}])
    data = open_dataset(tmp_path)
    labels = data.all.read_mask(0)
    assert data.label_space.names == ("background", "cat") and labels is not None
    assert set(np.unique(labels).tolist()) == {0, 1}, "what nothing covers is background, not ignored"


def test_a_json_without_categories_is_refused_as_such(tmp_path: Path) -> None:
    coco(tmp_path, categories=[])
    with pytest.raises(LabelError, match="lists no categories") as caught:
        open_dataset(tmp_path)
    assert caught.value.found == "category_id 1"


def test_of_images_converted_to_another_kind_the_refusal_names_one(tmp_path: Path) -> None:
    coco(tmp_path, "{}.jpg")
    for n in range(3):
        mask(tmp_path / f"masks/{n}.jpeg.png", [0, 1], size=(40, 40))
    with pytest.raises(FormatError) as caught:
        open_dataset(tmp_path, format="coco")
    assert "images/0.png is there, with another ending" in str(caught.value)


def test_yolo_of_another_number_of_classes_and_with_confidences(tmp_path: Path) -> None:
    for n in range(3):
        make_image(tmp_path / f"images/{n}.png", size=(40, 40), seed=n)
        write(tmp_path / f"labels/{n}.txt", "0 0.1 0.1 0.5 0.1 0.5 0.5\n")
    write(tmp_path / "data.yaml", "train: images\nval: images\nnc: 3\nnames: [cat, dog]\n")
    [found] = [problem for problem in open_dataset(tmp_path).problems if problem.kind == "classes guessed"]
    assert "3 classes (nc) and names 2" in found.message
    write(tmp_path / "data.yaml", "train: images\nval: images\nnc: 2\nnames: [cat, dog]\n")
    assert not [problem for problem in open_dataset(tmp_path).problems if problem.kind == "classes guessed"]
    write(tmp_path / "labels/0.txt", "0 0.1 0.1 0.5 0.1 0.5 0.5 0.93\n")
    with pytest.raises(LabelError, match="no polygon") as caught:
        open_dataset(tmp_path).all.read_mask(0)
    assert "confidence" in str(caught.value.fix)


def test_labels_that_annotators_numbered_are_alike(tmp_path: Path) -> None:
    for n in range(2):
        make_image(tmp_path / f"{n}.png", size=(40, 40), seed=n)
        shapes = [
            {"label": f"cat-{k}", "points": [[5 * k, 5], [5 * k + 4, 5], [5 * k, 30]], "shape_type": "polygon"}
            for k in (1, 3)
        ]
        write(tmp_path / f"{n}.json", {"version": "5", "shapes": shapes, "imagePath": f"{n}.png", "imageData": None,
                                       "imageHeight": 40, "imageWidth": 40})  # fmt: skip
    [found] = [problem for problem in check_path(tmp_path, workers=0).problems if problem.kind == "class names alike"]
    assert "'cat-1', 'cat-3'" in found.message


def test_jfif_is_read_and_tga_is_named(tmp_path: Path) -> None:
    for n in range(3):
        make_image(tmp_path / f"read/images/{n}.jpg", seed=n).rename(tmp_path / f"read/images/{n}.jfif")
        mask(tmp_path / f"read/masks/{n}.png", [0, 1])
        make_image(tmp_path / f"not/images/{n}.jpg", seed=n)
        (tmp_path / "not/masks").mkdir(exist_ok=True)
        Image.new("L", (16, 12)).save(tmp_path / f"not/masks/{n}.tga")
    assert len(open_dataset(tmp_path / "read").records) == 3
    with pytest.raises(FormatError, match="TGA"):
        open_dataset(tmp_path / "not")


def test_a_mask_that_is_not_a_number_is_refused_as_that(tmp_path: Path) -> None:
    values = np.zeros((12, 16), np.float32)
    values[0] = np.nan
    for n in range(2):
        make_image(tmp_path / f"images/{n}.png", seed=n)
        write_mask(tmp_path / f"masks/{n}.png", np.zeros((12, 16), np.uint8))
        (tmp_path / f"masks/{n}.png").unlink()
        Image.fromarray(values).save(tmp_path / f"masks/{n}.tif")
    with pytest.raises(LabelError) as caught:
        open_dataset(tmp_path)
    assert "NaN) in 16 pixels" in str(caught.value)


def test_boxes_alone_are_a_warning_in_cvat_and_labelme(tmp_path: Path) -> None:
    images = ""
    for n in range(2):
        make_image(tmp_path / f"cvat/images/{n}.png", size=(40, 40), seed=n)
        images += f'<image id="{n}" name="{n}.png" width="40" height="40"><box label="cat" xtl="5" ytl="5" xbr="20" '
        images += 'ybr="20" z_order="0"/></image>'
        make_image(tmp_path / f"labelme/{n}.png", size=(40, 40), seed=n)
        shapes = [{"label": "cat", "points": [[5, 5], [20, 20]], "shape_type": "rectangle"}]
        write(tmp_path / f"labelme/{n}.json", {"version": "5", "shapes": shapes, "imagePath": f"{n}.png",
                                               "imageData": None, "imageHeight": 40, "imageWidth": 40})  # fmt: skip
    labels = "<labels><label><name>cat</name></label></labels>"
    meta = f"<version>1.1</version><meta><task>{labels}</task></meta>"
    write(tmp_path / "cvat/annotations.xml", f"<annotations>{meta}{images}</annotations>")
    for name in ("cvat", "labelme"):
        assert "boxes only" in {problem.kind for problem in open_dataset(tmp_path / name).problems}, name


def test_two_yamls_that_name_the_classes_differently_are_a_warning(tmp_path: Path) -> None:
    for n in range(2):
        make_image(tmp_path / f"images/{n}.png", size=(40, 40), seed=n)
        write(tmp_path / f"labels/{n}.txt", "0 0.1 0.1 0.5 0.1 0.5 0.5\n")
    write(tmp_path / "data.yaml", "train: images\nval: images\nnames: [cat, dog]\n")
    write(tmp_path / "old.yaml", "train: images\nval: images\nnames: {0: cat, 1: dog}\n")
    assert not [problem for problem in open_dataset(tmp_path).problems if problem.kind == "classes guessed"]
    write(tmp_path / "old.yaml", "train: images\nval: images\nnames: [dog, cat]\n")
    [found] = [problem for problem in open_dataset(tmp_path).problems if problem.kind == "classes guessed"]
    assert "data.yaml calls class 0 cat, old.yaml dog" in found.message


@pytest.mark.parametrize("listed", [False, True])
def test_a_labelme_json_that_names_another_image_is_a_warning(tmp_path: Path, listed: bool) -> None:
    """A JSON copied for the next image keeps the imagePath of the first; with a class list as without."""
    if listed:
        write(tmp_path / "labels.txt", "__ignore__\n_background_\ncat\n")
        write(tmp_path / "export.json", {"images": [], "annotations": [], "categories": []})
    for n in range(3):
        make_image(tmp_path / f"{n}.png", size=(40, 40), seed=n)
        shapes = [{"label": "cat", "points": [[5, 5], [20, 5], [5, 30]], "shape_type": "polygon"}]
        write(tmp_path / f"{n}.json", {"version": "5", "shapes": shapes, "imagePath": "0.png", "imageData": None,
                                       "imageHeight": 40, "imageWidth": 40})  # fmt: skip
    [found] = open_dataset(tmp_path).problems
    assert (
        found.severity == "warning" and "2 JSON files with another image" in found.message and "0.png" in found.message
    )
    for n in range(3):
        text = (tmp_path / f"{n}.json").read_text().replace('"0.png"', f'"IMG_{n}.png"')
        (tmp_path / f"{n}.json").write_text(text)
    assert [problem.severity for problem in open_dataset(tmp_path).problems] == ["note"], "images that were renamed"
