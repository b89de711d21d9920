"""bf16 in kernels, against torch's own conversions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from segwright.kernels.bf16 import narrow, wide
from segwright.kernels.dispatch import raw
from segwright.kernels.jit import jit


@jit
def double(x: Any, out: Any) -> None:
    for i in range(x.size):
        out[i] = narrow(wide(x[i]) * 2, out)


@jit
def copied(x: Any, out: Any) -> None:
    for i in range(x.size):
        out[i] = narrow(x[i], out)


def test_every_bf16_is_read_as_torch_reads_it() -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(torch.bfloat16)
    out = torch.empty_like(every)
    double(raw(every), raw(out))
    expected = every * 2
    assert torch.equal(torch.isnan(out), torch.isnan(expected))
    assert torch.equal(out.nan_to_num(7), expected.nan_to_num(7))


def test_numbers_are_rounded_as_torch_rounds_them() -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 1 << 20, dtype=np.uint32)
    edges = [0x3F808000, 0x3F818000, 0x3F807FFF, 0x3F808001, 0x7F7FFFFF, 0x7F800000, 0xFF800000, 0x7FFFFFFF, 0xFFFFFFFF]
    numbers = torch.from_numpy(np.concatenate([bits, np.array(edges, np.uint32)]).view(np.float32))
    out = torch.empty(numbers.shape, dtype=torch.bfloat16)
    copied(numbers.numpy(), raw(out))
    expected = numbers.bfloat16()
    assert torch.equal(torch.isnan(out), torch.isnan(expected))
    assert torch.equal(out.nan_to_num(7), expected.nan_to_num(7))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_other_precisions_are_as_they_are(dtype: torch.dtype) -> None:
    x = torch.randn(33, dtype=dtype)
    out = torch.empty_like(x)
    double(raw(x), raw(out))
    assert torch.equal(out, x * 2)
