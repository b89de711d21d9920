"""Small valid inputs of every kind that is read, written by hand and not by the converters under test.

A dataset is a dict of relative path → bytes.
"""

# ruff: noqa: E501 (tables of files are easier to read unbroken)

from __future__ import annotations

import base64
import io
import json
import tarfile
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

H, W = 16, 20
NAMES = ("a1", "a2", "b1")
Tree = dict[str, bytes]


def scene(height: int = H, width: int = W) -> npt.NDArray[np.uint8]:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 9 % 256, y * 13 % 256, x * y % 256], 2).astype(np.uint8)


def stripes(count: int = 3) -> npt.NDArray[np.uint8]:
    return np.repeat((np.arange(W) * count // W)[None], H, axis=0).astype(np.uint8)


def deep() -> npt.NDArray[np.uint16]:
    return (scene()[..., 0].astype(np.uint16) * 257)[::-1].copy()


def written(array: npt.NDArray[Any] | Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(out, kind, **options)
    return out.getvalue()


def palette(labels: npt.NDArray[np.uint8]) -> bytes:
    image = Image.fromarray(labels).convert("P")
    image.putpalette([value for i in range(256) for value in (i * 37 % 256, i * 91 % 256, i * 17 % 256)])
    return written(image, "PNG")


def tiff(array: npt.NDArray[Any], **options: Any) -> bytes:
    import tifffile

    out = io.BytesIO()
    tifffile.imwrite(out, array, **options)
    return out.getvalue()


JPG, PNG, MASK = written(scene(), "JPEG", quality=85), written(scene(), "PNG"), palette(stripes())


def exif() -> bytes:
    made = Image.Exif()
    made[0x0112], made[0x010E] = 6, "x"
    return made.tobytes()


def make_images() -> dict[str, list[bytes]]:
    """Family → files."""
    s, rgba = scene(), np.dstack([scene(), scene()[..., :1]])
    cmyk, one = Image.fromarray(s).convert("CMYK"), Image.fromarray(s[..., 0]).convert("1")
    two = Image.fromarray(s[..., 0])
    return {
        "png": [PNG, MASK, written(s[..., 0], "PNG"), written(rgba, "PNG"), written(deep(), "PNG"),
                written(one, "PNG"), written(Image.fromarray(s[..., 0]).convert("LA"), "PNG"),
                written(s, "PNG", exif=exif(), dpi=(72, 72))],
        "jpeg": [JPG, written(s, "JPEG", progressive=True), written(s[..., 0], "JPEG"),
                 written(s, "JPEG", exif=exif()), written(cmyk, "JPEG"), written(s, "JPEG", restart_marker_blocks=1),
                 written(s, "JPEG", subsampling=0, optimize=True)],
        "tiff": [tiff(s, photometric="rgb"), tiff(deep()), tiff(deep().astype(np.float32)),
                 tiff(np.dstack([deep()] * 5), photometric="minisblack", planarconfig="contig"),
                 tiff(deep(), compression="zlib"), tiff(np.tile(deep(), (3, 3)), tile=(16, 16), compression="zlib"),
                 tiff(s, photometric="rgb", bigtiff=True), written(s, "TIFF", compression="tiff_lzw"),
                 written(s, "TIFF", compression="packbits"), written(s, "TIFF", compression="jpeg"),
                 written(one, "TIFF", compression="group4"), written(two, "TIFF", save_all=True, append_images=[two]),
                 tiff(deep(), compression="zlib", predictor=True, byteorder=">")],
        "bmp": [written(s, "BMP"), written(Image.fromarray(s[..., 0]).convert("P"), "BMP"), written(one, "BMP")],
        "webp": [written(s, "WEBP"), written(s, "WEBP", lossless=True), written(rgba, "WEBP", exif=exif())],
        "gif": [written(s[..., 0], "GIF"), written(two, "GIF", save_all=True, append_images=[one.convert("L")])],
        "pnm": [written(s, "PPM"), written(s[..., 0], "PPM"), b"P3\n4 3\n255\n" + b" ".join(b"%d" % i for i in range(36)),
                b"P2\n# c\n3 2\n65535\n0 1 2 3 4 65535\n", b"P5 4 2 65535\n" + bytes(16), b"P4\n8 2\n\xf0\x0f"],
    }  # fmt: skip


def arrays() -> dict[str, list[bytes]]:
    """Family → files of arrays."""
    import scipy.io

    def saved(save: Any, *arguments: Any, **options: Any) -> bytes:
        out = io.BytesIO()
        save(out, *arguments, **options)
        return out.getvalue()

    labels = stripes()
    return {
        "npy": [saved(np.save, labels), saved(np.save, np.asfortranarray(labels.astype(np.int64))),
                saved(np.save, labels[..., None].astype(np.float32)), saved(np.savez, mask=labels),
                saved(np.savez_compressed, labels=labels, other=labels[:2])],
        "mat": [saved(scipy.io.savemat, {"labels": labels}), saved(scipy.io.savemat, {"S": labels}, do_compression=True),
                saved(scipy.io.savemat, {"GTcls": {"Segmentation": labels, "Boundaries": labels}})],
    }  # fmt: skip


def coco_text(counts: list[int]) -> str:
    """COCO's compressed run lengths, by the published description."""
    out = ""
    for place, number in enumerate(counts):
        left = number - counts[place - 2] if place > 2 else number
        while True:
            group, left = left & 31, left >> 5
            more = left != (-1 if group & 16 else 0)
            out += chr(48 + (group | 32 if more else group))
            if not more:
                break
    return out


def brush(mask: npt.NDArray[np.bool_]) -> list[int]:
    """Label Studio's run lengths, by the published description."""
    values = np.repeat(mask.astype(np.uint8).ravel() * 255, 4)
    bits, at = f"{values.size:032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16)), 0
    while at < values.size:
        end = at
        while end < values.size and values[end] == values[at]:
            end += 1
        bits += f"1{3:02b}{end - at - 1:016b}{int(values[at]):08b}"
        at = end
    bits += "0" * (-len(bits) % 8)
    return [int(bits[k : k + 8], 2) for k in range(0, len(bits), 8)]


def _json(tree: Any) -> bytes:
    return json.dumps(tree).encode()


def _images(folder: str, ending: str = ".jpg") -> Tree:
    return {f"{folder}{name}{ending}": JPG if ending == ".jpg" else PNG for name in NAMES}


def _masks(folder: str) -> Tree:
    return {f"{folder}{name}.png": MASK for name in NAMES}


TRIANGLE = [[1, 1], [15, 2], [9, 13]]
FLAT = [1, 1, 15, 2, 9, 13]


def _coco() -> Tree:
    shapes: list[Any] = [[FLAT], [FLAT, [2, 2, 5, 2, 4, 9]], {"size": [H, W], "counts": [100, 50, H * W - 150]},
                         {"size": [H, W], "counts": coco_text([100, 50, 60, 20, H * W - 230])}]  # fmt: skip
    listed = [
        {"id": 4 * i + k, "image_id": i + 1, "category_id": 1 + k % 2, "segmentation": shape,
         "iscrowd": int(isinstance(shape, dict)), "bbox": [1, 1, 5, 5], "area": 9}
        for i in range(len(NAMES)) for k, shape in enumerate(shapes)
    ]  # fmt: skip
    images = [{"id": i + 1, "file_name": f"{name}.jpg", "height": H, "width": W} for i, name in enumerate(NAMES)]
    classes = [{"id": 1, "name": "car"}, {"id": 2, "name": "road", "color": [1, 2, 3]}]
    return {
        **_images("images/"),
        "annotations/instances_train.json": _json({"images": images, "annotations": listed, "categories": classes}),
    }


def _panoptic() -> Tree:
    ids = np.zeros((H, W, 3), np.uint8)
    ids[:, : W // 2, 0], ids[:, W // 2 :, 1] = 1, 1
    segments = [{"id": 1, "category_id": 1, "iscrowd": 0}, {"id": 256, "category_id": 2, "iscrowd": 1}]
    return {
        **_images("images/"),
        **{f"panoptic_train/{name}.png": written(ids, "PNG") for name in NAMES},
        "annotations/panoptic_train.json": _json({
            "images": [{"id": i, "file_name": f"{n}.jpg", "height": H, "width": W} for i, n in enumerate(NAMES)],
            "annotations": [
                {"image_id": i, "file_name": f"{n}.png", "segments_info": segments} for i, n in enumerate(NAMES)
            ],
            "categories": [{"id": 1, "name": "car", "isthing": 1}, {"id": 2, "name": "sky", "isthing": 0}],
        }),
    }  # fmt: skip


def _labelme() -> Tree:
    part = base64.b64encode(written((stripes(2)[:8, :9] * 255).astype(np.uint8), "PNG")).decode()
    kinds: list[tuple[str, Any]] = [
        ("polygon", TRIANGLE), ("rectangle", [[3, 3], [9, 12]]), ("circle", [[9, 8], [12, 8]]),
        ("line", [[0, 0], [18, 14]]), ("linestrip", [[0, 0], [3, 12], [9, 9]]), ("point", [[7, 7]]),
    ]  # fmt: skip
    shapes: list[Any] = [
        {"label": f"c{k % 3}", "points": points, "shape_type": kind} for k, (kind, points) in enumerate(kinds)
    ]
    shapes.append({"label": "c1", "points": [[2, 3], [10, 10]], "shape_type": "mask", "mask": part})
    made: Tree = dict(_images(""))
    for name in NAMES:
        made[f"{name}.json"] = _json({
            "version": "5.4", "flags": {}, "shapes": shapes, "imagePath": f"{name}.jpg", "imageData": None,
            "imageHeight": H, "imageWidth": W,
        })  # fmt: skip
    return made


_LABELS = "<label><name>road</name><color>#0a0b0c</color></label><label><name>car</name><color>#ff0000</color></label>"


def _cvat() -> Tree:
    shapes = (
        '<polygon label="road" points="1.0,1.0;15.0,2.0;9.0,13.0" z_order="0" occluded="0"></polygon>'
        '<box label="car" xtl="3" ytl="3" xbr="9" ybr="12" z_order="1" rotation="30"></box>'
        '<ellipse label="car" cx="12" cy="8" rx="4" ry="3" z_order="2"></ellipse>'
        '<mask label="road" rle="3,5,4" left="2" top="3" width="4" height="3" z_order="3"></mask>'
    )
    body = "".join(
        f'<image id="{i}" name="{name}.jpg" width="{W}" height="{H}" subset="Train">{shapes}</image>\n'
        for i, name in enumerate(NAMES)
    )
    head = f"<version>1.1</version><meta><task><labels>{_LABELS}</labels></task></meta>"
    return {
        **_images("images/"),
        "annotations.xml": f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>{head}\n{body}</annotations>'.encode(),
    }


def _cvat_video() -> Tree:
    head = (
        "<version>1.1</version><meta><task><size>3</size><start_frame>0</start_frame><stop_frame>2</stop_frame>"
        f"<frame_filter>step=1</frame_filter><labels>{_LABELS}</labels>"
        f"<original_size><width>{W}</width><height>{H}</height></original_size></task></meta>"
    )
    tracks = (
        '<track id="0" label="road"><polygon frame="0" keyframe="1" outside="0" points="1,1;15,2;9,13" z_order="0">'
        '</polygon>\n<polygon frame="2" keyframe="1" outside="0" points="2,1;15,2;9,13;4,4" z_order="0"></polygon>'
        '</track>\n<track id="1" label="car"><box frame="0" keyframe="1" outside="0" xtl="3" ytl="3" xbr="9" ybr="12">'
        '</box>\n<box frame="1" keyframe="1" outside="1" xtl="3" ytl="3" xbr="9" ybr="12"></box></track>'
    )
    return {
        **{f"images/frame_{i:06d}.PNG": PNG for i in range(3)},
        "annotations.xml": f'<?xml version="1.0"?>\n<annotations>{head}\n{tracks}</annotations>'.encode(),
    }


def _label_studio() -> Tree:
    mask = np.zeros((H, W), bool)
    mask[3:9, 4:12] = True
    values: list[Any] = [
        {"format": "rle", "rle": brush(mask), "brushlabels": ["car"]},
        {"points": [[10, 10], [60, 20], [30, 80]], "polygonlabels": ["road"]},
        {"x": 10, "y": 10, "width": 30, "height": 20, "rotation": 15, "rectanglelabels": ["car"]},
        {"x": 50, "y": 50, "radiusX": 20, "radiusY": 10, "rotation": 0, "ellipselabels": ["road"]},
    ]
    kinds = ("brushlabels", "polygonlabels", "rectanglelabels", "ellipselabels")
    result = [
        {"original_width": W, "original_height": H, "image_rotation": 0, "type": kind, "value": value}
        for kind, value in zip(kinds, values, strict=True)
    ]
    tasks = [
        {"id": i, "data": {"image": f"/data/upload/1/1a2b3c4d-{name}.jpg"},
         "annotations": [{"id": 1, "was_cancelled": False, "ground_truth": False, "result": result}]}
        for i, name in enumerate(NAMES)
    ]  # fmt: skip
    return {**_images(""), "export.json": _json(tasks)}


def _webdataset() -> Tree:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in NAMES:
            for ending, data in ((".jpg", JPG), (".png", MASK), (".json", b'{"a": 1}')):
                entry = tarfile.TarInfo(name + ending)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    return {"train-000000.tar": out.getvalue()}


def _parquet() -> Tree:
    import pyarrow as pa
    import pyarrow.parquet as pq

    cell = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({
        "image": pa.array([{"bytes": JPG, "path": f"{name}.jpg"} for name in NAMES], cell),
        "label": pa.array([{"bytes": MASK, "path": f"{name}.png"} for name in NAMES], cell),
    })  # fmt: skip
    out = io.BytesIO()
    pq.write_table(table, out)
    return {
        "data/train-00000-of-00001.parquet": out.getvalue(),
        "id2label.json": _json({"0": "sky", "1": "road", "2": "car"}),
    }


def _geotiff() -> Tree:
    tags = [(42113, "s", 0, "0", True), (33550, "d", 3, (1.0, 1.0, 0.0), True),
            (33922, "d", 6, (0.0, 0.0, 0.0, 10.0, 20.0, 0.0), True)]  # fmt: skip
    bands = np.dstack([deep()] * 4)
    image = tiff(bands, photometric="minisblack", planarconfig="contig", extratags=tags)
    return {
        **{f"images/{name}.tif": image for name in NAMES},
        **{f"masks/{name}.tif": tiff(stripes()) for name in NAMES},
    }


def _run_lengths_csv() -> Tree:
    rows = "".join(f'{name}.jpg,{k},"{1 + 20 * k} 15 100 7"\n' for name in NAMES for k in (1, 2))
    return {**_images("train_images/"), "train.csv": f"ImageId,ClassId,EncodedPixels\n{rows}".encode()}


def _via() -> Tree:
    shape = {"name": "polygon", "all_points_x": [1, 15, 9], "all_points_y": [1, 2, 13]}
    other = {"name": "rect", "x": 2, "y": 3, "width": 6, "height": 5}
    regions = [{"shape_attributes": one, "region_attributes": {"class": c}} for one, c in ((shape, "a"), (other, "b"))]
    return {
        **_images(""),
        "via_project.json": _json({
            "_via_settings": {}, "_via_attributes": {"region": {"class": {"type": "dropdown"}}},
            "_via_img_metadata": {
                f"{n}.jpg{len(JPG)}": {"filename": f"{n}.jpg", "size": len(JPG), "regions": regions,
                                       "file_attributes": {}} for n in NAMES
            },
        }),
    }  # fmt: skip


def _supervisely() -> Tree:
    objects = [{"classTitle": "car", "geometryType": "polygon",
                "points": {"exterior": TRIANGLE, "interior": [[[4, 4], [6, 4], [6, 6]]]}},
               {"classTitle": "road", "geometryType": "rectangle",
                "points": {"exterior": [[2, 2], [9, 9]], "interior": []}}]  # fmt: skip
    classes = [{"title": "car", "color": "#ff0000", "shape": "polygon"},
               {"title": "road", "color": "#00ff00", "shape": "rectangle"}]  # fmt: skip
    return {
        "meta.json": _json({"classes": classes, "tags": []}),
        **_images("ds/img/"),
        **{f"ds/ann/{n}.jpg.json": _json({"size": {"height": H, "width": W}, "objects": objects}) for n in NAMES},
    }


def _cityscapes() -> Tree:
    objects = [{"label": "road", "polygon": TRIANGLE}, {"label": "car", "polygon": [[1, 1], [5, 1], [5, 9]]}]
    return {
        "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png": PNG,
        "gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png": written(stripes() + 7, "PNG"),
        "gtFine/train/aachen/aachen_000000_000019_gtFine_polygons.json": _json(
            {"imgHeight": H, "imgWidth": W, "objects": objects}
        ),
        "leftImg8bit/val/ulm/ulm_000001_000019_leftImg8bit.png": PNG,
        "gtFine/val/ulm/ulm_000001_000019_gtFine_labelIds.png": written(stripes() + 7, "PNG"),
    }


DATASETS = {
    "folder": lambda: {**_images("images/"), **_masks("masks/"), "train.txt": b"a1\na2\n", "val.txt": b"b1\n",
                       "classes.txt": b"sky 10 20 30\nroad 40 50 60\ncar 70 80 90\n"},
    "classes-json": lambda: {**_images("images/"), **_masks("masks/"), "classes.json": _json(
        [{"id": 0, "name": "sky", "color": [1, 2, 3]}, {"id": 1, "name": "r", "color": "#0a0b0c"},
         {"id": 2, "name": "c", "color": "4,5,6"}])},
    "classes-csv": lambda: {**_images("images/"), **_masks("masks/"),
                            "classes.csv": b"id,name,r,g,b\n0,sky,1,2,3\n1,road,4,5,6\n2,car,7,8,9\n"},
    "voc": lambda: {**_images("JPEGImages/"), **_masks("SegmentationClass/"), "class_names.txt": b"background\nr\nc\n",
                    "ImageSets/Segmentation/train.txt": b"a1\na2\n", "ImageSets/Segmentation/val.txt": b"b1\n"},
    "coco": _coco,
    "panoptic": _panoptic,
    "labelme": _labelme,
    "cvat": _cvat,
    "cvat-video": _cvat_video,
    "label-studio": _label_studio,
    "yolo": lambda: {**_images("images/train/"),
                     **{f"labels/train/{n}.txt": b"0 0.1 0.1 0.6 0.2 0.3 0.8\n1 0.5 0.5 0.9 0.5 0.9 0.9\n" for n in NAMES},
                     "data.yaml": b"path: .\ntrain: images/train\nval: images/val\nnc: 2\nnames:\n  0: road\n  1: car\n"},
    "pairs": lambda: {**_images("p/"), **_masks("q/"), "list.csv": b"image,mask,split\n" + b"".join(
        f"p/{n}.jpg,q/{n}.png,{'val' if n == 'b1' else 'train'}\n".encode() for n in NAMES)},
    "webdataset": _webdataset,
    "parquet": _parquet,
    "geotiff": _geotiff,
    "layers": lambda: {**_images("images/"), **{f"masks/{c}/{n}.png": written(
        ((stripes(2) == k) * 255).astype(np.uint8), "PNG") for k, c in enumerate(("road", "car")) for n in NAMES}},
    "camvid": lambda: {f"{split}{kind}/{name}.png": PNG if not kind else written(stripes(11), "PNG")
                       for split, names in (("train", ("0001TP_000030", "0001TP_000060")), ("val", ("0016E5_000090",)))
                       for name in names for kind in ("", "annot")},
    "cityscapes": _cityscapes,
    "run-lengths": _run_lengths_csv,
    "via": _via,
    "supervisely": _supervisely,
}  # fmt: skip
