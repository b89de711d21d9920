"""What a training writes and shows as it goes: log records, progress, odd losses, validation images."""

from __future__ import annotations

from pathlib import Path

import torch

from segwright.imageio import write_image
from segwright.training.callbacks.diagnostics import LossMonitor
from segwright.training.callbacks.log import Display, RunLog
from segwright.training.callbacks.trackers import Trackers
from segwright.training.config import TrainingConfig
from segwright.training.planning.memory import memory_text, process_bytes
from segwright.training.state import Progress
from segwright.training.train_step import StepResult
from segwright.training.validate import Validation


class Recorder:
    """Records the steps and validations of the run in ``folder``. Only rank 0 opens it; else nothing is written."""

    def __init__(self, folder: Path, display: Display, device: torch.device, names: tuple[str, ...]) -> None:
        self.folder, self.display, self.device, self.names = folder, display, device, names
        self.monitor = LossMonitor(names)
        self._log: RunLog | None = None
        self._step_seconds = self._wait_seconds = 0.0  # since the last validation

    def open(self, config: TrainingConfig, progress: Progress, *, resume: bool) -> None:
        """Open the log; on resuming, records after the checkpoint's step are dropped from it."""
        names = () if config.trackers == "auto" else config.trackers
        trackers = Trackers(names, self.folder, config.model_dump(mode="json"), self.display.message, resume=resume)
        self._log = RunLog(
            self.folder,
            keep_until_step=progress.step if resume else None,
            validated_epoch=progress.validated_epoch if resume else None,
            trackers=trackers,
        )

    def close(self) -> None:
        if self._log is not None:
            self._log.close()

    def step(
        self,
        progress: Progress,
        result: StepResult,
        lr: float,
        images: int,
        seconds: float,
        waited: float,
        *,
        fraction: float,
        final_phase: bool,
    ) -> None:
        """Record an update of ``images`` images that took ``seconds`` after ``waited`` seconds for its batches.

        ``fraction``: 0…1 of the run that is done, for the estimate of the remaining time.
        """
        self.monitor.throughput(progress.step, seconds, waited, final_phase)
        self._step_seconds += seconds
        self._wait_seconds += waited
        if self._log is None:
            return
        record = {
            "step": progress.step,
            "epoch": progress.epoch,
            "loss": result.loss,
            "main_loss": result.main_loss,
            "lr": lr,
            "images_per_second": images / max(seconds + waited, 1e-9),
            "time": progress.seconds,
        }
        if result.unlabeled is not None:
            record |= {
                "unlabeled_loss": result.unlabeled.loss,
                "unlabeled_weight": result.unlabeled.weight,
                "accepted": result.unlabeled.accepted,
                "class_shift": result.unlabeled.shift,
            }
        self._log.write(record)
        lines = self.monitor.step(record)
        if result.unlabeled is not None:
            lines += self.monitor.unlabeled(result.unlabeled.accepted, result.unlabeled.shift, fraction)
        for line in lines:
            self.display.message(line)
        left = progress.seconds * (1 - fraction) / max(fraction, 1e-6)
        self.display.step(record, fraction, left, memory_text(self.device), self.monitor.loader_fraction())

    def validation(self, progress: Progress, found: Validation, *, better: bool, seconds: float) -> None:
        """Record a validation that took ``seconds``, and write its images."""
        if self._log is None:
            return
        iou = {name: float(value) for name, value in zip(self.names, found.scores.iou, strict=True)}
        record = {
            "step": progress.step,
            "epoch": progress.epoch,
            "val_miou": found.scores.miou,
            "val_pixel_accuracy": found.scores.pixel_accuracy,
            "val_mean_dice": found.scores.mean_dice,
            "val_loss": found.loss,
            "val_seconds": seconds,
            "loader_share": self._wait_seconds / max(self._step_seconds + self._wait_seconds, 1e-9),
            "memory_bytes": process_bytes(self.device),
            "time": progress.seconds,
            "val_iou": iou,
        }
        if found.by_part:
            record["val_miou_by_part"] = dict(found.by_part)
        self._step_seconds = self._wait_seconds = 0.0
        self._log.validation(record)
        self.display.validation(record, better)
        for line in self.monitor.validation(found):
            self.display.message(line)
        try:
            for number, image in enumerate(found.images):
                write_image(self.folder / "validation" / f"epoch-{progress.epoch:04d}-{number}.jpg", image)
        except OSError as error:
            self.display.message(f"warning: validation images cannot be written ({error.strerror})")
