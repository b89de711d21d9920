"""Fit a model's error model: how wrong its regions, classes and images are, learned from held-out images.

The target of a region is MetaSeg's (Rottmann et al. 2020, section 2): its adjusted IoU. For a region k of class c let T
be the union of the ground truth's components of class c that k meets; the adjusted IoU is |k ∩ T| over |k ∪ (T without
the pixels that other regions of class c cover)|. A region is wrong if it is 0. Ignored pixels do not count, and a
region without any other is left out. Components are 8-connected.

What is fitted is judged on images that it was not fitted on: whole sequences are left out, or, where all images are of
one sequence, long runs of frames.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from segwright.core.counted import counted
from segwright.core.errors import DataError, LabelError, UsageError
from segwright.core.progress import progress
from segwright.core.types import IGNORE_INDEX, SPARSE, Float32Array, LabelSpace, UInt8Array
from segwright.evaluation.evaluate import LabeledImages, match_label_spaces, to_model_indices
from segwright.evaluation.held_out_figures import RegionTruth, held_out_figures
from segwright.evaluation.sequences import blocks_of, find_units, in_frame_order, thumbnail_of
from segwright.inference.attachments import Attachment
from segwright.inference.boosting import BoostedTrees, fit_trees
from segwright.inference.quality import (
    IMAGE_FEATURES,
    LEVEL,
    ErrorModel,
    ImageFigures,
    class_rows,
    image_figures,
    image_row,
    thinning,
    weighted_quantile,
)
from segwright.inference.region_estimator import RegionEstimator, RegionIou, fit_regions
from segwright.inference.region_features import Float64Array, Regions, find_regions

LEAST_IMAGES = 8
LEAST_REGIONS = 60
MOST_REGIONS = 60_000  # that trees are fitted to
FOLDS = 5
CHUNKS = 4  # of one sequence
LEAST_GROUPS = 9  # of a class, for an interval of its own: as many as 90 % needs


def adjusted_iou(regions: Regions, labels: UInt8Array, truth: UInt8Array) -> tuple[Float64Array, Float64Array]:
    """Of each region its adjusted IoU (NaN if all its pixels are ignored) and its pixels that are not ignored.

    ``labels``, ``truth``: (H, W), 255 is ignored in the truth.
    """
    count = len(regions)
    valid = truth != IGNORE_INDEX
    parts = find_regions(truth)
    hit = valid & (labels == truth)
    missed = np.bincount(parts.numbers[valid & (labels != truth)], minlength=len(parts))
    pairs, pixels = np.unique(
        regions.numbers[hit].astype(np.int64) * len(parts) + parts.numbers[hit], return_counts=True
    )
    met = np.bincount(pairs // len(parts), weights=pixels, minlength=count)
    lost = np.bincount(pairs // len(parts), weights=missed[pairs % len(parts)], minlength=count)
    area = np.bincount(regions.numbers[valid], minlength=count).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(area > 0, met / (area + lost), np.nan), area


@dataclass(frozen=True)
class FittedImage:
    """The features of one held-out image and what they are to predict."""

    id: str
    figures: ImageFigures
    adjusted: Float64Array  # (R,), NaN where all pixels are ignored
    class_iou: Float64Array  # (P,) of the predicted classes
    miou: float
    thumbnail: Float32Array


class ErrorModelFitter:
    """Collects predictions of held-out images with their truth, and fits the error model.

    ``groups``, one per image in the order of :meth:`add`, name its sequence; None finds sequences from the ids and the
    images.
    """

    def __init__(self, space: LabelSpace, *, level: float = LEVEL, seed: int = 0) -> None:
        if not 0 < level < 1:
            raise UsageError("the level of an interval is between 0 and 1", expected="such as 0.9", found=str(level))
        self.space, self.level, self.seed = space, level, seed
        self.images: list[FittedImage] = []

    def add(
        self,
        id: str,
        probabilities: Float32Array | None,
        labels: UInt8Array,
        truth: UInt8Array,
        image: UInt8Array | None = None,
    ) -> None:
        """One image: probabilities (K, H, W) and labels (H, W) after post-processing, truth (H, W) in the model's class
        indices. An image without a labeled pixel is left out. LabelError if the sizes differ."""
        if probabilities is None or not (probabilities.shape[1:] == labels.shape == truth.shape):
            raise LabelError(
                "probabilities, labels and ground truth differ in size",
                expected=str(truth.shape),
                found="no probabilities" if probabilities is None else f"{probabilities.shape}, {labels.shape}",
                where=id,
            )
        step = thinning(*labels.shape)
        if step > 1:
            labels, truth = labels[::step, ::step], truth[::step, ::step]
            probabilities = np.ascontiguousarray(probabilities[:, ::step, ::step])
        valid = truth != IGNORE_INDEX
        if not valid.any():
            return
        figures = image_figures(probabilities, labels)
        adjusted, _ = adjusted_iou(figures.regions, labels, truth)
        classes = self.space.classes
        predicted = np.bincount(labels[valid], minlength=256)[:classes]
        true = np.bincount(truth[valid], minlength=256)[:classes]
        hits = np.bincount(truth[valid & (labels == truth)], minlength=256)[:classes]
        with np.errstate(invalid="ignore", divide="ignore"):
            iou = np.where(predicted + true > 0, hits / (predicted + true - hits), np.nan)
        self.images.append(
            FittedImage(
                id, figures, adjusted, iou[figures.present], float(np.nanmean(iou)), thumbnail_of(image, truth, classes)
            )
        )

    def fit(self, groups: Sequence[object] | None = None, **facts: Any) -> ErrorModel:
        """The error model; ``facts`` are kept in its description. DataError if there is too little to learn from."""
        images = self.images
        regions = sum(int(np.isfinite(image.adjusted).sum()) for image in images)
        bad = sum(int((image.adjusted == 0).sum()) for image in images)
        if len(images) < LEAST_IMAGES or regions < LEAST_REGIONS or not 10 <= bad <= regions - 10:
            raise DataError(
                "too little held-out data for an error model",
                expected=f"{LEAST_IMAGES} labeled images and {LEAST_REGIONS} regions, some right and some wrong",
                found=f"{counted(len(images), 'image')}, {counted(regions, 'region')}, {bad} of them wrong",
                fix="hold out more images (val)",
            )
        units = find_units([image.id for image in images], np.stack([i.thumbnail for i in images]), groups=groups)
        sequences = list(units.sequences)
        folds = folds_of([image.id for image in images], sequences)
        blocks, over = interval_groups([image.id for image in images], sequences, self.level)
        return _Fit(self, folds, blocks, over, units.groups).run(facts)


def folds_of(ids: Sequence[str], sequences: Sequence[str]) -> npt.NDArray[np.int64]:
    """The fold of each image: whole sequences, or :data:`CHUNKS` runs of neighbors in the order of their names if
    there is one sequence or none: images that belong together unknown to us are often named one after another."""
    names = list(dict.fromkeys(sequences))
    if len(names) in (1, len(ids)):
        order = in_frame_order(range(len(ids)), ids)
        folds = np.zeros(len(ids), np.int64)
        folds[order] = np.arange(len(ids)) * CHUNKS // len(ids)
        return folds
    sizes = {name: sequences.count(name) for name in names}
    filled = np.zeros(min(FOLDS, len(names)))
    place: dict[str, int] = {}
    for name in sorted(names, key=lambda one: (-sizes[one], one)):  # the largest first, to the emptiest fold
        place[name] = int(filled.argmin())
        filled[place[name]] += sizes[name]
    return np.array([place[name] for name in sequences])


def interval_groups(ids: Sequence[str], sequences: Sequence[str], level: float) -> tuple[list[str], str]:
    """The group of each image that an interval weighs equally, and what they are.

    Whole sequences if there are enough of them for the level, else blocks of neighboring frames within the sequences:
    then the interval holds for further images of these sequences only. Single images if there are no sequences.
    """
    names = list(dict.fromkeys(sequences))
    if len(names) == len(ids):
        return list(sequences), "images"
    if len(names) / (len(names) + 1) >= level:
        return list(sequences), "sequences"
    return blocks_of(ids, sequences)[0], "blocks"


def group_weights(groups: Sequence[str]) -> Float64Array:
    """The weight of each score: 1 / ((G + 1) · scores of its group); they sum to G / (G + 1)."""
    sizes: dict[str, int] = {}
    for name in groups:
        sizes[name] = sizes.get(name, 0) + 1
    return np.array([1 / ((len(sizes) + 1) * sizes[name]) for name in groups])


class _Fit:
    """One fit: everything is first predicted for images that were left out, then fitted to all."""

    def __init__(
        self,
        fitter: ErrorModelFitter,
        folds: npt.NDArray[np.int64],
        groups: list[str],
        over: str,
        units: Sequence[str],
    ) -> None:
        self.units = np.unique(np.array(units), return_inverse=True)[1]  # (N,) of the bootstrap
        self.images, self.level, self.seed = fitter.images, fitter.level, fitter.seed
        self.space = fitter.space
        self.folds, self.groups, self.over = folds, groups, over
        self.owner = np.concatenate([np.full(len(i.adjusted), n) for n, i in enumerate(self.images)])
        self.rows = np.concatenate([image.figures.rows for image in self.images])
        self.adjusted = np.concatenate([image.adjusted for image in self.images])
        self.known = np.isfinite(self.adjusted)
        if self.known.sum() > MOST_REGIONS:
            drop = np.random.default_rng(self.seed).random(len(self.known)) > MOST_REGIONS / self.known.sum()
            self.fitted = self.known & ~drop
        else:
            self.fitted = self.known

    def run(self, facts: dict[str, Any]) -> ErrorModel:
        everything = np.ones(len(self.owner), bool)
        wrong, iou = self._held_out_regions()
        classes = self._held_out_classes(wrong, iou)
        table = np.stack(
            [
                image_row(image.figures, wrong[self.owner == number], classes.estimates[classes.owner == number])
                for number, image in enumerate(self.images)
            ]
        )
        miou = np.array([image.miou for image in self.images])
        estimates, distances = self._held_out_images(table, miou)
        linear = _Linear.fit(table, miou)
        factor = np.maximum(1.0, distances)
        image_scores = np.abs(miou - estimates) / factor
        scored = classes.scored()
        class_errors = np.abs(scored.iou - scored.estimates)
        weights = group_weights(self.groups)
        if not np.isfinite(wrong).all():
            raise DataError("the error model could not be fitted: its output is not finite")
        final = self._region_estimators(everything)
        return ErrorModel(
            classes=self.space.classes,
            wrong=final[0],
            iou=final[1],
            class_iou=classes.trees,
            class_mean=classes.mean,
            image_mean=linear.mean,
            image_scale=linear.scale,
            image_weights=linear.weights,
            limit=linear.limit,
            image_scores=image_scores,
            image_score_weights=weights,
            class_scores=class_errors / factor[scored.owner],
            class_score_weights=group_weights([self.groups[index] for index in scored.owner]),
            class_score_kinds=scored.kinds,
            class_own_weights=self._own_weights(scored),
            description={
                **self._described(math.isfinite(weighted_quantile(image_scores, weights, self.level))),
                "held_out": held_out_figures(
                    RegionTruth(self.rows, self.adjusted, wrong, iou, self.units[self.owner]),
                    (np.abs(miou - estimates), self.units),
                    (class_errors, self.units[scored.owner]),
                ),
                **facts,
            },
        )

    def _held_out_regions(self) -> tuple[Float64Array, Float64Array]:
        """(R,) each: the probability of being wrong and the adjusted IoU, of estimators that have not seen the fold."""
        wrong, iou = np.zeros(len(self.rows)), np.zeros(len(self.rows))
        for fold in np.unique(self.folds):
            mine = self.folds[self.owner] == fold
            wrong[mine], iou[mine] = (found(self.rows[mine]) for found in self._region_estimators(~mine))
        return wrong, np.clip(iou, 0, 1)

    def _held_out_classes(self, wrong: Float64Array, iou: Float64Array) -> _Classes:
        """What is estimated of each class of each image by trees that have not seen the fold, and the final trees."""
        kinds = np.concatenate([image.figures.present for image in self.images])
        owner = np.concatenate([np.full(len(i.figures.present), n) for n, i in enumerate(self.images)])
        class_iou = np.concatenate([image.class_iou for image in self.images])
        known = np.isfinite(class_iou)  # what is predicted on ignored pixels alone has no IoU: nothing to learn from
        estimates = np.zeros(len(class_iou))
        for fold in np.unique(self.folds):
            test = self.folds[owner] == fold
            seen = ~test & known
            mean = _class_means(kinds[seen], class_iou[seen], self.space.classes)
            rows = self._class_rows(wrong, iou, mean)
            estimates[test] = np.clip(self._class_trees(rows, class_iou, seen)(rows[test]), 0, 1)
        mean = _class_means(kinds[known], class_iou[known], self.space.classes)
        trees = self._class_trees(self._class_rows(wrong, iou, mean), class_iou, known)
        return _Classes(kinds, owner, class_iou, estimates, mean, trees)

    def _held_out_images(self, table: Float64Array, miou: Float64Array) -> tuple[Float64Array, Float64Array]:
        """(N,) each: the estimated mIoU of an image and its distance, of a correction that has not seen the fold."""
        estimates, distances = np.zeros(len(miou)), np.zeros(len(miou))
        for fold in np.unique(self.folds):
            test = self.folds == fold
            part = _Linear.fit(table[~test], miou[~test])
            estimates[test], distances[test] = part.estimate(table[test]), part.distance(table[test])
        return estimates, distances

    def _own_weights(self, classes: _Classes) -> Float64Array:
        """The weights of the scores of a class alone; 0 where it is in too few sequences for an interval of its own."""
        own = np.zeros(len(classes.kinds))
        for kind in np.unique(classes.kinds):
            mine = classes.kinds == kind
            names = [self.groups[index] for index in classes.owner[mine]]
            if len(set(names)) / (len(set(names)) + 1) >= self.level:
                own[mine] = group_weights(names)
        return own

    def _described(self, has_interval: bool) -> dict[str, Any]:
        count = len(set(self.groups))
        notes = []
        if self.over == "blocks":
            notes.append(
                f"the intervals are over {count} blocks of neighboring frames: they hold for further images of the "
                "sequences that the error model was fitted on, not for other ones"
            )
        needed = math.ceil(self.level / (1 - self.level) - 1e-9)
        reason = f"too little held-out data: {count} {self.over}, {needed} are needed for {100 * self.level:.0f} %"
        return {
            "level": self.level,
            "images": len(self.images),
            "regions": int(self.known.sum()),
            "interval_over": self.over,
            "interval_count": count,
            "no_interval": "" if has_interval else reason,
            "notes": notes,
        }

    def _region_estimators(self, chosen: npt.NDArray[np.bool_]) -> tuple[RegionEstimator, RegionIou]:
        chosen = chosen & self.fitted
        return fit_regions(self.rows[chosen], self.adjusted[chosen], classes=self.space.classes, seed=self.seed)

    def _class_rows(self, wrong: Float64Array, iou: Float64Array, mean: Float64Array) -> Float32Array:
        return np.concatenate(
            [
                class_rows(image.figures, wrong[self.owner == number], iou[self.owner == number], mean)
                for number, image in enumerate(self.images)
            ]
        )

    def _class_trees(self, rows: Float32Array, wanted: Float64Array, chosen: npt.NDArray[np.bool_]) -> BoostedTrees:
        return fit_trees(
            rows[chosen], wanted[chosen], "squares", trees=120, depth=3, rate=0.06, column_share=0.4, least=10.0,
            ridge=5.0, seed=self.seed,
        )  # fmt: skip


@dataclass(frozen=True)
class _Classes:
    """The predicted classes of all images, one row per class and image (C rows)."""

    kinds: npt.NDArray[np.int64]  # (C,) the class
    owner: npt.NDArray[np.int64]  # (C,) the image
    iou: Float64Array  # (C,) true; NaN where a class is predicted on ignored pixels alone
    estimates: Float64Array  # (C,) by trees that have not seen the image
    mean: Float64Array  # (K,) mean IoU of each class
    trees: BoostedTrees

    def scored(self) -> _Classes:
        """The rows that have a true IoU."""
        known = np.isfinite(self.iou)
        return replace(
            self, kinds=self.kinds[known], owner=self.owner[known], iou=self.iou[known], estimates=self.estimates[known]
        )


@dataclass(frozen=True)
class _Linear:
    """The mean of the classes' estimates, corrected by a ridge regression on the standardized features of the image."""

    mean: Float64Array
    scale: Float64Array
    weights: Float64Array
    limit: float

    @classmethod
    def fit(cls, rows: Float64Array, miou: Float64Array) -> _Linear:
        mean, scale = rows.mean(axis=0), np.maximum(rows.std(axis=0), 1e-3)
        standard = (rows - mean) / scale
        limit = max(float(np.abs(standard).max()), 1.0)
        standard = np.clip(standard, -4, 4)
        rest = miou - rows[:, IMAGE_FEATURES.index("class_estimates")]
        constant = float(rest.mean())
        width = rows.shape[1]
        weights = np.linalg.solve(standard.T @ standard + len(rows) * np.eye(width), standard.T @ (rest - constant))
        return cls(mean, scale, np.append(weights, constant), limit)

    def estimate(self, rows: Float64Array) -> Float64Array:
        standard = np.clip((rows - self.mean) / self.scale, -4, 4)
        found = rows[:, IMAGE_FEATURES.index("class_estimates")] + standard @ self.weights[:-1] + self.weights[-1]
        return np.asarray(np.clip(found, 0, 1))

    def distance(self, rows: Float64Array) -> Float64Array:
        return np.asarray(np.abs((rows - self.mean) / self.scale).max(axis=1) / self.limit)


