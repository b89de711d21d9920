"""Whether kernels that are not torch's may take a tensor."""

from __future__ import annotations

import torch
from torch import Tensor


def open_to_kernels(x: Tensor, *others: torch.dtype) -> bool:
    """fp32 (or of the ``others``) on a CPU, and not while torch.compile or functorch traces: its memory is there to be
    read."""
    return (
        not torch.compiler.is_compiling()
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, *others)
        and not torch._C._functorch.is_functorch_wrapped_tensor(x)
    )
