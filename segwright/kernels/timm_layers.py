"""Forms for timm's layers: batch norm with an activation inside, convolutions padded as TensorFlow's. Imports timm."""

from __future__ import annotations

from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from timm.layers.padding import pad_same
from torch import Tensor, nn

from segwright.kernels import depthwise
from segwright.kernels.batch_norm import NONE, RELU, RELU6, norm_act_train
from segwright.kernels.forms import KernelForm

CLAMP_RANGES = {nn.Identity: NONE, nn.ReLU: RELU, nn.ReLU6: RELU6}


class BatchNormActForm(KernelForm):
    """For timm's BatchNormAct2d."""

    act: nn.Module
    drop: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        clamp_range = CLAMP_RANGES.get(type(self.act))
        out = None
        if isinstance(self.drop, nn.Identity) and isinstance(self, nn.BatchNorm2d):
            out = norm_act_train(self, x, NONE if clamp_range is None else clamp_range)
        if out is None:
            result: Tensor = super().forward(x)
            return result
        return self.act(out) if clamp_range is None else out


class DepthwiseSameForm(KernelForm):
    """For timm's Conv2dSame, depthwise."""

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(self, Conv2dSame)
        padded: Tensor = pad_same(x, list(self.kernel_size), list(self.stride), list(self.dilation))
        out = depthwise.convolve(self, padded, (0, 0))
        return self._conv_forward(padded, self.weight, self.bias) if out is None else out


def form(module: nn.Module) -> type[KernelForm] | None:
    """The form of a BatchNormAct2d or a depthwise Conv2dSame; None for any other module, derived ones too."""
    if type(module) is BatchNormAct2d:
        return BatchNormActForm
    return DepthwiseSameForm if type(module) is Conv2dSame and depthwise.fits(module) else None
