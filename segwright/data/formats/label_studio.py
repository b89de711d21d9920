"""Label Studio's JSON export (and JSON-MIN): brushes, polygons, rectangles and ellipses.

Brushes carry their own run-length coding and are exact; the other shapes are in percent of the picture's size. Of a
task's annotations the one marked as ground truth is read, else the first that was not cancelled. Regions are drawn in
their order, later over earlier. Uploads are stored under a prefix (``1a2b3c4d-street.jpg``); a picture is found with
or without it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import numpy as np

from segwright.data.classes import read_class_list
from segwright.data.drawing import DrawnReader, Region, annotated_space, describe_source, fill_name, paint
from segwright.data.formats.base import Format, pairing_problems, unique_ids
from segwright.data.formats.pairing import find_class_list
from segwright.data.formats.tree import Tree, is_picture, peek
from segwright.data.polygons import as_points, fill_box
from segwright.data.records import Dataset, Problem, Record
from segwright.data.rle import check_size, decode_label_studio
from segwright.errors import FormatError, LabelError
from segwright.images import UInt8Array

KINDS = ("brushlabels", "polygonlabels", "rectanglelabels", "ellipselabels")
_PREFIX = re.compile(r"^[0-9a-f]{8}-")


@dataclass(frozen=True, slots=True)
class Annotated:
    source: str
    regions: tuple[Mapping[str, Any], ...]  # as they stand in the file


@dataclass
class LabelStudioReader(DrawnReader):
    index: Mapping[str, int] | None = None
    background: int = 0

    def draw(self, record: Record) -> UInt8Array:
        payload: Annotated = record.payload
        where = describe_source(Path(payload.source), record.id)
        height, width = self.size(record)
        regions = []
        for region in payload.regions:
            try:
                regions.append(self._region(region, height, width, where))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise LabelError("a broken region", found=repr(error), where=where, fix="export it again") from error
        return paint(regions, height, width, self.background)

    def _region(self, region: Mapping[str, Any], height: int, width: int, where: str) -> Region:
        value = region.get("value", region)
        label = _labels(value)[0]
        target = (self.index or {})[label]
        size = int(region.get("original_height") or height), int(region.get("original_width") or width)
        check_size(*size, where)
        if size != (height, width):
            raise LabelError("a region was drawn on a picture of another size", expected=f"{width}×{height}",
                             found=f"{size[1]}×{size[0]}", where=where)  # fmt: skip
        if "rle" in value:
            return Region(target, decode_label_studio(value["rle"], height, width, where))
        if "points" in value:
            points = np.asarray(value["points"], np.float64).reshape(-1, 2)
        elif "radiusX" in value:
            t = np.linspace(0, 2 * math.pi, 180, endpoint=False)
            across, down = float(value["radiusX"]) * np.cos(t), float(value["radiusY"]) * np.sin(t)
            points = np.stack([float(value["x"]) + across, float(value["y"]) + down], axis=1)
        else:
            x, y, w, h = (float(value[key]) for key in ("x", "y", "width", "height"))
            points = np.array([[x, y], [x + w, y], [x + w, y + h], [x, y + h]])
        scaled = points * (width / 100, height / 100)
        angle = math.radians(float(value.get("rotation") or 0))
        if angle:  # about the upper left corner of a rectangle, the centre of an ellipse
            pivot = scaled[0] if "radiusX" not in value else scaled.mean(axis=0)
            scaled = (scaled - pivot) @ np.array(
                [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]
            )
            scaled = scaled + pivot
        top, left, mask = fill_box(as_points(scaled.tolist(), where), height, width, where)
        return Region(target, mask, top, left)


def _labels(value: Mapping[str, Any]) -> list[str]:
    for kind in (*KINDS, "labels"):
        if value.get(kind):
            return [str(label) for label in value[kind]]
    return []


def _file(tree: Tree) -> Path | None:
    if tree.is_file:
        candidates = [tree.root] if tree.root.suffix.lower() == ".json" else []
    else:
        candidates = [
            Path(listing.path, name)
            for _, listing in tree.walk(depth=1)
            for name in [n for n in listing.files if n.lower().endswith(".json")][:8]
        ]
    for path in candidates:
        text = peek(path)
        if re.match(r"\s*\[", text) and any(f'"{kind}"' in text for kind in (*KINDS, "original_width")):
            return path
    return None


def recognise(tree: Tree) -> str | None:
    path = _file(tree)
    return None if path is None else f"Label Studio's export {path.name}"


def _tasks(path: Path) -> list[Mapping[str, Any]]:
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
        if not isinstance(data, list) or not all(isinstance(task, dict) for task in data):
            raise ValueError("no list of tasks")
        return data
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError("not a Label Studio export", expected="a list of tasks", found=str(error), where=path,
                          fix="export it as JSON") from error  # fmt: skip


def _picture_name(task: Mapping[str, Any]) -> str:
    """The picture's address in a task: under ``data`` (JSON) or at the top (JSON-MIN), under any key."""
    fields = task.get("data", task)
    for value in fields.values():
        if isinstance(value, str):
            parsed = urlparse(value)
            local = re.search(r"(?:^|&)d=([^&]+)", parsed.query)  # /data/local-files/?d=folder/x.jpg
            name = unquote(local[1] if local else parsed.path)
            if is_picture(name):
                return name
    return ""


