"""The switch of the compiled kernels: the environment variable ``SEGWRIGHT_KERNELS`` and :func:`disabled`.

Nothing here imports torch or numba.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from segwright.core.errors import UsageError

VARIABLE = "SEGWRIGHT_KERNELS"
_lock = threading.Lock()
_disabled = 0  # how many ``with disabled():`` blocks are open


def enabled() -> bool:
    """Whether compiled kernels may run: numba is installed, not within :func:`disabled`, and ``SEGWRIGHT_KERNELS`` is
    unset or 1.

    UsageError for any value of the variable but 0 and 1.
    """
    value = os.environ.get(VARIABLE, "").strip()
    if value not in ("", "0", "1"):
        raise UsageError(
            f"the environment variable {VARIABLE} is 0 or 1",
            expected="0 (plain torch and numpy only) or 1 (compiled kernels where they apply)",
            found=value,
            fix=f"unset {VARIABLE}, or set it to 0 or 1",
        )
    return value != "0" and not _disabled and _has_numba()


@functools.cache
def _has_numba() -> bool:
    """segwright-runtime comes without it: the plain twins run then."""
    return importlib.util.find_spec("numba") is not None


@contextmanager
def disabled() -> Iterator[None]:
    """Run everything on the plain torch and numpy twins within the block, in every thread of the process."""
    global _disabled
    with _lock:
        _disabled += 1
    try:
        yield
    finally:
        with _lock:
            _disabled -= 1
