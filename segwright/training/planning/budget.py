"""How the minutes of a run are divided among training, validation and scoring."""

from __future__ import annotations

import time
from dataclasses import dataclass

from segwright.training.config import TrainConfig
from segwright.training.logit_adjustment import sampled_indices
from segwright.training.planning.checked_data import CheckedData
from segwright.training.planning.timing import SHORT_SECONDS, MeasuredTimings

CHECK_FRACTION = 0.2  # of the minutes, at most, for reading images in the data check
END_SECONDS = 4.0  # of saving and the report
SHORT_RESERVE = 0.25  # of a short budget, at most, that is kept back for scoring
PLANNED_RESERVE = 0.35  # of the minutes, at most, that are kept back for scoring before a validation was measured
MAX_RESERVE = 0.4  # of the time for training and scoring, at most, once a validation was measured
VALIDATION_FRACTION = 0.03  # of the time, at most, for validations in a run by the clock
ONE_VALIDATION = 0.12  # of the minutes, at most, for one validation while training
MIN_VALIDATED = 8  # images
HELD_OUT_FRACTION = 0.05  # of the minutes, at most, that are kept back for the steps on held-out images
HELD_OUT_COST = 6.2  # predictions per image of those steps: temperature, error model, reference
HELD_OUT_IMAGES = 500  # at most
HELD_OUT_PREDICTIONS = 600.0  # of the estimator of accuracy, however many images there are


@dataclass(frozen=True)
class TimeBudget:
    """The minutes of a run by the clock, in seconds."""

    seconds: float  # of the whole run, over all sittings
    started: float  # by time.monotonic(): when this sitting's time began, before the check and the plan
    reserve: float  # kept back for what follows the training
    image_seconds: float = 0.0  # of predicting a validation image, as timed before; 0: there is none

    def training_seconds(self) -> float:
        """Seconds that remain for training and validation, at least one."""
        return max(self.seconds - (time.monotonic() - self.started) - self.reserve, 1.0)

    def kept_for_scoring(self) -> float:
        """The reserve, or what of it is left if check and plan took so long that no time remains for training."""
        left = self.seconds - (time.monotonic() - self.started) - self.training_seconds()
        return min(self.reserve, max(left, 0.0))

    def shortage(self) -> str:
        """What a user has to know if hardly a second is left for the training that now begins; else empty."""
        passed = time.monotonic() - self.started
        if self.seconds - passed - self.reserve > 1.0:
            return ""
        took = f"opening, check and plan took {passed:.0f} of {self.seconds:.0f} s"
        if passed >= self.seconds:
            return f"the minutes are over before the training begins: {took}; it trains for one second, and ends late"
        return (
            f"the minutes are nearly over before the training begins: {took}, and {self.reserve:.0f} s are kept for "
            "scoring; it trains for one second"
        )

    def remaining(self, earlier: float) -> float:
        """Seconds until the run has to end; ``earlier``: seconds of training in earlier sittings."""
        return self.seconds - (time.monotonic() - self.started) - earlier

    def validation_images(self, count: int) -> int:
        """How many of ``count`` images one validation during training may take."""
        if not self.image_seconds:
            return count
        return min(count, max(MIN_VALIDATED, int(ONE_VALIDATION * self.seconds / self.image_seconds)))


def check_seconds(minutes: float | None, started: float, earlier: float = 0.0) -> float | None:
    """Seconds that the data check may read images for: a fraction of what is left; None if no minutes end the run.

    ``earlier``: seconds of training in earlier sittings.
    """
    if minutes is None:
        return None
    return CHECK_FRACTION * max(60 * minutes - earlier - (time.monotonic() - started), 0.0)


def measured_reserve(total: float, seconds: float) -> float:
    """The part of ``total`` seconds to keep back for a scoring of ``seconds``, once a validation was measured.

    At most a fraction of the total: the scoring is cut to the time that is left.
    """
    return min(END_SECONDS + seconds, (SHORT_RESERVE if total < SHORT_SECONDS else MAX_RESERVE) * total)


def images_to_score(train_images: int, val_images: int, adjusts: bool) -> float:
    """The work that follows a training by the clock, in predictions of one image.

    The last validation and the scores for bundle and report. If class scores are adjusted (``adjusts``), also the
    sampled training images, and scores of the same validation images with the offsets.
    """
    adjustment = 1.5 * val_images + 1.2 * len(sampled_indices(train_images)) if adjusts else 0.0
    return 2.6 * val_images + adjustment


def held_out_seconds(total: float, val_images: int, image_seconds: float) -> float:
    """What of ``total`` seconds is kept back for the steps on held-out images (:mod:`segwright.training.held_out`)."""
    predictions = HELD_OUT_COST * min(val_images, HELD_OUT_IMAGES) + HELD_OUT_PREDICTIONS
    return min(HELD_OUT_FRACTION * total, predictions * image_seconds)


def make_budget(
    config: TrainConfig, checked: CheckedData, timings: MeasuredTimings, *, started: float
) -> TimeBudget | None:
    """The time budget of a resolved config, from a timed prediction of an image; None if epochs end the run."""
    minutes = config.training.minutes
    if minutes is None:
        return None
    if checked.val is None:
        return TimeBudget(60 * minutes, started, reserve=5.0)
    size = (checked.fingerprint.height[1], checked.fingerprint.width[1])
    image_seconds = timings.image(config, size)
    adjusts = config.training.logit_adjustment is True
    seconds = 5.0 + 0.02 * len(checked.val) + (3.0 if adjusts else 0.0)
    seconds += image_seconds * images_to_score(len(checked.train), len(checked.val), adjusts)
    seconds += held_out_seconds(60 * minutes, len(checked.val), image_seconds)
    most = (SHORT_RESERVE if 60 * minutes < SHORT_SECONDS else PLANNED_RESERVE) * 60 * minutes
    return TimeBudget(60 * minutes, started, min(seconds, most), image_seconds)
