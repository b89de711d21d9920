"""Every network by name: a plain dict from a name to how it is built, and :func:`create_model`.

To add a network, write its module and put an :class:`Entry` here; nothing is registered behind anyone's back.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from segwright.core.deprecated import renamed_parameters
from segwright.core.errors import UsageError, WeightsError
from segwright.core.plugins import load_plugin, not_a_plugin, plugin_names
from segwright.core.progress import is_main_process, stderr_console, wrap_line
from segwright.models import deeplab_v1, deeplab_v2, external, fc_densenet, fcn, parsenet, segnet, unet_2015
from segwright.models.base import Provenance, SegmentationModel, count_parameters
from segwright.models.convert import load_converted
from segwright.models.ddrnet import DDRNet
from segwright.models.deeplab_v3 import DeepLabV3, DeepLabV3Plus
from segwright.models.encoders.base import STRIDES, Encoder
from segwright.models.encoders.mix_transformer import SIZES, MixTransformer
from segwright.models.encoders.pretrained import encoder_weights, torchvision_weights
from segwright.models.encoders.state_files import read_weights_file
from segwright.models.encoders.timm import TimmEncoder, TorchvisionMobileNetV3
from segwright.models.ensemble import MOST_MEMBERS, Ensemble
from segwright.models.fcn_resnet import LRASPP, FCNResNet
from segwright.models.former import ENSEMBLE, FORMER_ARGUMENTS
from segwright.models.leannet import LeanNet
from segwright.models.pspnet import PSPNet
from segwright.models.segformer import SegFormer
from segwright.models.unet import UNet
from segwright.models.upernet import UPerNet
from segwright.models.without_memory import without_memory

TIMM_LICENSE = "encoder: as timm states, mostly Apache-2.0 (shown when loaded)"
VGG_LICENSE = "trunk: BSD-3-Clause (torchvision)"
COCO_LICENSE = "BSD-3-Clause (torchvision, COCO with VOC labels)"
NVIDIA_LICENSE = "MiT: NVIDIA, non-commercial; never loaded unasked"
NO_WEIGHTS = "none published here: trains from scratch"

ENCODER_ARGUMENTS = ("output_stride", "encoder_depth", "dilate_first", "multi_grid")


@dataclass(frozen=True)
class Entry:
    """One network of the catalog. ``constructor`` takes keywords only: classes, and encoder or in_channels."""

    constructor: Callable[..., SegmentationModel]
    summary: str  # what it is, and when to use it
    paper: str
    license: str  # of the pretrained weights
    encoder: str | None = None  # the default encoder; None where the network is of one piece
    strides: tuple[int, ...] = STRIDES  # the encoder stages that it needs
    output_stride: int = 32
    resnet_arguments: Mapping[str, Any] = field(default_factory=dict)  # the paper's dilation, for ResNet encoders
    arguments: Mapping[str, Any] = field(default_factory=dict)  # of the constructor, unless given
    # the same, by the encoder's name: what the paper pairs with it
    encoder_arguments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    torchvision: str | None = None  # the model of torchvision that this is, weights included

    def pretrained(self, encoder: str | None = None, weights: str = "auto") -> str | None:
        """Which pretrained weights ``weights`` (auto or imagenet) selects, with this encoder (None: the default one):
        ``torchvision:NAME`` or ``timm:NAME``; None where none are published for free."""
        if self.encoder is None:
            constructor = self.constructor.func if isinstance(self.constructor, partial) else self.constructor
            trunk = getattr(constructor, "pretrained_trunk", None)
            return None if trunk is None else f"torchvision:{trunk}"
        if self.torchvision is not None and weights == "auto":
            return f"torchvision:{self.torchvision}" if encoder in (None, self.encoder) else None
        name = encoder or self.encoder
        published = OWN_ENCODERS[name][1] if name in OWN_ENCODERS else name
        return None if published is None else f"timm:{published}"


def _classical(module: Any, name: str, summary: str, paper: str, license: str = VGG_LICENSE) -> Entry:
    return Entry(module.MODELS[name], summary, paper, license)


LONG = "Long et al. 2015, arXiv 1411.4038"
DEEPLAB_V2 = "Chen et al. 2016, arXiv 1606.00915"
TIRAMISU = "Jégou et al. 2017, arXiv 1611.09326"
PLAIN_FCN = "torchvision's reading of Long et al. 2015"
DEEPLAB_V3 = "Chen et al. 2017, arXiv 1706.05587"
MOBILENET_V3 = "Howard et al. 2019, arXiv 1905.02244"


def _torchvision(
    name: str, constructor: Callable[..., SegmentationModel], summary: str, paper: str, encoder: str, **arguments: Any
) -> Entry:
    """Our network in torchvision's configuration: its strides, its head, its auxiliary head, no padding."""
    mobile = "mobilenet" in name
    return Entry(
        constructor,
        summary,
        paper,
        COCO_LICENSE,
        encoder,
        strides=(8, 16, 32) if mobile else (16, 32),
        output_stride=16 if mobile else 8,
        arguments={"size_divisor": 1, **arguments},
        torchvision=name,
    )


