"""What a look at a journal gives: alarms in words, what moved, series over time, the images most unlike the reference.

Everything here is plain numbers and text, for the page, the terminal and programs alike. Times are seconds since 1970,
UTC, as the journal has them.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field, replace
from typing import Any

from segwright.core.counted import counted


@dataclass(frozen=True)
class Movement:
    """One statistic, in the reference and in a part of the journal."""

    name: str  # brightness, share of road, confidence, entropy, components of car, …
    group: str  # image, classes, confidence
    reference: float  # the mean of the reference's images
    found: float  # the mean of the journal's
    p_value: float  # of the two-sample test; NaN if there is none, for example if nothing was finite
    adjusted: float  # after the correction for the number of tests
    moved: bool  # whether ``adjusted`` is below the level
    text: str  # "images are 23 % brighter than the reference (0.61 against 0.50)"


@dataclass(frozen=True)
class Alarm:
    """Something that would happen by chance less often than the chosen rate."""

    time: float  # of the image with which it was raised
    index: int  # that image's row among those counted, in order of arrival, from 0
    id: str  # that image
    detector: str  # stream, statistics, embeddings
    evidence: float  # stream: the detector's value; otherwise the p-value
    threshold: float  # stream: what it exceeded; otherwise the level that the p-value is below
    since: int  # the row since which the evidence grew: about where the change began
    moved: tuple[Movement, ...]  # the statistics that moved most, strongest first; at most 8
    text: str  # one sentence
    key: str = ""  # of the episode: detector and first row, the same at every look
    last: int = -1  # the last row with evidence
    over: bool = False  # whether the images were as usual again after that row
    ended: float = math.nan  # the time of that row, if it is over
    row_key: bytes = field(default=b"", repr=False)  # what the row that raised it is recognized by


@dataclass(frozen=True)
class Series:
    """One figure over time, in bins of consecutive images."""

    name: str  # as of a Movement, or "evidence of drift"
    group: str  # image, classes, confidence, drift
    unit: str  # "share of pixels", "0…1", "per image", …
    time: tuple[float, ...]  # of a bin's last image
    index: tuple[int, ...]  # the row of a bin's last image
    value: tuple[float, ...]  # the mean over the bin (drift: the largest); NaN where nothing is finite
    reference: float  # the mean of the reference; NaN if there is none
    low: float  # 5 % and 95 % of the reference's images; NaN if there are none
    high: float
    threshold: float = math.nan  # drift: above it is an alarm
    lows: tuple[float, ...] = ()  # the interval of each value, if it has one
    highs: tuple[float, ...] = ()


@dataclass(frozen=True)
class UnlikeImage:
    """One of the images that are most unlike the reference."""

    id: str
    time: float
    index: int
    distance: float  # to the reference, in units of its own images' median distance: 1 is usual
    text: str  # what is unlike most: "brightness 0.91, the reference has 0.35 to 0.62"
    image: str | None = None  # path of the kept image, if the journal kept it


@dataclass(frozen=True)
class AccuracyEstimate:
    """The mean IoU without labels, pooled over the images."""

    miou: float  # 0…1
    low: float
    high: float
    level: float  # of the interval: 0.9
    method: str  # what ``miou`` is by
    reference: float  # what was measured on the held-out images; NaN if not kept
    images: int
    others: dict[str, float] = field(default_factory=dict)  # method → mIoU
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class VersionCount:
    """The rows of one version of the model."""

    model: str
    images: int
    first: float
    last: float
    examined: bool  # whether it is the one that the reference belongs to, which is what the result is about


@dataclass(frozen=True)
class MonitorResult:
    """One look at a journal, against the reference of a model."""

    journal: str
    model: str  # the version examined
    classes: tuple[str, ...]
    images: int  # rows counted, in order of arrival
    reference_images: int
    first: float  # the earliest and the latest time among them; NaN without images
    last: float
    rate: float  # false alarms per image that the detectors are set to
    block: int  # images that count as one, because neighbors in a video are alike
    alarms: tuple[Alarm, ...]
    movements: tuple[Movement, ...]  # the last window against the reference, strongest first
    series: tuple[Series, ...]
    unlike: tuple[UnlikeImage, ...]  # most unlike first
    estimate: AccuracyEstimate | None
    embedding_p: float  # of the last window's embeddings (MMD, permuted by scene); NaN if there are none
    versions: tuple[VersionCount, ...]
    skipped: dict[str, int] = field(default_factory=dict)  # what was not counted: reason → rows (0: unknown)
    notes: tuple[str, ...] = ()  # limits: a small reference, a clock that jumps, …
    reference_block: int = 1  # images of the reference that count as one scene
    reference_blocks: int = 0  # how many of these it has
    tails: str = "ranks"  # p-values are ranks among the reference's blocks, or "t": by Student's t, if these are few
    judged: bool = True  # whether there were images enough for the first test of each detector
    needed: int = 0  # images that it takes
    missing: tuple[str, ...] = ()  # figures that are finite in the reference and not in most of the last images
    recent: AccuracyEstimate | None = None  # of the last window
    since_alarm: AccuracyEstimate | None = None  # since the first alarm that counts began
    looked_from: int | None = None  # with ``since``: the row from which alarms count that are over; None: none of them
    row_keys: tuple[bytes, ...] = field(default=(), repr=False)  # what each row is recognized by; not in JSON

    def counts(self, alarm: Alarm) -> bool:
        """Whether an alarm is going on, or was raised in the part that was asked for."""
        return not alarm.over or (self.looked_from is not None and alarm.index >= self.looked_from)

    @property
    def alarm(self) -> bool:
        """Whether there is an alarm that counts: the command's exit code is then 1."""
        return any(self.counts(alarm) for alarm in self.alarms)

    @property
    def state(self) -> str:
        """``alarm``, ``empty``, ``too few`` images to tell, ``not finite`` figures, ``moved`` statistics without an
        alarm, or ``no alarm``."""
        if self.alarm:
            return "alarm"
        if self.images == 0:
            return "empty"
        if not self.judged:
            return "too few"
        if self.missing:
            return "not finite"
        return "moved" if any(item.moved for item in self.movements) else "no alarm"

    @property
    def verdict(self) -> str:
        """The state in a sentence."""
        ended = [alarm for alarm in self.alarms if alarm.over]
        past = f" {counted(len(ended), 'earlier alarm', 'has')} ended." if ended else ""
        if self.state == "alarm":
            first = next(alarm for alarm in self.alarms if self.counts(alarm))
            return f"The images have changed since the reference was made: {first.text}"
        if self.state == "empty":
            part = "" if self.looked_from is None else " in the part that was asked for (--since)"
            return f"The journal has no images of this model{part}."
        if self.state == "too few":
            return f"Too few images to tell yet: {self.images} of {self.needed}."
        if self.state == "not finite":
            return (
                f"No alarm, but {', '.join(self.missing[:6])}{' and others' if len(self.missing) > 6 else ''} "
                f"{'is' if len(self.missing) == 1 else 'are'} not finite in most of the last images, so that "
                f"they were not compared.{past}"
            )
        if self.state == "moved":
            moved = sum(item.moved for item in self.movements)
            differ = "statistic differs" if moved == 1 else "statistics differ"
            return f"No alarm. {moved} {differ} from the reference in the last images.{past}"
        return f"No alarm: the images are like those of the reference.{past}"

    @property
    def counted(self) -> str:
        """What was taken as one scene, in words; empty if every image counts."""
        if self.block == self.reference_block == 1:
            return ""
        each = "each image counts" if self.block == 1 else f"{self.block} neighboring images count as one"
        tails = "" if self.tails == "ranks" else ", too few for ranks: Student's t"
        return (
            f"{each}; in the reference {self.reference_block} of {self.reference_images}, which are "
            f"{self.reference_blocks} scenes{tails}"
        )

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values, and ``alarm``, ``state`` and ``verdict``; figures that are not finite are null."""
        tree = _plain(dataclasses.asdict(replace(self, row_keys=())))
        assert isinstance(tree, dict)
        del tree["row_keys"]
        for alarm, item in zip(self.alarms, tree["alarms"], strict=True):
            del item["row_key"]
            item["counts"] = self.counts(alarm)
        return {"alarm": self.alarm, "state": self.state, "verdict": self.verdict, **tree}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value
