"""Available memory, the peak memory of a piece of work, and out-of-memory errors."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import torch

from segwright.data.loading.cache import available_memory

_SIGNS = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "cannot allocate memory",
    "alloc_failed",  # cuDNN and cuBLAS
)
_RESET_PEAK = "5"  # written to clear_refs it sets the high-water mark back to what is used now (Linux, proc(5))
_LOOK_EVERY = 0.002  # seconds, where the system keeps no mark that can be set back


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch, numpy or Python means that memory ran out, on a GPU or on the CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _SIGNS)


def available_bytes(device: torch.device) -> int:
    """Bytes that this process may still allocate on ``device``, with the limits of control group and ``ulimit -v``."""
    if device.type == "cuda":
        # Memory that torch has reserved and does not use is available to this process.
        spare = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + int(spare)
    available = available_memory()
    limit = _address_space()
    if limit is not None:
        available = min(available, max(limit - int(psutil.Process().memory_info().vms), 0))
    return available


def peak_of(device: torch.device, work: Callable[[], object]) -> int:
    """Bytes that ``work`` takes at its peak, beyond what is in use before it.

    On a GPU the allocator's own count. On a CPU the growth of the resident set, after freed memory has been given back
    and garbage collected, which would otherwise make room while ``work`` runs: it holds what the kernels' libraries
    take beside the tensors. Errors of ``work`` pass through.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return max(int(torch.cuda.max_memory_allocated(device)) - before, 0)
    gc.collect()
    give_back_freed()
    process = psutil.Process()
    before = int(process.memory_info().rss)
    if _reset_mark():
        work()
        return max(_marked() - before, 0)
    return max(_watched(process, work) - before, 0)


def give_back_freed() -> None:
    """Return freed memory to the system (glibc; a no-op elsewhere)."""
    if sys.platform == "linux":
        try:
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        except (OSError, AttributeError):
            return  # musl


def process_bytes(device: torch.device) -> int:
    """Bytes that this process uses now (CPU), or used at its peak (GPU)."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return int(psutil.Process().memory_info().rss)


def memory_text(device: torch.device) -> str:
    """The memory use of this process, for the display."""
    return gib(process_bytes(device)) + (" on the GPU" if device.type == "cuda" else " memory")


def gib(count: float) -> str:
    """Bytes for people: "1.9 GiB", "310 MiB"."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def _address_space() -> int | None:
    """The limit of ``ulimit -v`` in bytes, if one is set."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if soft == resource.RLIM_INFINITY else int(soft)


def _reset_mark() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text(_RESET_PEAK)
        return _marked() > 0
    except OSError:
        return False


def _marked() -> int:
    """The high-water mark of the resident set, in bytes; 0 if the system does not report it."""
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    return 0


def _watched(process: psutil.Process, work: Callable[[], object]) -> int:
    """The largest resident set that a second thread measures while ``work`` runs."""
    seen = [int(process.memory_info().rss)]
    done = threading.Event()

    def look() -> None:
        while not done.wait(_LOOK_EVERY):
            seen.append(max(seen.pop(), int(process.memory_info().rss)))

    thread = threading.Thread(target=look, name="memory", daemon=True)
    thread.start()
    try:
        work()
    finally:
        done.set()
        thread.join()
    return max(seen[-1], int(process.memory_info().rss))
