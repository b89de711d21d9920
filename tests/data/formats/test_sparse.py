"""Points, lines and boxes of every format that holds them, as label masks worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segwright.core.errors import DataError, FormatError, LabelError, UsageError
from segwright.data.annotations.rasterize import Region, paint
from segwright.data.annotations.sparse import CORE, LabelRule, choose_reading, core, stamp, trace
from segwright.data.dataset import Dataset, open_dataset
from tests.data.trees import encode_label_studio, make_image, mask, write

SIZE = (12, 16)
# A point at pixel (x 3, y 4), and a line from pixel (8, 2) to (13, 2): radius 1 and width 1 in the tests.
POINT, LINE = (3, 4), ((8, 2), (13, 2))
SMALL = {"point_radius": 1, "line_width": 1}


def expected(point: int, line: int, rest: int = 255) -> np.ndarray:
    """The masks of a point of radius 1 (a cross of five pixels) and a line of width 1 (six pixels)."""
    labels = np.full(SIZE, rest, np.uint8)
    labels[2, 8:14] = line
    labels[4, 2:5] = labels[3:6, 3] = point
    return labels


def only(data: Dataset, index: int = 0) -> np.ndarray:
    found = data.all.read_mask(index)
    assert found is not None
    return found


def center(x: float, y: float) -> tuple[float, float]:
    """The middle of a pixel where coordinates are continuous."""
    return x + 0.5, y + 0.5


# --- one dataset of a point of "a" and a line of "b" per tool


def labelme(root: Path, extra: bool = False) -> None:
    make_image(root / "x.jpg", size=SIZE)
    shapes = [
        {"label": "a", "shape_type": "point", "points": [list(POINT)]},
        {"label": "b", "shape_type": "linestrip", "points": [list(p) for p in LINE]},
    ]
    if extra:
        shapes.append({"label": "b", "shape_type": "rectangle", "points": [[0, 9], [3, 11]]})
    page = {"version": "5", "shapes": shapes, "imagePath": "x.jpg", "imageData": None, "imageHeight": 12,
            "imageWidth": 16}  # fmt: skip
    write(root / "x.json", page)


def cvat(root: Path, extra: bool = False) -> None:
    make_image(root / "images/x.jpg", size=SIZE)
    points = ";".join("{},{}".format(*center(*p)) for p in LINE)
    shapes = (
        f'<points label="a" points="{center(*POINT)[0]},{center(*POINT)[1]}"/><polyline label="b" points="{points}"/>'
    )
    shapes += '<box label="b" xtl="0" ytl="9" xbr="4" ybr="12"/>' if extra else ""
    names = "".join(f"<label><name>{name}</name></label>" for name in "ab")
    text = f"<annotations><meta><task><labels>{names}</labels></task></meta>"
    write(root / "annotations.xml", f'{text}<image name="x.jpg" width="16" height="12">{shapes}</image></annotations>')


def supervisely(root: Path, extra: bool = False) -> None:
    make_image(root / "ds/img/x.jpg", size=SIZE)
    objects: list[dict[str, Any]] = [
        {"classTitle": "a", "geometryType": "point", "points": {"exterior": [list(POINT)], "interior": []}},
        {"classTitle": "b", "geometryType": "line", "points": {"exterior": [list(p) for p in LINE], "interior": []}},
    ]
    if extra:
        objects.append({"classTitle": "b", "geometryType": "rectangle", "points": {"exterior": [[0, 9], [3, 11]]}})
    page = {"description": "", "tags": [], "size": {"height": 12, "width": 16}, "objects": objects}
    write(root / "ds/ann/x.jpg.json", page)
    write(root / "meta.json", {"classes": [{"title": name, "color": "#0f0f0f"} for name in "ab"]})


def via(root: Path, extra: bool = False) -> None:
    make_image(root / "x.jpg", size=SIZE)
    xs, ys = zip(*[center(*p) for p in LINE], strict=True)
    x, y = center(*POINT)
    shapes: list[tuple[dict[str, Any], str]] = [
        ({"name": "point", "cx": x, "cy": y}, "a"),
        ({"name": "polyline", "all_points_x": list(xs), "all_points_y": list(ys)}, "b"),
    ]
    if extra:
        shapes.append(({"name": "rect", "x": 0, "y": 9, "width": 4, "height": 3}, "b"))
    regions = [{"shape_attributes": shape, "region_attributes": {"class": label}} for shape, label in shapes]
    write(root / "via.json", {"x.jpg1": {"filename": "x.jpg", "size": 1, "regions": regions, "file_attributes": {}}})


def darwin(root: Path, extra: bool = False) -> None:
    make_image(root / "images/x.jpg", size=SIZE)
    x, y = center(*POINT)
    path = [dict(zip("xy", center(*p), strict=True)) for p in LINE]
    annotations: list[dict[str, Any]] = [
        {"name": "a", "keypoint": {"x": x, "y": y}},
        {"name": "b", "line": {"path": path}},
    ]
    if extra:
        annotations.append({"name": "b", "bounding_box": {"x": 0, "y": 9, "w": 4, "h": 3}})
    slot = {"type": "image", "slot_name": "0", "width": 16, "height": 12}
    page = {"version": "2.0", "item": {"name": "x.jpg", "path": "/", "slots": [slot]}, "annotations": annotations}
    write(root / "annotations/x.json", page)


WITH_LINES = (labelme, cvat, supervisely, via, darwin)


@pytest.mark.parametrize("make", WITH_LINES, ids=lambda make: make.__name__)
def test_points_and_lines_alone_are_partial_labels(tmp_path: Path, make: Callable[..., None]) -> None:
    make(tmp_path)
    data = open_dataset(tmp_path, labels=SMALL)
    assert data.format == make.__name__ and data.partial
    assert data.label_space.names == ("a", "b"), "no background: nothing states what it would be"
    assert np.array_equal(only(data), expected(0, 1))
    assert any("ignored" in note and "radius of 1 px" in note for note in data.notes)
    assert not [p for p in data.problems if p.severity != "note"]
    counts = data.reader.object_counts(data.records[0])
    assert counts is not None and {k: (v.listed, v.drawn) for k, v in counts.items()} == {0: (1, 1), 1: (1, 1)}
    larger = only(open_dataset(tmp_path))
    assert (larger == 0).sum() == 13 and (larger == 1).sum() > 15, "a radius of 2 and a width of 3 by default"


@pytest.mark.parametrize("make", WITH_LINES, ids=lambda make: make.__name__)
def test_the_rest_is_background_where_that_is_asked_for(tmp_path: Path, make: Callable[..., None]) -> None:
    make(tmp_path)
    data = open_dataset(tmp_path, labels={**SMALL, "unlabeled_pixels": "background"})
    assert data.label_space.names == ("background", "a", "b") and not data.partial
    assert np.array_equal(only(data), expected(1, 2, 0))


@pytest.mark.parametrize("make", WITH_LINES, ids=lambda make: make.__name__)
def test_beside_outlines_every_reading_is_named(tmp_path: Path, make: Callable[..., None]) -> None:
    make(tmp_path, extra=True)
    data = open_dataset(tmp_path)
    problem = next(p for p in data.problems if p.kind == "points beside outlines")
    assert "complete" in problem.message and "partial" in problem.message and "1 image with both" in problem.message
    for reading in ("ignore", "background", "by-image"):
        assert f"--unlabeled-pixels {reading}" in (problem.fix or "")
    assert not data.partial and data.label_space.names[0] == "background" and only(data)[11, 15] == 0

    box = np.zeros(SIZE, bool)
    box[9:12, 0:4] = True
    for reading, first in (("ignore", 0), ("background", 1), ("by-image", 1)):
        chosen = open_dataset(tmp_path, labels={**SMALL, "unlabeled_pixels": reading})
        drawn = expected(first, first + 1, 255 if reading == "ignore" else 0)
        drawn[box] = first + 1
        assert np.array_equal(only(chosen), drawn), reading
        assert not [p for p in chosen.problems if p.kind in ("points beside outlines", "objects lost")]


def test_by_image_ignores_the_rest_where_an_image_has_points_alone(tmp_path: Path) -> None:
    cvat(tmp_path)
    make_image(tmp_path / "images/y.jpg", size=SIZE, seed=1)
    make_image(tmp_path / "images/z.jpg", size=SIZE, seed=2)
    text = (tmp_path / "annotations.xml").read_text()
    more = '<image name="y.jpg" width="16" height="12"><box label="a" xtl="0" ytl="0" xbr="4" ybr="4"/></image>'
    more += '<image name="z.jpg" width="16" height="12"></image>'
    write(tmp_path / "annotations.xml", text.replace("</annotations>", f"{more}</annotations>"))
    data = open_dataset(tmp_path, labels={**SMALL, "unlabeled_pixels": "by-image"})
    assert data.partial and data.label_space.names == ("background", "a", "b")
    assert np.array_equal(only(data, 0), expected(1, 2))
    assert set(np.unique(only(data, 1)).tolist()) == {0, 1} and (only(data, 2) == 255).all()


def test_label_studio_key_points_and_scribbles(tmp_path: Path) -> None:
    make_image(tmp_path / "x.jpg", size=SIZE)
    x, y = center(*POINT)
    point = {"value": {"x": 100 * x / 16, "y": 100 * y / 12, "width": 1, "keypointlabels": ["a"]}}
    task = {"id": 1, "data": {"image": "/data/upload/1/1a2b3c4d-x.jpg"}, "annotations": [{"result": [point]}]}
    write(tmp_path / "export.json", [task])
    data = open_dataset(tmp_path, labels=SMALL)
    drawn = expected(0, 255)
    assert data.format == "label_studio" and data.partial and np.array_equal(only(data), drawn)

    brush = np.zeros(SIZE, bool)
    brush[2, 8:14] = True
    scribble = {"type": "brushlabels", "original_width": 16, "original_height": 12,
                "value": {"format": "rle", "rle": encode_label_studio(brush), "brushlabels": ["b"]}}  # fmt: skip
    task["annotations"] = [{"result": [scribble]}]
    write(tmp_path / "export.json", [task])
    data = open_dataset(tmp_path)
    assert not data.partial and any("if they are scribbles: --unlabeled-pixels ignore" in note for note in data.notes)
    data = open_dataset(tmp_path, labels={"unlabeled_pixels": "ignore"})
    assert data.partial and data.label_space.names == ("b",)
    assert np.array_equal(only(data), np.where(brush, 0, 255))


# --- turned images, points outside and points that contradict each other


def turned_labelme(root: Path) -> None:
    page = {"version": "5", "shapes": [{"label": "a", "shape_type": "point", "points": [[3, 12]]}],
            "imagePath": "x.jpg", "imageData": None, "imageHeight": 16, "imageWidth": 12}  # fmt: skip
    write(root / "x.json", page)
    turned_image(root / "x.jpg")


def turned_cvat(root: Path) -> None:
    text = "<annotations><meta><task><labels><label><name>a</name></label></labels></task></meta>"
    text += '<image name="x.jpg" width="12" height="16"><points label="a" points="3.5,12.5"/></image></annotations>'
    write(root / "annotations.xml", text)
    turned_image(root / "images/x.jpg")


def turned_label_studio(root: Path) -> None:
    value = {"x": 100 * 3.5 / 12, "y": 100 * 12.5 / 16, "width": 1, "keypointlabels": ["a"]}
    point = {"original_width": 12, "original_height": 16, "value": value}
    write(root / "export.json", [{"id": 1, "data": {"image": "x.jpg"}, "annotations": [{"result": [point]}]}])
    turned_image(root / "x.jpg")


def turned_image(path: Path) -> None:
    """An image stored as 12 rows of 16, shown as 16 rows of 12."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x112] = 6
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, exif=exif)


