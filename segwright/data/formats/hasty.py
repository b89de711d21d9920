"""Hasty's JSON export (1.0 and 1.1): one file of all images, with polygons, masks and boxes.

A mask is pairs of start and length along the rows of its own box, from 1. Labels are drawn by ``z_index``, then in
their order; a label with a mask or polygon is that, one with a box alone is a rectangle. Images are found by name below
the folder of their dataset.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segwright.core.counted import counted
from segwright.core.errors import FormatError
from segwright.core.types import Color
from segwright.data.annotations.rasterize import annotated_space, fill_name
from segwright.data.formats.base import SPLIT_NAMES, Format, label_rule, pairing_problems
from segwright.data.formats.file_references import Reference, claimed_twice, resolve_all
from segwright.data.formats.file_tree import Tree, read_ends, read_json
from segwright.data.formats.published_layout import assemble
from segwright.data.formats.shapes import (
    AREAS,
    Figure,
    Figures,
    FiguresReader,
    boxes_alone,
    reading_of,
    unlisted_images,
    without_area,
)
from segwright.data.records import Dataset, Problem

LOOKED_AT = 8
UNDONE = frozenset({"NEW", "SKIPPED"})  # images nobody has labeled


def _file(tree: Tree) -> Path | None:
    if tree.is_file:
        candidates = [tree.root] if tree.root.suffix.lower() == ".json" else []
    else:
        candidates = [
            Path(listing.path, name)
            for _, listing in tree.walk(depth=2)
            for name in [n for n in listing.files if n.lower().endswith(".json")][:LOOKED_AT]
        ]
    for path in candidates:
        text = read_ends(path)
        if '"label_classes"' in text and '"images"' in text and ('"labels"' in text or '"image_name"' in text):
            return path
    return None


def detect(tree: Tree) -> str | None:
    path = _file(tree)
    return None if path is None else f"Hasty's export {path.name}"


def open_hasty(tree: Tree) -> Dataset:
    path = _file(tree)
    if path is None:
        raise FormatError(
            "no export of Hasty", expected="a JSON with label_classes and images", found=tree.summary(), where=tree.root
        )
    data = read_json(path)
    try:
        classes = {str(one["class_name"]): _color(one.get("color")) for one in data["label_classes"]}
        images = [(_reference(image, path), image, _figures(image)) for image in data["images"]]
        sizes = [(int(image.get("height") or 0), int(image.get("width") or 0)) for image in data["images"]]
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError, IndexError) as error:
        raise FormatError(
            "not an export of Hasty",
            expected="label_classes with class_name, images with image_name, width, height and labels",
            found=repr(error)[:120],
            where=path,
            fix="export the project again as Hasty JSON 1.1",
        ) from error
    figures = [figure for _, _, found in images for figure in found]
    if figures and not any(figure.kind in AREAS for figure in figures):
        raise FormatError(
            "a Hasty export without a label that has an area", expected="polygons, masks or boxes",
            found=f"{len(figures)} labels", where=path, fix="label the objects' outlines",
        )  # fmt: skip
    stray = sorted({figure.label for figure in figures} - classes.keys())
    names = [*classes, *stray]
    if not names:
        raise FormatError("the export names no class", expected="label_classes", found=path.name, where=path)
    choice = reading_of(label_rule(tree), [found for _, _, found in images])
    reading = choice.reading
    space, index, background = annotated_space(
        names, [*classes.values(), *[None] * len(stray)], rest_ignored=reading.rest == "ignored"
    )
    resolved = resolve_all(tree, [reference for reference, _, _ in images])
    twice = {p: numbers for p, numbers in resolved.shared.items() if len(numbers) > 1}
    problems: list[Problem] = list(resolved.problems)
    if twice:
        problems.append(claimed_twice([reference for reference, _, _ in images], twice, tree.root))
    if stray:
        message = f"labels of {counted(len(stray), 'class')} that label_classes does not list: {', '.join(stray[:6])}"
        problems.append(Problem("warning", "class not listed", message, (str(path),), "export the project again"))
    kept = [
        (reference.split, place, image, Figures(str(path), found, *size))
        for (reference, image, found), place, size in zip(images, resolved.paths, sizes, strict=True)
        if place is not None and place not in twice
    ]
    if not kept:
        raise FormatError(
            "none of the images that the export names is here",
            expected=", ".join(reference.name for reference, _, _ in images[:3]),
            found=tree.summary(),
            where=tree.root,
            fix="put the images beside the JSON, in folders named as Hasty's datasets",
        )
    undone = [place for _, place, image, one in kept if str(image.get("image_status")) in UNDONE and not one.figures]
    payloads = [None if place in undone else one for _, place, _, one in kept]
    lone = unlisted_images(tree, [place for _, place, _, _ in kept])
    overlap = "labels are stacked by z_index, then in their order"
    notes = [
        f"{counted(len(names), 'class')} from label_classes; what no label covers is "
        f"{fill_name(space, background)}; {overlap}",
        *without_area(figures, reading),
        *choice.notes,
        *reading.notes(fill_name(space, background), strokes=False),
        *([f"{counted(len(undone), 'image', 'is')} not labeled (NEW or SKIPPED): without a mask"] if undone else []),
    ]
    return assemble(
        tree,
        "hasty",
        [(split, place, None) for split, place, _, _ in kept],
        FiguresReader(space, index=index, background=background, reading=reading),
        notes,
        [*problems, *boxes_alone(figures, "boxes", reading.rule), *pairing_problems(lone, [])],
        payloads=payloads,
    )


def _reference(image: Mapping[str, Any], path: Path) -> Reference:
    folder, name = str(image.get("dataset_name") or ""), str(image["image_name"])
    return Reference(name, path, SPLIT_NAMES.get(folder.lower()), (folder,) if folder else ())


def _figures(image: Mapping[str, Any]) -> tuple[Figure, ...]:
    labels = sorted(image.get("labels") or (), key=lambda one: int(one.get("z_index") or 0))
    return tuple(_figure(one) for one in labels)


def _figure(one: Mapping[str, Any]) -> Figure:
    name, box = str(one["class_name"]), one.get("bbox")
    if one.get("mask"):
        left, top, right, bottom = (int(v) for v in box or ())
        return Figure(name, "runs", (one["mask"], left, top, bottom - top, right - left))
    if one.get("polygon"):
        return Figure(name, "polygon", _rings(one["polygon"]))
    if box:
        return Figure(name, "box", tuple(float(v) for v in box))
    return Figure(name, "labels without a shape")


def _rings(polygon: Any) -> list[Any]:
    """One ring of points, or several."""
    first = polygon[0]
    nested = isinstance(first, list) and first and isinstance(first[0], list)
    return list(polygon) if nested else [polygon]


def _color(text: Any) -> Color | None:
    match = re.match(r"#?([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})", str(text))
    return (int(match[1], 16), int(match[2], 16), int(match[3], 16)) if match else None


FORMAT = Format("hasty", "Hasty", "a JSON with label_classes and images", detect, open_hasty)
