"""Whether the images, or what the model finds in them, differ from the reference: tests, embeddings, and streams.

Neighbors in a video are alike and carry less information than separate images. All three therefore count blocks of
neighbors (:mod:`segwright.monitoring.scenes`): tests of single statistics compare the means of blocks or count
effective images, embeddings are permuted in whole blocks, and the stream's detector places one bet per block. Where the
reference has too few blocks for ranks, their means are taken as normal, and Student's t carries how few there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import kolmogorov, stdtr

from segwright.core.errors import UsageError
from segwright.monitoring.columns import Columns, Float64Array, IntArray, scaled
from segwright.monitoring.scenes import (
    RANKED_BLOCKS,
    Blocks,
    block_means,
    blocks_of,
    correlation_time,
    distinct,
    time_in_parts,
)

FOLDS = 5
FARTHEST = 2.5  # standard deviations by which an image of the stream moves what is expected of the next ones
# Calibrators of a p-value, each an e-value: its mean is at most 1 if the p-value is valid (Vovk and Wang 2021).
POWERS = (0.3, 0.6)  # ε p^(ε − 1): small and middling changes
STEPS = ((0.9, 0.05), (0.9, 0.12), (0.5, 0.12), (0.5, 0.3))  # 1 − c + c [p ≤ α] / α: large changes, few references
CORRECTIONS = ("holm", "bh")
BATCH = 1000  # permutations that are computed together
ENOUGH_LARGER = 50  # permutations as large as what was observed: the p-value is far above any level


# ---------------------------------------------------------------- single statistics


def two_sample_p(reference: Float64Array, found: Float64Array, *, counts: tuple[float, float] | None = None) -> float:
    """The p-value of the Kolmogorov–Smirnov test, two-sided; NaN if one side has no finite value.

    ``counts``: effective images on both sides. Ties, such as a constant statistic, make it conservative; two constants
    that are equal give 1.
    """
    first, second = np.sort(reference[np.isfinite(reference)]), np.sort(found[np.isfinite(found)])
    if not len(first) or not len(second):
        return float("nan")
    points = np.concatenate([first, second])
    below = np.searchsorted(first, points, "right") / len(first)
    distance = float(np.abs(below - np.searchsorted(second, points, "right") / len(second)).max())
    a, b = counts or (float(len(first)), float(len(second)))
    root = float(np.sqrt(a * b / (a + b)))
    # Stephens 1970: good from four effective images on
    return float(min(1.0, kolmogorov((root + 0.12 + 0.11 / root) * distance)))


def adjusted_p(p_values: npt.ArrayLike, correction: str = "holm") -> Float64Array:
    """p-values corrected for their number: ``holm`` bounds the chance of any false one (Holm 1979), ``bh`` the expected
    share of false ones (Benjamini and Hochberg 1995). NaN stays NaN and is not counted."""
    if correction not in CORRECTIONS:
        raise UsageError("unknown correction", expected=" or ".join(CORRECTIONS), found=correction)
    values = np.asarray(p_values, np.float64)
    result = np.full(values.shape, np.nan)
    known = np.flatnonzero(np.isfinite(values))
    order = known[np.argsort(values[known], kind="stable")]
    count = len(order)
    if not count:
        return result
    ranks = np.arange(count)
    if correction == "holm":
        result[order] = np.maximum.accumulate(values[order] * (count - ranks))
    else:
        result[order] = np.minimum.accumulate((values[order] * count / (ranks + 1))[::-1])[::-1]
    return np.asarray(np.minimum(result, 1))


@dataclass(frozen=True)
class Moved:
    """The tests of all columns: (F,) each."""

    p_values: Float64Array
    adjusted: Float64Array
    effective: float  # images of the found side, after correlation; the least of all columns


def correlation_times(reference: Columns) -> Float64Array:
    """(F,) the correlation time of each column, for :func:`compare_columns`."""
    return np.array([correlation_time(column, reference.scenes) for column in reference.values.T])


def compare_columns(
    reference: Columns,
    found: Columns,
    correction: str = "holm",
    *,
    times: Float64Array | None = None,
    blocks: Blocks | None = None,
) -> Moved:
    """Each column of ``found`` against the reference's. ``times``: :func:`correlation_times` of the reference.

    Of RANKED_BLOCKS blocks or more on both sides by Kolmogorov–Smirnov with effective images, of fewer by Welch's test
    of the blocks' means, in which an image that comes again counts once. ``blocks``: none if images are single.
    """
    if blocks is not None:
        found = found.take(np.flatnonzero(distinct(found)))
        number = -(-len(found) // blocks.stream)
        if min(number, blocks.number) < RANKED_BLOCKS:
            p_values = _welch_p(reference, found, blocks, correlation_times(reference) if times is None else times)
            return Moved(p_values, adjusted_p(p_values, correction), float(number))
    p_values = np.full(len(reference.names), np.nan)
    least = float(len(found))
    known = correlation_times(reference) if times is None else times
    for index in range(len(p_values)):
        a, b = reference.values[:, index], found.values[:, index]
        n, m = int(np.isfinite(a).sum()), int(np.isfinite(b).sum())
        time = float(known[index])
        longest = max(1.0, min(time, m / 2), time_in_parts(b))
        effective = (n / time, m / longest) if n and m else (1.0, 1.0)
        least = min(least, effective[1])
        p_values[index] = two_sample_p(a, b, counts=effective)
    return Moved(p_values, adjusted_p(p_values, correction), least)


def _welch_p(reference: Columns, found: Columns, blocks: Blocks, times: Float64Array) -> Float64Array:
    """(F,) p-values of Welch's test, two-sided, of the means of blocks, on the scale on which spreads are even.

    Blocks count as fewer where a column's own correlation time, of ``times`` (F,), is longer than they are.
    A spread of nothing counts as a thousandth of the value, as in :class:`Scorer`. With one block on a side its spread
    is taken to be the other's; NaN if one side has no finite value.
    """
    sides = []
    in_order = np.zeros(len(found), np.intp)
    for columns, scenes, length in ((reference, reference.scenes, blocks.reference), (found, in_order, blocks.stream)):
        places = blocks_of(scenes, length)
        means, _ = block_means(scaled(columns.values, columns.names), places)
        known = np.isfinite(means)
        count = known.sum(axis=0)
        independent = count * (blocks.effective / blocks.number if columns is reference else 1.0)
        independent = np.maximum(np.minimum(independent, len(columns) / times), 1.5)
        mean = np.where(known, means, 0).sum(axis=0) / np.maximum(count, 1)
        variance = np.where(known, (np.nan_to_num(means) - mean) ** 2, 0).sum(axis=0) / np.maximum(count - 1, 1)
        sides.append(
            (
                np.where(count > 1, independent, count),
                mean,
                np.maximum(variance, (1e-3 * np.maximum(np.abs(mean), 1e-3)) ** 2),
            )
        )
    (n, a, v), (m, b, w) = sides
    v, w = np.where(n > 1, v, w), np.where(m > 1, w, v)
    first, second = v / np.maximum(n, 1), w / np.maximum(m, 1)
    free = (first + second) ** 2 / (first**2 / np.maximum(n - 1, 1) + second**2 / np.maximum(m - 1, 1))
    p_values = 2 * stdtr(np.maximum(free, 1.0), -np.abs(b - a) / np.sqrt(first + second))
    return np.where((n > 0) & (m > 0) & (n + m > 2), p_values, np.nan)


# ---------------------------------------------------------------- embeddings


def _distinct(values: Float64Array) -> npt.NDArray[np.bool_]:
    """The first of equal rows, of those that are finite: a camera that shows one thing again and again is one image."""
    result = np.zeros(len(values), bool)
    known = np.flatnonzero(np.isfinite(values).all(axis=1))
    result[known[np.unique(values[known], axis=0, return_index=True)[1]]] = True
    return result


def mmd_p(
    reference: Float64Array,
    found: Float64Array,
    reference_blocks: IntArray,
    found_blocks: IntArray,
    *,
    permutations: int = 999,
    seed: int = 0,
) -> float:
    """The p-value of :func:`mmd_test`."""
    return mmd_test(reference, found, reference_blocks, found_blocks, permutations=permutations, seed=seed)[0]


def mmd_test(
    reference: Float64Array,
    found: Float64Array,
    reference_blocks: IntArray,
    found_blocks: IntArray,
    *,
    permutations: int,
    seed: int = 0,
) -> tuple[float, float]:
    """The p-value of the maximum mean discrepancy of two sets of embeddings (N, D), (M, D): Gretton et al. 2012.

    Blocks of neighbors are permuted whole, so that the frames of one scene do not count as independent. Gaussian kernel
    of the median distance, over whitened directions, of which there are fewer than blocks: any number of dimensions is
    possible. Rows with a value that is not finite are left out, and an image that comes again counts once; NaN if fewer
    than 2 blocks remain on a side. Permutations end early once ENOUGH_LARGER of them are as large as what was observed.

    The second value is the least p-value that so many permutations of so many blocks can have.
    """
    keep, kept = _distinct(reference), _distinct(found)
    a, b = reference[keep], found[kept]
    _, left = np.unique(reference_blocks[keep], return_inverse=True)
    _, right = np.unique(found_blocks[kept], return_inverse=True)
    if not a.size or not b.size or left.max() < 1 or right.max() < 1:
        return float("nan"), float("nan")
    values = np.concatenate([a, b])
    blocks = np.concatenate([left, right + left.max() + 1])
    number = int(blocks.max()) + 1
    values = values - values.mean(axis=0)
    spread = values.std(axis=0)
    values = (
        values[:, spread > 1e-9 * max(1.0, float(spread.max()))] / spread[spread > 1e-9 * max(1.0, float(spread.max()))]
    )
    if not values.shape[1]:
        return 1.0, 1.0  # every image is the same on both sides
    # Distances by inner products: two N×N arrays, whatever the number of dimensions.
    products = values @ values.T
    norms = np.diagonal(products)
    squared = np.maximum(norms[:, None] + norms[None] - 2 * products, 0)
    middle = float(np.median(squared[~np.eye(len(squared), dtype=bool)]))
    kernel = np.exp(-squared / middle) if middle > 0 else (squared == 0).astype(np.float64)
    members = np.zeros((number, len(values)))
    members[blocks, np.arange(len(values))] = 1
    sums = members @ kernel @ members.T  # (blocks, blocks)
    sizes = members.sum(axis=1)
    size = int(left.max()) + 1
    least = max(1 / (permutations + 1), 1 / math.comb(number, size))
    observed = np.zeros((1, number))
    observed[0, :size] = 1
    statistic = float(_discrepancies(observed, sums, sizes)[0])
    random, done, larger = np.random.default_rng(seed), 0, 0
    while done < permutations and larger < ENOUGH_LARGER:
        count = min(BATCH, permutations - done)
        first = np.zeros((count, number))
        chosen = np.argsort(random.random((count, number)), axis=1)[:, :size]
        np.put_along_axis(first, chosen, 1, axis=1)
        larger += int((_discrepancies(first, sums, sizes) >= statistic - 1e-12).sum())
        done += count
    return (1 + larger) / (done + 1), least


def _discrepancies(first: Float64Array, sums: Float64Array, sizes: Float64Array) -> Float64Array:
    """(P,) discrepancies of P arrangements (P, B) of blocks, 1 on the first side, from the sums of their kernel (B, B)
    and their sizes (B,)."""
    second = 1 - first
    n, m = first @ sizes, second @ sizes
    return np.asarray(
        ((first @ sums) * first).sum(axis=1) / n**2
        + ((second @ sums) * second).sum(axis=1) / m**2
        - 2 * ((first @ sums) * second).sum(axis=1) / (n * m)
    )


# ---------------------------------------------------------------- nonconformity scores


@dataclass(frozen=True)
class _Ellipse:
    """A center and a shrunk covariance of standardized columns; a value that is not finite counts as the center."""

    center: Float64Array
    spread: Float64Array
    whitening: Float64Array

    @classmethod
    def fit(cls, values: Float64Array, blocks: int) -> _Ellipse:
        with np.errstate(all="ignore"):
            center = np.nan_to_num(_nan_quantile(values, 0.5))
            spread = np.nan_to_num(_nan_quantile(np.abs(values - center), 0.5) * 1.4826)
            wide = np.nan_to_num(np.sqrt(_nan_mean((values - center) ** 2)))
        # A constant column has no spread: any other value is then far away, and its own is at 0.
        spread = np.maximum(np.maximum(spread, 0.3 * wide), 1e-3 * np.maximum(np.abs(center), 1e-3))
        standard = np.clip(np.nan_to_num((values - center) / spread), -10, 10)
        size = values.shape[1]
        shrink = min(1.0, max(0.1, size / max(1, blocks)))
        found = (1 - shrink) * standard.T @ standard / max(1, len(standard)) + shrink * np.eye(size)
        eigenvalues, vectors = np.linalg.eigh(found)
        return cls(center, spread, vectors / np.sqrt(np.maximum(eigenvalues, 0.05)))

    def distance(self, values: Float64Array) -> Float64Array:
        standard = np.clip(np.nan_to_num((values - self.center) / self.spread), -1e4, 1e4)
        return np.asarray(np.sqrt(((standard @ self.whitening) ** 2).sum(axis=1)))


def _nan_quantile(values: Float64Array, q: float) -> Float64Array:
    finite = np.isfinite(values)
    if finite.all() and len(values):
        return np.asarray(np.quantile(values, q, axis=0))  # a hundred times as fast
    known = finite.any(axis=0)
    result = np.zeros(values.shape[1])
    if known.any():
        result[known] = np.nanquantile(values[:, known], q, axis=0)
    return result


def _nan_mean(values: Float64Array) -> Float64Array:
    known = np.isfinite(values)
    return np.asarray(np.where(known, values, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1))


class Scorer:
    """How unlike the reference an image is, by kind of statistic: (N, S) distances, S of :attr:`kinds`.

    The reference's own rows are scored by ellipses that were fitted without their block (cross-fitting), so that they
    compare with new rows, which are scored by the mean over the folds.
    """

    def __init__(self, reference: Columns, block: int, *, folds: int = FOLDS) -> None:
        self.names, self.groups = reference.names, reference.groups
        blocks = blocks_of(reference.scenes, block)
        number = int(blocks.max()) + 1 if len(blocks) else 0
        if number < 2:
            raise UsageError(
                "the reference is too small", expected=f"at least 2 blocks of {block} images", found=f"{len(blocks)}",
                fix="make a reference from more held-out images",
            )  # fmt: skip
        self.folds = max(2, min(folds, number))
        self.blocks = blocks
        self.kinds = tuple(kind for kind in ("image", "classes", "confidence", "embedding")
                           if kind != "embedding" or reference.embeddings.shape[1])  # fmt: skip
        fold = np.random.default_rng(0).permutation(number)[blocks] % self.folds
        parts = {kind: self._part(reference, kind) for kind in self.kinds}
        self._models = [
            {kind: _Ellipse.fit(parts[kind][fold != one], max(1, int(number * (1 - 1 / self.folds))))
             for kind in self.kinds}
            for one in range(self.folds)
        ]  # fmt: skip
        self.reference = np.zeros((len(blocks), len(self.kinds)))
        for one in range(self.folds):
            for place, kind in enumerate(self.kinds):
                self.reference[fold == one, place] = self._models[one][kind].distance(parts[kind][fold == one])

    def _part(self, columns: Columns, kind: str) -> Float64Array:
        if kind == "embedding":
            return columns.embeddings
        chosen = [index for index, group in enumerate(self.groups) if group == kind]
        return scaled(columns.values, self.names)[:, chosen]

    def __call__(self, rows: Columns) -> Float64Array:
        """(N, S) for new rows."""
        parts = {kind: self._part(rows, kind) for kind in self.kinds}
        total = [[model[kind].distance(parts[kind]) for kind in self.kinds] for model in self._models]
        return np.asarray(np.mean(total, axis=0).T) if len(rows) else np.zeros((0, len(self.kinds)))

    def evidence(self, scores: Float64Array) -> tuple[Float64Array, Float64Array]:
        """The reference's scores and ``scores`` for :func:`stream_evidence`: logarithms, whose spread is even."""
        return np.log(np.maximum(self.reference, 1e-9)), np.log(np.maximum(scores, 1e-9))

    def distances(self, scores: Float64Array) -> Float64Array:
        """(N,) one distance per row: the largest over the kinds, in units of the reference's median."""
        middle = np.median(self.reference, axis=0)
        return np.asarray((scores / np.maximum(middle, 1e-9)).max(axis=1)) if len(scores) else np.zeros(0)


