"""Images of a run on several machines, in blocks: what is done together, written together and recorded together.

The folder ``_segwright`` beside the outputs has the run's settings, the names that it writes, and a record per finished
block. A record is written after the block's outputs and makes them count. Its name, and those of its Parquet files, are
made of the block's images, so a block that is done again writes over itself.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segwright.core.errors import DataError, UsageError
from segwright.inference.destination import Destination
from segwright.inference.ledger import compare_settings
from segwright.inference.origins import Origin, TarMember
from segwright.inference.sources import Source

STATE = "_segwright"  # readers of Parquet folders skip names with an underscore
RUN, PLAN, SUMMARY, DONE = f"{STATE}/run.json", f"{STATE}/plan.json", f"{STATE}/summary.json", f"{STATE}/done"
SHARD = re.compile(r"part-[0-9a-f]{20}-[0-9]{3,}\.parquet")  # a Parquet file of ours, not Spark's

Record = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One file to predict."""

    path: Path  # absolute, or made of the name for what is no local file
    name: str  # of its outputs, as :func:`segwright.inference.sources.output_names` gives it
    label: str
    stamp: list[int] | None
    origin: Origin | None = None

    @property
    def key(self) -> list[Any]:
        """What another run compares."""
        return [self.name, self.label, self.stamp]


@dataclass(frozen=True)
class Block:
    """Files that are predicted together. ``id``: of them and of the run's settings."""

    id: str
    jobs: tuple[Job, ...]

    def source(self) -> Source:
        """The files as a source, under the names that they have in the whole run."""
        return Source(
            "files",
            Path(),
            tuple(job.path for job in self.jobs),
            origins={job.path: job.origin for job in self.jobs if job.origin is not None},
            given={job.path: (job.name, job.label) for job in self.jobs},
        )

    @property
    def record(self) -> str:
        """The name of its record."""
        return record_name(self.id)

    def shard(self, number: int) -> str:
        """The name of its Parquet file."""
        return f"part-{self.id}-{number:03d}.parquet"


def record_name(id: str) -> str:
    """The name of a block's record."""
    return f"{DONE}/{id}.json"


def jobs_of(source: Source) -> list[Job]:
    """The files of a source; UsageError for what cannot be read on another machine."""
    if source.lives:
        raise UsageError(
            "a camera or stream is read by one machine", found=next(iter(source.lives.values())).label,
            fix="the same command without --ray",
        )  # fmt: skip
    found = []
    for path, name in source.names.items():
        origin = source.origins.get(path)
        if isinstance(origin, TarMember):
            origin = replace(origin, archive=origin.archive.resolve())
        place = path if origin is not None else path.absolute()
        found.append(Job(place, name, source.label(path), source.stamp(path), origin))
    return found


def in_blocks(jobs: Sequence[Job], size: int, settings: Mapping[str, Any]) -> list[Block]:
    """Blocks of at most ``size`` files, in order."""
    return [_block(jobs[start : start + size], settings) for start in range(0, len(jobs), size)]


def alone(block: Block, settings: Mapping[str, Any]) -> list[Block]:
    """Each file of a block as a block of its own."""
    return [_block([job], settings) for job in block.jobs]


def _block(jobs: Sequence[Job], settings: Mapping[str, Any]) -> Block:
    text = json.dumps([settings, [job.key for job in jobs]], sort_keys=True, default=str)
    return Block(hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:20], tuple(jobs))


# -- what is done -----------------------------------------------------------------------------------------------------


@dataclass
class Progress:
    """The records of a run at its destination, and the names that it has claimed."""

    records: dict[str, Record]  # block id → record
    claimed: set[str]  # the names of images whose outputs may be there without a record
    files: dict[str, int]  # everything at the destination, with its size

    def owned(self, name: str) -> bool:
        """Whether the file ``name`` is one that a prediction wrote, and unchanged in size."""
        entry = self.written.get(name)
        return entry is not None and entry[0] == self.files.get(name)

    def __post_init__(self) -> None:
        self.written: dict[str, list[Any]] = {}
        for record in self.records.values():
            self.written |= record["files"]

    def done(self) -> Iterator[tuple[str, Record]]:
        """The records in order."""
        yield from sorted(self.records.items())


