"""Counts of the values and colors in a spread of a dataset's masks, from which their encoding is inferred.

Masks are decoded in worker processes, up to a budget of pixels (all of them in a small dataset).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segwright.core.errors import DataError
from segwright.data.formats.encoding_doubts import LOOKED_AT, Edges, color_regions, count_edges, count_objects
from segwright.data.mask_files import MaskPixels, alpha_follows, inspect_mask
from segwright.data.readers import is_gray, pack_colors
from segwright.imageio import DEFAULT_LIMITS, read_file
from segwright.imageio.sandbox import map_isolated

PIXEL_BUDGET = 48_000_000  # about half a second of PNG decoding
FILE_COST = 40_000  # what opening a file costs, in pixels: a hundred thousand tiny masks are not all read


@dataclass
class MaskValueHistogram:
    """The values seen in a spread of masks."""

    masks: int = 0  # how many were read
    total: int = 0  # of how many
    values: dict[int, int] = field(default_factory=dict)  # index masks: value → pixels
    colors: dict[int, int] = field(default_factory=dict)  # color masks: packed color → pixels
    gray_rgb: int = 0  # RGB files with three equal channels
    unreadable: list[str] = field(default_factory=list)
    # Palette files: their indices count in ``values`` as well, and in ``palette_values`` alone.
    palette_files: int = 0
    palette_values: dict[int, int] = field(default_factory=dict)  # index → pixels
    palette_colors: dict[int, int] = field(default_factory=dict)  # packed color → pixels
    index_colors: dict[int, set[int]] = field(default_factory=dict)  # index → its packed colors in all files
    # Files with an alpha channel that is not opaque all over
    alpha_files: int = 0
    alpha_values: dict[int, int] = field(default_factory=dict)  # alpha → pixels, opaque files included
    alpha_differs: int = 0  # files in which pixels of one color differ in alpha
    alpha_most_colors: int = 0
    opaque_pixels: int = 0  # in files without alpha
    value_sets: dict[frozenset[int], int] = field(default_factory=dict)  # values of a gray file, 3 at most → files
    objects: list[tuple[int, int] | None] = field(default_factory=list)  # of the first gray files
    regions: list[dict[int, tuple[int, bool]]] = field(default_factory=list)  # of the first color files, by color
    deep: dict[int, int] = field(default_factory=dict)  # three channels of 16 bits: red·2³² + green·2¹⁶ + blue → pixels

    edges: Edges = field(default_factory=Edges)  # of the first gray files of at least three values

    @property
    def pixels(self) -> int:
        return sum(self.values.values()) + sum(self.colors.values()) + sum(self.deep.values())


def spread_order(count: int) -> list[int]:
    """0…count-1 in an order whose every beginning covers the whole range: van der Corput's, base 2."""
    bits = max(1, (count - 1).bit_length())
    order = (int(format(i, f"0{bits}b")[::-1], 2) for i in range(1 << bits))
    return [i for i in order if i < count]


Look = Callable[[Path], npt.NDArray[Any] | MaskPixels]


def mask_value_histogram(
    count: int, read: Callable[[int], Any], budget: int = PIXEL_BUDGET, *, decode: Callable[[Any], Any] | None = None
) -> MaskValueHistogram:
    """Read masks in spread order until the budget of pixels is used; an unreadable one is noted, not raised.

    ``read(i)`` gives what mask ``i`` of ``count`` holds: the file's content, or its pixels alone, H×W or H×W×3. With
    ``decode``, a function importable by name, it gives what that one makes the content from, in child processes: files
    that nobody has decoded yet are not decoded in this one.
    """
    seen = MaskValueHistogram(total=count)
    with contextlib.closing(_contents(count, read, decode, seen)) as contents:
        for found in contents:
            if isinstance(found, DataError):
                reason = found.message if found.found is None else f"{found.message} ({found.found})"
                seen.unreadable.append(reason if found.where is None else f"{found.where}: {reason}")
                budget -= 100_000  # a folder of broken files ends, too
            else:
                seen.masks += 1
                content = found if isinstance(found, MaskPixels) else MaskPixels(found)
                budget -= content.pixels.shape[0] * content.pixels.shape[1] + FILE_COST
                _count(seen, content)
            if budget <= 0:
                break
    return seen


