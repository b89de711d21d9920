"""The accuracy without labels over time: of all images, of the last ones, since an alarm, of each part of a journal.

A model that failed an hour ago is still good on the mean over a week.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from segwright.core.errors import DataError
from segwright.monitoring.estimate import AccuracyModel
from segwright.monitoring.observation import Observation
from segwright.monitoring.result import AccuracyEstimate, MonitorResult, Series

MOST_PARTS = 60
LEAST_IMAGES = 10  # of a part: an estimate of fewer is nearly all interval


def with_accuracy(
    result: MonitorResult, accuracy: AccuracyModel, rows: Sequence[Observation], window: int, notes: list[str]
) -> MonitorResult:
    """The result with estimates of all ``rows``, of the last ``window``, of those since the first alarm that counts,
    and of parts of as many images as a window has, or more. What could not be estimated is added to ``notes``."""
    if not rows:
        return result
    try:
        whole = accuracy.estimate(rows)
    except DataError as error:
        notes.append(f"no estimate of the accuracy: {error.message}")
        return result
    first = min((alarm.since for alarm in result.alarms if result.counts(alarm)), default=None)
    since_alarm = None if first is None else _estimate(accuracy, rows[first:])
    series = _over_time(accuracy, rows, window)
    return replace(
        result, estimate=whole, recent=_estimate(accuracy, rows[-window:]), since_alarm=since_alarm,
        series=(*result.series, *([series] if series is not None else [])),
    )  # fmt: skip


def _estimate(accuracy: AccuracyModel, rows: Sequence[Observation]) -> AccuracyEstimate | None:
    try:
        return accuracy.estimate(rows)
    except DataError:  # no row with probabilities
        return None


def _over_time(accuracy: AccuracyModel, rows: Sequence[Observation], window: int) -> Series | None:
    size = window * -(-len(rows) // (window * MOST_PARTS))
    size = min(size, max(LEAST_IMAGES, len(rows) // 5))  # a short journal has a few parts, too
    ends = [min(start + size, len(rows)) - 1 for start in range(0, len(rows), size)]
    if len(ends) > 1 and ends[-1] - ends[-2] < min(size, LEAST_IMAGES):
        del ends[-2]  # the last part is longer, in place of a rest that shows nothing
    found = [_estimate(accuracy, rows[start + 1 : end + 1]) for start, end in zip([-1, *ends[:-1]], ends, strict=True)]
    if not any(found):
        return None
    values, lows, highs = ([math.nan if one is None else getattr(one, name) for one in found]
                           for name in ("miou", "low", "high"))  # fmt: skip
    return Series(
        "estimated mean IoU", "accuracy", "mean IoU", tuple(rows[end].time for end in ends), tuple(ends),
        tuple(values), accuracy.calibration.miou, math.nan, math.nan, lows=tuple(lows), highs=tuple(highs),
    )  # fmt: skip
