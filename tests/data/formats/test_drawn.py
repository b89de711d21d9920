"""The formats whose masks are drawn: COCO, labelme, CVAT, Label Studio, YOLO; and run lengths and polygons."""

from __future__ import annotations

import base64
import io
import pickle
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trees import encode_label_studio, filled, make_image, write

from segwright.core.errors import DataError, FormatError, LabelError
from segwright.data.annotations import rle
from segwright.data.dataset import open_dataset
from segwright.data.formats import FORMATS, cvat
from segwright.data.formats.coco_names import stuff_ids, stuff_thing_space, thing_ids
from segwright.imageio import encode_png, write_mask

SIZE = (12, 16)  # height, width of the images


def only(data: Any) -> np.ndarray:
    """The mask of a dataset's first record."""
    mask = data.reader.mask(data.records[0])
    assert mask is not None and mask.dtype == np.uint8
    return mask


def box_mask(top: int, left: int, bottom: int, right: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_run_lengths_agree_with_the_reference(height: int, width: int, seed: int, share: float) -> None:
    reference = pytest.importorskip("pycocotools.mask")
    mask = np.random.default_rng(seed).random((height, width)) < share
    encoded = reference.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert rle.encode_string(mask) == encoded["counts"].decode()
    assert np.array_equal(rle.decode_string(encoded["counts"], height, width), mask)
    assert np.array_equal(rle.decode_counts(rle.encode_counts(mask), height, width), mask)
    assert np.array_equal(rle.decode_rows(rle.encode_rows(mask), height, width), mask)
    assert np.array_equal(rle.decode_label_studio(encode_label_studio(mask), height, width), mask)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.floats(-9, 50), st.floats(-9, 50)), min_size=3, max_size=12), st.booleans())
def test_polygons_agree_with_the_reference(corners: list[tuple[float, float]], whole: bool) -> None:
    reference = pytest.importorskip("pycocotools.mask")
    points = np.round(np.array(corners)) if whole else np.array(corners)
    expected = reference.decode(reference.frPyObjects([points.ravel().tolist()], 30, 40))[..., 0]
    assert np.array_equal(filled(points, 30, 40), expected.astype(bool))


def test_polygon_by_hand() -> None:
    square = np.array([[2.0, 3.0], [6.0, 3.0], [6.0, 7.0], [2.0, 7.0]])
    assert np.array_equal(filled(square, *SIZE), box_mask(3, 2, 7, 6))


def test_label_studio_bits_by_hand() -> None:
    """2×1 pixels, RGBA: four zeros as a repeated run, then 9, 9, 9, 255 as values."""
    bits = f"{8:032b}" + f"{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    bits += "1" + "00" + f"{3:03b}" + f"{0:08b}"
    bits += "0" + "01" + f"{3:04b}" + "".join(f"{value:08b}" for value in (9, 9, 9, 255))
    bits += "0" * (-len(bits) % 8)
    data = [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]
    assert rle.decode_label_studio(data, 1, 2).tolist() == [[False, True]]


@pytest.mark.parametrize(
    ("decode", "data"),
    [
        (rle.decode_string, "x~"), (rle.decode_string, ""), (rle.decode_string, "0P"), (rle.decode_string, "o" * 40),
        (rle.decode_counts, [3]), (rle.decode_counts, [-1, 193]), (rle.decode_counts, ["a"]), (rle.decode_counts, []),
        (rle.decode_label_studio, [1, 2, 3]), (rle.decode_label_studio, [300]), (rle.decode_label_studio, []),
        (rle.decode_rows, [5, 5]),
    ],
)  # fmt: skip
def test_broken_run_lengths(decode: Any, data: Any) -> None:
    with pytest.raises(LabelError):
        decode(data, *SIZE)
    with pytest.raises(LabelError, match="out of bounds"):
        decode(data, 10**6, 10**6)


