"""The training loop: :meth:`Trainer.fit` runs epochs, an epoch runs updates, and validations keep the best model.

Everything that decides an update is a function of the saved :class:`Progress` (epoch, position in it, step) and of the
configuration, so a run that continues from a checkpoint takes the same updates as one that was never stopped. The
schedule follows the progress 0…1 of the run: by samples if epochs are given, by the clock if minutes are. The trainer
alone writes its state; what touches a weight is :class:`segwright.training.train_step.TrainStep`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import nn

from segwright.core.errors import NonFiniteLossError, OutOfMemoryError
from segwright.core.types import Batch
from segwright.data.loading.loader import Loader
from segwright.training.callbacks.diagnostics import DataTimer
from segwright.training.callbacks.recorder import Recorder
from segwright.training.callbacks.signals import StopRequest, stop_requests
from segwright.training.clock import RunClock
from segwright.training.components import TrainerComponents
from segwright.training.config import Phase, Size
from segwright.training.distributed.decomposition import BatchNorms, describe_decomposition
from segwright.training.distributed.world import parallelize
from segwright.training.freezing import BatchNorm, GradualUnfreezing
from segwright.training.networks import prepare_networks
from segwright.training.optim.norm_statistics import measure_statistics
from segwright.training.optim.optimizers import create_optimizer, set_learning_rate
from segwright.training.optim.schedule import Plateau, learning_rate_factor
from segwright.training.planning.budget import VALIDATION_FRACTION, images_to_score
from segwright.training.planning.memory import is_out_of_memory
from segwright.training.planning.memory_probe import (
    MemoryReport,
    StepToMeasure,
    ValidationToMeasure,
    measure_memory,
    micro_batches,
)
from segwright.training.state import Progress, TrainState, request_micro_batches, restore_state, save_state
from segwright.training.train_step import Criterion, TrainStep
from segwright.training.validate import Validation, Validator

STATISTICS_IMAGES = 128  # from which batch-norm statistics are measured, at most


@dataclass(frozen=True)
class FitResult:
    """How a training ended."""

    progress: Progress
    finished: bool
    stopped_by: str | None = None  # "SIGINT", "SIGTERM", "early stopping", "on_validation" or None
    last_validation: Validation | None = None


class Trainer:
    """Trains ``components.model``."""

    def __init__(self, components: TrainerComponents) -> None:
        self.components = components
        self.config = components.config.training
        self.device, self.world = components.device, components.world
        self.phases = list(self.config.phases)
        self.networks = prepare_networks(components.model, self.config, self.device, self.world)
        self.model, self.average = self.networks.model, self.networks.average
        self.optimizer = create_optimizer(
            self.model,
            self.config,
            lr=float(self.config.lr),
            weight_decay=float(self.config.weight_decay),
            encoder_lr_factor=float(self.config.encoder_lr_factor),
        )
        self.model.native_logits = self.config.native_logits
        self.update = TrainStep(
            self.model,
            self.optimizer,
            device=self.device,
            precision=self.config.precision,
            clip=self.config.clip,
            average=self.average,
            forward=parallelize(self.model, self.config, self.device, self.world),
            world=self.world,
            seed=self.config.seed,
        )
        self.freezing = GradualUnfreezing(self.model, self.config.freeze_encoder, self.config.unfreeze)
        self.norms = [module for module in self.model.modules() if isinstance(module, BatchNorm)]
        self.loader = self._loader("auto" if self.config.cache else "none")
        say = components.display.say
        val = components.val
        self.validator = Validator(val, self.device, self.update.dtype, self.world, say) if val else None
        self.progress, self.plateau = Progress(), Plateau()
        self.state = TrainState(
            self.model,
            self.optimizer,
            self.average,
            self.update.scaler,
            self.plateau,
            self.progress,
            self.device,
            self.world,
        )
        self.clock = RunClock(components.budget)
        self.data_timer = DataTimer()
        names = components.train.label_space.names
        self.recorder = Recorder(components.folder, components.display, self.device, names)
        self.checkpoints = components.folder / "checkpoints"
        self.last_save = self.last_validated = time.monotonic()
        self.validation_seconds = self.image_seconds = 0.0  # of the last validation, and of one image of it
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
        return FitResult(self.progress, stopped_by in (None, "early stopping"), stopped_by, self.last_validation)

    def _train_epochs(self) -> str | None:
        """Train epoch after epoch with validations in between; returns what stopped the run before its end."""
        progress = self.progress
        self.clock.start(progress.seconds)
        self.last_save = time.monotonic()
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
                self.components.display.say(
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
                    progress = self._progress_here() if self.world.size == 1 or self.by_epochs else self.agreed[1]
                    over = not self.by_epochs and progress >= 1.0
                    if over or (bool(self.stop) if self.world.size == 1 else self.agreed[0] > 0):
                        return False
                    if progress < 1.0 and self.phase(progress) is not phase:
                        break
                else:
                    return True
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self._split_batches(phase, error)

    def train_step(self, batches: list[Batch], run_progress: float, phase: Phase) -> None:
        """Take one update with the settings at ``run_progress``; count it, record it, save if a checkpoint is due."""
        started, progress = time.monotonic(), self.progress
        factor = learning_rate_factor(self.config.schedule, run_progress, float(self.config.warmup))
        lr = set_learning_rate(self.optimizer, factor * self.plateau.scale)
        frozen = self._set_mode(run_progress)
        aux_weight = self.config.aux_weight * ((1 - run_progress) if self.config.aux_fade else 1.0)
        signals = self._signals()
        try:
            result = self.update(
                batches,
                run_progress,
                self._criterion(phase),
                aux_weight,
                frozen=frozen,
                index=progress.step,
                signals=signals,
            )
        except NonFiniteLossError as error:
            raise self._explained(error, lr, batches) from error
        self.agreed = result.signals or signals
        count = sum(len(batch) for batch in batches) * self.world.size
        progress.step += 1
        progress.position += count
        progress.samples += count
        progress.seconds = self.clock.seconds()
        self.recorder.step(
            progress,
            result,
            lr=lr,
            images=count,
            seconds=time.monotonic() - started,
            waited=self.data_timer.take(),
            fraction=self._progress_here(),
            final_phase=phase is self.phases[-1],
        )
        if self._save_due():
            self.save()

    def updates(self, phase: Phase, epoch: int, start: int = 0) -> Iterator[list[Batch]]:
        """The micro-batches of one update after another, from sample ``start`` to the end of the epoch."""
        images, count = self._micro_batches(phase)
        count *= self.config.accumulate
        batches = self.data_timer.over(
            self.loader.batches(
                epoch=epoch,
                batch_size=images,
                transform=self.components.transforms[phase],
                start=start,
                weights=self.components.sample_weights,
                pin=self.device.type == "cuda",
            )
        )
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
        self.last_validated = time.monotonic()
        self.validation_seconds = self.last_validated - started
        progress.seconds = self.clock.seconds()
        self._update_reserve()
        if self.config.schedule == "plateau":
            self.plateau.update(found.scores.miou)
        better = progress.record_validation(found.scores.miou)
        if self.world.is_first:
            self.recorder.validation(progress, found, better=better, seconds=self.validation_seconds)
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
        here = self._progress_here()
        return here if self.by_epochs else self.world.broadcast([here])[0]

    def _progress_here(self) -> float:
        """As :meth:`run_progress`, by this rank's clock if minutes end the run."""
        by_clock = self.clock.progress()
        if by_clock is not None:
            return by_clock
        within = min(self.progress.position / len(self.loader), 1.0)
        return min((self.progress.epoch + within) / float(self.config.epochs or 1), 1.0)

    def phase(self, progress: float) -> Phase:
        """The phase at ``progress``, 0…1, of the run."""
        return next((phase for phase in self.phases if progress < phase.until), self.phases[-1])

    def _criterion(self, phase: Phase) -> Criterion:
        return self.components.final_criterion if phase is self.phases[-1] else self.components.criterion

    def _signals(self) -> tuple[float, float, float]:
        """What the ranks agree on with every update: stop requests of any, rank 0's progress and whether to save."""
        first = self.world.is_first
        due = time.monotonic() - self.last_save >= self.config.save_every_seconds
        return float(bool(self.stop)), self._progress_here() if first else 0.0, float(due and first)

    def _validation_due(self) -> bool:
        """At an epoch's end: by the number of epochs or, with ``validate_every`` 0, by the time validations take."""
        every = int(self.config.validate_every)
        if every:
            return self.progress.epoch % every == 0 or self.run_progress() >= 1.0
        due = time.monotonic() - self.last_validated >= self.validation_seconds / VALIDATION_FRACTION
        # Not shortly before the end: the last validation follows anyway.
        return bool(self.world.broadcast([float(due)])[0]) and self.run_progress() < 0.95

    def _out_of_patience(self) -> bool:
        return self.config.early_stopping is not None and self.progress.waited >= self.config.early_stopping

    def _save_due(self) -> bool:
        every = self.config.save_every_steps
        return (every is not None and self.progress.step % every == 0) or self.agreed[2] > 0

    # -- modes and statistics --------------------------------------------------------------------------------------

    def _set_mode(self, progress: float) -> Sequence[nn.Parameter]:
        """Set train mode except for frozen batch norms; returns the frozen parameters."""
        self.model.train()
        for norm in self._frozen_norms(progress):
            norm.eval()
        return self.freezing.frozen_parameters[self.freezing.frozen_stages(progress)]

    def _frozen_norms(self, progress: float) -> Sequence[nn.Module]:
        if self.config.freeze_bn:
            return self.norms
        return self.freezing.frozen_norms[self.freezing.frozen_stages(progress)]

    def measure_norm_statistics(self) -> None:
        """Measure the averaged weights' batch norms on training images: of an equal mean (SWA), or if configured.

        Always on the same images, augmented as in the last phase, and without a random draw from the global
        generators: a resumed run measures the same. All ranks have to call this.
        """
        config, phase = self.config, self.phases[-1]
        wanted = config.norm_statistics == "measured" or (config.norm_statistics == "auto" and config.swa is not None)
        if self.average is None or not wanted:
            return
        if config.swa is not None and not self.average.equal_count:  # the equal mean has not begun
            return
        images, _ = self._micro_batches(phase)
        transform = self.components.transforms[phase]
        batches = self._loader("none").batches(epoch=0, batch_size=images, transform=transform)
        count = max(1, -(-STATISTICS_IMAGES // (images * self.world.size)))
        frozen = {id(norm) for norm in self._frozen_norms(self.run_progress())}
        measure_statistics(
            self.average.model,
            (torch.from_numpy(batch.images).to(self.device) for batch in islice(batches, count)),
            dtype=self.update.dtype,
            world=self.world,
            leave=[name for name, module in self.model.named_modules() if id(module) in frozen],
        )

    def _loader(self, cache: str) -> Loader:
        rank, size, workers = self.world.rank, self.world.size, self.config.workers
        split, seed = self.components.train, self.config.seed
        return Loader(split, seed=seed, workers=workers, cache=cache, rank=rank, world_size=size)

    # -- memory and time -------------------------------------------------------------------------------------------

    def fit_to_memory(self, validation_size: Size | None) -> MemoryReport:
        """Measure what a step and a validation take, and set micro-batches, validation and caches to what fits.

        ``validation_size``: of the largest validation image; None: there is no validation. OutOfMemoryError if one
        image is far from fitting. What this takes is deducted from the time for training.
        """
        phase = max(self.phases, key=lambda phase: phase.batch * phase.size[0] * phase.size[1])
        step = StepToMeasure(
            self.update.alone(),
            phase,
            max(1, phase.batch // self.world.size),
            self._criterion(phase),
            self.config.aux_weight,
            self.config.freeze_bn,
            self.world,
        )
        validation = None
        if self.validator is not None and validation_size is not None:
            validation = ValidationToMeasure(self.validator, self.networks.scored_model, validation_size)
        report = measure_memory(step, validation, cache_bytes=self.loader.cache.limit)
        self.progress.num_micro_batches = max(self.progress.num_micro_batches, report.training.micro_batches)
        self.loader.cache.limit = report.images_bytes
        if self.validator is not None and report.validation_limits is not None:
            self.validator.limits = report.validation_limits
        self.clock.deduct_preparation()
        return report

    def _micro_batches(self, phase: Phase) -> tuple[int, int]:
        """(images, micro-batches) of this process's part of a batch."""
        return micro_batches(max(1, phase.batch // self.world.size), self.progress.num_micro_batches)

    def decomposition_note(self) -> str:
        """One line on what depends on micro-batches and processes; empty if one process takes batches whole."""
        images, count = self._micro_batches(self.phases[-1])
        kind: BatchNorms = "none"
        if self.norms and not self.config.freeze_bn:
            synchronized = self.world.size > 1 and self.config.sync_bn and self.device.type == "cuda"
            kind = "synchronized" if synchronized else "local"
        return describe_decomposition(
            (self.components.criterion, self.components.final_criterion),
            images=images,
            micro_batches=count * self.config.accumulate,
            processes=self.world.size,
            batch_norms=kind,
        )

    def _split_batches(self, phase: Phase, error: RuntimeError | MemoryError) -> None:
        """After running out of memory: take the same update in twice as many micro-batches."""
        self.optimizer.zero_grad(set_to_none=True)
        images, count = self._micro_batches(phase)
        if images == 1:
            raise OutOfMemoryError(
                "not even one image fits into memory",
                found=f"a crop of {phase.size[0]}×{phase.size[1]} on {self.device}",
                fix="a smaller --size, a smaller network, or --device cpu",
            ) from error
        self.progress.num_micro_batches = 2 * count
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if self.world.size > 1:
            # The other ranks are in a collective that this one left: the job has to start again.
            request_micro_batches(self.checkpoints, 2 * count)
            raise OutOfMemoryError(
                f"rank {self.world.rank} ran out of memory",
                found=f"{images} images of {phase.size[0]}×{phase.size[1]} at a time on {self.device}",
                fix="--resume goes on with half as many at a time, the batch's effective size stays",
            ) from error
        images, count = self._micro_batches(phase)
        self.components.display.say(
            f"out of memory: every batch is now taken in {count} parts of {images}, its effective size stays"
        )
        self.components.display.say(self.decomposition_note())

    def _update_reserve(self) -> None:
        """Keep back from the minutes what the scoring will take, as measured by the last validation."""
        val = self.components.val
        if self.by_epochs or val is None:
            return
        self.image_seconds = self.validation_seconds * self.world.size / max(len(val), 1)
        adjusts = self.config.logit_adjustment is True
        seconds = self.image_seconds * images_to_score(len(self.components.train), len(val), adjusts)
        self.clock.set_reserve(self.world.broadcast([self.clock.reserve_for_scoring(seconds)])[0])

    # -- checkpoints and errors ------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write a checkpoint; the run continues if that fails."""
        self.last_save = time.monotonic()
        save_state(self.state, self.checkpoints, self.components.record, self.components.display.say)

    def restore(self) -> None:
        """Continue from the newest intact checkpoint; CheckpointError if there is none."""
        restore_state(self.state, self.checkpoints, self.components.display.say)

    def _validate_or_save(self) -> None:
        """Validate; if that fails, save first, so that the validation is taken again when the run continues."""
        try:
            self.validate()
        except Exception:
            if not self.networks.sharded:  # shards are written by all ranks, and only this one is here
                self.save()
            raise

    def _explained(self, error: NonFiniteLossError, lr: float, batches: list[Batch]) -> NonFiniteLossError:
        names = ", ".join(name for batch in batches for name in batch.ids)
        return NonFiniteLossError(
            f"the loss became {error.found} at step {self.progress.step + 1}",
            expected="a finite number",
            found=f"learning rate {lr:.3g}, samples {names}",
            where=self.components.folder,
            fix="lower --lr (a tenth is a good try), use --precision fp32, or look at the samples named; "
            "the last checkpoint is whole: --resume continues from it",
        )
