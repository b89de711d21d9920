"""Infer how masks encode their classes, from the values in the masks, where no format defines it.

From a histogram of a spread of the masks (:mod:`.mask_histogram`) one reading is proposed: indices, 0/255, colors, gray
saved as RGB, sparse ids, the colors of a palette, an alpha channel, one channel of three. Every conclusion is a note,
every guess a problem, and if two readings are possible the error names both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from segwright.core.counted import counted
from segwright.core.errors import LabelError
from segwright.core.types import IGNORE_INDEX, Color, LabelSpace
from segwright.data.formats.class_lists import choose, luma
from segwright.data.formats.encoding_doubts import (
    refuse_blurred_colors,
    refuse_coded_objects,
    refuse_mixed_binary,
    refuse_mixed_colors,
    refuse_object_colors,
    refuse_objects,
    refuse_shifted,
    refuse_spread,
    refuse_swapped_channels,
    refuse_unnamed_zero,
)
from segwright.data.formats.file_tree import Folder
from segwright.data.formats.gray_levels import blurred, evenly_spaced, levels_between
from segwright.data.formats.list_doubts import (
    background_second,
    black_one,
    color_twice,
    guessed,
    named_twice,
    unfit_colors,
)
from segwright.data.formats.mask_histogram import Look, MaskValueHistogram, histogram_of_files, look_at
from segwright.data.label_maps import ClassEntry, ClassList, generated_color_name, generated_name, generated_value_name
from segwright.data.mask_files import MaskSource
from segwright.data.readers import ColorTable
from segwright.data.records import Problem

MANY_VALUES = 64  # more distinct values in small masks are no classes but blurred edges, or instance ids
DEEP_IGNORE = 65535
A_FIFTH = 0.2  # of all pixels: where 255 covers more, that it means 'ignored' is no longer the likely reading
DARK = 64  # one channel up to here and two of zeros: class ids in a color file, for nobody chooses such colors


@dataclass(frozen=True)
class MaskEncoding:
    """How masks encode classes: the label space, the color table if they hold colors, and what was concluded."""

    label_space: LabelSpace
    color_table: ColorTable | None = None
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    source: MaskSource = "values"  # which part of the files holds them


def infer_encoding(
    paths: Sequence[Path],
    classes: ClassList | Sequence[Folder] | None,
    where: Path,
    look: Look = look_at,
) -> MaskEncoding:
    """The encoding of these mask files; LabelError if no reading fits. ``look`` may return a part of a large one.

    ``classes``: a class list, or the folders in which to look for one.
    """
    return encoding_of(histogram_of_files(paths, look), classes, where)


def encoding_of(seen: MaskValueHistogram, classes: ClassList | Sequence[Folder] | None, where: Path) -> MaskEncoding:
    """The encoding that a histogram supports; LabelError if no reading fits.

    ``classes``: a class list, or the folders in which to look for one that fits.
    """
    scope = "all masks" if seen.masks == seen.total else f"{seen.masks} of {counted(seen.total, 'mask')}"
    if seen.masks == 0:
        raise LabelError(
            "no mask can be read",
            expected="index, palette or color PNGs",
            found=f"{len(seen.unreadable)} unreadable files, the first: {seen.unreadable[0]}"
            if seen.unreadable
            else "no masks",
            where=where,
        )
    problems: list[Problem] = []
    if classes is not None and not isinstance(classes, ClassList):
        classes, problems = choose(classes, set(seen.values), set(seen.colors) | set(seen.palette_colors))
    seen, source, notes = _by_source(seen, classes, scope, where, problems)
    coding = _color_coding(seen, classes, scope, where) if seen.colors else _index_coding(seen, classes, scope, where)
    mixed = None if seen.colors else seen.edges.problem(str)
    if mixed is not None and all(problem.kind != mixed.kind for problem in coding.problems):
        problems.append(mixed)
    if coding.source != "values":  # a color file whose red channel alone has information
        source = coding.source
    if seen.gray_rgb and not seen.colors and source == "values":
        notes.insert(0, "masks are gray saved as RGB; one channel is read")
    return MaskEncoding(
        coding.label_space, coding.color_table, (*notes, *coding.notes), (*problems, *coding.problems), source
    )


def _by_source(
    seen: MaskValueHistogram, classes: ClassList | None, scope: str, where: Path, problems: list[Problem]
) -> tuple[MaskValueHistogram, MaskSource, list[str]]:
    """(histogram of the part of the files that is the class, which part that is, notes); adds to ``problems``."""
    if seen.deep:
        return _by_channel(seen, scope, where, problems)
    if seen.alpha_files:
        many = seen.alpha_most_colors > MANY_VALUES
        if many or (seen.alpha_differs and seen.alpha_most_colors == 1):
            return _by_alpha(seen, scope, problems, "a photo" if many else "of one color")
        if seen.alpha_differs:
            raise LabelError(
                "the masks have colors and an alpha channel, and both distinguish classes",
                expected="the class in the colors, or in the alpha channel",
                found=f"{len(seen.colors) + len(seen.values)} colors, {len(seen.alpha_values)} alphas in {scope}",
                where=where,
                fix="write the masks without an alpha channel: image.convert('RGB') where the colors are the classes, "
                "image.getchannel('A') where alpha is",
            )
        return seen, "values", ["the masks' alpha channel follows their colors and is not read"]
    if seen.palette_files:
        return _by_palette(seen, classes, scope, where, problems)
    return seen, "values", []


def _by_alpha(
    seen: MaskValueHistogram, scope: str, problems: list[Problem], under: str
) -> tuple[MaskValueHistogram, MaskSource, list[str]]:
    values = dict(seen.alpha_values)
    if seen.opaque_pixels:
        values[255] = values.get(255, 0) + seen.opaque_pixels
    message = f"{scope} have an alpha channel over what is {under}: the alpha channel is read as the mask"
    problems.append(guessed(message, "if the classes are elsewhere, write the masks without an alpha channel"))
    return MaskValueHistogram(seen.masks, seen.total, values=values), "alpha", [message]


def _by_channel(
    seen: MaskValueHistogram, scope: str, where: Path, problems: list[Problem]
) -> tuple[MaskValueHistogram, MaskSource, list[str]]:
    """Three channels of 16 bits: the class is in the first where the second holds instances, as SYNTHIA has it."""
    parts: tuple[dict[int, int], ...] = ({}, {}, {})
    for key, pixels in seen.deep.items():
        for channel, shift in enumerate((32, 16, 0)):
            value = key >> shift & 0xFFFF
            parts[channel][value] = parts[channel].get(value, 0) + pixels
    red, _, blue = parts
    ranges = "; ".join(f"{n} {_listed(sorted(p))}" for n, p in zip(("red", "green", "blue"), parts, strict=True))
    if max(red) <= 255 and len(red) <= MANY_VALUES and len(blue) == 1 and not seen.colors and not seen.values:
        reading = "the first is read as the class, the others are not read"
        message = f"{scope} have three channels of 16 bits ({ranges}): {reading}"
        fix = "otherwise write the channel that holds the classes as an 8-bit PNG"
        problems.append(guessed(message, fix))
        return MaskValueHistogram(seen.masks, seen.total, values=red), "red", [message]
    if all(max(part) <= 255 for part in parts):  # 8-bit colors in a wider file
        colors = dict(seen.colors)
        for key, pixels in seen.deep.items():
            packed = (key >> 32 & 255) << 16 | (key >> 16 & 255) << 8 | key & 255
            colors[packed] = colors.get(packed, 0) + pixels
        return MaskValueHistogram(seen.masks, seen.total, seen.values, colors), "values", []
    raise LabelError(
        "the masks have three channels of 16 bits, and which holds the classes is not certain",
        expected="the class in the first channel (as SYNTHIA), or 8-bit colors",
        found=f"{ranges} in {scope}", where=where, fix="write the channel that holds the classes as an 8-bit PNG",
    )  # fmt: skip


def _by_palette(
    seen: MaskValueHistogram, classes: ClassList | None, scope: str, where: Path, problems: list[Problem]
) -> tuple[MaskValueHistogram, MaskSource, list[str]]:
    """Whether a palette's indices are the classes, or its colors.

    By color where files of other kinds hold colors, where the class list names the colors, where one index has several
    colors (a palette of its own in each file), and where all are grays: then the gray is the class, for optimizers of
    PNGs turn gray masks into palettes. By index elsewhere.
    """
    colors = {key: {key} for key in seen.palette_colors}
    gray = all(key == (key & 255) * 0x010101 for key in colors)
    differ = [index for index, kinds in seen.index_colors.items() if len(kinds) > 1]
    spread_out = _palette_spread(seen)
    if gray:
        same = not differ and all(kinds == {index * 0x010101} for index, kinds in seen.index_colors.items())
        if same or seen.colors:
            return (seen, "values", []) if same else (spread_out, "colors", [])
        listed = set() if classes is None else {entry.value for entry in classes.entries} | {IGNORE_INDEX}
        if not differ and listed and set(seen.values) <= listed and not set(spread_out.values) <= listed:
            note = "palettes of grays: the class list fits the indices, and they are read"
            return seen, "values", [note]
        return spread_out, "colors", ["masks are gray, saved with a palette: the gray is the class"]
    if seen.colors:
        return spread_out, "colors", ["some masks hold colors and some a palette: all are read by color"]
    named = set() if classes is None or classes.colors is None else {r << 16 | g << 8 | b for r, g, b in classes.colors}
    if named:
        by_color = sum(pixels for key, pixels in seen.palette_colors.items() if key in named)
        values = {entry.value for entry in classes.entries} if classes is not None else set()
        by_index = sum(pixels for key, pixels in seen.palette_values.items() if key in values or key == IGNORE_INDEX)
        if by_color >= by_index or (differ and by_color):
            return spread_out, "colors", ["the palettes' colors are those of the class list: masks are read by color"]
        if not differ:
            note = "the palettes' colors are not those of the class list: masks are read by index"
            return seen, "values", [note]
    if not differ:
        return seen, "values", []
    message = f"{len(differ)} indices have one color in some masks and another in others: each file has its own palette"
    if len(colors) > MANY_VALUES:
        problems.append(
            Problem("warning", "palettes differ", f"{message}; {len(colors)} colors are too many: read by index",
                    fix="name the colors in classes.csv (name,r,g,b) if the colors are the classes")
        )  # fmt: skip
        return seen, "values", []
    if classes is not None:
        raise LabelError(
            "the masks have palettes of their own, and the class list names no colors",
            expected="one palette for all files, or a class list with colors", found=message, where=where,
            fix="give the colors in classes.csv (name,r,g,b)",
        )  # fmt: skip
    problems.append(
        Problem("warning", "palettes differ", f"{message}; masks are read by color",
                fix="name the colors in classes.csv (name,r,g,b), or write all masks with one palette")
    )  # fmt: skip
    return spread_out, "colors", [f"{message}; masks are read by color"]


def _palette_spread(seen: MaskValueHistogram) -> MaskValueHistogram:
    """The histogram with palette files counted by their colors."""
    values = {v: n - seen.palette_values.get(v, 0) for v, n in seen.values.items()}
    result = MaskValueHistogram(
        seen.masks, seen.total, {v: n for v, n in values.items() if n > 0}, dict(seen.colors), seen.gray_rgb
    )
    for key, pixels in seen.palette_colors.items():
        gray = key == (key & 255) * 0x010101
        counts, number = (result.values, key & 255) if gray else (result.colors, key)
        counts[number] = counts.get(number, 0) + pixels
    return result


def _index_coding(seen: MaskValueHistogram, classes: ClassList | None, scope: str, where: Path) -> MaskEncoding:
    values = sorted(seen.values)
    listed = _listed(values)
    if set(values) <= {0, 1, IGNORE_INDEX} and not (classes and any(e.value == IGNORE_INDEX for e in classes.entries)):
        refuse_mixed_binary(seen.value_sets, where)
    if classes is None and sum(seen.value_sets.values()) == seen.masks:
        refuse_mixed_binary(seen.value_sets, where)
    if classes is not None:
        refuse_shifted(values, classes)
        refuse_unnamed_zero(seen.values.get(0, 0) / max(seen.pixels, 1), values, classes, where)
        return _by_list(seen, classes, f"{scope} hold {listed}")
    refuse_objects(seen.objects, where)
    if values[-1] > 255:
        refuse_spread(values, where)
        refuse_coded_objects(values, where)
    if values[-1] <= 255 and (levels := levels_between(seen.values)):
        raise LabelError(
            "masks of several gray levels with blurred edges: which level a pixel of an edge belongs to is lost",
            expected="a value per class and nothing between",
            found=f"{len(values)} values in {scope}; most between 0 and 255 are near {', '.join(map(str, levels))}",
            where=where,
            fix="JPEG or anti-aliased masks of more than two classes: export them again as PNG, without anti-aliasing",
        )
    if values[-1] <= 255 and blurred(seen.values):
        return _thresholded(seen, scope)
    if set(values) <= {0, 255}:
        space = LabelSpace(("background", "foreground"), ((0, 0, 0), (255, 255, 255)), mapping={0: 0, 255: 1})
        return MaskEncoding(
            space, notes=(f"{scope} hold {listed}: 0 is background, 255 is foreground (not 'ignored')",)
        )
    if len(values) > 255 or (len(values) > MANY_VALUES and values[-1] > 255):
        raise LabelError(
            "the masks hold too many values for classes",
            expected="at most 255 class ids",
            found=f"{len(values)} values up to {values[-1]} in {scope}",
            where=where,
            fix="these look like instance ids or depth; name the values of the classes in classes.csv (id,name)",
        )
    ids = [value for value in values if value != IGNORE_INDEX]
    if len(ids) > 2 and ids[-1] == DEEP_IGNORE and ids[-2] <= 254:
        return _deep_ignored(seen, scope, where)
    if ids[-1] <= 254 and (len(ids) * 2 > ids[-1] or ids[-1] < 10):
        return _dense(ids, seen, f"{scope} hold {listed}")
    return _sparse(seen, f"{scope} hold {listed}")


def _deep_ignored(seen: MaskValueHistogram, scope: str, where: Path) -> MaskEncoding:
    """Masks of 16 bits with small ids and 65535, which is to them what 255 is to 8 bits."""
    pixels = seen.values[DEEP_IGNORE]
    share = pixels / max(sum(seen.values.values()), 1)
    values = {value: count for value, count in seen.values.items() if value != DEEP_IGNORE}
    coding = _index_coding(replace(seen, values=values), None, scope, where)
    mapping = {**coding.label_space.mapping, DEEP_IGNORE: IGNORE_INDEX}
    space = LabelSpace(coding.label_space.names, coding.label_space.colors, mapping=mapping)
    problem = Problem(
        "warning" if share >= A_FIFTH else "note",
        "ignored by a guess",
        f"65535 is taken for 'ignored', and covers {100 * share:.3g} % of the pixels",
        fix="if 65535 is a class, name it in classes.csv (id,name); if it is not, name it void there",
    )
    notes = (*coding.notes, f"65535, the largest value of 16 bits, is ignored: {100 * share:.3g} % of the pixels")
    return MaskEncoding(space, notes=notes, problems=(*coding.problems, problem))


def _share(seen: MaskValueHistogram) -> float:
    """Share of 255 among all pixels."""
    return seen.values.get(IGNORE_INDEX, 0) / max(sum(seen.values.values()), 1)


def _ignored(seen: MaskValueHistogram) -> tuple[Problem, ...]:
    """The finding for a 255 that is ignored by convention, without a class list that defines it."""
    share = _share(seen)
    if not share:
        return ()
    return (
        Problem(
            "warning" if share >= A_FIFTH else "note",
            "ignored by a guess",
            f"255 is taken for 'ignored', and covers {100 * share:.3g} % of the pixels",
            fix="if 255 is a class, name it in classes.csv (id,name); if it is not, name it void there",
        ),
    )


def _one_class(values: list[int], classes: ClassList, found: str) -> MaskEncoding | None:
    """A list of one class and masks of 0 and one other value: 0 is the background that the list leaves out."""
    kept = [entry for entry in classes.entries if not entry.ignored]
    known = {entry.value for entry in classes.entries}
    if len(kept) != 1 or len(values) != 2 or values[0] != 0:
        return None
    other, entry = values[1], kept[0]
    if entry.value not in (0, other) or (other in known and entry.value != other) or (0 in known and entry.value != 0):
        return None
    background = entry.name.strip().lower() in ("background", "_background_", "bg")
    names = (entry.name, "foreground") if background else ("background", entry.name)
    shown = entry.color if entry.color not in (None, (0, 0, 0)) else (255, 255, 255)
    assert shown is not None
    mapping = {0: 0, IGNORE_INDEX: IGNORE_INDEX} | {other: 1}
    note = f"{found}: 0 is {names[0]}, {other} is {names[1]}"
    return MaskEncoding(LabelSpace(names, ((0, 0, 0), shown), mapping=mapping), notes=(*classes.notes(), note))


def _by_luma(values: list[int], classes: ClassList, found: str) -> MaskEncoding | None:
    """Color masks converted to gray: each value is the gray of a color in the class list."""
    known = {entry.value for entry in classes.entries}
    if classes.colors is None or set(values) <= known | {IGNORE_INDEX}:
        return None
    grays = {luma(color): row for row, color in enumerate(classes.colors)}
    if len(grays) != len(classes.colors):
        return None
    rows = {value: next((grays[g] for g in (value, value - 1, value + 1) if g in grays), None) for value in values}
    if None in rows.values() or len(set(rows.values())) != len(values):
        return None
    base = classes.label_space(by_row=True)
    mapping = {gray: base.mapping[row] for gray, row in grays.items()}
    mapping |= {value: base.mapping[row] for value, row in rows.items() if row is not None}
    note = f"{found}: the grays of the class list's colors"
    plain = all(r == g == b for r, g, b in classes.colors)
    fix = "write the masks in the colors that the class list names, or as indices"
    problems = () if plain else (guessed(f"{note}: color masks that were converted to gray", fix),)
    return MaskEncoding(
        LabelSpace(base.names, base.colors, mapping=mapping), notes=(*classes.notes(), note), problems=problems
    )


def _black_and_white(kept: Sequence[ClassEntry], classes: ClassList, found: str) -> MaskEncoding:
    """Masks of 0 and 255 and a list of two classes."""
    zero, doubt = black_one(kept, classes)
    base = classes.label_space()
    other = next(entry for entry in kept if entry is not zero)
    mapping = {0: base.names.index(zero.name), 255: base.names.index(other.name)}
    note = f"{found}: 0 is {zero.name}, 255 is {other.name}"
    fix = "otherwise give the masks' values in classes.csv (id,name): one line for 0, one for 255"
    problems = (guessed(f"{note}, {doubt}", fix),) if doubt else ()
    space = LabelSpace(base.names, base.colors, mapping=mapping)
    return MaskEncoding(space, notes=(*classes.notes(), note), problems=problems)


def _by_list(seen: MaskValueHistogram, classes: ClassList, found: str) -> MaskEncoding:
    values = sorted(seen.values)
    for reading in (_one_class, _by_luma):
        coding = reading(values, classes, found)
        if coding is not None:
            return coding
    known = {entry.value for entry in classes.entries}
    kept = [entry for entry in classes.entries if not entry.ignored]
    if set(values) <= {0, 255} and 255 in values and len(kept) == 2 and 255 not in known:
        return _black_and_white(kept, classes, found)
    if not classes.numbered and len(kept) == len(values) and evenly_spaced(values):
        base = classes.label_space()
        space = LabelSpace(base.names, base.colors, mapping={value: i for i, value in enumerate(values)})
        note = f"{found}: evenly spaced gray levels, in the order of the names"
        guess = guessed(note, "otherwise give the values in classes.csv (id,name)")
        return MaskEncoding(space, notes=(*classes.notes(), note), problems=(guess,))
    space = classes.label_space()
    notes = [*classes.notes(), found]
    twice = (*named_twice(classes), *background_second(values, classes))
    stray = [value for value in values if value not in space.mapping]
    if stray:
        notes.append(f"values that the class list does not name: {_listed(stray)}; images with them cannot be read")
    elif IGNORE_INDEX in values and space.mapping[IGNORE_INDEX] == IGNORE_INDEX:
        notes.append("255 is ignored")
    return MaskEncoding(
        space, notes=tuple(notes), problems=(*twice, *(() if IGNORE_INDEX in known else _ignored(seen)))
    )


def _dense(ids: list[int], seen: MaskValueHistogram, found: str) -> MaskEncoding:
    count = max(ids[-1] + 1, 2)
    names = ("background", "foreground") if count == 2 else tuple(generated_name(i) for i in range(count))
    space = LabelSpace(names, mapping={**{i: i for i in range(count)}, IGNORE_INDEX: IGNORE_INDEX})
    ignored = "255 is ignored" if IGNORE_INDEX in seen.values else "255, should it occur, is ignored"
    return MaskEncoding(space, notes=(f"{found}: class indices 0 to {count - 1}; {ignored}",), problems=_ignored(seen))


def _sparse(seen: MaskValueHistogram, found: str) -> MaskEncoding:
    """Ids with gaps, or gray levels spaced over 0…255: each value becomes a class, in order.

    255 is a class as well where it covers a fifth of the pixels: only by habit is it ignored.
    """
    values = sorted(seen.values)
    even = evenly_spaced(values)
    large = not even and _share(seen) >= A_FIFTH
    ids = values if even or large else [value for value in values if value != IGNORE_INDEX]
    if len(ids) == 1:
        ids = [0, ids[0]] if ids[0] else [0, 1]
    names = ("background", "foreground") if len(ids) == 2 else tuple(generated_value_name(value) for value in ids)
    mapping = {value: i for i, value in enumerate(ids)}
    if not even and not large:
        mapping[IGNORE_INDEX] = IGNORE_INDEX
    problems = _ignored(seen) if not even and not large else ()
    why = "evenly spaced gray levels, each a class" if even else "each value a class, in order; 255 is ignored"
    if large:
        why = f"each value a class, in order; 255, {100 * _share(seen):.3g} % of the pixels, is a class as well"
        fix = "if 255 is to be ignored, name the values in classes.csv (id,name) and call 255 void"
        problems = (guessed(f"{found}: {why}", fix),)
    return MaskEncoding(LabelSpace(names, mapping=mapping), notes=(f"{found}: {why}",), problems=problems)


def _thresholded(seen: MaskValueHistogram, scope: str) -> MaskEncoding:
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
    return MaskEncoding(
        space, notes=(f"{message}; below 128 is background, from 128 on foreground",), problems=(problem,)
    )


def _color_coding(seen: MaskValueHistogram, classes: ClassList | None, scope: str, where: Path) -> MaskEncoding:
    refuse_mixed_colors(seen.values, seen.colors, classes, where)
    for value, pixels in seen.values.items():  # gray images among colored ones: black is a color, too
        packed = value * 0x010101
        seen.colors[packed] = seen.colors.get(packed, 0) + pixels
    found = [(key >> 16, key >> 8 & 255, key & 255) for key in sorted(seen.colors)]
    single = _single_channel(seen, classes)
    if single is not None:
        source, values = single
        note = f"{scope} hold dark colors of one channel: the {source} channel is the class"
        coding = _index_coding(MaskValueHistogram(seen.masks, seen.total, values), classes, scope, where)
        return MaskEncoding(coding.label_space, None, (note, *coding.notes), coding.problems, source)
    if classes is not None and classes.colors is not None:
        table = ColorTable(classes.colors)
        unknown = [color for color in found if color not in classes.colors]
        notes = [*classes.notes(), f"{scope} hold {len(found)} colors"]
        refuse_swapped_channels(unknown, classes)
        if unknown:
            notes.append(f"colors that the class list does not name: {_color_list(unknown)}")
        return MaskEncoding(classes.label_space(by_row=True), table, tuple(notes), color_twice(classes, found))
    refuse_object_colors(seen.regions, where)
    if len(found) > MANY_VALUES:
        raise LabelError(
            "the masks hold too many colors for classes",
            expected=f"at most {MANY_VALUES} colors, or a class list with colors",
            found=f"{len(found)} colors in {scope}",
            where=where,
            fix="JPEG or anti-aliased masks: export them as PNG; or name the colors in classes.csv (name,r,g,b)",
        )
    refuse_blurred_colors(seen.colors, where)
    colors: tuple[Color, ...] = tuple(found)
    count = len(colors)
    guess: tuple[Problem, ...] = ()
    if classes is not None and sum(not entry.ignored for entry in classes.entries) == count:
        names = tuple(entry.name for entry in classes.entries if not entry.ignored)
        note = f"{scope} hold {count} colors, taken in order for the names: check this, or give colors in classes.csv"
        guess = (Problem("warning", "classes guessed", note, fix="give the colors in classes.csv (name,r,g,b)"),)
    else:
        names = tuple(generated_color_name(color) for color in colors)
        guess = unfit_colors(classes, colors)
        note = f"{scope} hold {count} colors, each a class: {_color_list(colors)}; name them in classes.csv"
    space = LabelSpace(names, colors, mapping={i: i for i in range(count)})
    return MaskEncoding(space, ColorTable(colors), (note,), guess)


def _single_channel(seen: MaskValueHistogram, classes: ClassList | None) -> tuple[MaskSource, dict[int, int]] | None:
    """The channel that holds class ids where the two others are 0 throughout (CARLA), and its values."""
    if len(seen.colors) < 2 or (classes is not None and classes.colors is not None and any(
        r << 16 | g << 8 | b in seen.colors for r, g, b in classes.colors if r | g | b
    )):  # fmt: skip
        return None
    channels: tuple[tuple[MaskSource, int], ...] = (("red", 16), ("green", 8), ("blue", 0))
    for name, shift in channels:
        values = {key >> shift & 255: pixels for key, pixels in seen.colors.items()}
        if all(key == (key >> shift & 255) << shift for key in seen.colors) and 0 < max(values) <= DARK:
            return name, values
    return None


def _color_list(colors: Sequence[Color]) -> str:
    text = ", ".join("#{:02x}{:02x}{:02x}".format(*color) for color in colors[:8])
    return text if len(colors) <= 8 else f"{text}, … ({len(colors)})"


def _listed(values: Sequence[int]) -> str:
    text = ", ".join(str(value) for value in values[:12])
    return text if len(values) <= 12 else f"{text}, … ({len(values)} values)"
