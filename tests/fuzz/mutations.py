"""Changes to valid input, drawn from a ``random.Random``: the same seed gives the same input, on every machine."""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Iterator
from typing import Any

NUMBERS = (
    "0", "1", "-1", "2", "3", "7", "127", "128", "255", "256", "300", "65535", "65536", "99999999", "2147483647",
    "2147483648", "4294967295", "4294967296", "9999999999", "9223372036854775807", "9223372036854775808",
    "18446744073709551616", "1" + "0" * 40, "1" * 5000, "-2147483649", "-9223372036854775809", "0.5", "-0.0", "1e-320",
    "1e7", "1e15", "1e308", "1e400", "-1e400", "nan", "NaN", "inf", "Infinity", "-Infinity", "0x10", "1_000", "١٢", "",
)  # fmt: skip
HOSTILE = (
    "", " ", "a", "../../../etc/passwd", "/dev/zero", "/", ".", "..", "a\0b", "\ud800", "\ufeff", "\u202e", "[/b]",
    "[red]", "<script>alert(1)</script>", "\x1b[2J", "{", "}", "%s%n", "a" * 300, "a" * 70_000, "http://[", "data:,",
    "\n", "\r\n", ",", '"', "'", "é" * 130, "NaN", "null", "2024-13-45", "!!python/object:os.system", "*x", "&x",
    "__proto__", "CON", "a/" * 600, "-rf", "$(id)", "\uffff", "😀" * 100,
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, 10**30, -(10**30), 0.5, float("nan"), float("inf"), float("-inf"), 1e308,
    [], {}, [[]], [None], [{}], {"": None}, [0, 0], [1] * 3, [float("nan")] * 8, "0", "1", "-1", "nan", *HOSTILE,
)  # fmt: skip
TOKENS = (
    b"\0", b"\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\xc3", b"\r", b"\n\n", b"[", b"]", b"{", b"}", b"<", b">", b"&",
    b"&#0;", b"&x;", b"<!DOCTYPE a [<!ENTITY x 'y'>]>", b"<!--", b"]]>", b"<![CDATA[", b"*", b"&a ", b"!!", b"- ",
    b": ", b"? ", b"|", b"%", b"\t", b",", b";", b'"', b"'", b"\\", b"\\u0000", b"../", b"\x1b", b"[" * 3000,
    b"<a>" * 3000, b'{"a":' * 3000, b"9" * 6000, b"A" * 140_000,
)  # fmt: skip
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


def of_bytes(rng: random.Random, data: bytes) -> bytes:
    """One to four changes of a binary file."""
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        data = _one_of_bytes(rng, data)
    return data


def _one_of_bytes(rng: random.Random, data: bytes) -> bytes:
    if not data:
        return rng.randbytes(rng.randrange(20))
    # Structure is dense at the beginning of most files, and at the end of some.
    place = rng.choice((rng.randrange(len(data)), rng.randrange(min(len(data), 64)), rng.randrange(min(len(data), 400)),
                        len(data) - 1 - rng.randrange(min(len(data), 128))))  # fmt: skip
    kind = rng.randrange(12)
    if kind == 0:
        return data[:place]
    if kind == 1:
        return data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]
    if kind == 2:
        return data[:place] + bytes([rng.choice((0, 1, 2, 4, 8, 16, 32, 64, 127, 128, 254, 255))]) + data[place + 1 :]
    if kind in (3, 4):
        size = rng.choice((2, 2, 4, 4, 8))
        value = rng.choice((0, 1, 2, 3, 2 ** (8 * size) - 1, 2 ** (8 * size - 1), 2 ** (8 * size - 1) - 1, len(data),
                            len(data) - place, place, 10_000, rng.randrange(2 ** (8 * size))))  # fmt: skip
        return data[:place] + value.to_bytes(16, "little")[:size][:: rng.choice((1, -1))] + data[place + size :]
    if kind == 5:
        return data[:place] + data[place + rng.choice((1, 2, 4, 16, 100)) :]
    if kind == 6:
        end = place + rng.choice((1, 2, 4, 12, 16, 100))
        return data[:end] + data[place:end] * rng.choice((1, 1, 2, 30)) + data[end:]
    if kind == 7:
        return data[:place] + rng.randbytes(rng.choice((1, 2, 4, 8, 50))) + data[place:]
    if kind == 8:
        length = rng.choice((1, 4, 16, 64))
        return data[:place] + bytes([rng.choice((0, 255))]) * length + data[place + length :]
    if kind == 9:
        other, length = rng.randrange(len(data)), rng.choice((2, 4, 8, 12, 32))
        return data[:place] + data[other : other + length] + data[place + length :]
    if kind == 10:
        return data + rng.randbytes(rng.choice((1, 8, 300)))
    return of_text(rng, data) if rng.random() < 0.5 else data[:place] + bytes([rng.randrange(256)]) + data[place + 1 :]


