"""How every kernel of segwright is compiled: by numba at its first call, without the interpreter's lock, kept on disk.

Importing this module imports numba (half a second): what uses it is imported where it is called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

from segwright.kernels.compiled_files import keep_compiled

F = TypeVar("F", bound=Callable[..., Any])

_KERNELS: list[Any] = []  # numba's dispatchers, for compiled_count


def jit(function: F) -> F:
    """Compile with numba: no GIL, so that plain threads run it side by side, and kept on disk between processes.

    A product and a sum may become one operation and a division a product; no sum changes its order, so that NaN and
    infinity stay what they are. Where neither the package's folder nor the user's cache can be written, the kernel is
    compiled again in every process, which costs seconds but works.
    """
    options: dict[str, Any] = {"nogil": True, "fastmath": {"contract", "nsz", "arcp"}, "error_model": "numpy"}
    try:
        kernel = numba.njit(cache=True, **options)(function)
        keep_compiled(kernel)
    except (RuntimeError, AttributeError):  # numba refuses to cache, or caches in a way that is not known here
        kernel = numba.njit(**options)(function)
    _KERNELS.append(kernel)
    return kernel  # type: ignore[no-any-return]


def compiled_count() -> int:
    """The number of kernels that were compiled or loaded in this process, each type of arguments counted once."""
    return sum(len(kernel.signatures) for kernel in _KERNELS)
