"""YOLO's segmentation labels: ``labels/x.txt`` beside ``images/x.jpg``, a polygon a line, coordinates in 0…1.

Or ``x.txt`` beside ``x.jpg`` in one folder, as darknet and some tools of annotation have it.

A line is ``class x1 y1 x2 y2 …``. Names come from ``data.yaml`` or a class list. Class 0 of the files becomes 1, for
what nothing covers is background; where polygons overlap, the smaller is on top. Lines of five numbers are boxes of a
detection dataset and have no outline: files of nothing else are kept apart from this format, and a box among polygons
is an error when its image is read. An image without a text file, or with an empty one, is
all background, as the convention has it, and their number is a note. Coordinates beyond 0…1 are pixels, or of
another image: an error.
"""

from __future__ import annotations

import os
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import yaml

from segwright.core.counted import counted
from segwright.core.errors import DataError, FormatError, LabelError
from segwright.core.types import MAX_CLASSES, LabelSpace
from segwright.core.yaml_text import load_yaml
from segwright.data.annotations.polygons import Points, as_points, fill_box
from segwright.data.annotations.rasterize import MAX_OBJECTS, Drawable, Drawing, RasterizedReader, Region
from segwright.data.annotations.sparse import DRAWN, LabelRule, Reading, box_choices, choose_reading, core
from segwright.data.formats.base import Format, label_rule, pairing_problems, sort_splits, unique_ids
from segwright.data.formats.file_tree import Folder, Tree, is_image, read_ends, stem
from segwright.data.formats.name_matching import describe_folder, find_class_list
from segwright.data.formats.name_parts import composed
from segwright.data.formats.split_lists import lists_by_name
from segwright.data.label_maps import ClassEntry, ClassList, generated_name, read_class_list
from segwright.data.records import Dataset, Problem, Record
from segwright.data.text_files import read_text

Place = tuple[tuple[str | None, str], str]  # ((split, free parts of the folder), stem)
Listed = tuple[str, tuple[str | None, str], Path]  # (folder, its split and free parts, image)

CLASS_FILES = ("classes.txt", "obj.names", "classes.json", "labels.txt")
_BETWEEN = r"(?:[ \t]*[,;][ \t]*|[ \t]+)"  # spaces, as published; commas and semicolons, as tables are exported
_LINE = re.compile(rf"^\d+(?:\.0+)?(?:{_BETWEEN}[-+0-9.eE]+){{6,}}[ \t]*\r?$", re.MULTILINE)
_BOX = re.compile(rf"^\d+(?:\.0+)?(?:{_BETWEEN}[-+0-9.eE]+){{4,5}}[ \t]*\r?$", re.MULTILINE)
_DECIMAL_COMMA = re.compile(r"(?:^|[\s;])[-+]?\d+,\d+(?:$|[\s;])")
LOOKED_AT = 20  # text files a folder
OUTSIDE = 0.05  # how far a polygon may reach out of its image, in shares of it: tools round, and cut objects late
BARE = 0.2  # share of images without a label file that is worth a warning
MAX_YAML = 2_000_000  # bytes
BOXES = {"core": "the inner fifth of each is its class, the rest of it ignored", "fill": "drawn in full"}
PIXELS = 2.0  # a largest coordinate from which pixels are the likelier reading


