"""Atomic writing of files and folders (write beside, fsync, rename), checksums, and locks on a folder."""

from __future__ import annotations

import contextlib
import errno
import functools
import glob
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import filelock

from segwright.core.errors import OutputError, UsageError, output_error

MAX_SUMS = 16 << 20  # bytes of a sums file: some hundred thousand files


def write_text(path: str | Path, text: str) -> Path:
    """Write ``text`` atomically and return the path; OutputError if it cannot be written."""
    return write_bytes(path, text.encode("utf-8", "backslashreplace"))  # file names may hold bytes that are no text


def write_bytes(path: str | Path, data: bytes, *, sync: bool = True) -> Path:
    """Write ``data`` atomically and return the path; OutputError if it cannot be written."""
    with atomic_file(path, sync=sync) as beside:
        beside.write_bytes(data)
    return Path(path)


@contextmanager
def atomic_file(path: str | Path, *, sync: bool = True) -> Iterator[Path]:
    """Yield an empty temporary file beside ``path``, of the same suffix; it replaces ``path`` when the block ends.

    A reader sees the old file or the complete new one. If the block raises, the temporary file is removed; an OSError
    becomes an OutputError. ``sync`` flushes the data to the disk before the rename, which costs milliseconds; leave it
    out for files that can be made again. What is no file (:func:`is_stream`) is written to in the end and not replaced.
    """
    path = Path(path)
    if is_stream(path):
        with typed_output(path), tempfile.TemporaryDirectory() as folder:
            beside = Path(folder) / f"stream{path.suffix}"
            beside.touch()
            yield beside
            with open(beside, "rb") as written, open(path, "wb") as stream:
                shutil.copyfileobj(written, stream)
        return
    with typed_output(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".writing-{_owner()}-{secrets.token_hex(4)}{path.suffix}")
        try:
            # Not tempfile, which would create the file for this user alone, whatever the umask.
            os.close(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            yield beside
            if sync:
                sync_path(beside)
            os.replace(beside, path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise


def write_json(path: str | Path, data: Any) -> Path:
    """Write JSON atomically; NaN, which JSON lacks, becomes null."""
    return write_text(path, json_text(data))


def json_text(data: Any) -> str:
    """JSON for a file or a pipe; NaN, which JSON lacks, becomes null."""
    return json.dumps(without_nan(data), indent=2, ensure_ascii=False) + "\n"


def is_stream(path: str | Path) -> bool:
    """Whether a pipe, a device or a socket is there (``/dev/null``, ``/dev/fd/63`` of a shell's ``>(…)``, a FIFO)."""
    with contextlib.suppress(OSError):
        kind = os.stat(path).st_mode
        return not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)) or Path(path).absolute().parent == Path("/dev")
    return False


