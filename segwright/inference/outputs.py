"""The output folder of predictions. It never replaces a source, or a file that no prediction wrote.

The folder has a list of its files (``.segwright-predictions``, one JSON line per file with its SHA-256). A file that is
in the list and unchanged may be replaced by a later prediction, and is never a source. A mask that was corrected by
hand is therefore safe.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from segwright.core.atomic_io import atomic_file, check_output, clear_leftovers, sha256, write_text
from segwright.core.errors import UsageError

MANIFEST = ".segwright-predictions"
OUTPUT_TAGS = (".overlay", ".confidence", ".probabilities", ".mask")  # a name with one of these is an output
BESIDE_SOURCES = ".mask"  # in the names of masks that are written beside their images
MANIFEST_BYTES = 256_000_000
# Errors that every further file would have too
LASTING = (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO)


class Written(NamedTuple):
    """A file of the list."""

    sha256: str
    size: int


class OutputFolderError(UsageError):
    """An output that cannot be written. ``lasting``: later ones cannot be written either."""

    lasting = False


class OutputFolder:
    """A folder of predictions. ``overwrite`` allows replacing files that no prediction wrote, but never a source."""

    def __init__(self, root: Path, sources: Iterable[Path] = (), *, overwrite: bool = False) -> None:
        self.root = root
        self.overwrite = overwrite
        self.written = read_manifest(root)
        # By device and inode: on some file systems, links and names that differ only in case are the same file.
        self._cleared: set[Path] = set()
        self._sources = {found for path in sources if (found := _identity(path)) is not None}

    def prepare(self) -> None:
        """Make the folder and check that files can be written to it; OutputFolderError otherwise."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            check_output(self.root / MANIFEST)
        except OSError as error:
            raise unwritable(self.root, error) from error

    def is_source(self, path: Path) -> bool:
        """Whether ``path`` is one of the sources."""
        identity = _identity(path)
        return identity is not None and identity in self._sources

    def is_foreign(self, path: Path) -> bool:
        """Whether ``path`` exists and was not written by a prediction, or was changed since."""
        if not os.path.lexists(path):
            return False
        entry = self.written.get(self._relative(path))
        try:
            return entry is None or entry.size != path.stat().st_size or entry.sha256 != sha256(path)
        except OSError:
            return True

    def refuse_foreign(self, paths: Iterable[Path]) -> None:
        """Raise UsageError if an output would replace a source or a foreign file."""
        sources, foreign = [], []
        for path in paths:
            if self.is_source(path):
                sources.append(str(path))
            elif not self.overwrite and self.is_foreign(path):
                foreign.append(str(path))
        if sources:
            raise UsageError("the output would replace a source", found=_some(sources), fix="another folder with --out")
        if foreign:
            raise UsageError(
                "the output folder contains other files with these names",
                expected="unused names, or unchanged files of an earlier prediction",
                found=_some(foreign),
                where=self.root,
                fix="another folder with --out, or --overwrite to replace them",
            )

    def write(self, path: Path, save: Callable[[Path], None]) -> Path:
        """Let ``save`` write a temporary file, add it to the list, and move it to ``path``; returns ``path``."""
        self.refuse_foreign([path])
        if path.parent not in self._cleared:  # of runs that were killed
            self._cleared.add(path.parent)
            clear_leftovers(path.parent)
        try:
            with atomic_file(path, sync=False) as beside:
                save(beside)
                self._note(path, Written(sha256(beside), beside.stat().st_size))
        except OSError as error:
            raise unwritable(path, error) from error
        return path

    def write_bytes(self, path: Path, data: bytes) -> Path:
        """Write ``data`` to ``path``."""

        def save(beside: Path) -> None:
            beside.write_bytes(data)

        return self.write(path, save)

    def shown_name(self, path: Path | str) -> str:
        """What an output is called in results."""
        return str(path)

    def fetch(self, name: str) -> Path:
        """A local file with the content of the output that is called ``name``."""
        return Path(name)

    def discard(self) -> None:
        """Forget the files of an image that failed, where they are not in place yet."""

    def abandon(self) -> None:
        """Remove what is temporary, where nothing was written."""

    def finish(self) -> None:
        """Reduce the list to one line per existing file."""
        kept = {name: entry for name, entry in self.written.items() if (self.root / name).exists()}
        if kept:
            write_text(self.root / MANIFEST, "".join(_line(name, entry) for name, entry in kept.items()))

    def _note(self, path: Path, entry: Written) -> None:
        name = self._relative(path)
        with open(self.root / MANIFEST, "a", encoding="utf-8") as file:
            file.write(_line(name, entry))
        self.written[name] = entry

    def _relative(self, path: Path) -> str:
        return Path(os.path.relpath(path, self.root)).as_posix()


def read_manifest(folder: Path) -> dict[str, Written]:
    """Path below ``folder`` → the file that was written there; damaged lines are skipped."""
    found: dict[str, Written] = {}
    try:
        path = folder / MANIFEST
        if not path.is_file() or path.stat().st_size > MANIFEST_BYTES:
            return found
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return found
    for line in text.splitlines():
        try:
            entry = json.loads(line)
            found[str(entry["file"])] = Written(str(entry["sha256"]), int(entry["size"]))
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    return found


def unwritable(path: Path, error: OSError) -> OutputFolderError:
    """The error of a file or folder that cannot be written."""
    fixes = {
        errno.ENOSPC: "free some space, or another folder with --out",
        errno.EDQUOT: "free some space, or another folder with --out",
        errno.ENAMETOOLONG: "shorten the file's name",
    }
    fix = fixes.get(error.errno or 0, "give a folder that can be written to, with --out")
    found = OutputFolderError("the output cannot be written", found=error.strerror or str(error), where=path, fix=fix)
    found.lasting = error.errno in LASTING
    return found


def _line(name: str, entry: Written) -> str:
    return json.dumps({"file": name, "sha256": entry.sha256, "size": entry.size}) + "\n"


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f", … {len(names)} in all" if len(names) > 4 else "")
