"""Masks whose values mean something else than they seem to: objects numbered one by one, mixed codings, blurred colors.

Each check looks at the histogram of a spread of the masks and raises LabelError with the readings that are possible and
how to choose one; where nothing is doubtful it returns.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from segwright.core.counted import counted
from segwright.core.errors import LabelError
from segwright.core.types import Color
from segwright.data.annotations.rasterize import BACKGROUND_NAMES
from segwright.data.label_maps import ClassEntry, ClassList
from segwright.data.records import Problem

LOOKED_AT = 12  # masks whose regions are counted
MOST_OBJECTS = 400  # in a mask: more are counted by the number of values alone
COARSE = 250_000  # pixels in which regions are counted
FEWEST_MASKS = 4
TALL = 512  # rows of a mask in which edges are counted
MIXED = 0.5  # of the edges between two values have a pixel between, and of the runs of that value are such pixels
FEWEST_MIXED = 40  # edges with a pixel between
MANY_OBJECTS = 4  # in one mask, at the least
SINGLE = 0.95  # of all values of the masks are one connected region each
RARE = 0.02  # of all pixels: what an edge's color covers at the most
FEWEST_EDGES = 6  # colors between two others
NEAR = 40.0  # squared distance of a color from the line between two others: rounding, and JPEG
MOST_MAIN = 24
OWN_COLORS = 0.05  # of all pixels have a color that one mask alone holds, from which on these are objects
FOREGROUNDS = frozenset({0, 1, 127, 128, 254, 255})  # how tools write the foreground of two classes
CODES = (1000, 256)  # what a class is multiplied by where an object's number is added
MOST_CODED = 50  # objects of a class in one image


def count_objects(mask: npt.NDArray[np.generic], values: Sequence[int]) -> tuple[int, int] | None:
    """(values, those that are one region) of an H×W mask that holds 0 and 1…n without a gap; None for any other.

    ``values``: those of the mask, in order. Large masks are looked at with a coarser grid.
    """
    count = len(values) - 1
    if not 1 <= count <= MOST_OBJECTS or values[0] != 0 or values[-1] != count:
        return None
    coarse = _coarse(mask)
    return count, sum(_one_region(coarse, value) for value in range(1, count + 1))


def color_regions(packed: npt.NDArray[np.generic], colors: dict[int, int]) -> dict[int, tuple[int, bool]]:
    """Of a mask of colors: color → (pixels, whether it is one region), on a coarser grid where the mask is large."""
    if len(colors) > MOST_OBJECTS:
        return {color: (pixels, False) for color, pixels in colors.items()}
    coarse = _coarse(packed)
    return {color: (pixels, _one_region(coarse, color)) for color, pixels in colors.items()}


def _coarse(mask: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """Every n-th pixel both ways, so that regions are counted in :data:`COARSE` pixels at the most."""
    step = math.ceil(math.sqrt(mask.size / COARSE))
    return mask[::step, ::step]


def _one_region(mask: npt.NDArray[np.generic], value: int) -> bool:
    """Whether the pixels of a value are connected; one that is too small for the grid hardly is in several regions."""
    rows, columns = np.nonzero(mask == value)
    if not len(rows):
        return True
    part = mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] == value
    return bool(cv2.connectedComponents(part.astype(np.uint8), connectivity=8)[0] == 2)


def count_edges(mask: npt.NDArray[np.generic]) -> Edges:
    """Of an H×W mask: its edges between two values that are no neighbors, and the pixels that stand on them."""
    rows = mask[:: max(1, math.ceil(mask.shape[0] / TALL))].astype(np.int64)
    left, middle, right = rows[:, :-2], rows[:, 1:-1], rows[:, 2:]
    plain = (left != 255) & (middle != 255) & (right != 255)
    between = plain & (((left < middle) & (middle < right)) | ((left > middle) & (middle > right)))
    first, second = rows[:, 1:-2], rows[:, 2:-1]
    sharp = (np.abs(first - second) > 1) & (rows[:, :-3] == first) & (second == rows[:, 3:])
    sharp &= (first != 255) & (second != 255)
    starts = rows[:, 1:][rows[:, 1:] != rows[:, :-1]]  # where a run of one value begins
    return Edges(
        Counter(middle[between].tolist()), int(sharp.sum()), Counter(starts.tolist()) if between.any() else Counter()
    )


@dataclass
class Edges:
    """Edges along the rows of masks between two values that are not neighbors."""

    between: Counter[int] = field(default_factory=Counter)  # value of a single pixel on an edge → edges
    sharp: int = 0  # edges without such a pixel
    runs: Counter[int] = field(default_factory=Counter)  # value → runs of it along the rows
    masks: int = 0  # that were added
    mixed: int = 0  # of them those with such pixels on most edges

    def add(self, other: Edges) -> None:
        self.between += other.between
        self.runs += other.runs
        self.sharp += other.sharp
        between = sum(other.between.values())
        self.masks += bool(between or other.sharp)
        self.mixed += between > 0 and between >= MIXED * (between + other.sharp)

    def problem(self, names: Callable[[int], str]) -> Problem | None:
        """The warning for indices that an interpolating resize has mixed: 0 and 4 with 1, 2, 3 along their edges.

        An outline of one value is a class of its own; what lies in stretches, too, or of several values, is none.
        """
        total = sum(self.between.values())
        thin = [value for value, count in self.between.items() if count >= MIXED * self.runs[value]]
        outline = len(self.between) == 1 and total >= 0.9 * sum(self.runs[value] for value in self.between)
        if total < FEWEST_MIXED or total < MIXED * (total + self.sharp) or not thin or outline:
            return None
        if 2 * self.mixed < self.masks:
            return None  # single files, which the check names
        shown = ", ".join(names(value) for value in sorted(thin)[:6])
        share = 100 * total / (total + self.sharp)
        message = (
            f"along {share:.0f} % of the edges between classes stands a single pixel of a value between the two "
            f"({shown}): masks that were resized by interpolation, or saved with loss, show classes that are not there"
        )
        fix = "write the masks again as PNG, resized by the nearest neighbor alone (Image.NEAREST, cv2.INTER_NEAREST)"
        return Problem("warning", "anti-aliased masks", message, fix=fix)


def refuse_objects(counts: Sequence[tuple[int, int] | None], where: Path) -> None:
    """LabelError where every mask numbers its objects from 1 and each number is one region: ids, and no classes."""
    found = [pair for pair in counts if pair is not None]
    if len(found) < FEWEST_MASKS or len(found) < len(counts):
        return
    numbers = [count for count, _ in found]
    if max(numbers) < MANY_OBJECTS or len(set(numbers)) < 3:
        return
    if sum(single for _, single in found) < SINGLE * sum(numbers):
        return
    raise LabelError(
        "the values of the masks number objects, not classes",
        expected="one value per class",
        found=f"1…n in every mask, each value one region, and n from {min(numbers)} to {max(numbers)}",
        where=where,
        fix="if every object is of one class, write it as one value: Image.fromarray(np.uint8(mask > 0)); if the "
        "values are classes after all, name them beside the masks in classes.csv (id,name)",
    )


def refuse_coded_objects(values: Sequence[int], where: Path) -> None:
    """LabelError where values are a class and the number of an object in one: 26000, 26001 (Cityscapes), 6656, 6657."""
    for base in CODES:
        groups: dict[int, list[int]] = {}
        for value in values:
            if base <= value < 65535:
                groups.setdefault(value // base, []).append(value % base)
        numbers = [number for group in groups.values() for number in group]
        if not groups or max(map(len, groups.values())) < 2 or max(groups) > 255 or max(numbers) >= MOST_CODED:
            continue
        if all(number % 10 == 0 for number in numbers):
            continue  # codes of classes in levels: 1010, 1020
        if base == 1000 or all(min(group) <= 1 and max(group) < 2 * len(group) + 2 for group in groups.values()):
            break
    else:
        return
    shown = ", ".join(str(value) for value in values[-3:])
    raise LabelError(
        "the values of the masks look like a class and the number of an object in one (instance ids)",
        expected="one value per class",
        found=f"{counted(len(values), 'value')}, among them {shown}: class × {base} + number",
        where=where,
        fix=f"write the class alone: numpy.where(mask < {base}, mask, mask // {base}).astype(numpy.uint8); if the "
        "values are classes after all, name them beside the masks in classes.csv (id,name)",
    )


def refuse_spread(values: Sequence[int], where: Path) -> None:
    """LabelError where values above 255 are others of the values times 257: 8 bits that a tool spread over 16."""
    high = [value for value in values if value > 255]
    low = set(values) - set(high)
    if not high or set(values) <= {0, 255, 65535} or not all(v % 257 == 0 and v // 257 in low for v in high):
        return
    raise LabelError(
        "some masks hold the values of others times 257: spread from 8 to 16 bits, or more classes?",
        expected="one coding for all masks",
        found=", ".join(f"{value // 257} and {value}" for value in high[:4]),
        where=where,
        fix="if they were spread, divide them: Image.fromarray((mask // 257).astype(numpy.uint8)); if they are classes "
        "of their own, name every value in classes.csv (id,name)",
    )


def refuse_mixed_binary(sets: dict[frozenset[int], int], where: Path) -> None:
    """LabelError where some masks hold 0 and 1, others 0 and 255 (or 128), and none holds two of those."""
    if not sets or not set().union(*sets) <= FOREGROUNDS:
        return
    if not set().union(*sets) <= {0, 1, 255}:
        _refuse_foregrounds(sets, where)
        return
    ones = sum(count for values, count in sets.items() if 1 in values)
    highs = sum(count for values, count in sets.items() if 255 in values and 0 in values)
    both = sum(count for values, count in sets.items() if {1, 255} <= values)
    if not ones or not highs or both:
        return
    raise LabelError(
        f"{ones} of the masks hold 1, {highs} others 0 and 255: is 255 the foreground of those, or 'ignored'?",
        expected="one coding for all masks",
        found="no mask with both 1 and 255",
        where=where,
        fix="if 255 is the foreground, write it as 1 (Image.fromarray(np.uint8(mask > 0))), or name both in "
        "classes.csv (id,name: '0,background', '1,foreground', '255,foreground'); if it is to be ignored, write "
        "'255,void' there",
    )


def _refuse_foregrounds(sets: dict[frozenset[int], int], where: Path) -> None:
    """LabelError where each mask holds 0 and one of several values that tools write for a foreground."""
    files = {value: sum(count for kinds, count in sets.items() if value in kinds) for value in set().union(*sets) - {0}}
    if len(files) < 2 or any(len(kinds - {0}) > 1 for kinds in sets) or not any(0 in kinds for kinds in sets):
        return
    values = sorted(files)
    one = "; ".join(f"{value},foreground" for value in values)
    raise LabelError(
        "every mask holds 0 and one other value, which is not the same in all: one foreground, or several classes?",
        expected="one coding for all masks",
        found=", ".join(f"{value} in {counted(files[value], 'mask')}" for value in values),
        where=where,
        fix="if these are one class, write it as one value (Image.fromarray(np.uint8(mask > 0))), or name all alike in "
        f"classes.csv (id,name: '0,background; {one}', one per line); if they are several, name each there",
    )


def refuse_object_colors(seen: Sequence[dict[int, tuple[int, bool]]], where: Path) -> None:
    """LabelError where most colors occur in one mask alone and are one region each: they number objects.

    ``seen``: of a spread of the masks, color → (pixels, whether it is one region).
    """
    if len(seen) < FEWEST_MASKS:
        return
    files = Counter(color for mask in seen for color in mask)
    own = [found for mask in seen for color, found in mask.items() if files[color] == 1]
    share = sum(pixels for pixels, _ in own) / sum(pixels for mask in seen for pixels, _ in mask.values())
    if len(own) < 2 * len(seen) or len(own) < 0.6 * len(files) or share < OWN_COLORS:
        return
    if sum(single for _, single in own) < SINGLE * len(own):
        return
    raise LabelError(
        "the colors of the masks number objects, not classes: a color of its own for each object",
        expected="one color per class",
        found=f"{len(files)} colors in {len(seen)} masks, {len(own)} of them in one mask alone, as one region",
        where=where,
        fix="panoptic PNGs: put their JSON (segments_info) beside them, and open it; else write the objects of one "
        "class as one value: Image.fromarray(np.uint8(np.asarray(mask).any(axis=2))); if each color is a class, list "
        "them in classes.csv (name,r,g,b)",
    )


def refuse_mixed_colors(grays: Collection[int], colors: Collection[int], listed: ClassList | None, where: Path) -> None:
    """LabelError where some masks hold colors, and others the numbers 1, 2, … of classes.

    ``grays``: the values of the gray masks; ``colors``: the packed colors of the others.
    """
    numbers = [value for value in sorted(grays) if value not in (0, 255)]
    known = set(colors)
    if listed is not None:
        known |= {red << 16 | green << 8 | blue for red, green, blue in listed.colors or ()}
    if not numbers or numbers[0] != 1 or numbers[-1] > MOST_MAIN or any(n * 0x010101 in known for n in numbers):
        return
    raise LabelError(
        "some masks hold colors, and others the numbers of classes",
        expected="one coding for all masks",
        found=f"gray masks with {', '.join(map(str, numbers[:6]))}, and color masks with "
        f"{counted(len(colors), 'color')}",
        where=where,
        fix="write all masks as indices, or all in the colors of the class list (name,r,g,b in classes.csv)",
    )


def refuse_unnamed_zero(zeros: float, values: Sequence[int], classes: ClassList, where: Path) -> None:
    """LabelError where a list gives numbers from 1 on and the masks hold 0 as well: background, ignored, or off by one.

    ``zeros``: the share of 0 of all pixels.
    """
    known = {entry.value for entry in classes.entries}
    rest = set(values) - {0, 255}
    if not classes.numbered or not rest or min(known) < 1 or 0 not in values or zeros < RARE or not rest <= known:
        return
    first = classes.entries[0]
    last = max(known)
    shifted = min(known) == 1 and max(rest) == last - 1 and rest == set(range(1, last))
    lower = f"; or the list counts one too high: '0,{first.name}', '1,…'" if shifted else ""
    raise LabelError(
        f"the masks hold 0, which the class list does not name: is 0 background, or not labeled{lower and ', or '}"
        f"{first.name if lower else ''}?",
        expected=f"a name for 0, beside {', '.join(map(str, sorted(known)[:6]))}",
        found=f"0 in {100 * zeros:.3g} % of the pixels",
        where=classes.path or where,
        fix=f"add '0 background' to the list if 0 is one more class, '0 ignore' if it is not labeled{lower}",
    )


def refuse_blurred_colors(colors: dict[int, int], where: Path) -> None:
    """LabelError where most colors are rare and lie between two frequent ones: edges that were smoothed."""
    total = sum(colors.values())
    main = [key for key, pixels in colors.items() if pixels >= RARE * total]
    rare = [key for key, pixels in colors.items() if pixels < RARE * total]
    if len(rare) < max(FEWEST_EDGES, len(main)) or not 2 <= len(main) <= MOST_MAIN:
        return
    ends, points = _rgb(main), _rgb(rare)
    nearest = np.full(len(points), np.inf)
    for place, one in enumerate(ends):
        for other in ends[place + 1 :]:
            line = other - one
            share = np.clip((points - one) @ line / (line @ line), 0, 1)
            nearest = np.minimum(nearest, ((one + share[:, None] * line - points) ** 2).sum(1))
    if (nearest <= NEAR).mean() < 0.7:
        return
    shown = ", ".join(f"#{key:06x}" for key in sorted(main)[:8])
    raise LabelError(
        "color masks with blurred edges: which class a pixel of an edge belongs to is lost",
        expected="a color per class and nothing between",
        found=f"{len(rare)} rare colors between {shown}",
        where=where,
        fix="export the masks again as PNG, without anti-aliasing, and resize them by the nearest neighbor alone; or, "
        "if each of the colors is a class, list them in classes.csv (name,r,g,b)",
    )


def _rgb(keys: Sequence[int]) -> npt.NDArray[np.float64]:
    return np.array([(key >> 16, key >> 8 & 255, key & 255) for key in keys], np.float64)


def refuse_swapped_channels(unknown: Sequence[Color], listed: ClassList) -> None:
    """LabelError where the colors that the list lacks are those of the list with red and blue exchanged."""
    known = set(listed.colors or ())
    if not unknown or not all(color[::-1] in known for color in unknown):
        return
    red, green, blue = unknown[0]
    raise LabelError(
        "the class list's colors have red and blue exchanged",
        expected="the colors of the masks, red first",
        found=f"{red} {green} {blue} in the masks, {blue} {green} {red} in the list",
        where=listed.path,
        fix="exchange them in the list; or write the masks again, as OpenCV's imwrite takes blue first",
    )


def refuse_shifted(values: Sequence[int], classes: ClassList) -> None:
    """LabelError where a list without numbers names K classes and the masks hold K: a reading is off by one."""
    kept: list[ClassEntry] = list(classes.entries)
    count = len(kept)
    if classes.numbered or count < 2 or [entry.value for entry in kept] != list(range(count)):
        return
    if count not in values or any(value > count for value in values if value != 255):
        return
    if kept[0].name.strip().lower() in BACKGROUND_NAMES | {"void", "unlabeled", "unlabelled"}:
        return  # counted from 0: the last value is a class that the list lacks
    first = kept[0].name
    hint = f"'0 background', '1 {first}', …" if 0 in values else f"'1 {first}', '2 {kept[1].name}', …"
    raise LabelError(
        f"the class list names {counted(count, 'class')}, and the masks hold {'0' if 0 in values else '1'} to {count}: "
        f"is {first} the value 0 or 1?",
        expected=f"values 0 to {count - 1}, or a list that gives the values",
        found=f"a list that starts with {first} and does not give values",
        where=classes.path,
        fix=f"write the value before each name: {hint} if the list counts from 1; '0 {first}', …, '{count} NAME' if "
        "the last class is missing",
    )
