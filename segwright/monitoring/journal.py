"""Reading a journal: the records of the images that services and predictions have seen, in the order of their arrival.

A journal is a folder of files of one or several writers (:mod:`segwright.monitoring.journal_writer`). Whatever is
damaged is left out, counted and named. Clocks may jump: the records of one writer keep its sequence, and those of
several writers are merged by time, which counts as never going back within a writer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segwright.core.counted import counted
from segwright.core.errors import DataError, MissingExtraError, UsageError
from segwright.core.types import LabelSpace
from segwright.monitoring.journal_files import LINES, PARQUET, FileRows, Header, Row, read_lines, read_parquet
from segwright.monitoring.observation import Observation

MOST_ROWS = 200_000
MOST_FILES = 100_000
JUMP_SECONDS = 1.0  # that a time may lie before the one before it


@dataclass(frozen=True)
class Skipped:
    """What of a journal is not in the answer: ``rows`` of the file ``where`` (0: unknown, or the whole file)."""

    where: str
    reason: str
    rows: int = 0

    def __str__(self) -> str:
        count = f"{counted(self.rows, 'row')}: " if self.rows else ""
        return f"{self.where}: {count}{self.reason}"


@dataclass(frozen=True)
class Journal:
    """The records of a journal in order of arrival, all of one label space.

    ``label_spaces``: the class names of every label space in the journal, that of the records first. ``models``: the
    number of records by model id, in order of first appearance; ``versions``: the versions of segwright that wrote
    them; ``names``: of the models; ``settings``: the different settings of prediction. ``clock_jumps``: how often a
    writer's clock went back by more than a second.
    """

    folder: Path
    rows: list[Observation]
    label_space: LabelSpace
    skipped: tuple[Skipped, ...] = ()
    label_spaces: tuple[tuple[str, ...], ...] = ()
    models: dict[str, int] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()
    settings: tuple[dict[str, Any], ...] = ()
    clock_jumps: int = 0
    duplicates: int = 0
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)


def read_journal(
    folder: str | Path,
    *,
    classes: Sequence[str] | None = None,
    model: str | None = None,
    since: float | None = None,
    until: float | None = None,
    max_rows: int = MOST_ROWS,
) -> Journal:
    """The newest ``max_rows`` records of the journal in ``folder``, or of a single file of one.

    If the journal has records of several label spaces, those of the newest, or of the one with the class names
    ``classes``, are returned, and the others counted in ``skipped``. ``model``: only the records of this model id.
    ``since``, ``until``: seconds since 1970.

    Errors: DataError if there is no journal or no record of the wanted classes; MissingExtraError without pyarrow.
    """
    if max_rows < 1:
        raise UsageError("a journal is read by rows", expected="max_rows of 1 or more", found=str(max_rows))
    root = Path(folder)
    files, skipped = _read_files(root, max_rows)
    if not files:
        raise _no_journal(root, skipped)
    spaces: dict[tuple[str, ...], LabelSpace] = {}
    newest: dict[tuple[str, ...], float] = {}
    for found in files.values():
        names = found.header.label_space.names
        spaces.setdefault(names, found.header.label_space)
        times = [row.observation.time for row in found.rows]
        newest[names] = max(newest.get(names, -1.0), max(times, default=-1.0))
    wanted = tuple(classes) if classes is not None else max(newest, key=lambda names: newest[names])
    if wanted not in spaces:
        raise DataError(
            "the journal has no records of these classes",
            expected=", ".join(wanted)[:300],
            found="; ".join(", ".join(names)[:300] for names in spaces),
            where=root,
            fix="give the model or reference that the journal was made with",
        )
    headers = [found.header for found in files.values() if found.header.label_space.names == wanted]
    merged, duplicates, jumps = _merged([found for found in files.values() if found.header.label_space.names == wanted])
    for name, found in files.items():
        if found.damaged:
            skipped.append(Skipped(name, "damaged", found.damaged))
        if found.cut:
            skipped.append(Skipped(name, "the last line is incomplete", 1))
        if found.header.label_space.names != wanted and found.rows:
            others = ", ".join(found.header.label_space.names)
            skipped.append(Skipped(name, f"other classes ({others[:200]})", len(found.rows)))
    rows = [row for row in merged if (since is None or row.time >= since) and (until is None or row.time <= until)]
    if model is not None:
        rows = [row for row in rows if row.model == model]
    if len(rows) > max_rows:
        skipped.append(Skipped(str(root), f"older than the newest {counted(max_rows, 'row')}", len(rows) - max_rows))
        rows = rows[-max_rows:]
    models = dict(Counter(row.model for row in rows))
    return Journal(
        folder=root, rows=rows, label_space=spaces[wanted], skipped=tuple(skipped),
        label_spaces=(wanted, *(names for names in spaces if names != wanted)), models=models,
        names=_distinct([header.model for header in headers]), versions=_distinct([h.version for h in headers]),
        settings=_settings(headers), clock_jumps=jumps, duplicates=duplicates,
        notes=_notes(models, jumps, duplicates, len(spaces)),
    )  # fmt: skip


def is_journal(folder: str | Path) -> bool:
    """Whether a folder has a file of a journal."""
    root = Path(folder)
    return root.is_dir() and any(LINES.fullmatch(p.name) or PARQUET.fullmatch(p.name) for p in root.iterdir())


def _read_files(root: Path, most: int) -> tuple[dict[str, FileRows], list[Skipped]]:
    """Every file of the journal by name; line files first, since a full one becomes a Parquet file meanwhile."""
    files: dict[str, FileRows] = {}
    skipped: list[Skipped] = []
    if root.is_file():
        paths = [root]
    elif root.is_dir():
        paths = [path for path in _listed(root) if LINES.fullmatch(path.name)]
    else:
        raise DataError(
            "no such journal", where=root, fix="write one: segwright serve --journal DIR, or predict --journal DIR"
        )
    for path in paths:
        _read_file(path, files, skipped, most)
    if root.is_dir():
        left = most
        for path in sorted((path for path in _listed(root) if PARQUET.fullmatch(path.name)), reverse=True):
            if left <= 0:
                skipped.append(Skipped(path.name, f"older than the newest {counted(most, 'row')}"))
                continue
            _read_file(path, files, skipped, left)
            left -= len(files[path.name].rows) if path.name in files else 0
    return files, skipped


def _listed(root: Path) -> list[Path]:
    try:
        found = sorted(path for path in root.iterdir() if not path.is_symlink() and path.is_file())
    except OSError as error:
        raise DataError("the journal cannot be read", found=str(error), where=root) from error
    if len(found) > MOST_FILES:
        raise DataError(
            "the folder has too many files for a journal", expected=f"at most {MOST_FILES}", found=str(len(found)),
            where=root,
        )  # fmt: skip
    return found


def _read_file(path: Path, files: dict[str, FileRows], skipped: list[Skipped], most: int) -> None:
    try:
        lines = path.suffix == ".jsonl"
        files[path.name] = read_lines(path) if lines else read_parquet(path, most)
    except FileNotFoundError:
        return  # rewritten as Parquet or removed by its writer meanwhile
    except MissingExtraError:
        raise
    except (DataError, OSError) as error:
        reason = error.message if isinstance(error, DataError) else str(error)
        found = f" ({error.found})" if isinstance(error, DataError) and error.found else ""
        skipped.append(Skipped(path.name, f"{reason}{found}"))


def _no_journal(root: Path, skipped: Sequence[Skipped]) -> DataError:
    if skipped:
        return DataError(
            "nothing of the journal can be read", found="; ".join(map(str, skipped[:5])), where=root,
            fix="restore the folder from a backup, or begin another journal",
        )  # fmt: skip
    return DataError(
        "no journal here",
        expected="files named journal-….parquet or current-….jsonl",
        found="none of them",
        where=root,
        fix="write one: segwright serve --journal DIR, or predict --journal DIR",
    )


def _merged(files: Sequence[FileRows]) -> tuple[list[Observation], int, int]:
    """The records of files of one label space in order of arrival; how many were there twice; jumps of a clock."""
    writers: dict[str, dict[int, Row]] = {}
    total = 0
    for found in files:
        rows = writers.setdefault(found.header.writer, {})
        for row in found.rows:
            rows.setdefault(row.sequence, row)
        total += len(found.rows)
    keyed: list[tuple[float, str, int, Observation]] = []
    jumps = 0
    for writer, rows in writers.items():
        latest = last = -1.0
        for sequence in sorted(rows):
            observation = rows[sequence].observation
            jumps += observation.time < last - JUMP_SECONDS
            last = observation.time
            latest = max(latest, last)
            keyed.append((latest, writer, sequence, observation))
    keyed.sort(key=lambda entry: entry[:3])
    return [entry[3] for entry in keyed], total - len(keyed), jumps


def _distinct(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for text in texts if text))


def _settings(headers: Sequence[Header]) -> tuple[dict[str, Any], ...]:
    found: list[dict[str, Any]] = []
    for header in headers:
        if header.settings and dict(header.settings) not in found:
            found.append(dict(header.settings))
    return tuple(found)


def _notes(models: dict[str, int], jumps: int, duplicates: int, spaces: int) -> tuple[str, ...]:
    notes = []
    if len(models) > 1:
        counts = ", ".join(f"{name} ({counted(count, 'image')})" for name, count in models.items())
        notes.append(f"records of {len(models)} models: {counts}")
    if spaces > 1:
        notes.append(f"records of {spaces} label spaces; only those of one are used")
    if jumps:
        notes.append(f"the clock went back {counted(jumps, 'time')}: rows are in order of arrival")
    if duplicates:
        notes.append(f"{counted(duplicates, 'row', 'was')} there twice and count once")
    return tuple(notes)
