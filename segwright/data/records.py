"""Records, readers that turn a record into pixels, splits, and the dataset.

Nothing here depends on a format. A format (:mod:`segwright.data.formats`) makes the records from the files and brings a
reader; everything downstream sees :class:`Dataset` and :class:`Split` only. Readers and splits pickle, so that a worker
process can take its share along.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol, Self, overload

import cv2
import numpy as np
import numpy.typing as npt

from segwright.core.counted import counted
from segwright.core.deprecated import renamed_attribute
from segwright.core.errors import DataError, DepthError, LabelError, SegwrightError, UsageError
from segwright.core.types import Color, LabelSpace, Sample
from segwright.imageio import ImageInfo, UInt8Array, read_header

Severity = Literal["error", "warning", "note"]
Values = npt.NDArray[np.int32]  # H×W of what a mask file holds before the label map; -1 where it has no meaning


@dataclass(frozen=True, slots=True)
class Record:
    """One image and where its mask is; the pixels stay on the disk."""

    id: str  # unique in its dataset, from the file's name
    image_path: Path | None  # None where the image lies inside an archive
    mask_path: Path | None = None  # None where there is no mask, or none of its own (one JSON for all, an archive)
    payload: Any = None  # what the format's reader needs besides: annotations, a row number, an offset; picklable
    # Whether there is a mask. A format whose images without a mask have a payload sets this; by default a mask file or
    # a payload is a mask.
    labeled: bool | None = None

    def __post_init__(self) -> None:
        if self.labeled is None:
            object.__setattr__(self, "labeled", self.mask_path is not None or self.payload is not None)


@dataclass(frozen=True)
class Problem:
    """Something found while opening that does not keep the rest from being used."""

    severity: Severity
    kind: str  # e.g. "image without mask"
    message: str
    files: tuple[str, ...] = ()
    fix: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "severity": self.severity,
            "kind": self.kind,
            "files": list(self.files),
            "message": self.message,
            "fix": self.fix,
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Problem:
        """The inverse of :meth:`to_json`."""
        return cls(found["severity"], found["kind"], found["message"], tuple(found["files"]), found["fix"])


@dataclass(frozen=True)
class ValueRange:
    """How images that are not 8 bit become 8 bit: ``low`` → 0, ``high`` → 255, linear and clipped.

    One value for all channels or one a channel. It belongs to the dataset, not to the single image: two images of
    the same scene stay comparable, and a model saves the range with its weights.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def of(cls, low: float | Sequence[float], high: float | Sequence[float]) -> ValueRange:
        """A range from single numbers, or from one number per channel."""
        lows = tuple(float(v) for v in low) if isinstance(low, Sequence) else (float(low),)
        highs = tuple(float(v) for v in high) if isinstance(high, Sequence) else (float(high),)
        return cls(lows, highs)

    def __post_init__(self) -> None:
        if len(self.low) != len(self.high) or not self.low:
            raise UsageError("a value range has as many lows as highs", found=f"{len(self.low)} and {len(self.high)}")
        if any(not np.isfinite(a) or not np.isfinite(b) or b <= a for a, b in zip(self.low, self.high, strict=True)):
            raise UsageError("a value range goes from low to a higher high", found=f"{self.low} to {self.high}")

    def apply(self, image: npt.NDArray[Any]) -> UInt8Array:
        """H×W×C of any number type to uint8; NaN (no data) becomes 0."""
        low, high = np.asarray(self.low, np.float32), np.asarray(self.high, np.float32)
        if low.size not in (1, image.shape[2]):
            raise DataError(
                "the value range does not fit the image",
                expected=f"{low.size} channels",
                found=f"{image.shape[2]} channels",
            )
        scaled = (image.astype(np.float32) - low) * (255.0 / (high - low))
        return np.clip(np.nan_to_num(scaled, nan=0.0, posinf=255.0, neginf=0.0) + 0.5, 0, 255).astype(np.uint8)

    def scale(
        self, image: npt.NDArray[Any], where: str | Path | None = None, eight_bit: str | None = None
    ) -> UInt8Array:
        """:meth:`apply` for an image that may be 8 bit already; ``eight_bit`` selects how that is read.

        "scaled": its values are already what the range gives, 0 to 255. "raw": they are in the units of the range. Left
        out, the reading is taken where it is certain; DepthError with both readings where it is not.
        """
        if image.dtype != np.uint8:
            return self.apply(image)
        reading = eight_bit or self.eight_bit_reading()
        if reading == "scaled":
            return np.asarray(image, np.uint8)
        if reading == "raw":
            return self.apply(image)
        raise DepthError(
            "an 8-bit image for a model of deeper ones: its values can be read in two ways",
            expected=f"more than 8 bits, as in training, where {min(self.low):g} became 0 and {max(self.high):g} "
            "became 255",
            found=f"8 bits, values {int(image.min())} to {int(image.max())}",
            where=where,
            fix="--eight-bit scaled if the values were brought to 0…255 over that range, --eight-bit raw if they are "
            "in the same units as the range (eight_bit= in Python); or give the original file",
        )

    def eight_bit_reading(self) -> str | None:
        """How 8-bit values are certainly meant under this range, "scaled" or "raw"; None where both may be."""
        if all(low == 0 and high in (1, 255) for low, high in zip(self.low, self.high, strict=True)):
            return "scaled"  # floating point from 0 to 1, which 8 bits spread over 0…255; 0…255 is the identity
        if all(low >= 0 and high <= 255 for low, high in zip(self.low, self.high, strict=True)):
            return "raw"  # deeper files whose values fit 8 bits
        return None

    def among_deeper(self, image: UInt8Array) -> UInt8Array:
        """An 8-bit image of a dataset whose other images are deeper: as it is, unless it is certainly unscaled."""
        return self.apply(image) if self.eight_bit_reading() == "raw" else image

    def to_json(self) -> dict[str, list[float]]:
        return {"low": list(self.low), "high": list(self.high)}

    @classmethod
    def from_json(cls, data: Mapping[str, Sequence[float]]) -> ValueRange:
        return cls.of(data["low"], data["high"])


