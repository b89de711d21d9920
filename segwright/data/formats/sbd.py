"""SBD, the Semantic Boundaries Dataset (Hariharan et al. 2011): VOC's 21 classes in MATLAB files.

``benchmark_RELEASE/dataset`` holds ``img/*.jpg``, ``cls/*.mat`` (``GTcls.Segmentation``) and the lists. It has
no border label: nothing is ignored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segwright.core.errors import FormatError, ImageReadError, LabelError
from segwright.data.formats.base import Format, pairing_problems, sort_splits
from segwright.data.formats.file_tree import Tree, is_image, read_text, stem
from segwright.data.formats.voc import voc_label_space
from segwright.data.mat_files import read_mat
from segwright.data.readers import FileReader
from segwright.data.records import Dataset, Record
from segwright.imageio import DEFAULT_LIMITS, read_file

LISTS = {"train.txt": "train", "val.txt": "val", "train_noval.txt": "train_noval"}


class SbdReader(FileReader):
    """Masks from MATLAB files."""

    def read_mask_values(self, record: Record) -> npt.NDArray[Any] | None:
        if record.mask_path is None:
            return None
        try:
            contents = read_mat(read_file(record.mask_path), record.mask_path, DEFAULT_LIMITS)
        except ImageReadError as error:
            raise LabelError(
                "not an SBD mask", expected="a MATLAB file with GTcls.Segmentation", found=error.found,
                where=record.mask_path, fix="unpack the archive again",
            ) from error  # fmt: skip
        found = contents.get("GTcls")
        classes = found.get("Segmentation") if isinstance(found, dict) else None
        if not isinstance(classes, np.ndarray) or classes.ndim != 2 or classes.dtype != np.uint8:
            raise LabelError(
                "not an SBD mask", expected="a MATLAB file with GTcls.Segmentation", found=", ".join(contents)[:200],
                where=record.mask_path, fix="unpack the archive again",
            )  # fmt: skip
        return np.ascontiguousarray(classes)


def _base(tree: Tree) -> str | None:
    for relative, listing in tree.walk(depth=2):
        if {"img", "cls"} <= set(listing.dirs):
            masks = tree.folder(f"{relative}/cls" if relative else "cls")
            if masks.files and masks.files[0].endswith(".mat"):
                return relative
    return None


def detect(tree: Tree) -> str | None:
    return None if tree.is_file or _base(tree) is None else "img/ and cls/ with MATLAB files"


def open_sbd(tree: Tree) -> Dataset:
    base = _base(tree)
    if base is None:
        raise FormatError("no SBD tree", expected="img/ and cls/*.mat", found=tree.summary(), where=tree.root)
    prefix = f"{base}/" if base else ""
    images, masks = tree.folder(f"{prefix}img"), tree.folder(f"{prefix}cls")
    by_stem = {stem(name): Path(masks.path, name) for name in masks.files if name.endswith(".mat")}
    records = [
        Record(stem(name), Path(images.path, name), by_stem.pop(stem(name), None))
        for name in images.files
        if is_image(name)
    ]
    by_id = {record.id: record for record in records}
    given = {}
    listing = tree.folder(base)
    for name, split in LISTS.items():
        if name in listing.files:
            lines = read_text(Path(listing.path, name)).split()
            given[split] = [by_id[line] for line in lines if line in by_id]
    lone = [record.image_path for record in records if record.mask_path is None and record.image_path is not None]
    return Dataset(
        root=tree.root,
        format="sbd",
        reader=SbdReader(voc_label_space()),
        records=tuple(records),
        given=sort_splits(given),
        notes=["VOC's 21 classes; SBD marks no border, so nothing is ignored"],
        problems=pairing_problems(lone, list(by_stem.values())),
        unpaired_images=tuple(lone),
        unpaired_masks=tuple(by_stem.values()),
    )


FORMAT = Format("sbd", "SBD", "img/ and cls/ with .mat files (benchmark_RELEASE/dataset)", detect, open_sbd)
