"""Foreign state dicts to ours: torchvision, segmentation_models_pytorch, transformers' SegFormer, mmsegmentation, plain
encoders.

An architecture lists how its decoder's names are spelled elsewhere (``torchvision_keys``, ``smp_keys``,
``transformers_keys``, ``mmseg_keys``: patterns of a name's beginning, and what stands there here). Encoders are matched
by name where both sides are timm-like, else by order: every layer in turn, and each shape has to agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from segwright.core.errors import SegwrightError, WeightsError
from segwright.models.base import SegmentationModel
from segwright.models.encoders.vgg import adapt_input_channels
from segwright.models.foreign_names import MMSEG_STEM

State = Mapping[str, Tensor]
Origin = Literal["segwright", "torchvision", "smp", "transformers", "mmseg", "encoder"]
ENCODER = "encoder.model."  # where a timm encoder's layers lie in our networks


@dataclass(frozen=True)
class LoadReport:
    """What :func:`load_converted` did."""

    origin: Origin
    taken: int  # tensors copied
    left_out: tuple[str, ...]  # names of ours that kept their initial values
    adapted: tuple[str, ...]  # first convolutions brought to another number of channels

    def __str__(self) -> str:
        text = f"{self.taken} tensors in {self.origin}'s layout"
        if self.adapted:
            text += f"; adapted to the number of channels: {', '.join(self.adapted)}"
        return text + (f"; not loaded, other classes: {', '.join(self.left_out)}" if self.left_out else "")


def detect_source(state: State, own: set[str]) -> Origin:
    """Whose state dict it is, by its names and those of the network it is for."""
    starts = {key.split(".")[0] for key in state}  # the decoder's names decide: encoders may be spelled alike
    if "segmentation_head" in starts:
        return "smp"
    if "backbone" in starts and "classifier" in starts:
        return "torchvision"
    if {"backbone", "decode_head"} <= starts:
        return "mmseg"
    if "decode_head" in starts:
        return "transformers"
    return "segwright" if any(key in own for key in state) else "encoder"


def load_converted(model: SegmentationModel, state: State, origin: Origin | None = None) -> LoadReport:
    """:func:`_load`; where the names do not fit and all begin alike, as with ``segmentor.``, without that beginning."""
    try:
        return _load_foreign(model, state, origin)
    except WeightsError:
        first = {name.split(".")[0] for name in state}
        if len(first) != 1 or not all("." in name for name in state):
            raise
        start = f"{first.pop()}."
        try:
            return _load_foreign(model, {name.removeprefix(start): tensor for name, tensor in state.items()}, origin)
        except WeightsError:
            pass
        raise


def _load_foreign(model: SegmentationModel, state: State, origin: Origin | None) -> LoadReport:
    """:func:`_load`, with a WeightsError for whatever a conversion trips over in names, shapes and kinds of tensors."""
    try:
        return _load(model, state, origin)
    except SegwrightError:
        raise
    except Exception as error:
        raise _misfit(origin or "none", [f"{type(error).__name__}: {str(error)[:300]}"]) from error


def _load(model: SegmentationModel, state: State, origin: Origin | None = None) -> LoadReport:
    """Copy a state dict of ``origin`` (found by its names if None) into ``model``.

    A declared classifier layer for another number of classes is left out and reported; a first convolution for another
    number of channels is adapted; an auxiliary head that one side lacks is passed over. Anything else that does not fit
    is a WeightsError, and the model stays as it was.
    """
    origin = detect_source(state, set(model.state_dict())) if origin is None else origin
    converted = dict(state) if origin == "segwright" else _convert(model, state, origin)
    own = model.state_dict()
    optional = ("aux_head.", "aux_classifier.")
    classifiers = model.classifier_tensors()
    unexpected = [key for key in converted if key not in own and not _skippable(key, optional)]
    left_out, adapted = [], []
    for key, tensor in list(converted.items()):
        if key not in own or tensor.shape == own[key].shape:
            continue
        if tensor.ndim == 4 and own[key].shape[1] == model.in_channels and _same_but_inputs(tensor, own[key]):
            converted[key] = adapt_input_channels(tensor, model.in_channels)
            adapted.append(key)
        elif key in classifiers and _of_other_classes(tensor, own[key]):
            left_out.append(key)
            del converted[key]
        else:
            raise _misfit(origin, [f"{key}: {tuple(tensor.shape)} instead of {tuple(own[key].shape)}"])
    missing = [key for key in own if key not in converted and key not in left_out and not _skippable(key, optional)]
    if origin == "encoder":
        missing = [key for key in missing if key.startswith("encoder.")]
    if unexpected or missing:
        raise _misfit(origin, [f"unknown: {key}" for key in unexpected] + [f"missing: {key}" for key in missing])
    taken = {key: tensor for key, tensor in converted.items() if key in own}
    model.load_state_dict(taken, strict=False)
    model.has_trained_classifier = _brings_classifier(model, taken)
    model.on_weights_loaded()
    return LoadReport(origin, len(taken), tuple(left_out), tuple(adapted))


def _brings_classifier(model: SegmentationModel, taken: State) -> bool:
    """Whether loaded tensors include every declared classifier layer of the logits."""
    layers = {id(layer) for layer in model.classifier_layers().get("logits", ())}
    names = [name for name, module in model.named_modules() if id(module) in layers]
    return bool(names) and all(f"{name}.weight" in taken for name in names)


def rename(key: str, table: Mapping[str, str]) -> str:
    """``key`` with its beginning replaced by the first pattern that fits it."""
    for pattern, new in table.items():
        renamed, count = re.subn("^" + pattern, new, key)
        if count:
            return renamed
    return key


def match_by_order(source: Mapping[str, Tensor], names: Iterable[str], own: State) -> dict[str, Tensor]:
    """``source``'s tensors under ``names``, one after the other; WeightsError where a shape differs.

    For two spellings of one network, whose layers were made in the same order. The inputs of a first convolution may
    differ.
    """
    result: dict[str, Tensor] = {}
    wanted = list(names)
    if len(wanted) != len(source):  # batch norms' counters are not always saved, and nothing depends on them
        source = {key: tensor for key, tensor in source.items() if not key.endswith("num_batches_tracked")}
        wanted = [name for name in wanted if not name.endswith("num_batches_tracked")]
    if len(wanted) != len(source):
        raise _misfit("encoder", [f"{len(source)} tensors for {len(wanted)}"])
    for name, (key, tensor) in zip(wanted, source.items(), strict=True):
        if tensor.shape != own[name].shape and not (result == {} and _same_but_inputs(tensor, own[name])):
            raise _misfit("encoder", [f"{key} {tuple(tensor.shape)} for {name} {tuple(own[name].shape)}"])
        result[name] = tensor
    return result


def _convert(model: SegmentationModel, state: State, origin: Origin) -> dict[str, Tensor]:
    own = model.state_dict()
    if origin == "encoder":
        return _encoder_part(dict(state), own)
    table: Mapping[str, str] | None = getattr(model, f"{origin}_keys", None)
    if table is None:
        raise WeightsError(
            f"no counterpart of {type(model).__name__} in {origin} has the same arithmetic",
            fix="give a state dict of segwright's own",
        )
    start = {"torchvision": "backbone.", "smp": "encoder.", "transformers": "segformer.", "mmseg": "backbone."}[origin]
    encoder = {key.removeprefix(start): tensor for key, tensor in state.items() if key.startswith(start)}
    if origin == "mmseg":
        _require_same_dilation(model, own)
        encoder = {rename(key, MMSEG_STEM): tensor for key, tensor in encoder.items()}
    rest = {rename(key, table): tensor for key, tensor in state.items() if not key.startswith(start)}
    rest = {
        key: tensor.reshape(own[key].shape) if _linear(tensor, own.get(key)) else tensor for key, tensor in rest.items()
    }
    arrange = getattr(model, f"arrange_{origin}", None)  # a layer whose inputs come in another order there
    if arrange is not None:
        rest = arrange(rest)
    return {**_encoder_part(encoder, own), **rest}


def _require_same_dilation(model: SegmentationModel, own: State) -> None:
    """mmsegmentation dilates the first convolution of a basic block only, timm both: a difference without a trace in
    the weights."""
    basic = "encoder.model.layer1.0.conv2.weight" in own and "encoder.model.layer1.0.conv3.weight" not in own
    if basic and model.stride < 32:
        raise WeightsError(
            "a dilated ResNet-18 or -34 of mmsegmentation has other dilations than ours",
            expected="a ResNet with bottlenecks, or output_stride=32",
            fix="score its masks: segwright evaluate MASKS DATA",
        )


def _encoder_part(encoder: dict[str, Tensor], own: State) -> dict[str, Tensor]:
    """An encoder's tensors under our names: by name, then by order."""
    encoder = {key.removeprefix("model."): tensor for key, tensor in encoder.items()}
    ours = [key for key in own if key.startswith("encoder.")]
    if all(key.removeprefix(ENCODER) in encoder for key in ours):
        return {key: encoder[key.removeprefix(ENCODER)] for key in ours}
    if any(key.startswith("encoder.stages.") for key in ours):  # only the Mix Transformer is ours
        return mix_transformer(encoder)
    kept = {key: tensor for key, tensor in encoder.items() if not key.startswith(("fc.", "classifier."))}
    return match_by_order(kept, ours, own)


