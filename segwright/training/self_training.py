"""Self-training: pseudo-labels from the averaged weights, for images and pixels without a label.

The teacher is the run's own average of weights (EMA). It labels a view of each unlabeled image whose colors are
unchanged; the network is trained to give the same labels on a view with strong color changes, into which half of the
classes of a labeled image are pasted with their true labels (Tranheden et al. 2021). A pseudo-label counts if the
teacher is confident enough *for its class*: as confident as it is of that class's labeled pixels that it has right (a
quantile per class, as in class-balanced self-training, Zou et al. 2018; teacher and views as in FixMatch, Sohn et al.
2020, and UniMatch, Yang et al. 2023). The quantiles come from histograms of whole numbers, the same however an update
is divided into micro-batches and processes.

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
LOOK_EVERY = 4  # updates: in each of these the teacher labels the labeled images, too, which costs a twelfth of a step
CANDIDATE = 0  # in the mask of an unlabeled sample: a pixel that may get a pseudo-label
LABELED = 1  # a pixel whose label is known, and trained on elsewhere
SMALLEST_CUT, LARGEST_CUT = 0.1, 0.5  # area of the rectangle that CutMix pastes, as a share of the image
_MIX = 0xC7  # separates the random numbers of mixing from all others


class Thresholds:
    """The confidence from which a pseudo-label counts, per class: as sure as of labeled pixels that it has right.

    Of each class, the threshold is the confidence that ``accept`` of its labeled pixels that are right reach, between
    ``floor`` and ``ceiling``; a class of which none was right yet has the ceiling. Thresholds from the unlabeled images
    themselves would accept the same share of any images, of noise too.
    """

    def __init__(self, classes: int, config: UnlabeledConfig) -> None:
        self.config = config
        self.right = np.zeros((classes, BINS))  # confidence of labeled pixels that the teacher has right, decayed
        self.shares = np.zeros((2, classes))  # pixels by predicted class of labeled and of unlabeled images, decayed

    def values(self) -> npt.NDArray[np.float64]:
        """(K,): the lower edge of the highest bin such that ``accept`` of the class's pixels lie in it or above."""
        config = self.config
        above = np.cumsum(self.right[:, ::-1], axis=1)[:, ::-1]  # (K, BINS): in this bin or a higher one
        enough = above >= config.accept * above[:, :1] * (1 - 1e-12)
        edges = (enough.sum(axis=1) - 1) / BINS
        return np.where(above[:, 0] > 0, np.clip(edges, config.floor, config.ceiling), config.ceiling)

    def shift(self) -> float:
        """How much of the predicted classes would have to move, 0…1, from labeled to unlabeled images; NaN at first."""
        totals = self.shares.sum(axis=1, keepdims=True)
        if not totals.all():
            return float("nan")
        labeled, unlabeled = self.shares / totals
        return float(np.abs(labeled - unlabeled).sum()) / 2

    def looks(self, index: int) -> bool:
        """Whether the teacher labels the labeled images as well in update ``index``."""
        return index % LOOK_EVERY == 0 or not self.right.any()

    def update(self, counts: npt.NDArray[np.float64]) -> None:
        """Add an update's pixels, (K, BINS + 3): see :class:`PseudoLabels`."""
        labeled, momentum = counts[:, BINS], self.config.momentum
        if labeled.any():
            slow = momentum**LOOK_EVERY
            self.right = slow * self.right + (1 - slow) * counts[:, :BINS]
            self.shares[0] = slow * self.shares[0] + (1 - slow) * labeled
        self.shares[1] = momentum * self.shares[1] + (1 - momentum) * counts[:, BINS + 1]

    def state(self) -> dict[str, Any]:
        return {"right": self.right.tolist(), "shares": self.shares.tolist()}

    def load(self, state: Mapping[str, Any]) -> None:
        right, shares = (np.asarray(state[name], np.float64) for name in ("right", "shares"))
        if right.shape == self.right.shape:
            self.right, self.shares = right, shares


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
    # int64 (K, BINS + 3), by the class that the teacher predicts: labeled pixels that it has right, by confidence; all
    # labeled pixels; unlabeled pixels; those of them that are accepted.
    counts: Tensor
    ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class UnlabeledResult:
    """What an update found on its unlabeled images, over all processes."""

    loss: float  # before its weight
    weight: float
    accepted: float  # share of the unlabeled pixels whose pseudo-labels count, 0…1; NaN without such pixels
    counts: npt.NDArray[np.float64]  # (K, BINS + 3), as in PseudoLabels
    shift: float = float("nan")  # of the predicted classes against labeled images, 0…1; see Thresholds


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
        self.mix = "labeled" if config.mix == "auto" else config.mix
        self.thresholds = Thresholds(criterion.classes, config)

    def weight(self, progress: float) -> float:
        """Of the loss on pseudo-labels at ``progress``, 0…1, of the run: 0, then a linear rise."""
        config = self.config
        if progress < config.start:
            return 0.0
        return config.weight * min((progress - config.start) / config.ramp, 1.0) if config.ramp else config.weight

    @torch.no_grad()
    def pseudo_labels(
        self, batch: Batch, labeled: Sequence[Batch], *, progress: float, index: int, first: int
    ) -> PseudoLabels:
        """Label ``batch``, this process's unlabeled images of update ``index``, in parts like those of ``labeled``.

        ``labeled``: the update's labeled images, which thresholds come from. ``batch.images``: both views, channels one
        behind the other (:class:`TwoViews`). ``first``: the place of the first image among those of all processes: the
        random numbers of mixing belong to places.
        """
        both = torch.as_tensor(batch.images).to(self.device, non_blocking=True)
        weak, strong = both.chunk(2, dim=-1)
        unlabeled = torch.as_tensor(batch.masks).to(self.device, non_blocking=True) == CANDIDATE
        count = -(-len(batch) // max(map(len, labeled)))
        found = [self._confident(part.contiguous()) for part in torch.tensor_split(weak, count)]
        confidence, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
        thresholds = torch.from_numpy(self.thresholds.values()).to(confidence)
        accepted = unlabeled & (confidence >= thresholds[labels])
        counts = torch.cat([self._known(labeled, index), self._by_class(labels[unlabeled], labels[accepted])], dim=1)
        candidates = torch.where(unlabeled, labels, IGNORE_INDEX)
        targets = torch.where(accepted, labels, IGNORE_INDEX)
        if self.mix == "labeled":
            strong, targets, candidates = self._with_labeled(strong, targets, candidates, labeled, index, first)
        else:
            strong, targets, candidates = self._mixed(strong, targets, candidates, labels, index, first)
        pieces = zip(*(torch.tensor_split(one, count) for one in (strong, targets, candidates)), strict=True)
        parts = [PseudoBatch(part.contiguous(), target, candidate) for part, target, candidate in pieces]
        return PseudoLabels(parts, self.criterion, self.weight(progress), counts, batch.ids)

    def _confident(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(N, H, W) fp32: the largest probability of every pixel; and its class, int64."""
        with torch.autocast(self.device.type, self.dtype or torch.bfloat16, enabled=self.dtype is not None):
            logits: Tensor = self.teacher(images).logits
        confidence, labels = logits.float().softmax(dim=1).max(dim=1)
        return confidence, labels

    def _known(self, batches: Sequence[Batch], index: int) -> Tensor:
        """(K, BINS + 1) of labeled images: right pixels by confidence, and all pixels; zeros without a look at them."""
        classes = self.criterion.classes
        found = torch.zeros((classes, BINS + 1), dtype=torch.int64, device=self.device)
        for batch in batches if self.thresholds.looks(index) else ():
            truth = torch.as_tensor(batch.masks).to(self.device, non_blocking=True).long()
            confidence, labels = self._confident(torch.as_tensor(batch.images).to(self.device, non_blocking=True))
            bins = (confidence * BINS).long().clamp_(0, BINS - 1)
            right = torch.bincount((labels * BINS + bins)[labels == truth], minlength=classes * BINS)
            everything = torch.bincount(labels[truth != IGNORE_INDEX], minlength=classes)
            found += torch.cat([right.reshape(classes, BINS), everything[:, None]], dim=1)
        return found

    def _by_class(self, *labels: Tensor) -> Tensor:
        """(K, n): how many pixels of each class every one of ``labels`` (P,) has."""
        return torch.stack([torch.bincount(one, minlength=self.criterion.classes) for one in labels], dim=1)

    def _mixed(
        self, strong: Tensor, targets: Tensor, candidates: Tensor, labels: Tensor, index: int, first: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Images 2 i and 2 i + 1 with a part of each other, and the targets alike; a last single one stays."""
        if self.mix == "none":
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

    def _with_labeled(
        self, strong: Tensor, targets: Tensor, candidates: Tensor, labeled: Sequence[Batch], index: int, first: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Every image with half of the classes of a labeled one, and their true labels (Tranheden et al. 2021, DACS).

        Pseudo-labels have few pixels of rare classes, and fewer the more they are trained on: these have them all.
        """
        images, masks = (np.concatenate([getattr(batch, name) for batch in labeled]) for name in ("images", "masks"))
        sources = [place * len(masks) // len(strong) for place in range(len(strong))]
        pasted = np.zeros(masks[sources].shape, bool)
        for place, source in enumerate(sources):
            rng = np.random.default_rng((_MIX, self.seed, index, first + place))
            shown = np.setdiff1d(masks[source], IGNORE_INDEX)
            if len(shown):
                pasted[place] = np.isin(masks[source], rng.choice(shown, -(-len(shown) // 2), replace=False))
        region = torch.from_numpy(pasted).to(self.device)
        truth = torch.from_numpy(masks[sources]).to(self.device).long()
        return (
            torch.where(region[..., None], torch.from_numpy(images[sources]).to(self.device), strong),
            torch.where(region, truth, targets),
            torch.where(region, truth, candidates),
        )

    def _region(self, labels: Tensor, rng: np.random.Generator) -> Tensor:
        """(H, W) bool: the part of an image with these ``labels`` that is pasted into its partner."""
        height, width = labels.shape
        if self.mix == "classmix":  # half of the classes that it shows; Olsson et al. 2021
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
