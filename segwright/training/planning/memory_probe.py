"""Before the first epoch: what a step at the largest planned size and a validation pass will take, and whether it fits.

On a GPU both are tried as they are: two steps (the second finds the optimizer's state in place) and the largest
validation image. What does not fit is halved and tried again; nothing worse than an error can happen there.

On a CPU running out of memory is no error: the system kills the process. So two images at a sixteenth of their area
are measured first, then at a quarter, then at their own size, each only where the one before says that it fits; the
whole batch is predicted from them, since activations grow with the images, and weights, gradients and the
optimizer's state do not. Only where the prediction comes near what there is, the whole step is tried as well.

A probe leaves no trace: weights, batch-norm statistics, optimizer, loss scale and random generators are put back.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from segwright.core.errors import ModelError, OutOfMemoryError
from segwright.core.types import Batch, Sample
from segwright.training.config import Phase, Size
from segwright.training.distributed.dtensors import own
from segwright.training.optim.optimizers import set_learning_rate
from segwright.training.planning.memory import available_bytes, gib, give_back_freed, is_out_of_memory, peak_of
from segwright.training.validate import Validator

if TYPE_CHECKING:
    from segwright.training.trainer import Trainer

AMPLE = 0.5  # of what is available: a prediction below it is believed, one above it is tried
ROOM = 0.9  # of what is available may be used: others live on the machine as well
HOPELESS = 1.5  # times what is available that one image is predicted to take: refused at once
RUNGS = (1 / 16, 1 / 4, 1.0)  # of the area, measured one after another on a CPU
PATIENCE = 2.0  # seconds that the next rung may take; with slower steps smaller images have to tell, if they reassure
VALIDATION_SAMPLE = 240_000  # pixels of a validation image that are measured on a CPU
SMALLEST_WINDOW = 256


@dataclass(frozen=True)
class Need:
    """What one piece of work takes."""

    size: Size  # height and width of an image
    images: int  # at once
    parts: int  # in which a batch is taken; of a validation 1
    peak_bytes: int
    how: str  # "tried", "predicted from 2 images", …
    window: int | None = None  # of a validation in windows


@dataclass(frozen=True)
class MemoryProbe:
    """What was found, and decided."""

    device: str
    available_bytes: int  # for one process
    images_bytes: int  # that may stay decoded beside the work
    training: Need
    validation: Need | None
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def sentence(self) -> str:
        """One line for people."""
        step, validation = self.training, self.validation
        parts = f", every batch in {step.parts} parts, its effective size stays" if step.parts > 1 else ""
        a_step = f"{step.images}×{step.size[0]}×{step.size[1]}"
        text = (
            f"memory: {gib(self.available_bytes)} available; a step of {a_step} "
            f"takes {gib(step.peak_bytes)} ({step.how}){parts}"
        )
        if validation is None:
            return text
        whole = f"{validation.images}×{validation.size[0]}×{validation.size[1]}"
        window = f", in windows of {validation.window}" if validation.window else ""
        return f"{text}; validating {whole} takes {gib(validation.peak_bytes)} ({validation.how}){window}"


def probe_memory(trainer: Trainer, validation_size: Size | None) -> MemoryProbe:
    """Try or predict, and set ``trainer`` to what fits: batches in parts, validation in fewer images or windows.

    Decoded images are kept in what is left. ``validation_size``: of the largest validation image; None: there is
    no validation. OutOfMemoryError where one image is far from fitting.
    """
    began = time.monotonic()
    with untouched(trainer):
        available = _available(trainer.device)
        training = _Step(trainer, available).find()
        trainer.progress.split_batch = max(trainer.progress.split_batch, training.parts)
        validation = None
        if trainer.validator is not None and validation_size is not None:
            validation = _probe_validation(trainer, validation_size, available)
    images = trainer.loader.cache.limit
    if trainer.device.type == "cuda":
        torch.cuda.empty_cache()
    else:
        room = max(available - max(training.peak_bytes, validation.peak_bytes if validation else 0), 0)
        if trainer.validator is not None:
            trainer.validator.kept_bytes = min(trainer.validator.kept_bytes, room // 2)
            room -= trainer.validator.kept_bytes
        images = trainer.loader.cache.limit = min(images, room)
    seconds = time.monotonic() - began
    return MemoryProbe(str(trainer.device), available, images, training, validation, seconds)


def _available(device: torch.device) -> int:
    """Bytes for one process's work, at least one."""
    give_back_freed()
    # The processes of one machine share its memory; a GPU is each one's own.
    processes = 1 if device.type == "cuda" else max(int(os.environ.get("LOCAL_WORLD_SIZE", "1") or 1), 1)
    return max(int(available_bytes(device) * ROOM) // processes, 1)


@contextmanager
def untouched(trainer: Trainer) -> Iterator[None]:
    """Weights, statistics, optimizer, loss scale, modes and random generators come back as they were, to the bit."""
    step, model, device = trainer.take_step, trainer.model, trainer.device
    # On the CPU: a second set of weights on the GPU would be measured as well.
    tensors = [(own(tensor), own(tensor).detach().to("cpu", copy=True)) for tensor in _tensors(model)]
    modes = [(module, module.training) for module in model.modules()]
    optimizer, scaler = copy.deepcopy(step.optimizer.state_dict()), copy.deepcopy(step.scaler.state_dict())
    kept = (step.forward, step.criterion, step.average, step.aux_weight, step.frozen)
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
        if step.scaler.is_enabled():
            step.scaler.load_state_dict(scaler)
        step.forward, step.criterion, step.average, step.aux_weight, step.frozen = kept
        torch.set_rng_state(random)
        if random_gpu is not None:
            torch.cuda.set_rng_state(random_gpu, device)


def _tensors(model: nn.Module) -> list[torch.Tensor]:
    return list(model.state_dict(keep_vars=True).values())


class _Step:
    """Finds out how many parts a batch of the largest phase has to be taken in."""

    def __init__(self, trainer: Trainer, available: int) -> None:
        self.trainer, self.available = trainer, available
        self.phase = max(trainer.phases, key=lambda phase: phase.batch * phase.size[0] * phase.size[1])
        self.batch = max(1, self.phase.batch // trainer.world.size)
        step = trainer.take_step
        step.average = None
        late = self.phase is trainer.phases[-1]
        step.criterion = trainer.parts.late_criterion if late else trainer.parts.criterion
        step.aux_weight, step.frozen = trainer.config.aux_weight, ()
        # Not through DDP: of a collective that one process leaves, for want of memory, the others never return.
        step.forward = trainer.model
        trainer.model.train()
        for module in trainer.model.modules():
            frozen = trainer.config.freeze_bn and isinstance(module, nn.modules.batchnorm._BatchNorm)
            if frozen or isinstance(module, nn.SyncBatchNorm):
                module.eval()
        set_learning_rate(step.optimizer, 0.0)

    def find(self) -> Need:
        """The least number of parts that fits on every process."""
        return self._by_trying() if self.trainer.device.type == "cuda" else self._by_predicting()

    # -- on a GPU --------------------------------------------------------------------------------------------------

    def _by_trying(self) -> Need:
        parts = 1
        while True:
            images, parts = divided(self.batch, parts)
            peak = self._tried(images, self.phase.size, steps=2)
            failed = self.trainer.world.any(peak is None)
            if not failed and peak is not None:
                return Need(self.phase.size, images, parts, peak, "tried")
            if images == 1:
                raise _hopeless(self.phase, self.trainer.device, "tried")
            parts += 1

    def _tried(self, images: int, size: Size, steps: int = 1) -> int | None:
        """Peak bytes of a step, what it leaves behind included; None where memory runs out."""
        batch = _made_up(images, size, self.trainer)
        try:
            return peak_of(self.trainer.device, lambda: self._take(batch, steps))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Outside of the handler: the error's frames hold the tensors.
        self.trainer.optimizer.zero_grad(set_to_none=True)
        if self.trainer.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _take(self, batch: Batch, steps: int) -> None:
        with torch.compiler.set_stance("force_eager"):  # compiling for the probe's sizes would take minutes
            for _ in range(steps):
                self.trainer.take_step.backward(batch)
                self.trainer.take_step.update()

    # -- on a CPU --------------------------------------------------------------------------------------------------

    def _by_predicting(self) -> Need:
        world = self.trainer.world
        per_image, fixed, how = self._measured()
        parts = 1
        while True:
            images, parts = divided(self.batch, parts)
            need = Need(self.phase.size, images, parts, int(fixed + per_image * images), how)
            too_much = need.peak_bytes > self.available
            if not world.any(too_much):
                break
            if images == 1:
                if world.any(need.peak_bytes > HOPELESS * self.available):
                    raise _hopeless(self.phase, self.trainer.device, f"{gib(need.peak_bytes)}, {how}")
                break
            parts += 1
        near = AMPLE * self.available < need.peak_bytes <= self.available
        if world.any(near) and not world.any(need.peak_bytes > self.available):
            peak = self._tried(need.images, self.phase.size)
            if peak is not None:
                need = replace(need, peak_bytes=peak + self._fixed(), how="tried")
        return need

    def _measured(self) -> tuple[float, float, str]:
        """(bytes an image of the full size, bytes whatever the number of images, how that is known)."""
        height, width = self.phase.size
        few = min(2, self.batch)
        gradients = float(_gradient_bytes(self.trainer.model))
        a_image, how, pace = 0.0, "", 0.0
        for rung in RUNGS:
            size = (_side(height * rung**0.5), _side(width * rung**0.5))
            share = size[0] * size[1] / (height * width)
            too_much = bool(how) and gradients + a_image * share * few > AMPLE * self.available
            # A small image tells too much rather than too little: a network may pad it. It may reassure, not alarm.
            whole = gradients + self._fixed() + a_image * self.batch
            doubt = self.trainer.world.any(whole > AMPLE * self.available)
            if self.trainer.world.any(too_much or (pace * share > PATIENCE and not doubt)):
                break
            try:
                if not how:  # what happens once: kernels are built, the optimizer's state is made
                    self._tried(few, size)
                began = time.monotonic()
                peak = self._tried(few, size)
            except ModelError:  # one cell a channel is too little for a batch norm
                if rung == RUNGS[-1]:
                    raise
                continue
            if self.trainer.world.any(peak is None):
                break
            pace = (time.monotonic() - began) / share
            a_image = max((peak or 0) - gradients, 0.0) / few / share
            how = f"predicted from {few} image{'s' if few > 1 else ''}"
            how += "" if rung == RUNGS[-1] else f" of {size[0]}×{size[1]}"
        return a_image, gradients + self._fixed(), how or "not known"

    def _fixed(self) -> int:
        """The optimizer's state, which is there already when a step is measured."""
        states = self.trainer.optimizer.state.values()
        return sum(own(v).nbytes for state in states for v in state.values() if isinstance(v, torch.Tensor))


def divided(count: int, parts: int) -> tuple[int, int]:
    """(images a part, parts) for at least ``parts`` equal parts of a batch of ``count``, as few as can be."""
    parts = next(n for n in range(min(parts, count), count + 1) if count % n == 0)
    return count // parts, parts


def _probe_validation(trainer: Trainer, size: Size, available: int) -> Need:
    """Set the validator to what fits, and say what that is."""
    validator, device = trainer.validator, trainer.device
    assert validator is not None
    images = max(1, validator.pixels // (size[0] * size[1]))

    def run(count: int, height: int, width: int) -> None:
        samples = [_image(height, width, trainer) for _ in range(count)]
        with torch.inference_mode():
            validator.predicted(model, samples)  # it shrinks by itself, and says so, where an allocation fails

    with trainer.scored_model() as model:
        model.eval()
        if device.type == "cuda":
            peak = peak_of(device, lambda: run(images, *size))
            images = max(1, min(images, validator.pixels // (size[0] * size[1])))
            return Need(size, images, 1, peak, "tried", validator.window)
        zoom = min(1.0, (VALIDATION_SAMPLE / (size[0] * size[1])) ** 0.5)
        small = size if zoom == 1.0 else (_side(size[0] * zoom), _side(size[1] * zoom))
        run(1, *small)
        a_pixel = peak_of(device, lambda: run(1, *small)) / (small[0] * small[1])
    fit_validation(validator, size, available / max(a_pixel, 1e-9))
    images = max(1, min(images, validator.pixels // (size[0] * size[1])))
    at_once = min(size[0], validator.window or size[0]) * min(size[1], validator.window or size[1])
    how = f"predicted from {small[0]}×{small[1]}"
    return Need(size, images, 1, int(a_pixel * images * at_once), how, validator.window)


def fit_validation(validator: Validator, size: Size, room: float) -> None:
    """Shrink to ``room`` pixels at a time: fewer images, and below one image windows."""
    a_image = size[0] * size[1]
    if validator.pixels > room:
        validator.pixels = max(int(room), 1)
    if a_image > room:
        validator.window = max(SMALLEST_WINDOW, int(room**0.5) // 32 * 32)


def _side(length: float) -> int:
    """A multiple of 32, at least 32: no padding that counts more in a small image."""
    return max(32, round(length / 32) * 32)


def _image(height: int, width: int, trainer: Trainer) -> Sample:
    batch = _made_up(1, (height, width), trainer)
    return Sample("made up", batch.images[0], batch.masks[0])


def _made_up(count: int, size: Size, trainer: Trainer) -> Batch:
    """Pixels and classes drawn from a generator of their own."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, *size, trainer.model.in_channels), np.uint8)
    masks = rng.integers(0, trainer.model.classes, (count, *size), np.uint8)
    return Batch(images, masks, tuple(f"made up {i}" for i in range(count)))


def _gradient_bytes(model: nn.Module) -> int:
    return sum(own(p).nbytes for p in model.parameters() if p.requires_grad)


def _hopeless(phase: Phase, device: torch.device, found: str) -> OutOfMemoryError:
    return OutOfMemoryError(
        "not even one image fits into memory",
        found=f"a crop of {phase.size[0]}×{phase.size[1]} on {device}: {found}",
        fix="a smaller --size, a smaller network, or --device cpu",
    )
