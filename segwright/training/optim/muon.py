"""Muon for convolutions, AdamW for the rest: the fastest optimizer measured for training from random weights on a CPU.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) replaces the momentum of a weight matrix by the
nearest orthogonal matrix, found by Newton–Schulz steps, so that all directions learn equally fast. A kernel
(out, in, k, k) is taken as a matrix out × in·k·k. Before a batch norm only a kernel's direction matters: it keeps its
initial norm (so that pretrained statistics still fit), and an update rotates it by the learning rate, a fraction of
that norm. The coefficients of the five steps are You Jiacheng's, from the modded-nanogpt speedruns (timm lists them
as ``quintic``). They are tuned as a schedule that begins with the first; that only the last ``iterations`` of them are
taken is ours, for speed.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from segwright.models.base import SegmentationModel
from segwright.models.blocks import InstanceBatchNorm
from segwright.training.distributed.dtensors import distribute_like, full_tensor, is_dtensor, local_tensor

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, InstanceBatchNorm)
_TRIAL_SIDE = 64  # pixels of the image on which the order of the layers is traced

QUINTIC = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)


def orthogonalize(matrices: Tensor, iterations: int = 3, *, bf16: bool = False) -> Tensor:
    """(…, rows, columns) → about their orthogonal polar factors, by Newton–Schulz steps, at the Frobenius norm √rows.

    In fp32 the steps of a wide matrix are taken on the small side: with G = X·Xᵀ every step is a polynomial of G, and
    the product of the polynomials meets the wide X once, at the end: 1.4 times as fast as steps of X
    (``benchmarks/muon.py``).
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    short, long = x.shape[-2:]
    coefficients = QUINTIC[-iterations:]
    if bf16 or long < 2 * short:  # bf16 as its authors do it: the steps contract errors
        x = _steps(x.to(torch.bfloat16) if bf16 else x, coefficients).to(matrices.dtype)
    else:
        x = _small_steps(x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7), coefficients)
    x = x.mT if tall else x
    scaled: Tensor = x * (matrices.shape[-2] ** 0.5 / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7))
    return scaled


