"""A cached directory listing: the detectors of all formats share one walk, which opens no file."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segwright.core.errors import DataError, FormatError
from segwright.data.formats.name_parts import split_of
from segwright.data.records import Problem, Severity
from segwright.data.text_files import read_bytes, read_ends, read_json, read_text
from segwright.imageio import EXTENSIONS

__all__ = ["Folder", "Tree", "is_image", "natural", "read_bytes", "read_ends", "read_json", "read_text", "stem"]

MAX_DEPTH = 8
MAX_ENTRIES = 5_000_000  # files and folders under one root
MAX_FOLDERS = 200_000
SKIPPED = frozenset({"__macosx", "__pycache__", "thumbs.db", "desktop.ini"})
_RUN = frozenset({"config.yaml", "log.jsonl"})  # what a run folder of this package holds
_BUNDLE = frozenset({"model.json", "model.safetensors"})  # a saved model

# What a walk passes over: kind → (severity, what it is, fix).
PASSED_OVER_KINDS: dict[str, tuple[Severity, str, str | None]] = {
    "special file": ("warning", "pipes, sockets or devices are not read", "move them away"),
    "link inside the dataset": ("note", "links to folders of the dataset itself are passed over", None),
    "run folder": ("note", "folders that hold a training run or a saved model are passed over", None),
    "folder too deep": (
        "warning",
        f"folders are more than {MAX_DEPTH} deep and are passed over",
        "open the dataset at a deeper folder, or move them up",
    ),
}


@dataclass(frozen=True)
class Folder:
    """One folder's names in natural order (2 before 10), hidden ones left out."""

    path: str  # absolute
    dirs: tuple[str, ...]
    files: tuple[str, ...]


class Tree:
    """A dataset's root (a folder, or a single file such as a CSV, a JSON or an archive) and its cached listings.

    Links to folders are followed once: one that leads back to a folder of the walk is passed over, as are pipes,
    devices, and the run folders that training wrote into the dataset. :meth:`problems` names what was passed over.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._folders: dict[str, Folder] = {}
        self._links: set[str] = set()  # relative paths of folders that are links
        self._entries = 0
        self._passed: dict[str, dict[str, None]] = {}  # kind → paths, in order
        self.memo: dict[str, Any] = {}  # what a recognizer found out and the opener needs again
        try:
            mode = os.stat(self.root).st_mode
        except (OSError, ValueError) as error:
            raise FormatError("no such file or folder", where=self.root, fix="check the path") from error
        if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
            raise FormatError("neither a file nor a folder", expected="a dataset's folder or file", where=self.root)
        self.is_file = stat.S_ISREG(mode)

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
                    kind = self._kind(entry)
                    if kind == "folder":
                        dirs.append(entry.name)
                        if entry.is_symlink():
                            self._links.add(f"{relative}/{entry.name}" if relative else entry.name)
                    elif kind == "file":
                        files.append(entry.name)
                    else:
                        self._pass_over("special file", os.path.join(path, entry.name))
        except (FileNotFoundError, NotADirectoryError):
            return Folder(path, (), ())
        except (OSError, ValueError) as error:
            found = getattr(error, "strerror", None) or str(error)
            raise DataError("cannot list the folder", found=str(found), where=path) from error
        self._entries += len(dirs) + len(files)
        if self._entries > MAX_ENTRIES or len(self._folders) > MAX_FOLDERS:
            raise DataError(
                "the dataset holds more files than the limit",
                expected=f"at most {MAX_ENTRIES} files in {MAX_FOLDERS} folders",
                where=self.root,
                fix="open one of its folders, or move what is no part of the dataset away",
            )
        return Folder(path, tuple(sorted(dirs, key=natural)), tuple(sorted(files, key=natural)))

    @staticmethod
    def _kind(entry: os.DirEntry[str]) -> str:
        """folder, file (also a link to nothing: reading it names the file) or special."""
        try:
            if entry.is_dir():
                return "folder"
            if entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path)):
                return "file"
        except OSError:  # a link to itself
            return "file"
        return "special"

    def _pass_over(self, kind: str, path: str) -> None:
        self._passed.setdefault(kind, {})[path] = None

    def problems(self) -> list[Problem]:
        """Report what the walks passed over: special files, cyclic links, run folders, folders that are too deep."""
        others: Tree | None = self.memo.get("surroundings")
        passed = self._passed if others is None else {**self._passed, **others._passed}
        problems = []
        for kind, paths in passed.items():
            severity, message, fix = PASSED_OVER_KINDS[kind]
            problems.append(Problem(severity, kind, f"{len(paths)} {message}",
                                    tuple(paths), fix))  # fmt: skip
        return problems

    def walk(self, relative: str = "", depth: int = MAX_DEPTH) -> Iterator[tuple[str, Folder]]:
        """Yield (relative path, listing) of the folder and all below it, each folder once despite links."""
        yield from self._walk(relative, depth, depth == MAX_DEPTH, set())

    def _walk(self, relative: str, depth: int, whole: bool, linked: set[str]) -> Iterator[tuple[str, Folder]]:
        listing = self.folder(relative)
        if relative and self._is_run(relative, listing):
            self._pass_over("run folder", listing.path)
            return
        yield relative, listing
        for name in listing.dirs:
            below = f"{relative}/{name}" if relative else name
            if depth <= 0:
                if whole:
                    self._pass_over("folder too deep", os.path.join(listing.path, name))
                continue
            if below in self._links and not self._enters(below, linked):
                self._pass_over("link inside the dataset", os.path.join(listing.path, name))
                continue
            yield from self._walk(below, depth - 1, whole, linked)

    def _enters(self, relative: str, linked: set[str]) -> bool:
        """Whether a link to a folder is walked: not where its target is walked anyway, or was by another link."""
        root, target = os.path.realpath(self.root), os.path.realpath(os.path.join(self.root, relative))
        inside = target == root or target.startswith(root.rstrip(os.sep) + os.sep)
        above = root.startswith(target.rstrip(os.sep) + os.sep)
        here = os.path.realpath(os.path.join(self.root, os.path.dirname(relative)))
        back = target == here or here.startswith(target.rstrip(os.sep) + os.sep)
        # train/images → ../all/a gives the files a split that their own folder does not tell: such a link is walked.
        names_split = inside and split_of(relative) is not None and split_of(os.path.relpath(target, root)) is None
        if above or back or (inside and not names_split) or target in linked:
            return False
        linked.add(target)
        return True

    def _is_run(self, relative: str, listing: Folder) -> bool:
        """Whether a folder was written by training, not by an annotator."""
        names = set(listing.files)
        if names >= _RUN or names >= _BUNDLE:
            return True
        if os.path.basename(relative) != "runs" or not listing.dirs or any(is_image(name) for name in names):
            return False
        return any(self._is_run(f"{relative}/{name}", self.folder(f"{relative}/{name}")) for name in listing.dirs[:50])

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

    def path(self, relative: str) -> Path:
        return self.root / relative if relative else self.root

    def summary(self, most: int = 12) -> str:
        """One line about the content, for errors."""
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


_DIGITS = re.compile(r"([0-9]+)")


def is_image(name: str) -> bool:
    """Whether the name ends like an image."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def stem(name: str) -> str:
    return os.path.splitext(name)[0]
