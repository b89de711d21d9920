"""The overlay of a raster that no memory holds, at a size that can be looked at: every n-th pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from segwright.core.types import LabelSpace, UInt8Array, blend
from segwright.imageio import encode_jpeg
from segwright.inference.cog import ReadRows
from segwright.inference.pixels import as_rgb
from segwright.inference.sliding_window import Window

MOST = 4096  # pixels of the longer side


class RasterOverlay:
    """The image (H, W, C) at every ``step``-th pixel, in a file of ``folder`` that a later run continues."""

    def __init__(self, folder: Path, shape: tuple[int, int], channels: int) -> None:
        self.step = -(-max(shape) // MOST)
        size = (-(-shape[0] // self.step), -(-shape[1] // self.step), channels)
        path = folder / "overlay"
        there = path.is_file() and path.stat().st_size == size[0] * size[1] * size[2]
        self._image: npt.NDArray[np.uint8] | None = np.memmap(path, np.uint8, "r+" if there else "w+", shape=size)
        self._height = shape[0]

    def see(self, part: Window, image: UInt8Array) -> None:
        """Keep what a window (h, w, C) shows of the raster in its core."""
        assert self._image is not None
        step = self.step
        top, left = -(-part.core_top // step), -(-part.core_left // step)
        bottom, right = -(-part.core_bottom // step), -(-part.core_right // step)
        self._image[top:bottom, left:right] = image[
            top * step - part.top : part.core_bottom - part.top : step,
            left * step - part.left : part.core_right - part.left : step,
        ]

    def jpeg(self, labels: ReadRows, space: LabelSpace) -> bytes:
        """The colors of the labels over the image."""
        assert self._image is not None
        seen = np.array(self._image)
        colors = space.palette()[labels(0, self._height, self.step)]
        return encode_jpeg(blend(as_rgb(seen), colors, 0.5))

    def close(self) -> None:
        """Let go of the file."""
        self._image = None