@pytest.mark.parametrize("make", [turned_labelme, turned_cvat, turned_label_studio], ids=lambda make: make.__name__)
def test_points_lie_on_the_image_as_it_is_shown(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path)
    data = open_dataset(tmp_path, labels={"point_radius": 0})
    (sample,) = list(data)
    drawn = np.full((16, 12), 255)
    drawn[12, 3] = 0
    assert sample.image.shape[:2] == (16, 12) and np.array_equal(sample.mask, drawn)


def labelme_points(root: Path, points: list[tuple[str, float, float]]) -> None:
    shapes = [{"label": name, "shape_type": "point", "points": [[x - 0.5, y - 0.5]]} for name, x, y in points]
    make_image(root / "x.jpg", size=SIZE)
    write(root / "x.json", {"version": "5", "shapes": shapes, "imagePath": "x.jpg", "imageData": None,
                            "imageHeight": 12, "imageWidth": 16})  # fmt: skip


def cvat_points(root: Path, points: list[tuple[str, float, float]]) -> None:
    shapes = "".join(f'<points label="{name}" points="{x},{y}"/>' for name, x, y in points)
    make_image(root / "images/x.jpg", size=SIZE)
    write(root / "annotations.xml",
          f'<annotations><image name="x.jpg" width="16" height="12">{shapes}</image></annotations>')  # fmt: skip


