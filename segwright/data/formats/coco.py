"""COCO's JSON (Lin et al. 2014; stuff: Caesar et al. 2018; panoptic: Kirillov et al. 2019) and its PNG forms.

Four kinds, of which the most complete that lies there is read: *panoptic* JSON with its PNGs (things and stuff),
*stuffthingmaps* PNGs (171 classes), *stuff and instances* JSON together (171), *instances* alone (80 and background),
*stuff* alone (91 and other). To choose another, open the JSON file itself.

What is not written down in the format is decided so: where regions overlap, the larger is drawn first, so that the
smaller stays visible (things over stuff); a crowd region is ignored, and lies below everything; what nothing covers is
background where there are only things, and ignored where there is stuff.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segwright.data.drawing import BACKGROUND_NAMES, DrawnReader, Region, describe_source, paint, smaller_on_top
from segwright.data.formats.base import Format, everything, in_order, unique_ids
from segwright.data.formats.coco_names import stuff_ids, stuff_thing_space
from segwright.data.formats.tree import Tree, is_picture, peek, stem
from segwright.data.polygons import as_points, fill_box
from segwright.data.readers import FileReader
from segwright.data.records import Dataset, Problem, Record
from segwright.data.rle import check_size, decode_counts, decode_string
from segwright.errors import FormatError, LabelError
from segwright.images import UInt8Array, read_mask
from segwright.types import IGNORE_INDEX, MAX_CLASSES, Colour, LabelSpace

OTHER = 183  # in stuff JSON: every thing in one


@dataclass(frozen=True, slots=True)
class Annotated:
    """A picture's annotations: (class index, segmentation, crowd), as they stand in the file."""

    source: str
    height: int
    width: int
    regions: tuple[tuple[int, Any, bool], ...]


@dataclass(frozen=True, slots=True)
class Panoptic:
    """A picture's segments: segment id in the PNG → class index."""

    png: Path
    segments: tuple[tuple[int, int], ...]


def decode_segmentation(segmentation: Any, height: int, width: int, where: str) -> list[Region]:
    """Polygons (one list of numbers each), uncompressed or compressed RLE to regions of index 0."""
    if isinstance(segmentation, Mapping):
        size = segmentation.get("size", [height, width])
        if [int(v) for v in size] != [height, width]:
            raise LabelError("an RLE differs in size from its picture", expected=f"{[height, width]}", found=f"{size}",
                             where=where, fix="export the annotations again")  # fmt: skip
        counts = segmentation.get("counts", ())
        decode = decode_string if isinstance(counts, str | bytes) else decode_counts
        return [Region(0, decode(counts, height, width, where))]
    if not isinstance(segmentation, Sequence) or isinstance(segmentation, str):
        raise LabelError("a segmentation is polygons or an RLE", found=repr(segmentation)[:60], where=where)
    regions = []
    for polygon in segmentation:
        points = as_points(polygon, where)
        if len(points) >= 3:
            top, left, mask = fill_box(points, height, width, where)
            regions.append(Region(0, mask, top, left))
    return regions


@dataclass
class CocoReader(DrawnReader):
    """Draws the annotations of a JSON, or decodes panoptic PNGs."""

    background: int = 0  # what no annotation covers

    def draw(self, record: Record) -> UInt8Array:
        if isinstance(record.payload, Panoptic):
            return self._panoptic(record.payload)
        annotated: Annotated = record.payload
        where = describe_source(Path(annotated.source), record.id)
        check_size(annotated.height, annotated.width, where)
        regions = []
        for index, segmentation, crowd in annotated.regions:
            parts = decode_segmentation(segmentation, annotated.height, annotated.width, where)
            merged = _union(parts)
            if merged is not None:
                target = IGNORE_INDEX if crowd else index
                regions.append(Region(target, merged.mask, merged.top, merged.left))
        return paint(smaller_on_top(regions), annotated.height, annotated.width, self.background)

    def _panoptic(self, payload: Panoptic) -> UInt8Array:
        colours = read_mask(payload.png, self.limits)
        if colours.ndim != 3:
            raise LabelError("a panoptic PNG holds colours", expected="RGB", found="one channel", where=payload.png)
        wide = colours.astype(np.int64)
        ids = wide[..., 0] + 256 * wide[..., 1] + 65536 * wide[..., 2]
        present, inverse = np.unique(ids, return_inverse=True)
        table = {0: IGNORE_INDEX, **dict(payload.segments)}
        unknown = [int(i) for i in present if int(i) not in table]
        if unknown:
            raise LabelError("the panoptic PNG holds segments that its JSON does not name",
                             expected=f"{len(payload.segments)} segments", found=str(unknown[:8]), where=payload.png,
                             fix="use the PNG and the JSON of one export")  # fmt: skip
        return np.array([table[int(i)] for i in present], np.uint8)[inverse].reshape(ids.shape)


