"""Self-training: pseudo-labels from the averaged weights, for images and pixels without a label.

The teacher is the run's own average of weights (EMA). It labels a view of each unlabeled image whose colors are
unchanged; the network is trained to give the same labels on a view with strong color changes and, by CutMix, with a
part of another image pasted in. A pseudo-label counts if the teacher is confident enough *for its class*: thresholds
follow quantiles of the confidence per class (as in class-balanced self-training, Zou et al. 2018; teacher and views as
in FixMatch, Sohn et al. 2020, and UniMatch, Yang et al. 2023), between a floor and a ceiling. Unlike them, thresholds
come from histograms of whole numbers: they are the same however an update is divided into micro-batches and processes.

The loss is the cross-entropy over accepted pixels divided by *all* unlabeled pixels of the update, accepted or not, by
class weight: few accepted pixels move the weights little.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from segwright.core.errors import UsageError
from segwright.core.types import IGNORE_INDEX, Batch
from segwright.losses.base import SegmentationLoss
from segwright.models.base import SegmentationModel
from segwright.training.config import TrainConfig, UnlabeledConfig

BINS = 128  # of a confidence, 0…1
CANDIDATE = 0  # in the mask of an unlabeled sample: a pixel that may get a pseudo-label
LABELED = 1  # a pixel whose label is known, and trained on elsewhere
SMALLEST_CUT, LARGEST_CUT = 0.1, 0.5  # area of the rectangle that CutMix pastes, as a share of the image
_MIX = 0xC7  # separates the random numbers of mixing from all others


class Thresholds:
    """The confidence from which a pseudo-label counts, per class.

    Of each class, the most confident ``accept`` of its pixels, as far as that lies between ``floor`` and ``ceiling``. A
    class that was not predicted yet has the ceiling.
    """

    def __init__(self, classes: int, config: UnlabeledConfig) -> None:
        self.config = config
        self.histogram = np.zeros((classes, BINS))  # of the teacher's confidence by predicted class, decayed per update

    def values(self) -> npt.NDArray[np.float64]:
        """(K,): the lower edge of the highest bin such that ``accept`` of the class's pixels lie in it or above."""
        config = self.config
        above = np.cumsum(self.histogram[:, ::-1], axis=1)[:, ::-1]  # (K, BINS): in this bin or a higher one
        enough = above >= config.accept * above[:, :1] * (1 - 1e-12)
        edges = (enough.sum(axis=1) - 1) / BINS
        return np.where(above[:, 0] > 0, np.clip(edges, config.floor, config.ceiling), config.ceiling)

    def update(self, counts: npt.NDArray[np.float64]) -> None:
        """Add an update's pixels, (K, BINS)."""
        self.histogram = self.config.momentum * self.histogram + (1 - self.config.momentum) * counts

    def state(self) -> dict[str, Any]:
        return {"histogram": self.histogram.tolist()}

    def load(self, state: Mapping[str, Any]) -> None:
        found = np.asarray(state["histogram"], np.float64)
        if found.shape == self.histogram.shape:
            self.histogram = found


@dataclass(frozen=True)
class PseudoBatch:
    """Unlabeled images of one micro-batch, as the network is trained on them."""

    images: Tensor  # uint8 (N, H, W, C)
    targets: Tensor  # int64 (N, H, W): pseudo-labels that count, else 255
    candidates: Tensor  # int64 (N, H, W): pseudo-labels of all unlabeled pixels, else 255


@dataclass(frozen=True)
class PseudoLabels:
    """The unlabeled part of one update on this process."""

    parts: Sequence[PseudoBatch]
    criterion: SegmentationLoss
    weight: float
    counts: Tensor  # int64 (K, BINS + 1): the teacher's confidence by class; last, how many of the class are accepted
    ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class UnlabeledResult:
    """What an update found on its unlabeled images, over all processes."""

    loss: float  # before its weight
    weight: float
    accepted: float  # share of the unlabeled pixels whose pseudo-labels count, 0…1; NaN without such pixels
    counts: npt.NDArray[np.float64]  # (K, BINS)


