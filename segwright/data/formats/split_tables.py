"""Tables that state the split of every image: a CSV with a column of splits, a JSON of names per split.

``filename,subset``; ``name,is_valid``; a column of names per split; ``{"train": […]}``; ``{"x.jpg": "train"}``;
a list of objects with a split each. A column counts as a split by its values, whatever its header is.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from segwright.core.errors import DataError
from segwright.core.yaml_text import load_yaml
from segwright.data.formats.name_parts import SPLIT_NAMES, split_of_part
from segwright.data.text_files import delimiter_of, read_text, table_rows

ENDINGS = (".csv", ".tsv", ".json", ".jsonl", ".yaml", ".yml", ".txt")
MAX_YAML = 200_000  # characters: its parser takes seconds for more
MAX_BYTES = 20_000_000
MOST_TABLES = 24  # in one folder: more are annotations of single images
MOST_SPLITS = 12
_NONE = frozenset({"", "-", "na", "nan", "none", "null", "unused"})
_YES, _NO = frozenset({"1", "true", "yes", "y"}), frozenset({"0", "false", "no", "n", ""})
_HEADER = re.compile(r"split|subset|partition|phase|stage|usage|(?:^|_)set$|folds?(?:_|$)")
_FLAG = re.compile(r"(?:is_?)?(train(?:ing)?|val(?:id(?:ation)?)?|test(?:ing)?)")
_YAML = re.compile(r"(?im)^[ \t]{0,64}[\"']?(?:train|val|test|dev)[a-z_]{0,32}[\"']?[ \t]{0,8}:")
_JSON = re.compile(r'(?i)"[a-z0-9_ -]{0,64}(?:train|val|test|dev)[a-z0-9_ -]{0,64}"')


@dataclass(frozen=True)
class SplitTable:
    """What one file may state: readings by the column of names, each split → names; or why no split is certain."""

    path: Path
    readings: tuple[Mapping[str, Sequence[str]], ...] = ()
    names: tuple[str, ...] = field(default=(), repr=False)  # cells that may name images, where there is no reading
    why: str = ""
    stated: bool = True  # whether a header or a key calls these splits; else it may be a list of classes with "train"


def read_table(path: Path) -> SplitTable | None:
    """The table in a file; None where it states no splits."""
    try:
        text = read_text(path, MAX_BYTES)
        if path.suffix.lower() == ".json":
            return _from_json(path, json.loads(text)) if _JSON.search(text) else None
        if path.suffix.lower() in (".yaml", ".yml"):
            data = load_yaml(text) if len(text) <= MAX_YAML and _YAML.search(text) else None
            return _from_json(path, data) if isinstance(data, Mapping) else None
        if path.suffix.lower() == ".jsonl":
            lines = [json.loads(line) for line in text.splitlines() if line.strip()] if _JSON.search(text) else []
            return _from_json(path, lines)
        return _from_rows(path, _rows(text, plain=path.suffix.lower() == ".txt"))
    except (DataError, ValueError, RecursionError, csv.Error, yaml.YAMLError):
        return None  # somebody's file of another kind


def read_part(path: Path, split: str) -> SplitTable | None:
    """The names in ``train.csv`` or ``val.json``, by column; None for a file of another kind."""
    try:
        text = read_text(path, MAX_BYTES)
        if path.suffix.lower() == ".json":
            data = json.loads(text)
            if not isinstance(data, list) or not data:
                return None
            if all(isinstance(one, str | int) for one in data):
                return SplitTable(path, ({split: [_name(str(one)) for one in data]},))
            if not all(isinstance(one, Mapping) for one in data):
                return None
            keys = [key for key, value in data[0].items() if isinstance(value, str | int)]
            rows = [[str(one.get(key, "")) for key in keys] for one in data]
        elif path.suffix.lower() in (".csv", ".tsv"):
            rows = _rows(text, plain=True)
        else:
            return None
    except (DataError, ValueError, RecursionError, csv.Error):
        return None
    if not rows:
        return None
    first = rows[0] if path.suffix.lower() != ".json" else None
    table = _readings(path, rows, [split] * len(rows), set())
    if first is not None:  # the first row may be a header, and is left out where it names no image
        bare = _readings(path, rows[1:], [split] * len(rows[1:]), set()) if len(rows) > 1 else table
        return SplitTable(path, (*bare.readings, *table.readings))
    return table


def _rows(text: str, *, plain: bool) -> list[list[str]]:
    lines = text.splitlines()
    start = next((place for place, line in enumerate(lines) if not line.startswith("#")), len(lines) - 1)
    if start > 0:  # comments; of a header its hash is taken off
        bare, delimiter = lines[start - 1].lstrip("# "), delimiter_of(lines[start])
        header = [bare] if 0 < bare.count(delimiter) == lines[start].count(delimiter) else []
        text = "\n".join([*header, *lines[start:]])
    first = text.partition("\n")[0]
    if delimiter_of(first) in first:
        rows = table_rows(text)
    else:
        rows = [row for line in text.splitlines() if (row := line.split())] if plain else []
    width = max(map(len, rows), default=0)
    return [[*row, *[""] * (width - len(row))] for row in rows]


def _from_json(path: Path, data: Any) -> SplitTable | None:
    if isinstance(data, Mapping):
        inner = next((data[key] for key in ("splits", "split") if isinstance(data.get(key), Mapping)), None)
        data = data if inner is None else inner
        listed = {key: value for key, value in data.items() if isinstance(value, list) and split_of_part(str(key))}
        if listed:
            return _of_lists(path, listed)
        if data and all(isinstance(value, str) for value in data.values()):
            return _from_rows(path, [[str(key), str(value)] for key, value in data.items()])
        return None
    if not isinstance(data, list) or not data or not all(isinstance(one, Mapping) for one in data):
        return None
    if all(any(split_of_part(str(key)) and isinstance(one[key], list) for key in one) for one in data):
        if len(data) == 1:
            return _from_json(path, data[0])
        names = [str(name) for part in data[0].values() if isinstance(part, list) for name in part]
        why = f"it states {len(data)} divisions (folds), and which is meant is not certain"
        return SplitTable(path, names=tuple(names), why=why)
    keys = list(dict.fromkeys(key for one in data for key, value in one.items() if isinstance(value, str | int | bool)))
    return _from_rows(path, [[str(key) for key in keys], *([str(one.get(key, "")) for key in keys] for one in data)])


def _of_lists(path: Path, listed: Mapping[str, Sequence[Any]]) -> SplitTable | None:
    given: dict[str, list[str]] = {}
    for key, part in listed.items():
        names = given.setdefault(str(split_of_part(str(key))), [])
        for one in part:
            if isinstance(one, Mapping):
                one = next((value for value in one.values() if isinstance(value, str)), None)
            elif isinstance(one, list):
                one = one[0] if one else None
            if isinstance(one, str | int):
                names.append(_name(str(one)))
    return SplitTable(path, (given,)) if any(given.values()) else None


def _from_rows(path: Path, rows: Sequence[Sequence[str]]) -> SplitTable | None:
    if len(rows) < 2:
        return None
    header = [re.sub(r"[^a-z0-9]+", "_", cell.lower()).strip("_") for cell in rows[0]]
    columns = [[cell.lower() for cell in column] for column in zip(*rows[1:], strict=True)]
    place = next((i for i, cells in enumerate(columns) if _is_split(cells, header[i])), None)
    if place is not None:
        headed = rows[0][place].lower() not in SPLIT_NAMES or _HEADER.search(header[place]) is not None
        body = rows[1:] if headed else rows
        splits = [SPLIT_NAMES.get(row[place].lower(), row[place].lower()) for row in body]
        return replace(_readings(path, body, splits, {place}), stated=_HEADER.search(header[place]) is not None)
    flags = {i: SPLIT_NAMES[found[1]] for i, name in enumerate(header) if (found := _FLAG.fullmatch(name))}
    if flags and all(set(columns[i]) <= _YES | _NO and set(columns[i]) & _YES for i in flags):
        return _by_flags(path, rows[1:], flags)
    named = {i: SPLIT_NAMES[name] for i, name in enumerate(header) if name in SPLIT_NAMES}
    repeated = any(len(set(cells) - {""}) < sum(map(bool, cells)) for i, cells in enumerate(columns) if i in named)
    if len(set(named.values())) == len(named) > 1 and not repeated:
        return SplitTable(path, ({split: [_name(r[i]) for r in rows[1:] if r[i]] for i, split in named.items()},))
    numbered = next((i for i, name in enumerate(header) if _HEADER.search(name)
                     and all(cell.isdecimal() for cell in columns[i]) and 1 < len(set(columns[i])) <= MOST_SPLITS),
                    None)  # fmt: skip
    if numbered is not None:
        why = f"its column {rows[0][numbered]} holds numbers, and which of them is for training is not certain"
        return SplitTable(path, names=tuple(_name(cell) for row in rows[1:] for cell in row), why=why)
    return None


def _is_split(cells: Sequence[str], header: str) -> bool:
    """Whether a column's cells are names of splits; under such a header others may be among them."""
    kinds = set(cells) - _NONE
    if not kinds & SPLIT_NAMES.keys() or len(kinds) > MOST_SPLITS:
        return False
    return kinds <= SPLIT_NAMES.keys() or _HEADER.search(header) is not None


def _by_flags(path: Path, rows: Sequence[Sequence[str]], flags: Mapping[int, str]) -> SplitTable:
    splits = []
    rest = "train" if "train" not in flags.values() else ""
    if flags and set(flags.values()) == {"train"}:
        why = "it states which images are for training, and not whether the others are for validation or for a test"
        return SplitTable(path, names=tuple(_name(cell) for row in rows for cell in row), why=why)
    for row in rows:
        marked = {split for i, split in flags.items() if row[i].lower() in _YES}
        splits.append(marked.pop() if len(marked) == 1 else rest if not marked else "")
    return _readings(path, rows, splits, set(flags))


def _readings(path: Path, rows: Sequence[Sequence[str]], splits: Sequence[str], used: set[int]) -> SplitTable:
    readings = []
    for column in range(len(rows[0])):
        if column in used:
            continue
        given: dict[str, list[str]] = {}
        for row, split in zip(rows, splits, strict=True):
            if row[column] and split not in _NONE:
                given.setdefault(split, []).append(_name(row[column]))
        if given:
            readings.append(given)
    return SplitTable(path, tuple(readings))


def _name(cell: str) -> str:
    return cell.strip().replace("\\", "/")
