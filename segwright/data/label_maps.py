"""Class lists that people put beside their data: names, file values and colors from txt, csv, json or yaml.

Understood: a name a line; ``index name``; ``name r g b`` and ``r g b name``; CSV with a header that names the columns
(``name, r, g, b``, ``id, name, color``, ``Pixel Value, Class``); JSON or YAML lists of names or of objects, and
objects ``{value: name}`` or ``{name: value}``, also under ``labels``, ``names``, ``classes``, ``categories`` or
``id2label``. Classes called void, ignore or unlabeled are ignored, with a note.
"""

from __future__ import annotations

import csv
import io
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import ImageColor

from segwright.core.counted import counted
from segwright.core.errors import LabelError, UsageError
from segwright.core.types import IGNORE_INDEX, Color, LabelSpace
from segwright.core.yaml_text import load_yaml
from segwright.data.label_lines import plain_lines, xml_objects
from segwright.data.text_files import decode_text, delimiter_of, read_bytes

FILE_NAMES = (
    "classes.json", "classes.csv", "classes.txt", "labels.txt", "labels.csv", "labels.json", "class_names.txt",
    "class_dict.csv", "label_colors.txt", "label_names.txt", "labelmap.txt", "codes.txt", "names.txt",
)  # fmt: skip
IGNORED_NAMES = frozenset(
    {"__ignore__", "_ignore_", "ignore", "ignored", "void", "unlabeled", "unlabelled", "__void__"}
)
MAX_BYTES = 4_000_000
MAX_YAML = 100_000  # characters: its parser takes a second for so many
_SPLIT = re.compile(r"[,;:|\t ]+")


_COMMENT = re.compile(r"(?<=\S)\s+(?:#|//)(?:\s+[^\W\d].*)?$")  # behind a name; '#ff0000' and '# 2' are none
_ENUMERATED = re.compile(r"(\d+)[.)]\s+(\S.*)")
_HEX = re.compile(r"#[0-9a-fA-F]{6}")
_GENERATED = re.compile(r"(?:class|value) -?\d+|#[0-9a-f]{6}")


def generated_name(index: int) -> str:
    """The name of a class by its index, if no class list names it."""
    return f"class {index}"


def generated_value_name(value: int) -> str:
    """The name of a class by its file value, if no class list names it."""
    return f"value {value}"


def generated_color_name(color: Color) -> str:
    """The name of a class by its color, if no class list names it."""
    return "#{:02x}{:02x}{:02x}".format(*color)


def is_generated_name(name: str) -> bool:
    """Whether a class name is one of the three above."""
    return _GENERATED.fullmatch(name) is not None


@dataclass(frozen=True)
class ClassEntry:
    """One line of a class list."""

    value: int  # the file value
    name: str
    color: Color | None = None

    @property
    def ignored(self) -> bool:
        return self.name.strip().lower() in IGNORED_NAMES


@dataclass(frozen=True)
class ClassList:
    """The content of a class list."""

    entries: tuple[ClassEntry, ...]
    path: Path | None = None
    numbered: bool = False  # whether the file gives the values, and not just the order of names in a list

    @property
    def colors(self) -> tuple[Color, ...] | None:
        """Every entry's color in order, or None where one has none."""
        colors = [entry.color for entry in self.entries if entry.color is not None]
        return tuple(colors) if colors and len(colors) == len(self.entries) else None

    def label_space(self, *, by_row: bool = False) -> LabelSpace:
        """Classes in the list's order. File values are the entries' values, or their rows where masks hold colors."""
        kept = [entry for entry in self.entries if not entry.ignored]
        if not kept:
            raise LabelError("the class list names no class", where=self.path, fix="write one class name per line")
        names = list(dict.fromkeys(entry.name for entry in kept))
        mapping = {IGNORE_INDEX: IGNORE_INDEX}
        for row, entry in enumerate(self.entries):
            mapping[row if by_row else entry.value] = IGNORE_INDEX if entry.ignored else names.index(entry.name)
        first = {entry.name: entry.color for entry in reversed(kept)}
        colors = [first[name] for name in names]
        known = [color for color in colors if color is not None]
        return LabelSpace(tuple(names), tuple(known) if len(known) == len(names) else (), mapping=mapping)

    def notes(self) -> list[str]:
        """What was used from the list, for the dataset's notes."""
        ignored = [entry.name for entry in self.entries if entry.ignored]
        where = self.path.name if self.path else "a class list"
        lines = [f"{where} names {counted(len(self.entries) - len(ignored), 'class')}"]
        return lines + ([f"ignored by name: {', '.join(ignored)}"] if ignored else [])


