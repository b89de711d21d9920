"""Where a run on several machines writes: a folder that all of them see, or a URL of fsspec.

A reader sees the complete new file or the earlier one. Object stores replace an object when its last byte has arrived;
elsewhere a temporary file is written beside and renamed.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from segwright.core.atomic_io import atomic_file, typed_output
from segwright.core.errors import OutputError, SegwrightError
from segwright.inference.origins import file_system, url_text

ATOMIC = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "memory"}  # a put is all or nothing
TRIES = 4
FIRST_WAIT = 0.5  # seconds, doubled after every try
REACH_SECONDS = 60.0  # how long the store may take to answer at first

T = TypeVar("T")


@dataclass(frozen=True)
class Destination:
    """A place for files, by names with slashes. It can be sent to another process."""

    shown: str  # for messages and results: the URL without a password
    place: str  # the path in the file system
    system: Any = None  # of fsspec; None: local

    @property
    def local(self) -> bool:
        """Whether it is a folder, not a URL."""
        return self.system is None

    def label(self, name: str) -> str:
        """What a file of it is called in results."""
        return str(Path(self.shown) / name) if self.local else f"{self.shown.rstrip('/')}/{name}"

    def put(self, name: str, content: bytes | Path) -> None:
        """Write bytes or a copy of a local file, all or nothing; OutputError if that fails several times."""
        if self.local:
            with atomic_file(Path(self.place) / name, sync=False) as beside:
                if isinstance(content, Path):
                    shutil.copyfile(content, beside)
                else:
                    beside.write_bytes(content)
            return
        self._tried(name, lambda: put_whole(self.system, self._path(name), content))

    def read(self, name: str) -> bytes | None:
        """The content of a file; None if there is none."""
        if self.local:
            try:
                return (Path(self.place) / name).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None
        try:
            found: bytes = self._tried(name, lambda: self.system.cat_file(self._path(name)), quiet=FileNotFoundError)
        except FileNotFoundError:
            return None
        return found

    def read_all(self, names: Sequence[str]) -> list[bytes]:
        """The contents of files that are there, in order; a store is asked for many at a time."""
        if self.local:
            return [(Path(self.place) / name).read_bytes() for name in names]
        paths = [self._path(name) for name in names]
        found: dict[str, bytes] = self._tried("", lambda: self.system.cat(paths)) if paths else {}
        return [found[path] for path in paths]

    def fetch(self, name: str, target: Path) -> None:
        """Copy a file of it to a local path."""
        if self.local:
            shutil.copyfile(Path(self.place) / name, target)
        else:
            self._tried(name, lambda: self.system.get_file(self._path(name), str(target)))

    def files(self, folder: str = "") -> dict[str, int]:
        """Name → bytes of all files below, or below a folder of it."""
        if self.local:
            top, base = Path(self.place) / folder, Path(self.place)
            return {path.relative_to(base).as_posix(): path.stat().st_size for path in top.rglob("*") if path.is_file()}
        start = self._path(folder) if folder else self.place.rstrip("/")

        def find() -> dict[str, int]:
            self.system.invalidate_cache()
            found = self.system.find(start, detail=True)
            base = len(self.place.rstrip("/")) + 1
            return {path[base:]: int(facts.get("size") or 0) for path, facts in found.items()}

        try:
            return self._tried(folder, find, quiet=FileNotFoundError)
        except FileNotFoundError:
            return {}

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        if self.local:
            with typed_output(Path(self.place) / name):
                (Path(self.place) / name).unlink(missing_ok=True)
            return
        with contextlib.suppress(FileNotFoundError):
            self._tried(name, lambda: self.system.rm_file(self._path(name)), quiet=FileNotFoundError)

    def _path(self, name: str) -> str:
        return f"{self.place.rstrip('/')}/{name}"

    def _tried(self, name: str, work: Callable[[], T], quiet: type[BaseException] | None = None) -> T:
        """Call ``work``, again after errors that may pass; a typed error if it fails. ``quiet``: raised as it is."""
        for number in range(TRIES):
            try:
                return work()
            except Exception as error:  # of any file system that fsspec holds
                if quiet is not None and isinstance(error, quiet):
                    raise
                lasting = isinstance(error, PermissionError | FileNotFoundError | NotImplementedError)
                if lasting or number == TRIES - 1:
                    raise store_error(error, self.label(name)) from error
                time.sleep(FIRST_WAIT * 2**number)
        raise AssertionError("not reached")


def put_whole(system: Any, path: str, content: bytes | Path) -> None:
    """Write a file of an fsspec file system, all or nothing: bytes, or those of a local file."""

    def put(place: str) -> None:
        if isinstance(content, Path):
            system.put_file(str(content), place)
        else:
            system.pipe_file(place, content)

    protocol = system.protocol
    if ({protocol} if isinstance(protocol, str) else set(protocol)) & ATOMIC:
        put(path)  # and no folder is made: a bucket whose name is misspelled would be
        return
    folder, _, name = path.rpartition("/")
    system.makedirs(folder, exist_ok=True)
    beside = f"{folder}/.writing-{secrets.token_hex(6)}-{name}"
    try:
        put(beside)
        system.mv(beside, path)
    except BaseException:
        if system.exists(beside):
            system.rm_file(beside)
        raise


def open_destination(out: str | Path) -> Destination:
    """The folder or URL; errors of a URL as of :func:`~segwright.inference.origins.file_system`."""
    text = str(out)
    if "://" not in text:
        return Destination(text, str(Path(text).resolve()))
    system, place = file_system(text)
    protocol = system.protocol
    if "file" in ((protocol,) if isinstance(protocol, str) else protocol):
        return Destination(place, place)
    return Destination(url_text(text), place, system)


def store_error(error: Exception, where: str) -> SegwrightError:
    """The typed error of what a file system raised; its text has no password."""
    found = f"{type(error).__name__}: {_without_secrets(str(error))}"
    name = type(error).__name__
    if isinstance(error, FileNotFoundError):
        return OutputError(
            "the bucket or folder does not exist", found=found, where=where,
            fix="create the bucket first, or correct its name: none is created for you",
        )  # fmt: skip
    if isinstance(error, PermissionError) or "Credentials" in name or "AccessDenied" in found:
        return OutputError(
            "no permission to write", found=found, where=where,
            fix="give the credentials of this machine and of every worker the right to list, read and write there",
        )  # fmt: skip
    if isinstance(error, NotImplementedError):
        return OutputError("this kind of URL cannot be written", found=found, where=where, fix="s3://, gs://, az://")
    return OutputError("the output cannot be written", found=found, where=where, fix="check the address and the store")


def within(seconds: float, work: Callable[[], T], late: SegwrightError) -> T:
    """The result of ``work``; ``late`` is raised if it takes longer. The work itself is not stopped."""
    found: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            found.append(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if failed:
        raise failed[0]
    if not found:
        raise late
    return found[0]


def probe(destination: Destination, name: str, data: bytes) -> None:
    """Write a file before long work; OutputError if the bucket is missing, not writable, or does not answer."""
    within(
        REACH_SECONDS,
        lambda: destination.put(name, data),
        OutputError(
            "the store does not answer", expected=f"an answer within {REACH_SECONDS:.0f} s", where=destination.shown,
            fix="check the address, such as AWS_ENDPOINT_URL, and the network",
        ),
    )  # fmt: skip


def _without_secrets(text: str) -> str:
    return " ".join(url_text(word) for word in text.split())[:300]