# ---------------------------------------------------------------- streams


def calibrators(p: Float64Array) -> Float64Array:
    """(…) p-values → (…, J) e-values, see POWERS and STEPS."""
    bets = [np.asarray(power * p ** (power - 1), np.float64) for power in POWERS]
    bets += [np.asarray(1 - c + c * (p <= level) / level, np.float64) for c, level in STEPS]
    return np.stack(bets, axis=-1)


BETS = len(POWERS) + len(STEPS)


@dataclass(frozen=True)
class StreamEvidence:
    """The detector's value after each block of a stream, and where it passed the threshold."""

    ends: IntArray  # (B,) the last row of each block, or the row within it at which there is an alarm
    values: Float64Array  # (B,) Shiryaev–Roberts statistic in images, before a restart
    alarms: tuple[tuple[int, int, int], ...]  # (block, row since which the evidence grew, index of the leading score)
    threshold: float


class _Ranks:
    """p-values of one score by its rank among the reference's and the stream's earlier ones (Vovk et al. 2003)."""

    def __init__(self, reference: Float64Array, tied: int) -> None:
        self.past, self.tied = np.sort(reference), tied

    def __call__(self, scores: Float64Array) -> Float64Array:
        above = len(self.past) - np.searchsorted(self.past, scores, "left")
        return np.asarray((self.tied + above) / (self.tied + len(self.past)), np.float64)

    def add(self, scores: Float64Array) -> None:
        fresh = np.sort(scores)
        self.past = np.insert(self.past, np.searchsorted(self.past, fresh), fresh)


