"""How the classical networks learn: what their authors did, and what works from scratch.

Pure data, for benchmarks and planners. ``PUBLISHED`` repeats the released solver files (the source is named);
``FROM_SCRATCH`` is ours: found on small budgets, for a mean cross-entropy over the pixels and the default pixel
convention. The published rates of the FCNs belong to a **summed** loss over ``input_scale="caffe"`` and mean nothing
for a mean loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """One way to train one network."""

    optimizer: str  # "sgd", "adamw", "rmsprop"
    learning_rate: float
    weight_decay: float
    momentum: float = 0.9
    batch: int = 4
    clip_gradient: float | None = None  # global norm
    arguments: Mapping[str, Any] = field(default_factory=dict)  # of the network's constructor
    starts_from: str | None = None  # weights or the coarser network; None: random
    source: str = "ours"
    note: str = ""


_FCN_SOURCE = "shelhamer/fcn.berkeleyvision.org, solver.prototxt and solve.py"
_FCN_NOTE = "loss summed over pixels; bias rate doubled, bias not decayed"
_CAFFE = {"input_scale": "caffe"}
_SEGNET = "alexgkendall/SegNet-Tutorial, solver prototxt"

PUBLISHED: dict[str, Recipe] = {
    "fcn32s": Recipe("sgd", 1e-10, 5e-4, 0.99, 1, None, _CAFFE, "vgg16", _FCN_SOURCE, _FCN_NOTE),
    "fcn16s": Recipe("sgd", 1e-12, 5e-4, 0.99, 1, None, _CAFFE, "fcn32s", _FCN_SOURCE, _FCN_NOTE),
    "fcn8s": Recipe("sgd", 1e-14, 5e-4, 0.99, 1, None, _CAFFE, "fcn16s", _FCN_SOURCE, _FCN_NOTE),
    "segnet": Recipe("sgd", 1e-3, 5e-4, 0.9, 4, None, {"input_scale": "raw"}, "vgg16", _SEGNET, "40,000 iterations"),
    "segnet_basic": Recipe("sgd", 1e-3, 5e-4, 0.9, 4, None, {}, None, _SEGNET, "rate as SegNet's"),
    "deeplabv2": Recipe(
        "sgd", 2.5e-4, 5e-4, 0.9, 10, None, {"freeze_norm": True}, "resnet101", "DeepLab v2",
        "poly 0.9; new layers x10, their bias x20; losses of all scales and of their maximum added, as ports have it",
    ),
    "fc_densenet103": Recipe(
        "rmsprop", 1e-3, 1e-4, 0.9, 5, None, {}, None, "SimJeg/FC-DenseNet, config/FC-DenseNet103.py",
        "rate x0.995 per epoch, 224x224 crops, then fine-tuned on whole images",
    ),
}  # fmt: skip

USUAL_AUX_WEIGHT = 0.4  # of PSPNet (section 3.3) and DDRNet
# What the authors multiply the losses of the auxiliary logits by, where it is another.
AUX_WEIGHTS: dict[str, float] = {
    # every scale and their maximum count the same: train_msc.py of DrSleep/tensorflow-deeplab-resnet and main.py of
    # kazuto1011/deeplab-pytorch, two ports of the Caffe release, whose loss layers have the default weight
    "deeplabv2": 1.0,
    "deeplabv2_vgg": 1.0,
    # torchvision's references/segmentation/train.py
    "fcn_resnet50": 0.5,
    "fcn_resnet101": 0.5,
    "deeplabv3_resnet50": 0.5,
    "deeplabv3_resnet101": 0.5,
    "deeplabv3_mobilenet_v3_large": 0.5,
}

# Without BN the first steps of a He-initialized VGG can be large: a small rate and a clipped gradient keep them alive.
_PLAIN_VGG = Recipe("adamw", 1e-4, 1e-4, clip_gradient=1.0, note="no BN: warm up over the first steps")
# Zero scores behind a frozen upsampling learn only from pretrained features; a start that is ours, not the paper's.
_PLAIN_FCN = replace(_PLAIN_VGG, arguments={"init": "he"})
FROM_SCRATCH: dict[str, Recipe] = {
    "fcn32s": _PLAIN_FCN,
    "fcn16s": _PLAIN_FCN,
    "fcn8s": _PLAIN_FCN,
    "unet2015": Recipe("adamw", 2e-4, 1e-4, clip_gradient=1.0, note="padding='same', norm='batch' takes 1e-3"),
    "segnet": Recipe("adamw", 1e-3, 1e-4),
    "segnet_basic": Recipe("adamw", 1e-3, 1e-4),
    "deeplabv1": _PLAIN_VGG,
    "deeplabv2_vgg": _PLAIN_VGG,
    "parsenet": _PLAIN_VGG,
    "deeplabv2": Recipe("adamw", 5e-4, 1e-4, arguments={"freeze_norm": False}, note="BN trains"),
    "fc_densenet56": Recipe("adamw", 1e-3, 1e-4),
    "fc_densenet67": Recipe("adamw", 1e-3, 1e-4),
    "fc_densenet103": Recipe("adamw", 1e-3, 1e-4),
}
