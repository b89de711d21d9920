"""A dataset that is an archive: unpacked once, within limits, into a cache of the user's own, and opened there.

Exports come as a ZIP or a tar, and that is what people pass. The cache is ``$XDG_CACHE_HOME/segwright/archives`` (or
``~/.cache/…``), readable by its owner alone; a folder in it is named by the archive's path, size and time, so that a
changed archive is unpacked again. Deleting it costs the next opening some time and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from segwright.core.errors import DataError, DownloadError, FormatError
from segwright.data.download.unpack import UnpackLimits, unpack
from segwright.data.formats.file_tree import Tree

ENDINGS = (".zip", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
IGNORED_BESIDE = (".txt", ".md", ".pdf", ".html", ".sha256", ".md5")  # what may lie beside an only archive
MAX_FILES = 2_000_000
MAX_BYTES = 200_000_000_000
SPARE = 0.9  # of the free space that an archive may take


def is_archive(name: str) -> bool:
    """Whether the name ends like an archive; a plain .tar is tried as WebDataset first."""
    return name.lower().endswith(ENDINGS)


def archive_of(tree: Tree) -> Path | None:
    """The archive that a path means: itself, or the only one in a folder that holds nothing else; None where none.

    FormatError where a folder holds several archives and nothing else.
    """
    if tree.is_file:
        return tree.root if is_archive(tree.root.name) else None
    listing = tree.folder()
    archives = [name for name in listing.files if is_archive(name)]
    others = [name for name in listing.files if not is_archive(name) and not name.lower().endswith(IGNORED_BESIDE)]
    if not archives or listing.dirs or others:
        return None
    if len(archives) > 1:
        raise FormatError(
            "the folder holds only archives", expected="images and masks, or one archive of them",
            found=", ".join(archives[:6]) + (f", … ({len(archives)})" if len(archives) > 6 else ""), where=tree.root,
            fix="unpack them into one folder: for f in *.zip; do unzip -n \"$f\" -d unpacked; done",
        )  # fmt: skip
    return Path(listing.path, archives[0])


def unpacked(archive: Path) -> Path:
    """The folder that an archive is unpacked into, now or before; FormatError where the archive is refused."""
    folder = _cache(archive)
    done = folder.with_name(folder.name + ".done")
    if done.exists() and folder.is_dir():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    try:
        free = shutil.disk_usage(folder.parent).free
        limits = UnpackLimits(max_files=MAX_FILES, max_bytes=min(MAX_BYTES, int(free * SPARE)))
        unpack(archive, folder, limits=limits)
        done.touch()
    except DownloadError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise FormatError(error.message, expected=error.expected, found=error.found, where=archive,
                          fix="unpack it yourself if you trust it, and open the folder") from error  # fmt: skip
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise DataError("the archive cannot be unpacked", found=str(error), where=archive,
                        fix="unpack it yourself, and open the folder") from error  # fmt: skip
    return folder


def _cache(archive: Path) -> Path:
    status = archive.stat()
    text = f"{archive.resolve()}\0{status.st_size}\0{status.st_mtime_ns}"
    key = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:20]
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    base = Path(home, "segwright", "archives")
    try:
        base.mkdir(parents=True, exist_ok=True, mode=0o700)
        if hasattr(os, "getuid") and base.stat().st_uid != os.getuid():
            raise PermissionError("the cache belongs to another user")
        with contextlib.suppress(OSError):
            os.chmod(base, 0o700)
        if os.access(base, os.W_OK):
            return base / key
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="segwright-archive-")) / key
