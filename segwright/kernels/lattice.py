"""The permutohedral lattice in numbers: its scales, and how a vertex becomes a key. For both engines of the dense CRF.

See :mod:`segwright.kernels.permutohedral` for the method and its source. Nothing here imports torch or numba.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from segwright.core.errors import PostprocessError

Float32Array = npt.NDArray[np.float32]
Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
UInt8Array = npt.NDArray[np.uint8]

KEY_BITS = 62
CLIP = 1e-5  # probabilities below are raised to it: -log 0 would mute every message


@dataclass(frozen=True)
class Lattice:
    """Where the pixels of one image lie in the lattice; the same for every iteration and every class.

    ``corners`` and ``weights``: (n · (d + 1)), the vertices of each pixel's simplex and its barycentric weights.
    ``neighbors``: (d + 1, vertices + 1, 2), the vertices one step along each direction, both ways.
    """

    corners: Int32Array
    weights: Float32Array
    neighbors: Int32Array
    dimensions: int

    @property
    def vertices(self) -> int:
        return int(self.neighbors.shape[1]) - 1

    @property
    def pixels(self) -> int:
        return self.corners.size // (self.dimensions + 1)

    @property
    def alpha(self) -> float:
        """Undoes the gain of the blur: (1/2, 1, 1/2) sums to two along each direction."""
        return 1.0 / (1.0 + 2.0**-self.dimensions)


def blur_scales(dimensions: int) -> list[float]:
    """Scale of each feature so that the lattice's own blur is a Gaussian of standard deviation one (section 3.1)."""
    deviation = math.sqrt(2.0 / 3.0) * (dimensions + 1)
    return [deviation / math.sqrt((i + 1) * (i + 2)) for i in range(dimensions)]


def number_coordinates(extents: Sequence[float]) -> tuple[Int64Array, int, int]:
    """How coordinates become a key: a stride for each, the key of the origin, and how many bits a key takes.

    ``extents`` are the scaled features' largest values (the smallest is 0). Coordinate j of the embedding lies in
    -j·extent[j-1] … the sum of the later extents; the corners and their neighbors stray 3 (d + 1) at most.
    """
    dimensions = len(extents)
    margin = 4 * (dimensions + 1)
    strides, origin, bits = np.zeros(dimensions + 1, np.int64), 0, 0
    for j in range(dimensions):
        low = -(j * extents[j - 1] if j else 0.0) - margin
        high = sum(extents[j:]) + margin
        needed = math.ceil(math.log2(high - low + 2))
        if bits + needed > KEY_BITS:
            raise PostprocessError(
                "the CRF's sigmas are too small for this image",
                expected=f"a lattice that can be numbered in {KEY_BITS} bits",
                found=f"extents {', '.join(f'{extent:.3g}' for extent in extents)} in standard deviations",
                fix="use larger sigmas (sigma_beta is in gray levels 0–255, the others in pixels)",
            )
        strides[j] = 1 << bits
        origin += (math.ceil(-low) + 1) << bits
        bits += needed
    return strides, origin, bits