MOBILE = "mobilenet_v3_large_torchvision"
ON_COCO = "trained on COCO: for VOC's 20 everyday classes, or to fine-tune"
DEEPLAB_HEAD: dict[str, Any] = {"head": "torchvision", "rates": (12, 24, 36), "aux": True}

CATALOG: dict[str, Entry] = {
    "fcn32s": _classical(fcn, "fcn32s", "the first: VGG16 made convolutional; coarse borders, for history", LONG),
    "fcn16s": _classical(fcn, "fcn16s", "FCN-32s and one skip from a finer level; for history", LONG),
    "fcn8s": _classical(fcn, "fcn8s", "FCN-32s and two skips: the classic baseline", LONG),
    "unet2015": _classical(
        unet_2015, "unet2015", "the original U-Net: cells and other microscopy, few images",
        "Ronneberger et al. 2015, arXiv 1505.04597", NO_WEIGHTS,
    ),
    "segnet": _classical(
        segnet, "segnet", "unpools by max-pool indices: small decoder memory; for history",
        "Badrinarayanan et al. 2015, arXiv 1511.00561",
    ),
    "segnet_basic": _classical(
        segnet, "segnet_basic", "four levels of 7×7: tiny, trains from scratch",
        "Badrinarayanan et al. 2015, arXiv 1511.00561", NO_WEIGHTS,
    ),
    "deeplabv1": _classical(
        deeplab_v1, "deeplabv1", "VGG16 with dilation 12; its paper puts a dense CRF behind it (--postprocess crf)",
        "Chen et al. 2015, arXiv 1412.7062",
    ),
    "deeplabv2": _classical(
        deeplab_v2, "deeplabv2", "ResNet-101, four summed dilations, three scales; and a dense CRF (--postprocess crf)",
        DEEPLAB_V2,
        "trunk: BSD-3-Clause (torchvision)",
    ),
    "deeplabv2_vgg": _classical(deeplab_v2, "deeplabv2_vgg", "four summed dilations on VGG16, one scale", DEEPLAB_V2),
    "parsenet": _classical(
        parsenet, "parsenet", "DeepLab v1 and the image's average, both normalized",
        "Liu et al. 2015, arXiv 1506.04579"
    ),
    "fc_densenet56": _classical(
        fc_densenet, "fc_densenet56", "dense blocks: few parameters, strong from scratch, slow", TIRAMISU, NO_WEIGHTS
    ),
    "fc_densenet67": _classical(fc_densenet, "fc_densenet67", "dense blocks: between 56 and 103", TIRAMISU, NO_WEIGHTS),
    "fc_densenet103": _classical(
        fc_densenet, "fc_densenet103", "the strongest from scratch of its time; much memory", TIRAMISU, NO_WEIGHTS
    ),
    "unet": Entry(
        UNet, "any encoder: the first choice for most tasks, fine edges, trains well on little data",
        "Ronneberger et al. 2015, arXiv 1505.04597", TIMM_LICENSE, "resnet34",
    ),
    "pspnet": Entry(
        PSPNet, "pyramid of averages: scenes where context decides", "Zhao et al. 2017, arXiv 1612.01105", TIMM_LICENSE,
        "resnet50", strides=(16, 32), output_stride=8, resnet_arguments={"dilate_first": True},
    ),
    "deeplabv3": Entry(
        DeepLabV3, "several dilations at once: large objects, context", DEEPLAB_V3, TIMM_LICENSE,
        "resnet50", strides=(16, 32), output_stride=16, resnet_arguments={"multi_grid": (1, 2, 4)},
    ),
    "deeplabv3plus": Entry(
        DeepLabV3Plus, "v3 with finer edges: a strong, even choice for street scenes",
        "Chen et al. 2018, arXiv 1802.02611",
        TIMM_LICENSE, "resnet50", strides=(4, 32), output_stride=16,
    ),
    "upernet": Entry(
        UPerNet, "pyramid and feature pyramid: with a strong encoder, for many classes",
        "Xiao et al. 2018, arXiv 1807.10221", TIMM_LICENSE, "resnet50", strides=(4, 8, 16, 32),
    ),
    "segformer": Entry(
        SegFormer, "a light transformer: good with much data or pretrained weights",
        "Xie et al. 2021, arXiv 2105.15203",
        NVIDIA_LICENSE, "mit_b0", strides=(4, 8, 16, 32),
        encoder_arguments={f"mit_b{size}": {"channels": 768} for size in range(2, 6)},
    ),
    "ddrnet": Entry(
        DDRNet, "DDRNet-23-slim: real time; the fast one on CPUs", "Hong et al. 2021, arXiv 2101.06085", NO_WEIGHTS
    ),
    "leannet": Entry(
        LeanNet, "made for training from scratch on a few CPU cores: most mIoU in the same minutes", "ours, no paper",
        NO_WEIGHTS,
    ),
    "fcn": Entry(
        FCNResNet, "a convolution on a dilated encoder: a plain baseline", PLAIN_FCN, TIMM_LICENSE,
        "resnet50", strides=(16, 32), output_stride=8,
    ),
    "lraspp": Entry(
        LRASPP, "the lightest head: phones and small boards", MOBILENET_V3, TIMM_LICENSE,
        MOBILE, strides=(8, 32), output_stride=16,
    ),
    "fcn_resnet50": _torchvision(
        "fcn_resnet50", FCNResNet, f"a plain baseline {ON_COCO}", PLAIN_FCN, "resnet50", aux=True
    ),
    "fcn_resnet101": _torchvision(
        "fcn_resnet101", FCNResNet, f"a plain baseline, deeper, {ON_COCO}", PLAIN_FCN, "resnet101", aux=True
    ),
    "deeplabv3_resnet50": _torchvision(
        "deeplabv3_resnet50", DeepLabV3, f"DeepLab v3 {ON_COCO}", DEEPLAB_V3, "resnet50", **DEEPLAB_HEAD
    ),
    "deeplabv3_resnet101": _torchvision(
        "deeplabv3_resnet101", DeepLabV3, f"DeepLab v3, the most accurate {ON_COCO}", DEEPLAB_V3, "resnet101",
        **DEEPLAB_HEAD
    ),
    "deeplabv3_mobilenet_v3_large": _torchvision(
        "deeplabv3_mobilenet_v3_large", DeepLabV3, f"DeepLab v3, small, {ON_COCO}", DEEPLAB_V3, MOBILE,
        aux_stride=8, **DEEPLAB_HEAD,
    ),
    "lraspp_mobilenet_v3_large": _torchvision(
        "lraspp_mobilenet_v3_large", LRASPP, f"the smallest {ON_COCO}", MOBILENET_V3, MOBILE
    ),
}  # fmt: skip