def label_studio_points(root: Path, points: list[tuple[str, float, float]]) -> None:
    results = [
        {"original_width": 16, "original_height": 12,
         "value": {"x": 100 * x / 16, "y": 100 * y / 12, "width": 1, "keypointlabels": [name]}}
        for name, x, y in points
    ]  # fmt: skip
    make_image(root / "x.jpg", size=SIZE)
    write(root / "export.json", [{"id": 1, "data": {"image": "x.jpg"}, "annotations": [{"result": results}]}])


def coco_points(root: Path, points: list[tuple[str, float, float]]) -> None:
    make_image(root / "images/x.jpg", size=SIZE)
    write(root / "points.json", {
        "images": [{"id": 1, "file_name": "x.jpg", "height": 12, "width": 16}],
        "annotations": [{"id": i, "image_id": 1, "category_id": ord(name), "keypoints": [x, y, 2], "num_keypoints": 1}
                        for i, (name, x, y) in enumerate(points)],
        "categories": [{"id": ord(name), "name": name, "keypoints": ["p"]} for name in "ab"],
    })  # fmt: skip


def via_points(root: Path, points: list[tuple[str, float, float]]) -> None:
    regions = [{"shape_attributes": {"name": "point", "cx": x, "cy": y}, "region_attributes": {"class": name}}
               for name, x, y in points]  # fmt: skip
    make_image(root / "x.jpg", size=SIZE)
    write(root / "via.json", {"x.jpg1": {"filename": "x.jpg", "size": 1, "regions": regions, "file_attributes": {}}})


