"""A look at a journal: what was seen, in the order of arrival, against the reference of the model, in words."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from segwright.core.counted import counted
from segwright.core.errors import DataError, UsageError
from segwright.inference.description import read_attachment
from segwright.inference.predictor import find_bundle
from segwright.monitoring.columns import Columns, Float64Array, columns_of, in_words
from segwright.monitoring.detect import LEAST_WINDOW, RATE, STATISTICS_SHARE, WINDOW, Detection, detect
from segwright.monitoring.drift import CORRECTIONS, Moved, Scorer, StreamEvidence, compare_columns
from segwright.monitoring.estimate import NAME as ACCURACY
from segwright.monitoring.estimate import AccuracyModel, fit_accuracy
from segwright.monitoring.journal import Journal, read_journal
from segwright.monitoring.observation import Observation
from segwright.monitoring.reference import Reference, read_reference
from segwright.monitoring.result import (
    AccuracyEstimate,
    Alarm,
    MonitorResult,
    Movement,
    Series,
    UnlikeImage,
    VersionCount,
)

LAST = 20_000  # newest rows that are examined
LEAST_REFERENCE = 3  # images
FEW_REFERENCE = 50
OWN_REFERENCE = 500  # rows of a journal that has no other reference
BINS = 60  # of a series
UNLIKE = 12
JUMP = 1.0  # seconds that a time may lie before the one before
FUTURE = 86_400.0
NAMED = 8  # movements per alarm
KIND_WORDS = {"image": "how the images look", "classes": "which classes are found",
              "confidence": "how sure the model is", "embedding": "the network's features"}  # fmt: skip


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
    journal: str = "",
    folder: Path | None = None,
    now: float | None = None,
) -> MonitorResult:
    """Compare the rows of a journal, in order of arrival, with those of a reference; see :func:`segwright.monitor`.

    ``scenes``: of the reference's rows, by name. ``model``: the version to examine, by default the reference's.
    ``block``: images that count as one. ``folder``: of kept images. ``now``: to find times in the future.
    DataError if the reference is too small or of other classes, or no row is of its model.
    """
    if not 0 < rate <= 0.1 or window < LEAST_WINDOW or (block is not None and block < 1):
        raise UsageError(
            "no way to examine a journal", expected=f"rate in 0…0.1, window ≥ {LEAST_WINDOW}, block ≥ 1",
            found=f"rate {rate}, window {window}, block {block}",
        )  # fmt: skip
    if correction not in CORRECTIONS:
        raise UsageError("unknown correction", expected=" or ".join(CORRECTIONS), found=correction)
    if len(reference) < LEAST_REFERENCE:
        raise DataError(
            "the reference is too small to compare with", expected=f"at least {LEAST_REFERENCE} images",
            found=str(len(reference)), fix="make a reference from more held-out images",
        )  # fmt: skip
    chosen, versions = _version(rows, reference, model)
    kept_rows, skipped, notes = _counted(chosen, now)
    known = columns_of(reference, classes)
    if scenes:
        numbers = {name: place for place, name in enumerate(dict.fromkeys(scenes))}
        known = replace(known, scenes=np.array([numbers[name] for name in scenes], np.intp))
    found = columns_of(kept_rows, classes)
    if found.embeddings.shape[1] != known.embeddings.shape[1]:
        if len(kept_rows) and found.embeddings.shape[1] and known.embeddings.shape[1]:
            notes.append(f"embeddings have {found.embeddings.shape[1]} values, the reference's "
                         f"{known.embeddings.shape[1]}: they are not compared")  # fmt: skip
        elif len(kept_rows):
            side = "reference" if not known.embeddings.shape[1] else "journal"
            notes.append(f"the {side} has no embeddings: they are not compared")
        known = replace(known, embeddings=np.zeros((len(known), 0)))
        found = replace(found, embeddings=np.zeros((len(found), 0)))
    notes += _not_finite(found)
    if len(reference) < FEW_REFERENCE:
        notes.append(f"the reference has only {counted(len(reference), 'image')}: alarms come late, or not at all")
    detection = detect(known, found, rate=rate, block=block, window=window, correction=correction)
    notes += detection.notes()
    evidence, scorer, scores = detection.evidence, detection.scorer, detection.scores
    alarms = _stream_alarms(detection, kept_rows, known, found)
    alarms = sorted([*alarms, *_window_alarms(detection, kept_rows, known, found)], key=lambda alarm: alarm.index)
    recent = found.take(slice(max(0, len(found) - window), None))
    last_moved = detection.last
    movements = () if last_moved is None else _movements(known, recent, last_moved, rate * window * STATISTICS_SHARE)
    times = [row.time for row in kept_rows if math.isfinite(row.time)]
    estimate = _estimate(accuracy, kept_rows, notes)
    return MonitorResult(
        journal=journal,
        model=next((version.model for version in versions if version.examined), ""),
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
        series=_series(kept_rows, known, found, evidence),
        unlike=_unlike(kept_rows, known, found, scorer, scores, folder),
        estimate=estimate,
        embedding_p=detection.windows[-1].embedding_p if detection.windows else math.nan,
        versions=versions,
        skipped=skipped,
        notes=tuple(notes),
    )


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
            "no row of the journal is of the reference's model",
            expected=wanted,
            found=", ".join(f"{name} ({len(some)} images)" for name, some in found.items())[:300],
            fix="give the reference of the model that made the journal, or examine a version against this reference "
            "anyway: --model NAME",
        )
    counts = []
    for name, some in found.items():
        times = [row.time for row in some if math.isfinite(row.time)]
        first, last = min(times, default=math.nan), max(times, default=math.nan)
        counts.append(VersionCount(name, len(some), first, last, name == wanted))
    return found.get(wanted, []), tuple(counts)


def _counted(rows: Sequence[Observation], now: float | None) -> tuple[list[Observation], dict[str, int], list[str]]:
    """Rows without repetitions, in the order in which they came; what was left out, and what the clock did."""
    skipped: dict[str, int] = {}
    notes: list[str] = []
    seen: set[tuple[object, ...]] = set()
    kept: list[Observation] = []
    for row in rows:
        # A row that was written twice, not a second image of the same name.
        key = (row.id, row.time, row.statistics.tobytes(), row.shares.tobytes(), row.mean_confidence)
        if key in seen:
            skipped["the same row again"] = skipped.get("the same row again", 0) + 1
            continue
        seen.add(key)
        kept.append(row)
    if len(kept) > LAST:
        skipped[f"older than the last {LAST} images"] = len(kept) - LAST
        kept = kept[-LAST:]
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
    return kept, skipped, notes


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


def _stream_alarms(detection: Detection, rows: Sequence[Observation], known: Columns, found: Columns) -> list[Alarm]:
    evidence = detection.evidence
    alarms: list[Alarm] = []
    for place, since, leading in detection.stream_alarms():
        index = int(evidence.ends[place])
        part = found.take(slice(since, index + 1))
        moved = _strongest(known, part)
        what = KIND_WORDS[detection.scorer.kinds[leading]]
        words = "; ".join(one.text for one in moved[:3])
        text = (f"images since number {since + 1} are unlike the reference, most of all in {what}"
                + (f": {words}" if words else ""))  # fmt: skip
        alarms.append(Alarm(rows[index].time, index, rows[index].id, "stream", float(evidence.values[place]),
                            evidence.threshold, since, tuple(moved), text))  # fmt: skip
    return alarms


def _strongest(known: Columns, part: Columns) -> list[Movement]:
    """What moved most in a part that may be too short for a test: by the distance in the reference's spreads."""
    with np.errstate(all="ignore"):
        tests = compare_columns(known, part)
    means, references = _means(part.values), _means(known.values)
    spread = _spread(known.values)
    sizes = np.abs(means - references) / spread
    order = [int(index) for index in np.argsort(-np.nan_to_num(sizes)) if np.isfinite(sizes[index])]
    result = []
    for index in order[:NAMED]:
        if sizes[index] < 0.5:
            break
        result.append(_movement(known, index, references[index], means[index], tests, bool(sizes[index] > 1)))
    return result