@dataclass
class YoloReader(RasterizedReader):
    """``payload`` of a record is the path of its text file, or False where there is none (all background)."""

    reading: Reading = DRAWN

    @property
    def partial(self) -> bool:
        return self.reading.partial

    def drawing(self, record: Record) -> Drawing | None:
        height, width = self.size(record)
        objects: list[Drawable] = []
        if record.payload is not False:
            path: Path = record.payload
            for number, line in enumerate(read_text(path, make=LabelError).splitlines(), start=1):
                if len(objects) > MAX_OBJECTS:  # refused when it is drawn
                    break
                if line.strip():
                    where = f"{path}:{number}"
                    fields = _fields(line, where)
                    index, points = self._polygon(fields, where)
                    inner = len(fields) in (5, 6) and self.reading.rule.boxes == "core"
                    index -= self._shift
                    draw = partial(_region, index, points, height, width, where, inner)
                    objects.append(Drawable(index, draw))
        where = str(record.payload or record.image_path)
        return Drawing(height, width, objects, self.reading.fill(0, True), sort_by_area=True, where=where)

    @property
    def _shift(self) -> int:
        """1 where no background is put before the classes."""
        return int(self.reading.rest == "ignored")

    def _polygon(self, fields: list[str], where: str) -> tuple[int, Points]:
        """(class index, corners in shares of the image) of a line."""
        box = len(fields) in (5, 6) and self.reading.rule.boxes != "auto"  # the sixth is a detector's confidence
        if len(fields) in (5, 6) and not box:
            file, line = where.rsplit(":", 1)
            raise LabelError(
                "a box, not a polygon: where the object is, not its outline",
                expected="a class and at least three pairs of numbers",
                found=f"{len(fields)} numbers",
                where=where,
                fix=f"draw its outline, or remove the line: sed -i {line}d {shlex.quote(file)}",
            )
        if not box and (len(fields) < 7 or len(fields) % 2 == 0):
            raise LabelError(
                "a line is no polygon",
                expected="a class and at least three pairs of numbers",
                found=f"{len(fields)} fields" + (", a class and no whole pairs" if len(fields) > 7 else ""),
                where=where,
                fix="export segmentation polygons; of predictions leave out the confidence at the end of each line "
                "(save_conf=False)"
                if len(fields) > 7
                else "export segmentation polygons",
            )
        try:
            index = int(fields[0].removesuffix(".0")) + 1
            numbers = [float(field) for field in fields[1:]]
            points = as_points(_box_corners(numbers) if box else numbers, where)
        except (ValueError, OverflowError) as error:
            raise LabelError("a line of numbers", found=str(error), where=where) from error
        if not 0 < index < len(self.label_space) + self._shift:
            raise LabelError(
                "a class outside the list", expected=f"0 to {len(self.label_space) + self._shift - 2}",
                found=fields[0], where=where,
                fix="name it in the class list (data.yaml: names; classes.txt), or correct the label file",
            )  # fmt: skip
        low, high = float(points.min()), float(points.max())
        if low < -OUTSIDE or high > 1 + OUTSIDE:
            raise LabelError(
                "the coordinates are not shares of the image from 0 to 1"
                + (": they look like pixels" if high > PIXELS else ""),
                expected="x and y divided by the image's width and height",
                found=f"{low:g} to {high:g}",
                where=where,
                fix="normalize them: divide every x by the width and every y by the height of the image",
            )
        return index, points


def _fields(line: str, where: str) -> list[str]:
    """The numbers of a line between spaces, commas or semicolons; LabelError where commas stand within numbers."""
    line = line.strip()
    if "," not in line and ";" not in line:
        return line.split()
    if _DECIMAL_COMMA.search(line) and (";" in line or len(line.split()) > 1):
        raise LabelError(
            "a comma within a number: 0,5 may be one half, or 0 and 5",
            expected="decimal points, as in 0 0.5 0.25",
            found=line[:60],
            where=where,
            fix="write numbers with decimal points, and spaces between them",
        )
    return re.split(r"\s*[,;]\s*|\s+", line)


def _box_corners(numbers: Sequence[float]) -> list[list[float]]:
    """The corners of a box of center, width and height."""
    x, y, across, down = numbers[:4]
    left, right, top, bottom = x - across / 2, x + across / 2, y - down / 2, y + down / 2
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def _region(index: int, points: Points, height: int, width: int, where: str, inner: bool) -> Region:
    if inner:
        (top, left, mask), unsure = core(points * (width, height), height, width, where)
        return Region(index, mask, top, left, unsure)
    top, left, mask = fill_box(points * (width, height), height, width, where)
    return Region(index, mask, top, left)


def _text_folders(tree: Tree, line: re.Pattern[str]) -> list[tuple[str, Folder]]:
    """Label folders, and folders of images with their text files beside them, where one of the first text files holds
    such a line."""
    if tree.is_file:
        return []
    found = []
    for relative, listing in tree.walk():
        texts = [name for name in listing.files if _is_label(name)]
        if describe_folder(relative)[0] != "mask":
            images = {stem(name) for name in listing.files if is_image(name)}
            texts = [name for name in texts if stem(name) in images]
        if any(line.search(read_ends(Path(listing.path, name))) for name in texts[:LOOKED_AT]):
            found.append((relative, listing))
    return found


def _is_label(name: str) -> bool:
    return name.lower().endswith(".txt") and name.lower() not in CLASS_FILES


def _label_folders(tree: Tree) -> list[tuple[str, Folder]]:
    """Folders of text files with polygons."""
    if "yolo" not in tree.memo:
        # Boxes are labels where they were asked for: else a dataset of boxes is refused with the readings.
        rule: LabelRule = tree.memo.get("label rule", LabelRule())
        folders = _text_folders(tree, _LINE)
        folders += [] if folders or rule.boxes == "auto" else _text_folders(tree, _BOX)
        tree.memo["yolo"] = folders
    return list(tree.memo["yolo"])


