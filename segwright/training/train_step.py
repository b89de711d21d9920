"""One update of the weights: forward, loss, backward, clipping, optimizer, averages; and which precision it runs in.

Small on purpose: the loop, the memory probe and the benchmarks all take their steps here, so that what is measured is
what trains. On a CPU the same seed and number of threads give the same bits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from segwright import kernels
from segwright.core.errors import NonFiniteLossError, UsageError
from segwright.core.types import Batch
from segwright.losses.pixels import SegmentationLoss
from segwright.models.base import SegmentationModel
from segwright.training.distributed.dtensors import whole
from segwright.training.distributed.world import World, is_sharded
from segwright.training.planning.cpu import has_native_bf16

Criterion = Callable[[Tensor, Tensor], Tensor]
DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
# bf16 has to win by this much: within it, fp32's exactness is the better bargain. The choice must not hang on chance,
# since equal seeds are to give equal weights: a short step says nothing, and others are timed twice.
_WORTHWHILE = 0.85
_TOO_SHORT, _LONG = 0.05, 2.0  # seconds of a step


class Average(Protocol):
    """Averaged weights that follow the model."""

    def update(self, share: float) -> None: ...


@dataclass(frozen=True)
class Taken:
    """What an update gave."""

    loss: float  # of the whole batch, before the update
    main_loss: float  # of it, that of the output without the auxiliary heads
    signals: tuple[float, ...] = ()  # summed over the processes


class TrainStep:
    """Takes updates of ``model``; call it with the batches of one update.

    ``criterion``: (logits N×K×H×W, target N×H×W) → scalar, also for the auxiliary heads, times ``aux_weight``.
    ``precision``: fp32, bf16 or fp16 (with loss scaling). ``clip``: largest norm of the gradient. ``forward``: what is
    called instead of ``model`` (DDP around it, or compiled). ``world``: the processes that take the update together;
    ``seed``: of what an update draws. The model is moved to ``device`` in channels-last memory:
    images arrive as N×H×W×C and stay so from the first convolution to the loss.
    """

    def __init__(
        self,
        model: SegmentationModel,
        criterion: Criterion,
        optimizer: torch.optim.Optimizer,
        *,
        device: torch.device | str = "cpu",
        precision: str = "fp32",
        clip: float | None = None,
        aux_weight: float = 0.4,
        average: Average | None = None,
        forward: Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]] | None = None,
        world: World | None = None,
        seed: int = 0,
    ) -> None:
        if precision not in DTYPES:
            raise UsageError("unknown precision", expected=", ".join(DTYPES), found=precision)
        self.device = torch.device(device)
        # A network in shards lies as its shards need it.
        self.model = model if is_sharded(model) else model.to(device=self.device).to(memory_format=torch.channels_last)
        if self.device.type == "cpu" and precision != "fp16" and not is_sharded(model):
            kernels.patch(self.model)
        self.forward = model if forward is None else forward
        self.criterion, self.optimizer = criterion, optimizer
        self.dtype = DTYPES[precision]
        self.clip, self.aux_weight, self.average = clip, aux_weight, average
        self.world, self.seed = world or World(), seed
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.frozen: Sequence[nn.Parameter] = ()  # their gradients are dropped
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")

    def __call__(self, batches: Sequence[Batch], *, share: float = 0.0, index: int = 0) -> float:
        """As :meth:`take`; returns the loss."""
        return self.take(batches, share=share, index=index).loss

    def take(
        self, batches: Sequence[Batch], *, share: float = 0.0, index: int = 0, signals: Sequence[float] = ()
    ) -> Taken:
        """One update from the gradient of the whole batch, of which ``batches`` are this process's parts.

        Every part's loss is weighted by what the mean of the whole is over (:meth:`SegmentationLoss.amounts`), summed
        over parts and processes, so that one process, many parts and many processes take the same update. Terms that
        do not decompose, and batch norms, see one part at a time.

        ``share``: how much of the run is done, for the averages. ``index``: the number of the update, from which the
        pixels of coarser logits and the dropout of further processes are drawn. ``signals`` come back summed over the
        processes, in the same collective. Raises NonFiniteLossError, with the ids of the batches, on every process and
        before the weights are touched, where the loss or the gradient is not finite.
        """
        if self.world.rank:  # the first process's generator is saved with every checkpoint; the others' is a function
            torch.manual_seed(int(np.random.SeedSequence((self.seed, self.world.rank, index)).generate_state(1)[0]))
        pick = (self.seed, index)
        reduced = torch.zeros(0)
        if len(batches) == 1 and self.world.size == 1:
            losses, told = self._gradients(*self._on_device(batches[0]), pick), list(signals)
        else:
            losses, reduced = self._whole_batch(batches, pick, signals)
        norm = self._clipped()
        values = torch.cat([losses.double(), norm.to(losses.device).double()[None], reduced.to(losses.device)])
        mean, main, length, *summed = values.tolist()  # the one place where the host waits for the device
        if len(batches) > 1 or self.world.size > 1:
            told = summed
        # With loss scaling a gradient that is not finite is usual: the step is left out and the scale falls.
        if not math.isfinite(mean) or not (math.isfinite(length) or self.scaler.is_enabled()):
            self.optimizer.zero_grad(set_to_none=True)
            what = "the loss is not finite" if not math.isfinite(mean) else "the gradient is not finite"
            raise NonFiniteLossError(
                what,
                expected="a finite number",
                found=f"a loss of {mean:.6g}, a gradient of norm {length:.6g}",
                where=", ".join(name for batch in batches for name in batch.ids),
                fix="lower the learning rate, or look at these images with `segwright check`",
            )
        self._apply(share)
        return Taken(mean, main, tuple(told))

    def backward(self, batch: Batch) -> Tensor:
        """Add the gradients of one batch by itself; returns its loss, on the device."""
        return self._gradients(*self._on_device(batch), (self.seed, 0))[0]

    def gradients(self, images: Tensor, masks: Tensor) -> Tensor:
        """As :meth:`backward`, of images (N, H, W, C) and masks int64 (N, H, W) that are on the device."""
        return self._gradients(images, masks, (self.seed, 0))[0]

    def update(self, share: float = 0.0) -> None:
        """Clip, step, clear the gradients, update the averages; nothing is checked."""
        self._clipped()
        self._apply(share)

    # -- the parts of an update ------------------------------------------------------------------------------------

    def _on_device(self, batch: Batch) -> tuple[Tensor, Tensor]:
        images = torch.from_numpy(batch.images).to(self.device, non_blocking=True)
        return images, torch.from_numpy(batch.masks).to(self.device, non_blocking=True).long()

    def _heads(self, images: Tensor) -> list[tuple[float, Tensor]]:
        """(weight, logits) of the output and of the auxiliary heads."""
        with torch.autocast(self.device.type, self.dtype or torch.bfloat16, enabled=self.dtype is not None):
            logits, aux = self.forward(images)
        return [(1.0, logits), *((self.aux_weight, head) for head in aux.values())]

    def _gradients(self, images: Tensor, masks: Tensor, pick: tuple[int, int]) -> Tensor:
        """Add the gradients of one batch that is the whole; returns its loss, and that of the output alone, (2,)."""
        (_, logits), *aux = self._heads(images)
        loss = main = self.criterion(*matching_pixels(logits, masks, pick))
        for weight, head in aux:
            loss = loss + weight * self.criterion(*matching_pixels(head, masks, pick))
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        return torch.stack([loss.detach(), main.detach()])

    def _whole_batch(
        self, batches: Sequence[Batch], pick: tuple[int, int], signals: Sequence[float]
    ) -> tuple[Tensor, Tensor]:
        """Add the gradients of one batch in parts and over the processes; returns its losses, as :meth:`_gradients`,
        and the summed signals.

        One collective an update, two where a process has several parts: amounts, loss and signals together.
        """
        losses = summed = torch.zeros(2, dtype=torch.float64)
        amounts: list[Tensor] = []
        total = torch.zeros(0)
        for number, batch in enumerate(batches):
            with self._unsynchronized(number + 1 < len(batches)):
                images, masks = self._on_device(batch)
                heads = self._heads(images)
                values = torch.stack(
                    [w * self._values(*matching_pixels(logits, masks, pick)) for w, logits in heads]
                )  # (heads, terms)
                if not amounts:
                    shapes = [logits for _, logits in heads]
                    amounts = [self._amounts(shapes, torch.from_numpy(part.masks), pick) for part in batches]
                    first = (values.detach().double() * amounts[0].to(values.device)).flatten()
                    packed = [torch.stack(amounts).sum(0).flatten(), first, torch.tensor(signals, dtype=torch.float64)]
                    reduced = self.world.total(torch.cat([part.to(values.device) for part in packed]))
                    total, numerators, summed = torch.split(reduced, [first.numel(), first.numel(), len(signals)])
                    # With one part a process, these are the losses already.
                    means = (numerators * _inverse(total)).reshape(values.shape)
                    losses = torch.stack([means.sum(), means[0].sum()])
                shares = amounts[number].to(values.device) * _inverse(total).reshape(values.shape)
                weighted = values * shares.to(values.dtype)
                part_loss = weighted.sum()
                if len(batches) > 1:
                    found = torch.stack([part_loss, weighted[0].sum()]).detach().double()
                    losses = found if number == 0 else losses + found
                # DDP and shards take the mean of the processes' gradients; this makes the sum of it.
                self.scaler.scale(part_loss * self.world.size).backward()  # type: ignore[no-untyped-call]
        if len(batches) > 1:
            losses = self.world.total(losses)
        return losses, summed

    def _values(self, logits: Tensor, target: Tensor) -> Tensor:
        """(terms,): the weighted terms of the loss; any other criterion is one term."""
        criterion = self.criterion
        if isinstance(criterion, SegmentationLoss):
            return criterion.values(logits, target)
        return criterion(logits, target)[None]

    def _amounts(self, heads: Sequence[Tensor], masks: Tensor, pick: tuple[int, int]) -> Tensor:
        """(heads, terms) fp64 on the CPU: what the mean of each term is over in masks (N, H, W) of one part."""
        criterion = self.criterion
        if not isinstance(criterion, SegmentationLoss):
            return torch.full((len(heads), 1), float(len(masks)), dtype=torch.float64)
        targets = [matching_pixels(head, masks, pick)[1] for head in heads]
        found = [criterion.amounts(targets[0])]
        for target in targets[1:]:
            found.append(found[0] if target.shape == targets[0].shape else criterion.amounts(target))
        return torch.stack(found)

    def _unsynchronized(self, more: bool) -> AbstractContextManager[Any]:
        """While ``more`` parts follow, DDP's reduction waits for the last; shards reduce each, to hold no whole one."""
        forward: Any = self.forward
        wait = more and isinstance(forward, nn.parallel.DistributedDataParallel)
        found: AbstractContextManager[Any] = forward.no_sync() if wait else nullcontext()
        return found

    def _clipped(self) -> Tensor:
        """Drop the gradients of what is frozen, and clip; returns the norm before, a scalar on the device."""
        for parameter in self.frozen:
            parameter.grad = None
        self.scaler.unscale_(self.optimizer)
        limit = math.inf if self.clip is None else self.clip
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if not gradients:
            return torch.zeros(())
        norm = nn.utils.get_total_norm(gradients, foreach=True)
        norm = whole(norm)
        if self.clip is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, limit, norm, foreach=True)
        return norm.detach()

    def _apply(self, share: float) -> None:
        """Step, clear the gradients, update the averages."""
        self.scaler.step(self.optimizer)
        self.scaler.update()
        # Freed, not zeroed: the next backward then writes gradients instead of adding to zeros.
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(share)