def darwin_points(root: Path, points: list[tuple[str, float, float]]) -> None:
    make_image(root / "images/x.jpg", size=SIZE)
    slot = {"type": "image", "slot_name": "0", "width": 16, "height": 12}
    found = [{"name": name, "keypoint": {"x": x, "y": y}} for name, x, y in points]
    page = {"version": "2.0", "item": {"name": "x.jpg", "path": "/", "slots": [slot]}, "annotations": found}
    write(root / "annotations/x.json", page)


def supervisely_points(root: Path, points: list[tuple[str, float, float]]) -> None:
    make_image(root / "ds/img/x.jpg", size=SIZE)
    found = [{"classTitle": name, "geometryType": "point", "points": {"exterior": [[x - 0.5, y - 0.5]], "interior": []}}
             for name, x, y in points]  # fmt: skip
    write(root / "ds/ann/x.jpg.json", {"description": "", "tags": [], "size": {"height": 12, "width": 16},
                                       "objects": found})  # fmt: skip
    write(root / "meta.json", {"classes": [{"title": name, "color": "#0f0f0f"} for name in "ab"]})


WITH_POINTS = (labelme_points, cvat_points, label_studio_points, coco_points, via_points, darwin_points,
               supervisely_points)  # fmt: skip


@pytest.mark.parametrize("make", WITH_POINTS, ids=lambda make: make.__name__)
def test_points_outside_and_points_that_contradict_each_other_are_counted(
    tmp_path: Path, make: Callable[..., None]
) -> None:
    points = [
        ("a", 3.5, 4.5),
        ("b", 3.25, 4.75),
        ("a", 9.5, 2.5),
        ("a", 10.5, 2.5),
        ("b", 400.0, 4.5),
        ("a", 2.0, -3.0),
    ]
    make(tmp_path, points)
    data = open_dataset(tmp_path, labels={"point_radius": 0})
    assert data.format == make.__name__.removesuffix("_points")
    assert "2 of 6 points outside of their image" in data.notes
    assert "1 pixel has points of several classes, in 1 image: the later one counts" in data.notes
    drawn = np.full(SIZE, 255)
    drawn[4, 3], drawn[2, 9], drawn[2, 10] = 1, 0, 0
    assert np.array_equal(only(data), drawn)
    counts = data.reader.object_counts(data.records[0])
    assert counts is not None and sum(one.drawn for one in counts.values()) == 4


@pytest.mark.parametrize("make", WITH_POINTS, ids=lambda make: make.__name__)
def test_points_without_faults_have_no_such_notes(tmp_path: Path, make: Callable[..., None]) -> None:
    make(tmp_path, [("a", 3.5, 4.5), ("a", 3.25, 4.75), ("b", 16.0, 12.0), ("b", 0.0, 0.0)])
    assert not [note for note in open_dataset(tmp_path).notes if "outside" in note or "several classes" in note]


