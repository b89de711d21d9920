"""What the values in a folder's masks mean, found from the masks themselves where no format fixes it.

A spread of the masks is read, up to a budget of pixels (all of them in a small set), and one reading is proposed:
indices, 0/255, colours, grey saved as RGB, sparse ids. Nothing is assumed in silence: every conclusion is a note.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segwright.data.classes import ClassList
from segwright.data.readers import ColourTable, is_grey, pack_colours
from segwright.data.records import Problem
from segwright.errors import DataError, LabelError
from segwright.images import read_mask
from segwright.types import IGNORE_INDEX, Colour, LabelSpace

PIXEL_BUDGET = 48_000_000  # about half a second of PNG decoding
FILE_COST = 40_000  # what opening a file costs, in pixels: a hundred thousand tiny masks are not all read
MANY_VALUES = 64  # more distinct values in small masks are no classes but blurred edges, or instance ids


@dataclass(frozen=True)
class Coding:
    """How masks are coded: the label space, the colour table where they hold colours, and what was concluded."""

    label_space: LabelSpace
    colour_table: ColourTable | None = None
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


@dataclass
class Survey:
    """The values seen in a spread of masks."""

    masks: int = 0  # how many were read
    total: int = 0  # of how many
    values: dict[int, int] = field(default_factory=dict)  # index masks: value → pixels
    colours: dict[int, int] = field(default_factory=dict)  # colour masks: packed colour → pixels
    grey_rgb: int = 0  # RGB files with three equal channels
    unreadable: list[str] = field(default_factory=list)


def spread(count: int) -> list[int]:
    """0…count-1 in an order whose every beginning covers the whole range: van der Corput's, base 2."""
    bits = max(1, (count - 1).bit_length())
    order = (int(format(i, f"0{bits}b")[::-1], 2) for i in range(1 << bits))
    return [i for i in order if i < count]


ReadRaw = Callable[[int], npt.NDArray[Any]]


def survey(count: int, read: ReadRaw, budget: int = PIXEL_BUDGET) -> Survey:
    """Read masks in spread order until the budget of pixels is used; an unreadable one is noted, not raised.

    ``read(i)`` gives what mask ``i`` of ``count`` holds, H×W or H×W×3.
    """
    seen = Survey(total=count)
    for index in spread(count):
        if budget <= 0:
            break
        try:
            mask = read(index)
        except DataError as error:
            seen.unreadable.append(error.message if error.where is None else error.where)
            budget -= 100_000  # a folder of broken files ends, too
            continue
        seen.masks += 1
        budget -= mask.shape[0] * mask.shape[1] + FILE_COST
        if mask.ndim == 3 and is_grey(mask):
            seen.grey_rgb += 1
            mask = mask[..., 0]
        counts, numbers = (seen.values, mask) if mask.ndim == 2 else (seen.colours, pack_colours(mask))
        if numbers.dtype == np.uint8:
            found = np.bincount(numbers.ravel(), minlength=256)
            unique = np.flatnonzero(found)
            number = found[unique]
        else:
            unique, number = np.unique(numbers, return_counts=True)
        for value, pixels in zip(unique.tolist(), number.tolist(), strict=True):
            counts[value] = counts.get(value, 0) + pixels
    return seen


def discover(
    paths: Sequence[Path],
    classes: ClassList | None,
    where: Path,
    look: Callable[[Path], npt.NDArray[Any]] = read_mask,
) -> Coding:
    """The coding of these mask files; LabelError where no reading fits. ``look`` may show a part of a big one."""
    return conclude(survey(len(paths), lambda index: look(paths[index])), classes, where)