# Encoders that are not timm's by name: constructor, and the timm network whose weights fit (None: none are free)
OWN_ENCODERS: dict[str, tuple[Callable[..., Encoder], str | None]] = {
    MOBILE: (TorchvisionMobileNetV3, TorchvisionMobileNetV3.timm_name),
    **dict.fromkeys(SIZES, (MixTransformer, None)),
}


@renamed_parameters(**FORMER_ARGUMENTS)
def create_model(
    name: str,
    *,
    classes: int,
    encoder: str | None = None,
    weights: str | Path | None = "auto",
    in_channels: int = 3,
    **arguments: Any,
) -> SegmentationModel:
    """A network of the catalog for ``classes`` classes and images of ``in_channels`` channels.

    ``name``: a key of :data:`CATALOG`, a plugin, a network from outside (``torchvision:NAME``, ``smp:NAME``,
    ``transformers:TYPE``), or ``ensemble`` with ``members=[{"architecture": NAME, "arguments": {…}}, …]``. ``weights``:

    - ``"auto"``: pretrained weights when in the cache or reachable within ten seconds, else none, which is reported;
    - ``"imagenet"``: a pretrained encoder, or an error; ``None`` or ``"none"``: random weights;
    - ``"torchvision:TAG"``: torchvision's weights of this network or of its encoder;
    - a path: a state dict (safetensors, or ``.pth`` of plain tensors) of ours, torchvision's,
      segmentation_models_pytorch's, transformers' or an encoder's alone.

    ``normalization``: ``{"mean": […], "std": […]}`` of pixels in 0 to 1, instead of the encoder's own, for weights that
    were trained with it. Other ``arguments`` go to the
    network's constructor; ``output_stride``, ``encoder_depth`` (stages used, 1 to 5),
    ``dilate_first`` and ``multi_grid`` to the encoder. The result's ``provenance`` names where its weights came from,
    ``architecture`` and ``arguments`` how to build it again. UsageError for an unknown name or argument, ModelError for
    what cannot be combined, WeightsError where weights cannot be had or do not fit.
    """
    wanted = None if weights is None or str(weights) == "none" else str(weights)
    normalization = arguments.get("normalization")
    arguments = {key: value for key, value in arguments.items() if key != "normalization"}
    encoder = None if encoder == "auto" else encoder
    if ":" in name:
        model = external.create(name, classes=classes, in_channels=in_channels, weights=wanted, **arguments)
    elif name == ENSEMBLE:
        model = _ensemble(classes, encoder, wanted, in_channels, arguments)
    else:
        model = _create(name, catalog_entry(name), classes, encoder, wanted, in_channels, arguments)
    model.architecture = name
    model.arguments = {"encoder": encoder, "in_channels": in_channels, **arguments, **model.resolved_arguments()}
    if normalization is not None:
        model.set_normalization(normalization)
        model.arguments["normalization"] = normalization
    return model


