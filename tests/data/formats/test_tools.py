"""Annotation tools: Supervisely, VGG Image Annotator, V7 Darwin, Hasty."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trees import make_image, mask, write

from segwright.core.errors import DataError, FormatError, LabelError
from segwright.data.dataset import open_dataset
from segwright.imageio import encode_png

HEIGHT, WIDTH = 12, 16


def first(data: Any) -> np.ndarray:
    """The first record's mask."""
    found = data.all.read_mask(0)
    assert found is not None and found.dtype == np.uint8
    return np.asarray(found)


def area(data: Any) -> dict[str, int]:
    """Class name → pixels in the first mask."""
    values, counts = np.unique(first(data), return_counts=True)
    names = data.label_space.names
    return {"ignored" if v == 255 else names[v]: int(n) for v, n in zip(values, counts, strict=True)}


def counts(data: Any) -> dict[str, tuple[int, int]]:
    """Class name → (listed, drawn) objects of the first record."""
    found = data.reader.object_counts(data.records[0])
    return {data.label_space.names[index]: (one.listed, one.drawn) for index, one in found.items()}


# --- Supervisely


def bitmap(pixels: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(encode_png(pixels))).decode()


def sly_object(title: str, kind: str, **more: Any) -> dict[str, Any]:
    return {"id": 1, "classTitle": title, "geometryType": kind, "tags": [], **more}


def polygon(points: list[list[float]], holes: tuple[list[list[float]], ...] = ()) -> dict[str, Any]:
    return {"points": {"exterior": points, "interior": list(holes)}}


def supervisely(root: Path, objects: list[dict[str, Any]], datasets: tuple[str, ...] = ("ds0",), tag: str = "") -> None:
    classes = [{"title": t, "shape": "any", "color": c} for t, c in (("road", "#804080"), ("car", "#00008E"))]
    write(root / "meta.json", {"classes": classes, "tags": [], "projectType": "images"})
    for number, dataset in enumerate(datasets):
        make_image(root / f"{dataset}/img/photo {number}.jpg", seed=number)
        annotation = {
            "description": "", "tags": [{"name": tag}] if tag else [], "size": {"height": HEIGHT, "width": WIDTH},
            "objects": objects,
        }  # fmt: skip
        write(root / f"{dataset}/ann/photo {number}.jpg.json", annotation)


def test_supervisely_draws_bitmaps_polygons_and_rectangles(tmp_path: Path) -> None:
    part = np.zeros((3, 4), np.uint8)
    part[1:, 1:] = 255
    hole = [[10, 8], [12, 8], [12, 10], [10, 10]]
    objects = [
        sly_object("road", "rectangle", **polygon([[0, 0], [15, 5]])),
        sly_object("car", "bitmap", bitmap={"data": bitmap(part), "origin": [2, 1]}),
        sly_object("car", "polygon", **polygon([[8, 7], [14, 7], [14, 11], [8, 11]], (hole,))),
    ]  # fmt: skip
    supervisely(tmp_path, objects)
    data = open_dataset(tmp_path)
    assert data.format == "supervisely" and data.label_space.names == ("background", "road", "car")
    assert data.label_space.colors[2] == (0, 0, 0x8E)
    drawn = first(data)
    assert (drawn[:6] == 1).sum() == 6 * 16 - 6  # both corners of a rectangle belong to it
    assert np.array_equal(drawn[1:4, 2:6] == 2, part > 0)
    assert (drawn[7:12, 8:15] == 2).sum() == 5 * 7 - 3 * 3  # the outline belongs to the object, the hole's does not


@pytest.mark.parametrize("mode", ["gray", "alpha", "palette"])
def test_supervisely_reads_the_bitmaps_of_all_its_versions(tmp_path: Path, mode: str) -> None:
    from io import BytesIO

    from PIL import Image

    part = np.zeros((4, 6), np.uint8)
    part[:, 2:5] = 1
    buffer = BytesIO()
    if mode == "palette":
        image = Image.fromarray(part, "P")
        image.putpalette([0, 0, 0, 255, 255, 255])
        image.save(buffer, "PNG", transparency=0)
    elif mode == "alpha":
        Image.fromarray(np.dstack([np.full_like(part, 255)] * 3 + [part * 255])).save(buffer, "PNG")
    else:
        Image.fromarray(part * 255).save(buffer, "PNG")
    text = base64.b64encode(zlib.compress(buffer.getvalue())).decode()
    supervisely(tmp_path, [sly_object("car", "bitmap", bitmap={"data": text, "origin": [3, 2]})])
    assert np.array_equal(first(open_dataset(tmp_path))[2:6, 3:9] == 2, part > 0)


