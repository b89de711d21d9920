"""Optimizers by name, parameter groups, and averaged weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from segwright.core.errors import UsageError
from segwright.models.base import SegmentationModel
from segwright.training.config import TrainingConfig
from segwright.training.distributed.dtensors import is_dtensor, local_tensor
from segwright.training.optim.muon import Muon, muon_parameters

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm)

# lower case → class, from what this torch brings
OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    name.lower(): kind
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type)
    and issubclass(kind, torch.optim.Optimizer)
    and name not in ("Optimizer", "LBFGS", "SparseAdam", "Muon")  # need a closure, sparse gradients, only matrices
}
# The devices for which torch 2.11, the oldest supported, has fused kernels.
_EVERYWHERE = ("cpu", "cuda", "mps")
FUSED = {"adam": _EVERYWHERE, "adamw": _EVERYWHERE, "sgd": _EVERYWHERE, "adagrad": ("cpu",)}
# Tested with sharded networks; of these, torch has fused kernels for DTensors for Adam and AdamW only.
SHARDED, FUSED_SHARDED = frozenset({"adam", "adamw", "sgd", "muon"}), frozenset({"adam", "adamw"})


def create_optimizer(
    model: nn.Module,
    config: TrainingConfig,
    *,
    lr: float | None = None,
    weight_decay: float | None = None,
    encoder_lr_factor: float | None = None,
) -> torch.optim.Optimizer:
    """The optimizer of a resolved ``config`` over :func:`parameter_groups`; fused where torch has it for the device.

    ``lr``, ``weight_decay``, ``encoder_lr_factor``: instead of the config's.
    """
    lr = float(config.lr) if lr is None else lr
    weight_decay = float(config.weight_decay) if weight_decay is None else weight_decay
    if encoder_lr_factor is None:
        encoder_lr_factor = 1.0 if config.encoder_lr_factor == "auto" else float(config.encoder_lr_factor)
    name = config.optimizer.lower()
    sharded = any(is_dtensor(parameter) for parameter in model.parameters())
    if sharded and name not in SHARDED:
        raise UsageError(
            "this optimizer was not tried on a sharded network",
            expected=", ".join(sorted(SHARDED)),
            found=config.optimizer,
            fix="--optimizer adamw, or training.fsdp=false",
        )
    if name == "muon":
        bf16 = config.precision == "bf16"
        factors = {"encoder_lr_factor": encoder_lr_factor, "head_lr_factor": config.head_lr_factor}
        return _create_muon(model, config.muon_lr, bf16=bf16, lr=lr, weight_decay=weight_decay, **factors)
    if name not in OPTIMIZERS:
        names = ", ".join(sorted([*OPTIMIZERS, "muon"]))
        raise UsageError("unknown optimizer", expected=names, found=config.optimizer)
    groups = parameter_groups(
        model,
        lr=lr,
        weight_decay=weight_decay,
        encoder_lr_factor=encoder_lr_factor,
        head_lr_factor=config.head_lr_factor,
    )
    arguments: dict[str, Any] = {"lr": lr}
    if name in ("sgd", "rmsprop"):
        arguments["momentum"] = config.momentum
    if name in (FUSED_SHARDED if sharded else FUSED):
        arguments["fused"] = all(p.device.type in FUSED[name] for p in model.parameters())
    return OPTIMIZERS[name](groups, **arguments)


def _create_muon(model: nn.Module, muon_lr: float, *, bf16: bool, encoder_lr_factor: float, **groups_of: float) -> Muon:
    """Muon on the hidden kernels, each rotated by ``muon_lr`` of its norm at the schedule's peak; AdamW on the rest.

    ``groups_of``: further arguments of :func:`parameter_groups`.
    """
    kernels = muon_parameters(model)
    chosen = {id(parameter) for parameter in kernels}
    groups = parameter_groups(model, encoder_lr_factor=encoder_lr_factor, **groups_of)
    for group in groups:
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in chosen]
    encoder, _ = _roles(model)
    for name, rate, inside in (("encoder kernels", muon_lr * encoder_lr_factor, True), ("kernels", muon_lr, False)):
        chosen_here = [parameter for parameter in kernels if (id(parameter) in encoder) is inside]
        groups.append({"params": chosen_here, "lr": rate, "base_lr": rate, "use_muon": True, "name": name})
    return Muon([group for group in groups if group["params"]], groups_of["lr"], bf16=bf16)


def parameter_groups(
    model: nn.Module, *, lr: float, weight_decay: float, encoder_lr_factor: float = 1.0, head_lr_factor: float = 1.0
) -> list[dict[str, Any]]:
    """Groups by part (encoder, body, head) and by decay: norms, biases and single scales get no weight decay.

    Encoder and head are what the network declares: its encoder's parameters, and its classifier layers. UsageError
    where a part has a rate of its own and the network declares none.
    Each group carries ``base_lr``, its peak; the schedule writes ``lr`` from it.
    """
    factors = {"encoder": encoder_lr_factor, "body": 1.0, "head": head_lr_factor}
    if head_lr_factor != 1.0 and not _roles(model)[1]:
        raise UsageError(
            "the network declares no classifier layers, which head_lr_factor is for",
            found=type(model).__name__,
            fix="training.head_lr_factor=1",
        )
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for part, decays, parameter in _classified(model):
        groups.setdefault((part, decays), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": lr * factors[part],
            "base_lr": lr * factors[part],
            "weight_decay": weight_decay if decays else 0.0,
            "name": f"{part}{'' if decays else ', no decay'}",
        }
        for (part, decays), parameters in groups.items()
    ]


def _classified(model: nn.Module) -> Iterator[tuple[str, bool, nn.Parameter]]:
    """(part, whether it decays, parameter), every trainable parameter once."""
    norm_parameters = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, NORMS)
        for parameter in module.parameters(recurse=False)
    }
    encoder, head = _roles(model)
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        part = "encoder" if id(parameter) in encoder else "head" if id(parameter) in head else "body"
        yield part, parameter.ndim > 1 and id(parameter) not in norm_parameters, parameter


def _roles(model: nn.Module) -> tuple[set[int], set[int]]:
    """The identities of the parameters of the declared encoder, and of the declared classifier layers."""
    if not isinstance(model, SegmentationModel):
        return set(), set()
    layers = [layer for layers in model.classifier_layers().values() for layer in layers]
    return {id(p) for p in model.encoder_parameters()}, {id(p) for layer in layers for p in layer.parameters()}


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Scale every group's peak rate by ``factor``; returns the largest learning rate, for the log.

    Muon's rate is a fraction of a kernel's norm and no learning rate: it is returned only if there are no other groups.
    """
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
    usual = [group["lr"] for group in optimizer.param_groups if not group.get("use_muon")]
    return float(max(usual or [group["lr"] for group in optimizer.param_groups]))


