"""The mean IoU without labels, from the rows of a journal, with an interval.

Three estimates are made of the network's own confidence: **soft** (expected hits over expected union, calibrated on the
held-out images), **atc** (average thresholded confidence per class: Garg et al. 2022) and **doc** (difference of
confidences: Guillory et al. 2021). A network is too sure of images that are worse than those of its training, so that
each of them is wrong where it matters most; of images that only show something else, ATC is right. **regression**
therefore learns what to add to ATC, on the held-out images under many corruptions, whose truth is known: a linear
function of the other estimates, of which the more is used the further the statistics of the images themselves
(brightness, sharpness, noise, …) are from those of the held-out images, and a Gaussian process on what it leaves. Far
from every corruption it was fitted on, in images as good as before, it is ATC. Its interval is made of the errors
that it makes on kinds of corruption which were left out.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segwright.core.counted import counted
from segwright.core.errors import BundleError, DataError
from segwright.inference.attachments import Attachment
from segwright.metrics.confusion import iou_per_class, nanmean
from segwright.monitoring.columns import Float64Array, scaled
from segwright.monitoring.observation import CONFIDENCE_BINS, IMAGE_STATISTICS, Observation
from segwright.monitoring.result import AccuracyEstimate

NAME = "accuracy"
FORMAT = "segwright-accuracy"
VERSION = 2
LEVEL = 0.9
STATISTICS = ("brightness", "contrast", "saturation", "sharpness", "noise", "dark", "bright")  # of IMAGE_STATISTICS
FEATURES = ("soft", "calibrated soft", "atc", "confidence", "entropy", *STATISTICS)
ATC = FEATURES.index("atc")
ESTIMATES = len(FEATURES) - len(STATISTICS)  # the first features
# Lengths of the kernel: of the estimates in their own unit, of the statistics in spreads over the held-out images.
LENGTHS = np.array([0.15, 0.15, 0.15, 0.1, 0.1, *[4.0] * len(STATISTICS)])
# How far apart windows count as near for an interval: estimates in spreads over all windows, statistics in spreads over
# the held-out images, sizes as logarithms.
NEAR_ESTIMATES, NEAR_STATISTICS, NEAR_SIZES = 0.35, 1.0, 0.5
LEAST_WIDTH = 0.025  # half of an interval, of mIoU
FARTHEST = 8.0  # spreads, beyond which a statistic is not followed
LEAST_SPREAD = 0.02  # of a statistic, on its scale
UNGATED = 0.3  # of the linear function, if the images have not moved
RIDGE = 0.01  # squared weight of 1, beside squared errors of mIoU
NOISE = 0.2  # of a row, beside a kernel of 1
LEAST_ROWS = 20  # training windows that a regression needs
LEAST_KINDS = 4  # kinds of corruption, so that the errors without one are informative
WINDOWS = 4  # drawn per kind and strength, beside the whole
CLEAN_WINDOWS = 40
CLEAN_PARTS = 4  # of the held-out images, each left out once

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sums:
    """What the estimates need of N rows: (N, …) arrays."""

    shares: Float64Array  # (N, K)
    expected_shares: Float64Array
    expected_hits: Float64Array
    histogram: Float64Array  # (N, K, B)
    confidence: Float64Array  # (N,)
    entropy: Float64Array
    statistics: Float64Array  # (N, S) of STATISTICS on even scales, NaN where unknown

    def __len__(self) -> int:
        return len(self.shares)

    def take(self, rows: npt.NDArray[np.intp]) -> Sums:
        """Some rows."""
        return Sums(self.shares[rows], self.expected_shares[rows], self.expected_hits[rows], self.histogram[rows],
                    self.confidence[rows], self.entropy[rows], self.statistics[rows])  # fmt: skip


def sums_of(rows: Sequence[Observation]) -> tuple[Sums, npt.NDArray[np.bool_]]:
    """The sums of the rows whose figures are all finite, and which rows these are."""
    if not rows:
        raise DataError("there are no rows to estimate the accuracy of")
    found = Sums(
        np.stack([row.shares for row in rows]).astype(np.float64),
        np.stack([row.expected_shares for row in rows]).astype(np.float64),
        np.stack([row.expected_hits for row in rows]).astype(np.float64),
        np.stack([row.confidence_histogram for row in rows]).astype(np.float64),
        np.array([row.mean_confidence for row in rows], np.float64),
        np.array([row.entropy for row in rows], np.float64),
        _statistics(rows),
    )
    known = np.isfinite(found.confidence) & np.isfinite(found.entropy)
    for part in (found.shares, found.expected_shares, found.expected_hits, found.histogram):
        known &= np.isfinite(part).reshape(len(rows), -1).all(axis=1)
    return found.take(np.flatnonzero(known)), known


def _statistics(rows: Sequence[Observation]) -> Float64Array:
    """(N, S) of STATISTICS."""
    places = [IMAGE_STATISTICS.index(name) for name in STATISTICS]
    values = np.stack([np.asarray(row.statistics, np.float64)[places] for row in rows])
    return scaled(np.where(np.isfinite(values), values, np.nan), STATISTICS)


@dataclass(frozen=True)
class SelfCalibration:
    """What the held-out images show of the network's confidence."""

    hits: Float64Array  # (K,) true hits over expected ones
    truth: Float64Array  # (K,) true pixels over expected ones
    threshold: float  # ATC: as many held-out pixels lie below this confidence as are wrong
    miou: float
    confidence: float  # mean
    accuracy: float  # share of right pixels
    statistics: Float64Array  # (2, S) mean and spread over the images

    @classmethod
    def fit(cls, sums: Sums, counts: Int64Array) -> SelfCalibration:
        """``counts`` (N, 3, K): hits, truth, prediction of the same rows."""
        total = counts.sum(axis=0).astype(np.float64)
        pixels = total[1].sum()
        if not pixels:
            raise DataError("the held-out images have no labeled pixel", fix="make the reference from labeled images")
        # Void pixels are in the rows' shares, not in the counts: counts are scaled to the rows.
        scale = len(sums) / total[2].sum()
        hits = _ratio(total[0] * scale, sums.expected_hits.sum(axis=0))
        truth = _ratio(total[1] * scale, sums.expected_shares.sum(axis=0))
        wrong = 1 - total[0].sum() / pixels
        histogram = sums.histogram.sum(axis=(0, 1))
        below = np.concatenate([[0], np.cumsum(histogram / histogram.sum())])
        threshold = float(np.interp(wrong, below, np.arange(CONFIDENCE_BINS + 1) / CONFIDENCE_BINS))
        spread = np.where(np.isfinite(sums.statistics), sums.statistics, 0.0)
        statistics = np.stack([spread.mean(axis=0), spread.std(axis=0) + LEAST_SPREAD])
        miou = nanmean(iou_per_class(total))
        return cls(hits, truth, threshold, miou, float(sums.confidence.mean()), 1 - wrong, statistics)