def read_class_list(path: str | Path, *, train_ids: bool = False) -> ClassList:
    """Read one file; LabelError where nothing in it can be understood.

    ``train_ids``: the values are those of a CSV's column trainId, where it has one; classes without such an id are
    left out.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise LabelError("a class list is a short file", expected=f"at most {MAX_BYTES} bytes", where=path)
        data = read_bytes(path, MAX_BYTES)
        text = decode_text(data, path, LabelError)
    except (OSError, ValueError) as error:  # a name that no file can have, too
        raise LabelError(
            "the class list cannot be read", found=str(error), where=path, fix="save it as UTF-8"
        ) from error
    try:
        if train_ids:
            entries, numbered = _from_csv(text, train_ids=True)
        else:
            entries, numbered = _entries(text, path.suffix.lower())
    except Exception as error:  # a list of another kind, or a damaged one
        raise _not_understood(path, str(error)[:300]) from error
    if not entries:
        raise _not_understood(path, "nothing")
    values = [entry.value for entry in entries]
    if len(set(values)) != len(values) or min(values) < 0 or max(values) > 65535:
        raise LabelError("distinct file values in 0…65535", found=str(values[:20]), where=path)
    return ClassList(tuple(entries), path, numbered)


def _entries(text: str, ending: str) -> tuple[list[ClassEntry], bool]:
    """(entries, whether the text gives their values)."""
    if ending == ".json":
        return _from_json(json.loads(text))
    if ending in (".yaml", ".yml"):
        if len(text) > MAX_YAML:
            raise ValueError(f"more than {MAX_YAML} characters")
        return _from_json(load_yaml(text))
    if ending == ".pbtxt":
        return _from_pbtxt(text)
    if ending == ".toml":
        return _from_json(tomllib.loads(text))
    if ending in (".xml", ".qml"):
        return _from_json(xml_objects(text))
    return _from_csv(text) if ending in (".csv", ".tsv") or _is_table(text) else _from_lines(text)


def _is_table(text: str) -> bool:
    """Whether a text file has columns with tabs and a header that names them, as ADE20K's objectInfo150.txt."""
    header = text.lstrip("\ufeff").partition("\n")[0].lower().strip().split("\t")
    return (
        len(header) > 1
        and not {"name", "label", "class"}.isdisjoint(header)
        and not {"idx", "id", "value", "index"}.isdisjoint(header)
    )


def _not_understood(path: Path, found: str) -> LabelError:
    return LabelError(
        "the class list is not understood",
        expected="a name per line, 'index name' or 'name r g b'; a CSV with a header; or JSON",
        found=found,
        where=path,
        fix="write one class name per line",
    )


_INNER = ("classes", "labels", "categories", "names", "id2label", "label2id", "class_names", "label_map", "items")

_INNER_KEYS = frozenset(_INNER)


def _from_json(data: Any) -> tuple[list[ClassEntry], bool]:
    if isinstance(data, Mapping):
        inner = next((data[key] for key in _INNER if isinstance(data.get(key), list | Mapping)), None)
        if inner is not None:
            return _from_json(inner)[0], True  # under such a key the order of names is meant
        if len(data) == 1 and isinstance(only := next(iter(data.values())), Mapping) and _INNER_KEYS & only.keys():
            return _from_json(only)  # {"ontology": {"classes": […]}}
        if data and all(str(key).isdecimal() for key in data):
            return [_entry(int(key), value) for key, value in data.items()], True
        if data and all(isinstance(value, list | tuple) and len(value) == 3 for value in data.values()):
            return [ClassEntry(i, str(name), _color(value)) for i, (name, value) in enumerate(data.items())], False
        fields = {*_NUMBERS, *_COLORS}
        if data and all(isinstance(v, Mapping) and fields & v.keys() for v in data.values()):  # {"car": {"color": …}}
            return _from_json([{"name": key, **value} for key, value in data.items()])
        for keys, values in ((data.keys(), data.values()), (data.values(), data.keys())):  # {"#ff0000": "car"}
            if data and all(isinstance(key, str) and _HEX.fullmatch(key) for key in keys):
                return [
                    ClassEntry(i, str(v), _color(k)) for i, (k, v) in enumerate(zip(keys, values, strict=True))
                ], False
        if any(isinstance(value, bool | list | float) for value in data.values()):
            raise ValueError("an object of other things")
        return [ClassEntry(int(value), str(name)) for name, value in data.items()], True
    if not isinstance(data, list):
        raise ValueError("neither a list nor an object")
    numbered = bool(data) and all(isinstance(v, Mapping) and any(key in v for key in _NUMBERS) for v in data)
    return [_entry(i, value) for i, value in enumerate(data)], numbered


