"""SageMaker Ground Truth's semantic segmentation: a manifest of a JSON object per line.

A line names the image (``source-ref``) and a mask of colors (``NAME-ref``); ``NAME-ref-metadata`` holds which color is
which class (``internal-color-map``). Addresses are those of a bucket: the files are found by the end of their paths.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segwright.core.counted import counted
from segwright.core.errors import FormatError, LabelError
from segwright.core.types import Color, LabelSpace
from segwright.data.formats.base import Format
from segwright.data.formats.file_references import Reference, claimed_twice, resolve_all
from segwright.data.formats.file_tree import Tree, read_ends, read_text
from segwright.data.formats.name_parts import split_of
from segwright.data.formats.published_layout import assemble
from segwright.data.readers import ColorTable, FileReader
from segwright.data.records import Dataset, Problem

MAX_BYTES = 500_000_000


@dataclass(frozen=True)
class _Line:
    image: str
    mask: str | None
    classes: tuple[tuple[str, Color], ...]


def _files(tree: Tree) -> list[Path]:
    """Manifests whose lines hold masks."""
    if tree.is_file:
        candidates = [tree.root]
    else:
        candidates = [
            Path(listing.path, name)
            for _, listing in tree.walk(depth=3)
            for name in listing.files
            if name.lower().endswith((".manifest", ".jsonl"))
        ]
    return [
        path for path in candidates if '"source-ref"' in (text := read_ends(path)) and '"internal-color-map"' in text
    ]


def detect(tree: Tree) -> str | None:
    files = _files(tree)
    return f"masks listed in {', '.join(path.name for path in files[:4])}" if files else None


def _lines(path: Path) -> list[_Line]:
    found = []
    for number, text in enumerate(read_text(path, MAX_BYTES, LabelError).splitlines(), 1):
        if not text.strip():
            continue
        try:
            found.append(_line(json.loads(text)))
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError, RecursionError) as error:
            raise LabelError(
                "a line of the manifest cannot be parsed",
                expected="source-ref, NAME-ref and NAME-ref-metadata with internal-color-map",
                found=repr(error)[:120],
                where=f"{path}, line {number}",
                fix="download the output manifest again",
            ) from error
    return found


def _line(data: Mapping[str, Any]) -> _Line:
    maps = [key for key, value in data.items() if isinstance(value, Mapping) and "internal-color-map" in value]
    if len(maps) > 1:
        raise ValueError(f"several masks: {', '.join(maps)}")
    if not maps:
        return _Line(str(data["source-ref"]), None, ())
    name = maps[0].removesuffix("-metadata")
    entries = data[maps[0]]["internal-color-map"].values()
    classes = tuple((str(entry["class-name"]), _color(str(entry["hex-color"]))) for entry in entries)
    return _Line(str(data["source-ref"]), str(data[name]), classes)


def _color(text: str) -> Color:
    match = re.fullmatch(r"#?([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})", text.strip())
    if match is None:
        raise ValueError(f"the color {text}")
    return (int(match[1], 16), int(match[2], 16), int(match[3], 16))


def open_ground_truth(tree: Tree) -> Dataset:
    files = _files(tree)
    if not files:
        raise FormatError(
            "no manifest of semantic segmentation", expected="lines with source-ref and internal-color-map",
            found=tree.summary(), where=tree.root,
        )  # fmt: skip
    lines = [(path, line) for path in files for line in _lines(path)]
    classes: dict[str, Color] = {}
    for path, line in lines:
        for name, color in line.classes:
            if classes.setdefault(name, color) != color or list(classes.values()).count(color) > 1:
                raise LabelError(
                    "the manifest's lines disagree on the classes' colors",
                    expected="one color per class",
                    found=f"{name} is #{'{:02x}{:02x}{:02x}'.format(*color)} and "
                    f"#{'{:02x}{:02x}{:02x}'.format(*classes[name])}",
                    where=path,
                    fix="read the jobs one at a time",
                )
    splits = [split_of(path.stem) or split_of(path.parent.name) for path, _ in lines]
    images = resolve_all(tree, [Reference(line.image, p, s) for (p, line), s in zip(lines, splits, strict=True)])
    masked = [number for number, (_, line) in enumerate(lines) if line.mask]
    references = [Reference(str(lines[n][1].mask), lines[n][0]) for n in masked]
    masks = resolve_all(tree, references, "mask")
    mask_of = dict(zip(masked, masks.paths, strict=True))
    problems: list[Problem] = [*images.problems, *masks.problems]
    twice = {path: numbers for path, numbers in images.shared.items() if len(numbers) > 1}
    if twice:
        named = [Reference(line.image, path) for path, line in lines]
        problems.append(claimed_twice(named, twice, tree.root))
    pairs = [
        (splits[n], image, mask_of.get(n))
        for n, image in enumerate(images.paths)
        if image is not None and image not in twice
    ]
    if not pairs or not any(mask for _, _, mask in pairs):
        raise FormatError(
            "a manifest of SageMaker Ground Truth, and its images or masks are not here",
            expected=f"{lines[0][1].image} and {lines[0][1].mask}" if lines else "lines",
            found=tree.summary(),
            where=tree.root,
            fix="copy the bucket's images and the job's masks beside the manifest",
        )
    space = LabelSpace(tuple(classes), tuple(classes.values()), mapping={i: i for i in range(len(classes))})
    reader = FileReader(space, ColorTable(tuple(classes.values())), source="colors")
    notes = [f"{counted(len(classes), 'class')} by the colors of internal-color-map"]
    return assemble(tree, "ground_truth", pairs, reader, notes, problems)


FORMAT = Format(
    "ground_truth",
    "SageMaker Ground Truth",
    "a manifest with source-ref and internal-color-map",
    detect,
    open_ground_truth,
)
