"""What a look at a journal gives: alarms in words, what moved, series over time, the images most unlike the reference.

Everything here is plain numbers and text, for the page, the terminal and programs alike. Times are seconds since 1970,
UTC, as the journal has them.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any


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
    skipped: dict[str, int] = field(default_factory=dict)  # what of the journal was not counted: reason → rows
    notes: tuple[str, ...] = ()  # limits: a small reference, a clock that jumps, …
    reference_block: int = 1  # images of the reference that count as one scene
    reference_blocks: int = 0  # how many of these it has
    tails: str = "ranks"  # p-values are ranks among the reference's blocks, or "t": by Student's t, if these are few

    @property
    def alarm(self) -> bool:
        """Whether there is any alarm: the command's exit code is then 1."""
        return bool(self.alarms)

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
        """All fields as JSON values, and ``alarm``; figures that are not finite are null."""
        tree = _plain(dataclasses.asdict(self))
        assert isinstance(tree, dict)
        return {"alarm": self.alarm, **tree}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value
