"""The estimated quality of one prediction, without ground truth: which regions are wrong, and the IoU to expect.

A model's *error model* (the attachment ``error-model`` of its bundle, made by :mod:`segwright.evaluation.quality`) has

- two estimators over the features of a region (:mod:`segwright.inference.region_estimator`): the probability that the
  region is wrong (no pixel of it meets the truth) and its expected adjusted IoU (Rottmann et al. 2020),
- boosted trees over the features of a class in an image: the expected IoU of the class,
- a linear correction of their mean: the expected mIoU of the image,
- the errors that all this made on held-out images, from which the intervals are taken (split conformal prediction).

Intervals weigh every sequence of the held-out images equally (Lee, Barber and Willett 2023), because frames of one
video err together: with G sequences a level of at most G / (G + 1) can be had, and otherwise there is no interval, with
a reason. An image unlike those of the fit is marked as extrapolated, and its intervals are wider.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from segwright.core.atomic_io import without_nan
from segwright.core.errors import BundleError, ModelError
from segwright.core.types import IGNORE_INDEX, Float32Array, LabelSpace, UInt8Array
from segwright.inference.attachments import Attachment
from segwright.inference.boosting import BoostedTrees
from segwright.inference.region_estimator import RegionEstimator, RegionIou
from segwright.inference.region_features import Float64Array, Regions, feature_names, find_regions, region_features

ATTACHMENT = "error-model"
VERSION = 3
LEVEL = 0.9
MOST_PIXELS = 1_500_000  # larger predictions are thinned out to this
MOST_LISTED = 50  # doubtful regions of an answer
DOUBTFUL = 0.5  # probability of being wrong from which a region is listed
FAR = 1.2  # distance from which an image is unlike those of the fit
NO_ERROR_MODEL = "no error model in this bundle"
OUTDATED = (
    "the model's error model is of an earlier version and is not used: no estimated quality; fit it again with "
    "`segwright evaluate MODEL DATA --fit-error-model`"
)

CLASS_FEATURES = (
    "soft_iou", "soft_precision", "soft_recall", "log_share", "log_expected_share", "entropy", "variation",
    "log_regions", "regions_iou", "regions_wrong", "largest_iou", "class_mean", "image_entropy",
)  # fmt: skip
IMAGE_FEATURES = (
    "entropy", "variation", "soft_miou", "class_estimates", "classes_predicted", "unpredicted_share", "log_regions",
    "regions_wrong",
)  # fmt: skip


@dataclass(frozen=True)
class Interval:
    """An estimate in 0…1 with its interval; ``low`` and ``high`` are NaN if there is none, ``note`` is the reason."""

    value: float
    low: float = math.nan
    high: float = math.nan
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        tree: dict[str, Any] = {"iou": self.value, "low": self.low, "high": self.high}
        return {**tree, "note": self.note} if self.note else tree


@dataclass(frozen=True)
class RegionQuality:
    """One predicted region; ``box``: left, top, width, height in pixels of the image."""

    class_name: str
    box: tuple[int, ...]
    area: int  # pixels
    wrong: float  # probability in 0…1 that no pixel of it meets the truth
    iou: float  # expected adjusted IoU

    def to_json(self) -> dict[str, Any]:
        return {
            "class": self.class_name,
            "box": list(self.box),
            "area": self.area,
            "probability_wrong": round(self.wrong, 4),
            "expected_iou": round(self.iou, 4),
        }


@dataclass(frozen=True)
class Quality:
    """The estimated quality of one prediction."""

    miou: Interval
    per_class: dict[str, Interval]  # of the predicted classes
    regions: list[RegionQuality]  # all of them, the most doubtful first
    level: float  # of the intervals, in 0…1
    over: str  # what the intervals hold for: images, sequences, or blocks (of the sequences of the fit only)
    extrapolates: bool
    distance: float  # 1: as far from the mean as the farthest image of the fit
    entropy: float  # mean over the pixels, over log K: 0…1
    notes: list[str] = field(default_factory=list)

    @property
    def doubtful(self) -> list[RegionQuality]:
        """The regions that are wrong with a probability of a half or more, the most doubtful first."""
        return [region for region in self.regions if region.wrong >= DOUBTFUL]

    def to_json(self, most: int = MOST_LISTED) -> dict[str, Any]:
        """The estimate as JSON types, with at most ``most`` regions."""
        tree = {
            "estimated_miou": self.miou.to_json() if self.miou.note else {
                "iou": self.miou.value, "low": self.miou.low, "high": self.miou.high
            },
            "per_class": {name: one.to_json() for name, one in self.per_class.items()},
            "level": self.level,
            "interval_over": self.over,
            "summary": self.sentence(),
            "mean_entropy": round(self.entropy, 5),
            "extrapolates": self.extrapolates,
            "distance": round(self.distance, 3),
            "regions": [region.to_json() for region in self.regions[:most]],
            "regions_in_all": len(self.regions),
            "doubtful_regions": len(self.doubtful),
            "notes": self.notes,
        }  # fmt: skip
        return dict(without_nan(tree))

    def sentence(self) -> str:
        """The estimate in words, for people."""
        value = f"{100 * self.miou.value:.0f} %"
        text = f"estimated mIoU {value}"
        if math.isfinite(self.miou.low):
            text += (
                f", between {100 * self.miou.low:.0f} % and {100 * self.miou.high:.0f} % "
                f"for {100 * self.level:.0f} % of such images"
            )
        else:
            text += f", without an interval ({self.miou.note})"
        if self.extrapolates:
            text += "; the image is unlike those that the estimate was fitted on"
        return text


@dataclass(frozen=True)
class ImageFigures:
    """What is computed of one prediction before any error model: features of regions, classes and the image."""

    regions: Regions
    rows: Float32Array  # (R, F), as feature_names
    present: npt.NDArray[np.int64]  # (P,): the predicted classes
    soft: Float64Array  # (P, 5): soft IoU, precision, recall, log share, log expected share
    means: Float64Array  # (P, 2): mean entropy and variation ratio of the pixels of the class
    entropy: float
    variation: float
    unpredicted: float  # mean probability of the classes that are not predicted
    classes: int


def image_figures(probabilities: Float32Array, labels: UInt8Array) -> ImageFigures:
    """The features of a prediction: probabilities (K, H, W), labels (H, W)."""
    classes = len(probabilities)
    regions = find_regions(labels)
    rows = region_features(probabilities, regions)
    size = labels.size
    areas = np.bincount(labels.ravel(), minlength=256)[:classes].astype(np.float64)
    present = np.flatnonzero(areas)
    expected = probabilities.reshape(classes, -1).sum(axis=1, dtype=np.float64)
    names = feature_names(classes)
    place = names.index("probability_0")
    own = regions.areas.astype(np.float64)
    kinds = regions.classes.astype(np.int64)
    kept = kinds < classes
    hits = np.bincount(
        kinds[kept], weights=own[kept] * rows[kept, place + kinds[kept]].astype(np.float64), minlength=classes
    )
    area, truth, hit = areas[present], expected[present], hits[present]
    soft = np.stack(
        [
            hit / np.maximum(area + truth - hit, 1e-9),
            hit / area,
            np.minimum(hit / np.maximum(truth, 1e-9), 1),
            np.log(area / size),
            np.log(np.maximum(truth / size, 1e-9)),
        ],
        axis=1,
    )
    means = np.stack(
        [
            np.bincount(kinds[kept], weights=own[kept] * rows[kept, names.index(name)], minlength=classes)[present]
            / area
            for name in ("entropy", "variation")
        ],
        axis=1,
    )
    missing = np.delete(expected, present)
    entropy, variation = (float(rows[0, names.index(f"image_{name}")]) for name in ("entropy", "variation"))
    return ImageFigures(regions, rows, present, soft, means, entropy, variation, float(missing.sum() / size), classes)


def class_rows(figures: ImageFigures, wrong: Float64Array, iou: Float64Array, class_mean: Float64Array) -> Float32Array:
    """(P, F): the features of each predicted class, columns :data:`CLASS_FEATURES` and one per class; ``wrong`` and
    ``iou`` (R,): the output of the trees; ``class_mean`` (K,) the mean IoU of the classes in the fit."""
    regions = figures.regions
    result = []
    for number, kind in enumerate(figures.present):
        mine = np.flatnonzero(regions.classes == kind)
        weight = regions.areas[mine] / regions.areas[mine].sum()
        result.append(
            [
                *figures.soft[number], *figures.means[number], math.log(len(mine)),
                float(weight @ iou[mine]), float(weight @ wrong[mine]), float(iou[mine[regions.areas[mine].argmax()]]),
                float(class_mean[kind]), figures.entropy,
                *(float(kind == other) for other in range(figures.classes)),
            ]
        )  # fmt: skip
    return np.array(result, np.float32).reshape(len(result), len(CLASS_FEATURES) + figures.classes)


def image_row(figures: ImageFigures, wrong: Float64Array, estimates: Float64Array) -> Float64Array:
    """(F,): :data:`IMAGE_FEATURES`; ``estimates`` (P,): the expected IoU of the predicted classes."""
    regions = figures.regions
    kept = regions.classes != IGNORE_INDEX
    weight = regions.areas[kept] / max(int(regions.areas[kept].sum()), 1)
    return np.array(
        [
            figures.entropy,
            figures.variation,
            float(figures.soft[:, 0].mean()) if len(figures.soft) else 0.0,
            float(estimates.mean()) if len(estimates) else 0.0,
            len(figures.present) / figures.classes,
            figures.unpredicted,
            math.log(len(regions)),
            float(weight @ wrong[kept]),
        ]
    )


def weighted_quantile(scores: Float64Array, weights: Float64Array, level: float) -> float:
    """The smallest score at which the weights reach ``level``; infinity if they do not (what is missing to 1 is the
    weight of infinity)."""
    order = np.argsort(scores)
    reached = np.cumsum(weights[order])
    place = int(np.searchsorted(reached, level - 1e-9))
    return float(scores[order[place]]) if place < len(order) else math.inf


@dataclass(frozen=True)
class ErrorModel:
    """The error model of a bundle; see the module."""

    classes: int
    wrong: RegionEstimator
    iou: RegionIou
    class_iou: BoostedTrees
    class_mean: Float64Array  # (K,)
    image_mean: Float64Array  # (F,), and so on: of IMAGE_FEATURES over the images of the fit
    image_scale: Float64Array
    image_weights: Float64Array  # (F + 1,): the correction, of standardized features, and its constant
    limit: float  # the largest distance in the fit
    image_scores: Float64Array  # (n,): errors on held-out images, over the width factor
    image_score_weights: Float64Array
    class_scores: Float64Array  # (m,)
    class_score_weights: Float64Array  # of all classes together
    class_score_kinds: npt.NDArray[np.int64]  # (m,)
    class_own_weights: Float64Array  # (m,): of the class alone; 0 where it has too few sequences
    description: Mapping[str, Any] = field(default_factory=dict)

    @property
    def level(self) -> float:
        return float(self.description.get("level", LEVEL))

    def used_with(self, postprocess: str, tta: str) -> ErrorModel:
        """The error model for a predictor of this post-processing and these views, with a note if it was fitted with
        others."""
        others = [
            f"{name} {fitted}, and is used with {used}"
            for name, used in (("postprocess", postprocess), ("tta", tta))
            if (fitted := str(self.description.get(name, used))) != used
        ]
        if not others:
            return self
        note = f"the error model was fitted with {'; '.join(others)}: its estimates are rough"
        notes = [*self.description.get("notes", []), note]
        return replace(self, description={**self.description, "notes": notes})

    def distance(self, row: Float64Array) -> float:
        """How far an image is from those of the fit; 1 is the farthest of them."""
        return float(np.abs((row - self.image_mean) / self.image_scale).max() / self.limit)

    def estimate(self, row: Float64Array) -> float:
        """The expected mIoU of an image from its :func:`image_row`."""
        standard = np.clip((row - self.image_mean) / self.image_scale, -4, 4)
        mean = float(row[IMAGE_FEATURES.index("class_estimates")])
        return float(np.clip(mean + standard @ self.image_weights[:-1] + self.image_weights[-1], 0, 1))

    def __call__(self, probabilities: Float32Array, labels: UInt8Array, space: LabelSpace, thinned: int = 1) -> Quality:
        """The quality of a prediction: probabilities (K, H, W), labels (H, W), of every ``thinned``-th pixel of the
        image both ways. ModelError for another K."""
        if len(probabilities) != self.classes:
            raise ModelError(
                "the error model is of another model",
                expected=f"{self.classes} classes",
                found=str(len(probabilities)),
                fix="fit it again: segwright evaluate MODEL DATA --fit-error-model",
            )
        return self.of_figures(image_figures(probabilities, labels), space, thinned)

    def of_figures(self, figures: ImageFigures, space: LabelSpace, thinned: int = 1) -> Quality:
        """As a call, of figures that were computed before."""
        regions = figures.regions
        wrong = self.wrong(figures.rows)
        iou = np.clip(self.iou(figures.rows), 0, 1)
        per_class = np.clip(self.class_iou(class_rows(figures, wrong, iou, self.class_mean)), 0, 1)
        row = image_row(figures, wrong, per_class)
        distance = self.distance(row)
        factor = max(1.0, distance)
        order = [int(place) for place in np.argsort(-wrong, kind="stable") if regions.classes[place] != IGNORE_INDEX]
        notes = [str(note) for note in self.description.get("notes", [])]
        return Quality(
            miou=self._interval(self.estimate(row), self.image_scores, self.image_score_weights, factor),
            per_class={
                space.names[kind]: self._class_interval(float(value), int(kind), factor)
                for kind, value in zip(figures.present, per_class, strict=True)
            },
            regions=[
                RegionQuality(
                    space.names[regions.classes[place]],
                    tuple(int(side) * thinned for side in regions.boxes[place]),
                    int(regions.areas[place]) * thinned**2, float(wrong[place]), float(iou[place]),
                )
                for place in order
            ],
            level=self.level,
            over=str(self.description.get("interval_over", "images")),
            extrapolates=distance > FAR,
            distance=distance,
            entropy=figures.entropy,
            notes=notes,
        )  # fmt: skip

    def _interval(self, value: float, scores: Float64Array, weights: Float64Array, factor: float) -> Interval:
        half = weighted_quantile(scores, weights, self.level) * factor
        if math.isinf(half):
            return Interval(value, note=str(self.description.get("no_interval") or "too little held-out data"))
        return Interval(value, max(0.0, value - half), min(1.0, value + half))

    def _class_interval(self, value: float, kind: int, factor: float) -> Interval:
        mine = self.class_score_kinds == kind
        own = self.class_own_weights[mine]
        if own.sum() > 0:
            return self._interval(value, self.class_scores[mine], own, factor)
        found = self._interval(value, self.class_scores, self.class_score_weights, factor)
        return found if found.note else Interval(found.value, found.low, found.high, "interval of all classes together")

    def attachment(self) -> Attachment:
        """The arrays and the description that a bundle keeps."""
        arrays = {
            **self.wrong.arrays("wrong"),
            **self.iou.arrays("iou"),
            **self.class_iou.arrays("class"),
            **{name: np.asarray(getattr(self, name)) for name in _ARRAYS},
            "limit": np.array([self.limit]),
        }
        return Attachment(arrays, {**self.description, "version": VERSION, "classes": self.classes})


_ARRAYS = (
    "class_mean", "image_mean", "image_scale", "image_weights", "image_scores", "image_score_weights", "class_scores",
    "class_score_weights", "class_score_kinds", "class_own_weights",
)  # fmt: skip


def is_outdated(attachment: Attachment) -> bool:
    """Whether an error model is of an earlier version, with other features: the model itself can be used without it."""
    version = attachment.description.get("version")
    return type(version) is int and version < VERSION


def parse_error_model(attachment: Attachment, classes: int) -> ErrorModel:
    """The error model of an attachment, for a model of ``classes`` classes; BundleError if it is damaged, of another
    version or another model."""
    arrays, description = attachment.arrays, attachment.description
    if description.get("version") != VERSION or description.get("classes") != classes:
        raise BundleError(
            "the error model does not fit",
            expected=f"version {VERSION}, {classes} classes",
            found=f"version {description.get('version')}, {description.get('classes')} classes",
            fix="fit it again: segwright evaluate MODEL DATA --fit-error-model",
        )
    try:
        found = {name: np.asarray(arrays[name]) for name in _ARRAYS}
        limit = float(np.asarray(arrays["limit"]).reshape(-1)[0])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise BundleError("the error model lacks an array", found=str(error)) from error
    numbers: dict[str, Any] = {
        name: array.astype(np.int64 if name.endswith("kinds") else np.float64) for name, array in found.items()
    }
    width = len(IMAGE_FEATURES)
    scores, class_scores = len(numbers["image_scores"]), len(numbers["class_scores"])
    shapes = {
        "class_mean": (classes,), "image_mean": (width,), "image_scale": (width,), "image_weights": (width + 1,),
        "image_scores": (scores,), "image_score_weights": (scores,), "class_scores": (class_scores,),
        "class_score_weights": (class_scores,), "class_score_kinds": (class_scores,),
        "class_own_weights": (class_scores,),
    }  # fmt: skip
    level = description.get("level", LEVEL)
    wrong = [name for name, shape in shapes.items()
             if numbers[name].shape != shape or not np.isfinite(numbers[name]).all()]  # fmt: skip
    if wrong or not (limit > 0 and (numbers["image_scale"] > 0).all()) or not _is_level(level):
        raise BundleError("the error model is damaged", found=", ".join(wrong) or "limit, scale or level")
    regions = len(feature_names(classes))
    chance = RegionEstimator.from_arrays(arrays, "wrong", regions)
    return ErrorModel(
        classes,
        chance,
        RegionIou.from_arrays(arrays, "iou", regions, chance.trees),
        BoostedTrees.from_arrays(arrays, "class", len(CLASS_FEATURES) + classes),
        limit=limit,
        description=dict(description),
        **numbers,
    )


def _is_level(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1


def thinning(height: int, width: int) -> int:
    """Every how many pixels a prediction is looked at: 1 up to :data:`MOST_PIXELS`."""
    return max(1, math.ceil(math.sqrt(height * width / MOST_PIXELS)))