def _ratio(over: Float64Array, under: Float64Array) -> Float64Array:
    with np.errstate(all="ignore"):
        return np.asarray(np.where(under > 1e-9, np.clip(over / under, 0.02, 5), 1.0))


def features_of(sums: Sums, known: SelfCalibration) -> Float64Array:
    """(F,) of FEATURES of all rows together."""
    shares, expected = sums.shares.sum(axis=0), sums.expected_shares.sum(axis=0)
    hits = sums.expected_hits.sum(axis=0)
    present = (shares + expected) > 1e-3 * len(sums) / max(1, len(shares))
    raw = _mean_iou(hits, expected, shares, present)
    right = np.minimum(hits * known.hits, shares)
    calibrated = _mean_iou(right, np.maximum(expected * known.truth, right), shares, present)
    above = np.cumsum(sums.histogram.sum(axis=0)[:, ::-1], axis=1)[:, ::-1]
    edges = np.arange(CONFIDENCE_BINS) / CONFIDENCE_BINS
    sure = np.array([np.interp(known.threshold, edges, row) for row in above])
    atc = _mean_iou(sure, np.maximum(expected, sure), shares, present)
    center, spread = known.statistics
    seen = np.where(np.isfinite(sums.statistics), sums.statistics, center)  # what is unknown has not moved
    moved = np.clip((seen.mean(axis=0) - center) / spread, -FARTHEST, FARTHEST)
    return np.array([raw, calibrated, atc, sums.confidence.mean(), sums.entropy.mean(), *moved])