class _Predictive:
    """p-values of one score by Student's t: where an image of a new block may lie, given the blocks so far.

    The spread is that between blocks' means and within blocks, with as many degrees of freedom as there are independent
    blocks less one. Earlier blocks of the stream are taken in, at most FARTHEST spreads away, so that the first ones of
    a change do not hide it.
    """

    def __init__(self, reference: Float64Array, blocks: IntArray, effective: float) -> None:
        means, within = block_means(reference[:, None], blocks)
        self.means = [float(mean) for mean in means[:, 0] if np.isfinite(mean)]
        self.within = float(within[0])
        self.fewer = max(0.0, len(self.means) - effective)  # blocks that show nothing of their own

    def _expected(self) -> tuple[float, float, float]:
        count = len(self.means) - self.fewer
        center = float(np.mean(self.means)) if self.means else 0.0
        between = float(np.var(self.means, ddof=1)) if len(self.means) > 1 else 0.0
        least = (1e-3 * max(abs(center), 1e-3)) ** 2
        return center, max(between * (1 + 1 / max(1.0, count)) + self.within, least) ** 0.5, count - 1

    def __call__(self, scores: Float64Array) -> Float64Array:
        center, spread, free = self._expected()
        if len(self.means) < 2:
            return np.ones(len(scores))
        return np.asarray(np.maximum(stdtr(max(free, 1.0), -(scores - center) / spread), 1e-12), np.float64)

    def add(self, scores: Float64Array) -> None:
        center, spread, _ = self._expected()
        self.means.append(float(np.clip(scores.mean(), center - FARTHEST * spread, center + FARTHEST * spread)))


