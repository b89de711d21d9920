"""Overlapping windows for large images: each is predicted with a margin, and only its core is kept.

The margin prevents seams: a pixel near a window's edge would be predicted without its surroundings.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

DEFAULT_WINDOW = 1536
DEFAULT_MARGIN = 192
ALIGNMENT = 32  # no network of the catalog has a larger stride


class Window(NamedTuple):
    """A window and its core, the part of the output that is kept; in pixels of the image."""

    top: int
    left: int
    bottom: int
    right: int
    core_top: int
    core_left: int
    core_bottom: int
    core_right: int

    @property
    def window(self) -> tuple[slice, slice]:
        """The window in the image."""
        return np.s_[self.top : self.bottom, self.left : self.right]

    @property
    def core(self) -> tuple[slice, slice]:
        """The core in the image."""
        return np.s_[self.core_top : self.core_bottom, self.core_left : self.core_right]

    @property
    def core_in_window(self) -> tuple[slice, slice]:
        """The core in the window."""
        return np.s_[
            self.core_top - self.top : self.core_bottom - self.top,
            self.core_left - self.left : self.core_right - self.left,
        ]


def sliding_windows(
    height: int, width: int, window: int = DEFAULT_WINDOW, margin: int = DEFAULT_MARGIN, blend: int = 0
) -> Iterator[Window]:
    """Windows whose cores cover the image exactly once, row by row.

    All have the same size but the last ones of a row or column, and begin at multiples of :data:`ALIGNMENT` if window
    and margin are ones: a network's stride then falls on the same pixels as in the whole image. ``blend``: cores end
    so many pixels early, so that each window sees 2·blend pixels of the next one's core with a context of
    margin - blend (:mod:`segwright.inference.blending`).
    """
    margin = min(margin, max(0, (window - 1) // 2))
    blend = min(blend, margin // 2)
    for top, core_top, core_bottom in _spans(height, window, margin, blend):
        for left, core_left, core_right in _spans(width, window, margin, blend):
            bottom, right = min(top + window, height), min(left + window, width)
            yield Window(top, left, bottom, right, core_top, core_left, core_bottom, core_right)


def _spans(length: int, window: int, margin: int, blend: int) -> Iterator[tuple[int, int, int]]:
    """Along one side: the start of the window, the start and end of its core."""
    if length <= window:
        yield 0, 0, length
        return
    core = start = 0
    last = -(-(length - window) // ALIGNMENT) * ALIGNMENT  # rounded up: the last window may be smaller
    while core < length:
        start = min(max(core - margin + blend, 0), last)
        end = length if start + window >= length else start + window - margin - blend
        yield start, core, end
        core = end
