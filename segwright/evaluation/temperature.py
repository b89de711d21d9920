"""Temperature scaling: all logits are divided by one number, so that confidences are true. Guo et al. 2017, section 4.

The temperature is the one with the least log loss on held-out images, a convex problem in its inverse. It is judged by
cross-fitting: found on one half of the sequences (or blocks, or images), scored on the other, both ways. It is kept
only if the log loss of the halves falls beyond its interval, and the calibration error with it.

A kept temperature is folded into the layers that give the class scores, so predictions and exports cost nothing more,
and no label changes (but for ties within rounding).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import brentq
from torch import Tensor

from segwright.core.atomic_io import without_nan
from segwright.core.counted import counted
from segwright.core.errors import LabelError
from segwright.core.progress import progress
from segwright.core.types import Float32Array, LabelSpace, UInt8Array
from segwright.data.records import evenly_spread
from segwright.evaluation.sequences import BootstrapUnits, find_units, thumbnail_of
from segwright.metrics.bootstrap import LEAST_DRAWN, percentile_interval, resampled_sums
from segwright.metrics.calibration import SMALLEST, Calibration
from segwright.metrics.confusion import Float64Array, Int64Array
from segwright.models.base import SegmentationModel

IMAGES = 256  # at most, spread evenly over the split
SCORES = 6_000_000  # pixels × classes that are sampled, at most
LOWEST, HIGHEST = 0.1, 10.0  # temperature
LEAST_CHANGE = 0.01  # a temperature nearer to 1 is not worth a change
TRIED = 128  # side of the image on which the layers are tried
EVEN = 1e-3  # relative difference of logits to evenly scaled ones, by rounding


class ProbabilityPredictor(Protocol):
    """What is needed of a predictor."""

    label_space: LabelSpace

    def probabilities(self, image: UInt8Array) -> Float32Array: ...


class HeldOutImages(Protocol):
    """Held-out images with masks, in the network's class indices."""

    @property
    def label_space(self) -> LabelSpace: ...
    @property
    def ids(self) -> Sequence[str]: ...
    def __len__(self) -> int: ...
    def read_image(self, index: int) -> UInt8Array: ...
    def read_mask(self, index: int) -> UInt8Array | None: ...


