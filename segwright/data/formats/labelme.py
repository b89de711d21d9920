"""labelme (Wada): a JSON with shapes beside each image; classes from ``labels.txt`` if present.

Shapes are drawn in their order, later over earlier, with the pixels that labelme's own exporter sets: polygons,
rectangles, circles, lines, points, and masks (PNG inside the JSON), which are exact. Where all shapes are points and
lines they are sparse labels (:mod:`segwright.data.annotations.sparse`). ``__ignore__`` is ignored,
``_background_`` is what no shape covers. An image that is only inside the JSON (``imageData``) is read from there.
A rectangle is two opposite corners, or four as X-AnyLabeling writes it.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from segwright.core.counted import counted
from segwright.core.errors import DataError, FormatError, LabelError
from segwright.core.progress import track
from segwright.core.types import IGNORE_INDEX
from segwright.data.annotations.polygons import Points, as_points, draw_labelme
from segwright.data.annotations.rasterize import Drawable, Drawing, RasterizedReader, Region, annotated_space, fill_name
from segwright.data.annotations.sparse import DRAWN, LabelRule, PointCount, Reading, choose_reading, core, stamp, trace
from segwright.data.formats.base import Format, label_rule, pairing_problems, sort_splits, unique_ids
from segwright.data.formats.file_references import Reference, claimed_twice, resolve_all
from segwright.data.formats.file_tree import Folder, Tree, is_image, read_ends, stem
from segwright.data.formats.name_matching import describe_folder, find_class_list
from segwright.data.formats.name_parts import composed
from segwright.data.formats.shapes import boxes_only
from segwright.data.formats.writing import (
    IGNORE_NAME,
    OutputSample,
    annotation_labels,
    background_index,
    class_names,
    class_regions,
    write_classes,
)
from segwright.data.label_maps import ClassList, read_class_list
from segwright.data.records import Dataset, Problem, Record, Severity
from segwright.data.text_files import read_json
from segwright.imageio import UInt8Array, decode_image, decode_mask, encode_png, write_bytes

CLASS_FILES = ("classes.csv", "classes.json", "labels.txt", "classes.txt", "class_names.txt")
MAX_BYTES = 500_000_000
DRAWN_BESIDE = "with points and lines as labelme's own exporter draws them, a radius of 5 px and a width of 10 px"
STROKES = frozenset({"point", "line", "linestrip"})
SAMPLED = 5  # JSON files a folder that recognition looks at


def load(path: Path) -> Mapping[str, Any]:
    """A labelme JSON; LabelError naming it where it is none."""
    data = read_json(path, MAX_BYTES, LabelError)
    if not isinstance(data, dict) or not isinstance(data.get("shapes"), list):
        raise LabelError(
            "not a labelme JSON", expected="an object with shapes", found="no list of shapes", where=path,
            fix="save it again",
        )  # fmt: skip
    found: Mapping[str, Any] = data
    return found


@dataclass
class LabelmeReader(RasterizedReader):
    """Draws the shapes of a JSON; ``payload`` of a record is its path."""

    index: Mapping[str, int] | None = None  # label → class index
    background: int = 0
    reading: Reading = DRAWN

    @property
    def partial(self) -> bool:
        return self.reading.partial

    def image(self, record: Record) -> UInt8Array:
        if record.image_path is not None:
            return super().image(record)
        data = load(record.payload).get("imageData")
        if not data:
            raise LabelError("neither the image nor its data is there", where=record.payload)
        return decode_image(_base64(data, record.payload), f"{record.payload} (imageData)", self.limits)

    def drawing(self, record: Record) -> Drawing | None:
        path: Path = record.payload
        data = load(path)
        try:
            height, width = int(data.get("imageHeight") or 0), int(data.get("imageWidth") or 0)
        except (TypeError, ValueError, OverflowError) as error:
            raise LabelError("imageHeight and imageWidth are numbers", found=str(error), where=path) from error
        height, width = self.sized(record, height, width, str(path))
        objects = [
            Drawable(self._index(shape, path), partial(self._region, shape, height, width, path))
            for shape in data["shapes"]
        ]
        outlines = any(_kind(shape) not in STROKES for shape in data["shapes"])
        return Drawing(height, width, objects, self.reading.fill(self.background, outlines), where=str(path))

    def _index(self, shape: Any, path: Path) -> int:
        """A shape's class; LabelError where it has no label, or one that is not in the list."""
        if not isinstance(shape, Mapping) or "points" not in shape or not str(shape.get("label", "")).strip():
            raise LabelError("a shape has a label and points", found=repr(shape)[:80], where=path)
        known = self.index or {}
        label = str(shape["label"])
        if label not in known:
            raise LabelError(
                "a shape's label is not in the class list",
                expected=", ".join(known),
                found=label,
                where=path,
                fix="add it to labels.txt, or correct the shape",
            )
        return known[label]

    def _region(self, shape: Any, height: int, width: int, path: Path) -> Region:
        index = self._index(shape, path)
        points = as_points(shape["points"], str(path))
        kind, rule = _kind(shape), self.reading.rule
        if kind in STROKES and len(points) and (self.reading.partial or _given(rule, kind)):
            if kind == "point":
                top, left, drawn = stamp(points[:1], rule.radius, height, width, centers=True)
            else:
                top, left, drawn = trace(points, rule.width, height, width, str(path), centers=True)
            return Region(index, drawn, top, left)
        if kind in ("rectangle", "rotation") and rule.boxes == "core" and len(points) in (2, 4):
            (top, left, drawn), unsure = core(_corners(points), height, width, str(path))
            return Region(index, drawn, top, left, unsure)
        if kind != "mask":
            top, left, drawn = draw_labelme(kind, points, height, width, str(path))
            return Region(index, drawn, top, left)
        mask = decode_mask(_base64(shape.get("mask"), path), f"{path} (mask)")
        if mask.ndim != 2 or len(points) < 1:
            raise LabelError("a mask shape holds one channel and its corner", where=path)
        return Region(index, np.asarray(mask, bool), top=round(points[0][1]), left=round(points[0][0]))


