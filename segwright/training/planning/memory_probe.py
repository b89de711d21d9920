"""Measure, before the first epoch, the memory that a training step and a validation take, and what fits.

On a GPU both are tried as they are: two steps (the second finds the optimizer's state in place) and the largest
validation image. A batch that does not fit is split and tried again; nothing worse than an error can happen there.

On a CPU, running out of memory is not an error: the system kills the process. So two images at a sixteenth of their
area are measured first, then at a quarter, then at full size, each only if the one before predicts that it fits. The
whole batch is predicted from them, since activations grow with the images while weights, gradients and the
optimizer's state do not. Only a prediction close to the available memory is checked by a step of the whole batch.

Measuring leaves no trace: weights, batch-norm statistics, optimizer and random generators are restored. The result is
returned; the trainer applies it.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from segwright import kernels
from segwright.core.counted import counted
from segwright.core.errors import ModelError, OutOfMemoryError
from segwright.core.types import Batch, Sample
from segwright.models.base import SegmentationModel
from segwright.training.config import Phase, Size
from segwright.training.distributed.dtensors import local_tensor
from segwright.training.distributed.world import World
from segwright.training.freezing import is_frozen_throughout
from segwright.training.optim.optimizers import set_learning_rate
from segwright.training.planning.memory import available_bytes, gib, give_back_freed, is_out_of_memory, peak_of
from segwright.training.state import request_micro_batches
from segwright.training.train_step import Criterion, TrainStep
from segwright.training.validate import Limits, Validator

TRUST_BELOW = 0.5  # of what is available: a prediction below it is trusted, one above it is tried
USABLE_FRACTION = 0.9  # of what is available: other programs run on the machine as well
REFUSE_ABOVE = 1.5  # times what is available that one image is predicted to take: refused at once
AREA_FRACTIONS = (1 / 16, 1 / 4, 1.0)  # of the crop, measured one after another on a CPU
MAX_SECONDS_PER_TRIAL = 2.0  # of the next area; slower steps are predicted from smaller images if those leave no doubt
VALIDATION_SAMPLE = 240_000  # pixels of a validation image that are measured on a CPU
SMALLEST_WINDOW = 256


@dataclass(frozen=True)
class MemoryEstimate:
    """The memory that a training step or a validation takes."""

    size: Size  # height and width of an image
    images: int  # at once
    micro_batches: int  # into which a batch is split; 1 for a validation
    peak_bytes: int
    how: str  # "tried", "predicted from 2 images", …
    window: int | None = None  # of a validation in windows

    def to_json(self) -> dict[str, Any]:
        tree = asdict(self)
        return {"parts" if key == "micro_batches" else key: value for key, value in tree.items()}


@dataclass(frozen=True)
class MemoryReport:
    """What was measured, and the limits that follow from it."""

    device: str
    available_bytes: int  # for one process
    images_bytes: int  # of decoded training images that may stay in memory
    training: MemoryEstimate
    validation: MemoryEstimate | None
    validation_limits: Limits | None
    seconds: float  # that measuring took

    def to_json(self) -> dict[str, Any]:
        return {
            "device": self.device,
            "available_bytes": self.available_bytes,
            "images_bytes": self.images_bytes,
            "training": self.training.to_json(),
            "validation": None if self.validation is None else self.validation.to_json(),
            "seconds": self.seconds,
        }

    def sentence(self) -> str:
        """One line for people."""
        step, validation = self.training, self.validation
        parts = f", every batch in {step.micro_batches} parts, its effective size stays"
        a_step = f"{step.images}×{step.size[0]}×{step.size[1]}"
        text = (
            f"memory: {gib(self.available_bytes)} available; a step of {a_step} "
            f"takes {gib(step.peak_bytes)} ({step.how}){parts if step.micro_batches > 1 else ''}"
        )
        if validation is None:
            return text
        whole = f"{validation.images}×{validation.size[0]}×{validation.size[1]}"
        window = f", in windows of {validation.window}" if validation.window else ""
        return f"{text}; validating {whole} takes {gib(validation.peak_bytes)} ({validation.how}){window}"


@dataclass(frozen=True)
class StepToMeasure:
    """A training step of the phase whose batch has the most pixels."""

    step: TrainStep  # by this process alone (:meth:`TrainStep.alone`)
    phase: Phase
    images: int  # of this process in a batch
    criterion: Criterion
    aux_weight: float
    freeze_bn: bool
    world: World

    @property
    def device(self) -> torch.device:
        return self.step.device


@dataclass(frozen=True)
class ValidationToMeasure:
    """A validation of the largest image."""

    validator: Validator
    scored_model: Callable[[], AbstractContextManager[SegmentationModel]]
    size: Size  # height and width of the largest image


def measure_memory(
    training: StepToMeasure, validation: ValidationToMeasure | None, *, cache_bytes: int
) -> MemoryReport:
    """Try or predict what a step and a validation take. OutOfMemoryError if one image is far from fitting.

    ``cache_bytes``: of decoded training images, at most; they and the validation's get what is left.
    """
    began = time.monotonic()
    device = training.device
    limits = None if validation is None else validation.validator.limits
    with preserved_state(training.step):
        available = _available(device)
        step = _StepMemory(training, available).find()
        found = None
        if validation is not None:
            found, limits = _measure_validation(validation, training.step.model, available)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    else:
        room = max(available - max(step.peak_bytes, found.peak_bytes if found else 0), 0)
        if limits is not None:
            limits = replace(limits, cache_bytes=min(limits.cache_bytes, room // 2))
            room -= limits.cache_bytes
        cache_bytes = min(cache_bytes, room)
    return MemoryReport(str(device), available, cache_bytes, step, found, limits, time.monotonic() - began)


def _available(device: torch.device) -> int:
    """Bytes for one process's work, at least one."""
    give_back_freed()
    # The processes of one machine share its memory; a GPU belongs to one process.
    processes = 1 if device.type == "cuda" else max(int(os.environ.get("LOCAL_WORLD_SIZE", "1") or 1), 1)
    return max(int(available_bytes(device) * USABLE_FRACTION) // processes, 1)


@contextmanager
def preserved_state(step: TrainStep) -> Iterator[None]:
    """Restore weights, statistics, optimizer, modes and random generators after the block, bit for bit."""
    model, device = step.model, step.device
    # On the CPU: a second set of weights on the GPU would be measured as well.
    held = [local_tensor(tensor) for tensor in model.state_dict(keep_vars=True).values()]
    tensors = [(tensor, tensor.detach().to("cpu", copy=True)) for tensor in held]
    modes = [(module, module.training) for module in model.modules()]
    optimizer = copy.deepcopy(step.optimizer.state_dict())
    random, random_gpu = torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, before in tensors:
                tensor.copy_(before)
        for module, training in modes:
            module.training = training
        for parameter in model.parameters():
            parameter.grad = None
        step.optimizer.load_state_dict(optimizer)
        torch.set_rng_state(random)
        if random_gpu is not None:
            torch.cuda.set_rng_state(random_gpu, device)


class _StepMemory:
    """Finds the number of micro-batches with which the largest batch fits on every process."""

    def __init__(self, subject: StepToMeasure, available: int) -> None:
        self.subject, self.available = subject, available
        self.step, self.world = subject.step, subject.world
        self.phase, self.batch, self.device = subject.phase, subject.images, subject.device

    def find(self) -> MemoryEstimate:
        """The least number of micro-batches that fits on every process."""
        model = self.step.model
        model.train()
        for module in model.modules():
            frozen = self.subject.freeze_bn and isinstance(module, nn.modules.batchnorm._BatchNorm)
            if frozen or is_frozen_throughout(module) or isinstance(module, nn.SyncBatchNorm):
                module.eval()
        set_learning_rate(self.step.optimizer, 0.0)
        return self._by_trying() if self.device.type == "cuda" else self._by_predicting()

    # -- on a GPU --------------------------------------------------------------------------------------------------

    def _by_trying(self) -> MemoryEstimate:
        count = 1
        while True:
            images, count = micro_batches(self.batch, count)
            peak = self._try_step(images, self.phase.size, steps=2)
            failed = self.world.any(peak is None)
            if not failed and peak is not None:
                return MemoryEstimate(self.phase.size, images, count, peak, "tried")
            if images == 1:
                raise out_of_memory_error(self.phase, self.device, "tried")
            count += 1

    def _try_step(self, images: int, size: Size, steps: int = 1) -> int | None:
        """Peak bytes of a step, with what it leaves behind; None if memory runs out."""
        batch = dummy_batch(images, size, self.step.model)
        try:
            return peak_of(self.device, lambda: self._take(batch, steps))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Outside of the handler: the error's frames hold the tensors.
        self.step.optimizer.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _take(self, batch: Batch, steps: int) -> None:
        subject = self.subject
        with torch.compiler.set_stance("force_eager"):  # compiling for these sizes would take minutes
            for _ in range(steps):
                self.step([batch], 0.0, subject.criterion, subject.aux_weight, check_finite=False)

    # -- on a CPU --------------------------------------------------------------------------------------------------

    def _by_predicting(self) -> MemoryEstimate:
        per_image, fixed, how = self._measure()
        count = 1
        while True:
            images, count = micro_batches(self.batch, count)
            found = MemoryEstimate(self.phase.size, images, count, int(fixed + per_image * images), how)
            too_much = found.peak_bytes > self.available
            if not self.world.any(too_much):
                break
            if images == 1:
                if self.world.any(found.peak_bytes > REFUSE_ABOVE * self.available):
                    raise out_of_memory_error(self.phase, self.device, f"{gib(found.peak_bytes)}, {how}")
                break
            count += 1
        near = TRUST_BELOW * self.available < found.peak_bytes <= self.available
        if self.world.any(near) and not self.world.any(found.peak_bytes > self.available):
            peak = self._try_step(found.images, self.phase.size)
            if peak is not None:
                found = replace(found, peak_bytes=peak + self._optimizer_bytes(), how="tried")
        return found

    def _measure(self) -> tuple[float, float, str]:
        """(bytes per image of the full size, bytes independent of the number of images, how they were found)."""
        height, width = self.phase.size
        few = min(2, self.batch)
        gradients = float(_gradient_bytes(self.step.model))
        per_image, how, per_area = 0.0, "", 0.0  # per_area: seconds of a step at the full area
        for fraction in AREA_FRACTIONS:
            size = (_side(height * fraction**0.5), _side(width * fraction**0.5))
            area = size[0] * size[1] / (height * width)
            too_much = bool(how) and gradients + per_image * area * few > TRUST_BELOW * self.available
            # A small image predicts too much rather than too little, because a network may pad it: it may rule a
            # shortage out, but not prove one.
            whole = gradients + self._optimizer_bytes() + per_image * self.batch
            doubt = self.world.any(whole > TRUST_BELOW * self.available)
            if self.world.any(too_much or (per_area * area > MAX_SECONDS_PER_TRIAL and not doubt)):
                break
            try:
                if not how:  # warm-up: kernels are compiled, the optimizer's state is created
                    self._try_step(few, size)
                compiled = kernels.compiled_count()
                began = time.monotonic()
                peak = self._try_step(few, size)
                if kernels.compiled_count() > compiled:  # the compiler was measured, too
                    began = time.monotonic()
                    peak = self._try_step(few, size)
            except ModelError:  # one cell per channel is too little for a batch norm
                if fraction == AREA_FRACTIONS[-1]:
                    raise
                continue
            if self.world.any(peak is None):
                break
            per_area = (time.monotonic() - began) / area
            per_image = max((peak or 0) - gradients, 0.0) / few / area
            how = f"predicted from {few} image{'s' if few > 1 else ''}"
            how += "" if fraction == AREA_FRACTIONS[-1] else f" of {size[0]}×{size[1]}"
        return per_image, gradients + self._optimizer_bytes(), how or "not known"

    def _optimizer_bytes(self) -> int:
        """The optimizer's state, which exists already when a step is measured."""
        states = self.step.optimizer.state.values()
        return sum(local_tensor(v).nbytes for state in states for v in state.values() if isinstance(v, torch.Tensor))


def micro_batches(count: int, at_least: int) -> tuple[int, int]:
    """(images per micro-batch, micro-batches) of ``count`` images in as few equal ones as ``at_least`` allows."""
    at_least = next(n for n in range(min(at_least, count), count + 1) if count % n == 0)
    return count // at_least, at_least


def _measure_validation(
    subject: ValidationToMeasure, network: SegmentationModel, available: int
) -> tuple[MemoryEstimate, Limits]:
    """What a validation takes, and the limits with which it fits."""
    validator, size = copy.copy(subject.validator), subject.size  # a copy: it lowers its limits when memory runs out
    device = validator.device

    def run(model: SegmentationModel, count: int, height: int, width: int) -> None:
        with torch.inference_mode():
            validator.predicted(model, [_dummy_sample(height, width, network) for _ in range(count)])

    with subject.scored_model() as model:
        model.eval()
        if device.type == "cuda":
            images = validator.limits.images(size)
            peak = peak_of(device, lambda: run(model, images, *size))
            limits = validator.limits
            return MemoryEstimate(size, min(images, limits.images(size)), 1, peak, "tried", limits.window), limits
        zoom = min(1.0, (VALIDATION_SAMPLE / (size[0] * size[1])) ** 0.5)
        small = size if zoom == 1.0 else (_side(size[0] * zoom), _side(size[1] * zoom))
        run(model, 1, *small)
        per_pixel = peak_of(device, lambda: run(model, 1, *small)) / (small[0] * small[1])
    limits = fitting_limits(validator.limits, size, available / max(per_pixel, 1e-9))
    images = limits.images(size)
    at_once = min(size[0], limits.window or size[0]) * min(size[1], limits.window or size[1])
    how = f"predicted from {small[0]}×{small[1]}"
    return MemoryEstimate(size, images, 1, int(per_pixel * images * at_once), how, limits.window), limits


def fitting_limits(limits: Limits, size: Size, pixels: float) -> Limits:
    """Lower ``limits`` to ``pixels`` at a time: to fewer images of ``size``, and below one image to windows."""
    if limits.pixels > pixels:
        limits = replace(limits, pixels=max(int(pixels), 1))
    if size[0] * size[1] > pixels:
        limits = replace(limits, window=max(SMALLEST_WINDOW, int(pixels**0.5) // 32 * 32))
    return limits


def _side(length: float) -> int:
    """A multiple of 32, at least 32: padding would weigh more in a small image."""
    return max(32, round(length / 32) * 32)


def _dummy_sample(height: int, width: int, network: SegmentationModel) -> Sample:
    batch = dummy_batch(1, (height, width), network)
    return Sample("dummy", batch.images[0], batch.masks[0])


def dummy_batch(count: int, size: Size, network: SegmentationModel) -> Batch:
    """``count`` images of random pixels and classes, from a generator of their own."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, *size, network.in_channels), np.uint8)
    masks = rng.integers(0, network.classes, (count, *size), np.uint8)
    return Batch(images, masks, tuple(f"dummy {i}" for i in range(count)))


def _gradient_bytes(model: nn.Module) -> int:
    return sum(local_tensor(p).nbytes for p in model.parameters() if p.requires_grad)


def out_of_memory_error(phase: Phase, device: torch.device, found: str) -> OutOfMemoryError:
    """The error for a crop of which not even one image fits."""
    return OutOfMemoryError(
        "not even one image fits into memory",
        found=f"a crop of {phase.size[0]}×{phase.size[1]} on {device}: {found}",
        fix="a smaller --size, a smaller network, or --device cpu",
    )


def no_room_to_update(device: torch.device) -> OutOfMemoryError:
    """The error of an optimizer that ran out of memory: some weights may have changed already, and others not."""
    return OutOfMemoryError(
        "memory ran out while the weights were being updated",
        expected="room for what the optimizer takes beside them",
        found=str(device),
        fix="close other programs; the last checkpoint is whole: --resume goes on",
    )


def batch_too_large(
    phase: Phase, images: int, count: int, device: torch.device, world: World, checkpoints: Path
) -> OutOfMemoryError:
    """The error of a step that ran out of memory with ``images`` at a time and cannot be split further in this sitting.

    One image cannot be split; with several processes the others are in a collective that this one left, so the job has
    to start again: the next sitting is asked for more micro-batches, in ``checkpoints``.
    """
    size = f"{phase.size[0]}×{phase.size[1]}"
    if images == 1:
        return OutOfMemoryError(
            "not even one image fits into memory",
            found=f"a crop of {size} on {device}",
            fix="a smaller --size, a smaller network, or --device cpu",
        )
    request_micro_batches(checkpoints, 2 * count)
    return OutOfMemoryError(
        f"rank {world.rank} ran out of memory",
        found=f"{counted(images, 'image')} of {size} at a time on {device}",
        fix="--resume goes on with half as many at a time, the batch's effective size stays",
    )