class SampledPixels:
    """Log probabilities and labels of pixels on a grid of each image; a collector of an evaluation's pass.

    ``images``: how many will come, for the number of pixels of each.
    """

    needs_probabilities = True

    def __init__(self, classes: int, images: int) -> None:
        self.classes = classes
        self.per_image = max(1, SCORES // classes // max(1, images))
        self.ids: list[str] = []
        self.thumbnails: list[npt.NDArray[np.float32]] = []
        self.scores: list[Float32Array] = []  # (K, n) each
        self.labels: list[Int64Array] = []  # (n,) each

    def add(
        self,
        index: int,
        id: str,
        image: UInt8Array | None,
        truth: UInt8Array,
        labels: UInt8Array | None = None,
        confidence: Float32Array | None = None,
        *,
        probabilities: Float32Array | None = None,
    ) -> None:
        """One image: ``truth`` (H, W), ``probabilities`` (K, H, W). Images without a labeled pixel are left out."""
        if probabilities is None:
            return
        if probabilities.shape != (self.classes, *truth.shape):
            raise LabelError(
                "probabilities are K×H×W of the mask's size",
                expected=str((self.classes, *truth.shape)),
                found=str(probabilities.shape),
                where=id,
            )
        every = -(-truth.size // self.per_image)
        grid = np.arange(len(self.ids) % every, truth.size, every)
        found = truth.reshape(-1)[grid]
        grid, found = grid[found < self.classes], found[found < self.classes]
        if not found.size:
            return
        self.ids.append(id)
        self.thumbnails.append(thumbnail_of(image, truth, self.classes))
        self.scores.append(np.log(np.maximum(probabilities.reshape(self.classes, -1)[:, grid], SMALLEST)))
        self.labels.append(found.astype(np.int64))

    def units(self) -> BootstrapUnits:
        """What the images' sequences are."""
        return find_units(self.ids, np.stack(self.thumbnails))


@dataclass(frozen=True)
class CalibrationFigures:
    """Of the sampled pixels, each scored with the temperature of the half that it is not in."""

    nll: float  # mean −ln p of the true class, in nats
    ece: float  # expected calibration error, 0…1

    def to_json(self) -> dict[str, float]:
        return {"nll": self.nll, "ece": self.ece}


@dataclass(frozen=True)
class TemperatureResult:
    """The temperature that was found, and whether the network has it now.

    ``before`` and ``after`` are None if nothing was judged; ``why`` has the reason if it was not kept.
    """

    kept: bool
    temperature: float = 1.0  # by which the logits are divided; 1 if none was found
    before: CalibrationFigures | None = None
    after: CalibrationFigures | None = None
    why: str = ""
    nll_difference_ci95: tuple[float, float] = (float("nan"), float("nan"))  # after − before
    halves: tuple[float, ...] = ()  # the temperature of each half
    over: str = ""  # what the interval draws
    count: int = 0
    images: int = 0
    pixels: int = 0
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """For ``bundle.training["temperature"]``."""
        tree = {
            "kept": self.kept,
            "temperature": self.temperature,
            "before": None if self.before is None else self.before.to_json(),
            "after": None if self.after is None else self.after.to_json(),
            "why_not": self.why,
            "nll_difference_ci95": list(self.nll_difference_ci95),
            "temperature_of_halves": list(self.halves),
            "interval_over": self.over,
            "interval_count": self.count,
            "images": self.images,
            "pixels": self.pixels,
            "seconds": round(self.seconds, 3),
        }
        return dict(without_nan(tree))

    def __str__(self) -> str:
        if self.before is None or self.after is None:
            return f"confidences stay as they are: {self.why}"
        b, a = self.before, self.after
        low, high = self.nll_difference_ci95
        text = f"temperature {self.temperature:.3f}: log loss {b.nll:.4f} → {a.nll:.4f}"
        if not np.isnan(low):
            text += f" (95 % of the difference: {low:+.4f} to {high:+.4f} over {self.count} {self.over})"
        text += f", calibration error {b.ece:.4f} → {a.ece:.4f}"
        return text + (", kept" if self.kept else f", not kept: {self.why}")


def fit_temperature(
    predictor: ProbabilityPredictor,
    network: SegmentationModel,
    split: HeldOutImages,
    *,
    sampled: SampledPixels | None = None,
    message: Callable[[str], None] = lambda line: None,
) -> TemperatureResult:
    """Find the temperature of ``network`` on held-out images, and fold it into its weights if it helps.

    ``predictor`` predicts with ``network``, without test-time augmentation. At most :data:`IMAGES` images of ``split``
    are predicted, and two small ones to try the layers; with ``sampled``, collected in another pass, none. ``message``
    gets one line. If the temperature is not kept, the weights are the same to the last bit.

    The log loss, its interval and the calibration error are those of held-out halves, see the module.
    """
    started = time.monotonic()
    result = replace(_fit(predictor, network, split, sampled), seconds=time.monotonic() - started)
    message(str(result))
    return result


def _fit(
    predictor: ProbabilityPredictor, network: SegmentationModel, split: HeldOutImages, sampled: SampledPixels | None
) -> TemperatureResult:
    if network.classes < 2:
        return TemperatureResult(False, why="one class has a probability of 1 everywhere")
    weights = find_scale(network)
    if weights is None:
        return TemperatureResult(
            False, why="the network declares no layers whose weights scale all class scores evenly"
        )
    if sampled is None:
        sampled = sample_pixels(predictor, split)
    if len(sampled.ids) < 2:
        return TemperatureResult(False, why=f"{counted(len(sampled.ids), 'image')} with a labeled pixel are too few")
    found = judge_temperature(sampled)
    if not found.kept:
        return found
    scale_logits(weights, 1 / found.temperature)
    return found


def sample_pixels(predictor: ProbabilityPredictor, split: HeldOutImages) -> SampledPixels:
    """Predict images spread evenly over ``split``."""
    wanted = evenly_spread(len(split), IMAGES)
    sampled = SampledPixels(split.label_space.classes, len(wanted))
    with progress("temperature", len(wanted)) as advance:
        for index in wanted:
            mask = split.read_mask(index)
            if mask is not None:
                image = split.read_image(index)
                sampled.add(index, split.ids[index], image, mask, probabilities=predictor.probabilities(image))
            advance(1)
    return sampled


def judge_temperature(sampled: SampledPixels) -> TemperatureResult:
    """The temperature of all pixels, judged by its two halves; ``kept`` is whether it helps. No weight is touched."""
    units = sampled.units()
    temperature, at_limit = find_temperature(np.concatenate(sampled.scores, axis=1), np.concatenate(sampled.labels))
    half = split_units(units)
    halves = []
    used = np.ones(len(sampled.ids))
    for part in (0, 1):
        fit = [i for i in range(len(half)) if half[i] == part]
        scored = [i for i in range(len(half)) if half[i] != part]
        if not fit or not scored:
            return TemperatureResult(False, temperature, why=f"there are only {units}", images=len(half))
        value, _ = find_temperature(
            np.concatenate([sampled.scores[i] for i in fit], axis=1), np.concatenate([sampled.labels[i] for i in fit])
        )
        halves.append(value)
        used[scored] = value
    before, ece_before = _score(sampled, np.ones(len(half)))
    after, ece_after = _score(sampled, used)
    pixels = np.array([labels.size for labels in sampled.labels], np.float64)
    terms = np.stack([after - before, pixels], axis=1)
    drawn = [s["terms"][:, 0] / s["terms"][:, 1] for s in resampled_sums({"terms": terms}, groups=units.groups)]
    interval = percentile_interval(np.concatenate(drawn)) if drawn else (float("nan"), float("nan"))
    why = ""
    if at_limit:
        why = f"no temperature in {LOWEST:g} to {HIGHEST:g} has the least log loss"
    elif units.count < LEAST_DRAWN:
        why = f"an interval takes {LEAST_DRAWN} or more, and there are only {units}"
    elif abs(temperature - 1) < LEAST_CHANGE:
        why = "it differs from 1 by less than 0.01"
    elif not interval[1] < 0:
        why = "the interval of the log loss is not below zero"
    elif ece_after > ece_before:
        why = "the calibration error does not fall"
    return TemperatureResult(
        kept=not why,
        temperature=temperature,
        before=CalibrationFigures(float(before.sum() / pixels.sum()), ece_before),
        after=CalibrationFigures(float(after.sum() / pixels.sum()), ece_after),
        why=why,
        nll_difference_ci95=interval,
        halves=tuple(halves),
        over=units.over,
        count=units.count,
        images=len(half),
        pixels=int(pixels.sum()),
    )


def find_temperature(scores: Float32Array, labels: Int64Array) -> tuple[float, bool]:
    """The temperature with the least log loss of ``scores`` (K, N), logits or log probabilities, of ``labels`` (N,).

    Also whether it is at a limit of the search. The log loss is convex in the inverse temperature, so the root of its
    derivative is sought.
    """
    shifted = scores - scores.max(axis=0)
    of_truth = float(np.take_along_axis(shifted, labels[None], axis=0).mean(dtype=np.float64))

    def slope(inverse: float) -> float:
        """Of the mean log loss: the expected score minus the true class's."""
        weights = np.exp(shifted * np.float32(inverse))
        expected = np.einsum("kn,kn->n", weights, shifted) / weights.sum(axis=0)
        return float(expected.mean(dtype=np.float64)) - of_truth

    low, high = 1 / HIGHEST, 1 / LOWEST
    if slope(low) >= 0:
        return HIGHEST, True
    if slope(high) <= 0:
        return LOWEST, True
    return 1 / float(brentq(slope, low, high, xtol=1e-4)), False


def split_units(units: BootstrapUnits) -> list[int]:
    """Half 0 or 1 of each image: whole sequences, of about equal numbers of images; neighboring blocks together, as
    their ends are alike; images in turn."""
    sizes = Counter(units.groups)
    names = list(sizes)
    if units.over == "images":
        side = {name: place % 2 for place, name in enumerate(names)}
    elif units.over == "blocks":
        side, seen = {}, 0
        for name in names:
            side[name] = int(2 * seen >= len(units.groups))
            seen += sizes[name]
    else:
        side, totals = {}, [0, 0]
        for name in sorted(names, key=lambda n: -sizes[n]):
            side[name] = int(totals[1] < totals[0])
            totals[side[name]] += sizes[name]
    return [side[name] for name in units.groups]


def _score(sampled: SampledPixels, temperatures: Float64Array) -> tuple[Float64Array, float]:
    """The summed log loss of each image (N,), and the calibration error of all, each with its temperature."""
    losses, calibration = [], Calibration()
    for scores, labels, temperature in zip(sampled.scores, sampled.labels, temperatures, strict=True):
        scaled = scores.astype(np.float64) / temperature
        scaled -= scaled.max(axis=0)
        logs = scaled - np.log(np.exp(scaled).sum(axis=0))
        losses.append(-np.take_along_axis(logs, labels[None], axis=0).sum())
        predicted = scores.argmax(axis=0)
        confidence = np.exp(np.take_along_axis(logs, predicted[None], axis=0))
        calibration.update(
            confidence.astype(np.float32), predicted[None].astype(np.uint8), labels[None].astype(np.uint8)
        )
    return np.array(losses), calibration.ece()


# ---------------------------------------------------------------------------------------------------------------------
# In the network's weights


def find_scale(network: SegmentationModel) -> list[Tensor] | None:
    """The parameters that scale all logits evenly if they are scaled; None if there are none.

    The declared classifier layers of the logits, all of them or the last: whichever halves every logit of a test image
    when it is halved. The weights are the same to the last bit afterwards.
    """
    layers = list(network.classifier_layers().get("logits", ()))
    candidates = [[*layers], layers[-1:]] if len(layers) > 1 else [layers]
    for candidate in candidates:
        weights = list({id(p): p for layer in candidate for p in layer.parameters()}.values())
        if weights and _scales_evenly(network, weights):
            return list(weights)
    return None


@torch.no_grad()
def _scales_evenly(network: SegmentationModel, weights: Sequence[Tensor]) -> bool:
    device = weights[0].device
    pixels = torch.arange(TRIED**2 * network.in_channels, device=device).mul(37).remainder(256)
    pixels = pixels.to(torch.uint8).reshape(1, TRIED, TRIED, network.in_channels)
    training = network.training
    network.eval()
    kept = [weight.detach().clone() for weight in weights]
    try:
        plain = network(pixels).logits.float()
        scale_logits(weights, 0.5)
        moved = network(pixels).logits.float() * 2
    finally:
        for weight, before in zip(weights, kept, strict=True):
            weight.data.copy_(before)
        network.train(training)
    size = float(plain.abs().max())
    return size > 0 and bool((moved - plain).abs().max() <= EVEN * size)


@torch.no_grad()
def scale_logits(weights: Sequence[Tensor], factor: float) -> None:
    """Multiply the parameters of :func:`find_scale`."""
    for weight in weights:
        weight.data.mul_(factor)
