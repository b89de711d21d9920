"""The loss of an update on pseudo-labels, normalized over the unlabeled pixels of all its parts and processes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segwright.training.distributed.world import World
from segwright.training.self_training import PseudoLabels, UnlabeledResult
from segwright.training.targets import inverse, subsample_targets


class PseudoLoss:
    """Of every head: Σ over accepted pixels of weight · cross-entropy / Σ over unlabeled pixels of weight.

    Sums are over the update's micro-batches and processes; a pixel's weight is the class weight of its pseudo-label.
    One collective for the normalizers and the teacher's statistics, one for the loss.
    """

    def __init__(self, labels: PseudoLabels, world: World, offset_seed: tuple[int, int]) -> None:
        self.labels, self.world, self.offset_seed = labels, world, offset_seed
        self.loss = torch.zeros((), dtype=torch.float64)  # of this process's parts so far, before its weight

    def micro_batch(self, number: int, heads: Sequence[tuple[float, Tensor]]) -> Tensor:
        """The scalar to run backward: the share of part ``number`` in the weighted loss of the whole."""
        part, criterion = self.labels.parts[number], self.labels.criterion
        if number == 0:
            self._normalize([logits for _, logits in heads])
        terms = []
        for head, (weight, logits) in enumerate(heads):
            logits, targets = subsample_targets(logits, part.targets, self.offset_seed)
            share = criterion.amount(targets) * inverse(self.totals[head]).to(targets.device)
            terms.append(weight * share.to(logits.device, torch.float32) * criterion(logits, targets))
        loss = torch.stack(terms).sum()
        self.loss = self.loss.to(loss.device) + loss.detach().double()
        return loss * self.labels.weight * self.world.size  # DDP averages over the processes; this makes it the sum

    def result(self) -> UnlabeledResult:
        """Over all processes; the host waits for the device."""
        loss = float(self.world.total(self.loss.clone()))
        counts = self.counts.cpu().numpy()
        seen, accepted = (float(counts[:, column].sum()) for column in (-2, -1))
        return UnlabeledResult(loss, self.labels.weight, accepted / seen if seen else float("nan"), counts)

    def _normalize(self, heads: Sequence[Tensor]) -> None:
        """Sum the weights of unlabeled pixels and the teacher's statistics over parts and processes."""
        criterion = self.labels.criterion
        amounts = [
            torch.stack(
                [
                    criterion.amount(subsample_targets(logits, part.candidates, self.offset_seed)[1])
                    for part in self.labels.parts
                ]
            ).sum()
            for logits in heads  # of the first part: only their stride matters here
        ]
        counts = self.labels.counts.double()
        packed = torch.cat([torch.stack(amounts).double().to(counts.device), counts.flatten()])
        total = self.world.total(packed)
        self.totals, self.counts = total[: len(heads)], total[len(heads) :].reshape(counts.shape)