def test_what_has_no_area_in_supervisely_is_counted(tmp_path: Path) -> None:
    objects = [
        sly_object("road", "line", **polygon([[0, 0], [9, 9]])),
        sly_object("road", "point", **polygon([[3, 3]])),
        sly_object("car", "polygon", **polygon([[2, 2], [5, 2], [5, 5]])),
        sly_object("car", "polygon", **polygon([[200, 200], [205, 200], [205, 205]])),
    ]
    supervisely(tmp_path, objects)
    data = open_dataset(tmp_path)
    assert counts(data) == {"road": (2, 0), "car": (2, 1)}
    assert any("lines (1), points (1)" in note for note in data.notes)


def test_supervisely_splits_by_datasets_and_by_tags(tmp_path: Path) -> None:
    objects = [sly_object("car", "polygon", **polygon([[2, 2], [5, 2], [5, 5]]))]
    supervisely(tmp_path / "a", objects, ("train", "val_2"))
    assert {n: len(r) for n, r in open_dataset(tmp_path / "a").given.items()} == {"train": 1, "val": 1}
    supervisely(tmp_path / "b", objects, ("ds0", "ds1"), tag="val")
    assert {n: len(r) for n, r in open_dataset(tmp_path / "b").given.items()} == {"val": 2}


def test_a_class_that_meta_json_does_not_list_is_kept_and_said(tmp_path: Path) -> None:
    supervisely(tmp_path, [sly_object("tree", "polygon", **polygon([[2, 2], [5, 2], [5, 5]]))])
    data = open_dataset(tmp_path)
    assert "tree" in data.label_space.names and area(data)["tree"] > 0
    assert [p.kind for p in data.problems] == ["class not listed"]


@pytest.mark.parametrize(
    "text",
    [
        "not base64!",
        base64.b64encode(b"not zlib").decode(),
        base64.b64encode(zlib.compress(b"not an image")).decode(),
        base64.b64encode(zlib.compress(bytes(50_000_000))).decode(),
        bitmap(np.ones((3000, 3000), np.uint8)),
    ],
)
def test_a_broken_or_hostile_bitmap_is_an_error_that_names_the_file(tmp_path: Path, text: str) -> None:
    supervisely(tmp_path, [sly_object("car", "bitmap", bitmap={"data": text, "origin": [0, 0]})])
    data = open_dataset(tmp_path)
    with pytest.raises(DataError, match=r"photo 0\.jpg\.json"):
        first(data)


def test_annotations_without_images_are_an_error(tmp_path: Path) -> None:
    supervisely(tmp_path, [], ("ds0", "ds1"))
    (tmp_path / "ds0/img/photo 0.jpg").unlink()
    kinds = {p.kind: p for p in open_dataset(tmp_path).problems}
    assert kinds["image missing"].severity == "error"
    (tmp_path / "ds1/img/photo 1.jpg").unlink()
    with pytest.raises(FormatError, match="without its images"):
        open_dataset(tmp_path)


def test_superviselys_machine_masks(tmp_path: Path) -> None:
    for i in range(3):
        make_image(tmp_path / f"ds/img/{i}.jpg", seed=i)
        mask(tmp_path / f"ds/masks_machine/{i}.png", [0, 3, 7])
        mask(tmp_path / f"ds/masks_human/{i}.png", [0, 100, 200])
    write(tmp_path / "obj_class_to_machine_color.json", {"car": [7, 7, 7], "road": [3, 3, 3]})
    data = open_dataset(tmp_path)
    assert data.format == "supervisely" and data.label_space.names == ("background", "road", "car")
    assert first(data)[0, [0, 8, 15]].tolist() == [0, 1, 2]
    write(tmp_path / "obj_class_to_machine_color.json", {"car": [7, 7, 7], "road": [7, 7, 7]})
    with pytest.raises(LabelError, match="cannot be parsed"):
        open_dataset(tmp_path)


# --- VIA


