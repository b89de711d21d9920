"""The data types that modules exchange: label spaces, samples and batches.

Shapes and dtypes are checked once, at construction. Conventions: images are uint8 H×W×C (in RGB order if C is 3), masks
are uint8 H×W of class indices, with the ignore value (255) for pixels that are neither trained on nor scored.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segwright.core.deprecated import renamed_attribute
from segwright.core.errors import LabelError, UsageError
from segwright.core.left_right import Pairs, check_pairs, find_sides

UInt8Array = npt.NDArray[np.uint8]
Float32Array = npt.NDArray[np.float32]

IGNORE_INDEX = 255
MAX_CLASSES = 255  # masks are uint8, and 255 is the ignore value
FILE_VALUES = 65536  # a mask file holds 8 or 16 bits per pixel
SPARSE = 0.25  # share of an image's pixels that is labeled, below which its labels are strokes and no regions
STRIP_PIXELS = 4_000_000  # in strips: numpy needs eight bytes per index, and blending four per color

Color = tuple[int, int, int]


def distinct_colors(count: int) -> tuple[Color, ...]:
    """``count`` colors that are easy to distinguish: golden-ratio steps in hue, three levels of lightness."""
    colors = []
    for index in range(count):
        hue = (0.07 + index * 0.61803398875) % 1.0
        lightness = (0.52, 0.38, 0.68)[index % 3]
        red, green, blue = colorsys.hls_to_rgb(hue, lightness, 0.72)
        colors.append((round(red * 255), round(green * 255), round(blue * 255)))
    return tuple(colors)


@dataclass(frozen=True)
class LabelSpace:
    """The classes: their names, colors, and how the values found in files become class indices.

    ``mapping``: file value → class index or ignore value; a file value that is not in it is an error. An empty mapping
    stands for the identity on 0…K-1 plus the ignore value. ``pairs``: names of classes that a flip exchanges (left eye,
    right eye); None finds them from the names (:mod:`segwright.core.left_right`), so an instance never has None.
    """

    names: tuple[str, ...]
    colors: tuple[Color, ...] = ()
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
        colors = tuple((int(r), int(g), int(b)) for r, g, b in self.colors) or distinct_colors(len(names))
        if len(colors) != len(names):
            raise LabelError("one color per class", expected=f"{len(names)} colors", found=str(len(colors)))
        if beyond := [color for color in colors if not all(0 <= value <= 255 for value in color)]:
            raise LabelError("a color is red, green and blue", expected="0 to 255 each", found=f"{beyond[0]}"[:80])
        if self.ignore_index != IGNORE_INDEX:
            raise LabelError("the ignore value in memory is always 255", found=str(self.ignore_index))
        mapping = {int(value): int(index) for value, index in self.mapping.items()}
        if outside := [value for value in mapping if not 0 <= value < FILE_VALUES]:
            raise LabelError(
                "the label map names values that no mask can hold",
                expected=f"0 to {FILE_VALUES - 1}",
                found=", ".join(str(value)[:40] for value in outside[:6]),
                fix="give classes the values that stand in the mask files",
            )
        wrong = [index for index in mapping.values() if index != IGNORE_INDEX and not 0 <= index < len(names)]
        if wrong:
            raise LabelError(
                "the label map points outside the classes", expected=f"0 to {len(names) - 1} or 255", found=str(wrong)
            )
        found = find_sides(names).pairs if self.pairs is None else check_pairs(self.pairs, names, "LabelSpace.pairs")
        object.__setattr__(self, "pairs", found)
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "colors", colors)
        object.__setattr__(self, "mapping", mapping)

    colours = renamed_attribute("colours", "colors")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def classes(self) -> int:
        """The number of classes, without the ignore value."""
        return len(self.names)

    def index(self, name: str) -> int:
        """The index of a class by name."""
        if name not in self.names:
            raise UsageError("unknown class", expected=", ".join(self.names), found=name)
        return self.names.index(name)

    def mirrored(self) -> tuple[tuple[int, int], ...]:
        """The indices of the classes that a flip exchanges."""
        return tuple((self.names.index(one), self.names.index(other)) for one, other in self.pairs or ())

    def lookup(self) -> npt.NDArray[np.int32]:
        """A table of 65,536 entries from file value to class index; -1 for unknown values."""
        table = np.full(FILE_VALUES, -1, np.int32)
        if self.mapping:
            for value, index in self.mapping.items():
                table[value] = index
        else:
            table[: len(self.names)] = np.arange(len(self.names))
            table[IGNORE_INDEX] = IGNORE_INDEX
        return table

    def palette(self) -> UInt8Array:
        """256×3 colors; the ignore value and unused indices are black."""
        table = np.zeros((256, 3), np.uint8)
        table[: len(self.names)] = np.array(self.colors, np.uint8)
        return table

    def describe(self) -> list[str]:
        """One line per class: index, name, and its file values. Shown before training."""
        sources: dict[int, list[int]] = {}
        for value, index in self.lookup_items():
            sources.setdefault(index, []).append(value)
        lines = [f"{i:3d} {name}  <- {_join(sources.get(i, []))}" for i, name in enumerate(self.names)]
        return [*lines, f"255 (ignored)  <- {_join(sources.get(IGNORE_INDEX, []))}"]

    def lookup_items(self) -> list[tuple[int, int]]:
        """(file value, class index) pairs, including those of the identity."""
        if self.mapping:
            return sorted(self.mapping.items())
        return [(i, i) for i in range(len(self.names))] + [(IGNORE_INDEX, IGNORE_INDEX)]

    def to_json(self) -> dict[str, Any]:
        return {
            "names": list(self.names),
            "colors": [list(color) for color in self.colors],
            "ignore_index": self.ignore_index,
            "mapping": {str(value): index for value, index in self.mapping.items()},
            "pairs": [list(pair) for pair in self.pairs or ()],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LabelSpace:
        if "colors" in data and "colours" in data:
            raise LabelError("the label space has its colors twice", expected="colors", found="colors and colours")
        return cls(
            names=tuple(data["names"]),
            colors=tuple((int(c[0]), int(c[1]), int(c[2])) for c in data.get("colors", data.get("colours", ()))),
            ignore_index=int(data.get("ignore_index", IGNORE_INDEX)),
            mapping={int(value): int(index) for value, index in data.get("mapping", {}).items()},
            # Saved before there were pairs: such a model was not trained with exchanged classes.
            pairs=tuple((str(one), str(other)) for one, other in data.get("pairs", ())),
        )


def _join(values: Sequence[int]) -> str:
    if not values:
        return "nothing"
    text = ", ".join(str(value) for value in values[:8])
    return text if len(values) <= 8 else f"{text}, … ({len(values)} values)"


@dataclass(frozen=True)
class Sample:
    """One image with its mask; ``mask`` is None if it has none."""

    id: str
    image: UInt8Array  # (H, W, C)
    mask: UInt8Array | None = None  # (H, W)
    image_path: Path | None = None
    mask_path: Path | None = None

    def __post_init__(self) -> None:
        if self.image.dtype != np.uint8 or self.image.ndim != 3:
            raise LabelError(
                "an image is uint8 height×width×channels",
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
                "image and mask differ in size",
                expected="{}×{} (height×width), as the image".format(*self.image.shape[:2]),
                found="{}×{}".format(*self.mask.shape),
                where=self.mask_path or self.id,
                fix="make the mask again at the image's size, or leave the pair out",
            )


@dataclass(frozen=True)
class Batch:
    """A batch of the loader."""

    images: UInt8Array  # (N, H, W, C)
    masks: UInt8Array  # (N, H, W)
    ids: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 4:
            raise LabelError("a batch of images is uint8 N×H×W×C", found=f"{self.images.dtype} {self.images.shape}")
        if self.masks.dtype != np.uint8 or self.masks.shape != self.images.shape[:3]:
            raise LabelError(
                "a batch of masks is uint8 N×H×W",
                expected=str(self.images.shape[:3]),
                found=f"{self.masks.dtype} {self.masks.shape}",
            )
        if len(self.ids) != self.images.shape[0]:
            raise LabelError("one id per image", expected=str(self.images.shape[0]), found=str(len(self.ids)))

    def __len__(self) -> int:
        return len(self.ids)


def blend(image: UInt8Array, colors: UInt8Array, alpha: float = 0.5) -> UInt8Array:
    """``colors`` (H×W×3) over ``image`` (H×W×C); black pixels, such as ignored ones, keep the image."""
    result = np.empty((*image.shape[:2], 3), np.uint8)
    for rows in row_strips(image):
        base, over = image[rows], colors[rows]
        base = base if base.shape[2] == 3 else np.repeat(base[..., :1], 3, axis=2)
        mixed = base.astype(np.float32) * (1 - alpha) + over.astype(np.float32) * alpha
        result[rows] = np.where(over.any(axis=2, keepdims=True), np.clip(mixed + 0.5, 0, 255), base)
    return result


def row_strips(array: npt.NDArray[Any]) -> Iterator[slice]:
    """Rows of an array (H, W, …), some four million pixels at a time."""
    height = max(1, STRIP_PIXELS // max(1, array.shape[1]))
    for top in range(0, array.shape[0], height):
        yield slice(top, top + height)
