"""``images/x.png`` with ``labels/x.npy``: class indices as numpy arrays, names in ``classes.txt``."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segwright.core.errors import FormatError, LabelError
from segwright.data.formats.base import Format, pairing_problems
from segwright.data.formats.file_tree import Tree, is_image, stem
from segwright.data.label_maps import class_space
from segwright.data.readers import FileReader
from segwright.data.records import Dataset, Record


class NpyReader(FileReader):
    """Masks from ``.npy`` files, which are read without pickles."""

    def read_mask_values(self, record: Record) -> npt.NDArray[Any] | None:
        if record.mask_path is None:
            return None
        mask = np.load(record.mask_path, allow_pickle=False)
        if mask.ndim != 2 or mask.dtype != np.uint8:
            raise LabelError(
                "not a mask", expected="uint8 H×W", found=f"{mask.dtype} {mask.shape}", where=record.mask_path
            )
        return np.ascontiguousarray(mask)


def detect(tree: Tree) -> str | None:
    if tree.is_file or not {"images", "labels"} <= set(tree.folder("").dirs):
        return None
    found = any(name.endswith(".npy") for name in tree.folder("labels").files)
    return "images/ and labels/ with .npy files" if found else None


def open_npy(tree: Tree) -> Dataset:
    classes = tree.root / "classes.txt"
    if detect(tree) is None or not classes.is_file():
        raise FormatError("no such tree", expected=FORMAT.layout, found=tree.summary(), where=tree.root)
    images, labels = tree.folder("images"), tree.folder("labels")
    masks = {stem(name): Path(labels.path, name) for name in labels.files if name.endswith(".npy")}
    records = [
        Record(stem(name), Path(images.path, name), masks.pop(stem(name), None))
        for name in images.files
        if is_image(name)
    ]
    lone = [record.image_path for record in records if record.mask_path is None and record.image_path is not None]
    return Dataset(
        root=tree.root,
        format="npy_masks",
        reader=NpyReader(class_space(classes)),
        records=tuple(records),
        problems=pairing_problems(lone, list(masks.values())),
        unpaired_images=tuple(lone),
        unpaired_masks=tuple(masks.values()),
    )


FORMAT = Format("npy_masks", "numpy masks", "images/x.png, labels/x.npy, classes.txt", detect, open_npy)
