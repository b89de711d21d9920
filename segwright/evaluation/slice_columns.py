"""Columns of a CSV file as slices of a split: rows find their images by id, columns become quantiles or values."""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from segwright.core.counted import counted
from segwright.core.errors import DataError
from segwright.data.text_files import delimiter_of, read_text
from segwright.imageio import EXTENSIONS

ID_COLUMNS = ("id", "image_id", "image", "file", "file_name", "filename", "path", "image_path", "name")
MOST_VALUES = 20  # slices of one text column: its commonest values
FEW_NUMBERS = 5  # a column of numbers with so few different ones is one of values (0 and 1, camera 1 to 4)
MISSING = {"", "na", "n/a", "nan", "none", "null", "-"}
NAMED = 3  # names in a note
_COMMA = re.compile(r"[+-]?\d+,\d+")


@dataclass(frozen=True)
class Column:
    """One column for the images of a split: the slice that each image is in."""

    name: str
    slices: dict[str, npt.NDArray[np.bool_]]  # name → (N,) which images
    known: npt.NDArray[np.bool_]  # (N,) which images have a value


@dataclass
class Columns:
    """The columns of a file for the images of a split."""

    columns: list[Column] = field(default_factory=list)
    unmatched_rows: list[str] = field(default_factory=list)  # ids of rows without an image
    images_without_row: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Table:
    """The file as it is read: the ids of its rows and the texts of its other columns."""

    path: Path
    ids: tuple[str, ...]
    columns: dict[str, tuple[str, ...]]
    decimal_commas: bool  # whether fields are separated by something else, so that 3,5 is a number


def read_table(path: str | Path) -> Table:
    """Read a CSV file (comma, semicolon, tab or bar) with a header and a column of image ids.

    DataError if it is no such table: no header, no or several columns of ids, names twice, rows of another length.
    """
    path = Path(path)
    text = read_text(path)
    delimiter = delimiter_of(text.partition("\n")[0])
    try:
        rows = [
            [cell.strip() for cell in row] for row in csv.reader(text.splitlines(), delimiter=delimiter, strict=True)
        ]
    except csv.Error as error:
        raise DataError(
            "the CSV file cannot be read", found=str(error), where=path, fix="export it again, with fields in quotes"
        ) from error
    numbered = [(number, row) for number, row in enumerate(rows, 1) if any(row)]
    if len(numbered) < 2:
        raise DataError(
            "the CSV file has no rows",
            expected="a header and a row per image",
            found=f"{len(numbered)} lines",
            where=path,
        )
    header = numbered[0][1]
    repeated = [name for name, count in Counter(header).items() if count > 1]
    if repeated or "" in header:
        raise DataError(
            "the columns need different names",
            found=", ".join(map(repr, header[:12])),
            where=path,
            fix="name each column",
        )
    uneven = [number for number, row in numbered if len(row) != len(header)]
    if uneven:
        raise DataError(
            "a row has another number of fields than the header",
            expected=f"{len(header)} fields, separated by {delimiter!r}",
            found=f"lines {', '.join(map(str, uneven[:5]))}" + (", …" if len(uneven) > 5 else ""),
            where=path,
            fix="quote fields that contain the separator",
        )
    place = _id_column(header, path)
    body = [row for _, row in numbered[1:]]
    columns = {name: tuple(row[i] for row in body) for i, name in enumerate(header) if i != place}
    if not columns:
        raise DataError(
            "the CSV file has no column to slice by", expected="an id and further columns", found=header[0], where=path
        )
    return Table(path, tuple(row[place] for row in body), columns, delimiter != ",")


def _id_column(header: Sequence[str], path: Path) -> int:
    plain = [re.sub(r"[^a-z0-9]+", "_", name.casefold()).strip("_") for name in header]
    if "id" in plain:
        return plain.index("id")
    found = [i for i, name in enumerate(plain) if name in ID_COLUMNS]
    if len(found) == 1:
        return found[0]
    raise DataError(
        "the CSV file has no column of image ids" if not found else "two columns could be the image's id",
        expected="one column named id",
        found=", ".join(header[i] for i in found) if found else ", ".join(header[:12]),
        where=path,
        fix="name the column with the images' names: id",
    )


