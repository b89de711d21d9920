"""What an answer is worth: disagreement × rarity of the predicted class, with a choice that spreads.

Disagreement is the margin between the two likeliest classes of the mean over samples (views of an image, members,
models), plus what the samples contradict each other in (mutual information). Rarity is the inverse root of a class's
predicted share, so that the classes that a mean IoU is lost at come first (class-balanced acquisition, Cai et al. 2021,
"Revisiting Superpixels for Active Learning", with a root in place of their fixed power).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from segwright.core.errors import ModelError, UsageError
from segwright.core.types import Float32Array, UInt8Array
from segwright.inference.predictor import Predictor
from segwright.inference.tta import parse_tta
from segwright.inference.uncertainty import Moments, check_measure, map_of_samples, parse_measure
from segwright.labeling.units import Int32Array, unit_means

Float64Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

MOST_VALUES = 300_000_000  # classes × pixels of an image: 1.2 GB of probabilities
MOST_REPRESENTED = 400  # units that a choice without a model is among, the largest
MOST_RARITY = 8.0  # times the weight of an average pixel
VIEWS = "flip,1"
KINDS = ("auto", "margin", "views", "dropout", "ensemble")


@dataclass(frozen=True)
class Opinion:
    """What models predict of one image."""

    probabilities: Float32Array  # (K, H, W): the mean over the samples
    disagreement: Float32Array  # (H, W), 0…1

    @property
    def labels(self) -> UInt8Array:
        """(H, W): the likeliest class."""
        return np.asarray(self.probabilities.argmax(axis=0), np.uint8)


def opinion(predictors: Sequence[Predictor], pixels: UInt8Array, kind: str = "auto") -> Opinion:
    """The mean prediction of an image (H, W, C) as the models see it, and where it is doubtful.

    ``kind``: **margin** runs each network once; **views** adds a mirrored view; **dropout** adds the mutual information
    of ten passes, **ensemble** that of the members of an ensemble; **auto** is ensemble where the one model is one,
    views for any other one, and margin for several, which contradict each other as it is.
    UsageError for another kind, ModelError for an image that is too large to hold all probabilities of.
    """
    if kind not in KINDS:
        raise UsageError("unknown kind of disagreement", expected=", ".join(KINDS), found=kind)
    kind = _automatic(predictors) if kind == "auto" else kind
    classes = predictors[0].label_space.classes
    height, width = pixels.shape[:2]
    if classes * height * width > MOST_VALUES:
        raise ModelError(
            "the image is too large for questions about its regions",
            expected=f"at most {MOST_VALUES // classes} pixels for {classes} classes",
            found=f"{width}×{height}",
            fix="cut it into tiles",
        )
    moments = Moments(classes, (height, width))
    for predictor in predictors:
        for probabilities in _samples(predictor, pixels, kind):
            moments.add(probabilities)
    mean: Float32Array = np.asarray(moments.total / np.maximum(moments.weight, np.float32(1e-6)), np.float32)
    doubt = margin(mean)
    if float(moments.weight.max()) > 1:
        doubt += np.sqrt(moments.information())
    if kind in ("dropout", "ensemble"):
        measure = parse_measure(kind)
        doubt += np.sqrt(sum(map_of_samples(measure, one.runtime, pixels) for one in predictors) / len(predictors))
    return Opinion(mean, np.clip(doubt, 0, 1).astype(np.float32))


def _automatic(predictors: Sequence[Predictor]) -> str:
    if len(predictors) > 1:
        return "margin"
    try:
        check_measure(parse_measure("ensemble"), predictors[0].runtime)
    except ModelError:
        return "views"
    return "ensemble"


def _samples(predictor: Predictor, pixels: UInt8Array, kind: str) -> Iterator[Float32Array]:
    if kind != "views" or predictor.window_count(pixels) > 1:
        yield predictor.probabilities(pixels)
        return
    views = parse_tta(VIEWS, predictor.label_space.mirrored())
    for probabilities, _ in views.each(predictor.runtime.logits, pixels):
        yield np.asarray(probabilities, np.float32)


def margin(probabilities: Float32Array) -> Float32Array:
    """1 − the difference between the two largest probabilities of (K, …); 0 if there is one class."""
    if len(probabilities) < 2:
        return np.zeros(probabilities.shape[1:], np.float32)
    best = np.partition(probabilities, len(probabilities) - 2, axis=0)[-2:]
    return np.asarray(1 - (best[1] - best[0]), np.float32)


def rarity(shares: Float32Array | Float64Array) -> Float64Array:
    """The weights (K,) of classes with these shares of the pixels: 1/√share, scaled so that an average pixel weighs 1,
    at most :data:`MOST_RARITY`; a class that is predicted nowhere weighs as much as the rarest that is."""
    shares = np.asarray(shares, np.float64)
    present = shares > 0
    if not present.any():
        return np.ones(len(shares))
    weights = 1 / np.sqrt(np.where(present, shares, shares[present].min()))
    return np.asarray(np.minimum(weights / (weights * shares).sum() * shares.sum(), MOST_RARITY))


@dataclass(frozen=True)
class UnitScores:
    """The units of an image (N of them) and what answers about them are worth."""

    score: Float64Array  # (N,)
    predicted: UInt8Array  # (N,): the class of the largest mean probability
    confidence: Float64Array  # (N,): that probability
    pixels: npt.NDArray[np.int64]  # (N,)
    center: Float64Array  # (N, 2): row, column


def score_units(
    units: Int32Array, found: Opinion, weights: Float64Array, *, size_power: float = 0.25, floor: float = 0.1
) -> UnitScores:
    """(``floor`` + disagreement) × expected rarity × pixels^``size_power`` of each unit, averaged over its pixels.

    The rarity is expected over the predicted probabilities, so that a unit that may be rare counts too. Large units
    label more pixels with one answer, which is why what is hardly in doubt counts a little as well.
    """
    means = unit_means(units, [*found.probabilities, found.disagreement])
    chance, doubt = means[:, :-1], means[:, -1]
    pixels = np.bincount(units.ravel())
    predicted = chance.argmax(axis=1)
    score = (floor + doubt) * (chance @ weights) * pixels.astype(np.float64) ** size_power
    return UnitScores(score, predicted.astype(np.uint8), chance.max(axis=1), pixels, centers(units))


def plain_units(units: Int32Array, image: UInt8Array) -> UnitScores:
    """Without a model: the score falls with the order in which units represent the image best.

    Greedy facility location (Wei et al. 2015): the next unit is the one that raises Σ pixels × likeness to the nearest
    chosen one most; likeness is a Gaussian of color (20 units of CIE Lab) and place (a quarter of the diagonal).
    """
    rgb = image if image.shape[2] == 3 else np.repeat(image[..., :1], 3, axis=2)
    lab = cv2.cvtColor(np.ascontiguousarray(rgb).astype(np.float32) / 255, cv2.COLOR_RGB2Lab)
    colors = unit_means(units, [np.asarray(lab[..., channel], np.float32) for channel in range(3)])
    pixels, place = np.bincount(units.ravel()), centers(units)
    points = np.concatenate([colors / 20, place / (np.hypot(*units.shape) / 4)], axis=1)
    most = min(len(pixels), MOST_REPRESENTED)
    large = np.sort(np.argsort(-pixels, kind="stable")[:most])
    gaps = ((points[large, None] - points[None, large]) ** 2).sum(axis=2)
    alike = np.exp(-gaps / 2) * np.sqrt(pixels[large])[:, None]
    covered, scores = np.zeros(most), np.zeros(len(pixels))
    left = np.ones(most, bool)
    for number in range(most):
        gain = np.maximum(alike - covered[:, None], 0).sum(axis=0)
        one = int(np.where(left, gain, -1.0).argmax())
        left[one] = False
        scores[large[one]] = 1 / (1 + number)
        covered = np.maximum(covered, alike[:, one])
    nothing = np.zeros(len(pixels))
    return UnitScores(scores, nothing.astype(np.uint8), nothing, pixels, place)


def centers(units: Int32Array) -> Float64Array:
    """The mean row and column (N, 2) of each unit."""
    height, width = units.shape
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    return unit_means(units, [rows, columns])


def choose_units(
    scores: UnitScores,
    count: int,
    size: tuple[int, int],
    free: npt.NDArray[np.bool_],
    taken: npt.NDArray[np.bool_] | None = None,
    rng: np.random.Generator | None = None,
) -> list[int]:
    """Up to ``count`` units of an image of ``size`` that are ``free``, the best first, spread in space.

    After each choice units close to it lose up to half of their score (a Gaussian of an eighth of the diagonal), and
    those of the same predicted class a tenth. ``taken``: units that have an answer already and push others away too.
    With ``rng`` they are drawn in proportion to their scores (the Gumbel trick), so that what is easy stays among the
    labels in its share.
    """
    height, width = size
    reach = 2 * (np.hypot(height, width) / 8) ** 2
    worth = scores.score if rng is None else scores.score * np.exp(rng.gumbel(size=len(scores.score)))
    left = np.where(free, worth, -1.0)

    def push(one: int) -> None:
        gap = ((scores.center - scores.center[one]) ** 2).sum(axis=1)
        left[left > 0] *= (1 - 0.5 * np.exp(-gap / reach))[left > 0]
        same = (scores.predicted == scores.predicted[one]) & (left > 0)
        left[same] *= 0.9

    for answered in np.flatnonzero(taken).tolist() if taken is not None else ():
        push(answered)
    chosen: list[int] = []
    while len(chosen) < count:
        one = int(left.argmax())
        if left[one] < 0:
            break
        chosen.append(one)
        left[one] = -1.0
        push(one)
    return chosen