def _movement(known: Columns, index: int, reference: float, found: float, tests: Moved, moved: bool) -> Movement:
    name = known.names[index]
    return Movement(
        name=name, group=known.groups[index], reference=float(reference), found=float(found),
        p_value=float(tests.p_values[index]), adjusted=float(tests.adjusted[index]), moved=moved,
        text=in_words(name, float(reference), float(found)),
    )  # fmt: skip


def _means(values: Float64Array) -> Float64Array:
    known = np.isfinite(values)
    count = known.sum(axis=0)
    total = np.where(known, values, 0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _spread(values: Float64Array) -> Float64Array:
    means = _means(values)
    variance = _means((values - means) ** 2)
    return np.asarray(np.maximum(np.sqrt(np.nan_to_num(variance)), 1e-3 * np.maximum(np.abs(np.nan_to_num(means)), 1)))


def _movements(known: Columns, part: Columns, tests: Moved, level: float) -> tuple[Movement, ...]:
    means, references = _means(part.values), _means(known.values)
    order = sorted(range(len(known.names)), key=lambda index: _or_one(float(tests.p_values[index])))
    return tuple(
        _movement(known, index, references[index], means[index], tests, _or_one(tests.adjusted[index]) <= level)
        for index in order
    )


def _or_one(value: float) -> float:
    return float(value) if np.isfinite(value) else 1.0


def _window_alarms(detection: Detection, rows: Sequence[Observation], known: Columns, found: Columns) -> list[Alarm]:
    """Alarms of the tests of single statistics and of the embeddings."""
    alarms: list[Alarm] = []
    for place, detector in detection.window_alarms():
        one = detection.windows[place]
        part = found.take(slice(one.start, one.end + 1))
        row = rows[one.end]
        count = len(part)
        if detector == "statistics":
            moved = [movement for movement in _movements(known, part, one.tests, one.level) if movement.moved][:NAMED]
            text = f"the last {count} images differ: " + "; ".join(movement.text for movement in moved[:3])
            value, level = moved[0].adjusted, one.level
        else:
            moved = _strongest(known, part)
            text = f"the network's features of the last {count} images differ from the reference's" + (
                f": {moved[0].text}" if moved else ""
            )
            value, level = one.embedding_p, one.embedding_level
        alarms.append(Alarm(row.time, one.end, row.id, detector, value, level, one.start, tuple(moved), text))
    return alarms


def _series(
    rows: Sequence[Observation], known: Columns, found: Columns, evidence: StreamEvidence
) -> tuple[Series, ...]:
    """The mean of each figure over bins of consecutive images, and the evidence of drift."""
    if not len(found):
        return ()
    edges = np.unique(np.linspace(0, len(found), min(BINS, len(found)) + 1).astype(int))
    ends = edges[1:] - 1
    times = tuple(float(rows[end].time) for end in ends)
    references = _means(known.values)
    result = []
    for place, name in enumerate(known.names):
        column = known.values[:, place]
        finite = column[np.isfinite(column)]
        low, high = np.quantile(finite, [0.05, 0.95]) if len(finite) else (math.nan, math.nan)
        means = [float(_means(found.values[start:end, [place]])[0])
                 for start, end in pairwise(edges)]  # fmt: skip
        result.append(Series(name, known.groups[place], known.unit(place), times, tuple(int(end) for end in ends),
                             tuple(means), float(references[place]), float(low), float(high)))  # fmt: skip
    count = len(evidence.values)
    if count:
        edges = np.unique(np.linspace(0, count, min(4 * BINS, count) + 1).astype(int))
        last = [int(evidence.ends[end - 1]) for end in edges[1:]]
        most = [float(evidence.values[start:end].max()) for start, end in pairwise(edges)]
        result.append(Series("evidence of drift", "drift", "Shiryaev–Roberts statistic",
                             tuple(float(rows[index].time) for index in last), tuple(last), tuple(most), math.nan,
                             math.nan, math.nan, evidence.threshold))  # fmt: skip
    return tuple(result)


def _unlike(
    rows: Sequence[Observation],
    known: Columns,
    found: Columns,
    scorer: Scorer,
    scores: Float64Array,
    folder: Path | None,
) -> tuple[UnlikeImage, ...]:
    distances = scorer.distances(scores)
    references, spread = _means(known.values), _spread(known.values)
    result = []
    for index in np.argsort(-np.nan_to_num(distances), kind="stable")[:UNLIKE].tolist():
        sizes = np.nan_to_num(np.abs(found.values[index] - references) / spread)
        most = int(sizes.argmax())
        column = known.values[:, most]
        finite = column[np.isfinite(column)]
        text = f"{known.names[most]} {found.values[index, most]:.3g}"
        if len(finite):
            low, high = np.quantile(finite, [0.05, 0.95])
            text += f", the reference has {low:.3g} to {high:.3g}"
        result.append(UnlikeImage(rows[index].id, rows[index].time, index, float(distances[index]), text,
                                  _kept_image(rows[index], folder)))  # fmt: skip
    return tuple(result)


def _kept_image(row: Observation, folder: Path | None) -> str | None:
    """The path of the kept image, only if it lies in the journal's folder."""
    name = row.tags.get("image")
    if not name or folder is None:
        return None
    path = (folder / name).resolve()
    return str(path) if path.is_relative_to(folder.resolve()) and path.is_file() else None


def _estimate(accuracy: AccuracyModel | None, rows: Sequence[Observation], notes: list[str]) -> AccuracyEstimate | None:
    if accuracy is None or not rows:
        return None
    try:
        return accuracy.estimate(rows)
    except DataError as error:
        notes.append(f"no estimate of the accuracy: {error.message}")
        return None


def monitor(
    journal: str | Path | Journal,
    reference: str | Path | Reference | None = None,
    *,
    model: str | None = None,
    rate: float = RATE,
    block: int | None = None,
    window: int = WINDOW,
    correction: str = "holm",
    since: float | None = None,
    until: float | None = None,
    last: int = LAST,
) -> MonitorResult:
    """Read a journal and a saved model's reference, and :func:`examine` them; see :func:`segwright.monitor`.

    ``last``: the newest rows that are read.
    """
    known, accuracy = _reference(reference)
    if isinstance(journal, Journal):
        read = journal
    else:
        classes = known.label_space.names if known is not None else None
        read = read_journal(journal, classes=classes, since=since, until=until, max_rows=last)
    if known is not None and read.label_space.names != known.label_space.names:
        raise DataError(
            "the journal's classes are not the reference's", expected=", ".join(known.label_space.names)[:300],
            found=", ".join(read.label_space.names)[:300], where=read.folder,
            fix="give the reference of the model that made the journal",
        )  # fmt: skip
    rows, extra = read.rows, list(read.notes)
    if known is not None:
        base, scenes, names = known.rows, known.scenes, known.label_space.names
        if known.settings and any(_differs(known.settings, one) for one in read.settings):
            extra.append("the journal's images were predicted with other settings than the reference's: "
                         f"{_settings_text(known.settings)} in the reference")  # fmt: skip
    else:
        base, rows, note = _own_reference(read, model)
        extra.append(note)
        scenes, names = (), read.label_space.names
    found = examine(
        rows, base, names, scenes=scenes, accuracy=accuracy, model=model, rate=rate, block=block, window=window,
        correction=correction, journal=str(read.folder), folder=read.folder, now=time.time(),
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
    """The first half of the newest version's rows, at most OWN_REFERENCE, and the rest."""
    chosen = model or (journal.rows[-1].model if journal.rows else None)
    rows = [row for row in journal.rows if row.model == chosen]
    count = min(len(rows) // 2, OWN_REFERENCE)
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
