"""Whether the images, or what the model finds in them, differ from the reference: tests, embeddings, and streams.

Neighbors in a video are alike and carry less information than separate images. Tests of single statistics therefore
count effective images (by the integrated autocorrelation time), embeddings are permuted in whole blocks of neighbors,
and the stream's detector takes a block of neighbors as one observation.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import kolmogorov

from segwright.core.errors import UsageError
from segwright.monitoring.columns import Columns, Float64Array, IntArray, scaled

LONGEST_BLOCK = 30  # images
FOLDS = 5
# Calibrators of a p-value, each an e-value: its mean is at most 1 if the p-value is valid (Vovk and Wang 2021).
POWERS = (0.3, 0.6)  # ε p^(ε − 1): small and middling changes
STEPS = ((0.9, 0.05), (0.9, 0.12), (0.5, 0.12), (0.5, 0.3))  # 1 − c + c [p ≤ α] / α: large changes, few references
CORRECTIONS = ("holm", "bh")


# ---------------------------------------------------------------- single statistics


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


def _time_in_parts(values: Float64Array, length: int = 25) -> float:
    """The median correlation time over parts of a series: a change in between is drift, not correlation."""
    parts = [values[start : start + length] for start in range(0, len(values) - length + 1, length)] or [values]
    return float(np.median([correlation_time(part) for part in parts]))


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
    reference: Columns, found: Columns, correction: str = "holm", *, times: Float64Array | None = None
) -> Moved:
    """Each column of ``found`` against the reference's. ``times``: :func:`correlation_times` of the reference."""
    p_values = np.full(len(reference.names), np.nan)
    least = float(len(found))
    known = correlation_times(reference) if times is None else times
    for index in range(len(p_values)):
        a, b = reference.values[:, index], found.values[:, index]
        n, m = int(np.isfinite(a).sum()), int(np.isfinite(b).sum())
        time = float(known[index])
        longest = max(1.0, min(time, m / 2), _time_in_parts(b))
        effective = (n / time, m / longest) if n and m else (1.0, 1.0)
        least = min(least, effective[1])
        p_values[index] = two_sample_p(a, b, counts=effective)
    return Moved(p_values, adjusted_p(p_values, correction), least)


# ---------------------------------------------------------------- embeddings


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
    """The p-value of the maximum mean discrepancy of two sets of embeddings (N, D), (M, D): Gretton et al. 2012.

    Blocks of neighbors are permuted whole, so that the frames of one scene do not count as independent. Gaussian kernel
    of the median distance, over whitened directions, of which there are fewer than blocks: any number of dimensions is
    possible. Rows with a value that is not finite are left out, and an image that comes again counts once; NaN if fewer
    than 2 blocks remain on a side.
    """
    keep, kept = _distinct(reference), _distinct(found)
    a, b = reference[keep], found[kept]
    _, left = np.unique(reference_blocks[keep], return_inverse=True)
    _, right = np.unique(found_blocks[kept], return_inverse=True)
    if not a.size or not b.size or left.max() < 1 or right.max() < 1:
        return float("nan")
    values = np.concatenate([a, b])
    blocks = np.concatenate([left, right + left.max() + 1])
    number = int(blocks.max()) + 1
    values = values - values.mean(axis=0)
    spread = values.std(axis=0)
    values = (
        values[:, spread > 1e-9 * max(1.0, float(spread.max()))] / spread[spread > 1e-9 * max(1.0, float(spread.max()))]
    )
    if not values.shape[1]:
        return 1.0  # every image is the same on both sides
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
    random = np.random.default_rng(seed)
    first = np.zeros((permutations + 1, number))
    first[0, : int(left.max()) + 1] = 1
    for row in range(1, permutations + 1):
        first[row, random.permutation(number)[: int(left.max()) + 1]] = 1
    second = 1 - first
    n, m = first @ sizes, second @ sizes
    statistic = (
        ((first @ sums) * first).sum(axis=1) / n**2
        + ((second @ sums) * second).sum(axis=1) / m**2
        - 2 * ((first @ sums) * second).sum(axis=1) / (n * m)
    )
    return float((1 + (statistic[1:] >= statistic[0] - 1e-12).sum()) / (permutations + 1))


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
    known = np.isfinite(values).any(axis=0)
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

    ends: IntArray  # (B,) the last row of each block
    values: Float64Array  # (B,) Shiryaev–Roberts statistic, before a restart
    alarms: tuple[tuple[int, int, int], ...]  # (block, row since which the evidence grew, index of the leading score)
    threshold: float


