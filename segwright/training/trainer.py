"""The training loop: :meth:`Trainer.fit` runs epochs, an epoch runs updates, and validations keep the best model.

Everything that decides an update is a function of the saved :class:`Progress` (epoch, position in it, step) and of the
configuration, so a run that continues from a checkpoint takes the same updates as one that was never stopped. The
schedule follows the progress 0…1 of the run: by samples if epochs are given, by the clock if minutes are. The trainer
alone writes its state; what touches a weight is :class:`segwright.training.train_step.TrainStep`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import torch

from segwright.core.errors import NonFiniteLossError
from segwright.core.types import Batch
from segwright.data.loading.loader import Loader
from segwright.training.callbacks.diagnostics import DataTimer, explain_non_finite
from segwright.training.callbacks.recorder import Recorder
from segwright.training.callbacks.signals import StopRequest, stop_requests
from segwright.training.clock import RunClock
from segwright.training.components import FitResult, TrainerComponents
from segwright.training.config import Phase, Size
from segwright.training.distributed.decomposition import batch_norm_scope, describe_decomposition
from segwright.training.distributed.world import parallelize
from segwright.training.freezing import Freezing
from segwright.training.networks import prepare_networks
from segwright.training.optim.norm_statistics import measure_average, measures_statistics
from segwright.training.optim.optimizers import create_optimizer, set_learning_rate
from segwright.training.optim.schedule import Plateau, learning_rate_factor
from segwright.training.planning import memory_probe
from segwright.training.planning.memory import is_out_of_memory
from segwright.training.self_training import PseudoLabels, SelfTraining, refuse_unfit
from segwright.training.state import Progress, TrainState, restore_state, save_state
from segwright.training.train_step import Criterion, TrainStep
from segwright.training.unlabeled import UnlabeledStream
from segwright.training.validate import Validation, Validator


class Trainer:
    """Trains ``components.model``."""

    def __init__(self, components: TrainerComponents) -> None:
        self.components = components
        self.config, self.phases = components.config.training, list(components.config.training.phases)
        self.device, self.world = device, world = components.device, components.world
        self.networks = prepare_networks(components.model, self.config, device, world)
        self.model, self.average = self.networks.model, self.networks.average
        self.model.native_logits = self.config.loss_at_native_stride
        self.optimizer = create_optimizer(self.model, self.config)
        self.update = TrainStep(
            self.model,
            self.optimizer,
            device=device,
            precision=self.config.precision,
            clip=self.config.clip,
            average=self.average,
            forward=parallelize(self.model, self.config, device, world),
            world=world,
            seed=self.config.seed,
            sparse_labels=self.config.sparse_labels is True,
        )
        self.progress, self.plateau = Progress(), Plateau()
        self.self_training, self.unlabeled = self._self_training()
        self.state = TrainState(
            self.model,
            self.optimizer,
            self.average,
            self.update.scaler,
            self.plateau,
            self.progress,
            device,
            world,
            None if self.self_training is None else self.self_training.thresholds,
        )
        self.freezing = Freezing(self.model, self.config)
        self.loader = self._loader("auto" if self.config.cache else "none")
        val, message = components.val, components.display.message
        self.validator = None
        if val is not None:
            self.validator = Validator(val, device, self.update.dtype, world, message, part_of=components.val_part_of)
        self.clock = RunClock(components.budget, epochs=self.config.epochs, samples=len(self.loader))
        self.data_timer = DataTimer()
        names = components.train.label_space.names
        self.recorder = Recorder(components.folder, components.display, device, names)
        self.checkpoints = components.folder / "checkpoints"
        self.last_validation: Validation | None = None
        self.stopped_by_callback = False
        self.stop: StopRequest | None = None
        self.agreed: tuple[float, ...] = (0.0, 0.0, 0.0)  # by all ranks with the last update: see _signals

    # -- the run ---------------------------------------------------------------------------------------------------

    def fit(self, *, resume: bool = False) -> FitResult:
        """Train to the end of the budget, or until a signal; the last state is saved either way."""
        if resume:
            self.restore()
        if self.world.is_first:
            self.recorder.open(self.config, self.progress, resume=resume)
        try:
            with stop_requests() as self.stop, self.components.display:
                stopped_by = self._train_epochs()
                self.networks.gather()
        finally:
            self.recorder.close()
            if self.unlabeled is not None:
                self.unlabeled.close()
        return FitResult(self.progress, stopped_by in (None, "early stopping"), stopped_by, self.last_validation)

    def _train_epochs(self) -> str | None:
        """Train epoch after epoch with validations in between; returns what stopped the run before its end."""
        progress = self.progress
        self.clock.start(progress.seconds)
        if self._out_of_patience():  # resumed after early stopping: nothing is added
            return "early stopping"
        if self.by_epochs and progress.position and self.run_progress() >= 1.0:  # killed after the last step
            progress.epoch, progress.position = progress.epoch + 1, 0
        while self.run_progress() < 1.0:
            ended = self.train_epoch()
            if self.world.any(bool(self.stop)):
                self.save()
                return self.stop.signal.name if self.stop and self.stop.signal else "another rank"
            if not ended:  # the time is over in the middle of an epoch
                break
            progress.epoch, progress.position = progress.epoch + 1, 0
            if self._validation_due():
                self._validate_or_save()
            self.save()
            if self.stopped_by_callback:
                return "on_validation"
            if self._out_of_patience():
                self.components.display.message(
                    f"early stopping: no better validation in the last {progress.waited}; the best mIoU, "
                    f"{progress.best_miou:.3f}, was at step {progress.best_step}"
                )
                return "early stopping"
        if progress.validated_epoch != progress.epoch or progress.position:
            self._validate_or_save()
        progress.seconds = self.clock.seconds()
        self.save()
        return None

    def train_epoch(self) -> bool:
        """Take updates until the epoch ends (True), or until the time or a signal ends the run (False)."""
        while True:
            progress = self.run_progress()
            phase = self.phase(progress)
            if progress >= 1.0:
                return False
            try:
                for batches in self.updates(phase, self.progress.epoch, self.progress.position):
                    self.train_step(batches, progress, phase)
                    alone = self.world.size == 1
                    progress = self.clock.progress(self.progress) if alone or self.by_epochs else self.agreed[1]
                    over = not self.by_epochs and progress >= 1.0
                    if over or (bool(self.stop) if alone else self.agreed[0] > 0):
                        return False
                    if progress < 1.0 and self.phase(progress) is not phase:
                        break
                else:
                    return True
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.update.weights_changing:
                    raise memory_probe.no_room_to_update(self.device) from error
                self._split_batches(phase, error)

    def train_step(self, batches: list[Batch], run_progress: float, phase: Phase) -> None:
        """Take one update with the settings at ``run_progress``; count it, record it, save if a checkpoint is due."""
        started, progress, config = time.monotonic(), self.progress, self.config
        factor = learning_rate_factor(config.schedule, run_progress, float(config.warmup))
        lr = set_learning_rate(self.optimizer, factor * self.plateau.scale)
        frozen = self.freezing.set_mode(self.model, run_progress)
        criterion = self._criterion(phase)
        aux_weight = config.aux_weight * ((1 - run_progress) if config.aux_decay else 1.0)
        signals = self._signals()
        pseudo, unlabeled_place = self._pseudo_labels(batches, run_progress, phase)
        try:
            result = self.update(
                batches,
                run_progress,
                criterion,
                aux_weight,
                frozen=frozen,
                index=progress.step,
                signals=signals,
                unlabeled=pseudo,
            )
        except NonFiniteLossError as error:
            raise explain_non_finite(error, progress.step + 1, lr, batches, self.components.folder) from error
        self.agreed = result.signals or signals
        images = sum(len(batch) for batch in batches) * self.world.size
        progress.step += 1
        progress.position += images
        progress.samples += images
        progress.unlabeled_epoch, progress.unlabeled_position = unlabeled_place
        if self.self_training is not None and result.unlabeled is not None:
            self.self_training.thresholds.update(result.unlabeled.counts)
            shift = self.self_training.thresholds.shift()
            result = replace(result, unlabeled=replace(result.unlabeled, shift=shift))
        progress.seconds = self.clock.seconds()
        seconds, waited = time.monotonic() - started, self.data_timer.take()
        fraction, final = self.clock.progress(progress), phase is self.phases[-1]
        self.recorder.step(progress, result, lr, images, seconds, waited, fraction=fraction, final_phase=final)
        if self._save_due():
            self.save()

    def _pseudo_labels(
        self, batches: list[Batch], run_progress: float, phase: Phase
    ) -> tuple[PseudoLabels | None, tuple[int, int]]:
        """The unlabeled part of the update at ``run_progress``, and the unlabeled (epoch, position) after it."""
        place = (self.progress.unlabeled_epoch, self.progress.unlabeled_position)
        teacher, stream = self.self_training, self.unlabeled
        if teacher is None or stream is None or teacher.weight(run_progress) == 0:
            return None, place
        with self.data_timer.waiting():
            batch, *after = stream.take(phase, sum(map(len, batches)), self.progress)
        found = teacher.pseudo_labels(
            batch,
            batches,
            progress=run_progress,
            index=self.progress.step,
            first=self.world.rank * len(batch),
        )
        return found, (after[0], after[1])

    def updates(self, phase: Phase, epoch: int, start: int = 0) -> Iterator[list[Batch]]:
        """The micro-batches of one update after another, from sample ``start`` to the end of the epoch.

        Every update has its whole batch: what is left at the end of an epoch does not depend on the micro-batches.
        """
        images, count = self._micro_batches(phase)
        count *= self.config.accumulate
        transform, weights = self.components.transforms[phase], self.components.sample_weights
        pin = self.device.type == "cuda"
        loaded = self.loader.batches(
            epoch=epoch,
            batch_size=images,
            transform=transform,
            start=start,
            weights=weights,
            pin=pin,
            paste=self.components.paste,
            parts=count,
        )
        batches = self.data_timer.over(loaded)
        try:
            while update := list(islice(batches, count)):
                yield update
        finally:
            batches.close()

    def validate(self) -> Validation | None:
        """Score the averaged weights (else the weights); the best so far become the run's model."""
        progress, started = self.progress, time.monotonic()
        if self.validator is None:
            if self.run_progress() >= 1.0:  # of the model that the run saves
                self.measure_norm_statistics()
            progress.validated_epoch = progress.epoch
            return None
        self.measure_norm_statistics()
        self.networks.gather()
        with self.networks.scored_model() as model:
            found = self.last_validation = self.validator(model, self._criterion(self.phase(self.run_progress())))
        progress.validated_epoch = progress.epoch
        seconds = self.clock.validated(started)
        progress.seconds = self.clock.seconds()
        adjusts = self.config.logit_adjustment is True
        self.clock.update_reserve(len(self.components.train), len(self.components.val or ()), self.world, adjusts)
        if self.config.schedule == "plateau":
            self.plateau.update(found.decisive)
        better = progress.record_validation(found.decisive)
        if self.world.is_first:
            self.recorder.validation(progress, found, better=better, seconds=seconds)
            if better:
                self.components.save_model(model, progress, found)
        self.world.barrier()
        if self.components.on_validation is not None:
            self.stopped_by_callback = self.world.any(self.components.on_validation(progress, found))
        return found

    # -- where the run is ------------------------------------------------------------------------------------------

    @property
    def by_epochs(self) -> bool:
        """Whether epochs and not minutes end the run."""
        return self.components.budget is None

    def run_progress(self) -> float:
        """The fraction 0…1 of the run that is done, the same on every rank."""
        here = self.clock.progress(self.progress)
        return here if self.by_epochs else self.world.broadcast([here])[0]

    def phase(self, progress: float) -> Phase:
        """The phase at ``progress``, 0…1, of the run."""
        return next((phase for phase in self.phases if progress < phase.until), self.phases[-1])

    def _criterion(self, phase: Phase) -> Criterion:
        return self.components.final_criterion if phase is self.phases[-1] else self.components.criterion

    def _signals(self) -> tuple[float, float, float]:
        """What the ranks agree on with every update: stop requests of any, rank 0's progress and whether to save."""
        first = self.world.is_first
        save = first and self.clock.save_due(self.config.save_every_seconds)
        return float(bool(self.stop)), self.clock.progress(self.progress) if first else 0.0, float(save)

    def _validation_due(self) -> bool:
        """At an epoch's end: by the number of epochs or, with ``validate_every`` 0, by the time validations take."""
        every = int(self.config.validate_every)
        if every:
            return self.progress.epoch % every == 0 or self.run_progress() >= 1.0
        due = self.world.broadcast([float(self.clock.validation_due())])[0]
        return bool(due) and self.run_progress() < 0.95  # shortly before the end the last validation follows anyway

    def _out_of_patience(self) -> bool:
        return self.config.early_stopping is not None and self.progress.waited >= self.config.early_stopping

    def _save_due(self) -> bool:
        every = self.config.save_every_steps
        return (every is not None and self.progress.step % every == 0) or self.agreed[2] > 0

    # -- data, memory and time -------------------------------------------------------------------------------------

    def measure_norm_statistics(self) -> None:
        """Measure the averaged weights' batch norms on training images, if configured; all ranks have to call this."""
        if self.average is None or not measures_statistics(self.config, self.average):
            return
        images, _ = self._micro_batches(self.phases[-1])
        transform = self.components.transforms[self.phases[-1]]
        batches = self._loader("none").batches(epoch=0, batch_size=images, transform=transform)
        frozen = {id(norm) for norm in self.freezing.frozen_norms_at(self.run_progress())}
        leave = [name for name, module in self.model.named_modules() if id(module) in frozen]
        measure_average(self.average, batches, images, self.device, self.update.dtype, self.world, leave=leave)

    def _loader(self, cache: str) -> Loader:
        rank, size, workers = self.world.rank, self.world.size, self.config.workers
        split, seed = self.components.train, self.config.seed
        return Loader(split, seed=seed, workers=workers, cache=cache, rank=rank, world_size=size)

    def _self_training(self) -> tuple[SelfTraining | None, UnlabeledStream | None]:
        data, config = self.components.unlabeled, self.components.config
        if data is None:
            return None, None
        refuse_unfit(config)
        teacher = SelfTraining(
            self.networks.evaluated_model(),
            data.criterion,
            config.unlabeled,
            device=self.device,
            dtype=self.update.dtype,
            seed=self.config.seed,
        )
        stream = UnlabeledStream(
            data.images,
            data.transforms,
            seed=self.config.seed,
            ratio=config.unlabeled.ratio,
            world=self.world,
            workers=self.config.workers,
            cache="auto" if self.config.cache else "none",
            pin=self.device.type == "cuda",
        )
        return teacher, stream

    def fit_to_memory(self, validation_size: Size | None) -> memory_probe.MemoryReport:
        """Measure what a step and a validation take, and set micro-batches, validation and caches to what fits.

        ``validation_size``: of the largest validation image; None: there is no validation. OutOfMemoryError if one
        image is far from fitting. What this takes is deducted from the time for training.
        """
        phase = max(self.phases, key=lambda phase: phase.batch * phase.size[0] * phase.size[1])
        images, config = phase.batch // self.world.size, self.config
        step = memory_probe.StepToMeasure(
            self.update.alone(), phase, images, self._criterion(phase), config.aux_weight, config.freeze_bn, self.world
        )
        validation = None
        if self.validator is not None and validation_size is not None:
            scored_model = self.networks.scored_model
            validation = memory_probe.ValidationToMeasure(self.validator, scored_model, validation_size)
        report = memory_probe.measure_memory(step, validation, cache_bytes=self.loader.cache.limit)
        self.progress.num_micro_batches = max(self.progress.num_micro_batches, report.training.micro_batches)
        labeled = len(self.loader) / (len(self.loader) + (len(self.unlabeled.loader) if self.unlabeled else 0))
        self.loader.cache.limit = int(labeled * report.images_bytes)
        if self.unlabeled is not None:
            self.unlabeled.loader.cache.limit = report.images_bytes - self.loader.cache.limit
        if self.validator is not None and report.validation_limits is not None:
            self.validator.limits = report.validation_limits
        self.clock.deduct_preparation()
        return report

    def _micro_batches(self, phase: Phase) -> tuple[int, int]:
        """(images, micro-batches) of this process's part of a batch."""
        return memory_probe.micro_batches(phase.batch // self.world.size, self.progress.num_micro_batches)

    def _split_batches(self, phase: Phase, error: RuntimeError | MemoryError) -> None:
        """After running out of memory: take the same update in twice as many micro-batches."""
        self.optimizer.zero_grad(set_to_none=True)
        images, count = self._micro_batches(phase)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if images == 1 or self.world.size > 1:
            raise memory_probe.batch_too_large(
                phase, images, count, self.device, self.world, self.checkpoints
            ) from error
        self.progress.num_micro_batches = 2 * count
        images, count = self._micro_batches(phase)
        self.components.display.message(
            f"out of memory: every batch is now taken in {count} parts of {images}, its effective size stays"
        )
        self.components.display.message(self.decomposition_note())

    def decomposition_note(self) -> str:
        """One line on what depends on micro-batches and processes; empty if one process takes batches whole."""
        images, count = self._micro_batches(self.phases[-1])
        criteria = (self.components.criterion, self.components.final_criterion)
        norms = batch_norm_scope(self.model, self.config, self.world, self.device)
        return describe_decomposition(criteria, images, count * self.config.accumulate, self.world.size, norms)

    # -- checkpoints -----------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write a checkpoint; the run continues if that fails."""
        self.clock.saved()
        save_state(self.state, self.checkpoints, self.components.record, self.components.display.message)

    def restore(self) -> None:
        """Continue from the newest intact checkpoint; CheckpointError if there is none."""
        restore_state(self.state, self.checkpoints, self.components.display.message)

    def _validate_or_save(self) -> None:
        """Validate; if that fails, save first, so that the validation is taken again when the run continues."""
        try:
            self.validate()
        except Exception:
            if not self.networks.sharded:  # shards are written by all ranks, and only this one is here
                self.save()
            raise
