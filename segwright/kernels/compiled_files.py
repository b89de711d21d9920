"""Compiled kernels on disk: one file per kernel, source, processor and types of arguments, named by what it holds.

numba's own files are numbered, and an index holds which number is which. Two processes that compile one kernel at the
same time for different types take the same number; the index of the one then names the machine code of the other,
which every later process runs on arguments of other types, without an error. Here the name follows from the contents,
so that there is no index; a file carries its checksum and what it is of, and one that is anything else is compiled
again.

Importing this module imports numba.
"""

from __future__ import annotations

import functools
import hashlib
import os
import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any

import numba
from numba.core import serialize
from numba.core.caching import IndexDataCacheFile

from segwright.core.atomic_io import write_bytes
from segwright.core.errors import OutputError

_dumps: Any = serialize.dumps
_DIGEST = hashlib.sha256().digest_size
_ENDINGS = (".nbc", ".nbi")  # of numba's own names, which earlier versions left


class CompiledFiles:
    """The files of one kernel, in place of numba's IndexDataCacheFile. ``source``: what the machine code was made from,
    as text."""

    def __init__(self, folder: str, base: str, source: str) -> None:
        self.folder, self.base = Path(folder), base
        self.version = _short(numba.__version__, source)

    def path(self, key: object) -> Path:
        """The file for ``key``: numba's types of arguments, processor and digest of the function."""
        return self.folder / f"{self.base}.{self.version}-{_short(str(key))}.nbc"

    def save(self, key: object, data: Any) -> None:
        """Write the machine code ``data``. A folder that cannot be written costs the next process its time, no more."""
        packed: bytes = _dumps((key, data))
        with suppress(OutputError):
            write_bytes(self.path(key), hashlib.sha256(packed).digest() + packed, sync=False)
            self._remove_of_other_sources()

    def load(self, key: object) -> Any:
        """The machine code for ``key``; None if there is none, or what is there is damaged or of something else."""
        try:
            whole = self.path(key).read_bytes()
        except OSError:
            return None
        digest, packed = whole[:_DIGEST], whole[_DIGEST:]
        if hashlib.sha256(packed).digest() != digest:
            return None
        saved_key, data = pickle.loads(packed)
        return data if saved_key == key else None

    def flush(self) -> None:
        """Remove every file of the kernel."""
        for path in self._files():
            with suppress(OSError):
                path.unlink()

    def _remove_of_other_sources(self) -> None:
        """Remove what an earlier version of the source, or numba itself, left behind."""
        for path in self._files():
            if not path.name.startswith(f"{self.base}.{self.version}-"):
                with suppress(OSError):
                    path.unlink()

    def _files(self) -> list[Path]:
        try:
            names = os.listdir(self.folder)
        except OSError:
            return []
        return [self.folder / name for name in names if name.startswith(f"{self.base}.") and name[-4:] in _ENDINGS]


def keep_compiled(kernel: Any) -> None:
    """Let ``kernel``, numba's dispatcher with ``cache=True``, keep its machine code in :class:`CompiledFiles`.

    AttributeError where numba keeps its files in another way than the versions this was written for.
    """
    cache = kernel._cache
    if not isinstance(cache._cache_file, IndexDataCacheFile):
        raise AttributeError("numba's files of compiled functions have changed")
    source = f"{cache._impl.locator.get_source_stamp()} {sources(os.path.dirname(kernel.py_func.__code__.co_filename))}"
    cache._cache_file = CompiledFiles(cache._cache_path, cache._impl.filename_base, source)


@functools.cache
def sources(folder: str) -> str:
    """Names, sizes and times of the Python files in ``folder``: a kernel contains the kernels that it calls, which may
    lie in a file beside its own."""
    try:
        with os.scandir(folder) as entries:
            files = [(entry.name, entry.stat()) for entry in entries if entry.name.endswith(".py")]
    except OSError:  # within a zip archive, whose own time counts
        return ""
    return str(sorted((name, found.st_size, found.st_mtime_ns) for name, found in files))


def _short(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
