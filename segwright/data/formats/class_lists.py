"""Class lists beside the masks: found by their content, and used if they fit the masks.

Names such as ``classes.txt`` are known. Any other short CSV, TSV, JSON, YAML or text file in the root or beside the
masks is a class list, too, if it names values or colors and these are the masks'. One that looks like a class list and
does not fit is named as not read; other files are not mentioned, and none of them raises.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from pathlib import Path

from segwright.core.errors import DataError, LabelError
from segwright.core.types import IGNORE_INDEX, Color
from segwright.data.formats.file_tree import Folder, is_image
from segwright.data.label_maps import FILE_NAMES, ClassList, read_class_list
from segwright.data.records import Problem
from segwright.data.text_files import read_text, table_rows

ENDINGS = (
    ".csv",
    ".tsv",
    ".json",
    ".yaml",
    ".yml",
    ".txt",
    ".pbtxt",
    ".toml",
    ".xml",
    ".qml",
    ".label",
    ".lut",
    ".ctbl",
)
UNREAD = (".py", ".xls", ".xlsx", ".ods", ".docx", ".pdf", ".ini", ".mat", ".pkl", ".md", ".m", ".html")
MOST_FILES = 24  # per folder: more files of a kind are annotations of single images
SHORT = 400_000  # bytes: no class list is longer
_SUGGESTIVE = re.compile(
    r"class|label|categor|colou?r|palette|legend|(?:^|[^a-z])names?(?:[^a-z]|$)|codes?$|id2|ontology|^meta$|dataset$|"
    r"config|mapping|lut", re.I
)  # fmt: skip
_NAMES_ALONE = re.compile(r"class|label|categor|names|codes", re.I)  # a list of names without numbers is one only here
_UNREAD_NAME = re.compile(
    r"(?i)(?:(?:class|label|colou?r|seg|category)[_\- ]?)?"
    r"(?:class(?:es)?|labels?|colou?rs?|palette|legend|colou?r_?map|label_?map|categories|names|map|list|ids?)"
)
_NOT = re.compile(
    r"^(?:readme|licen[cs]e|requirements|train|val|valid|validation|test|trainval|all|files?|list)\b", re.I
)


def luma(color: Color) -> int:
    """The gray that a color becomes (ITU-R 601-2, as Pillow's convert('L'))."""
    red, green, blue = color
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


def choose(
    folders: Sequence[Folder], values: AbstractSet[int], colors: AbstractSet[int]
) -> tuple[ClassList | None, list[Problem]]:
    """(the class list that fits the masks' values or packed colors, findings).

    LabelError where a file by one of the known names cannot be understood. A known name is used even where it does not
    fit, if no other list does: reading the masks then reports the value it does not name.
    """
    fitting: list[ClassList] = []
    known: list[ClassList] = []
    others: list[tuple[Path, str]] = []
    problems: list[Problem] = []
    for path, is_known in _candidates(folders):
        if path.suffix.lower() in (".csv", ".tsv") and _is_of_images(path, folders, values):
            continue
        if path.suffix.lower() == ".txt" and _lists_files(path):
            continue
        try:
            found = read_class_list(path)
        except LabelError as error:
            other = _by_train_ids(path)  # of ids such as -1 the other column may hold those of the masks
            if other is not None and fits(other, values, colors):
                (known if is_known else fitting).append(other)
                problems.append(_read_by_train_ids(path))
                continue
            if is_known:
                raise
            if _SUGGESTIVE.search(path.stem) and path.suffix.lower() != ".txt" and not _NOT.search(path.stem):
                others.append((path, error.found or error.message))
            continue
        if not is_known and not found.numbered and found.colors is None and not _NAMES_ALONE.search(path.stem):
            continue
        other = _by_train_ids(path) if values and not colors else None
        if other is not None and values - {IGNORE_INDEX} <= {entry.value for entry in other.entries}:
            ids = {entry.value for entry in found.entries}
            if not values <= ids:  # 255 is an id of that column alone
                found = other
                either = values - {IGNORE_INDEX} <= ids
                problems.append(replace(_read_by_train_ids(path), severity="warning" if either else "note"))
            elif any(one not in found.entries for one in other.entries if one.value in values):
                problems.append(_either_ids(path))
        if is_known:
            known.append(found)
        if fits(found, values, colors):
            fitting.append(found)
        elif _SUGGESTIVE.search(path.stem):
            others.append((path, "it does not fit the masks' values"))
    if not fitting and not known and (unread := _unread(folders)) is not None:
        others.append((unread, f"class lists of the kind {unread.suffix} are not read"))
    _refuse_contradictions([found for found in fitting if found in known])
    chosen = next(iter([*[found for found in fitting if found in known], *fitting, *known]), None)
    if chosen is None and not others and folders:
        chosen = _aside(folders[0], values, colors)
    used = None if chosen is None else chosen.path
    problems += [
        Problem(
            "warning" if chosen is None else "note", "class list not read", f"{path.name} is not used: {why[:160]}",
            (str(path),), "write it as classes.csv with columns id,name (and r,g,b), or move it away",
        )
        for path, why in others
        if path != used
    ]  # fmt: skip
    return chosen, problems


def _aside(root: Folder, values: AbstractSet[int], colors: AbstractSet[int]) -> ClassList | None:
    """The one list that fits in folders of the root without images (meta/, docs/), by a known or a suggestive name."""
    found: list[ClassList] = []
    for folder in root.dirs[:MOST_FILES]:
        try:
            names = sorted(os.listdir(os.path.join(root.path, folder)))
        except OSError:
            continue
        if any(map(is_image, names)):
            continue
        for path, is_known in _candidates([Folder(os.path.join(root.path, folder), (), tuple(names))]):
            if not is_known and (len(values) < 3 or not _NAMES_ALONE.search(path.stem)) and not colors:
                continue
            try:
                listed = read_class_list(path)
            except LabelError:
                continue
            named = all(any(map(str.isalpha, entry.name)) for entry in listed.entries)
            few = len(listed.entries) <= 3 or len(values | colors) > 2  # else any list of two names would fit
            if named and few and fits(listed, values, colors) and not _lists_files(path):
                found.append(listed)
    return found[0] if len(found) == 1 else None


def _read_by_train_ids(path: Path) -> Problem:
    note = f"{path.name}: the masks hold the ids of its column trainId"
    return Problem("note", "classes guessed", note, (str(path),), "name the values in classes.csv")


def _either_ids(path: Path) -> Problem:
    note = f"{path.name}: the masks' values are ids of the list, and of its column trainId as well: read as its ids"
    fix = "if they are train ids, leave the other column out of the list; else leave trainId out"
    return Problem("warning", "classes guessed", note, (str(path),), fix)


def _by_train_ids(path: Path) -> ClassList | None:
    """The list with the values of its column trainId; None where it has none."""
    if path.suffix.lower() not in (".csv", ".tsv"):
        return None
    try:
        return read_class_list(path, train_ids=True)
    except LabelError:
        return None


def _unread(folders: Sequence[Folder]) -> Path | None:
    """A file of another kind that is a class list by its name: colors.py, classes.xlsx."""
    for folder in folders:
        for name in folder.files:
            stem, ending = os.path.splitext(name)
            if ending.lower() in UNREAD and _UNREAD_NAME.fullmatch(stem):
                return Path(folder.path, name)
    return None


def _is_of_images(path: Path, folders: Sequence[Folder], values: AbstractSet[int]) -> bool:
    """Whether a table has a row per image and no row per class: ``filename,label`` of a classification, patients."""
    try:
        rows = table_rows(read_text(path, SHORT))[1:]
    except (DataError, csv.Error):
        return False
    width = min(map(len, rows), default=0)
    if len(rows) < 2 or not width:
        return False
    columns = list(zip(*(row[:width] for row in rows), strict=True))
    if any(all(map(is_image, column)) for column in columns):
        return True
    stems = {os.path.splitext(name)[0] for folder in folders for name in folder.files if is_image(name)}
    ids = next((column for column in columns if stems.issuperset(column)), None)
    if ids is None or len(set(ids)) < len(rows) or len(rows) <= len(values):
        return False
    repeated = any(len(set(column)) < len(rows) and not "".join(column).isdecimal() for column in columns)
    return repeated or not _SUGGESTIVE.search(path.stem)


def _lists_files(path: Path) -> bool:
    """Whether most lines of a text name an image: DAGM's Labels.txt has a row per image."""
    try:
        lines = [line.split() for line in read_text(path, SHORT).splitlines()]
    except DataError:
        return False
    filled = [line for line in lines if len(line) > 1]
    return len(filled) > 1 and 2 * sum(any(map(is_image, line)) for line in filled) > len(lines)


def _refuse_contradictions(lists: Sequence[ClassList]) -> None:
    """LabelError where lists that fit contradict each other: of one name in several folders, or of the same names."""
    seen: dict[str, tuple[ClassList, dict[int, str]]] = {}
    for found in lists:
        if found.path is None:
            continue
        names = {entry.value: entry.name for entry in found.entries}
        other, theirs = seen.setdefault(found.path.name.lower(), (found, names))
        value = next((v for v in names.keys() & theirs.keys() if names[v] != theirs[v]), None)
        if value is None:
            continue
        raise _contradicting(
            "class lists of several folders contradict each other: a value is another class in each folder",
            f"{value} is {theirs[value]} in {other.path} and {names[value]} in {found.path}",
            found.path,
        )
    for place, found in enumerate(lists):
        for other in lists[:place]:
            pair = [{entry.name.strip().casefold(): entry.value for entry in one.entries} for one in (other, found)]
            if found.path is None or found.colors or other.colors or pair[0].keys() != pair[1].keys():
                continue
            name = next((name for name, value in pair[0].items() if pair[1][name] != value), None)
            if name is not None:
                raise _contradicting(
                    "two class lists contradict each other: the same names have other values",
                    f"{name} is {pair[0][name]} in {other.path} and {pair[1][name]} in {found.path}",
                    found.path,
                )


def _contradicting(what: str, found: str, where: Path) -> LabelError:
    return LabelError(
        what,
        expected="one class list, or equal ones",
        found=found,
        where=where,
        fix="number the classes alike in all masks; of labelme_json_to_dataset's output open the folder of "
        "labelme's JSON files instead; or remove the lists that do not hold",
    )


def fits(found: ClassList, values: AbstractSet[int], colors: AbstractSet[int]) -> bool:
    """Whether the list names every value or every color of the masks, a background that it leaves out aside."""
    named = {r << 16 | g << 8 | b for r, g, b in found.colors or ()}
    if colors and named:
        grays = {value * 0x010101 for value in values} if colors - {0} else set()
        if {*colors, *(grays if not values or max(values) <= 255 else ())} <= named or colors <= named:
            return True
    if colors and not values:
        return not named and len(found.entries) == len(colors)
    kept = [entry for entry in found.entries if not entry.ignored]
    if len(kept) <= 2 and len(values) == 2 and 0 in values:
        return True
    if values <= {entry.value for entry in found.entries} | {IGNORE_INDEX}:
        return True
    return found.colors is not None and values <= {luma(color) for color in found.colors}


def _candidates(folders: Sequence[Folder]) -> Iterator[tuple[Path, bool]]:
    """(file, whether its name is a known one), the known ones first and in their order."""
    seen: set[str] = set()
    for folder in folders:
        lower = {name.lower(): name for name in folder.files}
        for known in FILE_NAMES:
            if known in lower and f"{folder.path}/{known}" not in seen:
                seen.add(f"{folder.path}/{known}")
                yield Path(folder.path, lower[known]), True
    for folder in folders:
        by_ending: dict[str, list[str]] = {}
        for name in folder.files:
            ending = os.path.splitext(name)[1].lower()
            if ending in ENDINGS and f"{folder.path}/{name.lower()}" not in seen:
                by_ending.setdefault(ending, []).append(name)
        for names in by_ending.values():
            if len(names) > MOST_FILES:
                names = [name for name in names if _SUGGESTIVE.search(os.path.splitext(name)[0])][:MOST_FILES]
            for name in names:
                path = Path(folder.path, name)
                seen.add(f"{folder.path}/{name.lower()}")
                try:
                    short = path.is_file() and path.stat().st_size <= SHORT
                except OSError:
                    short = False
                if short and not _NOT.search(os.path.splitext(name)[0]):
                    yield path, False