def model_names() -> list[str]:
    """Our networks, then those of plugins. Nothing is imported."""
    return [*CATALOG, *(name for name in plugin_names("models") if name not in CATALOG)]


def is_plugin(name: str) -> bool:
    """Whether a network comes from another package by its entry point."""
    return name not in CATALOG and name in plugin_names("models")


def catalog_entry(name: str) -> Entry:
    """The entry of a network of the catalog, or of a plugin. UsageError for an unknown name, PluginError for a plugin
    that cannot be loaded or is no :class:`Entry`."""
    if name in CATALOG:
        return CATALOG[name]
    expected = "a segwright.models.catalog.Entry"
    found = load_plugin("models", name, expected)
    if found is None:
        raise UsageError("unknown network", expected=", ".join(model_names()), found=name)
    if not isinstance(found, Entry):
        raise not_a_plugin("models", name, expected, found)
    return found


def starts_pretrained(
    name: str, encoder: str | None = None, weights: str | None = "auto", *, required: bool = False
) -> bool:
    """Whether :func:`create_model` would begin with pretrained weights: whether they exist, and can be had.

    Only the weights of this network with this encoder are looked for or downloaded. ``required``: WeightsError with the
    reason, as of :func:`create_model` with ``weights="imagenet"``, where there are none.
    """
    if weights is None or weights == "none" or (name not in CATALOG and not is_plugin(name)):
        return weights not in (None, "none", "auto")
    if weights not in ("auto", "imagenet"):
        return True  # named: had, or an error when the network is built
    entry = catalog_entry(name)
    source = entry.pretrained(encoder, weights)
    if source is None:
        if required and entry.encoder is not None:
            _no_free_weights(encoder or entry.encoder, required=True)
        if required:
            raise _none_published(name)
        return False
    family, _, published = source.partition(":")
    if family == "timm":
        return encoder_weights(published, required=required)[0] is not None
    return torchvision_weights(published, "DEFAULT", required=required)[0] is not None


