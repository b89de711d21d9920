"""Post-processing pipelines by name: ``crf(deeplab-v1)>min-area(64)>close(3)``.

    pipeline = step { ">" step }, steps as in :mod:`segwright.postprocess.pipeline_spec`

| step | arguments | what it does |
|---|---|---|
| crf | preset (deeplab-v1 if none); or w1, sa, sb, w2, sg, iterations, normalization by name | the dense CRF |
| open, close, smooth | size: odd, pixels | opening, closing, majority in a window |
| fill-holes | area | fills holes of at most that area |
| min-area | area; class=area for single classes | removes smaller components |
| superpixels | size, compactness | majority vote in superpixels |

An area is pixels (64) or a share of the image (0.1%). A class is its name, or ``class0``, ``class1``, … by index.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import numpy.typing as npt

from segwright.core.errors import PostprocessError
from segwright.postprocess import regions
from segwright.postprocess.crf import DenseCRF
from segwright.postprocess.crf_spec import PRESETS, SYMMETRIC, Normalization, check_shapes, check_values
from segwright.postprocess.pipeline_spec import Reader, StepSpec, Value
from segwright.postprocess.regions import Area
from segwright.postprocess.superpixels import majority

UInt8Array = npt.NDArray[np.uint8]
Float32Array = npt.NDArray[np.float32]

# (image, labels, pixels of the whole image that shares are of) -> labels
RegionStep = Callable[[UInt8Array, UInt8Array, int], UInt8Array]


@dataclass(frozen=True)
class Step:
    """One step of a pipeline: a CRF on probabilities, or an operation on regions."""

    text: str
    crf: DenseCRF | None = None
    region: RegionStep | None = None


@dataclass(frozen=True)
class Pipeline:
    """A parsed pipeline. ``str(pipeline)`` parses to the same one; an empty one only takes the best class."""

    steps: tuple[Step, ...] = ()

    def __str__(self) -> str:
        return ">".join(step.text for step in self.steps)

    def __bool__(self) -> bool:
        return bool(self.steps)

    def __call__(
        self, image: UInt8Array, probabilities: Float32Array, *, whole: int | None = None
    ) -> tuple[UInt8Array, Float32Array]:
        """Labels uint8 H×W and probabilities K×H×W of an image uint8 H×W×C with probabilities float32 K×H×W.

        ``whole``: how many pixels the whole image has, where ``image`` is but a part of it. The labels are always the
        best class of the returned probabilities: where a step on regions gives a pixel to another class, the two
        classes' probabilities are exchanged there. PostprocessError as :class:`DenseCRF`.
        """
        probabilities = np.asarray(probabilities)
        check_shapes(np.shape(image), probabilities.shape, str(np.asarray(image).dtype), "uint8")
        if probabilities.ndim != 3 or probabilities.shape[0] > 255 or probabilities.dtype.kind != "f":
            raise PostprocessError(
                "a pipeline takes one image", expected="float probabilities K×H×W, K up to 255",
                found=f"{probabilities.dtype} {probabilities.shape}",
            )  # fmt: skip
        probabilities = probabilities.astype(np.float32, copy=False)
        if not self.steps or self.steps[0].crf is None:  # a CRF checks for itself
            check_values(float(probabilities.min()), float(np.abs(probabilities.sum(axis=0) - 1).max()))
        labels = probabilities.argmax(axis=0).astype(np.uint8)
        for step in self.steps:
            if step.crf is not None:
                probabilities = step.crf(image, probabilities)
                labels = probabilities.argmax(axis=0).astype(np.uint8)
            elif step.region is not None:
                changed = step.region(image, labels, whole or labels.size)
                probabilities = _exchanged(probabilities, labels, changed)
                labels = changed
        return labels, probabilities

    @property
    def receptive_radius(self) -> int:
        """How many pixels around a pixel its label depends on, as far as the CRFs bound it."""
        return max((step.crf.receptive_radius for step in self.steps if step.crf is not None), default=0)

    def parted(self) -> tuple[Pipeline, Pipeline]:
        """The pipeline up to its last CRF, and the steps on regions after it, which need labels only."""
        cut = max((i for i, step in enumerate(self.steps, 1) if step.crf is not None), default=0)
        return Pipeline(self.steps[:cut]), Pipeline(self.steps[cut:])

    def on_labels(self, image: UInt8Array, labels: UInt8Array) -> UInt8Array:
        """The labels (uint8 H×W) after the steps on regions of a pipeline without a CRF: no probabilities are needed,
        and a label keeps the confidence that the pixel had before."""
        for step in self.steps:
            if step.region is None:
                raise PostprocessError("a CRF needs probabilities", found=step.text)
            labels = step.region(image, labels, labels.size)
        return labels

    def with_threads(self, threads: int | None) -> Pipeline:
        """The same pipeline with its CRFs on so many threads."""
        return Pipeline(tuple(replace(k, crf=k.crf and replace(k.crf, threads=threads)) for k in self.steps))


OTHER_NAMES = {  # what others call a step
    "densecrf": "crf", "dilate": "close", "erode": "open", "median": "smooth", "majority": "smooth", "mode": "smooth",
    "holes": "fill-holes", "remove-small": "min-area", "remove_small_objects": "min-area", "area": "min-area",
    "slic": "superpixels",
}  # fmt: skip


def parse_pipeline(text: str, names: Sequence[str] = ()) -> Pipeline:
    """The pipeline that ``text`` describes; ``names`` are the classes that steps may mention.

    PostprocessError with a caret under the mistake. An empty text is the empty pipeline.
    """
    if not text.strip():
        return Pipeline()
    reader = Reader(text, "post-processing")
    steps = []
    for spec in reader.steps(">"):
        if spec.number is not None or spec.name not in _STEPS:
            raise reader.unknown("step", spec.name, spec.place, _STEPS, others=OTHER_NAMES)
        steps.append(_STEPS[spec.name](reader, spec, tuple(names)))
    return Pipeline(tuple(steps))


def with_symmetric_presets(text: str) -> str:
    """A pipeline saved before presets had a normalization (all were symmetric), in today's syntax; else unchanged."""
    parts = []
    for part in text.split(">"):
        inside = part.strip()
        bare = inside in ("crf", "crf()")
        named = re.match(r"crf\(\s*(deeplab-[\w-]+?)\s*(?=[,)])", inside)
        if "normalization" in inside or not (bare or named):
            parts.append(part)
        elif bare:
            parts.append(f"crf(deeplab-v1{SYMMETRIC})")
        elif named is not None:
            parts.append(f"crf({named[1]}{SYMMETRIC}{inside[named.end() :]}")
    return ">".join(parts)