def test_coco_key_points_that_are_seen(tmp_path: Path) -> None:
    make_image(tmp_path / "images/x.jpg", size=SIZE)
    x, y = center(*POINT)
    page: dict[str, Any] = {
        "images": [{"id": 1, "file_name": "x.jpg", "height": 12, "width": 16}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "keypoints": [x, y, 2, 9, 9, 1, 0, 0, 0], "num_keypoints": 2,
             "bbox": [0, 0, 9, 9]},
            {"id": 2, "image_id": 1, "category_id": 2, "keypoints": [8.5, 2.5, 2], "num_keypoints": 1},
        ],
        "categories": [{"id": 1, "name": "a", "keypoints": ["p", "q", "r"]}, {"id": 2, "name": "b"}],
    }  # fmt: skip
    write(tmp_path / "points.json", page)
    data = open_dataset(tmp_path, labels={"point_radius": 0})
    drawn = np.full(SIZE, 255)
    drawn[4, 3], drawn[2, 8] = 0, 1
    assert data.format == "coco" and data.partial and data.label_space.names == ("a", "b")
    assert np.array_equal(only(data), drawn), "a key point that is hidden is no label of what hides it"

    page["annotations"][1] = {"id": 2, "image_id": 1, "category_id": 2, "segmentation": [[0, 0, 4, 0, 4, 4, 0, 4]]}
    write(tmp_path / "points.json", page)
    kinds = {p.kind for p in open_dataset(tmp_path).problems}
    assert {"points beside outlines", "objects lost"} <= kinds
    both = only(open_dataset(tmp_path, labels={"point_radius": 0, "unlabeled_pixels": "background"}))
    assert both[4, 3] == 1 and (both[:4, :4] == 2).all() and both[11, 15] == 0


# --- boxes

CORNERS = (2, 2, 12, 12)  # left, top, right, bottom: of 100 pixels, 20 are the core
INNER = np.zeros((14, 16), bool)
INNER[5:9, 5:9] = True  # √0.2 of 10 is 4.47: the rows and columns whose centers lie in 4.76 … 9.24


def box_mask(inside: int, around: int, rest: int) -> np.ndarray:
    labels = np.full((14, 16), rest)
    labels[2:12, 2:12] = around
    labels[INNER] = inside
    return labels


def yolo_box(root: Path) -> None:
    make_image(root / "images/x.png", size=(14, 16))
    write(root / "labels/x.txt", f"0 {7 / 16} {7 / 14} {10 / 16} {10 / 14}\n")
    write(root / "data.yaml", "names: [car]\n")


def coco_box(root: Path) -> None:
    make_image(root / "images/x.png", size=(14, 16))
    page = {
        "images": [{"id": 1, "file_name": "x.png", "height": 14, "width": 16}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 2, 10, 10]}],
        "categories": [{"id": 1, "name": "car"}],
    }
    write(root / "instances.json", page)


def voc_box(root: Path) -> None:
    make_image(root / "JPEGImages/x.png", size=(14, 16))
    box = "<bndbox><xmin>3</xmin><ymin>3</ymin><xmax>12</xmax><ymax>12</ymax></bndbox>"
    write(root / "Annotations/x.xml", f"<annotation><object><name>car</name>{box}</object></annotation>")
    write(root / "ImageSets/Main/train.txt", "x\n")


def label_img_box(root: Path) -> None:
    make_image(root / "train/x.png", size=(14, 16))
    box = "<bndbox><xmin>3</xmin><ymin>3</ymin><xmax>12</xmax><ymax>12</ymax></bndbox>"
    name = "<filename>x.png</filename>"
    write(root / "train/x.xml", f"<annotation>{name}<object><name>car</name>{box}</object></annotation>")


@pytest.mark.parametrize("make", [yolo_box, coco_box, voc_box, label_img_box])
def test_boxes_alone_are_refused_with_their_readings(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path)
    with pytest.raises(FormatError, match="boxes, not") as caught:
        open_dataset(tmp_path)
    assert "--boxes core" in str(caught.value) and "--boxes fill" in str(caught.value)

    data = open_dataset(tmp_path, labels={"boxes": "fill"})
    assert data.label_space.names == ("background", "car") and np.array_equal(only(data), box_mask(1, 1, 0))
    data = open_dataset(tmp_path, labels={"boxes": "core"})
    assert np.array_equal(only(data), box_mask(1, 255, 0)), "outside of all boxes is background"
    data = open_dataset(tmp_path, labels={"boxes": "core", "unlabeled_pixels": "ignore"})
    assert data.partial and data.label_space.names == ("car",) and np.array_equal(only(data), box_mask(0, 255, 255))


