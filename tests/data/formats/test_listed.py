"""The LabelMe web tool's XML and SageMaker Ground Truth's manifests; published colors in palette files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from trees import colored, make_image, mask, write

from segwright.core.errors import DataError, FormatError, LabelError
from segwright.data.dataset import open_dataset


def area(data: Any, number: int = 0) -> dict[str, int]:
    found = data.all.read_mask(number)
    values, counts = np.unique(found, return_counts=True)
    names = data.label_space.names
    return {"ignored" if v == 255 else names[v]: int(n) for v, n in zip(values, counts, strict=True)}


def points(left: int, top: int, right: int, bottom: int) -> str:
    corners = ((left, top), (right, top), (right, bottom), (left, bottom))
    return "<polygon>" + "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in corners) + "</polygon>"


def web(root: Path, objects: str, place: str = "street", images: int = 1, beside: bool = False) -> None:
    for i in range(images):
        folder = root if beside else root / f"Images/{place}"
        make_image(folder / f"x{i}.jpg", seed=i)
        text = (
            f"<annotation><filename>x{i}.jpg</filename><folder>{place}</folder>{objects}"
            "<imagesize><nrows>12</nrows><ncols>16</ncols></imagesize></annotation>"
        )
        write((root if beside else root / f"Annotations/{place}") / f"x{i}.xml", text)


CAR = f"<object><name>car\n</name><deleted>0</deleted>{points(0, 0, 8, 6)}</object>"
GONE = f"<object><name>bus</name><deleted>1</deleted>{points(0, 0, 16, 12)}</object>"


@pytest.mark.parametrize("beside", [False, True])
def test_the_labelme_web_tool(tmp_path: Path, beside: bool) -> None:
    line = "<object><name>car</name><polygon><pt><x>1</x><y>1</y></pt><pt><x>9</x><y>9</y></pt></polygon></object>"
    web(tmp_path, CAR + GONE + line, images=2, beside=beside)
    data = open_dataset(tmp_path)
    assert data.format == "labelme_web" and len(data) == 2 and not data.problems
    assert area(data) == {"background": 192 - 48, "car": 48}
    found = data.reader.object_counts(data.records[0])
    assert found is not None and (found[1].listed, found[1].drawn) == (2, 1)


def test_two_places_of_the_web_tool_stay_apart(tmp_path: Path) -> None:
    for place in ("a", "b"):
        web(tmp_path, CAR, place)
    data = open_dataset(tmp_path)
    for record in data.records:
        assert record.image_path is not None and record.image_path.parent.name == record.payload.parent.name
    assert len(data) == 2


def test_objects_of_the_web_tool_that_are_mask_files(tmp_path: Path) -> None:
    web(tmp_path, "<object><name>car</name><segm><mask>x0_mask_0.png</mask></segm></object>")
    mask(tmp_path / "Masks/street/x0_mask_0.png", [0, 255])
    assert area(open_dataset(tmp_path))["car"] == 96
    (tmp_path / "Masks/street/x0_mask_0.png").unlink()
    with pytest.raises(LabelError, match="an object's mask is missing"):
        open_dataset(tmp_path).all.read_mask(0)


@pytest.mark.parametrize(
    "text", ["<annotation><object><polygon>", '<!DOCTYPE a [<!ENTITY b "c">]><annotation><object><polygon>&b;']
)
def test_a_broken_or_hostile_annotation_of_the_web_tool(tmp_path: Path, text: str) -> None:
    web(tmp_path, CAR, images=2)
    write(tmp_path / "Annotations/street/x1.xml", text)
    data = open_dataset(tmp_path)
    assert len(data) == 1 and "unreadable annotation" in {p.kind for p in data.problems}


def manifest(root: Path, palette: bool = False, second: str = "#00ff00") -> None:
    lines = []
    for i in range(3):
        make_image(root / f"images/x{i}.jpg", seed=i)
        path = root / f"annotations/consolidated/{i}.png"
        stripes = colored(path, [(255, 255, 255), (0, 255, 0)])
        if palette:
            image = Image.fromarray(stripes.astype(np.uint8), "P")
            image.putpalette([255, 255, 255, 0, 255, 0])
            image.save(path)
        classes = {"0": {"class-name": "BACKGROUND", "hex-color": "#ffffff"},
                   "1": {"class-name": "road", "hex-color": second if i else "#00ff00"}}  # fmt: skip
        lines.append(json.dumps({
            "source-ref": f"s3://bucket/images/x{i}.jpg", "seg-ref": f"s3://out/job/annotations/consolidated/{i}.png",
            "seg-ref-metadata": {"internal-color-map": classes, "type": "groundtruth/semantic-segmentation"},
        }))  # fmt: skip
    write(root / "output.manifest", "\n".join(lines) + "\n")


@pytest.mark.parametrize("palette", [False, True])
def test_ground_truth_by_its_colors(tmp_path: Path, palette: bool) -> None:
    manifest(tmp_path, palette)
    data = open_dataset(tmp_path)
    assert data.format == "ground_truth" and len(data) == 3
    assert area(data) == {"BACKGROUND": 96, "road": 96}


def test_ground_truth_whose_lines_disagree_or_whose_files_are_missing(tmp_path: Path) -> None:
    manifest(tmp_path / "a", second="#0000ff")
    with pytest.raises(LabelError, match="disagree on the classes' colors"):
        open_dataset(tmp_path / "a")
    manifest(tmp_path / "b")
    for path in (tmp_path / "b/annotations/consolidated").iterdir():
        path.unlink()
    with pytest.raises(FormatError, match="images or masks are not here"):
        open_dataset(tmp_path / "b")
    write(tmp_path / "b/output.manifest", '{"source-ref": 1, "a-metadata": {"internal-color-map": 3}}\n')
    with pytest.raises(DataError, match="line 1"):
        open_dataset(tmp_path / "b")


def test_published_colors_in_palette_files_are_read_by_color(tmp_path: Path) -> None:
    for i in range(3):
        make_image(tmp_path / f"train/rgb/b{i}-1_Clipped.jpg", seed=i)
        stripes = np.repeat((np.arange(16) // 8)[None], 12, axis=0).astype(np.uint8)
        image = Image.fromarray(stripes if i else 1 - stripes, "P")
        image.putpalette([170, 170, 170, 0, 255, 0] if i else [0, 255, 0, 170, 170, 170])
        (tmp_path / "train/GT_color").mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / f"train/GT_color/b{i}-1_mask.png")
    data = open_dataset(tmp_path)
    for number in range(3):
        found = data.all.read_mask(number)
        assert found is not None and found[0, [0, 15]].tolist() == [0, 1]
