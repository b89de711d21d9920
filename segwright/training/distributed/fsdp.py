"""Sharded training (``torch.distributed.fsdp.fully_shard``), for networks that do not fit on one device.

Every process holds a shard of each weight, of its gradient and of the optimizer's state; a block's weights are gathered
for its forward and backward pass and freed again. A saved model is whole; a checkpoint is written and read in
shards (:mod:`segwright.training.distributed.sharded_checkpoint`), and goes on without them, or with another number of
processes.

What differs from DDP: a block's own batch-norm statistics are each process's own while it trains (on GPUs SyncBN makes
them common); the first process's are taken for validation and for what is saved, as DDP does.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from segwright.models.base import SegmentationModel
from segwright.training.distributed.dtensors import full_tensor, is_dtensor

LARGEST = 1 / 4  # of the network's weights that a block may hold, at most: it is gathered as a whole
SMALLEST = 1 / 100  # of the weights: smaller modules stay with the rest, since a block costs two collectives per pass
_TRIAL_SIDE = 64  # pixels of the image that shows which modules are called


def shard(model: nn.Module, device: torch.device, processes: int) -> nn.Module:
    """Shard ``model`` in place, in blocks and as a whole; returns it. Every process must hold the same weights."""
    mesh = init_device_mesh(device.type, (processes,))
    # fully_shard takes contiguous weights only; images and features stay channels-last.
    model = model.to(memory_format=torch.contiguous_format)
    for block in blocks(model):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def blocks(model: nn.Module) -> list[nn.Module]:
    """The modules to shard one by one: the outermost ones that are called and hold no more than ``LARGEST``.

    A module that is never called itself, such as a list whose members are, could not gather its weights in time.
    """
    total = _weights(model)
    called = _called(model)
    found: list[nn.Module] = []

    def visit(module: nn.Module) -> None:
        for child in module.children():
            weights = _weights(child)
            if weights < SMALLEST * total or child in found:
                continue
            if child in called and (weights <= LARGEST * total or not any(True for _ in child.children())):
                found.append(child)
            else:
                visit(child)

    visit(model)
    return found


def full_copy(model: nn.Module) -> SegmentationModel:
    """A whole copy on the CPU, for validation and saving; made before sharding."""
    return cast(SegmentationModel, copy.deepcopy(model).cpu().eval().requires_grad_(False))


def gather(source: nn.Module, into: nn.Module) -> None:
    """Copy the whole weights of a sharded network into ``into`` on every process; all ranks have to call this.

    Buffers are the first process's.
    """
    targets = into.state_dict()
    for name, tensor in source.state_dict().items():
        targets[name].copy_(full_tensor(tensor) if is_dtensor(tensor) else first_of(tensor))


def first_of(tensor: Tensor) -> Tensor:
    """Broadcast rank 0's values, in place."""
    dist.broadcast(tensor, 0)
    return tensor


def _weights(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@torch.no_grad()
def _called(model: nn.Module) -> set[nn.Module]:
    """The modules that a forward pass calls."""
    seen: set[nn.Module] = set()
    hooks = [module.register_forward_pre_hook(lambda module, _: seen.add(module)) for module in model.modules()]
    training = {module: module.training for module in model.modules()}
    channels = int(getattr(model, "in_channels", 3))
    device = next(model.parameters()).device
    try:
        # In evaluation: batch norms keep their statistics. Auxiliary heads, not called then, stay with the rest.
        model.eval()(torch.zeros((1, _TRIAL_SIDE, _TRIAL_SIDE, channels), dtype=torch.uint8, device=device))
    finally:
        for hook in hooks:
            hook.remove()
        for module, was in training.items():
            module.training = was
    return seen
