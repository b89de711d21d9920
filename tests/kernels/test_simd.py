"""Vector operations inside kernels, and the compiler's cache where nothing can be written."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import pytest

from segwright.kernels import simd
from segwright.kernels.jit import jit
from segwright.postprocess.crf import DenseCRF


@jit
def _softmax(values: Any, result: Any, width: Any) -> None:
    for i in range(0, values.size, len(width)):
        row = simd.load(values, i, width)
        power = simd.exponential(row, simd.largest(row))
        simd.store(result, i, simd.scale(np.float32(1.0) / simd.total(power), power))


def test_the_exponential_is_exact_enough() -> None:
    values = (np.random.default_rng(0).normal(size=(500, 16)) * 30).astype(np.float32)
    result = simd.aligned_zeros(values.size)
    _softmax(values.reshape(-1), result, simd.form(16))
    exact = np.exp(values.astype(float) - values.max(axis=1, keepdims=True))
    exact /= exact.sum(axis=1, keepdims=True)
    assert np.abs(result.reshape(exact.shape) - exact).max() < 1e-6
    large = exact > 1e-20
    assert (np.abs(result.reshape(exact.shape) - exact) / exact)[large].max() < 2e-5


@pytest.mark.parametrize(("classes", "width"), [(1, 4), (4, 4), (5, 8), (8, 8), (9, 16), (16, 16), (21, 8), (32, 16)])
def test_widths_waste_little(classes: int, width: int) -> None:
    assert simd.width_for(classes) == width


def test_vectors_start_at_a_cache_line() -> None:
    assert all(simd.aligned_zeros(count).ctypes.data % 64 == 0 for count in (1, 17, 4096))
    assert simd.aligned_zeros(17).shape == (17,)


def test_a_kernel_works_where_no_cache_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    real = numba.njit

    def refusing(*arguments: Any, cache: bool = False, **options: Any) -> Any:
        if cache:
            return lambda function: (_ for _ in ()).throw(RuntimeError("cannot cache function: no locator available"))
        return real(*arguments, **options)

    monkeypatch.setattr(numba, "njit", refusing)

    @jit
    def twice(value: int) -> int:
        return 2 * value

    assert twice(21) == 42


def test_callers_in_several_threads_do_not_disturb_each_other() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 70, 80, 3)).astype(np.uint8)
    probabilities = rng.dirichlet([1.0] * 12, (6, 70, 80)).transpose(0, 3, 1, 2).astype(np.float32)
    crf = DenseCRF(iterations=2, threads=2)
    alone = [crf(image, given) for image, given in zip(images, probabilities, strict=True)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(crf, images, probabilities))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
