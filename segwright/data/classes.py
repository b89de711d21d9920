"""Class lists that people put beside their data: names, file values and colours from txt, csv or json.

Understood: a name a line; ``index name``; ``name r g b`` and ``r g b name``; CSV with a header that names the columns
(``name, r, g, b`` or ``id, name, colour``); JSON lists of names or of objects, and objects ``{value: name}`` or
``{name: value}``. Classes called void, ignore or unlabelled are ignored, which the data set's notes say.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segwright.errors import LabelError
from segwright.types import IGNORE_INDEX, Colour, LabelSpace

FILE_NAMES = (
    "classes.json", "classes.csv", "classes.txt", "labels.txt", "labels.csv", "labels.json", "class_names.txt",
    "class_dict.csv", "label_colors.txt", "label_names.txt", "labelmap.txt", "codes.txt", "names.txt",
)  # fmt: skip
IGNORED_NAMES = frozenset(
    {"__ignore__", "_ignore_", "ignore", "ignored", "void", "unlabeled", "unlabelled", "__void__"}
)
MAX_BYTES = 4_000_000
_SPLIT = re.compile(r"[,;:\t ]+")


@dataclass(frozen=True)
class ClassEntry:
    """One line of a class list."""

    value: int  # the file value
    name: str
    colour: Colour | None = None

    @property
    def ignored(self) -> bool:
        return self.name.strip().lower() in IGNORED_NAMES


@dataclass(frozen=True)
class ClassList:
    """What a class list says."""

    entries: tuple[ClassEntry, ...]
    path: Path | None = None

    @property
    def colours(self) -> tuple[Colour, ...] | None:
        """Every entry's colour in order, or None where one has none."""
        colours = [entry.colour for entry in self.entries if entry.colour is not None]
        return tuple(colours) if colours and len(colours) == len(self.entries) else None

    def label_space(self, *, by_row: bool = False) -> LabelSpace:
        """Classes in the list's order. File values are the entries' values, or their rows where masks hold colours."""
        kept = [entry for entry in self.entries if not entry.ignored]
        if not kept:
            raise LabelError("the class list names no class", where=self.path, fix="write one class name a line")
        names = list(dict.fromkeys(entry.name for entry in kept))
        mapping = {IGNORE_INDEX: IGNORE_INDEX}
        for row, entry in enumerate(self.entries):
            mapping[row if by_row else entry.value] = IGNORE_INDEX if entry.ignored else names.index(entry.name)
        first = {entry.name: entry.colour for entry in reversed(kept)}
        colours = [first[name] for name in names]
        known = [colour for colour in colours if colour is not None]
        return LabelSpace(tuple(names), tuple(known) if len(known) == len(names) else (), mapping=mapping)

    def notes(self) -> list[str]:
        """What was taken from the list, for the data set's notes."""
        ignored = [entry.name for entry in self.entries if entry.ignored]
        where = self.path.name if self.path else "a class list"
        lines = [f"{where} names {len(self.entries) - len(ignored)} classes"]
        return lines + ([f"ignored by name: {', '.join(ignored)}"] if ignored else [])