def via_polygon(left: int, top: int, right: int, bottom: int) -> dict[str, Any]:
    return {"name": "polygon", "all_points_x": [left, right, right, left], "all_points_y": [top, top, bottom, bottom]}


def via(root: Path, regions: list[tuple[dict[str, Any], dict[str, Any]]], version: str = "2", images: int = 1) -> None:
    data = {}
    for i in range(images):
        path = make_image(root / f"x{i}.jpg", seed=i)
        listed = [{"shape_attributes": s, "region_attributes": a} for s, a in regions]
        held: Any = {str(k): r for k, r in enumerate(listed)} if version == "1" else listed
        entry = {"filename": path.name, "size": 7, "regions": held, "file_attributes": {}}
        data[f"{path.name}7"] = {"fileref": "", "base64_img_data": "", **entry} if version == "1" else entry
    if version == "csv":
        rows = ["filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"]
        quoted = lambda value: '"' + json.dumps(value).replace('"', '""') + '"'  # noqa: E731
        for i in range(images):
            rows += [
                f'x{i}.jpg,7,"{{}}",{len(regions)},{k},{quoted(s)},{quoted(a)}' for k, (s, a) in enumerate(regions)
            ]
        write(root / "via_export.csv", "\n".join(rows) + "\n")
    else:
        whole = {"_via_settings": {}, "_via_img_metadata": data, "_via_attributes": {"region": {}, "file": {}}}
        write(root / "via_region_data.json", whole if version == "project" else data)


@pytest.mark.parametrize("version", ["1", "2", "project", "csv"])
def test_via_in_all_its_forms(tmp_path: Path, version: str) -> None:
    regions = [
        (via_polygon(0, 0, 8, 6), {"name": "balloon"}),
        ({"name": "rect", "x": 10, "y": 2, "width": 4, "height": 3}, {"name": "string"}),
    ]
    via(tmp_path, regions, version, images=2)
    data = open_dataset(tmp_path)
    assert data.format == "via" and len(data) == 2 and not data.problems
    assert area(data) == {"background": 192 - 48 - 12, "balloon": 48, "string": 12}


def test_via_draws_its_round_shapes_and_counts_points(tmp_path: Path) -> None:
    regions = [
        ({"name": "circle", "cx": 5, "cy": 5, "r": 3}, {"t": "a"}),
        ({"name": "ellipse", "cx": 11, "cy": 6, "rx": 2, "ry": 4, "theta": 1.5707963}, {"t": "b"}),
        ({"name": "point", "cx": 1, "cy": 1}, {"t": "a"}),
        ({"name": "polyline", "all_points_x": [0, 4, 4], "all_points_y": [0, 0, 4]}, {"t": "a"}),
        ({"name": "polyline", "all_points_x": [0, 2, 2, 0], "all_points_y": [9, 9, 11, 9]}, {"t": "c"}),
    ]
    via(tmp_path, regions)
    data = open_dataset(tmp_path)
    drawn = first(data)
    assert drawn[5, 2] == 1 and drawn[5, 1] == 0 and abs(int((drawn == 1).sum()) - 28) < 4
    assert drawn[6, 14] == 2 and drawn[9, 11] == 0  # turned by a quarter
    assert counts(data) == {"a": (3, 1), "b": (1, 1), "c": (1, 1)}
    assert any("points (1), polylines (1)" in note for note in data.notes)


def test_via_with_several_attributes_is_refused_with_their_values(tmp_path: Path) -> None:
    regions = [(via_polygon(0, 0, 8, 6), {"kind": "car", "color": "red", "note": ""}),
               (via_polygon(8, 6, 16, 12), {"kind": "bus", "color": "red"})]  # fmt: skip
    via(tmp_path, regions)
    with pytest.raises(FormatError) as caught:
        open_dataset(tmp_path)
    assert "kind (car, bus)" in str(caught.value) and "color (red)" in str(caught.value)
    write(tmp_path / "classes.txt", "bus\ncar\n")
    data = open_dataset(tmp_path)
    assert data.label_space.names == ("background", "bus", "car") and area(data)["car"] == 48