def _mean_iou(hits: Float64Array, truth: Float64Array, found: Float64Array, present: npt.NDArray[np.bool_]) -> float:
    union = truth + found - hits
    iou = hits[present] / np.maximum(union[present], 1e-9)
    return float(np.clip(iou, 0, 1).mean()) if present.any() else float("nan")


@dataclass(frozen=True)
class AccuracyModel:
    """The estimator of one model: its self-calibration, and the windows that the regression is fitted on.

    ``features`` (M, F) and ``miou`` (M,) of windows of ``sizes`` (M,) images; ``errors`` (M,) those that the regression
    makes on a window if its kind is left out; all empty if there are no corrupted images.
    """

    calibration: SelfCalibration
    features: Float64Array
    miou: Float64Array
    sizes: Float64Array
    errors: Float64Array
    center: Float64Array  # (ESTIMATES,) of the held-out images as they are
    kinds: tuple[str, ...] = ()  # names of the corruptions that it was fitted on

    def estimate(self, rows: Sequence[Observation], *, level: float = LEVEL) -> AccuracyEstimate:
        """The mIoU of the rows, pooled. DataError if none has finite figures."""
        sums, known = sums_of(rows)
        if not len(sums):
            raise DataError(
                "no row has what an estimate of the accuracy needs", found="figures that are not finite",
                fix="predict with a runtime that gives probabilities",
            )  # fmt: skip
        features = features_of(sums, self.calibration)
        notes = (
            []
            if known.all()
            else [f"{counted(int((~known).sum()), 'image')} without finite figures are not in the estimate"]
        )
        doc = self.calibration.miou - (self.calibration.confidence - features[3])
        others = {"soft": features[1], "atc": features[2], "doc": float(np.clip(doc, 0, 1))}
        if len(self.miou) < LEAST_ROWS:
            notes.append("fitted on no corrupted images: the interval is a guess, and too sure of images that differ")
            # Nothing of this model's errors under shift is known: as far off as the shift moved the estimate itself.
            middle = features[2]
            half = 0.05 + abs(self.calibration.miou - middle) + 0.5 / np.sqrt(len(sums))
            method = "atc"
        else:
            middle = float(self._regression(features[None])[0])
            half = self._half_width(features, len(sums), level)
            method = "regression"
        return AccuracyEstimate(
            miou=float(middle), low=float(max(0.0, middle - half)), high=float(min(1.0, middle + half)), level=level,
            method=method, reference=self.calibration.miou, images=len(sums),
            others={name: float(value) for name, value in others.items()}, notes=tuple(notes),
        )  # fmt: skip

    @functools.cached_property
    def _regression(self) -> Regression:
        return Regression(self.features, self.miou, self.center)

    def _half_width(self, features: Float64Array, size: int, level: float) -> float:
        """The quantile of the errors on windows near these features and of about this size (localized conformal: Guan
        2023): wider where the regression is worse, and where it was fitted on nothing alike.

        Images as those held out are judged by the errors on such images, and not by those on faint corruptions that
        hardly change the estimates.
        """
        spread = self.features[:, :ESTIMATES].std(axis=0) + 1e-9
        difference = self.features - features
        estimates = ((difference[:, :ESTIMATES] / spread) ** 2).mean(axis=1) / NEAR_ESTIMATES**2
        statistics = (difference[:, ESTIMATES:] ** 2).mean(axis=1) / NEAR_STATISTICS**2
        sizes = np.log(np.maximum(self.sizes, 1))
        # A window larger than any of them has at most the errors of the largest.
        nearest = min(float(np.log(max(1, size))), float(sizes.max()))
        weights = np.exp(-(estimates + statistics + ((sizes - nearest) / NEAR_SIZES) ** 2) / 2) + 1e-12
        order = np.argsort(self.errors)
        # The query itself is one more row, with an unknown error: the conformal correction.
        total = np.cumsum(weights[order]) / (weights.sum() + min(1.0, weights.max()))
        place = int(np.searchsorted(total, level))
        width = max(LEAST_WIDTH, float(self.errors[order[min(place, len(order) - 1)]]))
        nearest_row = float(np.exp(-(((self.features - features) / LENGTHS) ** 2).sum(axis=1).min() / 2))
        return width * (1 + 0.5 * (1 - nearest_row))

    def to_attachment(self) -> Attachment:
        """For the saved model, under NAME."""
        known = self.calibration
        arrays: dict[str, npt.NDArray[Any]] = {
            "hits": known.hits, "truth": known.truth, "features": self.features.reshape(-1, len(FEATURES)),
            "miou": self.miou, "sizes": self.sizes, "errors": self.errors, "statistics": known.statistics,
            "center": self.center,
            "scalars": np.array([known.threshold, known.miou, known.confidence, known.accuracy]),
        }  # fmt: skip
        return Attachment(arrays, {"format": FORMAT, "version": VERSION, "kinds": list(self.kinds)})

    @classmethod
    def from_attachment(cls, attachment: Attachment, where: str = "") -> AccuracyModel:
        """BundleError if it is damaged or of a newer version."""
        tree, arrays = attachment.description, attachment.arrays
        try:
            if tree.get("format") == FORMAT and int(tree["version"]) != VERSION:
                kind = "a newer" if int(tree["version"]) > VERSION else "an older"
                raise BundleError(
                    f"the estimator of the accuracy was made by {kind} version of segwright", where=where,
                    fix="make it again: segwright reference MODEL DATA",
                )  # fmt: skip
            if tree.get("format") != FORMAT:
                raise ValueError("another kind")
            parts = {key: np.asarray(arrays[key], np.float64)
                     for key in ("hits", "truth", "features", "miou", "sizes", "errors", "scalars", "statistics",
                                 "center")}  # fmt: skip
            count = len(parts["miou"])
            if (parts["features"].shape != (count, len(FEATURES)) or parts["hits"].shape != parts["truth"].shape
                    or parts["scalars"].shape != (4,) or parts["statistics"].shape != (2, len(STATISTICS))
                    or parts["center"].shape != (ESTIMATES,)
                    or len(parts["sizes"]) != count or len(parts["errors"]) != count
                    or not all(np.isfinite(part).all() for part in parts.values())):  # fmt: skip
                raise ValueError("shapes or values")
            kinds = tuple(str(name)[:60] for name in tree.get("kinds", []))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BundleError(
                "the estimator of the accuracy is damaged", found=f"{type(error).__name__}: {str(error)[:200]}",
                where=where, fix="make the reference again",
            ) from error  # fmt: skip
        threshold, miou, confidence, accuracy = (float(value) for value in parts["scalars"])
        calibration = SelfCalibration(
            parts["hits"], parts["truth"], threshold, miou, confidence, accuracy, parts["statistics"]
        )
        return cls(
            calibration, parts["features"], parts["miou"], parts["sizes"], parts["errors"], parts["center"], kinds
        )


