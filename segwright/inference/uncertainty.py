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
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from segwright.core.errors import ModelError, UsageError
from segwright.core.types import Float32Array, LabelSpace, UInt8Array
from segwright.inference.region_features import dispersion
from segwright.inference.runtimes import Runtime
from segwright.inference.tta import parse_tta

if TYPE_CHECKING:
    from segwright.inference.torch_runtime import TorchRuntime

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
    network = _torch_runtime(runtime)
    if network is None:
        raise ModelError(
            f"{measure.name} needs the network itself, not an exported file",
            found=type(runtime).__name__,
            fix="use the run folder, or --uncertainty entropy or tta",
        )
    from segwright.inference.network_samples import dropout_layers, members_of

    if measure.name.startswith("dropout") and not dropout_layers(network.model):
        raise ModelError(
            "the network has no dropout layer, so all its passes are equal",
            expected="a network with dropout, such as segnet, fc_densenet, deeplab_v1, pspnet",
            found=getattr(network.model, "architecture", "") or type(network.model).__name__,
            fix="--uncertainty tta, or join several models by `segwright export A B --to bundle` and use "
            "--uncertainty ensemble",
        )
    if measure.name.startswith("ensemble") and len(members_of(network.model)) < 2:
        raise ModelError(
            "the model is no ensemble, so it has no members that could disagree",
            expected="a model made by `segwright export A B --to bundle`",
            found=getattr(network.model, "architecture", "") or type(network.model).__name__,
            fix="join several models by `segwright export A B --to bundle`, or use --uncertainty tta",
        )


def uncertainty_map(
    measure: UncertaintyMeasure | None,
    runtime: Runtime,
    pixels: UInt8Array,
    marginals: Float32Array | None,
    space: LabelSpace,
) -> Float32Array | None:
    """The map (H, W) of an image or a window with its probabilities (K, H, W); None without a measure."""
    if measure is None:
        return None
    if measure.of_probabilities:
        assert marginals is not None  # the caller computes them for such a measure
        return map_of_probabilities(measure, marginals)
    return map_of_samples(measure, runtime, pixels, space.mirrored())


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
    else:
        from segwright.inference.network_samples import of_members, with_dropout

        network = _torch_runtime(runtime)
        assert network is not None  # check_measure
        dropping = measure.name.startswith("dropout")
        for probabilities in with_dropout(network, pixels, measure.passes) if dropping else of_members(network, pixels):
            moments.add(probabilities)
    return moments.variance() if measure.name == "tta" or "variance" in measure.name else moments.information()


def _torch_runtime(runtime: Runtime) -> TorchRuntime | None:
    """The runtime itself if it is a network in torch, which is then imported already."""
    if "torch" not in sys.modules:
        return None
    from segwright.inference.torch_runtime import TorchRuntime

    return runtime if isinstance(runtime, TorchRuntime) else None


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
