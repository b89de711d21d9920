"""Unpack an untrusted archive: nothing leaves the folder, nothing grows without bound.

Only plain files and folders come out. A member whose path is absolute or climbs, a link of either kind, a device, an
encrypted file or a name that occurs twice stops it all; so do too many files, too many bytes, or bytes out of all
proportion to the archive. Bytes are counted as they come out, for the sizes in headers may lie. Everything goes to a
folder beside the target first: an archive that is refused half-way leaves nothing behind.
"""

from __future__ import annotations

import gzip
import lzma
import os
import shutil
import stat
import tempfile
import zipfile
from bz2 import BZ2File
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from segwright.core.errors import DownloadError, SegwrightError
from segwright.core.progress import progress
from segwright.data.tar_headers import Entry, Stream, TarHeaderError, entries

CHUNK = 1 << 20
HEADERS = 4  # times the bytes allowed, for the headers between them and what is passed over
NAME_BYTES = 4096
STORE, NOTICE = ".download", "LICENSE-NOTICE.txt"  # what a download keeps beside the data, and no archive may bring
RESERVED = (STORE, NOTICE)


@dataclass(frozen=True)
class UnpackLimits:
    """Limits on the unpacked size of an archive."""

    max_files: int = 3_000_000
    max_folders: int = 1_000_000
    max_depth: int = 64  # of folders in folders
    max_bytes: int = 400_000_000_000
    max_ratio: float = 100.0  # unpacked to packed; images are packed already, masks seldom exceed 40
    always_allowed: int = 64 << 20  # bytes below which the ratio is not looked at


DEFAULT_LIMITS = UnpackLimits()


def unpack(archive: Path, out: Path, *, keep: str = "", limits: UnpackLimits = DEFAULT_LIMITS) -> int:
    """Unpack a zip or a tar (plain, gz, bz2, xz) into ``out``, which may hold other things; returns how many files.

    ``keep``: only what lies under this folder of the archive, with that part of the path taken off. DownloadError
    naming the archive and the member where anything is not as it should be; ``out`` is then as it was.
    """
    out.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=out, prefix=".unpacking-"))
    try:
        sink = _Extractor(archive, beside, keep.strip("/"), limits)
        with progress(f"unpacking {archive.name}") as advance, _broken(archive):
            for name, kind, member in _members(archive, sink.most):
                sink.take(name, kind, member)
                advance(1)
        if sink.files == 0:
            raise DownloadError("the archive holds no file", expected=keep or "files", where=archive)
        _merge(beside, out)
        return sink.files
    finally:
        shutil.rmtree(beside, ignore_errors=True)


Member = tuple[str, str, Any]  # name; "file", "folder", or what it is instead; a context manager that opens it


def _members(archive: Path, most: int) -> Iterator[Member]:
    if zipfile.is_zipfile(archive) and not _looks_like_tar(archive):
        yield from _zip_members(archive)
    else:
        yield from _tar_members(archive, most)


@contextmanager
def _broken(archive: Path) -> Iterator[None]:
    """Whatever the archive modules trip over, here or while a member is copied, as one DownloadError."""
    try:
        yield
    except SegwrightError:
        raise
    except Exception as error:  # the archive modules raise whatever they trip over
        if isinstance(error, OSError) and error.errno is not None:
            raise DownloadError("cannot unpack", found=str(error), where=archive) from error
        raise DownloadError(
            "the archive is broken", expected="a whole zip or tar", found=str(error)[:200], where=archive,
            fix="download it again",
        ) from error  # fmt: skip


def _looks_like_tar(archive: Path) -> bool:
    """A tar that holds a zip at its end passes for a zip: the magic at 257 decides."""
    with open(archive, "rb") as file:
        return file.read(262)[257:262] == b"ustar"