def match_columns(table: Table, ids: Sequence[str]) -> Columns:
    """The slices of the images ``ids`` by every column of the table.

    A row belongs to the image whose id is its own; else to the one that agrees in all trailing parts of the path that
    both have, without an image's ending. DataError if a row fits several images, or an image several rows.
    """
    found = Columns()
    by_last: dict[str, list[int]] = {}
    for index, name in enumerate(ids):
        by_last.setdefault(_parts(name)[-1], []).append(index)
    exact = {name: index for index, name in enumerate(ids)}
    row_of: dict[int, int] = {}
    for row, text in enumerate(table.ids):
        fitting = [exact[text]] if text in exact else _fitting(text, ids, by_last)
        if len(fitting) > 1:
            raise DataError(
                f"the row of {text!r} fits several images",
                found=", ".join(ids[i] for i in fitting[:4]),
                where=table.path,
                fix="write the ids with their folders",
            )
        if not fitting:
            found.unmatched_rows.append(text)
        elif fitting[0] in row_of:
            raise DataError(
                f"two rows for the image {ids[fitting[0]]}",
                found=f"{table.ids[row_of[fitting[0]]]}, {text}",
                where=table.path,
                fix="keep one of them",
            )
        else:
            row_of[fitting[0]] = row
    if not row_of:
        raise DataError(
            "no row of the CSV file matches an image",
            expected=f"ids such as {', '.join(ids[:NAMED])}",
            found=f"ids such as {', '.join(table.ids[:NAMED])}",
            where=table.path,
        )
    found.images_without_row = [name for index, name in enumerate(ids) if index not in row_of]
    if names := found.unmatched_rows:
        match = f"{counted(len(names), 'row')} of the CSV file {'matches' if len(names) == 1 else 'match'}"
        found.notes.append(f"{match} no image of the split: {_named(names)}")
    if names := found.images_without_row:
        without = f"{counted(len(names), 'image', 'has')} no row in the CSV file"
        found.notes.append(f"{without}, in none of its slices: {_named(names)}")
    for name, cells in table.columns.items():
        values = [cells[row_of[i]] if i in row_of else "" for i in range(len(ids))]
        _add(found, name, values, [i in row_of for i in range(len(ids))], table.decimal_commas)
    return found


def _parts(name: str) -> list[str]:
    return [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")] or [name]


def _fitting(text: str, ids: Sequence[str], by_last: dict[str, list[int]]) -> list[int]:
    """The images that agree with a row in their trailing parts; with the ending first, then without an image's."""
    whole = _parts(text)
    stem, dot, ending = whole[-1].rpartition(".")
    forms = [whole]
    if dot and f".{ending.lower()}" in EXTENSIONS:
        forms.append([*whole[:-1], stem])
    for parts in forms:
        found = []
        for index in by_last.get(parts[-1], ()):
            other = _parts(ids[index])
            shared = min(len(parts), len(other))
            if parts[-shared:] == other[-shared:]:
                found.append(index)
        if found:
            return found
    return []


def _add(found: Columns, name: str, values: list[str], has_row: list[bool], commas: bool) -> None:
    """Add one column's slices, or a note on why it has none."""
    missing = np.array([value.casefold() in MISSING for value in values])
    if (empty := int((missing & np.array(has_row)).sum())) > 0:
        found.notes.append(f"column {name}: no value for {counted(empty, 'image')}, in none of its slices")
    there = [value for value, gone in zip(values, missing, strict=True) if not gone]
    numbers, by_comma = _numbers(there, commas)
    if by_comma:
        found.notes.append(f"column {name}: commas are taken as decimal points")
    if numbers is not None and len(set(numbers)) > FEW_NUMBERS:
        full = np.full(len(values), np.nan)
        full[~missing] = numbers
        slices = thirds(full)
    else:
        by_value = Counter(there)
        if len(by_value) < 2:
            found.notes.append(f"column {name}: {'one value' if by_value else 'no value'}, so no slices")
            return
        if len(by_value) == len(there):
            found.notes.append(f"column {name}: every image has a value of its own, so no slices")
            return
        kept = [value for value, _ in by_value.most_common(MOST_VALUES)]
        if len(by_value) > len(kept):
            left = sum(by_value.values()) - sum(by_value[value] for value in kept)
            found.notes.append(
                f"column {name}: the {len(kept)} commonest of {len(by_value)} values are slices; "
                f"{counted(left, 'image', 'has')} another value"
            )
        array = np.array(values, object)
        slices = {value: np.asarray(array == value, bool) & ~missing for value in sorted(kept)}
    if len(slices) > 1:
        found.columns.append(Column(name, slices, ~missing))
    else:
        found.notes.append(f"column {name}: the values do not divide into quantiles, so no slices")


def _numbers(texts: Sequence[str], commas: bool) -> tuple[list[float] | None, bool]:
    """All values as numbers, or None; and whether commas were read as decimal points."""
    by_comma = commas and any(_COMMA.fullmatch(text) for text in texts)
    try:
        values = [float(text.replace(",", ".") if by_comma else text) for text in texts]
    except ValueError:
        return None, False
    return (values, by_comma) if values and all(map(math.isfinite, values)) else (None, False)


def thirds(values: npt.NDArray[np.float64]) -> dict[str, npt.NDArray[np.bool_]]:
    """Slices by the terciles of (N,) numbers, NaN in none; fewer than three if values repeat, named by their limits."""
    known = values[np.isfinite(values)]
    if not known.size:
        return {}
    limits = sorted(set(np.quantile(known, [1 / 3, 2 / 3], method="lower").tolist()))
    slices: dict[str, npt.NDArray[np.bool_]] = {}
    for low, high in zip([None, *limits], [*limits, None], strict=True):
        inside = np.isfinite(values)
        if low is not None:
            inside &= values > low
        if high is not None:
            inside &= values <= high
        if inside.any():
            slices[_span(low, high)] = inside
    return slices


def _span(low: float | None, high: float | None) -> str:
    if low is None:
        return f"up to {high:.4g}"
    return f"over {low:.4g}" if high is None else f"over {low:.4g} to {high:.4g}"


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
