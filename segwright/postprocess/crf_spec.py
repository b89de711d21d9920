"""The dense CRF's parameters, presets and checks, and the tiles a large image is cut into: for both engines.

:mod:`segwright.postprocess.crf` infers with compiled kernels, :mod:`segwright.postprocess.crf_layer` with torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from segwright.core.errors import PostprocessError
from segwright.kernels.lattice import Float32Array

Normalization = Literal["symmetric", "per-row"]

TILE_PIXELS = 4_000_000  # larger images go through in tiles
LOWEST, FURTHEST = -1e-3, 1e-2  # what a probability and a pixel's sum may be off by: float16 caches, rounding


@dataclass(frozen=True)
class CRFParameters:
    """What :class:`segwright.postprocess.crf.DenseCRF` is called with, checked."""

    smoothness: tuple[float, float] = (3.0, 3.0)
    appearance: tuple[float, float, float] = (5.0, 140.0, 5.0)
    iterations: int = 10
    normalization: Normalization = "symmetric"
    threads: int | None = None
    tile_pixels: int = TILE_PIXELS

    def __post_init__(self) -> None:
        values = (*self.smoothness, *self.appearance)
        if len(self.smoothness) != 2 or len(self.appearance) != 3:
            raise PostprocessError(
                "the CRF's parameters do not fit",
                expected="smoothness=(w2, sigma_gamma), appearance=(w1, sigma_alpha, sigma_beta)",
                found=f"{self.smoothness}, {self.appearance}",
            )
        sigmas = (self.smoothness[1], *self.appearance[1:])
        if not all(math.isfinite(value) for value in values) or min(sigmas) <= 0:
            raise PostprocessError("the CRF's sigmas must be positive", expected="finite, above 0", found=f"{sigmas}")
        if min(self.smoothness[0], self.appearance[0]) < 0:
            raise PostprocessError("the CRF's weights must not be negative", expected="0 or more", found=f"{values}")
        if not 0 <= self.iterations <= 1000:
            raise PostprocessError("iterations out of range", expected="0 to 1000", found=str(self.iterations))
        if self.normalization not in ("symmetric", "per-row"):
            raise PostprocessError(
                "unknown normalization", expected="'symmetric' or 'per-row'", found=repr(self.normalization)
            )
        if self.tile_pixels < 64 or (self.threads is not None and self.threads < 1):
            raise PostprocessError("tiles hold at least 64 pixels, threads are at least 1", found=repr(self))

    @property
    def receptive_radius(self) -> int:
        """How many pixels around a pixel its marginals depend on: twice the wider kernel's standard deviation."""
        (w2, sigma_gamma), (w1, sigma_alpha, _) = self.smoothness, self.appearance
        return math.ceil(2 * max(sigma_alpha if w1 else 0.0, sigma_gamma if w2 else 0.0))


class Preset(NamedTuple):
    """A published set of parameters; ten iterations each."""

    smoothness: tuple[float, float]  # (w2, σγ)
    appearance: tuple[float, float, float]  # (w1, σα, σβ)
    normalization: Normalization


SYMMETRIC = "-symmetric"  # ends the name of a preset's twin
_PER_ROW = {
    "deeplab-v1": Preset((3.0, 3.0), (5.0, 140.0, 5.0), "per-row"),
    "deeplab-v2-vgg": Preset((2.0, 2.0), (4.0, 65.0, 3.0), "per-row"),
    "deeplab-v2-r101": Preset((3.0, 1.0), (4.0, 67.0, 3.0), "per-row"),
}
PRESETS: dict[str, Preset] = {
    **_PER_ROW,
    **{name + SYMMETRIC: preset._replace(normalization="symmetric") for name, preset in _PER_ROW.items()},
}


def check_shapes(image: tuple[int, ...], probabilities: tuple[int, ...], dtype: str, wanted: str) -> None:
    """PostprocessError unless the image is uint8 H×W×C with probabilities K×H×W, or both with a leading N."""
    fits = len(image) == len(probabilities) and len(image) in (3, 4)
    fits = fits and image[-3:-1] == probabilities[-2:] and image[:-3] == probabilities[:-3]
    if not fits or 0 in image or 0 in probabilities or dtype != wanted or image[-1] > 8:
        raise PostprocessError(
            "image and probabilities do not fit each other",
            expected="an image uint8 H×W×C (1 to 8 channels) with probabilities float K×H×W, nothing empty",
            found=f"image {dtype} {image}, probabilities {probabilities}",
            fix="resize the probabilities to the image, or the image to them",
        )


def check_values(smallest: float, deviation: float) -> None:
    """PostprocessError unless the probabilities are probabilities."""
    if math.isnan(smallest) or math.isnan(deviation):
        found = "NaN"
    elif not smallest >= LOWEST:
        found = f"a value of {smallest:.4g}"
    elif not deviation <= FURTHEST:
        found = f"a pixel whose probabilities sum to one plus or minus {deviation:.4g}"
    else:
        return
    raise PostprocessError(
        "these are not probabilities",
        expected="values from 0 to 1 that sum to one over the classes at each pixel",
        found=found,
        fix="apply a softmax to logits first; NaN comes from the network, see its inputs",
    )


def tiles(crf: CRFParameters, height: int, width: int) -> Iterator[tuple[slice, slice, Float32Array]]:
    """Tiles of at most ``crf.tile_pixels`` pixels that overlap by what the CRF looks at: rows, columns, and their
    blending weights (rows, columns), which sum to one at every pixel."""
    overlap = min(crf.receptive_radius, math.isqrt(crf.tile_pixels) // 2)
    side = max(math.isqrt(crf.tile_pixels), 2 * overlap)
    for rows, row_weights in tile_axis(height, side, overlap):
        for columns, column_weights in tile_axis(width, side, overlap):
            yield rows, columns, row_weights[:, None] * column_weights


def tile_axis(length: int, side: int, overlap: int) -> list[tuple[slice, Float32Array]]:
    """Cuts 0…length into stretches of at most ``side`` that overlap by ``overlap``, each with blending weights.

    The weights ramp linearly across an overlap, and sum to one everywhere.
    """
    if length <= side:
        return [(slice(0, length), np.ones(length, np.float32))]
    count = math.ceil((length - overlap) / (side - overlap))
    starts = [round(i * (length - side) / (count - 1)) for i in range(count)]
    ramps, total = [], np.zeros(length)
    for start in starts:
        inside = np.arange(side) + 0.5
        from_start = inside if start else np.full(side, np.inf)
        to_end = side - inside if start + side < length else np.full(side, np.inf)
        ramps.append(np.minimum(1.0, np.minimum(from_start, to_end) / max(overlap, 1)))
        total[start : start + side] += ramps[-1]
    return [
        (slice(start, start + side), (ramp / total[start : start + side]).astype(np.float32))
        for start, ramp in zip(starts, ramps, strict=True)
    ]