def test_cores_of_rectangles_in_annotation_tools(tmp_path: Path) -> None:
    make_image(tmp_path / "x.png", size=(14, 16))
    shape = {"label": "car", "shape_type": "rectangle", "points": [[2, 2], [11, 11]]}
    page = {"version": "5", "shapes": [shape], "imagePath": "x.png", "imageData": None, "imageHeight": 14,
            "imageWidth": 16}  # fmt: skip
    write(tmp_path / "x.json", page)
    assert np.array_equal(only(open_dataset(tmp_path, labels={"boxes": "core"})), box_mask(1, 255, 0))
    assert np.array_equal(only(open_dataset(tmp_path)), box_mask(1, 1, 0)), "as it was without the option"


def test_boxes_that_overlap_keep_each_others_cores(tmp_path: Path) -> None:
    make_image(tmp_path / "images/x.png", size=(14, 16))
    write(tmp_path / "labels/x.txt", f"0 {7 / 16} 0.5 {4 / 16} {4 / 14}\n1 {8 / 16} 0.5 {16 / 16} 1\n")
    write(tmp_path / "data.yaml", "names: [car, road]\n")
    labels = only(open_dataset(tmp_path, labels={"boxes": "core"}))
    assert (labels[6:8, 6:8] == 1).all() and (labels == 1).sum() == 4
    car = np.zeros((14, 16), bool)
    car[5:9, 5:9] = True
    assert not (labels[car] == 2).any(), "the rest of the car's box may be car"
    assert (labels[~car] == 2).any() and not (labels == 0).any()


def test_the_rest_of_a_small_box_is_unsure_in_the_core_of_a_large_one() -> None:
    def box(index: int, *corners: float) -> Region:
        left, top, right, bottom = corners
        places = np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float64)
        (y, x, inner), rest = core(places, 40, 40, "x")
        return Region(index, inner, y, x, rest)

    large, small = box(1, 0, 0, 40, 40), box(2, 15, 15, 25, 25)
    labels = paint([large, small], 40, 40, 0)
    expected = np.full((40, 40), 255)
    _, inside = core(np.array([[0, 0], [40, 0], [40, 40], [0, 40.0]]), 40, 40, "x")
    expected[~inside] = 1
    expected[15:25, 15:25] = 255
    expected[18:22, 18:22] = 2
    assert np.array_equal(labels, expected)
    beside = paint([box(3, 15, 15, 25, 25), box(2, 17, 17, 27, 27)], 40, 40, 0)
    assert (beside == 3).any(), "of equal boxes each keeps its core where the other has none"
    assert (paint([small, box(1, 0, 17, 40, 40)], 40, 40, 0) == 2).any(), "the rest of a larger box leaves a core alone"
    sure = Region(1, np.ones((10, 10), bool), 15, 15)
    assert (paint([sure, small], 40, 40, 0)[15:25, 15:25] == np.where(expected[15:25, 15:25] == 2, 2, 1)).all()
    assert (paint([large, sure, small], 40, 40, 0)[15, 15:25] == 1).all(), "what is drawn over a core is sure"


def test_a_background_that_is_drawn_stays_under_the_rest_of_a_box() -> None:
    (top, left, inner), rest = core(np.array([[0, 0], [20, 0], [20, 20], [0, 20.0]]), 40, 40, "x")
    drawn = Region(0, np.ones((10, 10), bool), 0, 0)
    labels = paint([drawn, Region(1, inner, top, left, rest)], 40, 40, 0)
    assert labels[0, 0] == 0 and labels[0, 15] == 255 and labels[10, 10] == 1 and labels[39, 39] == 0


# --- the rule


def test_a_rule_beside_the_data_serves_every_command(tmp_path: Path) -> None:
    labelme(tmp_path)
    write(tmp_path / "sparse-labels.yaml", "unlabeled_pixels: background\npoint_radius: 1\nline_width: 1\n")
    data = open_dataset(tmp_path)
    assert np.array_equal(only(data), expected(1, 2, 0))
    assert any("sparse-labels.yaml is used: unlabeled_pixels background" in note for note in data.notes)
    given = open_dataset(tmp_path, labels={"unlabeled_pixels": "ignore"})
    assert np.array_equal(only(given), expected(0, 1)), "what is given goes before what lies there"
    for text in ("point_radius: -1\n", "radius: 3\n", "- 1\n", "a: [\n"):
        write(tmp_path / "sparse-labels.yaml", text)
        with pytest.raises(DataError, match=r"sparse-labels\.yaml cannot be used"):
            open_dataset(tmp_path)


