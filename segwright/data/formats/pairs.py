"""A CSV or text file of pairs: a picture and its mask a line, and a split if a column says so.

With a header, the columns are found by name (``image, mask, split`` and their usual variants); without, the first two
columns are picture and mask. Paths may be relative to the list or absolute; those of another machine are found by
their ends below the list's folder.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from segwright.data.formats.base import SPLIT_NAMES, Format, in_order, unique_ids
from segwright.data.formats.tree import Tree, is_picture, peek, stem
from segwright.data.formats.values import discover
from segwright.data.readers import FileReader
from segwright.data.records import Dataset, Problem, Record
from segwright.errors import FormatError

IMAGE_COLUMNS = ("image", "images", "img", "image_path", "imagepath", "image_file", "picture", "photo", "filename",
                 "file_name", "file", "input", "x")  # fmt: skip
MASK_COLUMNS = ("mask", "masks", "label", "mask_path", "maskpath", "label_path", "annotation", "annotation_path", "gt",
                "seg", "segmentation", "target", "mask_file", "label_file", "y")  # fmt: skip
SPLIT_COLUMNS = ("split", "subset", "set", "fold", "part", "usage")
ENDINGS = (".csv", ".tsv", ".txt", ".lst")
MAX_BYTES = 500_000_000


@dataclass(frozen=True)
class Line:
    image: str
    mask: str | None
    split: str | None


def read_lines(path: Path) -> list[Line]:
    """The pairs of one list; empty where it is none (no two columns that are pictures)."""
    if path.stat().st_size > MAX_BYTES:
        return []
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    first = text[: text.find("\n")] if "\n" in text else text
    delimiter = next((mark for mark in ("\t", ";", ",") if mark in first), " ")
    rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines(), delimiter=delimiter)]
    rows = [[cell for cell in row if cell] if delimiter == " " else row for row in rows if any(row)]
    if not rows:
        return []
    header = [cell.lower() for cell in rows[0]]
    image, mask = _place(header, IMAGE_COLUMNS), _place(header, MASK_COLUMNS)
    split = _place(header, SPLIT_COLUMNS)
    if image is None or mask is None:
        if len(rows[0]) < 2 or not (is_picture(rows[0][0]) and is_picture(rows[0][1])):
            return []
        image, mask, body = 0, 1, rows
        split = 2 if len(rows[0]) > 2 and rows[0][2].lower() in SPLIT_NAMES else None
    else:
        body = rows[1:]
    listed_split = SPLIT_NAMES.get(path.stem.lower())
    lines = []
    for row in body:
        cells = [*row, *[""] * 8]
        named = cells[split].lower() if split is not None else ""
        lines.append(Line(cells[image], cells[mask] or None, SPLIT_NAMES.get(named, named) or listed_split))
    return [line for line in lines if is_picture(line.image)]


def _place(header: Sequence[str], names: Sequence[str]) -> int | None:
    return next((header.index(name) for name in names if name in header), None)


def _lists(tree: Tree) -> list[Path]:
    """The root itself, or the lists in it that hold pairs which exist."""
    if "lists" in tree.memo:
        return list(tree.memo["lists"])
    if tree.is_file:
        candidates = [tree.root] if tree.root.suffix.lower() in ENDINGS else []
    else:
        listing = tree.folder()
        candidates = [Path(listing.path, name) for name in listing.files if name.lower().endswith(ENDINGS)][:20]
    found = []
    for path in candidates:
        if not any(
            is_picture(word.strip("\"'")) for word in peek(path, 4096).replace(",", " ").replace(";", " ").split()
        ):
            continue
        lines = [line for line in read_lines(path) if line.mask is not None]
        if any(_resolve(tree, path, line.image) and _resolve(tree, path, line.mask or "") for line in lines[:20]):
            found.append(path)
    tree.memo["lists"] = found
    return found


def recognise(tree: Tree) -> str | None:
    lists = _lists(tree)
    return f"pairs listed in {', '.join(path.name for path in lists)}" if lists else None


def _resolve(tree: Tree, path: Path, name: str) -> Path | None:
    direct = path.parent / name.replace("\\", "/")
    return direct if direct.is_file() else tree.locate(name)


def open_pairs(tree: Tree) -> Dataset:
    lists = _lists(tree)
    if not lists:
        raise FormatError("no list of pairs", expected="a CSV with columns image and mask, or two paths a line",
                          found=tree.summary(), where=tree.root)  # fmt: skip
    found: list[tuple[Path, Path | None, str | None]] = []
    missing: list[str] = []
    no_picture: list[Path] = []
    for path in lists:
        for line in read_lines(path):
            image = _resolve(tree, path, line.image)
            mask = _resolve(tree, path, line.mask) if line.mask else None
            if line.mask and mask is None:
                missing.append(line.mask)
            if image is None:
                missing.append(line.image)
                no_picture += [mask] if mask is not None else []
            else:
                found.append((image, mask, line.split))
    ids = unique_ids([(os.path.basename(image.parent), stem(image.name), image.suffix) for image, _, _ in found])
    records = [Record(name, image, mask) for name, (image, mask, _) in zip(ids, found, strict=True)]
    given: dict[str, list[Record]] = {}
    for record, (_, _, split) in zip(records, found, strict=True):
        if split is not None:
            given.setdefault(split, []).append(record)
    names = {path.name for path in lists}
    beside = Tree(lists[0].parent).folder()
    beside = replace(beside, files=tuple(name for name in beside.files if name not in names))
    coding = discover([mask for _, mask, _ in found if mask is not None], [beside], tree.root)
    problems = list(coding.problems)
    if missing:
        message = f"{len(missing)} files that the list names are not there"
        problems.append(Problem("warning", "listed but missing", message, tuple(missing), "correct the list"))
    return Dataset(
        root=tree.root,
        format="pairs",
        reader=FileReader(coding.label_space, coding.colour_table, source=coding.source),
        records=tuple(records),
        given=in_order(given),
        notes=[*coding.notes],
        problems=problems,
        unpaired_images=tuple(image for image, mask, _ in found if mask is None),
        unpaired_masks=tuple(no_picture),
    )


FORMAT = Format(
    "pairs",
    "a list of pairs",
    "a CSV with columns image and mask, or a text file of two paths a line",
    recognise,
    open_pairs,
)
