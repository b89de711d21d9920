"""Networks without memory: what has shapes, names and the price of a pass, and no values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

RANDOM_FILLS = {  # a function of nn.init hides from the mode what it calls
    Tensor.normal_, Tensor.uniform_, nn.init.normal_, nn.init.uniform_, nn.init.trunc_normal_, nn.init.kaiming_normal_,
    nn.init.kaiming_uniform_, nn.init.xavier_normal_, nn.init.xavier_uniform_,
}  # fmt: skip


class _NoRandomFill(TorchFunctionMode):
    """Initial values are not drawn where there is nothing to fill. torch would import its compiler for them, which
    takes as long as torch itself."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func in RANDOM_FILLS:
            tensor = args[0] if args else given.get("tensor")
            if isinstance(tensor, Tensor) and tensor.is_meta:
                return tensor
        return func(*args, **given)


@contextmanager
def without_memory() -> Iterator[None]:
    """Tensors that are made here are on the device "meta"."""
    with torch.device("meta"), _NoRandomFill():
        yield
