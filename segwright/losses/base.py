"""What the losses share: the contract, and the per-pixel quantities that most of them are made of.

Nearly every segmentation loss is a function of a few quantities: the negative log-probability of the true class at
each pixel (cross-entropy, focal, OHEM, border-weighted), the same averaged over all classes (label smoothing), and
three sums per class (Dice, Jaccard, Tversky). :class:`SoftmaxStatistics` computes each at most once for all terms of a
sum, in fp32 (fp64 stays).
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segwright.core.errors import LabelError, UsageError
from segwright.core.types import IGNORE_INDEX


class Overlap(NamedTuple):
    """Soft counts per class over every pixel that is not ignored, each (K,)."""

    intersection: Tensor  # Σ p_k where the truth is k
    predicted: Tensor  # Σ p_k
    truth: Tensor  # how many pixels are k


class SoftmaxStatistics:
    """Logits and targets of one batch, and the statistics of their softmax, each computed at most once.

    ``logits`` (N, K, H, W) fp32 or fp64; ``target`` (N, H, W) of any integer type, 0…K-1 or ``ignore_index``.
    """

    def __init__(self, logits: Tensor, target: Tensor, *, ignore_index: int, class_weights: Tensor | None) -> None:
        self.logits = logits
        self.raw_target = target
        self.class_weights = None if class_weights is None else class_weights.to(logits.dtype)
        self.ignore_index = ignore_index
        self.classes = logits.shape[1]

    @cached_property
    def valid(self) -> Tensor:
        """(N, H, W) bool: not ignored."""
        return self.raw_target != self.ignore_index

    @cached_property
    def target(self) -> Tensor:
        """(N, H, W) int64 with ignored pixels set to class 0, so that it can index."""
        return torch.where(self.valid, self.raw_target, 0).long()

    @cached_property
    def weights(self) -> Tensor:
        """(N, H, W): the class weight of each pixel (1 without class weights), 0 where ignored."""
        if self.class_weights is None:
            return self.valid.to(self.logits.dtype)
        return torch.where(self.valid, self.class_weights[self.target], 0)

    @cached_property
    def log_probabilities(self) -> Tensor:
        """(N, K, H, W)."""
        return F.log_softmax(self.logits, dim=1)

    @cached_property
    def probabilities(self) -> Tensor:
        """(N, K, H, W)."""
        return self.log_probabilities.exp()

    @cached_property
    def nll(self) -> Tensor:
        """(N, H, W): the negative log-likelihood −log p of the true class, 0 where ignored."""
        picked = self.log_probabilities.gather(1, self.target[:, None])[:, 0]
        return torch.where(self.valid, -picked, 0)

    @cached_property
    def uniform_nll(self) -> Tensor:
        """(N, H, W): the mean over the classes of −w_k log p_k, 0 where ignored. For label smoothing."""
        if self.class_weights is None:
            mean = self.log_probabilities.mean(dim=1)
        else:
            mean = torch.einsum("nkhw,k->nhw", self.log_probabilities, self.class_weights) / self.classes
        return torch.where(self.valid, -mean, 0)

    @cached_property
    def overlap(self) -> Overlap:
        """The soft counts of the batch, which Dice, Jaccard and Tversky are ratios of."""
        p = self.probabilities * self.valid[:, None]
        true_p = torch.where(self.valid, p.gather(1, self.target[:, None])[:, 0], 0).flatten()
        flat = self.target.flatten()
        intersection = torch.zeros(self.classes, dtype=p.dtype, device=p.device).index_add(0, flat, true_p)
        truth = torch.zeros_like(intersection).index_add(0, flat, self.valid.flatten().to(p.dtype))
        return Overlap(intersection, p.sum(dim=(0, 2, 3)), truth)


class SegmentationLoss(nn.Module):
    """Base of every loss: ``loss(logits N×K×H×W, target N×H×W) -> scalar``.

    Half-precision logits are taken to fp32 first, also under autocast. Ignored pixels give neither loss nor gradient;
    a batch without any other pixel gives 0, with a graph. A subclass implements :meth:`compute`.

    A batch may be taken in parts, or by several processes: the loss of the whole is then the mean of the parts' values
    weighted by their :meth:`amounts`. That is exact where ``decomposes``; other losses (an overlap of the whole batch
    is no mean of overlaps) are the mean over the parts, weighted by labeled pixels.
    """

    class_weights: Tensor | None
    decomposes = False  # whether the value is a sum over pixels or images divided by an amount of the targets alone

    def __init__(self, *, classes: int, ignore_index: int = IGNORE_INDEX, class_weights: Tensor | None = None) -> None:
        super().__init__()
        if classes < 1:
            raise UsageError("a loss needs at least one class", found=str(classes))
        self.classes = classes
        self.ignore_index = ignore_index
        self.register_buffer("class_weights", check_weights(class_weights, classes), persistent=False)
        self._weights_on_cpu = None if self.class_weights is None else self.class_weights.double()

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """``logits`` (N, K, H, W) of any float type, ``target`` (N, H, W) of any integer type."""
        with torch.autocast(device_type=logits.device.type, enabled=False):
            return self.compute(self.statistics(logits, target))

    def statistics(self, logits: Tensor, target: Tensor) -> SoftmaxStatistics:
        """Shapes and values checked, logits in fp32 or fp64."""
        check_shapes(logits, target, self.classes)
        if target.device.type == "cpu":  # on a GPU the check would wait for the device
            check_values(target, self.classes, self.ignore_index)
        if logits.dtype not in (torch.float32, torch.float64):
            logits = logits.float()
        return SoftmaxStatistics(logits, target, ignore_index=self.ignore_index, class_weights=self.class_weights)

    def compute(self, pixels: SoftmaxStatistics) -> Tensor:
        """The scalar loss, with a graph even where nothing counts."""
        raise UsageError("a loss implements compute", where=type(self).__name__)

    def values(self, logits: Tensor, target: Tensor) -> Tensor:
        """(T,): the weighted value of each term, whose sum is the loss; one term unless it is a sum of losses."""
        return self(logits, target)[None]  # type: ignore[no-any-return]

    def amounts(self, target: Tensor) -> Tensor:
        """(T,) fp64: of each term, what of ``target`` (N, H, W) its mean is over."""
        return self.amount(target)[None]

    def amount(self, target: Tensor) -> Tensor:
        """The scalar of :meth:`amounts` of a loss of one term: here the number of labeled pixels."""
        return (target != self.ignore_index).sum().double()

    def per_part(self) -> list[str]:
        """The names of the terms that are computed per part of a batch, since they do not decompose."""
        return [] if self.decomposes else [type(self).__name__.lower()]

    def weighted_pixels(self, target: Tensor) -> Tensor:
        """The sum of the class weights of the labeled pixels of ``target`` (N, H, W), fp64."""
        weights = self._weights_on_cpu
        labeled = target != self.ignore_index
        if weights is None:
            return labeled.sum().double()
        return torch.bincount(target[labeled].flatten().int(), minlength=self.classes).double() @ weights.to(
            target.device
        )

    def _pixel_weights(self, target: Tensor) -> Tensor:
        """(N, H, W) fp64: the class weight of each pixel, 0 where ignored."""
        valid = target != self.ignore_index
        if self._weights_on_cpu is None:
            return valid.double()
        weights = self._weights_on_cpu.to(target.device)
        return torch.where(valid, weights[torch.where(valid, target, 0).long()], 0)


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Σ values·weights / Σ weights; 0 with a graph where all weights are 0. ``values`` must be finite everywhere."""
    total = weights.sum()
    return (values * weights).sum() / torch.where(total > 0, total, 1)