def without_nan(data: Any) -> Any:
    """The tree with None for NaN and infinities."""
    if isinstance(data, float):
        return data if data - data == 0 else None
    if isinstance(data, dict):
        return {str(key): without_nan(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [without_nan(value) for value in data]
    return data


@contextmanager
def write_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder beside ``path``; it replaces ``path`` when the block ends without an error.

    An existing folder is moved aside first and removed last, so one complete version exists at any instant. Leftovers
    of writers that were killed are removed.
    """
    path = Path(path)
    with typed_output(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        clear_leftovers(path.parent)
        beside = path.with_name(f".{path.name}.writing-{_owner()}-{secrets.token_hex(4)}")
        beside.mkdir(0o777)
    try:
        yield beside
        with typed_output(path):
            sync_tree(beside)
            old = beside.with_name(beside.name.replace(".writing-", ".old-"))
            if path.exists():
                os.replace(path, old)
            os.replace(beside, path)
            shutil.rmtree(old, ignore_errors=True)
            sync_path(path.parent)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


_OWNED = re.compile(r"\.(?:.+\.)?(?:writing|old)-([0-9a-f]{8})-([0-9]+)-([0-9]+)-[0-9a-f]{8}(?:\.[^.]*)?")


@functools.cache
def _host() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _owner() -> str:
    """This process, in the names of its temporary files: host, process id, second of its start."""
    return _owner_of(os.getpid())  # not cached without it: a fork has another


@functools.cache
def _owner_of(pid: int) -> str:
    return f"{_host()}-{pid}-{_started(pid) or 0}"


def _started(pid: int) -> int | None:
    """The second in which a process started; None if there is none of this id."""
    import psutil  # slow to import; only writers need it

    try:
        return int(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return None
    except psutil.Error:
        return 0


def _abandoned(name: str) -> bool:
    """Whether a temporary name belongs to a process of this machine that has ended.

    False for the names of other machines on a shared disk, whose processes cannot be seen from here.
    """
    found = _OWNED.fullmatch(name)
    if found is None or found[1] != _host():
        return False
    began, then = _started(int(found[2])), int(found[3])
    return began is None or (began != 0 and then != 0 and abs(began - then) > 2)  # clocks are set while processes run


def clear_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders of killed writers from ``folder``. Only writers call this.

    A version that was moved aside and not replaced stays: :func:`recover_folder` restores it.
    """
    try:
        names = [entry.name for entry in os.scandir(folder) if _OWNED.fullmatch(entry.name)]
    except OSError:
        return
    for name in filter(_abandoned, names):
        place = folder / name
        if ".old-" in name and not (folder / name[1:].rpartition(".old-")[0]).exists():
            continue
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                place.unlink()


def recover_folder(path: str | Path) -> None:
    """After a kill between the two renames of :func:`write_folder`: restore the old version, remove leftovers.

    Call it before writing ``path``, under its lock. The files of a running process are left alone.
    """
    path = Path(path)
    if not path.parent.is_dir():
        return
    name = glob.escape(path.name)
    dead = [
        entry
        for kind in ("old", "writing")
        for entry in path.parent.glob(f".{name}.{kind}-*")
        if _OWNED.fullmatch(entry.name) is None or _abandoned(entry.name)
    ]
    old = sorted((entry for entry in dead if ".old-" in entry.name), key=lambda entry: entry.stat().st_mtime)
    if not path.exists() and old:
        last = old[-1]
        os.replace(last, path)
        dead.remove(last)
    for entry in dead:
        shutil.rmtree(entry, ignore_errors=True)


def sync_tree(folder: Path) -> None:
    """Flush every file below ``folder``, then the folder itself, to the disk."""
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            sync_path(file)
    sync_path(folder)


def sync_path(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk, where the system can."""
    if os.name != "posix":  # only what is open for writing can be synced there, and no folder
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(path: Path) -> str | None:
    """:func:`sha256`; None where the file cannot be read."""
    try:
        return sha256(path)
    except OSError:
        return None


def write_checksums(folder: Path, name: str = "SHA256SUMS") -> None:
    """Write the checksums of all other files of the folder, in the format of ``sha256sum -c``."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != name)
    write_text(folder / name, "".join(f"{sha256(file)}  {file.relative_to(folder).as_posix()}\n" for file in files))


def _is_link(path: Path) -> bool:
    return os.path.islink(path)  # no error for a name that no file can have


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def verify_checksums(folder: Path, name: str = "SHA256SUMS") -> list[str]:
    """Compare the folder with its checksums; returns missing, altered and unlisted files, one line each."""
    sums = folder / name
    if not sums.is_file():
        return [f"{name} is missing"]
    try:
        if sums.stat().st_size > MAX_SUMS:
            return [f"{name} is larger than {MAX_SUMS} bytes"]
        lines = sums.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:  # a bit that flipped in this file, as in any other
        return [f"{name} cannot be read ({error})"]
    wrong = []
    listed = set()
    for line in lines:
        digest, _, relative = line.partition("  ")
        if "\0" in relative or len(relative) > 4096:
            wrong.append(f"{name} holds a line that names no file")
            continue
        listed.add(relative)
        file = folder / relative
        if ".." in Path(relative).parts or Path(relative).is_absolute() or _is_link(file):
            wrong.append(f"{relative} leaves the folder")
        elif not _is_file(file):
            wrong.append(f"{relative[:200]} is missing")
        elif (found := _digest(file)) != digest:
            wrong.append(f"{relative} was altered" if found else f"{relative} cannot be read")
    present = {f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file() and f.name != name}
    return wrong + [f"{relative} is not listed" for relative in sorted(present - listed)]


@contextmanager
def typed_output(path: str | Path) -> Iterator[None]:
    """Raise an OSError of the block as an OutputError that names ``path``, or the other file that caused it."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        path, other = Path(path), None if error.filename is None else Path(os.fsdecode(error.filename))
        ours = other is None or ".writing-" in str(other) or path in (other, *other.parents) or other in path.parents
        raise output_error(error, path if ours else other) from error


def check_output(path: str | Path) -> None:
    """Raise OutputError if ``path`` cannot be written; for use before long work. Creates nothing."""
    path = Path(path)
    with typed_output(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if is_stream(path):
            return
        place = path.absolute().parent
        while not place.exists():
            place = place.parent
        if not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        try:
            with tempfile.TemporaryFile(dir=place):
                pass
        except OSError as error:  # without the name of the temporary file
            raise OSError(error.errno, error.strerror) from error


def refuse_used_folder(path: str | Path, fix: str) -> None:
    """UsageError if ``path``, where a new folder is to be, is a file or a folder with something in it."""
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise UsageError("a file is in place of the new folder", where=path, fix=fix)
    if path.exists() and any(path.iterdir()):
        raise UsageError("the folder is not empty", where=path, fix=fix)


def refuse_data_file(path: str | Path, data: str | Path, holds: bytes) -> None:
    """Raise UsageError if writing ``path`` would overwrite a file of the dataset ``data``.

    A file that contains ``holds`` in its first MB is an earlier result and may be replaced.
    """
    place, root = Path(path).resolve(), Path(data).resolve()
    if not place.is_file() or not (place == root or root in place.parents):
        return
    with open(place, "rb") as file:
        if holds not in file.read(1 << 20):
            raise UsageError(
                "this would overwrite a file of the dataset", where=path, fix="name a new file, or one outside"
            )


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Lock a folder for this process, and make it; UsageError if another process has locked it.

    If the block raises before it has written anything, the folder goes with it, and those above that were made for it.
    """
    lock = filelock.FileLock(folder / ".lock", timeout=0, mode=0o666, thread_local=False)
    with typed_output(folder):
        made = [place for place in (folder, *folder.parents) if not place.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except filelock.Timeout as error:
            raise UsageError(
                "another run uses this folder",
                where=folder,
                fix="wait for it, stop it, or choose another folder with --out",
            ) from error
    try:
        yield
    except BaseException:
        with suppress(OSError):  # not empty: a folder with something in it stays
            if made and [entry.name for entry in folder.iterdir()] == [".lock"]:
                (folder / ".lock").unlink()
                for place in made:
                    place.rmdir()
        raise
    finally:
        lock.release()