def histogram_of_files(
    paths: Sequence[Path], look: Callable[[Path], Any], budget: int = PIXEL_BUDGET
) -> MaskValueHistogram:
    """Histogram of mask files, each decoded by ``look`` (importable by name) in a worker process."""
    return mask_value_histogram(len(paths), lambda index: paths[index], budget, decode=look)


def _contents(
    count: int, read: Callable[[int], Any], decode: Callable[[Any], Any] | None, seen: MaskValueHistogram
) -> Generator[Any, None, None]:
    """Yield the content of each mask, or its DataError, in spread order."""

    def given() -> Iterator[Any]:
        for index in spread_order(count):
            try:
                yield read(index)
            except DataError as error:
                yield error

    if decode is None:
        yield from given()
        return
    for outcome in map_isolated(_Decoded(decode), given(), result=MaskPixels):
        try:
            yield outcome.get()
        except DataError as error:
            yield error


@dataclass(frozen=True)
class _Decoded:
    """``decode``, of what could be read; an error in its place is raised."""

    decode: Callable[[Any], Any]

    def __call__(self, item: Any) -> Any:
        if isinstance(item, DataError):
            raise item
        return self.decode(item)


def _count(seen: MaskValueHistogram, found: MaskPixels) -> None:
    mask = found.pixels
    if found.alpha is None:
        seen.opaque_pixels += mask.shape[0] * mask.shape[1]
    if mask.ndim == 3 and is_gray(mask):
        seen.gray_rgb += 1
        mask = mask[..., 0]
    if mask.ndim == 3 and found.deep:
        wide = mask.astype(np.int64)
        _add(seen.deep, wide[..., 0] << 32 | wide[..., 1] << 16 | wide[..., 2])
        return
    numbers = pack_colors(mask) if mask.ndim == 3 else mask
    colors = _add(seen.colors if mask.ndim == 3 else seen.values, numbers)
    if mask.ndim == 3 and len(seen.regions) < LOOKED_AT:
        seen.regions.append(color_regions(numbers, colors))
    if mask.ndim == 2:
        if len(colors) <= 3:
            seen.value_sets[frozenset(colors)] = seen.value_sets.get(frozenset(colors), 0) + 1
        if len(seen.objects) < LOOKED_AT and len(colors) > 1:
            seen.objects.append(count_objects(mask, sorted(colors)))
            if len(colors) > 2 and min(mask.shape) > 3:
                seen.edges.add(count_edges(mask))
    if found.palette is not None:
        seen.palette_files += 1
        for value, pixels in colors.items():
            red, green, blue = (int(v) for v in found.palette[value]) if value < len(found.palette) else (0, 0, 0)
            packed = red << 16 | green << 8 | blue
            seen.palette_values[value] = seen.palette_values.get(value, 0) + pixels
            seen.palette_colors[packed] = seen.palette_colors.get(packed, 0) + pixels
            seen.index_colors.setdefault(value, set()).add(packed)
    if found.alpha is not None:
        seen.alpha_files += 1
        _add(seen.alpha_values, found.alpha)
        seen.alpha_differs += not alpha_follows(mask, found.alpha)
        seen.alpha_most_colors = max(seen.alpha_most_colors, len(colors))


def _add(counts: dict[int, int], numbers: npt.NDArray[Any]) -> dict[int, int]:
    """Add the numbers of one mask to the counts; returns its own."""
    if numbers.dtype == np.uint8:
        found = np.bincount(numbers.ravel(), minlength=256)
        unique = np.flatnonzero(found)
        number = found[unique]
    else:
        unique, number = np.unique(numbers, return_counts=True)
    own = dict(zip(unique.tolist(), number.tolist(), strict=True))
    for value, pixels in own.items():
        counts[value] = counts.get(value, 0) + pixels
    return own


def look_at_bytes(item: tuple[bytes, str]) -> MaskPixels:
    """The content of a mask in an archive: (bytes, its name in errors)."""
    return inspect_mask(item[0], item[1])


def look_at(path: Path) -> MaskPixels:
    """A mask file's content."""
    return inspect_mask(read_file(path, DEFAULT_LIMITS), path)