def _kind(shape: Any) -> str:
    return str(shape.get("shape_type") or "polygon") if isinstance(shape, Mapping) else ""


def _given(rule: LabelRule, kind: str) -> bool:
    """Whether the rule has a size for such a stroke; else a complete image has that of labelme's own exporter."""
    return (rule.point_radius if kind == "point" else rule.line_width) is not None


def _corners(points: Points) -> Points:
    """The four corners of a rectangle of two or four points, which are pixel positions and all inside."""
    if len(points) == 4:
        return points + 0.5
    low, high = points.min(axis=0), points.max(axis=0) + 1
    return np.array([low, [high[0], low[1]], high, [low[0], high[1]]])


def _base64(text: Any, path: Path) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise LabelError("the embedded image is not base64", found=str(error), where=path) from error


def _is_labelme(path: Path) -> bool:
    text = read_ends(path)
    return '"shapes"' in text and ('"imagePath"' in text or '"imageData"' in text)


def _folders(tree: Tree) -> list[tuple[str, Folder]]:
    """Folders with labelme JSONs, judged by their first ones."""
    if tree.is_file:
        return []
    found = []
    for relative, listing in tree.walk():
        names = [name for name in listing.files if name.lower().endswith(".json")]
        if any(_is_labelme(Path(listing.path, name)) for name in names[:SAMPLED]):
            found.append((relative, listing))
    return found


def detect(tree: Tree) -> str | None:
    folders = _folders(tree)
    return f"JSON files with shapes in {', '.join(relative or '.' for relative, _ in folders[:4])}" if folders else None


