"""Logit adjustment: an offset per class, added after training, that maximizes the mean IoU of the labels.

The label of a pixel is the class with the highest score. That is the best label for the training loss, with its class
weights and smoothing, but not for the mean IoU. An offset per class, added to its logits, moves the boundary between
each pair of classes to where the mean IoU of *training* images is largest. Offsets are added to the bias of the last
layer, so predictions and exports cost nothing more. (Menon et al. 2021, "Long-tail learning via logit adjustment",
section 4.1, compute them from the class frequencies; here they are searched for.)

They are kept only if validation images show a gain beyond chance: see :class:`Gain`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from segwright.core.atomic_io import without_nan
from segwright.core.progress import progress
from segwright.core.types import SPARSE, Float32Array, UInt8Array
from segwright.data.records import Split, evenly_spread
from segwright.evaluation.compare import interval_text
from segwright.evaluation.evaluate import Evaluation
from segwright.inference.predictor import Predictor
from segwright.metrics.bootstrap import LEAST_DRAWN, PairedDifference, paired_difference
from segwright.metrics.confusion import Float64Array, Int64Array, labeled_miou, nanmean
from segwright.models.base import SegmentationModel

IMAGES = 128  # of the training split, at most
SCORES = 8_000_000  # pixels × classes that are sampled, at most
PIXELS = 700_000
LEAST_IMAGES = 4  # that show a class; a class that fewer show gets no offset
LARGEST = 2.0  # offset of a logit
STEP = 0.05
LEAST_GAIN = 3e-4  # of mIoU, for an offset to be made at all
ROUNDS = 3  # over the classes
TRIED = 128  # side of the image on which a layer is tried
EVEN = 1e-3  # logits may differ by this from an even offset, by rounding


def sample_scores(
    predictor: Predictor, split: Split, advance: Callable[[int], None] = lambda count: None
) -> tuple[Float32Array, Int64Array, Int64Array]:
    """Predict images spread evenly over ``split``.

    Returns log probabilities (K, N) and labels (N,) of labeled pixels on a regular grid (of the labeled ones where they
    are few), and the number of images that show each class, (K,).
    """
    classes = split.label_space.classes
    scores: list[Float32Array] = [np.empty((classes, 0), np.float32)]
    labels: list[Int64Array] = [np.empty(0, np.int64)]
    shown = np.zeros(classes, np.int64)
    wanted = sampled_indices(len(split))
    a_image = max(1, min(PIXELS, SCORES // classes) // max(1, len(wanted)))
    for turn, index in enumerate(wanted):
        sample = split[index]
        if sample.mask is not None:
            grid = _grid(sample.mask, classes, a_image, turn)
            mask = sample.mask.reshape(-1)[grid]
            grid, mask = grid[mask < classes], mask[mask < classes]
            shown += np.bincount(np.unique(mask), minlength=classes)
            probabilities = predictor.probabilities(sample.image).reshape(classes, -1)[:, grid]
            scores.append(np.log(np.maximum(probabilities, 1e-9)).astype(np.float32, copy=False))
            labels.append(mask.astype(np.int64))
        advance(1)
    return np.concatenate(scores, axis=1), np.concatenate(labels), shown


def _grid(mask: UInt8Array, classes: int, wanted: int, turn: int) -> Int64Array:
    """Places of up to about ``wanted`` pixels; of a sparse mask, in which a grid would meet few, labeled ones."""
    labeled = np.flatnonzero(mask.reshape(-1) < classes)
    if len(labeled) < SPARSE * mask.size:
        return labeled[turn % max(1, -(-len(labeled) // wanted)) :: max(1, -(-len(labeled) // wanted))]
    every = -(-mask.size // wanted)
    return np.arange(turn % every, mask.size, every)


def sampled_indices(count: int) -> list[int]:
    """The indices of the training images, of ``count``, on which offsets are searched."""
    return evenly_spread(count, IMAGES)


def find_class_offsets(
    scores: Float32Array,
    labels: Int64Array,
    movable: npt.NDArray[np.bool_] | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> Float64Array:
    """Offsets (K,) of ``scores`` (K, N) that maximize the mean IoU of the highest score with ``labels`` (N,).

    One class at a time with the others fixed, in :data:`ROUNDS` rounds, and for every step of the offset at once: a
    pixel changes to the class exactly at the offset at which its score exceeds the highest of the others. Of equally
    good offsets, the nearest to the current one is taken. The mean is over the classes in ``labels``. ``movable``: the
    classes, (K,), that may get an offset; ``advance(1)`` is called for every class of every round.
    """
    classes = len(scores)
    class_offsets = np.zeros(classes)
    steps = np.arange(-LARGEST, LARGEST + STEP / 2, STEP)
    for _ in range(ROUNDS):
        before = class_offsets.copy()
        for label in range(classes):
            advance(1)
            if movable is not None and not movable[label]:
                continue
            found = _scores_by_shift(scores, labels, class_offsets, label, steps)
            now = int(np.abs(steps - class_offsets[label]).argmin())
            if found.max() >= found[now] + LEAST_GAIN:
                good = np.flatnonzero(found >= found.max() - LEAST_GAIN / 2)
                class_offsets[label] = steps[good[np.abs(good - now).argmin()]]
        if np.array_equal(before, class_offsets):
            break
    return class_offsets.round(6)


def _scores_by_shift(
    scores: Float32Array, labels: Int64Array, class_offsets: Float64Array, label: int, steps: Float64Array
) -> Float64Array:
    """The mean IoU, (len(steps),), for each of ``steps`` as the offset of ``label``."""
    classes = len(scores)
    others = scores + class_offsets[:, None].astype(np.float32)
    others[label] = -np.inf
    second = others.argmax(axis=0)
    # From this offset on the pixel is predicted as ``label``; ties as well, which real scores do not have.
    needed = np.take_along_axis(others, second[None], axis=0)[0] - scores[label]
    first = np.searchsorted(steps, needed, side="left")

    def taken(which: npt.NDArray[np.bool_] | slice) -> Int64Array:
        """(steps + 1, classes): pixels that ``label`` has taken from each class at each step; the last row: all."""
        counts = np.bincount(first[which] * classes + second[which], minlength=(len(steps) + 1) * classes)
        found: Int64Array = counts.reshape(len(steps) + 1, classes).cumsum(axis=0)
        return found

    gone, lost, gained = taken(slice(None)), taken(labels == second), taken(labels == label)
    predicted, hits = (gone[-1] - gone)[:-1], (lost[-1] - lost)[:-1]
    predicted[:, label], hits[:, label] = gone[:-1].sum(axis=1), gained[:-1].sum(axis=1)
    truth = np.bincount(labels, minlength=classes)
    occurs = truth > 0
    union = (truth + predicted - hits)[:, occurs]
    mean: Float64Array = (hits[:, occurs] / union).mean(axis=1) if occurs.any() else np.zeros(len(steps))
    return mean


def find_class_bias(model: SegmentationModel) -> Tensor | None:
    """The bias, (K,), that shifts the logits of a class evenly at every pixel; None if there is none.

    Of the declared classifier layers of the logits, the last whose bias does so in the inner half of a test image
    (FCN's transposed convolutions fade out towards the border).
    """
    layers = model.classifier_layers().get("logits", ())
    biases = [layer.bias for layer in layers if isinstance(layer.bias, nn.Parameter)]
    if not biases:
        return None
    device = biases[-1].device
    ramp = np.arange(1, model.classes + 1) / model.classes
    expected = torch.from_numpy(ramp).to(device, torch.float32)[:, None, None]
    pixels = torch.arange(TRIED**2 * model.in_channels, device=device).mul(37).remainder(256)
    pixels = pixels.to(torch.uint8).reshape(1, TRIED, TRIED, model.in_channels)
    inner = slice(TRIED // 4, TRIED - TRIED // 4)
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            plain = model(pixels).logits.float()
            for bias in reversed(biases):
                kept = bias.detach().clone()
                add_class_offsets(bias, ramp)
                try:
                    moved = model(pixels).logits.float() - plain
                finally:
                    bias.data.copy_(kept)
                if (moved - expected)[..., inner, inner].abs().max() < EVEN:
                    return bias
    finally:
        model.train(training)
    return None


def add_class_offsets(bias: Tensor, class_offsets: npt.NDArray[np.floating]) -> None:
    """Add offsets, (K,), to the bias of a last layer."""
    bias.data += torch.from_numpy(np.asarray(class_offsets, np.float32)).to(bias.data)


@dataclass(frozen=True)
class Gain:
    """The effect of class offsets on validation images: one predictor on the same images, without and with them.

    ``part_of``: the part of the validation images that an image of this id is of (new and old ones of a refinement).
    """

    before: Evaluation
    after: Evaluation
    part_of: Callable[[str], str] | None = None

    @cached_property
    def difference(self) -> PairedDifference:
        """Difference of the mean IoU, with its interval over independent units: sequences of a video, else images."""
        return paired_difference(self.before.counts, self.after.counts, groups=self.before.independent.groups)

    @property
    def kept(self) -> bool:
        """Whether the offsets are kept: only if the interval of the difference lies above zero. Of several parts, of
        which one may have nearly all of the labeled pixels, the mean of their mean IoUs may not fall either."""
        return self.difference.clear and self.difference.low > 0 and self._mean_of_parts() >= 0

    def _mean_of_parts(self) -> float:
        """The difference of the mean IoU, averaged over the parts."""
        if self.part_of is None:
            return self.difference.difference
        names = np.array([self.part_of(name) for name in self.before.ids])
        counts = self.before.counts, self.after.counts
        changes = [labeled_miou(counts[1][names == one]) - labeled_miou(counts[0][names == one]) for one in set(names)]
        return nanmean(np.array(changes))

    @property
    def why_not(self) -> str:
        """Why the offsets are not kept; empty if they are."""
        if self.kept:
            return ""
        if self.difference.few:
            return f"an interval takes {LEAST_DRAWN} or more, and there are only {self.before.independent}"
        if self.difference.clear and self.difference.low > 0:
            return "the mean over the parts of the validation images falls"
        return "the interval of the difference is not above zero"

    @property
    def ece(self) -> tuple[float, float] | None:
        """The calibration error before and after, of the confidences as they are served."""
        if self.before.calibration is None or self.after.calibration is None:
            return None
        return self.before.calibration.ece(), self.after.calibration.ece()

    def to_json(self) -> dict[str, Any]:
        d = self.difference
        tree = {
            "val_miou": [d.miou_a, d.miou_b],
            "difference": d.difference,
            "difference_ci95": [d.low, d.high],
            **self.before.independent.to_json(),
            "val_ece": None if self.ece is None else list(self.ece),
            "kept": self.kept,
            "why_not": self.why_not,
        }
        return dict(without_nan(tree))

    def __str__(self) -> str:
        d = self.difference
        span = f"{100 * d.difference:+.2f} points"
        if not d.few:
            span += f", 95 %: {interval_text((d.low, d.high), signed=True)} over {self.before.independent}"
        text = f"val mIoU {d.miou_a:.3f} → {d.miou_b:.3f} ({span})"
        if self.ece is not None:
            text += ", calibration error {:.3f} → {:.3f}".format(*self.ece)
        return text + (", kept" if self.kept else f", not kept: {self.why_not}")


class LogitAdjustment:
    """Finds class offsets for the network of ``predictor`` on ``split``; :meth:`make` and :meth:`undo` apply them.

    ``class_offsets`` is None if the network has no layer that could take them, or if none would raise the mean IoU;
    ``why_not`` names the reason.
    """

    def __init__(self, predictor: Predictor, network: SegmentationModel, split: Split) -> None:
        self.class_offsets: Float64Array | None = None
        self.why_not = "the network has no layer whose bias shifts them"
        self.names = split.label_space.names
        bias = find_class_bias(network) if network.classes > 1 else None
        if bias is None:
            return
        self.bias, self.before = bias, bias.detach().clone()
        with progress("class scores", len(sampled_indices(len(split))) + ROUNDS * network.classes) as advance:
            scores, labels, shown = sample_scores(predictor, split, advance)
            class_offsets = find_class_offsets(scores, labels, shown >= LEAST_IMAGES, advance)
        self.why_not = "no shift raises the mean IoU of training images"
        if class_offsets.any():
            self.class_offsets = class_offsets

    def make(self) -> None:
        """Add the offsets to the bias."""
        if self.class_offsets is not None:
            add_class_offsets(self.bias, self.class_offsets)

    def undo(self) -> None:
        """Restore the bias exactly."""
        if self.class_offsets is not None:
            self.bias.data.copy_(self.before)

    def to_json(self) -> dict[str, float]:
        """The offset of each class that has one."""
        class_offsets = np.zeros(len(self.names)) if self.class_offsets is None else self.class_offsets
        return {name: float(shift) for name, shift in zip(self.names, class_offsets, strict=True) if shift}

    def __str__(self) -> str:
        """The largest offsets, for people: "road +0.90, fence -0.60, …"."""
        found = sorted(self.to_json().items(), key=lambda item: -abs(item[1]))
        return ", ".join(f"{name} {shift:+.2f}" for name, shift in found[:4]) + (", …" if len(found) > 4 else "")
