"""Groups of images that must stay in one split: sequences and near-duplicates, from the dataset's scan.

File names propose sequences, and 16×16 gray thumbnails confirm them: neighbors in a sequence look more alike than other
images. Near-duplicates are defined as in the check (:mod:`segwright.data.check.duplicates`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from segwright.data.check.dataset_scan import DatasetScan, scan_splits
from segwright.data.check.duplicates import NEAR_DUPLICATE, join_alike
from segwright.data.check.scan import THUMB
from segwright.data.check.scan import thumbnail as gray_thumbnail
from segwright.data.records import Split
from segwright.imageio import UInt8Array

# Correlations of near-duplicates: the next one is used if a level makes one group of everything.
LEVELS = (NEAR_DUPLICATE, 0.993, 0.998)
LARGEST_GROUP = 0.25  # of the images; more is no group of duplicates but a kind of image
SEQUENCE_AUC = 0.75  # how often neighbors must be more alike than other pairs to confirm a sequence
Float32 = npt.NDArray[np.float32]

_FRAME = re.compile(r"[_\-. ]*(?:frame|img|image|f)?[_\-. ]?[0-9]+$", re.IGNORECASE)


def sequence_of(id: str) -> str:
    """The id without its frame number: 0001TP_006690 → 0001TP; "" if it is only a number.

    A proposal only: ``img_001`` … name no scene, and :func:`group` compares the images.
    """
    folder, _, name = id.rpartition("/")
    rest = _FRAME.sub("", name)
    return f"{folder}/{rest}" if folder else rest


@dataclass(frozen=True)
class Content:
    """Thumbnails and pixels per class of N images."""

    thumbnails: Float32  # (N, THUMB²), zero mean and unit length; zeros where flat or unreadable
    gray: Float32  # (N,) mean gray level; NaN where unreadable
    pixels: npt.NDArray[np.int64]  # (N, K)


def content(split: Split, scan: DatasetScan | None = None) -> Content:
    """The content of ``split`` from a scan that holds all its records, else from one that is made here.

    Images whose pixels or mask cannot be read count as empty.
    """
    rows = None if scan is None else scan.rows(split)
    if scan is None or rows is None:
        scan = scan_splits({split.name: split}, split.reader)
        rows = scan.rows(split)
        assert rows is not None
    totals = scan.totals
    complete = totals.complete[rows]
    thumbnails = np.where(complete[:, None], totals.thumbs[rows], 0).astype(np.float32)
    pixels = np.where(complete[:, None], totals.pixels[rows], 0).astype(np.int64)
    return Content(thumbnails, np.where(complete, totals.gray[rows], np.float32("nan")), pixels)


def thumbnail(image: UInt8Array) -> tuple[Float32, float]:
    """(THUMB² numbers of zero mean and unit length, mean gray level) of an H×W×C image; zeros if it is flat."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.shape[2] == 3 else image[..., 0]
    found, mean = gray_thumbnail(gray)
    return np.zeros(THUMB * THUMB, np.float32) if found is None else found, mean


@dataclass(frozen=True)
class Groups:
    """Groups of images that must stay in one split."""

    of: npt.NDArray[np.int64]  # (N,) group of each image, 0…G-1 in the order of first members
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return int(self.of.max()) + 1 if self.of.size else 0


def group(split: Split, content: Content, *, at_least: int = 1) -> Groups:
    """Sequences by name that the images confirm, near-duplicates, and every other image by itself.

    A sequence of more than 1/``at_least`` of the images is cut into runs of neighbors, where they differ most.
    """
    of = np.arange(len(split))
    notes: list[str] = []
    sequences = confirmed_sequences(split.ids, content)
    if sequences:
        largest = max(1, -(-len(split) // at_least))
        runs = [run for members in sequences.values() for run in _runs(members, content, largest)]
        for run in runs:
            of[run] = run[0]
        cut = f", cut into {len(runs)} runs" if len(runs) > len(sequences) else ""
        notes.append(f"{len(sequences)} sequences by name (neighbors look alike) kept together{cut}")
    of, joined, level = _join_duplicates(content, of)
    if joined:
        notes.append(f"{joined} pairs of near-duplicates (correlation above {level}) kept together")
    return Groups(_renumbered(of), tuple(notes))


def _join_duplicates(content: Content, of: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], int, float]:
    """Join near-duplicates at the first level that does not make one group of everything; (groups, pairs, level)."""
    held = np.unique(of, return_counts=True)[1].max(initial=0)
    for level in LEVELS:
        joined, pairs = join_alike(content.thumbnails, content.gray, of, level)
        if np.bincount(joined).max(initial=0) <= max(held, LARGEST_GROUP * len(of), 2):
            return joined, pairs, level
    return of, 0, 1.0


def _renumbered(of: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Groups as 0…G-1, in the order of their first members."""
    _, first, group = np.unique(of, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[np.ravel(group)], np.int64)


def confirmed_sequences(ids: Sequence[str], content: Content) -> dict[str, list[int]]:
    """Sequence name → its images in order, if names propose it and neighbors are more alike than unrelated images."""
    proposed: dict[str, list[int]] = {}
    for index, name in enumerate(ids):
        proposed.setdefault(sequence_of(name), []).append(index)
    proposed = {name: members for name, members in proposed.items() if len(members) >= 3}
    if not proposed:
        return {}
    thumbs = content.thumbnails
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, len(ids), (2, 4000))
    unrelated = np.sort((thumbs[a] * thumbs[b]).sum(axis=1)[a != b])
    confirmed = {}
    for name, members in proposed.items():
        order = sorted(members, key=lambda i: _frame_number(ids[i]))
        near = (thumbs[order[1:]] * thumbs[order[:-1]]).sum(axis=1)
        auc = float((np.searchsorted(unrelated, near) / max(1, unrelated.size)).mean())
        if auc >= SEQUENCE_AUC:
            confirmed[name] = order
    return confirmed


def _frame_number(name: str) -> tuple[int, str]:
    match = re.search(r"[0-9]+$", name)
    return (int(match[0]) if match else -1, name)


def _runs(members: list[int], content: Content, largest: int) -> Iterator[list[int]]:
    """A sequence cut where neighbors differ most, until no run is longer than ``largest``."""
    if len(members) <= largest:
        yield members
        return
    thumbs = content.thumbnails
    near = (thumbs[members[1:]] * thumbs[members[:-1]]).sum(axis=1)
    margin = max(1, min(largest // 2, (len(members) - 1) // 2))
    inner = near[margin - 1 : len(near) - margin + 1]
    cut = margin + int(np.argmin(inner)) if inner.size else len(members) // 2
    yield from _runs(members[:cut], content, largest)
    yield from _runs(members[cut:], content, largest)