def _union(parts: list[Region]) -> Region | None:
    """The parts of one annotation as one region, for its area counts as a whole."""
    parts = [part for part in parts if part.mask.size]
    if len(parts) <= 1:
        return parts[0] if parts else None
    top, left = min(p.top for p in parts), min(p.left for p in parts)
    bottom = max(p.top + p.mask.shape[0] for p in parts)
    right = max(p.left + p.mask.shape[1] for p in parts)
    mask = np.zeros((bottom - top, right - left), bool)
    for p in parts:
        mask[p.top - top : p.top - top + p.mask.shape[0], p.left - left : p.left - left + p.mask.shape[1]] |= p.mask
    return Region(0, mask, top, left)


@dataclass
class _File:
    """One JSON: where it is, its kind, the split its name or folder tells."""

    path: Path
    kind: str  # instances, stuff, panoptic
    split: str | None
    folder: str  # relative to the root


def _split_of(*texts: str) -> str | None:
    for text in texts:
        match = re.search(r"(?:^|[^a-z])(train|valid(?:ation)?|val|test|minival)", text.lower())
        if match:
            return {"valid": "val", "validation": "val", "minival": "val"}.get(match.group(1), match.group(1))
    return None


def _find_files(tree: Tree) -> list[_File]:
    if "coco" in tree.memo:
        return list(tree.memo["coco"])
    found: list[_File] = []
    if tree.is_file:
        candidates = [("", tree.root)] if tree.root.suffix.lower() == ".json" else []
    else:
        candidates = [
            (relative, Path(listing.path, name))
            for relative, listing in tree.walk(depth=2)
            for name in [n for n in listing.files if n.lower().endswith(".json")][:12]
        ]
    for relative, path in candidates:
        text = peek(path)
        if '"annotations"' not in text or '"images"' not in text or not re.match(r"\s*\{", text):
            continue
        if '"segments_info"' in text:
            kind = "panoptic"
        elif path.name.startswith("stuff"):
            kind = "stuff"
        elif '"segmentation"' in text or ('"categories"' in text and "caption" not in path.name):
            kind = "instances"
        else:
            continue
        if path.name.startswith(("captions", "person_keypoints", "image_info")):
            continue
        found.append(_File(path, kind, _split_of(path.stem, relative), relative))
    tree.memo["coco"] = found
    return found


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


def recognise(tree: Tree) -> str | None:
    files = _find_files(tree)
    if files:
        return f"{', '.join(sorted({file.kind for file in files}))} JSON with images and annotations"
    return "COCO-Stuff's PNGs in train2017 and val2017" if _pixel_maps(tree) else None


def open_coco(tree: Tree) -> Dataset:
    files = _find_files(tree)
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
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
        if not isinstance(data, dict) or not all(isinstance(data.get(k, []), list) for k in ("images", "annotations")):
            raise ValueError("no lists of images and annotations")
        return data
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError("not a COCO JSON", expected="an object with images, annotations and categories",
                          found=str(error), where=path, fix="export it again") from error  # fmt: skip


@dataclass
class _Classes:
    """Category id → class index, made from all files together."""

    space: LabelSpace
    index: dict[int, int]
    background: int
    notes: list[str]