def detect(tree: Tree) -> str | None:
    folders = _label_folders(tree)
    return f"text files with objects in {', '.join(relative for relative, _ in folders[:4])}" if folders else None


def hint(tree: Tree) -> FormatError | None:
    """The error for a detection dataset: its labels are boxes."""
    folders = _text_folders(tree, _BOX)
    if not folders:
        return None
    return FormatError(
        "these are boxes, not polygons: the labels of a detection dataset, which hold no outline",
        expected="lines of a class and at least three pairs of numbers, as YOLO's segmentation labels have",
        found=f"lines of a class and a box in {', '.join(relative for relative, _ in folders[:4])}",
        where=tree.root,
        fix=f"export the polygons (in a YOLO segmentation format); {box_choices()}",
    )


def _above(folders: list[tuple[str, Folder]]) -> list[str]:
    """The root and the folders between it and the labels, the upper ones first."""
    found = {""}
    for relative, _ in folders:
        parts = relative.split("/")
        found |= {"/".join(parts[:depth]) for depth in range(1, len(parts))}
    return sorted(found, key=lambda folder: (folder.count("/") + bool(folder), folder))


def _yamls(tree: Tree, folders: list[tuple[str, Folder]]) -> dict[Path, Any]:
    """What the YAML files beside and above the labels hold; of one that cannot be read, the error."""
    if "yolo yamls" not in tree.memo:
        found: dict[Path, Any] = {}
        for at in (tree.folder(folder) for folder in _above(folders)):
            for name in at.files:
                if name.lower().endswith((".yaml", ".yml")):
                    path = Path(at.path, name)
                    try:
                        found[path] = load_yaml(read_text(path, MAX_YAML))
                    except (DataError, ValueError, yaml.YAMLError, RecursionError) as error:
                        found[path] = error
        tree.memo["yolo yamls"] = found
    yamls: dict[Path, Any] = tree.memo["yolo yamls"]
    return yamls


def _listed_in_yaml(tree: Tree, folders: list[tuple[str, Folder]]) -> dict[str, list[Path]]:
    """The lists of images that a YAML names for its splits: ``train: autosplit_train.txt``."""
    for path, data in _yamls(tree, folders).items():
        if not isinstance(data, dict) or "names" not in data:
            continue
        found: dict[str, list[Path]] = {}
        for split in ("train", "val", "test"):
            named = data.get(split)
            for one in named if isinstance(named, list) else [named]:
                place = path.parent / Path(str(one)).name
                if isinstance(one, str) and one.lower().endswith(".txt") and os.path.isfile(place):
                    found.setdefault(split, []).append(place)
        return found
    return {}


def _names(tree: Tree, folders: list[tuple[str, Folder]]) -> tuple[ClassList | None, list[Problem]]:
    """(the classes that a YAML or a list beside the data names, a warning for each YAML that cannot be read)."""
    problems = []
    for path, data in _yamls(tree, folders).items():
        if isinstance(data, Exception):
            found = " ".join(str(data).split())[:200]
            problems.append(Problem("warning", "unreadable list", f"{path.name} is not read: {found}", (str(path),)))
            continue
        if isinstance(data, dict) and "kpt_shape" in data:
            raise FormatError("these are poses: boxes and key points, which hold no outline", expected="polygons",
                              found="kpt_shape", where=path, fix="export segmentation polygons")  # fmt: skip
        named = _named(data)
        if named is not None:
            problems += _count_differs(data, len(named), path)
            return _class_list(named, path), [*problems, *_others_differ(tree, folders, named, path)]
    above = [tree.folder(folder) for folder in _above(folders)]
    listed = find_class_list([*above, tree.folder("labels"), *(listing for _, listing in folders)], CLASS_FILES)
    return None if listed is None else read_class_list(listed), problems


def _named(data: Any) -> dict[Any, Any] | None:
    """The classes that a YAML names, by their number; None where it names none."""
    names = data.get("names") if isinstance(data, dict) else None
    if isinstance(names, list):
        return dict(enumerate(names))
    if isinstance(names, dict) and all(str(key).isdecimal() for key in names if isinstance(key, int | str)):
        return {int(key) if str(key).isdecimal() else key: name for key, name in names.items()}
    return None


