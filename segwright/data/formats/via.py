"""VGG Image Annotator 1 and 2: its JSON (with or without settings) and its CSV, beside the images.

Regions are a dictionary in version 1 and a list in version 2. Polygons, rectangles, circles and ellipses are drawn in
their order, later over earlier; a polyline that ends where it begins is a polygon; other polylines and points are
sparse labels (:mod:`segwright.data.annotations.sparse`). The class is the one attribute of the regions that has values.
Where there are several, ``classes.txt`` with the values of one of them chooses it; else they are listed and the data is
refused. Files in folders called train and val are the splits.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segwright.core.counted import counted
from segwright.core.errors import FormatError, LabelError, SegwrightError
from segwright.data.annotations.rasterize import annotated_space, fill_name
from segwright.data.formats.base import Format, label_rule, pairing_problems
from segwright.data.formats.file_references import Reference, claimed_twice, resolve_all
from segwright.data.formats.file_tree import Tree, read_ends, read_json, read_text
from segwright.data.formats.name_parts import split_of
from segwright.data.formats.published_layout import assemble
from segwright.data.formats.shapes import (
    AREAS,
    Figure,
    Figures,
    FiguresReader,
    boxes_alone,
    class_names,
    is_stroke,
    listed_classes,
    point_notes,
    reading_of,
    unlisted_images,
    without_area,
)
from segwright.data.records import Dataset, Problem
from segwright.imageio import read_header

OBJECT = "object"  # the class of regions that have no attribute at all
_COLUMNS = {"filename", "region_shape_attributes", "region_attributes"}
LOOKED_AT = 12  # files per folder
SHOWN = 6


@dataclass
class _Entry:
    """One image of an annotation file: (shape attributes, region attributes) of its regions."""

    name: str
    regions: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = field(default_factory=list)


def _annotations(tree: Tree) -> list[Path]:
    """The JSON and CSV files of VIA under the root."""
    if "via" in tree.memo:
        return list(tree.memo["via"])
    if tree.is_file:
        candidates = [tree.root]
    else:
        candidates = [
            Path(listing.path, name)
            for _, listing in tree.walk(depth=3)
            for name in [n for n in listing.files if n.lower().endswith((".json", ".csv"))][:LOOKED_AT]
        ]
    found = [path for path in candidates if _is_via(path)]
    # A project file and its exported annotations hold the same: the annotations of one folder are read once.
    tree.memo["via"] = _once(found)
    return list(tree.memo["via"])


def _is_via(path: Path) -> bool:
    text = read_ends(path)
    if path.suffix.lower() == ".csv":
        header = text.split("\n", 1)[0].lower()
        return all(column in header for column in _COLUMNS)
    if path.suffix.lower() != ".json":
        return False
    return '"shape_attributes"' in text or '"_via_img_metadata"' in text


def _once(paths: Sequence[Path]) -> list[Path]:
    kept: dict[Path, Path] = {}
    for path in paths:
        before = kept.get(path.parent)
        if before is None or (before.suffix.lower() == ".csv" and path.suffix.lower() == ".json"):
            kept[path.parent] = path
        elif before.suffix.lower() == path.suffix.lower() and not _same(before, path):
            kept[path] = path  # two annotators' files, or two parts: both are read
    return list(kept.values())


def _same(left: Path, right: Path) -> bool:
    """Whether two files hold the same annotations, such as a project and its export."""
    try:
        return {e.name: e.regions for e in _entries(left)} == {e.name: e.regions for e in _entries(right)}
    except LabelError:
        return False


def _entries(path: Path) -> list[_Entry]:
    """The entries of a file per image; LabelError naming the file."""
    try:
        return _from_csv(path) if path.suffix.lower() == ".csv" else _from_json(path)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError, csv.Error, RecursionError) as error:
        raise LabelError(
            "not an annotation file of VIA",
            expected="filename and regions with shape_attributes and region_attributes",
            found=repr(error)[:120],
            where=path,
            fix="export the annotations again, as JSON or CSV",
        ) from error


def _from_json(path: Path) -> list[_Entry]:
    data = read_json(path, make=LabelError)
    held = data.get("_via_img_metadata", data)
    entries = []
    for item in held.values() if isinstance(held, Mapping) else held:
        if not isinstance(item, Mapping) or "filename" not in item:
            raise ValueError("an entry without a filename")
        regions = item.get("regions") or []
        listed = list(regions.values()) if isinstance(regions, Mapping) else list(regions)
        parts = [(region["shape_attributes"], region.get("region_attributes") or {}) for region in listed]
        entries.append(_Entry(str(item["filename"]), parts))
    return entries


def _from_csv(path: Path) -> list[_Entry]:
    text = read_text(path, 500_000_000, LabelError)
    rows = csv.DictReader(io.StringIO(text))
    rows.fieldnames = [name.strip().lstrip("#") for name in rows.fieldnames or ()]
    entries: dict[str, _Entry] = {}
    for row in rows:
        entry = entries.setdefault(row["filename"], _Entry(row["filename"]))
        shape = json.loads(row["region_shape_attributes"] or "{}")
        if shape:
            entry.regions.append((shape, json.loads(row["region_attributes"] or "{}")))
    return list(entries.values())


def detect(tree: Tree) -> str | None:
    files = _annotations(tree)
    return f"annotations of VIA in {', '.join(path.name for path in files[:4])}" if files else None


def _sized(found: Figures, image: Path) -> Figures:
    """The points of an image with its size, which VIA does not write; 0 where there is none, or it cannot be read."""
    points = tuple(figure for figure in found.figures if figure.kind == "points")
    try:
        height, width = read_header(image).size if points else (0, 0)
    except SegwrightError:
        height, width = 0, 0  # the check reports it
    return Figures(found.source, points, height, width)


def open_via(tree: Tree) -> Dataset:
    files = _annotations(tree)
    if not files:
        raise FormatError(
            "no annotations of VIA", expected="a JSON with regions and shape_attributes, or VIA's CSV",
            found=tree.summary(), where=tree.root,
        )  # fmt: skip
    found = [(path, entry) for path in files for entry in _entries(path)]
    attribute, note = _attribute(tree, [entry for _, entry in found])
    options = _options(files, attribute)
    references = [Reference(e.name, path, split_of(f"{path.parent.name}/{path.stem}")) for path, e in found]
    resolved = resolve_all(tree, references)
    pairs: list[tuple[str | None, Path, Path | None]] = []
    payloads: list[Figures] = []
    unclear: Counter[str] = Counter()
    figures: list[Figure] = []
    bare = 0
    twice = {
        image: numbers
        for image, numbers in resolved.shared.items()
        if any(found[number][1].regions != found[numbers[0]][1].regions for number in numbers)
    }
    for number, ((path, entry), image) in enumerate(zip(found, resolved.paths, strict=True)):
        if image is None or image in twice or resolved.shared.get(image, [number])[0] != number:
            continue
        own = []
        for shape, attributes in entry.regions:
            label = _label(attributes, attribute, options)
            if label is None:
                unclear["none" if not _values(attributes.get(str(attribute))) else "several"] += 1
                continue
            own.append(_figure(label, shape))
        bare += not own
        figures += own
        pairs.append((references[number].split, image, None))
        payloads.append(Figures(str(path), tuple(own)))
    problems = list(resolved.problems)
    if twice:
        problems.append(claimed_twice(references, twice, tree.root))
    if unclear:
        unclear_text = " and ".join(f"{count} with {how} of its values" for how, count in sorted(unclear.items()))
        message = (
            f"{counted(sum(unclear.values()), 'region', 'has')} no one class by the attribute "
            f"{attribute!r}: {unclear_text}"
        )
        problems.append(
            Problem("warning", "objects lost", message, tuple(str(p) for p in files), "give each region one value")
        )
    if not any(figure.kind in AREAS or is_stroke(figure) for figure in figures):
        raise FormatError(
            "annotations of VIA without a region that can be drawn and has a class",
            expected="polygons, rectangles, circles, ellipses, polylines or points of images that are here",
            found=(
                f"{counted(len(figures), 'region')} of {counted(len(pairs), 'image')}; "
                f"{counted(len(resolved.missing), 'image')} missing"
            ),
            where=files[0],
            fix="outline the objects, or put the images beside the annotations",
        )
    names, listed = class_names(tree, {figure.label for figure in figures})
    choice = reading_of(label_rule(tree), [one.figures for one in payloads])
    reading = choice.reading
    space, index, background = annotated_space(names, rest_ignored=reading.rest == "ignored")
    used = {image for _, image, _ in pairs}
    lone = unlisted_images(tree, used)
    fill = fill_name(space, background)
    notes = [
        note,
        f"{len(names)} classes{listed}; what no region covers is {fill}; later regions are on top",
        *without_area(figures, reading),
        *choice.notes,
        *reading.notes(fill, strokes=any(map(is_stroke, figures))),
        *point_notes([_sized(one, image) for one, (_, image, _) in zip(payloads, pairs, strict=True)], reading),
        *([f"{counted(bare, 'image', 'has')} no region: they are {fill} throughout"] if bare else []),
    ]
    return assemble(
        tree,
        "via",
        pairs,
        FiguresReader(space, index=index, background=background, reading=reading),
        notes,
        [*problems, *choice.problems, *boxes_alone(figures, "rectangles", reading.rule), *pairing_problems(lone, [])],
        payloads=payloads,
    )


def _figure(label: str, shape: Mapping[str, Any]) -> Figure:
    kind = str(shape.get("name", ""))
    try:
        if kind in ("polygon", "polyline"):
            xs, ys = list(shape["all_points_x"]), list(shape["all_points_y"])
            points = [list(pair) for pair in zip(xs, ys, strict=True)]
            closed = kind == "polygon" or (len(points) > 3 and points[0] == points[-1])
            return Figure(label, "polygon", [points]) if closed else Figure(label, "polylines", points)
        if kind == "point":
            return Figure(label, "points", [[float(shape["cx"]), float(shape["cy"])]])
        if kind == "rect":
            x, y = float(shape["x"]), float(shape["y"])
            return Figure(label, "box", (x, y, x + float(shape["width"]), y + float(shape["height"])))
        if kind == "circle":
            return Figure(label, "circle", (shape["cx"], shape["cy"], shape["r"], shape["r"]))
        if kind == "ellipse":
            return Figure(
                label, "ellipse", (shape["cx"], shape["cy"], shape["rx"], shape["ry"], shape.get("theta") or 0)
            )
    except (KeyError, TypeError, ValueError, OverflowError):
        return Figure(label, "polygon", None)  # broken: reported when the image is read
    return Figure(label, kind or "unnamed shapes")


# --- which attribute is the class


def _values(value: Any) -> list[str]:
    """The values of an attribute: text, a number, or the ticked ones of a checkbox."""
    if isinstance(value, Mapping):
        return [str(name) for name, ticked in value.items() if ticked not in (False, None, "", "false")]
    if value is None or isinstance(value, list):
        return [str(one) for one in value or ()]
    return [text] if (text := str(value).strip()) else []


def _label(attributes: Mapping[str, Any], attribute: str | None, options: Mapping[str, str]) -> str | None:
    if attribute is None:
        return OBJECT
    found = _values(attributes.get(attribute))
    return options.get(found[0], found[0]) if len(found) == 1 else None


def _attribute(tree: Tree, entries: Sequence[_Entry]) -> tuple[str | None, str]:
    """(the attribute that is the class, a note); FormatError listing them where it is not clear."""
    seen: dict[str, Counter[str]] = {}
    for entry in entries:
        for _, attributes in entry.regions:
            for name, value in attributes.items():
                found = _values(value)
                if found:
                    seen.setdefault(str(name), Counter()).update(found)
    if not seen:
        return None, "the regions have no attribute: all are objects of one class"
    if len(seen) == 1:
        name = next(iter(seen))
        return name, f"the class is the attribute {name!r}"
    listed = listed_classes(tree)
    if listed:
        fitting = [name for name, values in seen.items() if set(values) <= set(listed)]
        if len(fitting) == 1:
            return fitting[0], f"the class is the attribute {fitting[0]!r}: the class list names its values"
    shown = [
        f"{name} ({', '.join(value for value, _ in values.most_common(SHOWN))}{', …' if len(values) > SHOWN else ''})"
        for name, values in seen.items()
    ]
    raise FormatError(
        "the regions have several attributes, and which one is the class is not clear",
        expected="one attribute with values",
        found="; ".join(shown),
        where=tree.root,
        fix="list the values of the one that is the class in classes.txt beside the annotations, one per line",
    )


def _options(files: Sequence[Path], attribute: str | None) -> dict[str, str]:
    """Option id → its description, where a project file describes them and the descriptions differ."""
    for path in files:
        if path.suffix.lower() != ".json" or '"_via_attributes"' not in read_ends(path):
            continue
        data = read_json(path, make=LabelError)
        try:
            options = data["_via_attributes"]["region"][attribute]["options"]
            named = {str(key): str(text).strip() for key, text in options.items() if str(text).strip()}
        except (KeyError, TypeError, AttributeError):
            continue
        if all(re.fullmatch(r"\d+", key) for key in named) and len(set(named.values())) == len(named):
            return named
    return {}


FORMAT = Format(
    "via",
    "VGG Image Annotator",
    "a JSON with regions and shape_attributes (VIA 1 and 2), or its CSV",
    detect,
    open_via,
)
