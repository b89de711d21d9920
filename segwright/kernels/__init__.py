"""Compiled CPU kernels, each beside a plain torch or numpy twin, with one switch.

    SEGWRIGHT_KERNELS=0 segwright train …    # plain twins only, for the whole process
    with kernels.disabled(): …               # for a block
    kernels.enabled()                        # whether kernels may run
    kernels.patch(model)                     # let a network compute by them where they apply

Importing this package imports neither torch nor numba; a kernel is imported, and compiled, when it is first called.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeVar

from segwright.kernels.switch import disabled, enabled

if TYPE_CHECKING:
    from torch import nn

__all__ = ["compiled_count", "disabled", "enabled", "patch"]

Model = TypeVar("Model", bound="nn.Module")


def patch(model: Model) -> Model:
    """Let ``model`` compute by the kernels on a CPU, in place; returns it. See :mod:`segwright.kernels.patching`.

    Names, parameters, buffers, ``repr`` and results (up to rounding) stay as they are. Nothing changes while kernels
    are disabled, and a patched model computes by plain torch within :func:`disabled`.
    """
    if enabled():
        from segwright.kernels.patching import patch_modules  # imports torch

        patch_modules(model)
    return model


def compiled_count() -> int:
    """The number of kernels that were compiled or loaded in this process; 0 if numba was not imported yet.

    A measurement during which it grows has measured the compiler as well, and is to be repeated.
    """
    jit = sys.modules.get("segwright.kernels.jit")
    return jit.compiled_count() if jit is not None else 0
