"""A look at a journal: what was seen, in the order of arrival, against the reference of the model, in words."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from segwright.core.counted import counted
from segwright.core.errors import DataError, UsageError
from segwright.inference.description import read_attachment
from segwright.inference.predictor import find_bundle
from segwright.monitoring import describe
from segwright.monitoring.columns import Columns, columns_of
from segwright.monitoring.detect import LEAST_WINDOW, RATE, STATISTICS_SHARE, WINDOW, detect
from segwright.monitoring.drift import CORRECTIONS
from segwright.monitoring.estimate import NAME as ACCURACY
from segwright.monitoring.estimate import AccuracyModel, fit_accuracy
from segwright.monitoring.journal import Journal, read_journal
from segwright.monitoring.observation import Observation
from segwright.monitoring.recent import with_accuracy
from segwright.monitoring.reference import Reference, read_reference
from segwright.monitoring.result import (
    MonitorResult,
    VersionCount,
)
from segwright.monitoring.scenes import distinct
from segwright.monitoring.since import SPARE, Since, parse_since, row_key, stable_start

LAST = 20_000  # newest rows that are examined
LEAST_REFERENCE = 3  # images
FEW_REFERENCE = 50
OWN_REFERENCES = (3, 5, 10, 20, 50, 100, 500)  # rows of a journal that has no other reference
JUMP = 1.0  # seconds that a time may lie before the one before
FUTURE = 86_400.0


def examine(
    rows: Sequence[Observation],
    reference: Sequence[Observation],
    classes: Sequence[str],
    *,
    scenes: Sequence[str] = (),
    accuracy: AccuracyModel | None = None,
    model: str | None = None,
    rate: float = RATE,
    block: int | None = None,
    window: int = WINDOW,
    correction: str = "holm",
    since: Since | None = None,
    last: int = LAST,
    journal: str = "",
    folder: Path | None = None,
    now: float | None = None,
) -> MonitorResult:
    """Compare the rows of a journal, in order of arrival, with those of a reference; see :func:`segwright.monitor`.

    ``scenes``: of the reference's rows, by name. ``model``: the version to examine, by default the reference's.
    ``block``: images that count as one. ``since``: the part that is looked at. ``last``: the most rows, the newest;
    if there are as many, at most a fifth fewer are examined (:mod:`segwright.monitoring.since`). ``folder``: of kept
    images. ``now``: to find times in the future.
    DataError if the reference is too small or of other classes, or no row is of its model.
    """
    _check(rate, window, block, correction)
    if len(reference) < LEAST_REFERENCE:
        raise DataError(
            "the reference is too small to compare with", expected=f"at least {LEAST_REFERENCE} images",
            found=str(len(reference)), fix="make a reference from more held-out images",
        )  # fmt: skip
    chosen, versions = _version(rows, reference, model)
    kept_rows, keys, skipped, notes = _counted(chosen, now)
    start, looked_from = _start(kept_rows, keys, since, len(rows) >= last, last, now)
    if start and since is None:
        skipped["older than the newest images"] = start
    kept_rows, keys = kept_rows[start:], keys[start:]
    known, found = _comparable(
        _in_scenes(columns_of(reference, classes), scenes), columns_of(kept_rows, classes), notes
    )
    notes += _not_finite(found)
    if again := len(found) - int(distinct(found).sum()):
        notes.append(f"{counted(again, 'image', 'has')} the same figures as an earlier one: a camera whose view "
                     "stands still, or an image that was sent again")  # fmt: skip
    if len(reference) < FEW_REFERENCE:
        notes.append(f"the reference has only {counted(len(reference), 'image')}: alarms come late, or not at all")
    detection = detect(known, found, rate=rate, block=block, window=window, correction=correction)
    notes += detection.notes()
    alarms = describe.alarms(detection, kept_rows, keys, known, found)
    recent = found.take(slice(max(0, len(found) - window), None))
    level = rate * len(recent) * STATISTICS_SHARE  # as of a test of so many images
    movements = () if detection.last is None else describe.movements(known, recent, detection.last, level)
    times = [row.time for row in kept_rows if math.isfinite(row.time)]
    result = MonitorResult(
        journal=journal,
        model=next((version.model for version in versions if version.examined), model or reference[0].model),
        classes=tuple(classes),
        images=len(kept_rows),
        reference_images=len(reference),
        first=min(times, default=math.nan),
        last=max(times, default=math.nan),
        rate=rate,
        block=detection.blocks.stream,
        reference_block=detection.blocks.reference,
        reference_blocks=detection.blocks.number,
        tails="ranks" if detection.blocks.ranked else "t",
        alarms=tuple(alarms),
        movements=movements,
        series=describe.series(kept_rows, known, found, detection.evidence),
        unlike=describe.unlike(kept_rows, known, found, detection.scorer, detection.scores, folder),
        estimate=None,
        embedding_p=next((p for one in detection.windows[::-1] if math.isfinite(p := one.embedding_p)), math.nan),
        versions=versions,
        skipped=skipped,
        judged=detection.judged,
        needed=detection.needed,
        missing=describe.missing(known, recent),
        looked_from=looked_from,
        row_keys=tuple(keys),
    )  # fmt: skip
    if accuracy is not None:
        result = with_accuracy(result, accuracy, kept_rows, window, notes)
    return replace(result, notes=tuple(notes))


def _check(rate: float, window: int, block: int | None, correction: str) -> None:
    """UsageError for settings that nothing can be examined with."""
    if not 0 < rate <= 0.1 or window < LEAST_WINDOW or (block is not None and block < 1):
        raise UsageError(
            "no way to examine a journal", expected=f"rate in 0…0.1, window ≥ {LEAST_WINDOW}, block ≥ 1",
            found=f"rate {rate}, window {window}, block {block}",
        )  # fmt: skip
    if correction not in CORRECTIONS:
        raise UsageError("unknown correction", expected=" or ".join(CORRECTIONS), found=correction)


def _in_scenes(known: Columns, scenes: Sequence[str]) -> Columns:
    """The reference with the numbers of its rows' scenes, where they are known."""
    if not scenes:
        return known
    numbers = {name: place for place, name in enumerate(dict.fromkeys(scenes))}
    return replace(known, scenes=np.array([numbers[name] for name in scenes], np.intp))


