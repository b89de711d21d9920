"""Label Studio's JSON export (and JSON-MIN): brushes, polygons, rectangles, ellipses and key points.

Brushes carry their own run-length coding and are exact; the other shapes are in percent of the image's size. Which
image and which annotation of a task count: :mod:`.label_studio_tasks`, with the labeling configuration that lies beside
the export as ``config.xml``. Regions are drawn in their order, later over earlier. Key points are sparse labels
(:mod:`segwright.data.annotations.sparse`); so are brushes that are scribbles, where that is stated. Uploads are stored
under a prefix (``1a2b3c4d-street.jpg``); an image is found with or without it.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from segwright.core.counted import counted
from segwright.core.errors import FormatError, LabelError, SegwrightError
from segwright.core.types import IGNORE_INDEX, Color, LabelSpace, UInt8Array
from segwright.data.annotations.polygons import as_points, fill_box
from segwright.data.annotations.rasterize import (
    Drawable,
    Drawing,
    Ledger,
    RasterizedReader,
    Region,
    annotated_space,
    describe_source,
    draw,
    fill_name,
)
from segwright.data.annotations.rle import check_size, decode_label_studio
from segwright.data.annotations.sparse import (
    COMPLETE,
    Choice,
    LabelRule,
    PointCount,
    Reading,
    choose_reading,
    core,
    stamp,
)
from segwright.data.formats.base import SPLIT_NAMES, Format, label_rule, pairing_problems, sort_splits, unique_ids
from segwright.data.formats.file_references import Reference, claimed_twice, file_index, resolve_all, surroundings
from segwright.data.formats.file_tree import Tree, read_ends
from segwright.data.formats.label_studio_tasks import (
    COUNTS,
    Interface,
    TaskImage,
    file_address,
    interface_beside,
    preferred,
    task_images,
)
from segwright.data.formats.label_studio_writing import write_label_studio
from segwright.data.formats.name_matching import find_class_list
from segwright.data.formats.name_parts import composed, spellings
from segwright.data.label_maps import read_class_list
from segwright.data.records import Dataset, Problem, Record
from segwright.data.text_files import read_json

KINDS = ("brushlabels", "polygonlabels", "rectanglelabels", "ellipselabels")
POINTS = "keypointlabels"
SAMPLED = 8  # JSON files a folder that recognition looks at
EVERY_KIND = re.compile(r"(?:[a-z]*labels)$")
CHOOSE_IMAGE = (
    "save the project's labeling configuration (Settings, Labeling Interface, Code) as config.xml beside the export: "
    "its <Image> names the key of the annotated image"
)
_PREFIX = re.compile(r"^[0-9a-f]{8}-")


@dataclass(frozen=True, slots=True)
class TaskAnnotations:
    source: str
    regions: tuple[Mapping[str, Any], ...]  # as they stand in the file


@dataclass
class LabelStudioReader(RasterizedReader):
    index: Mapping[str, int] | None = None
    background: int = 0
    reading: Reading = COMPLETE

    @property
    def partial(self) -> bool:
        return self.reading.partial

    def drawing(self, record: Record) -> Drawing | None:
        payload: TaskAnnotations = record.payload
        where = describe_source(Path(payload.source), record.id)
        height, width = self.size(record)
        objects = [
            Drawable((self.index or {})[_labels(_value(region))[0]], partial(self._typed, region, height, width, where))
            for region in payload.regions
            if self.reading.strokes or not _is_point(region)
        ]
        outlines = not all(map(_is_point, payload.regions))
        return Drawing(height, width, objects, self.reading.fill(self.background, outlines), where=where)

    def _typed(self, region: Mapping[str, Any], height: int, width: int, where: str) -> Region:
        try:
            with np.errstate(all="ignore"):  # infinite numbers are refused as points
                return self._region(region, height, width, where)
        except SegwrightError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, IndexError) as error:
            raise LabelError("a broken region", found=repr(error), where=where, fix="export it again") from error

    def _region(self, region: Mapping[str, Any], height: int, width: int, where: str) -> Region:
        value = _value(region)
        label = _labels(value)[0]
        target = (self.index or {})[label]
        size = int(region.get("original_height") or height), int(region.get("original_width") or width)
        check_size(*size, where)
        if size != (height, width):
            raise LabelError("a region was drawn on an image of another size", expected=f"{width}×{height}",
                             found=f"{size[1]}×{size[0]}", where=where)  # fmt: skip
        if _is_point(region):
            place = [[float(value["x"]) * width / 100, float(value["y"]) * height / 100]]
            top, left, mask = stamp(as_points(place, where), self.reading.rule.radius, height, width)
            return Region(target, mask, top, left)
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
        if angle:  # about the upper left corner of a rectangle, the center of an ellipse
            pivot = scaled[0] if "radiusX" not in value else scaled.mean(axis=0)
            scaled = (scaled - pivot) @ np.array(
                [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]
            )
            scaled = scaled + pivot
        if self.reading.rule.boxes == "core" and "rectanglelabels" in value:
            (top, left, mask), unsure = core(as_points(scaled.tolist(), where), height, width, where)
            return Region(target, mask, top, left, unsure)
        top, left, mask = fill_box(as_points(scaled.tolist(), where), height, width, where)
        return Region(target, mask, top, left)


def draw_annotation(
    annotation: Mapping[str, Any], index: Mapping[str, int], size: tuple[int, int], fill: int, where: str
) -> tuple[UInt8Array, list[Problem]]:
    """One annotation of a task as a mask (H, W) of class indices, and what of it is lost, by label.

    ``index``: label → class index; ``fill``: what no region covers. Key points are labels of the pixels around them; an
    annotation of nothing else is partial, and what they leave is 255. LabelError for a label that it lacks or a broken
    region.
    """
    found = _Found()
    regions = found.regions({"annotations": [annotation]}) or ()
    unknown = sorted({_labels(_value(region))[0] for region in regions} - set(index))
    if unknown:
        raise LabelError(
            "labels that are no classes of the model", expected=", ".join(index), found=", ".join(unknown)[:300],
            where=where, fix="give them the label of a class, or train a model that has them",
        )  # fmt: skip
    space = LabelSpace(tuple(f"class {number}" for number in range(max(index.values(), default=0) % IGNORE_INDEX + 1)))
    reader = LabelStudioReader(space, index=index, background=fill)
    objects = [
        Drawable(index[_labels(_value(region))[0]], partial(reader._typed, region, *size, where)) for region in regions
    ]
    clicks_alone = bool(regions) and all(map(_is_point, regions))
    mask, _ = draw(Drawing(*size, objects, IGNORE_INDEX if clicks_alone else fill, where=where))
    return mask, found.ledger.problems("draw them as brushes or polygons, one label per region")


def count_clicks(annotation: Mapping[str, Any]) -> tuple[int, int]:
    """(clicks, regions whose clicks are not known) of an annotation.

    A key point is one click, a rectangle or an ellipse two, a polygon one per corner. Label Studio does not record what
    a brush took. What a model predicted and nobody changed took none.
    """
    clicks = unknown = 0
    for region in _Found().regions({"annotations": [{**annotation, "was_cancelled": False}]}) or ():
        value = _value(region)
        if region.get("origin") == "prediction":
            continue
        if isinstance(value.get("points"), list):
            clicks += len(value["points"])
        elif _is_point(region):
            clicks += 1
        elif "radiusX" in value or ("width" in value and "rle" not in value):
            clicks += 2
        else:
            unknown += 1
    return clicks, unknown


def _value(region: Mapping[str, Any]) -> Mapping[str, Any]:
    value = region.get("value", region)
    return value if isinstance(value, Mapping) else {}


def _differ(annotations: Sequence[Mapping[str, Any]]) -> bool:
    """Whether annotations of a task have different regions; their ids, authors and times do not count."""
    results = [annotation.get("result") for annotation in annotations]
    values = [
        [_value(region) for region in one if isinstance(region, Mapping)] for one in results if isinstance(one, list)
    ]
    return len(values) != len(annotations) or any(one != values[0] for one in values)


def _labels(value: Mapping[str, Any]) -> list[str]:
    for kind in (*KINDS, POINTS, "labels"):
        found = value.get(kind)
        if isinstance(found, list) and found:
            return [str(label) for label in found]
    return []


def _files(tree: Tree, every: bool = False) -> list[Path]:
    """Label Studio's exports; recognition looks at some JSON files of each folder, opening at all."""
    if tree.is_file:
        candidates = [tree.root] if tree.root.suffix.lower() == ".json" else []
    else:
        candidates = []
        for _, listing in tree.walk(depth=1):
            names = [name for name in listing.files if name.lower().endswith(".json")]
            candidates += [Path(listing.path, name) for name in (names if every else names[:SAMPLED])]
    found = []
    for path in candidates:
        text = read_ends(path)
        known = any(f'"{kind}"' in text for kind in (*KINDS, POINTS, "original_width"))
        if re.match(r"\s*\[", text) and (known or all(f'"{key}"' in text for key in ("data", "annotations", "result"))):
            found.append(path)
    return found


