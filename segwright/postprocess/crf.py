"""The fully connected CRF of Krähenbühl and Koltun (2011), as DeepLab uses it: probabilities in, marginals out.

Energy: unary -log p (p clipped at 1e-5) plus a Potts model with two Gaussian kernels,

    k(i, j) = w1 · exp(-|x_i - x_j|² / 2 σα² - |c_i - c_j|² / 2 σβ²)  +  w2 · exp(-|x_i - x_j|² / 2 σγ²)

with positions x in pixels and colors c in gray levels 0–255; inference by mean field. A pixel's message to itself is
not removed, as in the authors' code and pydensecrf.

Two normalizations are in use, and give different marginals with the same parameters: ``symmetric`` (K becomes
D^-½ K D^-½; pydensecrf's default) and ``per-row`` (D⁻¹ K; the 2011 code, and with it DeepLab's). The presets named
after DeepLab are per row, as its code is; each has a symmetric twin by name, for results made with pydensecrf.

Arrays are filtered by the compiled kernels of :mod:`segwright.kernels.crf`, or, while kernels are disabled, by their
twin in torch, :mod:`segwright.postprocess.crf_layer`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from segwright import kernels
from segwright.core.errors import PostprocessError
from segwright.kernels.lattice import CLIP, Float32Array, UInt8Array
from segwright.kernels.threads import processors
from segwright.postprocess.crf_spec import PRESETS, CRFParameters, check_shapes, check_values, tiles

if TYPE_CHECKING:
    import torch

ArrayOrTensor = TypeVar("ArrayOrTensor", Float32Array, "torch.Tensor")

MOST_THREADS = 8  # each thread splats into a lattice of its own: more threads cost memory faster than they save time


@dataclass(frozen=True)
class DenseCRF(CRFParameters):
    """A dense CRF with its parameters; call it with an image and its probabilities.

    ``smoothness`` is (w2, σγ), ``appearance`` (w1, σα, σβ): weights, then pixels, then gray levels. A weight of 0
    leaves a kernel out. ``threads`` None takes the processor's, at most eight. Images of more than ``tile_pixels``
    pixels are worked on in tiles that overlap by 2 σα and are blended there, so that no seam shows.
    """

    @classmethod
    def preset(cls, name: str, **changes: Any) -> DenseCRF:
        """The parameters of a paper by name (see ``PRESETS``), with ``changes`` to single fields."""
        if name not in PRESETS:
            raise PostprocessError("unknown CRF preset", expected=", ".join(PRESETS), found=name)
        return cls(**{**PRESETS[name]._asdict(), **changes})

    def __call__(self, image: Any, probabilities: ArrayOrTensor) -> ArrayOrTensor:
        """Marginals K×H×W of an image uint8 H×W×C with ``probabilities`` K×H×W; or N×K×H×W of N×H×W×C.

        numpy arrays give a float32 array. A torch tensor gives a tensor on its device and of its dtype, through which
        gradients flow to the probabilities. PostprocessError where the shapes do not fit, a value is NaN or negative,
        or a pixel's probabilities do not sum to one (within 0.01).
        """
        if not isinstance(probabilities, np.ndarray):
            from segwright.postprocess.crf_layer import call_with_tensors  # torch is imported where it is used

            return cast(ArrayOrTensor, call_with_tensors(self, image, probabilities, self))
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

    def _whole(self, image: UInt8Array, probabilities: Float32Array) -> Float32Array:
        # With one class, no iterations or no kernels there are no messages: only the checks and the normalization.
        idle = len(probabilities) == 1 or self.iterations == 0 or not (self.smoothness[0] or self.appearance[0])
        if kernels.enabled() and not idle:
            from segwright.kernels import crf  # imports numba

            threads = self.thread_count(image.shape[0] * image.shape[1])
            result, smallest, deviation = crf.infer(
                image, probabilities, self.smoothness, self.appearance, self.iterations,
                symmetric=self.normalization == "symmetric", threads=threads,
            )  # fmt: skip
            check_values(smallest, deviation)
            return result
        clipped, smallest, deviation = _clipped(probabilities)
        check_values(smallest, deviation)
        if idle:
            return clipped
        from segwright.postprocess.crf_layer import infer_arrays  # imports torch

        return cast(Float32Array, infer_arrays(self, image, probabilities))

    def thread_count(self, pixels: int) -> int:
        """How many threads per image of so many pixels is worth."""
        return max(1, min(self.threads or min(processors(), MOST_THREADS), pixels // 4096))


def _clipped(probabilities: Float32Array) -> tuple[Float32Array, float, float]:
    deviation = float(np.abs(probabilities.sum(axis=0) - 1).max())
    smallest = float(probabilities.min())
    clipped = np.clip(probabilities, CLIP, 1.0)
    return clipped / clipped.sum(axis=0), smallest, deviation