def of_text(rng: random.Random, data: bytes) -> bytes:
    """One to three changes of a text file: its numbers, lines, tokens, encoding."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        data = _one_of_text(rng, data)
    return data


def _one_of_text(rng: random.Random, data: bytes) -> bytes:
    kind = rng.randrange(12)
    if kind <= 3 and (found := list(_NUMBER.finditer(data[:200_000]))):
        one = rng.choice(found)
        return data[: one.start()] + rng.choice(NUMBERS).encode() + data[one.end() :]
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    if kind == 4:
        return b"\n".join(lines[:at] + lines[at + 1 :])
    if kind == 5:
        return b"\n".join(lines[:at] + [lines[at]] * rng.choice((2, 3, 50)) + lines[at + 1 :])
    if kind == 6 and data:
        return data[: rng.randrange(len(data))]
    if kind == 7:
        place = rng.randrange(len(data) + 1)
        return data[:place] + rng.choice(TOKENS) + data[place:]
    if kind == 8:
        text = data.decode("utf-8", "replace")
        return text.encode(rng.choice(("utf-16", "utf-16-le", "utf-32", "utf-8-sig", "latin-1", "cp500")), "replace")
    if kind in (9, 10) and (words := list(re.finditer(rb"[\w./#-]+", data[:200_000]))):
        one = rng.choice(words)
        new = rng.choice((*(text.encode("utf-8", "surrogatepass") for text in HOSTILE), rng.choice(words).group()))
        return data[: one.start()] + new + data[one.end() :]
    if not data:
        return rng.choice(TOKENS)
    place = rng.randrange(len(data))
    return data[:place] + bytes([rng.randrange(256)]) + data[place + rng.randrange(2) :]


def of_json(rng: random.Random, data: bytes) -> bytes:
    """Changes of the tree in a JSON file most of the time, else of its text."""
    if rng.random() < 0.2:
        return of_text(rng, data)
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):  # changed before, and no JSON any more
        return of_text(rng, data)
    try:
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            tree = of_tree(rng, tree)
        return json.dumps(tree).encode("utf-8", "surrogatepass")
    except RecursionError:  # nested twice
        return b"[" * 3000


def of_tree(rng: random.Random, tree: Any) -> Any:
    """One change: a key or item less, twice or elsewhere, a value of another type, deeper nesting."""
    tree = copy.deepcopy(tree)
    places = list(_places(tree))
    if not places:
        return rng.choice(VALUES)
    holder, key = rng.choice(places)
    kind = rng.randrange(10)
    if kind == 0:
        del holder[key]
    elif kind <= 4:
        holder[key] = copy.deepcopy(rng.choice(VALUES))
    elif kind == 5:
        other, name = rng.choice(places)
        holder[key] = copy.deepcopy(other[name])
    elif kind == 6:
        deep: Any = holder[key]
        for _ in range(rng.choice((1, 1, 2, 50, 400))):
            deep = [deep] if rng.random() < 0.5 else {"a": deep}
        holder[key] = deep
    elif kind == 7 and isinstance(holder, list):
        holder.insert(key, copy.deepcopy(holder[key]))
    elif kind == 8 and isinstance(holder, dict):
        holder[rng.choice(HOSTILE)] = holder.pop(key)
    elif isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
        holder[key] = rng.choice((-holder[key], holder[key] * 1000, holder[key] + 0.5, holder[key] - 1, 10**12, 2**32))
    else:
        holder[key] = str(holder[key])
    return tree


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    waiting, count = [tree], 0
    while waiting and count < 5000:
        one = waiting.pop()
        for key in list(one) if isinstance(one, dict) else range(len(one)) if isinstance(one, list) else ():
            count += 1
            yield one, key
            waiting.append(one[key])


def of_file(rng: random.Random, name: str, data: bytes) -> bytes:
    """Changes that suit the file's kind, told by its name."""
    if name.endswith((".json", ".geojson")):
        return of_json(rng, data)
    if name.endswith((".txt", ".csv", ".yaml", ".yml", ".xml", ".lst", ".toml")) or name == "SHA256SUMS":
        return of_text(rng, data)
    return of_bytes(rng, data)