def detect(tree: Tree) -> str | None:
    files = _files(tree)
    return f"Label Studio's export {', '.join(path.name for path in files[:4])}" if files else None


def _tasks(path: Path) -> list[Mapping[str, Any]]:
    data = read_json(path)
    if not isinstance(data, list) or not all(isinstance(task, dict) for task in data):
        raise FormatError("not a Label Studio export", expected="a list of tasks", found=type(data).__name__,
                          where=path, fix="export it as JSON")  # fmt: skip
    return data


def _split(task: Mapping[str, Any]) -> str | None:
    """The split that a task's data names: ``{"image": …, "split": "train"}``."""
    fields = task.get("data", task)
    named = fields.get("split") if isinstance(fields, Mapping) else None
    return SPLIT_NAMES.get(named.lower()) if isinstance(named, str) else None


def _rows(tasks: Sequence[Mapping[str, Any]], found: _Found) -> Iterator[Mapping[str, Any]]:
    """The tasks; of JSON-MIN, which has a row per annotation, the row of each task's annotation that counts."""
    rows: dict[Any, list[Mapping[str, Any]]] = {}
    for task in tasks:
        if "annotation_id" in task and "annotations" not in task and isinstance(task.get("id"), int | str):
            rows.setdefault(task["id"], []).append(task)
        else:
            yield task
    for several in rows.values():
        chosen = preferred(several) or several[0]
        found.several += len(several) > 1
        found.undecided += len(several) > 1 and not chosen.get("ground_truth")
        yield chosen