def open_labelme(tree: Tree) -> Dataset:
    folders = _folders(tree)
    if not folders:
        raise FormatError("no labelme JSON", expected="x.json with shapes beside x.jpg", found=tree.summary(),
                          where=tree.root)  # fmt: skip
    jsons = [
        (relative, Path(listing.path, name))
        for relative, listing in folders
        for name in listing.files
        if name.lower().endswith(".json")
    ]
    beside: dict[tuple[str, str], list[Path]] = {}  # (folder, stem) → images: one lies beside its JSON, or elsewhere
    for relative, listing in tree.walk():
        for name in listing.files:
            if is_image(name):
                beside.setdefault((relative, composed(stem(name))), []).append(Path(listing.path, name))
    listed = _class_list(tree, folders)
    survey = _survey(jsons)
    found, problems = _images(tree, [one for one in jsons if one[1] not in survey.others], beside, survey)
    used = {image for _, _, image in found}
    lone = [path for paths in beside.values() for path in paths if path not in used]
    lone, doubt = _apart(tree, lone, used)
    problems = [*problems, *doubt]
    ids = unique_ids([(relative, path.stem, ".json") for relative, path, _ in found])
    records = [Record(name, image, None, path) for name, (_, path, image) in zip(ids, found, strict=True)]
    given: dict[str, list[Record]] = {}
    for (relative, _, _), record in zip(found, records, strict=True):
        split = describe_folder(relative)[1]
        if split is not None:
            given.setdefault(split, []).append(record)
    if listed is not None:
        labels = {entry.name: entry.color for entry in listed.entries}
        notes = listed.notes()
    else:
        labels = dict.fromkeys(sorted(survey.labels))
        notes = [f"{len(labels)} labels found in the shapes, in alphabetical order; labels.txt would fix it"]
    if not labels:
        raise LabelError("no shape has a label", found=f"{len(jsons)} JSON files", where=tree.root)
    kinds = [survey.kinds.get(path, (0, 0)) for _, path, _ in found]  # none of those that cannot be read
    choice = choose_reading(label_rule(tree), kinds, drawn_beside=DRAWN_BESIDE)
    reading = choice.reading
    space, index, background = annotated_space(
        list(labels), list(labels.values()), rest_ignored=reading.rest == "ignored"
    )
    notes.append(f"what no shape covers is {fill_name(space, background)}; later shapes are on top")
    notes += [*choice.notes, *(reading.notes(fill_name(space, background)) if reading.partial else [])]
    notes += survey.points.notes()
    every, rectangles = survey.shapes, survey.rectangles
    boxes = boxes_only(every, "rectangles", reading.rule) if every and every == rectangles else []
    return Dataset(
        root=tree.root,
        format="labelme",
        reader=LabelmeReader(space, index=index, background=background, reading=reading),
        records=tuple(records),
        given=sort_splits(given),
        notes=notes,
        problems=[*pairing_problems(lone, []), *problems, *choice.problems, *boxes, *survey.problems()],
        unpaired_images=tuple(lone),
    )


def _apart(tree: Tree, lone: list[Path], used: set[Path | None]) -> tuple[list[Path], list[Problem]]:
    """(the files without shapes that are no masks, a warning that names the masks of the same images)."""
    shown = {composed(path.stem) for path in used if path is not None}
    masks = [
        path
        for path in lone
        if composed(path.stem) in shown and describe_folder(path.parent.relative_to(tree.root).as_posix())[0] == "mask"
    ]
    if not masks:
        return lone, []
    folders = ", ".join(dict.fromkeys(path.parent.relative_to(tree.root).as_posix() for path in masks))
    message = f"the images have masks as well ({counted(len(masks), 'file')} in {folders}): the labelme JSONs are read"
    fix = "--format folder reads the masks; or move away what does not hold"
    apart = set(masks)
    return [path for path in lone if path not in apart], [Problem("warning", "masks guessed", message, (), fix)]