class _Past:
    """What is known of one score: ranks as soon as there are RANKED_BLOCKS blocks, of the reference and the stream."""

    def __init__(self, reference: Float64Array, blocks: IntArray, tied: int, effective: float) -> None:
        self.blocks = len(np.unique(blocks))
        self.ranks = _Ranks(reference[np.isfinite(reference)], tied)
        self.predictive = _Predictive(reference, blocks, effective)

    def __call__(self, scores: Float64Array) -> Float64Array:
        return self.ranks(scores) if self.blocks >= RANKED_BLOCKS else self.predictive(scores)

    def add(self, scores: Float64Array) -> None:
        if len(scores):
            self.ranks.add(scores)
            self.predictive.add(scores)
            self.blocks += 1


def stream_evidence(
    reference: Float64Array,
    stream: Float64Array,
    *,
    block: int | Callable[[int], int],
    rate: float,
    reference_blocks: IntArray | None = None,
    effective: float | None = None,
) -> StreamEvidence:
    """A test of exchangeability with restarts, over scores (N, S) of the reference and (T, S) of a stream.

    Each row's p-value is its rank among the reference and the stream's earlier blocks, with one block counted as tied,
    so that it holds for equal images within a block too. As long as both have fewer than RANKED_BLOCKS blocks
    (``reference_blocks`` (N,), runs of ``block`` rows by default; ``effective``: how many of them are independent), it
    is by Student's t, for scores whose block means are about normal. A block's e-value is the mean of its rows' (valid
    under any dependence within), and blocks of b images multiply in the Shiryaev–Roberts form R ← (b + R) e, averaged
    over scores and bets. If the blocks are exchangeable, the mean time to a false alarm is at least ``threshold``
    images (Shin, Ramdas and Rinaldo 2022), which is set so that there is at most ``rate`` per image. Within a block,
    rows that did not come yet count 0: an alarm does not wait for the block's end. After an alarm, R starts again at 0
    with the next block. Rows whose score is not finite count as no evidence. ``block``: in images, or a function of the
    row at which a block begins.

    Rows are read once, in order: the alarms of the first rows of a stream are the first alarms of the stream.
    """
    length = block if callable(block) else lambda _: block
    if length(0) < 1 or not 0 < rate < 1:
        raise UsageError("a stream needs a block ≥ 1 and a rate in 0…1", found=f"{length(0)}, {rate}")
    places = np.arange(len(reference), dtype=np.intp) // length(0) if reference_blocks is None else reference_blocks
    tied = int(np.bincount(places).max()) if len(places) else 1
    independent = effective or float(len(np.unique(places)))
    past = [_Past(column, places, tied, independent) for column in reference.T]
    statistic, growth = np.zeros((len(past), BETS)), np.ones((len(past), BETS))
    began = np.zeros((len(past), BETS), np.intp)  # the row since which a bet wins
    ends: list[int] = []
    values: list[float] = []
    alarms: list[tuple[int, int, int]] = []
    start, size = 0, length(0)
    threshold = max(1 / rate, 2.0 * size)
    while start < len(stream):
        size = length(start)
        threshold = max(1 / rate, 2.0 * size)
        rows = stream[start : start + size]
        for known in past:
            known.ranks.tied = max(size, tied)
        bets = _bets(past, rows)
        sofar = np.cumsum(bets, axis=0) / size
        reached = ((size + statistic) * sofar).mean(axis=(1, 2))
        at = int(np.argmax(reached >= threshold)) if (reached >= threshold).any() else len(rows) - 1
        alarm = bool(reached[at] >= threshold)
        if len(rows) < size and not alarm:
            break  # a block that is not full waits
        statistic = (size + statistic) * sofar[at]
        began = np.where(growth <= 1, start, began)
        growth = np.maximum(growth, 1) * sofar[at]
        ends.append(start + at)
        values.append(float(statistic.mean()))
        if alarm:
            leading = int(statistic.argmax())
            # Small bets may have grown by chance before: the latest start of those that matter.
            one = growth[leading // BETS]
            strong = one >= min(np.sqrt(threshold / size), one.max())
            alarms.append((len(ends) - 1, int(began[leading // BETS][strong].max()), leading // BETS))
            statistic, growth = np.zeros_like(statistic), np.ones_like(growth)
        for kind, known in enumerate(past):
            known.add(rows[np.isfinite(rows[:, kind]), kind])
        start += size
    return StreamEvidence(np.array(ends, np.intp), np.array(values), tuple(alarms), threshold)


def _bets(past: list[_Past], rows: Float64Array) -> Float64Array:
    """(b, S, J) e-values of rows (b, S); a row without a score is a bet that was not placed."""
    bets = np.ones((len(rows), len(past), BETS))
    for kind, known in enumerate(past):
        finite = np.isfinite(rows[:, kind])
        bets[finite, kind] = calibrators(known(rows[finite, kind]))
    return bets