class AveragedWeights:
    """A copy of the network with averaged weights: exponentially (EMA), or as an equal mean (SWA).

    The decay rises as (1 + t) / (10 + t) so that early averages forget the random start. Batch-norm statistics are
    averaged like weights; counters are copied.
    """

    def __init__(
        self, model: nn.Module, decay: float, equal_from: float | None = None, *, start: nn.Module | None = None
    ) -> None:
        """``start``: a copy of ``model`` made before; a sharded network cannot be copied."""
        self.model = (copy.deepcopy(model) if start is None else start).eval().requires_grad_(False)
        self.decay = decay
        self.equal_from = equal_from
        self.updates = 0
        self.equal_count = 0
        self._pair(model)

    def _pair(self, model: nn.Module) -> None:
        ours, theirs = self.model.state_dict(keep_vars=True), model.state_dict(keep_vars=True)
        floats = [name for name in ours if ours[name].is_floating_point()]
        self.float_pairs = ([local_tensor(ours[n]) for n in floats], [local_tensor(theirs[n]) for n in floats])
        self.other_pairs = [(ours[n], theirs[n]) for n in ours if n not in set(floats)]

    @torch.no_grad()
    def update(self, progress: float) -> None:
        """Add the weights of a step to the average; ``progress``: of the run, 0…1."""
        self.updates += 1
        if self.equal_from is not None and progress >= self.equal_from:
            self.equal_count += 1
            weight = 1.0 / self.equal_count
        else:
            weight = 1.0 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.float_pairs[0], self.float_pairs[1], weight)
        for ours, theirs in self.other_pairs:
            ours.copy_(theirs)

    def state(self) -> dict[str, int]:
        return {"updates": self.updates, "equal_count": self.equal_count}

    def load(self, state: dict[str, int]) -> None:
        self.updates, self.equal_count = int(state["updates"]), int(state["equal_count"])
