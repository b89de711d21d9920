"""COCO's JSON (Lin et al. 2014; stuff: Caesar et al. 2018; panoptic: Kirillov et al. 2019) and its PNG forms.

Four kinds, of which the most complete that lies there is read: *panoptic* JSON with its PNGs (things and stuff),
*stuffthingmaps* PNGs (171 classes), *stuff and instances* JSON together (171), *instances* alone (80 and background),
*stuff* alone (91 and other). To choose another, open the JSON file itself.

What is not written down in the format is decided so: where regions overlap, the larger is drawn first, so that the
smaller stays visible (things over stuff); a crowd region is ignored, and lies below everything, but where crowds are
most of the objects, or all of a class (CVAT marks every brush mask so), they are objects like the others; what nothing
covers is background where there are only things, and ignored where there is stuff. An id is matched as text or number;
objects whose image or category is not listed, and those without an outline, are counted and named. Key points that are
seen, of annotations without an outline, are sparse labels; a box alone is one where ``boxes`` is given
(:mod:`segwright.data.annotations.sparse`).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segwright.core.errors import FormatError
from segwright.core.types import IGNORE_INDEX
from segwright.data.annotations.rle import encode_string
from segwright.data.formats.base import Format, label_rule, sort_splits, unique_records
from segwright.data.formats.coco_categories import make_classes, spell_id
from segwright.data.formats.coco_names import stuff_thing_space
from segwright.data.formats.coco_records import CocoFile, CocoRecords, choose_for
from segwright.data.formats.file_tree import Tree, is_image, read_ends, stem
from segwright.data.formats.name_parts import split_of, split_of_part
from segwright.data.formats.writing import OutputSample, bounding_box, class_names
from segwright.data.readers import FileReader
from segwright.data.records import Dataset, Record
from segwright.data.text_files import read_json, without_collection
from segwright.imageio import write_bytes

SAMPLED = 12  # JSON files a folder that recognition looks at; opening reads all


def _split_of(file_stem: str, folder: str) -> str | None:
    return split_of_part(file_stem) or split_of(folder)


def _find_files(tree: Tree, every: bool = False) -> list[CocoFile]:
    """The COCO JSON files; recognition looks at some of each folder, opening at all."""
    key = "coco" if every else "coco sampled"
    if key not in tree.memo:
        candidates: list[tuple[str, Path]] = []
        if tree.is_file:
            candidates = [("", tree.root)] if tree.root.suffix.lower() == ".json" else []
        else:
            for relative, listing in tree.walk(depth=3):
                names = [name for name in listing.files if name.lower().endswith(".json")]
                candidates += [(relative, Path(listing.path, name)) for name in (names if every else names[:SAMPLED])]
        found = [_recognized(relative, path) for relative, path in candidates]
        tree.memo[key] = [file for file in found if file is not None]
    return list(tree.memo[key])


def _recognized(relative: str, path: Path) -> CocoFile | None:
    if path.name.startswith(("captions", "person_keypoints", "image_info")):
        return None
    text = read_ends(path)
    # Keys come in any order: of a large file whose annotations stand first, the list of images is in neither end.
    annotated = '"annotations"' in text and '"image_id"' in text and '"category_id"' in text
    if not ('"images"' in text or annotated) or not re.match(r"\s*\{", text):
        return None
    listed = '"categories"' in text and '"file_name"' in text  # a test set: images, no annotations
    if not listed and not any(
        f'"{word}"' in text for word in ("annotations", "segmentation", "segments_info", "image_id")
    ):
        return None
    if '"segments_info"' in text:
        kind = "panoptic"
    elif path.name.startswith("stuff"):
        kind = "stuff"
    elif '"segmentation"' in text or ('"categories"' in text and "caption" not in path.name):
        kind = "instances"
    else:
        return None
    return CocoFile(path, kind, _split_of(path.stem, relative))


def _pixel_maps(tree: Tree) -> list[tuple[str, str]]:
    """(split, folder) of stuffthingmaps: train2017/*.png below a folder of that name or below annotations."""
    if tree.is_file:
        return []
    found = []
    for relative, listing in tree.walk(depth=3):
        parent = os.path.basename(os.path.dirname(relative)).lower()
        name = os.path.basename(relative).lower()
        named = re.fullmatch(r"(train|val)2017", name) and parent in ("stuffthingmaps", "annotations", "pixelmaps")
        if named and any(file.endswith(".png") for file in listing.files[:20]):
            found.append((name[:-4], relative))
    return found


def detect(tree: Tree) -> str | None:
    files = _find_files(tree)
    if files:
        return f"{', '.join(sorted({file.kind for file in files}))} JSON with images and annotations"
    return "COCO-Stuff's PNGs in train2017 and val2017" if _pixel_maps(tree) else None


def open_coco(tree: Tree) -> Dataset:
    files = _find_files(tree, every=True)
    kinds = {file.kind for file in files}
    maps = _pixel_maps(tree)
    if "panoptic" in kinds:
        return _open_json(tree, [file for file in files if file.kind == "panoptic"])
    if maps:
        return _open_maps(tree, maps)
    if not files:
        raise FormatError("no COCO JSON", expected="a JSON with images, annotations and categories",
                          found=tree.summary(), where=tree.root)  # fmt: skip
    return _open_json(tree, files)


def _load(path: Path) -> dict[str, Any]:
    data = read_json(path)
    for key in ("images", "annotations", "categories"):
        if isinstance(data, dict) and _by_id(data.get(key)):  # LIVECell: objects by their id
            data[key] = list(data[key].values())
        if not isinstance(data, dict) or not isinstance(data.get(key) or [], list):
            raise FormatError("not a COCO JSON", expected="an object with images, annotations and categories",
                              found=f"no list of {key}", where=path, fix="export it again")  # fmt: skip
    data["annotated"] = "annotations" in data  # a test set's JSON lists images alone
    for key in ("images", "annotations", "categories"):
        data[key] = data.get(key) or []
        stray = next((one for one in data[key] if not isinstance(one, dict)), None)
        if stray is not None:
            raise FormatError("not a COCO JSON", expected=f"objects in {key}", found=repr(stray)[:60], where=path,
                              fix="export it again")  # fmt: skip
    data["deleted"] = _drop_deleted(data)
    for image in data["images"]:
        if "file_name" not in image and isinstance(image.get("coco_url"), str):  # LVIS names images by address alone
            image["file_name"] = "/".join(image["coco_url"].split("/")[-2:])
    found: dict[str, Any] = data
    return found


def _drop_deleted(data: dict[str, Any]) -> tuple[int, int]:
    """Leave out what COCO Annotator keeps as deleted, and the objects of such images; (images, objects) left out."""
    before = len(data["images"]), len(data["annotations"])
    gone = {spell_id(image.get("id")) for image in data["images"] if image.get("deleted") in (True, 1)}
    data["images"] = [image for image in data["images"] if image.get("deleted") not in (True, 1)]
    gone -= {spell_id(image.get("id")) for image in data["images"]}
    data["annotations"] = [
        one
        for one in data["annotations"]
        if one.get("deleted") not in (True, 1) and spell_id(one.get("image_id")) not in gone
    ]
    return before[0] - len(data["images"]), before[1] - len(data["annotations"])


def _by_id(found: object) -> bool:
    return isinstance(found, dict) and bool(found) and all(isinstance(one, dict) for one in found.values())


def _open_json(tree: Tree, files: Sequence[CocoFile]) -> Dataset:
    data = [_load(file.path) for file in files]
    try:
        with without_collection():
            choice = choose_for(label_rule(tree), data)
            ignored = choice.reading.rest == "ignored"
            classes = make_classes(data, [file.path for file in files], rest_ignored=ignored)
            return CocoRecords(tree, files, data, classes, choice).dataset()
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError, IndexError) as error:
        raise FormatError("a COCO JSON that lacks what it should hold", expected="ids, file names, sizes, categories",
                          found=repr(error), where=files[0].path, fix="export it again") from error  # fmt: skip


def _open_maps(tree: Tree, maps: Sequence[tuple[str, str]]) -> Dataset:
    given: dict[str, list[Record]] = {}
    for split, folder in maps:
        masks = tree.folder(folder)
        image_folder = next(
            (
                relative
                for relative, listing in tree.walk(depth=3)
                if os.path.basename(relative) == os.path.basename(folder)
                and relative != folder
                and any(is_image(file) and not file.endswith(".png") for file in listing.files[:5])
            ),
            None,
        )
        if image_folder is None:
            continue
        images = tree.folder(image_folder)
        by_stem = {stem(name): Path(masks.path, name) for name in masks.files if name.endswith(".png")}
        given[split] = [
            Record(stem(name), Path(images.path, name), by_stem.get(stem(name)))
            for name in images.files
            if is_image(name)
        ]
    if not given:
        raise FormatError("COCO-Stuff's PNGs without their images", expected="train2017/ and val2017/",
                          found=tree.summary(), where=tree.root)  # fmt: skip
    return Dataset(
        root=tree.root,
        format="coco",
        reader=FileReader(stuff_thing_space()),
        records=unique_records(given),
        given=sort_splits(given),
        notes=["COCO-Stuff's PNGs: 80 things and 91 stuff classes, values are category ids - 1; 255 is ignored"],
    )


def write_coco(dataset: Dataset, samples: Iterator[OutputSample], out: Path) -> None:
    """images/[split/], annotations/instances_[split].json; one RLE per class and image, nothing where ignored.

    Every class, background too, is a category with ``isthing`` 0: what no annotation covers is then ignored.
    """
    categories = [
        {"id": i + 1, "name": name, "supercategory": "", "isthing": 0, "color": list(dataset.label_space.colors[i])}
        for i, name in enumerate(class_names(dataset))
    ]
    parts: dict[str, dict[str, Any]] = {}
    for number, sample in enumerate(samples, start=1):
        split = sample.split or "all"
        part = parts.setdefault(split, {"images": [], "annotations": [], "categories": categories})
        data, ending = sample.image
        height, width = sample.size
        write_bytes(out / "images" / (sample.split or "") / f"{sample.name}{ending}", data)
        part["images"].append({"id": number, "file_name": f"{sample.name}{ending}", "height": height, "width": width})
        for label in [] if sample.mask is None else np.unique(sample.mask).tolist():
            if label == IGNORE_INDEX:
                continue
            region = sample.mask == label
            top, left, bottom, right = bounding_box(region)
            part["annotations"].append(
                {
                    "id": len(part["annotations"]) + 1,
                    "image_id": number,
                    "category_id": label + 1,
                    "segmentation": {"size": [height, width], "counts": encode_string(region)},
                    "area": int(region.sum()),
                    "bbox": [left, top, right - left, bottom - top],
                    "iscrowd": 0,
                }
            )
    for split, part in parts.items():
        write_bytes(out / "annotations" / f"instances_{split}.json", json.dumps(part).encode())


FORMAT = Format(
    "coco",
    "COCO",
    "a JSON with images, annotations and categories; or stuffthingmaps PNGs",
    detect,
    open_coco,
    writer=write_coco,
)
