"""What travels between the modules: label spaces, samples, batches and predictions.

Shapes and dtypes are checked once, at construction, so that nothing downstream has to ask again.
Conventions: pictures are uint8 H×W×C (RGB order where C is 3), masks are uint8 H×W of class indices with the label
space's ignore value (255) where nothing is to be learnt or scored.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segwright.errors import LabelError, UsageError
from segwright.images import UInt8Array, write_mask
from segwright.sides import Pairs, check_pairs, find_sides

Float32Array = npt.NDArray[np.float32]

IGNORE_INDEX = 255
MAX_CLASSES = 255  # masks are uint8, and 255 is taken by the ignore value
STRIP_PIXELS = 4_000_000  # numpy makes eight bytes of every index, blending four of every colour: in strips

Colour = tuple[int, int, int]


def distinct_colours(count: int) -> tuple[Colour, ...]:
    """``count`` colours that stay apart on a screen: golden-ratio steps in hue, three levels of lightness."""
    colours = []
    for index in range(count):
        hue = (0.07 + index * 0.61803398875) % 1.0
        lightness = (0.52, 0.38, 0.68)[index % 3]
        red, green, blue = colorsys.hls_to_rgb(hue, lightness, 0.72)
        colours.append((round(red * 255), round(green * 255), round(blue * 255)))
    return tuple(colours)


@dataclass(frozen=True)
class LabelSpace:
    """The classes: their names, colours, and how the values found in files become class indices.

    ``mapping`` holds file value → class index or ignore value; a file value that is not in it is an error, never
    silently dropped. An empty mapping stands for the identity on 0…K-1 plus the ignore value itself. ``pairs`` holds
    the names of classes that a mirror image exchanges (left eye, right eye); None finds them from the names
    (:mod:`segwright.sides`), and is never what an instance holds.
    """

    names: tuple[str, ...]
    colours: tuple[Colour, ...] = ()
    ignore_index: int = IGNORE_INDEX
    mapping: Mapping[int, int] = field(default_factory=dict)
    pairs: Pairs | None = None

    def __post_init__(self) -> None:
        names = tuple(str(name) for name in self.names)
        if not 1 <= len(names) <= MAX_CLASSES:
            raise LabelError(
                "a label space holds 1 to 255 classes",
                expected="1 to 255 class names",
                found=f"{len(names)}",
                fix="group the classes, or drop those you do not need",
            )
        if len(set(names)) != len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise LabelError("class names must differ", found=f"more than once: {', '.join(twice)}", fix="rename them")
        colours = tuple((int(r), int(g), int(b)) for r, g, b in self.colours) or distinct_colours(len(names))
        if len(colours) != len(names):
            raise LabelError("one colour a class", expected=f"{len(names)} colours", found=str(len(colours)))
        if self.ignore_index != IGNORE_INDEX:
            raise LabelError("the ignore value in memory is always 255", found=str(self.ignore_index))
        mapping = {int(value): int(index) for value, index in self.mapping.items()}
        wrong = [index for index in mapping.values() if index != IGNORE_INDEX and not 0 <= index < len(names)]
        if wrong:
            raise LabelError(
                "the label map points outside the classes", expected=f"0 to {len(names) - 1} or 255", found=str(wrong)
            )
        found = find_sides(names).pairs if self.pairs is None else check_pairs(self.pairs, names, "LabelSpace.pairs")
        object.__setattr__(self, "pairs", found)
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "colours", colours)
        object.__setattr__(self, "mapping", mapping)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def classes(self) -> int:
        """How many classes there are, the ignore value not counted."""
        return len(self.names)

    def index(self, name: str) -> int:
        """The index of a class by name."""
        if name not in self.names:
            raise UsageError("unknown class", expected=", ".join(self.names), found=name)
        return self.names.index(name)

    def mirrored(self) -> tuple[tuple[int, int], ...]:
        """The indices of the classes that a mirror image exchanges."""
        return tuple((self.names.index(one), self.names.index(other)) for one, other in self.pairs or ())

    def lookup(self) -> npt.NDArray[np.int32]:
        """A table of 65,536 entries from file value to class index; -1 where the value has no meaning."""
        table = np.full(65536, -1, np.int32)
        if self.mapping:
            for value, index in self.mapping.items():
                table[value] = index
        else:
            table[: len(self.names)] = np.arange(len(self.names))
            table[IGNORE_INDEX] = IGNORE_INDEX
        return table

    def palette(self) -> UInt8Array:
        """256×3 colours; the ignore value and unused indices are black."""
        table = np.zeros((256, 3), np.uint8)
        table[: len(self.names)] = np.array(self.colours, np.uint8)
        return table

    def describe(self) -> list[str]:
        """One line a class: index, name, and the file values that become it. Shown before training."""
        sources: dict[int, list[int]] = {}
        for value, index in self.lookup_items():
            sources.setdefault(index, []).append(value)
        lines = [f"{i:3d} {name}  <- {_join(sources.get(i, []))}" for i, name in enumerate(self.names)]
        return [*lines, f"255 (ignored)  <- {_join(sources.get(IGNORE_INDEX, []))}"]

    def lookup_items(self) -> list[tuple[int, int]]:
        """(file value, class index) pairs, the identity written out."""
        if self.mapping:
            return sorted(self.mapping.items())
        return [(i, i) for i in range(len(self.names))] + [(IGNORE_INDEX, IGNORE_INDEX)]

    def to_json(self) -> dict[str, Any]:
        return {
            "names": list(self.names),
            "colours": [list(colour) for colour in self.colours],
            "ignore_index": self.ignore_index,
            "mapping": {str(value): index for value, index in self.mapping.items()},
            "pairs": [list(pair) for pair in self.pairs or ()],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LabelSpace:
        return cls(
            names=tuple(data["names"]),
            colours=tuple((int(c[0]), int(c[1]), int(c[2])) for c in data.get("colours", ())),
            ignore_index=int(data.get("ignore_index", IGNORE_INDEX)),
            mapping={int(value): int(index) for value, index in data.get("mapping", {}).items()},
            # Saved before there were pairs: such a model was not taught that a mirror exchanges them.
            pairs=tuple((str(one), str(other)) for one, other in data.get("pairs", ())),
        )


def _join(values: Sequence[int]) -> str:
    if not values:
        return "nothing"
    text = ", ".join(str(value) for value in values[:8])
    return text if len(values) <= 8 else f"{text}, … ({len(values)} values)"


@dataclass(frozen=True)
class Sample:
    """One picture with its mask, or without (``mask`` is None)."""

    id: str
    image: UInt8Array  # (H, W, C)
    mask: UInt8Array | None = None  # (H, W)
    image_path: Path | None = None
    mask_path: Path | None = None

    def __post_init__(self) -> None:
        if self.image.dtype != np.uint8 or self.image.ndim != 3:
            raise LabelError(
                "a picture is uint8 height×width×channels",
                found=f"{self.image.dtype} {self.image.shape}",
                where=self.image_path or self.id,
            )
        if self.mask is None:
            return
        if self.mask.dtype != np.uint8 or self.mask.ndim != 2:
            raise LabelError(
                "a mask is uint8 height×width",
                found=f"{self.mask.dtype} {self.mask.shape}",
                where=self.mask_path or self.id,
            )
        if self.mask.shape != self.image.shape[:2]:
            raise LabelError(
                "picture and mask differ in size",
                expected="{}×{} (height×width), as the picture".format(*self.image.shape[:2]),
                found="{}×{}".format(*self.mask.shape),
                where=self.mask_path or self.id,
                fix="make the mask again at the picture's size, or leave the pair out with --skip-bad",
            )


@dataclass(frozen=True)
class Batch:
    """What the loader hands to the training step."""

    images: UInt8Array  # (N, H, W, C)
    masks: UInt8Array  # (N, H, W)
    ids: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 4:
            raise LabelError("a batch of pictures is uint8 N×H×W×C", found=f"{self.images.dtype} {self.images.shape}")
        if self.masks.dtype != np.uint8 or self.masks.shape != self.images.shape[:3]:
            raise LabelError(
                "a batch of masks is uint8 N×H×W",
                expected=str(self.images.shape[:3]),
                found=f"{self.masks.dtype} {self.masks.shape}",
            )
        if len(self.ids) != self.images.shape[0]:
            raise LabelError("one id a picture", expected=str(self.images.shape[0]), found=str(len(self.ids)))

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Prediction:
    """What a model says of one picture."""

    labels: UInt8Array  # (H, W) class indices
    confidence: Float32Array  # (H, W) in 0…1: the softmax probability of the label
    label_space: LabelSpace
    image: UInt8Array | None = None  # (H, W, C)
    probabilities: Float32Array | None = None  # (K, H, W), only when asked for

    def __post_init__(self) -> None:
        if self.labels.dtype != np.uint8 or self.labels.ndim != 2:
            raise LabelError("labels are uint8 height×width", found=f"{self.labels.dtype} {self.labels.shape}")
        if self.confidence.shape != self.labels.shape:
            raise LabelError(
                "one confidence a pixel", expected=str(self.labels.shape), found=str(self.confidence.shape)
            )

    def colour(self) -> UInt8Array:
        """H×W×3: every pixel in its class's colour."""
        palette, result = self.label_space.palette(), np.empty((*self.labels.shape, 3), np.uint8)
        for rows in _strips(self.labels):
            result[rows] = palette[self.labels[rows]]
        return result

    def overlay(self, alpha: float = 0.5) -> UInt8Array:
        """H×W×3: the colours laid over the picture; ``alpha`` 0 shows the picture alone, 1 the colours alone."""
        colours = self.colour()
        if self.image is None:
            return colours
        return blend(self.image, colours, alpha)

    def confidence_picture(self) -> UInt8Array:
        """H×W×1: the confidence as grey, 255 is certain."""
        grey: UInt8Array = (self.confidence * 255 + 0.5).astype(np.uint8)
        return grey[..., None]

    def shares(self) -> dict[str, float]:
        """Class name → its share of the pixels, in 0…1."""
        counts = np.zeros(256, np.int64)
        for rows in _strips(self.labels):
            counts += np.bincount(self.labels[rows].ravel(), minlength=256)
        return {
            name: float(count) / self.labels.size for name, count in zip(self.label_space.names, counts, strict=False)
        }

    def save(self, path: str | Path) -> Path:
        """Write the labels as a palette PNG (indices are class indices) and return where."""
        return write_mask(path, self.labels, self.label_space.palette())


def blend(image: UInt8Array, colours: UInt8Array, alpha: float = 0.5) -> UInt8Array:
    """``colours`` (H×W×3) over ``image`` (H×W×C); ignored pixels, black in the palette, keep the picture."""
    result = np.empty((*image.shape[:2], 3), np.uint8)
    for rows in _strips(image):
        base, over = image[rows], colours[rows]
        base = base if base.shape[2] == 3 else np.repeat(base[..., :1], 3, axis=2)
        mixed = base.astype(np.float32) * (1 - alpha) + over.astype(np.float32) * alpha
        result[rows] = np.where(over.any(axis=2, keepdims=True), np.clip(mixed + 0.5, 0, 255), base)
    return result


def _strips(array: npt.NDArray[Any]) -> Iterator[slice]:
    """Rows of an array (H, W, …), some four million pixels at a time."""
    height = max(1, STRIP_PIXELS // max(1, array.shape[1]))
    for top in range(0, array.shape[0], height):
        yield slice(top, top + height)