def crf_text(crf: DenseCRF) -> str:
    """A CRF as a step of a pipeline; a preset's name where it is one."""
    extra = "" if crf.iterations == 10 else f",iterations={crf.iterations}"
    for name, preset in PRESETS.items():
        if preset == (crf.smoothness, crf.appearance, crf.normalization):
            return f"crf({name}{extra})"
    extra += "" if crf.normalization == "symmetric" else f",normalization={crf.normalization}"
    w2, sg = crf.smoothness
    w1, sa, sb = crf.appearance
    return f"crf(w1={w1:g},sa={sa:g},sb={sb:g},w2={w2:g},sg={sg:g}{extra})"


def _exchanged(probabilities: Float32Array, before: UInt8Array, after: UInt8Array) -> Float32Array:
    rows, columns = np.nonzero(before != after)
    if rows.size == 0:
        return probabilities
    result = probabilities.copy()
    old, new = before[rows, columns], after[rows, columns]
    result[new, rows, columns] = probabilities[old, rows, columns]
    result[old, rows, columns] = probabilities[new, rows, columns]
    ties = result[new, rows, columns] <= result[:, rows, columns].max(axis=0)
    # argmax takes the first of equals: where another class is as probable, the new one must exceed it.
    result[new[ties], rows[ties], columns[ties]] = np.nextafter(
        result[new[ties], rows[ties], columns[ties]], np.float32(2)
    )
    return result


def _crf(reader: Reader, step: StepSpec, names: tuple[str, ...]) -> Step:
    if len(step.positional) > 1:
        raise reader.mistake("a CRF takes one preset", step.positional[1].place)
    preset = step.positional[0] if step.positional else None
    if preset is not None and preset.text not in PRESETS:
        raise reader.unknown("CRF preset", preset.text, preset.place, PRESETS)
    smoothness, appearance, normalization = PRESETS[preset.text if preset else "deeplab-v1"]
    known = ("w1", "sa", "sb", "w2", "sg", "iterations", "normalization")
    numbers = dict(zip(known, (*appearance, *smoothness, 10.0), strict=False))
    if preset is None and set(step.named) & set(known[:5]):
        normalization = "symmetric"  # parameters of one's own, as DenseCRF takes them
    for name, value in step.named.items():
        if name not in known:
            raise reader.unknown("parameter of a CRF", name, value.place - len(name) - 1, known)
        if name == "normalization":
            if value.text not in ("symmetric", "per-row"):
                raise reader.unknown("normalization", value.text, value.place, ("symmetric", "per-row"))
            normalization = cast(Normalization, value.text)
            continue
        number = numbers[name] = _number(reader, value)
        if name == "iterations" and (number % 1 or not 0 <= number <= 1000):
            raise reader.mistake("iterations are whole", value.place, expected="0 to 1000")
        if name in ("w1", "w2") and number < 0:
            raise reader.mistake(f"the weight {name} must not be negative", value.place, expected="0 or more")
        if name in ("sa", "sb", "sg") and number <= 0:
            raise reader.mistake(f"{name} must be positive", value.place, expected="above 0, a standard deviation")
    try:
        crf = DenseCRF(
            (numbers["w2"], numbers["sg"]),
            (numbers["w1"], numbers["sa"], numbers["sb"]),
            int(numbers["iterations"]),
            normalization,
        )
    except PostprocessError as error:
        raise reader.mistake(error.message, step.place, expected=error.expected) from error
    return Step(crf_text(crf), crf=crf)


