"""Padding by numbers while a graph is traced, for convolutions that are padded as TensorFlow's.

timm's ``Conv2dSame`` (the encoders ``tf_…``) computes its padding from the size of its input. With free sizes every one
adds a formula to those before it, and tracing an encoder of them takes minutes. Where an image is padded to a
multiple of the encoder's output stride, every input is a multiple of the convolution's stride: the padding is a number.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from segwright.models.base import SegmentationModel
from segwright.models.encoders.base import Encoder


@contextmanager
def constant_padding(network: nn.Module) -> Iterator[None]:
    """Pad by numbers for the duration of the block where they are right for every image; the results stay the same."""
    changed = list(_convolutions(network))
    for module in changed:
        vars(module)["forward"] = partial(_convolve, module)
    try:
        yield
    finally:
        for module in changed:
            del vars(module)["forward"]


def _convolutions(network: nn.Module) -> Iterator[nn.Conv2d]:
    """Those padded as TensorFlow's in encoders whose input is padded to multiples of the output stride."""
    for model in network.modules():  # the members of an ensemble, too: each pads for itself
        if not isinstance(model, SegmentationModel) or model.grid_aligned:
            continue
        for encoder in model.encoder_modules():
            if not isinstance(encoder, Encoder) or model.size_divisor % encoder.output_stride:
                continue
            for module in encoder.modules():
                # by name: timm is not imported for networks without it; a kernel's form is a class derived from this
                if isinstance(module, nn.Conv2d) and "Conv2dSame" in {base.__name__ for base in type(module).__mro__}:
                    yield module


def _convolve(module: nn.Conv2d, x: Tensor) -> Tensor:
    """As TensorFlow's, for sides that are multiples of the stride: what is left over lies right and below."""
    padding: list[int] = []
    for kernel, stride, dilation in zip(module.kernel_size, module.stride, module.dilation, strict=True):
        whole = max((kernel - 1) * dilation + 1 - stride, 0)
        padding = [whole // 2, whole - whole // 2, *padding]  # of the last axis first
    return F.conv2d(F.pad(x, padding), module.weight, module.bias, module.stride, 0, module.dilation, module.groups)
