"""Losses by name, and sums of them: ``ce``, ``ce+dice``, ``0.5*ce(smoothing=0.05) + 0.5*lovasz``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from segwright.core.errors import UsageError
from segwright.core.plugins import load_plugin, not_a_plugin, plugin_names
from segwright.core.types import IGNORE_INDEX
from segwright.losses.base import SegmentationLoss, SoftmaxStatistics
from segwright.losses.border import BorderCrossEntropy
from segwright.losses.cross_entropy import OHEM, CrossEntropy, Focal
from segwright.losses.lovasz import Lovasz
from segwright.losses.overlap import Dice, FocalTversky, Jaccard, Tversky

LOSSES: dict[str, Callable[..., SegmentationLoss]] = {
    "ce": CrossEntropy,
    "focal": Focal,
    "dice": Dice,
    "jaccard": Jaccard,
    "tversky": Tversky,
    "focal-tversky": FocalTversky,
    "lovasz": Lovasz,
    "border": BorderCrossEntropy,
    "ohem": OHEM,
}
ALIASES = {
    "cross-entropy": "ce",
    "crossentropy": "ce",
    "iou": "jaccard",
    "boundary": "border",
    "lovasz-softmax": "lovasz",
    "focaltversky": "focal-tversky",
}

Argument = float | int | bool


@dataclass(frozen=True)
class Term:
    """One summand: weight × name(arguments)."""

    name: str
    weight: float
    arguments: Mapping[str, Argument]

    def __str__(self) -> str:
        inner = ",".join(f"{key}={value}" for key, value in self.arguments.items())
        return ("" if self.weight == 1 else f"{self.weight:g}*") + self.name + (f"({inner})" if inner else "")


class LossSum(SegmentationLoss):
    """A weighted sum of losses, each under its name; what they share is computed once."""

    def __init__(
        self,
        terms: Sequence[tuple[Term, SegmentationLoss]],
        *,
        classes: int,
        ignore_index: int = IGNORE_INDEX,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__(classes=classes, ignore_index=ignore_index, class_weights=class_weights)
        self.terms = [term for term, _ in terms]
        self.parts = nn.ModuleList([part for _, part in terms])

    def compute(self, pixels: SoftmaxStatistics) -> Tensor:
        total = pixels.logits.new_zeros(())
        for value in self._terms(pixels):
            total = total + value
        return total

    def values(self, logits: Tensor, target: Tensor) -> Tensor:
        with torch.autocast(device_type=logits.device.type, enabled=False):
            return torch.stack(self._terms(self.statistics(logits, target)))

    def amounts(self, target: Tensor) -> Tensor:
        return torch.stack([part.amount(target) for part in self._parts()])

    def per_part(self) -> list[str]:
        named = zip(self.terms, self._parts(), strict=True)
        return [term.name for term, part in named if not part.decomposes and term.weight]

    def _parts(self) -> list[SegmentationLoss]:
        return [part for part in self.parts if isinstance(part, SegmentationLoss)]

    def _terms(self, pixels: SoftmaxStatistics) -> list[Tensor]:
        return [term.weight * part.compute(pixels) for term, part in zip(self.terms, self._parts(), strict=True)]

    def extra_repr(self) -> str:
        return "+".join(str(term) for term in self.terms)


def create_loss(
    name_or_sum: str,
    *,
    classes: int,
    ignore_index: int = IGNORE_INDEX,
    class_weights: Tensor | Sequence[float] | None = None,
) -> SegmentationLoss:
    """The loss of a text such as ``ce``, ``ce+dice`` or ``0.5*focal(gamma=2)+0.5*lovasz``.

    The result is called with logits (N, K, H, W) and targets (N, H, W) and returns a scalar. ``class_weights`` (K,)
    weigh pixels in ce, focal, ohem and border, and classes in dice, jaccard, tversky, focal-tversky and lovasz.
    UsageError lists the names, or a loss's arguments, where the text does not fit.
    """
    terms = parse_loss(name_or_sum)
    weights = None if class_weights is None else torch.as_tensor(class_weights, dtype=torch.float32)

    def build(term: Term) -> SegmentationLoss:
        return loss_class(term.name)(
            **term.arguments, classes=classes, ignore_index=ignore_index, class_weights=weights
        )

    if len(terms) == 1 and terms[0].weight == 1:
        return build(terms[0])
    return LossSum(
        [(term, build(term)) for term in terms], classes=classes, ignore_index=ignore_index, class_weights=weights
    )


def parse_loss(text: str) -> list[Term]:
    """The terms of a loss text; UsageError names what can stand there."""
    terms = [_term(part, text) for part in re.split(r"\+(?![^(]*\))(?<![0-9.][eE]\+)", text)]
    if all(term.weight == 0 for term in terms):
        raise UsageError("a loss needs a term of positive weight", found=text)
    return terms


_TERM = re.compile(r"\s*(?:([0-9.][0-9.eE+-]*)\s*\*\s*)?([A-Za-z][A-Za-z0-9_-]*)\s*(?:\((.*)\))?\s*")


def _term(part: str, text: str) -> Term:
    match = _TERM.fullmatch(part)
    if match is None:
        raise _unreadable(part, text)
    weight, name, inner = match.groups()
    name = name.lower().replace("_", "-")
    name = ALIASES.get(name, name)
    if name not in loss_names():
        raise _unreadable(part, text)
    try:
        factor = float(weight or 1)
    except ValueError:
        raise _unreadable(part, text) from None
    if not 0 <= factor < float("inf"):
        raise _unreadable(part, text)
    return Term(name, factor, _arguments(name, inner or ""))


def _unreadable(part: str, text: str) -> UsageError:
    return UsageError(
        "not a loss" if part.strip() == text.strip() else f"not a loss: {part.strip()!r} in {text!r}",
        expected=f"one of {', '.join(loss_names())}, or a sum such as 0.5*ce+0.5*dice or ce(smoothing=0.05)+lovasz",
        found=part.strip() or "nothing",
        fix="see docs/losses.md",
    )


def _arguments(name: str, inner: str) -> dict[str, Argument]:
    allowed = loss_arguments(name)
    found: dict[str, Argument] = {}
    for piece in filter(None, (p.strip() for p in inner.split(","))):
        key, _, value = (p.strip() for p in piece.partition("="))
        if key not in allowed or key in found:
            raise UsageError(
                f"{name} has no argument {key!r}" if key not in allowed else f"{name} has {key!r} twice",
                expected=", ".join(f"{k}={v}" for k, v in allowed.items()) or "no arguments",
                found=piece,
            )
        found[key] = _value(name, key, value)
    return found


def _value(name: str, key: str, text: str) -> Argument:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)
    except ValueError:
        raise UsageError(f"{name}'s {key} is a number, true or false", found=text) from None


def loss_arguments(name: str) -> dict[str, object]:
    """A loss's own arguments and their defaults, as the text form takes them."""
    parameters = inspect.signature(loss_class(name)).parameters.values()
    given = ("classes", "ignore_index", "class_weights")  # by create_loss
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in given}


def loss_names() -> list[str]:
    """Our losses, then those of plugins, as a text names them."""
    return [*LOSSES, *(name for name in map(_written, plugin_names("losses")) if name not in LOSSES)]


def loss_class(name: str) -> Callable[..., SegmentationLoss]:
    """The loss of a name of :func:`loss_names`: ours, else a plugin's. PluginError if that is no loss."""
    if name in LOSSES:
        return LOSSES[name]
    expected = "a class that derives from segwright.losses.base.SegmentationLoss"
    entry = next(entry for entry in plugin_names("losses") if _written(entry) == name)
    found = load_plugin("losses", entry, expected)
    if not (inspect.isclass(found) and issubclass(found, SegmentationLoss)):
        raise not_a_plugin("losses", name, expected, found)
    return found


def _written(name: str) -> str:
    """A name as a loss's text has it."""
    return name.lower().replace("_", "-")
