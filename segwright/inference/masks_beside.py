"""Masks among the images of a prediction, in folders of their own or beside the images: no images to segment."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from segwright.core.counted import counted
from segwright.data.formats.folder_roles import describe_folder
from segwright.data.formats.name_matching import FEWEST, NamedFile, assign_roles, looks_like_labels, pair
from segwright.data.formats.stem_keys import MASK_ENDING, MASK_STEM

LOOKED_AT = 3  # files of a folder


def without_masks(root: Path, files: Sequence[Path]) -> tuple[list[Path], str]:
    """The files without masks, and a note on these, empty if there are none.

    A folder holds masks if its name has a word for them and most of its files have the name of an image in a folder of
    another kind; ``root`` itself is never one. In a folder of both, a file is a mask if a dataset would pair it with an
    image there by its name (``x.jpg x.png``, ``x.jpg x_mask.png``), as at least three are. Either way the files that
    are looked at are lossless and have few colors.
    """
    by_folder: dict[str, list[Path]] = {}
    for path in files:
        by_folder.setdefault(path.parent.relative_to(root).as_posix().removeprefix("."), []).append(path)
    named = {folder for folder in by_folder if describe_folder(folder)[0] == "mask"}
    images = {path.stem.lower() for folder in set(by_folder) - named for path in by_folder[folder]}
    masks = {
        folder: set(by_folder[folder])
        for folder in named
        if 2 * sum(path.stem.lower() in images for path in by_folder[folder]) > len(by_folder[folder])
        and _are_labels(by_folder[folder])
    }
    masks |= {folder: found for folder in set(by_folder) - named if (found := _paired_masks(by_folder[folder]))}
    if not masks:
        return list(files), ""
    count = sum(map(len, masks.values()))
    places = sorted(folder.replace("/", os.sep) or str(root) for folder in masks)
    shown = f"{', '.join(places[:4])}{', …' if len(places) > 4 else ''}"
    return (
        [path for folder, inside in by_folder.items() for path in inside if path not in masks.get(folder, ())],
        f"{counted(count, 'file')} in {shown} are taken for the masks of the images and skipped; "
        "give such a folder by its own path, or a glob where both lie together, to take them for images",
    )


def _paired_masks(files: Sequence[Path]) -> set[Path]:
    """The masks among files of one folder."""
    stems = [path.stem for path in files if not path.name.lower().endswith((".jpg", ".jpeg"))]
    twins = len({path.stem for path in files}) < len(files)
    if not twins and sum(bool(MASK_ENDING.match(stem) or MASK_STEM.match(stem)) for stem in stems) < FEWEST:
        return set()  # without the pairing, which takes seconds for 100,000 files
    items = [NamedFile("", path.name, str(path.parent), None, "", None) for path in files]
    pairs = [(image, mask) for image, mask in pair(assign_roles(items)).pairs if mask is not None]
    if len(pairs) < FEWEST:
        return set()
    by_name = {path.name: path for path in files}
    masks, images = [by_name[mask.name] for _, mask in pairs], [by_name[image.name] for image, _ in pairs]
    return set(masks) if _are_labels(masks) and not any(map(looks_like_labels, _some(images))) else set()


def _are_labels(files: Sequence[Path]) -> bool:
    return all(looks_like_labels(path) for path in _some(files))


def _some(files: Sequence[Path]) -> Sequence[Path]:
    return files[:: max(1, len(files) // LOOKED_AT)]
