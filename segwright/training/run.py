"""A whole run, from an opened dataset to a saved model: check, plan, train, save, report.

A run folder holds ``config.yaml`` (as resolved), ``plan.json``, ``log.jsonl``, ``metrics.csv``, ``checkpoints/``,
``validation/`` (images), ``model/`` (the best, as a bundle), ``last/`` (the last) and ``report.html``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from segwright.core.atomic_io import lock_folder, write_json, write_text
from segwright.core.errors import CheckpointError, ConfigError, DataError, SegwrightError, UsageError
from segwright.core.progress import progress
from segwright.data.check.dataset_scan import existing_scan
from segwright.data.check.fingerprint import Fingerprint
from segwright.data.check.label_rules import UNLEARNABLE
from segwright.data.check.runner import CheckResult, check_dataset
from segwright.data.dataset import Dataset, Split
from segwright.data.loading.sampling import classes_shown, describe, repeat_factors
from segwright.data.records import evenly_spread
from segwright.evaluation.evaluate import Evaluation
from segwright.inference.bundle import Bundle, load_bundle, read_bundle
from segwright.inference.predictor import find_bundle
from segwright.inference.runtimes import choose_device
from segwright.kernels.threads import processors
from segwright.losses import create_loss
from segwright.models.base import SegmentationModel
from segwright.models.catalog import CATALOG, starts_pretrained
from segwright.training.build import (
    build_network,
    is_normed,
    start_at_frequencies,
    time_image,
    time_step,
    transform,
)
from segwright.training.callbacks.log import Display
from segwright.training.callbacks.trackers import check_trackers
from segwright.training.checkpoint import checkpoints, clear_leftovers, newest_state
from segwright.training.config import Size, TrainConfig, load_config
from segwright.training.data_fingerprint import NAME as DATA_PRINT
from segwright.training.data_fingerprint import Prints, data_print, differences, digest, read_print
from segwright.training.deterministic import kernels
from segwright.training.distributed.decomposition import parts_sentence
from segwright.training.distributed.world import World, own_device, world
from segwright.training.finetune import transfer_weights
from segwright.training.logit_adjustment import images_to_score
from segwright.training.planning.cpu import has_native_bf16
from segwright.training.planning.memory import available_bytes
from segwright.training.planning.memory_probe import MemoryProbe, probe_memory
from segwright.training.planning.plan import Machine, Plan, describe_plan, make_plan
from segwright.training.results import Results, origin
from segwright.training.run_dir import default_folder, point_latest, refuse_second_run
from segwright.training.train_step import choose_precision
from segwright.training.trainer import (
    SHORT_RESERVED,
    SHORT_SECONDS,
    FitResult,
    OnValidation,
    Parts,
    Progress,
    Trainer,
)

RESERVED_SHARE = 0.35  # of the minutes, at most, that are kept back for scoring before it was measured
VALIDATED_SHARE = 0.12  # of the minutes, at most, for one validation while training
LEAST_VALIDATED = 8  # images
BF16_PROBE_SIZE, BF16_PROBE_BATCH = (192, 256), 4


@dataclass(frozen=True)
class Run:
    """A finished, stopped or planned run."""

    folder: Path
    plan: Plan
    progress: Progress | None = None
    stopped_by: str | None = None
    evaluation: Evaluation | None = None  # of the best model on the validation split
    memory: MemoryProbe | None = None  # what a step and a validation take
    in_parts: str = ""  # what an update in parts or over processes does not take from the whole batch

    @property
    def model(self) -> Path:
        """The saved model, to hand to ``evaluate``, ``load`` and ``export``."""
        return self.folder / "model"

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
            "plan": _plan_json(self.plan, self.memory, self.in_parts),
        }


def run_training(
    data: Dataset,
    config: TrainConfig,
    *,
    resume: bool = False,
    start: str | Path | None = None,
    dry_run: bool = False,
    command: str = "",
    started: float | None = None,
    display: Display | None = None,
    checked: CheckResult | None = None,
    on_validation: OnValidation | None = None,
) -> Run:
    """Train on ``data``. ``start``: a saved model to fine-tune; ``started``: when the time budget began to run
    (``time.monotonic()``); ``checked``: what the data check found, where it was run already; ``on_validation`` is
    called after each validation and ends the run by returning True. Errors: those of check, plan and training."""
    began = time.monotonic() if started is None else started
    device = choose_device(config.training.device)
    folder = Path(config.out) if config.out else default_folder(data, config)
    saved = saved_start(start, config)  # before the check and the plan, which take their time
    with world(device.type) as peers:
        session = _Session(data, config, folder, own_device(device, peers), peers, command, began)
        session.display = display or Display(show=peers.is_first)
        session.checked, session.on_validation, session.saved = checked, on_validation, saved
        if dry_run:
            plan = session.planned(resume=False)
            session.probed(Trainer(session.parts(session.build_model(plan, start), plan)))
            return Run(folder, plan, memory=session.memory, in_parts=session.in_parts)
        if not peers.is_first:
            return session.train(resume, start)
        with lock_folder(folder):
            if not resume:
                refuse_second_run(folder)
            return session.train(resume, start)


def planned_trainer(data: Dataset, config: TrainConfig, *, start: str | Path | None = None) -> Trainer:
    """A trainer as the plan makes it, before its first step, with nothing written: to try something out on."""
    device = choose_device(config.training.device)
    session = _Session(data, config, default_folder(data, config), device, World(), "", time.monotonic())
    session.display = Display(show=False)
    session.saved = saved_start(start, config)
    plan = session.planned(resume=False)
    torch.manual_seed(plan.config.training.seed)
    return Trainer(session.parts(session.build_model(plan, start), plan))


class _Session:
    """The state of :func:`run_training` between its steps."""

    def __init__(
        self,
        data: Dataset,
        config: TrainConfig,
        folder: Path,
        device: torch.device,
        peers: World,
        command: str,
        began: float,
    ) -> None:
        self.data, self.config, self.folder = data, config, folder
        self.device, self.peers, self.command, self.began = device, peers, command, began
        self.display = Display()
        if config.model.name not in ("auto", *CATALOG):
            raise UsageError("unknown network", expected=", ".join(CATALOG), found=config.model.name)
        check_trackers(config.training.trackers)
        self.train_split, self.val_split = training_splits(data, config)
        self.fingerprint: Fingerprint | None = None
        self.checked: CheckResult | None = None
        self.on_validation: OnValidation | None = None
        self.memory: MemoryProbe | None = None
        self.in_parts = ""  # what parts of a batch do not share
        self.saved: tuple[SegmentationModel, Bundle] | None = None  # what a fine-tuning starts from
        self.origin = ""  # of the starting weights, with their terms
        self.image_seconds = 0.0  # of predicting a validation image, as timed for a run by the clock
        self.prints: Prints = {}  # of the files that are trained on and validated with

    # -- before the first step -------------------------------------------------------------------------------------

    def train(self, resume: bool, start: str | Path | None) -> Run:
        """Everything, in order."""
        if self.peers.is_first:
            clear_leftovers(self.folder / "checkpoints")
        resume = resume and self._resumable()
        plan = self.planned(resume)
        config = plan.config
        torch.manual_seed(config.training.seed)
        np.random.seed(config.training.seed % 2**32)  # libraries that draw from the global generator
        with kernels(self.device, deterministic=config.training.deterministic):
            model = self.build_model(plan, start)
            if resume:
                self.origin = self._origin_before() or self.origin
            trainer = Trainer(self.parts(model, plan))
            self.probed(trainer)
            if self.peers.is_first:
                self._announce(plan)
            result = trainer.fit(resume=resume)
        if not self.peers.is_first:
            return Run(self.folder, plan, result.progress, result.stopped_by, memory=self.memory)
        return self._finish(trainer, plan, result)

    def probed(self, trainer: Trainer) -> None:
        """Try what a step and a validation take, fit the trainer to the memory, say it; counted to the minutes."""
        assert self.fingerprint is not None
        prints = self.checked.by_split if self.checked else {}
        largest = prints.get(self.val_split.name, self.fingerprint) if self.val_split is not None else None
        size = None if largest is None else (max(largest.height[2], 1), max(largest.width[2], 1))
        self.memory = probe_memory(trainer, size)
        if trainer.parts.budget_seconds is not None:
            trainer.parts.budget_seconds = self._training_seconds(trainer.parts.config, trainer.parts.reserve_seconds)
        self.display.say(self.memory.sentence())
        self.in_parts = parts_sentence(trainer)
        if self.in_parts:
            self.display.say(self.in_parts)

    def _resumable(self) -> bool:
        if checkpoints(self.folder / "checkpoints"):
            return True
        if self.peers.is_first:
            self.display.say("nothing to resume yet: no checkpoint was written; starting from the beginning")
        return False

    def planned(self, resume: bool) -> Plan:
        """The plan: read back when resuming, made and written otherwise. DataError where the check finds errors."""
        stored: Mapping[str, Any] = {}
        if resume:
            stored = (newest_state(self.folder / "checkpoints") or {}).get("run") or {}
            self._refuse_other_classes(stored)
        self._check()
        assert self.fingerprint is not None
        self.prints = self.peers.told(self._data_print, dict, dict)
        if resume:
            self._say_what_changed(stored)
            return self._resumed_plan(stored)
        # Timed on the first rank alone: every rank must train by one plan.
        plan = self.peers.told(self._plan, Plan.to_json, Plan.from_json)
        for line in describe_plan(plan, self.data):
            self.display.say(line)
        return plan

    def _plan(self) -> Plan:
        assert self.fingerprint is not None
        config = self.config
        if self.saved is not None and config.model.name == "auto":  # the network of the saved model, as it was built
            bundle = self.saved[1]
            inner = {k: v for k, v in bundle.arguments.items() if k not in ("encoder", "in_channels")}
            values = {"model.name": bundle.architecture, "model.encoder": bundle.arguments.get("encoder")}
            config = config.with_values({**values, "model.arguments": {**inner, **config.model.arguments}})
        return make_plan(
            config,
            self.fingerprint,
            images=len(self.train_split),
            val_images=len(self.val_split) if self.val_split else 0,
            machine=self._machine(),
            pretrained=self._pretrained,
            started=self.saved is not None,
            normed=lambda config: is_normed(config, self.data.label_space.classes),
            probe=self._probe,
            pairs=self.data.label_space.pairs,
        )

    def _inspect(self) -> CheckResult:
        """What the data check finds; DataError for what it calls an error, unless those files are to be left out."""
        result = self.checked or check_dataset(self.data)
        refuse_errors(result, self.data, skip_bad=self.config.data.skip_bad)
        return result

    def _check(self) -> None:
        """The check, and what follows from it: files left out when asked to, the fingerprint of what is trained on."""
        # By the first rank with all the cores of its machine; what is wrong is then said once.
        result = self.peers.told(
            self._inspect, CheckResult.to_json, lambda said: CheckResult.from_json(said, self.data)
        )
        if self.checked is None:  # else whoever checked has shown them
            for line in warning_lines(result):
                self.display.say(line)
        self.checked = result
        if result.errors:
            self._leave_out(result)
        self.fingerprint = result.by_split.get(self.train_split.name, result.fingerprint)
        if len(self.train_split) == 0:
            raise DataError("no usable training image is left", where=self.data.root, fix="segwright check DATA")

    def _leave_out(self, result: CheckResult) -> None:
        left_out: list[str] = []

        def usable(split: Split) -> Split:
            kept = []
            # Of an image in two splits the copy in train stays: it is the score on the other that it spoils.
            stays = "shared between splits" if split is self.train_split else None
            bad = {str(Path(file)) for problem in result.errors if problem.kind != stays for file in problem.files}
            for index, record in enumerate(split.records):
                paths = {str(path) for path in (record.image_path, record.mask_path) if path is not None}
                if paths & bad or record.id in bad or not record.labeled:
                    left_out.append(str(record.image_path or record.id))
                else:
                    kept.append(index)
            return split.subset(kept, split.name)

        self.train_split = usable(self.train_split)
        self.val_split = usable(self.val_split) if self.val_split is not None else None
        for file in left_out:
            self.display.say(f"left out: {file}")
        self.display.say(f"{len(left_out)} files were left out, as --skip-bad asks")

    def _machine(self) -> Machine:
        asked = self.config.training.precision
        if asked != "auto":
            precision, reason = str(asked), "as asked"
        elif self.config.training.deterministic and self.device.type == "cpu":
            precision, reason = "fp32", "--deterministic: no timing may decide"
        else:
            probe = self._probe_precision if self.device.type == "cpu" and has_native_bf16() else None
            precision, reason = choose_precision(self.device, probe)
        return Machine(str(self.device), processors(), available_bytes(self.device), precision, reason)

    def _pretrained(self, name: str, encoder: str | None) -> bool:
        """Whether a network begins with pretrained weights; only weights that it has itself are asked for."""
        return starts_pretrained(name, encoder, self.config.model.weights)

    def _probe(self, config: TrainConfig, size: Size, batch: int, precision: str) -> float:
        """Seconds of a training step on this machine, in a network of its own."""
        assert self.fingerprint is not None
        with kernels(self.device, deterministic=self.config.training.deterministic):
            return time_step(config, self.data.label_space.classes, self.device, size, batch, precision, self._repeats)

    def _probe_precision(self, precision: str) -> float:
        arguments = {"training.lr": 1e-3, "training.weight_decay": 0.0, "training.optimizer": "adamw"}
        if self.config.model.name == "auto":
            arguments["model.name"] = "leannet"
        config = self.config.with_values(arguments)
        classes = self.data.label_space.classes
        return time_step(config, classes, self.device, BF16_PROBE_SIZE, BF16_PROBE_BATCH, precision, self._repeats)

    @property
    def _repeats(self) -> int:
        """How often a step is timed: once where the minutes are few, for the probes are inside them."""
        minutes = self.config.training.minutes
        return 1 if minutes is not None and 60 * minutes < SHORT_SECONDS else 3

    def _data_print(self) -> Prints:
        return data_print([split for split in (self.train_split, self.val_split) if split is not None])

    def _refuse_other_classes(self, stored: Mapping[str, Any]) -> None:
        """UsageError where the run that is resumed had other classes than the data has now."""
        before, now = stored.get("classes"), list(self.data.label_space.names)
        if before is None or list(before) == now:
            return
        raise UsageError(
            "the data has other classes than the run to be resumed",
            expected=f"{len(before)} classes: {', '.join(map(str, before))}",
            found=f"{len(now)} classes: {', '.join(now)}",
            where=self.data.root,
            fix=f"another --out, and --init-from {self.folder} to begin with the weights of this run",
        )

    def _say_what_changed(self, stored: Mapping[str, Any]) -> None:
        """A line for everything of the data that is not as it was when the run stopped."""
        if stored.get("data") in (None, digest(self.prints)):
            return
        before = read_print(self.folder)
        if before is not None and digest(before) == stored["data"]:
            lines = differences(before, self.prints)
        else:
            lines = [f"what, cannot be told: {DATA_PRINT} is missing or damaged"]
        self.display.say("warning: the data changed since the run stopped; it goes on with the data as it is now")
        for line in lines:
            self.display.say(f"  {line}")

    def _resumed_plan(self, run: Mapping[str, Any]) -> Plan:
        """The plan of the run, with what was given on this command line laid over its config: from the checkpoint, or
        from the files of the folder where an earlier version wrote it. CheckpointError where neither can be read."""
        try:
            stored = run.get("plan") or json.loads((self.folder / "plan.json").read_text(encoding="utf-8"))
            plan = Plan.from_json(stored)
            config = plan.config if run.get("plan") else load_config(self.folder / "config.yaml")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, ConfigError) as error:
            raise CheckpointError(
                "the plan of the run cannot be read",
                expected="config.yaml and plan.json as the run wrote them",
                found=str(error).splitlines()[0][:200],
                where=self.folder,
                fix="another --out, and --init-from this folder to begin with its weights",
            ) from error
        explicit = _differences(self.config, TrainConfig())
        explicit = {k: v for k, v in explicit.items() if k not in ("data.path", "out")}
        changed = {key: value for key, value in explicit.items() if _at(config, key) != value}
        for key, value in changed.items():
            self.display.say(f"changed on resuming: {key} = {value} (was {_at(config, key)})")
        return replace(plan, config=config.with_values(changed))

    # -- the parts -------------------------------------------------------------------------------------------------

    def build_model(self, plan: Plan, start: str | Path | None) -> SegmentationModel:
        """The network of the plan with its starting weights."""
        model = build_network(plan.config, self.data.label_space.classes)
        if plan.config.training.class_prior is True and self.fingerprint is not None:
            if model.has_trained_classifier:
                self.display.say("the weights bring a trained last layer for these classes: it stays as it is")
            else:
                start_at_frequencies(model, self.fingerprint.class_pixels, plan.class_weights)
        self.origin = origin(model.provenance)
        if start is not None:
            assert self.saved is not None
            source, bundle = self.saved
            self.origin = f"fine-tuned from {Path(start).name}: {bundle.licenses.get('weights', 'terms not recorded')}"
            for line in transfer_weights(source, bundle.label_space, model, self.data.label_space):
                self.display.say(line)
        return model

    def _origin_before(self) -> str | None:
        """What the run said of its starting weights before it stopped: --init-from is not given again."""
        stored = (newest_state(self.folder / "checkpoints") or {}).get("run") or {}
        if stored.get("origin"):
            return str(stored["origin"])
        try:
            return read_bundle(self.folder / "model").licenses.get("weights")
        except SegwrightError:
            return None

    def parts(self, model: SegmentationModel, plan: Plan) -> Parts:
        """What the trainer is put together from."""
        config = plan.config
        classes = self.data.label_space.classes
        weights = plan.class_weights

        def criterion(text: str) -> torch.nn.Module:
            loss: torch.nn.Module = create_loss(text, classes=classes, class_weights=weights)
            return loss.to(self.device)

        late = config.training.loss + (f"+{config.training.late_loss}" if config.training.late_loss else "")
        minutes = config.training.minutes
        assert self.fingerprint is not None
        sample_weights = self._oversampled(config)
        budget, reserve = None, 0.0
        if minutes is not None:
            reserve = self._finish_seconds(config)
            budget = self._training_seconds(config, reserve)
        return Parts(
            model=model,
            criterion=criterion(config.training.loss),
            late_criterion=criterion(late),
            train=self.train_split,
            val=self._validated(config),
            config=config,
            transforms={phase: transform(config, phase, self.fingerprint) for phase in config.training.phases},
            folder=self.folder,
            device=self.device,
            sample_weights=sample_weights,
            save_model=self._results(plan).keep_best,
            world=self.peers,
            display=self.display,
            budget_seconds=budget,
            reserve_seconds=reserve,
            on_validation=self.on_validation,
            record={
                "classes": list(self.data.label_space.names),
                "plan": plan.to_json(),
                "data": digest(self.prints),
                "origin": self.origin,
            },
        )

    def _oversampled(self, config: TrainConfig) -> npt.NDArray[np.float64] | None:
        """How often each training image comes beside the others; None where all come alike."""
        share = config.training.oversample
        if share == "auto" or share == 0:  # "auto": a run that an earlier version planned
            return None

        def factors_found() -> npt.NDArray[np.float64]:
            with progress("classes of the images", len(self.train_split)) as advance:
                return repeat_factors(classes_shown(self.train_split, advance, existing_scan(self.data)), share)

        factors = self.peers.told(factors_found, lambda found: found.tolist(), np.array)
        self.display.say(describe(factors))
        return factors if (factors > 1).any() else None

    def _training_seconds(self, config: TrainConfig, reserve: float) -> float:
        """What is left of the minutes for training and validation, from now on, with ``reserve`` kept back."""
        assert config.training.minutes is not None
        return max(config.training.minutes * 60 - (time.monotonic() - self.began) - reserve, 1.0)

    def _left(self, config: TrainConfig, earlier: float) -> float | None:
        """Seconds until the run has to end; ``earlier``: of training in sittings before. None without a budget."""
        if config.training.minutes is None:
            return None
        return config.training.minutes * 60 - (time.monotonic() - self.began) - earlier

    def _validated(self, config: TrainConfig) -> Split | None:
        """What is validated on while training: fewer images where all would take too much of the minutes, which is
        said."""
        val, minutes = self.val_split, config.training.minutes
        if val is None or minutes is None or not self.image_seconds:
            return val
        count = max(LEAST_VALIDATED, int(VALIDATED_SHARE * minutes * 60 / self.image_seconds))
        if count >= len(val):
            return val
        self.display.say(f"time is short: validation while training is on {count} of {len(val)} images")
        return val.subset(evenly_spread(len(val), count), val.name)

    def _finish_seconds(self, config: TrainConfig) -> float:
        """Kept back from the time budget: the last validation, the scores with intervals, the report.

        At most a share of it: the scoring is cut to the time that is left.
        """
        assert self.fingerprint is not None
        if self.val_split is None:
            return 5.0
        size = (self.fingerprint.height[1], self.fingerprint.width[1])
        once = self.image_seconds = time_image(config, self.data.label_space.classes, self.device, size)
        adjusts = config.training.logit_adjustment is True
        seconds = 5.0 + 0.02 * len(self.val_split) + (3.0 if adjusts else 0.0)
        seconds += once * images_to_score(len(self.train_split), len(self.val_split), adjusts)
        given = 60 * float(config.training.minutes or 0)
        return min(seconds, (SHORT_RESERVED if given < SHORT_SECONDS else RESERVED_SHARE) * given)

    def _announce(self, plan: Plan) -> None:
        try:
            write_text(self.folder / "config.yaml", replace_out(plan.config, self.folder).to_yaml())
            write_json(self.folder / "plan.json", _plan_json(plan, self.memory, self.in_parts))
            write_json(self.folder / DATA_PRINT, self.prints)
        except OSError as error:
            self.display.say(f"warning: config and plan could not be written ({error}); training goes on")
        self.display.say(f"run folder: {self.folder}")
        if plan.config.training.deterministic and plan.config.training.minutes is not None:
            self.display.say(
                "warning: by the clock a run takes as many steps as there is time for, and equal seeds differ; "
                "--deterministic goes with --epochs"
            )

    def _results(self, plan: Plan) -> Results:
        assert self.fingerprint is not None
        return Results(
            data=self.data,
            plan=plan,
            folder=self.folder,
            device=self.device,
            fingerprint=self.fingerprint,
            train=self.train_split,
            val=self.val_split,
            origin=self.origin,
            command=self.command,
            say=self.display.say,
        )

    def _finish(self, trainer: Trainer, plan: Plan, result: FitResult) -> Run:
        """Keep and score what was trained; ``latest`` points here from then on."""
        results = self._results(plan)
        results.keep_last(trainer.evaluated_model(), result.progress.step)
        point_latest(self.folder)
        earlier = trainer.seconds_before
        pace = trainer.image_seconds or self.image_seconds
        left = self._left(plan.config, earlier)
        evaluation = results.score(result.progress.seconds, left, pace) if result.finished else None
        return Run(self.folder, plan, result.progress, result.stopped_by, evaluation, self.memory, self.in_parts)


# ---------------------------------------------------------------------------------------------------------------------


def saved_start(start: str | Path | None, config: TrainConfig) -> tuple[SegmentationModel, Bundle] | None:
    """The saved model to fine-tune; a typed error where there is none, or where another network is asked for."""
    if start is None:
        return None
    trusted = ":" in config.model.name  # a network of another package was asked for
    network, bundle = load_bundle(find_bundle(start), trust_external=trusted)
    asked = (config.model.name, config.model.encoder)
    found = (bundle.architecture, bundle.arguments.get("encoder"))
    for what, wanted, has in zip(("--model", "--encoder"), asked, found, strict=True):
        if wanted not in ("auto", None, has):
            raise UsageError(
                "the saved model to fine-tune is another network",
                expected=f"{what} {has}" if has else f"{found[0]}, which takes no encoder",
                found=f"{what} {wanted}",
                where=start,
                fix=f"leave {what} out: the network of the saved model is taken",
            )
    return network, bundle


def training_splits(data: Dataset, config: TrainConfig) -> tuple[Split, Split | None]:
    """(train, val): as the dataset says, or one fold of several."""
    if config.data.fold is not None:
        from segwright.data.splits import folds

        parts = folds(data, config.data.folds)
        if config.data.fold >= len(parts):
            raise UsageError("no such fold", expected=f"0 to {len(parts) - 1}", found=str(config.data.fold))
        return parts[config.data.fold]
    splits = data.splits
    return data.train, splits.get("val", splits.get("test"))


def refuse_errors(result: CheckResult, data: Dataset, *, skip_bad: bool) -> None:
    """DataError for what the check calls an error; with ``skip_bad`` only for what no file left out would mend."""
    errors = [problem for problem in result.errors if not skip_bad or problem.kind in UNLEARNABLE]
    if errors:
        raise refusal(errors, data)


def warning_lines(result: CheckResult) -> list[str]:
    """The check's warnings as lines for people: a training that starts all the same must not hide them."""
    lines = []
    for problem in result.warnings:
        lines.append(f"warning: {problem.kind}: {problem.message}")
        if problem.fix:
            lines.append(f"    fix: {problem.fix}")
    return lines


