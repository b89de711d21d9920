"""timm's layers by the short ways: batch norm with an activation, convolutions padded as TensorFlow's. Imports timm."""

from __future__ import annotations

from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from timm.layers.padding import pad_same
from torch import Tensor, nn

from segwright.kernels import depthwise
from segwright.kernels.batch_norm import NONE, RELU, RELU6, short_norm

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


class DepthwiseSame(Conv2dSame):
    """timm's module, depthwise; only the way to its gradients is another."""

    def forward(self, x: Tensor) -> Tensor:
        padded: Tensor = pad_same(x, list(self.kernel_size), list(self.stride), list(self.dilation))
        out = depthwise.convolved(self, padded, (0, 0))
        return self._conv_forward(padded, self.weight, self.bias) if out is None else out


def quicken(module: nn.Module) -> None:
    """Give a BatchNormAct2d or a depthwise Conv2dSame of timm its short way; modules derived from them stay."""
    if type(module) is BatchNormAct2d:
        module.__class__ = NormAct
    elif type(module) is Conv2dSame and depthwise.could_suit(module):
        module.__class__ = DepthwiseSame
