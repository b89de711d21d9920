"""One update of the weights: forward, loss, backward, clipping, optimizer, averages; and which precision it runs in.

Small on purpose: the loop, the memory probe and the benchmarks all take their steps here, so that what is measured is
what trains. On a CPU the same seed and number of threads give the same bits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from segwright.errors import NonFiniteLossError, UsageError
from segwright.models.quicken import quicken
from segwright.models.segmenter import SegmentationModel
from segwright.training.cpu import has_native_bf16
from segwright.training.distributed import is_sharded
from segwright.types import Batch

Criterion = Callable[[Tensor, Tensor], Tensor]
DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
# bf16 has to win by this much: within it, fp32's exactness is the better bargain. The choice must not hang on chance,
# since equal seeds are to give equal weights: a short step says nothing, and others are timed twice.
_WORTHWHILE = 0.85
_TOO_SHORT, _LONG = 0.05, 2.0  # seconds of a step


class Average(Protocol):
    """Averaged weights that follow the model."""

    def update(self, share: float) -> None: ...


class TrainStep:
    """Takes updates of ``model``; call it with the batches of one update.

    ``criterion``: (logits N×K×H×W, target N×H×W) → scalar, also for the auxiliary heads, times ``aux_weight``.
    ``precision``: fp32, bf16 or fp16 (with loss scaling). ``clip``: largest norm of the gradient. ``forward``: what is
    called instead of ``model`` (DDP around it, or compiled). The model is moved to ``device`` in channels-last memory:
    pictures arrive as N×H×W×C and stay so from the first convolution to the loss.
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
    ) -> None:
        if precision not in DTYPES:
            raise UsageError("unknown precision", expected=", ".join(DTYPES), found=precision)
        self.device = torch.device(device)
        # A network in shards lies as its shards need it.
        self.model = model if is_sharded(model) else model.to(device=self.device).to(memory_format=torch.channels_last)
        if self.device.type == "cpu" and precision != "fp16" and not is_sharded(model):
            quicken(self.model)
        self.forward = model if forward is None else forward
        self.criterion, self.optimizer = criterion, optimizer
        self.dtype = DTYPES[precision]
        self.clip, self.aux_weight, self.average = clip, aux_weight, average
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.frozen: Sequence[nn.Parameter] = ()  # their gradients are dropped
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")

    def __call__(self, batches: Sequence[Batch], *, share: float = 0.0) -> float:
        """One update from the gradients of ``batches``, equally weighted; returns their mean loss.

        ``share``: how much of the run is done, for the averages. Raises NonFiniteLossError, with the ids of the batch,
        before the weights are touched.
        """
        total = 0.0
        for batch in batches:
            loss = self.backward(batch, len(batches))
            if not math.isfinite(loss):
                self.optimizer.zero_grad(set_to_none=True)
                raise NonFiniteLossError(
                    "the loss is not finite",
                    expected="a finite number",
                    found=str(loss),
                    where=", ".join(batch.ids),
                    fix="lower the learning rate, or look at these pictures with `segwright check`",
                )
            total += loss / len(batches)
        self.update(share)
        return total

    def backward(self, batch: Batch, parts: int = 1) -> float:
        """Add the gradients of one batch, divided by ``parts``; returns its loss."""
        images = torch.from_numpy(batch.images).to(self.device, non_blocking=True)
        masks = torch.from_numpy(batch.masks).to(self.device, non_blocking=True).long()
        return self.gradients(images, masks, parts)

    def gradients(self, images: Tensor, masks: Tensor, parts: int = 1) -> float:
        """As :meth:`backward`, of pictures (N, H, W, C) and masks int64 (N, H, W) that are on the device."""
        with torch.autocast(self.device.type, self.dtype or torch.bfloat16, enabled=self.dtype is not None):
            logits, aux = self.forward(images)
        loss = self.criterion(*matching_pixels(logits, masks))
        for head in aux.values():
            loss = loss + self.aux_weight * self.criterion(*matching_pixels(head, masks))
        self.scaler.scale(loss / parts if parts > 1 else loss).backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def update(self, share: float = 0.0) -> None:
        """Clip, step, clear the gradients, update the averages."""
        for parameter in self.frozen:
            parameter.grad = None
        if self.clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.parameters, self.clip, foreach=True)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        # Freed, not zeroed: the next backward then writes gradients instead of adding to zeros.
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(share)


def matching_pixels(logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (N, K, h, w) at a coarser stride than the masks (N, H, W), and the targets they answer for.

    One pixel of every stride × stride is the target; which, is drawn anew each time, so that over a run every pixel is
    one. Rows and columns of logits that padding added are cut off. Both as they are where the sizes agree.
    """
    if logits.shape[-2:] == masks.shape[-2:]:
        return logits, masks
    stride = max(-(-masks.shape[axis] // logits.shape[axis]) for axis in (-1, -2))
    stride = 1 << (stride - 1).bit_length()  # 9 pixels are 2 logits at stride 8, as at 5
    row, column = (int(n) for n in torch.randint(stride, (2,)))  # the CPU's generator: saved with every checkpoint
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