def conclude(seen: Survey, classes: ClassList | None, where: Path) -> Coding:
    """The coding that a survey speaks for; LabelError where no reading fits."""
    scope = "all masks" if seen.masks == seen.total else f"{seen.masks} of {seen.total} masks"
    if seen.masks == 0:
        raise LabelError(
            "no mask can be read",
            expected="index, palette or colour PNGs",
            found=f"{len(seen.unreadable)} unreadable files, {Path(seen.unreadable[0]).name} first"
            if seen.unreadable
            else "no masks",
            where=where,
        )
    coding = _colour_coding(seen, classes, scope, where) if seen.colours else _index_coding(seen, classes, scope, where)
    notes = list(coding.notes)
    if seen.grey_rgb and not seen.colours:
        notes.insert(0, "masks are grey saved as RGB; one channel is read")
    return Coding(coding.label_space, coding.colour_table, tuple(notes), coding.problems)


def _index_coding(seen: Survey, classes: ClassList | None, scope: str, where: Path) -> Coding:
    values = sorted(seen.values)
    listed = _listed(values)
    if classes is not None:
        return _by_list(values, classes, f"{scope} hold {listed}")
    if values[-1] <= 255 and _blurred(seen.values):
        return _thresholded(seen, scope)
    if set(values) <= {0, 255}:
        space = LabelSpace(("background", "foreground"), ((0, 0, 0), (255, 255, 255)), mapping={0: 0, 255: 1})
        return Coding(space, notes=(f"{scope} hold {listed}: 0 is background, 255 is foreground (not 'ignored')",))
    if len(values) > 255 or (len(values) > MANY_VALUES and values[-1] > 255):
        raise LabelError(
            "the masks hold too many values for classes",
            expected="at most 255 class ids",
            found=f"{len(values)} values up to {values[-1]} in {scope}",
            where=where,
            fix="these look like instance ids or depth; name the values of the classes in classes.csv (id,name)",
        )
    ids = [value for value in values if value != IGNORE_INDEX]
    if ids[-1] <= 254 and (len(ids) * 2 > ids[-1] or ids[-1] < 10):
        return _dense(ids, values, f"{scope} hold {listed}")
    return _sparse(values, f"{scope} hold {listed}")


def _by_list(values: list[int], classes: ClassList, found: str) -> Coding:
    known = {entry.value for entry in classes.entries}
    kept = [entry for entry in classes.entries if not entry.ignored]
    if set(values) <= {0, 255} and 255 in values and len(kept) == 2 and 255 not in known:
        base = classes.label_space()
        space = LabelSpace(base.names, base.colours, mapping={0: 0, 255: 1})
        return Coding(space, notes=(*classes.notes(), f"{found}: 0 is {space.names[0]}, 255 is {space.names[1]}"))
    space = classes.label_space()
    notes = [*classes.notes(), found]
    stray = [value for value in values if value not in space.mapping]
    if stray:
        notes.append(f"values that the class list does not name: {_listed(stray)}; pictures with them cannot be read")
    elif IGNORE_INDEX in values and space.mapping[IGNORE_INDEX] == IGNORE_INDEX:
        notes.append("255 is ignored")
    return Coding(space, notes=tuple(notes))


def _dense(ids: list[int], values: list[int], found: str) -> Coding:
    count = max(ids[-1] + 1, 2)
    names = ("background", "foreground") if count == 2 else tuple(f"class {i}" for i in range(count))
    space = LabelSpace(names, mapping={**{i: i for i in range(count)}, IGNORE_INDEX: IGNORE_INDEX})
    ignored = "255 is ignored" if IGNORE_INDEX in values else "255, should it occur, is ignored"
    return Coding(space, notes=(f"{found}: class indices 0 to {count - 1}; {ignored}",))


def _sparse(values: list[int], found: str) -> Coding:
    """Ids with gaps, or grey levels spaced over 0…255: each value becomes a class, in order."""
    even = len(values) > 2 and values[0] == 0 and values[-1] == 255
    step = 255 / (len(values) - 1) if even else 0
    even = even and all(abs(value - i * step) <= 1 for i, value in enumerate(values))
    ids = values if even else [value for value in values if value != IGNORE_INDEX]
    if len(ids) == 1:
        ids = [0, ids[0]] if ids[0] else [0, 1]
    names = ("background", "foreground") if len(ids) == 2 else tuple(f"value {value}" for value in ids)
    mapping = {value: i for i, value in enumerate(ids)}
    if not even:
        mapping[IGNORE_INDEX] = IGNORE_INDEX
    why = "evenly spaced grey levels, each a class" if even else "each value a class, in order; 255 is ignored"
    return Coding(LabelSpace(names, mapping=mapping), notes=(f"{found}: {why}",))


