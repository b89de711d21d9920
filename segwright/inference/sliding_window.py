"""Large images in windows, with bounded memory: each window is seen with a margin, and only its inside is kept.

The margin is what makes seams vanish: a pixel near a window's edge would be judged without its surroundings.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

DEFAULT_WINDOW = 1536
DEFAULT_MARGIN = 192


class Window(NamedTuple):
    """What is read, and which part of the answer is kept; all in pixels of the image."""

    top: int
    left: int
    bottom: int
    right: int
    keep_top: int
    keep_left: int
    keep_bottom: int
    keep_right: int

    @property
    def seen(self) -> tuple[slice, slice]:
        """The window in the image."""
        return np.s_[self.top : self.bottom, self.left : self.right]

    @property
    def kept(self) -> tuple[slice, slice]:
        """What is kept of it, in the image."""
        return np.s_[self.keep_top : self.keep_bottom, self.keep_left : self.keep_right]

    @property
    def inside(self) -> tuple[slice, slice]:
        """What is kept of it, in the window's own answer."""
        return np.s_[
            self.keep_top - self.top : self.keep_bottom - self.top,
            self.keep_left - self.left : self.keep_right - self.left,
        ]


def windows(height: int, width: int, window: int = DEFAULT_WINDOW, margin: int = DEFAULT_MARGIN) -> Iterator[Window]:
    """Windows whose kept parts cover the image once; every window of one image has the same size where it can."""
    margin = min(margin, max(0, (window - 1) // 2))
    for top, keep_top, keep_bottom in _spans(height, window, margin):
        for left, keep_left, keep_right in _spans(width, window, margin):
            bottom, right = min(top + window, height), min(left + window, width)
            yield Window(top, left, bottom, right, keep_top, keep_left, keep_bottom, keep_right)


def _spans(length: int, window: int, margin: int) -> Iterator[tuple[int, int, int]]:
    """(start of the window, start and end of what is kept) along one side."""
    if length <= window:
        yield 0, 0, length
        return
    step = window - 2 * margin
    kept = 0
    start = 0
    while kept < length:
        start = min(max(kept - margin, 0), length - window)
        end = length if start + window >= length else start + window - margin
        yield start, kept, end
        kept = end
        if step <= 0:  # cannot happen with the margin clamped above; guards against an endless loop
            break
