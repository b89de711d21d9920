"""The results of a run: the best model, scored and adjusted, the last one, and the report."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from segwright.core.atomic_io import recover_folder
from segwright.core.counted import as_sentence
from segwright.core.errors import SegwrightError
from segwright.core.progress import duration
from segwright.data.dataset import Split
from segwright.data.records import evenly_spread
from segwright.evaluation.evaluate import Evaluation, evaluate
from segwright.evaluation.report import RunFacts, write_report
from segwright.inference.bundle import Bundle, load_bundle, read_attachments, read_bundle, save_bundle
from segwright.inference.lineage import KEY as LINEAGE
from segwright.inference.lineage import Lineage
from segwright.inference.predictor import Predictor
from segwright.models.base import SegmentationModel
from segwright.training.callbacks.log import read_log
from segwright.training.context import RunContext
from segwright.training.held_out import REFERENCE_PREDICTIONS, HeldOutWork, finish_on_held_out
from segwright.training.judge import judge
from segwright.training.logit_adjustment import Gain, LogitAdjustment, sampled_indices
from segwright.training.planning.budget import END_SECONDS
from segwright.training.planning.checked_data import CheckedData
from segwright.training.planning.draft import Plan
from segwright.training.planning.memory import is_out_of_memory
from segwright.training.state import Progress
from segwright.training.validate import PartOf, Validation

AGAIN = 1.3  # times the seconds of scoring again that are kept back for it: steps end somewhat late
SCORING = 1.4  # times the seconds of predicting an image that scoring it takes
LEAST_SCORED = 4  # images
REFERENCE_IMAGES = 24  # for whose reference time is kept where the scoring is cut: monitoring needs one
FOR_REFERENCE = 0.25  # of the time that is left, at most
TIMED_IMAGES = 3  # on which the time of scoring is measured
CANNOT_WRITE = (OSError, SafetensorError)  # safetensors reports a full disk as its own error


@dataclass(frozen=True)
class RunOutputs:
    """Writes ``model/`` (the best), ``last/`` and ``report.html`` into the run folder.

    ``origin``: of the starting weights, with their license. ``lineage``: of the run.
    """

    plan: Plan
    checked: CheckedData
    context: RunContext
    origin: str
    lineage: Lineage
    baseline: Evaluation | None = None  # of the same training without unlabeled images
    short_of_time: tuple[str, ...] = ()  # what the minutes were not enough for before the training began
    val_part_of: PartOf | None = None  # the part of the validation split that an image is of
    no_score: list[str] = field(default_factory=list)  # why the best model was not scored

    def message(self, line: str) -> None:
        """Show a line for people."""
        self.context.display.message(line)

    @property
    def folder(self) -> Path:
        return self.context.folder

    def keep_best(self, network: SegmentationModel, progress: Progress, found: Validation) -> None:
        """Save the best network so far; a full disk is reported, and the previous model stays."""
        metrics = {"val_miou": found.scores.miou, "val_pixel_accuracy": found.scores.pixel_accuracy}
        try:
            save_bundle(self.folder / "model", network, self._bundle({**metrics, "step": progress.step}))
        except CANNOT_WRITE as error:
            self.message(f"warning: the model could not be written ({error}); the one before is whole")

    def keep_last(self, network: SegmentationModel, step: int) -> None:
        """Save the last weights; they become the run's model as well if no validation chose one."""
        recover_folder(self.folder / "model")
        names = ["last"]
        if not self._has_scored_model():
            names.insert(0, "model")
            why = "there are no validation images" if self.checked.val is None else "no validation gave a score"
            self.message(f"the model is that of the last step: {why}")
        for name in names:
            metrics = {"step": step} if name == "last" or self.checked.val is not None else {}
            try:
                save_bundle(self.folder / name, network, self._bundle(metrics))
            except CANNOT_WRITE as error:
                self.message(f"warning: {self.folder / name} could not be written ({error}); the checkpoints are whole")

    def score(self, seconds: float, left: float | None = None, pace: float = 0.0) -> Evaluation | None:
        """Score the best model, write the scores into its bundle, and write the report.

        ``seconds``: of training. ``left``: seconds until the run has to end (None: no limit), at ``pace`` seconds per
        predicted image. If they do not suffice, class scores are not adjusted, fewer images are scored, and steps on
        held-out images (:mod:`segwright.training.held_out`) are left out; all of it is reported.

        None if there is nothing to score with, or not enough memory: the model is saved either way.
        """
        if not (self.folder / "model").exists():
            return None
        if self.checked.val is None or not self._has_scored_model():
            why = "there are no validation images" if self.checked.val is None else "no validation gave one"
            self.no_score.append(why)
            self.message(f"model: {self.folder / 'model'}")
            return None
        try:
            end = None if left is None else time.monotonic() + left
            if left is not None and end is not None and pace > 0:
                pace = max(pace, self._scoring_pace(self.checked.val) / SCORING)
                left = end - time.monotonic()
            val = self._affordable(self.checked.val, left, pace)
            adjust = self._time_to_adjust(len(val), left, pace)
            evaluation = self._score_best(val, adjust, lambda: None if end is None else end - time.monotonic(), pace)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self.no_score.append("scoring ran out of memory")
            self.message(
                f"out of memory while scoring the best model, which is saved: {self.folder / 'model'}; "
                "segwright evaluate scores it, with --device cpu where need be"
            )
            return None
        try:
            write_report(self.folder / "report.html", evaluation, self.checked.val, self._facts())
        except CANNOT_WRITE as error:
            self.message(f"warning: the report could not be written ({error})")
        low, high = evaluation.miou_ci95
        over = evaluation.independent
        span = f"95 %: {low:.3f} to {high:.3f} over {over}"
        self.message(f"val mIoU {evaluation.miou:.3f} ({span}), {duration(seconds)} of training")
        if over.note:
            self.message(f"note: {over.note}")
        self.message(f"model: {self.folder / 'model'}\nreport: {self.folder / 'report.html'}")
        return evaluation

    def _has_scored_model(self) -> bool:
        """Whether the run's model was chosen by a validation."""
        try:
            return "val_miou" in read_bundle(self.folder / "model").metrics
        except SegwrightError:
            return False

    def _scoring_pace(self, val: Split) -> float:
        """Seconds that scoring an image takes now, measured on a few: a validation batch is no measure of it, and the
        machine may be busier than then."""
        network, _ = load_bundle(self.folder / "model", trust_external=True)
        predictor = Predictor.from_model(network, self.checked.data.label_space, str(self.context.device))
        few = val.subset(evenly_spread(len(val), min(TIMED_IMAGES, len(val))), val.name)
        predictor.predict(few.read_image(0))  # compiles, allocates
        started = time.monotonic()
        evaluate(predictor, few)
        return (time.monotonic() - started) / len(few)

    def _affordable(self, val: Split, left: float | None, pace: float) -> Split:
        """The validation images that can be scored in the time that is left."""
        if left is None or pace <= 0:
            return val
        free = left - END_SECONDS
        free -= min(FOR_REFERENCE * free, REFERENCE_PREDICTIONS * pace * min(len(val), REFERENCE_IMAGES))
        count = max(LEAST_SCORED, int(free / (SCORING * pace)))
        if count >= len(val):
            return val
        self.message(
            f"time is short: the model is scored on {count} of {len(val)} validation images; "
            "segwright evaluate scores it on all"
        )
        return val.nested(count)

    def _time_to_adjust(self, count: int, left: float | None, pace: float) -> bool:
        """Whether there is time to search for class offsets, and to score twice if they are not kept."""
        if left is None or self.plan.config.training.logit_adjustment is not True:
            return True
        needed = END_SECONDS + pace * (2 * SCORING * count + 1.2 * len(sampled_indices(len(self.checked.train))))
        if left < needed:
            self.message(
                f"time is short: class scores are not adjusted ({max(left, 0):.0f} s left, about {needed:.0f} s needed)"
            )
        return left >= needed

    def _score_best(
        self, val: Split, adjust: bool = True, left: Callable[[], float | None] = lambda: None, pace: float = 0.0
    ) -> Evaluation:
        """Score the best model with intervals, adjust its class scores if that helps, describe it from held-out images,
        and save it with all of that."""
        network, bundle = load_bundle(self.folder / "model", trust_external=True)
        attachments = read_attachments(self.folder / "model")
        predictor = Predictor.from_model(network, self.checked.data.label_space, str(self.context.device))
        adjustment, noted, shifted = None, dict(bundle.training), False
        # A run that was killed after this point has done it already.
        wanted = adjust and self.plan.config.training.logit_adjustment is True
        if wanted and "logit_adjustment" not in bundle.training:
            adjustment = LogitAdjustment(predictor, network, self.checked.train)
        evaluation = evaluate(predictor, val)
        if adjustment is not None and adjustment.class_offsets is None:
            self.message(f"class scores stay as they are: {adjustment.why_not}")
        elif adjustment is not None:
            # The same predictor on the same images: neither precision nor window nor choice of images differs.
            adjustment.make()
            gain = Gain(evaluation, evaluate(predictor, val), self.val_part_of)
            self.message(f"class scores shifted to the best mean IoU of training images ({adjustment}): {gain}")
            noted["logit_adjustment"] = {"shifts": adjustment.to_json(), **gain.to_json()}
            shifted = gain.kept
            if gain.kept:
                evaluation = gain.after
            else:
                adjustment.undo()
        work = HeldOutWork(
            predictor, network, self.checked.val or val, noted, attachments, self.message,
            fingerprint=self.checked.fingerprint.to_json(), left=left, pace=pace,
            weights_changed=shifted, sparse=self.checked.val_sparse, scoring=AGAIN * SCORING * pace * len(val),
        )  # fmt: skip
        finish_on_held_out(work)
        if work.recalibrated:
            remaining = left()
            if remaining is None or remaining > END_SECONDS + SCORING * pace * len(val):
                evaluation = evaluate(predictor, val)  # labels are the same, confidences are not
            else:
                why = "time is short: the model was scored before its temperature; segwright evaluate computes it"
                self.message(f"no calibration error in the report: {why}")
                evaluation = evaluation.without_confidences(why)
        noted |= self._self_training(evaluation)
        figures = {"val_miou": evaluation.miou, "val_miou_ci95": list(evaluation.miou_ci95)}
        metrics = {**bundle.metrics, **figures, "val_pixel_accuracy": evaluation.pixel_accuracy}
        metrics.pop("val_ece", None)
        if evaluation.calibration is not None:
            metrics["val_ece"] = evaluation.calibration.ece()
        try:
            described = replace(bundle, metrics=metrics, training=noted)
            save_bundle(self.folder / "model", network, described, work.attachments)
        except CANNOT_WRITE as error:
            self.message(f"warning: the scores could not be put into the model ({error}); the model itself is whole")
        return evaluation

    def _self_training(self, evaluation: Evaluation) -> dict[str, Any]:
        """The record of self-training for the bundle, with the verdict if there is one; empty without it."""
        unlabeled = self.checked.unlabeled
        if unlabeled is None:
            return {}
        found: dict[str, Any] = {"images": len(unlabeled), "left_out": dict(unlabeled.left_out)}
        accepted = accepted_share(read_log(self.folder))
        if accepted is not None:
            found["accepted"] = accepted
            self.message(f"self-training: {accepted:.0%} of the unlabeled pixels had a label that counts, at the end")
        judgment = None if self.baseline is None else judge(evaluation, self.baseline)
        if judgment is not None:
            found["judged"] = judgment.to_json()
            self.message(judgment.sentence())
        else:
            why = "--set unlabeled.judge=true trains without them, too, and compares"
            if self.baseline is not None:
                why = "the two models were scored on different images; segwright compare scores both on the same"
            elif self.plan.config.unlabeled.judge:
                why = "the model without them has no score; segwright compare scores both"
            self.message(f"whether the unlabeled images helped was not measured: {why}")
        return {"self_training": found}

    def _bundle(self, metrics: Mapping[str, Any]) -> Bundle:
        config, value_range = self.plan.config, self.checked.data.value_range
        arguments: dict[str, Any] = {**config.model.arguments, "in_channels": config.model.in_channels}
        if config.model.encoder is not None:
            arguments["encoder"] = config.model.encoder
        return Bundle(
            architecture=config.model.name,
            label_space=replace(
                self.checked.data.label_space,
                pairs=config.augment.flip_pairs if config.augment.flip_pairs != "auto" else (),
            ),
            arguments=arguments,
            preprocessing={
                "channels": config.model.in_channels,
                "value_range": None if value_range is None else value_range.to_json(),
                # What a pixel of the data's own masks is: `predict --mask-format values` writes numbers alone.
                "masks": "colors" if getattr(self.checked.data.reader, "color_table", None) is not None else "values",
            },
            metrics=metrics,
            training={
                "data": str(self.checked.data.root.resolve()),
                "format": self.checked.data.format,
                "command": self.context.command,
                "config": config.model_dump(mode="json"),
                "fingerprint": self.checked.fingerprint.to_json(),
                LINEAGE: self.lineage.record(),
            },
            licenses={"weights": self.origin},
        )

    def _facts(self) -> RunFacts:
        bundle, model = read_bundle(self.folder / "model"), self.plan.config.model
        network = " ".join(filter(None, (model.name, str(model.arguments.get("variant", "")))))
        return RunFacts(
            title=f"{model.name} on {self.checked.data.root.resolve().name}",
            command=self.context.command,
            history=read_log(self.folder),
            short_of_time=[as_sentence(line) for line in self.short_of_time],
            afterwards=" ".join(
                filter(
                    None,
                    (
                        _afterwards(bundle.training.get("logit_adjustment", {})),
                        _calibrated(bundle.training.get("temperature", {})),
                        _self_trained(bundle.training.get("self_training", {})),
                    ),
                )
            ),
            model={"network": network, **({"encoder": model.encoder} if model.encoder else {})},
            plan=[(d.setting, str(d.value), d.reason) for d in self.plan.entries],
            versions=dict(bundle.versions),
            licenses=dict(bundle.licenses),
        )