def read_class_list(path: str | Path) -> ClassList:
    """Read one file; LabelError where nothing in it can be understood."""
    path = Path(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise LabelError("a class list is a short file", expected=f"at most {MAX_BYTES} bytes", where=path)
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise LabelError(
            "the class list cannot be read", found=str(error), where=path, fix="save it as UTF-8"
        ) from error
    try:
        if path.suffix.lower() == ".json":
            entries = _from_json(json.loads(text))
        elif path.suffix.lower() == ".csv":
            entries = _from_csv(text)
        else:
            entries = _from_lines(text)
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise _not_understood(path, str(error)) from error
    if not entries:
        raise _not_understood(path, "nothing")
    values = [entry.value for entry in entries]
    if len(set(values)) != len(values) or min(values) < 0 or max(values) > 65535:
        raise LabelError("file values in a class list differ and lie in 0…65535", found=str(values[:20]), where=path)
    return ClassList(tuple(entries), path)


def _not_understood(path: Path, found: str) -> LabelError:
    return LabelError(
        "the class list is not understood",
        expected="a name a line, 'index name' or 'name r g b'; a CSV with a header; or JSON",
        found=found,
        where=path,
        fix="write one class name a line",
    )


def _from_json(data: Any) -> list[ClassEntry]:
    if isinstance(data, Mapping):
        inner = next((data[key] for key in ("classes", "labels", "categories", "names") if key in data), None)
        if isinstance(inner, list | Mapping):
            return _from_json(inner)
        if all(str(key).isdecimal() for key in data):
            return [_entry(int(key), value) for key, value in data.items()]
        return [ClassEntry(int(value), str(name)) for name, value in data.items()]
    return [_entry(i, value) for i, value in enumerate(data)]


def _entry(index: int, value: Any) -> ClassEntry:
    if not isinstance(value, Mapping):
        return ClassEntry(index, str(value))
    number = next((value[key] for key in ("value", "id", "index", "label_id") if key in value), index)
    name = next(value[key] for key in ("name", "label", "title", "readable", "class") if key in value)
    colour = next((value[key] for key in ("colour", "color", "rgb") if key in value), None)
    return ClassEntry(int(number), str(name), None if colour is None else _colour(colour))


def _colour(value: Any) -> Colour:
    if isinstance(value, str):
        text = value.strip().lstrip("#")
        if re.fullmatch(r"[0-9a-fA-F]{6}", text):
            return (int(text[0:2], 16), int(text[2:4], 16), int(text[4:6], 16))
        value = [part for part in re.split(r"[^0-9]+", text) if part]
    red, green, blue = (int(part) for part in value[:3])
    if not all(0 <= part <= 255 for part in (red, green, blue)):
        raise ValueError(f"colour {red}, {green}, {blue}")
    return (red, green, blue)


def _from_csv(text: str) -> list[ClassEntry]:
    dialect = ";" if text.splitlines()[0].count(";") > text.splitlines()[0].count(",") else ","
    rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text), delimiter=dialect) if any(row)]
    header = [cell.lower() for cell in rows[0]]
    column = {
        "name": _column(header, "name", "label", "class", "class_name"),
        "value": _column(header, "value", "id", "index", "label_id", "class_id"),
        "colour": _column(header, "colour", "color", "rgb", "hex"),
        "r": _column(header, "r", "red"),
        "g": _column(header, "g", "green"),
        "b": _column(header, "b", "blue"),
    }
    if column["name"] is None:
        return _from_lines("\n".join(" ".join(row) for row in rows))
    entries = []
    for i, row in enumerate(rows[1:]):
        fields = {key: row[place] for key, place in column.items() if place is not None and place < len(row)}
        colour = fields.get("colour") or ([fields[c] for c in "rgb"] if all(c in fields for c in "rgb") else None)
        value = int(fields["value"]) if fields.get("value") else i
        entries.append(ClassEntry(value, fields["name"], None if colour is None else _colour(colour)))
    return entries


def _column(header: Sequence[str], *names: str) -> int | None:
    return next((header.index(name) for name in names if name in header), None)


def _from_lines(text: str) -> list[ClassEntry]:
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and line != "#" and not line.startswith(("# ", "//"))]
    parsed = [_from_line(line) for line in lines]
    numbered = all(number is not None for number, _, _ in parsed)
    if numbered:
        return [ClassEntry(int(number or 0), name, colour) for number, name, colour in parsed]
    # A list that starts with labelme's __ignore__ counts from -1: the class after it is 0.
    start = -1 if parsed and parsed[0][1] == "__ignore__" else 0
    entries = []
    for i, (number, name, colour) in enumerate(parsed):
        whole = name if number is None else f"{number} {name}"
        entries.append(ClassEntry(IGNORE_INDEX if start + i < 0 else start + i, whole, colour))
    return entries


def _from_line(line: str) -> tuple[int | None, str, Colour | None]:
    """(number or None, name, colour or None) of one line; a CVAT labelmap's ``name:r,g,b::`` included."""
    fields = [field for field in _SPLIT.split(line) if field]
    numbers = [field.isdecimal() for field in fields]
    if len(fields) >= 4 and all(numbers[-3:]) and not all(numbers):
        rest = fields[:-3]
        colour = _colour(fields[-3:])
        if len(rest) > 1 and rest[0].isdecimal():
            return int(rest[0]), " ".join(rest[1:]), colour
        return None, " ".join(rest), colour
    if len(fields) >= 4 and all(numbers[:3]) and not all(numbers):
        return None, " ".join(fields[3:]), _colour(fields[:3])
    if len(fields) >= 2 and numbers[0]:
        return int(fields[0]), line[line.index(fields[0]) + len(fields[0]) :].strip(" :,;\t"), None
    return None, line, None