def refusal(errors: Sequence[Any], data: Dataset) -> DataError:
    """The check's errors as one error: the same text as `segwright check` prints."""
    shown = [
        f"{problem.kind}: {problem.message}" + (f" [{', '.join(problem.files[:3])}]" if problem.files else "")
        for problem in errors[:8]
    ]
    more = f"\n    … and {len(errors) - 8} more" if len(errors) > 8 else ""
    fix = next((problem.fix for problem in errors if problem.fix), "")
    if "--skip-bad" not in fix and not any(problem.kind in UNLEARNABLE for problem in errors):
        fix += ("; " if fix else "") + "or leave the files out with --skip-bad"
    return DataError(
        f"the dataset has {len(errors)} problem{'s' if len(errors) != 1 else ''} that would spoil a training",
        found="\n    ".join(shown) + more,
        where=data.root,
        fix=f"{fix}; all of it: segwright check DATA",
    )


def _plan_json(plan: Plan, memory: MemoryProbe | None, in_parts: str = "") -> dict[str, Any]:
    """``plan.json``: the decisions, what was measured of the memory, and what parts of a batch do not share."""
    return {**plan.to_json(), "memory": None if memory is None else memory.to_json(), "in_parts": in_parts}


def replace_out(config: TrainConfig, folder: Path) -> TrainConfig:
    """The config as it is written: with its run folder."""
    return config.with_values({"out": str(folder)}) if config.out is None else config


def _differences(config: TrainConfig, default: TrainConfig) -> dict[str, Any]:
    """Dotted keys whose value is not the default's."""
    ours, base = config.model_dump(), default.model_dump()
    found = {}
    for section, values in ours.items():
        if isinstance(values, dict):
            found.update({f"{section}.{k}": v for k, v in values.items() if v != base[section][k]})
        elif values != base[section]:
            found[section] = values
    return found


def _at(config: TrainConfig, key: str) -> Any:
    node: Any = config.model_dump()
    for part in key.split("."):
        node = node[part]
    return node


__all__ = ["Run", "SegwrightError", "run_training"]
