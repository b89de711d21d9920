"""The unlabeled images of a run: what is found, what is left out and why, and their order.

An image that is also in the validation or test data, or nearly the same as one of it, would make the score one of an
image that was trained on: it is left out and named. So is a file that cannot be read. Copies of labeled training images
are left out as well, since their labels are known.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from segwright.core.counted import counted
from segwright.core.errors import DataError, FormatError, SegwrightError
from segwright.core.types import IGNORE_INDEX, Batch, Sample
from segwright.data.check.dataset_scan import DatasetScan, scan_dataset, scan_splits
from segwright.data.check.duplicates import find_pairs
from segwright.data.dataset import Dataset, Split, open_dataset
from segwright.data.loading.loader import Loader, Transform
from segwright.data.readers import FileReader
from segwright.data.records import Reader, Record, Values
from segwright.imageio import ImageInfo, UInt8Array
from segwright.inference.sources import open_source
from segwright.training.config import Phase, TrainConfig
from segwright.training.distributed.world import World
from segwright.training.self_training import CANDIDATE, LABELED
from segwright.training.state import Progress

NAMED = 3  # files in a line
_STREAM = 0x5E1F  # separates the order of unlabeled images from that of labeled ones


@dataclass(frozen=True)
class UnlabeledImages:
    """The loader's view of unlabeled images: a sample's mask has 0 where a pixel may get a pseudo-label, else 1.

    ``partial``: training images whose ignored pixels may get one.
    """

    splits: tuple[Split, ...]
    partial: Split | None = None
    lines: tuple[str, ...] = ()  # what was found and left out, for people
    left_out: Mapping[str, int] = field(default_factory=dict)  # reason → images

    def __len__(self) -> int:
        return sum(map(len, self.splits)) + (len(self.partial) if self.partial else 0)

    def __getitem__(self, index: int, /) -> Sample:
        for split in self.splits:
            if index < len(split):
                image, record = split.read_image(index), split.records[index]
                return Sample(record.id, image, np.full(image.shape[:2], CANDIDATE, np.uint8), record.image_path)
            index -= len(split)
        if self.partial is None:
            raise IndexError(index)
        sample = self.partial[index]
        known = sample.mask if sample.mask is not None else np.full(sample.image.shape[:2], IGNORE_INDEX, np.uint8)
        mask = np.where(known == IGNORE_INDEX, CANDIDATE, LABELED).astype(np.uint8)
        return Sample(sample.id, sample.image, mask, sample.image_path)


def find_unlabeled(
    data: Dataset, train: Split, val: Split | None, config: TrainConfig, world: World
) -> UnlabeledImages:
    """The usable unlabeled images of a run. DataError if there is none; rank 0 looks for all."""
    where = config.unlabeled.path
    splits: list[Split] = []
    lines: list[str] = []
    if where is not None:
        split, notes = open_unlabeled(where, data)
        splits.append(split)
        lines += notes
    if config.unlabeled.own != "none":
        splits.append(own_unlabeled(data))
    candidates = Split("unlabeled", [record for split in splits for record in split.records], data.reader)
    if candidates.records:
        found = world.broadcast_from_rank0(
            lambda: [_left_out(split, data, train, val) for split in splits], lambda tree: tree, lambda tree: tree
        )
    else:
        found = [{} for _ in splits]
    counts: dict[str, int] = {}
    kept = []
    for split, bad in zip(splits, found, strict=True):
        kept.append(split.subset([i for i, record in enumerate(split.records) if record.id not in bad], split.name))
        for reason in dict.fromkeys(bad.values()):
            names = [name for name, why in bad.items() if why == reason]
            counts[reason] = counts.get(reason, 0) + len(names)
            shown = ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
            lines.append(f"{len(names)} of them left out: {reason} ({shown})")
    partial = None
    if config.unlabeled.own == "pixels":
        rows: list[int] = world.broadcast_from_rank0(
            lambda: _with_ignored(data, train), lambda found: found, lambda found: found
        )
        partial = train.subset(rows, train.name) if rows else None
        lines.append(
            f"the ignored pixels (255) of {len(rows)} training masks get pseudo-labels: right where they are not "
            "labeled yet, wrong where 255 is for what is no class (then: unlabeled.own=images)"
        )
    images = UnlabeledImages(tuple(kept), partial, tuple(lines), counts)
    if len(images) == 0:
        raise DataError(
            "no usable unlabeled image",
            expected="images without labels that are neither in the validation data nor copies of labeled ones",
            found="; ".join(lines) or f"the dataset has {counted(len(data.records), 'image')}, all with a mask",
            where=where or data.root,
            fix="name a folder of other images with --unlabeled, or leave self-training out",
        )
    return images


def open_unlabeled(where: str, data: Dataset) -> tuple[Split, list[str]]:
    """The images of a folder, a glob or a dataset, and what was concluded; DataError where there is none.

    Of a dataset the images are taken, and its masks are not mistaken for images.
    """
    try:
        other = open_dataset(where)
    except (FormatError, DataError):
        try:
            source = open_source(where)
        except SegwrightError as error:
            raise DataError(
                "there are no unlabeled images",
                expected="a folder, a glob or a dataset of images",
                found=error.found,
                where=where,
                fix="check the path of --unlabeled",
            ) from error
        if source.kind == "video":
            raise DataError("a video is no folder of images", where=where, fix="extract its frames first") from None
        records = [Record(f"unlabeled/{source.name(path)}", path) for path in source.files]
        reader = FileReader(data.label_space, value_range=data.value_range, bands=data.reader.bands)
        lines = [f"{len(records)} unlabeled images in {where}", *source.notes, *_same_names(source.files)]
        return Split("unlabeled", records, reader), lines
    own_reader = other.reader.changed(value_range=data.value_range, bands=data.reader.bands)
    records = [Record(f"unlabeled/{r.id}", r.image_path, None, r.payload, labeled=r.labeled) for r in other.records]
    loose = [Record(f"unlabeled/{path}", path) for path in other.unpaired_images]
    lines = [f"{len(records) + len(loose)} unlabeled images in {where}"]
    labeled = sum(bool(record.labeled) for record in records)
    if labeled:
        lines.append(f"it is a dataset ({other.format}): the masks of {labeled} images are not used")
    return Split("unlabeled", [*records, *loose], own_reader), lines


def own_unlabeled(data: Dataset) -> Split:
    """The images of the dataset without a mask, but for those of validation and test."""
    held = {record.id for name, split in data.splits.items() if name in ("val", "test") for record in split.records}
    records = [record for record in data.records if not record.labeled and record.id not in held]
    known = {record.image_path for record in data.records}
    records += [Record(f"unlabeled/{path}", path) for path in data.unpaired_images if path not in known]
    return Split("unlabeled", records, data.reader)


def _with_ignored(data: Dataset, train: Split) -> list[int]:
    """The training images whose masks have ignored pixels."""
    scan = scan_dataset(data)
    area = scan.totals.sizes.astype(np.int64).prod(axis=1)
    ignored = {
        record.id for record, left in zip(scan.records, area - scan.totals.pixels.sum(axis=1), strict=True) if left > 0
    }
    return [index for index, name in enumerate(train.ids) if name in ignored]


def _same_names(paths: Iterable[Path]) -> list[str]:
    """A line on files of one name in several folders, which may be images and their masks in an unknown layout."""
    folders: dict[str, set[str]] = {}
    for path in paths:
        folders.setdefault(path.stem, set()).add(str(path.parent))
    twice = [name for name, places in folders.items() if len(places) > 1]
    if not twice:
        return []
    places = ", ".join(sorted({Path(place).name for name in twice for place in folders[name]})[:NAMED])
    return [f"warning: {len(twice)} of them have one name in several folders ({places}): if some are masks, name the "
            "folder of the images alone"]  # fmt: skip


def _left_out(split: Split, data: Dataset, train: Split, val: Split | None) -> dict[str, str]:
    """Record id → why it is left out."""
    if len(split) == 0:
        return {}
    scan = scan_splits({"unlabeled": split}, _ImagesOnly(split.reader))
    own = scan_dataset(data)
    found: dict[str, str] = {}
    for index, error in scan.totals.file_errors:
        found.setdefault(split.records[index].id, error.kind)
    of_train = set(train.ids)
    others = [other for name, other in data.splits.items() if name not in ("train", "val")]
    held_out = {name for other in (*others, *([val] if val else [])) for name in other.ids if name not in of_train}
    keys, theirs = _keys(scan), _keys(own)
    usable = scan.totals.complete
    scored = np.array([record.id in held_out for record in own.records], np.bool_)
    copies = np.isin(keys, theirs[scored & own.totals.complete]) & usable
    near = _near_duplicates(scan, own, scored) & usable
    near |= np.isin(keys, keys[near])  # of equal images the search names one
    trained = np.array([record.id in of_train and bool(record.labeled) for record in own.records], np.bool_)
    for flags, reason in (
        (copies, "copies of validation or test images"),
        (near, "nearly the same as validation or test images"),
        (np.isin(keys, theirs[trained]) & usable, "copies of labeled training images"),
    ):
        for index in np.flatnonzero(flags).tolist():
            found.setdefault(split.records[index].id, reason)
    return found


def _keys(scan: DatasetScan) -> npt.NDArray[np.uint64]:
    """(N,): equal for images with the same pixels. The hash has 64 bits; the checksum of all pixels is mixed in."""
    return scan.totals.hashes ^ (scan.totals.crcs.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))


def _near_duplicates(scan: DatasetScan, own: DatasetScan, scored: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """(N,): whether an unlabeled image looks like one of the ``scored`` images of the dataset."""
    ours, theirs = scan.totals, own.totals
    count = len(ours.hashes)
    parts = np.concatenate([np.zeros(count, np.int64), np.ones(int(scored.sum()), np.int64)])
    pairs = find_pairs(
        np.concatenate([ours.hashes, theirs.hashes[scored]]),
        np.concatenate([ours.crcs, theirs.crcs[scored]]),
        np.concatenate([ours.thumbs, theirs.thumbs[scored]]),
        parts,
        np.concatenate([ours.gray, theirs.gray[scored]]),
    )
    found = np.zeros(count, np.bool_)
    found[[pair.first for pair in pairs if pair.first < count <= pair.second]] = True
    return found


class _ImagesOnly(Reader):
    """Another reader without its masks, which self-training does not use."""

    def __init__(self, reader: Reader) -> None:
        self.reader, self.label_space = reader, reader.label_space
        self.value_range, self.bands = reader.value_range, reader.bands

    def image(self, record: Record) -> UInt8Array:
        return self.reader.image(record)

    def values(self, record: Record) -> Values | None:
        return None

    def mask(self, record: Record) -> UInt8Array | None:
        return None

    def header(self, path: Path) -> ImageInfo:
        return self.reader.header(path)


class UnlabeledStream:
    """The unlabeled images of update after update, without end.

    Which they are, and how they are warped, is a function of seed, unlabeled epoch and position, which ``progress``
    holds; so a run that continues from a checkpoint sees the same ones. Each process takes an even number, since images
    are mixed in pairs that micro-batches and processes must not divide.
    """

    def __init__(
        self,
        images: UnlabeledImages,
        transforms: Mapping[Phase, Transform],
        *,
        seed: int,
        ratio: float,
        world: World,
        workers: int | str,
        cache: str,
        pin: bool,
    ) -> None:
        own_seed = int(np.random.SeedSequence((_STREAM, seed)).generate_state(1, np.uint64)[0] >> np.uint64(1))
        self.loader = Loader(
            images, seed=own_seed, workers=workers, cache=cache, rank=world.rank, world_size=world.size
        )
        self.transforms, self.ratio, self.world, self.pin = transforms, ratio, world, pin
        self._batches: Iterator[Batch] | None = None
        self._next: tuple[Phase, int, int, int] | None = None  # where the open iterator is

    def count(self, labeled: int) -> int:
        """Unlabeled images of one process beside ``labeled`` ones."""
        return 2 * max(1, round(self.ratio * labeled / 2))

    def take(self, phase: Phase, labeled: int, progress: Progress) -> tuple[Batch, int, int]:
        """The images of the update at ``progress``, and the unlabeled (epoch, position) after it."""
        count = self.count(labeled)
        epoch, position = progress.unlabeled_epoch, progress.unlabeled_position
        if self._batches is None or self._next != (phase, count, epoch, position):
            self._open(phase, count, epoch, position)
        batch = next(self._batches, None) if self._batches is not None else None
        if batch is None:  # the epoch is over
            epoch, position = epoch + 1, 0
            self._open(phase, count, epoch, position)
            assert self._batches is not None
            batch = next(self._batches)
        position += count * self.world.size
        self._next = (phase, count, epoch, position)
        return batch, epoch, position

    def close(self) -> None:
        """Stop the threads."""
        close = getattr(self._batches, "close", None)
        if close is not None:
            close()
        self._batches = self._next = None

    def _open(self, phase: Phase, count: int, epoch: int, position: int) -> None:
        self.close()
        self._batches = self.loader.batches(
            epoch=epoch, batch_size=count, transform=self.transforms[phase], start=position, pin=self.pin
        )
