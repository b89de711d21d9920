"""Search for a better config than the planned one, within a time: Optuna's TPE (Bergstra et al. 2011), median pruning.

Trial 0 is the unchanged plan, the baseline of every claim of improvement. A trial is a whole
training of ``trial_minutes``; its score is the validation mIoU of its best model. Trials below the median at the
same fraction of their time are ended early. At the end the default and the winner are trained once more, with another
seed and ``final_minutes`` each, and compared image by image: the winner was selected among many, so its score in
the search is biased upwards. Trials are trained by the plan for those final minutes, shortened.

The folder holds ``study.db`` (SQLite: a stopped search can be resumed), ``trials/``, ``final-default/``,
``final-winner/``, ``best.yaml``, ``study.html`` and ``tune.json``.
"""

from __future__ import annotations

import json
import shlex
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from segwright.core.atomic_io import lock_folder, write_json, write_text
from segwright.core.counted import counted
from segwright.core.errors import DataError, MissingExtraError, ModelError, SegwrightError, TrainingError, UsageError
from segwright.core.progress import duration
from segwright.data.check.runner import check_dataset
from segwright.data.dataset import Dataset, Split
from segwright.evaluation.compare import verdict
from segwright.evaluation.evaluate import Evaluation, evaluate
from segwright.evaluation.pairing import Pairing, pair_evaluations, too_few
from segwright.evaluation.sequences import BootstrapUnits
from segwright.inference.predictor import load
from segwright.metrics.bootstrap import PairedDifference
from segwright.metrics.confusion import labeled_miou
from segwright.search.folds import no_score
from segwright.search.search_space import (
    ARCHITECTURES,
    apply_params,
    architecture_label,
    architecture_values,
    default_params,
    describe_params,
    recipe,
    suggest,
)
from segwright.search.study import Study, Trial
from segwright.search.trial_scores import TrialScores, compare_trials, keep_scored
from segwright.search.tune_page import write_study_page
from segwright.training.callbacks.log import Display
from segwright.training.config import TrainConfig, build
from segwright.training.run import Run, run_training, training_splits, warning_lines
from segwright.training.run_dir import refuse_occupied_folder, refuse_second_run, remove_begun
from segwright.training.state import Progress
from segwright.training.validate import Validation

TRIALS_IN_BUDGET = 12  # full trainings that the time is divided into, the two of the comparison included
STARTUP_TRIALS = 5  # drawn at random, and never pruned, before the sampler and the pruner have data
PRUNE_STEPS = 10  # trials are compared at tenths of their time
LEAST_TENTHS = 2  # tenths that every trial gets
SCORED_AGAIN = 20  # images at least, where the two that are compared have too few in common
SIGNALS = ("SIGINT", "SIGTERM")

Message = Callable[[str], None]


def tune(
    data: Dataset,
    config: TrainConfig,
    folder: Path,
    *,
    minutes: float,
    trial_minutes: float | None = None,
    final_minutes: float | None = None,
    architectures: Sequence[str] = (),
    resume: bool = False,
    message: Message = lambda line: None,
) -> Study:
    """Search for ``minutes`` in all. ``config`` is the default that is searched around: what it gives stays the
    default, what it leaves out is planned. ``architectures``: ``name``, ``name:encoder`` or ``leannet:variant``;
    ``trial_minutes``: of one trial, a twelfth of the time when left out; ``final_minutes``: of each of the two
    trainings that are compared at the end, as long as a trial when left out.

    Raises MissingExtraError without Optuna, UsageError for a time that is too short or a folder in use, DataError
    where there is no validation split.
    """
    optuna = require_optuna()
    each = trial_minutes if trial_minutes is not None else minutes / TRIALS_IN_BUDGET
    final = final_minutes if final_minutes is not None else each
    if minutes < (each + 2 * final) * 0.999:
        raise UsageError(
            "the time does not hold a search",
            expected=f"{each + 2 * final:g} minutes or more: a trial of {each:g}, default and winner of {final:g}",
            found=f"{minutes:g} minutes",
            fix="more --minutes, or fewer --trial-minutes and --final-minutes",
        )
    if training_splits(data, config)[1] is None:
        raise DataError("tuning needs a validation split", where=data.root, fix="segwright convert can make splits")
    refuse_occupied_folder(folder, data)
    with lock_folder(folder):
        if not (folder / "study.db").exists():
            refuse_second_run(folder)
        elif not resume:
            raise UsageError("the folder holds a search already", where=folder, fix="--resume, or another --out")
        return _StudyRunner(optuna, data, config, folder, (minutes, each, final), architectures, message).run()


