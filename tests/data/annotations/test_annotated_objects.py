"""Every annotated object is drawn, refused, or counted and named; a file's numbers and shapes are bounded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trees import filled, make_image, write

from segwright.core.errors import DataError, FormatError, LabelError
from segwright.data.annotations import polygons, rasterize, rle
from segwright.data.annotations.rasterize import Drawable, Drawing, Region, draw
from segwright.data.dataset import open_dataset
from segwright.data.formats.cvat_tracks import _nearest
from segwright.data.records import Dataset, ObjectCount, Problem

SIZE = (12, 16)
BOX = [2, 3, 10, 3, 10, 9, 2, 9]
INSIDE = np.zeros(SIZE, bool)
INSIDE[3:9, 2:10] = True


def coco(root: Path, annotations: list[dict[str, Any]], name: str = "all.json", images: int = 1, **more: Any) -> Path:
    """A COCO JSON of images/0.jpg …; the annotations are of category 1 and image 0 where they do not tell."""
    for i in range(images):
        make_image(root / f"images/{i}.jpg", size=SIZE, seed=i)
    page = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": SIZE[0], "width": SIZE[1]} for i in range(images)],
        "annotations": [{"id": i, "image_id": 0, "category_id": 1, **a} for i, a in enumerate(annotations)],
        "categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "van"}],
        **more,
    }
    return write(root / name, page)


def the(data: Dataset, kind: str) -> Problem:
    found = [problem for problem in data.problems if problem.kind == kind]
    assert len(found) == 1, data.problems
    return found[0]


def mask(data: Dataset, index: int = 0) -> np.ndarray:
    found = data.all.read_mask(index)
    assert found is not None
    return found


def counts(data: Dataset, index: int = 0) -> dict[int, ObjectCount]:
    return dict(data.reader.object_counts(data.records[index]))  # type: ignore[attr-defined]


# COCO -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["annotations images categories", "categories images annotations"])
def test_a_large_coco_json_is_recognized_whatever_the_order_of_its_keys(tmp_path: Path, order: str) -> None:
    path = coco(tmp_path, [{"segmentation": [BOX]}] * 900)
    page = json.loads(path.read_text())
    page["categories"] += [{"id": i, "name": f"class {i}", "supercategory": "things"} for i in range(3, 200)]
    page["images"][0]["url"] = "x" * 140_000
    path.write_text(json.dumps({key: page[key] for key in order.split()}))
    assert open_dataset(tmp_path).format == "coco"


@pytest.mark.parametrize(
    "segmentation",
    [
        [BOX],
        BOX,
        [[2, 3], [10, 3], [10, 9], [2, 9]],
        [[[2, 3], [10, 3], [10, 9], [2, 9]]],
        [[], BOX],
        [BOX, [1, 1, 2, 2]],
    ],
)
def test_coco_ways_to_write_a_polygon(tmp_path: Path, segmentation: Any) -> None:
    coco(tmp_path, [{"segmentation": segmentation}])
    assert np.array_equal(mask(open_dataset(tmp_path)), INSIDE)


def test_coco_lists_of_run_lengths_and_marks_as_text(tmp_path: Path) -> None:
    left, right = INSIDE.copy(), INSIDE.copy()
    left[:, 5:], right[:, :5] = False, False
    parts = [{"size": [*SIZE], "counts": rle.encode_counts(part)} for part in (left, right)]
    coco(tmp_path, [{"segmentation": parts, "iscrowd": "0"}, {"segmentation": [BOX], "iscrowd": False}])
    data = open_dataset(tmp_path)
    assert np.array_equal(mask(data), INSIDE) and not data.problems and counts(data) == {1: ObjectCount(2, 2)}


@pytest.mark.parametrize("written", ["0", " 0 ", "00", 0.0])
def test_coco_ids_as_text_and_number(tmp_path: Path, written: Any) -> None:
    coco(tmp_path, [{"segmentation": [BOX], "image_id": written, "category_id": "1"}])
    data = open_dataset(tmp_path)
    assert np.array_equal(mask(data), INSIDE) and not data.problems


def test_coco_objects_that_cannot_be_attributed_are_counted(tmp_path: Path) -> None:
    lost: list[dict[str, Any]] = [
        {"segmentation": [BOX], "image_id": 77}, {"segmentation": [BOX], "category_id": 9},
        {"segmentation": [[1, 1, 5, 5]]},
        {"segmentation": [], "bbox": [1, 1, 5, 5]}, {"segmentation": None}, {"category_id": 2, "segmentation": []},
    ]  # fmt: skip
    coco(tmp_path, [{"segmentation": [BOX]}, *lost])
    problem = the(open_dataset(tmp_path), "objects lost")
    assert problem.severity == "error" and problem.message.startswith("6 of 7 objects"), "all of van are lost"
    for reason in ("image id is not listed", "category 9 (the category is not listed", "fewer than three points",
                   "a box alone", "2 of", "van"):  # fmt: skip
        assert reason in problem.message or reason == "2 of"
    assert "--boxes core" in problem.fix, "one of them is a box, which has a reading"
    coco(tmp_path, [{"segmentation": [BOX]}, *lost[:2]])
    assert "--boxes" not in the(open_dataset(tmp_path), "objects lost").fix
    coco(tmp_path, lost[:5])
    with pytest.raises(FormatError, match="none of the objects can be drawn"):
        open_dataset(tmp_path)


def test_coco_categories_counted_from_another_number(tmp_path: Path) -> None:
    coco(tmp_path, [{"segmentation": [BOX], "category_id": 0}, {"segmentation": [BOX], "category_id": 1}])
    with pytest.raises(LabelError, match="category 0 is not listed"):
        open_dataset(tmp_path)


def test_coco_files_that_number_their_categories_differently(tmp_path: Path) -> None:
    coco(tmp_path, [{"segmentation": [BOX]}], "train.json", images=2)
    other = [{"id": 1, "name": "van"}, {"id": 2, "name": "car"}]
    page = json.loads(coco(tmp_path, [{"segmentation": [BOX]}], "val.json", images=2, categories=other).read_text())
    page["images"] = [{"id": 0, "file_name": "1.jpg"}]
    write(tmp_path / "val.json", page)
    page = json.loads((tmp_path / "train.json").read_text())
    page["images"] = page["images"][:1]
    write(tmp_path / "train.json", page)
    data = open_dataset(tmp_path)
    assert data.label_space.names == ("background", "car", "van")
    assert np.array_equal(mask(data, 0), INSIDE) and np.array_equal(mask(data, 1), 2 * INSIDE)
    assert any("matched by name" in note for note in data.notes)


@pytest.mark.parametrize(("crowds", "objects", "drawn"), [(3, 0, True), (3, 2, True), (1, 3, False)])
def test_coco_crowds(tmp_path: Path, crowds: int, objects: int, drawn: bool) -> None:
    brush = {"segmentation": {"size": [*SIZE], "counts": rle.encode_counts(INSIDE)}, "iscrowd": 1}
    coco(tmp_path, [brush] * crowds + [{"segmentation": [[0, 0, 2, 0, 2, 2]]}] * objects)
    data = open_dataset(tmp_path)
    assert mask(data)[5, 5] == (1 if drawn else 255)
    if drawn:
        assert any(f"{crowds} objects marked iscrowd are drawn" in note for note in data.notes)
    else:
        assert "1 of 4 objects" in the(data, "crowds ignored").message


def test_coco_sizes_come_from_the_image_where_the_file_has_none(tmp_path: Path) -> None:
    for size in ({}, {"height": 0, "width": 0}, {"height": None, "width": None}, {"height": "12", "width": 16.0}):
        coco(tmp_path, [{"segmentation": [BOX]}])
        page = json.loads((tmp_path / "all.json").read_text())
        page["images"] = [{"id": 0, "file_name": "0.jpg", **size}]
        write(tmp_path / "all.json", page)
        assert np.array_equal(mask(open_dataset(tmp_path)), INSIDE)


def test_coco_reads_every_file(tmp_path: Path) -> None:
    for i in range(30):
        coco(tmp_path, [{"segmentation": [BOX], "image_id": i}], f"{i}.json", images=30)
        page = json.loads((tmp_path / f"{i}.json").read_text())
        page["images"] = [page["images"][i]]
        write(tmp_path / f"{i}.json", page)
    data = open_dataset(tmp_path)
    assert len(data.records) == 30 and all(np.array_equal(mask(data, i), INSIDE) for i in range(30))


def test_coco_one_file_claimed_by_two_annotations(tmp_path: Path) -> None:
    coco(tmp_path, [{"segmentation": [BOX]}], "a.json", images=2)
    coco(tmp_path, [{"segmentation": [[0, 0, 2, 0, 2, 2]]}], "b.json", images=2)
    data = open_dataset(tmp_path)
    assert "0.jpg" in the(data, "file claimed twice").message and the(data, "file claimed twice").severity == "error"
    assert [record.id for record in data.records] == ["1"], "both say that 1.jpg is background"
    coco(tmp_path, [{"segmentation": [BOX]}], "b.json", images=2)
    assert len(open_dataset(tmp_path).records) == 2, "a copy says the same"


def test_coco_without_a_list_of_annotations_is_unlabeled(tmp_path: Path) -> None:
    coco(tmp_path, [{"segmentation": [BOX]}], "train.json")
    make_image(tmp_path / "images/t.jpg", size=SIZE)
    assert "1 image" in the(open_dataset(tmp_path), "images not listed").message
    page = {"images": [{"id": 5, "file_name": "t.jpg"}], "categories": [{"id": 1, "name": "car"}]}
    write(tmp_path / "test.json", page)
    data = open_dataset(tmp_path)
    assert data.test.read_mask(0) is None
    write(tmp_path / "test.json", {**page, "annotations": []})
    data = open_dataset(tmp_path)
    assert "1 image" in the(data, "no objects").message
    background = data.test.read_mask(0)
    assert background is not None and not background.any()


def test_object_counts(tmp_path: Path) -> None:
    outside, thin = [[100, 100, 110, 100, 110, 110]], [[3.0, 3.0, 3.2, 3.0, 3.2, 3.2]]
    coco(tmp_path, [{"segmentation": [BOX]}, {"segmentation": outside}, {"segmentation": thin, "category_id": 2}])
    assert counts(open_dataset(tmp_path)) == {1: ObjectCount(2, 1), 2: ObjectCount(1, 0)}


# the others -----------------------------------------------------------------------------------------------------------


def labelme(path: Path, shapes: list[dict[str, Any]], **more: Any) -> None:
    write(path, {"version": "5", "shapes": shapes, "imagePath": f"{path.stem}.jpg", "imageData": None,
                 "imageHeight": SIZE[0], "imageWidth": SIZE[1], **more})  # fmt: skip


def test_labelme_rectangles_of_two_and_four_points(tmp_path: Path) -> None:
    make_image(tmp_path / "x.jpg", size=SIZE)
    for points in ([[2, 3], [9, 8]], [[9, 8], [2, 3]], [[2, 3], [9, 3], [9, 8], [2, 8]]):
        labelme(tmp_path / "x.json", [{"label": "a", "shape_type": "rectangle", "points": points}])
        data = open_dataset(tmp_path)
        assert np.array_equal(mask(data), INSIDE) and counts(data) == {1: ObjectCount(1, 1)}
    labelme(tmp_path / "x.json", [{"label": "a", "shape_type": "rectangle", "points": [[1, 1], [2, 2], [3, 3]]}])
    with pytest.raises(LabelError, match="two or four corners"):
        mask(open_dataset(tmp_path))


def test_labelme_images_by_name_and_nothing_else(tmp_path: Path) -> None:
    shape = {"label": "a", "shape_type": "rectangle", "points": [[2, 3], [9, 8]]}
    make_image(tmp_path / "images/x.jpg", size=SIZE)
    labelme(tmp_path / "labels/x.json", [shape], imagePath="..\\images\\x.jpg")
    labelme(tmp_path / "labels/y.json", [shape], imagePath="..\\images\\y.jpg")
    data = open_dataset(tmp_path)
    assert [record.id for record in data.records] == ["x"] and "1 file" in the(data, "image missing").message
    labelme(tmp_path / "labels/y.json", [shape], imagePath="..\\images\\x.jpg")
    with pytest.raises(FormatError, match="named by several entries"):
        open_dataset(tmp_path)


CVAT = "<annotations><meta><task><labels><label><name>car</name></label></labels></task></meta>{}</annotations>"


def cvat(path: Path, shapes: str = "", name: str = "x.jpg") -> None:
    box = '<box label="car" xtl="2" ytl="3" xbr="10" ybr="9" z_order="0"/>'
    write(path, CVAT.format(f'<image id="0" name="{name}" width="16" height="12">{shapes or box}</image>'))


def test_cvat_tasks_with_equal_names(tmp_path: Path) -> None:
    for task, shift in (("a", 0), ("b", 2)):
        make_image(tmp_path / task / "images/x.jpg", size=SIZE)
        cvat(tmp_path / task / "annotations.xml", f'<box label="car" xtl="{shift}" ytl="0" xbr="{shift + 2}" ybr="2"/>')
    data = open_dataset(tmp_path)
    assert [int(mask(data, i)[0].argmax()) for i in (0, 1)] == [0, 2]
    assert [problem.kind for problem in data.problems] == ["boxes only"]
    flat = tmp_path / "flat"
    make_image(flat / "images/x.jpg", size=SIZE)
    for task, shift in (("a", 0), ("b", 2)):
        cvat(flat / f"{task}.xml", f'<box label="car" xtl="{shift}" ytl="0" xbr="{shift + 2}" ybr="2"/>')
    with pytest.raises(FormatError, match="named by several entries"):
        open_dataset(flat)


def test_cvat_elements_in_memory_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from segwright.data.formats import cvat as reader

    monkeypatch.setattr(reader, "MAX_HELD", 70)
    for number in range(30):
        make_image(tmp_path / f"images/{number}.jpg", size=SIZE)
    box = '<box label="car" xtl="2" ytl="3" xbr="10" ybr="9"/>'
    image = f'<image id="0" name="{{}}.jpg" width="16" height="12">{box * 20}</image>'
    write(tmp_path / "annotations.xml", CVAT.format("".join(map(image.format, range(30)))))
    assert open_dataset(tmp_path), "30 images of 20 boxes are never in memory together"
    for inside in ('<a b="c"/>' * 100, image.replace(box, box * 10).format(0)):
        write(tmp_path / "annotations.xml", CVAT.format(inside))
        with pytest.raises(FormatError, match="more elements than the limit"):
            open_dataset(tmp_path)


def test_cvat_reads_every_file_and_counts_lines(tmp_path: Path) -> None:
    for i in range(12):
        make_image(tmp_path / f"images/{i}.jpg", size=SIZE)
        cvat(tmp_path / f"{i}.xml", name=f"{i}.jpg")
    cvat(
        tmp_path / "0.xml", '<polyline label="car" points="0,0;5,5"/><polyline label="wire" points="0,0;5,5"/>', "0.jpg"
    )
    data = open_dataset(tmp_path)
    assert len(data.records) == 12
    problem = the(data, "objects lost")
    assert problem.severity == "error" and "1 of wire (a polyline covers no area)" in problem.message


def test_cvat_numbers_are_no_lengths(tmp_path: Path) -> None:
    key = '<box frame="{}" xtl="1" ytl="1" xbr="5" ybr="5" outside="0"/>'
    meta = "<meta><task><start_frame>0</start_frame><stop_frame>99999999999999</stop_frame></task></meta>"
    for i in range(3):
        make_image(tmp_path / f"images/frame_{i:06d}.png", size=SIZE)
    track = f'<track label="car">{key.format(0)}{key.format(10**25)}</track>'
    write(tmp_path / "annotations.xml", f"<annotations>{meta}{track}</annotations>")
    data = open_dataset(tmp_path)
    assert [int(mask(data, i).sum()) for i in range(3)] == [16, 16, 16]
    rng = np.random.default_rng(0)
    for _ in range(200):
        a, b = (np.sort(rng.integers(0, 12, n) / 8) for n in rng.integers(1, 9, 2))
        assert np.array_equal(_nearest(a, b), np.abs(a[:, None] - b[None]).argmin(axis=1))


def studio(path: Path, results: list[dict[str, Any]], image: str = "/data/upload/1/1a2b3c4d-x.jpg") -> None:
    write(path, [{"id": 1, "data": {"image": image}, "annotations": [{"result": results}]}])


def test_label_studio_exports_labels_and_names(tmp_path: Path) -> None:
    square = {"points": [[0, 0], [50, 0], [50, 50], [0, 50]], "polygonlabels": ["a"]}
    make_image(tmp_path / "x.jpg", size=SIZE)
    make_image(tmp_path / "my photo (2).jpg", size=SIZE)
    studio(tmp_path / "1.json", [{"value": square}])
    studio(tmp_path / "2.json", [{"id": "r", "type": "polygon", "value": {"points": square["points"]}},
                                 {"id": "r", "type": "labels", "value": {"labels": ["b"]}},
                                 {"value": {"x": 1, "y": 1, "width": 1, "keypointlabels": ["nose"]}}],
           "/data/upload/1/5e6f7a8b-my_photo_2.jpg")  # fmt: skip
    data = open_dataset(tmp_path)
    assert sorted(record.id for record in data.records) == ["my photo (2)", "x"]
    assert data.label_space.names == ("background", "a", "b")
    assert {int(mask(data, i)[0, 0]) for i in (0, 1)} == {1, 2}
    assert "nose (a region of keypointlabels covers no area)" in the(data, "objects lost").message
    studio(tmp_path / "2.json", [{"value": {**square, "polygonlabels": ["b"]}}])
    with pytest.raises(FormatError, match="named by several entries"):
        open_dataset(tmp_path)


def two_images(root: Path, data: dict[str, str], regions: list[dict[str, Any]]) -> None:
    make_image(root / "photo.jpg", size=SIZE)
    make_image(root / "depth.jpg", size=SIZE, seed=1)
    write(root / "export.json", [{"id": 1, "data": data, "annotations": [{"result": regions}]}])


@pytest.mark.parametrize("keys", [("depth", "photo"), ("photo", "depth")])
def test_label_studio_draws_on_the_image_that_the_configuration_names(tmp_path: Path, keys: tuple[str, str]) -> None:
    square = {"points": [[0, 0], [50, 0], [50, 50], [0, 50]], "polygonlabels": ["a"]}
    addresses = {key: f"/data/upload/1/1a2b3c4d-{key}.jpg" for key in keys}
    regions = [{"to_name": "seen", "from_name": "tag", "value": square}]
    two_images(tmp_path, addresses, regions)
    with pytest.raises(LabelError, match="several images") as caught:
        open_dataset(tmp_path)
    assert "config.xml beside the export" in str(caught.value) and "depth: /data" in str(caught.value)
    config = (
        '<View><Image name="shown" value="$depth"/><Image name="seen" value="$photo"/>'
        '<PolygonLabels name="tag" toName="seen"><Label value="a"/></PolygonLabels></View>'
    )
    write(tmp_path / "config.xml", config)
    data = open_dataset(tmp_path)
    assert [record.id for record in data.records] == ["photo"] and int(mask(data)[0, 0]) == 1
    (tmp_path / "config.xml").unlink()
    for more in ({"file": "photo.jpg"}, {"name": "the camera's own.jpg", "copy": addresses["photo"]}):
        two_images(tmp_path, {**more, "image": addresses["photo"]}, regions)
        assert [record.id for record in open_dataset(tmp_path).records] == ["photo"], "a bare path is no address"
    two_images(tmp_path, {"a": "photo.jpg", "b": "depth.jpg"}, regions)
    with pytest.raises(LabelError, match="several images"):
        open_dataset(tmp_path)
    # Both are annotated: each image has its own regions.
    write(tmp_path / "config.xml", config.replace('toName="seen"', 'toName="seen,shown"').replace(
        "</View>", '<BrushLabels name="t" toName="shown"><Label value="a"/></BrushLabels></View>'))  # fmt: skip
    right = {"points": [[50, 0], [100, 0], [100, 50], [50, 50]], "polygonlabels": ["b"]}
    two_images(tmp_path, addresses, [*regions, {"to_name": "shown", "from_name": "t", "value": right}])
    data = open_dataset(tmp_path)
    found = {record.id: set(np.unique(mask(data, i)).tolist()) for i, record in enumerate(data.records)}
    assert found == {"photo": {0, 1}, "depth": {0, 2}} and not data.problems


def test_label_studio_reads_the_newest_annotation(tmp_path: Path) -> None:
    def drawn(label: str, number: int, **more: Any) -> dict[str, Any]:
        square = {"points": [[0, 0], [50, 0], [50, 50], [0, 50]], "polygonlabels": [label]}
        return {"id": number, "result": [{"value": square, "from_name": "tag", "to_name": "image"}], **more}

    make_image(tmp_path / "x.jpg", size=SIZE)
    old = drawn("a", 9, updated_at="2026-01-01T10:00:00Z")
    new = drawn("b", 7, updated_at="2026-01-01T10:00:00.000001Z")
    gone = drawn("c", 11, updated_at="2026-02-01T10:00:00Z", was_cancelled=True)
    truth = drawn("d", 3, updated_at="2025-01-01T10:00:00Z", ground_truth=True)
    for several, label in (
        ([old, new], "b"), ([new, old], "b"), ([new, gone, old], "b"), ([new, truth, old], "d"),
        ([drawn("a", 1), drawn("b", 2)], "b"), ([drawn("b", 2), drawn("a", 1)], "b"),
    ):  # fmt: skip
        write(tmp_path / "export.json", [{"id": 1, "data": {"image": "x.jpg"}, "annotations": several}])
        data = open_dataset(tmp_path)
        assert data.label_space.names[int(mask(data)[0, 0])] == label
        said = "1 task has several annotations: the ground truth, else the newest"
        if truth in several:
            assert any(said in note for note in data.notes) and not data.problems
        else:
            assert [p.severity for p in data.problems if said in p.message] == ["warning"]
        rows = [
            {"id": 1, "image": "x.jpg", "tag": [{**one["result"][0]["value"]}], "annotation_id": one["id"],
             **{key: one[key] for key in ("updated_at", "ground_truth", "was_cancelled") if key in one}}
            for one in several
        ]  # fmt: skip
        write(tmp_path / "export.json", rows)  # JSON-MIN has a row per annotation
        data = open_dataset(tmp_path)
        assert data.label_space.names[int(mask(data)[0, 0])] == label
        assert [p.severity for p in data.problems] == ([] if truth in several else ["warning"])
    write(tmp_path / "export.json", [
        {"id": 1, "data": {"image": "x.jpg"}, "annotations": [drawn("a", 1, updated_at="2026-01-01"), drawn("a", 2)]}
    ])  # fmt: skip
    assert not open_dataset(tmp_path).problems, "of two that agree it does not matter which one is read"


def test_cvat_labels_that_the_task_does_not_list_are_a_finding(tmp_path: Path) -> None:
    make_image(tmp_path / "images/x.jpg", size=SIZE)
    text = "<annotations><meta><task><labels><label><name>a</name></label></labels></task></meta>"
    box = '<box label="{}" xtl="0" ytl="0" xbr="4" ybr="4"/>'
    shapes = box.format("a") + box.format("zzz") * 2
    height, width = SIZE
    end = f'<image name="x.jpg" width="{width}" height="{height}">{shapes}</image></annotations>'
    write(tmp_path / "annotations.xml", text + end)
    problem = the(open_dataset(tmp_path), "class not listed")
    assert problem.severity == "warning"
    assert "2 shapes have a label that the task does not list, which becomes a class: zzz (2)" in problem.message
    write(tmp_path / "annotations.xml", f"<annotations>{end}")  # a job's export has no list
    assert [problem.kind for problem in open_dataset(tmp_path).problems] == ["boxes only"]


def yolo(root: Path, line: str, names: str = "[cat, dog]") -> None:
    make_image(root / "images/x.jpg", size=SIZE)
    write(root / "labels/x.txt", line)
    write(root / "data.yaml", f"names: {names}\n")


def test_yolo_coordinates_are_shares(tmp_path: Path) -> None:
    yolo(tmp_path, "0 2 3 10 3 10 9 2 9\n")
    with pytest.raises(LabelError, match="from 0 to 1: they look like pixels"):
        mask(open_dataset(tmp_path))
    yolo(tmp_path, "0 -0.01 0 1.02 0 1.02 1 -0.01 1\n")
    assert mask(open_dataset(tmp_path)).all()


@pytest.mark.parametrize(
    "line",
    [
        "0,0.25,0.25,0.75,0.25,0.75,0.75,0.25,0.75",
        "0, 0.25, 0.25, 0.75, 0.25, 0.75, 0.75, 0.25, 0.75",
        "0;0.25;0.25;0.75;0.25;0.75;0.75;0.25;0.75",
        "0 0.25,0.25 0.75,0.25 0.75,0.75 0.25,0.75",
    ],
)
def test_yolo_numbers_between_commas_are_those_between_spaces(tmp_path: Path, line: str) -> None:
    yolo(tmp_path / "commas", line)
    yolo(tmp_path / "spaces", "0 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75")
    masks = [mask(open_dataset(tmp_path / name)) for name in ("commas", "spaces")]
    assert masks[0].any() and np.array_equal(*masks)


@pytest.mark.parametrize("line", ["0 0,25 0,25 0,75 0,25 0,75 0,75", "0;0,25;0,25;0,75;0,25;0,75;0,75"])
def test_yolo_decimal_commas_are_refused(tmp_path: Path, line: str) -> None:
    yolo(tmp_path, line)
    with pytest.raises(LabelError, match="decimal points"):
        mask(open_dataset(tmp_path))


@pytest.mark.parametrize("names", ["{9999999999: a}", "{}", "[[a, b], c]", "{300: a}", "{0: {a: b}}"])
def test_yolo_names_that_are_none(tmp_path: Path, names: str) -> None:
    yolo(tmp_path, "0 0 0 1 0 1 1\n", names)
    with pytest.raises(LabelError, match=r"data\.yaml"):
        open_dataset(tmp_path)


def test_yolo_images_that_share_a_label_file_or_have_none(tmp_path: Path) -> None:
    yolo(tmp_path, "0 0 0 1 0 1 1\n")
    make_image(tmp_path / "images/y.jpg", size=SIZE)
    assert "1 of 2 images" in the(open_dataset(tmp_path), "images without label file").message
    make_image(tmp_path / "images/x.png", size=SIZE)
    data = open_dataset(tmp_path)
    assert the(data, "colliding names").severity == "error"
    assert [data.all.read_mask(i) is None for i in range(3)] == [True, True, False]


def test_names_in_either_form_of_unicode(tmp_path: Path) -> None:
    yolo(tmp_path / "a", "0.0 0 0 1 0 1 1 0 1\n")
    (tmp_path / "a/images/x.jpg").rename(tmp_path / "a/images/u\u0308.jpg")
    (tmp_path / "a/labels/x.txt").rename(tmp_path / "a/labels/\u00fc.txt")
    data = open_dataset(tmp_path / "a")
    assert len(data.records) == 1 and mask(data).all() and not data.problems
    make_image(tmp_path / "b/u\u0308.jpg", size=SIZE)
    labelme(tmp_path / "b/\u00fc.json", [{"label": "a", "shape_type": "rectangle", "points": [[2, 3], [9, 8]]}])
    assert np.array_equal(mask(open_dataset(tmp_path / "b")), INSIDE)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "gb18030"])
def test_cvat_encodings(tmp_path: Path, encoding: str) -> None:
    make_image(tmp_path / "images/x.jpg", size=SIZE)
    cvat(tmp_path / "annotations.xml")
    text = (tmp_path / "annotations.xml").read_text().replace("car", "\u8f66")
    text = f'<?xml version="1.0" encoding="{encoding.removesuffix("-sig")}"?>' + text
    (tmp_path / "annotations.xml").write_bytes(text.encode(encoding))
    assert open_dataset(tmp_path).label_space.names == ("background", "\u8f66")


# bounds ---------------------------------------------------------------------------------------------------------------


def test_long_outlines_are_cut_at_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    assert filled(np.array([[0, 0], [4.8e6, 0], [4.8e6, 10.0]]), 24, 32).sum() == 0
    wide = filled(np.array([[-3e6, 2], [3e6, 2], [3e6, 6], [-3e6, 6.0]]), *SIZE)
    assert wide[2:6].all() and wide.sum() == 4 * SIZE[1]
    tall = filled(np.array([[0, 0], [10, 9e6], [20, 0.0]]), *SIZE)
    assert tall[1:, 1:19].all() and not tall[:, 20:].any()
    corners = np.random.default_rng(0).uniform(-40, 80, (50, 9, 2))
    whole = [filled(one, 30, 40) for one in corners]
    monkeypatch.setattr(polygons, "CHUNK", 17)
    assert all(np.array_equal(a, filled(one, 30, 40)) for a, one in zip(whole, corners, strict=True))


def test_objects_are_rasterized_within_a_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [Drawable(1 + i % 2, lambda i=i: Region(1 + i % 2, np.ones((9 - i, 9 - i), bool))) for i in range(5)]
    kept = draw(Drawing(*SIZE, made, sort_by_area=True))
    monkeypatch.setattr(rasterize, "KEPT_BYTES", 70)
    again = draw(Drawing(*SIZE, made, sort_by_area=True))
    assert np.array_equal(kept[0], again[0]) and kept[1] == again[1] == {1: ObjectCount(3, 3), 2: ObjectCount(2, 2)}
    monkeypatch.setattr(rasterize, "MAX_COVERED", 100)
    with pytest.raises(LabelError, match="cover more pixels than the limit"):
        draw(Drawing(3, 3, made * 2))


def test_the_objects_of_one_record_are_bounded_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [Drawable(1, lambda: Region(1, np.ones((1, 1), bool)))] * 30
    assert draw(Drawing(3, 3, made))[1] == {1: ObjectCount(30, 30)}
    monkeypatch.setattr(rasterize, "MAX_OBJECTS", 29)
    with pytest.raises(LabelError, match="more objects than the limit"):
        draw(Drawing(3, 3, made))


def test_the_parts_of_a_json_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from segwright.data import text_files

    monkeypatch.setattr(text_files, "MAX_PARTS", 1000)
    (tmp_path / "a.json").write_text("[" + ",".join(["{}"] * 3000) + "]")
    with pytest.raises(FormatError, match="more lists and objects"):
        text_files.read_json(tmp_path / "a.json")
    points = [[i + 0.125, 100.5] for i in range(3000)]
    (tmp_path / "b.json").write_text(json.dumps(points))
    assert text_files.read_json(tmp_path / "b.json") == points


def test_a_size_in_the_annotation_is_not_believed(tmp_path: Path) -> None:
    coco(tmp_path, [{"segmentation": [BOX]}] * 3)
    page = json.loads((tmp_path / "all.json").read_text())
    page["images"][0].update(height=15000, width=15000)
    write(tmp_path / "all.json", page)
    with pytest.raises(LabelError, match="an image of another size"):
        mask(open_dataset(tmp_path))


def test_run_lengths_are_cut_to_their_columns() -> None:
    rng = np.random.default_rng(0)
    for share in (0.0, 0.05, 0.5, 1.0) * 20:
        lit = rng.random((7, 9)) < share
        left, found = rle.crop_columns(rle.list_runs(rle.encode_counts(lit), "x"), 7, 9, "x")
        whole = np.zeros_like(lit)
        whole[: found.shape[0], left : left + found.shape[1]] = found
        assert np.array_equal(whole, lit)
    with pytest.raises(LabelError):
        rle.decode_counts([2**62, 2**62, 2**62, 2**62 + 192], *SIZE)


def test_only_typed_errors_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coco(tmp_path, [{"segmentation": [BOX]}])
    data = open_dataset(tmp_path)
    for error in (IndexError("x"), MemoryError(), RecursionError("deep")):
        monkeypatch.setattr(type(data.reader), "drawing", lambda *_, error=error: (_ for _ in ()).throw(error))
        with pytest.raises(DataError, match=r"0\.jpg"):
            data.all[0]
    monkeypatch.setattr("segwright.data.formats.labelme._folders", lambda _: 1 / 0)
    assert open_dataset(tmp_path).format == "coco", (
        "a recognizer that fails is no reason for another format not to open"
    )
