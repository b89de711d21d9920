"""What monitoring keeps of a network's output: its scores at a grid of pixels, and its deepest features averaged.

The grid depends on the image's size alone: every ``step``-th pixel of both directions, so few that there are at most
:data:`MOST_PIXELS`. An image that is predicted in windows, in a batch or with post-processing has the same grid, and
the same values at it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segwright.core.types import Float32Array, UInt8Array
from segwright.inference.sliding_window import Window

MOST_PIXELS = 15_000
DETAIL_PIXELS = 60_000  # at full resolution, for sharpness and noise; a larger image gives tiles
DETAIL_TILE = 80
MOST_TILES = 12
LEAST_PROBABILITY = 1e-12

Slices = tuple[slice, slice]


@dataclass(frozen=True)
class Grid:
    """Every ``step``-th pixel of an image; rows and columns start at half a step."""

    height: int
    width: int
    step: int

    @classmethod
    def of(cls, height: int, width: int, pixels: int = MOST_PIXELS) -> Grid:
        """The finest grid of at most ``pixels``."""
        step = max(1, int((height * width / pixels) ** 0.5))
        while cls(height, width, step).size > pixels:
            step += 1
        return cls(height, width, step)

    @property
    def slices(self) -> Slices:
        """The grid's rows and columns in the image."""
        return slice(self._start(self.height), None, self.step), slice(self._start(self.width), None, self.step)

    @property
    def shape(self) -> tuple[int, int]:
        return _count(self.height, self._start(self.height), self.step), _count(
            self.width, self._start(self.width), self.step
        )

    @property
    def size(self) -> int:
        """The number of pixels."""
        return self.shape[0] * self.shape[1]

    def part(self, part: Window) -> tuple[Slices, Slices]:
        """Of the grid's pixels in a window's core: where they are in the grid, and in the window."""
        rows = self._span(self.height, part.core_top, part.core_bottom, part.top)
        columns = self._span(self.width, part.core_left, part.core_right, part.left)
        return (rows[0], columns[0]), (rows[1], columns[1])

    def _start(self, length: int) -> int:
        return min(self.step // 2, (length - 1) // 2)

    def _span(self, length: int, low: int, high: int, origin: int) -> tuple[slice, slice]:
        start = self._start(length)
        first, last = (max(0, -(-(place - start) // self.step)) for place in (low, high))
        return slice(first, last), slice(start + first * self.step - origin, high - origin, self.step)


def _count(length: int, start: int, step: int) -> int:
    return -(-(length - start) // step)


@dataclass(frozen=True)
class ThinnedOutput:
    """The output at the h×w pixels of a grid, before post-processing; K classes.

    ``scores``: logits, or logarithms of probabilities, (K, h, w); None if the runtime has only labels and confidence.
    ``features``: (C,) means over the image; empty if the runtime has none. ``details``: parts of the image at full
    resolution.
    """

    height: int
    width: int
    labels: UInt8Array  # (h, w)
    confidence: Float32Array  # (h, w)
    scores: Float32Array | None
    features: Float32Array
    image: UInt8Array  # (h, w, C)
    details: tuple[UInt8Array, ...]  # each (?, ?, C)


def details_of(image: UInt8Array) -> tuple[UInt8Array, ...]:
    """The image (H, W, C) itself if it is small, else tiles of it, evenly placed."""
    height, width = image.shape[:2]
    if height * width <= DETAIL_PIXELS:
        return (image,)
    rows, columns = (_places(side) for side in (height, width))
    return tuple(image[top : top + DETAIL_TILE, left : left + DETAIL_TILE] for top in rows for left in columns)


def _places(length: int) -> list[int]:
    if length <= DETAIL_TILE:
        return [0]
    count = 3 if length >= 3 * DETAIL_TILE else 1
    return [round((length - DETAIL_TILE) * (k + 1) / (count + 1)) for k in range(count)]


def log_scores(probabilities: Float32Array) -> Float32Array:
    """Probabilities as scores whose softmax they are."""
    return np.log(np.maximum(probabilities, np.float32(LEAST_PROBABILITY)), dtype=np.float32)


class Thinner:
    """Collects the thinned output of an image from its windows; one window for an image that is predicted whole."""

    def __init__(self, height: int, width: int, classes: int) -> None:
        self.grid = Grid.of(height, width)
        self.classes = classes
        self.scores: Float32Array | None = np.empty((classes, *self.grid.shape), np.float32)
        self.labels = np.zeros(self.grid.shape, np.uint8)
        self.confidence = np.zeros(self.grid.shape, np.float32)
        self._features: npt.NDArray[np.float64] | None = None
        self._area = 0
        self._image: UInt8Array | None = None
        self._details: list[UInt8Array] = []

    def whole(self) -> Window:
        """The window of an image that is predicted whole."""
        height, width = self.grid.height, self.grid.width
        return Window(0, 0, height, width, 0, 0, height, width)

    def add(
        self,
        part: Window,
        labels: UInt8Array,
        confidence: Float32Array,
        scores: Float32Array | None,
        features: Float32Array,
    ) -> None:
        """Take the output of a window at the grid's pixels in its core: (h', w'), scores (K, h', w')."""
        place, _ = self.grid.part(part)
        self.labels[place], self.confidence[place] = labels, confidence
        if scores is None:
            self.scores = None
        elif self.scores is not None:
            self.scores[:, *place] = scores
        area = (part.core_bottom - part.core_top) * (part.core_right - part.core_left)
        weighted = features.astype(np.float64) * area
        same = self._features is not None and self._features.shape == weighted.shape
        self._features = self._features + weighted if same and self._features is not None else weighted
        self._area += area

    def see(self, part: Window, pixels: UInt8Array) -> None:
        """Keep a window's pixels at the grid, and a tile at full resolution, of an image that is never in memory."""
        place, inner = self.grid.part(part)
        if self._image is None:
            self._image = np.zeros((*self.grid.shape, pixels.shape[2]), np.uint8)
        self._image[place] = pixels[inner]
        if len(self._details) < MOST_TILES:
            core = pixels[part.core_in_window]
            top, left = (max(0, (side - DETAIL_TILE) // 2) for side in core.shape[:2])
            self._details.append(core[top : top + DETAIL_TILE, left : left + DETAIL_TILE].copy())

    def finish(self, image: UInt8Array | None = None) -> ThinnedOutput:
        """The output of the image; ``image`` (H, W, C), or None if :meth:`see` had every window."""
        seen = image[self.grid.slices] if image is not None else self._image
        assert seen is not None
        details = details_of(image) if image is not None else tuple(self._details)
        features = np.zeros(0) if self._features is None else self._features / max(1, self._area)
        return ThinnedOutput(
            self.grid.height, self.grid.width, self.labels, self.confidence, self.scores,
            features.astype(np.float32), seen, details,
        )  # fmt: skip


def coarsest(output: Any) -> Any:
    """Of a module's output, the feature map (N, C, h, w) of the fewest pixels, the last of equal ones; None if there
    is none."""
    if isinstance(output, Mapping):
        found = [coarsest(value) for value in output.values()]
    elif isinstance(output, list | tuple):
        found = [coarsest(value) for value in output]
    else:
        return output if getattr(output, "ndim", 0) == 4 else None
    best = None
    for one in found:
        if one is not None and (best is None or one.shape[-2] * one.shape[-1] <= best.shape[-2] * best.shape[-1]):
            best = one
    return best
