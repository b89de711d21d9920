"""Put the kernels' forward methods into the modules of a network.

A patched module changes its class to one made of a *form* (the kernel's forward method) and its former class. The new
class is named ``Kernel…`` and lives here, so that it shows in a traceback and in ``type(module)``; ``repr(module)`` and
state dicts are those of the former class. A form falls back to the former class's forward wherever its kernel does not
apply: on other devices, in other precisions, while tracing, while kernels are disabled.

What is patched:

- torch's batch norm, alone or with the ReLU behind it in an ``nn.Sequential`` (:mod:`segwright.kernels.batch_norm`),
- timm's batch norm with an activation inside, and its convolution padded as TensorFlow's
  (:mod:`segwright.kernels.timm_layers`),
- wide 3×3 convolutions (:mod:`segwright.kernels.winograd`), strided and wide depthwise ones
  (:mod:`segwright.kernels.depthwise`),
- modules whose class declares a form by its name, ``cpu_kernel = "…"`` (``DECLARED``).
"""

from __future__ import annotations

from torch import nn

from segwright.kernels import batch_norm, depthwise, upsampled_conv, winograd
from segwright.kernels.forms import KernelForm, patched_class

DECLARED: dict[str, type[KernelForm]] = {
    "instance_batch_norm": batch_norm.InstanceBatchNormForm,
    "upsample_concat_conv": upsampled_conv.UpsampleConcatConvForm,
}


def patch_modules(model: nn.Module) -> None:
    """Patch every module of ``model`` that a form fits; modules that are patched already stay."""
    for module in model.modules():
        form = _form(module)
        if form is not None:
            module.__class__ = patched_class(form, type(module))


def _form(module: nn.Module) -> type[KernelForm] | None:
    kind = type(module)
    if kind is nn.BatchNorm2d:
        return batch_norm.BatchNormForm
    if isinstance(module, nn.Conv2d) and kind is nn.Conv2d:
        if winograd.fits(module):
            return winograd.WinogradForm
        return depthwise.DepthwiseForm if depthwise.fits(module) else None
    if "cpu_kernel" in vars(kind):
        return DECLARED[vars(kind)["cpu_kernel"]]
    if isinstance(module, nn.Sequential) and kind.forward is nn.Sequential.forward:
        return batch_norm.SequentialForm if batch_norm.has_norm_act(module) else None
    if kind.__name__ in ("BatchNormAct2d", "Conv2dSame"):
        from segwright.kernels import timm_layers  # imports timm, which is there where its module is

        return timm_layers.form(module)
    return None
