"""A GPU that is not there: tensors that say ``cuda:0``, are kept on the CPU, and mix with nothing but each other.

What a machine without a GPU can show of code for GPUs: that every tensor is where its partner is, that nothing reads
a GPU's memory as an array, and that the answers are the CPU's. Kernels, their order of summation, streams and memory
are not pretended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("cuda", 0)
MEMORY = 8 << 30
_CROSSING = {"copy_", "_to_copy", "is_same_size", "set_"}  # operations that take tensors of both sides
# Operations whose CUDA kernels add in no fixed order and have no other form, by the documentation of
# torch.use_deterministic_algorithms, and those that torch.nn.functional replaces where that is set.
NO_FIXED_ORDER = frozenset({
    "_adaptive_avg_pool2d_backward", "adaptive_max_pool2d_backward", "fractional_max_pool2d_backward", "max_unpool2d",
    "upsample_linear1d_backward", "upsample_bilinear2d_backward", "upsample_bicubic2d_backward",
    "_upsample_bilinear2d_aa_backward", "_upsample_bicubic2d_aa_backward", "reflection_pad1d_backward",
    "reflection_pad2d_backward", "replication_pad1d_backward", "replication_pad2d_backward", "nll_loss_forward",
    "nll_loss2d_forward", "put_", "put", "histc", "median", "kthvalue", "grid_sampler_2d_backward", "scatter_reduce",
    "_embedding_bag_backward", "_ctc_loss_backward", "avg_pool3d_backward", "_adaptive_avg_pool3d_backward",
})  # fmt: skip


class MixedDevicesError(RuntimeError):
    """A CPU tensor met one of the GPU."""


class OnGpu(torch.Tensor):
    """A tensor of the pretended GPU; ``held`` is what it is, on the CPU."""

    held: torch.Tensor
    asked: ClassVar[set[str]] = set()
    device = property(lambda self: DEVICE)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> OnGpu:
        wrapped = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device="cpu",
            requires_grad=held.requires_grad,
        )
        wrapped.held = held
        return wrapped

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"OnGpu({self.held!r})"

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    __array__ = numpy  # type: ignore[assignment]

    def tolist(self) -> Any:
        return self.held.tolist()

    def pin_memory(self, *_: Any) -> Any:
        raise RuntimeError("cannot pin a tensor of a GPU")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.name().split("::")[1].split(".")[0]
        cls.asked.add(name)
        if name not in _CROSSING:
            for leaf in tree_leaves((args, kwargs)):
                if isinstance(leaf, torch.Tensor) and not isinstance(leaf, OnGpu) and not _goes_along(name, leaf):
                    raise MixedDevicesError(f"{func}: a CPU tensor {tuple(leaf.shape)} among tensors on cuda:0")
        found = func(*tree_map(_held, args), **tree_map(_held, kwargs))
        written = _written(func, args, kwargs)
        if written is not None:
            return written
        with torch.inference_mode(False):  # a view of a tensor from outside of that mode counts versions
            return tree_map(_put, found)


def _written(func: Any, args: Any, kwargs: Any) -> Any:
    """What an operation in place gives back: the tensors that it was given."""
    schema = func._schema
    given = {}
    for place, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[place] if place < len(args) else kwargs.get(argument.name)
            given[frozenset(argument.alias_info.before_set)] = value
    written = [given.get(frozenset(r.alias_info.before_set)) for r in schema.returns if r.alias_info is not None]
    if not given or not written:
        return None
    return written[0] if len(written) == 1 else tuple(written)


def _goes_along(name: str, tensor: torch.Tensor) -> bool:
    """Whether a GPU takes this CPU tensor: a number without axes, or, in an indexing, where to look."""
    where = name in ("index", "index_put", "index_put_") and tensor.dtype in (torch.long, torch.bool)
    return tensor.dim() == 0 or where


def _held(value: Any) -> Any:
    return value.held if isinstance(value, OnGpu) else value


def _put(value: Any) -> Any:
    return OnGpu(value) if isinstance(value, torch.Tensor) and not isinstance(value, OnGpu) else value


def _is_gpu(value: Any) -> bool:
    """Whether a device, its name or a tensor stands for a GPU."""
    if isinstance(value, torch.Tensor):
        return isinstance(value, OnGpu)
    if isinstance(value, torch.device):
        return value.type == "cuda"
    return isinstance(value, str) and value.split(":")[0] == "cuda"


class _Made(TorchDispatchMode):
    """Makes on the pretended GPU what is to be made on a GPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _is_gpu(kwargs.get("device")):
            return _put(func(*args, **{**kwargs, "device": "cpu"}))
        return func(*args, **kwargs)