@dataclass
class _Survey:
    """The content of all JSONs, read once while opening."""

    labels: dict[str, None] = field(default_factory=dict)
    names: dict[Path, str] = field(default_factory=dict)  # imagePath
    embedded: set[Path] = field(default_factory=set)  # those that hold their image
    others: set[Path] = field(default_factory=set)  # JSON files of another kind
    broken: dict[Path, LabelError] = field(default_factory=dict)
    kinds: dict[Path, tuple[int, int]] = field(default_factory=dict)  # points and lines, outlines
    points: PointCount = field(default_factory=PointCount)
    rectangles: int = 0
    shapes: int = 0

    def count(self, path: Path, data: Mapping[str, Any]) -> None:
        """Count the shapes of a JSON, and its points: pixel positions, so that 0 is the middle of the first pixel."""
        shapes = data["shapes"]
        strokes = sum(_kind(shape) in STROKES for shape in shapes)
        self.rectangles += sum(_kind(shape) == "rectangle" for shape in shapes)
        self.shapes += len(shapes)
        self.kinds[path] = (strokes, len(shapes) - strokes)
        points = []
        height = width = 0
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            height, width = int(data.get("imageHeight") or 0), int(data.get("imageWidth") or 0)
        for shape in shapes:
            if _kind(shape) == "point":
                with contextlib.suppress(KeyError, TypeError, ValueError, IndexError):
                    x, y = shape["points"][0]
                    points.append((str(shape.get("label")), float(x) + 0.5, float(y) + 0.5))
        self.points.add(points, height, width)

    def problems(self) -> list[Problem]:
        if not self.broken:
            return []
        first = next(iter(self.broken.values()))
        message = f"{len(self.broken)} JSON files cannot be read, such as {first.where}: {first.message}"
        return [Problem("error", "unreadable annotation", message, tuple(map(str, self.broken)), first.fix)]


def _survey(jsons: list[tuple[str, Path]]) -> _Survey:
    """Read all the JSONs; LabelError where none can be read."""
    survey = _Survey()
    for _, path in track(jsons, "reading shapes"):
        try:
            data = load(path)
        except LabelError as error:
            if error.message == "not a labelme JSON":
                survey.others.add(path)  # a COCO export or a class list beside them
            else:
                survey.broken[path] = error
            continue
        except DataError as error:
            survey.broken[path] = LabelError(error.message, found=error.found, where=path, fix=error.fix)
            continue
        _note(survey, path, data)
    if survey.broken and len(survey.broken) + len(survey.others) == len(jsons):
        raise next(iter(survey.broken.values()))
    return survey


def _note(survey: _Survey, path: Path, data: Mapping[str, Any]) -> None:
    survey.names[path] = str(data.get("imagePath") or "")
    if data.get("imageData"):
        survey.embedded.add(path)
    survey.count(path, data)
    for shape in data["shapes"]:
        if isinstance(shape, Mapping) and shape.get("label") is not None and str(shape["label"]).strip():
            survey.labels[str(shape["label"])] = None


def _images(
    tree: Tree,
    jsons: list[tuple[str, Path]],
    beside: Mapping[tuple[str, str], list[Path]],
    survey: _Survey,
) -> tuple[list[tuple[str, Path, Path | None]], list[Problem]]:
    """(folder, JSON, image) of every JSON with an image: the one of its name beside it, else that of imagePath."""
    chosen: dict[Path, Path] = {}
    open_ones: list[tuple[str, Path]] = []
    conflicting: list[tuple[Path, str]] = []  # JSONs whose imagePath names another image that is there, too
    renamed: list[tuple[Path, str]] = []
    for relative, path in jsons:
        near = beside.get((relative, composed(path.stem)), [])
        if len(near) == 1:
            chosen[path] = near[0]
            stated = survey.names.get(path, "").replace("\\", "/").rpartition("/")[2]
            other_stem = stem(composed(stated))
            if stated and other_stem.casefold() != composed(near[0].stem).casefold():
                other = beside.get((relative, other_stem), [])
                (conflicting if other else renamed).append((path, stated))
            continue
        named = [image for image in near if image.name == Path(survey.names.get(path, "")).name]
        if len(named) == 1 or near:
            chosen[path] = (named or near)[0]
        else:
            open_ones.append((relative, path))
    asked = [(relative, path) for relative, path in open_ones if path not in survey.embedded]
    references = [
        Reference(survey.names.get(path, path.name), path, describe_folder(relative)[1]) for relative, path in asked
    ]
    found = resolve_all(tree, references)
    taken = set(chosen.values())
    contested = {path: numbers for path, numbers in found.shared.items() if path not in taken}
    for (_, path), image in zip(asked, found.paths, strict=True):
        if image is not None and image not in taken and image not in contested:
            chosen[path] = image
    claimed = {**contested, **{p: [i] for i, p in enumerate(found.paths) if p is not None and p in taken}}
    problems = [*found.problems, *([claimed_twice(references, claimed, tree.root)] if claimed else [])]
    problems += _other_names(conflicting, "warning", "which is there as well") + _other_names(renamed, "note", "")
    kept = [(relative, path, chosen.get(path)) for relative, path in jsons if path in chosen or path in survey.embedded]
    if not kept:
        raise FormatError(
            "none of the JSON's images is there",
            expected=", ".join([*survey.names.values()][:3]),
            found="; ".join(problem.message for problem in problems)[:600],
            where=tree.root,
            fix="copy the images beside the JSON files",
        )
    return kept, problems