def _blurred(values: dict[int, int]) -> bool:
    """0/255 with smeared edges: most pixels near the two ends, and values just below 255, which class ids never are."""
    if len(values) < 8 or 0 not in values:
        return False
    total = sum(values.values())
    ends = sum(pixels for value, pixels in values.items() if value <= 24 or value >= 231)
    nearly = sum(1 for value in values if 224 < value < 255)
    high = sum(pixels for value, pixels in values.items() if value >= 231)
    return ends / total > 0.85 and nearly >= 2 and high / total > 0.001


def _thresholded(seen: Survey, scope: str) -> Coding:
    space = LabelSpace(
        ("background", "foreground"),
        ((0, 0, 0), (255, 255, 255)),
        mapping={value: int(value >= 128) for value in range(256)},
    )
    message = f"{scope} hold 0 and 255 with {len(seen.values) - 2} values between: blurred edges or JPEG"
    problem = Problem(
        "warning",
        "anti-aliased masks",
        message,
        fix="export the masks as PNG without anti-aliasing; until then below 128 is background, from 128 on foreground",
    )
    return Coding(space, notes=(f"{message}; below 128 is background, from 128 on foreground",), problems=(problem,))


def _colour_coding(seen: Survey, classes: ClassList | None, scope: str, where: Path) -> Coding:
    for value, pixels in seen.values.items():  # grey pictures among coloured ones: black is a colour, too
        packed = value * 0x010101
        seen.colours[packed] = seen.colours.get(packed, 0) + pixels
    found = [(key >> 16, key >> 8 & 255, key & 255) for key in sorted(seen.colours)]
    if classes is not None and classes.colours is not None:
        table = ColourTable(classes.colours)
        unknown = [colour for colour in found if colour not in classes.colours]
        notes = [*classes.notes(), f"{scope} hold {len(found)} colours"]
        if unknown:
            notes.append(f"colours that the class list does not name: {_colour_list(unknown)}")
        return Coding(classes.label_space(by_row=True), table, tuple(notes))
    if len(found) > MANY_VALUES:
        raise LabelError(
            "the masks hold too many colours for classes",
            expected=f"at most {MANY_VALUES} colours, or a class list with colours",
            found=f"{len(found)} colours in {scope}",
            where=where,
            fix="JPEG or anti-aliased masks: export them as PNG; or name the colours in classes.csv (name,r,g,b)",
        )
    colours: tuple[Colour, ...] = tuple(found)
    count = len(colours)
    if classes is not None and sum(not entry.ignored for entry in classes.entries) == count:
        names = tuple(entry.name for entry in classes.entries if not entry.ignored)
        note = f"{scope} hold {count} colours, taken in order for the names: check this, or give colours in classes.csv"
    else:
        names = tuple("#{:02x}{:02x}{:02x}".format(*colour) for colour in colours)
        note = f"{scope} hold {count} colours, each a class: {_colour_list(colours)}; name them in classes.csv"
    space = LabelSpace(names, colours, mapping={i: i for i in range(count)})
    return Coding(space, ColourTable(colours), (note,))


def _colour_list(colours: Sequence[Colour]) -> str:
    text = ", ".join("#{:02x}{:02x}{:02x}".format(*colour) for colour in colours[:8])
    return text if len(colours) <= 8 else f"{text}, … ({len(colours)})"


def _listed(values: Sequence[int]) -> str:
    text = ", ".join(str(value) for value in values[:12])
    return text if len(values) <= 12 else f"{text}, … ({len(values)} values)"