def coco(annotations: list[dict[str, Any]], categories: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return {
        "images": [{"id": 7, "file_name": "x.jpg", "height": SIZE[0], "width": SIZE[1]}],
        "annotations": [{"id": i, "image_id": 7, "iscrowd": 0, **a} for i, a in enumerate(annotations)],
        "categories": categories or [{"id": 18, "name": "dog"}, {"id": 44, "name": "bottle"}],
    }


RECTANGLE = [2, 3, 10, 3, 10, 9, 2, 9]


def test_coco_instances(tmp_path: Path) -> None:
    make_image(tmp_path / "val2017/x.jpg", size=SIZE)
    inner = box_mask(4, 4, 6, 6)
    crowd = box_mask(0, 0, 5, 16)
    write(
        tmp_path / "annotations/instances_val2017.json",
        coco(
            [
                {"category_id": 44, "segmentation": {"size": list(SIZE), "counts": rle.encode_string(inner)}},
                {"category_id": 18, "segmentation": [RECTANGLE]},
                {"category_id": 18, "iscrowd": 1,
                 "segmentation": {"size": list(SIZE), "counts": rle.encode_counts(crowd)}},
            ]
        ),
    )  # fmt: skip
    data = open_dataset(tmp_path)
    assert data.format == "coco" and data.label_space.names == ("background", "dog", "bottle")
    expected = np.zeros(SIZE, np.uint8)
    expected[crowd] = 255
    expected[3:9, 2:10] = 1
    expected[inner] = 2
    assert np.array_equal(only(data), expected), "crowd below, larger below smaller whatever the order in the file"
    assert set(data.splits) == {"val"}
    assert np.array_equal(only(pickle.loads(pickle.dumps(data))), expected), "goes to a worker process"


def test_coco_file_and_several_polygons(tmp_path: Path) -> None:
    make_image(tmp_path / "x.jpg", size=SIZE)
    two = [[0, 0, 2, 0, 2, 2, 0, 2], [8, 8, 10, 8, 10, 10, 8, 10]]
    path = write(tmp_path / "mine.json", coco([{"category_id": 44, "segmentation": two}]))
    expected = 2 * (box_mask(0, 0, 2, 2) | box_mask(8, 8, 10, 10))
    assert np.array_equal(only(open_dataset(path)), expected)


def test_coco_of_roboflow(tmp_path: Path) -> None:
    categories = [
        {"id": 0, "name": "cells", "supercategory": "none"},
        {"id": 1, "name": "cells", "supercategory": "cells"},
    ]
    for split in ("train", "valid"):
        make_image(tmp_path / split / "x.jpg", size=SIZE, seed=len(split))
        write(tmp_path / split / "_annotations.coco.json",
              coco([{"category_id": 1, "segmentation": [RECTANGLE]}], categories))  # fmt: skip
    data = open_dataset(tmp_path)
    assert data.label_space.names == ("background", "cells")
    assert sorted(data.all.ids) == ["train/x", "valid/x"] and set(data.splits) == {"train", "val"}
    assert np.array_equal(only(data), box_mask(3, 2, 9, 10))


def test_coco_stuff_with_instances(tmp_path: Path) -> None:
    """171 classes of two JSONs: things over stuff, 'other' dropped, the uncovered ignored."""
    make_image(tmp_path / "train2017/x.jpg", size=SIZE)
    things = [{"id": i, "name": name} for i, name in thing_ids().items()]
    stuff = [{"id": i, "name": name} for i, name in stuff_ids().items()] + [{"id": 183, "name": "other"}]
    sky = {"size": list(SIZE), "counts": rle.encode_string(box_mask(0, 0, 12, 12))}
    other = {"size": list(SIZE), "counts": rle.encode_string(box_mask(3, 2, 9, 10))}
    write(
        tmp_path / "annotations/instances_train2017.json",
        coco([{"category_id": 1, "segmentation": [RECTANGLE]}], things),
    )
    write(tmp_path / "annotations/stuff_train2017.json",
          coco([{"category_id": 157, "segmentation": sky},
                {"category_id": 183, "segmentation": other}], stuff))  # fmt: skip
    data = open_dataset(tmp_path)
    assert len(data.label_space) == 171 and len(thing_ids()) == 80 and len(stuff_ids()) == 91
    mask = only(data)
    assert data.label_space.names[mask[0, 0]] == "sky-other" and data.label_space.names[mask[5, 5]] == "person"
    assert mask[0, 15] == 255


def test_coco_stuffthingmaps(tmp_path: Path) -> None:
    make_image(tmp_path / "images/train2017/000000000009.jpg", size=SIZE)
    labels = np.zeros(SIZE, np.uint8)
    labels[:, 4:8], labels[:, 8:] = 181, 255
    (tmp_path / "annotations/train2017").mkdir(parents=True)
    write_mask(tmp_path / "annotations/train2017/000000000009.png", labels)
    data = open_dataset(tmp_path)
    assert (
        data.format == "coco" and data.label_space.names == stuff_thing_space().names and len(data.label_space) == 171
    )
    row = only(data)[0]
    assert [data.label_space.names[row[0]], data.label_space.names[row[5]], row[12]] == ["person", "wood", 255]


def test_coco_panoptic(tmp_path: Path) -> None:
    make_image(tmp_path / "val2017/x.jpg", size=SIZE)
    ids = np.zeros(SIZE, np.int64)
    ids[:, 4:8], ids[:, 8:12] = 70000, 300
    from segwright.imageio import write_image

    write_image(tmp_path / "annotations/panoptic_val2017/x.png",
                np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=2).astype(np.uint8))  # fmt: skip
    page = coco([], [{"id": 1, "name": "person", "isthing": 1}, {"id": 200, "name": "rug", "isthing": 0}])
    page["annotations"] = [{"image_id": 7, "file_name": "x.png", "segments_info": [
        {"id": 70000, "category_id": 200, "iscrowd": 0}, {"id": 300, "category_id": 1, "iscrowd": 0}]}]  # fmt: skip
    write(tmp_path / "annotations/panoptic_val2017.json", page)
    write(tmp_path / "annotations/instances_val2017.json", coco([]))
    data = open_dataset(tmp_path)
    assert data.label_space.names == ("person", "rug")
    assert only(data)[0].tolist() == [255] * 4 + [1] * 4 + [0] * 4 + [255] * 4