def test_a_rule_for_masks_in_files_is_an_error(tmp_path: Path) -> None:
    make_image(tmp_path / "images/x.png")
    mask(tmp_path / "masks/x.png", [0, 1])
    with pytest.raises(UsageError, match="state every pixel"):
        open_dataset(tmp_path, labels={"unlabeled_pixels": "ignore"})


@pytest.mark.parametrize(
    "values", [{"unlabeled_pixels": "void"}, {"boxes": "half"}, {"point_radius": -1}, {"line_width": 0}, {"radius": 1}]
)
def test_values_out_of_range(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        LabelRule.of(values)


# --- pixels


def painted(box: tuple[int, int, np.ndarray], size: tuple[int, int]) -> np.ndarray:
    top, left, part = box
    whole = np.zeros(size, bool)
    whole[top : top + part.shape[0], left : left + part.shape[1]] = part
    return whole


def distances(a: np.ndarray, b: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """H×W: how far the centers of the pixels are from the line from a to b."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    along = b - a
    length = max(float(along @ along), 1e-12)
    t = np.clip(((x - a[0]) * along[0] + (y - a[1]) * along[1]) / length, 0, 1)
    return np.hypot(x - a[0] - t * along[0], y - a[1] - t * along[1])


def test_strokes_against_distances() -> None:
    rng = np.random.default_rng(0)
    size = (60, 90)
    for _ in range(60):
        points = rng.uniform(-30, 120, (int(rng.integers(1, 5)), 2))
        radius, width = float(rng.uniform(0, 6)), float(rng.uniform(1, 9))
        near = [distances(p, p, size) <= radius for p in points]
        for p, whole in zip(points, near, strict=True):
            if (p >= 0).all() and p[0] < size[1] and p[1] < size[0]:
                whole[int(p[1]), int(p[0])] = True
        assert np.array_equal(painted(stamp(points, radius, *size), size), np.any(near, axis=0))
        if len(points) > 1:
            line = np.any([distances(a, b, size) <= width / 2 for a, b in pairwise(points)], axis=0)
            drawn = painted(trace(points, width, *size, "x"), size)
            assert not (line & ~drawn).any(), "a pixel near the line is missing"
            assert (drawn & ~line).sum() <= 2 * len(points) * 10, "only the pixels of its ends are added"


def test_a_hostile_line_costs_what_the_image_shows() -> None:
    points = np.array([[-1e7, -1e7], [1e7, 1e7], [1e7, -1e7], [5.0, 5.0]])
    top, left, part = trace(points, 3, 100, 100, "x")
    assert part.shape == (100, 100) and (top, left) == (0, 0) and part.trace() == 100
    with pytest.raises(LabelError, match="too long"):
        trace(np.tile([[0.0, 0.0], [99.0, 99.0]], (150_000, 1)), 3, 100, 100, "x")


def test_a_box_has_a_core_of_at_least_a_pixel() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        left, top = rng.uniform(0, 8, 2)
        right, bottom = left + rng.uniform(1, 20), top + rng.uniform(1, 20)
        corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
        (_, _, inner), rest = core(corners, 40, 40, "x")
        assert inner.any() and not (inner & rest).any()
        if (right - left) * (bottom - top) > 200:
            assert inner.sum() / (inner | rest).sum() == pytest.approx(CORE, abs=0.06)


def test_which_reading_follows_from_what_the_images_hold() -> None:
    auto = LabelRule()
    assert choose_reading(auto, [(0, 3), (0, 0)]).reading.rest == "background"
    assert choose_reading(auto, [(2, 0), (0, 0)]).reading.rest == "ignored"
    mixed = choose_reading(auto, [(2, 0), (0, 1)])
    assert mixed.reading.rest == "background" and not mixed.reading.strokes and mixed.problems
    assert choose_reading(auto, [(2, 1)], drawn_beside="as the tool draws them").reading.strokes
    assert not choose_reading(LabelRule("by-image"), [(2, 1)]).problems