def stream_evidence(reference: Float64Array, stream: Float64Array, *, block: int, rate: float) -> StreamEvidence:
    """A conformal test of exchangeability with restarts, over scores (N, S) of the reference and (T, S) of a stream.

    Each row's p-value is its rank among the reference and the stream's earlier blocks (Vovk et al. 2003), with one
    block counted as tied, so that it holds for equal images within a block too. A block's e-value is the mean of its
    rows' (valid under any dependence within), and blocks multiply in the Shiryaev–Roberts form R ← (1 + R) e, averaged
    over scores and bets. If the blocks are exchangeable, the mean time to a false alarm is at least ``threshold``
    blocks (Shin, Ramdas and Rinaldo 2022), which is set so that there is at most ``rate`` per image. After an alarm,
    R starts again at 0. A block that is not full waits. Rows whose score is not finite count as no evidence.
    """
    if block < 1 or not 0 < rate < 1:
        raise UsageError("a stream needs a block ≥ 1 and a rate in 0…1", found=f"{block}, {rate}")
    threshold = max(2.0, 1 / (rate * block))
    count, kinds = stream.shape
    number = count // block
    past = [np.sort(reference[np.isfinite(reference[:, kind]), kind]) for kind in range(kinds)]
    statistic, growth = np.zeros((kinds, BETS)), np.ones((kinds, BETS))
    began = np.zeros((kinds, BETS), np.intp)  # the row since which a bet wins
    values = np.zeros(number)
    alarms: list[tuple[int, int, int]] = []
    for place in range(number):
        rows = stream[place * block : (place + 1) * block]
        for kind in range(kinds):
            scores = rows[:, kind]
            known = np.isfinite(scores)
            earlier = past[kind]
            above = len(earlier) - np.searchsorted(earlier, scores[known], "left")
            p = np.ones(block)
            p[known] = (block + above) / (block + len(earlier))
            # A mean over the whole block, in which a row without a score is a bet that was not placed.
            bets = np.where(known[:, None], calibrators(p), 1.0).mean(axis=0)
            statistic[kind] = (1 + statistic[kind]) * bets
            began[kind] = np.where(growth[kind] <= 1, place * block, began[kind])
            growth[kind] = np.maximum(growth[kind], 1) * bets
            fresh = np.sort(scores[known])
            past[kind] = np.insert(earlier, np.searchsorted(earlier, fresh), fresh)
        values[place] = statistic.mean()
        if values[place] >= threshold:
            leading = int(statistic.argmax())
            kind = leading // BETS
            # Small bets may have grown by chance before: the latest start of those that matter.
            strong = growth[kind] >= min(np.sqrt(threshold), growth[kind].max())
            alarms.append((place, int(began[kind][strong].max()), kind))
            statistic[:], growth[:] = 0, 1
    ends = (np.arange(number, dtype=np.intp) + 1) * block - 1
    return StreamEvidence(ends, values, tuple(alarms), threshold)


def block_length(
    scores: Float64Array, reference: Columns, stream_scores: Float64Array | None = None, stream: Columns | None = None
) -> int:
    """Images that count as one: the longest correlation time of the scores (N, S) and of three quarters of the
    statistics, of the reference or, if it is longer, of the stream, at most LONGEST_BLOCK."""
    times = [correlation_time(column, reference.scenes) for column in scores.T]
    times.append(_usual(correlation_time(column, reference.scenes) for column in reference.values.T))
    if stream_scores is not None and stream is not None and len(stream_scores) >= 40:
        times += [_time_in_parts(column, 40) for column in stream_scores.T]
        times.append(_usual(_time_in_parts(column, 40) for column in stream.values.T))
    # Blocks that are cut anywhere must be longer than what is alike, or every second one would be.
    return int(min(LONGEST_BLOCK, max(1, round(1.5 * max(times) - 0.5))))


def _usual(times: Iterable[float]) -> float:
    """The third quartile: the longest of many is long by chance."""
    return float(np.quantile(list(times), 0.75))
