"""Which images count as one: frames of a scene are alike, and carry less information than separate images.

Neither a journal nor a folder of frames names its scenes reliably, so their length is estimated from the records
themselves: by how far distances, statistics and embeddings of neighbors are correlated. Runs of that length within a
named scene are the *blocks* that every test counts, permutes and bets on as one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from segwright.monitoring.columns import Columns, Float64Array, IntArray

LONGEST_BLOCK = 30  # images
LEAST_BLOCKS = 5  # of a reference: fewer show nothing of how much scenes differ
RANKED_BLOCKS = 30  # of a reference: from here on ranks alone are p-values, and nothing is assumed of tails
# Images of a stream at which the length of its own scenes is estimated, from these first images alone and for what
# comes after them: a look at a longer stream changes nothing of what was judged before. After the last it is kept.
OWN_LENGTHS = (20, 40, 100, 200)
SLACK = 1.5  # a block's length over the correlation time: those that are cut anywhere must be longer than what is alike
PARTS = (100, 50, 20)  # images of a stream whose correlation is estimated together: the longest of which there are two


def correlation_time(values: Float64Array, scenes: IntArray | None = None) -> float:
    """The integrated autocorrelation time of a series in images, 1 if neighbors are independent, at most N / 2.

    Sums autocorrelations up to the first that is not positive (Geyer's initial sequence, 1992, by single lags).
    ``scenes``: neighbors count only within one.
    """
    known = np.isfinite(values)
    series = values[known]
    count = len(series)
    if count < 4:
        return 1.0
    places = scenes[known] if scenes is not None else np.zeros(count, np.intp)
    centered = series - series.mean()
    variance = float((centered**2).mean())
    if not variance > 1e-18 * max(1.0, float(np.abs(series).max()) ** 2):
        return 1.0
    total = 1.0
    for lag in range(1, min(count // 2, 100)):
        same = places[lag:] == places[:-lag]
        if same.sum() < max(3, count // 4):
            break
        found = float((centered[lag:] * centered[:-lag])[same].mean()) / variance
        if found <= 0.05:
            break
        total += 2 * found
    return float(min(total, count / 2))


def time_in_parts(values: Float64Array, length: int = 25) -> float:
    """The lower median of the correlation times of parts of a series: a change in between is drift, not correlation."""
    parts = [values[start : start + length] for start in range(0, len(values) - length + 1, length)] or [values]
    return _middle(correlation_time(part) for part in parts)


def blocks_of(scenes: IntArray, length: int) -> IntArray:
    """(N,) the block of each row: runs of ``length`` neighbors within a scene, in the order of the rows."""
    blocks = np.zeros(len(scenes), np.intp)
    seen: dict[int, int] = {}
    numbers: dict[tuple[int, int], int] = {}
    for place, scene in enumerate(scenes.tolist()):
        position = seen.get(scene, 0)
        seen[scene] = position + 1
        blocks[place] = numbers.setdefault((scene, position // max(1, length)), len(numbers))
    return blocks


@dataclass(frozen=True)
class Blocks:
    """What counts as one, in images, of the reference and of a stream."""

    reference: int
    stream: int
    number: int  # blocks of the reference
    alike: int  # images over which the reference's neighbors are alike: more than ``reference`` if there is no room
    lengths: tuple[tuple[int, int], ...] = ()  # images of the stream, and the length estimated from these

    def at(self, row: int) -> int:
        """The length of the stream's blocks as estimated from the images before ``row``, or from the first of
        OWN_LENGTHS."""
        known = [length for images, length in self.lengths[1:] if images <= row]
        return known[-1] if known else self.lengths[0][1] if self.lengths else self.stream

    @property
    def ranked(self) -> bool:
        """Whether the reference has so many blocks that p-values are ranks among them."""
        return self.number >= RANKED_BLOCKS

    @property
    def effective(self) -> float:
        """Blocks of the reference that are independent: fewer than :attr:`number` if these have no room to be whole."""
        return max(2.0, self.number * min(1.0, SLACK * self.reference / self.alike))


def find_blocks(
    reference: Columns, alike: int, stream: Columns, scores: Float64Array, given: int | None = None
) -> Blocks:
    """The blocks of a reference and a stream. ``alike``: :func:`block_length` of the reference; ``scores``: (T, S)
    distances of the stream to it.

    A stream of fewer images than the first of OWN_LENGTHS is taken to be like the reference. ``given``: the length of
    both.
    """
    most = max(1, len(reference) // LEAST_BLOCKS)
    alike = given or alike
    length = min(alike, most) if given is None else given
    found = []
    if given is None:
        found = [(at, stream_length(stream.take(slice(0, at)), scores[:at])) for at in OWN_LENGTHS if len(stream) >= at]
    number = int(blocks_of(reference.scenes, length).max()) + 1 if len(reference) else 0
    own = given or (found[-1][1] if found else min(alike, max(1, len(stream))))
    return Blocks(length, own, number, alike, tuple(found))


def block_length(reference: Columns, scores: Float64Array) -> int:
    """Images of a reference that count as one: by the longest correlation time of the scores (N, S), of the embeddings
    and of nine tenths of the statistics, at most LONGEST_BLOCK."""
    times = [correlation_time(column, reference.scenes) for column in scores.T]
    times.append(_usual(correlation_time(column, reference.scenes) for column in reference.values.T))
    times.append(joint_time(reference.embeddings, reference.scenes))
    return _length(times)


def stream_length(stream: Columns, scores: Float64Array) -> int:
    """As :func:`block_length`, of a stream: by the lower median over its parts, since a change in between is drift."""
    length = next((part for part in PARTS if len(stream) >= 2 * part), max(1, len(stream)))
    times = [time_in_parts(column, length) for column in scores.T]
    times.append(_usual(time_in_parts(column, length) for column in stream.values.T))
    parts = [slice(start, start + length) for start in range(0, len(stream) - length + 1, length)]
    times.append(_middle(joint_time(stream.embeddings[part]) for part in parts))
    return _length(times)


def _length(times: Iterable[float]) -> int:
    return int(min(LONGEST_BLOCK, max(1, round(SLACK * max(times) - 0.5))))


def joint_time(values: Float64Array, scenes: IntArray | None = None) -> float:
    """The correlation time of embeddings (N, D) as a whole: of the sum of their autocovariances, each direction scaled
    to a variance of 1."""
    known = np.isfinite(values).all(axis=1) if values.size else np.zeros(len(values), bool)
    series = values[known]
    count = len(series)
    if count < 4:
        return 1.0
    centered = series - series.mean(axis=0)
    spread = centered.std(axis=0)
    wide = spread > 1e-9 * max(1.0, float(np.abs(series).max()))
    if not wide.any():
        return 1.0
    standard = centered[:, wide] / spread[wide]
    places = scenes[known] if scenes is not None else np.zeros(count, np.intp)
    total = 1.0
    for lag in range(1, min(count // 2, 100)):
        same = places[lag:] == places[:-lag]
        if same.sum() < max(3, count // 4):
            break
        found = float((standard[lag:] * standard[:-lag]).mean(axis=1)[same].mean())
        if found <= 0.05:
            break
        total += 2 * found
    return float(min(total, count / 2))


def block_means(values: Float64Array, blocks: IntArray) -> tuple[Float64Array, Float64Array]:
    """(B, F) means of each block's finite values, NaN without any, and (F,) the mean variance within blocks."""
    number = int(blocks.max()) + 1 if len(blocks) else 0
    known = np.isfinite(values)
    counts, total, squares = (np.zeros((number, values.shape[1])) for _ in range(3))
    filled = np.where(known, values, 0)
    np.add.at(counts, blocks, known)
    np.add.at(total, blocks, filled)
    means = np.where(counts > 0, total / np.maximum(counts, 1), np.nan)
    np.add.at(squares, blocks, np.where(known, (values - np.nan_to_num(means)[blocks]) ** 2, 0))
    within = np.where(counts > 0, squares / np.maximum(counts, 1), np.nan)
    some = np.isfinite(within)
    return means, np.where(some, np.nan_to_num(within), 0).sum(axis=0) / np.maximum(some.sum(axis=0), 1)


def distinct(columns: Columns) -> npt.NDArray[np.bool_]:
    """The first of equal rows: an image that comes again and again is one image."""
    rows = np.nan_to_num(np.concatenate([columns.values, columns.embeddings], axis=1), nan=-1e300)
    result = np.zeros(len(columns), bool)
    if len(columns):
        result[np.unique(rows, axis=0, return_index=True)[1]] = True
    return result


def _middle(times: Iterable[float]) -> float:
    ordered = sorted(times)
    return float(ordered[(len(ordered) - 1) // 2])


def _usual(times: Iterable[float]) -> float:
    """All but the longest tenth: the longest of many is long by chance."""
    return float(np.quantile(list(times), 0.9))