def _others_differ(
    tree: Tree, folders: list[tuple[str, Folder]], named: Mapping[Any, Any], used: Path
) -> list[Problem]:
    """A warning where another YAML or list beside the data names a number differently."""
    at = [tree.folder(folder) for folder in _above(folders)]
    lists = [listed for one in [*at, *(one for _, one in folders)] if (listed := find_class_list([one], CLASS_FILES))]
    yamls = _yamls(tree, folders)
    for path in dict.fromkeys([*yamls, *lists]):
        if path == used:
            continue
        try:
            other = _named(yamls[path]) if path in yamls else _listed_names(path)
        except (DataError, ValueError, yaml.YAMLError, RecursionError):
            continue
        number = next((key for key in named if other and key in other and str(other[key]) != str(named[key])), None)
        if other is not None and number is not None:
            mine, others = _from_root(tree, used), _from_root(tree, path)
            message = f"{mine} calls class {number} {named[number]}, {others} {other[number]}: {mine} is used"
            fix = "remove the file that does not hold"
            return [Problem("warning", "classes guessed", message, (str(used), str(path)), fix)]
    return []


def _listed_names(path: Path) -> dict[Any, Any]:
    return {entry.value: entry.name for entry in read_class_list(path).entries}


def _from_root(tree: Tree, path: Path) -> str:
    """A file's path below the root, else its name."""
    return path.relative_to(tree.root).as_posix() if path.is_relative_to(tree.root) else path.name


def _count_differs(data: Mapping[str, Any], count: int, path: Path) -> list[Problem]:
    """A warning where a YAML states another number of classes (nc) than it has names."""
    stated = data.get("nc")
    if not isinstance(stated, int) or stated == count:
        return []
    message = f"{path.name} states {counted(stated, 'class')} (nc) and names {count}: the names are used"
    fix = "name every class in the order of their numbers, or correct nc"
    return [Problem("warning", "classes guessed", message, (str(path),), fix)]


def _class_list(names: Mapping[Any, Any], path: Path) -> ClassList:
    """The names of a YAML; LabelError where they are no names, or more than there can be classes."""
    entries = []
    for key, name in names.items():
        text = str(key) if isinstance(key, int | str) else ""
        number = int(text) if text.isdecimal() and len(text) < 10 else -1
        if not isinstance(name, str | int | float | bool) or not 0 <= number < MAX_CLASSES:
            shown = name[:60] if isinstance(name, str) else type(name).__name__
            raise LabelError(
                "names is a list of class names, or numbers with their names",
                expected=f"a name for each of 0 to at most {MAX_CLASSES - 1}",
                found=f"{text[:40] or type(key).__name__}: {shown}",
                where=path,
                fix="write names: [first, second, …]",
            )
        entries.append(ClassEntry(number, str(name)))
    if not entries:
        raise LabelError("names names no class", where=path, fix="write names: [first, second, …]")
    return ClassList(tuple(sorted(entries, key=lambda entry: entry.value)), path)


def _highest(folders: list[tuple[str, Folder]]) -> int:
    """The highest class in the text files; read whole only where no list names the classes."""
    highest = 0
    for _, listing in folders:
        for name in listing.files:
            if name.lower().endswith(".txt"):
                try:
                    text = read_text(Path(listing.path, name))
                except DataError:
                    continue  # reading it raises
                highest = max([highest, *(int(m) for m in re.findall(r"^(\d{1,3})[\s,;]", text, re.MULTILINE))])
    return highest


def open_yolo(tree: Tree) -> Dataset:
    folders = _label_folders(tree)
    if not folders:
        raise hint(tree) or FormatError("no YOLO polygons", expected="labels/x.txt beside images/x.jpg",
                                        found=tree.summary(), where=tree.root)  # fmt: skip
    classes, problems = _names(tree, folders)
    if classes is None:
        names = [generated_name(i) for i in range(_highest(folders) + 1)]
        notes = [f"{counted(len(names), 'class')} found in the text files; data.yaml or classes.txt would name them"]
    else:
        by_value = {entry.value: entry.name for entry in classes.entries}
        names = [by_value.get(i, generated_name(i)) for i in range(max(by_value) + 1)]
        notes = classes.notes()
    unique = [
        name if names.count(name) == 1 and name != "background" else f"{name} ({i})" for i, name in enumerate(names)
    ]
    texts: dict[Place, list[Path]] = {}
    for relative, listing in folders:
        for name in listing.files:
            if _is_label(name):
                texts.setdefault((describe_folder(relative)[1:], composed(stem(name))), []).append(
                    Path(listing.path, name)
                )
    images = [
        (relative, describe_folder(relative)[1:], Path(listing.path, name))
        for relative, listing in tree.walk()
        for name in listing.files
        if is_image(name)
    ]
    images, also = _apart(images)
    if also:
        _refuse_two_kinds(tree, folders, also)
        notes.append(f"{counted(len(also), 'mask')} of the same names are left out, as asked with --format yolo")
    sharing = Counter((place, composed(path.stem)) for _, place, path in images)
    clashes = {key: None for key, found in texts.items() if len(found) > 1 or sharing[key] > 1}
    ids = unique_ids([(relative, path.stem, path.suffix) for relative, _, path in images])
    records: list[Record] = []
    given: dict[str, list[Record]] = {}
    annotated = {place for place, _ in texts}
    bare = []
    for name, (_, place, path) in zip(ids, images, strict=True):
        key = (place, composed(path.stem))
        payload: Path | bool | None = texts[key][0] if key in texts else False if place in annotated else None
        if payload is False:
            bare.append(path)
        if key in clashes:
            payload = None
        records.append(Record(name, path, None, payload))
        if place[0] is not None:
            given.setdefault(place[0], []).append(records[-1])
    lone = sorted(path for key, paths in texts.items() if not sharing[key] for path in paths)
    problems += _name_problems(clashes, texts, images, bare, len(records))
    reading, before = _reading(label_rule(tree), records, notes)
    if lists := _listed_in_yaml(tree, folders):
        listed, findings = lists_by_name(tree, records, lists)
        given = listed or given
        problems += findings
    return Dataset(
        root=tree.root,
        format="yolo",
        reader=YoloReader(LabelSpace((*before, *unique)), reading=reading),
        records=tuple(records),
        given=sort_splits(given),
        notes=notes,
        problems=[*pairing_problems([], lone), *problems],
        unpaired_masks=tuple(lone),
    )