class SelfTraining:
    """Makes the pseudo-labels of every update; ``teacher`` is the averaged network in eval mode."""

    def __init__(
        self,
        teacher: SegmentationModel,
        criterion: SegmentationLoss,
        config: UnlabeledConfig,
        *,
        device: torch.device,
        dtype: torch.dtype | None,
        seed: int,
    ) -> None:
        self.teacher, self.criterion, self.config = teacher, criterion, config
        self.device, self.dtype, self.seed = device, dtype, seed
        self.thresholds = Thresholds(criterion.classes, config)

    def weight(self, progress: float) -> float:
        """Of the loss on pseudo-labels at ``progress``, 0…1, of the run: 0, then a linear rise."""
        config = self.config
        if progress < config.start:
            return 0.0
        return config.weight * min((progress - config.start) / config.ramp, 1.0) if config.ramp else config.weight

    @torch.no_grad()
    def pseudo_labels(self, batch: Batch, *, images: int, progress: float, index: int, first: int) -> PseudoLabels:
        """Label ``batch``, this process's unlabeled images of update ``index``, ``images`` at a time.

        ``batch.images``: both views, channels one behind the other (:class:`TwoViews`). ``first``: the place of the
        first image among those of all processes, since the random numbers of mixing belong to places.
        """
        both = torch.as_tensor(batch.images).to(self.device, non_blocking=True)
        weak, strong = both.chunk(2, dim=-1)
        unlabeled = torch.as_tensor(batch.masks).to(self.device, non_blocking=True) == CANDIDATE
        found = [self._confident(part.contiguous()) for part in torch.split(weak, images)]
        confidence, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
        thresholds = torch.from_numpy(self.thresholds.values()).to(confidence)
        accepted = unlabeled & (confidence >= thresholds[labels])
        counts = self._counts(labels, confidence, unlabeled, accepted)
        candidates = torch.where(unlabeled, labels, IGNORE_INDEX)
        targets = torch.where(accepted, labels, IGNORE_INDEX)
        strong, targets, candidates = self._mixed(strong, targets, candidates, labels, index, first)
        pieces = zip(*(torch.split(one, images) for one in (strong, targets, candidates)), strict=True)
        parts = [PseudoBatch(part.contiguous(), target, candidate) for part, target, candidate in pieces]
        return PseudoLabels(parts, self.criterion, self.weight(progress), counts, batch.ids)

    def _confident(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(N, H, W) fp32: the largest probability of every pixel; and its class, int64."""
        with torch.autocast(self.device.type, self.dtype or torch.bfloat16, enabled=self.dtype is not None):
            logits: Tensor = self.teacher(images).logits
        confidence, labels = logits.float().softmax(dim=1).max(dim=1)
        return confidence, labels

    def _counts(self, labels: Tensor, confidence: Tensor, unlabeled: Tensor, accepted: Tensor) -> Tensor:
        classes = self.criterion.classes
        bins = (confidence * BINS).long().clamp_(0, BINS - 1)
        histogram = torch.bincount((labels * BINS + bins)[unlabeled], minlength=classes * BINS)
        counted = torch.bincount(labels[accepted], minlength=classes)
        return torch.cat([histogram.reshape(classes, BINS), counted[:, None]], dim=1)

    def _mixed(
        self, strong: Tensor, targets: Tensor, candidates: Tensor, labels: Tensor, index: int, first: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Images 2 i and 2 i + 1 with a part of each other, and the targets alike; a last single one stays."""
        if self.config.mix == "none":
            return strong, targets, candidates
        pasted = torch.zeros_like(labels, dtype=torch.bool)
        partner = list(range(len(labels)))
        for place in range(len(labels) // 2 * 2):
            partner[place] = place ^ 1
            rng = np.random.default_rng((_MIX, self.seed, index, first + place))
            pasted[place] = self._region(labels[place ^ 1], rng)
        mixed = torch.where(pasted[..., None], strong[partner], strong)
        return (
            mixed,
            torch.where(pasted, targets[partner], targets),
            torch.where(pasted, candidates[partner], candidates),
        )

    def _region(self, labels: Tensor, rng: np.random.Generator) -> Tensor:
        """(H, W) bool: the part of an image with these ``labels`` that is pasted into its partner."""
        height, width = labels.shape
        if self.config.mix == "classmix":  # half of the classes that it shows; Olsson et al. 2021
            shown = np.unique(labels.cpu().numpy())
            chosen = rng.choice(shown, max(1, len(shown) // 2), replace=False)
            return torch.isin(labels, torch.as_tensor(chosen, device=labels.device))
        area, ratio = rng.uniform(SMALLEST_CUT, LARGEST_CUT), 2.0 ** rng.uniform(-1, 1)
        tall = min(max(round(height * (area * ratio) ** 0.5), 1), height)
        wide = min(max(round(width * (area / ratio) ** 0.5), 1), width)
        top, left = int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1))
        region = torch.zeros_like(labels, dtype=torch.bool)
        region[top : top + tall, left : left + wide] = True
        return region


def refuse_unfit(config: TrainConfig) -> None:
    """UsageError for settings of a resolved ``config`` that self-training cannot be combined with."""
    training = config.training
    if not training.ema:
        raise UsageError(
            "self-training needs averaged weights: they label the unlabeled images",
            expected="a decay, such as training.ema=0.99",
            found="training.ema=none" if training.ema is None else f"training.ema={training.ema}",
            fix="--set training.ema=0.99, or leave --unlabeled out",
        )
    if training.fsdp:
        raise UsageError(
            "self-training and sharding cannot be combined",
            found="training.fsdp=true and unlabeled images",
            fix="leave one of them out",
        )
