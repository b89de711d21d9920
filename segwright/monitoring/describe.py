"""What a look at a journal found, in words: alarms, what moved, series over time, and the most unlike images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from segwright.monitoring.columns import Columns, Float64Array, in_words
from segwright.monitoring.detect import Detection, Episode
from segwright.monitoring.drift import Moved, Scorer, StreamEvidence, compare_columns
from segwright.monitoring.observation import Observation
from segwright.monitoring.result import Alarm, Movement, Series, UnlikeImage

BINS = 60  # of a series
UNLIKE = 12
NAMED = 8  # movements per alarm
KIND_WORDS = {"image": "how the images look", "classes": "which classes are found",
              "confidence": "how sure the model is", "embedding": "the network's features"}  # fmt: skip


def alarms(
    detection: Detection, rows: Sequence[Observation], keys: Sequence[bytes], known: Columns, found: Columns
) -> list[Alarm]:
    """An alarm per episode of a detector: when it began, whether it is over, and what moved."""
    result = []
    for one in detection.episodes():
        make = _stream_alarm if one.detector == "stream" else _window_alarm
        alarm = make(one, detection, rows, known, found)
        ended = rows[one.last].time if one.over else math.nan
        result.append(replace(alarm, key=f"{one.detector} {keys[one.since].hex()}", last=one.last, over=one.over,
                              ended=ended, row_key=keys[one.index]))  # fmt: skip
    return result


def _stream_alarm(
    episode: Episode, detection: Detection, rows: Sequence[Observation], known: Columns, found: Columns
) -> Alarm:
    evidence, index, since = detection.evidence, episode.index, episode.since
    moved = _strongest(known, found.take(slice(since, index + 1)))
    what = KIND_WORDS[detection.scorer.kinds[episode.leading]]
    words = "; ".join(one.text for one in moved[:3])
    text = (f"images since number {since + 1} are unlike the reference, most of all in {what}"
            + (f": {words}" if words else ""))  # fmt: skip
    return Alarm(rows[index].time, index, rows[index].id, "stream", float(evidence.values[episode.place]),
                 evidence.threshold, since, tuple(moved), text)  # fmt: skip


def _window_alarm(
    episode: Episode, detection: Detection, rows: Sequence[Observation], known: Columns, found: Columns
) -> Alarm:
    """Of the tests of single statistics or of the embeddings."""
    one = detection.windows[episode.place]
    part = found.take(slice(one.start, one.end + 1))
    row, images = rows[one.end], f"images {one.start + 1} to {one.end + 1}"
    if episode.detector == "statistics":
        moved = [movement for movement in movements(known, part, one.tests, one.level) if movement.moved][:NAMED]
        text = f"{images} differ: " + "; ".join(movement.text for movement in moved[:3])
        value, level = moved[0].adjusted, one.level
    else:
        moved = _strongest(known, part)
        text = f"the network's features of {images} differ from the reference's" + (
            f": {moved[0].text}" if moved else ""
        )
        value, level = one.embedding_p, one.embedding_level
    return Alarm(row.time, one.end, row.id, episode.detector, value, level, one.start, tuple(moved), text)


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


def movements(known: Columns, part: Columns, tests: Moved, level: float) -> tuple[Movement, ...]:
    """Every figure of a part beside the reference's, the least likely ones first; moved: below ``level``."""
    means, references = _means(part.values), _means(known.values)
    order = sorted(range(len(known.names)), key=lambda index: _or_one(float(tests.p_values[index])))
    return tuple(
        _movement(known, index, references[index], means[index], tests, _or_one(tests.adjusted[index]) <= level)
        for index in order
    )


def _movement(known: Columns, index: int, reference: float, found: float, tests: Moved, moved: bool) -> Movement:
    name = known.names[index]
    return Movement(
        name=name, group=known.groups[index], reference=float(reference), found=float(found),
        p_value=float(tests.p_values[index]), adjusted=float(tests.adjusted[index]), moved=moved,
        text=in_words(name, float(reference), float(found)),
    )  # fmt: skip


def _or_one(value: float) -> float:
    return float(value) if np.isfinite(value) else 1.0


def _means(values: Float64Array) -> Float64Array:
    known = np.isfinite(values)
    count = known.sum(axis=0)
    total = np.where(known, values, 0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _spread(values: Float64Array) -> Float64Array:
    means = _means(values)
    variance = _means((values - means) ** 2)
    return np.asarray(np.maximum(np.sqrt(np.nan_to_num(variance)), 1e-3 * np.maximum(np.abs(np.nan_to_num(means)), 1)))


def missing(known: Columns, recent: Columns) -> tuple[str, ...]:
    """Figures that most of the reference's images have and most of the last ones have not."""
    if not len(recent):
        return ()
    there = np.isfinite(known.values).mean(axis=0) > 0.5
    gone = there & (np.isfinite(recent.values).mean(axis=0) < 0.5)
    names = [name for name, one in zip(known.names, gone, strict=True) if one]
    if known.embeddings.shape[1]:
        sides = [np.isfinite(side.embeddings).all(axis=1).mean() for side in (known, recent)]
        names += ["embedding"] if sides[0] > 0.5 > sides[1] else []
    return tuple(names)


def series(rows: Sequence[Observation], known: Columns, found: Columns, evidence: StreamEvidence) -> tuple[Series, ...]:
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


def unlike(
    rows: Sequence[Observation],
    known: Columns,
    found: Columns,
    scorer: Scorer,
    scores: Float64Array,
    folder: Path | None,
) -> tuple[UnlikeImage, ...]:
    """The images that are farthest from the reference, with their most unusual figure and the path of a kept image."""
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
