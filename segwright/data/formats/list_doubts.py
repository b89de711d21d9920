"""What a class list leaves open about the masks, and the warnings of what was concluded from it."""

from __future__ import annotations

from collections.abc import Sequence

from segwright.core.types import Color
from segwright.data.annotations.rasterize import BACKGROUND_NAMES
from segwright.data.label_maps import ClassEntry, ClassList, generated_color_name
from segwright.data.records import Problem


def guessed(message: str, fix: str) -> Problem:
    return Problem("warning", "masks guessed", message, fix=fix)


def black_one(kept: Sequence[ClassEntry], classes: ClassList) -> tuple[ClassEntry, str]:
    """Of two classes the one that is black, 0, in masks of 0 and 255, and why that is in doubt ("" where it is not).

    By the colors of the list, else by its numbers, else the background, else the first.
    """
    black = [entry for entry in kept if entry.color == (0, 0, 0)]
    ground = [entry for entry in kept if _is_background(entry.name)]
    lower = min(kept, key=lambda entry: entry.value)
    if len(black) == 1:
        return black[0], "by the list's colors, against its numbers" if classes.numbered and black[0] != lower else ""
    if len(ground) == 1 and not classes.numbered:
        return ground[0], "by the name, against the order of the list" if ground[0] != lower else ""
    return lower, ""


def _is_background(name: str) -> bool:
    return name.strip().lower() in BACKGROUND_NAMES


def background_second(values: Sequence[int], classes: ClassList) -> tuple[Problem, ...]:
    """A warning for indices 0 and 1 and an unnumbered list of two names that has the background behind the other."""
    names = [entry.name for entry in classes.entries if not entry.ignored]
    if classes.numbered or len(names) != 2 or not {0, 1} <= set(values):
        return ()
    if not _is_background(names[1]) or _is_background(names[0]):
        return ()
    message = f"the class list gives no values: by its order 0 is {names[0]}, and 1 is {names[1]}"
    return (guessed(message, f"if 0 is {names[1]}, write classes.csv (id,name): '0,{names[1]}', '1,{names[0]}'"),)


def named_twice(classes: ClassList) -> tuple[Problem, ...]:
    """A warning where a list without values holds a name twice: its values are one class."""
    names = [entry.name for entry in classes.entries if not entry.ignored]
    twice = sorted({name for name in names if names.count(name) > 1})
    if not twice or classes.numbered:
        return ()
    message = f"the class list names {', '.join(twice[:4])} more than once: the values of one name are one class"
    return (guessed(message, "name every class once, or give the values in classes.csv (id,name)"),)


def color_twice(classes: ClassList, colors: Sequence[Color]) -> tuple[Problem, ...]:
    """A warning where a list gives one color, which the masks hold, to classes of several names: the first counts."""
    names: dict[Color, list[str]] = {}
    for entry in classes.entries:
        if entry.color in colors and entry.color is not None:
            names.setdefault(entry.color, []).append(entry.name)
    for color, several in names.items():
        if len(set(several)) > 1:
            message = (
                f"the class list gives {generated_color_name(color)} to {', '.join(several[:4])}: read as {several[0]}"
            )
            return (guessed(message, "give every class a color of its own, in the list and in the masks"),)
    return ()


def unfit_colors(classes: ClassList | None, colors: Sequence[Color]) -> tuple[Problem, ...]:
    """A warning where a list without colors names another number of classes than the masks hold colors."""
    if classes is None or classes.path is None:
        return ()
    count = sum(not entry.ignored for entry in classes.entries)
    message = f"{classes.path.name} is not used: it names {count} classes, and the masks hold {len(colors)} colors"
    channels = {value for color in colors for value in color} <= {0, 1, 255}
    if channels and count <= 3 < len(colors):
        message += "; each channel may be a class, and the classes overlap"
    fix = "give the colors in classes.csv (name,r,g,b); of classes that overlap write one per pixel"
    return (Problem("warning", "class list not read", message, (str(classes.path),), fix),)
