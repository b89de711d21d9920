"""Supervisely: a project with ``meta.json``, in each dataset ``img/x.jpg`` and ``ann/x.jpg.json``; or its mask export.

Classes are those of ``meta.json`` in its order. Bitmaps (a PNG in zlib and base64, at an origin) are exact; polygons
fill the pixels that Supervisely's own SDK fills, outlines included; rectangles include both corners. Lines and points
are sparse labels (:mod:`segwright.data.annotations.sparse`), their coordinates pixel positions; graphs and cuboids have
no area: they are listed, and draw nothing. Later objects lie over earlier ones. Splits are
given by the datasets' names, else by a tag (train, val, test) of the images. Without ``ann``, ``masks_machine`` is read
by ``obj_class_to_machine_color.json``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segwright.core.counted import counted
from segwright.core.errors import DataError, FormatError, LabelError
from segwright.core.progress import track
from segwright.core.types import IGNORE_INDEX, Color, LabelSpace
from segwright.data.annotations.rasterize import annotated_space, fill_name
from segwright.data.annotations.sparse import Choice, LabelRule
from segwright.data.formats.base import SPLIT_NAMES, Format, label_rule
from segwright.data.formats.file_tree import Folder, Tree, is_image, read_ends, read_json, stem
from segwright.data.formats.published_layout import assemble
from segwright.data.formats.shapes import (
    Figure,
    Figures,
    FiguresReader,
    boxes_alone,
    is_stroke,
    point_notes,
    reading_of,
    without_area,
)
from segwright.data.readers import FileReader
from segwright.data.records import Dataset, Problem, Record

MACHINE = "obj_class_to_machine_color.json"
LOOKED_AT = 3
_NO_AREA = {"line": "lines", "polyline": "lines", "point": "points", "graph": "graphs", "cuboid": "cuboids"}


@dataclass(frozen=True)
class _Class:
    name: str
    color: Color | None


def figures_of(path: Path) -> tuple[list[Figure], int, int, list[str]]:
    """(figures, height, width, names of the image's tags) of one annotation; LabelError naming it."""
    data = read_json(path, make=LabelError)
    try:
        size = data["size"]
        height, width = int(size["height"]), int(size["width"])
        figures = [_figure(item) for item in data["objects"]]
        tags = [str(tag.get("name", "")) for tag in data.get("tags") or () if isinstance(tag, Mapping)]
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError, IndexError) as error:
        raise LabelError(
            "not an annotation of Supervisely",
            expected="an object with size and objects, each with classTitle and geometryType",
            found=repr(error)[:120],
            where=path,
            fix="export the project again",
        ) from error
    return figures, height, width, tags


def _figure(item: Mapping[str, Any]) -> Figure:
    label = str(item["classTitle"])
    kind = str(item.get("geometryType") or ("bitmap" if item.get("bitmap") else "polygon"))
    if kind == "bitmap":
        bitmap = item["bitmap"]
        return Figure(label, "bitmap", (bitmap["data"], True, bitmap["origin"][0], bitmap["origin"][1]))
    if kind == "polygon":
        points = item["points"]
        return Figure(label, "pixels", (points["exterior"], points.get("interior") or ()))
    if kind == "rectangle":
        (left, top), (right, bottom) = item["points"]["exterior"][:2]
        return Figure(label, "pixel box", (left, top, right, bottom))
    named = _NO_AREA.get(kind, kind)
    return Figure(label, named, item["points"]["exterior"] if named in ("lines", "points") else None)


@dataclass
class SuperviselyReader(FiguresReader):
    """``payload`` of a record is the path of its annotation."""

    def figures(self, record: Record) -> Figures:
        figures, height, width, _ = figures_of(record.payload)
        return Figures(str(record.payload), tuple(figures), height, width)


def _datasets(tree: Tree, folder: str) -> list[str]:
    """Folders with ``img`` and ``folder``, at any depth (datasets nest)."""
    if tree.is_file:
        return []
    return [relative for relative, listing in tree.walk() if {"img", folder} <= set(listing.dirs)]


def _meta(tree: Tree) -> Path | None:
    """The project's meta.json: in the root, a level below, or beside the one dataset that was opened."""
    places = [] if tree.is_file else [Path(listing.path) for _, listing in tree.walk(depth=2)]
    for place in [*places, tree.root.absolute().parent]:
        path = place / "meta.json"
        if path.is_file() and '"classes"' in read_ends(path) and '"title"' in read_ends(path):
            return path
    return None