def _class_means(kinds: npt.NDArray[np.int64], iou: Float64Array, classes: int) -> Float64Array:
    """(K,): the mean IoU of each class; that of all classes where it was not predicted."""
    counts = np.bincount(kinds, minlength=classes)
    sums = np.bincount(kinds, weights=iou, minlength=classes)
    return np.where(counts > 0, sums / np.maximum(counts, 1), iou.mean() if len(iou) else 0.0)


def fit_error_model(
    predictor: Any,
    split: LabeledImages,
    *,
    level: float = LEVEL,
    groups: Sequence[object] | None = None,
    indices: Sequence[int] | None = None,
    match: str = "names",
    seed: int = 0,
    title: str = "fitting the error model",
) -> Attachment:
    """Fit the error model of ``predictor`` on held-out labeled images; the attachment ``error-model`` of its bundle.

    ``predictor``: as for :func:`segwright.evaluation.evaluate.evaluate`, with the probabilities of all classes.
    ``level`` of the intervals. ``groups``, one per image of the split: its sequence; None finds sequences. ``indices``:
    the images of the split to use. Images must not have been trained on, or every estimate is too good.

    Errors: DataError if there is too little data, LabelError if the label spaces differ.
    """
    fitter = ErrorModelFitter(predictor.label_space, level=level, seed=seed)
    table, _ = match_label_spaces(predictor.label_space, split.label_space, by_index=match == "index")
    to_model = to_model_indices(table)
    wanted = list(range(len(split)) if indices is None else indices)
    if groups is not None and len(groups) != len(split):
        raise UsageError("groups name the sequence of every image", expected=str(len(split)), found=str(len(groups)))
    used: list[object] = []
    shares: list[float] = []  # of labeled pixels
    with progress(title, len(wanted)) as advance:
        for index in wanted:
            truth = split.read_mask(index)
            if truth is not None:
                shares.append(np.count_nonzero(truth != IGNORE_INDEX) / truth.size)
                image = split.read_image(index)
                found = predictor.predict(image, probabilities=True)
                before = len(fitter.images)
                truth = truth if to_model is None else to_model[truth]
                fitter.add(split.ids[index], found.probabilities, found.labels, truth, image)
                if groups is not None and len(fitter.images) > before:
                    used.append(groups[index])
            advance(1)
    if shares and float(np.median(shares)) < SPARSE:
        raise DataError(
            "an error model estimates the scores of whole images: sparse labels do not give them",
            expected=f"masks with {100 * SPARSE:.0f} % of their pixels labeled or more",
            found=f"{100 * float(np.median(shares)):.2g} % in the median image",
            where=split.name,
            fix="label some images wholly, and fit it on those",
        )
    pipeline, views = getattr(predictor, "pipeline", None), getattr(predictor, "tta", None)
    return fitter.fit(
        used if groups is not None else None,
        postprocess=str(pipeline) if pipeline else "none",
        tta=str(views) if views else "none",
        split=split.name,
    ).attachment()