def create_encoder(
    name: str, *, weights: str | None = None, in_channels: int = 3, **arguments: Any
) -> tuple[Encoder, Provenance]:
    """An encoder by name with the requested weights (``auto``, ``imagenet`` or None), and where they came from."""
    constructor, published = OWN_ENCODERS.get(name, (TimmEncoder, name))
    provenance = Provenance()
    if weights in ("auto", "imagenet"):
        if published is None:
            provenance = _no_free_weights(name, required=weights == "imagenet")
        else:
            arguments["weights_file"], provenance = encoder_weights(published, required=weights == "imagenet")
    return constructor(name, in_channels=in_channels, **arguments), provenance


def parameters_of(name: str, *, classes: int = 21, **arguments: Any) -> int:
    """How many parameters per network of the catalog has, without allocating them."""
    with without_memory():
        return count_parameters(create_model(name, classes=classes, weights=None, **arguments))


def _ensemble(
    classes: int, encoder: str | None, weights: str | None, in_channels: int, arguments: Mapping[str, Any]
) -> Ensemble:
    """Its members, each built as :func:`create_model` builds it, with ``weights`` (auto, imagenet or None) for each."""
    if encoder is not None or weights not in (None, "auto", "imagenet"):
        raise UsageError("the members of an ensemble have encoders and weights, not itself", found=encoder or weights)
    members = arguments.get("members")
    described = isinstance(members, Sequence) and all(
        isinstance(member, Mapping)
        and isinstance(member.get("architecture"), str)
        and member["architecture"] != ENSEMBLE  # never in another: what is nested without end cannot be built
        and isinstance(member.get("arguments", {}), Mapping)
        for member in members
    )
    if not described or set(arguments) != {"members"}:
        expected = 'members=[{"architecture": "unet", "arguments": {"encoder": "resnet34"}}, …], no ensemble among them'
        raise UsageError("an ensemble takes its members", expected=expected, found=str(dict(arguments))[:200])
    assert members is not None
    built = []
    for member in members[: MOST_MEMBERS + 1]:  # one too many is an error; thousands are not built to find that out
        given = {"in_channels": in_channels, **member.get("arguments", {})}
        built.append(create_model(member["architecture"], classes=classes, weights=weights, **given))
    return Ensemble(members=built)


def _create(
    name: str,
    entry: Entry,
    classes: int,
    encoder: str | None,
    weights: str | None,
    in_channels: int,
    arguments: Mapping[str, Any],
) -> SegmentationModel:
    if weights is not None and weights not in ("auto", "imagenet") and not weights.startswith("torchvision:"):
        file = read_weights_file(weights)  # before anything is built: a wrong path is an error at once
        model = _assemble(name, entry, classes, encoder, None, in_channels, arguments)
        loaded = load_converted(model, file.tensors)
        detail = "; ".join((str(loaded), *file.notes))
        model.provenance = Provenance(weights, "as its publisher states", True, detail)
        return _report_provenance(model)
    from_encoder = (
        weights if weights in ("auto", "imagenet") and not (weights == "auto" and entry.torchvision) else None
    )
    model = _assemble(name, entry, classes, encoder, from_encoder, in_channels, arguments)
    trunk = getattr(model, "pretrained_trunk", None)
    if weights is None:
        return model
    if weights.startswith("torchvision:"):
        _load_torchvision(model, entry, encoder or entry.encoder or trunk, weights.removeprefix("torchvision:"))
    elif weights == "auto" and entry.torchvision and encoder in (None, entry.encoder):
        _take(model, *torchvision_weights(entry.torchvision, "DEFAULT", required=False))
    elif entry.encoder is None:
        _load_trunk(model, trunk, required=weights == "imagenet")
    return _report_provenance(model)


