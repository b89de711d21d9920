"""COCO's categories: ids in any spelling, several files together, and what becomes a class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from segwright.core.errors import LabelError
from segwright.core.types import IGNORE_INDEX, MAX_CLASSES, Color, LabelSpace
from segwright.data.annotations.rasterize import BACKGROUND_NAMES
from segwright.data.formats.coco_names import stuff_ids

OTHER = 183  # in stuff JSON: every thing in one


def spell_id(value: Any) -> str:
    """An id in one spelling: 7, 7.0, "7" and "007" are one."""
    return _spell_text(value) if type(value) is str else str(value) if type(value) is int else _spell_other(value)


def _spell_other(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return _spell_text(str(value))


@lru_cache(maxsize=65536)
def _spell_text(value: str) -> str:
    text = value.strip()
    return text.lstrip("0") or "0" if text.isdecimal() and text.isascii() else text


def category_name(category: Mapping[str, Any], number: int | None = None) -> str:
    """The name of a category; its supercategory, and then its id, where it has none."""
    for value in (category.get("name"), category.get("supercategory")):
        if value not in (None, ""):
            return str(value)
    return str(category.get("id") if number is None else number)


@dataclass
class Classes:
    """Category id → class index, made from all files together."""

    space: LabelSpace
    index: list[dict[str, int]]  # of each file: id in one spelling → class index
    background: int
    notes: list[str]


def _numbered(data: Sequence[Mapping[str, Any]]) -> tuple[dict[int, Mapping[str, Any]], list[dict[str, int]], bool]:
    """(categories by number, of each file id → number, whether the files number them differently)."""
    names: dict[str, str] = {}
    conflict = False
    for part in data:
        for category in part["categories"]:
            key, name = spell_id(category.get("id")), category_name(category)
            conflict = conflict or names.setdefault(key, name) != name
    numbers = all(key.isdecimal() and len(key) < 18 for key in names)
    categories: dict[int, Mapping[str, Any]] = {}
    tables: list[dict[str, int]] = []
    seen: dict[str, int] = {}
    for part in data:
        table = {}
        for category in part["categories"]:
            key, name = spell_id(category.get("id")), category_name(category)
            number = (
                seen.setdefault(name, len(seen))
                if conflict
                else int(key)
                if numbers
                else seen.setdefault(key, len(seen))
            )
            categories.setdefault(number, category)
            table[key] = number
        tables.append(table)
    return categories, tables, conflict


def make_classes(data: Sequence[dict[str, Any]], paths: Sequence[Path], *, rest_ignored: bool = False) -> Classes:
    categories, tables, conflict = _numbered(data)
    notes = []
    if conflict:
        notes.append("the files number their categories differently: they are matched by name")
    used: set[int] = set()
    for path, part, table in zip(paths, data, tables, strict=True):
        raw: Counter[Any] = Counter()  # by type too: True, 1 and 1.0 are equal
        for annotation in part["annotations"]:
            for item in annotation.get("segments_info") or (annotation,):
                if isinstance(item, Mapping):
                    value = item.get("category_id")
                    raw[value if type(value) is int else spell_id(value)] += 1
        ids: Counter[str] = Counter()
        for value, count in raw.items():
            ids[spell_id(value)] += count
        _check_offset(ids, table, path)
        used |= {table[key] for key in ids if key in table}
    if any(c.get("supercategory") == "none" and i == 0 for i, c in categories.items()) and 0 not in used:
        del categories[0]  # Roboflow's head of the tree, no class
    official = stuff_ids()
    stuff = any(official.get(i, "") == c.get("name") or c.get("isthing") == 0 for i, c in categories.items())
    if stuff and categories.get(OTHER, {}).get("name") == "other" and any(i <= 90 for i in categories):
        del categories[OTHER]  # "other" stands for the things, which are here themselves
    ids_in_order = sorted(categories)
    names = _unique([category_name(categories[i], i) for i in ids_in_order], ids_in_order)
    colors = [categories[i].get("color") for i in ids_in_order]
    background = next(
        (i for i, name in zip(ids_in_order, names, strict=True) if name.lower() in BACKGROUND_NAMES), None
    )
    index = {category: place for place, category in enumerate(ids_in_order)}
    if stuff or rest_ignored:
        fill = IGNORE_INDEX
        notes.append("what nothing covers is ignored")
    elif background is not None:
        fill = index[background]
        notes.append(f"what nothing covers is {names[fill]}")
    else:
        names, colors = ["background", *names], [[0, 0, 0], *colors]
        index = {category: place + 1 for category, place in index.items()}
        fill = 0
        notes.append("what nothing covers is background")
    if not ids_in_order:
        raise LabelError("the JSON lists no categories", expected="categories with an id and a name",
                         found=f"category_id {', '.join(_first_ids(data)) or 'of no object'}", where=paths[0],
                         fix='add them: "categories": [{"id": 1, "name": "cat"}, …]')  # fmt: skip
    if len(names) > MAX_CLASSES:
        raise LabelError("1 to 255 classes are supported", found=f"{len(names)} categories", where=paths[0],
                         fix="list the categories under their ids")  # fmt: skip
    known = [color for color in map(_color, colors) if color is not None]
    space = LabelSpace(tuple(names), tuple(known) if len(known) == len(names) else ())
    notes.append("of overlapping regions the smaller is on top")
    per_file = [{key: index[number] for key, number in table.items() if number in index} for table in tables]
    return Classes(space, per_file, fill, notes)


def _first_ids(data: Sequence[Mapping[str, Any]]) -> list[str]:
    ids = dict.fromkeys(spell_id(one.get("category_id")) for part in data for one in part["annotations"])
    return sorted(ids)[:8]


def _check_offset(used: Mapping[str, int], table: Mapping[str, int], path: Path) -> None:
    """LabelError where the annotations count the categories from another number than the list: every class is off."""
    stray = [key for key in used if key not in table]
    if not stray or not all(key.isdecimal() and len(key) < 18 for key in [*used, *table]):
        return
    for step in (1, -1):
        if all(str(int(key) + step) in table for key in used):
            raise LabelError(
                "the objects count the categories from another number than the list of categories",
                expected=f"category_id among {', '.join([*table][:8])}",
                found=f"category_id {', '.join(sorted(used, key=int)[:8])}: category {stray[0]} is not listed",
                where=path,
                fix=f"if they are off by one, add {step} to every category_id; else list category {stray[0]}",
            )


def _color(value: Any) -> Color | None:
    if isinstance(value, list) and len(value) == 3 and all(isinstance(v, int) and 0 <= v <= 255 for v in value):
        return (value[0], value[1], value[2])
    return None


def _unique(names: Sequence[str], ids: Sequence[int]) -> list[str]:
    counts = Counter(names)
    return [name if counts[name] == 1 else f"{name} ({i})" for name, i in zip(names, ids, strict=True)]