def _from_pbtxt(text: str) -> tuple[list[ClassEntry], bool]:
    """TensorFlow's label map, ``item { id: 1 name: 'cat' }``: 0 is background unless the map names it."""
    entries = []
    for item in re.findall(r"item\s*\{([^{}]*)\}", text):
        number = re.search(r"\bid\s*:\s*(\d+)", item)
        names: dict[str, str] = dict(re.findall(r"\b(name|display_name)\s*:\s*['\"]([^'\"]*)['\"]", item))
        if number is None or not names:
            raise ValueError("an item without id or name")
        entries.append(ClassEntry(int(number[1]), names.get("display_name", names.get("name", ""))))
    if entries and all(entry.value for entry in entries):
        entries.insert(0, ClassEntry(0, "background"))
    return entries, True


_COLORS = ("colour", "color", "rgb", "hex")
_NUMBERS = ("value", "id", "index", "label_id", "class_id", "pixel_value")


def _entry(index: int, value: Any) -> ClassEntry:
    if not isinstance(value, Mapping):
        if isinstance(value, list | float | bool) or value is None:
            raise ValueError(f"{str(value)[:40]} is no class name")
        return ClassEntry(index, str(value))
    number = next((value[key] for key in _NUMBERS if key in value), index)
    names = ("readable", "name", "label", "title", "class", "class_name")
    name = next(value[key] for key in names if key in value)
    color = next((value[key] for key in _COLORS if key in value), None)
    return ClassEntry(int(number), str(name), None if color is None else _color(color))


def _color(value: Any) -> Color:
    if isinstance(value, str):
        text = value.strip().lstrip("#")
        if re.fullmatch(r"[0-9a-fA-F]{6}", text):
            return (int(text[0:2], 16), int(text[2:4], 16), int(text[4:6], 16))
        if re.fullmatch(r"#[0-9a-fA-F]{3,8}|[a-zA-Z]+", value.strip()):  # '#f00', '#ff0000ff', 'red'
            red, green, blue = ImageColor.getrgb(value.strip())[:3]
            return (red, green, blue)
        value = [part for part in re.split(r"[^0-9]+", text) if part]
    red, green, blue = (int(part) for part in value[:3])
    if not all(0 <= part <= 255 for part in (red, green, blue)):
        raise ValueError(f"color {red}, {green}, {blue}")
    return (red, green, blue)


_NAME_COLUMNS = ("name", "class name", "label name", "label", "class", "category", "title")


def _from_csv(text: str, *, train_ids: bool = False) -> tuple[list[ClassEntry], bool]:
    delimiter = delimiter_of(text.splitlines()[0])
    rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text), delimiter=delimiter) if any(row)]
    headers = ([re.sub(r"[\s_\-]+", " ", cell.lower()) for cell in row] for row in rows[:3])
    top = next((i for i, cells in enumerate(headers) if _column(cells, *_NAME_COLUMNS) is not None), 0)
    if sum(map(bool, rows[0])) == 1:  # a title above the header
        rows = rows[top:]
    header = [re.sub(r"[\s_\-]+", " ", cell.lower()) for cell in rows[0]]
    column = {
        "name": _column(header, *_NAME_COLUMNS),
        "value": _column(header, "value", "pixel value", "pixelvalue", "id", "index", "label id", "class id",
                         "class index", "label value", "category id", "labelid", "classid", "pixel", "gray value",
                         "grey value", "code", "number", "idx", "gt code"),
        "color": _column(header, "color", "colour", "rgb", "hex", "rgb color", "hex color", "class color",
                         "label color"),
        "r": _column(header, "r", "red"),
        "g": _column(header, "g", "green"),
        "b": _column(header, "b", "blue"),
    }  # fmt: skip
    if train_ids:
        column["value"] = _column(header, "trainid", "train id")
        if column["value"] is None:
            raise ValueError("no column trainId")
        at = column["value"]
        rows = [rows[0], *(row for row in rows[1:] if len(row) > at and row[at] not in ("", "-1", "255"))]
    if column["name"] is None:
        return _from_lines("\n".join(" ".join(row) for row in rows))
    if column["value"] is None:  # class,name: the other of two such columns, if it holds numbers
        place = next((i for i, cell in enumerate(header) if cell in ("class", "label") and i != column["name"]), None)
        if place is not None and all(place < len(row) and row[place].isdecimal() for row in rows[1:]):
            column["value"] = place
        place = column["color"]
        if column["value"] is None and place is not None and all(r[place].isdecimal() for r in rows[1:] if r[place:]):
            column["value"], column["color"] = place, None  # V7: the "color" of a gray mask is its value
    entries = []
    for i, row in enumerate(rows[1:]):
        fields = {key: row[place] for key, place in column.items() if place is not None and place < len(row)}
        color = fields.get("color") or ([fields[c] for c in "rgb"] if all(c in fields for c in "rgb") else None)
        value = int(fields["value"]) if fields.get("value") else i
        entries.append(ClassEntry(value, fields["name"], None if color is None else _color(color)))
    return entries, column["value"] is not None