def _comparable(known: Columns, found: Columns, notes: list[str]) -> tuple[Columns, Columns]:
    """The reference and what was found, both without embeddings where these cannot be compared, which is noted."""
    widths = [side.embeddings.shape[1] for side in (known, found)]
    if widths[0] == widths[1]:
        return known, found
    if len(found) and all(widths):
        notes.append(f"embeddings have {widths[1]} values, the reference's {widths[0]}: they are not compared")
    elif len(found):
        notes.append(f"the {'journal' if widths[0] else 'reference'} has no embeddings: they are not compared")
    return replace(known, embeddings=np.zeros((len(known), 0))), replace(found, embeddings=np.zeros((len(found), 0)))


def _version(
    rows: Sequence[Observation], reference: Sequence[Observation], model: str | None
) -> tuple[list[Observation], tuple[VersionCount, ...]]:
    """The rows of one version of the model, and a count of all."""
    of_reference = Counter(row.model for row in reference)
    if len(of_reference) > 1:
        raise DataError("the reference has rows of several models", found=", ".join(sorted(of_reference))[:200])
    wanted = model if model is not None else next(iter(of_reference))
    found: dict[str, list[Observation]] = {}
    for row in rows:
        found.setdefault(row.model, []).append(row)
    if found and wanted not in found:
        raise DataError(
            "no row of the journal is of " + ("this model" if model is not None else "the reference's model"),
            expected=wanted,
            found=", ".join(f"{name} ({len(some)} images)" for name, some in found.items())[:300],
            fix=f"--model {next(iter(found))}"
            if model is not None
            else "give the reference of the model that made "
            "the journal, or examine a version against this reference anyway: --model NAME",
        )
    counts = []
    for name, some in found.items():
        times = [row.time for row in some if math.isfinite(row.time)]
        first, last = min(times, default=math.nan), max(times, default=math.nan)
        counts.append(VersionCount(name, len(some), first, last, name == wanted))
    return found.get(wanted, []), tuple(counts)