def require_optuna() -> Any:
    """Import Optuna and silence its log; MissingExtraError without it."""
    try:
        import optuna
    except ImportError as error:
        raise MissingExtraError(
            "tuning needs Optuna", found="it is not installed", fix="pip install 'segwright[tune]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


class _StudyRunner:
    """Runs the trials of :func:`tune` and the comparison."""

    def __init__(
        self,
        optuna: Any,
        data: Dataset,
        config: TrainConfig,
        folder: Path,
        minutes: tuple[float, float, float],
        architectures: Sequence[str],
        message: Message,
    ) -> None:
        self.optuna, self.data, self.folder, self.message = optuna, data, folder, message
        self.minutes, self.each, self.final = minutes  # of the search, of a trial, of each of the two compared
        self.config = config.with_values({"training.minutes": self.final, "training.epochs": None, "out": None})
        self.checked = check_dataset(data)
        for line in warning_lines(self.checked):
            message(line)
        self.stopped_by: str | None = None
        self.scores = TrialScores()
        self.study = self._open_study(config.training.seed)
        self.base = self._plan("")
        self.architectures = self._choose_architectures(architectures)

    def run(self) -> Study:
        """Run trials until only the time for the comparison is left, then compare."""
        self._requeue_interrupted()
        while self.stopped_by is None:
            left = (self.minutes - 2 * self.final) * 60 - self._seconds_used()
            if self._completed() and left < self.each * 60 * 0.9:
                break
            self._run_trial(left)
        return self._conclude()

    # -- the study -------------------------------------------------------------------------------------------------

    def _open_study(self, seed: int) -> Any:
        optuna = self.optuna
        study = optuna.create_study(
            storage=f"sqlite:///{(self.folder / 'study.db').resolve()}",
            study_name="segwright",
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=LEAST_TENTHS),
        )
        # A resumed search must not draw the same numbers as in its first sitting.
        drawn = len(study.get_trials(deepcopy=False))
        study.sampler = optuna.samplers.TPESampler(seed=seed + drawn, n_startup_trials=STARTUP_TRIALS)
        return study

    def _choose_architectures(self, asked: Sequence[str]) -> tuple[str, ...]:
        """The architectures, the default's first; the same in every sitting, as the sampler requires."""
        stored = self.study.user_attrs.get("architectures")
        default = architecture_label(self.base)
        wanted = asked or (ARCHITECTURES if self.config.model.name == "auto" else ())
        names = tuple(dict.fromkeys([default, *wanted]))
        if stored is None:
            self.study.set_user_attr("architectures", list(names))
            return names
        if asked and names != tuple(stored):
            raise UsageError(
                "the search was begun with other architectures",
                expected=", ".join(stored),
                found=", ".join(names),
                fix="leave --architectures out, or begin another search with another --out",
            )
        return tuple(stored)

    def _requeue_interrupted(self) -> None:
        """Enqueue the default as trial 0, and every trial that was killed once more."""
        state = self.optuna.trial.TrialState
        trials = self.study.get_trials(deepcopy=False)
        if not trials:
            self.study.enqueue_trial(default_params(self.base, self.architectures[0]))
        begun_again = set(self.study.user_attrs.get("begun again", ()))
        for trial in trials:
            cut_off = trial.state == state.RUNNING
            if cut_off:
                self.study.tell(trial.number, state=state.FAIL)
            if (cut_off or trial.user_attrs.get("interrupted")) and trial.params and trial.number not in begun_again:
                self.study.enqueue_trial(dict(trial.params))
                begun_again.add(trial.number)
        self.study.set_user_attr("begun again", sorted(begun_again))

    def _seconds_used(self) -> float:
        return sum(float(t.user_attrs.get("seconds", 0.0)) for t in self.study.get_trials(deepcopy=False))

    def _completed(self) -> list[Any]:
        state = self.optuna.trial.TrialState.COMPLETE
        return [trial for trial in self.study.get_trials(deepcopy=False) if trial.state == state]

    # -- configs ---------------------------------------------------------------------------------------------------

    def _plan(self, architecture: str) -> TrainConfig:
        """The plan of an architecture ("": the default's), made once: later sittings search around the same plan."""
        key = f"plan of {architecture or 'the default'}"
        stored = self.study.user_attrs.get(key)
        if stored is not None:
            return build(TrainConfig, json.loads(stored)).with_values({"training.minutes": self.final})
        config = self.config.with_values(architecture_values(architecture) if architecture else {})
        self.message(f"planning {architecture or 'the default'}")
        run = run_training(self.data, config, dry_run=True, display=Display(show=False), checked=self.checked)
        self.study.set_user_attr(key, json.dumps(run.plan.config.model_dump(mode="json")))
        return run.plan.config

    def _trial_config(self, params: Mapping[str, Any]) -> TrainConfig:
        architecture = str(params["architecture"])
        base = self.base if architecture == self.architectures[0] else self._plan(architecture)
        return apply_params(base, params)

    # -- trials ----------------------------------------------------------------------------------------------------

    def _run_trial(self, left: float) -> None:
        optuna, state = self.optuna, self.optuna.trial.TrialState
        trial = self.study.ask()
        params = suggest(trial, self.architectures, self.base)
        self.message(f"trial {trial.number}: {describe_params(params)}  ({duration(max(left, 0))} of searching left)")
        started = time.monotonic()
        folder = self._trial_folder(trial.number)
        try:
            config = self._trial_config(params).with_values({"training.minutes": self.each})
            run = self._train(config, folder, self._pruner(trial))
        except (TrainingError, ModelError) as error:
            if self._failed(trial, started, str(error).splitlines()[0]):
                return
            raise
        if run.stopped_by == "on_validation":
            self.message("  ended early: below the median of the trials before it")
            self._tell(trial, started, state=optuna.trial.TrialState.PRUNED)
        elif run.stopped_by in SIGNALS:
            self.stopped_by = run.stopped_by
            trial.set_user_attr("interrupted", True)
            self._tell(trial, started, state=state.FAIL)
        elif run.evaluation is None:
            why = no_score(run)
            if not self._failed(trial, started, why):
                raise TrainingError("the default has no score", found=why, where=folder, fix="--resume repeats it")
        else:
            if not keep_scored(folder, run.evaluation):
                self.message("  warning: the scores of its images could not be written")
            images, total = len(run.evaluation.ids), len(self._val())
            part = f" on {images} of {total} images" if images < total else ""
            self.message(f"  val mIoU {run.evaluation.miou:.3f}{part}")
            self._tell(trial, started, labeled_miou(run.evaluation.counts))

    def _failed(self, trial: Any, started: float, why: str) -> bool:
        """Record a failed trial; False if it ends the search: without the default there is nothing to compare with."""
        self.message(f"  failed: {why}")
        trial.set_user_attr("note", why)
        trial.set_user_attr("failed", True)
        goes_on = bool(self._completed())
        if not goes_on:
            trial.set_user_attr("interrupted", True)  # the default is taken again by --resume
        # Recorded as pruned, so that the sampler avoids such settings.
        state = self.optuna.trial.TrialState
        self._tell(trial, started, state=state.PRUNED if goes_on else state.FAIL)
        return goes_on

    def _trial_folder(self, number: int) -> Path:
        return self.folder / "trials" / f"trial-{number:04d}"

    def _tell(self, trial: Any, started: float, value: float | None = None, state: Any = None) -> None:
        trial.set_user_attr("seconds", time.monotonic() - started)
        self.study.tell(trial, value, state=state)

    def _train(self, config: TrainConfig, folder: Path, watch: Callable[[Progress, Validation], bool] | None) -> Run:
        remove_begun(folder)  # of a trial that was killed
        run = run_training(
            self.data,
            config.with_values({"out": str(folder)}),
            command=f"segwright tune {shlex.quote(str(self.data.root))}",
            started=time.monotonic(),
            display=Display(brief=True),
            checked=self.checked,
            on_validation=watch,
        )
        for name in ("checkpoints", "last", "validation"):  # a trial is never resumed: free the disk
            shutil.rmtree(folder / name, ignore_errors=True)
        return run

    def _pruner(self, trial: Any) -> Callable[[Progress, Validation], bool]:
        reported = 0

        def watch(progress: Progress, found: Validation) -> bool:
            nonlocal reported
            tenth = min(int(PRUNE_STEPS * progress.seconds / (self.each * 60)), PRUNE_STEPS - 1)
            # Validations come at irregular times: the best so far counts for every tenth since the last.
            for step in range(reported + 1, tenth + 1):
                trial.report(progress.best_miou, step)
            reported = max(reported, tenth)
            return bool(trial.number) and reported > 0 and bool(trial.should_prune())

        return watch

    # -- the end ---------------------------------------------------------------------------------------------------

    def _conclude(self) -> Study:
        done = self._completed()
        if not done:
            raise TrainingError(
                "the search was stopped before its first trial ended", where=self.folder, fix="--resume goes on"
            )
        self.scores = compare_trials({trial.number: self._trial_folder(trial.number) for trial in done})
        best = max(done, key=lambda trial: self.scores.miou.get(trial.number, float(trial.value)))
        winner = self._trial_config(best.params)
        if self.stopped_by is not None:
            why = f"stopped by {self.stopped_by} before the winner was compared with the default; --resume goes on"
            return self._write(self._not_compared(best, winner, why))
        if best.number == 0 or winner == self.base:
            write_text(self.folder / "best.yaml", recipe(self.base).to_yaml())
            count = len(self.study.get_trials(deepcopy=False)) - 1
            sentence = f"the search did not beat the default: none of {count} trials scored higher"
            return self._write(self._record(best, sentence, False))
        # The trials are written first: whatever ends the comparison, they are not lost.
        why = "the winner is not compared with the default yet; --resume goes on"
        self._write(self._not_compared(best, winner, why))
        return self._write(self._compared(best, winner))

    def _write(self, study: Study) -> Study:
        write_json(self.folder / "tune.json", study.to_json())
        write_study_page(self.folder / "study.html", study)
        return study

    def _not_compared(self, best: Any, winner: TrainConfig, sentence: str) -> Study:
        write_text(self.folder / "best.yaml", recipe(winner).to_yaml())
        return self._record(best, sentence, None)

    def _compared(self, best: Any, winner: TrainConfig) -> Study:
        self.message(
            f"training the default and trial {best.number} once more, for {duration(60 * self.final)} each and with "
            "another seed, to compare them"
        )
        paired = self._pair_finals(winner)
        total = len(self._val())
        if isinstance(paired, str):
            self.stopped_by = self.stopped_by or "no score"
            sentence = f"{paired} before the winner was compared with the default; --resume goes on"
            return self._not_compared(best, winner, sentence)
        d = paired.difference()
        write_text(self.folder / "best.yaml", recipe(winner if d.difference > 0 else self.base).to_yaml())
        images = "" if len(paired.ids) >= total else f"{len(paired.ids)} of {total} validation images"
        return self._record(
            best,
            conclusion(best.number, d, self.final, paired.over, images),
            d.clear and d.low > 0,
            default_miou=d.miou_a,
            winner_miou=d.miou_b,
            difference=d,
            independent=paired.over,
            compared_images=len(paired.ids),
        )

    def _pair_finals(self, winner: TrainConfig) -> Pairing | str:
        """Train the two, and pair their scores; the reason where one of them has none."""
        runs = []
        for name, config in (("default", self.base), ("winner", winner)):
            try:
                run = self._final_run(name, config)
            except SegwrightError as error:
                return f"the {name} failed ({str(error).splitlines()[0]})"
            if isinstance(run, str):
                return run
            runs.append(run)
        paired = pair_evaluations(*runs)
        if too_few(paired, len(self._val())):
            paired = self._scored_again(runs)
        return paired or "too few images were common to both"

    def _final_run(self, name: str, config: TrainConfig) -> Evaluation | str:
        """Train for the comparison, or score the model of an earlier sitting; without a score, why."""
        folder = self.folder / f"final-{name}"
        settings = {"settings": recipe(config).to_yaml(), "minutes": self.final}
        if _done(folder / "done.json", settings):
            return self._scored(name, self._val())
        config = config.with_values({"training.seed": config.training.seed + 1})
        run = self._train(config, folder, None)
        if run.evaluation is None:
            self.stopped_by = run.stopped_by if run.stopped_by in SIGNALS else None
            return f"stopped by {self.stopped_by}" if self.stopped_by else f"the {name} had {no_score(run)}"
        write_json(folder / "done.json", {"val_miou": run.evaluation.miou, **settings})
        self.message(f"  {name}: val mIoU {run.evaluation.miou:.3f}")
        return run.evaluation

    def _scored(self, name: str, split: Split) -> Evaluation:
        model = load(self.folder / f"final-{name}", post="none", trust_external=True)
        return evaluate(model, split, skip_bad=self.config.data.skip_bad)

    def _scored_again(self, runs: Sequence[Evaluation]) -> Pairing | None:
        """Score both final models on the same images; None, with a message, if that is impossible."""
        val = self._val()
        count = min(len(val), max(SCORED_AGAIN, *(len(run.ids) for run in runs)))
        self.message(f"the two were scored on different images: both are scored again, on {counted(count, 'image')}")
        split = val.nested(count)
        try:
            return pair_evaluations(*(self._scored(name, split) for name in ("default", "winner")))
        except SegwrightError as error:
            self.message(f"  {str(error).splitlines()[0]}")
            return None

    def _val(self) -> Split:
        val = training_splits(self.data, self.config)[1]
        assert val is not None
        return val

    def _record(self, best: Any, sentence: str, beats: bool | None, **figures: Any) -> Study:
        all_trials = [from_optuna(trial) for trial in self.study.get_trials(deepcopy=False) if trial.params]
        trials = {one.number: replace(one, miou=self.scores.miou.get(one.number, one.miou)) for one in all_trials}
        return Study(
            self.folder,
            tuple(trials.values()),
            trials[best.number],
            sentence,
            beats,
            self.each,
            final_minutes=self.final,
            importance=importances(self.optuna, self.study),
            notes=tuple(filter(None, [self.scores.note])),
            stopped_by=self.stopped_by,
            **figures,
        )


