"""The three detectors over a stream of records: which share of the rate of false alarms each has, and what they found.

The rate is shared: half for the stream's detector, a quarter for the tests of single statistics and a twentieth for
that of the embeddings, which are made of windows of images. Whatever is judged, is judged once, when the images are
there that it is of, and from these images alone: a look at a longer stream finds the same alarms, and perhaps more.
The embeddings get less than is left, because they
differ between scenes of one kind more than a permutation of neighbors can show.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from segwright.core.counted import counted
from segwright.monitoring.columns import Columns, Float64Array
from segwright.monitoring.drift import (
    Moved,
    Scorer,
    StreamEvidence,
    compare_columns,
    correlation_times,
    mmd_test,
    stream_evidence,
)
from segwright.monitoring.scenes import Blocks, block_length, blocks_of, correlation_time, find_blocks

RATE = 1e-3  # false alarms per image
WINDOW = 100  # images per test
LEAST_WINDOW = 20
LOOKS = (0.2, 0.5, 1.0)  # of a window: when single statistics are tested; embeddings at its end
STREAM_SHARE = 0.5  # of the rate
STATISTICS_SHARE = 0.25
EMBEDDING_SHARE = 0.05
MOST_PERMUTATIONS = 200_000
SAME_EPISODE = 100  # images: alarms of one detector that follow within these are one


@dataclass(frozen=True)
class WindowTest:
    """The tests of one window of images."""

    start: int
    end: int  # the last image
    level: float  # of the tests of single statistics
    tests: Moved
    embedding_level: float
    embedding_p: float  # NaN if there are no embeddings
    embedding_least: float = math.nan  # the least that it can be

    @property
    def moved(self) -> tuple[str, ...]:
        """The detectors that found something."""
        found = ("statistics",) if bool((self.tests.adjusted <= self.level).any()) else ()
        return (*found, "embeddings") if self.embedding_p <= self.embedding_level else found


@dataclass(frozen=True)
class Episode:
    """An alarm, and how long it went on: rows of the stream."""

    detector: str  # stream, statistics, embeddings
    since: int  # about where it began
    index: int  # the row that raised it
    last: int  # the last row with evidence
    over: bool
    place: int  # of the block or the window that raised it
    leading: int = 0  # stream: the kind of distance with the most evidence


@dataclass(frozen=True)
class Detection:
    """What the detectors found in a stream."""

    blocks: Blocks
    scorer: Scorer
    scores: Float64Array  # (T, S)
    evidence: StreamEvidence
    windows: tuple[WindowTest, ...]
    last: Moved | None  # of the newest images, as many as a window has
    images: int  # of the reference
    window: int

    @property
    def needed(self) -> int:
        """Images before which nothing was judged."""
        return max(looks(self.window)[0], self.blocks.at(0))

    @property
    def judged(self) -> bool:
        """Whether every detector had its first test."""
        return bool(self.windows) and len(self.evidence.ends) > 0

    def notes(self) -> list[str]:
        """What was taken as one scene, and what limits the tests."""
        blocks, found = self.blocks, []
        if blocks.alike > blocks.reference:
            found.append(
                f"neighbors are alike over about {counted(blocks.alike, 'image')}, but the reference has only "
                f"{self.images} "
                f"images: {blocks.reference} {'counts' if blocks.reference == 1 else 'count'} as one, so that a new "
                "scene may be taken for drift more often than the rate"
            )
        if not blocks.ranked:
            each = counted(blocks.reference, "image")
            found.append(
                f"the reference has {counted(blocks.number, 'scene')} of {each}, too few for ranks: how "
                "unlike it a new scene may "
                "be is taken from the spread between them (Student's t)"
            )
        least = [one for one in self.windows if one.embedding_least > one.embedding_level]
        if least:
            found.append(
                f"the embeddings of {counted(len(least), 'window')} could not raise an alarm: the least p-value that "
                f"permutations of so few scenes can have is {least[-1].embedding_least:.2g}, and the level is "
                f"{least[-1].embedding_level:.2g}"
            )
        return found

    def episodes(self) -> list[Episode]:
        """The alarms, those of one detector that follow on each other as one, in order of the images that raised them.

        Of the first images of a stream they are the first of the stream's, but for :attr:`Episode.last` and
        :attr:`Episode.over`.
        """
        return sorted([*self._stream_episodes(), *self._window_episodes()], key=lambda one: (one.index, one.detector))

    def _stream_episodes(self) -> Iterator[Episode]:
        """The detector takes in what it sees, so that it does not show when a change ends: the distances do. An episode
        is over after SAME_EPISODE images without an alarm whose median distance is nearer to the reference's than to
        that of the images which raised it."""
        ends = [int(self.evidence.ends[place]) for place, *_ in self.evidence.alarms]
        known, seen = self.scorer.evidence(self.scores)
        number = 0
        while number < len(ends):
            place, since, leading = self.evidence.alarms[number]
            index = last = ends[number]
            usual, there = float(np.median(known[:, leading])), float(np.median(seen[since : index + 1, leading]))
            over = False
            while not over:
                number += 1
                if number < len(ends) and ends[number] <= last + SAME_EPISODE:
                    last = ends[number]
                    continue
                number -= 1
                rest = seen[last + 1 : last + 1 + SAME_EPISODE, leading]
                if len(rest) < SAME_EPISODE:
                    break
                if float(np.median(rest)) > (usual + there) / 2:
                    last += SAME_EPISODE
                else:
                    over = True
            yield Episode("stream", since, index, last, over, place, leading)
            number += 1

    def _window_episodes(self) -> Iterator[Episode]:
        """An episode is over after SAME_EPISODE images or more, in whole windows, in which nothing was found."""
        tested = self.windows[-1].end if self.windows else -1
        for detector in ("statistics", "embeddings"):
            found = [(place, one) for place, one in enumerate(self.windows) if detector in one.moved]
            groups: list[list[tuple[int, WindowTest]]] = []
            for place, one in found:
                if groups and one.start - 1 - groups[-1][-1][1].end <= SAME_EPISODE:
                    groups[-1].append((place, one))
                else:
                    groups.append([(place, one)])
            for group in groups:
                (place, first), last = group[0], group[-1][1].end
                starts = range(last + 1 - (last + 1) % self.window, last + 2 + SAME_EPISODE, self.window)
                over = tested >= max(starts) + self.window - 1
                yield Episode(detector, first.start, first.end, last, over, place)

    def first(self) -> int | None:
        """The image at which there is the first alarm of any detector; None if there is none."""
        ends = [int(self.evidence.ends[place]) for place, *_ in self.evidence.alarms]
        return min([*ends, *(one.end for one in self.windows if one.moved)], default=None)


class Baseline:
    """The columns of a reference, and what is computed of them once for all streams."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self.times = correlation_times(columns)
        self._scorers: dict[int, Scorer] = {}
        self.alike = block_length(columns, self.scorer(1).reference)

    def scorer(self, block: int) -> Scorer:
        """Fitted without blocks of that many images."""
        return self._scorers.get(block) or self._scorers.setdefault(block, Scorer(self.columns, block))

    @functools.cached_property
    def embedding_block(self) -> int:
        """Images per block of the permutation."""
        return _embedding_block(self.columns)


