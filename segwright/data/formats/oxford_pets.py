"""Oxford-IIIT Pet (Parkhi et al. 2012): ``images`` and ``annotations/trimaps`` of 1 pet, 2 background, 3 border.

The border is "not classified" and ignored. ``annotations/trainval.txt`` and ``test.txt`` are the splits; the validation
part is taken from trainval.
"""

from __future__ import annotations

from pathlib import Path

from segwright.core.errors import FormatError
from segwright.core.types import IGNORE_INDEX, LabelSpace
from segwright.data.formats.base import Format, pairing_problems, sort_splits, unique_records
from segwright.data.formats.file_tree import Tree, is_image, read_text, stem
from segwright.data.readers import FileReader
from segwright.data.records import Dataset, Record

LISTS = {"trainval.txt": "train", "test.txt": "test"}


def label_space() -> LabelSpace:
    return LabelSpace(("background", "pet"), ((0, 0, 0), (230, 120, 60)), mapping={1: 1, 2: 0, 3: IGNORE_INDEX})


def _base(tree: Tree) -> str | None:
    if tree.is_file:
        return None
    for relative, listing in tree.walk(depth=1):
        prefix = f"{relative}/" if relative else ""
        if {"images", "annotations"} <= set(listing.dirs) and tree.folder(f"{prefix}annotations/trimaps").files:
            return relative
    return None


def detect(tree: Tree) -> str | None:
    return None if _base(tree) is None else "images and annotations/trimaps"


def open_oxford_pets(tree: Tree) -> Dataset:
    base = _base(tree)
    if base is None:
        raise FormatError(
            "no Oxford pets", expected="images/ and annotations/trimaps/", found=tree.summary(), where=tree.root
        )
    prefix = f"{base}/" if base else ""
    images, masks = tree.folder(f"{prefix}images"), tree.folder(f"{prefix}annotations/trimaps")
    by_stem = {stem(name): Path(masks.path, name) for name in masks.files if is_image(name)}
    records = {
        stem(name): Record(stem(name), Path(images.path, name), by_stem.pop(stem(name), None))
        for name in images.files
        if is_image(name)
    }
    given: dict[str, list[Record]] = {}
    lists = tree.folder(f"{prefix}annotations")
    for name, split in LISTS.items():
        if name in lists.files:
            text = read_text(Path(lists.path, name))
            first = [line.split()[0] for line in text.splitlines() if line.strip() and not line.startswith("#")]
            given[split] = [records[line] for line in first if line in records]
    lone = [r.image_path for r in records.values() if r.mask_path is None and r.image_path is not None]
    return Dataset(
        root=tree.root,
        format="oxford_pets",
        reader=FileReader(label_space()),
        records=unique_records(given) or tuple(records.values()),
        given=sort_splits(given),
        notes=["trimaps: 1 is pet, 2 is background, 3 (border) is ignored"],
        problems=pairing_problems(lone, list(by_stem.values())),
        unpaired_images=tuple(lone),
        unpaired_masks=tuple(by_stem.values()),
    )


FORMAT = Format("oxford_pets", "Oxford-IIIT Pet", "images/ and annotations/trimaps/", detect, open_oxford_pets)
