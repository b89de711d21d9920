"""Sources that are no local files: members of a tar, files behind a URL, standard input.

Each becomes a temporary file for as long as it is predicted. Its size is checked before it is copied.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Protocol
from urllib.parse import urlsplit

from segwright.core.counted import counted
from segwright.core.errors import DataError, MissingExtraError, TooLargeError, UsageError
from segwright.data.tar_headers import TarHeaderError, entries
from segwright.imageio import DEFAULT_LIMITS, EXTENSIONS, sniff
from segwright.inference.videos import VIDEO_EXTENSIONS

PIECE = 1 << 20
MAX_PATHS = 64 << 20  # bytes of a list of paths
SPARE = 0.9  # of the free space that standard input may take


class Origin(Protocol):
    """A file that is somewhere else."""

    @property
    def name(self) -> str:
        """Its path, relative, from which the names of its outputs are made."""
        ...

    @property
    def label(self) -> str:
        """What it is called in results."""
        ...

    @property
    def stamp(self) -> list[int] | None:
        """What changes if it changes."""
        ...

    def local(self) -> Any:
        """A context with a temporary file of its content."""
        ...


@dataclass(frozen=True)
class TarMember:
    """A file in a tar, at ``offset``."""

    archive: Path
    member: str
    offset: int
    size: int
    shown: str  # the archive's name

    @property
    def name(self) -> str:
        return relative_name(f"{Path(self.shown).stem}/{self.member}")

    @property
    def label(self) -> str:
        return f"{self.shown}/{self.member}"

    @property
    def stamp(self) -> list[int] | None:
        return [self.size, self.offset, os.stat(self.archive).st_mtime_ns]

    @contextmanager
    def local(self) -> Iterator[Path]:
        with open(self.archive, "rb") as file, _temporary(self.member, self.size, self.label) as (path, out):
            file.seek(self.offset)
            _copy(file, out, self.size, self.label)
            out.close()
            yield path


@dataclass(frozen=True)
class RemoteFile:
    """A file of an fsspec file system."""

    system: Any
    path: str
    label: str  # the URL, without a password
    name: str
    stamp: list[int] | None
    size: int | None

    @contextmanager
    def local(self) -> Iterator[Path]:
        with _temporary(self.path, self.size, self.label) as (path, out):
            try:
                with self.system.open(self.path, "rb") as file:
                    _copy(file, out, self.size, self.label)
            except (TooLargeError, DataError):
                raise
            except Exception as error:  # of any file system that fsspec holds
                raise DataError(
                    "the file cannot be fetched", found=f"{type(error).__name__}: {str(error)[:300]}", where=self.label
                ) from error
            out.close()
            yield path


def archive_members(archive: Path, shown: str | None = None) -> tuple[list[TarMember], tuple[str, ...]]:
    """The images and videos of a tar, and notes on what else is in it; DataError if it is damaged or has none."""
    found, others = [], 0
    name = shown or str(archive)
    try:
        with open(archive, "rb") as file:
            for entry in entries(file, archive.stat().st_size):
                hidden = PurePosixPath(entry.name).name.startswith(".")
                if entry.kind == "folder" or (entry.kind == "file" and hidden):
                    continue
                if entry.kind == "file" and _known(entry.name):
                    found.append(TarMember(archive, entry.name, entry.offset, entry.size, name))
                else:
                    others += 1
    except (TarHeaderError, OSError) as error:
        raise DataError("the tar cannot be read", found=str(error), where=name, fix="make it again: tar cf") from error
    if not found:
        raise DataError(
            "no images in the tar", expected=", ".join(sorted(EXTENSIONS)), found=f"{others} other files", where=name
        )
    return found, (f"{name}: {counted(others, 'file', 'is')} not images by their suffix",) if others else ()


def file_system(url: str) -> tuple[Any, str]:
    """The file system of fsspec for a URL, and the path in it; MissingExtraError without one, UsageError for an unknown
    kind of URL."""
    shown = url_text(url)
    try:
        import fsspec
    except ImportError as error:
        raise MissingExtraError(
            "a URL needs fsspec", found=shown, fix="pip install 'segwright[remote]', or download the file first"
        ) from error
    try:
        found: tuple[Any, str] = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise MissingExtraError(
            "this kind of URL needs another package",
            found=str(error),
            where=shown,
            fix="pip install 'segwright[remote]' for http and https, s3fs for s3, gcsfs for gs, adlfs for az; or "
            "download the file first",
        ) from error
    except ValueError as error:
        raise UsageError("no such kind of URL", found=str(error), where=shown) from error
    return found


def remote_files(url: str) -> tuple[list[RemoteFile], tuple[str, ...]]:
    """The images and videos at a URL: a file, a folder or a glob; MissingExtraError without fsspec or a file system."""
    shown = url_text(url)
    system, path = file_system(url)
    try:
        if "*" in path or "?" in path or "[" in path:
            places, root = sorted(system.glob(path)), path.split("*")[0].split("?")[0].split("[")[0].rpartition("/")[0]
        elif system.isdir(path):
            places, root = sorted(system.find(path)), path.rstrip("/")
        else:
            places, root = [path], path.rpartition("/")[0]
        kept = [place for place in places if _known(place)]
        if len(places) == 1 and not system.exists(places[0]):
            raise FileNotFoundError(shown)
        files = [_remote(system, place, root) for place in kept]
    except Exception as error:  # of any file system that fsspec holds
        raise DataError(
            "the URL cannot be read", found=f"{type(error).__name__}: {url_text(str(error))[:300]}", where=shown,
            fix="check the URL and the credentials",
        ) from error  # fmt: skip
    if not files:
        raise DataError(
            "no images at the URL", expected=", ".join(sorted(EXTENSIONS)), found=f"{len(places)} files", where=shown
        )
    others = len(places) - len(kept)
    return files, (f"{shown}: {counted(others, 'file', 'is')} not images by their suffix",) if others else ()


def _remote(system: Any, place: str, root: str) -> RemoteFile:
    facts = system.info(place)
    size = facts.get("size")
    size = int(size) if size is not None else None
    changed = facts.get("ETag") or facts.get("mtime") or facts.get("LastModified") or facts.get("created")
    stamp = None if size is None else [size, *([hash_of(str(changed))] if changed is not None else [])]
    label = url_text(system.unstrip_protocol(place))
    inner = place[len(root) :] if root and place.startswith(root) else place
    return RemoteFile(system, place, label, relative_name(inner), stamp, size)


def hash_of(text: str) -> int:
    """A number of 32 bits, the same in every process."""
    import zlib

    return zlib.crc32(text.encode("utf-8", "surrogateescape"))


def url_text(url: str) -> str:
    """A URL without user, password and query, for messages and results."""
    if "://" not in url:
        return url
    try:
        parts = urlsplit(url)
    except ValueError:
        return url.split("?")[0]
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def spooled(stream: BinaryIO | None = None) -> tuple[str, Path]:
    """Standard input in a temporary file, and what it is: "image", "tar" or "paths". UsageError for nothing at all."""
    stream = stream or sys.stdin.buffer
    folder = Path(tempfile.mkdtemp(prefix="segwright-stdin-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / "stdin"
    limit = int(shutil.disk_usage(folder).free * SPARE)
    with open(path, "wb") as file:
        while piece := stream.read(PIECE):
            if file.tell() + len(piece) > limit:
                raise TooLargeError("standard input is larger than the free space", expected=f"at most {limit} bytes")
            file.write(piece)
    with open(path, "rb") as file:
        head = file.read(PIECE)
    if not head.strip():
        raise UsageError("nothing on standard input", expected="an image, a tar of images, or paths, one per line")
    if head[257:262] == b"ustar":
        return "tar", path
    kind = sniff(head)
    if kind is not None:
        ending = {"JPEG": ".jpg", "TIFF": ".tif"}.get(str(kind), f".{str(kind).lower()}")
        return "image", path.rename(path.with_suffix(ending))
    if path.stat().st_size > MAX_PATHS:
        raise UsageError(
            "standard input is no image and no tar", expected=f"or paths of at most {MAX_PATHS} bytes in all",
            found=f"{path.stat().st_size} bytes",
        )  # fmt: skip
    return "paths", path


def _known(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in EXTENSIONS | VIDEO_EXTENSIONS


def relative_name(name: str) -> str:
    """A path without a root and without steps upwards."""
    parts = PurePosixPath(name.replace("\\", "/").replace("\0", "_")).parts
    return "/".join(part for part in parts if part not in ("/", "..", ".")) or "file"


@contextmanager
def _temporary(name: str, size: int | None, label: str) -> Iterator[tuple[Path, BinaryIO]]:
    """A temporary file of the name's suffix, open for writing; TooLargeError before anything is copied."""
    limit = _limit(name)
    if size is not None and size > limit:
        raise TooLargeError("the file is larger than the limit", expected=f"at most {limit} bytes", found=str(size),
                            where=label)  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="segwright-") as folder:
        path = Path(folder) / f"file{PurePosixPath(name).suffix.lower()}"
        with open(path, "wb") as out:
            yield path, out


def _limit(name: str) -> int:
    if PurePosixPath(name).suffix.lower() in (*VIDEO_EXTENSIONS, ".tif", ".tiff"):  # are read in parts
        return int(shutil.disk_usage(tempfile.gettempdir()).free * SPARE)
    return DEFAULT_LIMITS.max_bytes


def _copy(file: Any, out: BinaryIO, size: int | None, label: str) -> None:
    limit = size if size is not None else DEFAULT_LIMITS.max_bytes
    done = 0
    while done < limit and (piece := file.read(min(PIECE, limit - done))):
        out.write(piece)
        done += len(piece)
    if size is None and file.read(1):
        raise TooLargeError("the file is larger than the limit", expected=f"at most {limit} bytes", where=label)
    if size is not None and done < size:
        raise DataError("the file ends early", expected=f"{size} bytes", found=str(done), where=label)