# ---------------------------------------------------------------------------------------------------------------------


def from_optuna(frozen: Any) -> Trial:
    """Convert a trial of Optuna."""
    state = {"COMPLETE": "complete", "PRUNED": "pruned"}.get(frozen.state.name, "failed")
    if frozen.user_attrs.get("failed"):
        state = "failed"
    so_far = max(frozen.intermediate_values.values(), default=None)
    return Trial(
        frozen.number,
        state,
        float(frozen.value) if state == "complete" else so_far,
        dict(frozen.params),
        dict(frozen.intermediate_values),
        float(frozen.user_attrs.get("seconds", 0.0)),
        str(frozen.user_attrs.get("note", "")),
    )


def _done(path: Path, settings: Mapping[str, Any]) -> bool:
    """Whether an earlier sitting finished a final training of these settings; a search that went on may have others."""
    if not path.exists():
        return False
    stored = json.loads(path.read_text(encoding="utf-8"))
    return all(stored.get(key, value) == value for key, value in settings.items())  # earlier versions had none


def importances(optuna: Any, study: Any) -> dict[str, float]:
    """Importance of each parameter (PED-ANOVA, Watanabe et al. 2023), largest first; empty for too few trials."""
    if len([t for t in study.get_trials(deepcopy=False) if t.state.name == "COMPLETE"]) < 4:
        return {}
    try:
        found = optuna.importance.get_param_importances(
            study, evaluator=optuna.importance.PedAnovaImportanceEvaluator(evaluate_on_local=True)
        )
    except (ValueError, RuntimeError, TypeError):
        return {}  # all trials alike
    return {name: float(value) for name, value in found.items() if value == value}


def conclusion(
    number: int, d: PairedDifference, minutes: float, over: BootstrapUnits | None = None, images: str = ""
) -> str:
    """The conclusion in one sentence; ``over``: the units that the interval is drawn over; ``images``: how many of the
    validation images it is about, if not all."""
    found = verdict(d, "the default", over).removesuffix(".")
    found += f"; {over.note}" if over is not None and over.note else ""
    trained = f"both trained once more for {duration(60 * minutes)} with another seed"
    trained += f", compared on {images}" if images else ""
    if d.clear and d.low > 0:
        return f"trial {number} beats the default ({trained}): {found}"
    if d.difference > 0:
        return (
            f"trial {number} did not clearly beat the default ({trained}): {found}; "
            "best.yaml holds the trial's settings"
        )
    return f"trial {number} did not beat the default ({trained}): {found}; best.yaml holds the default's settings"