def _classes(data: Sequence[dict[str, Any]], path: Path) -> _Classes:
    used: set[int] = set()
    categories: dict[int, Mapping[str, Any]] = {}
    for part in data:
        for annotation in part.get("annotations", ()):
            for item in annotation.get("segments_info", (annotation,)):
                used.add(int(item.get("category_id", -1)))
        for category in part.get("categories", ()):
            categories.setdefault(int(category["id"]), category)
    notes = []
    if any(c.get("supercategory") == "none" and i == 0 for i, c in categories.items()) and 0 not in used:
        del categories[0]  # Roboflow's head of the tree, no class
    official = stuff_ids()
    stuff = any(official.get(i) == c.get("name") or c.get("isthing") == 0 for i, c in categories.items())
    if stuff and categories.get(OTHER, {}).get("name") == "other" and any(i <= 90 for i in categories):
        del categories[OTHER]  # "other" stands for the things, which are here themselves
    ids = sorted(categories)
    names = _unique([str(categories[i].get("name", i)) for i in ids], ids)
    colours = [categories[i].get("color") for i in ids]
    background = next((i for i, name in zip(ids, names, strict=True) if name.lower() in BACKGROUND_NAMES), None)
    index = {category: place for place, category in enumerate(ids)}
    if stuff:
        fill = IGNORE_INDEX
        notes.append("what nothing covers is ignored")
    elif background is not None:
        fill = index[background]
        notes.append(f"what nothing covers is {names[fill]}")
    else:
        names, colours = ["background", *names], [[0, 0, 0], *colours]
        index = {category: place + 1 for category, place in index.items()}
        fill = 0
        notes.append("what nothing covers is background")
    if not ids or len(names) > MAX_CLASSES:
        raise LabelError("1 to 255 classes can be told apart", found=f"{len(names)} categories", where=path)
    known: list[Colour] = [(int(c[0]), int(c[1]), int(c[2])) for c in colours if isinstance(c, list) and len(c) == 3]
    space = LabelSpace(tuple(names), tuple(known) if len(known) == len(names) else ())
    notes.append("where regions overlap the smaller is on top; crowds are ignored")
    return _Classes(space, index, fill, notes)


def _unique(names: Sequence[str], ids: Sequence[int]) -> list[str]:
    return [name if names.count(name) == 1 else f"{name} ({i})" for name, i in zip(names, ids, strict=True)]


def _open_json(tree: Tree, files: Sequence[_File]) -> Dataset:
    data = [_load(file.path) for file in files]
    try:
        classes = _classes(data, files[0].path)
        opened = _Records(tree, classes)
        for file, part in zip(files, data, strict=True):
            opened.add(file, part)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise FormatError("a COCO JSON that lacks what it should hold", expected="ids, file names, sizes, categories",
                          found=repr(error), where=files[0].path, fix="export it again") from error  # fmt: skip
    return opened.dataset()