def _other_names(found: list[tuple[Path, str]], severity: Severity, why: str) -> list[Problem]:
    """A finding for JSONs beside an image of their own name that name another one."""
    if not found:
        return []
    path, name = found[0]
    message = (
        f"{counted(len(found), 'JSON file')} with another image (imagePath) than the one beside, such as "
        f"{path.name}: {name}{', ' if why else ''}{why}; the image of the JSON's own name is read"
    )
    fix = "look at some of these images; if a JSON was copied under another name, remove it"
    return [Problem(severity, "file found by a looser match", message, tuple(str(one) for one, _ in found), fix)]


def _class_list(tree: Tree, folders: list[tuple[str, Folder]]) -> ClassList | None:
    places = [tree.folder("")] + [tree.folder(os.path.dirname(relative)) for relative, _ in folders]
    path = find_class_list([*places, *(listing for _, listing in folders)], CLASS_FILES)
    return None if path is None else read_class_list(path)


def write_labelme(dataset: Dataset, samples: Iterator[OutputSample], out: Path) -> None:
    """[split/]x.jpg, [split/]x.json with shapes of type mask (labelme 5.1 and later), labels.txt, classes.csv."""
    names, fill = class_names(dataset), background_index(dataset)
    for sample in samples:
        data, ending = sample.image
        folder = out / (sample.split or "")
        write_bytes(folder / f"{sample.name}{ending}", data)
        if sample.mask is None:
            continue
        page = mask_page(sample.mask, f"{sample.name}{ending}", names, fill)
        write_bytes(folder / f"{sample.name}.json", json.dumps(page, indent=1, ensure_ascii=False).encode())
    lines = "".join(f"{name}\n" for name, _ in annotation_labels(dataset))
    write_bytes(out / "labels.txt", lines.encode())
    write_classes(dataset, out, IGNORE_NAME)  # for the colors, which labels.txt cannot hold


def mask_page(mask: UInt8Array, image: str, names: Sequence[str], fill: int) -> dict[str, Any]:
    """The JSON of an image at the path ``image`` with a shape of type mask per class except ``fill``."""
    shapes: list[dict[str, Any]] = [
        {
            "label": IGNORE_NAME if label == IGNORE_INDEX else names[label],
            "points": [[left, top], [left + region.shape[1] - 1, top + region.shape[0] - 1]],
            "group_id": None,
            "description": "",
            "shape_type": "mask",
            "flags": {},
            "mask": base64.b64encode(encode_png(region.astype(np.uint8))).decode(),
        }
        for label, top, left, region in class_regions(mask, fill)
    ]
    return {
        "version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": image, "imageData": None,
        "imageHeight": mask.shape[0], "imageWidth": mask.shape[1],
    }  # fmt: skip


FORMAT = Format("labelme", "labelme", "x.json with shapes beside x.jpg", detect, open_labelme, writer=write_labelme)
