"""Several datasets as one, in the classes of one model: what a refinement trains and is judged on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segwright.core.counted import counted
from segwright.core.errors import DataError, DepthError
from segwright.core.types import IGNORE_INDEX, LabelSpace
from segwright.data.check.dataset_scan import scan_dataset
from segwright.data.dataset import Dataset, Split, ValueRange
from segwright.data.records import ObjectCount, Reader, Record, Values
from segwright.data.splits import make_splits
from segwright.imageio import UInt8Array
from segwright.inference.lineage import DataUsed, data_used
from segwright.inference.pixels import fit_channels
from segwright.labeling.class_matching import ClassMatch
from segwright.training.data_fingerprint import data_print, digest

NEW, OLD = "new", "old"
HELD_OUT = 10  # new images to validate on, as far as that is between the two shares
LEAST_HELD_OUT, MOST_HELD_OUT = 0.2, 0.4


@dataclass(frozen=True)
class Part:
    """One of the datasets: its splits for training and validation, and how its classes are read."""

    role: str  # NEW or OLD
    data: Dataset
    train: Split
    val: Split | None
    match: ClassMatch
    notes: tuple[str, ...] = ()

    def used(self) -> DataUsed:
        """Its entry in the lineage."""
        splits = [split for split in (self.train, self.val) if split is not None]
        return data_used(self.role, self.data.root, digest(data_print(splits)), len(self.train))


def part_of(role: str, data: Dataset, match: ClassMatch) -> Part:
    """The labeled images of ``data``; DataError if there is none to train on.

    Without a validation split a part is held out, whole sequences where there are any; of few images more than a fifth,
    since the verdict needs some. Images without a mask, and new
    ones whose masks are ignored all over (nothing is labeled yet), are left out.
    """
    splits, notes = _splits(data) if role == NEW else data.splits, list(match.notes)
    train = splits.get("train") or data.train
    val = splits.get("val", splits.get("test"))
    if "val" not in data.given and "val" in splits:
        count = len(splits["val"])
        notes.append(
            f"{role}: no validation split is given; {counted(count, 'image', 'is')} held out, whole sequences together"
        )
    if val is None:
        notes.append(f"{role}: too few images to hold some out for validation")
    classes = _labeled_classes(data) if role == NEW else {}
    shown = {id for id, one in classes.items() if one.any()}
    if role == OLD:
        shown = {record.id for record in data.records if record.labeled}

    def usable(split: Split) -> Split:
        return split.subset([i for i, record in enumerate(split.records) if record.id in shown], split.name)

    kept, scored = usable(train), usable(val) if val is not None else None
    empty = len(train) - len(kept) + (len(val) - len(scored) if val is not None and scored is not None else 0)
    if empty:
        notes.append(f"{role}: {counted(empty, 'image')} without a labeled pixel are left out")
    if len(kept) == 0:
        raise DataError(
            "no image is labeled", where=data.root, expected="masks with at least one labeled pixel",
            found=f"{counted(len(train), 'image')} without any", fix="label some: segwright label IMAGES --model MODEL",
        )  # fmt: skip
    if scored is not None and len(scored) == 0:
        scored = None
        notes.append(f"{role}: no validation image is labeled")
    if scored is not None and role == NEW:
        notes += _one_class_note(role, scored, classes)
    return Part(role, data, kept, scored, match, tuple(notes))


def _splits(data: Dataset) -> dict[str, Split]:
    """The splits; where the data has no val, with enough held out for a verdict: :data:`HELD_OUT` images, if these are
    between a fifth and two fifths."""
    if "val" in data.given or data.split_maker is None:
        return data.splits
    labeled = sum(bool(record.labeled) for record in data.given.get("train", data.records))
    share = min(max(HELD_OUT / max(labeled, 1), LEAST_HELD_OUT), MOST_HELD_OUT)
    return make_splits(data, {"train": 1 - share, "val": share})


def _labeled_classes(data: Dataset) -> dict[str, npt.NDArray[np.bool_]]:
    """Id → (K,), whether the image has a labeled pixel of each class; True for images that cannot be read, which the
    check reports."""
    scan = scan_dataset(data)
    shown = (scan.totals.pixels > 0) | ~scan.totals.complete[:, None]
    return {record.id: one for record, one in zip(scan.records, shown, strict=True) if record.labeled}


def _one_class_note(role: str, split: Split, classes: Mapping[str, npt.NDArray[np.bool_]]) -> list[str]:
    """A note if all labels of the images are of one class: whoever predicts it everywhere has no pixel wrong."""
    held = np.flatnonzero(np.any([classes[name] for name in split.ids], axis=0))
    if len(held) != 1 or split.label_space.classes == 1:
        return []
    name = split.label_space.names[held[0]]
    return [
        f"{role}: all labels of the validation images are {name}: a model that predicts {name} everywhere scores 100 % "
        "there, so the figure does not show which model is better; label some of what is not " + name
    ]


def mixed(parts: Sequence[Part], space: LabelSpace, value_range: ValueRange | None, channels: int) -> Dataset:
    """The parts as one dataset with the splits ``train`` and, if any part has one, ``val``."""
    reader = MixedReader(
        space, tuple(part.data.reader for part in parts), tuple(part.match.table for part in parts),
        tuple(part.role for part in parts), value_range, channels,
    )  # fmt: skip
    for part in parts:
        _check_depth(part, value_range)
    given: dict[str, list[Record]] = {"train": [], "val": []}
    for number, part in enumerate(parts):
        for name, split in (("train", part.train), ("val", part.val)):
            given[name] += [_wrapped(record, number, part.role) for record in (split.records if split else ())]
    kept = {name: tuple(records) for name, records in given.items() if records}
    first = parts[0].data
    return Dataset(
        first.root, first.format, reader, tuple(record for records in kept.values() for record in records), kept,
        notes=[f"{part.role}: {note}" for part in parts for note in part.data.notes],
        problems=[problem for part in parts for problem in part.data.problems],
    )  # fmt: skip


def share_of_replay(share: float, split: Split) -> npt.NDArray[np.float64] | None:
    """(N,): how often each image is drawn, so that ``share`` of the draws are old images; None without old or new."""
    old = np.array([record.id.startswith(f"{OLD}/") for record in split.records])
    if not old.any() or old.all():
        return None
    return np.asarray(np.where(old, share / old.sum(), (1 - share) / (~old).sum()) * len(old), np.float64)


def role_of(id: str) -> str:
    """Which part an image of the mixed dataset is of."""
    return id.partition("/")[0]


def _wrapped(record: Record, number: int, role: str) -> Record:
    return Record(f"{role}/{record.id}", record.image_path, record.mask_path, (number, record), record.labeled)


def _check_depth(part: Part, value_range: ValueRange | None) -> None:
    """DepthError if the images' depth is not that of the model's training."""
    own = part.data.reader.value_range
    if (own is None) == (value_range is None) or (own is None and value_range and value_range.eight_bit_reading()):
        return
    deep = "images of more than 8 bits"
    raise DepthError(
        "the images are not as deep as those that the model was trained on",
        expected=deep if value_range is not None else "8-bit images",
        found="8-bit images" if value_range is not None else deep,
        where=part.data.root,
        fix="bring them to the depth of the training data",
    )


@dataclass
class MixedReader(Reader):
    """Reads each record by its own dataset's reader, in the classes, depth and channels of the model."""

    label_space: LabelSpace
    readers: tuple[Reader, ...]
    tables: tuple[UInt8Array, ...]
    roles: tuple[str, ...]
    value_range: ValueRange | None = None
    channels: int = 3

    def __post_init__(self) -> None:
        if self.value_range is not None:
            self.readers = tuple(
                reader if reader.value_range is None else reader.changed(value_range=self.value_range)
                for reader in self.readers
            )

    def image(self, record: Record) -> UInt8Array:
        reader, own, _ = self._of(record)
        pixels = reader.image(own)
        if self.value_range is not None and reader.value_range is None:
            pixels = self.value_range.scale(pixels, own.image_path)
        return fit_channels(pixels, self.channels)

    def mask(self, record: Record) -> UInt8Array | None:
        reader, own, table = self._of(record)
        found = reader.mask(own)
        return None if found is None else table[found]

    def values(self, record: Record) -> Values | None:
        """Class indices; what the dataset's own label map lacks stays a value outside the classes."""
        reader, own, table = self._of(record)
        found = reader.values(own)
        if found is None:
            return None
        lookup = reader.label_space.lookup()
        inside = np.where((found >= 0) & (found < lookup.size), found, 0)
        index = np.where((found >= 0) & (found < lookup.size), lookup[inside], -1)
        outside = np.where((found >= self.label_space.classes) & (found != IGNORE_INDEX), found, -1)
        return np.where(index >= 0, table[np.clip(index, 0, 255)].astype(np.int32), outside).astype(np.int32)

    def is_full_file(self, record: Record) -> bool:
        reader, own, _ = self._of(record)
        return reader.is_full_file(own)

    def read_bands(self, record: Record) -> npt.NDArray[Any]:
        reader, own, _ = self._of(record)
        return reader.read_bands(own)

    def georeference_mismatch(self, record: Record) -> Any:
        reader, own, _ = self._of(record)
        return reader.georeference_mismatch(own)

    def object_counts(self, record: Record) -> Mapping[int, ObjectCount] | None:
        reader, own, table = self._of(record)
        found = reader.object_counts(own)
        return None if found is None else {int(table[index]): count for index, count in found.items()}

    def _of(self, record: Record) -> tuple[Reader, Record, UInt8Array]:
        number, own = record.payload
        return self.readers[number], own, self.tables[number]


def of_role(split: Split | None, role: str) -> Split | None:
    """The images of one part; None if there are none."""
    if split is None:
        return None
    kept = [i for i, record in enumerate(split.records) if role_of(record.id) == role]
    return split.subset(kept, f"{role} {split.name}") if kept else None
