"""WebDataset: tar shards in which a sample is the files of one name, ``x.jpg`` and ``x.png`` (or ``x.mask.png``).

The shards are indexed once by their headers; a file is then read at its offset, so that any order is possible. Shards
named for a split (``train-000000.tar``, ``val/000.tar``) make that split. Compressed shards have no offsets and are
refused. Class names come from a class list beside the shards or inside the first.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from segwright.core.counted import counted
from segwright.core.errors import DataError, FormatError
from segwright.core.progress import track
from segwright.data.formats.base import Format, sort_splits, unique_ids
from segwright.data.formats.file_tree import Tree, is_image
from segwright.data.formats.mask_encoding import encoding_of
from segwright.data.formats.mask_histogram import look_at_bytes, mask_value_histogram
from segwright.data.formats.parquet import _split as split_of
from segwright.data.formats.writing import OutputSample, write_classes
from segwright.data.readers import FileReader
from segwright.data.records import Dataset, Problem, Record
from segwright.data.tar_headers import TarHeaderError, entries
from segwright.imageio import UInt8Array, decode_image

MASK_ENDINGS = ("mask.png", "seg.png", "label.png", "gt.png", "segmentation.png", "semantic.png", "annotation.png")
_PHOTO_ENDINGS = ("jpg", "jpeg", "webp", "png")
IMAGE_ENDINGS = ("jpg", "jpeg", "webp", *(f"{role}.{ending}" for role in ("image", "img", "input", "rgb")
                 for ending in _PHOTO_ENDINGS), "png", "tif", "tiff", "bmp", "ppm")  # fmt: skip
MAX_MEMBERS = 20_000_000


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a shard."""

    shard: str
    name: str
    offset: int
    size: int

    def read(self, limit: int) -> bytes:
        if self.size > limit:
            raise DataError("a file in the shard is larger than the limit", expected=f"{limit} bytes",
                            found=str(self.size), where=f"{self.shard}, {self.name}")  # fmt: skip
        try:
            with open(self.shard, "rb") as file:
                file.seek(self.offset)
                data = file.read(self.size)
        except OSError as error:
            raise DataError("cannot read the shard", found=str(error.strerror), where=self.shard) from error
        if len(data) < self.size:
            raise DataError("the shard breaks off", expected=f"{self.size} bytes", found=str(len(data)),
                            where=f"{self.shard}, {self.name}", fix="copy it again")  # fmt: skip
        return data


@dataclass(frozen=True, slots=True)
class ShardSample:
    image: Member
    mask: Member | None


SHARD_BYTES = 500_000_000
SHARD_SAMPLES = 5_000


class ShardReader(FileReader):
    def image(self, record: Record) -> UInt8Array:
        member = record.payload.image
        return decode_image(member.read(self.limits.max_bytes), f"{member.shard}, {member.name}", self.limits)

    def read_mask_values(self, record: Record) -> npt.NDArray[Any] | None:
        member = record.payload.mask
        if member is None:
            return None
        where = f"{member.shard}, {member.name}"
        return self.decode_file(member.read(self.limits.max_bytes), where)


def _shards(tree: Tree) -> list[tuple[str, Path]]:
    if tree.is_file:
        return [("", tree.root)] if tree.root.suffix.lower() == ".tar" else []
    return [
        (relative, Path(listing.path, name))
        for relative, listing in tree.walk(depth=1)
        for name in listing.files
        if name.lower().endswith(".tar")
    ]


def detect(tree: Tree) -> str | None:
    shards = _shards(tree)
    return f"{len(shards)} tar shards" if shards else None


def _index(path: Path) -> tuple[dict[str, dict[str, Member]], list[str]]:
    """Sample name → ending → file, of one shard; and what in it is no file."""
    samples: dict[str, dict[str, Member]] = {}
    other: list[str] = []
    try:
        with open(path, "rb") as archive:
            for count, entry in enumerate(entries(archive, os.fstat(archive.fileno()).st_size)):
                if count > MAX_MEMBERS:
                    raise FormatError("the shard holds too many files", found=f"more than {MAX_MEMBERS}", where=path)
                folder, name = os.path.split(entry.name)
                if entry.kind == "folder" or name.startswith("."):
                    continue
                if entry.kind != "file":
                    other.append(f"{path}, {entry.name} ({entry.kind})")
                    continue
                stem, _, ending = name.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                samples.setdefault(key, {})[ending.lower()] = Member(str(path), entry.name, entry.offset, entry.size)
    except (TarHeaderError, OSError) as error:
        raise FormatError("not a plain tar file", expected="a whole, uncompressed tar", found=str(error), where=path,
                          fix="unpack a compressed shard, or download it again") from error  # fmt: skip
    return samples, other