def _afterwards(adjusted: Mapping[str, Any]) -> str:
    """The report's sentence on class offsets, from the record in the bundle; empty if none were tried."""
    if not adjusted:
        return ""
    before, after = (f"{100 * value:.1f}" for value in adjusted["val_miou"])
    low, high = adjusted.get("difference_ci95") or (None, None)
    gain = f"the validation mean IoU went from {before} to {after}"
    if low is not None and high is not None:
        drawn = f"{adjusted['interval_count']} {adjusted['interval_over']}"
        gain += f" (95 % interval of the difference: {100 * low:+.2f} to {100 * high:+.2f} points over {drawn})"
    if adjusted.get("val_ece"):
        gain += ", the calibration error from {:.1f} to {:.1f}".format(*(100 * value for value in adjusted["val_ece"]))
    if adjusted["kept"]:
        return f"Class scores were shifted afterwards: {gain}. All figures here are with the shifts."
    why = adjusted.get("why_not") or "the mean IoU did not rise"
    return f"A shift of the class scores was tried afterwards and not kept, since {why}: {gain}."


def accepted_share(history: Sequence[Mapping[str, Any]]) -> float | None:
    """The mean share of unlabeled pixels with a label that counts, over the last tenth of the updates that had any."""
    shares = [float(entry["accepted"]) for entry in history if isinstance(entry.get("accepted"), int | float)]
    last = shares[-max(1, len(shares) // 10) :]
    return sum(last) / len(last) if last else None


def _self_trained(found: Mapping[str, Any]) -> str:
    """The report's sentences on self-training, from the record in the bundle; empty without it."""
    if not found:
        return ""
    text = f"The model was also trained on {found['images']} unlabeled images"
    if "accepted" in found:
        text += f"; at the end, {100 * found['accepted']:.0f} % of their pixels had a label that counts"
    judged = found.get("judged")
    if not judged:
        return f"{text}. Whether they helped was not measured (unlabeled.judge)."
    return f"{text}. {as_sentence(judged['sentence'])}"


def _calibrated(found: Mapping[str, Any]) -> str:
    """The report's sentence on the temperature, from the record in the bundle; empty if none was kept."""
    if not found.get("kept"):
        return ""
    before, after = found["before"], found["after"]
    return (
        f"Logits are divided by a temperature of {found['temperature']:.3f}: the log loss of held-out images goes from "
        f"{before['nll']:.3f} to {after['nll']:.3f}, their calibration error from {100 * before['ece']:.1f} to "
        f"{100 * after['ece']:.1f}, and no label changes."
    )
