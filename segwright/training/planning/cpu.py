"""Settings that make training on a CPU faster, to be made before torch is imported. Needs no torch itself.

A training step allocates and frees hundreds of megabytes of activations. glibc gives blocks above 128 KiB back to the
system at once and requests them again, and the kernel then clears and maps every 4 KiB page again, in every step: a
quarter of a small network's step. Two settings end that (measured in docs/data-path.md):

- ``mallopt``: large blocks stay with the process and are used again;
- ``THP_MEM_ALLOC_ENABLE``: torch requests 2 MiB pages for large tensors.

And torch's threads, when they have nothing to do, keep their cores busy for milliseconds in the hope of more, while the
threads of our kernels and the loader wait for those cores:

- ``GOMP_SPINCOUNT``: they wait some microseconds, then sleep (a step is 1.1 times faster for it).

None changes a number that is computed. The price: a process keeps the memory of its largest step.
"""

from __future__ import annotations

import ctypes
import os
import sys

# From malloc.h. The threshold has to be a 32-bit int; glibc caps what it accepts, so each result is looked at.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_LARGEST = 2**31 - 1
_NEVER = -1  # as a size: a trim threshold of 2 GiB would give back what a larger step needs again
_SPINS = "20000"
WAITING = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}  # if one of these is set, the user has chosen how threads wait
_TOP_PAD = 64 << 20


def prepare_cpu() -> list[str]:
    """Keep freed memory in the process, use large pages, let idle threads sleep; returns what was set, for the log.

    Call it before torch is imported; afterwards only the first is done. Settings that the user made in the
    environment are respected. On systems without glibc it does nothing.
    """
    done = []
    if "MALLOC_MMAP_THRESHOLD_" not in os.environ and _set_malloc():
        done.append("freed memory stays with the process (mallopt)")
    if sys.platform == "linux" and "torch" not in sys.modules and "THP_MEM_ALLOC_ENABLE" not in os.environ:
        os.environ["THP_MEM_ALLOC_ENABLE"] = "1"
        done.append("2 MiB pages for tensors (THP_MEM_ALLOC_ENABLE=1)")
    if sys.platform == "linux" and "torch" not in sys.modules and not WAITING & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = _SPINS
        done.append(f"idle threads sleep soon (GOMP_SPINCOUNT={_SPINS})")
    return done


def has_native_bf16() -> bool:
    """Whether this CPU multiplies bf16 itself (AVX512-BF16, AMX or Arm's bf16); emulated, it is slower than fp32."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            for line in file:
                key, _, value = line.partition(":")
                if key.strip() in ("flags", "Features"):
                    return bool({"avx512_bf16", "amx_bf16", "bf16", "svebf16"} & set(value.split()))
    except OSError:
        return False  # not Linux: fp32 is always right
    return False


def _set_malloc() -> bool:
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False  # musl
    settings = ((_M_MMAP_THRESHOLD, _LARGEST), (_M_TRIM_THRESHOLD, _NEVER), (_M_TOP_PAD, _TOP_PAD))
    results = [bool(mallopt(option, value)) for option, value in settings]  # all of them, whatever the first returns
    return all(results)
