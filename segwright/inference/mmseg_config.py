"""Read mmsegmentation's configs without running them: which of our networks a config describes, with which arguments.

A config is Python. Only assignments of literals, ``dict(…)``, lists and arithmetic are evaluated, and files named by
``_base_`` are merged as mmengine does. What cannot be read so, and what has other arithmetic here, is a ConfigError.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segwright.core.errors import ConfigError, WeightsError

PLANS: Mapping[tuple[Any, ...], int] = {  # (strides, dilations) of a ResNet's stages → our output stride
    ((1, 2, 2, 2), (1, 1, 1, 1)): 32,
    ((1, 2, 2, 1), (1, 1, 1, 2)): 16,
    ((1, 2, 1, 1), (1, 1, 2, 4)): 8,
}
DEPTHS = {"ResNet": (18, 34, 50, 101, 152), "ResNetV1c": (50, 101, 152)}
MOST_FILES = 50  # of a config and its bases


@dataclass(frozen=True)
class MmsegNetwork:
    """A config as arguments of :func:`segwright.create_model`."""

    model: str
    encoder: str
    classes: int
    in_channels: int
    arguments: dict[str, Any]
    normalization: dict[str, list[float]] | None  # of pixels in 0 to 1; None: the config has none
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Unread:
    """An expression that is not evaluated; an error only where the network depends on it."""

    text: str


@dataclass
class _Reader:
    """Reads a config and its bases."""

    files: set[Path] = field(default_factory=set)

    def file(self, path: Path) -> dict[str, Any]:
        path = path.resolve()
        if path in self.files or len(self.files) >= MOST_FILES:
            raise ConfigError("the config's _base_ files form a circle", found=path.name, where=path)
        self.files.add(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "not a text file"
            raise ConfigError("cannot read the config of mmsegmentation", found=why, where=path) from error
        found = self.text(text, path)
        bases = found.pop("_base_", [])
        merged: dict[str, Any] = {}
        for base in [bases] if isinstance(bases, str) else bases:
            if not isinstance(base, str):
                raise ConfigError("a _base_ is not a plain path", found=_shown(base), where=path)
            merged = _merged(merged, self.file(path.parent / base))
        self.files.discard(path)
        return _merged(merged, found)

    def text(self, text: str, where: str | Path) -> dict[str, Any]:
        """The assignments of a config's text."""
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError) as error:
            raise ConfigError("the config of mmsegmentation is not Python", found=str(error), where=where) from error
        names: dict[str, Any] = {}
        for statement in tree.body:
            if isinstance(statement, ast.With):  # with read_base(): from … import …
                raise ConfigError(
                    "a config that imports its bases is code, which is not run", where=where,
                    fix="give the flat config that mmsegmentation writes into its work_dir",
                )  # fmt: skip
            if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
                target = statement.targets[0]
                if isinstance(target, ast.Name):
                    names[target.id] = _value(statement.value, names)
        return names


def read_mmseg_config(config: str | Path) -> MmsegNetwork:
    """The network of a config file of mmsegmentation. ConfigError where it cannot be read, WeightsError where the
    network's arithmetic is not one of ours."""
    path = Path(config)
    return _network(_Reader().file(path), path)


def read_mmseg_text(text: str, where: str | Path) -> MmsegNetwork:
    """The same of the flat config that a checkpoint of mmsegmentation holds."""
    found = _Reader().text(text, where)
    found.pop("_base_", None)
    return _network(found, where)


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Name) and node.id in names:
        return names[node.id]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
        return {word.arg or "": _value(word.value, names) for word in node.keywords}
    if isinstance(node, ast.Dict):
        keys = [None if key is None else _value(key, names) for key in node.keys]
        return {str(key): _value(value, names) for key, value in zip(keys, node.values, strict=True)}
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(element, names) for element in node.elts]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.Add | ast.Sub | ast.Div):
        left, right = _value(node.left, names), _value(node.right, names)
        if all(isinstance(side, int | float) for side in (left, right)) and right != 0:
            signs = {ast.Mult: left * right, ast.Add: left + right, ast.Sub: left - right, ast.Div: left / right}
            return signs[type(node.op)]
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError):
        return _Unread(ast.unparse(node)[:80])


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """mmengine's merge: dicts into dicts, anything else replaces; ``_delete_=True`` drops the base's dict."""
    result = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping):
            own = {name: one for name, one in value.items() if name != "_delete_"}
            below = result.get(key)
            result[key] = _merged(below if isinstance(below, Mapping) and not value.get("_delete_") else {}, own)
        else:
            result[key] = value
    return result


