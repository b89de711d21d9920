"""The short ways of a network's training on a CPU, put where torch's own are."""

from __future__ import annotations

from torch import nn

from segwright.kernels import batch_norm, depthwise, winograd


def quicken(model: nn.Module) -> None:
    """Let a network's batch norms (torch's and timm's), wide 3×3 convolutions, and depthwise ones with a stride or a
    wide kernel, compute by the ways of :mod:`segwright.kernels.batch_norm`, :mod:`~segwright.kernels.winograd` and
    :mod:`~segwright.kernels.depthwise` in training on a CPU.

    Its modules change their class; names, parameters, buffers, and all that it does elsewhere, stay as they are.
    """
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = batch_norm.BatchNorm
        elif type(module) is nn.Conv2d and winograd.could_suit(module):
            module.__class__ = winograd.Conv2d
        elif type(module) is nn.Conv2d and depthwise.could_suit(module):
            module.__class__ = depthwise.Conv2d
        elif type(module).__name__ in ("BatchNormAct2d", "Conv2dSame"):
            from segwright.kernels import timm_layers  # imports timm, which is there where its module is

            timm_layers.quicken(module)