def _assemble(
    name: str,
    entry: Entry,
    classes: int,
    encoder: str | None,
    weights: str | None,
    in_channels: int,
    arguments: Mapping[str, Any],
) -> SegmentationModel:
    """Encoder and network from their arguments, those unknown refused before anything is built."""
    paired = entry.encoder_arguments.get(encoder or entry.encoder or "", {})
    given = {**entry.arguments, **paired, **arguments}
    for_encoder = {key: given.pop(key) for key in ENCODER_ARGUMENTS if key in given}
    known = set(inspect.signature(entry.constructor).parameters) - {"classes", "encoder", "in_channels"}
    unknown = [key for key in given if key not in known]
    if entry.encoder is None:
        unknown += list(for_encoder)
    if unknown:
        takes = sorted(known) + (list(ENCODER_ARGUMENTS) if entry.encoder else [])
        raise UsageError(f"{name} has no argument {', '.join(unknown)}", expected=", ".join(takes), found=str(unknown))
    if entry.encoder is None:
        if encoder is not None:
            raise UsageError(f"{name} is of one piece and takes no encoder", found=encoder, fix="leave encoder out")
        return entry.constructor(classes=classes, in_channels=in_channels, **given)
    chosen = encoder or entry.encoder
    preset = dict(entry.resnet_arguments) if "resnet" in chosen or "resnext" in chosen else {}
    depth = int(for_encoder.pop("encoder_depth", 5))
    options = {"output_stride": entry.output_stride, **preset, **for_encoder}
    options = {key: value for key, value in options.items() if value is not None}
    strides = tuple(sorted({min(stride, 2**depth) for stride in entry.strides}))
    built, provenance = create_encoder(chosen, weights=weights, in_channels=in_channels, strides=strides, **options)
    model = entry.constructor(encoder=built, classes=classes, **given)
    model.provenance = provenance
    return model


def _load_torchvision(model: SegmentationModel, entry: Entry, encoder: str | None, tag: str) -> None:
    """torchvision's weights ``tag`` of the whole network where it has such, else of the encoder or trunk."""
    if entry.torchvision and not tag.startswith("IMAGENET"):
        _take(model, *torchvision_weights(entry.torchvision, tag, required=True))
        return
    if encoder is None:
        raise WeightsError("torchvision has no weights for this network", found=f"torchvision:{tag}")
    state, provenance = torchvision_weights(encoder.removesuffix("_torchvision"), tag, required=True)
    if entry.encoder is None:
        _take_trunk(model, state, provenance)
    else:
        _take(model, state, provenance)


def _take(model: SegmentationModel, state: Mapping[str, torch.Tensor] | None, provenance: Provenance) -> None:
    model.provenance = provenance
    if state is not None:
        loaded = load_converted(model, state)
        model.provenance = Provenance(provenance.source, provenance.license, True, str(loaded))


def _load_trunk(model: SegmentationModel, trunk: str | None, *, required: bool) -> None:
    """ImageNet weights for a network on a VGG16 or ResNet trunk of torchvision's."""
    if trunk is None:
        if required:
            raise _none_published(type(model).__name__)
        model.provenance = Provenance("random initialization (no pretrained weights are published for this network)")
        return
    _take_trunk(model, *torchvision_weights(trunk, "DEFAULT", required=required))


def _take_trunk(model: SegmentationModel, state: Mapping[str, torch.Tensor] | None, provenance: Provenance) -> None:
    model.provenance = provenance
    if state is not None:
        layers = model.load_pretrained(state)  # type: ignore[operator]
        detail = f"trunk only: {', '.join(layers)}"
        model.provenance = Provenance(provenance.source, provenance.license, True, detail)


def _none_published(network: str) -> WeightsError:
    return WeightsError(
        "no pretrained weights are published for this network",
        found=network,
        fix="begin from random weights (--weights none, weights=None), or choose another network",
    )


def _no_free_weights(name: str, *, required: bool) -> Provenance:
    why = "its published weights are for non-commercial use, and are never taken unasked"
    if required:
        raise WeightsError(
            f"no free ImageNet weights for {name}",
            found=why,
            fix="give a file you may use with weights=PATH, or choose another encoder",
        )
    return Provenance(f"random initialization ({name}: {why})")


def _report_provenance(model: SegmentationModel) -> SegmentationModel:
    """Where the weights came from, on stderr: training from scratch unknowingly wastes days."""
    if not is_main_process():
        return model
    text = f"weights: {model.provenance}"
    if model.provenance.detail:
        text += f"; {model.provenance.detail}"
    style = None if model.provenance.pretrained else "bold yellow"
    screen = stderr_console()
    line = wrap_line(text, screen.width) if screen.is_terminal else text
    screen.print(line, style=style, soft_wrap=True, markup=False)
    return model