def _steps(x: Tensor, coefficients: Sequence[tuple[float, float, float]]) -> Tensor:
    """X ← a·X + (b·G + c·G²)·X with G = X·Xᵀ, from X scaled to a spectral norm of at most 1.

    The same products in the same order as ``timm.optim.muon.zeropower_via_newtonschulz``, whose import takes as long as
    torch's and comes with torch's compiler.
    """
    x = (x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)).contiguous()
    plus = torch.addmm if x.ndim == 2 else torch.baddbmm
    for a, b, c in coefficients:
        gram = x @ x.mT
        x = plus(x, plus(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _small_steps(x: Tensor, coefficients: Sequence[tuple[float, float, float]]) -> Tensor:
    """The same on the rows' side: all factors are polynomials of the first G, and commute."""
    gram = x @ x.mT
    product = None
    for index, (a, b, c) in enumerate(coefficients):
        factor = b * gram + c * (gram @ gram)
        factor.diagonal(dim1=-2, dim2=-1).add_(a)
        product = factor if product is None else factor @ product
        if index + 1 < len(coefficients):
            gram = factor @ gram @ factor
    return x if product is None else product @ x


def muon_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that Muon may train: kernels of dense convolutions without bias whose scale does not matter.

    It does not matter if the output goes straight into a norm layer and nowhere else, or if the network declares so.
    The first convolution is left out: its input is colors and not features.
    """
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    dense = [conv for conv in convolutions[1:] if conv.bias is None and conv.groups == 1]
    free = normed_convolutions(model) if dense else set()
    if isinstance(model, SegmentationModel):
        free |= {id(layer) for layer in model.scale_free_layers()}
    kept = [conv for conv in dense if id(conv) in free]
    return [parameter for conv in kept for parameter in conv.parameters() if parameter.requires_grad]


def normed_convolutions(model: nn.Module) -> set[int]:
    """The identities of the convolutions whose output goes straight into a norm layer, and into nothing else: by the
    order in an ``nn.Sequential``, and by what a forward pass hands from one to the other."""
    found: set[int] = set()
    for module in model.modules():
        if isinstance(module, nn.Sequential):
            parts = list(module.children())
            pairs = itertools.pairwise(parts)
            found |= {id(a) for a, b in pairs if isinstance(a, nn.Conv2d) and isinstance(b, NORMS)}
    if not isinstance(model, SegmentationModel):
        return found
    # A sharded network cannot be copied; for any other, the pass on a copy without memory costs nothing.
    sharded = any(is_dtensor(parameter) for parameter in model.parameters())
    run = model if sharded else copy.deepcopy(model).to("meta")
    names = {id(twin): id(own_module) for twin, own_module in zip(run.modules(), model.modules(), strict=True)}
    made: dict[int, tuple[int, Tensor]] = {}  # of a tensor: the convolution that it came from; held, so that ids stay
    elsewhere: set[int] = set()  # convolutions whose output something besides a norm takes
    depth = 0  # of norms within norms, which the pass is in

    class OtherUses(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            if depth == 0 and isinstance(result, Tensor):
                given = tree_leaves((args, kwargs))
                elsewhere.update(made[id(value)][0] for value in given if id(value) in made)
            return result

    def output(module: nn.Module, arguments: Any, result: Tensor) -> None:
        made[id(result)] = (names[id(module)], result)

    def taken(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        nonlocal depth
        depth += 1
        if arguments and id(arguments[0]) in made:
            found.add(made[id(arguments[0])][0])

    def left(module: nn.Module, arguments: Any, result: Any) -> None:
        nonlocal depth
        depth -= 1

    hooks = [m.register_forward_hook(output) for m in run.modules() if isinstance(m, nn.Conv2d)]
    norms = [module for module in run.modules() if isinstance(module, NORMS)]
    hooks += [m.register_forward_pre_hook(taken) for m in norms] + [m.register_forward_hook(left) for m in norms]
    training = [(module, module.training) for module in run.modules()]
    device = next(run.parameters()).device
    try:
        with torch.no_grad(), OtherUses():
            shape = (2, _TRIAL_SIDE, _TRIAL_SIDE, run.in_channels)
            run.train(not sharded)(torch.zeros(shape, dtype=torch.uint8, device=device))
    finally:
        for hook in hooks:
            hook.remove()
        for module, was in training:
            module.training = was
        for part in run.modules() if sharded else ():
            reshard: Any = getattr(part, "reshard", None)
            if reshard is not None:  # the outermost shards stay together until a backward pass, which never comes
                reshard()
    return found - elsewhere


class Muon(torch.optim.Optimizer):
    """Muon on the groups marked ``use_muon``, AdamW on the others.

    ``momentum``: of Muon, with Nesterov's look-ahead; ``bf16``: its steps in bf16. ``betas``, ``eps``: of AdamW. Groups
    carry ``lr``, ``base_lr`` and ``weight_decay`` as usual; a Muon group's ``lr`` is the fraction of its norm by
    which a kernel is rotated; weight decay does not apply, since the norm is fixed.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 4e-3,
        *,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        iterations: int = 3,
        weight_decay: float = 0.0,
        bf16: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "betas": betas,
            "eps": eps,
            "iterations": iterations,
            "weight_decay": weight_decay,
            "use_muon": False,
            "bf16": bf16,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one update from the current gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters and group["use_muon"]:
                self._rotate(parameters, group)
            elif parameters:
                self._adamw(parameters, group)
        return loss

    def _rotate(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        for same in _group_by_shape(parameters):
            matrices = torch.stack([self._nesterov_momentum(parameter, group["momentum"]) for parameter in same])
            turned = orthogonalize(matrices, group["iterations"], bf16=group["bf16"])
            for parameter, update in zip(same, turned.unbind(), strict=True):
                norm = float(self.state[parameter]["norm"])
                turn = update.reshape(parameter.shape) * (norm / parameter.shape[0] ** 0.5)
                parameter.add_(distribute_like(turn, parameter) if is_dtensor(parameter) else turn, alpha=-group["lr"])
                local_tensor(parameter).mul_(norm / (full_tensor(parameter.norm()) + 1e-12))

    def _nesterov_momentum(self, parameter: nn.Parameter, momentum: float) -> Tensor:
        """Update the momentum; returns Nesterov's look-ahead as a matrix, gathered if the kernel is sharded."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        if "norm" not in state:
            state["norm"] = full_tensor(parameter.norm()).detach().to("cpu", copy=True)
        state["momentum"].lerp_(parameter.grad, 1 - momentum)
        return full_tensor(torch.lerp(parameter.grad, state["momentum"], momentum)).reshape(parameter.shape[0], -1)

    def _adamw(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter] = {
                    "step": torch.tensor(0.0),
                    "mean": torch.zeros_like(parameter),
                    "square": torch.zeros_like(parameter),
                }
        states = [self.state[p] for p in parameters]
        gradients = [p.grad for p in parameters if p.grad is not None]
        gradients = [local_tensor(gradient) for gradient in gradients]
        means, squares = [local_tensor(s["mean"]) for s in states], [local_tensor(s["square"]) for s in states]
        for state in states:
            state["step"] += 1
        count = float(states[0]["step"])
        values = [local_tensor(parameter) for parameter in parameters]
        torch._foreach_mul_(values, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_lerp_(means, gradients, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)
        roots = torch._foreach_sqrt(squares)
        torch._foreach_div_(roots, (1 - beta2**count) ** 0.5)
        torch._foreach_add_(roots, group["eps"])
        torch._foreach_addcdiv_(values, means, roots, -group["lr"] / (1 - beta1**count))


def _group_by_shape(parameters: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Group kernels by shape: a network has many of few shapes. A sharded one stays alone, since it is gathered."""
    groups: dict[Any, list[nn.Parameter]] = {}
    for index, parameter in enumerate(parameters):
        groups.setdefault(index if is_dtensor(parameter) else parameter.shape, []).append(parameter)
    return list(groups.values())
