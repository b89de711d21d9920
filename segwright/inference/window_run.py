"""How a large image is cut into windows, and the windows one after the other.

Where the network's receptive field fits into the margin, every label is that of the whole image. Otherwise windows are
blended across their borders, and how often they differ there is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from segwright.core.types import Float32Array, UInt8Array
from segwright.inference.ahead import read_ahead
from segwright.inference.blending import Blender, Strips, cut
from segwright.inference.passes import Answer
from segwright.inference.sliding_window import ALIGNMENT, DEFAULT_MARGIN, Window, sliding_windows
from segwright.inference.windowed import check_finite

BLEND = 32  # pixels to each side of a border
BLEND_BYTES = 400_000_000  # of the border zones of a row of windows
UNKNOWN = -1  # the receptive radius of a network that cannot be measured


@dataclass(frozen=True)
class Windowing:
    """Side of the windows, their margin and half the width of the zone that is blended, in pixels.

    ``radius``: of the network's receptive field; None if it covers the whole image, :data:`UNKNOWN` if it cannot be
    measured. ``exact``: labels are those of the whole image.
    """

    window: int
    margin: int
    blend: int
    radius: int | None
    exact: bool

    @classmethod
    def of(cls, window: int, radius: int | None, crf: int, resized: bool) -> Windowing:
        """``crf``: the reach of post-processing; ``resized``: the network also sees the image at other sizes."""
        most = window // 4 if window < 4 * ALIGNMENT else window // 4 // ALIGNMENT * ALIGNMENT
        if radius is not None and radius != UNKNOWN and not resized:
            needed = -(-max(1, radius + crf) // ALIGNMENT) * ALIGNMENT
            if needed <= most:
                return cls(window, needed, 0, radius, crf == 0)
        margin = min(-(-max(DEFAULT_MARGIN, crf) // ALIGNMENT) * ALIGNMENT, most)
        return cls(window, margin, 0 if radius == UNKNOWN else min(BLEND, margin // 4), radius, False)

    def parts(self, height: int, width: int, classes: int) -> list[Window]:
        """The windows of an image."""
        return list(sliding_windows(height, width, self.window, self.margin, self.half(width, classes)))

    def half(self, width: int, classes: int) -> int:
        """Half the blended zone, less where the zones of a wide image would need too much memory."""
        return min(self.blend, max(4, BLEND_BYTES // (16 * classes * width))) if self.blend else 0


class Output(NamedTuple):
    """A window with its pixels (h, w, C), labels and confidence (h, w), and probabilities (K, h, w) if wanted."""

    part: Window
    pixels: UInt8Array
    labels: UInt8Array
    confidence: Float32Array
    marginals: Float32Array | None


# Pixels, windows, border zones whose probabilities are wanted, whether all probabilities are
Predict = Callable[[Sequence[UInt8Array], Sequence[Window], Sequence[Strips] | None, bool], list[Answer]]


class WindowRun:
    """The windows of an image (H, W) with K classes in order. ``predict`` gets up to ``batch`` windows of one shape
    and gives the answer of each."""

    def __init__(
        self, windowing: Windowing, height: int, width: int, classes: int, predict: Predict, batch: int = 1
    ) -> None:
        self.windowing, self.predict, self.batch = windowing, predict, batch
        self.parts = windowing.parts(height, width, classes)
        half = windowing.half(width, classes)
        self.blender = Blender(height, width, classes, half) if half and len(self.parts) > 1 else None

    def outputs(
        self, read: Callable[[Window], UInt8Array], marginals: bool, done: Sequence[bool] = (), *, ahead: bool = False
    ) -> Iterator[Output]:
        """Predict the windows that are not ``done``; blending repeats those of the row before the first. ``ahead``: a
        thread reads the windows that follow."""
        finished = dict(zip(self.parts, done or [False] * len(self.parts), strict=True))
        wanted = self._wanted(finished)
        given = read_ahead(wanted, read) if ahead else ((part, read(part)) for part in wanted)
        try:
            for parts, pixels in _alike(given, self.batch):
                strips = None if self.blender is None else [self.blender.strips(part) for part in parts]
                answers = self.predict(pixels, parts, strips, marginals)
                for part, image, found in zip(parts, pixels, answers, strict=True):
                    check_finite(found.confidence)
                    if self.blender is not None:
                        self._blend(part, found)
                    if not finished[part]:
                        yield Output(
                            part, image, found.labels, found.confidence, found.marginals if marginals else None
                        )
        finally:
            given.close()

    def _wanted(self, finished: Mapping[Window, bool]) -> list[Window]:
        first = next((i for i, part in enumerate(self.parts) if not finished[part]), None)
        if first is None:
            return []
        rows = sorted({part.core_top for part in self.parts})
        row = rows.index(self.parts[first].core_top)
        from_top = rows[max(0, row - 1)] if self.blender is not None and first else rows[row]
        return [
            part
            for part in self.parts
            if not finished[part] or (self.blender is not None and part.core_top >= from_top)
        ]

    def _blend(self, part: Window, found: Answer) -> None:
        assert self.blender is not None
        zones = found.zones
        if zones is None:
            assert found.marginals is not None
            zones = cut(self.blender.strips(part), found.marginals)
        self.blender.add(part, found.labels, found.confidence, zones, found.marginals)

    def facts(self) -> dict[str, Any]:
        """What a result holds about the windows; ``labels_differ``: the share of labels in border zones at which two
        windows differed before they were blended."""
        found: dict[str, Any] = {
            "count": len(self.parts), "side": self.windowing.window, "margin": self.windowing.margin,
            "equal_to_whole_image": self.windowing.exact,
        }  # fmt: skip
        radius = self.windowing.radius
        found["receptive_radius"] = "unknown" if radius == UNKNOWN else "whole image" if radius is None else radius
        if self.blender is not None and self.blender.compared:
            found["labels_differ"] = self.blender.differ / self.blender.compared
        return found

    def note(self, network: str) -> str | None:
        """What a user should hear of the difference from the whole image; None if there is none, or it is unknown."""
        if self.blender is None or not self.blender.compared:
            return None
        radius = self.windowing.radius
        why = (
            f"{network} pools, attends or normalizes over the whole image, and sees a window instead"
            if radius is None
            else f"{network} looks {radius} pixels around, further than the windows' margin of {self.windowing.margin}"
        )
        share = 100 * self.blender.differ / self.blender.compared
        return f"{why}: where windows overlap, {share:.2g} % of the labels differ; they are blended there"


def _alike(given: Iterable[tuple[Window, UInt8Array]], most: int) -> Iterator[tuple[list[Window], list[UInt8Array]]]:
    """Windows that follow each other and have one shape, up to ``most``."""
    parts: list[Window] = []
    images: list[UInt8Array] = []
    for part, image in given:
        if parts and image.shape != images[0].shape:
            yield parts, images
            parts, images = [], []
        parts.append(part)
        images.append(image)
        if len(parts) == most:
            yield parts, images
            parts, images = [], []
    if parts:
        yield parts, images