class Regression:
    """The mIoU of (M, F) features: ATC, a linear function of the estimates by how far the images' statistics are from
    the held-out ones, and a Gaussian process on what these leave."""

    def __init__(self, features: Float64Array, target: Float64Array, center: Float64Array) -> None:
        self.center = center  # (ESTIMATES,) of the held-out images as they are
        self.rows = features / LENGTHS
        design = self._design(features)
        penalty = RIDGE * np.eye(design.shape[1])
        self.weights = np.linalg.solve(design.T @ design + penalty, design.T @ (target - features[:, ATC]))
        kernel = self._kernel(self.rows) + NOISE * np.eye(len(self.rows))
        self.dual = np.linalg.solve(kernel, target - self._linear(features))

    def _design(self, features: Float64Array) -> Float64Array:
        moved = 1 - np.exp(-(features[:, ESTIMATES:] ** 2).mean(axis=1))
        apart = features[:, :ESTIMATES] - self.center
        gated = np.concatenate([np.ones((len(features), 1)), apart], axis=1) * moved[:, None]
        return np.asarray(np.concatenate([gated, UNGATED * apart], axis=1))

    def _linear(self, features: Float64Array) -> Float64Array:
        return np.asarray(features[:, ATC] + self._design(features) @ self.weights)

    def _kernel(self, rows: Float64Array) -> Float64Array:
        return np.asarray(np.exp(-((rows[:, None] - self.rows[None]) ** 2).sum(axis=-1) / 2))

    def __call__(self, features: Float64Array) -> Float64Array:
        return np.asarray(np.clip(self._linear(features) + self._kernel(features / LENGTHS) @ self.dual, 0, 1))


