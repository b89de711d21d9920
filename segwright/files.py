"""Files that are whole or not there: write beside, fsync, rename; checksums; exclusive locks on a folder."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from segwright.errors import UsageError, output_error


def write_text(path: str | Path, text: str) -> Path:
    """Write ``text`` whole or not at all, and return the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(beside, 0o644)  # mkstemp's 0600 would lock out the web server or colleague who reads it
        os.replace(beside, path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
    return path


def write_json(path: str | Path, data: Any) -> Path:
    """Write JSON, whole or not at all; NaN becomes null, since NaN is no JSON."""
    return write_text(path, json.dumps(without_nan(data), indent=2, ensure_ascii=False) + "\n")


def without_nan(data: Any) -> Any:
    """The same tree with NaN and infinities as None."""
    if isinstance(data, float):
        return data if data - data == 0 else None
    if isinstance(data, dict):
        return {str(key): without_nan(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [without_nan(value) for value in data]
    return data


@contextmanager
def write_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder beside ``path``; it takes the path's place when the block ends without an error.

    The folder that stood there is moved aside first and removed last, so that at any instant one whole version exists.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.writing-"))
    try:
        yield beside
        sync_tree(beside)
        os.chmod(beside, 0o755)
        old = beside.with_name(beside.name.replace(".writing-", ".old-"))
        if path.exists():
            os.replace(path, old)
        os.replace(beside, path)
        shutil.rmtree(old, ignore_errors=True)
        _sync(path.parent)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def recover_folder(path: str | Path) -> None:
    """After a kill between the two renames of :func:`write_folder`: put the old version back, clear leftovers."""
    path = Path(path)
    if not path.parent.is_dir():
        return
    old = sorted(path.parent.glob(f".{path.name}.old-*"), key=lambda entry: entry.stat().st_mtime)
    if not path.exists() and old:
        os.replace(old.pop(), path)
    for entry in [*old, *path.parent.glob(f".{path.name}.writing-*")]:
        shutil.rmtree(entry, ignore_errors=True)


def sync_tree(folder: Path) -> None:
    """fsync every file below ``folder``, then the folder itself."""
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            _sync(file)
    _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_sums(folder: Path, name: str = "SHA256SUMS") -> None:
    """A sums file over every other file of the folder, in the form that ``sha256sum -c`` reads."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != name)
    write_text(folder / name, "".join(f"{sha256(file)}  {file.relative_to(folder).as_posix()}\n" for file in files))


def wrong_sums(folder: Path, name: str = "SHA256SUMS") -> list[str]:
    """What does not match the sums file: missing, altered or unlisted files; empty when all is well."""
    sums = folder / name
    if not sums.is_file():
        return [f"{name} is missing"]
    wrong = []
    listed = set()
    for line in sums.read_text(encoding="utf-8").splitlines():
        digest, _, relative = line.partition("  ")
        listed.add(relative)
        file = folder / relative
        if ".." in Path(relative).parts or Path(relative).is_absolute() or file.is_symlink():
            wrong.append(f"{relative} leaves the folder")
        elif not file.is_file():
            wrong.append(f"{relative} is missing")
        elif sha256(file) != digest:
            wrong.append(f"{relative} was altered")
    present = {f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file() and f.name != name}
    return wrong + [f"{relative} is not listed" for relative in sorted(present - listed)]


@contextmanager
def typed_output(path: str | Path) -> Iterator[None]:
    """What the system refuses while ``path`` is written leaves as an OutputError that names it, or another file that
    was at fault."""
    try:
        yield
    except OSError as error:
        path, other = Path(path), None if error.filename is None else Path(os.fsdecode(error.filename))
        ours = other is None or ".writing-" in str(other) or path in (other, *other.parents) or other in path.parents
        raise output_error(error, path if ours else other) from error


def check_output(path: str | Path) -> None:
    """OutputError where a file cannot be written, before the work whose result it is to hold."""
    path = Path(path)
    with typed_output(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        place = path.absolute().parent
        while not place.exists():
            place = place.parent
        if not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        with tempfile.TemporaryFile(dir=place):
            pass


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; UsageError when another process holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(
                "another run works in this folder",
                where=folder,
                fix="wait for it, stop it, or give another folder with --out",
            ) from error
        yield