def mix_transformer(state: State) -> dict[str, Tensor]:
    """A Mix Transformer's tensors from segmentation_models_pytorch's or transformers' names to ours."""
    result: dict[str, Tensor] = {}
    for key, tensor in state.items():
        name = rename(key.removeprefix("encoder."), MIX_STAGE)
        if not name.startswith("stages."):  # the patch_embed1 of segmentation_models_pytorch counts from one
            part, index, tail = re.split(r"(?<=[a-z])([1-4])\.", name, maxsplit=1)
            part = {"patch_embed": "embed.", "block": "blocks.", "norm": "norm."}[part]
            name = f"stages.{int(index) - 1}.{part}{tail}"
        stage, block, tail = re.match(r"(stages\.\d\.)(blocks\.\d+\.)?(.*)", name).groups("")  # type: ignore[union-attr]
        result[f"encoder.{stage}{block or ''}{rename(tail, MIX_BLOCK if block else MIX_EMBED)}"] = tensor
    for key in [key for key in result if key.endswith((".key.weight", ".key.bias"))]:
        value = result.pop(key.replace(".key.", ".value."))
        result[key.replace(".key.", ".key_value.")] = torch.cat([result.pop(key), value])
    return result


# The Mix Transformer's names: transformers' two layouts, then segmentation_models_pytorch's
MIX_STAGE = {
    r"patch_embeddings\.(\d)\.": r"stages.\1.embed.",
    r"block\.(\d)\.(\d+)\.": r"stages.\1.blocks.\2.",
    r"layer_norm\.(\d)\.": r"stages.\1.norm.",
    r"stages\.(\d)\.patch_embeddings\.": r"stages.\1.embed.",
    r"stages\.(\d)\.layer_norm\.": r"stages.\1.norm.",
}
MIX_EMBED = {r"embed\.proj\.": "embed.", r"embed\.(?:layer_)?norm\.": "embed_norm."}
MIX_BLOCK = {
    r"(?:attn\.q|attention\.self\.query|attention\.q_proj)\.": "attention.query.",
    r"(?:attention\.self\.key|attention\.k_proj)\.": "attention.key.",
    r"(?:attention\.self\.value|attention\.v_proj)\.": "attention.value.",
    r"attn\.kv\.": "attention.key_value.",
    r"(?:attn\.proj|attention\.output\.dense|attention\.o_proj)\.": "attention.project.",
    r"(?:attn\.sr|attention\.self\.sr|attention\.sequence_reduction\.sequence_reduction)\.": "attention.shorten.",
    r"(?:attn\.norm|attention\.self\.layer_norm|attention\.sequence_reduction\.layer_norm)\.": "attention.norm.",
    r"mlp\.(?:fc1|dense1)\.": "feed_forward.expand.",
    r"mlp\.dwconv\.dwconv\.": "feed_forward.mix.",
    r"mlp\.(?:fc2|dense2)\.": "feed_forward.reduce.",
    r"(?:layer_norm_1|layernorm_before)\.": "norm1.",
    r"(?:layer_norm_2|layernorm_after)\.": "norm2.",
}


def _linear(tensor: Tensor, own: Tensor | None) -> bool:
    return own is not None and tensor.ndim == 2 and own.ndim == 4 and own.shape[:2] == tensor.shape


def _same_but_inputs(tensor: Tensor, own: Tensor) -> bool:
    return (
        tensor.ndim == own.ndim == 4
        and tensor.shape[1] == 3
        and tensor.shape[0] == own.shape[0]
        and tensor.shape[2:] == own.shape[2:]
    )


def _of_other_classes(tensor: Tensor, own: Tensor) -> bool:
    return tensor.ndim == own.ndim and tensor.shape[0] != own.shape[0] and tensor.shape[1:] == own.shape[1:]


def _skippable(key: str, optional: tuple[str, ...]) -> bool:
    return key.startswith(optional) or key.endswith("num_batches_tracked")


def _misfit(origin: str, problems: list[str]) -> WeightsError:
    shown = "; ".join(problems[:4]) + (f"; … {len(problems)} in all" if len(problems) > 4 else "")
    return WeightsError(
        "the weights do not fit the network",
        expected=f"a state dict of the same network and encoder ({origin}'s layout recognized)",
        found=shown,
        fix="create the model with the name, encoder and arguments the weights were trained with",
    )