def fit_accuracy(
    rows: Sequence[Observation],
    counts: Int64Array,
    shifted: Sequence[tuple[str, Sequence[Observation], Int64Array]] = (),
    *,
    seed: int = 0,
) -> AccuracyModel:
    """The estimator from held-out images: their rows, and hits, truth and prediction (N, 3, K) in pixels.

    ``shifted``: the same for corrupted images, each with the corruption's name; strengths of one corruption share it.
    """
    sums, known = sums_of(rows)
    if not len(sums):
        raise DataError("no held-out row has finite figures")
    counts = counts[known]
    calibration = SelfCalibration.fit(sums, counts)
    groups: list[tuple[str, Sums, Int64Array, int]] = []
    for part in range(CLEAN_PARTS):  # neighbors stay together
        inside = np.arange(len(sums)) * CLEAN_PARTS // len(sums) == part
        if inside.sum() >= 2:
            groups.append((f"clean {part}", sums.take(np.flatnonzero(inside)), counts[inside], CLEAN_WINDOWS))
    for name, some, truth in shifted:
        part_sums, finite = sums_of(some)
        if len(part_sums) >= 2:
            groups.append((name, part_sums, truth[finite], WINDOWS))
    names = sorted({name for name, *_ in groups if not name.startswith("clean ")})
    empty = np.zeros(0)
    if len(names) < LEAST_KINDS:
        return AccuracyModel(calibration, np.zeros((0, len(FEATURES))), empty, empty, empty, np.zeros(ESTIMATES))
    random = np.random.default_rng(seed)
    made = [(name, *window) for name, part, truth, count in groups
            for window in _windows(part, truth, count, calibration, random)]  # fmt: skip
    kinds = np.array([name for name, *_ in made])
    features, miou = np.stack([one[1] for one in made]), np.array([one[2] for one in made])
    sizes = np.array([one[3] for one in made], np.float64)
    center = features_of(sums, calibration)[:ESTIMATES]
    errors = np.zeros(len(made))
    for name in sorted(set(kinds.tolist())):
        out = kinds == name
        errors[out] = np.abs(Regression(features[~out], miou[~out], center)(features[out]) - miou[out])
    return AccuracyModel(calibration, features, miou, sizes, errors, center, tuple(names))


def _windows(
    sums: Sums, counts: Int64Array, number: int, calibration: SelfCalibration, random: np.random.Generator
) -> Iterator[tuple[Float64Array, float, int]]:
    """Features, true mIoU and size of all rows and of ``number`` runs of neighbors among them, as a stream has them."""
    count = len(sums)
    sizes = [count, *np.maximum(1, np.round(np.exp(random.uniform(0, np.log(count), number)))).astype(int).tolist()]
    for size in sizes:
        start = int(random.integers(0, count - size + 1))
        rows = np.arange(start, start + size)
        truth = nanmean(iou_per_class(counts[rows].sum(axis=0)))
        features = features_of(sums.take(rows), calibration)
        if np.isfinite(truth) and np.isfinite(features).all():
            yield features, float(truth), int(size)