def _sized(operation: Callable[[UInt8Array, int], UInt8Array]) -> Callable[[Reader, StepSpec, tuple[str, ...]], Step]:
    def build(reader: Reader, step: StepSpec, names: tuple[str, ...]) -> Step:
        _arity(reader, step, 1, 1, ())
        value = step.positional[0]
        size = _number(reader, value)
        if size % 2 != 1 or not 1 <= size <= 255:
            even = size % 2 == 0 and 1 <= size <= 254
            raise reader.mistake(
                "a size must be odd" if 1 <= size <= 255 else "a size out of range",
                value.place,
                expected="1, 3, 5, … 255 pixels across",
                fix=f"{step.name}({int(size) + 1})" if even else None,
            )
        return Step(f"{step.name}({int(size)})", region=lambda image, labels, whole: operation(labels, int(size)))

    return build


def _fill_holes(reader: Reader, step: StepSpec, names: tuple[str, ...]) -> Step:
    _arity(reader, step, 1, 1, ())
    limit = _area(reader, step.positional[0])
    return Step(f"fill-holes({limit})", region=lambda image, labels, whole: regions.fill_holes(labels, limit.of(whole)))


def _min_area(reader: Reader, step: StepSpec, names: tuple[str, ...]) -> Step:
    known = [*names, *(f"class{index}" for index in range(len(names) or 255))]
    _arity(reader, step, 0, 1, known)
    if not step.positional and not step.named:
        raise reader.mistake("an area is missing", step.place, expected="min-area(64) or min-area(car=64)")
    limit = _area(reader, step.positional[0]) if step.positional else Area(0)
    own = {_class_index(name, names): _area(reader, value) for name, value in step.named.items()}
    parts = [str(limit)] if step.positional else []
    parts += [f"{names[index] if _plain(names, index) else f'class{index}'}={area}" for index, area in own.items()]

    def region(image: UInt8Array, labels: UInt8Array, whole: int) -> UInt8Array:
        return regions.remove_small_regions(
            labels, limit.of(whole), {index: area.of(whole) for index, area in own.items()}
        )

    return Step(f"min-area({','.join(parts)})", region=region)


def _superpixels(reader: Reader, step: StepSpec, names: tuple[str, ...]) -> Step:
    _arity(reader, step, 0, 2, ("size", "compactness"))
    values = {**dict(zip(("size", "compactness"), step.positional, strict=False)), **step.named}
    numbers = {"size": 12.0, "compactness": 10.0}
    for name, value in values.items():
        numbers[name] = _number(reader, value)
        if not (2 if name == "size" else 0.001) <= numbers[name] <= 1000 or (name == "size" and numbers[name] % 1):
            raise reader.mistake(f"{name} out of range", value.place, expected="size 2 to 1000, compactness to 1000")
    size, compactness = int(numbers["size"]), numbers["compactness"]
    return Step(
        f"superpixels({size},{compactness:g})",
        region=lambda image, labels, whole: majority(image, labels, size, compactness),
    )


_STEPS: dict[str, Callable[[Reader, StepSpec, tuple[str, ...]], Step]] = {
    "crf": _crf,
    "open": _sized(regions.opened),
    "close": _sized(regions.closed),
    "smooth": _sized(regions.smoothed),
    "fill-holes": _fill_holes,
    "min-area": _min_area,
    "superpixels": _superpixels,
}


def _arity(reader: Reader, step: StepSpec, least: int, most: int, known: Sequence[str]) -> None:
    for name, value in step.named.items():
        place = value.place - len(name) - 1
        if not known:
            raise reader.mistake(f"{step.name} takes no {name!r}", place, expected=f"{step.name}(number)")
        if name not in known:
            raise reader.unknown(f"argument of {step.name}", name, place, known)
    if len(step.positional) < least:
        raise reader.mistake(f"{step.name} needs an argument", step.place, expected=f"{step.name}(number)")
    if len(step.positional) > most:
        comma = step.positional[0].text == "0" and step.positional[most].share
        raise reader.mistake(
            f"too many arguments for {step.name}",
            step.positional[most].place,
            expected=f"{step.name}(number)" if most == 1 else f"at most {most}",
            fix=f"a decimal point: 0.{step.positional[most].text}" if comma else None,
        )


def _number(reader: Reader, value: Value) -> float:
    if value.number is None or value.share:
        raise reader.mistake(f"{value.text!r} is not a plain number", value.place, expected="a number")
    return value.number


def _area(reader: Reader, value: Value) -> Area:
    if value.number is None:
        raise reader.mistake(f"{value.text!r} is not an area", value.place, expected="pixels (64) or a share (0.1%)")
    try:
        return Area(value.number, value.share)
    except PostprocessError as error:
        raise reader.mistake(error.message, value.place, expected=error.expected) from error


def _class_index(name: str, names: tuple[str, ...]) -> int:
    return names.index(name) if name in names else int(name.removeprefix("class"))


def _plain(names: tuple[str, ...], index: int) -> bool:
    """Whether a class's name can stand in a pipeline as it is."""
    return index < len(names) and names[index].replace("-", "_").replace(".", "_").isidentifier()