def _images_of(path: Path, task: Mapping[str, Any], interface: Interface | None) -> list[TaskImage]:
    """The images of a task that are annotated: under ``data`` (JSON) or at the top (JSON-MIN)."""
    number = f"task {task.get('id')}"
    found = task_images(task.get("data", task), interface, f"{path}, {number}", CHOOSE_IMAGE)
    return found or [TaskImage("", number)]


@dataclass
class _Found:
    """The tasks of all exports, with notes and problems."""

    tasks: list[tuple[Path, str, tuple[Mapping[str, Any], ...] | None]] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)
    splits: list[str | None] = field(default_factory=list)  # of each task
    several: int = 0  # tasks with several finished annotations
    undecided: int = 0  # of these, with different regions and no ground truth

    def regions(
        self, task: Mapping[str, Any], image: str = "", interface: Interface | None = None
    ) -> tuple[Mapping[str, Any], ...] | None:
        """The regions with a label and an area, those on another <Image> than ``image`` left out; None if the task is
        not annotated."""
        if "annotations" in task or "completions" in task:
            all_of = task.get("annotations") or task.get("completions") or []
            chosen = preferred(all_of)
            if chosen is None:
                return None
            finished = [a for a in all_of if isinstance(a, Mapping) and not a.get("was_cancelled")]
            self.several += len(finished) > 1
            self.undecided += len(finished) > 1 and not chosen.get("ground_truth") and _differ(finished)
            found = chosen.get("result")
            listed = found if isinstance(found, list) else []
        else:
            lists = {k: v for k, v in task.items() if isinstance(v, list) and v and isinstance(v[0], Mapping)}
            listed = [
                {"from_name": key, **region}
                for key, one in lists.items()
                for region in one
                if isinstance(region, Mapping)
            ]
        kept = [region for region in listed if isinstance(region, Mapping)]
        if interface is not None and image:
            kept = [region for region in kept if not interface.is_elsewhere(region, image)]
        return tuple(self._drawn(kept))

    def _drawn(self, listed: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """The results that can be drawn; a brush and its labels may be two results with one id."""
        ids = [(region.get("id"), _value(region)) for region in listed if region.get("id")]
        by_id = {key: _labels(value) for key, value in ids if _labels(value)}
        outlined = {key for key, value in ids if _has_area(value)}
        whole = {key for key, value in ids if _has_area(value) and _labels(value)}
        kept: list[Mapping[str, Any]] = []
        for region in listed:
            value, key = _value(region), region.get("id")
            labels = _labels(value)
            if not labels and _has_area(value) and key not in whole and by_id.get(key):
                labels = by_id[key]
                region = {**region, "value": {**value, "labels": labels}}
            if labels and (_has_area(value) or _is_point(region)):
                kept.append(region)
                for label in labels[1:]:
                    self.ledger.lose(label, "a second label of one region")
            elif _has_area(value) and key not in whole:
                self.ledger.lose("no class", "a region without a label")
            elif key not in outlined:
                for kind, names in value.items():
                    if EVERY_KIND.match(kind) and isinstance(names, list) and names:
                        self.ledger.lose(str(names[0]), f"a region of {kind} covers no area")
        return kept

    def count(self, reading: Reading) -> None:
        """Count what is drawn, and the key points that are not."""
        for region in (region for _, _, regions in self.tasks for region in regions or ()):
            name = _labels(_value(region))[0]
            if _is_point(region) and not reading.strokes:
                self.ledger.lose(name, f"a region of {POINTS} covers no area")
            else:
                self.ledger.keep(name)

    def points(self) -> PointCount:
        """The key points of every annotated task; sizes are those of the regions, else 100 by 100 as in percent."""
        count = PointCount()
        for _, _, regions in self.tasks:
            points, height, width = [], 0, 0
            for region in filter(_is_point, regions or ()):
                value = _value(region)
                with contextlib.suppress(KeyError, TypeError, ValueError, OverflowError):
                    height, width = int(region.get("original_height") or 100), int(region.get("original_width") or 100)
                    x, y = float(value["x"]) * width / 100, float(value["y"]) * height / 100
                    points.append((_labels(value)[0], x, y))
            count.add(points, height, width)
        return count

    def choice(self, rule: LabelRule) -> Choice:
        """How key points are read, by the regions of every annotated task."""
        counts = [(sum(map(_is_point, one)), len(one)) for _, _, one in self.tasks if one is not None]
        return choose_reading(rule, [(points, total - points) for points, total in counts])


def _is_point(region: Mapping[str, Any]) -> bool:
    value = _value(region)
    return bool(value.get(POINTS)) and not _has_area(value) and {"x", "y"} <= value.keys()


def _has_area(value: Mapping[str, Any]) -> bool:
    if {"rle", "points", "radiusX", "height"} & value.keys():
        return True
    return "width" in value and "rectanglelabels" in value


def _cleaned(name: str) -> str:
    """A file name as Label Studio stores an upload: spaces become underscores, other marks are dropped."""
    return re.sub(r"(?u)[^-\w.]", "", composed(name).strip().replace(" ", "_"))


def _references(tree: Tree, found: _Found) -> list[Reference]:
    """The tasks' images: under their name, or without the prefix of an upload, or as they were before it."""
    stored: dict[str, set[str]] = {}
    for paths in file_index(tree).by_name.values():
        for stored_name in {path.rsplit("/", 1)[-1] for path in paths}:
            stored.setdefault(_cleaned(stored_name), set()).add(stored_name)
    references = []
    for path, name, _ in found.tasks:
        base = spellings(name)[-1].path.rsplit("/", 1)[-1] if spellings(name) else ""
        bare = _PREFIX.sub("", base)
        before = stored.get(bare, set()) - {bare}
        alternatives = (bare, *before) if bare != base and len(before) <= 1 else ()
        references.append(Reference(name, path, None, (), alternatives))
    return references


def open_label_studio(tree: Tree) -> Dataset:
    files = _files(tree, every=True)
    if not files:
        raise FormatError(
            "no Label Studio export", expected="a JSON list of tasks", found=tree.summary(), where=tree.root
        )
    found = _Found()
    for path in files:
        interface = interface_beside(path.parent)
        for task in _rows(_tasks(path), found):
            before = found.several, found.undecided
            for one in _images_of(path, task, interface):
                drawn = found.regions(task, one.name, interface)
                found.tasks.append((path, file_address(one.address), drawn))
                found.splits.append(_split(task))
            found.several = min(found.several, before[0] + 1)  # a task of several images is one task
            found.undecided = min(found.undecided, before[1] + 1)
    references = _references(tree, found)
    resolved = resolve_all(tree, references)
    contested = {
        path: numbers
        for path, numbers in resolved.shared.items()
        if any(found.tasks[i][2] != found.tasks[numbers[0]][2] for i in numbers)
    }
    chosen: dict[Path, TaskAnnotations | None] = {}
    split_of: dict[Path, str | None] = {}
    for (source, _, regions), image, split in zip(found.tasks, resolved.paths, found.splits, strict=True):
        if image is not None and image not in contested:
            split_of.setdefault(image, split)
            chosen.setdefault(image, None if regions is None else TaskAnnotations(str(source), regions))
    problems = [*resolved.problems]
    if contested:
        problems.append(claimed_twice(references, contested, surroundings(tree).root))
    choice = found.choice(label_rule(tree))
    reading = choice.reading
    found.count(reading)
    names, colors = _classes(tree, found, reading)
    if not names or not chosen:
        lost = found.ledger.summary() if found.ledger.lost else "; ".join(p.message for p in problems)[:600]
        raise FormatError("the export holds no region with a label and an area, or none of its images is there",
                          expected="brushes or polygons, and the images", found=lost or "no region", where=files[0],
                          fix="copy the images beside the JSON")  # fmt: skip
    space, index, background = annotated_space(names, colors, rest_ignored=reading.rest == "ignored")
    ids = unique_ids([(image.parent.name, image.stem, image.suffix) for image in chosen])
    records = tuple(
        Record(name, image, None, regions) for name, (image, regions) in zip(ids, chosen.items(), strict=True)
    )
    given: dict[str, list[Record]] = {}
    for record, image in zip(records, chosen, strict=True):
        if (split := split_of[image]) is not None:
            given.setdefault(split, []).append(record)
    lone = [image for image, regions in chosen.items() if regions is None]
    notes = [
        f"{counted(len(space), 'class')}; what no region covers is {fill_name(space, background)}; later "
        "regions are on top"
    ]
    every = [_value(region) for regions in chosen.values() for region in (regions.regions if regions else ())]
    notes += [*choice.notes, *reading.notes(fill_name(space, background), strokes=any(POINTS in v for v in every))]
    notes += found.points().notes() if reading.strokes else []
    if reading.rest == "background" and any("brushlabels" in value for value in every):
        notes.append("brushes are taken as whole objects; if they are scribbles: --unlabeled-pixels ignore")
    if found.several:
        message = f"{counted(found.several, 'task', 'has')} several annotations: {COUNTS}, is read"
        if found.undecided:
            fix = "export the one that is right, or mark it as ground truth"
            problems.append(Problem("warning", "several masks per image", message, (), fix))
        else:
            notes.append(message)
    return Dataset(
        root=tree.root,
        format="label_studio",
        reader=LabelStudioReader(space, index=index, background=background, reading=reading),
        records=records,
        given=sort_splits(given),
        notes=notes,
        problems=[
            *pairing_problems(lone, []),
            *found.ledger.problems("draw them as polygons or brushes, one label per region"),
            *choice.problems,
            *problems,
        ],
        unpaired_images=tuple(lone),
    )


def _classes(tree: Tree, found: _Found, reading: Reading) -> tuple[list[str], list[Color | None]]:
    """The classes, with colors, in the order of a list beside the export, then those of the regions by name."""
    listed_regions = [region for _, _, regions in found.tasks for region in regions or ()]
    labels = {_labels(_value(region))[0] for region in listed_regions if reading.strokes or not _is_point(region)}
    lists = ("classes.csv", "classes.txt", "labels.txt", "classes.json")
    listed = None if tree.is_file else find_class_list([tree.folder()], lists)
    entries = read_class_list(listed).entries if listed else ()
    colors = {entry.name: entry.color for entry in entries} | dict.fromkeys(sorted(labels - {e.name for e in entries}))
    return list(colors), list(colors.values())


FORMAT = Format(
    "label_studio",
    "Label Studio",
    "a JSON list of tasks with brushlabels or polygonlabels",
    detect,
    open_label_studio,
    writer=write_label_studio,
)
