"""Blending of overlapping windows: across each border, the probabilities of both windows fade into each other.

A window's core ends ``reach`` pixels before the middle of the border zone; the zone of 2·reach pixels belongs to the
core of the following window, which adds what the earlier ones gave there. Weights are linear and add up to one, at
corners over four windows. In memory are the zones of one row of windows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from segwright.core.types import Float32Array, UInt8Array
from segwright.inference.sliding_window import Window

Box = tuple[slice, slice]  # rows and columns of a window


class Strips(NamedTuple):
    """Where the probabilities of a window are needed: its four border zones, None at a side of the image."""

    top: Box | None
    left: Box | None
    bottom: Box | None
    right: Box | None


class Zones(NamedTuple):
    """The probabilities (K, h, w) at the strips of a window."""

    top: Float32Array | None
    left: Float32Array | None
    bottom: Float32Array | None
    right: Float32Array | None


def cut(strips: Strips, marginals: Float32Array) -> Zones:
    """The zones of probabilities (K, h, w)."""
    return Zones(*(None if box is None else marginals[:, *box] for box in strips))


class Blender:
    """Takes the windows of an image (H, W) row by row; K classes. ``differ``, ``compared``: the pixels of border zones
    at which a window's own label was another than that of the windows before it, and all of them."""

    def __init__(self, height: int, width: int, classes: int, half: int) -> None:
        self.height, self.width, self.half = height, width, half
        shape = (classes, 2 * half, width)
        self._above, self._below = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        self._left = np.zeros((classes, 0, 2 * half), np.float32)
        self._row = -1  # core_top of the row of windows
        self.differ = self.compared = 0

    def strips(self, part: Window) -> Strips:
        """The boxes, within the window, whose probabilities :meth:`add` needs."""
        zone = 2 * self.half
        top, left = part.core_top - part.top, part.core_left - part.left
        bottom, right = part.core_bottom - part.top, part.core_right - part.left
        last_row, last_column = part.core_bottom == self.height, part.core_right == self.width
        across = slice(left, right if last_column else right + zone)
        return Strips(
            (slice(top, top + zone), across) if part.core_top else None,
            (slice(top, bottom), slice(left, left + zone)) if part.core_left else None,
            None if last_row else (slice(bottom, bottom + zone), across),
            None if last_column else (slice(top, bottom), slice(right, right + zone)),
        )

    def add(
        self,
        part: Window,
        labels: UInt8Array,
        confidence: Float32Array,
        zones: Zones,
        marginals: Float32Array | None = None,
    ) -> None:
        """Change a window's ``labels`` and ``confidence`` (h, w), and its probabilities (K, h, w) if there are any, in
        the zones of its core that earlier windows have seen."""
        if part.core_top != self._row:
            self._row = part.core_top
            self._above, self._below = self._below, self._above
            self._below[:] = 0
        zone = 2 * self.half
        boxes = self.strips(part)
        top, left, bottom, right = zones
        high, wide = part.core_bottom - part.core_top, part.core_right - part.core_left
        down, across = self._weights(high, boxes.top, boxes.bottom), self._weights(wide, boxes.left, boxes.right)
        if bottom is not None:
            self._below[:, :, part.core_left : part.core_left + bottom.shape[2]] += (
                bottom * down[high:, None] * across[: bottom.shape[2]]
            )
        if top is not None:
            others = self._above[:, :, part.core_left : part.core_right].copy()
            if left is not None:
                others[:, :, :zone] += self._left[:, :zone]
            own = top[:, :, :wide] * down[:zone, None] * across[:wide]
            self._settle((labels, confidence, marginals), part, (slice(0, zone), slice(0, wide)), own, others)
        if left is not None:
            own = left * down[:high, None] * across[:zone]
            start = zone if top is not None else 0  # the corner is settled
            box = (slice(start, high), slice(0, zone))
            self._settle((labels, confidence, marginals), part, box, own[:, start:], self._left[:, start:high])
        if right is not None:
            self._left = right * down[:high, None] * across[wide:]

    def _settle(
        self,
        output: tuple[UInt8Array, Float32Array, Float32Array | None],
        part: Window,
        box: Box,
        own: Float32Array,
        others: Float32Array,
    ) -> None:
        total = own + others
        best = total.argmax(axis=0).astype(np.uint8)
        seen = others.max(axis=0) > 0
        self.differ += int((own.argmax(axis=0) != others.argmax(axis=0))[seen].sum())
        self.compared += int(seen.sum())
        rows = slice(part.core_top - part.top + box[0].start, part.core_top - part.top + box[0].stop)
        columns = slice(part.core_left - part.left + box[1].start, part.core_left - part.left + box[1].stop)
        labels, confidence, marginals = output
        labels[rows, columns] = best
        if marginals is not None:
            marginals[:, rows, columns] = total
        confidence[rows, columns] = np.take_along_axis(total, best[None].astype(np.int64), axis=0)[0]

    def _weights(self, core: int, before: object, after: object) -> npt.NDArray[np.float32]:
        """Along one side: rising over the zone at the core's beginning, falling over the one after its end."""
        ramp = (np.arange(2 * self.half, dtype=np.float32) + 0.5) / (2 * self.half)
        weights = np.ones(core + (2 * self.half if after is not None else 0), np.float32)
        if before is not None:
            weights[: 2 * self.half] *= ramp
        if after is not None:
            weights[core:] *= ramp[::-1]
        return weights
