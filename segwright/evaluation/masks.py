"""Evaluation of masks from any tool: a folder of index or palette PNGs, matched to the images by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from segwright.core.counted import counted
from segwright.core.errors import DataError, LabelError
from segwright.core.types import IGNORE_INDEX, LabelSpace
from segwright.evaluation.evaluate import Collector, LabeledImages, MappedPrediction, score
from segwright.evaluation.evaluation import CONVENTION, Evaluation
from segwright.evaluation.examples import EXAMPLES
from segwright.imageio import EXTENSIONS, UInt8Array, read_mask
from segwright.metrics.conventions import find_convention

ENDINGS = ("", "_mask", "_pred", "_prediction", "_labels", "_label", "_seg")  # what tools append to an image's name


def evaluate_masks(
    folder: str | Path,
    split: LabeledImages,
    *,
    raw_values: bool = False,
    boundary: bool = True,
    skip_missing: bool = False,
    collectors: Sequence[Collector] = (),
    examples: int = EXAMPLES,
    convention: str = CONVENTION,
    title: str = "evaluate",
) -> Evaluation:
    """Score a folder of masks against ``split``; a mask belongs to the image of the same name (without the suffix).

    The masks contain class indices 0…K-1 (gray or palette PNG); with ``raw_values`` the values of the dataset's own
    mask files, mapped by its label map. ``collectors`` get every scored image with its pixels. ``convention``: as for
    :func:`segwright.evaluation.evaluate.evaluate`. DataError if a mask is
    missing (``skip_missing`` leaves those images out), LabelError if a size or a value does not fit; both name the
    file.
    """
    find_convention(convention)
    paths = find_masks(folder, split, skip_missing=skip_missing)

    def predict(indices: Sequence[int], _images: Sequence[UInt8Array]) -> list[MappedPrediction]:
        return [
            MappedPrediction(read_prediction(paths[i], split.label_space, raw_values=raw_values), source=paths[i])
            for i in indices
        ]

    found = score(
        split,
        predict,
        indices=sorted(paths),
        boundary=boundary,
        images=bool(collectors),
        collectors=collectors,
        examples=examples,
        title=title,
    )
    found.convention = convention
    if len(paths) < len(split):
        found.notes.append(f"{counted(len(split) - len(paths), 'image')} without a mask in the folder were left out")
    return found


def find_masks(folder: str | Path, split: LabeledImages, *, skip_missing: bool = False) -> dict[int, Path]:
    """Index in the split → mask file: by the id's whole path first, then by its last part, each with a usual suffix.

    DataError if the folder does not exist or has no image file, for images without a mask, and if two files match one
    image.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError("no folder of masks", expected="a folder", found="nothing there", where=root)
    files = sorted(f for f in root.rglob("*") if f.suffix.lower() in EXTENSIONS and f.is_file())
    if not files:
        raise DataError("the folder has no masks", expected="PNG files named as the images", found="none", where=root)
    whole: dict[str, list[Path]] = {}
    short: dict[str, list[Path]] = {}
    for file in files:
        relative = PurePosixPath(file.relative_to(root).as_posix()).with_suffix("")
        whole.setdefault(str(relative), []).append(file)
        short.setdefault(relative.name, []).append(file)
    found: dict[int, Path] = {}
    missing = []
    for index, name in enumerate(split.ids):
        fitting = _fitting(name, whole, short)
        if len(fitting) > 1:
            raise DataError(
                f"two masks for image {name}",
                found=", ".join(str(f.relative_to(root)) for f in fitting[:4]),
                where=root,
                fix="keep one, or keep the images' folders in the masks' folder",
            )
        if fitting:
            found[index] = fitting[0]
        else:
            missing.append(name)
    if missing and (not found or not skip_missing):
        raise DataError(
            f"{len(missing)} of {len(split)} images have no mask in the folder",
            expected=f"{missing[0]}.png",
            found=f"{counted(len(files), 'file')} such as {files[0].name}; missing: {', '.join(missing[:5])}"
            + (", …" if len(missing) > 5 else ""),
            where=root,
            fix="name each mask as its image, or leave those images out with --skip-bad",
        )
    return found


def _fitting(name: str, whole: dict[str, list[Path]], short: dict[str, list[Path]]) -> list[Path]:
    pure = PurePosixPath(name)
    # An id is a stem, but a stem may contain a dot: the suffix is cut off only if that finds a file.
    for key in dict.fromkeys((name, str(pure.with_suffix("")) if pure.name else name)):
        for table, base in ((whole, key), (short, PurePosixPath(key).name)):
            for ending in ENDINGS:
                if base + ending in table:
                    return table[base + ending]
    return []


def read_prediction(path: Path, label_space: LabelSpace, *, raw_values: bool = False) -> UInt8Array:
    """(H, W) class indices from a mask file; LabelError with the file's name for colors or unknown values."""
    values = read_mask(path)
    if values.ndim != 2:
        raise LabelError(
            "the mask contains colors, not class indices",
            expected=f"a gray or palette PNG of 0 to {label_space.classes - 1}",
            found="a color image",
            where=path,
            fix="save class indices; a palette PNG keeps both the indices and the colors",
        )
    if raw_values:
        indices = label_space.lookup()[values]
        if (indices < 0).any():
            stray = ", ".join(str(v) for v in np.unique(values[indices < 0])[:8])
            raise LabelError(
                "the mask contains values outside the label map",
                expected=", ".join(str(value) for value, _ in label_space.lookup_items()[:16]),
                found=stray,
                where=path,
            )
        return np.asarray(indices, np.uint8)
    if values.dtype != np.uint8 and int(values.max(initial=0)) > IGNORE_INDEX:
        raise LabelError(
            "the mask contains values that are not a class",
            expected=f"0 to {label_space.classes - 1}",
            found=f"up to {int(values.max())}",
            where=path,
            fix="use --raw-values if these are the ids of the dataset's own masks",
        )
    return values.astype(np.uint8)
