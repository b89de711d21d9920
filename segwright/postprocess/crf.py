"""The fully connected CRF of Krähenbühl and Koltun (2011), as DeepLab uses it: probabilities in, marginals out.

Energy: unary -log p (p clipped at 1e-5) plus a Potts model with two Gaussian kernels,

    k(i, j) = w1 · exp(-|x_i - x_j|² / 2 σα² - |c_i - c_j|² / 2 σβ²)  +  w2 · exp(-|x_i - x_j|² / 2 σγ²)

with positions x in pixels and colours c in grey levels 0–255; inference by mean field. A pixel's message to itself is
not removed, as in the authors' code and pydensecrf.

Two normalisations are in use, and give different answers with the same parameters: ``symmetric`` (K becomes
D^-½ K D^-½; pydensecrf's default) and ``per-row`` (D⁻¹ K; the 2011 code, and with it DeepLab's). The presets named
after DeepLab are per row, as its code is; each has a symmetric twin by name, for results made with pydensecrf.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, cast

import numpy as np

from segwright.errors import PostprocessError
from segwright.postprocess.meanfield import CLIP, Term, mean_field
from segwright.postprocess.permutohedral import Float32Array, Lattice, UInt8Array, build_lattice, ones_filtered
from segwright.workers import Workers, processors
from segwright.workers import workers as start_workers

if TYPE_CHECKING:
    import torch

Normalization = Literal["symmetric", "per-row"]
ArrayOrTensor = TypeVar("ArrayOrTensor", Float32Array, "torch.Tensor")

MOST_THREADS = 8  # each thread splats into a lattice of its own: more threads cost memory faster than they save time
TILE_PIXELS = 4_000_000  # larger pictures go through in tiles
LOWEST, FURTHEST = -1e-3, 1e-2  # what a probability and a pixel's sum may be off by: float16 caches, rounding


@dataclass(frozen=True)
class DenseCRF:
    """A dense CRF with its parameters; call it with a picture and its probabilities.

    ``smoothness`` is (w2, σγ), ``appearance`` (w1, σα, σβ): weights, then pixels, then grey levels. A weight of 0
    leaves a kernel out. ``threads`` None takes the processor's, at most eight. Pictures of more than ``tile_pixels``
    pixels are worked on in tiles that overlap by 2 σα and are blended there, so that no seam shows.
    """

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

    @classmethod
    def preset(cls, name: str, **changes: Any) -> DenseCRF:
        """The parameters of a paper by name (see ``PRESETS``), with ``changes`` to single fields."""
        if name not in PRESETS:
            raise PostprocessError("unknown CRF preset", expected=", ".join(PRESETS), found=name)
        return cls(**{**PRESETS[name]._asdict(), **changes})

    def __call__(self, image: Any, probabilities: ArrayOrTensor) -> ArrayOrTensor:
        """Marginals K×H×W of a picture uint8 H×W×C with ``probabilities`` K×H×W; or N×K×H×W of N×H×W×C.

        numpy arrays give a float32 array. A torch tensor gives a tensor on its device and of its dtype, through which
        gradients flow to the probabilities. PostprocessError where the shapes do not fit, a value is NaN or negative,
        or a pixel's probabilities do not sum to one (within 0.01).
        """
        if not isinstance(probabilities, np.ndarray):
            from segwright.postprocess.crf_torch import call_with_tensors  # torch is imported where it is used

            return cast(ArrayOrTensor, call_with_tensors(self, image, probabilities))
        image, probabilities = np.asarray(image), np.asarray(probabilities)
        check_shapes(image.shape, probabilities.shape, str(image.dtype), "uint8")
        if probabilities.dtype.kind != "f":
            raise PostprocessError("probabilities are floats", expected="float32", found=str(probabilities.dtype))
        if probabilities.ndim == 4:
            return np.stack([self._single(i, p) for i, p in zip(image, probabilities, strict=True)])
        return self._single(image, probabilities)

    def _single(self, image: UInt8Array, probabilities: Float32Array) -> Float32Array:
        height, width = image.shape[:2]
        if height * width <= self.tile_pixels:
            return self._whole(image, np.ascontiguousarray(probabilities, dtype=np.float32))
        result = np.zeros(probabilities.shape, np.float32)
        for rows, columns, weights in tiles(self, height, width):
            tile = np.ascontiguousarray(probabilities[:, rows, columns], dtype=np.float32)
            marginals = self._whole(np.ascontiguousarray(image[rows, columns]), tile)
            marginals *= weights
            result[:, rows, columns] += marginals
        return result

    @property
    def reach(self) -> int:
        """How many pixels around it a pixel's answer depends on: twice the wider kernel's standard deviation."""
        (w2, sigma_gamma), (w1, sigma_alpha, _) = self.smoothness, self.appearance
        return math.ceil(2 * max(sigma_alpha if w1 else 0.0, sigma_gamma if w2 else 0.0))

    def _whole(self, image: UInt8Array, probabilities: Float32Array) -> Float32Array:
        classes, height, width = probabilities.shape
        flat = probabilities.reshape(classes, -1)
        with start_workers(self.thread_count(height * width)) as team:
            # With one class, no iterations or no kernels there are no messages: only the checks and the normalisation.
            idle = classes == 1 or self.iterations == 0 or not (self.smoothness[0] or self.appearance[0])
            pixel = np.zeros((1, 1, 1), np.uint8)
            terms = self._terms(pixel if idle else image, team)
            if idle:
                result, smallest, deviation = _clipped(flat)
            else:
                result, smallest, deviation = mean_field(flat, terms, self.iterations, team)
        check_values(smallest, deviation)
        return result.reshape(classes, height, width)

    def thread_count(self, pixels: int) -> int:
        """How many threads a picture of so many pixels is worth."""
        return max(1, min(self.threads or min(processors(), MOST_THREADS), pixels // 4096))

    def _terms(self, image: UInt8Array, team: Workers) -> tuple[Term, Term]:
        smooth = build_lattice(image, self.smoothness[1], None, team=team)
        w1, sigma_alpha, sigma_beta = self.appearance
        near = build_lattice(image, sigma_alpha, sigma_beta, team=team) if w1 else smooth
        return self._term(near, w1, team), self._term(smooth, self.smoothness[0], team)

    def _term(self, lattice: Lattice, weight: float, team: Workers) -> Term:
        norm = ones_filtered(lattice, team)
        norm += 1e-20
        if self.normalization == "symmetric":
            np.sqrt(norm, out=norm)
        np.reciprocal(norm, out=norm)
        return Term(lattice, weight * lattice.alpha, norm, self.normalization == "symmetric")


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


def _clipped(probabilities: Float32Array) -> tuple[Float32Array, float, float]:
    deviation = float(np.abs(probabilities.sum(axis=0) - 1).max())
    smallest = float(probabilities.min())
    clipped = np.clip(probabilities, CLIP, 1.0)
    return clipped / clipped.sum(axis=0), smallest, deviation


def check_shapes(image: tuple[int, ...], probabilities: tuple[int, ...], dtype: str, wanted: str) -> None:
    """PostprocessError unless the picture is uint8 H×W×C with probabilities K×H×W, or both with a leading N."""
    fits = len(image) == len(probabilities) and len(image) in (3, 4)
    fits = fits and image[-3:-1] == probabilities[-2:] and image[:-3] == probabilities[:-3]
    if not fits or 0 in image or 0 in probabilities or dtype != wanted or image[-1] > 8:
        raise PostprocessError(
            "picture and probabilities do not fit each other",
            expected="a picture uint8 H×W×C (1 to 8 channels) with probabilities float K×H×W, nothing empty",
            found=f"picture {dtype} {image}, probabilities {probabilities}",
            fix="resize the probabilities to the picture, or the picture to them",
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


def tiles(crf: DenseCRF, height: int, width: int) -> Iterator[tuple[slice, slice, Float32Array]]:
    """Tiles of at most ``crf.tile_pixels`` pixels that overlap by what the CRF looks at: rows, columns, and their
    blending weights (rows, columns), which sum to one at every pixel."""
    overlap = min(crf.reach, math.isqrt(crf.tile_pixels) // 2)
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
