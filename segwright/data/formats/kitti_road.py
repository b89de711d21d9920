"""KITTI road (Fritsch et al. 2013): ``training/image_2`` and ``training/gt_image_2`` with ``um``, ``umm``, ``uu``.

A mask is colored: magenta is road, red is evaluated and not road, black is neither (the other carriageway) and is
ignored, as in the benchmark's own evaluation. ``gt_image_2`` also holds ``um_lane_…``, the own lane alone; it is not
read. The three scene kinds (marked, multiple marked, unmarked) are the sequences that a made split keeps in balance.
"""

from __future__ import annotations

import re
from pathlib import Path

from segwright.core.errors import FormatError
from segwright.core.types import IGNORE_INDEX, LabelSpace
from segwright.data.formats.base import Format, pairing_problems, sort_splits, unique_records
from segwright.data.formats.file_tree import Tree
from segwright.data.readers import ColorTable, FileReader
from segwright.data.records import Dataset, Record

ROAD, BACKGROUND, OTHER = (255, 0, 255), (255, 0, 0), (0, 0, 0)
_IMAGE = re.compile(r"((?:um|umm|uu)_\d{6})\.png$")
_MASK = re.compile(r"(um|umm|uu)_road_(\d{6})\.png$")


def label_space() -> LabelSpace:
    """Rows of the color table (background, road, other) → background, road, ignored."""
    return LabelSpace(("background", "road"), (BACKGROUND, ROAD), mapping={0: 0, 1: 1, 2: IGNORE_INDEX})


def _base(tree: Tree) -> str | None:
    if tree.is_file:
        return None
    for relative, listing in tree.walk(depth=2):
        if {"image_2", "gt_image_2"} <= set(listing.dirs):
            files = tree.folder(f"{relative}/image_2" if relative else "image_2").files
            if files and _IMAGE.match(files[0]):
                return relative
    return None


def detect(tree: Tree) -> str | None:
    return None if _base(tree) is None else "image_2 and gt_image_2 with um_, umm_, uu_ names"


def open_kitti_road(tree: Tree) -> Dataset:
    base = _base(tree)
    if base is None:
        raise FormatError(
            "no KITTI road tree",
            expected="training/image_2/um_000000.png and training/gt_image_2/um_road_000000.png",
            found=tree.summary(),
            where=tree.root,
        )
    prefix = f"{base}/" if base else ""
    masks_folder = tree.folder(f"{prefix}gt_image_2")
    found = {name: _MASK.match(name) for name in masks_folder.files}
    masks = {f"{m[1]}_{m[2]}": Path(masks_folder.path, name) for name, m in found.items() if m is not None}
    given: dict[str, list[Record]] = {"train": []}
    lone: list[Path] = []
    images = tree.folder(f"{prefix}image_2")
    for name in images.files:
        match = _IMAGE.match(name)
        if match is not None:
            given["train"].append(Record(match[1], Path(images.path, name), masks.pop(match[1], None)))
            if given["train"][-1].mask_path is None:
                lone.append(Path(images.path, name))
    parent = base.rpartition("/")[0]
    if base.rpartition("/")[2] == "training":
        test = tree.folder(f"{parent}/testing/image_2" if parent else "testing/image_2")
        names = [name for name in test.files if _IMAGE.match(name)]
        if names:  # the same names as in training: the folder keeps the ids apart
            given["test"] = [Record(f"testing/{name[:-4]}", Path(test.path, name)) for name in names]
    return Dataset(
        root=tree.root,
        format="kitti_road",
        reader=FileReader(label_space(), ColorTable((BACKGROUND, ROAD, OTHER))),
        records=unique_records(given),
        given=sort_splits(given),
        notes=["magenta is road, red is background, black (other carriageways) is ignored; lane masks are not read"],
        problems=pairing_problems(lone, list(masks.values())),
        unpaired_images=tuple(lone),
        unpaired_masks=tuple(masks.values()),
    )


FORMAT = Format("kitti_road", "KITTI road", "image_2/um_….png and gt_image_2/um_road_…", detect, open_kitti_road)
