"""Deterministic mode: equal seeds give equal weights."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from segwright.core.errors import UsageError

# cuBLAS sums in one order only with a workspace of fixed size (torch's and NVIDIA's notes on reproducibility).
_CUBLAS, _WORKSPACE = "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
_NO_KERNEL = "does not have a deterministic implementation"


@contextmanager
def deterministic_mode(device: torch.device, *, deterministic: bool) -> Iterator[None]:
    """Choose torch's kernels for the duration of the block: those that repeat bit for bit, or the fastest.

    ``deterministic``: the same seed gives the same weights on the same machine, also on a GPU. UsageError, before the
    weights are touched, if a network or a loss needs a kernel that torch has no deterministic form of. Otherwise a
    GPU's convolutions are timed once per shape, and the fastest kernel is used.
    """
    mode, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    if deterministic:
        if device.type == "cuda":
            os.environ.setdefault(_CUBLAS, _WORKSPACE)
        # Strict: where it may warn only, torch's attention goes on in no fixed order. Apple's GPUs lack too much.
        torch.use_deterministic_algorithms(True, warn_only=device.type == "mps")
        torch.backends.cudnn.benchmark = False
    elif device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    try:
        yield
    except RuntimeError as error:
        if not deterministic or _NO_KERNEL not in str(error):
            raise
        raise UsageError(
            "--deterministic needs a kernel that torch does not have",
            found=f"{str(error).split(_NO_KERNEL)[0].strip()} on {device}",
            fix="another network or loss, --device cpu, or train without --deterministic",
        ) from error
    finally:
        torch.use_deterministic_algorithms(mode, warn_only=warned)
        torch.backends.cudnn.benchmark = benchmark