def _column(header: Sequence[str], *names: str) -> int | None:
    return next((header.index(name) for name in names if name in header), None)


def _from_lines(text: str) -> tuple[list[ClassEntry], bool]:
    lines = plain_lines("\n".join(_COMMENT.sub("", line.strip()) for line in text.splitlines()))
    enumerated = [_ENUMERATED.fullmatch(line) for line in lines]
    if all(enumerated):
        lines = [f"{match[1]} {match[2]}" for match in enumerated if match is not None]
    parsed = [_from_line(line) for line in lines]
    numbered = all(number is not None for number, _, _ in parsed)
    if numbered and parsed:
        return [ClassEntry(int(number or 0), name, color) for number, name, color in parsed], True
    # A list that starts with labelme's __ignore__ counts from -1: the class after it is 0.
    start = -1 if parsed and parsed[0][1] == "__ignore__" else 0
    entries = []
    for i, (number, name, color) in enumerate(parsed):
        whole = name if number is None else f"{number} {name}"
        entries.append(ClassEntry(IGNORE_INDEX if start + i < 0 else start + i, whole, color))
    return entries, False


def _from_line(line: str) -> tuple[int | None, str, Color | None]:
    """(number or None, name, color or None) of one line; a CVAT labelmap's ``name:r,g,b::`` included."""
    fields = _bytes([field for field in _SPLIT.split(line) if field])
    numbers = [field.isdecimal() for field in fields]
    if len(fields) >= 4 and all(numbers[-3:]) and not all(numbers):
        rest = fields[:-3]
        color = _color(fields[-3:])
        if len(rest) > 1 and rest[0].isdecimal():
            return int(rest[0]), " ".join(rest[1:]), color
        return None, " ".join(rest), color
    if len(fields) >= 4 and all(numbers[:3]) and not all(numbers):
        return None, " ".join(fields[3:]), _color(fields[:3])
    if len(fields) >= 2 and numbers[0]:
        return int(fields[0]), line[line.index(fields[0]) + len(fields[0]) :].strip(" :,;|\t"), None
    return None, line, None


def _bytes(fields: list[str]) -> list[str]:
    """The fields of a line with a color of floating point, 0 to 1, as 0 to 255."""
    for places in (slice(0, 3), slice(-3, None)):
        three = fields[places]
        if len(fields) >= 4 and all(_SHARE.fullmatch(one) for one in three) and any("." in one for one in three):
            fields[places] = [str(round(255 * float(one))) for one in three]
            break
    return fields


_SHARE = re.compile(r"(?:0|1)(?:\.0*)?|0?\.\d+")


def class_space(classes: Sequence[str] | str | Path) -> LabelSpace:
    """Classes from a list, from ``a,b,c``, or from a file; UsageError if there are none."""
    if isinstance(classes, str | Path):
        text = str(classes)
        if Path(text).is_file():
            listed = read_class_list(text)
            colors = listed.colors
            kept = [entry for entry in listed.entries if not entry.ignored]
            palette = tuple(entry.color for entry in kept if entry.color is not None) if colors is not None else ()
            return LabelSpace(tuple(entry.name for entry in kept), palette)
        names = [name.strip() for name in text.split(",")]
    else:
        names = [str(name) for name in classes]
    if not names or not all(names):
        raise UsageError("classes have names", expected="a,b,c or a file that lists them", found=str(classes)[:200])
    return LabelSpace(tuple(names))