def test_coco_what_is_wrong(tmp_path: Path) -> None:
    path = write(tmp_path / "annotations.json", coco([{"category_id": 18, "segmentation": [RECTANGLE]}]))
    with pytest.raises(FormatError, match="none of the JSON's images"):
        open_dataset(tmp_path)
    make_image(tmp_path / "x.jpg", size=SIZE)
    for broken in (
        [[1, 2, 3]],
        [["a"] * 8],
        {"size": [1, 1], "counts": "x"},
        [[float("nan")] * 8],
        "abc",
        [[1e9, 0, 0, 1e9, 5, 5]],
    ):
        write(path, coco([{"category_id": 18, "segmentation": broken}]))
        with pytest.raises(DataError, match=r"annotations\.json"):
            only(open_dataset(tmp_path))
    write(path, coco([{"category_id": 99, "segmentation": [RECTANGLE]}]))
    with pytest.raises(FormatError, match=r"category 99 .the category is not listed"):
        open_dataset(tmp_path)
    for text in (
        "{",
        '{"images": 1, "annotations": [], "categories": []}',
        '{"images": [{}], "annotations": [], "categories": []}',
    ):
        write(path, text)
        with pytest.raises(DataError):
            open_dataset(tmp_path, format="coco")


def shape(label: str, kind: str, points: list[list[float]], **more: Any) -> dict[str, Any]:
    return {"label": label, "shape_type": kind, "points": points, "group_id": None, "flags": {}, **more}


def labelme(path: Path, shapes: list[dict[str, Any]], **more: Any) -> None:
    page = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": "x.jpg", "imageData": None,
            "imageHeight": SIZE[0], "imageWidth": SIZE[1], **more}  # fmt: skip
    write(path, page)