def _zip_members(archive: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            mode = info.external_attr >> 16
            if info.is_dir():
                kind = "folder"
            elif info.flag_bits & 1:
                kind = "an encrypted file"
            elif stat.S_IFMT(mode) in (0, stat.S_IFREG):
                kind = "file"
            else:
                kind = "a link" if stat.S_ISLNK(mode) else "a special file"
            yield info.filename, kind, lambda info=info: opened.open(info)


def _tar_members(archive: Path, most: int) -> Iterator[Member]:
    with _decompressed(archive, most * HEADERS) as (stream, length):
        for entry in entries(stream, length):
            yield entry.name, entry.kind, lambda entry=entry: _Part(stream, entry)


@contextmanager
def _decompressed(archive: Path, most: int) -> Iterator[tuple[Stream, int | None]]:
    """The tar's own bytes, and how many there are where they need no unpacking."""
    with open(archive, "rb") as file:
        magic = file.read(6)
        file.seek(0)
        if magic[:2] == b"\x1f\x8b":
            raw: Any = gzip.GzipFile(fileobj=file)
        elif magic[:3] == b"BZh":
            raw = BZ2File(file)
        elif magic == b"\xfd7zXZ\0":
            raw = lzma.open(file)  # noqa: SIM115 - closed with the file below it
        else:
            yield file, archive.stat().st_size
            return
        yield _Unpacked(raw, most), None


class _Unpacked:
    """A compressed stream, of which no more than ``most`` bytes come out."""

    def __init__(self, raw: Any, most: int) -> None:
        self.raw, self.most, self.place = raw, most, 0

    def read(self, size: int, /) -> bytes:
        data: bytes = self.raw.read(size)
        self.place += len(data)
        if self.place > self.most:
            raise TarHeaderError(f"more than {self.most} bytes come out of it")
        return data

    def seek(self, offset: int, /) -> int:
        raise OSError("a compressed stream is read from its beginning to its end")

    def tell(self) -> int:
        return self.place


class _Part:
    """The bytes of one file in a tar, in a stream that stands at them."""

    def __init__(self, stream: Stream, entry: Entry) -> None:
        self.stream, self.entry, self.left = stream, entry, entry.size

    def __enter__(self) -> _Part:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def read(self, size: int) -> bytes:
        data = self.stream.read(min(size, self.left))
        if not data and self.left:
            raise TarHeaderError(f"it breaks off in {self.entry.name[:200]!r}")
        self.left -= len(data)
        return data


class _Extractor:
    """Writes members under a folder of its own, within the limits."""

    def __init__(self, archive: Path, root: Path, keep: str, limits: UnpackLimits) -> None:
        self.archive, self.root, self.keep, self.limits = archive, root, keep, limits
        self.files = self.members = self.bytes = 0
        self.folders: set[tuple[str, ...]] = set()
        packed = archive.stat().st_size
        self.most = min(limits.max_bytes, max(limits.always_allowed, int(packed * limits.max_ratio)))

    def take(self, name: str, kind: str, opener: Any) -> None:
        self.members += 1
        if self.members > self.limits.max_files:
            raise self._refuse(name, f"more than {self.limits.max_files} members")
        parts = self._parts(name)
        if self.keep:
            kept = self.keep.split("/")
            if parts[: len(kept)] != kept:
                return
            parts = parts[len(kept) :]
        if parts and parts[0].casefold() in (name.casefold() for name in RESERVED):
            raise self._refuse(name, "a name that the download itself writes")
        if kind == "folder" or not parts:
            return
        if kind != "file":
            raise self._refuse(name, kind)
        self._count_folders(name, tuple(parts[:-1]))
        target = self.root.joinpath(*parts)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with opener() as source, open(target, "xb") as file:
                self._copy(name, source, file)
        except (FileExistsError, NotADirectoryError) as error:
            raise self._refuse(name, "a name that occurs twice") from error
        self.files += 1

    def _count_folders(self, name: str, parts: tuple[str, ...]) -> None:
        """Count folders before creating them: one file name can contain thousands."""
        if len(parts) > self.limits.max_depth:
            raise self._refuse(name, f"folders more than {self.limits.max_depth} deep")
        while parts and parts not in self.folders:
            self.folders.add(parts)
            parts = parts[:-1]
        if len(self.folders) > self.limits.max_folders:
            raise self._refuse(name, f"more than {self.limits.max_folders} folders")

    def _copy(self, name: str, source: IO[bytes] | _Part, file: IO[bytes]) -> None:
        while chunk := source.read(CHUNK):
            self.bytes += len(chunk)
            if self.bytes > self.most:
                raise self._refuse(
                    name, f"more than {self.most} bytes, out of an archive of {self.archive.stat().st_size}"
                )
            file.write(chunk)

    def _parts(self, name: str) -> list[str]:
        """The path's parts; refused where it is absolute, climbs, or has what a path does not have."""
        if "\\" in name and "/" not in name and not {"", ".."} & set(name.rstrip("\\").split("\\")):
            raise self._refuse(name, "backslashes in a path, as some Windows programs write it: unpack it with 7-Zip")
        bad = "\0" in name or "\\" in name or name.startswith("/") or len(name.encode(errors="replace")) > NAME_BYTES
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if bad or ".." in parts or (parts and len(parts[0]) == 2 and parts[0][1] == ":"):
            raise self._refuse(name, "a path that leaves the folder")
        return parts

    def _refuse(self, name: str, found: str) -> DownloadError:
        return DownloadError(
            "the archive is refused, nothing of it was unpacked",
            expected="plain files below one folder",
            found=f"{name[:200]!r}: {found}",
            where=self.archive,
            fix="do not use this archive; get the data from its publisher",
        )


def _merge(source: Path, target: Path) -> None:
    """Move a tree into another; what is there already under the same name is replaced if it is a file."""
    for entry in sorted(os.scandir(source), key=lambda entry: entry.name):
        place = target / entry.name
        if entry.is_dir(follow_symlinks=False) and place.is_dir() and not place.is_symlink():
            _merge(Path(entry.path), place)
        elif entry.is_dir(follow_symlinks=False) and (place.exists() or place.is_symlink()):
            raise DownloadError("a file exists at the path of a folder", where=place)
        else:
            os.replace(entry.path, place)
