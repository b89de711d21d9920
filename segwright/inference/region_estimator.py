"""What is estimated of a region from its features: the mean of boosted trees and of a linear model.

Trees learn what is particular to the held-out sequences (which class is confused with which, where in the image), which
is most of what can be known of images like these, and carries over badly to other ones. A strongly regularized linear
model of the features that mean the same everywhere (dispersion, size, shape, neighborhood) carries over best. The mean
of both is as good as the better of the two on images like the held-out ones, and nearly so on others.

A third of the regions or more have an IoU of exactly 0. The expected IoU is therefore a product: the probability of not
being wrong, times the IoU of regions that are not, which trees learn from those alone, on the scale of log-odds (a
hurdle model, Cragg 1971).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from segwright.core.errors import BundleError, UsageError
from segwright.inference.boosting import BoostedTrees, Loss, fit_trees
from segwright.inference.region_features import feature_names

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]

PARTICULAR = ("probability_", "around_", "class_", "center_", "image_entropy", "image_variation")  # left to the trees
PENALTY = {"logistic": 0.1, "squares": 0.03}  # of the squared weights of standardized columns, per row
CLIPPED = 6.0  # standard deviations
STEPS = 30  # of Newton


@dataclass(frozen=True)
class LinearModel:
    """A linear or logistic function of standardized columns; F columns."""

    loss: Loss
    mean: Float64Array  # (F,)
    scale: Float64Array  # (F,)
    weights: Float64Array  # (F + 1,): of the columns, and the constant

    def __call__(self, rows: npt.NDArray[Any]) -> Float64Array:
        """(R, F) → (R,): the probability of the event, or the value."""
        found = _standard(rows, self.mean, self.scale) @ self.weights[:-1] + self.weights[-1]
        return np.asarray(expit(found) if self.loss == "logistic" else found)

    def arrays(self, prefix: str) -> dict[str, npt.NDArray[Any]]:
        """The model as named arrays."""
        table = np.stack([self.mean, self.scale, self.weights[:-1]])
        return {f"{prefix}.linear": table, f"{prefix}.constant": self.weights[-1:]}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], prefix: str, features: int, loss: Loss) -> LinearModel:
        """The model of :meth:`arrays`; BundleError unless they are complete and fit ``features`` columns."""
        try:
            linear = np.asarray(arrays[f"{prefix}.linear"], np.float64)
            constant = np.asarray(arrays[f"{prefix}.constant"], np.float64)
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError("the error model lacks an array", found=str(error)) from error
        fits = linear.shape == (3, features) and constant.shape == (1,) and bool(np.isfinite(linear).all())
        if not fits or not np.isfinite(constant).all() or not (linear[1] > 0).all():
            raise BundleError(
                "the error model's linear part is damaged", expected=f"3 × {features} numbers", found=str(linear.shape)
            )
        return cls(loss, linear[0], linear[1], np.append(linear[2], constant))


def fit_linear(
    rows: npt.NDArray[Any], target: npt.NDArray[Any], loss: Loss, used: npt.NDArray[np.bool_]
) -> LinearModel:
    """Fit the columns ``used`` (F,) of rows (R, F) to targets (R,), with the ridge of PENALTY."""
    wanted = np.asarray(target, np.float64)
    if not len(rows) or wanted.shape != (len(rows),):
        raise UsageError("a linear model is fitted to rows and one target each", found=f"{rows.shape}, {wanted.shape}")
    mean = rows.mean(axis=0, dtype=np.float64)
    scale = np.maximum(rows.std(axis=0, dtype=np.float64), 1e-6)
    design = np.concatenate([_standard(rows, mean, scale)[:, used], np.ones((len(rows), 1))], axis=1)
    ridge = np.diag(np.append(np.full(int(used.sum()), PENALTY[loss] * len(rows)), 1e-6))
    if loss == "squares":
        found = np.linalg.solve(design.T @ design + ridge, design.T @ wanted)
    else:
        found = np.zeros(design.shape[1])
        for _ in range(STEPS):
            chance = expit(design @ found)
            slope = design.T @ (chance - wanted) + ridge @ found
            curve = (design * (chance * (1 - chance) + 1e-9)[:, None]).T @ design + ridge
            step = np.linalg.solve(curve, slope)
            found = found - step
            if np.abs(step).max() < 1e-8:
                break
    weights = np.zeros(rows.shape[1] + 1)
    weights[np.append(used, True)] = found
    return LinearModel(loss, mean, scale, weights)


def _standard(rows: npt.NDArray[Any], mean: Float64Array, scale: Float64Array) -> Float64Array:
    return np.asarray(np.clip((rows - mean) / scale, -CLIPPED, CLIPPED))


@dataclass(frozen=True)
class RegionEstimator:
    """The mean of trees and a linear model over the features of a region."""

    trees: BoostedTrees
    linear: LinearModel

    def __call__(self, rows: Float32Array) -> Float64Array:
        """(R, F) → (R,)."""
        return np.asarray((self.trees(rows) + self.linear(rows)) / 2)

    def arrays(self, prefix: str) -> dict[str, npt.NDArray[Any]]:
        """The estimator as named arrays."""
        return {**self.trees.arrays(prefix), **self.linear.arrays(prefix)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], prefix: str, features: int) -> RegionEstimator:
        """The estimator of :meth:`arrays`; BundleError unless they are complete and fit ``features`` columns."""
        trees = BoostedTrees.from_arrays(arrays, prefix, features)
        return cls(trees, LinearModel.from_arrays(arrays, prefix, features, trees.loss))


@dataclass(frozen=True)
class RegionIou:
    """The expected adjusted IoU of a region: two parts of trees, one of a linear model."""

    wrong: BoostedTrees  # the probability that the IoU is 0
    right: BoostedTrees  # the IoU of regions where it is not
    linear: LinearModel  # the IoU of all

    def __call__(self, rows: Float32Array) -> Float64Array:
        """(R, F) → (R,), which the linear model can move out of 0…1."""
        product = (1 - self.wrong(rows)) * self.right(rows)
        return np.asarray((2 * product + self.linear(rows)) / 3)

    def arrays(self, prefix: str) -> dict[str, npt.NDArray[Any]]:
        """As named arrays, without the trees of ``wrong``, which the other estimator of the error model keeps."""
        return {**self.right.arrays(prefix), **self.linear.arrays(prefix)}

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, npt.NDArray[Any]], prefix: str, features: int, wrong: BoostedTrees
    ) -> RegionIou:
        """The estimator of :meth:`arrays`; BundleError unless they are complete and fit ``features`` columns."""
        right = BoostedTrees.from_arrays(arrays, prefix, features)
        return cls(wrong, right, LinearModel.from_arrays(arrays, prefix, features, "squares"))


def fit_regions(
    rows: Float32Array, iou: npt.NDArray[Any], *, classes: int, seed: int
) -> tuple[RegionEstimator, RegionIou]:
    """The probability of being wrong (an IoU of 0) and the expected IoU, fitted to rows (R, F), columns as
    :func:`segwright.inference.region_features.feature_names`, and the adjusted IoU (R,)."""
    used = np.array([not name.startswith(PARTICULAR) for name in feature_names(classes)])
    wrong = np.asarray(iou) == 0
    right = ~wrong if not wrong.all() else np.ones(len(wrong), bool)
    chance = RegionEstimator(_trees(rows, wrong, seed), fit_linear(rows, wrong, "logistic", used))
    value = RegionIou(chance.trees, _trees(rows[right], iou[right], seed), fit_linear(rows, iou, "squares", used))
    return chance, value


def _trees(rows: Float32Array, target: npt.NDArray[Any], seed: int) -> BoostedTrees:
    """Of targets in 0…1: the cross-entropy to a share has its least value at the mean, as that to an event has."""
    return fit_trees(
        rows, target, "logistic", trees=200, depth=5, rate=0.06, row_share=0.5, column_share=0.2, least=20.0, seed=seed
    )
