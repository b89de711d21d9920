"""Whether compiled kernels may take a tensor."""

from __future__ import annotations

import torch
from torch import Tensor

from segwright.kernels.switch import enabled


def supports(x: Tensor, *dtypes: torch.dtype) -> bool:
    """Whether the memory of ``x`` may be read by kernels: fp32 (or one of ``dtypes``) on a CPU, kernels enabled, and
    neither torch.compile nor functorch tracing."""
    return (
        not torch.compiler.is_compiling()
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, *dtypes)
        and not torch._C._functorch.is_functorch_wrapped_tensor(x)
        and enabled()
    )