class _Part:
    """A dict of the config, of which every entry has to be accounted for."""

    def __init__(self, found: Any, name: str, where: str | Path) -> None:
        if not isinstance(found, Mapping):
            raise ConfigError(f"the config has no {name} of one dict", found=_shown(found), where=where)
        self.found, self.name, self.where = dict(found), name, where
        self.left = set(self.found) - {"type", "init_cfg", "pretrained", "loss_decode", "sampler", "frozen_stages",
                                       "norm_eval", "with_cp", "act_cfg"}  # fmt: skip
        if self.found.get("act_cfg") not in (None, {"type": "ReLU"}):
            self.refuse("act_cfg", "ReLU")

    def take(self, key: str, default: Any = None) -> Any:
        self.left.discard(key)
        value = self.found.get(key, default)
        if _has_unread(value):
            raise ConfigError("an entry of the config is code, which is not run",
                              expected="a plain value", found=f"{self.name}.{key} = {_shown(value)}", where=self.where,
                              fix="give the flat config that mmsegmentation writes into its work_dir")  # fmt: skip
        return value

    def only(self, key: str, *allowed: Any) -> None:
        """The entry is absent or has a value whose arithmetic is the same."""
        if key in self.found and self.take(key) not in allowed:
            self.refuse(key, " or ".join(map(str, allowed)))

    def refuse(self, key: str, expected: str) -> None:
        raise WeightsError(
            "segwright has no network with this arithmetic", expected=f"{self.name}.{key} = {expected}",
            found=_shown(self.found.get(key)), where=self.where, fix="score its masks: segwright evaluate MASKS DATA",
        )  # fmt: skip

    def end(self) -> None:
        """Nothing is left over whose effect is unknown."""
        unknown = sorted(key for key in self.left if self.found[key] is not None)
        if unknown:
            self.refuse(unknown[0], "absent")


def _network(config: Mapping[str, Any], where: str | Path) -> MmsegNetwork:
    model = _Part(config.get("model"), "model", where)
    model.only("type", "EncoderDecoder")
    if "neck" in model.found and model.found["neck"] is not None:
        model.refuse("neck", "absent")
    backbone = _Part(model.take("backbone"), "backbone", where)
    encoder, for_encoder, in_channels = _backbone(backbone)
    head = _Part(model.take("decode_head"), "decode_head", where)
    kind = head.take("type")
    if kind not in HEADS:
        head.refuse("type", ", ".join(HEADS))
    name, arguments = HEADS[kind](head)
    head.only("in_index", [0, 1, 2, 3] if name == "upernet" else 3)
    head.only("conv_cfg", None)
    head.only("ignore_index", 255)
    _norm(head)
    arguments["dropout"] = head.take("dropout_ratio", 0.1)
    classes = int(head.take("num_classes", 19))
    head.only("out_channels", None, classes)
    head.only("threshold", None)
    for key in ("in_channels", "channels"):
        head.take(key)
    head.end()
    stride = for_encoder["output_stride"]
    if name == "upernet" and stride != 32:
        backbone.refuse("strides", "(1, 2, 2, 2)")
    if name in ("pspnet", "deeplabv3"):
        arguments["aux"] = _same_aux(model.take("auxiliary_head"))
    if name == "upernet":
        arguments["aux"] = False
    if name == "deeplabv3":
        arguments["multi_grid"] = None
    arguments |= {"size_divisor": 1, **for_encoder}
    notes = []
    if (model.take("test_cfg") or {}).get("mode") == "slide":
        notes.append("the config predicts in windows; whole images are predicted here where they fit into memory")
    used = _normalization(config, model, in_channels, where)
    return MmsegNetwork(name, encoder, classes, in_channels, arguments, used, tuple(notes))


def _backbone(part: _Part) -> tuple[str, dict[str, Any], int]:
    """Our encoder's name, its arguments, and the channels of the images."""
    kind, depth = part.take("type"), part.take("depth")
    if kind not in DEPTHS:
        part.refuse("type", " or ".join(DEPTHS))
    if depth not in DEPTHS[kind]:
        part.refuse("depth", ", ".join(map(str, DEPTHS[kind])))
    part.only("style", "pytorch")
    part.only("deep_stem", kind == "ResNetV1c")
    for key in ("avg_down", "dcn", "plugins", "multi_grid", "conv_cfg"):
        part.only(key, None, False)
    part.only("stage_with_dcn", [False] * 4)
    part.only("num_stages", 4)
    part.only("out_indices", [0, 1, 2, 3])
    part.only("base_channels", 64)
    part.only("stem_channels", 64)
    part.only("zero_init_residual", True, False)
    _norm(part)
    strides, dilations = tuple(part.take("strides", (1, 2, 2, 2))), tuple(part.take("dilations", (1, 1, 1, 1)))
    stride = PLANS.get((strides, dilations))
    if stride is None:
        part.refuse("dilations", "those of output stride 8, 16 or 32")
    contracted = bool(part.take("contract_dilation", False))
    if stride != 32 and depth < 50:  # only the first convolution of a basic block is dilated there, both are here
        part.refuse("depth", "50, 101, 152 where stages are dilated")
    channels = int(part.take("in_channels", 3))
    part.end()
    name = f"resnet{depth}{'c' if kind == 'ResNetV1c' else ''}"
    return name, {"output_stride": stride, "dilate_first": stride != 32 and not contracted}, channels


