"""How every kernel of segwright is compiled: by numba at its first call, without the interpreter's lock, kept on disk.

Importing this module imports numba (half a second): what uses it is imported where it is called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

F = TypeVar("F", bound=Callable[..., Any])


def jit(function: F) -> F:
    """Compile with numba: no GIL, so that plain threads run it side by side, and kept on disk between processes.

    A product and a sum may become one operation and a division a product; no sum changes its order, so that NaN and
    infinity stay what they are. Where neither the package's folder nor the user's cache can be written, numba refuses
    to cache; the kernel is then compiled again in every process, which costs seconds but works.
    """
    options: dict[str, Any] = {"nogil": True, "fastmath": {"contract", "nsz", "arcp"}, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)  # type: ignore[no-any-return]
    except RuntimeError:
        return numba.njit(**options)(function)  # type: ignore[no-any-return]