def _counted(
    rows: Sequence[Observation], now: float | None
) -> tuple[list[Observation], list[bytes], dict[str, int], list[str]]:
    """Rows without repetitions, in the order in which they came, and what each is recognized by; what was left out, and
    what the clock did."""
    skipped: dict[str, int] = {}
    notes: list[str] = []
    found: dict[bytes, Observation] = {}
    for row in rows:
        # A row that was written twice, not a second image of the same name.
        if found.setdefault(row_key(row), row) is not row:
            skipped["the same row again"] = skipped.get("the same row again", 0) + 1
    keys, kept = list(found), list(found.values())
    times = np.array([row.time for row in kept], np.float64)
    finite = times[np.isfinite(times)]
    back = -np.diff(finite)
    jumps = back[back > JUMP]
    if len(jumps):
        notes.append(f"the clock went back {len(jumps)} times, by up to {_duration(float(jumps.max()))}: images are in "
                     "the order in which they came")  # fmt: skip
    if len(finite) < len(times):
        notes.append(f"{counted(len(times) - len(finite), 'image', 'has')} no time")
    if now is not None and (finite > now + FUTURE).any():
        notes.append(f"{counted(int((finite > now + FUTURE).sum()), 'image', 'is')} from the future: a clock is wrong")
    return kept, keys, skipped, notes