def _regions(task: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    """The regions with an area; None where nobody annotated the task."""
    if "annotations" in task or "completions" in task:
        all_of = task.get("annotations") or task.get("completions") or []
        kept = [a for a in all_of if isinstance(a, Mapping) and not a.get("was_cancelled")]
        chosen = next((a for a in kept if a.get("ground_truth")), kept[0] if kept else None)
        if chosen is None:
            return None
        found: Sequence[Any] = chosen.get("result", [])
    else:
        lists = [v for v in task.values() if isinstance(v, list) and v and isinstance(v[0], Mapping)]
        found = [region for listed in lists for region in listed]
    kept_regions = []
    for region in found:
        value = region.get("value", region) if isinstance(region, Mapping) else None
        if isinstance(value, Mapping) and _labels(value) and {"rle", "points", "radiusX", "width"} & value.keys():
            kept_regions.append(region)
    return kept_regions


def open_label_studio(tree: Tree) -> Dataset:
    path = _file(tree)
    if path is None:
        raise FormatError(
            "no Label Studio export", expected="a JSON list of tasks", found=tree.summary(), where=tree.root
        )
    found: list[tuple[Path, Annotated | None]] = []
    missing, labels = [], dict[str, None]()
    for task in _tasks(path):
        name = _picture_name(task)
        picture = tree.locate(name) or tree.locate(_PREFIX.sub("", Path(name).name)) if name else None
        regions = _regions(task)
        for region in regions or ():
            labels |= dict.fromkeys(_labels(region.get("value", region))[:1])
        if picture is None:
            missing.append(name or f"task {task.get('id')}")
        else:
            found.append((picture, None if regions is None else Annotated(str(path), tuple(regions))))
    listed = (
        find_class_list([tree.folder()], ("classes.txt", "labels.txt", "classes.json")) if not tree.is_file else None
    )
    names = [entry.name for entry in read_class_list(listed).entries] if listed else sorted(labels)
    names += sorted(label for label in labels if label not in names)
    if not names or not found:
        raise FormatError("the export holds no region with a label, or none of its pictures is there",
                          expected="brushes or polygons, and the pictures", found=f"missing: {missing[:3]}",
                          where=path)  # fmt: skip
    space, index, background = annotated_space(names)
    ids = unique_ids([(picture.parent.name, picture.stem, picture.suffix) for picture, _ in found])
    records = tuple(Record(name, picture, None, regions) for name, (picture, regions) in zip(ids, found, strict=True))
    lone = [picture for picture, regions in found if regions is None]
    problems = pairing_problems(lone, [])
    if missing:
        message = f"{len(missing)} pictures that the export names are not there"
        problems.append(Problem("warning", "mask without image", message, tuple(missing), "copy them beside the JSON"))
    return Dataset(
        root=tree.root,
        format="label_studio",
        reader=LabelStudioReader(space, index=index, background=background),
        records=records,
        notes=[
            f"{len(space)} classes; what no region covers is {fill_name(space, background)}; later regions lie on top"
        ],
        problems=problems,
        unpaired_images=tuple(lone),
        unpaired_masks=tuple(Path(name) for name in missing),
    )


FORMAT = Format(
    "label_studio",
    "Label Studio",
    "a JSON list of tasks with brushlabels or polygonlabels",
    recognise,
    open_label_studio,
)
