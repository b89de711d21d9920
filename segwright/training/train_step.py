"""One update of the weights, in order: forward, loss, backward, clipping, optimizer, averages.

The trainer, the memory probe, the timings of the plan and the benchmarks all take their steps through
:class:`TrainStep`, so that what is measured is what trains. On a CPU, the same seed and number of threads give the
same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from segwright import kernels
from segwright.core.errors import NonFiniteLossError, UsageError
from segwright.core.types import Batch
from segwright.losses.base import SegmentationLoss
from segwright.models.base import SegmentationModel
from segwright.training.distributed.dtensors import full_tensor
from segwright.training.distributed.world import World, is_sharded
from segwright.training.optim.norm_statistics import statistics_kept
from segwright.training.pseudo_loss import PseudoLoss
from segwright.training.self_training import PseudoLabels, UnlabeledResult
from segwright.training.targets import inverse, subsample_targets

Criterion = Callable[[Tensor, Tensor], Tensor]  # (logits N×K×H×W, target N×H×W) → scalar
Heads = list[tuple[float, Tensor]]  # (weight, logits) of the output and of the auxiliary heads
DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Average(Protocol):
    """Averaged weights that follow the model."""

    def update(self, progress: float) -> None: ...


@dataclass(frozen=True)
class StepResult:
    """The result of an update."""

    loss: float  # of the whole batch, before the update
    main_loss: float  # the part of it that is the output's, without the auxiliary heads
    signals: tuple[float, ...] = ()  # summed over the processes
    unlabeled: UnlabeledResult | None = None  # of the update's unlabeled images


class TrainStep:
    """Takes updates of ``model``: call it with the micro-batches of one update.

    ``precision``: fp32, bf16 or fp16 (with loss scaling). ``clip``: largest norm of the gradient. ``forward``: called
    instead of ``model`` (DDP around it, or compiled). ``world``: the processes that take the update together.
    ``seed``: of the random draws of an update. ``sparse_labels``: logits at a coarser stride take a labeled pixel if
    there is one (:func:`subsample_targets`). The model is moved to ``device`` in channels-last memory: images arrive
    as N×H×W×C and keep that layout from the first convolution to the loss.
    """

    def __init__(
        self,
        model: SegmentationModel,
        optimizer: torch.optim.Optimizer,
        *,
        device: torch.device | str = "cpu",
        precision: str = "fp32",
        clip: float | None = None,
        average: Average | None = None,
        forward: Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]] | None = None,
        world: World | None = None,
        seed: int = 0,
        sparse_labels: bool = False,
    ) -> None:
        if precision not in DTYPES:
            raise UsageError("unknown precision", expected=", ".join(DTYPES), found=precision)
        self.device = torch.device(device)
        # A sharded network keeps the memory layout of its shards.
        self.model = model if is_sharded(model) else model.to(device=self.device).to(memory_format=torch.channels_last)
        if self.device.type == "cpu" and precision != "fp16" and not is_sharded(model):
            kernels.patch(self.model)
        self.forward = model if forward is None else forward
        self.optimizer, self.average = optimizer, average
        self.precision, self.dtype = precision, DTYPES[precision]
        self.clip = clip
        self.world, self.seed, self.sparse_labels = world or World(), seed, sparse_labels
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")
        self.weights_changing = False  # also after an error in the middle of it: such an update cannot be repeated

    def __call__(
        self,
        batches: Sequence[Batch],
        progress: float,
        criterion: Criterion,
        aux_weight: float,
        *,
        frozen: Sequence[nn.Parameter] = (),
        index: int = 0,
        signals: Sequence[float] = (),
        check_finite: bool = True,
        unlabeled: PseudoLabels | None = None,
    ) -> StepResult:
        """Take one update from the gradient of the whole batch, of which ``batches`` are this process's micro-batches.

        One process, many micro-batches and many processes take the same update, except for loss terms that do not
        decompose and for batch norms, which see one micro-batch at a time (:class:`_WholeBatchLoss`).

        ``progress``: of the run, 0…1, for the averages. ``criterion``: also of the auxiliary heads, times
        ``aux_weight``. ``frozen``: parameters whose gradients are dropped. ``index``: number of the update, which
        seeds its random draws. ``signals``: returned summed over the processes, in the same collective. ``unlabeled``:
        unlabeled images, whose loss is added with a weight and a normalizer of its own.

        NonFiniteLossError with the ids of the images, on every process and before the weights are touched, if the loss
        or the gradient is not finite; ``check_finite=False`` is for measurements on random pixels.
        """
        if self.world.rank:  # rank 0's generator is saved with every checkpoint; the others' depend on the index alone
            torch.manual_seed(int(np.random.SeedSequence((self.seed, self.world.rank, index)).generate_state(1)[0]))
        alone = len(batches) == 1 and self.world.size == 1
        kind = _BatchLoss if alone else _WholeBatchLoss
        pick = partial(subsample_targets, offset_seed=(self.seed, index), labeled_first=self.sparse_labels)
        loss = kind(criterion, batches, self.world, pick, signals)
        pseudo = None if unlabeled is None else PseudoLoss(unlabeled, self.world, (self.seed, index))
        for number, batch in enumerate(batches):
            with self._unsynchronized(number + 1 < len(batches) or pseudo is not None):
                images, masks = self._on_device(batch)
                micro_batch_loss = loss.micro_batch(number, self._heads(images, aux_weight), masks)
                self.scaler.scale(micro_batch_loss).backward()  # type: ignore[no-untyped-call]
        if unlabeled is not None and pseudo is not None:
            for number, part in enumerate(unlabeled.parts):
                more = number + 1 < len(unlabeled.parts)
                with self._unsynchronized(more), statistics_kept(self.model):
                    pseudo_loss = pseudo.micro_batch(number, self._heads(part.images, aux_weight))
                    self.scaler.scale(pseudo_loss).backward()  # type: ignore[no-untyped-call]
        for parameter in frozen:
            parameter.grad = None
        self.scaler.unscale_(self.optimizer)
        norm = self._clip_gradients()
        result, gradient_norm = loss.result(norm)  # the only point at which the host waits for the device
        if pseudo is not None:
            result = replace(result, unlabeled=pseudo.result())
        if check_finite:
            self._refuse_non_finite(result, gradient_norm, [name for batch in batches for name in batch.ids])
        self.weights_changing = True
        self.scaler.step(self.optimizer)
        self.scaler.update()
        # Freed, not zeroed: the next backward pass then writes gradients instead of adding to zeros.
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(progress)
        self.weights_changing = False
        return result

    def alone(self) -> TrainStep:
        """A step of the same network and optimizer by this process alone, without averages: for measurements.

        Not through DDP: if one process leaves a collective for lack of memory, the others never return from it.
        """
        return TrainStep(
            self.model,
            self.optimizer,
            device=self.device,
            precision=self.precision,
            clip=self.clip,
            seed=self.seed,
            sparse_labels=self.sparse_labels,
        )

    def _on_device(self, batch: Batch) -> tuple[Tensor, Tensor]:
        images = torch.as_tensor(batch.images).to(self.device, non_blocking=True)
        return images, torch.as_tensor(batch.masks).to(self.device, non_blocking=True).long()

    def _heads(self, images: Tensor, aux_weight: float) -> Heads:
        with torch.autocast(self.device.type, self.dtype or torch.bfloat16, enabled=self.dtype is not None):
            logits, aux = self.forward(images)
        return [(1.0, logits), *((aux_weight, head) for head in aux.values())]

    def _unsynchronized(self, more: bool) -> AbstractContextManager[Any]:
        """Let DDP reduce with the last micro-batch only. FSDP reduces after each: no rank holds a whole gradient."""
        forward: Any = self.forward
        wait = more and isinstance(forward, nn.parallel.DistributedDataParallel)
        found: AbstractContextManager[Any] = forward.no_sync() if wait else nullcontext()
        return found

    def _clip_gradients(self) -> Tensor:
        """Clip in place; returns the norm before, a scalar on the device."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if not gradients:
            return torch.zeros(())
        norm = full_tensor(nn.utils.get_total_norm(gradients, foreach=True))
        if self.clip is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, self.clip, norm, foreach=True)
        return norm.detach()

    def _refuse_non_finite(self, result: StepResult, gradient_norm: float, names: Sequence[str]) -> None:
        # With loss scaling a non-finite gradient is expected: the step is skipped and the scale falls.
        loss = result.loss + (0.0 if result.unlabeled is None else result.unlabeled.loss)
        if math.isfinite(loss) and (math.isfinite(gradient_norm) or self.scaler.is_enabled()):
            return
        self.optimizer.zero_grad(set_to_none=True)
        what = "the loss is not finite" if not math.isfinite(loss) else "the gradient is not finite"
        raise NonFiniteLossError(
            what,
            expected="a finite number",
            found=f"a loss of {loss:.6g}, a gradient of norm {gradient_norm:.6g}",
            where=", ".join(names),
            fix="lower the learning rate, or look at these images with `segwright check`",
        )


