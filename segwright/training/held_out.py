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
from segwright.inference.attachments import Attachment
from segwright.inference.predictor import Predictor
from segwright.models.base import SegmentationModel
from segwright.monitoring import reference
from segwright.monitoring.estimate import NAME as ACCURACY
from segwright.monitoring.shifted import LEAST_IMAGES, estimator_predictions, make_accuracy
from segwright.training.planning.budget import END_SECONDS, REFERENCE_IMAGES


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
    weights_changed: bool = False  # in this sitting: attachments of before are not of these weights
    seconds: dict[str, float] = field(default_factory=dict)  # by step


@dataclass(frozen=True)
class Step:
    """``predictions``: what it costs, in predicted images, for so many validation images."""

    name: str
    run: Callable[[HeldOutWork], None]
    is_done: Callable[[HeldOutWork], bool]
    predictions: Callable[[int], float]
    later: str  # how to do it afterwards


def finish_on_held_out(work: HeldOutWork) -> None:
    """Do the steps; see the module."""
    if work.weights_changed:
        work.attachments.clear()
    for step in STEPS:
        if step.is_done(work):
            continue
        left, needed = work.left(), END_SECONDS + work.pace * step.predictions(len(work.val))
        if left is not None and left < needed:
            work.message(
                f"time is short: no {step.name} ({left:.0f} s left, about {needed:.0f} s needed); {step.later}"
            )
            continue
        started = time.monotonic()
        try:
            step.run(work)
        except Exception as error:  # the model is trained; what describes it must not cost it
            reason = str(error).replace("\n", "; ")[:300] or type(error).__name__
            work.message(f"warning: no {step.name}: {reason}; {step.later}")
            continue
        work.seconds[step.name] = time.monotonic() - started
    if work.seconds:
        work.notes["held_out"] = {name: round(seconds, 2) for name, seconds in work.seconds.items()}
        parts = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in work.seconds.items())
        work.message(f"from held-out images: {parts}")


def _make_reference(work: HeldOutWork) -> None:
    with progress("reference", min(len(work.val), REFERENCE_IMAGES)) as advance:
        work.attachments[reference.NAME] = reference.make_reference(
            work.predictor, work.val, max_images=REFERENCE_IMAGES, fingerprint=work.fingerprint, advance=advance
        )


def _make_accuracy(work: HeldOutWork) -> None:
    known = reference.parse_reference(work.attachments[reference.NAME])
    left = work.left()
    with progress("estimator of accuracy", estimator_predictions(len(work.val))) as advance:
        work.attachments[ACCURACY] = make_accuracy(
            work.predictor, work.val, known, seconds=None if left is None else left - END_SECONDS, advance=advance
        )


STEPS: tuple[Step, ...] = (
    Step(
        "reference",
        _make_reference,
        lambda work: reference.NAME in work.attachments,
        lambda count: 1.2 * min(count, REFERENCE_IMAGES),
        "segwright reference MODEL DATA makes it",
    ),
    Step(
        "estimator of accuracy",
        _make_accuracy,
        # Of a few images it would learn nothing: their own accuracy is then what an estimate starts from.
        lambda work: (
            ACCURACY in work.attachments or reference.NAME not in work.attachments or len(work.val) < LEAST_IMAGES
        ),
        lambda count: 1.3 * estimator_predictions(count),
        "segwright reference MODEL DATA makes it",
    ),
)