def _inverse(total: Tensor) -> Tensor:
    """1 / total, and 0 where nothing counts."""
    return torch.where(total > 0, 1 / total.clamp_min(1e-300), 0)


def matching_pixels(logits: Tensor, masks: Tensor, pick: tuple[int, int] = (0, 0)) -> tuple[Tensor, Tensor]:
    """Logits (N, K, h, w) at a coarser stride than the masks (N, H, W), and the targets they answer for.

    One pixel of every stride × stride is the target; which, is drawn from ``pick``, (seed, number of the update), so
    that over a run every pixel is one, and all parts of a batch and all processes take the same. Rows and columns of
    logits that padding added are cut off. Both as they are where the sizes agree.
    """
    if logits.shape[-2:] == masks.shape[-2:]:
        return logits, masks
    stride = max(-(-masks.shape[axis] // logits.shape[axis]) for axis in (-1, -2))
    stride = 1 << (stride - 1).bit_length()  # 9 pixels are 2 logits at stride 8, as at 5
    row, column = (int(n) % stride for n in np.random.SeedSequence(pick).generate_state(2))
    picked = masks[:, row::stride, column::stride][:, : logits.shape[-2], : logits.shape[-1]]
    return logits[..., : picked.shape[-2], : picked.shape[-1]], picked


def choose_precision(device: torch.device | str, probe: Callable[[str], float] | None = None) -> tuple[str, str]:
    """(fp32, bf16 or fp16, the reason) for training on ``device``.

    On a CPU bf16 is taken only where the CPU multiplies it natively **and** a timed step is faster with it:
    ``probe(precision)`` returns the seconds of a step (:func:`seconds_per_step`). Without a probe a CPU gets fp32.
    """
    device = torch.device(device)
    if device.type == "cuda":
        if torch.cuda.get_device_capability(device)[0] >= 8:
            return "bf16", "the GPU computes bf16 natively"
        return "fp16", "the GPU has no native bf16"
    if device.type != "cpu":
        return "fp32", f"nothing faster is proven on {device.type}"
    if not has_native_bf16():
        return "fp32", "the CPU has no native bf16"
    if probe is None:
        return "fp32", "no step was timed"
    full = probe("fp32")
    if full < _TOO_SHORT:
        return "fp32", f"a step takes {full:.2f} s: there is little to gain"
    half = probe("bf16")
    if full < _LONG:
        full, half = min(full, probe("fp32")), min(half, probe("bf16"))
    if half < full * _WORTHWHILE:
        return "bf16", f"a step takes {half:.2f} s in bf16, {full:.2f} s in fp32"
    return "fp32", f"a step takes {full:.2f} s in fp32, {half:.2f} s in bf16: no gain"


def seconds_per_step(step: Callable[[], object], *, repeats: int = 3, warmup: int = 1) -> float:
    """The fastest of ``repeats`` calls of ``step`` after ``warmup`` more: noise only ever adds time."""
    best = math.inf
    for call in range(warmup + repeats):
        started = time.perf_counter()
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if call >= warmup:
            best = min(best, time.perf_counter() - started)
    return best
