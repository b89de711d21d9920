"""The images of a dataset by the names and paths of their files, to find what a line of a list means."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

from segwright.data.formats.file_tree import Tree
from segwright.data.formats.folder_roles import describe_folder
from segwright.data.formats.name_parts import composed
from segwright.data.records import Record

DECODED = 2  # times that a name is decoded: %2520 is what a tool makes of %20
COMMENTS = ("#", ";", "//")
_ABSOLUTE = re.compile(r"/|[A-Za-z]:/|[a-z][a-z0-9+.-]+://")  # a path of this or another machine, or an address

_Ends = Mapping[str, Mapping[str, None]]  # the end of a path, with the file's name → ids of records


class NameIndex:
    """Records by the names of their images and masks, with and without endings; made for the first line.

    Of a hundred thousand images it takes seconds. A line takes no longer where all files have one name
    (``scene_00001/image.png``): then the ends of their paths are indexed as well.
    """

    def __init__(self, tree: Tree, records: Sequence[Record]) -> None:
        self.root = str(tree.root).rstrip(os.sep) + os.sep
        self.records = records
        self.by_name_alone: dict[str, None] = {}
        self._known_parts: dict[tuple[str, bool], frozenset[str]] = {}  # of the ends of paths

    @cached_property
    def by_id(self) -> dict[str, Record]:
        return {record.id: record for record in self.records}

    @cached_property
    def by_name(self) -> dict[str, dict[str, list[tuple[str, ...]]]]:
        """Name → record → the folders of its files."""
        found: dict[str, dict[str, list[tuple[str, ...]]]] = {}
        for record in self.records:
            for path in (record.image_path, record.mask_path):
                if path is not None:
                    parts = self._parts(path)
                    for name in {parts[-1], os.path.splitext(parts[-1])[0]}:
                        found.setdefault(name, {}).setdefault(record.id, []).append(parts[:-1])
        return found

    @cached_property
    def by_path(self) -> dict[str, dict[str, None]]:
        """Path from the root, of the names that several records have, with and without ending → records."""
        return self._by_path(ends=False, free=False)

    @cached_property
    def by_end(self) -> dict[str, dict[str, None]]:
        """Every end of those paths → records."""
        return self._by_path(ends=True, free=False)

    @cached_property
    def by_free_end(self) -> dict[str, dict[str, None]]:
        """Every end of those paths without the folders that are roles or splits → records."""
        return self._by_path(ends=True, free=True)

    def _by_path(self, *, ends: bool, free: bool) -> dict[str, dict[str, None]]:
        found: dict[str, dict[str, None]] = {}
        for name, able in self.by_name.items():
            for key, places in able.items() if len(able) > 1 else ():
                for folders in places:
                    parts = _free(folders) if free else folders
                    for start in range(len(parts)) if ends else (0,):
                        found.setdefault("/".join((*parts[start:], name)), {})[key] = None
        return found

    @cached_property
    def by_folder(self) -> dict[str, list[Record]]:
        """Every part of the images' folders that is neither a role nor a split → the records below it."""
        found: dict[str, list[Record]] = {}
        for record in self.records:
            if record.image_path is not None:
                for part in dict.fromkeys(_free(self._parts(record.image_path)[:-1])):
                    found.setdefault(part, []).append(record)
        return {part: records for part, records in found.items() if len(records) < len(self.records)}

    def _parts(self, path: Path) -> tuple[str, ...]:
        return tuple(composed(str(path).removeprefix(self.root).replace(os.sep, "/")).split("/"))

    def _spelt(self, line: str) -> str | None:
        """The line as a name here is spelt, decoded as an address (my%20photo.jpg) where need be; None without one."""
        for _ in range(DECODED + 1):
            if line in self.by_id or line.rpartition("/")[2] in self.by_name:
                return line
            if "%" not in line:
                return None
            line = composed(unquote(line))
        return None

    def has_name(self, line: str) -> bool:
        """Whether a whole line is a name or a path of a file here, with the spaces and commas in it."""
        return self._spelt(composed(line)) is not None

    @cached_property
    def first_letters(self) -> frozenset[str]:
        """What the names of the files and folders here begin with."""
        paths = (path for record in self.records for path in (record.image_path, record.mask_path) if path is not None)
        return frozenset(part[:1] for path in paths for part in self._parts(path))

    def without_comments(self, lines: Sequence[str]) -> list[str]:
        """The lines that are no comments, an image that somebody took out among them: ``#``, and ``;`` or ``//``.

        No comment begins as a file here does; nor with ``;`` or ``//`` where all lines do: Windows' addresses of other
        machines (``//server/x.jpg``).
        """
        marks = tuple(
            mark
            for mark in COMMENTS
            if any(line.startswith(mark) for line in lines)
            and (mark == "#" or not all(line.startswith(mark) for line in lines))
            and mark[0] not in self.first_letters
        )
        return [line for line in lines if not line.startswith(marks)] if marks else list(lines)

    def find(self, line: str) -> list[Record] | Literal["several"] | None:
        """The records that a line means; "several" where it may be one of some."""
        line = self._spelt(composed(line)) or composed(line)
        if line in self.by_id:
            return [self.by_id[line]]
        folders = [part for part in line.split("/")[:-1] if part not in ("", ".")]
        name = line.rpartition("/")[2]
        name = name if name in self.by_name else os.path.splitext(name)[0]
        able = self.by_name.get(name, {})
        if not able:
            return self.by_folder.get(line.rstrip("/").rpartition("/")[2])
        end, is_free = name, False
        found: Collection[str] = able.keys()
        if len(able) > 1:
            if not folders:
                return "several"
            exact = self.by_path.get("/".join((*folders, name)), {})
            if len(exact) == 1:
                return [self.by_id[key] for key in exact]
            end, found = _nearest(self.by_end, folders, name) or (end, found)
        if len(found) > 1:  # folders of roles may differ: siteA/1.png for siteA/images/1.png
            nearer = _nearest(self.by_free_end, _free(tuple(folders)), name, None if end == name else found)
            (end, found), is_free = nearer or (end, found), nearer is not None
        theirs, mine = set(_free(tuple(folders))), self._free_parts(name, (end, is_free), found)
        absolute = _ABSOLUTE.match(line) is not None
        if len(found) > 1 and not (theirs and mine and not theirs & mine and not absolute):
            return "several"
        if theirs and not theirs & mine:
            if mine and not absolute:
                return None  # another site's file of that name
            self.by_name_alone[line] = None
        return [self.by_id[key] for key in found]

    def _free_parts(self, name: str, key: tuple[str, bool], found: Collection[str]) -> frozenset[str]:
        """The folders above the files of that name of these records that are neither roles nor splits.

        ``key``: the end of a path that gives the records, and whether it is one of :attr:`by_free_end`.
        """
        if not key[0] or key not in self._known_parts:
            able = self.by_name[name]
            self._known_parts[key] = frozenset(
                part for one in found for folders in able[one] for part in _free(folders)
            )
        return self._known_parts[key]


def _nearest(
    index: _Ends, folders: Sequence[str], name: str, among: Collection[str] | None = None
) -> tuple[str, Collection[str]] | None:
    """(the longest end of a path that files here have, its records, of those ``among``); None where none has one.

    The end is empty where only some of its records are among them.
    """
    for start in range(len(folders)):
        end = "/".join((*folders[start:], name))
        near = index.get(end, {})
        if near and among is None:
            return end, near.keys()
        inside = dict.fromkeys(key for key in near if among is not None and key in among)
        if inside:
            return "", inside.keys()
    return None


@lru_cache(maxsize=65536)
def _free(folders: tuple[str, ...]) -> tuple[str, ...]:
    free = describe_folder("/".join(folders))[2]
    return tuple(free.split("/")) if free else ()
