"""How much memory there is, how much is used, and what running out of it looks like."""

from __future__ import annotations

import psutil
import torch

_SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch means that memory ran out, on a GPU or on the CPU."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _SIGNS)


def available_bytes(device: torch.device) -> int:
    """What a process may still take on ``device``."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def memory_text(device: torch.device) -> str:
    """What this process uses, for the display."""
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB on the GPU"
    return f"{psutil.Process().memory_info().rss / 2**30:.1f} GiB memory"
