"""One set of images stored twice in a tree: ``PNG/Original`` and ``TIF/Original``, ``images`` and ``backup/images``.

Read as they lie, every image would count double, and a copy of a training image would be validated on. Of folders whose
images agree, pixel by pixel, and whose masks do, one is read. Where the masks differ, both stay: ``check`` reports it.
"""

from __future__ import annotations

import os
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from segwright.core.errors import DataError
from segwright.data.formats.name_matching import NamedFile, Pairing, Rival, glob_of, label_numbers
from segwright.data.mask_files import inspect_mask
from segwright.data.records import evenly_spread
from segwright.imageio import read_file, read_header

MOST_FOLDERS = 8  # with the same names: beyond, they are scenes whose frames are numbered
COMPARED = 3
CLOSE = 4.0  # gray levels that copies differ by on average at the most: one of them may be a JPEG
BLOCK = 8  # pixels on a side
CLOSE_IN_BLOCK = 6.0  # gray levels that copies differ by in the mean of a block: JPEG keeps it
MOSTLY = 0.8
ALIKE = 0.97  # correlation of copies of two sizes, reduced
SMALLEST = 24  # pixels on a side to which copies of two sizes are reduced

Pairs = dict[str, tuple[NamedFile, NamedFile]]


def drop_copies(pairing: Pairing) -> None:
    """Leave out the pairs of folders that another folder of the same split holds as well; listed in ``unread``."""
    folders: dict[tuple[str | None, str], Pairs] = {}
    for image, mask in pairing.pairs:
        if mask is not None:
            folders.setdefault((image.split, image.folder), {})[image.stem.casefold()] = (image, mask)
    if not 2 <= len(folders) <= MOST_FOLDERS or pairing.rivals:
        return
    dropped: dict[tuple[str | None, str], str] = {}
    kept: list[tuple[str | None, str]] = []
    for place, found in folders.items():
        for other in list(kept):
            theirs = folders[other]
            shared = sorted(found.keys() & theirs.keys())
            if other[0] != place[0] or len(shared) < MOSTLY * len(found) or len(shared) < 2:
                continue
            chosen = [shared[i] for i in evenly_spread(len(shared), COMPARED)]
            if not all(_same_image(found[name][0], theirs[name][0]) for name in chosen):
                continue
            if not all(_same_mask(found[name][1], theirs[name][1]) for name in chosen):
                continue  # check reports copies with masks that contradict
            if _pixels(found[shared[0]][0]) > _pixels(theirs[shared[0]][0]):
                dropped[other] = f"it belongs to smaller copies of the images in {place[1] or '.'}"
                kept.remove(other)
                continue
            dropped[place] = f"it belongs to a copy of the images in {other[1] or '.'}, with the same masks"
            break
        else:
            kept.append(place)
    if not dropped:
        return
    for place, why in dropped.items():
        pairing.unread.append(_rival(folders[place], why))
    pairing.pairs = [pair for pair in pairing.pairs if (pair[0].split, pair[0].folder) not in dropped]


def _rival(found: Pairs, why: str) -> Rival:
    masks = tuple(mask for _, mask in found.values())
    return Rival(glob_of(masks), masks, len(found), why)


def _pixels(item: NamedFile) -> int:
    try:
        found = read_header(item.path)
    except DataError:
        return 0
    return found.height * found.width


def _same_image(one: NamedFile, other: NamedFile) -> bool:
    """Whether two files show the same, in one size or in two."""
    try:
        if os.path.samefile(one.path, other.path):
            return True
        left, right = (inspect_mask(read_file(item.path), item.path).pixels for item in (one, other))
    except (DataError, OSError):  # damaged, or a link to nothing: reading it is an error
        return False
    if left.dtype != right.dtype or left.ndim != right.ndim:
        return False
    if left.shape == right.shape:
        return _close(left, right) and float(left.std()) > CLOSE
    if min(left.shape[:2] + right.shape[:2]) < SMALLEST:
        return False
    small = [
        cv2.resize(pixels.astype(np.float32), (SMALLEST, SMALLEST), interpolation=cv2.INTER_AREA).ravel()
        for pixels in (left, right)
    ]
    if min(float(pixels.std()) for pixels in small) < CLOSE or abs(float(small[0].mean() - small[1].mean())) > CLOSE:
        return False
    return float(np.corrcoef(small[0], small[1])[0, 1]) >= ALIKE


def _close(left: npt.NDArray[Any], right: npt.NDArray[Any]) -> bool:
    """Whether two images of one size differ as copies do: hardly on average, and no more in one place than in others.

    What moved before a fixed camera differs in one place alone.
    """
    apart = left.astype(np.float32) - right
    if float(np.abs(apart).mean()) > CLOSE:
        return False
    brightness = apart if apart.ndim == 2 else apart.mean(axis=2)  # of colors JPEG keeps less
    height, width = (max(side // BLOCK, 1) for side in brightness.shape)
    blocks = cv2.resize(brightness, (width, height), interpolation=cv2.INTER_AREA)
    return float(np.abs(blocks).max()) <= CLOSE_IN_BLOCK


def _same_mask(one: NamedFile, other: NamedFile) -> bool:
    try:
        left, right = label_numbers(one.path), label_numbers(other.path)
    except DataError:
        return False
    if left.shape == right.shape:
        return np.array_equal(left, right)
    rows, columns = (np.arange(SMALLEST) * size // SMALLEST for size in left.shape)
    lower, across = (np.arange(SMALLEST) * size // SMALLEST for size in right.shape)
    return float((left[np.ix_(rows, columns)] == right[np.ix_(lower, across)]).mean()) >= MOSTLY