class _Moved(TorchFunctionMode):
    """Moves to the pretended GPU what is to go to a GPU, and back."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in ("to", "cpu", "cuda"):
            return self._moved(func, name, args, kwargs)
        if name in ("tensor", "as_tensor", "asarray") and _is_gpu(kwargs.get("device")):
            return _put(func(*args, **{**kwargs, "device": "cpu"}))
        return func(*args, **kwargs)

    def _moved(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        tensor, rest = args[0], list(args[1:])
        targets = [v for v in [*rest, *kwargs.values()] if isinstance(v, torch.device | str | torch.Tensor)]
        to_gpu = name == "cuda" or any(map(_is_gpu, targets))
        to_cpu = name == "cpu" or (bool(targets) and not to_gpu)
        here = isinstance(tensor, OnGpu)
        if name in ("cuda", "cpu"):
            func, rest, kwargs = torch.Tensor.to, ["cpu"], {}
        else:
            rest = [_held(v) if isinstance(v, torch.Tensor) else "cpu" if _is_gpu(v) else v for v in rest]
            kwargs = {k: "cpu" if k == "device" and _is_gpu(v) else v for k, v in kwargs.items()}
        kwargs = {k: v for k, v in kwargs.items() if k != "non_blocking"}
        if to_gpu and not here:
            return OnGpu(func(tensor.detach(), *rest, **kwargs)).requires_grad_(tensor.requires_grad)
        if to_cpu and here:
            return _Back.apply(tensor, lambda held: func(held, *rest, **kwargs))
        return func(tensor, *rest, **kwargs)


class _Back(torch.autograd.Function):
    """From the GPU to the CPU, gradients the other way."""

    @staticmethod
    def forward(ctx: Any, tensor: OnGpu, move: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        return move(tensor.held).clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        return OnGpu(gradients[0]), None


class _Autocast(torch.autocast):
    """torch.autocast("cuda", …) as the CPU's: the tensors behind are the CPU's."""

    def __init__(self, device_type: str, *arguments: Any, **named: Any) -> None:
        super().__init__("cpu" if device_type == "cuda" else device_type, *arguments, **named)


def _pageable(empty: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """torch.empty without the page-locked memory that only a driver can give."""
    return lambda *arguments, pin_memory=False, **named: empty(*arguments, **named)


@contextmanager
def pretended_gpu(memory: int = MEMORY) -> Iterator[set[str]]:
    """``cuda:0`` exists while the block runs: an H100 to whoever asks, with ``memory`` bytes.

    Yields the names of the operations that it is asked for.
    """
    OnGpu.asked.clear()
    generator = torch.zeros(16, dtype=torch.uint8)  # a GPU's state has as many bytes: seed and offset
    answers: dict[str, Any] = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "is_bf16_supported": lambda *_: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "synchronize": lambda device=None: None,
        "empty_cache": lambda: None,
        "get_device_capability": lambda device=None: (9, 0),
        "get_device_name": lambda device=None: "pretended",
        "mem_get_info": lambda device=None: (memory, memory),
        "memory_allocated": lambda device=None: 0,
        "memory_reserved": lambda device=None: 0,
        "max_memory_allocated": lambda device=None: 1 << 20,
        "reset_peak_memory_stats": lambda device=None: None,
        "get_rng_state": lambda device=None: generator.clone(),
        "set_rng_state": lambda state, device=None: generator.copy_(state),
        "manual_seed": lambda seed: generator.fill_(seed % 251),
        "manual_seed_all": lambda seed: generator.fill_(seed % 251),
    }
    swapping = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)  # a parameter stays the same object, as on a GPU
    try:
        with (
            mock.patch.multiple(torch.cuda, **answers),
            mock.patch.object(torch.accelerator, "is_available", lambda *_: False),  # asked for streams only
            mock.patch.object(torch, "autocast", _Autocast),
            mock.patch.object(torch, "empty", _pageable(torch.empty)),
            _Made(),
            _Moved(),
        ):
            yield OnGpu.asked
    finally:
        torch.__future__.set_swap_module_params_on_conversion(swapping)