@dataclass(frozen=True, slots=True)
class ObjectCount:
    """The annotated objects of one class in one record, and how many of them cover a pixel of the image."""

    listed: int
    drawn: int


class TypedErrors:
    """A context in which only typed errors leave: DataError naming the file for any other exception.

    The file formats of others and the libraries that read them raise whatever they like on broken input.
    """

    def __init__(self, what: str, where: str | Path | None) -> None:
        self.what, self.where = what, where

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, SegwrightError) or not isinstance(error, Exception):
            return
        if isinstance(error, MemoryError):
            raise DataError(
                f"{self.what} takes more memory than there is", where=self.where, fix="move the file away"
            ) from error
        found = f"{type(error).__name__}: {error}"
        raise DataError(f"{self.what} failed", found=found[:300], where=self.where, fix="export it again") from error


class ColorTable(Protocol):
    """Colors of a color-coded mask; a color's row is its file value."""

    @property
    def colors(self) -> tuple[Color, ...]: ...


class Reader(ABC):
    """Turns a record into pixels; stateless except for caches, and picklable.

    A format implements the three abstract methods; the others have defaults that fit images and masks in files of 8
    bits. :class:`segwright.data.readers.FileReader` is the base of all readers of this package.
    """

    label_space: LabelSpace
    value_range: ValueRange | None = None  # how images become 8 bit; None: they are 8 bit
    bands: int | None = None  # bands of the images; None: they are read as RGB
    color_table: ColorTable | None = None  # of color-coded masks; None: masks hold indices

    @abstractmethod
    def image(self, record: Record) -> UInt8Array:
        """uint8 H×W×C; ImageReadError naming the file."""

    @abstractmethod
    def values(self, record: Record) -> Values | None:
        """H×W file values before the label map, -1 where a value has no meaning; None without a mask."""

    @abstractmethod
    def mask(self, record: Record) -> UInt8Array | None:
        """uint8 H×W class indices; LabelError where a value is not in the label map; None without a mask."""

    @property
    def partial(self) -> bool:
        """Whether the annotations are known to leave a part of some images without labels."""
        return False

    def is_full_file(self, record: Record) -> bool:
        """Whether the record's image is all of its file, and no page or tile."""
        return True

    def read_bands(self, record: Record) -> npt.NDArray[Any]:
        """H×W×C in the number type of the file."""
        return self.image(record)

    def header(self, path: Path) -> ImageInfo:
        """The header of an image or mask file."""
        return read_header(path)

    def georeference_mismatch(self, record: Record) -> LabelError | None:
        """The error if image and mask lie at different places on the ground; for the check."""
        return None

    def object_counts(self, record: Record) -> Mapping[int, ObjectCount] | None:
        """Class index (255: ignored) → annotated objects; None for formats without single objects."""
        return None

    def changed(self, **changes: Any) -> Self:
        """A copy with another ``label_space`` or ``value_range``."""
        other = copy.copy(self)
        for name, value in changes.items():
            setattr(other, name, value)
        return other