def _start(
    rows: Sequence[Observation], keys: Sequence[bytes], since: Since | None, full: bool, last: int, now: float | None
) -> tuple[int, int | None]:
    """The row to begin with, and the row from which alarms count that are over, from the first one on; see
    :class:`Since`. ``full``: there are as many rows as are read, and perhaps more."""
    if since is None:
        return (stable_start(keys, max(0, len(keys) - last * SPARE // (SPARE + 1))) if full else 0), None
    wanted = 0
    if since.images is not None:
        wanted = max(0, len(rows) - since.images)
    else:
        limit = (
            since.time if since.time is not None else (now if now is not None else time.time()) - (since.seconds or 0)
        )
        wanted = next((place for place, row in enumerate(rows) if row.time >= limit), len(rows))
        if since.time is not None:
            return wanted, 0
    start = stable_start(keys, wanted) if wanted < len(rows) else wanted
    return start, wanted - start


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86_400.0), ("hours", 3_600.0), ("minutes", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _not_finite(found: Columns) -> list[str]:
    wrong = ~np.isfinite(found.values)
    notes = []
    if wrong.any():
        names = [found.names[index] for index in np.flatnonzero(wrong.any(axis=0))]
        shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        damaged = counted(int(wrong.any(axis=1).sum()), "image", "has")
        notes.append(f"{damaged} figures that are not finite ({shown}): these figures "
                     "are left out, the images' others are counted")  # fmt: skip
    bad = ~np.isfinite(found.embeddings).all(axis=1) if found.embeddings.shape[1] else np.zeros(len(found), bool)
    if bad.any():
        notes.append(f"{counted(int(bad.sum()), 'image', 'has')} an embedding that is not finite: it is left out")
    return notes


def monitor(
    journal: str | Path | Journal,
    reference: str | Path | Reference | None = None,
    *,
    model: str | None = None,
    rate: float = RATE,
    block: int | None = None,
    window: int = WINDOW,
    correction: str = "holm",
    since: float | str | None = None,
    until: float | None = None,
    last: int = LAST,
) -> MonitorResult:
    """Read a journal and a saved model's reference, and :func:`examine` them; see :func:`segwright.monitor`.

    ``last``: the newest rows that are read.
    """
    looked_at = parse_since(since)
    known, accuracy = _reference(reference)
    if isinstance(journal, Journal):
        read = journal
    else:
        classes = known.label_space.names if known is not None else None
        begin = looked_at.time if looked_at is not None else None
        read = read_journal(journal, classes=classes, since=begin, until=until, max_rows=last)
    if known is not None and read.label_space.names != known.label_space.names:
        raise DataError(
            "the journal's classes are not the reference's", expected=", ".join(known.label_space.names)[:300],
            found=", ".join(read.label_space.names)[:300], where=read.folder,
            fix="give the reference of the model that made the journal",
        )  # fmt: skip
    rows, extra = read.rows, list(read.notes)
    if known is not None:
        base, scenes, names = known.rows, known.scenes, known.label_space.names
        extra += [f"the reference: {note}" for note in known.notes]
        if known.settings and any(_differs(known.settings, one) for one in read.settings):
            extra.append("the journal's images were predicted with other settings than the reference's: "
                         f"{_settings_text(known.settings)} in the reference")  # fmt: skip
    else:
        base, rows, note = _own_reference(read, model)
        extra.append(note)
        scenes, names = (), read.label_space.names
    found = examine(
        rows, base, names, scenes=scenes, accuracy=accuracy, model=model, rate=rate, block=block, window=window,
        correction=correction, since=looked_at, last=last, journal=str(read.folder), folder=read.folder,
        now=time.time(),
    )  # fmt: skip
    skipped = dict(found.skipped)
    for one in read.skipped:
        skipped[f"{one.where}: {one.reason}"] = skipped.get(f"{one.where}: {one.reason}", 0) + one.rows
    if read.duplicates:
        skipped["the same row again"] = skipped.get("the same row again", 0) + read.duplicates
    return replace(found, skipped=skipped, notes=tuple(dict.fromkeys([*extra, *found.notes])))


def _reference(given: str | Path | Reference | None) -> tuple[Reference | None, AccuracyModel | None]:
    """The reference and the estimator that belong together."""
    if given is None:
        return None, None
    attachment = None
    if isinstance(given, Reference):
        found = given
    else:
        read = read_reference(given)
        if read is None:
            raise DataError(
                "the saved model has no reference", where=given, expected="a model trained by this version",
                fix="make one from images that it was not trained on: segwright reference MODEL DATA",
            )  # fmt: skip
        found, attachment = read, read_attachment(find_bundle(given), ACCURACY)
    if attachment is not None:
        return found, AccuracyModel.from_attachment(attachment, str(given))
    if not found.labeled.any():
        return found, None
    rows = [row for row, labeled in zip(found.rows, found.labeled, strict=True) if labeled]
    try:
        return found, fit_accuracy(rows, found.counts[found.labeled])
    except DataError:  # no row with probabilities
        return found, None


def _own_reference(journal: Journal, model: str | None) -> tuple[list[Observation], list[Observation], str]:
    """The first of the newest version's rows, at most half, and the rest; DataError if half are too few.

    Their number is one of OWN_REFERENCES, so that it stays the same while a journal grows to twice its size or more.
    """
    chosen = model or (journal.rows[-1].model if journal.rows else None)
    rows = [row for row in journal.rows if row.model == chosen]
    count = max((number for number in OWN_REFERENCES if 2 * number <= len(rows)), default=len(rows) // 2)
    if count < LEAST_REFERENCE:
        raise DataError(
            "the journal has too few images to compare them with its own first ones",
            expected=f"{2 * LEAST_REFERENCE} images of one model", found=str(len(rows)), where=journal.folder,
            fix="wait for more, or compare with a model's reference: --reference MODEL",
        )  # fmt: skip
    note = (
        f"no reference was given: the journal's first {count} images are what the {len(rows) - count} after them are "
        "compared with, and there is no estimate of the accuracy"
    )
    others = [row for row in journal.rows if row.model != chosen]
    return rows[:count], [*others, *rows[count:]], note


def _differs(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return any(one.get(key) != other.get(key) for key in ("tta", "postprocess") if key in other)


def _settings_text(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value or 'none'}" for key, value in sorted(settings.items()))[:200]
