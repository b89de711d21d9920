"""Folders of masks among the images of a prediction: a dataset's own masks are no images to segment."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from segwright.core.counted import counted
from segwright.data.formats.folder_roles import describe_folder
from segwright.data.formats.name_matching import looks_like_labels

LOOKED_AT = 3  # files of a folder


def without_masks(root: Path, files: Sequence[Path]) -> tuple[list[Path], str]:
    """The files without those of mask folders, and a note on these, empty if there are none.

    A folder holds masks if its name has a word for them, most of its files have the name of an image in a folder of
    another kind, and those that are looked at are lossless and have few colors. ``root`` itself is never one.
    """
    by_folder: dict[str, list[Path]] = {}
    for path in files:
        by_folder.setdefault(path.parent.relative_to(root).as_posix().removeprefix("."), []).append(path)
    named = {folder for folder in by_folder if describe_folder(folder)[0] == "mask"}
    images = {path.stem.lower() for folder in set(by_folder) - named for path in by_folder[folder]}
    masks = {
        folder
        for folder in named
        if 2 * sum(path.stem.lower() in images for path in by_folder[folder]) > len(by_folder[folder])
        and all(looks_like_labels(path) for path in by_folder[folder][:: max(1, len(by_folder[folder]) // LOOKED_AT)])
    }
    if not masks:
        return list(files), ""
    count = sum(len(by_folder[folder]) for folder in masks)
    places = sorted(folder.replace("/", os.sep) for folder in masks)
    shown = f"{', '.join(places[:4])}{', …' if len(places) > 4 else ''}"
    return (
        [path for folder, inside in by_folder.items() if folder not in masks for path in inside],
        f"{counted(count, 'file')} in {shown} are taken for the masks of the images and skipped; "
        "give such a folder by its own path to take it for images",
    )