def test_via_regions_without_a_class_are_counted(tmp_path: Path) -> None:
    regions = [(via_polygon(0, 0, 8, 6), {"kind": {"car": True, "bus": False}}),
               (via_polygon(8, 0, 16, 6), {"kind": {"car": True, "bus": True}}),
               (via_polygon(8, 6, 16, 12), {"kind": {}})]  # fmt: skip
    via(tmp_path, regions)
    data = open_dataset(tmp_path)
    assert area(data)["car"] == 48
    assert [(p.kind, "2 regions" in p.message) for p in data.problems] == [("objects lost", True)]


def test_via_without_attributes_has_one_class(tmp_path: Path) -> None:
    via(tmp_path, [(via_polygon(0, 0, 8, 6), {})])
    assert open_dataset(tmp_path).label_space.names == ("background", "object")


def test_via_in_two_folders_has_two_splits(tmp_path: Path) -> None:
    for part in ("train", "val"):
        via(tmp_path / part, [(via_polygon(0, 0, 8, 6), {"name": "balloon"})], images=3)
    data = open_dataset(tmp_path)
    assert {name: len(records) for name, records in data.given.items()} == {"train": 3, "val": 3}
    assert all(r.image_path and r.image_path.parent.name == "val" for r in data.given["val"])


def test_two_files_of_via_that_disagree_on_an_image_leave_it_out(tmp_path: Path) -> None:
    via(tmp_path, [(via_polygon(0, 0, 8, 6), {"name": "balloon"})], images=2)
    other = json.loads((tmp_path / "via_region_data.json").read_text())
    other["x0.jpg7"]["regions"][0]["shape_attributes"] = via_polygon(0, 0, 2, 2)
    write(tmp_path / "second.json", other)
    data = open_dataset(tmp_path)
    assert [r.id for r in data.records] == ["x1"]
    assert [p.kind for p in data.problems if p.severity == "error"] == ["file claimed twice"]


def test_via_with_a_missing_image_and_with_boxes_only(tmp_path: Path) -> None:
    via(tmp_path, [({"name": "rect", "x": 1, "y": 2, "width": 4, "height": 3}, {"name": "car"})], images=2)
    (tmp_path / "x1.jpg").unlink()
    kinds = {p.kind: p.severity for p in open_dataset(tmp_path).problems}
    assert kinds == {"image missing": "error", "boxes only": "warning"}


def test_a_broken_via_file_is_named(tmp_path: Path) -> None:
    make_image(tmp_path / "x.jpg")
    write(tmp_path / "via.json", {"x.jpg7": {"filename": "x.jpg", "regions": [{"shape_attributes_": 0}]},
                                  "y": {"shape_attributes": 1}})  # fmt: skip
    with pytest.raises(LabelError, match="not an annotation file of VIA"):
        open_dataset(tmp_path)


# --- Darwin


def darwin_points(left: float, top: float, right: float, bottom: float) -> list[dict[str, float]]:
    return [{"x": x, "y": y} for x, y in ((left, top), (right, top), (right, bottom), (left, bottom))]


def darwin(root: Path, annotations: list[dict[str, Any]], version: int = 2, images: int = 1) -> None:
    for i in range(images):
        make_image(root / f"images/x{i}.jpg", seed=i)
        if version == 2:
            slot = {"type": "image", "slot_name": "0", "width": WIDTH, "height": HEIGHT, "source_files": []}
            data = {"version": "2.0", "schema_ref": "", "item": {"name": f"x{i}.jpg", "path": "/", "slots": [slot]},
                    "annotations": annotations}  # fmt: skip
        else:
            data = {"dataset": "d", "image": {"width": WIDTH, "height": HEIGHT, "filename": f"x{i}.jpg",
                                              "original_filename": f"x{i}.jpg", "url": "", "path": "/"},
                    "annotations": annotations}  # fmt: skip
        write(root / f"releases/latest/annotations/x{i}.json", data)


@pytest.mark.parametrize("version", [1, 2])
def test_darwin(tmp_path: Path, version: int) -> None:
    ring, hole = darwin_points(0, 0, 8, 8), darwin_points(2, 2, 4, 4)
    if version == 2:
        shaped: dict[str, Any] = {"polygon": {"paths": [ring, hole]}}
    else:
        shaped = {"complex_polygon": {"path": [ring, hole]}}
    annotations = [
        {"id": "1", "name": "road", **shaped, "bounding_box": {"x": 0, "y": 0, "w": 8, "h": 8}},
        {"id": "2", "name": "car", "bounding_box": {"x": 10, "y": 2, "w": 4, "h": 3}},
        {"id": "3", "name": "car", "line": {"path": []}},
        {"id": "4", "name": "day", "tag": {}},
    ]
    darwin(tmp_path, annotations, version, images=2)
    data = open_dataset(tmp_path)
    assert data.format == "darwin" and len(data) == 2 and not data.problems
    assert area(data) == {"background": 192 - 60 - 12, "car": 12, "road": 60}
    assert counts(data) == {"car": (2, 1), "road": (1, 1)}