def _classes(path: Path) -> list[_Class]:
    data = read_json(path, 50_000_000)
    try:
        found = [_Class(str(entry["title"]), _hex(entry.get("color"))) for entry in data["classes"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise FormatError(
            "not the meta.json of a Supervisely project", expected="a list of classes with titles", found=repr(error),
            where=path, fix="export the project again",
        ) from error  # fmt: skip
    return list({one.name: one for one in found}.values())


def _hex(text: Any) -> Color | None:
    match = re.fullmatch(r"#?([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})", str(text))
    return (int(match[1], 16), int(match[2], 16), int(match[3], 16)) if match else None


def _is_annotation(listing: Folder) -> bool:
    names = [name for name in listing.files if name.lower().endswith(".json")][:LOOKED_AT]
    return any('"objects"' in text and '"size"' in text for text in (read_ends(Path(listing.path, n)) for n in names))


def detect(tree: Tree) -> str | None:
    if tree.is_file:
        return None
    found = [d for d in _datasets(tree, "ann") if _is_annotation(tree.folder(_join(d, "ann")))]
    if found:
        return f"img/ and ann/ with annotations in {', '.join(d or '.' for d in found[:4])}"
    if _machine_colors(tree) is not None and _datasets(tree, "masks_machine"):
        return f"img/ and masks_machine/ with {MACHINE}"
    return None


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def open_supervisely(tree: Tree) -> Dataset:
    datasets = _datasets(tree, "ann")
    if not datasets:
        return _open_masks(tree)
    pairs: list[tuple[str | None, Path, Path | None]] = []
    payloads: list[Path | None] = []
    missing: list[str] = []
    for folder in datasets:
        images, annotations = tree.folder(_join(folder, "img")), tree.folder(_join(folder, "ann"))
        held = {name: Path(annotations.path, name) for name in annotations.files if name.lower().endswith(".json")}
        split = _split_name(folder)
        for name in filter(is_image, images.files):
            found = held.pop(f"{name}.json", None) or held.pop(f"{stem(name)}.json", None)
            pairs.append((split, Path(images.path, name), None))
            payloads.append(found)
        missing += [str(path) for path in held.values()]
    annotated = [path for path in payloads if path is not None]
    if not annotated:
        raise FormatError(
            "a Supervisely project without its images",
            expected="img/x.jpg for each ann/x.jpg.json",
            found=f"{len(missing)} annotations and {counted(len(pairs), 'image')} under other names",
            where=tree.root,
            fix="export the project with its images",
        )
    scan = _scan(annotated, label_rule(tree))
    meta = _meta(tree)
    listed = _classes(meta) if meta is not None else []
    stray = sorted(scan.labels - {one.name for one in listed})
    names = [*[one.name for one in listed], *stray]
    if not names:
        raise LabelError("the project names no class and its annotations hold no object", where=tree.root)
    reading = scan.choice.reading
    colors = [*[one.color for one in listed], *[None] * len(stray)]
    space, index, background = annotated_space(names, colors, rest_ignored=reading.rest == "ignored")
    if all(split is None for split, _, _ in pairs):
        pairs = [
            (scan.tags.get(p) if p else None, image, None) for (_, image, _), p in zip(pairs, payloads, strict=True)
        ]
    notes = [
        f"{counted(len(names), 'class')} from {meta.name if meta else 'the objects'}; what no object covers is "
        f"{fill_name(space, background)}; later objects are on top",
        *scan.notes,
        *reading.notes(fill_name(space, background), strokes=scan.strokes),
    ]
    problems = list(scan.problems)
    if stray and listed:
        message = f"objects of {counted(len(stray), 'class')} that meta.json does not list: {', '.join(stray[:6])}"
        problems.append(Problem("warning", "class not listed", message, (), "use meta.json of the same export"))
    if missing:
        message = f"{len(missing)} annotations have no image"
        problems.append(Problem("error", "image missing", message, tuple(missing), "export the images, too"))
    return assemble(
        tree,
        "supervisely",
        pairs,
        SuperviselyReader(space, index=index, background=background, reading=reading, centers=True),
        notes,
        problems,
        payloads=payloads,
    )


@dataclass
class _Scan:
    labels: set[str]
    tags: dict[Path, str]
    notes: list[str]
    problems: list[Problem]
    choice: Choice
    strokes: bool


def _scan(paths: Sequence[Path], rule: LabelRule) -> _Scan:
    """Read all annotations once: the classes they use, tags that name splits, what has no area."""
    labels: set[str] = set()
    tags: dict[Path, str] = {}
    images: list[list[Figure]] = []
    sized: list[Figures] = []  # the points alone
    for path in track(paths, "reading annotations"):
        try:
            figures, height, width, named = figures_of(path)
        except DataError:
            continue  # the check reports it, and reading it raises
        labels |= {figure.label for figure in figures}
        images.append([Figure(figure.label, figure.kind, figure.data and (0,)) for figure in figures])  # without pixels
        points = tuple(figure for figure in figures if figure.kind == "points")
        sized.append(Figures(str(path), points, height, width))
        split_tags = {SPLIT_NAMES[name.lower()] for name in named if name.lower() in SPLIT_NAMES}
        if len(split_tags) == 1:
            tags[path] = split_tags.pop()
    choice = reading_of(rule, images)
    flat = [figure for one in images for figure in one]
    notes = [*without_area(flat, choice.reading), *choice.notes, *point_notes(sized, choice.reading, centers=True)]
    notes += ["splits are given by the images' tags"] if tags else []
    problems = [*choice.problems, *boxes_alone(flat, "rectangles", choice.reading.rule)]
    return _Scan(labels, tags, notes, problems, choice, any(map(is_stroke, flat)))


def _split_name(folder: str) -> str | None:
    """The split that a dataset's name is; ``train_2`` and ``ds_val`` count."""
    for part in reversed(folder.split("/")):
        match = re.fullmatch(
            r"(?:.*[^a-z])?(train(?:ing)?|val(?:id(?:ation)?)?|test(?:ing)?)(?:[^a-z].*)?", part.lower()
        )
        if match:
            return SPLIT_NAMES[match[1]]
    return None


# --- the export as masks


def _machine_colors(tree: Tree) -> Path | None:
    for _, listing in () if tree.is_file else tree.walk(depth=2):
        if MACHINE in listing.files:
            return Path(listing.path, MACHINE)
    return None


def _open_masks(tree: Tree) -> Dataset:
    path, datasets = _machine_colors(tree), _datasets(tree, "masks_machine")
    if path is None or not datasets:
        raise FormatError(
            "no Supervisely project",
            expected=f"meta.json with img/ and ann/, or img/ and masks_machine/ with {MACHINE}",
            found=tree.summary(),
            where=tree.root,
            fix="export the project with annotations, or as masks with machine masks",
        )
    data = read_json(path, 50_000_000)
    try:
        values = {str(name): int(color[0]) for name, color in data.items()}
        if any(len(set(color)) != 1 for color in data.values()) or len(set(values.values())) != len(values):
            raise ValueError("two classes of one value, or a value that is no gray")
    except (AttributeError, TypeError, ValueError, OverflowError, IndexError, KeyError) as error:
        raise LabelError(
            "the class values of a mask export cannot be parsed", expected='{"class": [1, 1, 1], …}',
            found=repr(error)[:120], where=path, fix="export the masks again",
        ) from error  # fmt: skip
    named = sorted(values.items(), key=lambda item: item[1])
    names = [name for name, _ in named if name.lower() not in ("__bg__", "background")]
    mapping = {0: 0, IGNORE_INDEX: IGNORE_INDEX} | {values[name]: place for place, name in enumerate(names, 1)}
    background = next((name for name, value in named if value == 0), "background")
    pairs: list[tuple[str | None, Path, Path | None]] = []
    lone: list[Path] = []
    for folder in datasets:
        images, masks = tree.folder(_join(folder, "img")), tree.folder(_join(folder, "masks_machine"))
        held = {name: Path(masks.path, name) for name in masks.files if is_image(name)}
        for name in filter(is_image, images.files):
            mask = held.pop(f"{stem(name)}.png", None) or held.pop(f"{name}.png", None)
            pairs.append((_split_name(folder), Path(images.path, name), mask))
        lone += held.values()
    space = LabelSpace((background, *names), mapping=mapping)
    notes = [f"masks_machine, by {MACHINE}; masks_human, its preview, is not read"]
    return assemble(tree, "supervisely", pairs, FileReader(space), notes, (), lone)


FORMAT = Format(
    "supervisely",
    "Supervisely",
    "meta.json, and in each dataset img/x.jpg and ann/x.jpg.json",
    detect,
    open_supervisely,
)