def test_labelme(tmp_path: Path) -> None:
    make_image(tmp_path / "x.jpg", size=SIZE)
    inner = np.array([[1, 0], [1, 1]], np.uint8)
    labelme(
        tmp_path / "x.json",
        [
            shape("cat", "rectangle", [[10, 8], [2, 3]]),
            shape("dog", "mask", [[4, 5], [5, 6]], mask=base64.b64encode(encode_png(inner)).decode()),
            shape("__ignore__", "polygon", [[12, 0], [15, 0], [15, 2], [12, 2]]),
        ],
    )
    write(tmp_path / "labels.txt", "__ignore__\n_background_\ncat\ndog\n")
    data = open_dataset(tmp_path)
    assert data.format == "labelme" and data.label_space.names == ("_background_", "cat", "dog")
    expected = np.zeros(SIZE, np.uint8)
    expected[3:9, 2:11] = 1
    expected[5, 4], expected[6, 4], expected[6, 5] = 2, 2, 2
    expected[0:3, 12:16] = 255
    assert np.array_equal(only(data), expected)


def test_labelme_without_labels_and_with_embedded_image(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    embedded = base64.b64encode(encode_png(pixels)).decode()
    labelme(
        tmp_path / "train/x.json", [shape("b", "circle", [[5, 5], [5, 7]])], imageData=embedded, imagePath="gone.jpg"
    )
    labelme(tmp_path / "val/y.json", [shape("a", "line", [[0, 0], [3, 3]])], imageData=embedded)
    make_image(tmp_path / "val/z.jpg")
    data = open_dataset(tmp_path)
    assert data.label_space.names == ("background", "a", "b") and set(data.splits) == {"train", "val"}
    assert np.array_equal(data.train[0].image, pixels) and data.train[0].mask[5, 5] == 2
    assert [path.name for path in data.unpaired_images] == ["z.jpg"]


def test_labelme_what_is_wrong(tmp_path: Path) -> None:
    make_image(tmp_path / "x.jpg", size=SIZE)
    write(tmp_path / "labels.txt", "cat\n")
    for shapes in (
        [shape("dog", "polygon", [[0, 0], [1, 1], [2, 2]])],
        [shape("cat", "polygon", [[0, 0]])],
        [{"label": "cat"}],
        [shape("cat", "star", [[0, 0]])],
        [shape("cat", "mask", [[0, 0]], mask="?")],
    ):
        labelme(tmp_path / "x.json", shapes)
        with pytest.raises(DataError, match=r"x\.json"):
            only(open_dataset(tmp_path))


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><task><labels>
<label><name>car</name><color>#ff0000</color><type>any</type></label>
<label><name>road</name><color>#00ff00</color><type>any</type></label></labels></task></meta>
<image id="0" name="x.jpg" width="16" height="12">
<polygon label="car" points="2.0,3.0;6.0,3.0;6.0,7.0;2.0,7.0" z_order="1"></polygon>
<box label="road" xtl="0" ytl="0" xbr="16" ybr="5" z_order="0"></box>
<mask label="car" rle="1, 2, 1" left="10" top="8" width="2" height="2" z_order="2"></mask>
<polyline label="car" points="0,0;5,5" z_order="9"></polyline>
</image></annotations>"""


def test_cvat(tmp_path: Path) -> None:
    make_image(tmp_path / "images/x.jpg", size=SIZE)
    write(tmp_path / "annotations.xml", CVAT)
    data = open_dataset(tmp_path)
    assert data.format == "cvat" and data.label_space.names == ("background", "car", "road")
    assert data.label_space.colors == ((0, 0, 0), (255, 0, 0), (0, 255, 0))
    expected = np.zeros(SIZE, np.uint8)
    expected[0:5] = 2
    expected[3:7, 2:6] = 1
    expected[8, 11], expected[9, 10] = 1, 1
    assert np.array_equal(only(data), expected)
    assert any("1 lines, points" in note for note in data.notes)


def test_cvat_ellipse_and_rotation(tmp_path: Path) -> None:
    make_image(tmp_path / "x.jpg", size=SIZE)
    ellipse = '<ellipse label="car" cx="8" cy="6" rx="4" ry="3"/>'
    shapes = ellipse + '<box label="road" xtl="6" ytl="0" xbr="10" ybr="2" rotation="90"/>'
    write(tmp_path / "annotations.xml", CVAT[: CVAT.index("<polygon")] + shapes + "</image></annotations>")
    mask = only(open_dataset(tmp_path))
    assert (mask == 1).sum() == pytest.approx(np.pi * 12 - 6, abs=6)
    assert (mask == 2).any() and (mask[0:3, 7:9] == 2).all() and mask[0, 6] == 0


def test_cvat_what_is_wrong(tmp_path: Path) -> None:
    make_image(tmp_path / "x.jpg", size=SIZE)
    for text in (CVAT.replace("<annotations>", '<!DOCTYPE a [<!ENTITY e "x">]><annotations>', 1), CVAT[:300],
                 CVAT.replace("<image", '<track task_id="3"/><image')):  # fmt: skip
        write(tmp_path / "annotations.xml", text)
        with pytest.raises(FormatError, match=r"annotations\.xml"):
            open_dataset(tmp_path, format="cvat")
    for old, new in (('rle="1, 2, 1"', 'rle="1, 2"'), ("2.0,3.0;", "2.0;"), ('xtl="0"', 'xtl="a"')):
        write(tmp_path / "annotations.xml", CVAT.replace(old, new))
        with pytest.raises(LabelError, match=r"annotations\.xml, x"):
            only(open_dataset(tmp_path))


VIDEO = """<annotations><version>1.1</version><meta><task><mode>interpolation</mode><start_frame>2</start_frame>
<stop_frame>{stop}</stop_frame><frame_filter>{filter}</frame_filter>
<labels><label><name>car</name></label><label><name>road</name></label></labels>
<original_size><width>16</width><height>12</height></original_size></task></meta>
<track id="0" label="car" source="manual">{shapes}</track>
<track id="1" label="road"><box frame="2" xtl="0" ytl="10" xbr="16" ybr="12" outside="0" keyframe="1" z_order="0"/>
</track></annotations>"""


def video(folder: Path, shapes: str, *, names: str = "frame_{:06d}.png", stop: int = 8, filter: str = "") -> Any:
    """A video task of frames 2 to ``stop``, opened; ``shapes`` are those of its car."""
    for frame in range(2, stop + 1):
        make_image(folder / "images" / names.format(frame), size=SIZE, seed=frame)
    write(folder / "annotations.xml", VIDEO.format(shapes=shapes, stop=stop, filter=filter))
    return open_dataset(folder)


def key(frame: int, left: int, *, outside: int = 0, top: int = 2, z: int = 1) -> str:
    """A square of 4 pixels as a keyframe."""
    return (f'<box frame="{frame}" xtl="{left}" ytl="{top}" xbr="{left + 4}" ybr="{top + 4}" outside="{outside}" '
            f'occluded="0" keyframe="1" z_order="{z}"/>')  # fmt: skip


def test_cvat_tracks_as_exported(tmp_path: Path) -> None:
    """Every frame written out, the object gone from frame 5 on; polygons and masks along the track."""
    shapes = (key(2, 0) + '<polygon frame="3" points="1,2;5,2;5,6;1,6" outside="0" keyframe="0" z_order="1"/>'
              '<mask frame="4" rle="1, 2, 1" left="10" top="8" width="2" height="2" outside="0" keyframe="1"/>'
              + key(5, 3, outside=1))  # fmt: skip
    data = video(tmp_path, shapes, stop=6)
    assert data.label_space.names == ("background", "car", "road") and not data.problems
    assert data.all.ids == tuple(f"frame_{n:06d}" for n in range(2, 7))
    road = 2 * box_mask(10, 0, 12, 16).astype(np.uint8)
    masks = [data.all.read_mask(i) for i in range(5)]
    assert np.array_equal(masks[0], road + box_mask(2, 0, 6, 4)) and np.array_equal(
        masks[1], road + box_mask(2, 1, 6, 5)
    )
    assert np.argwhere(masks[2] == 1).tolist() == [[8, 11], [9, 10]]
    assert np.array_equal(masks[3], road) and np.array_equal(masks[4], road), "outside, and so it stays"
    assert any("2 tracks of a video; 4 shapes" in note for note in data.notes), "the road's box goes on"


def test_cvat_tracks_between_keyframes(tmp_path: Path) -> None:
    data = video(tmp_path, key(2, 0) + key(6, 8) + key(7, 8, outside=1))
    lefts = [np.flatnonzero((data.all.read_mask(i) == 1).any(axis=0)) for i in range(7)]
    assert [part[0] if len(part) else None for part in lefts] == [0, 2, 4, 6, 8, None, None]
    grown = ('<polygon frame="2" points="0,2;4,2;4,6;0,6" outside="0" keyframe="1"/>'
             '<polygon frame="4" points="4,2;6,2;8,2;8,6;4,6" outside="0" keyframe="1"/>')  # fmt: skip
    mask = video(tmp_path, grown).all.read_mask(1)
    assert np.array_equal(mask == 1, box_mask(2, 2, 6, 6)), "five corners onto four, by their place along the outline"
    turned = [f'<box frame="{frame}" xtl="6" ytl="2" xbr="10" ybr="4" rotation="{angle}" outside="0"/>'
              for frame, angle in ((2, 350), (4, 10))]  # fmt: skip
    mask = video(tmp_path, "".join(turned)).all.read_mask(1)
    assert np.array_equal(mask == 1, box_mask(2, 6, 4, 10)), "from 350° to 10° by 0°, not by 180°"
    held = ('<mask frame="2" rle="0, 4" left="1" top="1" width="2" height="2" outside="0"/>'
            '<mask frame="4" rle="0, 4" left="9" top="1" width="2" height="2" outside="0"/>')  # fmt: skip
    mask = video(tmp_path, held).all.read_mask(1)
    assert np.array_equal(mask == 1, box_mask(1, 1, 3, 3)), "masks stay as they are until the next"


def test_cvat_frames_and_their_images(tmp_path: Path) -> None:
    data = video(tmp_path / "steps", key(2, 0) + key(6, 8), filter="step=2")
    assert data.all.ids == tuple(f"frame_{n:06d}" for n in (2, 4, 6, 8)) and len(data.unpaired_images) == 3
    assert (data.all.read_mask(1) == 1)[2, 4]
    named = video(tmp_path / "named", key(2, 0) + key(6, 8), names="DSC_{:04d}.png")
    assert (named.all.read_mask(2) == 1)[2].nonzero()[0][0] == 4, "by their order, the first is frame 2"
    make_image(tmp_path / "named/images/one more.png", size=SIZE)
    (tmp_path / "named/images/DSC_0002.png").unlink()
    (tmp_path / "named/images/DSC_0003.png").unlink()
    with pytest.raises(FormatError, match="7 images, or names that end in the frame's number"):
        open_dataset(tmp_path / "named")
    write(tmp_path / "bare/annotations.xml", VIDEO.format(shapes=key(2, 0), stop=8, filter=""))
    with pytest.raises(FormatError, match=r"ffmpeg .* -start_number 0"):
        open_dataset(tmp_path / "bare")
    with pytest.raises(FormatError, match="a broken shape in a track"):
        video(tmp_path / "broken", key(2, 0).replace('xtl="0"', "") + key(6, 8))


def studio(regions: list[dict[str, Any]], image: str = "/data/upload/1/1a2b3c4d-x.jpg") -> list[dict[str, Any]]:
    return [{"id": 1, "data": {"image": image}, "annotations": [
        {"was_cancelled": True, "result": []},
        {"result": [{"original_width": SIZE[1], "original_height": SIZE[0], **r} for r in regions]}]}]  # fmt: skip


def test_label_studio(tmp_path: Path) -> None:
    make_image(tmp_path / "x.jpg", size=SIZE)
    brush = encode_label_studio(box_mask(0, 0, 2, 2))
    half = [[50.0, 0.0], [100.0, 0.0], [100.0, 50.0], [50.0, 50.0]]
    regions = [
        {"type": "polygonlabels", "value": {"points": half, "polygonlabels": ["sky"], "closed": True}},
        {"type": "brushlabels", "value": {"format": "rle", "rle": brush, "brushlabels": ["cat"]}},
        {"type": "rectanglelabels", "value": {"x": 75, "y": 75, "width": 25, "height": 25, "rectanglelabels": ["cat"]}},
        {"type": "choices", "value": {"choices": ["day"]}},
    ]
    expected = np.zeros(SIZE, np.uint8)
    expected[0:6, 8:16] = 2
    expected[0:2, 0:2] = 1
    expected[9:12, 12:16] = 1
    write(tmp_path / "export.json", studio(regions))
    data = open_dataset(tmp_path)
    assert data.format == "label_studio" and data.label_space.names == ("background", "cat", "sky")
    assert np.array_equal(only(data), expected)
    plain = [{"image": "/data/local-files/?d=there/x.jpg", "tag": [
        {**r["value"], "original_width": 16, "original_height": 12} for r in regions[:3]]}]  # fmt: skip
    write(tmp_path / "export.json", plain)
    assert np.array_equal(only(open_dataset(tmp_path)), expected), "JSON-MIN"


def test_label_studio_what_is_wrong(tmp_path: Path) -> None:
    make_image(tmp_path / "x.jpg", size=SIZE)
    for value in ({"rle": [1, 2], "brushlabels": ["a"]}, {"points": [["q", 1]], "polygonlabels": ["a"]},
                  {"x": 1, "width": 5, "rectanglelabels": ["a"]}):  # fmt: skip
        write(tmp_path / "export.json", studio([{"value": value}]))
        with pytest.raises(LabelError, match=r"export\.json, x"):
            only(open_dataset(tmp_path))
    write(tmp_path / "export.json", studio([{"value": {"rle": [0], "brushlabels": ["a"]}, "original_width": 99}]))
    with pytest.raises(LabelError, match="another size"):
        only(open_dataset(tmp_path))


@pytest.mark.parametrize(
    "nested",
    [
        "images/{s}/{n}.jpg labels/{s}/{n}.txt",
        "{s}/images/{n}.jpg {s}/labels/{n}.txt",
        "{s}/{n}.jpg {s}/{n}.txt",  # beside their images
        "images/{s}/{n}.jpg images/{s}/{n}.txt",
    ],
)
def test_yolo(tmp_path: Path, nested: str) -> None:
    image, label = nested.split()
    for split in ("train", "val"):
        for name in ("a", "b"):
            make_image(tmp_path / image.format(s=split, n=name + split), size=SIZE)
        lines = "1 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75\n0 0.5 0.5 0.625 0.5 0.625 0.5833333 0.5 0.5833333\n"
        write(tmp_path / label.format(s=split, n="a" + split), lines)
    write(tmp_path / "data.yaml", "path: .\ntrain: images/train\nnames:\n  0: cat\n  1: dog\n")
    data = open_dataset(tmp_path)
    assert data.format == "yolo" and data.label_space.names == ("background", "cat", "dog")
    masks = {s.id: s.mask for s in data}
    expected = 2 * box_mask(3, 4, 9, 12).astype(np.uint8)
    expected[6, 8:10] = 1
    assert np.array_equal(masks["atrain"], expected), "the smaller polygon on top"
    assert not masks["btrain"].any(), "no text file: all background, as the convention has it"
    assert set(data.splits) == {"train", "val"}


@pytest.mark.parametrize("label", ["labels/{n}.txt", "images/{n}.txt"])
def test_yolo_polygons_beside_masks_are_refused_with_both_readings(tmp_path: Path, label: str) -> None:
    for name in ("a", "b"):
        make_image(tmp_path / f"images/{name}.jpg", size=SIZE)
        write(tmp_path / label.format(n=name), "0 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75\n")
        (tmp_path / "masks").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / f"masks/{name}.png"), 2 * box_mask(0, 0, 6, 8).astype(np.uint8))
    with pytest.raises(FormatError, match="two kinds of labels") as caught:
        open_dataset(tmp_path)
    assert "--format yolo" in str(caught.value) and "--format folder" in str(caught.value)
    drawn = open_dataset(tmp_path, "yolo")
    assert len(drawn.records) == 2 and "2 masks of the same names are left out" in " ".join(drawn.notes)
    assert np.array_equal(next(iter(drawn)).mask, box_mask(3, 4, 9, 12).astype(np.uint8))
    assert next(iter(open_dataset(tmp_path, "folder"))).mask.sum() == 2 * 6 * 8


def test_text_beside_images_that_holds_no_polygon_is_no_label(tmp_path: Path) -> None:
    make_image(tmp_path / "images/a.jpg", size=SIZE)
    write(tmp_path / "images/a.txt", "a cat on a mat\n")
    assert FORMATS["yolo"].detect(tmp_path) is None


def test_yolo_what_is_wrong(tmp_path: Path) -> None:
    make_image(tmp_path / "images/a.jpg", size=SIZE)
    for line in ("0 0.5 0.5 0.2 0.2", "0 0.5 0.5 0.2 0.2 0.9", "7 0 0 1 0 1 1", "0 0 0 1 0 1 x", "0 0 0 1 0 1 1 1"):
        write(tmp_path / "labels/a.txt", f"0 0 0 1 0 1 1\n{line}\n")
        write(tmp_path / "classes.txt", "cat\n")
        with pytest.raises(LabelError, match=r"a\.txt:2"):
            only(open_dataset(tmp_path))


def test_boxes_alone_are_no_segmentation(tmp_path: Path) -> None:
    make_image(tmp_path / "images/a.jpg", size=SIZE)
    write(tmp_path / "labels/a.txt", "0 0.5 0.5 0.2 0.2\n1 0.25 0.5 0.2 0.2\n")
    assert FORMATS["yolo"].detect(tmp_path) is None
    for form in (None, "yolo"):
        with pytest.raises(FormatError, match="boxes, not polygons"):
            open_dataset(tmp_path, form)
    mask = np.zeros(SIZE, np.uint8)
    mask[2:5] = 1
    (tmp_path / "masks").mkdir()
    write_mask(tmp_path / "masks/a.png", mask)
    assert open_dataset(tmp_path).format == "folder", "boxes beside masks do no harm"


def test_boxes_among_polygons_are_named(tmp_path: Path) -> None:
    """Recognized by any polygon, not by the first line; the line that is a box is named with the way to drop it."""
    make_image(tmp_path / "images/a b.jpg", size=SIZE)
    text = write(tmp_path / "labels/a b.txt", "0 0.5 0.5 0.2 0.2\n0 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75\n")
    data = open_dataset(tmp_path)
    with pytest.raises(LabelError, match="a box, not a polygon") as caught:
        only(data)
    fix = (caught.value.fix or "").partition("line: ")[2]
    subprocess.run(fix, shell=True, check=True)
    assert len(text.read_text().splitlines()) == 1 and np.array_equal(only(data), box_mask(3, 4, 9, 12))


def test_coco_boxes(tmp_path: Path) -> None:
    make_image(tmp_path / "x.jpg", size=SIZE)
    box = {"category_id": 18, "bbox": [1, 1, 5, 5], "segmentation": []}
    write(tmp_path / "instances.json", coco([box, box]))
    with pytest.raises(FormatError, match="boxes, not outlines"):
        open_dataset(tmp_path)
    write(tmp_path / "instances.json", coco([box, {"category_id": 18, "segmentation": [RECTANGLE]}]))
    [problem] = open_dataset(tmp_path).problems
    assert (problem.severity, problem.kind) == ("warning", "objects lost") and "1 of 2 objects" in problem.message


def test_a_long_tag_is_handed_to_the_parser_in_few_pieces(tmp_path: Path) -> None:
    """The parser begins a tag that is not whole yet anew with every piece: in small ones that takes minutes."""

    class Counted(io.BytesIO):
        reads = 0

        def read(self, size: int | None = -1) -> bytes:
            Counted.reads += 1
            return super().read(size)

    pieces = cvat._Pieces(Counted(bytes(5 * cvat.PIECE)))
    while pieces.read(16 * 1024):
        pass
    assert Counted.reads == 6
