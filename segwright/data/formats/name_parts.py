"""Parse file and folder names: their split, and the possible spellings of a name that another tool wrote."""

from __future__ import annotations

import posixpath
import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import parse_qs, unquote, urlsplit

SPLIT_NAMES = {
    "train": "train", "training": "train", "tr": "train", "trn": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test", "ts": "test", "tst": "test",
}  # fmt: skip

_WORDS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "minival": "val",
          "test": "test", "testing": "test"}  # fmt: skip
_TOKENS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_ROLE = r"images?|imgs?|img|annots?|annotations?|masks?|labels?|set|data|dir|gt"
_GLUED = re.compile(
    rf"(?:(train|training|val|valid|validation|test|testing)(?:{_ROLE})|(?:{_ROLE})(train|val|valid|test|tr|ts))"
)
# Folder names that describe what is in them, not which images: they may differ between a list and the disk.
GENERIC = frozenset(
    re.split(
        r"\s+",
        "images image imgs img im photos photo pictures picture pics pic frames frame jpegimages jpegs jpeg jpgs jpg "
        "pngs png data dataset datasets rgb raw raws upload uploads files file input inputs src source sources color "
        "colour media leftimg8bit original originals orig scans annotations annotation annots labels "
        "label json jsons coco",
    )
)


@lru_cache(maxsize=65536)
def split_of_part(part: str) -> str | None:
    """The split in one name (``train2017``, ``images_val``, ``labelsTr``); None if there is none, or two."""
    whole = SPLIT_NAMES.get(part.lower())
    if whole is not None:
        return whole
    found: set[str] = set()
    for token in _TOKENS.findall(part):
        word = token.lower()
        glued = _GLUED.fullmatch(word)
        if word in _WORDS:
            found.add(_WORDS[word])
        elif glued:
            found.add(SPLIT_NAMES[glued[1] or glued[2]])
    letters = re.sub(r"[^a-z]", "", part.lower())
    if not found and (glued := _GLUED.fullmatch(letters)):
        found.add(SPLIT_NAMES[glued[1] or glued[2]])
    return found.pop() if len(found) == 1 else None


def split_of(relative: str) -> str | None:
    """The split in a path, by its deepest part that contains one."""
    for part in reversed(relative.split("/")):
        split = split_of_part(part)
        if split is not None:
            return split
    return None


def is_generic(part: str) -> bool:
    """Whether a folder name is only a role or a split."""
    return part.lower() in GENERIC or part.isdecimal() or split_of_part(part) is not None


def composed(text: str) -> str:
    """Unicode's composed form: names from macOS come decomposed."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")  # one part, ASCII, no percent sign


@dataclass(frozen=True, slots=True)
class Spelling:
    """One way to read a name: a path with slashes, and whether it starts at the root of some machine or server."""

    path: str
    absolute: bool


def spellings(name: str) -> list[Spelling]:
    """The paths that a name can mean, the literal one first.

    Names are POSIX or Windows paths, URLs (``https://…/x.jpg?token=1``, ``s3://bucket/x.jpg``, ``file:///…``) and Label
    Studio's ``/data/local-files/?d=folder/x.jpg``, each possibly percent-encoded.
    """
    if _PLAIN_NAME.fullmatch(name):
        return [Spelling(name, False)]  # most names: nothing in them has a second reading
    found: list[Spelling] = []

    def add(path: str, absolute: bool) -> None:
        path = path.replace("\\", "/")
        drive = re.match(r"/?[A-Za-z]:(?=/|$)", path)
        if drive:
            path, absolute = path[drive.end() :], True
        absolute = absolute or path.startswith("/")
        clean = composed(posixpath.normpath(path.lstrip("/"))) if path.strip("/") else ""
        spelling = Spelling(clean, absolute)
        if clean not in ("", ".", "..") and spelling not in found:
            found.append(spelling)

    text = name.strip()
    if not text or "\0" in text:
        return []
    is_url = re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text) is not None
    if not is_url:
        add(text, False)
    try:
        parts = urlsplit(text) if is_url else None
        path, query = (parts.path, parts.query) if parts is not None else [*text.split("?", 1), ""][:2]
        local = parse_qs(query).get("d", []) if query else []
    except ValueError:  # an address such as http://[bad/x.jpg
        path, query, local = re.sub(r"^[^/]*//[^/]*", "", text).split("?", 1)[0], "", []
    for inner in local:  # parse_qs has decoded it
        add(inner, inner.startswith(("/", "\\")))
    if is_url or query:
        add(path, is_url or path.startswith("/"))
    if "%" in path:
        add(unquote(path), is_url or path.startswith("/"))
    if "%" in text and not is_url and not query:
        add(unquote(unquote(path)), path.startswith("/"))
    return found