def mean_over_present(values: Tensor, overlap: Overlap, class_weights: Tensor | None) -> Tensor:
    """The mean of (K,) over the classes that occur in the batch's ground truth, by class weight; 0 with a graph where
    none does. A class that is missing has no overlap to measure: counting it as perfect or as failed would only add
    noise from batch to batch."""
    present = (overlap.truth > 0).to(values.dtype)
    return weighted_mean(values, present if class_weights is None else present * class_weights.to(values.dtype))


def check_weights(class_weights: Tensor | None, classes: int) -> Tensor | None:
    """A float32 (K,) tensor on the CPU, or None; UsageError where it does not fit."""
    if class_weights is None:
        return None
    weights = torch.as_tensor(class_weights, dtype=torch.float32).detach().clone().flatten()
    if weights.numel() != classes:
        raise UsageError("one weight per class", expected=f"{classes} class weights", found=str(weights.numel()))
    if not bool(torch.isfinite(weights).all()) or bool((weights < 0).any()) or not bool((weights > 0).any()):
        raise UsageError(
            "class weights are finite, not negative, and not all 0", found=", ".join(f"{w:g}" for w in weights.tolist())
        )
    return weights


def check_shapes(logits: Tensor, target: Tensor, classes: int) -> None:
    if logits.ndim != 4 or logits.shape[1] != classes:
        raise UsageError(
            "logits do not fit the loss", expected=f"N×{classes}×H×W", found="×".join(str(n) for n in logits.shape)
        )
    if tuple(target.shape) != (logits.shape[0], *logits.shape[2:]):
        raise UsageError(
            "targets do not fit the logits",
            expected="×".join(str(n) for n in (logits.shape[0], *logits.shape[2:])),
            found="×".join(str(n) for n in target.shape),
        )
    if target.is_floating_point():
        raise UsageError("targets are class indices", expected="an integer type", found=str(target.dtype))


def check_values(target: Tensor, classes: int, ignore_index: int) -> None:
    """LabelError where a target is neither a class nor ignored; three cheap passes when all is well."""
    if torch.compiler.is_compiling() or target.numel() == 0:
        return
    low, high = (int(value) for value in torch.where(target == ignore_index, 0, target).aminmax())
    if low >= 0 and high < classes:
        return
    kept = target[target != ignore_index]
    wrong = kept[(kept < 0) | (kept >= classes)]
    if wrong.numel():
        seen = torch.unique(wrong)[:8].tolist()
        raise LabelError(
            "the target holds values that are no class",
            expected=f"0 to {classes - 1} or {ignore_index} (ignored)",
            found=f"{wrong.numel()} pixels with {', '.join(str(v) for v in seen)}",
            fix="check the number of classes and the label map",
        )
