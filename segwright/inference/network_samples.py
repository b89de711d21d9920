"""Several answers of one network in torch: passes with dropout, and the members of an ensemble."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from scipy.special import softmax
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from segwright import kernels
from segwright.core.types import Float32Array, UInt8Array
from segwright.inference.torch_runtime import TorchRuntime
from segwright.models.ensemble import Ensemble


def dropout_layers(model: nn.Module) -> list[nn.Module]:
    """Its layers that drop anything."""
    return [module for module in model.modules() if isinstance(module, _DropoutNd) and module.p > 0]


def members_of(model: nn.Module) -> Sequence[nn.Module]:
    """The members of an ensemble; none of another network."""
    return tuple(model.members) if isinstance(model, Ensemble) else ()


@contextmanager
def _dropping(model: nn.Module) -> Iterator[None]:
    """Let only the dropout layers drop, on plain torch: a kernel may leave out what does nothing in eval mode."""
    layers = dropout_layers(model)
    with kernels.disabled():
        try:
            for layer in layers:
                layer.train()
            yield
        finally:
            for layer in layers:
                layer.eval()


def with_dropout(runtime: TorchRuntime, pixels: UInt8Array, passes: int) -> Iterator[Float32Array]:
    """Probabilities (K, H, W) of each pass; the same for the same image, and the caller's random state is kept."""
    devices = [runtime.device] if runtime.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), _dropping(runtime.model):
        torch.manual_seed(0)
        for _ in range(passes):
            yield np.asarray(softmax(runtime.logits(pixels[None])[0], axis=0), np.float32)


@torch.inference_mode()
def of_members(runtime: TorchRuntime, pixels: UInt8Array) -> Iterator[Float32Array]:
    """Probabilities (K, H, W) of each member of an ensemble."""
    images = torch.from_numpy(np.require(pixels[None], requirements=["C", "W"])).to(runtime.device)
    for member in members_of(runtime.model):
        with torch.autocast(runtime.device.type, runtime.dtype or torch.bfloat16, enabled=runtime.dtype is not None):
            logits = member(images).logits
        yield torch.softmax(logits.float(), dim=1)[0].cpu().numpy()
