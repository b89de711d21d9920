"""A plain folder of pictures and masks in any of the usual layouts, with or without a class list beside it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from segwright.data.formats.base import SPLIT_NAMES, Format, in_order, pairing_problems, unique_ids
from segwright.data.formats.pairing import Item, Pairing, assign_roles, list_items, pair
from segwright.data.formats.tree import Folder, Tree
from segwright.data.formats.values import Look, discover, look_at
from segwright.data.readers import FileReader
from segwright.data.records import Dataset, Problem, Record
from segwright.errors import FormatError, NameClashError
from segwright.images import UInt8Array

LIST_FOLDERS = ("", "splits", "lists", "ImageSets", "ImageSets/Segmentation")


@dataclass(frozen=True)
class Collision:
    """Why a record has no one mask: the files that share its name."""

    files: tuple[str, ...]


class FolderReader(FileReader):
    """A file reader that refuses a picture whose mask is not certain, instead of taking either."""

    def mask(self, record: Record) -> UInt8Array | None:
        if isinstance(record.payload, Collision):
            raise NameClashError(
                "several files share this name, and which mask belongs to which picture is not certain",
                expected="one picture and one mask a name",
                found=", ".join(record.payload.files),
                where=record.image_path,
                fix="rename them apart",
            )
        return super().mask(record)


def recognise(tree: Tree) -> str | None:
    if tree.is_file:
        return None
    pairing = pair_tree(tree)
    paired = sum(mask is not None for _, mask in pairing.pairs)
    if not paired and not pairing.collisions:
        return None
    return f"{paired} pictures with masks, paired by name"


def pair_tree(tree: Tree) -> Pairing:
    """The pairing of all pictures under the root, found once."""
    if "pairing" not in tree.memo:
        tree.memo["pairing"] = pair(assign_roles(list_items(tree)))
    found: Pairing = tree.memo["pairing"]
    return found


def open_folder(tree: Tree) -> Dataset:
    return open_pairing(tree, "folder", FolderReader)


def open_pairing(tree: Tree, name: str, reader: type[FolderReader], look: Look = look_at) -> Dataset:
    """The data set of a paired folder, under a format's name and with its reader."""
    pairing = pair_tree(tree)
    mask_paths = [mask.path for _, mask in pairing.pairs if mask is not None]
    if not mask_paths and not pairing.collisions:
        raise FormatError(
            "no picture has a mask",
            expected="folders such as images/ and masks/, or files such as x.jpg and x_mask.png",
            found=tree.summary(),
            where=tree.root,
            fix="name the folders images and masks, or name the format with --format",
        )
    coding = discover(
        mask_paths or [m.path for _, masks in pairing.collisions for m in masks],
        _class_folders(tree, pairing), tree.root, look,
    )  # fmt: skip
    records, given = _records(pairing)
    listed = _listed_splits(tree, records) if not given else {}
    lone, problems = _problems(pairing, records)
    return Dataset(
        root=tree.root,
        format=name,
        reader=reader(coding.label_space, coding.colour_table, source=coding.source),
        records=tuple(records),
        given=in_order(given or listed),
        notes=[*coding.notes],
        problems=[*problems, *coding.problems],
        unpaired_images=tuple(lone),
        unpaired_masks=tuple(item.path for item in pairing.lone_masks),
    )


def _class_folders(tree: Tree, pairing: Pairing) -> list[Folder]:
    """Where class lists may lie: the root, the folders with masks and those above them."""
    with_masks = sorted({mask.folder for _, mask in pairing.pairs if mask is not None} - {""})
    parents: list[str] = []
    for folder in with_masks:
        while folder := os.path.dirname(folder):
            parents.append(folder)
    return [tree.folder(folder) for folder in ("", *sorted(set(parents)), *with_masks[:64])]


def _records(pairing: Pairing) -> tuple[list[Record], dict[str, list[Record]]]:
    collided = {
        image: Collision(tuple(str(item.path) for item in (*images, *masks)))
        for images, masks in pairing.collisions
        for image in images
    }
    items = [image for image, _ in pairing.pairs]
    ids = unique_ids([(item.folder, item.stem, os.path.splitext(item.name)[1]) for item in items])
    records: list[Record] = []
    given: dict[str, list[Record]] = {}
    for name, (image, mask) in zip(ids, pairing.pairs, strict=True):
        record = Record(name, image.path, None if mask is None else mask.path, collided.get(image))
        records.append(record)
        split = image.split or (mask.split if mask is not None else None)
        if split is not None:
            given.setdefault(split, []).append(record)
    return records, given


def _listed_splits(tree: Tree, records: list[Record]) -> dict[str, list[Record]]:
    """Splits from train.txt, val.txt, test.txt: a name or a path a line; lists that fit no file are passed over."""
    by_id = {record.id: record for record in records}
    by_name = {record.image_path.name: record for record in records if record.image_path is not None}
    given: dict[str, list[Record]] = {}
    for folder in LIST_FOLDERS:
        listing = tree.folder(folder)
        for name in listing.files:
            split = SPLIT_NAMES.get(os.path.splitext(name)[0].lower())
            if split is None or not name.lower().endswith((".txt", ".lst")):
                continue
            lines = _first_columns(Path(listing.path, name))
            found = [
                by_name.get(os.path.basename(line)) or by_id.get(line) or by_id.get(Path(line).stem) for line in lines
            ]
            kept = [record for record in found if record is not None]
            if lines and len(kept) >= 0.5 * len(lines):
                given[split] = kept
        if given:
            return given
    return given


def _first_columns(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8", errors="replace")
    rows = [line.replace(",", " ").split() for line in text.splitlines()]
    return [row[0].replace("\\", "/") for row in rows if row]


def _problems(pairing: Pairing, records: list[Record]) -> tuple[list[Path], list[Problem]]:
    """(pictures that lack their mask, findings). A test part that has no masks at all is as published: no finding."""
    masked_splits = {image.split for image, mask in pairing.pairs if mask is not None}
    collided = {image for images, _ in pairing.collisions for image in images}
    lone: list[Item] = [
        image
        for image, mask in pairing.pairs
        if mask is None and image not in collided and (image.split != "test" or "test" in masked_splits)
    ]
    problems = pairing_problems([item.path for item in lone], [item.path for item in pairing.lone_masks])
    spelt: dict[str, list[str]] = {}
    for record in records:
        spelt.setdefault(record.id.casefold(), []).append(str(record.image_path))
    alike = tuple(path for paths in spelt.values() if len(paths) > 1 for path in paths)
    if alike:
        message = f"{len(alike)} names differ in letter case alone"
        problems.append(
            Problem("warning", "names collide", message, alike, "rename them: other systems cannot hold both")
        )
    for images, masks in pairing.collisions:
        problems.append(
            Problem(
                "error",
                "names collide",
                f"{len(images)} pictures and {len(masks)} masks share the name {images[0].stem!r}",
                tuple(str(item.path) for item in (*images, *masks)),
                "rename them apart",
            )
        )
    return [item.path for item in lone], problems


FORMAT = Format(
    "folder",
    "a folder of pictures and masks",
    "images/ and masks/ (or img/ label/, train/ trainannot/, x.jpg x_mask.png, …), paired by name",
    recognise,
    open_folder,
)