class Split(Sequence[Sample]):
    """Some of a dataset's records under a name; indexing reads the pixels."""

    def __init__(self, name: str, records: Sequence[Record], reader: Reader) -> None:
        self.name = name
        self.records = tuple(records)
        self.reader = reader
        self.note = ""  # what a reader of its scores must know

    @property
    def label_space(self) -> LabelSpace:
        return self.reader.label_space

    @cached_property
    def ids(self) -> tuple[str, ...]:
        return tuple(record.id for record in self.records)

    def __len__(self) -> int:
        return len(self.records)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Split: ...
    def __getitem__(self, index: int | slice) -> Sample | Split:
        if isinstance(index, slice):
            return Split(self.name, self.records[index], self.reader)
        record = self.records[index]
        image = self.read_image(index)
        return Sample(record.id, image, self.read_mask(index), record.image_path, record.mask_path)

    def read_image(self, index: int) -> UInt8Array:
        """uint8 H×W×C."""
        record = self.records[index]
        with TypedErrors("reading the image", record.image_path or record.id):
            return self.reader.image(record)

    def read_mask(self, index: int) -> UInt8Array | None:
        """uint8 H×W class indices, 255 where ignored; None where there is no mask."""
        record = self.records[index]
        with TypedErrors("reading the label mask", _label_source(record)):
            return self.reader.mask(record)

    def read_values(self, index: int) -> Values | None:
        """H×W values of the mask file before the label map; -1 for a color in no table. For the data check."""
        record = self.records[index]
        with TypedErrors("reading the label mask", _label_source(record)):
            return self.reader.values(record)

    def subset(self, indices: Sequence[int], name: str) -> Split:
        """The records at ``indices``, in that order, under a new name."""
        return Split(name, [self.records[int(i)] for i in indices], self.reader)

    def nested(self, count: int) -> Split:
        """``count`` of the records by :func:`nested_spread`, or the split itself if it has no more."""
        return self if count >= len(self) else self.subset(nested_spread(len(self), count), self.name)

    def __repr__(self) -> str:
        return f"Split({self.name!r}, {counted(len(self), 'image')})"


def _label_source(record: Record) -> str | Path:
    return record.mask_path or (record.payload if isinstance(record.payload, Path) else record.image_path or record.id)


SplitMaker = Callable[["Dataset"], "dict[str, Split]"]


@dataclass
class Dataset:
    """An opened dataset: its format, label map, records and splits.

    ``given`` holds the splits that the files name. Where they name none, or no validation part, :attr:`splits` makes
    them on first use (:mod:`segwright.data.splits`). ``notes`` list what was found and what was concluded from it.
    """

    root: Path
    format: str
    reader: Reader
    records: tuple[Record, ...]  # everything, each once
    given: Mapping[str, Sequence[Record]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    unpaired_images: tuple[Path, ...] = ()
    unpaired_masks: tuple[Path, ...] = ()
    split_maker: SplitMaker | None = field(default=None, repr=False)
    cache: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)  # what reading it found

    @property
    def label_space(self) -> LabelSpace:
        return self.reader.label_space

    @property
    def partial(self) -> bool:
        """Whether some images are labeled in part alone: what no annotation covers there is ignored."""
        return self.reader.partial

    @property
    def value_range(self) -> ValueRange | None:
        """How images become 8 bit; None where they are 8 bit already."""
        return self.reader.value_range

    @cached_property
    def splits(self) -> dict[str, Split]:
        """Name → split: as the files name them, or made if they name none."""
        if self.split_maker is not None:
            with TypedErrors("dividing the dataset into splits", self.root):
                return self.split_maker(self)
        if self.given:
            return {name: Split(name, records, self.reader) for name, records in self.given.items()}
        return {"all": self.all}

    @cached_property
    def all(self) -> Split:
        """All records as one split."""
        return Split("all", self.records, self.reader)

    @property
    def train(self) -> Split:
        return self._split("train")

    @property
    def val(self) -> Split:
        return self._split("val")

    @property
    def test(self) -> Split:
        return self._split("test")

    def with_label_space(self, label_space: LabelSpace) -> Dataset:
        """The same data under another label map: classes merged, renamed or ignored; splits stay as they are.

        The map's file values are those of :meth:`Split.read_values`: for masks in files what the files hold, for drawn
        ones the class indices of the dataset's own label space.
        """
        return self._with_reader(label_space=label_space)

    relabeled = renamed_attribute("relabeled", "with_label_space")

    def with_value_range(self, value_range: ValueRange) -> Dataset:
        """The same data with another range for images that are not 8 bit, such as the one a model saved."""
        if self.value_range is None:
            raise UsageError("the images are 8 bit already", where=self.root)
        return self._with_reader(value_range=value_range)

    def _with_reader(self, **changes: Any) -> Dataset:
        reader = self.reader.changed(**changes)
        parts = {name: split.records for name, split in self.splits.items() if set(self.splits) != {"all"}}
        return replace(self, reader=reader, given=parts, notes=list(self.notes), split_maker=None)

    def _split(self, name: str) -> Split:
        splits = self.splits
        if name in splits:
            return splits[name]
        if name == "train" and set(splits) == {"all"}:
            return splits["all"]
        raise DataError(
            f"the dataset has no split {name!r}",
            expected=name,
            found=", ".join(f"{split.name} ({len(split)})" for split in splits.values()) or "no split",
            where=self.root,
            fix="put the images into folders train, val and test, or list them in train.txt and val.txt; "
            "where the command has --split, it takes one of those found",
        )

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.all)