class _BatchLoss:
    """The loss of a batch that one process takes whole: the criterion of the output and of the auxiliary heads."""

    def __init__(
        self,
        criterion: Criterion,
        batches: Sequence[Batch],
        world: World,
        pick: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
        signals: Sequence[float],
    ) -> None:
        self.criterion, self.batches, self.world = criterion, batches, world
        self.pick, self.signals = pick, tuple(signals)
        self.losses = torch.zeros(2)  # of the whole batch, and of the output alone; on the device

    def micro_batch(self, number: int, heads: Heads, masks: Tensor) -> Tensor:
        """The scalar to run backward: the share of micro-batch ``number`` in the loss of the whole batch."""
        (_, logits), *aux = heads
        loss = main = self.criterion(*self.pick(logits, masks))
        for weight, head in aux:
            loss = loss + weight * self.criterion(*self.pick(head, masks))
        self.losses = torch.stack([loss.detach(), main.detach()])
        return loss

    def result(self, norm: Tensor) -> tuple[StepResult, float]:
        """(result of the update, the gradient's norm), read from the device in one transfer."""
        losses = self.losses.double()
        loss, main, length = torch.cat([losses, norm.to(losses.device).double()[None]]).tolist()
        return StepResult(loss, main, self.signals), length


class _WholeBatchLoss(_BatchLoss):
    """The loss of a batch in micro-batches and over processes, normalized by the whole batch.

    The terms of every micro-batch are weighted by the amount that the mean of the whole is taken over
    (:meth:`SegmentationLoss.amounts`: labeled pixels, their class weights, images) and summed over micro-batches and
    processes. One collective per update (amounts, losses and signals together), two with several micro-batches.
    """

    def micro_batch(self, number: int, heads: Heads, masks: Tensor) -> Tensor:
        terms = torch.stack([w * self._values(*self.pick(logits, masks)) for w, logits in heads])  # (heads, terms)
        if number == 0:
            self._normalize([logits for _, logits in heads], terms.detach().double())
        weights = self.amounts[number].to(terms.device) * inverse(self.total).reshape(terms.shape)
        weighted = terms * weights.to(terms.dtype)
        loss = weighted.sum()
        if len(self.batches) > 1:
            found = torch.stack([loss, weighted[0].sum()]).detach().double()
            self.losses = found if number == 0 else self.losses + found
        return loss * self.world.size  # DDP and FSDP average the processes' gradients; this makes the sum of it

    def result(self, norm: Tensor) -> tuple[StepResult, float]:
        losses = self.world.total(self.losses) if len(self.batches) > 1 else self.losses
        values = torch.cat([losses.double(), norm.to(losses.device).double()[None], self.summed.to(losses.device)])
        loss, main, length, *signals = values.tolist()
        return StepResult(loss, main, tuple(signals)), length

    def _normalize(self, heads: Sequence[Tensor], values: Tensor) -> None:
        """Sum the amounts over micro-batches and processes, with the losses of the first and the signals."""
        self.amounts = [self._amounts(heads, torch.from_numpy(batch.masks)) for batch in self.batches]
        first = (values * self.amounts[0].to(values.device)).flatten()
        packed = [torch.stack(self.amounts).sum(0).flatten(), first, torch.tensor(self.signals, dtype=torch.float64)]
        reduced = self.world.total(torch.cat([part.to(values.device) for part in packed]))
        self.total, numerators, self.summed = torch.split(reduced, [first.numel(), first.numel(), len(self.signals)])
        # With one micro-batch per process, these are the losses already.
        means = (numerators * inverse(self.total)).reshape(values.shape)
        self.losses = torch.stack([means.sum(), means[0].sum()])

    def _values(self, logits: Tensor, target: Tensor) -> Tensor:
        """(terms,): the weighted terms of the loss; any other criterion is one term."""
        if isinstance(self.criterion, SegmentationLoss):
            return self.criterion.values(logits, target)
        return self.criterion(logits, target)[None]

    def _amounts(self, heads: Sequence[Tensor], masks: Tensor) -> Tensor:
        """(heads, terms) fp64 on the CPU: the amount that each term's mean over masks (N, H, W) is taken over."""
        criterion = self.criterion
        if not isinstance(criterion, SegmentationLoss):
            return torch.full((len(heads), 1), float(len(masks)), dtype=torch.float64)
        targets = [self.pick(head, masks)[1] for head in heads]
        found = [criterion.amounts(targets[0])]
        for target in targets[1:]:
            found.append(found[0] if target.shape == targets[0].shape else criterion.amounts(target))
        return torch.stack(found)
