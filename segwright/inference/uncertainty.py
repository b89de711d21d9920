"""How unsure a network is of each pixel: maps float32 H×W in 0…1, 0 is sure.

| measure | what it is |
|---|---|
| confidence | 1 − the probability of the label |
| entropy | the entropy of the probabilities over log K |
| margin | 1 − the difference between the two largest probabilities |
| tta(VIEWS) | variance of the probabilities over test-time views, summed over the classes |
| tta-information(VIEWS) | mutual information of label and view over log K |
| dropout(T) | mutual information of label and weights over T passes with dropout (Gal and Ghahramani 2016) over log K |
| dropout-variance(T) | variance over these passes, summed over the classes |
| ensemble, ensemble-variance | the same over the members of an ensemble (Lakshminarayanan et al. 2017) |

The first three are of the probabilities that a prediction has, after post-processing; the others are of the network.
Samples are added one at a time, so the memory does not grow with their number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import softmax
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from segwright import kernels
from segwright.core.errors import ModelError, UsageError
from segwright.core.types import Float32Array, UInt8Array
from segwright.inference.region_features import dispersion
from segwright.inference.runtimes import Runtime, TorchRuntime
from segwright.inference.tta import parse_tta
from segwright.models.ensemble import Ensemble

OF_PROBABILITIES = ("confidence", "entropy", "margin")
OF_SAMPLES = ("tta", "tta-information", "dropout", "dropout-variance", "ensemble", "ensemble-variance")
MEASURES = (*OF_PROBABILITIES, *OF_SAMPLES)
DEFAULT_VIEWS = "flip,0.75,1,1.25"
DEFAULT_PASSES = 10
MOST_PASSES = 200


@dataclass(frozen=True)
class UncertaintyMeasure:
    """A measure of :data:`MEASURES` with its views or its number of passes; ``str()`` is the text that
    :func:`parse_measure` takes."""

    name: str
    views: str = ""
    passes: int = 0

    @property
    def of_probabilities(self) -> bool:
        """Whether the class probabilities are enough; otherwise the network runs again."""
        return self.name in OF_PROBABILITIES

    def __str__(self) -> str:
        inner = self.views or (str(self.passes) if self.passes else "")
        return f"{self.name}({inner})" if inner else self.name


def parse_measure(text: str) -> UncertaintyMeasure:
    """The measure in a text such as ``entropy``, ``tta(flip,0.75,1.25)``, ``dropout(20)``; UsageError otherwise."""
    match = re.fullmatch(r"\s*([a-z][a-z-]*)\s*(?:\((.*)\))?\s*", text, re.DOTALL)
    name, inner = (match[1], match[2]) if match else ("", None)
    if name not in MEASURES:
        raise UsageError("unknown measure of uncertainty", expected=", ".join(MEASURES), found=text[:100])
    if name.startswith("tta"):
        views = inner or DEFAULT_VIEWS
        if len(parse_tta(views).views) < 2:
            raise UsageError(
                "a variance needs two views or more", expected=f"{name}({DEFAULT_VIEWS})", found=text[:100]
            )
        return UncertaintyMeasure(name, views=views)
    if name.startswith("dropout"):
        if inner is not None and not (re.fullmatch(r"\s*\d{1,4}\s*", inner) and 2 <= int(inner) <= MOST_PASSES):
            raise UsageError(
                "the number of passes with dropout is out of range",
                expected=f"2 to {MOST_PASSES}, such as {name}({DEFAULT_PASSES})",
                found=text[:100],
            )
        return UncertaintyMeasure(name, passes=int(inner) if inner else DEFAULT_PASSES)
    if inner is not None:
        raise UsageError(f"{name} takes no arguments", expected=name, found=text[:100])
    return UncertaintyMeasure(name)


def parse_measures(text: str) -> tuple[UncertaintyMeasure, ...]:
    """Several measures, separated by commas outside parentheses; UsageError for an unknown or repeated one."""
    found = tuple(parse_measure(part) for part in re.split(r",(?![^(]*\))", text))
    if len(set(found)) < len(found):
        raise UsageError("a measure of uncertainty is given twice", found=text[:200])
    return found


def check_measure(measure: UncertaintyMeasure, runtime: Runtime) -> None:
    """ModelError if the network cannot give the measure: without dropout layers, or no ensemble."""
    if measure.of_probabilities or measure.name.startswith("tta"):
        return
    if not isinstance(runtime, TorchRuntime):
        raise ModelError(
            f"{measure.name} needs the network itself, not an exported file",
            found=type(runtime).__name__,
            fix="use the run folder, or --uncertainty entropy or tta",
        )
    if measure.name.startswith("dropout") and not _dropouts(runtime.model):
        raise ModelError(
            "the network has no dropout layer, so all its passes are equal",
            expected="a network with dropout, such as segnet, fc_densenet, deeplab_v1, pspnet",
            found=getattr(runtime.model, "architecture", "") or type(runtime.model).__name__,
            fix="--uncertainty tta, or join several models by `segwright ensemble` and use --uncertainty ensemble",
        )
    if measure.name.startswith("ensemble") and not (
        isinstance(runtime.model, Ensemble) and len(runtime.model.members) > 1
    ):
        raise ModelError(
            "the model is no ensemble, so it has no members that could disagree",
            expected="a model made by `segwright ensemble`",
            found=getattr(runtime.model, "architecture", "") or type(runtime.model).__name__,
            fix="join several models by `segwright ensemble`, or use --uncertainty tta",
        )


def map_of_probabilities(measure: UncertaintyMeasure, probabilities: Float32Array) -> Float32Array:
    """The map (H, W) of probabilities (K, H, W), for a measure of :data:`OF_PROBABILITIES`."""
    name = "variation" if measure.name == "confidence" else measure.name
    return np.clip(dispersion(probabilities)[name], 0, 1)


def map_of_samples(
    measure: UncertaintyMeasure, runtime: Runtime, pixels: UInt8Array, pairs: Sequence[tuple[int, int]] = ()
) -> Float32Array:
    """The map (H, W) of an image (H, W, C), for a measure of :data:`OF_SAMPLES`; ``pairs`` as for
    :func:`segwright.inference.tta.parse_tta`. Errors as :func:`check_measure`."""
    check_measure(measure, runtime)
    moments = Moments(runtime.classes, (pixels.shape[0], pixels.shape[1]))
    if measure.name.startswith("tta"):
        for probabilities, seen in parse_tta(measure.views, pairs).each(runtime.logits, pixels):
            moments.add(probabilities, seen)
    elif measure.name.startswith("dropout"):
        assert isinstance(runtime, TorchRuntime)
        for probabilities in _with_dropout(runtime, pixels, measure.passes):
            moments.add(probabilities)
    else:
        assert isinstance(runtime, TorchRuntime) and isinstance(runtime.model, Ensemble)
        for probabilities in _of_members(runtime, runtime.model, pixels):
            moments.add(probabilities)
    return moments.variance() if measure.name == "tta" or "variance" in measure.name else moments.information()


class Moments:
    """Sums over samples of class probabilities (K, H, W), from which variance and mutual information come."""

    def __init__(self, classes: int, size: tuple[int, int]) -> None:
        self.total = np.zeros((classes, *size), np.float32)
        self.squares = np.zeros(size, np.float32)  # of all classes together
        self.entropy = np.zeros(size, np.float32)
        self.weight = np.zeros(size, np.float32)

    def add(self, probabilities: Float32Array, seen: Float32Array | None = None) -> None:
        """One sample; ``seen`` (H, W) is its weight per pixel."""
        for total, plane in zip(self.total, probabilities, strict=True):
            weighted = plane if seen is None else plane * seen
            total += weighted
            self.squares += weighted * plane
            self.entropy -= weighted * np.log(np.maximum(plane, np.float32(1e-12)))
        self.weight += np.float32(1) if seen is None else seen

    def variance(self) -> Float32Array:
        """(H, W): Σ over classes of the variance over samples, in 0…1."""
        weight = np.maximum(self.weight, np.float32(1e-6))
        of_mean = np.zeros_like(self.squares)
        for plane in self.total:
            of_mean += (plane / weight) ** 2
        return np.clip(self.squares / weight - of_mean, 0, 1)

    def information(self) -> Float32Array:
        """(H, W): the entropy of the mean minus the mean entropy, over log K, in 0…1."""
        if len(self.total) == 1:
            return np.zeros_like(self.entropy)
        weight = np.maximum(self.weight, np.float32(1e-6))
        of_mean = np.zeros_like(self.entropy)
        for plane in self.total:
            share = plane / weight
            of_mean -= share * np.log(np.maximum(share, np.float32(1e-12)))
        found = (of_mean - self.entropy / weight) / np.float32(np.log(len(self.total)))
        return np.asarray(np.clip(found, 0, 1), np.float32)


def _dropouts(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, _DropoutNd) and module.p > 0]


@contextmanager
def _dropping(model: nn.Module) -> Iterator[None]:
    """Let only the dropout layers drop, on plain torch: a kernel may leave out what does nothing in eval mode."""
    layers = _dropouts(model)
    with kernels.disabled():
        try:
            for layer in layers:
                layer.train()
            yield
        finally:
            for layer in layers:
                layer.eval()


def _with_dropout(runtime: TorchRuntime, pixels: UInt8Array, passes: int) -> Iterator[Float32Array]:
    """Probabilities (K, H, W) of each pass; the same for the same image, and the caller's random state is kept."""
    devices = [runtime.device] if runtime.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), _dropping(runtime.model):
        torch.manual_seed(0)
        for _ in range(passes):
            yield np.asarray(softmax(runtime.logits(pixels[None])[0], axis=0), np.float32)


@torch.inference_mode()
def _of_members(runtime: TorchRuntime, ensemble: Ensemble, pixels: UInt8Array) -> Iterator[Float32Array]:
    images = torch.from_numpy(np.require(pixels[None], requirements=["C", "W"])).to(runtime.device)
    for member in ensemble.members:
        with torch.autocast(runtime.device.type, runtime.dtype or torch.bfloat16, enabled=runtime.dtype is not None):
            logits = member(images).logits
        yield torch.softmax(logits.float(), dim=1)[0].cpu().numpy()
