"""Mean-field inference of a dense CRF on one image by the compiled kernels. Importing this module imports numba.

The twin in torch operations is ``infer`` of :mod:`segwright.postprocess.crf_layer`.
"""

from __future__ import annotations

import numpy as np

from segwright.kernels.lattice import Float32Array, Lattice, UInt8Array
from segwright.kernels.mean_field import Term, mean_field
from segwright.kernels.permutohedral import build_lattice, ones_filtered
from segwright.kernels.threads import ThreadPool, thread_pool


def infer(
    image: UInt8Array,
    probabilities: Float32Array,
    smoothness: tuple[float, float],
    appearance: tuple[float, float, float],
    iterations: int,
    *,
    symmetric: bool,
    threads: int,
) -> tuple[Float32Array, float, float]:
    """Marginals (K, H, W) of an image uint8 (H, W, C) and probabilities float32 (K, H, W), C-contiguous.

    ``smoothness`` (w2, σγ), ``appearance`` (w1, σα, σβ). Also returns the smallest probability and the largest
    deviation of a pixel's sum from one that were found; the marginals are void where these are out of bounds.
    """
    classes, height, width = probabilities.shape
    with thread_pool(threads) as pool:
        smooth = build_lattice(image, smoothness[1], None, pool=pool)
        near = build_lattice(image, *appearance[1:], pool=pool) if appearance[0] else smooth
        terms = (_term(near, appearance[0], symmetric, pool), _term(smooth, smoothness[0], symmetric, pool))
        result, smallest, deviation = mean_field(probabilities.reshape(classes, -1), terms, iterations, pool)
    return result.reshape(classes, height, width), smallest, deviation


def _term(lattice: Lattice, weight: float, symmetric: bool, pool: ThreadPool) -> Term:
    norm = ones_filtered(lattice, pool)
    norm += 1e-20
    if symmetric:
        np.sqrt(norm, out=norm)
    np.reciprocal(norm, out=norm)
    return Term(lattice, weight * lattice.alpha, norm, symmetric)
