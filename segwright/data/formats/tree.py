"""What lies on the disk, listed once: the recognisers of all formats share one walk, and no file is touched by it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segwright.errors import DataError, FormatError
from segwright.images import EXTENSIONS

MAX_DEPTH = 8
SKIPPED = frozenset({"__macosx", "__pycache__", "thumbs.db", "desktop.ini"})


@dataclass(frozen=True)
class Folder:
    """One folder's names in natural order (2 before 10), hidden ones left out."""

    path: str  # absolute
    dirs: tuple[str, ...]
    files: tuple[str, ...]


class Tree:
    """A data set's root (a folder, or a single file such as a CSV, a JSON or an archive) and its cached listings."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._folders: dict[str, Folder] = {}
        self.memo: dict[str, Any] = {}  # what a recogniser found out and the opener needs again
        if not self.root.exists():
            raise FormatError("no such file or folder", where=self.root, fix="check the path")
        self.is_file = self.root.is_file()

    def folder(self, relative: str = "") -> Folder:
        """The listing of a folder under the root; empty where there is none."""
        if relative not in self._folders:
            self._folders[relative] = self._scan(relative)
        return self._folders[relative]

    def _scan(self, relative: str) -> Folder:
        path = os.path.join(self.root, relative) if relative else str(self.root)
        dirs: list[str] = []
        files: list[str] = []
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.name.startswith(".") or entry.name.lower() in SKIPPED:
                        continue
                    (dirs if entry.is_dir() else files).append(entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return Folder(path, (), ())
        except OSError as error:
            raise DataError("cannot list the folder", found=str(error.strerror), where=path) from error
        return Folder(path, tuple(sorted(dirs, key=natural)), tuple(sorted(files, key=natural)))

    def walk(self, relative: str = "", depth: int = MAX_DEPTH) -> Iterator[tuple[str, Folder]]:
        """(relative path, listing) of the folder and all below it; links that lead back up end at ``depth``."""
        listing = self.folder(relative)
        yield relative, listing
        if depth > 0:
            for name in listing.dirs:
                yield from self.walk(f"{relative}/{name}" if relative else name, depth - 1)

    def has(self, *relative: str) -> bool:
        """Whether each of these files or folders is there, letter case ignored."""
        return all(self.find(name) is not None for name in relative)

    def find(self, relative: str) -> str | None:
        """The path under the root as it is spelt on the disk, letter case ignored; None where there is none."""
        here = ""
        for part in relative.split("/"):
            listing = self.folder(here)
            names = [*listing.dirs, *listing.files]
            match = part if part in names else next((name for name in names if name.lower() == part.lower()), None)
            if match is None:
                return None
            here = f"{here}/{match}" if here else match
        return here

    def locate(self, name: str, near: str = "") -> Path | None:
        """The file that an annotation or a list calls ``name``, wherever it lies under the root.

        Lists often hold paths of another machine, and exports lose folders: of the files with that base name the one
        that shares the longest end of the path wins, then the one under ``near``.
        """
        parts = name.replace("\\", "/").split("/")
        candidates = self._by_name().get(parts[-1])
        if not candidates:
            return None
        if len(candidates) == 1:
            return Path(self._base(), candidates[0])
        best = max(candidates, key=lambda c: (_common_end(c.split("/"), parts), c.startswith(f"{near}/"), -len(c)))
        return Path(self._base(), best)

    def _base(self) -> Path:
        return self.root.parent if self.is_file else self.root

    def _by_name(self) -> dict[str, list[str]]:
        if "by name" not in self.memo:
            index: dict[str, list[str]] = {}
            tree = Tree(self._base()) if self.is_file else self
            for relative, listing in tree.walk():
                for name in listing.files:
                    index.setdefault(name, []).append(f"{relative}/{name}" if relative else name)
            self.memo["by name"] = index
        found: dict[str, list[str]] = self.memo["by name"]
        return found

    def path(self, relative: str) -> Path:
        return self.root / relative if relative else self.root

    def summary(self, most: int = 12) -> str:
        """What lies there, in a line for an error."""
        if self.is_file:
            return f"the file {self.root.name}"
        listing = self.folder()
        shown = [f"{name}/" for name in listing.dirs[:most]]
        counts: dict[str, int] = {}
        for name in listing.files:
            ending = os.path.splitext(name)[1].lower() or name
            counts[ending] = counts.get(ending, 0) + 1
        shown += [f"{count} × {ending}" for ending, count in sorted(counts.items(), key=lambda item: -item[1])[:most]]
        return ", ".join(shown) or "an empty folder"


def natural(name: str) -> list[tuple[int, int, str]]:
    """A sort key with numbers by their value (2.png before 10.png); equal only for equal names."""
    parts = _DIGITS.split(name)  # odd places hold the digits
    key = [(0, int(part), "") if i % 2 else (1, 0, part.lower()) for i, part in enumerate(parts) if part]
    return [*key, (2, 0, name)]


def _common_end(left: list[str], right: list[str]) -> int:
    count = 0
    for a, b in zip(reversed(left), reversed(right), strict=False):
        if a != b:
            break
        count += 1
    return count


def peek(path: Path, size: int = 65536) -> str:
    """The beginning and the end of a text file, for recognising big JSON and XML without reading them."""
    try:
        with open(path, "rb") as file:
            head = file.read(size)
            end = file.seek(0, os.SEEK_END)
            file.seek(max(end - size, len(head)))
            return (head + file.read(size)).decode("utf-8", errors="replace")
    except OSError:
        return ""


_DIGITS = re.compile(r"([0-9]+)")


def is_picture(name: str) -> bool:
    """By its ending alone."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def stem(name: str) -> str:
    return os.path.splitext(name)[0]
