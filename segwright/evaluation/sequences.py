"""The units of the bootstrap: single images, or whole sequences if the images are frames of video.

The errors of frames of one video are correlated, so an interval that resamples single frames is too narrow. Ids suggest
sequences (:func:`segwright.data.grouping.sequence_of`), and thumbnails confirm them: neighbors in a video are more
similar than random pairs. If thumbnails cannot decide, evenly numbered names are enough.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from segwright.core.errors import UsageError
from segwright.data.grouping import SEQUENCE_AUC, Float32, sequence_of, thumbnail
from segwright.imageio import UInt8Array

SHORTEST = 3  # frames of a sequence
EVEN = 0.6  # share of equal steps between frame numbers that is required
STRANGE = 0.6  # AUC of neighbors against random pairs; below it, the images contradict the names
TELLING = 0.15  # standard deviation of the correlations of random pairs; noise on a 16×16 thumbnail has 1/16
FEW = 8  # fewer sequences or images give a rough interval
PAIRS = 4000


@dataclass(frozen=True)
class BootstrapUnits:
    """The units of the bootstrap of one evaluation. ``over``: images, sequences, or blocks (of one sequence)."""

    over: str
    groups: tuple[str, ...]  # (N,): images of one group are resampled together
    sequences: tuple[str, ...]  # (N,): the sequence of each image; its own id if it has none
    note: str = ""  # the limits of the interval, for the user

    @property
    def count(self) -> int:
        """The number of groups."""
        return len(set(self.groups))

    def __str__(self) -> str:
        one = {"images": "image", "sequences": "sequence", "blocks": "block of neighboring frames"}[self.over]
        many = {"blocks": "blocks of neighboring frames"}.get(self.over, self.over)
        return f"{self.count} {one if self.count == 1 else many}"

    def to_json(self) -> dict[str, object]:
        """``interval_over`` and ``interval_count``."""
        return {"interval_over": self.over, "interval_count": self.count}


def find_units(
    ids: Sequence[str], thumbnails: Float32 | None = None, *, groups: Sequence[object] | None = None
) -> BootstrapUnits:
    """The units for the images ``ids``; ``thumbnails`` (N, S), ``groups`` (N,) given sequences."""
    if groups is None:
        return units_of(ids, find_sequences(ids, thumbnails))
    if len(groups) != len(ids):
        raise UsageError("groups name the sequence of every image", expected=str(len(ids)), found=str(len(groups)))
    return units_of(ids, [str(name) for name in groups])


def units_of(ids: Sequence[str], sequences: Sequence[str]) -> BootstrapUnits:
    """The units if ``sequences`` (N,) has the sequence of each image.

    Blocks only where all images are of one sequence. Among several, an image of none is a unit by itself.
    """
    sizes = Counter(sequences)
    if len(sizes) == len(ids):
        few = 1 < len(ids) < FEW
        note = f"only {len(ids)} images: the interval is rough, and too narrow" if few else ""
        return BootstrapUnits("images", tuple(ids), tuple(sequences), note)
    name, largest = sizes.most_common(1)[0]
    name = name.rstrip("/") or name
    if len(sizes) > 1:
        note = ""
        if len(sizes) < FEW:
            note = f"only {len(sizes)} sequences: the interval is rough"
        elif 2 * largest > len(ids):
            note = f"{largest} of {len(ids)} images are from one sequence ({name}): the interval is rough"
        return BootstrapUnits("sequences", tuple(sequences), tuple(sequences), note)
    drawn, length = blocks_of(ids, sequences)
    note = (
        f"all frames are from one sequence ({name}): the interval resamples blocks of {length} "
        "neighbors, is too narrow, and does not hold for other sequences"
    )
    return BootstrapUnits("blocks", tuple(drawn), tuple(sequences), note)


def blocks_of(ids: Sequence[str], sequences: Sequence[str]) -> tuple[list[str], int]:
    """The block of neighboring frames of each image, within its sequence, and the frames of the longest block.

    Of n frames a block has n^(1/3) (Lahiri 2003, section 3.3); an image that is a sequence of its own is its own block.
    """
    blocks, longest = list(sequences), 1
    for name, size in Counter(sequences).items():
        if size == 1:
            continue
        length = max(1, round(size ** (1 / 3)))
        longest = max(longest, length)
        members = in_frame_order([i for i, found in enumerate(sequences) if found == name], ids)
        for place, index in enumerate(members):
            blocks[index] = f"{name} {place // length}"
    return blocks, longest


def in_frame_order(members: Sequence[int], ids: Sequence[str]) -> list[int]:
    """``members``, places in ``ids``, by the number at the end of their ids, then by name."""
    return sorted(members, key=lambda index: _number(ids[index]))


def find_sequences(ids: Sequence[str], thumbnails: Float32 | None = None) -> list[str]:
    """(N,): the sequence of each image by name and thumbnail (see the module); its own id if it has none."""
    proposed: dict[str, list[int]] = {}
    for index, name in enumerate(ids):
        if (stem := sequence_of(name)) not in ("", name):
            proposed.setdefault(stem, []).append(index)
    proposed = {name: members for name, members in proposed.items() if len(members) >= SHORTEST}
    random_pairs = _random_correlations(thumbnails)
    found = list(ids)
    for name, found_members in proposed.items():
        members = in_frame_order(found_members, ids)
        auc = _neighbor_auc(members, thumbnails, random_pairs)
        even = _evenly_numbered([_number(ids[i])[0] for i in members])
        # One prefix for all names (photo_001 …) is common: then only the images can decide.
        named = even and (len(proposed) > 1)
        if auc >= SEQUENCE_AUC or (named and not auc < STRANGE):
            for index in members:
                found[index] = name
    return found


def thumbnail_of(image: UInt8Array | None, mask: UInt8Array, classes: int) -> Float32:
    """The thumbnail of an image (H, W, C), or of its label mask (H, W) if the image was not read."""
    if image is not None:
        return thumbnail(image)[0]
    return thumbnail((mask * np.uint8(max(1, 255 // classes)))[..., None])[0]


def _random_correlations(thumbnails: Float32 | None) -> npt.NDArray[np.float64] | None:
    """The sorted correlations of all pairs of images; None if they are not informative (flat, noise, too few)."""
    if thumbnails is None or len(thumbnails) < 2 * SHORTEST:
        return None
    a, b = np.random.default_rng(0).integers(0, len(thumbnails), (2, PAIRS))
    found = np.sort((thumbnails[a] * thumbnails[b]).sum(axis=1, dtype=np.float64)[a != b])
    return found if found.size and found.std() > TELLING else None


def _neighbor_auc(
    members: Sequence[int], thumbnails: Float32 | None, random_pairs: npt.NDArray[np.float64] | None
) -> float:
    """How often neighbors are more similar than random pairs, 0…1; NaN if the images are not informative."""
    if thumbnails is None or random_pairs is None:
        return float("nan")
    order = np.asarray(members)
    near = (thumbnails[order[1:]] * thumbnails[order[:-1]]).sum(axis=1, dtype=np.float64)
    below = np.searchsorted(random_pairs, near, "left") + np.searchsorted(random_pairs, near, "right")
    return float(below.mean() / (2 * random_pairs.size))


def _evenly_numbered(numbers: Sequence[int]) -> bool:
    steps = np.diff(np.asarray(numbers))
    return bool(steps.size) and Counter(steps.tolist()).most_common(1)[0][1] >= EVEN * steps.size


def _number(name: str) -> tuple[int, str]:
    match = re.search(r"[0-9]+$", name)
    return (int(match[0][-15:]) if match else -1, name)
