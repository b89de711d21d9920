"""One reading of every file of a dataset, for everything that needs its content: the check, the plan, splits, sampling.

Files are read once, in worker processes that a broken file may crash (:mod:`segwright.imageio.sandbox`). The scan is
kept with the dataset (``Dataset.cache``) and used again as long as no file has changed since.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from segwright.core.progress import progress
from segwright.data.check.aggregate import CheckAccumulator
from segwright.data.check.fingerprint import Fingerprint, FingerprintAccumulator
from segwright.data.check.scan import FileError, SampleReport, examiner
from segwright.data.records import Dataset, Reader, Record, Split, evenly_spread
from segwright.imageio.sandbox import WorkerPool
from segwright.kernels.threads import processors

KEY = "scan"
LEAST = 4  # images of each split that are read, however short the time
GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class DatasetScan:
    """What the N records of a dataset hold. Row i of every array in ``totals`` belongs to ``records[i]``.

    Rows of records that were not ``examined``, because the time for reading was over, are zero.
    """

    records: tuple[Record, ...]
    member: tuple[tuple[str, ...], ...]  # the splits that each record is in
    totals: CheckAccumulator
    overall: Fingerprint
    by_split: Mapping[str, Fingerprint]
    examined: npt.NDArray[np.bool_]  # (N,)

    @cached_property
    def _place(self) -> dict[str, int]:
        return {record.id: index for index, record in enumerate(self.records)}

    def rows(self, split: Split) -> npt.NDArray[np.intp] | None:
        """The row of each record of ``split``; None if the scan lacks one of them."""
        found = [self._place.get(name, -1) for name in split.ids]
        return None if -1 in found else np.array(found, np.intp)


@dataclass(frozen=True)
class _Kept:
    """A scan, and what it is of: used again while the dataset has the same parts and no file has changed."""

    scan: DatasetScan
    parts: tuple[object, ...]
    stamps: bytes

    def fits(self, dataset: Dataset) -> bool:
        same = all(a is b for a, b in zip(self.parts, _parts(dataset), strict=True))
        return same and self.stamps == _stamps(dataset)


def scan_dataset(dataset: Dataset, *, workers: int | None = None, seconds: float | None = None) -> DatasetScan:
    """The scan of the dataset's given splits, or of all records; made once, and again if a file has changed.

    ``workers``: worker processes, as many as cores if None; 0 reads in this process. ``seconds``: a limit for reading.
    If it is not enough for all, images spread over every split are read, at least :data:`LEAST` of each; such a scan is
    not kept, since splits are made from whole ones.
    """
    until = None if seconds is None else time.monotonic() + seconds
    kept: _Kept | None = dataset.cache.get(KEY)
    if kept is None or not kept.fits(dataset):
        stamps = _stamps(dataset)
        found = scan_splits(given_splits(dataset), dataset.reader, workers=workers, until=until)
        if not found.examined.all():
            return found
        kept = dataset.cache[KEY] = _Kept(found, _parts(dataset), stamps)
    return kept.scan


def existing_scan(dataset: Dataset) -> DatasetScan | None:
    """The scan that was made of the dataset before; None if there is none."""
    kept: _Kept | None = dataset.cache.get(KEY)
    return None if kept is None else kept.scan


def _parts(dataset: Dataset) -> tuple[object, ...]:
    return dataset.reader, dataset.label_space, dataset.records, dataset.given


def scan_splits(
    splits: Mapping[str, Split], reader: Reader, *, workers: int | None = None, until: float | None = None
) -> DatasetScan:
    """Read every image and mask of the splits once; ``until``: as long as there is time, by ``time.monotonic()``."""
    records, member = _records(splits)
    names = reader.label_space.names
    totals = CheckAccumulator(names, len(records))
    accumulators = {name: FingerprintAccumulator(names, images=len(split)) for name, split in splits.items()}
    whole = FingerprintAccumulator(names, images=len(records))
    place = {record.id: index for index, record in enumerate(records)}
    examined = np.zeros(len(records), np.bool_)
    wanted: Iterable[Record] = records if until is None else _while_time_is_left(records, member, until)
    with progress("checking", len(records)) as advance:
        for record, found in _reports(reader, wanted, len(records), workers):
            index = place[record.id]
            examined[index] = True
            totals.add(index, record, found)
            whole.add(found)
            for name in member[index]:
                accumulators[name].add(found)
            advance(1)
    # Which of the others have a mask is known without reading them.
    totals.unlabeled += [i for i in np.flatnonzero(~examined).tolist() if not records[i].labeled]
    prints = {name: accumulator.fingerprint() for name, accumulator in accumulators.items()}
    return DatasetScan(tuple(records), tuple(map(tuple, member)), totals, whole.fingerprint(), prints, examined)


def _while_time_is_left(records: Sequence[Record], member: Sequence[Sequence[str]], until: float) -> Iterator[Record]:
    """Records in an order of which every beginning is spread evenly, the least of each split first.

    Multiples of the golden ratio are spread so whatever their number, and follow no period of the files' order.
    """
    places: dict[str, list[int]] = {}
    for index, names in enumerate(member):
        for name in names:
            places.setdefault(name, []).append(index)
    first = [of_split[i] for of_split in places.values() for i in evenly_spread(len(of_split), LEAST)]
    rest = np.argsort(np.arange(len(records)) * GOLDEN % 1.0, kind="stable").tolist()
    least = set(first)
    for index in dict.fromkeys([*first, *rest]):
        if index not in least and time.monotonic() >= until:
            return
        yield records[index]


def given_splits(dataset: Dataset) -> dict[str, Split]:
    """The splits that the files name. Made ones are left out: they are right by construction, and need this scan."""
    if not dataset.given:
        return {"all": dataset.all}
    return {name: Split(name, records, dataset.reader) for name, records in dataset.given.items()}


def _records(splits: Mapping[str, Split]) -> tuple[list[Record], list[list[str]]]:
    """Every record once, and the splits that it is in (trainval repeats train)."""
    records: dict[str, Record] = {}
    member: dict[str, list[str]] = {}
    for name, split in splits.items():
        for record in split.records:
            records.setdefault(record.id, record)
            member.setdefault(record.id, []).append(name)
    return list(records.values()), list(member.values())


def _stamps(dataset: Dataset) -> bytes:
    """A digest of the names, sizes and times of all files of the dataset."""
    digest = hashlib.blake2b(digest_size=16)
    paths: dict[Path, None] = {}
    for records in (dataset.records, *dataset.given.values()):
        for record in records:
            paths |= {path: None for path in (record.image_path, record.mask_path) if path is not None}
    for path in paths:
        try:
            status = os.stat(path)
            digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape"))
        except (OSError, ValueError):
            digest.update(f"{path}\0\n".encode(errors="surrogateescape"))
    return digest.digest()


def _reports(
    reader: Reader, records: Iterable[Record], most: int, workers: int | None
) -> Iterator[tuple[Record, SampleReport]]:
    """Up to ``most`` records with what they show, in no fixed order."""
    if workers == 0:
        look = examiner(reader)
        yield from ((record, look(record)) for record in records)
        return
    count = max(1, min(workers or processors(), -(-most // 4)))
    with WorkerPool[Record, SampleReport](examiner, reader, count=count, result=SampleReport, shared=True) as pool:
        for outcome in pool.map(records):
            found = outcome.result
            if found is None:
                found = _failed(outcome.item, outcome.crash, outcome.error)
            found.stderr = outcome.stderr
            yield outcome.item, found


def _failed(record: Record, crash: str | None, error: Exception | None) -> SampleReport:
    """The report of a file that crashed its worker, or raised an unexpected error."""
    file = str(record.image_path or record.id)
    if crash is not None:
        fix = "move it away, and do not open it with other tools"
        failure = FileError("kills the decoder", f"the process that read it ended ({crash})", file, fix)
    else:
        failure = FileError("unreadable file", f"{type(error).__name__}: {error}", file)
    return SampleReport(record.id, file_errors=[failure])