def _apart(images: list[Listed]) -> tuple[list[Listed], list[Path]]:
    """The images, and the files of mask folders that have an image of their name elsewhere: their masks."""
    roles = [describe_folder(relative)[0] for relative, _, _ in images]
    shown = {composed(path.stem) for role, (_, _, path) in zip(roles, images, strict=True) if role != "mask"}
    masks = [role == "mask" and composed(path.stem) in shown for role, (_, _, path) in zip(roles, images, strict=True)]
    return (
        [image for image, mask in zip(images, masks, strict=True) if not mask],
        [path for (_, _, path), mask in zip(images, masks, strict=True) if mask],
    )


def _refuse_two_kinds(tree: Tree, folders: list[tuple[str, Folder]], masks: list[Path]) -> None:
    """FormatError where images have polygons and masks, and none of them was asked for."""
    if tree.memo.get("format") is None:
        raise FormatError(
            "the images have two kinds of labels, which may differ: polygons in text files, and masks",
            expected="one of them",
            found=f"polygons in {', '.join(relative or '.' for relative, _ in folders[:4])}; "
            f"{counted(len(masks), 'mask')} such as {masks[0].relative_to(tree.root)}",
            where=tree.root,
            fix="--format yolo reads the polygons, --format folder the masks",
        )


def _reading(rule: LabelRule, records: Sequence[Record], notes: list[str]) -> tuple[Reading, list[str]]:
    """(how the objects are read, the classes put before those of the files); adds to the notes."""
    choice = choose_reading(rule, [(0, int(record.payload is not None)) for record in records])
    reading = choice.reading
    notes += [*choice.notes, *reading.notes("background", strokes=False)]
    before = [] if reading.rest == "ignored" else ["background"]
    if before:
        notes.append("class 0 of the files is class 1 here: background is inserted before them")
    notes.append("the smaller object is on top")
    if rule.boxes != "auto":
        notes.append(f"boxes: {BOXES[rule.boxes]}")
    return reading, before


def _name_problems(
    clashes: Mapping[Place, None],
    texts: Mapping[Place, Sequence[Path]],
    images: Sequence[tuple[str, tuple[str | None, str], Path]],
    bare: Sequence[Path],
    total: int,
) -> list[Problem]:
    """Label files and images that share a name, and images that are background because they have no label file."""
    problems = []
    if clashes:
        files = [str(path) for key in clashes for path in texts[key]]
        files += [str(path) for _, place, path in images if (place, composed(path.stem)) in clashes]
        message = f"{len(clashes)} names have several images or several label files: these images have no mask"
        fix = "rename them apart: one image and one label file per name"
        problems.append(Problem("error", "colliding names", message, tuple(files), fix))
    if bare:
        message = f"{len(bare)} of {total} images have no label file and are read as background, as is the convention"
        fix = "if they are not annotated yet, move them away"
        severity: Literal["warning", "note"] = "warning" if len(bare) > BARE * total else "note"
        problems.append(Problem(severity, "images without label file", message, tuple(map(str, bare)), fix))
    return problems


FORMAT = Format("yolo", "YOLO", "labels/x.txt with polygons beside images/x.jpg", detect, open_yolo, hint)
