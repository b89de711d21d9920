"""An output folder behind a URL of fsspec, such as ``s3://bucket/masks``.

The files of an image are made in a temporary folder. When all are there, an entry with their sizes and hashes is put
below ``.segwright-done``, and then the files, each whole or not at all. What a kill left half way is known by its entry
and predicted again; nothing else is ever replaced.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from segwright.core.errors import OutputError
from segwright.inference.destination import open_destination
from segwright.inference.ledger import Ledger, Stamp, compare_settings
from segwright.inference.outputs import OutputFolder, OutputFolderError, Written

DONE = ".segwright-done"
FILES = "*"  # the entry of files over all images


class RemoteFolder(OutputFolder):
    """The folder at ``url``. ``sources``: URLs of the sources, which are never replaced."""

    def __init__(self, url: str, sources: Iterable[str] = (), *, overwrite: bool = False) -> None:
        self.store = open_destination(url)
        self.shown = self.store.shown.rstrip("/")
        self.entries: dict[str, dict[str, Any]] = {}
        super().__init__(Path(tempfile.mkdtemp(prefix="segwright-out-")), (), overwrite=overwrite)
        self.settings: Mapping[str, Any] = {}
        self._source_urls = set(sources)
        self._sizes: dict[str, int] = {}
        self._pending: list[str] = []

    def prepare(self) -> None:
        """Read what is there; OutputFolderError if the URL cannot be read or written."""
        with _lasting():
            self._sizes = self.store.files()
            for data in self.store.read_all([name for name in self._sizes if _is_mark(name)]):
                self._take(data)
            self.store.put(f"{DONE}/.writable", b"")

    def _take(self, data: bytes) -> None:
        try:
            entry = json.loads(data)
            self.written |= {name: Written(*one) for name, one in entry["files"].items()}
            self.entries[str(entry["done"])] = entry
        except (ValueError, KeyError, TypeError):
            return  # cut off: its image is predicted again

    # -- as for a local folder --------------------------------------------------------------------------------------

    def is_source(self, path: Path) -> bool:
        return self.shown_name(path) in self._source_urls

    def is_foreign(self, path: Path) -> bool:
        name = self._relative(path)
        if name not in self._sizes:
            return False
        entry = self.written.get(name)
        return entry is None or entry.size != self._sizes[name]

    def write(self, path: Path, save: Callable[[Path], None]) -> Path:
        super().write(path, save)
        self._pending.append(self._relative(path))
        return path

    def shown_name(self, path: Path | str) -> str:
        name = str(path)
        root = str(self.root)
        return f"{self.shown}{name[len(root) :]}" if name == root or name.startswith(f"{root}/") else name

    def discard(self) -> None:
        for name in self._pending:
            (self.root / name).unlink(missing_ok=True)
        self._pending.clear()

    def exists(self, name: str) -> bool:
        """Whether an output is there as it was written."""
        inner = name[len(self.shown) + 1 :]
        entry = self.written.get(inner)
        return entry is not None and self._sizes.get(inner) == entry.size

    def fetch(self, name: str) -> Path:
        inner = name[len(self.shown) + 1 :]
        path = self.root / f".fetched{Path(inner).suffix}"
        with _lasting():
            self.store.fetch(inner, path)
        return path

    def commit(self, name: str, entry: Mapping[str, Any]) -> None:
        """Put the files that were written since the last time, after an entry that names them."""
        files = {one: list(self.written[one]) for one in self._pending}
        mark = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:32]
        whole = {"run": dict(self.settings), "done": name, **entry, "files": files}
        with _lasting():
            self.store.put(f"{DONE}/{mark}.json", json.dumps(whole).encode())
            for one in self._pending:
                self.store.put(one, self.root / one)
                self._sizes[one] = self.written[one].size
        self.discard()

    def abandon(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    def finish(self) -> None:
        try:
            if self._pending:
                self.commit(FILES, {})
        finally:
            self.abandon()


def _is_mark(name: str) -> bool:
    return name.startswith(f"{DONE}/") and name.endswith(".json")


@contextmanager
def _lasting() -> Iterator[None]:
    """What the store refuses ends the run: it has been tried several times."""
    try:
        yield
    except OutputError as error:
        found = OutputFolderError(
            error.message, expected=error.expected, found=error.found, where=error.where, fix=error.fix
        )
        found.lasting = True
        raise found from error


class RemoteLedger(Ledger):
    """As :class:`Ledger`, out of the entries of a :class:`RemoteFolder`."""

    def __init__(self, folder: RemoteFolder, settings: Mapping[str, Any], *, resume: bool) -> None:
        super().__init__(folder.root, settings, resume=False)
        self.folder = folder
        self.where = folder.shown
        folder.settings = self._settings
        if resume:
            for name, entry in folder.entries.items():
                if name != FILES:
                    compare_settings(entry.get("run", {}), self._settings, self.where)
                    self._done[name] = entry

    def there(self, output: str) -> bool:
        return self.folder.exists(output)

    def add(self, name: str, stamp: Stamp | None, item: Mapping[str, Any], rows: list[Any]) -> None:
        self.folder.commit(name, {"stamp": stamp, "item": dict(item), "rows": rows})
