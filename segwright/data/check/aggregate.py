"""The check's running totals: what must be kept of every image until all have been seen."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from segwright.core.types import IGNORE_INDEX
from segwright.data.check.duplicates import EXHAUSTIVE
from segwright.data.check.label_outliers import MOST
from segwright.data.check.scan import FLAT, THUMB, FileError, SampleReport, UnmappedValues
from segwright.data.records import Record
from segwright.imageio.image_info import ENDINGS

LOST_NAMED = 1000  # records that are named for a class whose objects are lost
TINY = 32  # pixels per side: below, no network has anything to look at


@dataclass(frozen=True)
class StorageKind:
    """How a file is stored."""

    format: str
    mode: str
    bits: int


class CheckAccumulator:
    """Running totals over N records; some 600 to 1,200 bytes each, most of it the thumbnail."""

    def __init__(self, names: tuple[str, ...], count: int) -> None:
        self.names = names
        self.hashes = np.zeros(count, np.uint64)
        self.crcs = np.zeros(count, np.uint32)
        self.mask_crcs = np.zeros(count, np.uint32)
        self.gray = np.zeros(count, np.float32)
        self.labeled = np.zeros(count, np.bool_)
        self.thumbs = np.zeros((count, THUMB * THUMB), np.float32 if count <= EXHAUSTIVE else np.float16)
        self.pixels = np.zeros((count, len(names)), np.uint32)  # of each class in each mask
        self.complete = np.zeros(count, np.bool_)  # image and mask, if there is one, were read
        self.sizes = np.zeros((count, 2), np.int32)
        self.file_errors: list[tuple[int, FileError]] = []
        self.shown_by: dict[int, int] = {}  # class → the first record that shows it
        self.objects: dict[int, tuple[int, int]] = {}  # class → objects listed, objects drawn
        self.lost_objects: dict[int, list[int]] = {}  # class → records with objects that cover nothing, the first ones
        self.unmapped_values: list[tuple[int, UnmappedValues]] = []
        self.image_kinds: Counter[StorageKind] = Counter()
        self.mask_kinds: Counter[StorageKind] = Counter()
        self.bits = np.zeros(count, np.uint8)  # per channel of the image file, as its header gives them; 0: not known
        self.kind_example: dict[tuple[str, StorageKind], int] = {}
        self.disguised: list[tuple[int, str, str]] = []  # (record, file, what it is)
        self.turned: list[tuple[int, int, int]] = []  # (record, orientation of the image, of the mask)
        self.unlabeled: list[int] = []
        self.gray_rgb: list[int] = []
        self.color: int = 0
        self.channels: Counter[int] = Counter()
        self.blank: list[int] = []
        self.tiny: list[int] = []
        self.all_ignored: list[int] = []
        self.lossy_masks: list[int] = []
        self.stderr: list[tuple[int, str]] = []
        self._regions: list[npt.NDArray[np.float32]] = []
        self._owners: list[int] = []
        self._rows, self._every = 0, 1

    def add(self, index: int, record: Record, found: SampleReport) -> None:
        """Add what the record at ``index`` shows."""
        self.complete[index] = found.complete
        self.file_errors += [(index, error) for error in found.file_errors]
        if found.unmapped is not None:
            self.unmapped_values.append((index, found.unmapped))
        for label, (listed, drawn) in found.objects.items():
            before = self.objects.get(label, (0, 0))
            self.objects[label] = (before[0] + listed, before[1] + drawn)
            if drawn < listed and len(self.lost_objects.setdefault(label, [])) < LOST_NAMED:
                self.lost_objects[label].append(index)
        if found.stderr and not found.file_errors:
            self.stderr.append((index, found.stderr))
        self._add_headers(index, record, found)
        if found.size is not None:
            self._add_image(index, found)
        if found.counts is not None:
            self.labeled[index], self.mask_crcs[index] = True, found.mask_crc
            self.pixels[index] = found.counts[: len(self.names)]
            for label in np.flatnonzero(found.counts[: len(self.names)]).tolist():
                self.shown_by[label] = min(index, self.shown_by.get(label, index))
            if found.counts[: len(self.names)].sum() == 0 and found.counts[IGNORE_INDEX] > 0:
                self.all_ignored.append(index)
        elif not found.unmapped and not found.file_errors:
            self.unlabeled.append(index)
        if found.regions is not None and len(found.regions) and index % self._every == 0:
            self._regions.append(found.regions)
            self._owners.append(index)
            self._rows += len(found.regions)
            if self._rows > MOST:
                self._thin()

    def _add_headers(self, index: int, record: Record, found: SampleReport) -> None:
        for role, info, path in (("image", found.image, record.image_path), ("mask", found.mask, record.mask_path)):
            if info is None or path is None:
                continue
            kind = StorageKind(info.format, info.mode, info.bits)
            (self.image_kinds if role == "image" else self.mask_kinds)[kind] += 1
            self.kind_example.setdefault((role, kind), index)
            if path.suffix.lower() not in ENDINGS[info.format]:
                self.disguised.append((index, str(path), info.format))
            if role == "image":
                self.bits[index] = info.bits
            if role == "mask" and info.format == "JPEG":
                self.lossy_masks.append(index)
        turned = found.image.orientation if found.image else 1
        mask_turned = found.mask.orientation if found.mask else 1
        if turned != mask_turned and found.mask is not None:
            self.turned.append((index, turned, mask_turned))

    def _add_image(self, index: int, found: SampleReport) -> None:
        assert found.size is not None
        self.sizes[index] = found.size
        self.hashes[index], self.crcs[index], self.gray[index] = found.hash, found.crc, found.gray
        if found.thumb is not None:
            self.thumbs[index] = found.thumb
        self.channels[found.channels] += 1
        deep = found.image is not None and found.image.mode in ("L", "LA", "1", "I;16", "LA;16", "F", "I")
        if found.gray_rgb and not deep:
            self.gray_rgb.append(index)
        elif found.channels == 3 and not deep:
            self.color += 1
        if max(found.std, default=FLAT) < FLAT:
            self.blank.append(index)
        if min(found.size) < TINY:
            self.tiny.append(index)

    def _thin(self) -> None:
        """Keep the regions of every other image only."""
        self._every *= 2
        kept = [i for i, owner in enumerate(self._owners) if owner % self._every == 0]
        self._regions = [self._regions[i] for i in kept]
        self._owners = [self._owners[i] for i in kept]
        self._rows = sum(len(rows) for rows in self._regions)

    def regions(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """All kept regions (n, 11), and the record of each."""
        if not self._regions:
            return np.zeros((0, 11), np.float32), np.zeros(0, np.int64)
        order = np.argsort(self._owners, kind="stable")  # results come in no fixed order; the ranking must not show it
        rows = [self._regions[i] for i in order]
        return np.concatenate(rows), np.repeat(np.array(self._owners)[order], [len(part) for part in rows])
