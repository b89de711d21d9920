"""The three detectors over a stream of records: which share of the rate of false alarms each has, and what they found.

The rate is shared: half for the stream's detector, a quarter for the tests of single statistics and a twentieth for
that of the embeddings, which are made once per window of images. The embeddings get less than is left, because they
differ between scenes of one kind more than a permutation of neighbors can show.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from segwright.core.counted import counted
from segwright.monitoring.columns import Columns, Float64Array
from segwright.monitoring.drift import (
    Moved,
    Scorer,
    StreamEvidence,
    compare_columns,
    correlation_times,
    mmd_p,
    stream_evidence,
)
from segwright.monitoring.scenes import Blocks, block_length, blocks_of, correlation_time, find_blocks

RATE = 1e-3  # false alarms per image
WINDOW = 100  # images per test
LEAST_WINDOW = 20
STREAM_SHARE = 0.5  # of the rate
STATISTICS_SHARE = 0.25
EMBEDDING_SHARE = 0.05
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

    @property
    def moved(self) -> tuple[str, ...]:
        """The detectors that found something."""
        found = ("statistics",) if bool((self.tests.adjusted <= self.level).any()) else ()
        return (*found, "embeddings") if self.embedding_p <= self.embedding_level else found


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
        return found

    def stream_alarms(self) -> Iterator[tuple[int, int, int]]:
        """Alarms of the evidence that begin an episode."""
        last = -SAME_EPISODE - 1
        for alarm in self.evidence.alarms:
            index = int(self.evidence.ends[alarm[0]])
            if index - last > SAME_EPISODE:
                yield alarm
            last = index

    def window_alarms(self) -> Iterator[tuple[int, str]]:
        """Number of the window and the detector, of alarms that begin an episode."""
        previous: dict[str, int] = {}
        for place, one in enumerate(self.windows):
            for detector in one.moved:
                span = SAME_EPISODE + one.end + 1 - one.start
                if detector not in previous or one.end - previous[detector] > span:
                    yield place, detector
                previous[detector] = one.end

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
    evidence = stream_evidence(
        *scorer.evidence(scores),
        block=blocks.stream,
        rate=rate * STREAM_SHARE,
        reference_blocks=scorer.blocks,
        effective=blocks.effective,
    )
    windows, last = _windows(base, found, blocks, window, rate, correction)
    return Detection(blocks, scorer, scores, evidence, windows, last, len(base.columns))


def _windows(
    base: Baseline, found: Columns, blocks: Blocks, window: int, rate: float, correction: str
) -> tuple[tuple[WindowTest, ...], Moved | None]:
    """The tests of each window, and of the newest images."""
    known, times = base.columns, base.times
    result = []
    for start in range(0, len(found), window):
        part = found.take(slice(start, start + window))
        if len(part) < LEAST_WINDOW:
            break
        tests = compare_columns(known, part, correction, times=times, blocks=blocks)
        level = rate * len(part) * EMBEDDING_SHARE
        p = _embedding_p(base, part, blocks, level) if known.embeddings.shape[1] else math.nan
        end = start + len(part) - 1
        result.append(WindowTest(start, end, rate * len(part) * STATISTICS_SHARE, tests, level, p))
    if len(found) < LEAST_WINDOW:
        return tuple(result), None
    recent = found.take(slice(max(0, len(found) - window), None))
    return tuple(result), compare_columns(known, recent, correction, times=times, blocks=blocks)


def _embedding_p(base: Baseline, part: Columns, blocks: Blocks, level: float) -> float:
    known = base.columns
    span = max(blocks.reference, blocks.stream, base.embedding_block, _embedding_block(part))
    span = min(span, max(1, len(part) // 5))
    return mmd_p(known.embeddings, part.embeddings, blocks_of(known.scenes, span),
                 blocks_of(np.zeros(len(part), np.intp), span),
                 permutations=int(min(4999, math.ceil(2 / level))))  # fmt: skip


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
