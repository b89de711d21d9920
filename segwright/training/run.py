"""A whole training run: check → plan → build → fit → score.

A run folder holds ``config.yaml`` (resolved), ``plan.json``, ``log.jsonl``, ``metrics.csv``, ``checkpoints/``,
``validation/`` (images), ``model/`` (the best, as a bundle), ``last/`` (the last) and ``report.html``.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segwright.core.atomic_io import lock_folder, write_json, write_text
from segwright.core.deprecated import renamed_parameters
from segwright.data.check.runner import CheckResult
from segwright.data.dataset import Dataset
from segwright.evaluation.evaluate import Evaluation
from segwright.inference.lineage import Lineage
from segwright.inference.torch_runtime import choose_device
from segwright.training.build import SampleWeights, SavedModel, build, load_saved_model, starting_network
from segwright.training.callbacks.log import Display
from segwright.training.components import FitResult, OnValidation
from segwright.training.config import TrainConfig
from segwright.training.context import RunContext
from segwright.training.data_fingerprint import NAME as DATA_PRINT
from segwright.training.deterministic import deterministic_mode
from segwright.training.distributed.world import World, init_world, own_device
from segwright.training.planning.budget import check_seconds
from segwright.training.planning.checked_data import CheckedData, check, refuse_errors, training_splits, warning_lines
from segwright.training.planning.draft import Plan, describe_plan
from segwright.training.planning.hardware import detect_hardware
from segwright.training.planning.memory_probe import MemoryReport
from segwright.training.planning.network_choice import named_by_weights
from segwright.training.planning.plan import make_plan
from segwright.training.planning.shares import with_equal_shares
from segwright.training.planning.timing import MeasuredTimings
from segwright.training.results import RunOutputs
from segwright.training.resume import StoredRun, find_stored_run
from segwright.training.run_dir import default_folder, point_latest, refuse_occupied_folder
from segwright.training.state import Progress
from segwright.training.trainer import Trainer
from segwright.training.validate import PartOf


@dataclass(frozen=True)
class Run:
    """A finished, stopped or planned run."""

    folder: Path
    plan: Plan
    progress: Progress | None = None
    stopped_by: str | None = None
    evaluation: Evaluation | None = None  # of the best model on the validation split
    val_images: int | None = None  # of the validation split, of which fewer may be scored in limited time
    memory: MemoryReport | None = None  # that a step and a validation take
    in_parts: str = ""  # what an update in micro-batches or over processes computes per part
    short_of_time: tuple[str, ...] = ()  # what the minutes were not enough for before the training began
    no_score: str = ""  # why there is no evaluation of a training that ended by itself

    @property
    def model(self) -> Path:
        """The saved model, for ``evaluate``, ``load`` and ``export``."""
        return self.folder / "model"

    def plan_json(self) -> dict[str, Any]:
        """The content of ``plan.json``: the plan's entries, the memory measured, what depends on micro-batches, and
        what the minutes were not enough for."""
        memory = None if self.memory is None else self.memory.to_json()
        short = list(self.short_of_time)
        return {**self.plan.to_json(), "memory": memory, "in_parts": self.in_parts, "short_of_time": short}

    def to_json(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder),
            "model": str(self.model),
            "finished": self.progress is not None and self.stopped_by in (None, "early stopping"),
            "stopped_by": self.stopped_by,
            "steps": self.progress.step if self.progress else 0,
            "epochs": self.progress.epoch if self.progress else 0,
            "samples": self.progress.samples if self.progress else 0,
            "seconds": self.progress.seconds if self.progress else 0.0,
            "val_miou": self.evaluation.miou if self.evaluation else None,
            "plan": self.plan_json(),
        }


@renamed_parameters(start="init_from")
def run_training(
    data: Dataset,
    config: TrainConfig,
    *,
    resume: bool = False,
    init_from: str | Path | None = None,
    dry_run: bool = False,
    command: str = "",
    started: float | None = None,
    display: Display | None = None,
    checked: CheckResult | None = None,
    on_validation: OnValidation | None = None,
    sample_weights: SampleWeights | None = None,
    val_part_of: PartOf | None = None,
    lineage: Lineage | None = None,
    baseline: Evaluation | None = None,
) -> Run:
    """Train on ``data``. ``init_from``: a saved model to fine-tune; ``started``: when the time budget began to count
    (``time.monotonic()``); ``checked``: the result of a data check that ran before; ``on_validation`` is called after
    each validation and ends the run by returning True; ``sample_weights``: of the training split, how often each image
    is drawn relative to the others; ``val_part_of``: the part of the validation split that an image of an id is of:
    the mean over parts decides which weights are kept; ``lineage``: of the run, if it is not that of a training on one
    dataset; ``baseline``: the scores of the same training without unlabeled images. Errors: those of check, plan and
    training."""
    started = time.monotonic() if started is None else started
    device = choose_device(config.training.device)
    folder = Path(config.out) if config.out else default_folder(data, config)
    refuse_occupied_folder(folder, data)
    # Wrong starts are refused before the check and the plan, which take their time; a stored run has its network.
    saved = load_saved_model(init_from, config)
    if saved is None and not resume:
        named_by_weights(config)
    with init_world(device.type) as world:
        if not config.out:  # named by the second in which a process came here: by that of rank 0 for all
            folder = Path(world.broadcast_from_rank0(partial(str, folder), str, str))
        display = display or Display(show=world.is_first)
        context = RunContext(folder, own_device(device, world), world, display, command, started)
        with lock_folder(folder) if world.is_first and not dry_run else nullcontext():
            stored = None if dry_run else find_stored_run(context, resume=resume)
            if stored is not None:
                stored.refuse_other_classes(data.label_space.names, data.root)
                config = stored.with_unlabeled(config)
            data_checked = check(
                data, config, world=world, checked=checked, seconds=_seconds_to_check(config, stored, started),
                message=display.message,
            )  # fmt: skip
            plan = plan_run(data_checked, config, context, saved, stored)
            _seed(plan)
            with deterministic_mode(context.device, deterministic=plan.config.training.deterministic):
                network = starting_network(plan, data_checked, saved, stored, display.message, lineage)
                outputs = RunOutputs(
                    plan, data_checked, context, network.origin, network.lineage, baseline, val_part_of=val_part_of
                )
                components = build(
                    plan, data_checked, context, network, outputs, on_validation=on_validation,
                    sample_weights=sample_weights, val_part_of=val_part_of,
                )  # fmt: skip
                trainer = Trainer(components)
                memory = trainer.fit_to_memory(data_checked.largest_val_image)
                budget = trainer.components.budget
                over = "" if budget is None or stored is not None else budget.shortage()
                run = Run(
                    folder, plan, memory=memory, in_parts=trainer.decomposition_note(),
                    short_of_time=tuple(filter(None, (data_checked.note, over))),
                )  # fmt: skip
                for line in filter(None, (memory.sentence(), run.in_parts, over)):
                    display.message(line)
                if dry_run:
                    return run
                if world.is_first:
                    _write_plan(run, data_checked, display)
                result = trainer.fit(resume=stored is not None)
            val_images = None if data_checked.val is None else len(data_checked.val)
            run = replace(run, progress=result.progress, stopped_by=result.stopped_by, val_images=val_images)
            outputs = replace(outputs, short_of_time=run.short_of_time)
            if world.is_first:
                evaluation = _score(trainer, outputs, result)
                run = replace(run, evaluation=evaluation, no_score="; ".join(outputs.no_score))
            return run


@renamed_parameters(start="init_from")
def planned_trainer(data: Dataset, config: TrainConfig, *, init_from: str | Path | None = None) -> Trainer:
    """The planned trainer before its first step, with nothing written: for experiments and measurements."""
    device, display = choose_device(config.training.device), Display(show=False)
    saved = load_saved_model(init_from, config)
    context = RunContext(default_folder(data, config), device, World(), display, "", time.monotonic())
    checked = check(data, config, message=display.message)
    plan = plan_run(checked, config, context, saved, None)
    _seed(plan)
    network = starting_network(plan, checked, saved, None, display.message)
    outputs = RunOutputs(plan, checked, context, network.origin, network.lineage)
    return Trainer(build(plan, checked, context, network, outputs))


def plan_run(
    checked: CheckedData, config: TrainConfig, context: RunContext, saved: SavedModel | None, stored: StoredRun | None
) -> Plan:
    """The plan: that of the stored run if one is resumed, else made from the data and the hardware, and shown.

    Rank 0 measures and plans for all, since every rank must train by one plan.
    """
    message = context.display.message
    if stored is not None:
        stored.report_changed_data(checked, message)
        kept = stored.plan(config, message)
        return with_equal_shares(kept, kept.config, context.world.size)

    def measure_and_plan() -> Plan:
        timings = MeasuredTimings.of(config, checked.classes, context.device)
        named = config if saved is None else saved.named(config)
        hardware = detect_hardware(named_by_weights(named), context.device, timings)
        plan = make_plan(named, checked.facts, hardware, timings, fine_tuning=saved is not None)
        return with_equal_shares(plan, config, context.world.size)

    plan = context.world.broadcast_from_rank0(measure_and_plan, Plan.to_json, Plan.from_json)
    for line in describe_plan(plan, checked.data):
        message(line)
    return plan


def _seconds_to_check(config: TrainConfig, stored: StoredRun | None, started: float) -> float | None:
    """The limit for reading images in the check; None if no minutes end the run."""
    if stored is None:
        return check_seconds(config.training.minutes, started)
    given = None if config.training.epochs is not None else config.training.minutes or stored.minutes()
    return check_seconds(given, started, stored.seconds)


def _seed(plan: Plan) -> None:
    torch.manual_seed(plan.config.training.seed)
    np.random.seed(plan.config.training.seed % 2**32)  # for libraries that draw from the global generator


def _write_plan(run: Run, checked: CheckedData, display: Display) -> None:
    """Write config, plan and the data's fingerprint into the run folder; a full disk is reported."""
    config = run.plan.config
    try:
        written = config if config.out is not None else config.with_values({"out": str(run.folder)})
        write_text(run.folder / "config.yaml", written.to_yaml())
        write_json(run.folder / "plan.json", run.plan_json())
        write_json(run.folder / DATA_PRINT, checked.file_prints)
    except OSError as error:
        display.message(f"warning: config and plan could not be written ({error}); training goes on")
    display.message(f"run folder: {run.folder}")
    if config.training.deterministic and config.training.minutes is not None:
        display.message(
            "warning: by the clock a run takes as many steps as there is time for, and equal seeds differ; "
            "--deterministic goes with --epochs"
        )


def _score(trainer: Trainer, outputs: RunOutputs, result: FitResult) -> Evaluation | None:
    """Save the last weights and, if the training ended by itself, score the best ones; ``latest`` points here."""
    outputs.keep_last(trainer.networks.evaluated_model(), result.progress.step)
    point_latest(outputs.folder)
    budget = trainer.components.budget
    if not result.finished:
        return None
    image_seconds = trainer.clock.image_seconds or (budget.image_seconds if budget else 0.0)
    remaining = None if budget is None else budget.remaining(trainer.clock.earlier_seconds)
    return outputs.score(result.progress.seconds, remaining, image_seconds)


__all__ = ["Run", "plan_run", "planned_trainer", "refuse_errors", "run_training", "training_splits", "warning_lines"]
