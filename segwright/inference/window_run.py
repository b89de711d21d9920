"""How a large image is cut into windows, and the windows one after the other.

Where the network's receptive field fits into the margin, every label is that of the whole image. Otherwise windows are
blended across their borders, and how often they differ there is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from segwright.core.types import Float32Array, UInt8Array
from segwright.inference.blending import Blender
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


Predict = Callable[[UInt8Array, Window, bool], tuple[UInt8Array, Float32Array, Float32Array | None]]


class WindowRun:
    """The windows of an image (H, W) with K classes in order. ``predict`` gives labels, confidence and, if its last
    argument is true, probabilities of a window."""

    def __init__(self, windowing: Windowing, height: int, width: int, classes: int, predict: Predict) -> None:
        self.windowing, self.predict = windowing, predict
        self.parts = windowing.parts(height, width, classes)
        half = windowing.half(width, classes)
        self.blender = Blender(height, width, classes, half) if half and len(self.parts) > 1 else None

    def outputs(
        self, read: Callable[[Window], UInt8Array], marginals: bool, done: Sequence[bool] = ()
    ) -> Iterator[Output]:
        """Predict the windows that are not ``done``; blending repeats those of the row before the first."""
        skipped = list(done) or [False] * len(self.parts)
        first = next((i for i, one in enumerate(skipped) if not one), len(self.parts))
        if first == len(self.parts):
            return
        rows = sorted({part.core_top for part in self.parts})
        row = rows.index(self.parts[first].core_top)
        from_top = rows[max(0, row - 1)] if self.blender is not None and first else rows[row]
        for part, finished in zip(self.parts, skipped, strict=True):
            if finished and (self.blender is None or part.core_top < from_top):
                continue
            pixels = read(part)
            labels, confidence, probabilities = self.predict(pixels, part, marginals or self.blender is not None)
            check_finite(confidence)
            if self.blender is not None and probabilities is not None:
                self.blender.add(part, labels, confidence, probabilities)
            if not finished:
                yield Output(part, pixels, labels, confidence, probabilities if marginals else None)

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