def detect(
    known: Columns | Baseline,
    found: Columns,
    *,
    rate: float = RATE,
    block: int | None = None,
    window: int = WINDOW,
    correction: str = "holm",
) -> Detection:
    """Examine the rows of a stream, in order of arrival, against those of a reference; both with the same columns.

    ``block``: images that count as one, by default as many as are alike (:mod:`segwright.monitoring.scenes`).
    """
    base = known if isinstance(known, Baseline) else Baseline(known)
    blocks = find_blocks(base.columns, base.alike, found, base.scorer(1)(found), block)
    scorer = base.scorer(blocks.reference)
    scores = scorer(found)
    judged = len(found) if blocks.lengths or block is not None else 0  # too few to tell what counts as one
    evidence = stream_evidence(
        *scorer.evidence(scores[:judged]),
        block=blocks.at,
        rate=rate * STREAM_SHARE,
        reference_blocks=scorer.blocks,
        effective=blocks.effective,
    )
    windows, last = _windows(base, found, blocks, window, rate, correction)
    return Detection(blocks, scorer, scores, evidence, windows, last, len(base.columns), window)


def looks(window: int) -> tuple[int, ...]:
    """Images of a window after which it is tested."""
    return tuple(sorted({max(LEAST_WINDOW, round(share * window)) for share in LOOKS}))


def _windows(
    base: Baseline, found: Columns, blocks: Blocks, window: int, rate: float, correction: str
) -> tuple[tuple[WindowTest, ...], Moved | None]:
    """The tests of each window, and of the newest images.

    A window is tested at :func:`looks` alone, however often the stream is examined: a test has the level of the images
    that came since the one before.
    """
    known, times = base.columns, base.times
    result = []
    for start in range(0, len(found), window):
        before = 0
        for size in looks(window):
            if start + size > len(found):
                break
            part = found.take(slice(start, start + size))
            there = replace(blocks, stream=blocks.at(start + size))
            tests = compare_columns(known, part, correction, times=times, blocks=there)
            level, p, least = rate * size * EMBEDDING_SHARE, math.nan, math.nan
            if size == window and known.embeddings.shape[1]:
                p, least = _embedding_p(base, part, there, level)
            spent = rate * (size - before) * STATISTICS_SHARE
            result.append(WindowTest(start, start + size - 1, spent, tests, level, p, least))
            before = size
    if len(found) < LEAST_WINDOW:
        return tuple(result), None
    recent = found.take(slice(max(0, len(found) - window), None))
    return tuple(result), compare_columns(known, recent, correction, times=times, blocks=blocks)


def _embedding_p(base: Baseline, part: Columns, blocks: Blocks, level: float) -> tuple[float, float]:
    """The p-value, and the least that it can be."""
    known = base.columns
    span = max(blocks.reference, blocks.stream, base.embedding_block, _embedding_block(part))
    span = min(span, max(1, len(part) // 5))
    return mmd_test(known.embeddings, part.embeddings, blocks_of(known.scenes, span),
                    blocks_of(np.zeros(len(part), np.intp), span),
                    permutations=int(min(MOST_PERMUTATIONS, math.ceil(2 / level))))  # fmt: skip


def _embedding_block(known: Columns) -> int:
    """Images per block of the permutation: the correlation time of the embeddings' first directions, as far as there
    are ten blocks."""
    values = known.embeddings[np.isfinite(known.embeddings).all(axis=1)]
    if len(values) < 20:
        return 1
    _, _, directions = np.linalg.svd(values - values.mean(axis=0), full_matrices=False)
    centered, scenes = values - values.mean(axis=0), known.scenes[np.isfinite(known.embeddings).all(axis=1)]
    times = [correlation_time(centered @ direction, scenes) for direction in directions[:3]]
    return int(max(1, min(round(1.5 * max(times) - 0.5), len(known) // 10)))
