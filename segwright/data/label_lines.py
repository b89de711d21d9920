"""Lines of a class list as tools and people write them, brought to the plain form: a name, a number and a color a line.

Quoted names, tuples, bullets, one line of all names, ``name = number``, and the tables of ITK-SNAP (a number, a color,
three flags, a name) and of FreeSurfer (a number, a name, a color and alpha).
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_HASH = re.compile(r"#(?![0-9a-fA-F]{6}(?![0-9a-zA-Z]))")  # a comment, and no color
_TUPLE = re.compile(r"[(\[{]\s*(\d[\d.]*(?:\s*[,; ]\s*\d[\d.]*){2,3})\s*[)\]}]")
_SNAP = re.compile(r"(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s+[\d.]+\s+\d\s+\d\s+[\"'](.*)[\"']")
_ALPHA = re.compile(r"(\d+)\s+(\S+)\s+(\d+\s+\d+\s+\d+)\s+(\d+)")
_LETTER = re.compile(r"[^\W\d]")
_BULLET = re.compile(r"[-*•]\s+(\S.*)")
_FILE = re.compile(r"(?i)\.(?:jpe?g|png|tiff?|bmp|webp|gif)$")
_LONGEST = 1_000  # characters of a line: a longer one is none of a class list, and would take minutes
_WORDS = re.compile(r"[^\s,;:|]+")
_NAMES = frozenset({"name", "names", "class", "classes", "label", "labels", "category", "classname", "class_name"})
_NUMBERS = frozenset({"id", "idx", "index", "value", "number", "code", "class_id", "label_id", "r", "g", "b", "a",
                      "red", "green", "blue", "alpha", "color", "rgb"})  # fmt: skip
_ASSIGNED = re.compile(r"(?i)(?:(\d+)\s*=|(?:class|label|id|index|value)[\s_#]*(\d+)\s*[:=])\s*(\S.*)")
_HEX = re.compile(r"(?<![\w#])#([0-9a-fA-F]{6})(?![0-9a-zA-Z])")
_FOUR = re.compile(r"(\d+)[\s,;]+(\d+)[\s,;]+(\d+)[\s,;]+(\d+)[\s,;]+([^\d\s,;].*)")
_QUOTED = re.compile(r"([\"'])(.+)\1")


def plain_lines(text: str) -> list[str]:
    """The lines with content, without comment lines, bullets and quotes, numbers before names."""
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not _HASH.match(line) and not line.startswith("//")]
    if len(lines) == 1:
        lines = _one_line(lines[0])
    if max(map(len, lines), default=0) > _LONGEST:
        return lines
    for read in (_snap, _alpha, _bullets, _without_header, _assigned, _hex_colors, _numbers_last):
        lines = read(lines)
    return [_unquoted(line) for line in _numbers_before_name(_TUPLE.sub(r" \1 ", line) for line in lines)]


def _one_line(line: str) -> list[str]:
    """The names of ``['sky', 'road']`` or ``sky, road, car``; the line itself where it is one name."""
    inner = re.fullmatch(r"\[(.*)\]|\((.*)\)", line)
    text = (inner[1] or inner[2] or "") if inner else line
    parts = [part.strip() for part in text.split(",")]
    if len(parts) < 2 or not all(map(_LETTER.search, parts)):
        return [line]
    return [_unquoted(part) for part in parts]


def _snap(lines: list[str]) -> list[str]:
    found = [_SNAP.fullmatch(line) for line in lines]
    return [f"{m[1]} {m[5]} {m[2]} {m[3]} {m[4]}" for m in found if m] if lines and all(found) else lines


def _alpha(lines: list[str]) -> list[str]:
    found = [match for match in map(_ALPHA.fullmatch, lines) if match and not match[2].isdecimal()]
    if len(found) < max(len(lines), 2) or not {match[4] for match in found} <= {"0", "255"}:
        return lines
    return [f"{match[1]} {match[2]} {match[3]}" for match in found]


def _bullets(lines: list[str]) -> list[str]:
    found = [match for match in map(_BULLET.fullmatch, lines) if match]
    return [match[1] for match in found] if lines and len(found) == len(lines) else lines


def _without_header(lines: list[str]) -> list[str]:
    """The lines below ``id name`` or ``class r g b``, where all of them hold numbers."""
    words = _WORDS.findall(lines[0].lower()) if lines else []
    heads = len(words) > 1 and set(words) <= _NAMES | _NUMBERS and set(words) & _NAMES and set(words) & _NUMBERS
    numbered = len(lines) > 1 and all(any(part.isdecimal() for part in _WORDS.findall(line)) for line in lines[1:])
    return lines[1:] if heads and numbered else lines


def _assigned(lines: list[str]) -> list[str]:
    """``0 sky`` for ``0 = sky`` and ``class 0: sky``."""
    found = [match for match in map(_ASSIGNED.fullmatch, lines) if match]
    return [f"{match[1] or match[2]} {match[3]}" for match in found] if len(found) == len(lines) else lines


def _hex_colors(lines: list[str]) -> list[str]:
    """``sky 255 0 0`` for ``sky #ff0000`` and ``#ff0000 sky``."""
    found = [match for match in map(_HEX.search, lines) if match]
    if len(found) < len(lines):
        return lines
    rest = [
        " ".join(f"{line[: match.start()]} {line[match.end() :]}".split())
        for line, match in zip(lines, found, strict=True)
    ]
    colors = [" ".join(str(int(match[1][at : at + 2], 16)) for at in (0, 2, 4)) for match in found]
    return [f"{name} {color}" for name, color in zip(rest, colors, strict=True)] if all(rest) else lines