class _Records:
    """Collects the records of one or several JSONs (train and val; instances and stuff of the same pictures)."""

    def __init__(self, tree: Tree, classes: _Classes) -> None:
        self.tree, self.classes = tree, classes
        self.pictures: dict[str, Path] = {}
        self.payloads: dict[str, Any] = {}
        self.splits: dict[str, dict[str, None]] = {}  # keys in order, each once
        self.outlined, self.boxes = 0, 0
        self.missing: list[str] = []
        self.stray: list[str] = []

    def add(self, file: _File, data: Mapping[str, Any]) -> None:
        grouped: dict[int, list[Mapping[str, Any]]] = {}
        for annotation in data.get("annotations", ()):
            grouped.setdefault(annotation["image_id"], []).append(annotation)
        known = set()
        for image in data["images"]:
            known.add(image["id"])
            name = str(image["file_name"])
            path = self.tree.locate(name, file.folder)
            if path is None:
                self.missing.append(name)
                continue
            self.pictures[str(path)] = path
            if file.split is not None:
                self.splits.setdefault(file.split, {})[str(path)] = None
            self._payload(file, image, grouped.get(image["id"], []), str(path))
        self.stray += [str(i) for i in grouped.keys() - known]

    def _payload(self, file: _File, image: Mapping[str, Any], found: list[Mapping[str, Any]], key: str) -> None:
        index = self.classes.index
        if file.kind == "panoptic":
            for annotation in found:
                png = self.tree.locate(annotation["file_name"], f"panoptic_{file.split}2017")
                segments = tuple(
                    (int(s["id"]), IGNORE_INDEX if s.get("iscrowd") else index[int(s["category_id"])])
                    for s in annotation["segments_info"]
                )
                if png is not None and png != Path(key):
                    self.payloads[key] = Panoptic(png, segments)
            return
        regions = tuple(
            (index[int(a["category_id"])], a["segmentation"], bool(a.get("iscrowd", 0)))
            for a in found
            if a.get("segmentation") and int(a["category_id"]) in index
        )
        self.outlined += len(regions)
        self.boxes += sum(bool(a.get("bbox")) and not a.get("segmentation") for a in found)
        before = self.payloads.get(key)
        if isinstance(before, Annotated):  # stuff and instances of one picture
            regions = (*before.regions, *regions)
        self.payloads[key] = Annotated(str(file.path), int(image["height"]), int(image["width"]), regions)

    def _boxes(self) -> list[Problem]:
        """Annotations that hold a box and no outline; FormatError where there is nothing else."""
        if not self.boxes:
            return []
        fix = "export the outlines (polygons or masks) of all objects"
        if not self.outlined and not any(isinstance(payload, Panoptic) for payload in self.payloads.values()):
            raise FormatError(
                "these are boxes, not outlines: the annotations of a detection data set",
                expected="annotations with a segmentation",
                found=f"{self.boxes} annotations with a bbox alone",
                where=self.tree.root,
                fix=fix,
            )
        message = f"{self.boxes} annotations hold a box and no outline: they are read as background"
        return [Problem("warning", "boxes without outline", message, (), fix)]

    def dataset(self) -> Dataset:
        paths = list(self.pictures.values())
        ids = unique_ids([(path.parent.name, path.stem, path.suffix) for path in paths])
        records = {
            str(path): Record(name, path, None, self.payloads.get(str(path)))
            for name, path in zip(ids, paths, strict=True)
        }
        given = {split: [records[key] for key in keys] for split, keys in self.splits.items()}
        if len(given) == 1 and len(next(iter(given.values()))) < len(records):
            given = {}
        problems = self._boxes()
        if self.missing:
            message = f"{len(self.missing)} pictures that the JSON names are not there"
            problems.append(Problem("warning", "mask without image", message, tuple(self.missing), "copy them there"))
        if self.stray:
            message = f"annotations of {len(self.stray)} pictures that the JSON does not list"
            problems.append(Problem("warning", "mask without image", message, tuple(self.stray[:20])))
        if not records:
            raise FormatError(
                "none of the JSON's pictures is there",
                expected=", ".join(self.missing[:3]),
                found=self.tree.summary(),
                where=self.tree.root,
                fix="copy the pictures there",
            )
        return Dataset(
            root=self.tree.root,
            format="coco",
            reader=CocoReader(self.classes.space, background=self.classes.background),
            records=tuple(records.values()),
            given=in_order(given),
            notes=[f"{len(self.classes.space)} classes from the JSON's categories", *self.classes.notes],
            problems=problems,
            unpaired_masks=tuple(Path(name) for name in self.missing),
        )


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
                and any(is_picture(file) and not file.endswith(".png") for file in listing.files[:5])
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
            if is_picture(name)
        ]
    if not given:
        raise FormatError("COCO-Stuff's PNGs lie there without their pictures", expected="train2017/ and val2017/",
                          found=tree.summary(), where=tree.root)  # fmt: skip
    return Dataset(
        root=tree.root,
        format="coco",
        reader=FileReader(stuff_thing_space()),
        records=everything(given),
        given=in_order(given),
        notes=["COCO-Stuff's PNGs: 80 things and 91 stuff classes, values are category ids - 1; 255 is ignored"],
    )


FORMAT = Format(
    "coco", "COCO", "a JSON with images, annotations and categories; or stuffthingmaps PNGs", recognise, open_coco
)