def test_darwins_raster_layer(tmp_path: Path) -> None:
    layer = {"dense_rle": [0, 16, 1, 20, 2, 156], "mask_annotation_ids_mapping": {"a": 1, "b": 2}, "total_pixels": 192}
    annotations = [
        {"id": "l", "name": "__raster_layer__", "raster_layer": layer},
        {"id": "a", "name": "road", "mask": {}},
        {"id": "b", "name": "car", "mask": {}},
    ]
    darwin(tmp_path, annotations)
    data = open_dataset(tmp_path)
    assert area(data) == {"background": 16, "road": 20, "car": 156} and counts(data) == {"car": (1, 1), "road": (1, 1)}
    layer["dense_rle"] = [0, 16, 1, 20]
    darwin(tmp_path, annotations)
    with pytest.raises(LabelError, match="do not fill the image"):
        first(open_dataset(tmp_path))


def test_a_video_of_darwin_is_named(tmp_path: Path) -> None:
    darwin(tmp_path, [])
    path = tmp_path / "releases/latest/annotations/x0.json"
    data = json.loads(path.read_text())
    data["item"]["slots"][0]["type"] = "video"
    write(path, data)
    with pytest.raises(LabelError, match="a video or volume of V7 Darwin"):
        open_dataset(tmp_path)


# --- Hasty


def hasty(root: Path, labels: list[dict[str, Any]], status: str = "DONE") -> None:
    images = []
    for i, dataset in enumerate(("train", "train", "val")):
        make_image(root / f"{dataset}/x{i}.jpg", seed=i)
        images.append({"image_id": str(i), "image_name": f"x{i}.jpg", "dataset_name": dataset, "width": WIDTH,
                       "height": HEIGHT, "image_status": status, "tags": [], "labels": labels})  # fmt: skip
    classes = [{"class_name": n, "parent_class_name": None, "class_type": "object", "color": c, "norder": 1}
               for n, c in (("road", "#804080ff"), ("car", "#00008eff"))]  # fmt: skip
    write(root / "export.json", {"project_name": "p", "create_date": "", "export_format_version": "1.1",
                                 "label_classes": classes, "images": images})  # fmt: skip


def test_hasty(tmp_path: Path) -> None:
    labels = [
        {"id": "1", "class_name": "car", "bbox": [2, 1, 6, 4], "polygon": None, "mask": [1, 4, 6, 2], "z_index": 5},
        {"id": "2", "class_name": "road", "bbox": [0, 0, 8, 8], "polygon": [[0, 0], [8, 0], [8, 8], [0, 8]],
         "mask": None, "z_index": 1},
    ]  # fmt: skip
    hasty(tmp_path, labels)
    data = open_dataset(tmp_path)
    assert data.format == "hasty" and not data.problems and data.label_space.names == ("background", "road", "car")
    drawn = first(data)
    expected = np.array([[2, 2, 2, 2], [1, 2, 2, 1], [1, 1, 1, 1]])
    assert np.array_equal(drawn[1:4, 2:6], expected) and (drawn > 0).sum() == 64
    assert {name: len(records) for name, records in data.given.items()} == {"train": 2, "val": 1}


def test_hasty_with_a_run_outside_its_box_and_with_images_nobody_labeled(tmp_path: Path) -> None:
    hasty(tmp_path / "a", [{"class_name": "car", "bbox": [2, 1, 6, 4], "mask": [11, 4], "z_index": 0}])
    with pytest.raises(LabelError, match="a run is outside"):
        first(open_dataset(tmp_path / "a"))
    hasty(tmp_path / "b", [], status="NEW")
    data = open_dataset(tmp_path / "b")
    assert data.all.read_mask(0) is None and any("are not labeled" in note for note in data.notes)