def _norm(part: _Part) -> None:
    norm = part.take("norm_cfg", {"type": "BN"})
    plain = isinstance(norm, Mapping) and norm.get("type") in ("BN", "SyncBN") and norm.get("eps", 1e-5) == 1e-5
    if not plain:
        part.refuse("norm_cfg", "BN or SyncBN")


def _psp(head: _Part) -> tuple[str, dict[str, Any]]:
    channels = head.take("channels", 512)
    corners = bool(head.take("align_corners", False))
    return "pspnet", {"bins": list(head.take("pool_scales", [1, 2, 3, 6])), "bin_channels": channels,
                      "channels": channels, "align_corners": corners, "grid_aligned": False}  # fmt: skip


def _uper(head: _Part) -> tuple[str, dict[str, Any]]:
    head.only("pool_scales", [1, 2, 3, 6])
    head.only("align_corners", False)  # here only the last step would be aligned
    return "upernet", {"channels": head.take("channels", 512)}


def _aspp(head: _Part) -> tuple[str, dict[str, Any]]:
    dilations = list(head.take("dilations", [1, 6, 12, 18]))
    if dilations[:1] != [1] or 1 in dilations[1:]:
        head.refuse("dilations", "1, and larger ones after it")
    return "deeplabv3", {"rates": dilations[1:], "channels": head.take("channels", 512), "project_kernel": 3,
                         "align_corners": bool(head.take("align_corners", False))}  # fmt: skip


def _separable_aspp(head: _Part) -> tuple[str, dict[str, Any]]:
    _, arguments = _aspp(head)
    head.take("c1_in_channels")
    return "deeplabv3plus", {**arguments, "refine": "separable", "low_channels": head.take("c1_channels", 48)}


HEADS = {"PSPHead": _psp, "UPerHead": _uper, "ASPPHead": _aspp, "DepthwiseSeparableASPPHead": _separable_aspp}


def _same_aux(head: Any) -> bool:
    """Whether the auxiliary head, which only training uses, is ours: 3×3 to a quarter of stage 16, then 1×1."""
    if not isinstance(head, Mapping) or head.get("type") != "FCNHead" or head.get("in_index") != 2:
        return False
    plain = head.get("num_convs") == 1 and head.get("concat_input") is False
    channels, inputs = head.get("channels"), head.get("in_channels")
    return plain and isinstance(channels, int) and isinstance(inputs, int) and channels == inputs // 4


def _normalization(
    config: Mapping[str, Any], model: _Part, channels: int, where: str | Path
) -> dict[str, list[float]] | None:
    """Mean and standard deviation for pixels in 0 to 1, from the preprocessor (1.x) or ``img_norm_cfg`` (0.x)."""
    found = model.take("data_preprocessor") or config.get("data_preprocessor") or config.get("img_norm_cfg")
    if found is None:
        found = _step(config, "Normalize")
    if not isinstance(found, Mapping) or "mean" not in found or "std" not in found:
        return None
    part = _Part(found, "data_preprocessor", where)
    if channels == 3 and not (part.take("bgr_to_rgb") or part.take("to_rgb")):
        part.refuse("bgr_to_rgb", "True: the images here are RGB")
    return {key: [float(value) / 255 for value in part.take(key)] for key in ("mean", "std")}


def _step(config: Mapping[str, Any], kind: str) -> Any:
    """A step of a pipeline of mmsegmentation 0.x, wherever the flat config has it."""
    pending: list[Any] = [config]
    while pending:
        one = pending.pop()
        if isinstance(one, Mapping):
            if one.get("type") == kind:
                return one
            pending.extend(one.values())
        elif isinstance(one, Sequence) and not isinstance(one, str):
            pending.extend(one)
    return None


def _has_unread(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_unread, value.values()))
    return isinstance(value, _Unread) or (isinstance(value, list) and any(map(_has_unread, value)))


def _shown(value: Any) -> str:
    return value.text if isinstance(value, _Unread) else str(value)[:120]