def read_progress(destination: Destination) -> Progress:
    """What earlier runs have left at the destination; damaged records count as none."""
    files = destination.files()
    records = {}
    for name in files:
        if name.startswith(f"{DONE}/") and name.endswith(".json"):
            found = _json(destination.read(name))
            if isinstance(found, dict) and {"jobs", "items", "failed", "files"} <= found.keys():
                records[Path(name).stem] = found
    claimed = _json(destination.read(PLAN)) if PLAN in files else []
    return Progress(records, set(claimed if isinstance(claimed, list) else []), files)


def check_resumable(destination: Destination, settings: Mapping[str, Any]) -> None:
    """UsageError if the earlier run had another model or other options."""
    earlier = _json(destination.read(RUN))
    if isinstance(earlier, dict) and isinstance(earlier.get("settings"), dict):
        compare_settings(earlier["settings"], json.loads(json.dumps(settings, default=str)), destination.shown)


@dataclass
class Plan:
    """What a run has to do after an earlier one."""

    jobs: list[Job]  # still to be predicted
    kept: dict[str, Record]  # records that hold, without the images that failed
    stale: list[str]  # ids of records that no longer hold


def plan_of(progress: Progress, jobs: Sequence[Job]) -> Plan:
    """Take over the records whose files are there in their size and whose images are unchanged sources.

    A record is taken over whole or not at all, because a Parquet file has the rows of all its images. Images that
    failed are tried again.
    """
    wanted = {job.name: json.loads(json.dumps(job.key)) for job in jobs}
    finished: set[str] = set()
    plan = Plan([], {}, [])
    for id, record in progress.done():
        failed, partly = {one["name"] for one in record["failed"]}, {one["file"] for one in record["items"]}
        good = [key for key in record["jobs"] if key[0] not in failed]
        holds = bool(good) and not any(key[0] in failed and key[1] in partly for key in record["jobs"])
        holds = holds and all(wanted.get(key[0]) == key and key[0] not in finished for key in good)
        if holds and all(progress.files.get(name) == entry[0] for name, entry in record["files"].items()):
            finished |= {key[0] for key in good}
            plan.kept[id] = {**record, "jobs": good, "failed": []}
        else:
            plan.stale.append(id)
    plan.jobs = [job for job in jobs if job.name not in finished]
    return plan


def check_once(records: Mapping[str, Record], jobs: Sequence[Job], destination: Destination, shards: bool) -> int:
    """Prove that every image is in exactly one record, and every Parquet file belongs to one; the number of images
    that failed. DataError otherwise."""
    counts: dict[str, int] = {}
    failed = 0
    for record in records.values():
        failed += len(record["failed"])
        for key in record["jobs"]:
            counts[key[0]] = counts.get(key[0], 0) + 1
    missing = [job.label for job in jobs if counts.get(job.name, 0) == 0]
    twice = [job.label for job in jobs if counts.get(job.name, 0) > 1]
    strays: list[str] = []
    if shards:
        parts = {name for name in destination.files() if SHARD.fullmatch(name)}
        recorded = {name for record in records.values() for name in record["files"]}
        strays = sorted(parts ^ recorded)
    if missing or twice or strays:
        raise DataError(
            "the outputs are not complete",
            expected="every image in exactly one record, and every Parquet file in one",
            found="; ".join(
                f"{len(names)} {what}: {', '.join(names[:3])}"
                for what, names in (("missing", missing), ("twice", twice), ("unexpected or lost files", strays))
                if names
            ),
            where=destination.shown,
            fix="the same command with --resume; two runs must not write to one place at a time",
        )
    return failed


def _json(data: bytes | None) -> Any:
    try:
        return None if data is None else json.loads(data)
    except (ValueError, RecursionError):
        return None
