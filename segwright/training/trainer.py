"""The training loop: plain torch, readable from top to bottom.

A run is a sequence of updates. Everything that decides what an update does is a function of the saved
:class:`Progress` (epoch, position in it, step) and of the configuration, so a run continued from a checkpoint takes the
very steps it would have taken. The schedule follows the *share* of the run that is done: of the samples when epochs are
given, of the time when minutes are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segwright.augment.presets import Training as TrainingTransform
from segwright.core.errors import NonFiniteLossError, OutOfMemoryError
from segwright.core.types import Batch
from segwright.data.dataset import Split
from segwright.data.loading.loader import Loader
from segwright.imageio import write_image
from segwright.models.base import SegmentationModel
from segwright.training.callbacks.diagnostics import Waiting, Watch
from segwright.training.callbacks.log import Display, RunLog
from segwright.training.callbacks.signals import StopRequest, stop_requests
from segwright.training.callbacks.trackers import Trackers
from segwright.training.config import Phase, TrainConfig
from segwright.training.distributed.decomposition import parts_sentence
from segwright.training.distributed.world import World, placed, wrapped
from segwright.training.freezing import BatchNorm, Freezing
from segwright.training.logit_adjustment import images_to_score
from segwright.training.optim.norm_statistics import measure_statistics
from segwright.training.optim.optimizers import AveragedWeights, create_optimizer, set_learning_rate
from segwright.training.optim.schedule import Plateau, learning_rate_factor
from segwright.training.planning.memory import is_out_of_memory, memory_text, process_bytes
from segwright.training.planning.memory_probe import divided
from segwright.training.state import ask_for_parts, restore_state, save_state
from segwright.training.train_step import Criterion, Taken, TrainStep
from segwright.training.validate import Validation, Validator

END_SECONDS = 4.0  # of saving and the report
MOST_RESERVED = 0.4  # of the time for training and scoring
SHORT_SECONDS, SHORT_RESERVED = 240.0, 0.25  # of a budget in which training comes before many scores, and its share
STATISTICS_IMAGES = 128  # on which batch norms are measured anew, at most
VALIDATION_SHARE = 0.03  # of the time, at most, for validations in a run by the clock
SaveModel = Callable[[SegmentationModel, "Progress", Validation], None]
OnValidation = Callable[["Progress", Validation], bool]


@dataclass
class Progress:
    """Where a run is. Saved with every checkpoint."""

    step: int = 0  # updates taken
    epoch: int = 0
    position: int = 0  # samples of this epoch consumed, over all ranks
    samples: int = 0  # samples consumed in all
    seconds: float = 0.0  # of training and validation, over all sittings
    best_miou: float = -1.0
    best_step: int = 0
    waited: int = 0  # validations since the best
    validated_epoch: int = 0
    split_batch: int = 1  # a batch is taken in at least this many parts, for want of memory


@dataclass(frozen=True)
class FitResult:
    """How a run ended."""

    progress: Progress
    finished: bool
    stopped_by: str | None = None  # "SIGINT", "SIGTERM", "early stopping", "on_validation" or None
    last_validation: Validation | None = None


@dataclass
class Parts:
    """What a trainer is put together from, built outside of it."""

    model: SegmentationModel
    criterion: Criterion
    late_criterion: Criterion  # of the last phase
    train: Split
    val: Split | None
    config: TrainConfig  # resolved: nothing is "auto" any more
    transforms: dict[Phase, TrainingTransform]
    folder: Path
    device: torch.device
    save_model: SaveModel = field(default=lambda model, progress, validation: None)
    sample_weights: np.ndarray[Any, np.dtype[np.float64]] | None = None
    world: World = field(default_factory=World)
    display: Display = field(default_factory=Display)
    budget_seconds: float | None = None  # of training and validation together, when minutes drive the run
    reserve_seconds: float = 0.0  # kept back from the minutes for what follows the training
    on_validation: OnValidation | None = None  # called on every rank alike; True ends the run
    record: Mapping[str, Any] = field(default_factory=dict)  # JSON-able, kept in every checkpoint: what the run is


class Trainer:
    """Trains ``parts.model``; see the module's header."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.config = parts.config.training
        self.device, self.world = parts.device, parts.world
        self.phases = list(self.config.phases)
        # Laid out before the optimizer and the average are made: their buffers take their parameters' layout.
        self.model, self.whole, self.average = self._networks(parts.model)
        self.sharded = self.whole is not None
        self.optimizer = create_optimizer(
            self.model,
            self.config,
            lr=float(self.config.lr),
            weight_decay=float(self.config.weight_decay),
            encoder_lr_factor=float(self.config.encoder_lr_factor),
        )
        self.model.native_logits = self.config.native_logits
        self.take_step = TrainStep(
            self.model,
            parts.criterion,
            self.optimizer,
            device=self.device,
            precision=self.config.precision,
            clip=self.config.clip,
            aux_weight=self.config.aux_weight,
            average=self.average,
            forward=wrapped(self.model, self.config, self.device, self.world),
            world=self.world,
            seed=self.config.seed,
        )
        self.freezing = Freezing(self.model, self.config.freeze_encoder, self.config.unfreeze)
        self.norms = [module for module in self.model.modules() if isinstance(module, BatchNorm)]
        self.resting = -1  # stages of the encoder: not known yet
        self.plateau = Plateau()
        self.progress = Progress()
        self.loader = Loader(
            parts.train,
            seed=self.config.seed,
            workers=self.config.workers,
            cache="auto" if self.config.cache else "none",
            rank=self.world.rank,
            world_size=self.world.size,
        )
        dtype, say = self.take_step.dtype, parts.display.say
        self.validator = Validator(parts.val, self.device, dtype, self.world, say) if parts.val else None
        self.watch = Watch(parts.train.label_space.names)
        self.waiting = Waiting()
        self.pace = (0.0, 0.0)  # seconds in steps, and waiting for batches, since the last validation
        self.clock = self.last_save = self.validated_at = time.monotonic()
        self.validation_seconds = self.seconds_before = 0.0
        self.image_seconds = 0.0  # of validating an image, as measured last
        self.last_validation: Validation | None = None
        self.cut_short = False  # by on_validation
        self.stop: StopRequest | bool = False
        self.told: tuple[float, ...] = (0.0, 0.0, 0.0)  # of the last update: see _signals
        self.log: RunLog | None = None

    def _networks(
        self, model: SegmentationModel
    ) -> tuple[SegmentationModel, SegmentationModel | None, AveragedWeights | None]:
        """The network as it trains; a whole copy to validate and save with where it trains in shards; the average."""
        config = self.config
        decay = config.ema if isinstance(config.ema, float) else None
        averaged = bool(decay or config.swa)
        if not config.shard or self.world.size == 1:
            plain = placed(model, config, self.device, self.world)
            assert isinstance(plain, SegmentationModel)
            return plain, None, AveragedWeights(plain, decay or 0.0, config.swa) if averaged else None
        from segwright.training.distributed.fsdp import full_copy

        whole, second = full_copy(model), full_copy(model)  # a network in shards cannot be copied
        second_sharded = placed(second, config, self.device, self.world) if averaged else None
        first = placed(model, config, self.device, self.world)
        assert isinstance(first, SegmentationModel)
        average = AveragedWeights(first, decay or 0.0, config.swa, start=second_sharded) if averaged else None
        return first, whole, average

    # -- the run ---------------------------------------------------------------------------------------------------

    def fit(self, *, resume: bool = False) -> FitResult:
        """Train to the end of the budget, or until a signal; the last state is saved either way."""
        if resume:
            self.restore()
        keep = self.progress.step if resume else None
        if self.world.is_first:
            settings = self.config.model_dump(mode="json")
            names = () if self.config.trackers == "auto" else self.config.trackers
            trackers = Trackers(names, self.parts.folder, settings, self.parts.display.say)
            validated = self.progress.validated_epoch
            self.log = RunLog(
                self.parts.folder,
                keep_until_step=keep,
                validated_epoch=validated if resume else None,
                trackers=trackers,
            )
        try:
            with stop_requests() as stop, self.parts.display:
                stopped_by = self._epochs(stop)
                self._gather()
        finally:
            if self.log is not None:
                self.log.close()
        return FitResult(self.progress, stopped_by in (None, "early stopping"), stopped_by, self.last_validation)

    def _epochs(self, stop: StopRequest) -> str | None:
        progress, self.stop = self.progress, stop
        self.clock = time.monotonic() - progress.seconds
        self.seconds_before = progress.seconds
        self.last_save = time.monotonic()
        patience = self.config.early_stopping
        if patience is not None and progress.waited >= patience:  # resumed after it had stopped: nothing is added
            return "early stopping"
        if (
            self.by_epochs and progress.position and self.share() >= 1.0
        ):  # killed after the last step: the epoch is over
            progress.epoch, progress.position = progress.epoch + 1, 0
        while self.share() < 1.0:
            ended = self._one_epoch(stop)
            if self.world.any(bool(stop)):
                self.save()
                return stop.signal.name if stop.signal else "another rank"
            if not ended:  # the time is over in the middle of an epoch
                break
            progress.epoch, progress.position = progress.epoch + 1, 0
            if self._validation_due():
                self._validate_or_save()
            self.save()
            if self.cut_short:
                return "on_validation"
            if patience is not None and progress.waited >= patience:
                self.parts.display.say(
                    f"early stopping: no better validation in the last {progress.waited}; the best mIoU, "
                    f"{progress.best_miou:.3f}, was at step {progress.best_step}"
                )
                return "early stopping"
        if progress.validated_epoch != progress.epoch or progress.position:
            self._validate_or_save()
        progress.seconds = time.monotonic() - self.clock
        self.save()
        return None

    def _validation_due(self) -> bool:
        """At an epoch's end: by the count of epochs or, with ``validate_every`` 0, by the share of time it takes."""
        every = int(self.config.validate_every)
        if every:
            return self.progress.epoch % every == 0 or self.share() >= 1.0
        since = time.monotonic() - self.validated_at
        due = since >= self.validation_seconds / VALIDATION_SHARE
        # Not shortly before the end: the last validation follows anyway.
        return bool(self.world.broadcast([float(due)])[0]) and self.share() < 0.95

    def _one_epoch(self, stop: StopRequest) -> bool:
        """Updates until the epoch ends (True), or the time or a signal ends the run (False)."""
        while True:
            share = self.share()
            phase = self.phase(share)
            if share >= 1.0:
                return False
            try:
                for update in self._updates(phase):
                    self._take(update, share, phase)
                    share = self._share_here() if self.world.size == 1 or self.by_epochs else self.told[1]
                    over = not self.by_epochs and share >= 1.0
                    if over or (bool(stop) if self.world.size == 1 else self.told[0] > 0):
                        return False
                    if share < 1.0 and self.phase(share) is not phase:
                        break
                else:
                    return True
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self._halve_batch(phase, error)

    def _updates(self, phase: Phase) -> Iterator[list[Batch]]:
        """The batches of one update at a time; position moves on only when an update is complete."""
        per_rank, split = self._parts(phase)
        parts = self.config.accumulate * split
        batches = self.waiting.over(
            self.loader.batches(
                epoch=self.progress.epoch,
                batch_size=per_rank,
                transform=self.parts.transforms[phase],
                start=self.progress.position,
                weights=self.parts.sample_weights,
                pin=self.device.type == "cuda",
            )
        )
        try:
            collected: list[Batch] = []
            for batch in batches:
                collected.append(batch)
                if len(collected) == parts:
                    yield collected
                    collected = []
            if collected:
                yield collected
        finally:
            batches.close()

    def _parts(self, phase: Phase) -> tuple[int, int]:
        """(images at a time, how many times) of this process's share of a batch."""
        return divided(max(1, phase.batch // self.world.size), self.progress.split_batch)

    def _take(self, update: list[Batch], share: float, phase: Phase) -> None:
        """One update: the gradients of its batches, a step of the optimizer, the averages, the log."""
        progress = self.progress
        started = time.monotonic()
        lr = self._set_learning_rate(share)
        self._set_mode(share)
        late = phase is self.phases[-1]
        self.take_step.criterion = self._criterion(phase)
        self.take_step.aux_weight = self.config.aux_weight * ((1 - share) if self.config.aux_fade else 1.0)
        signals = self._signals()
        try:
            taken_step = self.take_step.take(update, share=share, index=progress.step, signals=signals)
        except NonFiniteLossError as error:
            raise self._explained(error, lr, update) from error
        self.told = taken_step.signals or signals
        count = sum(len(batch) for batch in update) * self.world.size
        progress.step += 1
        progress.position += count
        progress.samples += count
        progress.seconds = time.monotonic() - self.clock
        taken, waited = time.monotonic() - started, self.waiting.take()
        self.watch.pace(progress.step, taken, waited, late)
        self.pace = (self.pace[0] + taken, self.pace[1] + waited)
        self._record(taken_step, lr, count / max(taken + waited, 1e-9))
        if self._save_due():
            self.save()

    def _criterion(self, phase: Phase) -> Criterion:
        """What is trained with in a phase; validation is measured with the same."""
        return self.parts.late_criterion if phase is self.phases[-1] else self.parts.criterion

    def _signals(self) -> tuple[float, float, float]:
        """What the processes agree on with every update: whether one was told to stop, and as the first sees it the
        share of the run that is done and whether a checkpoint is due by the clock."""
        first = self.world.is_first
        due = time.monotonic() - self.last_save >= self.config.save_every_seconds
        return float(bool(self.stop)), self._share_here() if first else 0.0, float(due and first)

    # -- where the run is ------------------------------------------------------------------------------------------

    def share(self) -> float:
        """How much of the run is done, 0…1, the same on every rank."""
        here = self._share_here()
        return here if self.parts.budget_seconds is None else self.world.broadcast([here])[0]

    @property
    def by_epochs(self) -> bool:
        """Whether epochs and not minutes end the run."""
        return self.parts.budget_seconds is None

    def _share_here(self) -> float:
        """The same as this rank sees it: with a time budget each has its own clock."""
        progress = self.progress
        if self.parts.budget_seconds is not None:
            return min((time.monotonic() - self.clock) / self.parts.budget_seconds, 1.0)
        within = min(progress.position / len(self.loader), 1.0)
        return min((progress.epoch + within) / float(self.config.epochs or 1), 1.0)

    def phase(self, share: float) -> Phase:
        """The phase that a share of the run falls into."""
        for phase in self.phases:
            if share < phase.until:
                return phase
        return self.phases[-1]

    def _set_learning_rate(self, share: float) -> float:
        factor = learning_rate_factor(self.config.schedule, share, float(self.config.warmup)) * self.plateau.scale
        return set_learning_rate(self.optimizer, factor)

    def _set_mode(self, share: float) -> None:
        """Train mode, except for what is frozen."""
        resting = self.freezing.stages(share)
        if not self.model.training or resting != self.resting:
            self.resting = resting
            self.model.train()
            self.take_step.frozen = self.freezing.resting[resting]
        for norm in self._frozen(share):
            norm.eval()

    # -- what a run writes -----------------------------------------------------------------------------------------

    def _record(self, taken: Taken, lr: float, images_per_second: float) -> None:
        if self.log is None:
            return
        progress = self.progress
        record = {
            "step": progress.step,
            "epoch": progress.epoch,
            "loss": taken.loss,
            "main_loss": taken.main_loss,
            "lr": lr,
            "images_per_second": images_per_second,
            "time": progress.seconds,
        }
        self.log.write(record)
        for line in self.watch.step(record):
            self.parts.display.say(line)
        share = self._share_here()
        left = progress.seconds * (1 - share) / max(share, 1e-6)
        self.parts.display.step(record, share, left, memory_text(self.device), self.watch.loader_share())

    def _validate_or_save(self) -> None:
        """Validate; what was trained is saved first where that fails, and validated when the run goes on."""
        try:
            self.validate()
        except Exception:
            if not self.sharded:  # shards are gathered by all processes, and one of them stands here
                self.save()
            raise

    def validate(self) -> Validation | None:
        """Score the averaged weights (else the weights) and keep them as the run's model when they are the best yet."""
        progress = self.progress
        if self.validator is None:
            if self.share() >= 1.0:  # of the model that the run leaves
                self._measure_statistics()
            progress.validated_epoch = progress.epoch
            return None
        started = time.monotonic()
        self._measure_statistics()
        self._gather()
        self.validator.criterion = self._criterion(self.phase(self.share()))
        with self.scored_model() as model:
            found = self.last_validation = self.validator(model)
        progress.validated_epoch = progress.epoch
        self.validated_at = time.monotonic()
        self.validation_seconds = self.validated_at - started
        progress.seconds = self.validated_at - self.clock
        self._reserve_anew()
        better = found.scores.miou > progress.best_miou
        self.plateau.update(found.scores.miou) if self.config.schedule == "plateau" else None
        if found.scores.miou == found.scores.miou:  # not a number: nothing was labeled, which says nothing
            progress.waited = 0 if better else progress.waited + 1
        if better:
            progress.best_miou, progress.best_step = found.scores.miou, progress.step
        if self.world.is_first:
            self._record_validation(found, better, self.validation_seconds)
            if better:
                self.parts.save_model(model, progress, found)
        self.world.barrier()
        if self.parts.on_validation is not None:
            self.cut_short = self.world.any(self.parts.on_validation(progress, found))
        return found

    def _measure_statistics(self) -> None:
        """Measure the averaged weights' batch norms anew on training images: for an equal mean (SWA), or if asked.

        The images are always the same ones, as the last phase augments them, and no random generator is touched: a run
        that is continued measures the same. All processes have to call.
        """
        config = self.config
        measured = config.norm_statistics == "measured" or (config.norm_statistics == "auto" and config.swa is not None)
        if self.average is None or not measured:
            return
        if config.swa is not None and not self.average.equal_count:  # the equal mean has not begun
            return
        phase = self.phases[-1]
        per_rank, _ = self._parts(phase)
        loader = Loader(
            self.parts.train,
            seed=self.config.seed,
            workers=self.config.workers,
            cache="none",
            rank=self.world.rank,
            world_size=self.world.size,
        )
        batches = loader.batches(epoch=0, batch_size=per_rank, transform=self.parts.transforms[phase])
        count = max(1, -(-STATISTICS_IMAGES // (per_rank * self.world.size)))
        kept = {id(norm) for norm in self._frozen(self.share())}
        frozen = [name for name, module in self.model.named_modules() if id(module) in kept]
        measure_statistics(
            self.average.model,
            (torch.from_numpy(batch.images).to(self.device) for batch in islice(batches, count)),
            dtype=self.take_step.dtype,
            world=self.world,
            leave=frozen,
        )

    def _frozen(self, share: float) -> Sequence[torch.nn.Module]:
        """The batch norms that keep their statistics when ``share`` of the run is done."""
        return self.norms if self.config.freeze_bn else self.freezing.norms[self.freezing.stages(share)]

    def _reserve_anew(self) -> None:
        """Keep back from the minutes what the scoring will take, now that a validation was measured."""
        budget, val = self.parts.budget_seconds, self.parts.val
        if budget is None or val is None:
            return
        self.image_seconds = self.validation_seconds * self.world.size / max(len(val), 1)
        total = budget + self.parts.reserve_seconds
        adjusts = self.config.logit_adjustment is True
        wanted = END_SECONDS + self.image_seconds * images_to_score(len(self.parts.train), len(val), adjusts)
        most = SHORT_RESERVED if total < SHORT_SECONDS else MOST_RESERVED
        reserve = self.world.broadcast([min(wanted, most * total)])[0]
        self.parts.budget_seconds, self.parts.reserve_seconds = total - reserve, reserve

    def _record_validation(self, found: Validation, better: bool, seconds: float) -> None:
        names = self.parts.train.label_space.names
        iou = {name: float(value) for name, value in zip(names, found.scores.iou, strict=True)}
        record = {
            "step": self.progress.step,
            "epoch": self.progress.epoch,
            "val_miou": found.scores.miou,
            "val_pixel_accuracy": found.scores.pixel_accuracy,
            "val_mean_dice": found.scores.mean_dice,
            "val_loss": found.loss,
            "val_seconds": seconds,
            "loader_share": self.pace[1] / max(sum(self.pace), 1e-9),
            "memory_bytes": process_bytes(self.device),
            "time": self.progress.seconds,
            "val_iou": iou,
        }
        self.pace = (0.0, 0.0)
        assert self.log is not None
        self.log.validation(record)
        self.parts.display.validation(record, better)
        for line in self.watch.validation(found):
            self.parts.display.say(line)
        try:
            for number, image in enumerate(found.images):
                write_image(self.parts.folder / "validation" / f"epoch-{self.progress.epoch:04d}-{number}.jpg", image)
        except OSError as error:
            self.parts.display.say(f"warning: validation images cannot be written ({error.strerror})")

    def evaluated_model(self) -> SegmentationModel:
        """The weights that are validated and saved; of a network in shards, as they were gathered last."""
        if self.whole is not None:
            return self.whole
        if self.average is None:
            return self.model
        averaged = self.average.model
        assert isinstance(averaged, SegmentationModel)
        return averaged

    @contextmanager
    def scored_model(self) -> Iterator[SegmentationModel]:
        """:meth:`evaluated_model` on the device, for as long as the block runs."""
        model = self.evaluated_model()
        try:
            yield model.to(self.device) if self.sharded else model
        finally:
            if self.sharded:
                model.cpu()

    def _gather(self) -> None:
        """Bring :meth:`evaluated_model` up to date, where the weights lie in shards; all processes have to call."""
        if self.whole is not None:
            from segwright.training.distributed.fsdp import gather

            gather(self.model if self.average is None else self.average.model, self.whole)

    # -- checkpoints -----------------------------------------------------------------------------------------------

    def _save_due(self) -> bool:
        every = self.config.save_every_steps
        if every is not None and self.progress.step % every == 0:
            return True
        return self.told[2] > 0

    def save(self) -> None:
        """Write a checkpoint; the run goes on where that fails."""
        self.last_save = time.monotonic()
        save_state(self)

    def restore(self) -> None:
        """Continue from the newest whole checkpoint; CheckpointError where there is none."""
        restore_state(self)

    # -- when something goes wrong ---------------------------------------------------------------------------------

    def _explained(self, error: NonFiniteLossError, lr: float, update: list[Batch]) -> NonFiniteLossError:
        names = ", ".join(name for batch in update for name in batch.ids)
        return NonFiniteLossError(
            f"the loss became {error.found} at step {self.progress.step + 1}",
            expected="a finite number",
            found=f"learning rate {lr:.3g}, samples {names}",
            where=self.parts.folder,
            fix="lower --lr (a tenth is a good try), use --precision fp32, or look at the samples named; "
            "the last checkpoint is whole: --resume continues from it",
        )

    def _halve_batch(self, phase: Phase, error: RuntimeError | MemoryError) -> None:
        """Take the same update in twice as many parts; the effective batch stays."""
        self.optimizer.zero_grad(set_to_none=True)
        images, parts = self._parts(phase)
        if images == 1:
            raise OutOfMemoryError(
                "not even one image fits into memory",
                found=f"a crop of {phase.size[0]}×{phase.size[1]} on {self.device}",
                fix="a smaller --size, a smaller network, or --device cpu",
            ) from error
        self.progress.split_batch = 2 * parts
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if self.world.size > 1:
            # The others are in the middle of a collective that this process left: the job has to begin anew.
            ask_for_parts(self.parts.folder, 2 * parts)
            raise OutOfMemoryError(
                f"rank {self.world.rank} ran out of memory",
                found=f"{images} images of {phase.size[0]}×{phase.size[1]} at a time on {self.device}",
                fix="--resume goes on with half as many at a time, the batch's effective size stays",
            ) from error
        images, parts = self._parts(phase)
        self.parts.display.say(
            f"out of memory: every batch is now taken in {parts} parts of {images}, its effective size stays"
        )
        self.parts.display.say(parts_sentence(self))