def _numbers_before_name(lines: Iterable[str]) -> list[str]:
    """``1 car 255 0 0`` for ``1 255 0 0 car``, and ``car 255 0 0`` for ``255 0 0 255 car``, where 255 is alpha."""
    lines = list(lines)
    found = [match for match in map(_FOUR.fullmatch, lines) if match]
    if not found or len(found) < len(lines):
        return lines
    first, last = [int(match[1]) for match in found], {match[4] for match in found}
    counted = sorted(first) in (list(range(len(lines))), list(range(1, len(lines) + 1)))
    if last in ({"0"}, {"1"}, {"255"}) and not counted:
        return [f"{m[5]} {m[1]} {m[2]} {m[3]}" for m in found]
    return [f"{m[1]} {m[5]} {m[2]} {m[3]} {m[4]}" for m in found]


def _numbers_last(lines: list[str]) -> list[str]:
    """``0 sky`` for ``sky=0``; behind a space alone only where the numbers, and not the names, are the order."""
    found = [parts for parts in map(_name_and_number, lines) if parts]
    if len(lines) < 2 or len(found) < len(lines):
        return lines
    numbers = [int(number) for _, _, number in found]
    names = {name.casefold() for name, _, _ in found}
    if len(set(numbers)) < len(numbers) or len(names) < len(lines):
        return lines
    if any(not sign.strip() and "\t" not in sign for _, sign, _ in found) and (
        set(numbers) not in (set(range(len(numbers))), set(range(1, len(numbers) + 1)))
    ):
        return lines
    return [f"{number} {_unquoted(name)}" for name, _, number in found]


def _name_and_number(line: str) -> tuple[str, str, str] | None:
    """(name, what is between them, number) of ``sky = 0``; None for another line."""
    before = line.rstrip("0123456789")
    name = before.rstrip()
    if name[-1:] in ("=", ":", ","):
        name = name[:-1].rstrip()
    number, sign = line[len(before) :], before[len(name) :]
    return (name.strip(), sign, number) if number and sign and _LETTER.search(name) else None


def _unquoted(line: str) -> str:
    whole = _QUOTED.fullmatch(line)
    if whole and whole[1] not in whole[2]:
        return whole[2]
    return re.sub(r"(?:^|(?<=\s))([\"'])([^\"']+)\1(?=[\s:,;]|$)", r"\2", line)


def xml_objects(text: str) -> list[Mapping[str, Any]]:
    """The elements of an XML that name classes by their attributes (QGIS's styles among them), as JSON would."""
    found: dict[str, list[dict[str, str]]] = {}
    for tag, inner in re.findall(r"<([\w:]+)\s([^<>]*)>", text):
        pairs = re.findall(r"(?<![\w:])([\w:]+)\s*=\s*[\"']([^\"']*)[\"']", inner)
        own = {key.lower(): html.unescape(value) for key, value in pairs}
        named = own.get("name", own.get("label", own.get("title", "")))
        if named and not _FILE.search(named) and own.keys() & {"value", "id", "index", "color", "colour", "rgb"}:
            found.setdefault(tag, []).append(own)
    best: Sequence[Mapping[str, Any]] = max(found.values(), key=len, default=[])
    if len(best) < 2:
        raise ValueError("no elements with a name and a value or a color")
    return list(best)
