"""What follows a training on held-out images, once the best weights are chosen and their class scores adjusted.

In order: steps that may change the weights, then those that describe the final ones as attachments of the saved model.
A step is left out with a message if the time of the run does not suffice, or if an earlier sitting has done it; a step
that fails costs a warning, never the model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from segwright.core.progress import progress
from segwright.data.dataset import Split
from segwright.data.records import evenly_spread
from segwright.evaluation.quality import fit_error_model
from segwright.evaluation.temperature import fit_temperature
from segwright.inference.attachments import Attachment
from segwright.inference.predictor import Predictor
from segwright.inference.quality import ATTACHMENT as ERROR_MODEL
from segwright.models.base import SegmentationModel
from segwright.monitoring import reference
from segwright.monitoring.estimate import NAME as ACCURACY
from segwright.monitoring.shifted import IMAGES, KINDS, LEAST_IMAGES, estimator_predictions, make_accuracy
from segwright.training.planning.budget import END_SECONDS, HELD_OUT_IMAGES

REFERENCE_PREDICTIONS = 1.2  # that making a reference costs per image


@dataclass
class HeldOutWork:
    """One sitting's work after a training. ``predictor`` predicts with ``network``.

    ``left``: seconds until the run has to end, None without a limit; ``pace``: seconds per predicted image.
    ``notes``: the record of the training in the saved model, ``attachments``: what it carries; both are added to.
    """

    predictor: Predictor
    network: SegmentationModel
    val: Split
    notes: dict[str, Any]
    attachments: dict[str, Attachment]
    message: Callable[[str], None]
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    left: Callable[[], float | None] = lambda: None
    pace: float = 0.0
    sparse: bool = False  # few pixels of the held-out images are labeled: their scores are not those of whole images
    weights_changed: bool = False  # in this sitting: what was found before is not of these weights
    recalibrated: bool = False  # a step has changed the confidences: scores of before have another calibration
    seconds: dict[str, float] = field(default_factory=dict)  # by step
    scoring: float = 0.0  # seconds that scoring the model again takes, once a step has changed its confidences

    def time_left(self) -> float | None:
        """Seconds for the steps, of :attr:`left` what scoring again does not need; None without a limit."""
        left = self.left()
        return left if left is None or not self.recalibrated else left - self.scoring


@dataclass(frozen=True, kw_only=True)
class Step:
    """``run`` gets the work and the held-out images to use: at least ``least`` and at most ``most`` of them, each of
    which costs ``predictions``. ``first``: predictions that it takes at least, however many images there are; such a
    step ends by itself when the time is over."""

    name: str
    run: Callable[[HeldOutWork, Split], None]
    is_done: Callable[[HeldOutWork], bool]
    predictions: float
    least: int
    most: int
    later: str  # how to do it afterwards
    first: float = 0.0
    whole_masks: bool = False  # it describes scores of whole images, which sparse labels do not give


def finish_on_held_out(work: HeldOutWork) -> None:
    """Do the steps; see the module."""
    if work.weights_changed:
        work.attachments.clear()
    for number, step in enumerate(STEPS):
        if step.is_done(work):
            continue
        if work.sparse and step.whole_masks:
            work.message(f"no {step.name}: it takes held-out images with whole masks; {step.later}")
            continue
        images = _affordable(work, STEPS[number:])
        if images < min(step.least, len(work.val)):
            work.message(
                f"time is short: no {step.name} ({max(work.time_left() or 0.0, 0.0):.0f} s left); {step.later}"
            )
            continue
        started = time.monotonic()
        try:
            step.run(work, _some(work.val, min(images, step.most)))
        except Exception as error:  # the model is trained; what describes it must not cost it
            reason = "; ".join(line.strip() for line in str(error).splitlines())[:300] or type(error).__name__
            work.message(f"warning: no {step.name}: {reason}; {step.later}")
            continue
        work.seconds[step.name] = time.monotonic() - started
    if work.seconds:
        work.notes["held_out"] = {name: round(seconds, 2) for name, seconds in work.seconds.items()}
        parts = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in work.seconds.items())
        work.message(f"from held-out images: {parts}")


def _affordable(work: HeldOutWork, steps: tuple[Step, ...]) -> int:
    """How many held-out images each of the remaining steps can take in the time that is left."""
    left = work.time_left()
    if left is None or work.pace <= 0:
        return len(work.val)
    if steps[0].first:
        return len(work.val) if left > END_SECONDS + work.pace * steps[0].first else 0
    each = work.pace * sum(step.predictions for step in steps if not step.is_done(work))
    return max(0, int((left - END_SECONDS) / each))


def _some(val: Split, count: int) -> Split:
    return val if count >= len(val) else val.subset(evenly_spread(len(val), count), val.name)


def _fit_temperature(work: HeldOutWork, val: Split) -> None:
    found = fit_temperature(work.predictor, work.network, val, message=work.message)
    work.notes["temperature"] = found.to_json()
    if found.kept:
        work.weights_changed = work.recalibrated = True
        work.attachments.clear()


def _fit_error_model(work: HeldOutWork, val: Split) -> None:
    work.attachments[ERROR_MODEL] = fit_error_model(work.predictor, val)


def _make_reference(work: HeldOutWork, val: Split) -> None:
    with progress("reference", len(val)) as advance:
        work.attachments[reference.NAME] = reference.make_reference(
            work.predictor, val, fingerprint=work.fingerprint, advance=advance
        )


def _make_accuracy(work: HeldOutWork, val: Split) -> None:
    known = reference.parse_reference(work.attachments[reference.NAME])
    left = work.time_left()
    with progress("estimator of accuracy", estimator_predictions(len(val))) as advance:
        work.attachments[ACCURACY] = make_accuracy(
            work.predictor, val, known, seconds=None if left is None else left - END_SECONDS, advance=advance
        )


STEPS: tuple[Step, ...] = (
    Step(
        name="temperature",
        run=_fit_temperature,
        is_done=lambda work: "temperature" in work.notes and not work.weights_changed,
        predictions=1.5,
        least=8,
        most=256,
        later="the confidences stay as they are",
    ),
    Step(
        name="error model",
        run=_fit_error_model,
        is_done=lambda work: ERROR_MODEL in work.attachments,
        predictions=3.5,
        least=24,
        most=HELD_OUT_IMAGES,
        later="segwright evaluate MODEL DATA --fit-error-model makes it",
        whole_masks=True,
    ),
    Step(
        name="reference",
        run=_make_reference,
        is_done=lambda work: reference.NAME in work.attachments,
        predictions=REFERENCE_PREDICTIONS,
        least=8,
        most=1_000,
        later="segwright reference MODEL DATA makes it",
    ),
    Step(
        name="estimator of accuracy",
        run=_make_accuracy,
        # Of a few images it would learn nothing: their own accuracy is then what an estimate starts from.
        is_done=lambda work: (
            ACCURACY in work.attachments or reference.NAME not in work.attachments or len(work.val) < LEAST_IMAGES
        ),
        predictions=0.0,
        least=LEAST_IMAGES,
        most=1_000_000,
        later="segwright reference MODEL DATA makes it",
        first=1.3 * IMAGES * len(KINDS),
        whole_masks=True,
    ),
)
