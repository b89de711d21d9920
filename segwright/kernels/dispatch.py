"""Between tensors and compiled kernels: whether they may take one, and its memory as they read it."""

from __future__ import annotations

from typing import Any

import numpy as np
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


def raw(x: Tensor) -> np.ndarray[Any, np.dtype[Any]]:
    """A tensor's memory for the kernels, shape and strides as they are: bf16 as uint16, others as themselves."""
    x = x.detach()
    return x.view(torch.uint16).numpy() if x.dtype == torch.bfloat16 else x.numpy()