def _pair(files: dict[str, Member]) -> ShardSample | None:
    mask = next((files[ending] for ending in MASK_ENDINGS if ending in files), None)
    image = next((files[e] for e in IMAGE_ENDINGS if e in files and files[e] is not mask), None)
    if image is None:
        return None
    if mask is None and not image.name.lower().endswith(".png"):
        mask = files.get("png")
    return ShardSample(image, mask)


def open_webdataset(tree: Tree) -> Dataset:
    shards = _shards(tree)
    if not shards:
        raise FormatError("no shard", expected="*.tar", found=tree.summary(), where=tree.root)
    names: list[tuple[str, str, str]] = []
    found: list[tuple[str | None, ShardSample]] = []
    lone: list[str] = []
    other: list[str] = []
    for relative, path in track(shards, "indexing shards"):
        split = split_of(relative, path.name)
        samples, links = _index(path)
        other += links
        for key, files in samples.items():
            pair = _pair(files)
            if pair is None:
                lone += [f"{path}, {m.name}" for m in files.values() if is_image(m.name)]
                continue
            folder, _, stem = key.rpartition("/")
            names.append((f"{split or path.stem}/{folder}".rstrip("/"), stem, f"@{path.stem}"))
            found.append((split, pair))
    ids = unique_ids(names)
    records = tuple(
        Record(name, None, None, pair, labeled=pair.mask is not None)
        for name, (_, pair) in zip(ids, found, strict=True)
    )
    given: dict[str, list[Record]] = {}
    for record, (split, _) in zip(records, found, strict=True):
        if split is not None:
            given.setdefault(split, []).append(record)
    masks = [pair.mask for _, pair in found if pair.mask is not None]
    if not masks:
        raise FormatError("the shards hold no pairs", expected="x.jpg with x.png or x.mask.png",
                          found=f"{counted(len(records), 'image')} without masks", where=tree.root)  # fmt: skip

    def read(index: int) -> tuple[bytes, str]:
        member = masks[index]
        return member.read(2_000_000_000), f"{member.shard}, {member.name}"

    beside = Tree(tree.root.parent).folder() if tree.is_file else tree.folder()
    coding = encoding_of(mask_value_histogram(len(masks), read, decode=look_at_bytes), [beside], tree.root)
    problems = list(coding.problems)
    bare = tuple(record.id for record in records if record.payload.mask is None)
    if bare:
        problems.append(Problem("warning", "image without mask", f"{counted(len(bare), 'image', 'has')} no mask", bare))
    if other:
        text = f"{len(other)} entries of the shards are links or other things that are no files, and are not read"
        problems.append(Problem("warning", "special file", text, tuple(other)))
    if lone:
        problems.append(
            Problem("warning", "mask without image", f"{counted(len(lone), 'mask', 'has')} no image", tuple(lone))
        )
    return Dataset(
        root=tree.root,
        format="webdataset",
        reader=ShardReader(coding.label_space, coding.color_table, source=coding.source),
        records=records,
        given=sort_splits(given),
        notes=[f"{len(shards)} shards", *coding.notes],
        problems=problems,
    )


def write_webdataset(dataset: Dataset, samples: Iterator[OutputSample], out: Path) -> None:
    """[split]-000000.tar with x.jpg and x.mask.png, classes.csv beside; the same data give the same bytes."""
    palette = dataset.label_space.palette()
    shards: dict[str, _Shards] = {}
    try:
        for sample in samples:
            data, ending = sample.image
            files = [(f"{sample.name}{ending}", data)]
            mask = sample.mask_png(palette)
            if mask is not None:
                files.append((f"{sample.name}.mask.png", mask))
            split = sample.split or "shard"
            shards.setdefault(split, _Shards(out, split)).add(files)
    finally:
        for shard in shards.values():
            shard.close()
    write_classes(dataset, out)


class _Shards:
    """The tar files of one split."""

    def __init__(self, out: Path, split: str) -> None:
        self.out, self.split = out, split
        self.number = self.samples = self.bytes = 0
        self.archive: tarfile.TarFile | None = None

    def add(self, files: list[tuple[str, bytes]]) -> None:
        if self.samples >= SHARD_SAMPLES or self.bytes >= SHARD_BYTES:
            self.close()
        if self.archive is None:
            path = self.out / f"{self.split}-{self.number:06d}.tar"
            self.archive = tarfile.open(path, "w:", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - closed in close()
        for name, data in files:
            info = tarfile.TarInfo(name)  # owner and time stay empty, so that the bytes depend on the data alone
            info.size = len(data)
            self.archive.addfile(info, io.BytesIO(data))
            self.bytes += len(data)
        self.samples += 1

    def close(self) -> None:
        if self.archive is not None:
            self.archive.close()
            self.archive = None
            self.number, self.samples, self.bytes = self.number + 1, 0, 0


FORMAT = Format(
    "webdataset", "WebDataset", "*.tar shards with x.jpg and x.png", detect, open_webdataset, writer=write_webdataset
)