def evenly_spread(count: int, at_most: int) -> list[int]:
    """Up to ``at_most`` of the indices 0…count-1, in order, from the first to the last; none of an empty split."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, at_most))})


def nested_spread(count: int, at_most: int) -> list[int]:
    """As :func:`evenly_spread`, but fewer are always some of more: scores on both then have images in common.

    Each further index halves a gap (the van der Corput sequence), so the spread is a little less even.
    """
    bits = max(count - 1, 1).bit_length()
    order = (int(f"{place:0{bits}b}"[::-1], 2) for place in range(1 << bits))
    return sorted(islice((index for index in order if index < count), max(at_most, 0)))


def apply_lookup(values: npt.NDArray[Any], lookup: npt.NDArray[np.int32], where: str | Path | None) -> UInt8Array:
    """H×W file values to class indices by ``LabelSpace.lookup()``; LabelError with the stray values and their share.

    uint8 values go through two tables of OpenCV, some ten times faster than indexing; that is the common case.
    """
    if values.dtype == np.uint8:
        table = lookup[:256]
        stray = cv2.LUT(values, (table < 0).astype(np.uint8))
        if not stray.any():
            return np.asarray(cv2.LUT(values, np.where(table < 0, 0, table).astype(np.uint8)), np.uint8)
        raise _stray_values(values, stray.astype(bool), lookup, where)
    inside = (values >= 0) & (values < lookup.size)
    indices = np.where(inside, lookup[np.where(inside, values, 0)], -1)
    if (indices < 0).any():
        raise _stray_values(values, indices < 0, lookup, where)
    return indices.astype(np.uint8)


def _stray_values(
    values: npt.NDArray[Any], stray: npt.NDArray[np.bool_], lookup: npt.NDArray[np.int32], where: str | Path | None
) -> LabelError:
    found, counts = np.unique(values[stray], return_counts=True)
    share = 100.0 * float(stray.sum()) / values.size
    listed = ", ".join(str(v) if v >= 0 else "a color of no class" for v in found[:8].tolist())
    return LabelError(
        "the mask holds values outside the classes",
        expected=f"one of {_spans(np.flatnonzero(lookup >= 0).tolist())}",
        found=f"{listed}{', …' if len(found) > 8 else ''} in {int(counts.sum())} pixels ({share:.3g} %)",
        where=where,
        fix="correct the mask, or name every value in classes.txt or classes.json beside the data"
        + (": '0 background' if 0 is one more class, '0 ignore' if it is not labeled" if 0 in found else ""),
    )


def _spans(values: Sequence[int]) -> str:
    """0–20, 255"""
    spans: list[list[int]] = []
    for value in values:
        if spans and value == spans[-1][1] + 1:
            spans[-1][1] = value
        else:
            spans.append([value, value])
    text = [f"{a}" if a == b else f"{a}–{b}" for a, b in spans]
    return ", ".join(text[:12]) + (", …" if len(text) > 12 else "")
