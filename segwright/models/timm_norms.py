"""timm's batch norm with an activation, by the short way of :mod:`segwright.models.norms`. Imports timm."""

from __future__ import annotations

from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

from segwright.models.norms import NONE, RELU, RELU6, short_norm

LIMITS = {nn.Identity: NONE, nn.ReLU: RELU, nn.ReLU6: RELU6}


class NormAct(BatchNormAct2d):
    """timm's module, its parameters and buffers; only the way to compute is another."""

    def forward(self, x: Tensor) -> Tensor:
        limits = LIMITS.get(type(self.act))
        out = None
        if isinstance(self.drop, nn.Identity):
            out = short_norm(self, x, NONE if limits is None else limits)
        if out is None:
            result: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
            return result
        return self.act(out) if limits is None else out


def quicken(module: nn.Module) -> None:
    """Make a BatchNormAct2d of timm a :class:`NormAct`; modules derived from it stay as they are."""
    if type(module) is BatchNormAct2d:
        module.__class__ = NormAct
